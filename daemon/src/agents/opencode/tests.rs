//! Lines, names and places.

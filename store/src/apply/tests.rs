//! Applies, whole.

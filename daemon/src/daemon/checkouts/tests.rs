//! The checkouts of a node, with layers and without.

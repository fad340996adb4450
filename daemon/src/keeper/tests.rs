//! A keeper beside a tree that changes.

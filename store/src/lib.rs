//! Where it is kept: journal, segments, index, catalog; scan and checkout.
//!
//! Synchronous; knows no network and no clock. Modules stand in the order in which data passes
//! through them, and a module uses only those above it.

pub mod fs;
pub mod error;
pub mod objects;
pub mod catalog;

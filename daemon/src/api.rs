//! How a command line talks to its daemon.

pub mod control;
pub mod socket;

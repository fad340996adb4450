//! How a command line talks to its daemon.

pub mod receipt;
pub mod log;
pub mod agents;
pub mod repair;
pub mod apply;
pub mod steer;
pub mod control;
pub mod socket;

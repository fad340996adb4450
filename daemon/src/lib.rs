//! When it happens: transport, sync, nodes, runs and the control socket. A library: the one binary
//! is built by the command line.
//!
//! Modules stand in the order in which data passes through them, and a module uses only those
//! above it.

pub mod clock;
pub mod machine;
pub mod task;
pub mod inhibit;
pub mod acks;
pub mod config;
pub mod home;
pub mod namespace;
pub mod notify_socket;
pub mod audit;
pub mod identity;
pub mod network;
pub mod transport;
pub mod sync;
pub mod client;
pub mod watch;
pub mod keeper;
pub mod thinning;
pub mod agents;
pub mod workspace;
pub mod api;
pub mod queue;
pub mod rooms;
pub mod limits;
pub mod secrets;
pub mod forwarder;
pub mod notices;
pub mod environments;
pub mod runs;
pub mod node;
pub mod daemon;

#[cfg(test)]
mod fuzz;

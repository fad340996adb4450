//! What is said: ids, objects, encodings, messages and the sync state machines.
//!
//! Pure values and functions. No file, socket, clock, thread or random number is reached from here:
//! the crate above hands them in. Modules stand in the order in which data passes through them, and
//! a module uses only those above it.
//!
//! - [`path`]: names and paths as raw bytes, and which of them may stand in a tree
//! - [`id`]: content ids with a domain per kind, and random ids
//! - [`encode`]: the canonical encoding of hashed objects
//! - [`object`]: manifest, tree, conversation, snapshot
//! - [`delta`]: compression, and one object against another
//! - [`mux`]: many streams over one connection
//! - [`frame`]: what stands on a stream
//! - [`batch`]: objects that travel together, whole or as what differs from what the receiver has
//! - [`ticket`]: how a home learns to trust a node
//! - [`message`]: requests and replies
//! - [`session`]: push and fetch, without I/O

pub mod path;
pub mod id;
pub mod encode;
pub mod object;
pub mod delta;
pub mod mux;
pub mod frame;
pub mod batch;
pub mod ticket;
pub mod message;
pub mod session;

#[cfg(test)]
mod arbitrary;
#[cfg(test)]
mod golden;
#[cfg(test)]
mod fuzz;

//! Push and fetch as state machines: events in, actions out, no I/O.

pub mod fetch;
pub mod push;

#[cfg(test)]
mod model;

//! The side that connects: one connection to each node, kept, checked and renewed.
//!
//! Not here: what is pushed and fetched; those take a stream from [`pool::Pool::open`].
//!
//! - [`connection`]: from a node's addresses to a connection with the node that was meant
//! - [`pool`]: streams, requests and joining over kept connections

pub mod connection;
pub mod pool;

use baton_protocol::message::Refusal;

use crate::transport::TransportError;

/// A request to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The node could not be reached, or the connection failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The node said no.
    #[error("the node refused: {0}")]
    Refused(Refusal),
    /// The node's list does not end.
    #[error("the node's list is longer than {limit} bytes")]
    TooLong {
        /// How long a list may be.
        limit: u64,
    },
    /// The node answered something else.
    #[error("the node answered something else than was asked")]
    OutOfTurn,
}

impl ClientError {
    /// Whether the same may work later without anybody doing something.
    pub fn is_retryable(&self) -> bool {
        use baton_protocol::message::RefusalCode::{Internal, Unavailable};
        match self {
            Self::Transport(error) => error.is_retryable(),
            Self::Refused(refusal) => matches!(refusal.code, Unavailable | Internal),
            Self::OutOfTurn | Self::TooLong { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests;

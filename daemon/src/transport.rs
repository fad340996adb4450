//! What is between a home and a node, QUIC where it can be: who the peer is, what it may cost us, and frames on a stream.
//!
//! Not here: what is said. A peer is a key; whether that key is welcome is the node's to say.
//!
//! - [`tls`]: both sides prove an Ed25519 key, and nothing else
//! - [`limits`]: how many may connect, and how long they may take
//! - [`quic`]: endpoints and connections
//! - [`tcp`]: the same where UDP does not get through
//! - [`connection`]: either of them
//! - [`stream`]: frames and messages on one stream
//!
//! **Invariant:** a client talks to the key it was told to expect or not at all, and no byte is sent
//! before both keys are proven: 0-RTT is off.

pub mod tls;
pub mod limits;
pub mod quic;
pub mod tcp;
pub mod connection;
pub mod stream;

use std::net::SocketAddr;
use std::time::Duration;

use baton_protocol::frame::FrameError;
use baton_protocol::id::NodeId;

/// Why one side closed a connection, as the other one reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseCode {
    /// Nothing more to say.
    Done,
    /// The node is shutting down; it may come back.
    ShuttingDown,
    /// The device was revoked, or was never enrolled.
    UnknownDevice,
    /// Too many connections; the oldest of a device make way.
    TooMany,
    /// The peer broke the protocol.
    Malformed,
    /// Nothing came back any more.
    Stalled,
    /// A code of a later version.
    Other(u64),
}

impl CloseCode {
    /// The number on the wire.
    pub const fn number(self) -> u64 {
        match self {
            Self::Done => 0,
            Self::ShuttingDown => 1,
            Self::UnknownDevice => 2,
            Self::TooMany => 3,
            Self::Malformed => 4,
            Self::Stalled => 5,
            Self::Other(number) => number,
        }
    }

    /// The code with this number.
    pub const fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Done,
            1 => Self::ShuttingDown,
            2 => Self::UnknownDevice,
            3 => Self::TooMany,
            4 => Self::Malformed,
            5 => Self::Stalled,
            other => Self::Other(other),
        }
    }

    /// Why, for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Done => "it was done",
            Self::ShuttingDown => "it is shutting down",
            Self::UnknownDevice => "this device is not enrolled there, or was revoked",
            Self::TooMany => "it has too many connections",
            Self::Malformed => "it could not read what was sent",
            Self::Stalled => "nothing came back any more",
            Self::Other(_) => "it did not say why",
        }
    }
}

/// What failed between two machines.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// A socket could not be had.
    #[error("listening on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// Our own key cannot be used for TLS.
    #[error("setting up TLS")]
    Tls(#[source] rustls::Error),
    /// Quinn refuses our own settings.
    #[error("setting up QUIC: {0}")]
    Setup(&'static str),
    /// The machine says at once that nobody is there.
    #[error("nobody listens on {address}")]
    NobodyThere {
        /// Where.
        address: SocketAddr,
        /// What it said.
        source: std::io::Error,
    },
    /// No handshake came to be.
    #[error("connecting to {address}")]
    Connect {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: quinn::ConnectError,
    },
    /// Neither a TCP connection nor its handshake came to be.
    #[error("connecting to {address} over TCP")]
    Tcp {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
    /// A name could not be resolved.
    #[error("resolving {address}")]
    Resolve {
        /// What was to be resolved.
        address: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// An address is not `HOST` or `HOST:PORT`.
    #[error("{address} is no address: expected HOST:PORT")]
    Address {
        /// What was given.
        address: String,
    },
    /// None of a node's addresses could be reached.
    #[error("{} could not be reached: {}", node.short(), attempts_text(attempts))]
    Unreachable {
        /// The node.
        node: NodeId,
        /// Each address and why it failed.
        attempts: Vec<Attempt>,
    },
    /// The peer has another key than the pinned one: it is another machine, or somebody between.
    #[error("{address} has the key {}, not {}: it is another node than the one that was joined",
        found.short(), expected.short())]
    Identity {
        /// Where.
        address: SocketAddr,
        /// The pinned key.
        expected: NodeId,
        /// The key it has.
        found: NodeId,
    },
    /// The peer does not speak `baton/1`.
    #[error("{address} does not speak this version of the protocol")]
    Protocol {
        /// Where.
        address: SocketAddr,
    },
    /// The peer takes no more connections now.
    #[error("the node takes no more connections now")]
    Busy,
    /// The peer closed the connection.
    #[error("the other side closed the connection: {}", code.reason())]
    Closed {
        /// Why.
        code: CloseCode,
    },
    /// The peer does not know this connection any more: it was restarted.
    #[error("the node was restarted")]
    Restarted,
    /// The connection is gone.
    #[error("the connection was lost")]
    Lost(#[source] quinn::ConnectionError),
    /// The TCP connection is gone.
    #[error("the connection was lost")]
    Broken(#[source] std::io::Error),
    /// What was sent is not acknowledged any more.
    #[error("nothing came back on the connection any more")]
    Stalled,
    /// The peer took too long.
    #[error("{doing} took longer than {} s", after.as_secs_f32())]
    Timeout {
        /// What we did.
        doing: &'static str,
        /// The time it had.
        after: Duration,
    },
    /// The peer does not want to read the rest. It may have said why: read on.
    #[error("the other side stopped reading")]
    Stopped,
    /// The peer gave this stream up.
    #[error("the other side gave the request up")]
    Abandoned,
    /// The stream ended where a frame was due.
    #[error("the other side ended the stream too early")]
    Ended,
    /// The peer sent what is no frame or message of ours.
    #[error("the other side sent something malformed")]
    Malformed(#[source] FrameError),
    /// The peer sent a message where objects were due, or the reverse.
    #[error("the other side sent something else than was due")]
    OutOfTurn,
}

/// One address of a node and why it could not be reached.
#[derive(Debug)]
pub struct Attempt {
    /// As it was given, `HOST:PORT`.
    pub address: String,
    /// Why.
    pub error: TransportError,
}

fn attempts_text(attempts: &[Attempt]) -> String {
    if attempts.is_empty() {
        return "it has no address".to_owned();
    }
    let texts = attempts.iter().map(|Attempt { address, error }| {
        let cause = std::error::Error::source(error);
        cause.map_or_else(
            || format!("{address}: {error}"),
            |cause| format!("{address}: {error}: {cause}"),
        )
    });
    texts.collect::<Vec<_>>().join("; ")
}

impl TransportError {
    /// Whether the same may work later without anybody doing something.
    ///
    /// The request may have been carried out: repeat only what is safe to repeat.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::NobodyThere { .. }
            | Self::Unreachable { .. }
            | Self::Resolve { .. }
            | Self::Busy
            | Self::Restarted
            | Self::Lost(_)
            | Self::Tcp { .. }
            | Self::Broken(_)
            | Self::Stalled
            | Self::Timeout { .. }
            | Self::Abandoned
            | Self::Ended => true,
            Self::Connect { source, .. } => {
                matches!(source, quinn::ConnectError::InvalidRemoteAddress(_))
            }
            Self::Closed { code } => {
                matches!(
                    code,
                    CloseCode::Done
                        | CloseCode::ShuttingDown
                        | CloseCode::TooMany
                        | CloseCode::Stalled
                )
            }
            Self::Bind { .. }
            | Self::Tls(_)
            | Self::Setup(_)
            | Self::Address { .. }
            | Self::Identity { .. }
            | Self::Protocol { .. }
            | Self::Stopped
            | Self::Malformed(_)
            | Self::OutOfTurn => false,
        }
    }

    /// Whether the node could not be reached at all, so that it has seen nothing of the request.
    pub const fn is_unreachable(&self) -> bool {
        matches!(
            self,
            Self::Unreachable { .. }
                | Self::NobodyThere { .. }
                | Self::Resolve { .. }
                | Self::Connect { .. }
                | Self::Tcp { .. }
                | Self::Busy
        )
    }
}

impl From<quinn::ConnectionError> for TransportError {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::Reset => Self::Restarted,
            quinn::ConnectionError::ApplicationClosed(close) => {
                Self::Closed { code: CloseCode::from_number(close.error_code.into_inner()) }
            }
            quinn::ConnectionError::ConnectionClosed(close)
                if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
            {
                Self::Busy
            }
            other => Self::Lost(other),
        }
    }
}

impl From<quinn::ReadError> for TransportError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::ConnectionLost(error) => error.into(),
            quinn::ReadError::Reset(_) => Self::Abandoned,
            _ => Self::Ended,
        }
    }
}

impl From<quinn::WriteError> for TransportError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::ConnectionLost(error) => error.into(),
            _ => Self::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_codes_keep_their_numbers() {
        for number in 0..8 {
            assert_eq!(CloseCode::from_number(number).number(), number);
        }
        assert_eq!(CloseCode::from_number(2), CloseCode::UnknownDevice);
    }

    #[test]
    fn an_unreachable_node_names_each_address_and_its_failure() {
        let error = TransportError::Unreachable {
            node: NodeId::from_bytes([0xab; 32]),
            attempts: vec![
                Attempt {
                    address: "a:1".to_owned(),
                    error: TransportError::Timeout {
                        doing: "connecting",
                        after: Duration::from_secs(2),
                    },
                },
                Attempt {
                    address: "b:2".to_owned(),
                    error: TransportError::Resolve {
                        address: "b:2".to_owned(),
                        source: std::io::Error::other("no such host"),
                    },
                },
            ],
        };
        let text = error.to_string();
        assert!(text.contains("abababab could not be reached"), "{text}");
        assert!(text.contains("a:1: connecting took longer than 2 s"), "{text}");
        assert!(text.contains("b:2: resolving b:2: no such host"), "{text}");
        assert!(error.is_retryable() && error.is_unreachable());
    }

    #[test]
    fn a_wrong_key_is_not_tried_again() {
        let [expected, found] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let address = SocketAddr::from(([127, 0, 0, 1], 9));
        assert!(!TransportError::Identity { address, expected, found }.is_retryable());
        assert!(!TransportError::Closed { code: CloseCode::UnknownDevice }.is_retryable());
        assert!(TransportError::Closed { code: CloseCode::ShuttingDown }.is_retryable());
        assert!(TransportError::from(quinn::ConnectionError::Reset).is_retryable());
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use std::net::Ipv4Addr;

    use super::connection::{Connection, Way};
    use super::*;
    use crate::identity::Identity;

    /// Two ends of one connection, and what must outlive them.
    pub(crate) struct Pair {
        pub(crate) client: Connection,
        pub(crate) server: Connection,
        pub(crate) identities: [Identity; 2],
        _endpoints: Vec<quinn::Endpoint>,
    }

    pub(crate) const WAYS: [Way; 2] = [Way::Quic, Way::Tcp];

    pub(crate) fn identity() -> Identity {
        Identity::load_or_create(tempfile::tempdir().unwrap().path()).unwrap()
    }

    pub(crate) async fn pair(way: Way) -> Pair {
        let identities = [identity(), identity()];
        let [node, device] = &identities;
        let within = Duration::from_secs(20);
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        match way {
            Way::Quic => {
                let listening = quic::listen(node, any).unwrap();
                let dialling = quic::dialling_endpoint().unwrap();
                let address = listening.local_addr().unwrap();
                let accept = async { listening.accept().await.unwrap().await.unwrap() };
                let dial = quic::connect(&dialling, device, node.node(), address, within);
                let (server, client) = tokio::join!(accept, dial);
                let (client, server) =
                    (Connection::Quic(client.unwrap()), Connection::Quic(server));
                Pair { client, server, identities, _endpoints: vec![listening, dialling] }
            }
            Way::Tcp => {
                let listening = tcp::listen(any).unwrap();
                let address = listening.local_addr().unwrap();
                let tasks = crate::task::Tasks::new();
                let config = tcp::server_config(node).unwrap();
                let accept = async {
                    let (stream, _) = listening.accept().await.unwrap();
                    tcp::accept(&tasks, &config, stream).await.unwrap()
                };
                let dial = tcp::connect(&tasks, device, node.node(), address, within);
                let (server, client) = tokio::join!(accept, dial);
                let (client, server) = (Connection::Tcp(client.unwrap()), Connection::Tcp(server));
                Pair { client, server, identities, _endpoints: Vec::new() }
            }
        }
    }
}

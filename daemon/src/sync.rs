//! Pushing and fetching over a stream: the protocol's state machines between a vault and a peer.
//!
//! Both ends work on blocking threads: they read disks and hash, and wait for the network in between.
//! What is under way meanwhile is in QUIC's windows.
//!
//! - [`push`]: sends what a node lacks, and the node's side of it
//! - [`fetch`]: asks for what a vault lacks, and the node's side of it
//!
//! **Invariant:** what a peer sends reaches a vault only after its hash was computed here.

pub mod fetch;
pub mod push;

use baton_protocol::frame::FrameError;
use baton_protocol::message::{Refusal, RefusalCode, Reply};
use baton_store::error::StoreError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::transport::TransportError;
use crate::transport::stream::{Frame, FrameStream};

/// A push or fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The connection failed; the same may work later.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Our own store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The peer said no.
    #[error("the node refused: {0}")]
    Refused(Refusal),
    /// The peer broke the rules of a push.
    #[error("pushing")]
    Push(#[source] baton_protocol::session::push::PushError),
    /// The peer broke the rules of a fetch.
    #[error("fetching")]
    Fetch(#[from] baton_protocol::session::fetch::FetchError),
    /// The peer sent a frame that cannot be read.
    #[error("reading what the node sent")]
    Frame(#[from] FrameError),
    /// What came is whole by its hashes and yet not what was asked for.
    #[error("the node sent something else than it was asked for")]
    OutOfTurn,
    /// The store did not take what was fetched.
    #[error("keeping what was fetched")]
    Keep(#[source] baton_store::vault::CommitError),
}

impl From<baton_protocol::session::push::PushError> for SyncError {
    fn from(error: baton_protocol::session::push::PushError) -> Self {
        match error {
            baton_protocol::session::push::PushError::Refused(refusal) => Self::Refused(refusal),
            other => Self::Push(other),
        }
    }
}

impl SyncError {
    /// Whether the same may work later without anybody doing something.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Transport(error) => error.is_retryable(),
            Self::Refused(refusal) => refusal.code == RefusalCode::Unavailable,
            _ => false,
        }
    }
}

/// A stream used from a blocking thread.
#[derive(Debug)]
pub struct Wire {
    runtime: tokio::runtime::Handle,
    stream: FrameStream,
}

impl Wire {
    /// Takes a stream along to a blocking thread; to be called on the runtime.
    pub fn new(stream: FrameStream) -> Self {
        Self { runtime: tokio::runtime::Handle::current(), stream }
    }

    /// Gives the stream back.
    pub fn into_stream(self) -> FrameStream {
        self.stream
    }

    fn read(&mut self) -> Result<Option<Frame>, TransportError> {
        self.runtime.block_on(self.stream.read_frame())
    }

    /// Reads a message however long the peer works on it.
    fn answer<T: DeserializeOwned>(&mut self) -> Result<T, TransportError> {
        self.runtime.block_on(self.stream.reader.message_at_last())
    }

    fn answer_frame(&mut self) -> Result<Option<Frame>, TransportError> {
        self.runtime.block_on(self.stream.reader.next_at_last())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.runtime.block_on(self.stream.write(bytes))
    }

    fn send<T: Serialize>(&mut self, message: &T) -> Result<(), TransportError> {
        self.runtime.block_on(self.stream.send(message))
    }

    fn refuse(
        &mut self,
        code: RefusalCode,
        message: impl Into<String>,
    ) -> Result<(), TransportError> {
        let refusal = Refusal { code, message: message.into() };
        self.send(&Reply::Refused(refusal))
    }
}

/// How a node tells a device that its own store failed: what the device can do something about by
/// name, the rest without details of the node's disk.
pub fn store_refusal(error: &StoreError) -> Refusal {
    if error.is_disk_full() {
        let message = "the node's disk is full".to_owned();
        return Refusal { code: RefusalCode::DiskFull, message };
    }
    tracing::error!(error = error as &dyn std::error::Error, "a request failed");
    let message = "the node's store failed; its log says how".to_owned();
    Refusal { code: RefusalCode::Internal, message }
}

//! Pushing and fetching over a stream: the protocol's state machines between a vault and a peer.
//!
//! Both ends work on blocking threads: they read disks and hash, and wait for the network in between.
//! What is under way meanwhile is in QUIC's windows.
//!
//! - [`records`]: whole records, from one log into another
//! - [`incoming`]: what comes, within what it may cost
//! - [`push`]: sends what a node lacks, and the node's side of it
//! - [`ahead`]: sends file data of a snapshot that is still being made, and the node's side of it
//! - [`fetch`]: asks for what a vault lacks, and the node's side of it
//!
//! **Invariant:** what a peer sends reaches a vault only after its hash was computed here.

mod records;
mod incoming;
pub mod push;
pub mod ahead;
pub mod fetch;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use baton_protocol::frame::{FrameError, FrameKind, encode_header};
use baton_protocol::id::ObjectId;
use baton_protocol::message::{Refusal, RefusalCode, Reply};
use baton_store::error::StoreError;
pub use incoming::{Kept, Quota};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::transport::TransportError;
use crate::transport::stream::{Frame, FrameStream, message_in};

/// A push or fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The connection failed; the same may work later.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// Our own store failed.
    #[error(transparent)]
    Store(StoreError),
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
    /// What came is whole by its hashes, and one object says of another what is not so.
    #[error("{0} is not what another object of the same snapshot says of it")]
    Contradicted(ObjectId),
    /// The snapshot has more objects than any tree needs.
    #[error("the snapshot has more than {limit} objects")]
    TooMany {
        /// How many may be fetched.
        limit: u64,
    },
    /// It was called off before all of it was sent.
    #[error("it was cancelled before all of it was sent")]
    Cancelled,
    /// The peer sent a record that is none, or that says of its objects what they are not.
    #[error("the node sent a damaged record")]
    Record,
    /// What came is whole by its hashes and yet not what was asked for.
    #[error("the node sent something else than it was asked for")]
    OutOfTurn,
    /// The store did not take what was fetched.
    #[error("keeping what was fetched")]
    Keep(#[source] baton_store::vault::CommitError),
}

impl From<StoreError> for SyncError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Contradicted(id) => Self::Contradicted(id),
            StoreError::Forged(_) => Self::Record,
            other => Self::Store(other),
        }
    }
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
    ends: Ends,
    stop: Vec<Arc<AtomicBool>>,
}

/// Both directions of a wire.
#[derive(Debug)]
#[cfg_attr(test, expect(clippy::large_enum_variant, reason = "there is one of a session"))]
enum Ends {
    Stream(tokio::runtime::Handle, FrameStream),
    #[cfg(test)]
    Acted(Box<dyn tests::ends::End>),
}

impl Wire {
    /// Takes a stream along to a blocking thread; to be called on the runtime.
    pub fn new(stream: FrameStream) -> Self {
        let ends = Ends::Stream(tokio::runtime::Handle::current(), stream);
        Self { ends, stop: Vec::new() }
    }

    /// Ends a push with [`SyncError::Cancelled`] once this is set, unless all of it is sent already. May be called
    /// again for another one.
    #[must_use]
    pub fn stopped_by(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop.push(stop);
        self
    }

    fn is_stopped(&self) -> bool {
        self.stop.iter().any(|stop| stop.load(Ordering::SeqCst))
    }

    /// Gives the stream back.
    pub fn into_stream(self) -> FrameStream {
        match self.ends {
            Ends::Stream(_, stream) => stream,
            #[cfg(test)]
            Ends::Acted(_) => unreachable!("there is no stream"),
        }
    }

    fn read(&mut self) -> Result<Option<Frame>, TransportError> {
        match &mut self.ends {
            Ends::Stream(runtime, stream) => runtime.block_on(stream.read_frame()),
            #[cfg(test)]
            Ends::Acted(end) => end.read(),
        }
    }

    /// Reads what the peer says next; nothing where it has ended. Where that is no frame, or nothing for too long, it is
    /// told.
    fn listen(&mut self) -> Result<Option<Frame>, SyncError> {
        self.read().map_err(|error| self.give_up(error))
    }

    /// Reads a message that the peer may have to work for.
    fn answer<T: DeserializeOwned>(&mut self) -> Result<T, TransportError> {
        message_in(self.answer_frame()?)
    }

    fn answer_frame(&mut self) -> Result<Option<Frame>, TransportError> {
        match &mut self.ends {
            Ends::Stream(runtime, stream) => runtime.block_on(stream.reader.next_after_work()),
            #[cfg(test)]
            Ends::Acted(end) => end.read(),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        match &mut self.ends {
            Ends::Stream(runtime, stream) => runtime.block_on(stream.write(bytes)),
            #[cfg(test)]
            Ends::Acted(end) => end.write(bytes),
        }
    }

    /// Writes a whole frame.
    fn write_frame(&mut self, kind: FrameKind, body: &[u8]) -> Result<(), SyncError> {
        self.write(&encode_header(kind, body.len())?)?;
        Ok(self.write(body)?)
    }

    fn send<T: Serialize>(&mut self, message: &T) -> Result<(), TransportError> {
        match &mut self.ends {
            Ends::Stream(runtime, stream) => runtime.block_on(stream.send(message)),
            #[cfg(test)]
            Ends::Acted(end) => {
                let frame = baton_protocol::message::encode(message);
                end.write(&frame.map_err(TransportError::Malformed)?)
            }
        }
    }

    fn refuse(
        &mut self,
        code: RefusalCode,
        message: impl Into<String>,
    ) -> Result<(), TransportError> {
        let refusal = Refusal { code, message: message.into() };
        self.send(&Reply::Refused(refusal))
    }

    /// Ends a session whose peer sent no frame, or nothing for too long; where it may still listen it is
    /// told.
    fn give_up(&mut self, error: TransportError) -> SyncError {
        let told = match &error {
            TransportError::Malformed(_) => {
                self.refuse(RefusalCode::Malformed, "what was sent is no frame")
            }
            // The same may work later: a machine that slept goes on by itself.
            TransportError::Timeout { after, .. } => {
                let message = format!("nothing more came for {} s", after.as_secs_f32());
                self.refuse(RefusalCode::Unavailable, message)
            }
            _ => Ok(()),
        };
        if let Err(error) = told {
            tracing::debug!(%error, "nobody heard why");
        }
        error.into()
    }
}

/// Writes, unless it was called off; where the node does not listen any more it has said why, or will not say
/// anything.
fn or_why(
    wire: &mut Wire,
    write: impl FnOnce(&mut Wire) -> Result<(), SyncError>,
) -> Result<(), SyncError> {
    if wire.is_stopped() {
        return Err(SyncError::Cancelled);
    }
    match write(wire) {
        Err(SyncError::Transport(TransportError::Stopped)) => match wire.answer()? {
            Reply::Refused(refusal) => Err(SyncError::Refused(refusal)),
            _ => Err(SyncError::OutOfTurn),
        },
        other => other,
    }
}

/// Most objects of one push or fetch: some times those of the largest tree known.
const MAX_OBJECTS: u64 = 64_000_000;

/// Bytes after which a receiver makes durable what came: a sync of the disk costs milliseconds, and on a
/// slow link this is what a lost connection costs at most.
const KEEP_AT: u64 = 8 * 1024 * 1024;

/// How a node tells a device that its own store failed: what the device can do something about by
/// name, the rest without details of the node's disk.
pub fn store_refusal(error: &StoreError) -> Refusal {
    if error.is_disk_full() {
        let what = if error.is_out_of_inodes() { "has no inodes left" } else { "is full" };
        let message = format!("the node's disk {what}");
        return Refusal { code: RefusalCode::DiskFull, message };
    }
    tracing::error!(error = error as &dyn std::error::Error, "a request failed");
    let message = "the node's store failed; its log says how".to_owned();
    Refusal { code: RefusalCode::Internal, message }
}

#[cfg(test)]
mod tests;

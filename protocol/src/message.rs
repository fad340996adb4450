//! Control messages: what a device asks of a node, and what the node answers.
//!
//! Each request has a stream of its own. Its first frame is an [`Opening`]: the versions that the
//! client speaks, and the request. Messages are postcard: they are never hashed, so that a second
//! byte form of the same value does no harm, and they are read from a buffer whose length
//! [`frame`](crate::frame) has bounded.
//!
//! - [`versions`]: which versions of these messages are spoken
//! - [`runs`]: what is said of runs
//! - [`secrets`]: what is said of their secrets

mod versions;
mod runs;
pub mod secrets;

use serde::{Deserialize, Serialize};

use crate::frame::{FrameError, FrameKind, HEADER, encode_header};
use crate::id::{
    DeviceId, HashPrefix, IdempotencyKey, ObjectId, ObjectKind, RunId, SnapshotId, WorkspaceId,
};

pub use runs::{
    AgentReport, Answer, CheckState, Checked, LogEntry, LogReply, LogStream, Permissions, Question,
    QuestionKind, RunInfo, RunSpec, RunState, Terms,
};
use secrets::{SecretEntry, SetSecret};
pub use versions::{OLDEST, VERSION, newest, speak_at_most};

/// ALPN protocol name. Its number changes when an old node could not even refuse politely.
pub const ALPN: &[u8] = b"baton/1";

/// The same over TCP, where the streams are those of [`mux`](crate::mux).
pub const ALPN_TCP: &[u8] = b"baton-tcp/1";

/// Most ids of one [`Want`](FetchRequest::Want) or [`Missing`](PushReply::Missing): 540,672 bytes, so
/// that they always fit a frame.
pub const MAX_IDS: usize = 16 * 1024;

/// Most agents that are asked for at once.
pub const MAX_AGENTS: usize = 64;

/// Most items of one [`PushReply::NeedFull`]: at most 640 KiB, so that they always fit a frame.
pub const MAX_ITEMS: usize = 128 * 1024;

/// Bytes after which a list goes on in another message: see [`encode_list`].
const PAGE: usize = 64 * 1024;

/// Longest command line of a run in bytes, all arguments together.
pub const MAX_COMMAND: usize = 128 * 1024;

/// Longest prompt in bytes.
pub const MAX_PROMPT: usize = 256 * 1024;

/// Most snapshots or workspaces that are forgotten with one request.
pub const MAX_FORGET: usize = 1024;

/// Longest text that is said to a run at once, in bytes.
pub const MAX_SAY: usize = 64 * 1024;

/// Longest command of a check in bytes.
pub const MAX_CHECK: usize = 16 * 1024;

/// Longest text of a question, and of what is kept of a check's output, in bytes.
pub const MAX_QUESTION: usize = 4 * 1024;

/// The first message of each stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opening {
    /// The oldest version of these messages that the client speaks.
    pub oldest: u16,
    /// The newest.
    pub newest: u16,
    /// What it asks.
    pub request: Request,
}

impl Opening {
    /// Asks in the versions that have this request.
    pub fn new(request: Request) -> Self {
        Self { oldest: request.since(), newest: newest(), request }
    }

    /// Whether this program can answer.
    pub fn is_spoken(&self) -> bool {
        is_spoken(self.oldest, self.newest)
    }

    /// Reads the first message of a stream, from the body of its frame.
    ///
    /// The versions stand first in every version of this message. Where none is ours the request,
    /// which may be one that this program has never heard of, is not looked at, so that the client
    /// is told which version the node speaks, and not that it talks nonsense.
    pub fn decode(body: &[u8]) -> Result<Self, OpeningError> {
        let ((oldest, newest), _) = postcard::take_from_bytes::<(u16, u16)>(body)
            .map_err(|error| OpeningError::Malformed(FrameError::Message(error)))?;
        if !is_spoken(oldest, newest) {
            return Err(OpeningError::Version { oldest, newest });
        }
        decode(body).map_err(OpeningError::Malformed)
    }
}

fn is_spoken(from: u16, to: u16) -> bool {
    from <= newest() && OLDEST <= to && from <= to
}

/// The first message of a stream cannot be answered.
#[derive(Debug, thiserror::Error)]
pub enum OpeningError {
    /// No common version.
    #[error(
        "the client speaks versions {oldest} to {newest}, this program {OLDEST} to {}",
        versions::newest()
    )]
    Version {
        /// The oldest version that the client speaks.
        oldest: u16,
        /// The newest.
        newest: u16,
    },
    /// It is not an opening.
    #[error("malformed opening of a stream")]
    Malformed(#[source] FrameError),
}

/// What a device asks of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Enrol the device whose key made this connection. The only request of an unknown device.
    Join {
        /// From the ticket.
        secret: [u8; crate::ticket::SECRET],
        /// What the user calls this machine.
        name: String,
    },
    /// Who am I here?
    Hello,
    /// Store a snapshot and move the device's ref to it; objects follow on the stream.
    Push(PushHello),
    /// Read objects of the user's vault; [`FetchRequest`]s follow on the stream.
    Fetch,
    /// Every ref of the user's vault.
    Refs,
    /// Start a run. Idempotent by the run's id.
    CreateRun(RunSpec),
    /// Every run of the user.
    ListRuns,
    /// One run.
    ShowRun(RunId),
    /// The output of a run; [`LogReply`]s follow.
    Logs {
        /// Which run.
        run: RunId,
        /// Entries to skip.
        from: u64,
        /// Go on until the run has ended.
        follow: bool,
    },
    /// Answers when the run has ended.
    WaitRun(RunId),
    /// End a run that has not ended.
    CancelRun(RunId),
    /// Keep file data of a snapshot that is still being made, and move no ref; [`AheadRequest`]s follow on the
    /// stream.
    Ahead,
    /// Keep a secret for runs of the user; one of the same name and agent is replaced.
    SetSecret(Box<SetSecret>),
    /// The names of the user's secrets.
    ListSecrets,
    /// Forget a secret, if it is kept.
    RemoveSecret(SecretEntry),
    /// Say something to the program of a run.
    SayRun {
        /// Which run.
        run: RunId,
        /// A line for it, or several; at most [`MAX_SAY`] bytes.
        text: Option<String>,
        /// It is told nothing more: its input ends.
        end: bool,
    },
    /// Answer what a run waits for.
    AnswerRun {
        /// Which run.
        run: RunId,
        /// Which question. Nothing: the one that it asks.
        question: Option<String>,
        /// What it is told; at most [`MAX_SAY`] bytes.
        answer: Answer,
    },
    /// Take a run away that has ended.
    DeleteRun(RunId),
    /// Make a snapshot of what a live run has done so far; one that has ended stays as it is.
    KeepRun(RunId),
    /// Which of these agents runs could have, and what is missing; at most [`MAX_AGENTS`]. Since version 4.
    CheckAgents(Vec<String>),
    /// Whether an agent answers: it does one turn in a room such as runs have, which may cost its user something. Since version 5.
    TryAgent(String),
    /// Take something out of what is kept; its bytes are gone after the node's next collection. Since version 5.
    Forget(Forget),
}

/// What a node is to forget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Forget {
    /// Snapshots of which somebody wants no byte to be left; at most [`MAX_FORGET`]. Refused where one is the latest of a
    /// ref, or a run is about it.
    Snapshots(Vec<SnapshotId>),
    /// Snapshots that their device has thinned out of its history; at most [`MAX_FORGET`]. Those that something needs stay.
    Thinned(Vec<SnapshotId>),
    /// What a run left that was deleted before.
    Run(RunId),
    /// Every ref of these workspaces, and their runs; at most [`MAX_FORGET`]. Refused while one of the runs goes on.
    Workspaces(Vec<WorkspaceId>),
}

impl Request {
    /// The version of these messages that first had it.
    const fn since(&self) -> u16 {
        match self {
            Self::TryAgent(_) | Self::Forget(_) => 5,
            _ => OLDEST,
        }
    }
}

/// The answer to a request that has one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// The request failed; nothing was changed unless the code says so.
    Refused(Refusal),
    /// To `Join` and `Hello`.
    Welcome(Welcome),
    /// To `Refs`, in as many messages as it takes ([`encode_list`]); the stream ends after the last.
    Refs(Vec<Head>),
    /// To `CreateRun`, `ShowRun`, `WaitRun`, `CancelRun`, `SayRun`, `AnswerRun`, `DeleteRun` and `KeepRun`.
    Run(Box<RunInfo>),
    /// To `ListRuns`, newest first, in as many messages as it takes ([`encode_list`]); the stream ends
    /// after the last.
    Runs(Vec<RunInfo>),
    /// To `Push`.
    Push(PushReply),
    /// To `Fetch`.
    Fetch(FetchReply),
    /// To `Logs`.
    Log(LogReply),
    /// To `Ahead`.
    Ahead(AheadReply),
    /// To `SetSecret`, `ListSecrets` and `RemoveSecret`: those that are kept now.
    Secrets(Vec<SecretEntry>),
    /// To `CheckAgents`, in the order in which they were asked for, and to `TryAgent`.
    Agents(Vec<AgentReport>),
    /// To `Forget`: it is forgotten.
    Forgotten,
}

/// Why a request was refused; the text is for people and may change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{message}")]
pub struct Refusal {
    /// For programs.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
}

/// Why a request was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// No common version; the message says which the node speaks.
    Version,
    /// The device is not enrolled, or was revoked.
    UnknownDevice,
    /// The ticket is wrong, used up or expired.
    Ticket,
    /// The device's role does not allow it.
    Role,
    /// There is no such thing in the user's vault.
    NotFound,
    /// What was sent is not well-formed.
    Malformed,
    /// A quota or limit of the node.
    Limit,
    /// The node's disk is full.
    DiskFull,
    /// The same id stands for something else already.
    Conflict,
    /// The node failed; its log has more.
    Internal,
    /// The node is shutting down, or has waited too long for the rest: the same may work later.
    Unavailable,
    /// What is there already must be taken first: try again soon.
    Busy,
}

/// Who the node says that the device is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The user whose vault it is.
    pub user: String,
    /// The device's own id.
    pub device: DeviceId,
    /// `push`, `run` or `admin`.
    pub role: String,
    /// The version of the node's program.
    pub program: String,
}

/// Where a ref stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The device, or a run.
    pub device: DeviceId,
    /// What it points to.
    pub snapshot: SnapshotId,
    /// That snapshot's sequence number.
    pub sequence: u64,
}

/// The start of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushHello {
    /// Whose ref is moved: this workspace on the device of the connection.
    pub workspace: WorkspaceId,
    /// What the client believes the ref to be.
    pub base: Option<SnapshotId>,
    /// What it shall become.
    pub new: SnapshotId,
    /// Makes a replay harmless.
    pub key: IdempotencyKey,
}

/// What the client says after its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PushRequest {
    /// That was all: check and make it durable.
    Commit,
}

/// The answer to a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PushReply {
    /// The snapshot survives a power cut of the node.
    Acked {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Its sequence number.
        sequence: u64,
    },
    /// The ref is somewhere else: the client's state was rolled back.
    HeadMoved {
        /// Where it is.
        head: Option<(SnapshotId, u64)>,
    },
    /// These objects are needed, perhaps not the only ones; send them and commit again.
    Missing {
        /// At most [`MAX_IDS`].
        ids: Vec<WireId>,
        /// Whether another list follows at once: the sender waits for the last one.
        more: bool,
    },
    /// The bases of these items (counted from 0 over the whole stream) are not here: send the
    /// objects whole and commit again.
    NeedFull {
        /// At most [`MAX_ITEMS`] item numbers; the others at the next commit.
        items: Vec<u32>,
    },
}

/// What a client says that sends ahead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AheadRequest {
    /// A record holds the chunks whose hashes begin so; at most [`MAX_IDS`]. It follows once it is wanted, in its
    /// turn, in a frame of its own. Where another chunk begins like one of them, the push that comes after finds
    /// out what is missing.
    Offer(Vec<HashPrefix>),
    /// That was all: make what came durable.
    End,
}

/// The answer to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum AheadReply {
    /// Whether the record of an offer is to be sent; in the order of the offers.
    Wanted(bool),
    /// What came is durable, and a push finds it.
    Kept,
}

/// What the client of a fetch asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchRequest {
    /// Send these, in the order that is best for the node; at most [`MAX_IDS`].
    Want(Vec<WireId>),
}

/// What the node says beside the objects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FetchReply {
    /// The objects of one request that are here were sent.
    Done {
        /// How many.
        sent: u32,
        /// The first one that is not in the vault.
        absent: Option<WireId>,
    },
}

/// An [`ObjectId`] as it travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireId(u8, [u8; 32]);

impl From<ObjectId> for WireId {
    fn from(id: ObjectId) -> Self {
        Self(id.kind as u8, id.hash)
    }
}

impl WireId {
    /// The id, unless its kind is none of ours.
    pub fn id(&self) -> Option<ObjectId> {
        ObjectKind::from_number(self.0).map(|kind| ObjectId { kind, hash: self.1 })
    }
}

/// A message as a whole frame.
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let body = postcard::to_stdvec(message).map_err(FrameError::Message)?;
    let mut frame = Vec::with_capacity(HEADER + body.len());
    frame.extend_from_slice(&encode_header(FrameKind::Message, body.len())?);
    frame.extend_from_slice(&body);
    Ok(frame)
}

/// A list as whole frames: as many messages as it takes, at least one, in order.
///
/// A vault has a ref for every run, and a run carries its prompt: a list in one message would
/// outgrow [`MAX_FRAME`](crate::frame::MAX_FRAME) some day.
pub fn encode_list<T: Serialize>(
    items: impl IntoIterator<Item = T>,
    message: impl Fn(Vec<T>) -> Reply,
) -> Result<Vec<Vec<u8>>, FrameError> {
    let mut frames = Vec::new();
    let mut page = Vec::new();
    let mut size = 0;
    for item in items {
        let len = postcard::to_stdvec(&item).map_err(FrameError::Message)?.len();
        if !page.is_empty() && size + len > PAGE {
            frames.push(encode(&message(std::mem::take(&mut page)))?);
            size = 0;
        }
        size += len;
        page.push(item);
    }
    if !page.is_empty() || frames.is_empty() {
        frames.push(encode(&message(page))?);
    }
    Ok(frames)
}

/// A message from the body of a frame; bytes after it are refused.
pub fn decode<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, FrameError> {
    match postcard::take_from_bytes(body) {
        Ok((message, [])) => Ok(message),
        Ok(_) => Err(FrameError::Message(postcard::Error::SerdeDeCustom)),
        Err(error) => Err(FrameError::Message(error)),
    }
}

#[cfg(test)]
mod tests;

//! What is said of runs and their output.

use serde::{Deserialize, Serialize};

use crate::id::{RunId, SnapshotId, ThreadId, WorkspaceId};

/// What a run is to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSpec {
    /// The run's id.
    pub run: RunId,
    /// Its thread.
    pub thread: ThreadId,
    /// The workspace it works in.
    pub workspace: WorkspaceId,
    /// What it starts from.
    pub snapshot: SnapshotId,
    /// The program that does the work; `command` runs `command` itself.
    pub agent: String,
    /// The program and its arguments, as raw bytes, never through a shell.
    pub command: Vec<Vec<u8>>,
    /// What the user asked.
    pub prompt: Option<String>,
    /// The run that it follows up: it starts from what that left. In the same thread, of which there is one next run
    /// only, or in one of its own.
    pub parent: Option<RunId>,
    /// Under which terms.
    #[serde(default)]
    pub terms: Terms,
}

/// How a run is to be treated.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// What is run by `sh -c` in its checkout when its program has ended; what that changes is not in the result.
    pub check: Option<String>,
    /// After so many milliseconds it is ended.
    pub timeout_ms: Option<u64>,
    /// Whether its program's standard input stays open for what is said to it. Nothing: as the node is set up.
    pub input: Option<bool>,
    /// The model that its agent asks. Nothing: as the agent is set up.
    #[serde(default)]
    pub model: Option<String>,
    /// What its agent may do unasked, which is never more than the node allows. Nothing: as much as that.
    #[serde(default)]
    pub permissions: Option<Permissions>,
}

/// What an agent may do unasked; the later ones allow what the earlier ones do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permissions {
    /// Nothing that changes something.
    Ask,
    /// Edit files.
    Edits,
    /// Everything.
    All,
}

/// How an agent stands on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReport {
    /// Its name.
    pub agent: String,
    /// What its program says that it is; nothing where that is not known.
    pub version: Option<String>,
    /// How somebody is logged in, for people; nothing where that is not known.
    pub login: Option<String>,
    /// What it may do unasked.
    pub permissions: Permissions,
    /// Why a run cannot have it; nothing where it can, as far as is known.
    pub problem: Option<String>,
    /// What to do about that.
    pub fix: Option<String>,
}

/// What a run waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// By which it is answered: each of a run has another one.
    pub id: String,
    /// What answers it.
    pub kind: QuestionKind,
    /// For people: what is asked. At most [`MAX_QUESTION`](super::MAX_QUESTION) bytes.
    pub text: String,
    /// What can be chosen from; empty where anything can be said.
    pub options: Vec<String>,
    /// Milliseconds since 1970 by the node's clock.
    pub asked_at: u64,
}

/// What a run can wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QuestionKind {
    /// A line of input.
    Input,
    /// Whether it may do something.
    Permission,
}

/// What a question is answered with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It may. A program that waits for input gets the word.
    Allow,
    /// It may not. A program that waits for input gets the word.
    Deny,
    /// This.
    Text(String),
}

/// What became of the check of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// How it stands.
    pub state: CheckState,
    /// How it ended: its code, or 128 and the signal.
    pub exit_code: Option<i32>,
    /// The end of what it said. At most [`MAX_QUESTION`](super::MAX_QUESTION) bytes.
    pub tail: String,
}

/// How the check of a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// It is at work.
    Running,
    /// It ended with code 0.
    Passed,
    /// It ended otherwise.
    Failed,
    /// It did not come to its end, or did not begin.
    Interrupted,
}

impl CheckState {
    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Where a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RunState {
    /// Accepted and durable.
    Queued,
    /// Its checkout is being made.
    Preparing,
    /// The program runs.
    Running,
    /// The program waits for an answer.
    Waiting,
    /// The program ended with code 0.
    Succeeded,
    /// It ended otherwise, or could not be started.
    Failed,
    /// The user ended it.
    Cancelled,
    /// The node died; the last snapshot stands.
    Interrupted,
}

impl RunState {
    /// Every state, in the order in which a run passes through them.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Preparing,
        Self::Running,
        Self::Waiting,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::Interrupted,
    ];

    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Preparing => "preparing",
            Self::Running => "running",
            Self::Waiting => "waiting",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
        }
    }

    /// Whether it will not change any more.
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::Interrupted)
    }
}

/// A run as its node knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunInfo {
    /// What it was asked to do.
    pub spec: RunSpec,
    /// Where it stands.
    pub state: RunState,
    /// Why it failed or was interrupted, for people.
    pub reason: Option<String>,
    /// Its result; for a live run the latest snapshot.
    pub result: Option<SnapshotId>,
    /// How the program ended: its code, or 128 and the signal.
    pub exit_code: Option<i32>,
    /// Whether it runs in a room.
    pub isolated: bool,
    /// The working folder on the node.
    pub checkout: Option<String>,
    /// Milliseconds since 1970 by the node's clock.
    pub created_at: u64,
    /// Likewise.
    pub started_at: Option<u64>,
    /// Likewise.
    pub ended_at: Option<u64>,
    /// What it waits for, while it does.
    pub waiting: Option<Question>,
    /// What became of its check, once that has begun.
    pub checked: Option<Checked>,
}

/// Where a line of output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    /// The program's standard output.
    Stdout,
    /// Its standard error.
    Stderr,
    /// The node itself, about the run.
    Node,
}

/// Output of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// Milliseconds since 1970 by the node's clock.
    pub time: u64,
    /// Where it came from.
    pub stream: LogStream,
    /// Raw bytes: a line with its end, or a piece of a long one. At most 64 KiB.
    pub text: Vec<u8>,
}

/// What follows a request for output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogReply {
    /// Some entries, in order.
    Entries(Vec<LogEntry>),
    /// No more will come: the run has ended, or following was not asked for.
    End,
}

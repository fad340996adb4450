//! What was kept of a workspace, and what went on from it.

#![expect(missing_docs, reason = "the fields are those of the command-line contract")]

use serde::{Deserialize, Serialize};

use super::receipt::{ConversationReceipt, Problem};

/// `log`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogAnswer {
    pub snapshots: Vec<LogSnapshot>,
    /// Runs that started from one of them, or from what another run left; the newest first. As they were heard of last.
    #[serde(default)]
    pub runs: Vec<LogRun>,
    /// Snapshots that are there and cannot be read.
    #[serde(default)]
    pub damaged: Vec<Problem>,
}

/// One snapshot of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogSnapshot {
    pub snapshot: String,
    pub sequence: u64,
    pub parents: Vec<String>,
    pub device: String,
    pub created_at: String,
    pub message: String,
    pub acked: bool,
    /// The conversation that it has, which a run went on with as a fork.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationReceipt>,
}

/// A run of a log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LogRun {
    pub run: String,
    pub thread: String,
    pub state: String,
    /// From which it started.
    pub snapshot: String,
    /// What it left: by its parents it is known where it parted from what went on here.
    pub result: Option<String>,
    /// The run that this one follows up.
    pub parent: Option<String>,
    /// The conversation of its result, where that was pulled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<ConversationReceipt>,
}

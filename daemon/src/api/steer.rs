//! What the command line asks of one run, and what it is told of what that waits for.

#![expect(missing_docs, reason = "the fields are those of the command-line contract")]

use baton_protocol::message::Answer;
use serde::{Deserialize, Serialize};

/// What is asked of one run.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunCall {
    /// `run say`; with `end` nothing more is said.
    Say { run: String, text: Option<String>, end: bool },
    /// `run answer`; without `question` the one that it asks.
    Answer { run: String, question: Option<String>, answer: Answer },
    /// `run delete`.
    Delete { run: String },
    /// `run diff`; without `other` what the run itself changed.
    Diff { run: String, other: Option<String>, patch: bool },
}

/// What a run waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitingEntry {
    pub id: String,
    /// `input`, `permission`.
    pub kind: String,
    pub text: String,
    /// What can be chosen from; empty where anything can be said.
    pub options: Vec<String>,
    pub since: String,
}

/// The check of a run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckEntry {
    pub command: String,
    pub exit_code: Option<i32>,
    /// `pending`, `running`, `passed`, `failed`, `interrupted`.
    pub state: String,
    /// The end of what it said.
    pub output: String,
}

/// `run say` and `run answer`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SaidAnswer {
    pub run: String,
    /// Whether the program has it before it.
    pub delivered: bool,
    pub state: String,
}

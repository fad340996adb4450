//! Why a request about runs fails, and what whoever asked is told of it.
//!
//! **Invariant:** what went wrong inside the node stays in its log.

use std::error::Error;

use baton_protocol::id::RunId;
use baton_protocol::message::{Refusal, RefusalCode};
use baton_store::catalog::runs::RunConflict;
use baton_store::error::StoreError;

use super::log::LogError;
use crate::task::TaskFailed;

/// A request about runs failed.
#[derive(Debug, thiserror::Error)]
pub enum RunsError {
    /// The user has no such run.
    #[error("there is no run {0}")]
    NotFound(RunId),
    /// The id stands for another run.
    #[error(transparent)]
    Conflict(#[from] RunConflict),
    /// It cannot be run as it is.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// It follows up a run that has not ended.
    #[error("run {0} has not ended")]
    NotEnded(RunId),
    /// Its thread goes on already.
    #[error("run {parent} has a follow-up already: run {next}")]
    FollowedUp {
        /// What it follows up.
        parent: RunId,
        /// What follows it up already.
        next: RunId,
    },
    /// Too many runs wait.
    #[error("{limit} runs wait already; try again when some have ended")]
    QueueFull {
        /// How many may.
        limit: usize,
    },
    /// The node is shutting down.
    #[error("the node is shutting down")]
    ShuttingDown,
    /// The catalog failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The output could not be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// A part of the node ended where it must not.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// A run cannot be run as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No agent of that name.
    #[error("there is no agent {0} on this node; a command can be run")]
    Agent(String),
    /// Nothing to run.
    #[error("the run has no command")]
    NoCommand,
    /// Its agent is to have no network, which takes walls.
    #[error(
        "runs of {0} are to have no network here, which this node cannot see to: its runs are not isolated"
    )]
    Network(String),
    /// A command, argument or prompt contains NUL, which no program can be given.
    #[error("the {0} contains a NUL byte")]
    Nul(&'static str),
    /// Longer than a program can be given.
    #[error("the {what} has {length} bytes, at most {limit} can be passed to a program")]
    TooLong {
        /// `command`, `argument`, `prompt`.
        what: &'static str,
        /// How long it is.
        length: usize,
        /// How long it may be.
        limit: usize,
    },
}

impl RunsError {
    /// As the asking side is told. What went wrong inside the node stays in its log.
    pub fn refusal(&self) -> Refusal {
        let code = match self {
            Self::NotFound(_) => RefusalCode::NotFound,
            Self::Conflict(_) | Self::NotEnded(_) | Self::FollowedUp { .. } => {
                RefusalCode::Conflict
            }
            Self::Spec(_) => RefusalCode::Malformed,
            Self::QueueFull { .. } => RefusalCode::Limit,
            Self::ShuttingDown => RefusalCode::Unavailable,
            Self::Store(error) if error.is_disk_full() => RefusalCode::DiskFull,
            Self::Store(_) | Self::Log(_) | Self::Task(_) => RefusalCode::Internal,
        };
        let message = match code {
            RefusalCode::Internal => "the node failed; its log has more".to_owned(),
            RefusalCode::DiskFull => "the node's disk is full".to_owned(),
            _ => self.to_string(),
        };
        Refusal { code, message }
    }
}

/// An error and its sources.
pub(super) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text = format!("{text}: {source}");
        next = source.source();
    }
    text
}

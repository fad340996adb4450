//! What a request about runs is refused with, and what could never be run.

use std::error::Error;

use baton_protocol::id::RunId;
use baton_protocol::message::{MAX_CHECK, MAX_COMMAND, MAX_PROMPT, Refusal, RefusalCode, RunSpec};
use baton_store::catalog::runs::RunConflict;
use baton_store::error::StoreError;

use super::environment::MAX_STRING;
use super::log::LogError;
use crate::task::TaskFailed;

/// The one agent that needs no adapter: the command itself.
pub(super) const PLAIN_AGENT: &str = "command";

/// Longest name of a model.
const MAX_MODEL: usize = 256;

/// Longest reason that is kept.
const MAX_REASON: usize = 4096;

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
    /// It is to be taken away and has not ended.
    #[error("run {0} has not ended: cancel it first")]
    Live(RunId),
    /// It is to be taken away, and what it left is nowhere else.
    #[error("what run {run} left is in no snapshot, only in {}; the node keeps it when it starts the next time", checkout.display())]
    Unsealed {
        /// Which run.
        run: RunId,
        /// Where that is.
        checkout: std::path::PathBuf,
    },
    /// Nothing can be said to a run that has ended.
    #[error("run {0} has ended")]
    Ended(RunId),
    /// Nothing can be said to it yet.
    #[error("the program of run {0} has not started")]
    NotStarted(RunId),
    /// Nothing can be said to it any more, or ever.
    #[error("the program of run {0} takes no input")]
    NoInput(RunId),
    /// It has not read what was said before.
    #[error("the program of run {0} has not read what it was told before; nothing was said")]
    Busy(RunId),
    /// It asks nothing.
    #[error("run {0} waits for nothing")]
    NothingAsked(RunId),
    /// It asks something else.
    #[error("run {run} waits for the answer to question {asked}")]
    OtherQuestion {
        /// Which run.
        run: RunId,
        /// What it asks.
        asked: String,
    },
    /// What it has done could not be kept.
    #[error("what run {run} has done so far could not be kept: {why}")]
    NotKept {
        /// Which run.
        run: RunId,
        /// Why.
        why: String,
    },
    /// It could not be taken away.
    #[error("run {run} could not be taken away: {why}")]
    NotDeleted {
        /// Which run.
        run: RunId,
        /// Why.
        why: String,
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

/// What failed and why, in one line for people.
pub(super) fn reason(what: &str, error: &dyn Error) -> String {
    let mut reason = format!("{what}: {}", chain(error));
    if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
        reason.truncate(end);
    }
    reason
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

/// A run cannot be run as it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// No agent of that name.
    #[error(
        "there is no agent {0} on this node; its owner can set one up under [agents.{0}] in its config.toml"
    )]
    Agent(String),
    /// Nothing to run.
    #[error("the run has no command")]
    NoCommand,
    /// Nothing for its agent to do.
    #[error("the run has no prompt for {0} to take")]
    NoPrompt(String),
    /// Either of them could be meant.
    #[error("the run has a command, which {0} does not take")]
    Both(String),
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
            Self::Conflict(_)
            | Self::NotEnded(_)
            | Self::Live(_)
            | Self::Unsealed { .. }
            | Self::Ended(_)
            | Self::NoInput(_)
            | Self::NothingAsked(_)
            | Self::OtherQuestion { .. }
            | Self::FollowedUp { .. } => RefusalCode::Conflict,
            Self::NotStarted(_) | Self::Busy(_) => RefusalCode::Busy,
            Self::Spec(_) => RefusalCode::Malformed,
            Self::QueueFull { .. } => RefusalCode::Limit,
            Self::ShuttingDown => RefusalCode::Unavailable,
            Self::Store(error) if error.is_disk_full() => RefusalCode::DiskFull,
            Self::Store(_)
            | Self::Log(_)
            | Self::Task(_)
            | Self::NotKept { .. }
            | Self::NotDeleted { .. } => RefusalCode::Internal,
        };
        let message = match code {
            RefusalCode::Internal => "the node failed; its log has more".to_owned(),
            RefusalCode::DiskFull => "the node's disk is full".to_owned(),
            _ => self.to_string(),
        };
        Refusal { code, message }
    }
}

/// Refuses what could never be started, so that the user hears of it at once.
pub(super) fn check(spec: &RunSpec) -> Result<(), SpecError> {
    let is_plain = spec.agent == PLAIN_AGENT;
    if is_plain && spec.command.first().is_none_or(Vec::is_empty) {
        return Err(SpecError::NoCommand);
    }
    if !is_plain && !spec.command.is_empty() {
        return Err(SpecError::Both(spec.agent.chars().take(80).collect()));
    }
    let bounded = |what, length, limit| {
        if length > limit { Err(SpecError::TooLong { what, length, limit }) } else { Ok(()) }
    };
    bounded("command", spec.command.iter().map(|argument| argument.len() + 1).sum(), MAX_COMMAND)?;
    for argument in &spec.command {
        bounded("argument", argument.len(), MAX_STRING - 1)?;
        if argument.contains(&0) {
            return Err(SpecError::Nul("command"));
        }
    }
    let prompt = spec.prompt.as_deref().unwrap_or_default();
    bounded("prompt", prompt.len(), MAX_PROMPT.min(MAX_STRING - "BATON_PROMPT=\0".len()))?;
    if prompt.contains('\0') {
        return Err(SpecError::Nul("prompt"));
    }
    let check = spec.terms.check.as_deref();
    bounded("check", check.unwrap_or_default().len(), MAX_CHECK)?;
    if check.is_some_and(|check| check.contains('\0')) {
        return Err(SpecError::Nul("check"));
    }
    bounded("model", spec.terms.model.as_deref().unwrap_or_default().len(), MAX_MODEL)?;
    if check.is_some_and(|check| check.trim().is_empty()) {
        return Err(SpecError::NoCommand);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::spec;
    use super::*;

    #[test]
    fn what_no_program_can_be_given_is_refused() {
        assert_eq!(check(&spec(1, &["true"])), Ok(()));
        assert_eq!(check(&spec(1, &[])), Err(SpecError::NoCommand));
        assert_eq!(check(&spec(1, &["", "x"])), Err(SpecError::NoCommand));
        assert_eq!(check(&spec(1, &["a", "b\0c"])), Err(SpecError::Nul("command")));
        let mut agent = spec(1, &["true"]);
        agent.agent = "claude".to_owned();
        assert_eq!(check(&agent), Err(SpecError::Both("claude".to_owned())));
        agent.command.clear();
        assert_eq!(check(&agent), Ok(()));
        let long = "x".repeat(MAX_STRING);
        let refused = check(&spec(1, &["true", &long])).unwrap_err();
        assert!(matches!(refused, SpecError::TooLong { what: "command", .. }), "{refused}");
        for (prompt, fits) in [(MAX_STRING - 14, true), (MAX_STRING - 13, false)] {
            let mut asked = spec(1, &["true"]);
            asked.prompt = Some("p".repeat(prompt));
            assert_eq!(check(&asked).is_ok(), fits, "{prompt}");
        }
    }
}

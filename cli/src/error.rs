//! What the command line says when something fails: what, why, and the next command to type.
//!
//! Not here: why it failed. That comes from the daemon as a [`Failure`], or from the errors of its
//! libraries, whose chain of causes becomes one sentence.
//!
//! **Invariant:** an error has a stable code for programs, and an exit code of the contract.

use std::borrow::Cow;
use std::error::Error;

use baton_daemon::api::control::Failure;
use baton_daemon::api::socket::{CallError, ConnectError};
use baton_daemon::config::ConfigError;
use baton_daemon::daemon::failure::Fail;
use serde::Serialize;

/// Exit code: it failed.
pub(crate) const FAILED: u8 = 1;

/// Exit code: wrong usage, or not in this version.
pub(crate) const USAGE: u8 = 2;

/// Exit code: accepted and queued.
pub(crate) const QUEUED: u8 = 3;

/// Exit code: a conflict, nothing was changed.
pub(crate) const CONFLICT: u8 = 4;

/// Exit code: `check` found damage.
pub(crate) const DAMAGE: u8 = 5;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum CliError {
    /// The reader of our output has seen enough: a success.
    BrokenPipe,
    /// Something a person must read.
    Failed(Box<Report>),
}

/// What is printed.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Stable, kebab-case.
    pub code: Cow<'static, str>,
    /// What we were doing and why it failed.
    pub message: String,
    /// The next command to type.
    pub hint: Option<String>,
    /// The exit code.
    #[serde(skip)]
    pub exit: u8,
}

impl CliError {
    /// A failure with this code, exit 1.
    pub(crate) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self::Failed(Box::new(Report {
            code: code.into(),
            message: message.into(),
            hint: None,
            exit: FAILED,
        }))
    }

    /// Wrong usage, exit 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new("usage", message).exit(USAGE)
    }

    /// A failure whose causes are told after what we were doing.
    pub(crate) fn caused(code: &'static str, doing: &str, error: &dyn Error) -> Self {
        Self::new(code, format!("{doing}: {}", chain(error)))
    }

    /// The daemon answered something that does not belong to the question.
    pub(crate) fn unexpected() -> Self {
        Self::new("internal", "the daemon answered another question than was asked")
            .hint("baton daemon stop")
    }

    /// Adds the next command to type.
    #[must_use]
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        if let Self::Failed(report) = &mut self {
            report.hint = Some(hint.into());
        }
        self
    }

    /// Exits with another code.
    #[must_use]
    pub(crate) fn exit(mut self, exit: u8) -> Self {
        if let Self::Failed(report) = &mut self {
            report.exit = exit;
        }
        self
    }

    /// Whether this is the failure with that code.
    pub(crate) fn is(&self, code: &str) -> bool {
        matches!(self, Self::Failed(report) if report.code == code)
    }

    /// The exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Failed(report) => report.exit,
        }
    }
}

/// An error and its causes in one line, each said once: `opening /x: permission denied`.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

impl From<Failure> for CliError {
    fn from(failure: Failure) -> Self {
        // A daemon that names no failure of the contract has failed all the same.
        let exit = match failure.exit {
            exit @ FAILED..=DAMAGE => exit,
            _ => FAILED,
        };
        Self::Failed(Box::new(Report {
            code: failure.code.into(),
            message: failure.message,
            hint: failure.hint,
            exit,
        }))
    }
}

impl From<ConnectError> for CliError {
    fn from(error: ConnectError) -> Self {
        let failed = Self::caused("daemon-unreachable", "cannot reach the daemon", &error);
        match error {
            ConnectError::Nobody { .. } => failed.hint("baton daemon run"),
            ConnectError::Foreign { .. } => {
                failed.hint("choose a home of your own with --home DIR or BATON_HOME")
            }
            ConnectError::Connect { .. } => failed.hint("baton doctor"),
        }
    }
}

impl From<ConfigError> for CliError {
    fn from(error: ConfigError) -> Self {
        Self::caused("config", "the configuration cannot be used", &error)
            .hint("correct the file; baton config show prints what is in force")
    }
}

impl From<Fail> for CliError {
    fn from(Fail(failure): Fail) -> Self {
        failure.into()
    }
}

impl From<CallError> for CliError {
    fn from(error: CallError) -> Self {
        match error {
            CallError::TooLong => {
                Self::usage("the prompt and the command together are longer than a call may be")
                    .hint("put long text into a file and pass it with --attach FILE")
            }
            error => Self::caused("daemon-gone", "the daemon did not answer", &error)
                .hint("baton daemon status"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_says_each_cause_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("opening the store")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("no space"));
        assert_eq!(chain(&error), "opening the store: no space");
    }

    #[test]
    fn a_failure_keeps_only_exit_codes_of_the_contract() {
        let failure = |exit| Failure { code: "x".into(), message: "y".into(), hint: None, exit };
        for (given, kept) in [(0, 1), (1, 1), (3, 3), (4, 4), (5, 5), (77, 1)] {
            assert_eq!(CliError::from(failure(given)).code(), kept);
        }
    }
}

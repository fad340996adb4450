//! What a command that failed says: a stable code, what we were doing and why it failed, and the next
//! command to type.

use std::error::Error;

use baton_protocol::message::{Refusal, RefusalCode};
use baton_store::checkout::RestoreError;
use baton_store::error::StoreError;
use baton_store::fs::FsError;

use crate::api::control::Failure;
use crate::sync::SyncError;
use crate::transport::TransportError;
use crate::workspace::TakeError;

/// A command failed.
#[derive(Debug)]
pub struct Fail(pub Failure);

impl Fail {
    /// A failure with exit code 1.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self(Failure { code: code.to_owned(), message: message.into(), hint: None, exit: 1 })
    }

    /// Names the next command to type.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Sets the exit code.
    #[must_use]
    pub fn exit(mut self, exit: u8) -> Self {
        self.0.exit = exit;
        self
    }

    fn of(code: &str, error: &dyn Error) -> Self {
        Self::new(code, chain(error))
    }
}

/// An error with its causes, `: ` between them.
pub fn chain(error: &dyn Error) -> String {
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

impl From<StoreError> for Fail {
    fn from(error: StoreError) -> Self {
        if error.is_disk_full() {
            return Self::of("disk-full", &error)
                .hint("free some space and try again; nothing that was kept is lost");
        }
        match &error {
            StoreError::Locked { .. } => {
                Self::of("home-in-use", &error).hint("baton daemon stop, or choose another --home")
            }
            StoreError::Newer { .. } => {
                Self::of("newer-format", &error).hint("install the version of Baton that wrote it")
            }
            StoreError::Poisoned { .. } => {
                Self::of("store-poisoned", &error).hint("baton daemon stop, then try again")
            }
            error if error.is_corruption() => Self::of("damaged", error).hint("baton check --data"),
            error => Self::of("store", error),
        }
    }
}

impl From<FsError> for Fail {
    fn from(error: FsError) -> Self {
        Self::from(StoreError::from(error))
    }
}

impl From<TakeError> for Fail {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Store(error) => error.into(),
            TakeError::Scan(baton_store::scan::ScanError::Store(error)) => error.into(),
            TakeError::Scan(error) => Self::of("scan", &error),
            TakeError::Attach { .. } | TakeError::SameName { .. } => Self::of("attachment", &error),
            error => Self::of("snapshot", &error),
        }
    }
}

impl From<RestoreError> for Fail {
    fn from(error: RestoreError) -> Self {
        match &error {
            RestoreError::NotEmpty { .. } => Self::of("target-not-empty", &error)
                .hint("choose a folder that does not exist yet, or an empty one"),
            error => Self::of("restore", error),
        }
    }
}

impl From<TransportError> for Fail {
    fn from(error: TransportError) -> Self {
        let code = match &error {
            TransportError::Identity { .. } => "wrong-identity",
            TransportError::Closed { code: crate::transport::CloseCode::UnknownDevice } => {
                "unknown-device"
            }
            error if error.is_retryable() => "remote-unreachable",
            _ => "transport",
        };
        let fail = Self::of(code, &error);
        match code {
            "wrong-identity" => fail.hint(
                "if the node was set up anew, baton remote remove it and join with a new ticket",
            ),
            "unknown-device" => {
                fail.hint("ask for a new ticket (baton ticket, on the node) and baton join it")
            }
            "remote-unreachable" => {
                fail.hint("see whether `baton serve` runs there, then try again")
            }
            _ => fail,
        }
    }
}

impl From<Refusal> for Fail {
    fn from(refusal: Refusal) -> Self {
        let code = match refusal.code {
            RefusalCode::Version => "node-version",
            RefusalCode::UnknownDevice => "unknown-device",
            RefusalCode::Ticket => "ticket-refused",
            RefusalCode::Role => "not-allowed",
            RefusalCode::NotFound => "not-found",
            RefusalCode::Malformed => "refused",
            RefusalCode::Limit => "limit",
            RefusalCode::DiskFull => "remote-disk-full",
            RefusalCode::Conflict => "conflict",
            RefusalCode::Internal => "remote-failed",
            RefusalCode::Unavailable => "remote-unreachable",
        };
        let fail = Self::new(code, refusal.message);
        match refusal.code {
            RefusalCode::Ticket => fail.hint("ask for a new one: baton ticket, on the node"),
            RefusalCode::UnknownDevice => {
                fail.hint("ask for a new ticket (baton ticket, on the node) and baton join it")
            }
            RefusalCode::Conflict => fail.exit(4),
            _ => fail,
        }
    }
}

impl From<SyncError> for Fail {
    fn from(error: SyncError) -> Self {
        match error {
            SyncError::Transport(error) => error.into(),
            SyncError::Store(error) => error.into(),
            SyncError::Refused(refusal) => refusal.into(),
            error => Self::of("sync", &error),
        }
    }
}

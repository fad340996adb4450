//! What a command that failed says: a stable code, what we were doing and why it failed, and the next
//! command to type.

use std::error::Error;

use baton_protocol::message::{Refusal, RefusalCode};
use baton_store::catalog::held::HeldFinding;
use baton_store::checkout::RestoreError;
use baton_store::error::StoreError;
use baton_store::fs::FsError;
use baton_store::git::GitError;
use baton_store::scan::ScanError;
use baton_store::snapshot::{BlobError, SnapshotError};
use baton_store::vault::CommitError;

use crate::agents::session::AgentError;
use crate::api::control::Failure;
use crate::sync::SyncError;
use crate::transport::TransportError;
use crate::workspace::TakeError;

const JOIN_AGAIN: &str = "ask for a new ticket (baton ticket, on the node) and baton join it";
const REACH: &str = "see whether `baton serve` runs there, then try again";

/// What to type where nothing better is known.
const ANY_HINT: &str = "baton doctor; the log of the daemon may say more: daemon.log in the home";

/// A command failed.
#[derive(Debug)]
pub struct Fail(pub Failure);

impl Fail {
    /// A failure with exit code 1.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        let hint = Some(ANY_HINT.to_owned());
        Self(Failure { code: code.to_owned(), message: message.into(), hint, exit: 1 })
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

    /// What was asked for was called off, by whoever asked or beside them.
    pub fn cancelled() -> Self {
        Self::new("cancelled", "it was cancelled before it was sent").hint("baton queue")
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
        if let StoreError::NoRoomToUpgrade { .. } = error {
            return Self::of("disk-full", &error).hint(
                "free that much there and try again; nothing was changed, and the version of Baton before still reads it",
            );
        }
        if error.is_disk_full() {
            let hint = if error.is_out_of_inodes() {
                "the disk has room, and no inodes left (df -i): remove files there and try again; nothing that was kept is lost"
            } else {
                "free some space and try again, or baton forget and baton gc, which still work; nothing that was kept is lost"
            };
            return Self::of("disk-full", &error).hint(hint);
        }
        match &error {
            StoreError::Locked { .. } => {
                Self::of("home-in-use", &error).hint("baton daemon stop, or choose another --home")
            }
            StoreError::Newer { .. } => {
                Self::of("newer-format", &error).hint("install the version of Baton that wrote it")
            }
            StoreError::Unread { .. } => Self::of("newer-format", &error)
                .hint("install the version of Baton that wrote it; nothing was changed"),
            StoreError::ReadOnly { .. } => Self::of("newer-format", &error).hint(
                "install the version of Baton that wrote it; until then baton log, diff, restore and pull --into work with what is here already",
            ),
            StoreError::Poisoned { .. } => {
                Self::of("store-poisoned", &error).hint("baton daemon stop, then try again")
            }
            error if error.is_corruption() => Self::of("damaged", error).hint(
                "baton check --data says what is damaged; what can be mended is at the next start: \
                 baton daemon stop, then try again",
            ),
            error => Self::of("store", error),
        }
    }
}

impl From<FsError> for Fail {
    fn from(error: FsError) -> Self {
        Self::from(StoreError::from(error))
    }
}

impl From<GitError> for Fail {
    fn from(error: GitError) -> Self {
        match error {
            GitError::Fs(error) => error.into(),
            GitError::Store(error) | GitError::Blob(BlobError::Store(error)) => error.into(),
            error => Self::of("git", &error),
        }
    }
}

impl From<CommitError> for Fail {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Store(error) => error.into(),
            error => Self::of("snapshot", &error),
        }
    }
}

impl From<TakeError> for Fail {
    fn from(error: TakeError) -> Self {
        match error {
            TakeError::Store(error)
            | TakeError::Scan(ScanError::Store(error))
            | TakeError::Snapshot(SnapshotError::Store(error))
            | TakeError::Commit(CommitError::Store(error)) => error.into(),
            TakeError::Scan(error @ ScanError::Root { .. }) => {
                Self::of("scan", &error).hint("name a folder that exists and may be read")
            }
            TakeError::Scan(error) => Self::of("scan", &error),
            TakeError::History(error) => error.into(),
            TakeError::Conversation(error) => error.into(),
            TakeError::Secrets { ref found, .. } => {
                let mut failed = Self::of("conversation-held", &error).hint(
                    "baton allow FINDING lets one through that is none, or may travel; \
                     --conversation none hands over everything else",
                );
                for it in found {
                    let id = HeldFinding::said(&it.file, &it.finding(), 0).id();
                    let line = format!("\n  {id}  {} in line {} of {}", it.rule, it.line, it.file);
                    failed.0.message.push_str(&line);
                }
                failed
            }
            TakeError::Attach { .. } | TakeError::SameName { .. } => {
                Self::of("attachment", &error).hint("attach readable files of different names")
            }
            error => Self::of("snapshot", &error),
        }
    }
}

impl From<AgentError> for Fail {
    fn from(error: AgentError) -> Self {
        let hint = error.hint();
        match error {
            AgentError::Store(error) => error.into(),
            error @ (AgentError::Several { .. } | AgentError::NoId { .. }) => {
                let failed = Self::of("which-conversation", &error).exit(2);
                hint.into_iter().fold(failed, Self::hint)
            }
            error => {
                let failed = Self::of("conversation", &error);
                hint.into_iter().fold(failed, Self::hint)
            }
        }
    }
}

impl From<RestoreError> for Fail {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::NotEmpty { .. } => Self::of("target-not-empty", &error)
                .hint("choose a folder that does not exist yet, or an empty one"),
            RestoreError::NotDirectory { .. } => Self::of("target-not-directory", &error)
                .hint("choose a folder that does not exist yet, or an empty one"),
            RestoreError::Store(error) => error.into(),
            RestoreError::Link(error) => error.into(),
            RestoreError::Fs(error) if error.is_disk_full() => Self::of("disk-full", &error)
                .hint("free some space there, or choose another folder; nothing was left in it"),
            RestoreError::Fs(_) => Self::of("restore", &error)
                .hint("choose a folder that may be written to; nothing was left in this one"),
            error => Self::of("restore", &error),
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
            "unknown-device" => fail.hint(JOIN_AGAIN),
            "remote-unreachable" => fail.hint(REACH),
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
            RefusalCode::Busy => "busy",
        };
        let hint = match refusal.code {
            RefusalCode::Version => "install the same version of Baton here and on the node",
            RefusalCode::UnknownDevice => JOIN_AGAIN,
            RefusalCode::Ticket => "ask for a new one: baton ticket, on the node",
            RefusalCode::Role => "baton ticket --role run, on the node, and baton join it here",
            RefusalCode::NotFound => "baton log, baton runs",
            RefusalCode::Limit => {
                "try again later, or make room: baton forget, then baton gc on the node; the limits are in its config.toml"
            }
            RefusalCode::DiskFull => {
                "free some space on the node and try again; nothing that it has is lost"
            }
            RefusalCode::Conflict => "baton runs, baton log",
            RefusalCode::Unavailable => REACH,
            RefusalCode::Busy => "try again soon; baton runs says how it stands",
            RefusalCode::Malformed | RefusalCode::Internal => {
                "see the log of the node; baton check, there, says whether its store is whole"
            }
        };
        let fail = Self::new(code, refusal.message).hint(hint);
        match refusal.code {
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
            SyncError::Keep(error) => error.into(),
            SyncError::Cancelled => Self::cancelled(),
            error => Self::of("sync", &error),
        }
    }
}

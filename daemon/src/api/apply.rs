//! What is asked and answered about merging into a checkout, and about putting that back.

#![expect(missing_docs, reason = "the fields are those of the command-line contract")]

use serde::{Deserialize, Serialize};

use super::receipt::{Bytes, GitOmittedEntry, OmittedEntry, Receipt, ReportPath};

/// `pull RUN --apply [PATH]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyCall {
    pub run: String,
    /// The root of the checkout; that of the run's workspace unless said.
    pub path: Option<Bytes>,
    /// Only these; everything where there are none.
    pub only: Vec<OnlyPath>,
    /// Mark conflicts in texts instead of leaving them as they are here.
    pub markers: bool,
    /// Say what would be done, and change nothing.
    pub dry_run: bool,
}

/// A path as it was typed, and as it is from the folder in which it was.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OnlyPath {
    pub typed: Bytes,
    pub absolute: Bytes,
}

/// `pull --apply`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApplyAnswer {
    pub root: String,
    pub run: String,
    /// What was applied.
    pub snapshot: String,
    /// What the run was given.
    pub base: String,
    /// The checkout as it was before: the safety copy, which is kept unless it was a dry run.
    pub safety: String,
    /// `applied`, `unchanged`, `dry-run`, or `interrupted`: nobody knows how far it came.
    pub state: String,
    /// What became what it is there, also by going away.
    pub applied: Vec<ReportPath>,
    pub merged: Vec<ReportPath>,
    /// What was left as it is here, or marked.
    pub conflicts: Vec<ConflictEntry>,
    /// What was changed there and stays as it is here.
    pub skipped: Vec<OmittedEntry>,
    /// All of these in one list.
    pub actions: Vec<ActionEntry>,
    /// Shows the versions of what is in conflict.
    pub show_command: Vec<String>,
    pub resume_command: Vec<String>,
    /// The id by which it is put back; null where nothing was changed.
    pub undo: Option<String>,
    /// Where what came out of the checkout is, for a week.
    pub displaced: Option<String>,
    /// The repository; null where that was not to change.
    #[serde(default)]
    pub git: Option<RepositoryAnswer>,
    pub receipt: Receipt,
    /// Whether something was not done that should have been: it is a conflict, or the system was in its way.
    pub is_left: bool,
    /// Why a checkout that was changed is not all that it should be. The command line prints it as `error`, beside
    /// the rest, and ends with 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortfall: Option<Shortfall>,
}

/// Why not all was done, and the next command to type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shortfall {
    /// `not-all-applied` or `apply-interrupted`.
    pub code: String,
    pub message: String,
    pub hint: String,
}

/// A path that both sides changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConflictEntry {
    #[serde(flatten)]
    pub path: ReportPath,
    /// `content`, `marked`, `binary`, `both-added`, `kind`, `mode`, `not-sealed`; `changed`, `written` where
    /// somebody was at work there meanwhile; `staged` where it is what git's index has that both changed, and not
    /// the file: then `content` is the name of git's object.
    pub reason: String,
    pub base: Option<VersionEntry>,
    pub ours: Option<VersionEntry>,
    pub theirs: Option<VersionEntry>,
}

/// One version of a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionEntry {
    /// `file`, `link` or `directory`.
    pub kind: String,
    /// Permission bits, octal; null for a link.
    pub mode: Option<String>,
    /// The hash of the content; null for a directory.
    pub content: Option<String>,
    pub bytes: Option<u64>,
}

/// What is done with a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionEntry {
    #[serde(flatten)]
    pub path: ReportPath,
    /// `taken`, `removed`, `restored`, `merged`, `kept` or `conflict`.
    pub action: String,
    /// Why it was kept, or is a conflict.
    pub reason: Option<String>,
    /// Where the file was, where one side moved it and the other one edited it.
    pub moved_from: Option<ReportPath>,
}

/// What became of the repository of a checkout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryAnswer {
    /// Paths of which git's index changes, or should have.
    pub index: Vec<IndexEntry>,
    pub refs: Vec<RefEntry>,
    /// What of the run's repository does not come, and why.
    pub omitted: Vec<GitOmittedEntry>,
}

/// What is done with the entries of a path in git's index.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexEntry {
    #[serde(flatten)]
    pub path: ReportPath,
    /// `taken`, `removed`, `restored`, `merged`, `kept` or `conflict`.
    pub action: String,
    pub reason: Option<String>,
}

/// What is done with a ref of the run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefEntry {
    /// Its name there; `HEAD` where that is on no branch.
    pub name: String,
    /// `moved` where the branch here moves, `made` where it gets a name of its own here, `kept`.
    pub action: String,
    /// Why it is not what it is called there, or stays.
    pub reason: Option<String>,
    /// The ref here that was moved or made.
    pub here: Option<String>,
    /// What that was before; null where it is new.
    pub from: Option<String>,
    /// What the ref is there; null where it is gone.
    pub to: Option<String>,
}

/// `undo`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UndoAnswer {
    pub undo: String,
    pub root: String,
    pub restored: Vec<ReportPath>,
    /// What was edited since, and why it was left.
    pub kept: Vec<OmittedEntry>,
    /// Where what came out of the checkout is, for a week.
    pub displaced: Option<String>,
    /// `restored` or `kept`; null where git's index had not been changed.
    #[serde(default)]
    pub index: Option<String>,
    /// Refs of git that are as they were before, also by going away.
    #[serde(default)]
    pub refs: Vec<String>,
    /// Refs that moved since, or that a worktree has by now.
    #[serde(default)]
    pub refs_kept: Vec<KeptRef>,
}

/// A ref that an undo leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptRef {
    pub name: String,
    pub reason: String,
}

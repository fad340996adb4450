//! What is said of an apply: what became of each path, and why something was not done.
//!
//! **Invariant:** what says that nothing was changed is said only where that is so.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use baton_protocol::id::{ApplyId, SnapshotId};
use baton_protocol::message::RunInfo;
use baton_protocol::path::RelPath;
use baton_store::apply::{
    Action, Applied, ApplyError, Done, Form, Outcome, Plan, RepositoryDone, touches,
};
use baton_store::error::StoreError;
use baton_store::git::GitError;

use super::brought::PlannedRepository;
use super::failure::{Fail, chain};
use super::report;
use crate::api::apply::{ActionEntry, ApplyAnswer, ConflictEntry, Shortfall, VersionEntry};
use crate::api::control::{Failure, OmittedEntry, Receipt, ReportPath};

/// The word for a path at which something else was than was expected.
const CHANGED: &str = "changed";

/// What is known before anything is written.
pub(super) fn answer_of(
    (info, there): (&RunInfo, SnapshotId),
    root: &Path,
    safety: SnapshotId,
    receipt: Receipt,
) -> ApplyAnswer {
    let (there, safety) = (there.to_string(), safety.to_string());
    let show = ["baton", "diff", &safety, &there, "--patch"].map(str::to_owned).to_vec();
    ApplyAnswer {
        root: root.to_string_lossy().into_owned(),
        run: info.spec.run.to_string(),
        snapshot: there,
        base: info.spec.snapshot.to_string(),
        safety,
        state: "unchanged".to_owned(),
        applied: Vec::new(),
        merged: Vec::new(),
        conflicts: Vec::new(),
        skipped: Vec::new(),
        actions: Vec::new(),
        show_command: show,
        resume_command: Vec::new(),
        undo: None,
        displaced: None,
        git: None,
        receipt,
        is_left: false,
        shortfall: None,
    }
}

/// Tells what was planned, and where something else became of it.
pub(super) fn tell(
    answer: &mut ApplyAnswer,
    (plan, repository): (&Plan, &PlannedRepository),
    applied: &Applied,
) {
    let failed: HashMap<&RelPath, Done> = plan
        .steps
        .iter()
        .zip(&applied.done)
        .filter(|(_, done)| !done.is_so())
        .map(|(step, done)| (&step.path, *done))
        .collect();
    for action in &plan.actions {
        let path = ReportPath::new(action.path.as_bytes());
        let is_late = applied.late.contains(&action.path);
        let (word, reason) = match (failed.get(&action.path), &action.outcome) {
            (Some(Done::Changed), _) => ("conflict", Some(CHANGED)),
            (Some(&done), _) => ("kept", Some(reason_of(done))),
            (None, _) if is_late => ("conflict", Some("written")),
            (None, Outcome::Kept(kept)) => ("kept", Some(kept.name())),
            (None, Outcome::Conflict(clash)) => ("conflict", Some(clash.name())),
            (None, outcome) => (outcome.name(), None),
        };
        let reason = reason.map(str::to_owned);
        match word {
            "conflict" => answer.conflicts.push(conflict(action, reason.clone())),
            "kept" => answer.skipped.push(OmittedEntry {
                path: path.clone(),
                reason: reason.clone().unwrap_or_default(),
            }),
            "merged" => answer.merged.push(path.clone()),
            _ => answer.applied.push(path.clone()),
        }
        let moved_from = action.moved_from.as_ref().map(|path| ReportPath::new(path.as_bytes()));
        answer.actions.push(ActionEntry { path, action: word.to_owned(), reason, moved_from });
    }
    let is_dry = applied.id.is_none() && applied.done.is_empty() && applied.repository.is_none();
    let nothing = RepositoryDone::default();
    let done = (!is_dry).then_some(applied.repository.as_ref().unwrap_or(&nothing));
    let left: Vec<&RelPath> = failed.keys().copied().collect();
    let told = repository.tell(done, |path| touches(path, &left));
    let mut failed = failed.len();
    if let Some(told) = told {
        failed += told.failed;
        let known: HashSet<_> =
            answer.conflicts.iter().map(|conflict| conflict.path.path.clone()).collect();
        let new = told.conflicts.into_iter().filter(|it| !known.contains(&it.path.path));
        answer.conflicts.extend(new);
        answer.git = Some(told.answer);
    }
    report::add_omitted(&mut answer.receipt, &repository.omitted);
    answer.undo = applied.id.map(|id| id.to_string());
    answer.displaced = applied.shelf.as_ref().map(|path| path.to_string_lossy().into_owned());
    answer.is_left = !answer.conflicts.is_empty() || failed > 0;
    // Where nothing came about, nothing was changed.
    let of_repository = applied.repository.as_ref().is_some_and(RepositoryDone::is_changed);
    let is_changed = applied.done.contains(&Done::Made) || of_repository;
    if is_changed {
        "applied".clone_into(&mut answer.state);
    }
    if let Some(id) = applied.id.filter(|_| is_changed) {
        answer.shortfall = shortfall(answer, failed, id);
    }
}

/// Why not all is applied, where that is so.
fn shortfall(answer: &ApplyAnswer, failed: usize, id: ApplyId) -> Option<Shortfall> {
    let conflicts = answer.conflicts.len();
    let plural = |count: usize, one: &str, more: &str| {
        format!("{count} {}", if count == 1 { one } else { more })
    };
    let others =
        failed - answer.conflicts.iter().filter(|one| one.reason == CHANGED).count().min(failed);
    let what = match (conflicts, others) {
        (0, 0) => return None,
        (_, 0) => plural(conflicts, "conflict", "conflicts"),
        (0, _) => plural(others, "path", "paths"),
        _ => {
            let others = plural(others, "other path", "other paths");
            format!("{} and {others}", plural(conflicts, "conflict", "conflicts"))
        }
    };
    let message = format!(
        "not everything was applied to {}: {what} left as they are here, or marked",
        answer.root
    );
    let show = answer.show_command.join(" ");
    let hint = format!("{show} shows the versions; baton undo {} puts the rest back", id.short());
    Some(Shortfall { code: "not-all-applied".to_owned(), message, hint })
}

/// Tells that it stopped on its way.
pub(super) fn interrupted(answer: &mut ApplyAnswer, error: ApplyError) {
    let Failure { code, message, hint, .. } = Fail::from(error).0;
    "interrupted".clone_into(&mut answer.state);
    answer.shortfall = Some(Shortfall { code, message, hint: hint.unwrap_or_default() });
}

fn conflict(action: &Action, reason: Option<String>) -> ConflictEntry {
    ConflictEntry {
        path: ReportPath::new(action.path.as_bytes()),
        reason: reason.unwrap_or_default(),
        base: action.base.map(version),
        ours: action.ours.map(version),
        theirs: action.theirs.map(version),
    }
}

fn version(form: Form) -> VersionEntry {
    let (kind, mode) = match form {
        Form::File { mode, .. } => ("file", Some(mode)),
        Form::Link { .. } => ("link", None),
        Form::Directory { mode } => ("directory", Some(mode)),
    };
    VersionEntry {
        kind: kind.to_owned(),
        mode: mode.map(|mode| format!("{mode:04o}")),
        content: form.content().map(|id| data_encoding::HEXLOWER.encode(&id.hash)),
        bytes: form.blob().map(|blob| blob.size),
    }
}

/// The word for what became of a step that was not done.
pub(super) const fn reason_of(done: Done) -> &'static str {
    match done {
        Done::Made | Done::Found => "written",
        Done::Waiting => "interrupted",
        Done::Changed => CHANGED,
        Done::NotEmpty => "not-empty",
        Done::Blocked => "blocked",
        Done::Refused => "not-permitted",
        Done::NotCarried => "not-carried",
    }
}

/// A failure, with the run that it is about in what to type next.
pub(super) fn fail_of(error: ApplyError, run: &str) -> Fail {
    let hint = match &error {
        ApplyError::Store(StoreError::TooMany { .. }) => Some(format!(
            "nothing was changed; baton pull {run} --into DIR writes it into a folder"
        )),
        ApplyError::GitName { .. } | ApplyError::Path(_) => {
            Some(format!("nothing was changed; baton logs {run} says what the run did"))
        }
        ApplyError::Git(GitError::AtWork { .. }) => None,
        ApplyError::Git(_) => Some(format!(
            "nothing was changed; baton pull {run} makes a worktree of it, or baton pull {run} --into DIR a folder"
        )),
        _ => None,
    };
    let fail = Fail::from(error);
    match hint {
        Some(hint) => fail.hint(hint),
        None => fail,
    }
}

impl From<ApplyError> for Fail {
    fn from(error: ApplyError) -> Self {
        if error.is_disk_full() && !matches!(error, ApplyError::Interrupted { .. }) {
            return Self::new("disk-full", chain(&error))
                .hint("free some space there and try again; nothing was changed");
        }
        let message = chain(&error);
        match error {
            ApplyError::Store(StoreError::TooMany { .. }) => {
                Self::new("too-many-changes", message).hint("nothing was changed; baton runs")
            }
            ApplyError::Store(error) => error.into(),
            ApplyError::Stage(error) => error.into(),
            ApplyError::Fs(_) => Self::new("apply", message)
                .hint("nothing was changed; see whether the checkout may be written to"),
            ApplyError::GitBusy { .. } | ApplyError::Git(GitError::AtWork { .. }) => {
                Self::new("git-busy", message)
                    .hint("finish it, or abort it, and try again; nothing was changed")
            }
            ApplyError::GitMoved { .. } => {
                Self::new("git-busy", message).hint("try again; nothing was changed")
            }
            ApplyError::Git(error) => Self::from(error),
            ApplyError::Locked => {
                Self::new("apply-under-way", message).hint("wait for it and try again").exit(4)
            }
            ApplyError::OtherCheckout { .. } => Self::new("no-checkout", message)
                .hint("mount its disk, or move it back to where it was, and try again"),
            ApplyError::NoShelf(path) => Self::new("no-shelf", message).hint(format!(
                "put it back; mkdir {} goes on without what was in it",
                path.display()
            )),
            ApplyError::Undone(_) => Self::new("undone", message).hint("baton log"),
            ApplyError::Unknown(_) => Self::new("not-found", message).hint("baton undo"),
            ApplyError::Unfinished(id) => Self::new("apply-unfinished", message).hint(format!(
                "baton undo {}, or see what keeps it: baton daemon status",
                id.short()
            )),
            ApplyError::Interrupted { id, .. } => Self::new("apply-interrupted", message).hint(
                format!("the next command goes on with it; baton undo {} puts it back", id.short()),
            ),
            ApplyError::GitName { .. } | ApplyError::Path(_) => {
                Self::new("hostile-tree", message).hint("nothing was changed; baton runs")
            }
            ApplyError::Cancelled => Self::cancelled(),
        }
    }
}

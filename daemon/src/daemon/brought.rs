//! What is said of the repository of a checkout into which a run's was brought.
//!
//! **Invariant:** what is told as done was done.

use baton_protocol::object::{GitEntry, GitOmission, GitOmitReason};
use baton_store::apply::{Done, RepositoryDone};
use baton_store::git::{Brought, EntryAction, EntryOutcome, RefAction, RefOutcome};

use super::report::git_entry;
use crate::api::apply::{ConflictEntry, IndexEntry, RefEntry, RepositoryAnswer, VersionEntry};
use crate::api::control::ReportPath;

/// What was planned for a repository.
#[derive(Clone, Debug, Default)]
pub(super) struct PlannedRepository {
    entries: Vec<EntryAction>,
    refs: Vec<RefAction>,
    /// Whether the branch that is checked out stays.
    is_left: bool,
    pub(super) omitted: Vec<GitOmission>,
}

/// What became of it.
pub(super) struct ToldRepository {
    pub(super) answer: RepositoryAnswer,
    /// What of the index is a conflict.
    pub(super) conflicts: Vec<ConflictEntry>,
    /// How much was not done that should have been.
    pub(super) failed: usize,
}

impl PlannedRepository {
    /// One that comes, but for what does not.
    pub(super) fn new(brought: Option<&Brought>, not_come: Vec<GitOmission>) -> Self {
        let mut this = Self { omitted: not_come, ..Self::default() };
        if let Some(brought) = brought {
            this.entries.clone_from(&brought.entries);
            this.refs.clone_from(&brought.refs);
            this.is_left = brought.is_left();
            this.omitted.extend(brought.omitted.iter().cloned());
        }
        this
    }

    /// One that cannot come.
    pub(super) fn without_git() -> Vec<GitOmission> {
        let what = "the repository of the run: git was not found here".to_owned();
        vec![GitOmission { what, reason: GitOmitReason::NotCarried }]
    }

    /// Tells what was planned, and where something else became of it. Nothing done is a dry run.
    pub(super) fn tell(
        &self,
        done: Option<&RepositoryDone>,
        is_file_left: impl Fn(&[u8]) -> bool,
    ) -> Option<ToldRepository> {
        if self.entries.is_empty() && self.refs.is_empty() && self.omitted.is_empty() {
            return None;
        }
        let mut told = ToldRepository {
            answer: RepositoryAnswer::default(),
            conflicts: Vec::new(),
            failed: 0,
        };
        let index = done.map(|done| done.index.unwrap_or(Done::Found));
        let mut is_failed = false;
        for action in &self.entries {
            let (mut word, mut reason) = (action.outcome.name(), action.outcome.reason());
            let is_conflict = matches!(action.outcome, EntryOutcome::Conflict(_));
            let is_change = word != "kept" && (!is_conflict || reason == Some("marked"));
            match index.filter(|_| is_change) {
                Some(_) if is_file_left(&action.path) => {
                    (word, reason) = ("kept", Some("file-left"));
                }
                Some(done) if !done.is_so() => {
                    (word, reason) = ("kept", Some(reason_of(done)));
                    is_failed = true;
                }
                _ => {}
            }
            if word == "conflict" {
                told.conflicts.push(conflict(action));
            }
            told.answer.index.push(IndexEntry {
                path: ReportPath::new(&action.path),
                action: word.to_owned(),
                reason: reason.map(str::to_owned),
            });
        }
        told.failed += usize::from(is_failed);
        for action in &self.refs {
            let (entry, is_failed) = ref_entry(action, done, self.is_left);
            told.failed += usize::from(is_failed);
            told.answer.refs.push(entry);
        }
        told.answer.omitted = self.omitted.iter().cloned().map(git_entry).collect();
        Some(told)
    }
}

/// What became of a ref, and whether that is not what should have.
fn ref_entry(action: &RefAction, done: Option<&RepositoryDone>, is_left: bool) -> (RefEntry, bool) {
    let text = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
    let mut entry = RefEntry {
        name: text(&action.name),
        action: "kept".to_owned(),
        reason: None,
        here: None,
        from: None,
        to: action.target.map(|oid| oid.to_string()),
    };
    // In a dry run all is as it is planned.
    let of = |step: usize| {
        done.map_or(Done::Made, |done| done.refs.get(step).copied().unwrap_or(Done::Waiting))
    };
    let moved = |step, is_checked_out: bool| {
        if done.is_none() && is_left && is_checked_out { Done::Blocked } else { of(step) }
    };
    match &action.outcome {
        RefOutcome::Kept(why) => entry.reason = Some((*why).to_owned()),
        RefOutcome::Moved { from, step, is_checked_out, instead } => {
            match (moved(*step, *is_checked_out), instead) {
                (Done::Made, _) => {
                    "moved".clone_into(&mut entry.action);
                    (entry.here, entry.from) = (Some(text(&action.name)), Some(from.to_string()));
                }
                (Done::Blocked, Some((name, step))) if of(*step) == Done::Made => {
                    "made".clone_into(&mut entry.action);
                    (entry.here, entry.reason) = (Some(text(name)), Some("left".to_owned()));
                }
                // The other name was there already.
                (Done::Blocked, None) => entry.reason = Some("left".to_owned()),
                (done, _) => {
                    entry.reason = Some(reason_of(done).to_owned());
                    return (entry, true);
                }
            }
        }
        RefOutcome::Made { name, step: None, .. } => {
            (entry.here, entry.reason) = (Some(text(name)), Some("there-already".to_owned()));
        }
        RefOutcome::Made { name, step, why } => match step.map_or(Done::Made, of) {
            Done::Made => {
                "made".clone_into(&mut entry.action);
                (entry.here, entry.reason) = (Some(text(name)), Some((*why).to_owned()));
            }
            done => {
                entry.reason = Some(reason_of(done).to_owned());
                return (entry, true);
            }
        },
    }
    (entry, false)
}

/// The word for what became of a step of a repository that was not done.
pub(super) const fn reason_of(done: Done) -> &'static str {
    match done {
        Done::Waiting => "interrupted",
        Done::Refused => "in-use",
        Done::Blocked => "blocked",
        _ => "changed",
    }
}

fn conflict(action: &EntryAction) -> ConflictEntry {
    let [base, ours, theirs] = &action.versions;
    ConflictEntry {
        path: ReportPath::new(&action.path),
        reason: "staged".to_owned(),
        base: version(base),
        ours: version(ours),
        theirs: version(theirs),
    }
}

fn version(entries: &[GitEntry]) -> Option<VersionEntry> {
    use baton_protocol::object::GitMode;
    // Of several, which are a conflict of their own, ours.
    let entry = entries.iter().find(|entry| entry.stage == 2).or_else(|| entries.first())?;
    let kind = match entry.mode {
        GitMode::File | GitMode::Executable => "file",
        GitMode::Symlink => "link",
        GitMode::Submodule | GitMode::Directory => "directory",
    };
    let mode = (kind == "file").then(|| format!("{:04o}", entry.mode.bits() & 0o7777));
    let content = Some(entry.oid.to_string());
    Some(VersionEntry { kind: kind.to_owned(), mode, content, bytes: None })
}

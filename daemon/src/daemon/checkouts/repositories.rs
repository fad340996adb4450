//! The repository of a run's checkout: made of what it was given, and captured when it has ended.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{Omission, Snapshot};
use baton_protocol::path::RelPath;
use baton_store::checkout::RepositoryOptions;
use baton_store::git::{self, CaptureOptions, Commands, GitError};
use baton_store::ignore::GitUser;
use baton_store::scan::Scanned;
use baton_store::vault::Intake;

use super::NodeCheckouts;
use super::layered::{is_gone, is_shared};
use crate::runs::checkout::Place;
use crate::workspace::repository::{inner_worktrees, not_carried};

/// Captures at once. Each has the index of its repository in memory, so runs that end together take turns; one that hangs
/// until its time is up must not hold up all others.
const CAPTURES: usize = 2;

/// Turns of captures of repositories.
#[derive(Debug, Default)]
pub struct Captures {
    busy: Mutex<usize>,
    freed: Condvar,
}

impl Captures {
    /// Waits for a turn, which lasts until it is dropped.
    fn turn(&self) -> Turn<'_> {
        let busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        let busy = self.freed.wait_while(busy, |busy| *busy >= CAPTURES);
        *busy.unwrap_or_else(PoisonError::into_inner) += 1;
        Turn { of: self }
    }
}

struct Turn<'a> {
    of: &'a Captures,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut busy = self.of.busy.lock().unwrap_or_else(PoisonError::into_inner);
        *busy = busy.saturating_sub(1);
        self.of.freed.notify_one();
    }
}

/// The state of the repository that a run was given, and what neither that nor its tree has.
pub(super) fn as_before(
    before: &Snapshot,
    scanned: &Scanned,
    intake: &Intake,
) -> (Option<GitStateId>, Vec<Omission>) {
    let worktrees = before.git.and_then(|id| git::worktrees(intake, id).ok());
    (before.git, not_carried(&scanned.omitted, &worktrees.unwrap_or_default()))
}

/// Whether a run has written nothing to its repository, which is the only one there: its layer would have that.
pub(super) fn has_left_git_alone(
    place: &Place,
    before: &Snapshot,
    scanned: &Scanned,
    intake: &Intake,
) -> bool {
    let Some(state) = before.git.filter(|_| is_shared(&place.layer)) else { return false };
    // Its own path is the empty one.
    let is_the_only_one = git::worktrees(intake, state).is_ok_and(|all| all.len() == 1)
        && inner_worktrees(&scanned.omitted).is_empty();
    is_the_only_one && is_gone(&place.layer.join("upper").join(".git"))
}

impl NodeCheckouts {
    pub(super) fn repository(&self) -> RepositoryOptions {
        RepositoryOptions {
            git: self.git.clone(),
            scratch: self.scratch.clone(),
            // They come from who asked for the run, and what they reach is what the run may.
            commands: Commands::All,
        }
    }

    /// The state of the repository that a run has left, and what neither that nor the tree has. A repository that cannot
    /// be captured is left out and named: the files are kept all the same.
    pub(super) fn capture(
        &self,
        checkout: &Path,
        scanned: &Scanned,
        base: Option<GitStateId>,
        intake: &Intake,
    ) -> (Option<GitStateId>, Vec<Omission>) {
        let without = || (None, scanned.omitted.clone());
        if checkout.join(".git").symlink_metadata().is_err() {
            return without();
        }
        let _turn = self.captures.turn();
        match self.capture_here(checkout, scanned, base, intake) {
            Ok(id) => {
                let worktrees = git::worktrees(intake, id).unwrap_or_default();
                (Some(id), not_carried(&scanned.omitted, &worktrees))
            }
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "the repository of a run is left out");
                without()
            }
        }
    }

    pub(super) fn capture_here(
        &self,
        checkout: &Path,
        scanned: &Scanned,
        base: Option<GitStateId>,
        intake: &Intake,
    ) -> Result<GitStateId, GitError> {
        let inner = inner_worktrees(&scanned.omitted);
        let inner = inner.iter().map(|path| RelPath::new(path.as_os_str().as_bytes()));
        let now_ms = self.clock.now_ms();
        let options = CaptureOptions {
            git: self.git.clone().ok_or(GitError::NoProgram)?,
            scratch: self.scratch.clone(),
            // Whoever was at work here may not read what this process may.
            within: Some(checkout.to_owned()),
            base,
            user: GitUser::default(),
            nested: inner.filter_map(Result::ok).collect(),
            now: SystemTime::UNIX_EPOCH + Duration::from_millis(now_ms),
            // It goes on from what was handed over.
            most_history: u64::MAX,
            room: u64::MAX,
        };
        Ok(git::capture(checkout, intake, &options)?.id)
    }
}

//! Making commits durable, those of several threads at once.
//!
//! SQLite writes a commit into its log and leaves the sync to us (`synchronous=NORMAL`, which syncs the log before a
//! checkpoint and the file after it). Whoever comes first syncs the log for all that was committed by then; whoever
//! commits meanwhile shares the next one.
//!
//! **Invariant:** after a sync that failed nothing is durable any more, for what reached the disk is unknown; it is so until
//! the catalog is opened again, which writes all of the log into the file and syncs both.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::fs::{self, Context, FsError};

/// Where SQLite has the log of the database at `path`.
pub(super) fn log_of(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

/// A commit, by its place in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Commit(u64);

/// What of the log is durable.
#[derive(Debug)]
pub(super) struct Durable {
    path: PathBuf,
    log: File,
    commits: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    synced: Commit,
    is_syncing: bool,
    has_failed: bool,
    syncs: u64,
}

impl Durable {
    /// Opens the log of the database at `path`, which must have been written to.
    pub(super) fn open(path: &Path) -> Result<Self, FsError> {
        let path = log_of(path);
        let log = fs::open(&path)?;
        // Where another process has the database open the log may have something in it.
        log.sync_data().context("syncing", &path)?;
        Ok(Self::of(path, log))
    }

    pub(super) fn of(path: PathBuf, log: File) -> Self {
        let state = State { synced: Commit(0), is_syncing: false, has_failed: false, syncs: 0 };
        let (commits, state) = (AtomicU64::new(0), Mutex::new(state));
        Self { path, log, commits, state, changed: Condvar::new() }
    }

    /// Notes a commit; to be called while nobody else can commit.
    pub(super) fn committed(&self) -> Commit {
        Commit(self.commits.fetch_add(1, Ordering::SeqCst) + 1)
    }

    /// The last commit.
    pub(super) fn latest(&self) -> Commit {
        Commit(self.commits.load(Ordering::SeqCst))
    }

    /// Whether no sync has failed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        if self.state().has_failed { Err(self.failed()) } else { Ok(()) }
    }

    /// Returns when a commit is durable, and with it all before it.
    pub(super) fn wait(&self, commit: Commit) -> Result<(), StoreError> {
        let mut state = self.state();
        loop {
            if state.has_failed {
                return Err(self.failed());
            }
            if state.synced >= commit {
                return Ok(());
            }
            if state.is_syncing {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state.is_syncing = true;
            let upto = self.latest();
            drop(state);
            let synced = self.log.sync_data().context("syncing", &self.path);
            state = self.state();
            state.is_syncing = false;
            state.syncs += 1;
            match &synced {
                Ok(()) => state.synced = state.synced.max(upto),
                Err(_) => state.has_failed = true,
            }
            self.changed.notify_all();
            synced?;
        }
    }

    fn failed(&self) -> StoreError {
        let source = std::io::Error::other("an earlier sync of it failed; start the daemon again");
        FsError { action: "syncing", path: self.path.clone(), source }.into()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    #[test]
    fn what_several_threads_commit_at_once_shares_its_syncs() {
        const THREADS: u64 = 8;
        const WRITES: u64 = 40;
        let (_folder, catalog) = testing::catalog();
        let durable = &catalog.0.durable;
        let before = durable.state().syncs;
        // One after the other each has its own.
        for _ in 0..3 {
            catalog.set_meta("a", b"1").unwrap();
            assert_eq!(durable.state().synced, durable.latest());
        }
        assert_eq!(durable.state().syncs - before, 3);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let catalog = &catalog;
                scope.spawn(move || {
                    for write in 0..WRITES {
                        let value = write.to_le_bytes();
                        catalog.set_meta(&format!("t{thread}"), &value).unwrap();
                        // Whatever another one does, its own is durable when it returns.
                        assert_eq!(catalog.meta(&format!("t{thread}")).unwrap().unwrap(), value);
                    }
                });
            }
        });
        let state = durable.state();
        assert_eq!(state.synced, durable.latest());
        assert!(state.syncs <= before + 3 + THREADS * WRITES, "{state:?}");
    }

    #[test]
    fn who_commits_while_others_wait_is_synced_with_them() {
        let file = tempfile::tempfile().unwrap();
        let durable = Durable::of("log".into(), file);
        let commits: Vec<_> = (0..5).map(|_| durable.committed()).collect();
        durable.wait(commits[0]).unwrap();
        let seen = |state: MutexGuard<'_, State>| (state.synced, state.syncs);
        assert_eq!(seen(durable.state()), (commits[4], 1));
        for commit in commits {
            durable.wait(commit).unwrap();
        }
        assert_eq!(durable.state().syncs, 1);
    }

    #[test]
    fn after_a_sync_that_failed_nothing_is_said_to_last() {
        // A pipe cannot be synced.
        let (pipe, _other) = std::io::pipe().unwrap();
        let durable = Durable::of("log".into(), File::from(std::os::fd::OwnedFd::from(pipe)));
        durable.check().unwrap();
        let first = durable.committed();
        assert!(durable.wait(first).is_err());
        assert!(durable.check().is_err());
        let second = durable.committed();
        let refused = durable.wait(second).unwrap_err().to_string();
        assert!(refused.contains("log"), "{refused}");
        assert_eq!(durable.state().syncs, 1, "it is not tried again");
    }
}

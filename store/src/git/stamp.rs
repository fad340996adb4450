//! Whether a repository held still while it was read.
//!
//! Git replaces each of its files in one step, but not all of them together: between the new index and the
//! new `HEAD` of a checkout there is a moment with one of each. So everything is looked at before and
//! after, and read again where something moved.
//!
//! A lock says that git is at work only if it is young: a git that was killed leaves its locks. What is read
//! beside an old one is what git had finished last.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::GitError;
use super::place::Repository;

/// Looks at a repository that moves, before it is taken as it is: 50 ms with the pauses between them.
pub(super) const LOOKS: usize = 10;

/// Between two looks.
pub(super) const PAUSE: Duration = Duration::from_millis(5);

/// Age of a lock from which on nobody seems to use it. A checkout of 100,000 files takes a minute.
const OLD_LOCK: Duration = Duration::from_mins(5);

/// Most files that are looked at.
const MAX_FILES: usize = 1_000_000;

/// Folders of a worktree's own, and of the shared part, in which everything is looked at.
pub(super) const FOLDERS: [&str; 6] =
    ["refs", "reftable", "rebase-merge", "rebase-apply", "sequencer", "info"];

/// What the files of a repository looked like.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    files: Vec<(PathBuf, Look)>,
    locks: Vec<(PathBuf, Option<SystemTime>)>,
}

/// What a file looked like.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Look {
    inode: u64,
    size: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Look {
    /// All of it, as numbers; what is not known as one that nothing has.
    pub(super) fn numbers(&self) -> [u64; 6] {
        let modified = self.modified.and_then(|it| it.duration_since(SystemTime::UNIX_EPOCH).ok());
        let (seconds, nanoseconds) =
            modified.map_or((u64::MAX, 0), |it| (it.as_secs(), it.subsec_nanos().into()));
        let changed = (self.changed.0.cast_unsigned(), self.changed.1.cast_unsigned());
        [self.inode, self.size, seconds, nanoseconds, changed.0, changed.1]
    }

    /// When it last changed in any way.
    pub(super) fn changed_at(&self) -> Option<SystemTime> {
        let since = Duration::new(
            u64::try_from(self.changed.0).ok()?,
            u32::try_from(self.changed.1).ok()?.min(999_999_999),
        );
        SystemTime::UNIX_EPOCH.checked_add(since)
    }
}

impl Stamp {
    /// What these files look like.
    pub(super) fn of_files(paths: &[PathBuf]) -> Self {
        let mut this = Self { files: Vec::new(), locks: Vec::new() };
        for path in paths {
            this.look_at(path.clone());
            // The user's own are often links.
            if let Ok(behind) = path.canonicalize()
                && behind != *path
            {
                this.look_at(behind);
            }
        }
        this
    }

    /// All files.
    pub(super) fn looks(&self) -> impl Iterator<Item = (&Path, &Look)> {
        self.files.iter().map(|(path, look)| (path.as_path(), look))
    }

    /// Looks at everything that may change when git is at work, but for objects.
    pub(super) fn take(repo: &Repository) -> Result<Self, GitError> {
        let mut this = Self { files: Vec::new(), locks: Vec::new() };
        let mut tops = vec![repo.git_dir.as_path()];
        if repo.common_dir != repo.git_dir {
            tops.push(&repo.common_dir);
        }
        for top in tops {
            this.look_in(top, false)?;
            for folder in FOLDERS {
                this.look_in(&top.join(folder), true)?;
            }
            this.look_at(top.join("logs/HEAD"));
            this.look_at(top.join("logs/refs/stash"));
        }
        this.files.sort_by(|a, b| a.0.cmp(&b.0));
        this.locks.sort();
        Ok(this)
    }

    /// Locks that are so young that git may be at work, and those that are older.
    pub(super) fn locks(&self, now: SystemTime) -> (Vec<&Path>, Vec<&Path>) {
        let mut parts = (Vec::new(), Vec::new());
        for (path, modified) in &self.locks {
            // A time ahead of the clock says nothing: such a lock may be young.
            let age = modified.and_then(|it| now.duration_since(it).ok()).unwrap_or_default();
            if age < OLD_LOCK { parts.0.push(path.as_path()) } else { parts.1.push(path.as_path()) }
        }
        parts
    }

    fn look_in(&mut self, folder: &Path, deep: bool) -> Result<(), GitError> {
        let mut left = vec![folder.to_owned()];
        while let Some(folder) = left.pop() {
            // One that is not there, or that went just now, is not looked into.
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                if self.files.len() >= MAX_FILES {
                    let what = folder.display().to_string();
                    return Err(GitError::refused(what, "it has too many files"));
                }
                let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
                if is_folder && deep {
                    left.push(entry.path());
                } else if !is_folder {
                    self.look_at(entry.path());
                }
            }
        }
        Ok(())
    }

    fn look_at(&mut self, path: PathBuf) {
        use std::os::unix::fs::MetadataExt;
        let Ok(metadata) = path.symlink_metadata() else { return };
        let modified = metadata.modified().ok();
        if path.extension().is_some_and(|extension| extension == "lock") {
            self.locks.push((path.clone(), modified));
        }
        let look = Look {
            inode: metadata.ino(),
            size: metadata.len(),
            modified,
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        };
        self.files.push((path, look));
    }
}

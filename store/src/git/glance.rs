//! Whether a repository, and those inside it, are as they were, without reading them.
//!
//! **Invariant:** what a [capture](super::capture()) reads of them has not changed between two glances that are equal and
//! [settled](Glance::is_settled), but for the files of the worktree.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::GitError;
use super::place::Repository;
use super::stamp::Stamp;
use crate::ignore::GitUser;

/// How long ago the last change must be for another one to have another time, where the file system tells parts of a
/// second: its ticks are of up to 10 ms.
const TICK: Duration = Duration::from_millis(50);

/// The same where it tells whole seconds.
const COARSE_TICK: Duration = Duration::from_millis(2500);

/// How far ahead of the clock a time is that nothing will have for long.
const FAR_AHEAD: Duration = Duration::from_mins(1);

/// What repositories looked like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Glance {
    digest: [u8; 32],
    newest: Option<SystemTime>,
}

impl Glance {
    /// Glances at the repository of a worktree, and at those whose worktrees are `inner`, relative to it.
    pub fn take(
        worktree: &Path,
        inner: &[impl AsRef<Path>],
        user: &GitUser,
    ) -> Result<Self, GitError> {
        let mut this = Glancing::default();
        this.stamp(&Stamp::take(&Repository::open(worktree, None)?)?);
        for path in inner {
            this.path(path.as_ref());
            let inner = Repository::open(&worktree.join(path), None);
            // What cannot be read now is not captured either.
            match inner.and_then(|repo| Stamp::take(&repo)) {
                Ok(stamp) => this.stamp(&stamp),
                Err(_) => this.path(Path::new("?")),
            }
        }
        this.stamp(&Stamp::of_files(&user.config_files));
        Ok(Self { digest: *this.hasher.finalize().as_bytes(), newest: this.newest })
    }

    /// What of two equal glances is equal.
    pub const fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Whether the last change is so long ago that one after it shows.
    pub fn is_settled(&self, now: SystemTime) -> bool {
        let Some(newest) = self.newest else { return true };
        let since_start = newest.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let tick = if since_start.subsec_nanos() == 0 { COARSE_TICK } else { TICK };
        match now.duration_since(newest) {
            Ok(age) => age > tick,
            // Made while a clock was wrong: what changes from here on has another time.
            Err(ahead) => ahead.duration() > FAR_AHEAD,
        }
    }
}

#[derive(Default)]
struct Glancing {
    hasher: blake3::Hasher,
    newest: Option<SystemTime>,
}

impl Glancing {
    fn path(&mut self, path: &Path) {
        use std::os::unix::ffi::OsStrExt;
        let bytes = path.as_os_str().as_bytes();
        self.hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    }

    fn stamp(&mut self, stamp: &Stamp) {
        for (path, look) in stamp.looks() {
            self.path(path);
            for number in look.numbers() {
                self.hasher.update(&number.to_le_bytes());
            }
            self.newest = self.newest.max(look.changed_at());
        }
        self.path(&PathBuf::new());
    }
}

//! Files of a worktree, looked at in the order of an index.
//!
//! **Invariant:** no link is followed on the way to a file: what lies behind one is not the file of an entry.

use std::os::fd::OwnedFd;
use std::path::Path;

use baton_protocol::object::{GitEntry, GitMode};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};

use super::hash_of;
use super::parse::{Index, Stat};
use crate::fs::Context;
use crate::git::GitError;

/// Most threads that look at files.
pub(crate) const MAX_THREADS: usize = 8;

/// What a file looks like now.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) stat: Stat,
    /// As an index would have it, without regard to its content.
    pub(crate) mode: GitMode,
    /// Of the last change of its content, in seconds and nanoseconds.
    pub(crate) modified: (i64, i64),
}

/// The files of a worktree. Directories on the way to the last one stay open.
#[derive(Debug)]
pub(crate) struct Files {
    root: OwnedFd,
    open: Vec<(Vec<u8>, Option<OwnedFd>)>,
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Files {
    pub(crate) fn below(worktree: &Path) -> Result<Self, GitError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(worktree, flags, Mode::empty()).context("opening", worktree)?;
        Ok(Self::in_folder(root))
    }

    pub(crate) const fn in_folder(root: OwnedFd) -> Self {
        Self { root, open: Vec::new() }
    }

    /// Looks at the file or link at a path; nothing where there is none.
    pub(crate) fn look(&mut self, path: &[u8]) -> Option<Seen> {
        let mut names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
        let name = names.pop()?;
        let same =
            self.open.iter().zip(&names).take_while(|((open, _), name)| open == *name).count();
        self.open.truncate(same);
        for name in names.get(same..).unwrap_or_default() {
            let above = self.deepest();
            let opened = above
                .and_then(|above| rustix::fs::openat(above, *name, DIRECTORY, Mode::empty()).ok());
            self.open.push((name.to_vec(), opened));
        }
        let stat = rustix::fs::statat(self.deepest()?, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let mode = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile if stat.st_mode & 0o100 != 0 => GitMode::Executable,
            FileType::RegularFile => GitMode::File,
            FileType::Symlink => GitMode::Symlink,
            _ => return None,
        };
        Some(Seen {
            mode,
            modified: (stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
            stat: Stat {
                ctime: (low(stat.st_ctime), stat.st_ctime_nsec as u32),
                mtime: (low(stat.st_mtime), stat.st_mtime_nsec as u32),
                dev: stat.st_dev as u32,
                inode: stat.st_ino as u32,
                uid: stat.st_uid,
                gid: stat.st_gid,
                size: low(stat.st_size),
            },
        })
    }

    /// Opens the file that was looked at last; nothing where it is no longer a file that can be read.
    pub(crate) fn open(&self, path: &[u8]) -> Option<OwnedFd> {
        const FILE: OFlags =
            OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
        rustix::fs::openat(self.deepest()?, last_name(path), FILE, Mode::empty()).ok()
    }

    /// Where the link that was looked at last points to.
    pub(crate) fn read_link(&self, path: &[u8]) -> Option<Vec<u8>> {
        let target = rustix::fs::readlinkat(self.deepest()?, last_name(path), Vec::new()).ok()?;
        Some(target.into_bytes())
    }

    /// Dates the file that was looked at last. Where that fails git looks at it again.
    pub(crate) fn date(&self, path: &[u8], seconds: i64) {
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: seconds, tv_nsec: 0 },
        };
        if let Some(folder) = self.deepest()
            && let Err(error) =
                rustix::fs::utimensat(folder, last_name(path), &times, AtFlags::SYMLINK_NOFOLLOW)
        {
            tracing::debug!(%error, "the time of a file stays");
        }
    }

    fn deepest(&self) -> Option<&OwnedFd> {
        match self.open.last() {
            None => Some(&self.root),
            Some((_, opened)) => opened.as_ref(),
        }
    }
}

fn last_name(path: &[u8]) -> &[u8] {
    path.rsplit(|&byte| byte == b'/').next().unwrap_or_default()
}

/// The low half of a number, which is what an index keeps of it.
fn low(value: i64) -> u32 {
    (value & i64::from(u32::MAX)).unsigned_abs() as u32
}

/// Whether an entry stands for a file at all.
pub(crate) const fn has_file(entry: &GitEntry) -> bool {
    entry.stage == 0
        && !entry.skip_worktree
        && !entry.intent_to_add
        && matches!(entry.mode, GitMode::File | GitMode::Executable | GitMode::Symlink)
}

/// Marks the entries whose files git knows to be as the index has them: they look as they did when git
/// looked at them, and have not changed so shortly before the index was written that a later change
/// could hide behind the same time.
pub(crate) fn mark_clean(index: &mut Index, worktree: &Path) -> Result<(), GitError> {
    let empty = hash_of(index.meaning.hash, b"blob 0\0")?;
    let empty = empty.as_slice();
    let root = Files::below(worktree)?.root;
    let threads = std::thread::available_parallelism().map_or(1, |it| it.get().min(MAX_THREADS));
    let share = index.meaning.entries.len().div_ceil(threads).max(1);
    let shares = index.meaning.entries.chunks_mut(share).zip(index.stats.chunks(share));
    let written = index.written;
    std::thread::scope(|scope| {
        let running: Vec<_> = shares
            .map(|(entries, stats)| {
                let folder = root.try_clone().context("opening", worktree);
                scope.spawn(|| {
                    mark_share(entries, stats, Files::in_folder(folder?), empty, written);
                    Ok(())
                })
            })
            .collect();
        let gone = || Err(GitError::refused("a worktree", "a thread that looked at it is gone"));
        running.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| gone()))
    })
}

fn mark_share(
    entries: &mut [GitEntry],
    stats: &[Stat],
    mut files: Files,
    empty: &[u8],
    written: (i64, i64),
) {
    // The same device has another number here and there; git does not look at it either.
    let same = |a: Stat, b: Stat| Stat { dev: 0, ..a } == Stat { dev: 0, ..b };
    for (entry, stat) in entries.iter_mut().zip(stats) {
        // Git writes a size of zero for what it has to look at again.
        let unsure = stat.size == 0 && entry.oid.as_bytes() != empty;
        if !has_file(entry) || unsure {
            continue;
        }
        let Some(seen) = files.look(&entry.path) else { continue };
        if same(seen.stat, *stat) && seen.modified < written {
            entry.clean = Some(stat.size);
        }
    }
}

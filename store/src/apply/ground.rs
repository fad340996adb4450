//! A checkout that is being changed: its directories by descriptor.
//!
//! **Invariant:** every directory is opened beneath the root and through no link, and none of them is git's
//! own, whatever it is called there.

use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use super::ApplyError;
use crate::checkout::open_directory;
use crate::fs::{Context, FsError};
use crate::stat_cache::Inode;

pub(super) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// Which mount something is on: files are renamed within one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    dev: u64,
    /// Of two places where one file system is mounted.
    id: u64,
}

impl Mount {
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self { dev: Inode::new(&stat).dev, id: mount_id(fd)? })
    }
}

#[cfg(target_os = "linux")]
fn mount_id(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    use rustix::fs::{StatxFlags, statx};
    match statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID) {
        Ok(stat) => Ok(stat.stx_mnt_id),
        // Not in this kernel, or not in this sandbox.
        Err(Errno::NOSYS | Errno::PERM) => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn mount_id(_fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(0)
}

/// Which folder a root is, wherever it is moved: what was deleted and made anew has another birth. The number of
/// the device is no part of it, since it can be another one when the machine starts again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) inode: u64,
    /// In nanoseconds since 1970; nothing where that is not known.
    pub(super) born: u64,
}

impl Place {
    pub(super) fn of(fd: BorrowedFd<'_>) -> Result<Self, Errno> {
        let stat = rustix::fs::fstat(fd)?;
        Ok(Self { inode: Inode::new(&stat).ino, born: born(fd)? })
    }
}

/// Of an overlay, where a directory is born anew when it is first written to.
#[cfg(target_os = "linux")]
const OVERLAY: rustix::fs::FsWord = 0x794c_7630;

#[cfg(target_os = "linux")]
fn born(fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    use rustix::fs::{StatxFlags, statx};
    if rustix::fs::fstatfs(fd)?.f_type == OVERLAY {
        return Ok(0);
    }
    match statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::BTIME) {
        Ok(stat) if stat.stx_mask & StatxFlags::BTIME.bits() != 0 => {
            let seconds = u64::try_from(stat.stx_btime.tv_sec).unwrap_or_default();
            Ok(seconds.saturating_mul(1_000_000_000).saturating_add(stat.stx_btime.tv_nsec.into()))
        }
        // Not kept there, or not told in this sandbox.
        Ok(_) | Err(Errno::NOSYS | Errno::PERM) => Ok(0),
        Err(error) => Err(error),
    }
}

#[cfg(not(target_os = "linux"))]
fn born(_fd: BorrowedFd<'_>) -> Result<u64, Errno> {
    Ok(0)
}

/// Opens a directory as a place only, beneath the root and through no link.
#[cfg(target_os = "linux")]
fn reach(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    use rustix::fs::{ResolveFlags, openat, openat2};
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.is_empty() { b"." } else { path };
    match openat2(root, path, flags, Mode::empty(), resolve) {
        // Not in this kernel, or not in this sandbox.
        Err(Errno::NOSYS | Errno::PERM) => {
            let mut names = path.split(|&byte| byte == b'/');
            let first = openat(root, names.next().unwrap_or(b"."), flags, Mode::empty())?;
            names.try_fold(first, |above, name| openat(above, name, flags, Mode::empty()))
        }
        opened => opened,
    }
}

/// Opens a directory, beneath the root and through no link.
#[cfg(not(target_os = "linux"))]
fn reach(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    open_directory(root, path)
}

/// Sets permissions of what was opened, be it as a place only.
pub(super) fn change_mode(fd: BorrowedFd<'_>, mode: Mode) -> Result<(), Errno> {
    match rustix::fs::fchmod(fd, mode) {
        #[cfg(target_os = "linux")]
        Err(Errno::BADF) => {
            use std::os::fd::AsRawFd;
            let at = format!("/proc/self/fd/{}", fd.as_raw_fd());
            // That it cannot be found there says nothing about the directory.
            rustix::fs::chmod(at, mode).map_err(|error| match error {
                Errno::NOENT | Errno::NOTDIR => Errno::ACCESS,
                error => error,
            })
        }
        done => done,
    }
}

/// A checkout that is being changed.
#[derive(Debug)]
pub(super) struct Ground {
    root: OwnedFd,
    /// The path of the root.
    pub(super) at: PathBuf,
    /// Git's own folder, where there is one.
    git: Option<Inode>,
    mount: Mount,
    place: Place,
    /// The directory that was used last.
    opened: Option<(Vec<u8>, OwnedFd)>,
    /// Directories that are known not to be git's.
    known: HashSet<Vec<u8>>,
}

impl Ground {
    /// Opens a checkout.
    pub(super) fn open(at: &Path) -> Result<Self, ApplyError> {
        let root = rustix::fs::open(at, DIRECTORY, Mode::empty()).context("opening", at)?;
        let git = match rustix::fs::statat(&root, ".git", AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Some(Inode::new(&stat)),
            Err(Errno::NOENT) => None,
            Err(error) => return Err(error).context("looking at", &at.join(".git"))?,
        };
        let mount = Mount::of(root.as_fd()).context("looking at", at)?;
        let place = Place::of(root.as_fd()).context("looking at", at)?;
        let at = at.to_owned();
        Ok(Self { root, at, git, mount, place, opened: None, known: HashSet::new() })
    }

    /// Where the checkout is mounted.
    pub(super) const fn mount(&self) -> Mount {
        self.mount
    }

    /// Which folder the root is.
    pub(super) const fn place(&self) -> Place {
        self.place
    }

    /// The root of the checkout.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// A directory of the checkout; the one that was opened last is kept until it is [let go](Self::let_go).
    pub(super) fn directory(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, Errno> {
        if self.opened.as_ref().is_none_or(|(last, _)| last != path) {
            self.opened = None;
            self.refuse_git(path)?;
            self.opened = Some((path.to_vec(), open_directory(self.root.as_fd(), path)?));
        }
        self.opened.as_ref().map(|(_, fd)| fd.as_fd()).ok_or(Errno::BADF)
    }

    /// Lets the directory go that was opened last: it may have been moved elsewhere since.
    pub(super) fn let_go(&mut self) {
        self.opened = None;
    }

    /// Whether a path still leads to the directory that was opened for it. Where that cannot be found out it does
    /// not.
    pub(super) fn is_still(&self, path: &[u8]) -> bool {
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).map(|stat| Inode::new(&stat));
        let Some((_, opened)) = self.opened.as_ref().filter(|(last, _)| last == path) else {
            return false;
        };
        let now = reach(self.root.as_fd(), path).and_then(|now| inode(now.as_fd()));
        matches!((now, inode(opened.as_fd())), (Ok(now), Ok(then)) if now == then)
    }

    /// A directory of the checkout to look at, and to set the permissions of: where the system can do that, also
    /// one that its owner may not open.
    pub(super) fn reach(&mut self, path: &[u8]) -> Result<OwnedFd, Errno> {
        self.refuse_git(path)?;
        reach(self.root.as_fd(), path)
    }

    /// Refuses a path that leads into git's folder under another name, as a file system can have it that does
    /// not tell case, or has short names.
    fn refuse_git(&mut self, path: &[u8]) -> Result<(), Errno> {
        let Some(git) = self.git else { return Ok(()) };
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let above = path.get(..end).unwrap_or_default();
            if self.known.contains(above) {
                continue;
            }
            let fd = reach(self.root.as_fd(), above)?;
            if Inode::new(&rustix::fs::fstat(&fd)?) == git {
                return Err(Errno::LOOP);
            }
            self.known.insert(above.to_vec());
        }
        Ok(())
    }

    /// An error at a path of the checkout.
    pub(super) fn failed(&self, action: &'static str, path: &[u8], error: Errno) -> ApplyError {
        let path = self.at.join(std::ffi::OsStr::from_bytes(path));
        FsError { action, path, source: error.into() }.into()
    }
}

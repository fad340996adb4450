//! The folder that is watched, and whether its path still leads to it.
//!
//! Not here: what is below it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::WatchError;

/// How a directory is opened that something is to be found in: by one name, through no link, and
/// without a right to read it.
#[cfg(target_os = "linux")]
pub(super) const DIRECTORY: OFlags =
    OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
#[cfg(not(target_os = "linux"))]
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A folder, by its path and by what the file system calls it.
///
/// It is not held open: of a directory that is open the system does not say that it was removed.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    identity: (u64, u64),
}

impl Root {
    /// The folder that the path leads to, links on the way followed.
    pub(super) fn open(path: &Path) -> Result<Self, WatchError> {
        let failed = |errno: Errno| WatchError::System { root: path.into(), source: errno.into() };
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&directory).map_err(failed)?;
        Ok(Self { path: path.to_owned(), identity: identity(&stat) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it, if it still is the same one.
    pub(super) fn directory(&self) -> Result<OwnedFd, WatchError> {
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        match rustix::fs::open(&self.path, flags, Mode::empty()) {
            Ok(directory) => {
                self.compare(rustix::fs::fstat(&directory))?;
                Ok(directory)
            }
            Err(errno) => Err(self.lost(errno)),
        }
    }

    /// Fails if the path leads to another folder by now, or to none.
    pub(super) fn check(&self) -> Result<(), WatchError> {
        self.compare(rustix::fs::stat(&self.path))
    }

    fn compare(&self, stat: Result<rustix::fs::Stat, Errno>) -> Result<(), WatchError> {
        match stat {
            Ok(stat) if identity(&stat) == self.identity => Ok(()),
            Ok(_) => Err(WatchError::RootChanged { root: self.path.clone() }),
            Err(errno) => Err(self.lost(errno)),
        }
    }

    fn lost(&self, errno: Errno) -> WatchError {
        match errno {
            Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS => {
                WatchError::RootChanged { root: self.path.clone() }
            }
            errno => self.failed(errno),
        }
    }

    pub(super) fn failed(&self, source: impl Into<std::io::Error>) -> WatchError {
        WatchError::System { root: self.path.clone(), source: source.into() }
    }
}

#[allow(
    clippy::allow_attributes,
    clippy::useless_conversion,
    clippy::unnecessary_cast,
    clippy::cast_sign_loss,
    reason = "the types differ between systems"
)]
fn identity(stat: &rustix::fs::Stat) -> (u64, u64) {
    (stat.st_dev as u64, stat.st_ino as u64)
}

/// Takes a directory and all below it out of a set of paths.
pub(super) fn remove_below(paths: &mut BTreeSet<Vec<u8>>, directory: &[u8]) {
    if directory.is_empty() {
        return paths.clear();
    }
    paths.remove(directory);
    let first = [directory, b"/"].concat();
    let below = paths.range(first.clone()..).take_while(|path| path.starts_with(&first));
    let below: Vec<_> = below.cloned().collect();
    for path in below {
        paths.remove(&path);
    }
}

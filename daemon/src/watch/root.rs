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

/// How the names of the files begin that are made to see whether the system tells of them. None of
/// them belongs to a tree.
pub const COOKIE: &str = ".baton-cookie-";

/// A folder, held open: it is the same one whatever its path leads to.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    directory: OwnedFd,
    identity: (u64, u64),
}

impl Root {
    /// Opens the folder that the path leads to, links on the way followed.
    pub(super) fn open(path: &Path) -> Result<Self, WatchError> {
        let failed = |errno: Errno| WatchError::System { root: path.into(), source: errno.into() };
        let flags = DIRECTORY.difference(OFlags::NOFOLLOW);
        let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
        let stat = rustix::fs::fstat(&directory).map_err(failed)?;
        Ok(Self { path: path.to_owned(), directory, identity: identity(&stat) })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) const fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Fails if the path leads to another folder by now, or to none.
    pub(super) fn check(&self) -> Result<(), WatchError> {
        match rustix::fs::stat(&self.path) {
            Ok(stat) if identity(&stat) == self.identity => Ok(()),
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => {
                Err(WatchError::RootChanged { root: self.path.clone() })
            }
            Err(errno) => Err(self.failed(errno)),
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

//! The way from the root to a directory, each step by descriptor.
//!
//! Not here: what is watched. The callers go from directory to directory in the order of a walk, and
//! find most of the way still open.
//!
//! **Invariant:** nothing is opened by more than one name, or through a symbolic link: whatever is put
//! in the way, what is opened is below the root.

use rustix::fd::{AsRawFd, OwnedFd};
use rustix::fs::Mode;
use rustix::io::Errno;

use super::super::root::DIRECTORY;
use super::tree::NodeId;

/// Descriptors that are kept at most: a tree may be deeper than a process may have files open.
const OPEN: usize = 32;

/// An open directory and those above it.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    root: &'a OwnedFd,
    /// Below the root; those that are closed again came first.
    below: Vec<(NodeId, Option<OwnedFd>)>,
}

impl<'a> Chain<'a> {
    pub(super) const fn new(root: &'a OwnedFd) -> Self {
        Self { root, below: Vec::new() }
    }

    /// Whether it leads through this directory, so many names below the root, and from there on.
    pub(super) fn passes(&self, level: usize, id: NodeId) -> bool {
        self.below.get(level).is_some_and(|(other, _)| *other == id)
    }

    /// Goes back up, so many names below the root. Fails where the way there was closed.
    pub(super) fn up_to(&mut self, level: usize) -> bool {
        self.below.truncate(level);
        let is_open = self.below.last().is_none_or(|(_, directory)| directory.is_some());
        if !is_open {
            self.below.clear();
        }
        is_open
    }

    /// Opens a directory in the one that it leads to; nothing if there is none.
    pub(super) fn open(&self, name: &[u8]) -> Result<Option<OwnedFd>, Errno> {
        match rustix::fs::openat(self.here(), name, DIRECTORY, Mode::empty()) {
            Ok(directory) => Ok(Some(directory)),
            Err(
                Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::NAMETOOLONG,
            ) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    /// Goes down into a directory that was opened here.
    pub(super) fn down(&mut self, id: NodeId, directory: OwnedFd) {
        self.below.push((id, Some(directory)));
        if let Some(far) = self.below.len().checked_sub(OPEN + 1)
            && let Some((_, directory)) = self.below.get_mut(far)
        {
            *directory = None;
        }
    }

    /// The directory that it leads to.
    pub(super) fn here(&self) -> &OwnedFd {
        let last = self.below.last().and_then(|(_, directory)| directory.as_ref());
        last.unwrap_or(self.root)
    }
}

/// A path that leads to an open directory, whatever its name is.
pub(super) fn path_of(directory: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", directory.as_raw_fd())
}

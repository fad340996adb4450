//! Files beside those of a snapshot: what a program has made in a checkout, kept for checkouts that come later.
//!
//! - [`keep`]: what of a folder is not the snapshot's
//! - [`hidden`]: what of a snapshot would not be seen below such files
//! - [`copy`]: bringing them into a folder
//! - [`unchanged`]: which of them are still as they were brought
//!
//! Not here: who made them, and how long they are kept. Who did was free to put anything there: no link is followed, no
//! special file is opened, and no folder is gone into deeper than [`MAX_LEVELS`].
//!
//! **Invariant:** where a snapshot has a file, that file is seen and not an addition.

mod keep;
mod hidden;
mod copy;
mod unchanged;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use baton_protocol::id::TreeId;
use baton_protocol::object::EntryKind;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::StoreError;
use crate::fs::{Context, FsError};
use crate::objects::ObjectSource;
use crate::scan::directory::list;
use crate::trees::for_each_entry;

pub use copy::{Copied, copy_missing};
pub use hidden::hidden;
pub use keep::{Kept, keep_additions};
pub use unchanged::{are_tracked, unchanged, unchanged_in_layer};

/// Folders in one another at most; each takes a descriptor or two while it is looked through.
pub const MAX_LEVELS: usize = 100;

/// Files beside a snapshot could not be dealt with.
#[derive(Debug, thiserror::Error)]
pub enum AdditionsError {
    /// The store failed, or a tree in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// There are folders in folders in folders.
    #[error("{} has folders that are more than {MAX_LEVELS} deep", path.display())]
    TooDeep {
        /// The topmost one.
        path: PathBuf,
    },
}

/// A failure below a folder, whose path only the caller knows.
enum Failure {
    Store(StoreError),
    System(Errno),
    TooDeep,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

impl Failure {
    fn at(self, action: &'static str, path: &Path) -> AdditionsError {
        match self {
            Self::Store(error) => error.into(),
            Self::System(error) => {
                FsError { action, path: path.to_owned(), source: error.into() }.into()
            }
            Self::TooDeep => AdditionsError::TooDeep { path: path.to_owned() },
        }
    }
}

/// Fails where folders are too deep in one another.
const fn check_level(level: usize) -> Result<(), Failure> {
    if level > MAX_LEVELS { Err(Failure::TooDeep) } else { Ok(()) }
}

/// Opens the topmost folder.
fn open_top(path: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context("opening", path)
}

/// Names and what they are; the system does not say every kind in a listing.
fn entries(folder: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut all = list(folder)?;
    for (name, kind) in &mut all {
        if *kind == FileType::Unknown {
            *kind = kind_of(folder, name)?;
        }
    }
    Ok(all)
}

fn kind_of(folder: BorrowedFd<'_>, name: &[u8]) -> Result<FileType, Errno> {
    let stat = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// What a snapshot has in a folder, of these names; nothing where it does not have the folder.
fn of_snapshot<S: ObjectSource + ?Sized>(
    objects: &S,
    directory: Option<TreeId>,
    names: &[(Vec<u8>, FileType)],
) -> Result<HashMap<Vec<u8>, EntryKind>, StoreError> {
    let mut found = HashMap::new();
    let Some(directory) = directory.filter(|_| !names.is_empty()) else { return Ok(found) };
    for_each_entry(objects, directory, |entry| {
        // Both ascend by name.
        if names.binary_search_by(|(name, _)| name.cmp(&entry.name)).is_ok() {
            found.insert(entry.name, entry.kind);
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(found)
}

/// The tree of a directory; nothing of what is none.
const fn tree_of(kind: Option<&EntryKind>) -> Option<TreeId> {
    match kind {
        Some(EntryKind::Directory { tree, .. }) => Some(*tree),
        _ => None,
    }
}

fn borrowed(fd: &OwnedFd) -> BorrowedFd<'_> {
    fd.as_fd()
}

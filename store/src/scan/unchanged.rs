//! Whether a directory holds what it held when its tree was built: then nothing of it has to be built,
//! hashed or looked up again.
//!
//! **Invariant:** a tree that is believed is the tree of exactly the names that stand in the directory
//! and belong to the tree, each in the state in which it was read.

use std::os::fd::BorrowedFd;

use rustix::fs::FileType;

use super::entry::{Linked, look};
use crate::stat_cache::{FileStat, PackedDirectory};

/// Files and links that are as they were.
#[derive(Debug, Default)]
pub(super) struct Unchanged {
    pub(super) files: u64,
    pub(super) bytes: u64,
    /// Those of several names.
    pub(super) linked: Vec<(Linked, Vec<u8>)>,
}

/// Compares files and links, ascending by name, with all that are known of a directory. Nothing where
/// one is missing, new or in another state, or cannot be looked at.
pub(super) fn find_unchanged<'a>(
    directory: BorrowedFd<'_>,
    known: &PackedDirectory,
    names: impl Iterator<Item = &'a [u8]>,
) -> Option<Unchanged> {
    let mut found = Unchanged::default();
    let mut known = known.files();
    for name in names {
        let file = known.next()?.ok().filter(|file| file.name == name)?;
        let stat = look(directory, name).ok()?;
        // A file that had not come to rest is in a state that no file is ever in.
        if FileStat::new(&stat) != file.stat {
            return None;
        }
        found.files += 1;
        if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
            found.bytes += file.stat.size;
            found.linked.extend(Linked::of(&stat).map(|linked| (linked, name.to_vec())));
        }
    }
    known.next().is_none().then_some(found)
}

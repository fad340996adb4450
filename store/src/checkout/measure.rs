//! How large a tree is when it is written out, found without writing it.
//!
//! A tree of a few objects can stand for more files than any disk holds: a directory that names
//! another one a thousand times, which does the same. Each object is read once here, however often it is
//! named: level by level, so that those of one level are read in the order of the log and by several threads.
//!
//! **Invariant:** time and memory follow the number of different directories, not that of their copies.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use baton_protocol::id::TreeId;
use baton_protocol::object::EntryKind;

use super::RestoreError;
use super::ahead::{Ahead, BATCH};
use super::crew::Crew;
use crate::error::StoreError;
use crate::objects::{ObjectSource, OpenRecord};
use crate::snapshot::for_each_entry;

/// Most files, links and directories of a checkout: some times the largest trees known. The list of
/// what is to be made takes 100 to 200 bytes for each.
pub(super) const MAX_ENTRIES: u64 = 1 << 24;

/// Most bytes of a checkout, holes included: 1 PiB, which takes minutes to look through if all of it is
/// one hole.
pub(super) const MAX_BYTES: u64 = 1 << 50;

/// What writing a tree out makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    /// Files, links and directories.
    pub(super) entries: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
}

impl Extent {
    fn add(&mut self, other: Self) {
        self.entries = self.entries.saturating_add(other.entries);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

/// What is in one directory.
#[derive(Debug, Default)]
struct Own {
    extent: Extent,
    directories: Vec<TreeId>,
}

/// A directory whose directories are being measured.
struct Open {
    tree: TreeId,
    left: Vec<TreeId>,
    so_far: Extent,
}

/// Refuses a tree that no checkout should be made of.
pub(super) fn check<S: ObjectSource + ?Sized>(
    source: &Ahead<'_, S>,
    root: TreeId,
    threads: usize,
) -> Result<(), RestoreError> {
    let Extent { entries, bytes } = add_up(read_all(source, root, threads)?, root);
    if entries > MAX_ENTRIES || bytes > MAX_BYTES {
        return Err(RestoreError::TooLarge { entries, bytes });
    }
    Ok(())
}

/// Reads every different directory.
fn read_all<S: ObjectSource + ?Sized>(
    source: &Ahead<'_, S>,
    root: TreeId,
    threads: usize,
) -> Result<HashMap<TreeId, Own>, RestoreError> {
    let mut all = HashMap::new();
    let mut known = HashSet::from([root]);
    let mut level = vec![root];
    while !level.is_empty() {
        let left = Mutex::new(level.chunks(BATCH));
        let found = Mutex::new(Vec::with_capacity(level.len()));
        Crew::run(threads.min(level.len().div_ceil(BATCH)), |crew| {
            let mut record = OpenRecord::default();
            while !crew.is_stopped() {
                let Some(trees) = left.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                    break;
                };
                // To be measured, and to be made.
                source.read_ahead(trees, 2, &mut record)?;
                let mut some = Vec::with_capacity(trees.len());
                for &tree in trees {
                    some.push((tree, read(source, tree)?));
                }
                found.lock().unwrap_or_else(PoisonError::into_inner).append(&mut some);
            }
            Ok(())
        })?;
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let below = found.iter().flat_map(|(_, own)| &own.directories);
        level = below.copied().filter(|&tree| known.insert(tree)).collect();
        all.extend(found);
    }
    Ok(all)
}

fn read<S: ObjectSource + ?Sized>(source: &Ahead<'_, S>, tree: TreeId) -> Result<Own, StoreError> {
    let mut own = Own::default();
    for_each_entry(source, tree, |entry| {
        let bytes = match entry.kind {
            EntryKind::File { blob, .. } => blob.size,
            EntryKind::Symlink { .. } => 0,
            EntryKind::Directory { tree, .. } => {
                own.directories.push(tree);
                0
            }
        };
        own.extent.add(Extent { entries: 1, bytes });
        Ok::<_, StoreError>(())
    })?;
    Ok(own)
}

/// What all copies of all directories make together.
fn add_up(mut all: HashMap<TreeId, Own>, root: TreeId) -> Extent {
    let mut open = |tree| {
        // No directory is in itself: it is named by what it is a part of.
        let Own { extent: so_far, directories: left } = all.remove(&tree).unwrap_or_default();
        Open { tree, left, so_far }
    };
    let mut measured: HashMap<TreeId, Extent> = HashMap::new();
    let mut above: Vec<Open> = Vec::new();
    let mut at = open(root);
    loop {
        if let Some(tree) = at.left.pop() {
            match measured.get(&tree) {
                Some(&extent) => at.so_far.add(extent),
                None => above.push(std::mem::replace(&mut at, open(tree))),
            }
            continue;
        }
        let Open { tree, so_far, .. } = at;
        measured.insert(tree, so_far);
        let Some(next) = above.pop() else { return so_far };
        at = next;
        at.so_far.add(so_far);
    }
}

//! How large a tree is when it is written out, found without writing it.
//!
//! A tree of a few objects can stand for more files than any disk holds: a directory that names
//! another one a thousand times, which does the same. Each object is read once here, however often it is
//! named.
//!
//! What was read is [kept](Kept) for the one who reads it next, to make it.
//!
//! **Invariant:** time and memory follow the number of different directories, not that of their copies.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use baton_protocol::id::{ObjectId, TreeId};
use baton_protocol::object::EntryKind;

use super::RestoreError;
use crate::error::StoreError;
use crate::objects::ObjectSource;
use crate::snapshot::for_each_entry;

/// Most files, links and directories of a checkout: some times the largest trees known. The list of
/// what is to be made takes 100 to 200 bytes for each.
pub(super) const MAX_ENTRIES: u64 = 1 << 24;

/// Most bytes of a checkout, holes included: 1 PiB, which takes minutes to look through if all of it is
/// one hole.
pub(super) const MAX_BYTES: u64 = 1 << 50;

/// Bytes of directories that are kept: those of a tree of 200,000 files.
const KEPT: usize = 16 << 20;

/// Directories that were read once and will be read once more.
pub(super) struct Kept<'a, S: ?Sized> {
    source: &'a S,
    nodes: Mutex<Nodes>,
}

#[derive(Default)]
struct Nodes {
    by_id: HashMap<ObjectId, Vec<u8>>,
    bytes: usize,
}

impl<'a, S: ?Sized> Kept<'a, S> {
    pub(super) fn new(source: &'a S) -> Self {
        Self { source, nodes: Mutex::default() }
    }

    fn nodes(&self) -> std::sync::MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: ObjectSource + ?Sized> ObjectSource for Kept<'_, S> {
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        {
            let mut nodes = self.nodes();
            if let Some(bytes) = nodes.by_id.remove(id) {
                nodes.bytes -= bytes.len();
                return Ok(Some(bytes));
            }
        }
        let read = self.source.read(id)?;
        if let Some(bytes) = &read {
            let mut nodes = self.nodes();
            if nodes.bytes + bytes.len() <= KEPT {
                nodes.bytes += bytes.len();
                if let Some(before) = nodes.by_id.insert(*id, bytes.clone()) {
                    nodes.bytes -= before.len();
                }
            }
        }
        Ok(read)
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        self.source.contains(id)
    }
}

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

/// A directory whose entries are known, and whose directories are being measured.
struct Open {
    tree: TreeId,
    left: Vec<TreeId>,
    so_far: Extent,
}

/// Measures a tree.
pub(super) fn measure<S: ObjectSource + ?Sized>(
    source: &S,
    root: TreeId,
) -> Result<Extent, StoreError> {
    let mut measured: HashMap<TreeId, Extent> = HashMap::new();
    let mut above: Vec<Open> = Vec::new();
    let mut at = open(source, root)?;
    loop {
        if let Some(tree) = at.left.pop() {
            match measured.get(&tree) {
                Some(&extent) => at.so_far.add(extent),
                None => above.push(std::mem::replace(&mut at, open(source, tree)?)),
            }
            continue;
        }
        let Open { tree, so_far, .. } = at;
        measured.insert(tree, so_far);
        let Some(next) = above.pop() else { return Ok(so_far) };
        at = next;
        at.so_far.add(so_far);
    }
}

fn open<S: ObjectSource + ?Sized>(source: &S, tree: TreeId) -> Result<Open, StoreError> {
    let (mut left, mut so_far) = (Vec::new(), Extent::default());
    for_each_entry(source, tree, |entry| {
        let bytes = match entry.kind {
            EntryKind::File { blob, .. } => blob.size,
            EntryKind::Symlink { .. } => 0,
            EntryKind::Directory { tree, .. } => {
                left.push(tree);
                0
            }
        };
        so_far.add(Extent { entries: 1, bytes });
        Ok::<_, StoreError>(())
    })?;
    Ok(Open { tree, left, so_far })
}

/// Refuses a tree that no checkout should be made of.
pub(super) fn check<S: ObjectSource + ?Sized>(
    source: &S,
    root: TreeId,
) -> Result<(), RestoreError> {
    let Extent { entries, bytes } = measure(source, root)?;
    if entries > MAX_ENTRIES || bytes > MAX_BYTES {
        return Err(RestoreError::TooLarge { entries, bytes });
    }
    Ok(())
}

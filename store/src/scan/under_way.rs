//! Directories that a walk has listed, until everything in them is there and they are encoded.
//!
//! **Invariant:** of a directory that is as it was nothing is put. One of which anything else came is built
//! from all that stands in it.

use std::sync::{Arc, Mutex};

use baton_protocol::id::{ObjectKind, TreeId};
use baton_protocol::object::{Entry, EntryKind, TreeSums, build_tree};

use super::ScanError;
use super::directory::join;
use super::ground::Ground;
use crate::ignore::Scope;
use crate::objects::{ObjectSink, ObjectSource};
use crate::stat_cache::{CachedDirectory, CachedFile, Inode, PackedDirectory};

/// A directory under way.
pub(super) struct Directory {
    pub(super) above: Option<Arc<Directory>>,
    pub(super) name: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) mode: u16,
    pub(super) inode: Inode,
    /// The rules in it.
    pub(super) scope: Scope,
    pub(super) before: Before,
    pub(super) parts: Mutex<Parts>,
}

/// What the last scan knew of a directory.
pub(super) enum Before {
    /// The files and links of its tree, which are as they were.
    Same(PackedDirectory),
    /// Files that are looked at one by one.
    Other(CachedDirectory),
}

/// What is known of a directory so far.
#[derive(Default)]
pub(super) struct Parts {
    pub(super) entries: Vec<Entry>,
    pub(super) records: Vec<CachedFile>,
    /// Whether something is left out that stands in it, or not carried whole.
    pub(super) flawed: bool,
    /// Directories and batches still to come.
    pub(super) open: usize,
}

impl Directory {
    /// The tree of a directory whose parts are all there.
    /// Also says whether the cache may know more directories in it than there are.
    pub(super) fn encode<S: ObjectSource + ObjectSink>(
        &self,
        ground: &Ground<'_, S>,
        Parts { mut entries, mut records, flawed, .. }: Parts,
    ) -> Result<(TreeId, TreeSums, bool), ScanError> {
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        let unpacked;
        let before = match &self.before {
            Before::Same(known) => {
                // Of the files nothing is among the parts: what is there are directories. Another inode is
                // another directory, and is noted.
                let is_same = known.inode == Some(self.inode) && known.is_below(&entries);
                if let Some((tree, sums)) = known.tree.filter(|_| is_same) {
                    return Ok((tree, sums, false));
                }
                entries.extend(known.files().flatten().map(|file| file.entry()));
                entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                unpacked = known.unpack();
                records.clone_from(&unpacked.files);
                &unpacked
            }
            Before::Other(before) => {
                records.sort_unstable_by(|a, b| a.name.cmp(&b.name));
                before
            }
        };
        let is_directory = |entry: &&Entry| matches!(entry.kind, EntryKind::Directory { .. });
        let below: Vec<Entry> = entries.iter().filter(is_directory).cloned().collect();
        let is_known = !flawed
            && records.len() + below.len() == entries.len()
            && records.iter().all(CachedFile::is_settled);
        let (tree, sums) = build_tree(entries, |_, _, bytes| {
            ground.sink.put(ObjectKind::Tree, &bytes).map(|_| ())
        })?;
        let is_below =
            |name: &[u8]| below.binary_search_by(|entry| (*entry.name).cmp(name)).is_ok();
        for old in before.below.iter().flatten().filter(|entry| !is_below(&entry.name)) {
            ground.cache.remove_below(&join(&self.path, &old.name));
        }
        let after = CachedDirectory {
            inode: Some(self.inode),
            tree: is_known.then_some((tree, sums)),
            below: Some(below),
            files: records,
        };
        ground.cache.replace(&self.path, before, &after);
        Ok((tree, sums, before.below.is_none()))
    }
}

//! What a layer over another one has: the entries that differ, as a tree of their own, and the names that are gone.
//!
//! **Invariant:** equal subtrees are not read.

use std::collections::BTreeMap;

use baton_protocol::id::{ObjectKind, TreeId};
use baton_protocol::object::{Entry, EntryKind, TreeSums, build_tree};
use baton_protocol::path::{MAX_DEPTH, MAX_PATH};

use crate::diff::pair_entries;
use crate::error::StoreError;
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::directory::join;
use crate::trees::compare;

/// How one tree becomes another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Changes {
    /// What is new or another one, in the directories on the way to it.
    pub(super) tree: TreeId,
    /// Names that are not there any more.
    pub(super) gone: Vec<Vec<u8>>,
}

/// Finds them; nothing where more than `limit` entries differ.
pub(super) fn changes<S: ObjectSource + ObjectSink>(
    objects: &S,
    old: TreeId,
    new: TreeId,
    limit: u64,
) -> Result<Option<Changes>, StoreError> {
    let mut search = Search { objects, gone: Vec::new(), left: limit };
    let tree = search.directory(&[], Some(old), new, 0)?;
    Ok(tree.map(|(tree, _)| Changes { tree, gone: search.gone }))
}

struct Search<'a, S> {
    objects: &'a S,
    gone: Vec<Vec<u8>>,
    left: u64,
}

impl<S: ObjectSource + ObjectSink> Search<'_, S> {
    /// What is new in a directory; nothing where that is too much.
    fn directory(
        &mut self,
        path: &[u8],
        old: Option<TreeId>,
        new: TreeId,
        depth: usize,
    ) -> Result<Option<(TreeId, TreeSums)>, StoreError> {
        if depth > MAX_DEPTH || path.len() > MAX_PATH {
            return Err(StoreError::DamagedObject(new.into()));
        }
        let found = compare(self.objects, old, Some(new))?;
        let mut entries = BTreeMap::new();
        for (old, new) in pair_entries(found.old, found.new) {
            let count = match new.as_ref().map(|entry| entry.kind) {
                Some(EntryKind::Directory { below, .. })
                    if !old.as_ref().is_some_and(is_directory) =>
                {
                    below.files.saturating_add(1)
                }
                _ => 1,
            };
            let Some(left) = self.left.checked_sub(count) else { return Ok(None) };
            self.left = left;
            let Some(mut entry) = new else {
                self.gone.extend(old.map(|old| join(path, &old.name)));
                continue;
            };
            if let (
                EntryKind::Directory { tree, mode, .. },
                Some(EntryKind::Directory { tree: before, .. }),
            ) = (entry.kind, old.map(|old| old.kind))
            {
                let path = join(path, &entry.name);
                let inner = self.directory(&path, Some(before), tree, depth + 1)?;
                let Some((tree, below)) = inner else { return Ok(None) };
                entry.kind = EntryKind::Directory { tree, mode, below };
            }
            entries.insert(entry.name.clone(), entry);
        }
        let entries: Vec<Entry> = entries.into_values().collect();
        let put = |_, _: &_, bytes: Vec<u8>| self.objects.put(ObjectKind::Tree, &bytes).map(drop);
        build_tree(entries, put).map(Some)
    }
}

fn is_directory(entry: &Entry) -> bool {
    matches!(entry.kind, EntryKind::Directory { .. })
}

//! A directory with some of its entries replaced, at a cost that follows what is replaced.
//!
//! **Invariant:** what comes out are the nodes that [`build_tree`] makes of the same entries.

use std::collections::{BTreeMap, btree_map};

use baton_protocol::id::{ObjectKind, TreeId};
use baton_protocol::object::{
    Entry, TREE_SINGLE_MAX, Tree, TreeChild, TreeSums, begins_leaf, build_above, build_leaves,
    build_tree,
};

use super::load;
use crate::error::StoreError;
use crate::objects::{ObjectSink, ObjectSource};

/// What becomes of names: their new entry, or nothing.
pub(crate) type Edits = BTreeMap<Vec<u8>, Option<Entry>>;

/// A directory that is being looked at name by name.
#[derive(Debug)]
pub(crate) struct OpenedDirectory {
    id: TreeId,
    nodes: Nodes,
}

#[derive(Debug)]
enum Nodes {
    One(Vec<Entry>),
    /// Leaves, and the entries of those that were read.
    Many(Vec<TreeChild>, BTreeMap<usize, Vec<Entry>>),
}

impl OpenedDirectory {
    /// Reads a directory, of a wide one only what says where its names are.
    pub(crate) fn open<S: ObjectSource>(objects: &S, id: TreeId) -> Result<Self, StoreError> {
        let nodes = match load(objects, id)?.tree {
            Tree::Leaf(entries) => Nodes::One(entries),
            root @ Tree::Node { .. } => Nodes::Many(leaves_of(objects, root)?, BTreeMap::new()),
        };
        Ok(Self { id, nodes })
    }

    /// The entry of a name.
    pub(crate) fn find<S: ObjectSource>(
        &mut self,
        objects: &S,
        name: &[u8],
    ) -> Result<Option<&Entry>, StoreError> {
        let entries = match &mut self.nodes {
            Nodes::One(entries) => entries,
            Nodes::Many(leaves, loaded) => {
                let after = leaves.partition_point(|leaf| leaf.first.as_slice() <= name);
                let at = after.saturating_sub(1);
                let Some(leaf) = leaves.get(at) else { return Ok(None) };
                match loaded.entry(at) {
                    btree_map::Entry::Occupied(entry) => entry.into_mut(),
                    btree_map::Entry::Vacant(entry) => entry.insert(entries_of(objects, leaf)?),
                }
            }
        };
        let at = entries.binary_search_by(|entry| entry.name.as_slice().cmp(name));
        Ok(at.ok().and_then(|at| entries.get(at)))
    }

    /// All names.
    pub(crate) fn names<S: ObjectSource>(&self, objects: &S) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut names = Vec::new();
        super::for_each_entry(objects, self.id, |entry| {
            names.push(entry.name);
            Ok::<_, StoreError>(())
        })?;
        Ok(names)
    }

    /// Puts the nodes of the directory after edits; returns its root and sums.
    pub(crate) fn edit<S: ObjectSource + ObjectSink>(
        self,
        objects: &S,
        mut edits: Edits,
    ) -> Result<(TreeId, TreeSums), StoreError> {
        let put =
            |_: TreeId, _: &Tree, bytes: Vec<u8>| objects.put(ObjectKind::Tree, &bytes).map(drop);
        let leaves = match self.nodes {
            Nodes::One(entries) => return build_tree(apply(entries, edits), put),
            Nodes::Many(leaves, _) => leaves,
        };
        let mut edited: Vec<TreeChild> = Vec::with_capacity(leaves.len() + 1);
        let mut at = 0;
        while let Some(leaf) = leaves.get(at) {
            let next = leaves.get(at + 1).map(|next| next.first.as_slice());
            let own = split_before(&mut edits, next);
            at += 1;
            if own.is_empty() {
                edited.push(leaf.clone());
                continue;
            }
            let mut entries = apply(entries_of(objects, leaf)?, own);
            // What the leaf began with may be gone: the one before goes on.
            while !entries.first().is_some_and(|first| begins_leaf(&first.name))
                && let Some(before) = edited.pop()
            {
                let mut longer = entries_of(objects, &before)?;
                longer.append(&mut entries);
                entries = longer;
            }
            // A leaf that was cut because the one before was full begins where that one ends.
            while let Some(leaf) = leaves.get(at)
                && (entries.is_empty() || !begins_leaf(&leaf.first))
            {
                let next = leaves.get(at + 1).map(|next| next.first.as_slice());
                let own = split_before(&mut edits, next);
                entries.extend(apply(entries_of(objects, leaf)?, own));
                at += 1;
            }
            edited.extend(build_leaves(entries, put)?);
        }
        match few(objects, &edited)? {
            Some(entries) => build_tree(entries, put),
            None => build_above(edited, put),
        }
    }
}

/// All entries, where they fit into one node.
fn few<S: ObjectSource>(
    objects: &S,
    leaves: &[TreeChild],
) -> Result<Option<Vec<Entry>>, StoreError> {
    let mut all = Vec::new();
    if leaves.len() > TREE_SINGLE_MAX {
        return Ok(None);
    }
    for leaf in leaves {
        all.extend(entries_of(objects, leaf)?);
        if all.len() > TREE_SINGLE_MAX {
            return Ok(None);
        }
    }
    Ok(Some(all))
}

/// The leaves of a wide directory, ascending.
fn leaves_of<S: ObjectSource>(objects: &S, root: Tree) -> Result<Vec<TreeChild>, StoreError> {
    let mut leaves = Vec::new();
    let mut open = vec![(root, None)];
    while let Some((tree, child)) = open.pop() {
        match (tree, child) {
            (Tree::Leaf(_), Some(child)) => leaves.push(child),
            (Tree::Leaf(_), None) => {}
            (Tree::Node { level: 1, children }, _) => leaves.extend(children),
            (Tree::Node { level, children }, _) => {
                for child in children.into_iter().rev() {
                    let tree = load(objects, child.id)?.tree;
                    if tree.level() >= level {
                        return Err(StoreError::DamagedObject(child.id.into()));
                    }
                    open.push((tree, Some(child)));
                }
            }
        }
    }
    Ok(leaves)
}

fn entries_of<S: ObjectSource>(objects: &S, leaf: &TreeChild) -> Result<Vec<Entry>, StoreError> {
    match load(objects, leaf.id)?.tree {
        Tree::Leaf(entries) => Ok(entries),
        Tree::Node { .. } => Err(StoreError::DamagedObject(leaf.id.into())),
    }
}

/// Takes the edits before a name, or all.
fn split_before(edits: &mut Edits, next: Option<&[u8]>) -> Edits {
    match next {
        Some(next) => {
            let later = edits.split_off(next);
            std::mem::replace(edits, later)
        }
        None => std::mem::take(edits),
    }
}

fn apply(entries: Vec<Entry>, edits: Edits) -> Vec<Entry> {
    let mut merged = Vec::with_capacity(entries.len() + edits.len());
    let mut edits = edits.into_iter().peekable();
    for entry in entries {
        while let Some((_, new)) = edits.next_if(|(name, _)| *name < entry.name) {
            merged.extend(new);
        }
        match edits.next_if(|(name, _)| *name == entry.name) {
            Some((_, new)) => merged.extend(new),
            None => merged.push(entry),
        }
    }
    merged.extend(edits.filter_map(|(_, new)| new));
    merged
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::ChunkId;
    use baton_protocol::object::{Blob, Content, EntryKind};
    use proptest::prelude::*;

    use super::*;
    use crate::objects::memory::MemoryObjects;

    fn entry(number: u32, content: u32) -> Entry {
        let content = Content::Chunk(ChunkId::of(&content.to_le_bytes()));
        let kind = EntryKind::File { mode: 0o644, blob: Blob { size: 1, content } };
        Entry { name: format!("{number:06}").into_bytes(), kind }
    }

    fn build(objects: &MemoryObjects, entries: Vec<Entry>) -> (TreeId, TreeSums) {
        build_tree(entries, |_, _, bytes| objects.put(ObjectKind::Tree, &bytes).map(drop)).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn an_edited_directory_is_the_one_built_anew(
            width in prop_oneof![0u32..10, 250..262u32, 400..3000u32, 40_000..45_000u32],
            edits in prop::collection::btree_map(0u32..45_000, any::<bool>(), 0..40),
            cut in prop::option::of((0u32..45_000, 0u32..3000)),
        ) {
            let objects = MemoryObjects::default();
            let old: BTreeMap<u32, Entry> = (0..width).map(|i| (i, entry(i, 0))).collect();
            let (root, _) = build(&objects, old.values().cloned().collect());
            let mut new = old.clone();
            let old: BTreeMap<Vec<u8>, Entry> =
                old.into_values().map(|entry| (entry.name.clone(), entry)).collect();
            let mut changed = Edits::new();
            let mut note = |number: u32, stays: bool| {
                let value = stays.then(|| entry(number, 1));
                changed.insert(entry(number, 1).name, value.clone());
                match value {
                    Some(value) => drop(new.insert(number, value)),
                    None => drop(new.remove(&number)),
                }
            };
            // A run of names goes, so that whole leaves do.
            if let Some((from, count)) = cut {
                (from..from + count).for_each(|number| note(number, false));
            }
            for (number, stays) in edits {
                note(number, stays);
            }
            let wanted = build(&objects, new.into_values().collect());
            let mut opened = OpenedDirectory::open(&objects, root).unwrap();
            for name in changed.keys() {
                let found = opened.find(&objects, name).unwrap().cloned();
                prop_assert_eq!(found, old.get(name).cloned());
            }
            prop_assert_eq!(opened.edit(&objects, changed).unwrap(), wanted);
        }
    }

    #[test]
    fn leaves_that_were_cut_for_their_length_are_cut_anew() {
        let objects = MemoryObjects::default();
        // Names of which none begins a leaf.
        let mut plain = (0u32..).map(|i| entry(i, 0)).filter(|entry| !begins_leaf(&entry.name));
        let all: Vec<Entry> = plain.by_ref().take(5000).collect();
        let (root, _) = build(&objects, all.clone());
        for gone in [0, 1, 1023, 1024, 2500, 4999] {
            let mut less = all.clone();
            let name = less.remove(gone).name;
            let opened = OpenedDirectory::open(&objects, root).unwrap();
            let edited = opened.edit(&objects, [(name, None)].into()).unwrap();
            assert_eq!(edited, build(&objects, less), "without {gone}");
        }
    }

    #[test]
    fn an_edit_among_many_reads_few_nodes() {
        let objects = MemoryObjects::default();
        let (root, _) = build(&objects, (0..100_000).map(|i| entry(i, 0)).collect());
        let before = objects.0.lock().unwrap().len();
        let opened = OpenedDirectory::open(&objects, root).unwrap();
        opened.edit(&objects, [(entry(5, 1).name, Some(entry(5, 1)))].into()).unwrap();
        let new = objects.0.lock().unwrap().len() - before;
        assert!(new <= 4, "{new} new nodes");
    }
}

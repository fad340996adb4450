//! Directories of a tree, across the nodes of wide ones.
//!
//! - [`edit`]: some of its entries replaced
//!
//! **Invariant:** what a node says of the nodes below it (first name, sums, level) is checked against
//! them before it is used; and where a whole directory is visited, names ascend strictly across it.

mod edit;

use std::collections::HashSet;

use baton_protocol::id::{ObjectId, TreeId};
use baton_protocol::object::{Entry, EntryKind, Tree, TreeChild, TreeSums};
use baton_protocol::path::RelPath;

use crate::error::StoreError;
use crate::objects::ObjectSource;

pub(crate) use edit::{Edits, OpenedDirectory};

/// One node of a directory.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: TreeId,
    pub(crate) tree: Tree,
}

impl Node {
    /// Distance from the leaves.
    pub(crate) const fn level(&self) -> u8 {
        match &self.tree {
            Tree::Leaf(_) => 0,
            Tree::Node { level, .. } => *level,
        }
    }
}

/// The nodes in which two directories differ, on each side those of higher levels first.
#[derive(Debug, Default)]
pub(crate) struct Difference {
    pub(crate) old: Vec<Node>,
    pub(crate) new: Vec<Node>,
}

/// A node that is loaded, or one that a node of this level names.
enum Item {
    Loaded(Node),
    Named(TreeChild, u8),
}

impl Item {
    const fn id(&self) -> TreeId {
        match self {
            Self::Loaded(node) => node.id,
            Self::Named(child, _) => child.id,
        }
    }
}

/// Visits the entries of a directory, ascending by name, and returns its sums.
///
/// The sums of directories in it are believed.
pub fn for_each_entry<S: ObjectSource + ?Sized, E: From<StoreError>>(
    source: &S,
    directory: TreeId,
    mut visit: impl FnMut(Entry) -> Result<(), E>,
) -> Result<TreeSums, E> {
    let root = load(source, directory)?;
    let sums = root.tree.sums();
    let mut last: Option<Vec<u8>> = None;
    // Levels are bounded by the format, so a few lists of nodes are held at most.
    let mut stack = vec![Item::Loaded(root)];
    while let Some(item) = stack.pop() {
        let Node { id, tree } = item_node(source, item)?;
        match tree {
            Tree::Leaf(entries) => {
                for entry in entries {
                    if last.as_ref().is_some_and(|last| *last >= entry.name) {
                        return Err(StoreError::DamagedObject(id.into()).into());
                    }
                    last = Some(entry.name.clone());
                    visit(entry)?;
                }
            }
            Tree::Node { level, children } => {
                stack.extend(children.into_iter().rev().map(|child| Item::Named(child, level)));
            }
        }
    }
    Ok(sums)
}

/// The entry at a path below a directory, where there is one.
pub fn find_entry<S: ObjectSource + ?Sized>(
    source: &S,
    directory: TreeId,
    path: &RelPath,
) -> Result<Option<Entry>, StoreError> {
    let mut directory = directory;
    let mut names = path.components().peekable();
    while let Some(name) = names.next() {
        let mut found = None;
        for_each_entry(source, directory, |entry| {
            if entry.name == name {
                found = Some(entry);
            }
            Ok::<_, StoreError>(())
        })?;
        match (found, names.peek()) {
            (Some(entry), None) => return Ok(Some(entry)),
            (Some(Entry { kind: EntryKind::Directory { tree, .. }, .. }), Some(_)) => {
                directory = tree;
            }
            _ => return Ok(None),
        }
    }
    Ok(None)
}

/// Finds the nodes in which two directories differ, and reads no others.
pub(crate) fn compare<S: ObjectSource + ?Sized>(
    source: &S,
    old: Option<TreeId>,
    new: Option<TreeId>,
) -> Result<Difference, StoreError> {
    let mut found = Difference::default();
    if old == new {
        return Ok(found);
    }
    let start = |id: Option<TreeId>| id.map(|id| load(source, id)).transpose();
    let mut old: Vec<Node> = start(old)?.into_iter().collect();
    let mut new: Vec<Node> = start(new)?.into_iter().collect();
    while let Some(level @ 1..) = old.iter().chain(&new).map(Node::level).max() {
        let below_old = expand(old, level, &mut found.old);
        let below_new = expand(new, level, &mut found.new);
        let ids = |items: &[Item]| items.iter().map(Item::id).collect::<HashSet<_>>();
        let (ids_old, ids_new) = (ids(&below_old), ids(&below_new));
        let differing = |items: Vec<Item>, other: &HashSet<TreeId>| {
            let items = items.into_iter().filter(|item| !other.contains(&item.id()));
            items.map(|item| item_node(source, item)).collect::<Result<Vec<_>, _>>()
        };
        old = differing(below_old, &ids_new)?;
        new = differing(below_new, &ids_old)?;
    }
    found.old.append(&mut old);
    found.new.append(&mut new);
    Ok(found)
}

/// Puts what the nodes of this level name in their place, and them into `done`.
fn expand(nodes: Vec<Node>, at: u8, done: &mut Vec<Node>) -> Vec<Item> {
    let mut items = Vec::new();
    for node in nodes {
        match &node.tree {
            Tree::Node { level, children } if *level == at => {
                items.extend(children.iter().map(|child| Item::Named(child.clone(), at)));
                done.push(node);
            }
            _ => items.push(Item::Loaded(node)),
        }
    }
    items
}

fn item_node<S: ObjectSource + ?Sized>(source: &S, item: Item) -> Result<Node, StoreError> {
    match item {
        Item::Loaded(node) => Ok(node),
        Item::Named(child, above) => {
            let node = load(source, child.id)?;
            let agrees = node.level() < above
                && node.tree.first_name() == Some(child.first.as_slice())
                && node.tree.sums() == child.below;
            if agrees { Ok(node) } else { Err(StoreError::DamagedObject(child.id.into())) }
        }
    }
}

/// What stands below a directory.
pub fn sums_of<S: ObjectSource + ?Sized>(
    source: &S,
    directory: TreeId,
) -> Result<TreeSums, StoreError> {
    Ok(load(source, directory)?.tree.sums())
}

fn load<S: ObjectSource + ?Sized>(source: &S, id: TreeId) -> Result<Node, StoreError> {
    let object = ObjectId::from(id);
    let tree =
        Tree::decode(&source.require(&object)?).map_err(|_| StoreError::DamagedObject(object))?;
    Ok(Node { id, tree })
}

#[cfg(test)]
pub(crate) mod tests {
    use baton_protocol::id::{ChunkId, ObjectKind};
    use baton_protocol::object::{Blob, Content, EntryKind, build_tree};

    use super::*;
    use crate::objects::ObjectSink;
    use crate::objects::memory::MemoryObjects;

    fn entry(name: &str, content: &str) -> Entry {
        let content = Content::Chunk(ChunkId::of(content.as_bytes()));
        let kind = EntryKind::File { mode: 0o644, blob: Blob { size: 1, content } };
        Entry { name: name.as_bytes().to_vec(), kind }
    }

    /// A directory of `count` files, of which one may have another content.
    fn directory(objects: &MemoryObjects, count: usize, changed: Option<usize>) -> TreeId {
        let content = |i| if Some(i) == changed { "changed" } else { "same" };
        let mut entries: Vec<_> =
            (0..count).map(|i| entry(&format!("{i:06}"), content(i))).collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let put = |_, _: &Tree, bytes: Vec<u8>| objects.put(ObjectKind::Tree, &bytes).map(|_| ());
        build_tree(entries, put).unwrap().0
    }

    fn put(objects: &MemoryObjects, tree: &Tree) -> TreeId {
        TreeId::from_bytes(objects.put(ObjectKind::Tree, &tree.encode()).unwrap().hash)
    }

    #[test]
    fn wide_directories_are_one_list() {
        let objects = MemoryObjects::default();
        for count in [0, 1, 256, 257, 40_000] {
            let root = directory(&objects, count, None);
            let mut seen = 0;
            let sums = for_each_entry(&objects, root, |entry| {
                assert_eq!(entry.name, format!("{seen:06}").as_bytes());
                seen += 1;
                Ok::<_, StoreError>(())
            })
            .unwrap();
            assert_eq!((seen, sums.files), (count, count as u64));
        }
    }

    #[test]
    fn comparing_reads_only_what_differs() {
        let objects = MemoryObjects::default();
        let old = directory(&objects, 40_000, None);
        let new = directory(&objects, 40_000, Some(12_345));
        let found = compare(&objects, Some(old), Some(new)).unwrap();
        assert_eq!(found.old.len(), found.new.len());
        assert!(found.new.len() <= 3, "{}", found.new.len());
        assert!(found.new.last().is_some_and(|node| node.level() == 0));
        let small = directory(&objects, 3, None);
        let found = compare(&objects, Some(small), Some(new)).unwrap();
        assert_eq!(found.old.len(), 1);
        assert!(found.new.len() > 100);
        assert!(compare(&objects, Some(old), Some(old)).unwrap().new.is_empty());
        assert_eq!(compare(&objects, None, Some(small)).unwrap().new.len(), 1);
    }

    #[test]
    fn nodes_that_lie_about_others_are_refused() {
        let objects = MemoryObjects::default();
        let a = put(&objects, &Tree::Leaf(vec![entry("a", "1"), entry("m", "1")]));
        let b = put(&objects, &Tree::Leaf(vec![entry("b", "1")]));
        let n = put(&objects, &Tree::Leaf(vec![entry("n", "1")]));
        let two = TreeSums { files: 2, bytes: 2 };
        let one = TreeSums { files: 1, bytes: 1 };
        let child = |first: &str, id, below| TreeChild { first: first.into(), id, below };
        let node = |children| put(&objects, &Tree::Node { level: 1, children });
        let visit = |id| for_each_entry(&objects, id, |_| Ok::<_, StoreError>(()));
        assert!(visit(node(vec![child("a", a, two), child("n", n, one)])).is_ok());
        for bad in [
            // Names that do not ascend across the nodes.
            vec![child("a", a, two), child("b", b, one)],
            // Another first name, other sums.
            vec![child("a", a, two), child("o", n, one)],
            vec![child("a", a, one), child("n", n, one)],
        ] {
            assert!(visit(node(bad)).unwrap_err().is_corruption());
        }
        let inner = node(vec![child("a", a, two), child("n", n, one)]);
        let three = TreeSums { files: 3, bytes: 3 };
        let b = put(&objects, &Tree::Leaf(vec![entry("z", "1")]));
        assert!(visit(node(vec![child("a", inner, three), child("z", b, one)])).is_err());
    }
}

//! Directories of any width: one shape for each set of entries, and little of it new after an edit.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::convert::Infallible;

use proptest::prelude::*;

use super::*;
use crate::id::ChunkId;
use crate::object::{Content, MAX_OBJECT};

fn file(content: u64) -> EntryKind {
    let content = Content::Chunk(ChunkId::of(&content.to_le_bytes()));
    EntryKind::File { mode: 0o644, blob: Blob { size: 8, content } }
}

fn directory(names: impl IntoIterator<Item = (Vec<u8>, u64)>) -> BTreeMap<Vec<u8>, EntryKind> {
    names.into_iter().map(|(name, content)| (name, file(content))).collect()
}

struct Built {
    root: TreeId,
    sums: TreeSums,
    nodes: HashMap<TreeId, Tree>,
}

/// Builds, and checks what holds for every node.
fn build(entries: &BTreeMap<Vec<u8>, EntryKind>) -> Built {
    let entries = entries.iter().map(|(name, &kind)| Entry { name: name.clone(), kind }).collect();
    let mut nodes = HashMap::new();
    let mut last = None;
    let (root, sums) = build_tree::<Infallible>(entries, |id, tree, bytes| {
        assert_eq!(TreeId::of(&bytes), id);
        assert!(bytes.len() <= MAX_OBJECT);
        assert_eq!(Tree::decode(&bytes).as_ref(), Ok(tree));
        if let Tree::Node { level, children } = tree {
            for child in children {
                let below: &Tree = &nodes[&child.id];
                assert!(below.level() < *level);
                assert_eq!(below.first_name(), Some(child.first.as_slice()));
                assert_eq!(below.sums(), child.below);
            }
        }
        nodes.insert(id, tree.clone());
        last = Some(id);
        Ok(())
    })
    .unwrap();
    assert_eq!(last, Some(root));
    Built { root, sums, nodes }
}

impl Built {
    fn read(&self, id: TreeId, to: &mut BTreeMap<Vec<u8>, EntryKind>) {
        match &self.nodes[&id] {
            Tree::Leaf(entries) => {
                to.extend(entries.iter().map(|entry| (entry.name.clone(), entry.kind)));
            }
            Tree::Node { children, .. } => {
                for child in children {
                    self.read(child.id, to);
                }
            }
        }
    }

    fn new_since(&self, old: &Self) -> usize {
        self.nodes.keys().filter(|id| !old.nodes.contains_key(id)).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn what_is_built_reads_back(
        count in prop_oneof![0..600usize, 0..20_000usize],
        salt: u32,
    ) {
        let entries =
            directory((0..count as u64).map(|i| (format!("{salt} {i}").into_bytes(), i)));
        let built = build(&entries);
        let mut read = BTreeMap::new();
        built.read(built.root, &mut read);
        prop_assert_eq!(&read, &entries);
        prop_assert_eq!(built.sums.files, count as u64);
        prop_assert_eq!(built.sums.bytes, 8 * count as u64);
        prop_assert_eq!(build(&entries).root, built.root);
        prop_assert!(built.nodes.len() == 1 || count > TREE_SINGLE_MAX);
        prop_assert!(built.nodes.len() > 1 || count <= TREE_NODE_MAX);
    }

    #[test]
    fn history_leaves_no_trace(
        names in prop::collection::hash_set(0..3000u64, 500..1500),
        others in prop::collection::vec(3000..6000u64, 0..300),
    ) {
        let named = |i: u64| format!("f{i}").into_bytes();
        let straight = build(&directory(names.iter().map(|&i| (named(i), i))));
        // The same set by a detour: other names come and go, and contents change back.
        let mut entries = directory(others.iter().map(|&i| (named(i), i)));
        entries.extend(directory(names.iter().map(|&i| (named(i), i + 1))));
        build(&entries);
        entries.retain(|name, _| !others.iter().any(|&i| named(i) == *name));
        entries.extend(directory(names.iter().map(|&i| (named(i), i))));
        prop_assert_eq!(build(&entries).root, straight.root);
    }
}

#[test]
fn an_edit_among_100_000_names_makes_few_new_nodes() {
    let mut entries = directory((0..100_000).map(|i| (format!("file-{i}").into_bytes(), i)));
    let before = build(&entries);
    assert!((500..2000).contains(&before.nodes.len()), "{} nodes", before.nodes.len());

    entries.insert(b"file-50000".to_vec(), file(0));
    let edited = build(&entries);
    assert!(edited.new_since(&before) <= 3, "{} new", edited.new_since(&before));

    entries.insert(b"file-50000-more".to_vec(), file(1));
    let added = build(&entries);
    assert!(added.new_since(&edited) <= 6, "{} new", added.new_since(&edited));

    entries.remove(b"file-7777".as_slice());
    let removed = build(&entries);
    assert!(removed.new_since(&added) <= 6, "{} new", removed.new_since(&added));
}

#[test]
fn names_chosen_to_end_every_leaf_still_make_a_tree() {
    let entries = directory(
        (0u64..)
            .map(|i| (format!("{i}").into_bytes(), i))
            .filter(|(name, _)| is_boundary(name, 0))
            .take(2000),
    );
    let built = build(&entries);
    let mut read = BTreeMap::new();
    built.read(built.root, &mut read);
    assert_eq!(read, entries);
    assert!(built.nodes.len() > 2000);
}

#[test]
fn names_chosen_to_end_no_leaf_make_leaves_of_the_largest_size() {
    let entries = directory(
        (0u64..)
            .map(|i| (format!("{i}").into_bytes(), i))
            .filter(|(name, _)| !is_boundary(name, 0))
            .take(5 * TREE_NODE_MAX),
    );
    // A root and five leaves, each of which was decoded.
    assert_eq!(build(&entries).nodes.len(), 6);
}

#[test]
fn levels_look_at_bits_of_their_own() {
    let names: Vec<_> = (0..100_000u32).map(u32::to_le_bytes).collect();
    let ends = |level| -> HashSet<_> {
        names.iter().filter(|name| is_boundary(&name[..], level)).collect()
    };
    for level in 0..=MAX_LEVEL {
        let count = ends(level).len();
        assert!((500..1200).contains(&count), "{count} boundaries at level {level}");
    }
    assert!(ends(0).intersection(&ends(1)).count() < 30);
}

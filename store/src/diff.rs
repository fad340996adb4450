//! What differs between two trees.
//!
//! Not here: what differs within a file.
//!
//! **Invariant:** equal subtrees are not read, so that the cost follows the difference.

use baton_protocol::id::TreeId;
use baton_protocol::object::{Entry, EntryKind, Tree};
use baton_protocol::path::{MAX_PATH, RelPath};

use crate::error::StoreError;
use crate::objects::ObjectSource;
use crate::trees::{Node, compare};

/// One path that differs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Relative to the root of both trees.
    pub path: RelPath,
    /// How.
    pub kind: ChangeKind,
}

/// How a path differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// It stands in the new tree only.
    Added,
    /// It stands in the old tree only.
    Removed,
    /// Another content: of a file, or the target of a link.
    Modified,
    /// Other permission bits, the same content.
    Mode,
    /// A file, a link and a directory are three things. What is below the directory is listed, too.
    Type,
}

impl ChangeKind {
    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Modified => "modified",
            Self::Mode => "mode",
            Self::Type => "type",
        }
    }
}

/// Most entries that are compared: two checkouts of the largest size. Few objects can name each other so
/// that they stand for more entries than anybody can list.
const MAX_COMPARED: u64 = 1 << 25;

/// Lists what differs, ascending by path. Directories are listed where only they differ: an empty
/// one that came or went, and one with another mode.
pub fn diff<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::new();
    for_each_change(source, old, new, MAX_COMPARED, |path, kind| {
        changes.push(Change { path: path.clone(), kind });
    })?;
    changes.sort_unstable();
    Ok(changes)
}

/// Counts what differs.
pub fn count_changes<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
) -> Result<u64, StoreError> {
    let mut count = 0;
    for_each_change(source, old, new, MAX_COMPARED, |_, _| count += 1)?;
    Ok(count)
}

/// Two directories at the same path, of which at least one is there.
struct Pair {
    path: RelPath,
    old: Option<TreeId>,
    new: Option<TreeId>,
    /// Whether the path was visited, because a directory took the place of something else.
    is_told: bool,
}

/// Visits what differs, in no order; fails where that are more than `limit` entries.
fn for_each_change<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
    limit: u64,
    mut visit: impl FnMut(&RelPath, ChangeKind),
) -> Result<(), StoreError> {
    let root = RelPath::root();
    let mut pairs = vec![Pair { path: root, old: Some(old), new: Some(new), is_told: true }];
    let mut compared = 0;
    while let Some(Pair { path, old, new, is_told }) = pairs.pop() {
        let found = compare(source, old, new)?;
        let is_empty =
            found.old.iter().chain(&found.new).all(|node| node.tree.first_name().is_none());
        match (old, new) {
            (None, Some(_)) if is_empty && !is_told => visit(&path, ChangeKind::Added),
            (Some(_), None) if is_empty && !is_told => visit(&path, ChangeKind::Removed),
            _ => {}
        }
        for (old, new) in pair_entries(found.old, found.new) {
            let Some(entry) = new.as_ref().or(old.as_ref()) else { continue };
            compared += 1;
            if compared > limit {
                return Err(StoreError::TooMany { what: "entries that differ", limit });
            }
            let path = path.join(&entry.name);
            if path.as_bytes().len() > MAX_PATH {
                return Err(StoreError::DamagedObject(entry.content()));
            }
            let directory = |entry: &Option<Entry>| match entry.as_ref()?.kind {
                EntryKind::Directory { tree, .. } => Some(tree),
                _ => None,
            };
            let (old_tree, new_tree) = (directory(&old), directory(&new));
            let change = change_of(old.as_ref(), new.as_ref());
            if let Some(kind) = change {
                visit(&path, kind);
            }
            if old_tree != new_tree {
                let is_told = change.is_some();
                pairs.push(Pair { path, old: old_tree, new: new_tree, is_told });
            }
        }
    }
    Ok(())
}

/// How an entry itself differs. A directory that came or went is told by what is in it.
fn change_of(old: Option<&Entry>, new: Option<&Entry>) -> Option<ChangeKind> {
    use EntryKind::{Directory, File, Symlink};
    let (old, new) = match (old, new) {
        (Some(old), Some(new)) => (old.kind, new.kind),
        (None, None) => return None,
        (None, Some(new)) => {
            return (!matches!(new.kind, Directory { .. })).then_some(ChangeKind::Added);
        }
        (Some(old), None) => {
            return (!matches!(old.kind, Directory { .. })).then_some(ChangeKind::Removed);
        }
    };
    match (old, new) {
        (File { blob: a, .. }, File { blob: b, .. }) if a != b => Some(ChangeKind::Modified),
        (File { mode: a, .. }, File { mode: b, .. })
        | (Directory { mode: a, .. }, Directory { mode: b, .. }) => {
            (a != b).then_some(ChangeKind::Mode)
        }
        (Symlink { target: a }, Symlink { target: b }) => (a != b).then_some(ChangeKind::Modified),
        _ => Some(ChangeKind::Type),
    }
}

/// Brings together the entries of the same name, without those that are equal.
pub(crate) fn pair_entries(
    old: Vec<Node>,
    new: Vec<Node>,
) -> impl Iterator<Item = (Option<Entry>, Option<Entry>)> {
    let leaves = |nodes: Vec<Node>| {
        let entries = nodes.into_iter().filter_map(|node| match node.tree {
            Tree::Leaf(entries) => Some(entries),
            Tree::Node { .. } => None,
        });
        entries.flatten().peekable()
    };
    let (mut old, mut new) = (leaves(old), leaves(new));
    let pairs = std::iter::from_fn(move || {
        Some(match (old.peek(), new.peek()) {
            (None, None) => return None,
            (Some(a), Some(b)) if a.name == b.name => (old.next(), new.next()),
            (Some(a), Some(b)) if a.name < b.name => (old.next(), None),
            (Some(_), None) => (old.next(), None),
            _ => (None, new.next()),
        })
    });
    pairs.filter(|(old, new)| old != new)
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::ObjectKind;
    use baton_protocol::object::build_tree;

    use super::*;
    use crate::chunk::store_bytes;
    use crate::objects::ObjectSink;
    use crate::objects::memory::MemoryObjects;

    fn tree(objects: &MemoryObjects, mut entries: Vec<(String, EntryKind)>) -> EntryKind {
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        let entries = entries.into_iter().map(|(name, kind)| Entry { name: name.into(), kind });
        let put = |_, _: &Tree, bytes: Vec<u8>| objects.put(ObjectKind::Tree, &bytes).map(|_| ());
        let (tree, below) = build_tree(entries.collect(), put).unwrap();
        EntryKind::Directory { mode: 0o755, tree, below }
    }

    fn file(objects: &MemoryObjects, mode: u16, content: &str) -> EntryKind {
        EntryKind::File { mode, blob: store_bytes(content.as_bytes(), objects).unwrap() }
    }

    fn link(objects: &MemoryObjects, target: &str) -> EntryKind {
        EntryKind::Symlink { target: store_bytes(target.as_bytes(), objects).unwrap() }
    }

    fn id(kind: EntryKind) -> TreeId {
        let EntryKind::Directory { tree, .. } = kind else { panic!("a directory") };
        tree
    }

    #[test]
    fn every_kind_of_change_is_told_once() {
        let o = MemoryObjects::default();
        let at = |name: &str, kind| (name.to_owned(), kind);
        let same = tree(&o, vec![at("deep", file(&o, 0o644, "x"))]);
        let old = tree(
            &o,
            vec![
                at("a", tree(&o, vec![at("x", file(&o, 0o644, "1"))])),
                at("a.txt", file(&o, 0o644, "1")),
                at("empty", tree(&o, vec![])),
                at("gone", tree(&o, vec![at("y", file(&o, 0o644, "1"))])),
                at("kind", file(&o, 0o644, "1")),
                at("l", link(&o, "1")),
                at("mode", file(&o, 0o644, "1")),
                at("same", same),
                at("to-dir", file(&o, 0o644, "1")),
            ],
        );
        let EntryKind::Directory { tree: same_tree, below, .. } = same else { panic!() };
        let new = tree(
            &o,
            vec![
                at("a", tree(&o, vec![at("x", file(&o, 0o600, "2"))])),
                at("a.txt", file(&o, 0o644, "1")),
                at("kind", link(&o, "1")),
                at("l", link(&o, "2")),
                at("mode", file(&o, 0o755, "1")),
                at("new", tree(&o, vec![])),
                at("same", EntryKind::Directory { mode: 0o700, tree: same_tree, below }),
                at("to-dir", tree(&o, vec![])),
            ],
        );
        let told: Vec<_> = diff(&o, id(old), id(new))
            .unwrap()
            .into_iter()
            .map(|change| (change.path.display().into_owned(), change.kind.name()))
            .collect();
        let expected = [
            ("a/x", "modified"),
            ("empty", "removed"),
            ("gone/y", "removed"),
            ("kind", "type"),
            ("l", "modified"),
            ("mode", "mode"),
            ("new", "added"),
            ("same", "mode"),
            ("to-dir", "type"),
        ];
        assert_eq!(told, expected.map(|(path, kind)| (path.to_owned(), kind)));
        assert_eq!(count_changes(&o, id(old), id(new)).unwrap(), 9);
        assert_eq!(diff(&o, id(old), id(old)).unwrap(), []);
    }

    #[test]
    fn a_tree_that_grows_without_end_is_not_listed_to_its_end() {
        let o = MemoryObjects::default();
        let copies = |kind| tree(&o, (0..9).map(|i| (i.to_string(), kind)).collect());
        let mut kind = tree(&o, vec![]);
        let empty = id(kind);
        for _ in 0..4 {
            kind = copies(kind);
        }
        let count = |limit| {
            let mut seen = 0;
            for_each_change(&o, empty, id(kind), limit, |_, _| seen += 1).map(|()| seen)
        };
        // Told are the empty ones, compared are all.
        let all = 9 + 81 + 729 + 6561;
        assert_eq!(count(all).unwrap(), 6561);
        assert!(matches!(count(all - 1), Err(StoreError::TooMany { .. })));
    }

    #[test]
    fn wide_directories_differ_by_name() {
        let o = MemoryObjects::default();
        let wide = |skip: usize| {
            let files = (0..5000).filter(|&i| i != skip);
            tree(&o, files.map(|i| (format!("{i:05}"), file(&o, 0o644, "x"))).collect())
        };
        let kinds = |a, b| {
            let changes = diff(&o, id(wide(a)), id(wide(b))).unwrap();
            changes.iter().map(|c| (c.path.display().into_owned(), c.kind)).collect::<Vec<_>>()
        };
        let added = ("00007".to_owned(), ChangeKind::Added);
        assert_eq!(kinds(7, 3000), [added, ("03000".to_owned(), ChangeKind::Removed)]);
    }
}

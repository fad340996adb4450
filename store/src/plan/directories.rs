//! Nodes of directories, and the content of what is in them.
//!
//! Two passes over the pairs of directories that differ. The first collects what the old side has
//! at those places, so that a renamed file or directory is not sent again, and what is gone from there;
//! the second plans. What is new is told apart from what is gone under the same or a similar name: it may
//! be that, moved and edited.

use baton_protocol::id::{ObjectId, TreeId};
use baton_protocol::object::{Blob, Entry, EntryKind};

use super::Plan;
use crate::diff::pair_entries;
use crate::error::StoreError;
use crate::objects::ObjectSource;
use crate::trees::{Node, compare};

/// Pairs of directories, and entries of each, that are kept from the first pass to the second: more than a
/// usual edit has.
const MAX_KEPT: usize = 64;

/// Entries that are gone among which the older form of a new one is looked for. Each new one is held against
/// each of them.
const MAX_GONE: usize = 64;

/// What differs between two directories.
pub(super) struct Compared {
    old: Vec<Place>,
    new: Vec<Place>,
    entries: Vec<(Option<Entry>, Option<Entry>)>,
}

/// A node, and where it stands in its directory.
struct Place {
    id: TreeId,
    level: u8,
    first: Option<Vec<u8>>,
}

impl Place {
    fn of(node: &Node) -> Self {
        let first = node.tree.first_name().map(Into::into);
        Self { id: node.id, level: node.level(), first }
    }
}

impl<S: ObjectSource + ?Sized> Plan<'_, S> {
    /// Plans a tree.
    pub(super) fn directories(&mut self, old: TreeId, new: TreeId) -> Result<(), StoreError> {
        self.note_old(old, new)?;
        let mut pairs = vec![(Some(old), new)];
        while let Some((old, new)) = pairs.pop() {
            if old == Some(new) || self.has.contains(&ObjectId::from(new)) {
                continue;
            }
            let kept = old.and_then(|old| self.kept.remove(&(old, new)));
            let found = match kept {
                Some(found) => found,
                None => self.compare(old, new)?,
            };
            self.nodes(&found);
            for (old, new) in found.entries {
                let Some(new) = new else { continue };
                let old = old.or_else(|| self.gone_like(&new).cloned());
                match new.kind {
                    EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob } => {
                        self.blob(old.as_ref().and_then(blob_of), blob)?;
                    }
                    EntryKind::Directory { tree, .. } => {
                        pairs.push((old.as_ref().and_then(tree_of), tree));
                    }
                }
            }
        }
        Ok(())
    }

    /// Collects what the old side has where the two sides differ.
    fn note_old(&mut self, old: TreeId, new: TreeId) -> Result<(), StoreError> {
        let mut pairs = vec![(old, new)];
        while let Some((old, new)) = pairs.pop() {
            let found = self.compare(Some(old), new)?;
            self.has.extend(found.old.iter().map(|node| ObjectId::from(node.id)));
            for (old, new) in &found.entries {
                let Some(old) = old else { continue };
                self.has.insert(old.content());
                if new.is_none() && self.gone.len() < MAX_GONE {
                    self.gone.push(old.clone());
                }
                let new = new.as_ref().and_then(tree_of);
                if let (Some(old), Some(new)) = (tree_of(old), new)
                    && old != new
                {
                    pairs.push((old, new));
                }
            }
            if self.kept.len() < MAX_KEPT && found.entries.len() <= MAX_KEPT {
                self.kept.insert((old, new), found);
            }
        }
        Ok(())
    }

    /// What a new entry may have been: of the same kind, with the most like name, the first of several.
    fn gone_like(&self, new: &Entry) -> Option<&Entry> {
        let same_kind = |old: &&Entry| tree_of(old).is_some() == tree_of(new).is_some();
        let rated = self.gone.iter().rev().filter(same_kind);
        let rated = rated.map(|old| (likeness(&old.name, &new.name), old));
        rated
            .filter(|(likeness, _)| *likeness > 0)
            .max_by_key(|(likeness, _)| *likeness)
            .map(|(_, old)| old)
    }

    fn compare(&self, old: Option<TreeId>, new: TreeId) -> Result<Compared, StoreError> {
        let found = compare(self.source, old, Some(new))?;
        let places = |nodes: &[Node]| nodes.iter().map(Place::of).collect();
        let (old, new) = (places(&found.old), places(&found.new));
        Ok(Compared { old, new, entries: pair_entries(found.old, found.new).collect() })
    }

    /// Plans the nodes of one directory that the old side does not have.
    fn nodes(&mut self, found: &Compared) {
        for node in &found.new {
            let base = base_of(node, &found.old);
            self.emit(node.id.into(), base.map(|base| base.id.into()));
        }
    }
}

/// The old node of the same level that covers the first name, or is the nearest to it; else the
/// first, which is the root of the old directory.
fn base_of<'a>(new: &Place, old: &'a [Place]) -> Option<&'a Place> {
    let same = || old.iter().filter(|old| old.level == new.level);
    let before = same().rfind(|old| old.first <= new.first);
    before.or_else(|| same().next()).or_else(|| old.first())
}

/// How like two names are: nothing unless they are the same, or end in the same suffix.
fn likeness(old: &[u8], new: &[u8]) -> usize {
    if old == new {
        return usize::MAX;
    }
    let suffix = |name: &[u8]| {
        let at = name.iter().rposition(|&byte| byte == b'.')?;
        Some(name.len() - at)
    };
    let begins = old.iter().zip(new).take_while(|(old, new)| old == new).count();
    let ends = old.iter().rev().zip(new.iter().rev()).take_while(|(old, new)| old == new).count();
    // The shorter of two suffixes that ends the other name, too, is that name's.
    if suffix(new).is_some_and(|suffix| suffix <= ends) { begins + ends } else { 0 }
}

fn blob_of(entry: &Entry) -> Option<Blob> {
    match entry.kind {
        EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob } => Some(blob),
        EntryKind::Directory { .. } => None,
    }
}

fn tree_of(entry: &Entry) -> Option<TreeId> {
    match entry.kind {
        EntryKind::Directory { tree, .. } => Some(tree),
        _ => None,
    }
}

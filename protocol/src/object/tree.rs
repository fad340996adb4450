//! One directory: entries strictly ascending by raw name bytes.
//!
//! A directory of up to [`TREE_SINGLE_MAX`] entries is one leaf. A wider one splits into leaves of
//! 128 entries on average, under nodes that list them; where a leaf ends depends on a hash of the
//! *name* alone, so that editing content never moves a boundary.
//!
//! **Invariant:** the same entries always make the same nodes, whatever the history.

use super::Blob;
use crate::encode::{DecodeError, Reader, Writer};
use crate::id::{ObjectId, TreeId};
use crate::path::{MAX_NAME, check_name};

/// Most entries of a directory that is one node.
pub const TREE_SINGLE_MAX: usize = 256;

/// Most entries of a node.
pub const TREE_NODE_MAX: usize = 1024;

/// Longest symlink target in bytes: Linux `PATH_MAX` without its NUL.
const MAX_TARGET: u64 = 4095;

/// Highest level of a node. Five levels hold more names than any directory has; names that are chosen
/// to end a node each can need more, and each level beyond costs who chooses them 128 times the work.
const MAX_LEVEL: u8 = 8;

/// The permission bits that are kept.
const MODE_MASK: u64 = 0o777;

/// Files, directories and bytes below a directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TreeSums {
    /// Entries that are not directories.
    pub files: u64,
    /// Sum of the sizes of regular files.
    pub bytes: u64,
}

impl TreeSums {
    /// Adds without overflow: sums come from a peer, too.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            files: self.files.saturating_add(other.files),
            bytes: self.bytes.saturating_add(other.bytes),
        }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File {
        /// Permission bits, at most `0o777`.
        mode: u16,
        /// Its bytes.
        blob: Blob,
    },
    /// A symbolic link; the blob is its target, of 1 to 4,095 bytes.
    Symlink {
        /// The target, always one chunk.
        target: Blob,
    },
    /// A directory.
    Directory {
        /// Permission bits, at most `0o777`.
        mode: u16,
        /// Its entries.
        tree: TreeId,
        /// What lies below it.
        below: TreeSums,
    },
}

/// One name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Raw bytes, checked by [`check_name`].
    pub name: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
}

impl Entry {
    /// What this entry adds to its directory.
    pub const fn sums(&self) -> TreeSums {
        match self.kind {
            EntryKind::File { blob, .. } => TreeSums { files: 1, bytes: blob.size },
            EntryKind::Symlink { .. } => TreeSums { files: 1, bytes: 0 },
            EntryKind::Directory { below, .. } => below,
        }
    }

    /// The object that holds its content.
    pub fn content(&self) -> ObjectId {
        match self.kind {
            EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob } => blob.content.id(),
            EntryKind::Directory { tree, .. } => tree.into(),
        }
    }
}

/// A node of a lower level in a wide directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeChild {
    /// The first name below it.
    pub first: Vec<u8>,
    /// The node.
    pub id: TreeId,
    /// What lies below it.
    pub below: TreeSums,
}

/// A directory, or one node of a wide one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree {
    /// Entries.
    Leaf(Vec<Entry>),
    /// Nodes of lower levels, ascending by first name.
    Node {
        /// Distance from the leaves, 1 to 8. Mostly a child is of the level below; where that would
        /// be a node of one child, it is that child.
        level: u8,
        /// At least two.
        children: Vec<TreeChild>,
    },
}

const FILE: u8 = 0;
const SYMLINK: u8 = 1;
const DIRECTORY: u8 = 2;

impl Tree {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        match self {
            Self::Leaf(entries) => {
                to.byte(0);
                to.varint(entries.len() as u64);
                for entry in entries {
                    write_entry(&mut to, entry);
                }
            }
            Self::Node { level, children } => {
                to.byte(*level);
                to.varint(children.len() as u64);
                for child in children {
                    to.bytes(&child.first);
                    to.fixed(child.id.as_bytes());
                    write_sums(&mut to, child.below);
                }
            }
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let level = from.bounded("tree level", u64::from(MAX_LEVEL))? as u8;
        // A symlink of one byte: kind, name, target. A child: name, id, two sums.
        let least = if level == 0 { 1 + 2 + Blob::LEAST } else { 2 + TreeId::LEN + 2 };
        let count = from.count("tree entries", TREE_NODE_MAX, least)?;
        let tree = if level == 0 {
            let mut entries: Vec<Entry> = Vec::with_capacity(count);
            for _ in 0..count {
                let entry = read_entry(&mut from)?;
                if entries.last().is_some_and(|last| last.name >= entry.name) {
                    return Err(DecodeError::Order { what: "tree entries" });
                }
                entries.push(entry);
            }
            Self::Leaf(entries)
        } else {
            if count < 2 {
                return Err(DecodeError::Inconsistent { what: "number of tree nodes" });
            }
            let mut children: Vec<TreeChild> = Vec::with_capacity(count);
            for _ in 0..count {
                let first = read_name(&mut from)?;
                if children.last().is_some_and(|last| last.first >= first) {
                    return Err(DecodeError::Order { what: "tree nodes" });
                }
                let id = TreeId::from_bytes(from.array()?);
                children.push(TreeChild { first, id, below: read_sums(&mut from)? });
            }
            Self::Node { level, children }
        };
        from.finish()?;
        Ok(tree)
    }

    /// Distance from the leaves; 0 for a leaf. A reader refuses a child whose level is not lower than
    /// its parent's, which bounds how deep a hostile directory can be.
    pub const fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Node { level, .. } => *level,
        }
    }

    /// What lies below this node.
    pub fn sums(&self) -> TreeSums {
        match self {
            Self::Leaf(entries) => {
                entries.iter().map(Entry::sums).fold(TreeSums::default(), TreeSums::plus)
            }
            Self::Node { children, .. } => {
                children.iter().map(|child| child.below).fold(TreeSums::default(), TreeSums::plus)
            }
        }
    }

    /// The objects it names.
    pub fn children(&self) -> Vec<ObjectId> {
        match self {
            Self::Leaf(entries) => entries.iter().map(Entry::content).collect(),
            Self::Node { children, .. } => children.iter().map(|child| child.id.into()).collect(),
        }
    }

    /// The first name in it, or nothing where it is empty.
    pub fn first_name(&self) -> Option<&[u8]> {
        match self {
            Self::Leaf(entries) => entries.first().map(|entry| entry.name.as_slice()),
            Self::Node { children, .. } => children.first().map(|child| child.first.as_slice()),
        }
    }
}

fn write_entry(to: &mut Writer, entry: &Entry) {
    match entry.kind {
        EntryKind::File { mode, blob } => {
            to.byte(FILE);
            to.varint(u64::from(mode));
            to.bytes(&entry.name);
            blob.write(to);
        }
        EntryKind::Symlink { target } => {
            to.byte(SYMLINK);
            to.bytes(&entry.name);
            target.write(to);
        }
        EntryKind::Directory { mode, tree, below } => {
            to.byte(DIRECTORY);
            to.varint(u64::from(mode));
            to.bytes(&entry.name);
            to.fixed(tree.as_bytes());
            write_sums(to, below);
        }
    }
}

fn read_entry(from: &mut Reader<'_>) -> Result<Entry, DecodeError> {
    let number = from.byte()?;
    let mode = match number {
        FILE | DIRECTORY => from.bounded("mode", MODE_MASK)? as u16,
        SYMLINK => 0,
        _ => return Err(DecodeError::Unknown { what: "entry kind", value: number.into() }),
    };
    let name = read_name(from)?;
    let kind = match number {
        FILE => EntryKind::File { mode, blob: Blob::read(from)? },
        SYMLINK => {
            let target = Blob::read(from)?;
            if target.size == 0 || target.size > MAX_TARGET {
                let value = target.size;
                return Err(DecodeError::Limit {
                    what: "symlink target",
                    value,
                    limit: MAX_TARGET,
                });
            }
            EntryKind::Symlink { target }
        }
        _ => EntryKind::Directory {
            mode,
            tree: TreeId::from_bytes(from.array()?),
            below: read_sums(from)?,
        },
    };
    Ok(Entry { name, kind })
}

fn read_name(from: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let name = from.bytes("name length", MAX_NAME)?;
    check_name(name)?;
    Ok(name.to_vec())
}

fn write_sums(to: &mut Writer, sums: TreeSums) {
    to.varint(sums.files);
    to.varint(sums.bytes);
}

fn read_sums(from: &mut Reader<'_>) -> Result<TreeSums, DecodeError> {
    Ok(TreeSums { files: from.varint()?, bytes: from.varint()? })
}

/// Builds a directory from its entries and hands every node to `emit`, leaves first.
///
/// `entries` must be strictly ascending by name, with checked names. The last node handed out is
/// the root; its id and sums are returned.
pub fn build_tree<E>(
    entries: Vec<Entry>,
    mut emit: impl FnMut(TreeId, &Tree, Vec<u8>) -> Result<(), E>,
) -> Result<(TreeId, TreeSums), E> {
    if entries.len() <= TREE_SINGLE_MAX {
        let root = put(&Tree::Leaf(entries), &mut emit)?;
        return Ok((root.id, root.below));
    }
    let leaves = build_leaves(entries, &mut emit)?;
    build_above(leaves, emit)
}

/// Builds the leaves of a directory of more than [`TREE_SINGLE_MAX`] entries, or of a part of it that
/// begins where a leaf does and ends before one that [begins by its name](begins_leaf), or at the end.
pub fn build_leaves<E>(
    entries: Vec<Entry>,
    mut emit: impl FnMut(TreeId, &Tree, Vec<u8>) -> Result<(), E>,
) -> Result<Vec<TreeChild>, E> {
    let runs = split(entries, 0, |entry| &entry.name);
    runs.into_iter().map(|run| put(&Tree::Leaf(run), &mut emit)).collect()
}

/// Builds what stands above all leaves of a directory of more than [`TREE_SINGLE_MAX`] entries; returns
/// id and sums of its root. Where there is one leaf, that is the root.
pub fn build_above<E>(
    leaves: Vec<TreeChild>,
    mut emit: impl FnMut(TreeId, &Tree, Vec<u8>) -> Result<(), E>,
) -> Result<(TreeId, TreeSums), E> {
    let mut level = 0u8;
    let mut below = leaves;
    loop {
        if let [root] = below.as_slice() {
            return Ok((root.id, root.below));
        }
        level += 1;
        if below.len() <= TREE_SINGLE_MAX || level == MAX_LEVEL {
            let root = put(&Tree::Node { level, children: below }, &mut emit)?;
            return Ok((root.id, root.below));
        }
        let mut above = Vec::new();
        for run in split(below, level, |child| &child.first) {
            if let [single] = run.as_slice() {
                above.push(single.clone());
            } else {
                above.push(put(&Tree::Node { level, children: run }, &mut emit)?);
            }
        }
        below = above;
    }
}

/// Whether a leaf begins with an entry of this name wherever it stands in a wide directory.
pub fn begins_leaf(name: &[u8]) -> bool {
    is_boundary(name, 0)
}

/// Encodes a node and hands it out.
fn put<E>(
    tree: &Tree,
    emit: &mut impl FnMut(TreeId, &Tree, Vec<u8>) -> Result<(), E>,
) -> Result<TreeChild, E> {
    let bytes = tree.encode();
    let id = TreeId::of(&bytes);
    let below = tree.sums();
    let first = tree.first_name().unwrap_or_default().to_vec();
    emit(id, tree, bytes).map(|()| TreeChild { first, id, below })
}

/// Cuts a level into runs: before a name whose hash has seven zero bits at this level's place.
///
/// Each level looks at bits of its own, so that the boundaries of one level thin out those below.
fn split<T>(items: Vec<T>, level: u8, name: impl Fn(&T) -> &[u8]) -> Vec<Vec<T>> {
    let mut runs = Vec::new();
    let mut run: Vec<T> = Vec::new();
    for item in items {
        let starts = is_boundary(name(&item), level);
        if !run.is_empty() && (run.len() == TREE_NODE_MAX || starts) {
            runs.push(std::mem::take(&mut run));
        }
        run.push(item);
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

fn is_boundary(name: &[u8], level: u8) -> bool {
    let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(name).as_bytes();
    let bits = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
    (bits >> (u32::from(level) * 7)).trailing_zeros() >= 7
}

#[cfg(test)]
mod tests;

//! The chunks of a file larger than one chunk.
//!
//! A manifest is a leaf that lists chunks, or a node that lists manifests. Long lists split where
//! a chunk's id says so, so that an edit in a large file rewrites one leaf and the nodes above it.
//!
//! **Invariant:** the same chunks in the same order always make the same manifest.

use super::{Content, MAX_CHUNK};
use crate::encode::{DecodeError, Reader, Writer};
use crate::id::{ChunkId, ManifestId, ObjectId};

/// Fewest entries of a node that is not the last of its level: a run of equal chunks (a hole in a
/// disk image) must not end a node at each of them.
pub const MANIFEST_MIN: usize = 128;

/// Most entries of a node.
pub const MANIFEST_MAX: usize = 1024;

/// A boundary falls on one chunk id in 256, which makes nodes of 384 entries on average.
const BOUNDARY: u8 = 0;

/// Highest level of a node: 128^8 chunks are more than a file can have.
const MAX_LEVEL: u64 = 8;

/// A run of a file: one chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Length in bytes, 1 to [`MAX_CHUNK`].
    pub len: u32,
    /// The bytes.
    pub chunk: ChunkId,
}

/// A run of a file: everything below another manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ManifestChild {
    /// Bytes below it.
    pub len: u64,
    /// A manifest of a lower level.
    pub id: ManifestId,
}

/// One node of the list of chunks of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// Level 0: chunks.
    Leaf(Vec<Extent>),
    /// Level 1 and up: manifests of lower levels.
    Node {
        /// Distance from the leaves, 1 to 8. Mostly a child is of the level below; where that would
        /// be a node of one child, it is that child.
        level: u8,
        /// At least two.
        children: Vec<ManifestChild>,
    },
}

impl Manifest {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        match self {
            Self::Leaf(extents) => {
                to.byte(0);
                to.varint(extents.len() as u64);
                for extent in extents {
                    to.varint(u64::from(extent.len));
                    to.fixed(extent.chunk.as_bytes());
                }
            }
            Self::Node { level, children } => {
                to.byte(*level);
                to.varint(children.len() as u64);
                for child in children {
                    to.varint(child.len);
                    to.fixed(child.id.as_bytes());
                }
            }
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let level = from.bounded("manifest level", MAX_LEVEL)? as u8;
        let count = from.count("manifest entries", MANIFEST_MAX, 33)?;
        if count == 0 || (level > 0 && count == 1) {
            return Err(DecodeError::Inconsistent { what: "number of manifest entries" });
        }
        let manifest = if level == 0 {
            let mut extents = Vec::with_capacity(count);
            for _ in 0..count {
                let len = from.bounded("chunk length", MAX_CHUNK as u64)? as u32;
                if len == 0 {
                    return Err(DecodeError::Inconsistent { what: "chunk length" });
                }
                extents.push(Extent { len, chunk: ChunkId::from_bytes(from.array()?) });
            }
            Self::Leaf(extents)
        } else {
            let mut children = Vec::with_capacity(count);
            let mut total = 0u64;
            for _ in 0..count {
                let len = from.varint()?;
                total = total
                    .checked_add(len)
                    .filter(|_| len > 0)
                    .ok_or(DecodeError::Inconsistent { what: "manifest length" })?;
                children.push(ManifestChild { len, id: ManifestId::from_bytes(from.array()?) });
            }
            Self::Node { level, children }
        };
        from.finish()?;
        Ok(manifest)
    }

    /// Distance from the leaves; 0 for a leaf. A reader refuses a child whose level is not lower than
    /// its parent's, which bounds how deep a hostile manifest can be.
    pub const fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Node { level, .. } => *level,
        }
    }

    /// Bytes of the file that this node covers.
    pub fn len(&self) -> u64 {
        match self {
            Self::Leaf(extents) => extents.iter().map(|extent| u64::from(extent.len)).sum(),
            Self::Node { children, .. } => children.iter().map(|child| child.len).sum(),
        }
    }

    /// Never: a manifest has at least one entry.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The chunks or manifests it lists.
    pub fn children(&self) -> Vec<ObjectId> {
        match self {
            Self::Leaf(extents) => extents.iter().map(|extent| extent.chunk.into()).collect(),
            Self::Node { children, .. } => children.iter().map(|child| child.id.into()).collect(),
        }
    }
}

/// Builds the manifest of a file from its chunks and hands every node to `emit`, leaves first.
///
/// The last node handed out is the root, whose id is returned. `extents` must not be empty.
pub fn build_manifest<E>(
    extents: Vec<Extent>,
    mut emit: impl FnMut(ManifestId, &Manifest, Vec<u8>) -> Result<(), E>,
) -> Result<Content, E> {
    let mut put = |manifest: &Manifest| {
        let bytes = manifest.encode();
        let id = ManifestId::of(&bytes);
        emit(id, manifest, bytes).map(|()| ManifestChild { len: manifest.len(), id })
    };
    let mut level = 0u8;
    let mut below = Vec::new();
    for run in split(extents, |extent| extent.chunk.as_bytes()) {
        below.push(put(&Manifest::Leaf(run))?);
    }
    loop {
        if let [root] = below.as_slice() {
            return Ok(Content::Manifest(root.id));
        }
        level += 1;
        let mut above = Vec::new();
        for run in split(below, |child| child.id.as_bytes()) {
            if let [single] = run.as_slice() {
                // A node of one child would say nothing that the child does not say.
                above.push(*single);
            } else {
                above.push(put(&Manifest::Node { level, children: run })?);
            }
        }
        below = above;
    }
}

/// Cuts a level into runs: after an id whose first byte is zero, but not before [`MANIFEST_MIN`]
/// entries and never after [`MANIFEST_MAX`].
fn split<T>(items: Vec<T>, id: impl Fn(&T) -> &[u8; 32]) -> Vec<Vec<T>> {
    if items.len() <= MANIFEST_MAX {
        return vec![items];
    }
    let mut runs = Vec::new();
    let mut run = Vec::new();
    for item in items {
        let [first, ..] = *id(&item);
        run.push(item);
        if run.len() == MANIFEST_MAX || (run.len() >= MANIFEST_MIN && first == BOUNDARY) {
            runs.push(std::mem::take(&mut run));
        }
    }
    if !run.is_empty() {
        runs.push(run);
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extents(count: usize, salt: &str) -> Vec<Extent> {
        (0..count)
            .map(|i| Extent {
                len: 1 + (i as u32 % 1000),
                chunk: ChunkId::of(format!("{salt}{i}").as_bytes()),
            })
            .collect()
    }

    fn build(extents: Vec<Extent>) -> (ManifestId, Vec<(ManifestId, Manifest)>) {
        let mut nodes = Vec::new();
        let root = build_manifest::<std::convert::Infallible>(extents, |id, manifest, bytes| {
            assert_eq!(Manifest::decode(&bytes).as_ref(), Ok(manifest));
            nodes.push((id, manifest.clone()));
            Ok(())
        })
        .unwrap();
        let Content::Manifest(root) = root else { panic!("a manifest") };
        (root, nodes)
    }

    #[test]
    fn an_edit_rewrites_one_leaf_and_the_way_up() {
        let before = extents(20_000, "a");
        let mut after = before.clone();
        after[7_000].chunk = ChunkId::of(b"edited");
        let (_, old) = build(before);
        let (_, new) = build(after);
        let old: std::collections::HashSet<_> = old.into_iter().map(|(id, _)| id).collect();
        let changed = new.iter().filter(|(id, _)| !old.contains(id)).count();
        assert!(old.len() > 20, "{}", old.len());
        assert!(changed <= 4, "{changed} nodes changed");
    }

    #[test]
    fn a_hole_makes_few_nodes() {
        let zero = Extent { len: MAX_CHUNK as u32, chunk: ChunkId::of(&vec![0; MAX_CHUNK]) };
        let (_, nodes) = build(vec![zero; 100_000]);
        let distinct: std::collections::HashSet<_> = nodes.iter().map(|(id, _)| id).collect();
        assert!(distinct.len() < 6, "{}", distinct.len());
    }

    #[test]
    fn damage_is_refused() {
        let bytes = Manifest::Leaf(extents(3, "x")).encode();
        assert!(Manifest::decode(&bytes[..bytes.len() - 1]).is_err());
        assert!(Manifest::decode(&[bytes.clone(), vec![0]].concat()).is_err());
        assert!(Manifest::decode(&[0, 0]).is_err());
        let single = Manifest::Node {
            level: 1,
            children: vec![ManifestChild { len: 1, id: ManifestId::of(b"") }],
        };
        assert!(Manifest::decode(&single.encode()).is_err());
    }

    fn read(
        nodes: &std::collections::HashMap<ManifestId, Manifest>,
        id: ManifestId,
    ) -> Vec<Extent> {
        match &nodes[&id] {
            Manifest::Leaf(extents) => extents.clone(),
            Manifest::Node { level, children } => children
                .iter()
                .flat_map(|child| {
                    assert!(nodes[&child.id].level() < *level);
                    assert_eq!(nodes[&child.id].len(), child.len);
                    read(nodes, child.id)
                })
                .collect(),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_is_built_reads_back(
            count in prop_oneof![1..3000usize, 1..20_000usize],
            repeated in prop_oneof![Just(1usize), 1..50usize],
            salt: u32,
        ) {
            let extents: Vec<_> = extents(count.div_ceil(repeated), &salt.to_string())
                .into_iter()
                .flat_map(|extent| vec![extent; repeated])
                .take(count)
                .collect();
            let (root, nodes) = build(extents.clone());
            prop_assert!(nodes.iter().all(|(_, node)| node.children().len() <= MANIFEST_MAX));
            prop_assert_eq!(nodes.len() == 1, count <= MANIFEST_MAX);
            prop_assert_eq!(nodes.last().map(|(id, _)| *id), Some(root));
            let nodes = nodes.into_iter().collect();
            prop_assert_eq!(read(&nodes, root), extents.clone());
            prop_assert_eq!(build(extents).0, root);
        }
    }
}

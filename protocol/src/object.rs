//! The hashed objects and their canonical bytes.
//!
//! Each kind has one file with its type, `encode`, `decode` and its limits; `docs/format.md` shows
//! the bytes. A decoder refuses whatever its encoder would not have written.

mod conversation;
mod git;
mod manifest;
mod snapshot;
mod tree;

use crate::encode::{DecodeError, Reader, Writer};
use crate::id::{ChunkId, ManifestId, ObjectId, ObjectKind};
use crate::path::{NameError, is_git_name};

pub use conversation::{Conversation, Part};
pub use git::{
    GitEntry, GitFile, GitFiles, GitHash, GitHead, GitIndex, GitMode, GitOid, GitOids, GitOmission,
    GitOmissions, GitOmitReason, GitPack, GitPlace, GitRef, GitRefName, GitRefs, GitSetting,
    GitSettings, GitState, GitTarget, GitUndo, GitUnit, MAX_GIT_PACKS, MAX_GIT_UNITS, RefStorage,
    is_index_path, is_module_name, unit_path,
};
pub use manifest::{Extent, MANIFEST_MAX, MANIFEST_MIN, Manifest, ManifestChild, build_manifest};
pub use snapshot::{Omission, Omissions, OmitReason, Snapshot};
pub use tree::{
    Entry, EntryKind, TREE_NODE_MAX, TREE_SINGLE_MAX, Tree, TreeChild, TreeSums, begins_leaf,
    build_above, build_leaves, build_tree,
};

/// Largest chunk in bytes; a file up to this size is one chunk.
pub const MAX_CHUNK: usize = 256 * 1024;

/// Largest object of any kind in bytes: every buffer for a received object is bounded by this.
/// A full tree node of 1,024 entries with names of 255 bytes needs 319,491 of them; a conversation is
/// refused above.
pub const MAX_OBJECT: usize = 512 * 1024;

/// Where the bytes of a file are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Content {
    /// The file is this one chunk.
    Chunk(ChunkId),
    /// The file is larger than one chunk; these are its chunks.
    Manifest(ManifestId),
}

impl Content {
    /// As an object of any kind.
    pub fn id(self) -> ObjectId {
        match self {
            Self::Chunk(id) => id.into(),
            Self::Manifest(id) => id.into(),
        }
    }

    /// Whether this is the content of a file of one chunk.
    pub const fn is_chunk(self) -> bool {
        matches!(self, Self::Chunk(_))
    }
}

/// A byte string of any length: a file's content, a transcript, an attachment.
///
/// **Invariant:** `content` is a chunk exactly where `size` is at most [`MAX_CHUNK`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blob {
    /// Length in bytes.
    pub size: u64,
    /// Where the bytes are.
    pub content: Content,
}

impl Blob {
    fn write(&self, to: &mut Writer) {
        to.varint(self.size);
        to.fixed(&self.content.id().hash);
    }

    /// Reads a size and the hash of a chunk or, above [`MAX_CHUNK`], of a manifest.
    fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let size = from.varint()?;
        let hash = from.array()?;
        let content = if size <= MAX_CHUNK as u64 {
            Content::Chunk(ChunkId::from_bytes(hash))
        } else {
            Content::Manifest(ManifestId::from_bytes(hash))
        };
        Ok(Self { size, content })
    }

    /// Bytes that one takes at least.
    const LEAST: usize = 33;
}

/// A decoded object of any kind but a chunk, for code that walks references.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Object {
    /// Raw bytes; they refer to nothing.
    Chunk,
    /// See [`Manifest`].
    Manifest(Manifest),
    /// See [`Tree`].
    Tree(Tree),
    /// See [`Conversation`].
    Conversation(Conversation),
    /// See [`Snapshot`].
    Snapshot(Snapshot),
    /// See [`GitState`].
    GitState(GitState),
}

impl Object {
    /// Decodes an object of a known kind; a chunk is any bytes up to [`MAX_CHUNK`].
    pub fn decode(kind: ObjectKind, bytes: &[u8]) -> Result<Self, DecodeError> {
        Ok(match kind {
            ObjectKind::Chunk if bytes.len() > MAX_CHUNK => {
                return Err(DecodeError::Limit {
                    what: "chunk length",
                    value: bytes.len() as u64,
                    limit: MAX_CHUNK as u64,
                });
            }
            ObjectKind::Chunk => Self::Chunk,
            ObjectKind::Manifest => Self::Manifest(Manifest::decode(bytes)?),
            ObjectKind::Tree => Self::Tree(Tree::decode(bytes)?),
            ObjectKind::Conversation => Self::Conversation(Conversation::decode(bytes)?),
            ObjectKind::Snapshot => Self::Snapshot(Snapshot::decode(bytes)?),
            ObjectKind::GitState => Self::GitState(GitState::decode(bytes)?),
        })
    }

    /// Checks what a peer may not send though its bytes are canonical: a tree with a name that could
    /// reach git's own folder. No scan makes one, and no checkout takes it.
    pub fn check_received(&self) -> Result<(), DecodeError> {
        match self {
            Self::Tree(Tree::Leaf(entries))
                if entries.iter().any(|entry| is_git_name(&entry.name)) =>
            {
                Err(NameError::Git.into())
            }
            _ => Ok(()),
        }
    }

    /// Every object that this one needs to be whole, in the order in which it names them.
    ///
    /// A snapshot's parents are history, not content: they are not among them.
    pub fn children(&self) -> Vec<ObjectId> {
        match self {
            Self::Chunk => Vec::new(),
            Self::Manifest(manifest) => manifest.children(),
            Self::Tree(tree) => tree.children(),
            Self::Conversation(conversation) => conversation.children(),
            Self::Snapshot(snapshot) => snapshot.children(),
            Self::GitState(state) => state.children(),
        }
    }
}

#[cfg(test)]
mod tests;

//! What an object will be once those that it names are their new forms.
//!
//! A directory above an edited file differs from what it was in the hash and the size of that file, and
//! both sides know them: neither has to be sent.
//!
//! **Invariant:** the same base and the same new forms make the same bytes on both sides.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::id::{ChunkId, ConversationId, GitStateId, ManifestId, ObjectId, SnapshotId, TreeId};
use crate::object::{
    Blob, Content, Conversation, EntryKind, GitState, Manifest, Object, Snapshot, Tree, TreeSums,
};

/// The new forms of objects, by what they were.
#[derive(Debug, Default)]
pub(super) struct Renewals(HashMap<ObjectId, Renewal>);

/// What is said of an object where it is named.
#[derive(Debug)]
struct Renewal {
    hash: [u8; 32],
    /// Bytes of a chunk, or of a file or part of one.
    size: u64,
    sums: TreeSums,
    first: Option<Vec<u8>>,
}

impl Renewals {
    /// Notes what became of `base`.
    pub(super) fn note(&mut self, base: ObjectId, id: ObjectId, bytes: &[u8], object: &Object) {
        let (mut size, mut sums, mut first) = (0, TreeSums::default(), None);
        match object {
            Object::Chunk => size = bytes.len() as u64,
            Object::Manifest(manifest) => size = manifest.len(),
            Object::Tree(tree) => {
                sums = tree.sums();
                first = tree.first_name().map(<[u8]>::to_vec);
            }
            Object::Conversation(_) | Object::GitState(_) => {}
            // Nothing names it as a part.
            Object::Snapshot(_) => return,
        }
        self.0.insert(base, Renewal { hash: id.hash, size, sums, first });
    }

    /// The object `base` with the new forms in it, and its bytes.
    pub(super) fn renewed<'a>(
        &self,
        base: ObjectId,
        bytes: &'a [u8],
        object: Object,
    ) -> (Object, Cow<'a, [u8]>) {
        let (object, bytes) = match object {
            Object::Chunk => return (Object::Chunk, Cow::Borrowed(bytes)),
            Object::Manifest(manifest) => {
                let manifest = self.manifest(manifest);
                let bytes = manifest.encode();
                (Object::Manifest(manifest), bytes)
            }
            Object::Tree(tree) => {
                let tree = self.tree(tree);
                let bytes = tree.encode();
                (Object::Tree(tree), bytes)
            }
            Object::Conversation(conversation) => {
                let conversation = self.conversation(conversation);
                let bytes = conversation.encode();
                (Object::Conversation(conversation), bytes)
            }
            Object::GitState(state) => {
                let state = self.git_state(state);
                let bytes = state.encode();
                (Object::GitState(state), bytes)
            }
            Object::Snapshot(snapshot) => {
                let snapshot = self.snapshot(base, snapshot);
                let bytes = snapshot.encode();
                (Object::Snapshot(snapshot), bytes)
            }
        };
        (object, Cow::Owned(bytes))
    }

    fn of(&self, id: impl Into<ObjectId>) -> Option<&Renewal> {
        self.0.get(&id.into())
    }

    fn blob(&self, blob: &mut Blob) {
        if let Some(new) = self.of(blob.content.id()) {
            blob.size = new.size;
            blob.content = match blob.content {
                Content::Chunk(_) => Content::Chunk(ChunkId::from_bytes(new.hash)),
                Content::Manifest(_) => Content::Manifest(ManifestId::from_bytes(new.hash)),
            };
        }
    }

    fn manifest(&self, mut manifest: Manifest) -> Manifest {
        match &mut manifest {
            Manifest::Leaf(extents) => {
                for extent in extents {
                    if let Some(new) = self.of(extent.chunk) {
                        extent.chunk = ChunkId::from_bytes(new.hash);
                        extent.len = new.size as u32;
                    }
                }
            }
            Manifest::Node { children, .. } => {
                for child in children {
                    if let Some(new) = self.of(child.id) {
                        child.id = ManifestId::from_bytes(new.hash);
                        child.len = new.size;
                    }
                }
            }
        }
        manifest
    }

    fn tree(&self, mut tree: Tree) -> Tree {
        match &mut tree {
            Tree::Leaf(entries) => {
                for entry in entries {
                    match &mut entry.kind {
                        EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob } => {
                            self.blob(blob);
                        }
                        EntryKind::Directory { tree, below, .. } => {
                            if let Some(new) = self.of(*tree) {
                                *tree = TreeId::from_bytes(new.hash);
                                *below = new.sums;
                            }
                        }
                    }
                }
            }
            Tree::Node { children, .. } => {
                for child in children {
                    if let Some(new) = self.of(child.id) {
                        child.id = TreeId::from_bytes(new.hash);
                        child.below = new.sums;
                        child.first = new.first.clone().unwrap_or_default();
                    }
                }
            }
        }
        tree
    }

    fn conversation(&self, mut conversation: Conversation) -> Conversation {
        let Conversation { transcript, attachments, .. } = &mut conversation;
        transcript.iter_mut().chain(attachments).for_each(|part| self.blob(&mut part.blob));
        conversation
    }

    fn git_state(&self, mut state: GitState) -> GitState {
        let lists = [&mut state.refs, &mut state.settings].into_iter();
        let lists = lists.chain(&mut state.index).chain(&mut state.files);
        let lists = lists.chain(&mut state.omitted).chain(&mut state.later);
        let packs = state.packs.iter_mut().flat_map(|pack| [&mut pack.blob, &mut pack.tips]);
        lists.chain(packs).for_each(|blob| self.blob(blob));
        for unit in &mut state.units {
            if let Some(new) = self.of(unit.state) {
                unit.state = GitStateId::from_bytes(new.hash);
            }
        }
        state
    }

    /// Mostly a snapshot follows the one that it is sent against.
    fn snapshot(&self, base: ObjectId, mut snapshot: Snapshot) -> Snapshot {
        snapshot.sequence = snapshot.sequence.saturating_add(1);
        snapshot.parents = vec![SnapshotId::from_bytes(base.hash)];
        if let Some(new) = self.of(snapshot.root) {
            snapshot.root = TreeId::from_bytes(new.hash);
        }
        if let Some(omitted) = &mut snapshot.omitted {
            self.blob(omitted);
        }
        if let Some(git) = &mut snapshot.git
            && let Some(new) = self.of(*git)
        {
            *git = GitStateId::from_bytes(new.hash);
        }
        for id in &mut snapshot.conversations {
            if let Some(new) = self.of(*id) {
                *id = ConversationId::from_bytes(new.hash);
            }
        }
        snapshot
    }
}

//! Whether everything below an object is here and is what is said of it: a walk that stops at what was
//! proved before.
//!
//! An object says things of those that it names: how many bytes a chunk has, which files lie below a
//! directory. Whoever plans a checkout or shows progress believes them, so that they are compared
//! before a ref may lead there.
//!
//! Given an older form of the root that is proved, the walk compares the two on its way down: what both
//! name alike was proved with the older one, and is not even looked up. So one edit in a directory of a
//! thousand files costs that one file.
//!
//! The walk goes on where it stopped, so that a push which brings what was missing pays for that and
//! not for the whole again.
//!
//! **Invariant:** what is closed is whole, and nothing that was walked to get there is contradicted by
//! what it names.

use std::collections::{HashMap, HashSet};

use baton_protocol::id::{ChunkId, ObjectId, ObjectKind};
use baton_protocol::object::{
    Blob, Content, Conversation, EntryKind, Manifest, Object, Snapshot, Tree, TreeSums,
};

use super::Vault;
use super::staging::Staging;
use crate::error::StoreError;
use crate::objects::ObjectSource;

/// Chunks that are gathered before they are looked at: 40 bytes of memory each.
const MOST_CHUNKS: usize = 256 * 1024;

/// A walk from one root.
#[derive(Debug, Default)]
pub(super) struct Walk {
    root: Option<ObjectId>,
    /// What had been condemned when it began: what it saw before more was may have gone.
    generation: u64,
    /// Metadata still to be looked at; what was missing last time is among it.
    open: Vec<Open>,
    /// Chunks still to be looked at, and how many bytes are said of them. They come last: whoever has all of the
    /// metadata can send them as they stand together in a log.
    chunks: Vec<(ChunkId, u64)>,
    /// Metadata that was read, so that it is read once however often it is named.
    known: HashMap<ObjectId, Facts>,
    /// What of that was walked through: it is closed once nothing is open.
    walked: HashSet<ObjectId>,
}

/// What is missing, each once.
#[derive(Default)]
struct Missing {
    ids: Vec<ObjectId>,
    noted: HashSet<ObjectId>,
}

impl Missing {
    fn note(&mut self, id: ObjectId) {
        if self.noted.insert(id) {
            self.ids.push(id);
        }
    }
}

/// An object to be looked at.
#[derive(Clone, Debug)]
struct Open {
    id: ObjectId,
    said: Said,
    /// An older form of it, of which everything is here.
    before: Option<ObjectId>,
}

/// What an object says of one that it names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Said {
    Nothing,
    /// Length of a chunk or of what a manifest lists.
    Bytes(u64),
    /// A manifest in one of a higher level.
    Run {
        len: u64,
        above: u8,
    },
    Directory(TreeSums),
    /// A node of a wide directory, in one of a higher level.
    Node {
        first: Vec<u8>,
        below: TreeSums,
        above: u8,
    },
}

/// What an object really is.
#[derive(Debug)]
enum Facts {
    Manifest { level: u8, len: u64 },
    Tree { level: u8, first: Option<Box<[u8]>>, sums: TreeSums },
    Other,
}

impl Walk {
    /// Goes on until nothing is open or `limit` objects are missing, which are returned.
    pub(super) fn advance(
        &mut self,
        vault: &Vault,
        staging: &Staging,
        (root, before): (ObjectId, Option<ObjectId>),
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        let generation = vault.generation();
        if self.root != Some(root) || self.generation != generation {
            let before = match before {
                Some(before) if vault.closed(&before)? == Some(true) => Some(before),
                _ => None,
            };
            let open = vec![Open { id: root, said: Said::Nothing, before }];
            *self = Self { root: Some(root), generation, open, ..Self::default() };
        }
        let missing = self.go_on(vault, staging, limit);
        if missing.is_err() {
            // Whoever asks again meets it again.
            self.root = None;
        }
        missing
    }

    fn go_on(
        &mut self,
        vault: &Vault,
        staging: &Staging,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        loop {
            let missing = self.metadata(vault, staging, limit)?;
            if !missing.is_empty() {
                return Ok(missing);
            }
            let missing = self.content(vault, staging, limit)?;
            if !missing.is_empty() || self.open.is_empty() {
                return Ok(missing);
            }
        }
    }

    /// Looks at metadata until there is none, too much content was met, or `limit` is missing.
    fn metadata(
        &mut self,
        vault: &Vault,
        staging: &Staging,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        let mut missing = Missing::default();
        let mut absent = Vec::new();
        while missing.ids.len() < limit
            && self.chunks.len() < MOST_CHUNKS
            && let Some(open) = self.open.pop()
        {
            if !self.look(vault, staging, &open)? {
                missing.note(open.id);
                absent.push(open);
            }
        }
        self.open.append(&mut absent);
        Ok(missing.ids)
    }

    /// Looks at chunks until there is none, or `limit` are missing.
    fn content(
        &mut self,
        vault: &Vault,
        staging: &Staging,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        let mut missing = Missing::default();
        let mut absent = Vec::new();
        while missing.ids.len() < limit
            && let Some((chunk, said)) = self.chunks.pop()
        {
            let id = ObjectId::from(chunk);
            match staging.length(vault, &id)? {
                Some(len) if len == said => {}
                Some(_) => return Err(StoreError::Contradicted(id)),
                None => {
                    missing.note(id);
                    absent.push((chunk, said));
                }
            }
        }
        self.chunks.append(&mut absent);
        Ok(missing.ids)
    }

    /// What was walked through, once.
    pub(super) fn take_walked(&mut self) -> HashSet<ObjectId> {
        std::mem::take(&mut self.walked)
    }

    /// Notes something to be looked at.
    fn note(&mut self, open: Open) {
        match open {
            Open {
                id: ObjectId { kind: ObjectKind::Chunk, hash },
                said: Said::Bytes(said),
                ..
            } => {
                self.chunks.push((ChunkId::from_bytes(hash), said));
            }
            metadata => self.open.push(metadata),
        }
    }

    /// Looks at metadata; says whether it is here.
    fn look(&mut self, vault: &Vault, staging: &Staging, open: &Open) -> Result<bool, StoreError> {
        let Open { id, ref said, before } = *open;
        if let Some(facts) = self.known.get(&id) {
            return if facts.agree(said) { Ok(true) } else { Err(StoreError::Contradicted(id)) };
        }
        let closed = vault.closed(&id)? == Some(true);
        if closed && matches!(said, Said::Nothing) {
            return Ok(true);
        }
        let Some(bytes) = staging.read(vault, &id)? else { return Ok(false) };
        let object = Object::decode(id.kind, &bytes).map_err(|_| StoreError::DamagedObject(id))?;
        let facts = Facts::of(&object);
        if !facts.agree(said) {
            return Err(StoreError::Contradicted(id));
        }
        self.known.insert(id, facts);
        if !closed {
            self.walked.insert(id);
            let children = children(&object);
            // What cannot be read of the older form is as good as not there.
            let older = before
                .filter(|before| before.kind == id.kind)
                .and_then(|before| vault.read(&before).ok().flatten())
                .and_then(|bytes| Object::decode(id.kind, &bytes).ok());
            match older {
                Some(older) => against(children, &self::children(&older), |open| self.note(open)),
                None => children.into_iter().for_each(|child| self.note(child.open())),
            }
        }
        Ok(true)
    }
}

impl Facts {
    fn of(object: &Object) -> Self {
        match object {
            Object::Manifest(manifest) => {
                Self::Manifest { level: manifest.level(), len: manifest.len() }
            }
            Object::Tree(tree) => Self::Tree {
                level: tree.level(),
                first: tree.first_name().map(Into::into),
                sums: tree.sums(),
            },
            Object::Chunk | Object::Conversation(_) | Object::Snapshot(_) | Object::GitState(_) => {
                Self::Other
            }
        }
    }

    fn agree(&self, said: &Said) -> bool {
        match (said, self) {
            (Said::Nothing, _) => true,
            (Said::Bytes(said), Self::Manifest { len, .. }) => said == len,
            (Said::Run { len: said, above }, Self::Manifest { level, len }) => {
                said == len && level < above
            }
            (Said::Directory(said), Self::Tree { sums, .. }) => said == sums,
            (Said::Node { first: said, below, above }, Self::Tree { level, first, sums }) => {
                first.as_deref() == Some(said) && below == sums && level < above
            }
            _ => false,
        }
    }
}

/// What an object names, by what it is called there.
struct Child {
    name: Vec<u8>,
    id: ObjectId,
    said: Said,
}

impl Child {
    fn new(name: &[u8], id: impl Into<ObjectId>, said: Said) -> Self {
        Self { name: name.to_vec(), id: id.into(), said }
    }

    fn of_blob(name: &[u8], blob: Blob) -> Self {
        let (id, said) = of_blob(blob);
        Self { name: name.to_vec(), id, said }
    }

    fn open(self) -> Open {
        Open { id: self.id, said: self.said, before: None }
    }
}

/// Names what is not named alike by the older form of the same object, which is whole.
fn against(children: Vec<Child>, older: &[Child], mut note: impl FnMut(Open)) {
    let proved: HashSet<(ObjectId, &Said)> =
        older.iter().map(|child| (child.id, &child.said)).collect();
    for child in children {
        if proved.contains(&(child.id, &child.said)) {
            continue;
        }
        // Of the same name, or for a part of something wide the one that covers where it begins.
        let after = older.partition_point(|older| older.name <= child.name);
        let before = after.checked_sub(1).and_then(|at| older.get(at)).map(|older| older.id);
        note(Open { id: child.id, said: child.said, before });
    }
}

/// What an object needs to be whole, with what it says of it: all that [`Object::children`] has.
/// Those of a directory ascend by name.
fn children(object: &Object) -> Vec<Child> {
    match object {
        Object::Chunk => Vec::new(),
        Object::Manifest(Manifest::Leaf(extents)) => extents
            .iter()
            .map(|extent| Child::new(b"", extent.chunk, Said::Bytes(u64::from(extent.len))))
            .collect(),
        Object::Manifest(Manifest::Node { level, children }) => children
            .iter()
            .map(|child| Child::new(b"", child.id, Said::Run { len: child.len, above: *level }))
            .collect(),
        Object::Tree(Tree::Leaf(entries)) => entries
            .iter()
            .map(|entry| match entry.kind {
                EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob } => {
                    Child::of_blob(&entry.name, blob)
                }
                EntryKind::Directory { tree, below, .. } => {
                    Child::new(&entry.name, tree, Said::Directory(below))
                }
            })
            .collect(),
        Object::Tree(Tree::Node { level, children }) => children
            .iter()
            .map(|child| {
                let first = child.first.clone();
                let said = Said::Node { first, below: child.below, above: *level };
                Child::new(&child.first, child.id, said)
            })
            .collect(),
        Object::Conversation(Conversation { transcript, attachments, .. }) => {
            let parts = transcript.iter().chain(attachments);
            parts.map(|part| Child::of_blob(b"", part.blob)).collect()
        }
        Object::Snapshot(Snapshot { root, omitted, git, conversations, .. }) => {
            let root = Child::new(b"root", *root, Said::Nothing);
            let omitted = omitted.map(|blob| Child::of_blob(b"", blob));
            let conversations = conversations.iter().map(|&id| Child::new(b"", id, Said::Nothing));
            let git = git.map(|id| Child::new(b"", id, Said::Nothing));
            // In the order of their names here.
            omitted.into_iter().chain(git).chain(conversations).chain([root]).collect()
        }
        Object::GitState(state) => {
            let units = state.units.iter();
            let units =
                units.map(|unit| Child::new(unit.path.as_bytes(), unit.state, Said::Nothing));
            state.blobs().map(|blob| Child::of_blob(b"", blob)).chain(units).collect()
        }
    }
}

fn of_blob(blob: Blob) -> (ObjectId, Said) {
    let id = match blob.content {
        Content::Chunk(id) => id.into(),
        Content::Manifest(id) => id.into(),
    };
    (id, Said::Bytes(blob.size))
}

#[cfg(test)]
mod tests;

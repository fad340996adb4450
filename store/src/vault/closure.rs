//! Whether everything below an object is here and is what is said of it: a walk that stops at what was
//! proved before.
//!
//! An object says things of those that it names: how many bytes a chunk has, which files lie below a
//! directory. Whoever plans a checkout or shows progress believes them, so that they are compared
//! before a ref may lead there.
//!
//! The walk goes on where it stopped, so that a push which brings what was missing pays for that and
//! not for the whole again.
//!
//! **Invariant:** what is closed is whole, and nothing that was walked to get there is contradicted by
//! what it names.

use std::collections::{HashMap, HashSet};

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::object::{
    Blob, Content, Conversation, EntryKind, Manifest, Object, Snapshot, Tree, TreeSums,
};

use super::Vault;
use super::staging::Staging;
use crate::error::StoreError;

/// A walk from one root.
#[derive(Debug, Default)]
pub(super) struct Walk {
    root: Option<ObjectId>,
    /// Still to be looked at; what was missing last time is among them.
    open: Vec<(ObjectId, Said)>,
    /// Metadata that was read, so that it is read once however often it is named.
    known: HashMap<ObjectId, Facts>,
    /// What of that was walked through: it is closed once nothing is open.
    walked: HashSet<ObjectId>,
}

/// What an object says of one that it names.
#[derive(Clone, Debug)]
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
        root: ObjectId,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        if self.root != Some(root) {
            *self = Self { root: Some(root), open: vec![(root, Said::Nothing)], ..Self::default() };
        }
        let mut missing = Vec::new();
        let mut asked = HashSet::new();
        let mut absent = Vec::new();
        while missing.len() < limit
            && let Some((id, said)) = self.open.pop()
        {
            let looked = self.look(vault, staging, id, &said);
            match looked {
                Ok(true) => {}
                Ok(false) => {
                    if asked.insert(id) {
                        missing.push(id);
                    }
                    absent.push((id, said));
                }
                Err(error) => {
                    // Whoever asks again meets it again.
                    self.root = None;
                    return Err(error);
                }
            }
        }
        self.open.append(&mut absent);
        Ok(missing)
    }

    /// What was walked through, once.
    pub(super) fn take_walked(&mut self) -> HashSet<ObjectId> {
        std::mem::take(&mut self.walked)
    }

    /// Looks at one object; says whether it is here.
    fn look(
        &mut self,
        vault: &Vault,
        staging: &Staging,
        id: ObjectId,
        said: &Said,
    ) -> Result<bool, StoreError> {
        if id.kind == ObjectKind::Chunk {
            return match (staging.length(vault, &id)?, said) {
                (None, _) => Ok(false),
                (Some(len), Said::Bytes(said)) if len != *said => Err(StoreError::Contradicted(id)),
                (Some(_), _) => Ok(true),
            };
        }
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
            name_children(&object, &mut self.open);
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
            Object::Chunk | Object::Conversation(_) | Object::Snapshot(_) => Self::Other,
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

/// Names what an object needs to be whole, with what it says of it: all that [`Object::children`] has.
fn name_children(object: &Object, to: &mut Vec<(ObjectId, Said)>) {
    match object {
        Object::Chunk => {}
        Object::Manifest(Manifest::Leaf(extents)) => {
            to.extend(
                extents.iter().map(|extent| {
                    (ObjectId::from(extent.chunk), Said::Bytes(u64::from(extent.len)))
                }),
            );
        }
        Object::Manifest(Manifest::Node { level, children }) => {
            to.extend(children.iter().map(|child| {
                (ObjectId::from(child.id), Said::Run { len: child.len, above: *level })
            }));
        }
        Object::Tree(Tree::Leaf(entries)) => {
            to.extend(entries.iter().map(|entry| match entry.kind {
                EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob } => of_blob(blob),
                EntryKind::Directory { tree, below, .. } => (tree.into(), Said::Directory(below)),
            }));
        }
        Object::Tree(Tree::Node { level, children }) => {
            to.extend(children.iter().map(|child| {
                let first = child.first.clone();
                (child.id.into(), Said::Node { first, below: child.below, above: *level })
            }));
        }
        Object::Conversation(Conversation { transcript, attachments, .. }) => {
            to.extend(transcript.iter().chain(attachments).map(|part| of_blob(part.blob)));
        }
        Object::Snapshot(Snapshot { root, omitted, conversations, .. }) => {
            to.push(((*root).into(), Said::Nothing));
            to.extend(omitted.map(of_blob));
            to.extend(conversations.iter().map(|&id| (id.into(), Said::Nothing)));
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

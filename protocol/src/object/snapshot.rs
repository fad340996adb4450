//! A root tree with everything that travels beside it.
//!
//! **Invariant:** a snapshot is ordered by its sequence number and parents. `created_at` is what the
//! clock of its device said, for people; nothing compares it.

use super::Blob;
use crate::encode::{DecodeError, Reader, Writer};
use crate::id::{ConversationId, DeviceId, GitStateId, ObjectId, SnapshotId, TreeId, WorkspaceId};
use crate::path::{MAX_PATH, RelPath};

/// Without the state of a repository.
const PLAIN: u64 = 1;

/// With it.
const WITH_GIT: u64 = 2;

/// Most parents of a snapshot.
const MAX_PARENTS: usize = 16;

/// Most conversations of a snapshot.
const MAX_CONVERSATIONS: usize = 64;

/// Longest message in bytes.
const MAX_MESSAGE: usize = 16 * 1024;

/// A root tree with everything that travels beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// Who made it.
    pub device: DeviceId,
    /// One more than the largest of its parents'; 1 for the first.
    pub sequence: u64,
    /// What it continues, the device's own last snapshot first.
    pub parents: Vec<SnapshotId>,
    /// The files.
    pub root: TreeId,
    /// The permission bits of the root directory itself.
    pub root_mode: u16,
    /// What was left out, as encoded [`Omissions`]; nothing where the list is empty.
    pub omitted: Option<Blob>,
    /// The repository whose worktree the root is; nothing where there is none, or where it did not travel.
    pub git: Option<GitStateId>,
    /// Conversations and attachments.
    pub conversations: Vec<ConversationId>,
    /// Milliseconds since 1970 by the clock of the device.
    pub created_at: u64,
    /// What the user wrote; may be empty.
    pub message: String,
}

impl Snapshot {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.varint(if self.git.is_some() { WITH_GIT } else { PLAIN });
        to.fixed(self.workspace.as_bytes());
        to.fixed(self.device.as_bytes());
        to.varint(self.sequence);
        to.varint(self.parents.len() as u64);
        self.parents.iter().for_each(|parent| to.fixed(parent.as_bytes()));
        to.fixed(self.root.as_bytes());
        to.varint(u64::from(self.root_mode));
        to.byte(u8::from(self.omitted.is_some()));
        if let Some(omitted) = &self.omitted {
            omitted.write(&mut to);
        }
        if let Some(git) = &self.git {
            to.fixed(git.as_bytes());
        }
        to.varint(self.conversations.len() as u64);
        self.conversations.iter().for_each(|id| to.fixed(id.as_bytes()));
        to.varint(self.created_at);
        to.bytes(self.message.as_bytes());
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let version = from.varint()?;
        if version != PLAIN && version != WITH_GIT {
            return Err(DecodeError::Unknown { what: "snapshot version", value: version });
        }
        let workspace = WorkspaceId::from_bytes(from.array()?);
        let device = DeviceId::from_bytes(from.array()?);
        let sequence = from.varint()?;
        if sequence == 0 {
            return Err(DecodeError::Inconsistent { what: "sequence" });
        }
        let count = from.count("parents", MAX_PARENTS, SnapshotId::LEN)?;
        let mut parents = Vec::with_capacity(count);
        for _ in 0..count {
            let parent = SnapshotId::from_bytes(from.array()?);
            if parents.contains(&parent) {
                return Err(DecodeError::Order { what: "parents" });
            }
            parents.push(parent);
        }
        let root = TreeId::from_bytes(from.array()?);
        let root_mode = from.bounded("mode", 0o777)? as u16;
        let omitted = match from.byte()? {
            0 => None,
            1 => Some(Blob::read(&mut from)?),
            value => return Err(DecodeError::Unknown { what: "flag", value: value.into() }),
        };
        let git = match version {
            WITH_GIT => Some(GitStateId::from_bytes(from.array()?)),
            _ => None,
        };
        let count = from.count("conversations", MAX_CONVERSATIONS, ConversationId::LEN)?;
        let mut conversations = Vec::with_capacity(count);
        for _ in 0..count {
            let id = ConversationId::from_bytes(from.array()?);
            if conversations.contains(&id) {
                return Err(DecodeError::Order { what: "conversations" });
            }
            conversations.push(id);
        }
        let created_at = from.varint()?;
        let message = from.text("message", MAX_MESSAGE)?.to_owned();
        from.finish()?;
        Ok(Self {
            workspace,
            device,
            sequence,
            parents,
            root,
            root_mode,
            omitted,
            git,
            conversations,
            created_at,
            message,
        })
    }

    /// The objects it needs to be whole; its parents are not among them.
    pub fn children(&self) -> Vec<ObjectId> {
        let mut children = vec![self.root.into()];
        children.extend(self.omitted.map(|blob| blob.content.id()));
        children.extend(self.git.map(ObjectId::from));
        children.extend(self.conversations.iter().map(|&id| ObjectId::from(id)));
        children
    }
}

/// Why something on the disk is not, or not surely, in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum OmitReason {
    /// A fifo, socket or device; never opened.
    Special = 1,
    /// The user who ran the snapshot may not read it.
    Unreadable = 2,
    /// Held back because it looks like a secret.
    Secret = 3,
    /// Git's own folder or file.
    GitMetadata = 4,
    /// It was listed and then gone.
    Vanished = 5,
    /// It cannot be represented, such as a name that is too long.
    NotCarried = 6,
    /// It *is* in the snapshot, but was changing during every one of several reads: its bytes are
    /// what the last read saw, and may never have stood on the disk together.
    Torn = 7,
}

impl OmitReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Special,
        Self::Unreadable,
        Self::Secret,
        Self::GitMetadata,
        Self::Vanished,
        Self::NotCarried,
        Self::Torn,
    ];

    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Special => "special",
            Self::Unreadable => "unreadable",
            Self::Secret => "secret",
            Self::GitMetadata => "git-metadata",
            Self::Vanished => "vanished",
            Self::NotCarried => "not-carried",
            Self::Torn => "torn",
        }
    }
}

/// One path and why it was left out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Omission {
    /// Relative to the root of the workspace.
    pub path: RelPath,
    /// Why.
    pub reason: OmitReason,
}

/// What a snapshot left out, ascending by path: the bytes of [`Snapshot::omitted`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Omissions(pub Vec<Omission>);

impl Omissions {
    /// The canonical bytes. Entries must be strictly ascending.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.varint(self.0.len() as u64);
        for omission in &self.0 {
            to.byte(omission.reason as u8);
            to.bytes(omission.path.as_bytes());
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let count = from.count("omissions", bytes.len(), 2)?;
        let mut omissions: Vec<Omission> = Vec::new();
        for _ in 0..count {
            let number = from.byte()?;
            let reason = OmitReason::ALL
                .into_iter()
                .find(|&reason| reason as u8 == number)
                .ok_or(DecodeError::Unknown { what: "reason", value: number.into() })?;
            let path = RelPath::new(from.bytes("path length", MAX_PATH)?)
                .map_err(|_| DecodeError::Inconsistent { what: "omitted path" })?;
            let omission = Omission { path, reason };
            if omissions.last().is_some_and(|last| *last >= omission) {
                return Err(DecodeError::Order { what: "omissions" });
            }
            omissions.push(omission);
        }
        from.finish()?;
        Ok(Self(omissions))
    }
}

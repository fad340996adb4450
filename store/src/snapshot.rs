//! A scan made a snapshot, and snapshots read back.
//!
//! Not here: moving a ref to it. A snapshot in a sink is an object like any other until someone
//! commits it.
//!
//! **Invariant:** what was left out is part of the snapshot, so that it is the same list on every
//! machine.

use baton_protocol::encode::DecodeError;
use baton_protocol::id::{
    ConversationId, DeviceId, GitStateId, ObjectId, ObjectKind, SnapshotId, WorkspaceId,
};
use baton_protocol::object::{Blob, Conversation, GitState, Omission, Omissions, Snapshot};

use crate::chunk::{for_each_extent, read_chunk, store_bytes};
use crate::error::StoreError;
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::Scanned;

pub use crate::trees::{find_entry, for_each_entry};

/// Longest list of omissions that is read, in bytes: a million long paths.
const MAX_OMISSIONS: u64 = 64 << 20;

/// What a snapshot says beside its files.
#[derive(Clone, Debug)]
pub struct SnapshotParts {
    /// The workspace it belongs to.
    pub workspace: WorkspaceId,
    /// Who makes it.
    pub device: DeviceId,
    /// One more than the largest of its parents'; 1 for the first.
    pub sequence: u64,
    /// What it continues, the device's own last snapshot first.
    pub parents: Vec<SnapshotId>,
    /// The repository of the root, in the sink already.
    pub git: Option<GitStateId>,
    /// Conversations and attachments, in the sink already.
    pub conversations: Vec<ConversationId>,
    /// Milliseconds since 1970.
    pub created_at: u64,
    /// What the user wrote.
    pub message: String,
}

/// A snapshot could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The sink did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It says more than a snapshot can hold.
    #[error("making a snapshot")]
    Limit(#[source] DecodeError),
}

/// A blob could not be read whole.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// It could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is larger than the caller allows.
    #[error("it has {size} bytes, allowed are {limit}")]
    TooLarge {
        /// Its size.
        size: u64,
        /// What is allowed.
        limit: u64,
    },
}

/// Makes a snapshot of what was scanned, and puts the list of what was left out: what a scan leaves out and
/// the state of the repository has, is not.
pub fn build_snapshot<S: ObjectSink + ?Sized>(
    scanned: &Scanned,
    omitted: &[Omission],
    parts: SnapshotParts,
    sink: &S,
) -> Result<Snapshot, StoreError> {
    let omitted = match omitted {
        [] => None,
        omitted => Some(store_bytes(&Omissions(omitted.to_vec()).encode(), sink)?),
    };
    Ok(Snapshot {
        workspace: parts.workspace,
        device: parts.device,
        sequence: parts.sequence,
        parents: parts.parents,
        root: scanned.root,
        root_mode: scanned.root_mode,
        omitted,
        git: parts.git,
        conversations: parts.conversations,
        created_at: parts.created_at,
        message: parts.message,
    })
}

/// Puts a snapshot.
pub fn store_snapshot<S: ObjectSink + ?Sized>(
    snapshot: &Snapshot,
    sink: &S,
) -> Result<SnapshotId, SnapshotError> {
    let bytes = snapshot.encode();
    // The encoder writes what it is given; the decoder knows the limits.
    Snapshot::decode(&bytes).map_err(SnapshotError::Limit)?;
    Ok(SnapshotId::from_bytes(sink.put(ObjectKind::Snapshot, &bytes)?.hash))
}

/// Whether two snapshots say the same of the workspace, so that the later one need not be made.
pub fn has_same_content(a: &Snapshot, b: &Snapshot) -> bool {
    a.root == b.root
        && a.root_mode == b.root_mode
        && a.omitted == b.omitted
        && a.git == b.git
        && a.conversations == b.conversations
}

/// Reads a snapshot.
pub fn load_snapshot<S: ObjectSource + ?Sized>(
    source: &S,
    id: SnapshotId,
) -> Result<Snapshot, StoreError> {
    let id = ObjectId::from(id);
    Snapshot::decode(&source.require(&id)?).map_err(|_| StoreError::DamagedObject(id))
}

/// Reads the state of a repository.
pub fn load_git_state<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
) -> Result<GitState, StoreError> {
    let id = ObjectId::from(id);
    GitState::decode(&source.require(&id)?).map_err(|_| StoreError::DamagedObject(id))
}

/// Reads a conversation.
pub fn load_conversation<S: ObjectSource + ?Sized>(
    source: &S,
    id: ConversationId,
) -> Result<Conversation, StoreError> {
    let id = ObjectId::from(id);
    Conversation::decode(&source.require(&id)?).map_err(|_| StoreError::DamagedObject(id))
}

/// Reads what a snapshot left out.
pub fn load_omissions<S: ObjectSource + ?Sized>(
    source: &S,
    snapshot: &Snapshot,
) -> Result<Vec<Omission>, StoreError> {
    let Some(blob) = snapshot.omitted else { return Ok(Vec::new()) };
    let damaged = || StoreError::DamagedObject(blob.content.id());
    let bytes = load_blob(source, blob, MAX_OMISSIONS).map_err(|error| match error {
        BlobError::Store(error) => error,
        BlobError::TooLarge { .. } => damaged(),
    })?;
    Omissions::decode(&bytes).map(|omissions| omissions.0).map_err(|_| damaged())
}

/// Reads a blob of at most `limit` bytes whole.
pub fn load_blob<S: ObjectSource + ?Sized>(
    source: &S,
    blob: Blob,
    limit: u64,
) -> Result<Vec<u8>, BlobError> {
    if blob.size > limit {
        return Err(BlobError::TooLarge { size: blob.size, limit });
    }
    let mut bytes = Vec::new();
    for_each_extent(source, blob, |_, extent| {
        bytes.extend_from_slice(&read_chunk(source, extent)?);
        Ok::<_, StoreError>(())
    })?;
    Ok(bytes)
}

/// The first bytes of a blob: those of its first chunk.
pub(crate) fn load_first_chunk<S: ObjectSource + ?Sized>(
    source: &S,
    blob: Blob,
) -> Result<Vec<u8>, StoreError> {
    let mut first = None;
    let visited = for_each_extent(source, blob, |_, extent| {
        first = Some(extent);
        // No further.
        Err(None)
    });
    match (visited, first) {
        (_, Some(extent)) => read_chunk(source, extent),
        (Err(Some(error)), None) => Err(error),
        (_, None) => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::TreeId;
    use baton_protocol::object::OmitReason;
    use baton_protocol::path::RelPath;

    use super::*;
    use crate::objects::memory::MemoryObjects;

    fn scanned(omitted: usize) -> Scanned {
        let omission = |i| Omission {
            path: RelPath::new(format!("{i:07}").as_bytes()).unwrap(),
            reason: OmitReason::Special,
        };
        Scanned::of(TreeId::of(b"root"), (0..omitted).map(omission).collect())
    }

    fn parts(message: &str) -> SnapshotParts {
        SnapshotParts {
            workspace: WorkspaceId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 32]),
            sequence: 1,
            parents: Vec::new(),
            git: None,
            conversations: Vec::new(),
            created_at: 5,
            message: message.to_owned(),
        }
    }

    fn made(scanned: &Scanned, parts: SnapshotParts, objects: &MemoryObjects) -> Snapshot {
        build_snapshot(scanned, &scanned.omitted, parts, objects).unwrap()
    }

    #[test]
    fn a_snapshot_comes_back_with_what_it_left_out() {
        let objects = MemoryObjects::default();
        // The longest list is more than one chunk.
        for omitted in [0, 1, 50_000] {
            let scanned = scanned(omitted);
            let snapshot =
                build_snapshot(&scanned, &scanned.omitted, parts("m"), &objects).unwrap();
            let id = store_snapshot(&snapshot, &objects).unwrap();
            let loaded = load_snapshot(&objects, id).unwrap();
            assert_eq!(loaded, snapshot);
            assert_eq!(load_omissions(&objects, &loaded).unwrap(), scanned.omitted);
        }
    }

    #[test]
    fn content_decides_whether_a_snapshot_is_needed() {
        let objects = MemoryObjects::default();
        let a = made(&scanned(1), parts("a"), &objects);
        let mut b = made(&scanned(1), parts("b"), &objects);
        b.sequence = 9;
        assert!(has_same_content(&a, &b));
        b.root_mode = 0o700;
        assert!(!has_same_content(&a, &b));
        let c = made(&scanned(2), parts("a"), &objects);
        assert!(!has_same_content(&a, &c));
    }

    #[test]
    fn what_a_snapshot_cannot_hold_is_refused() {
        let objects = MemoryObjects::default();
        let long = made(&scanned(0), parts(&"x".repeat(1 << 20)), &objects);
        assert!(matches!(store_snapshot(&long, &objects), Err(SnapshotError::Limit(_))));
        let blob = store_bytes(&[1; 10], &objects).unwrap();
        assert!(matches!(load_blob(&objects, blob, 9), Err(BlobError::TooLarge { .. })));
        assert_eq!(load_blob(&objects, blob, 10).unwrap(), [1; 10]);
    }
}

//! The entries of a journal and their bytes.
//!
//! ```text
//! "BTNJ"  version u8  kind u8  0 u16  len u32  crc32c of the above u32
//! body, `len` bytes
//! crc32c of the body u32
//! ```

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::id::{DeviceId, IdempotencyKey, SnapshotId, VaultId, WorkspaceId};
use baton_protocol::message::Head;

use crate::segment::MAX_RECORD;

pub(super) const MAGIC: [u8; 4] = *b"BTNJ";
const VERSION: u8 = 1;
const COMMIT: u8 = 1;
const CHECKPOINT: u8 = 2;

/// Bytes before a body.
pub(super) const HEAD: usize = 16;

/// Largest body: a commit is far below, and a checkpoint is cut long before.
pub(super) const MAX_BODY: usize = 256 * 1024 * 1024;

/// Refs and keys after which a checkpoint goes on in another entry.
const CHECKPOINT_ROWS: usize = 10_000;

/// A request to move a ref.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefUpdate {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The device or run whose ref it is: one writer each.
    pub device: DeviceId,
    /// Where the ref must be.
    pub expected: Option<SnapshotId>,
    /// Where it goes.
    pub new: SnapshotId,
    /// The sequence number of `new`.
    pub sequence: u64,
    /// Makes a replay harmless.
    pub key: IdempotencyKey,
}

impl RefUpdate {
    /// Where the ref is afterwards.
    pub const fn head(&self) -> Head {
        Head {
            workspace: self.workspace,
            device: self.device,
            snapshot: self.new,
            sequence: self.sequence,
        }
    }
}

/// Objects, and the ref that makes them reachable, as one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Whose.
    pub vault: VaultId,
    /// Nothing where objects are only kept.
    pub update: Option<RefUpdate>,
    /// Encoded segment records; empty where the objects went to segments directly.
    pub records: Vec<Vec<u8>>,
}

/// Every ref of a vault, and the keys of its latest updates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefState {
    /// Whose.
    pub vault: VaultId,
    /// The refs.
    pub heads: Vec<Head>,
    /// The latest updates, oldest first.
    pub keys: Vec<(IdempotencyKey, Head)>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// See [`Commit`].
    Commit(Commit),
    /// Every ref of these vaults: replaces what was known of them before.
    Checkpoint(Vec<RefState>),
}

impl Entry {
    /// The bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Writer::new();
        let kind = match self {
            Self::Commit(commit) => {
                body.fixed(commit.vault.as_bytes());
                body.byte(u8::from(commit.update.is_some()));
                if let Some(update) = &commit.update {
                    write_update(&mut body, update);
                }
                body.varint(commit.records.len() as u64);
                for record in &commit.records {
                    body.bytes(record);
                }
                COMMIT
            }
            Self::Checkpoint(states) => {
                body.varint(states.len() as u64);
                for state in states {
                    write_state(&mut body, state);
                }
                CHECKPOINT
            }
        };
        let body = body.finish();
        let mut bytes = Vec::with_capacity(HEAD + body.len() + 4);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, kind, 0, 0]);
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
        bytes.extend_from_slice(&body);
        bytes.extend_from_slice(&crc32c::crc32c(&body).to_le_bytes());
        bytes
    }

    /// Reads the body of an entry of this kind.
    pub(super) fn decode(kind: u8, body: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(body);
        let entry = match kind {
            COMMIT => {
                let vault = VaultId::from_bytes(from.array()?);
                let update = match from.byte()? {
                    0 => None,
                    1 => Some(read_update(&mut from)?),
                    value => {
                        return Err(DecodeError::Unknown { what: "flag", value: value.into() });
                    }
                };
                let count = from.count("records", body.len(), 1)?;
                let records = (0..count)
                    .map(|_| from.bytes("record length", MAX_RECORD).map(<[u8]>::to_vec))
                    .collect::<Result<_, _>>()?;
                Self::Commit(Commit { vault, update, records })
            }
            CHECKPOINT => {
                let count = from.count("vaults", body.len(), 18)?;
                let states = (0..count).map(|_| read_state(&mut from)).collect::<Result<_, _>>()?;
                Self::Checkpoint(states)
            }
            value => return Err(DecodeError::Unknown { what: "entry", value: value.into() }),
        };
        from.finish()?;
        Ok(entry)
    }
}

/// Encodes a checkpoint as one or more entries: the vaults of a large node would not fit in one.
pub(super) fn encode_checkpoint(states: Vec<RefState>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut part = Vec::new();
    let mut rows = 0;
    for state in states {
        rows += state.heads.len() + state.keys.len();
        part.push(state);
        if rows >= CHECKPOINT_ROWS {
            bytes.extend(Entry::Checkpoint(std::mem::take(&mut part)).encode());
            rows = 0;
        }
    }
    if bytes.is_empty() || !part.is_empty() {
        bytes.extend(Entry::Checkpoint(part).encode());
    }
    bytes
}

/// The kind and body length that an intact head says.
pub(super) fn decode_head(head: &[u8; HEAD]) -> Option<(u8, usize)> {
    let (covered, sum) = head.split_last_chunk()?;
    if crc32c::crc32c(covered) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut from = Reader::new(covered);
    let magic: [u8; 4] = from.array().ok()?;
    let version = from.byte().ok()?;
    let kind = from.byte().ok()?;
    let _reserved: [u8; 2] = from.array().ok()?;
    let len = u32::from_le_bytes(from.array().ok()?) as usize;
    (magic == MAGIC && version == VERSION && len <= MAX_BODY).then_some((kind, len))
}

fn write_head(to: &mut Writer, head: &Head) {
    to.fixed(head.workspace.as_bytes());
    to.fixed(head.device.as_bytes());
    to.fixed(head.snapshot.as_bytes());
    to.varint(head.sequence);
}

fn read_head(from: &mut Reader<'_>) -> Result<Head, DecodeError> {
    Ok(Head {
        workspace: WorkspaceId::from_bytes(from.array()?),
        device: DeviceId::from_bytes(from.array()?),
        snapshot: SnapshotId::from_bytes(from.array()?),
        sequence: from.varint()?,
    })
}

fn write_update(to: &mut Writer, update: &RefUpdate) {
    write_head(to, &update.head());
    to.byte(u8::from(update.expected.is_some()));
    if let Some(expected) = update.expected {
        to.fixed(expected.as_bytes());
    }
    to.fixed(update.key.as_bytes());
}

fn read_update(from: &mut Reader<'_>) -> Result<RefUpdate, DecodeError> {
    let head = read_head(from)?;
    let expected = match from.byte()? {
        0 => None,
        _ => Some(SnapshotId::from_bytes(from.array()?)),
    };
    Ok(RefUpdate {
        workspace: head.workspace,
        device: head.device,
        expected,
        new: head.snapshot,
        sequence: head.sequence,
        key: IdempotencyKey::from_bytes(from.array()?),
    })
}

fn write_state(to: &mut Writer, state: &RefState) {
    to.fixed(state.vault.as_bytes());
    to.varint(state.heads.len() as u64);
    for head in &state.heads {
        write_head(to, head);
    }
    to.varint(state.keys.len() as u64);
    for (key, head) in &state.keys {
        to.fixed(key.as_bytes());
        write_head(to, head);
    }
}

fn read_state(from: &mut Reader<'_>) -> Result<RefState, DecodeError> {
    const LEAST: usize = 16 + 32 + 32 + 1;
    let vault = VaultId::from_bytes(from.array()?);
    let count = from.count("refs", MAX_BODY, LEAST)?;
    let heads = (0..count).map(|_| read_head(from)).collect::<Result<_, _>>()?;
    let count = from.count("keys", MAX_BODY, 16 + LEAST)?;
    let keys = (0..count)
        .map(|_| Ok((IdempotencyKey::from_bytes(from.array()?), read_head(from)?)))
        .collect::<Result<_, DecodeError>>()?;
    Ok(RefState { vault, heads, keys })
}

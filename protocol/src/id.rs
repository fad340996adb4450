//! Names of things: content ids (BLAKE3, one domain per object kind) and random ids.
//!
//! Not here: what an object's bytes look like ([`crate::object`]).
//!
//! **Invariant:** an id type is made only from a hash of the right domain, from bytes that claim to
//! be one (and are checked where they are used), or from random bytes handed in by the caller: this
//! crate draws no randomness.

use std::sync::LazyLock;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use serde::{Deserialize, Serialize};

/// Shortest prefix of an id that a person may type, in hex digits.
pub const MIN_PREFIX: usize = 8;

/// An id could not be parsed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("not an id: expected {expected} lowercase hex digits, found {found:?}")]
pub struct ParseIdError {
    /// Digits a whole id of this kind has.
    pub expected: usize,
    /// What was given, cut to 80 characters.
    pub found: String,
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Takes bytes that claim to be such an id.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first eight digits, for people.
            pub fn short(&self) -> String {
                let mut hex = self.to_string();
                hex.truncate(MIN_PREFIX);
                hex
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let refused = || ParseIdError {
                    expected: $len * 2,
                    found: text.chars().take(80).collect(),
                };
                data_encoding::HEXLOWER
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(refused)
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                if to.is_human_readable() {
                    to.collect_str(self)
                } else {
                    self.0.serialize(to)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                if from.is_human_readable() {
                    let text = <std::borrow::Cow<'de, str>>::deserialize(from)?;
                    text.parse().map_err(serde::de::Error::custom)
                } else {
                    id_bytes!($len, from).map(Self)
                }
            }
        }
    };
}

/// Arrays of 16 and 32 bytes both have serde implementations; this only names the type.
macro_rules! id_bytes {
    ($len:literal, $from:expr) => {
        <[u8; $len]>::deserialize($from)
    };
}

id_type!(
    /// Up to 256 KiB of a file.
    ChunkId, 32);
id_type!(
    /// The ordered chunks of a file larger than one chunk.
    ManifestId, 32);
id_type!(
    /// One directory, or one node of a wide one.
    TreeId, 32);
id_type!(
    /// One agent session and its attachments.
    ConversationId, 32);
id_type!(
    /// A root tree with everything that travels beside it.
    SnapshotId, 32);
id_type!(
    /// The state of one git repository.
    GitStateId, 32);
id_type!(
    /// An enrolled home: the bytes of its Ed25519 public key; for a run, bytes derived from its id.
    DeviceId, 32);
id_type!(
    /// A machine that runs Baton: the bytes of its Ed25519 public key.
    NodeId, 32);
id_type!(
    /// The domain of deduplication and the unit of isolation. Random.
    VaultId, 16);
id_type!(
    /// A tree that is kept. Random, minted on first use.
    WorkspaceId, 16);
id_type!(
    /// One execution on a node. Random, made by the asking side.
    RunId, 16);
id_type!(
    /// A run and its follow-ups. Random.
    ThreadId, 16);
id_type!(
    /// One request that must take effect once however often it is delivered. Random.
    IdempotencyKey, 16);
id_type!(
    /// A push or handoff that waits for the network. Random, made by the asking side; never sent.
    QueueId, 16);
id_type!(
    /// One change of a checkout, by which it can be put back. Random; never sent.
    ApplyId, 16);

/// The kinds of hashed objects; the number is part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ObjectKind {
    /// Raw bytes of a file.
    Chunk = 1,
    /// [`crate::object::Manifest`].
    Manifest = 2,
    /// [`crate::object::Tree`].
    Tree = 3,
    /// [`crate::object::Conversation`].
    Conversation = 4,
    /// [`crate::object::Snapshot`].
    Snapshot = 5,
    /// [`crate::object::GitState`].
    GitState = 6,
}

impl ObjectKind {
    /// Every kind, in the order of their numbers.
    pub const ALL: [Self; 6] = [
        Self::Chunk,
        Self::Manifest,
        Self::Tree,
        Self::Conversation,
        Self::Snapshot,
        Self::GitState,
    ];

    /// The kind with this number.
    pub const fn from_number(number: u8) -> Option<Self> {
        Some(match number {
            1 => Self::Chunk,
            2 => Self::Manifest,
            3 => Self::Tree,
            4 => Self::Conversation,
            5 => Self::Snapshot,
            6 => Self::GitState,
            _ => return None,
        })
    }

    /// Whether the object is metadata: everything but file content, kept in segments of its own so
    /// that marking and listing never read file data.
    pub const fn is_metadata(self) -> bool {
        !matches!(self, Self::Chunk)
    }

    /// The word used in messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Chunk => "chunk",
            Self::Manifest => "manifest",
            Self::Tree => "tree",
            Self::Conversation => "conversation",
            Self::Snapshot => "snapshot",
            Self::GitState => "git",
        }
    }

    fn context(self) -> &'static ContextKey {
        static KEYS: LazyLock<[ContextKey; 6]> = LazyLock::new(|| {
            ObjectKind::ALL
                .map(|kind| hash_derive_key_context(&format!("baton 2026 {} v1", kind.name())))
        });
        let [chunk, manifest, tree, conversation, snapshot, git] = &*KEYS;
        match self {
            Self::Chunk => chunk,
            Self::Manifest => manifest,
            Self::Tree => tree,
            Self::Conversation => conversation,
            Self::Snapshot => snapshot,
            Self::GitState => git,
        }
    }
}

/// A hashed object of any kind, by kind and hash.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// What it is.
    pub kind: ObjectKind,
    /// BLAKE3 of its canonical bytes in the domain of `kind`.
    pub hash: [u8; 32],
}

/// The first eight bytes of an object's hash. Two objects of a vault may share them.
pub type HashPrefix = [u8; 8];

impl ObjectId {
    /// Computes the id of an object's canonical bytes.
    pub fn of(kind: ObjectKind, bytes: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_from_context_key(kind.context());
        hasher.update(bytes);
        Self { kind, hash: *hasher.finalize().as_bytes() }
    }

    /// What a peer calls it by that is likely to have it.
    pub const fn prefix(&self) -> HashPrefix {
        let [a, b, c, d, e, f, g, h, ..] = self.hash;
        [a, b, c, d, e, f, g, h]
    }
}

impl std::fmt::Display for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.name(), data_encoding::HEXLOWER.encode(&self.hash))
    }
}

impl std::fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hex = data_encoding::HEXLOWER.encode(&self.hash);
        write!(f, "{}({})", self.kind.name(), hex.get(..MIN_PREFIX).unwrap_or_default())
    }
}

macro_rules! content_id {
    ($name:ident, $kind:ident) => {
        impl $name {
            /// Computes the id of an object's canonical bytes.
            pub fn of(bytes: &[u8]) -> Self {
                Self(ObjectId::of(ObjectKind::$kind, bytes).hash)
            }
        }

        impl From<$name> for ObjectId {
            fn from(id: $name) -> Self {
                Self { kind: ObjectKind::$kind, hash: id.0 }
            }
        }
    };
}

content_id!(ChunkId, Chunk);
content_id!(ManifestId, Manifest);
content_id!(TreeId, Tree);
content_id!(ConversationId, Conversation);
content_id!(SnapshotId, Snapshot);
content_id!(GitStateId, GitState);

impl RunId {
    /// The device under which a run's own snapshots are kept: a run is a device.
    pub fn device(&self) -> DeviceId {
        DeviceId(blake3::derive_key("baton 2026 run device v1", &self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_domains_of_their_own() {
        let ids: std::collections::BTreeSet<_> =
            ObjectKind::ALL.iter().map(|&kind| ObjectId::of(kind, b"same").hash).collect();
        assert_eq!(ids.len(), ObjectKind::ALL.len());
        for kind in ObjectKind::ALL {
            assert_eq!(ObjectKind::from_number(kind as u8), Some(kind));
        }
    }

    #[test]
    fn text_form_round_trips_and_refuses_the_rest() {
        let id = ChunkId::of(b"x");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short().len(), MIN_PREFIX);
        assert!(id.to_string().to_uppercase().parse::<ChunkId>().is_err());
        assert!("".parse::<RunId>().is_err());
        assert!(id.to_string().parse::<RunId>().is_err());
    }

    proptest::proptest! {
        #[test]
        fn every_id_has_one_text(bytes: [u8; 32], other in "[0-9a-fA-F]{60,66}|\\PC{0,70}") {
            let id = NodeId::from_bytes(bytes);
            proptest::prop_assert_eq!(id.to_string().parse(), Ok(id));
            if let Ok(id) = other.parse::<NodeId>() {
                proptest::prop_assert_eq!(id.to_string(), other);
            }
        }
    }
}

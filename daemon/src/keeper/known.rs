//! What is remembered of the repository of a tree.

use baton_protocol::id::GitStateId;

/// A repository as it was when a snapshot of its tree was last taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Of the glance at it.
    pub digest: [u8; 32],
    /// Its state.
    pub id: GitStateId,
}

impl Known {
    /// For the stat cache.
    pub fn encode(&self) -> Vec<u8> {
        [self.digest, *self.id.as_bytes()].concat()
    }

    /// What [`Known::encode`] made.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (digest, rest) = bytes.split_first_chunk::<32>()?;
        Some(Self { digest: *digest, id: GitStateId::from_bytes(rest.try_into().ok()?) })
    }
}

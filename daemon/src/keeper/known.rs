//! What is remembered of the repository of a tree.

use baton_protocol::id::{GitStateId, TreeId};

/// A repository as it was when a snapshot of its tree was last taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Of the glance at it.
    pub digest: [u8; 32],
    /// Its state.
    pub id: GitStateId,
    /// The tree, where the state holds for that one alone.
    pub tree: Option<TreeId>,
}

impl Known {
    /// For the stat cache.
    pub fn encode(&self) -> Vec<u8> {
        let tree = self.tree.iter().flat_map(TreeId::as_bytes);
        self.digest.iter().chain(self.id.as_bytes()).chain(tree).copied().collect()
    }

    /// What [`Known::encode`] made.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (digest, rest) = bytes.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let tree = match rest {
            [] => None,
            tree => Some(TreeId::from_bytes(tree.try_into().ok()?)),
        };
        Some(Self { digest: *digest, id: GitStateId::from_bytes(*id), tree })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_comes_back() {
        for tree in [None, Some(TreeId::from_bytes([3; 32]))] {
            let known = Known { digest: [1; 32], id: GitStateId::from_bytes([2; 32]), tree };
            let bytes = known.encode();
            assert_eq!(Known::decode(&bytes), Some(known));
            for cut in [0, 1, 32, 63, bytes.len() - 1] {
                let shorter = Known::decode(&bytes[..cut]);
                assert!(shorter.is_none_or(|it| it.tree.is_none() && cut == 64), "{cut}");
            }
        }
    }
}

//! What is known of a layer, on the disk beside its tree.
//!
//! **Invariant:** a record that is damaged is of no layer.

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::id::{GitStateId, TreeId};
use baton_protocol::object::{
    GitOmission, GitOmissions, GitOmitReason, Omission, Omissions, Snapshot,
};

const MAGIC: &[u8; 16] = b"baton layer  v1\n";

/// Longest record that is read: the lists are the long part of it.
pub(super) const MAX_LEN: u64 = 64 << 20;

/// Longest name of a moment since a machine was started.
const MAX_BOOT: usize = 64;

/// What a layer and those below it show together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) root: TreeId,
    pub(super) root_mode: u16,
    pub(super) git: Option<GitStateId>,
    /// The layer below; nothing of a base.
    pub(super) below: Option<u64>,
    /// While which start of the machine it was made: what was not synced is gone after the next one.
    pub(super) boot: String,
    /// What the file system could not hold.
    pub(super) not_carried: Vec<Omission>,
    /// What of the repository did not come, or is to be looked at.
    pub(super) told: Vec<GitOmission>,
}

/// Whether a repository has all of its objects. One that lacks some would make the next one believe that they are there.
pub(super) fn is_whole(told: &[GitOmission]) -> bool {
    told.iter().all(|told| told.reason != GitOmitReason::Missing)
}

impl Record {
    /// Whether it is what is seen of a snapshot.
    pub(super) fn shows(&self, snapshot: &Snapshot) -> bool {
        (self.root, self.root_mode, self.git) == (snapshot.root, snapshot.root_mode, snapshot.git)
    }

    /// Whether its repository has all of its objects.
    pub(super) fn is_whole(&self) -> bool {
        is_whole(&self.told)
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.fixed(MAGIC);
        to.fixed(self.root.as_bytes());
        to.varint(self.root_mode.into());
        match self.git {
            None => to.byte(0),
            Some(git) => {
                to.byte(1);
                to.fixed(git.as_bytes());
            }
        }
        match self.below {
            None => to.byte(0),
            Some(below) => {
                to.byte(1);
                to.varint(below);
            }
        }
        to.bytes(self.boot.as_bytes());
        to.bytes(&Omissions(self.not_carried.clone()).encode());
        to.bytes(&GitOmissions(self.told.clone()).encode());
        to.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        if from.array()? != *MAGIC {
            return Err(DecodeError::Inconsistent { what: "magic" });
        }
        let root = TreeId::from_bytes(from.array()?);
        let root_mode = from.bounded("mode", 0o7777)? as u16;
        let git = match from.bounded("flag", 1)? {
            0 => None,
            _ => Some(GitStateId::from_bytes(from.array()?)),
        };
        let below = match from.bounded("flag", 1)? {
            0 => None,
            _ => Some(from.varint()?),
        };
        let boot = from.text("boot", MAX_BOOT)?.to_owned();
        let not_carried = Omissions::decode(from.bytes("omissions", bytes.len())?)?.0;
        let told = GitOmissions::decode(from.bytes("omissions", bytes.len())?)?.0;
        from.finish()?;
        Ok(Self { root, root_mode, git, below, boot, not_carried, told })
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::object::OmitReason;

    use super::*;
    use crate::fuzz::fuzzing::{fuzz, within};

    #[test]
    fn layer_records() {
        let record = |git: bool, below| {
            let path = |path: &[u8]| baton_protocol::path::RelPath::new(path).unwrap();
            let not_carried = [&b"a"[..], b"b/\xff"]
                .map(|at| Omission { path: path(at), reason: OmitReason::NotCarried });
            let told = GitOmission { what: "refs/heads/x".into(), reason: GitOmitReason::Missing };
            Record {
                root: TreeId::from_bytes([1; 32]),
                root_mode: 0o755,
                git: git.then(|| GitStateId::from_bytes([2; 32])),
                below,
                boot: "6b0e7f4e-22d1-4d0c-9a43-6c5d4a9f2a11".into(),
                not_carried: not_carried.to_vec(),
                told: if git { vec![told] } else { Vec::new() },
            }
        };
        let corpus = vec![record(false, None).encode(), record(true, Some(300)).encode()];
        fuzz(corpus, |_, input| {
            let read = within(input, 32, 8192, Record::decode);
            read.inspect(|record| assert_eq!(record.encode(), input)).is_ok()
        });
    }
}

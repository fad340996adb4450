//! What is known on the disk of how a repository is changed.
//!
//! **Invariant:** what is damaged is refused: a name that is read is one that a ref may have, and an entry one that an
//! index may have.

use std::collections::BTreeMap;

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::object::{GitEntry, GitHash, GitIndex, GitOid, GitRefName};
use baton_protocol::path::MAX_PATH;

use crate::git::{EntryChange, RefStep, Standing, When};

const MAGIC: &[u8; 16] = b"baton apply  g2\n";

/// Longest list of entries, in bytes.
const MAX_ENTRIES: usize = 512 << 20;

/// Most refs.
const MAX_REFS: usize = 1 << 20;

/// Longest name of a run.
const MAX_RUN: usize = 256;

/// How a repository is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RepositoryChange {
    pub(super) hash: GitHash,
    /// After which names were made.
    pub(super) run: String,
    /// Whether something stays that should have changed.
    pub(super) is_left: bool,
    /// Where `HEAD` was.
    pub(super) head: Standing,
    /// What the index said, in short; nothing where there was none.
    pub(super) sum: Option<[u8; 32]>,
    /// Nothing where the index does not change.
    pub(super) index: Option<IndexChange>,
    pub(super) refs: Vec<RefStep>,
}

/// How an index is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IndexChange {
    /// When the one before was written, in seconds and nanoseconds; nothing where there was none.
    pub(super) written: Option<(i64, i64)>,
    pub(super) changes: Vec<EntryChange>,
}

impl RepositoryChange {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.fixed(MAGIC);
        to.byte(self.hash as u8);
        to.bytes(self.run.as_bytes());
        to.byte(u8::from(self.is_left));
        to.bytes(&self.head.branch);
        to.byte(u8::from(self.head.oid.is_some()));
        if let Some(oid) = self.head.oid {
            to.fixed(oid.as_bytes());
        }
        to.byte(u8::from(self.sum.is_some()));
        if let Some(sum) = &self.sum {
            to.fixed(sum);
        }
        to.byte(u8::from(self.index.is_some()));
        if let Some(IndexChange { written, changes }) = &self.index {
            to.byte(u8::from(written.is_some()));
            if let Some((seconds, nanoseconds)) = written {
                to.fixed(&seconds.to_le_bytes());
                to.fixed(&nanoseconds.to_le_bytes());
            }
            let list = |of: fn(&EntryChange) -> &Vec<GitEntry>| {
                let entries = changes.iter().flat_map(of).cloned().collect();
                let (hash, version, undo) = (self.hash, 2, Vec::new());
                GitIndex { hash, version, sparse: true, entries, undo }.encode()
            };
            to.bytes(&list(|change| &change.from));
            to.bytes(&list(|change| &change.to));
        }
        to.varint(self.refs.len() as u64);
        for RefStep { name, old, new, when } in &self.refs {
            to.bytes(name);
            to.byte(u8::from(old.is_some()));
            if let Some(old) = old {
                to.fixed(old.as_bytes());
            }
            to.fixed(new.as_bytes());
            to.byte(*when as u8);
        }
        to.finish()
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let from = &mut Reader::new(bytes);
        if from.array()? != *MAGIC {
            return Err(DecodeError::Inconsistent { what: "magic" });
        }
        let hash = match from.byte()? {
            1 => GitHash::Sha1,
            2 => GitHash::Sha256,
            value => return Err(DecodeError::Unknown { what: "git hash", value: value.into() }),
        };
        let run = String::from_utf8(from.bytes("run", MAX_RUN)?.to_vec());
        let run = run.map_err(|_| DecodeError::Inconsistent { what: "run" })?;
        let is_left = flag(from)?;
        let branch = from.bytes("ref name", MAX_PATH)?.to_vec();
        if !branch.is_empty() && GitRefName::new(&branch).is_none() {
            return Err(DecodeError::Inconsistent { what: "ref" });
        }
        let at = if flag(from)? { Some(oid(from, hash)?) } else { None };
        let head = Standing { branch, oid: at };
        let sum = if flag(from)? { Some(from.array()?) } else { None };
        let index = if flag(from)? { Some(IndexChange::read(from, hash)?) } else { None };
        let count = from.count("refs", MAX_REFS, 3 + hash.len())?;
        let mut refs = Vec::with_capacity(count);
        for _ in 0..count {
            let name = from.bytes("ref name", MAX_PATH)?;
            let name = GitRefName::new(name).ok_or(DecodeError::Inconsistent { what: "ref" })?;
            let old = if flag(from)? { Some(oid(from, hash)?) } else { None };
            let new = oid(from, hash)?;
            let when = match from.byte()? {
                0 => When::Always,
                1 => When::Whole,
                2 => When::Left,
                value => return Err(DecodeError::Unknown { what: "when", value: value.into() }),
            };
            refs.push(RefStep { name: name.as_bytes().to_vec(), old, new, when });
        }
        from.clone().finish()?;
        Ok(Self { hash, run, is_left, head, sum, index, refs })
    }
}

impl IndexChange {
    fn read(from: &mut Reader<'_>, hash: GitHash) -> Result<Self, DecodeError> {
        let written = if flag(from)? {
            Some((i64::from_le_bytes(from.array()?), i64::from_le_bytes(from.array()?)))
        } else {
            None
        };
        let mut paths: BTreeMap<Vec<u8>, [Vec<GitEntry>; 2]> = BTreeMap::new();
        for side in 0..2 {
            let list = GitIndex::decode(from.bytes("entries", MAX_ENTRIES)?)?;
            if list.hash != hash {
                return Err(DecodeError::Inconsistent { what: "entries" });
            }
            for entry in list.entries {
                let sides = paths.entry(entry.path.clone()).or_default();
                if let Some(entries) = sides.get_mut(side) {
                    entries.push(entry);
                }
            }
        }
        let change =
            |(path, [from, to]): (Vec<u8>, [Vec<GitEntry>; 2])| EntryChange { path, from, to };
        Ok(Self { written, changes: paths.into_iter().map(change).collect() })
    }
}

fn flag(from: &mut Reader<'_>) -> Result<bool, DecodeError> {
    Ok(from.bounded("flag", 1)? == 1)
}

fn oid(from: &mut Reader<'_>, hash: GitHash) -> Result<GitOid, DecodeError> {
    let oid = GitOid::new(hash, from.fixed(hash.len())?);
    oid.ok_or(DecodeError::Inconsistent { what: "object name" })
}

#[cfg(test)]
mod tests {
    use baton_protocol::object::GitMode;

    use super::*;

    fn change() -> RepositoryChange {
        let oid = |byte| GitOid::new(GitHash::Sha1, &[byte; 20]).unwrap();
        let entry = |stage, byte| GitEntry {
            path: b"a/b".to_vec(),
            stage,
            mode: GitMode::File,
            assume_valid: false,
            skip_worktree: false,
            intent_to_add: false,
            clean: None,
            oid: oid(byte),
        };
        let name = b"refs/heads/main".to_vec();
        let step = |old, when| RefStep { name: name.clone(), old, new: oid(3), when };
        RepositoryChange {
            hash: GitHash::Sha1,
            run: "1a2b".into(),
            is_left: true,
            head: Standing { branch: name.clone(), oid: Some(oid(4)) },
            sum: Some([7; 32]),
            index: Some(IndexChange {
                written: Some((-1, 7)),
                changes: vec![EntryChange {
                    path: b"a/b".to_vec(),
                    from: vec![entry(0, 1)],
                    to: vec![entry(1, 1), entry(2, 2)],
                }],
            }),
            refs: vec![step(Some(oid(4)), When::Whole), step(None, When::Left)],
        }
    }

    #[test]
    fn repository_changes() {
        let none = RepositoryChange { index: None, ..change() };
        let corpus = vec![change().encode(), none.encode()];
        crate::fuzz::fuzzing::fuzz(corpus, |_, input| {
            let read = crate::fuzz::fuzzing::within(input, 128, 8192, RepositoryChange::decode);
            read.inspect(|change| {
                // The same entries may have been listed in another form of an index.
                let again = RepositoryChange::decode(&change.encode()).unwrap();
                assert_eq!(again, *change);
            })
            .is_ok()
        });
    }

    #[test]
    fn the_bytes_are_those_of_the_format() {
        let bytes = change().encode();
        assert_eq!(RepositoryChange::decode(&bytes).unwrap(), change());
        let head = Standing { branch: Vec::new(), oid: None };
        let none = RepositoryChange { head, sum: None, index: None, refs: Vec::new(), ..change() };
        assert_eq!(RepositoryChange::decode(&none.encode()).unwrap(), none);
    }

    #[test]
    fn what_no_encoder_writes_is_refused() {
        let bytes = change().encode();
        for len in 0..bytes.len() {
            assert!(RepositoryChange::decode(&bytes[..len]).is_err(), "{len}");
        }
        let mut hostile = change();
        hostile.refs[0].name = b"refs/../config".to_vec();
        assert!(RepositoryChange::decode(&hostile.encode()).is_err());
        let mut hostile = change();
        hostile.index.as_mut().unwrap().changes[0].to[0].path = b".git/config".to_vec();
        assert!(RepositoryChange::decode(&hostile.encode()).is_err());
    }
}

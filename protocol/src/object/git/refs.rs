//! Refs of git, and which names one may have.

use std::fmt;

use super::oid::{GitHash, GitOid};
use crate::encode::{DecodeError, Reader, Writer};
use crate::path::{MAX_PATH, RelPath};

/// The full name of a ref: below `refs/`, or one of those that git keeps beside `HEAD`, such as
/// `ORIG_HEAD`.
///
/// **Invariant:** a valid name by the rules of `git check-ref-format`, each part of which is the name of
/// a file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GitRefName(Vec<u8>);

impl GitRefName {
    /// Checks a name.
    pub fn new(name: &[u8]) -> Option<Self> {
        let known = name.starts_with(b"refs/") || is_root_ref(name);
        (known && is_valid(name)).then(|| Self(name.to_vec()))
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether it stands beside `HEAD`.
    pub fn is_root(&self) -> bool {
        !self.0.contains(&b'/')
    }

    /// This name, where it is one below `refs/`.
    #[must_use]
    pub fn below_refs(self) -> Option<Self> {
        (!self.is_root()).then_some(self)
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let name = from.bytes("ref name", MAX_PATH)?;
        Self::new(name).ok_or(DecodeError::Inconsistent { what: "ref name" })
    }
}

impl fmt::Display for GitRefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for GitRefName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// Names beside `HEAD` that git treats as refs. `HEAD` itself is kept apart, and `MERGE_HEAD` and
/// `FETCH_HEAD` are files, which may name several objects.
fn is_root_ref(name: &[u8]) -> bool {
    match name {
        b"HEAD" | b"MERGE_HEAD" | b"FETCH_HEAD" => false,
        b"AUTO_MERGE"
        | b"BISECT_EXPECTED_REV"
        | b"NOTES_MERGE_PARTIAL"
        | b"NOTES_MERGE_REF"
        | b"MERGE_AUTOSTASH" => true,
        _ => {
            name.ends_with(b"_HEAD")
                && name.iter().all(|&byte| byte.is_ascii_uppercase() || byte == b'_')
        }
    }
}

/// The rules of `git check-ref-format`.
fn is_valid(name: &[u8]) -> bool {
    let bad = |&byte: &u8| byte <= b' ' || byte == 0x7f || b"~^:?*[\\".contains(&byte);
    let part = |part: &[u8]| !part.starts_with(b".") && !part.ends_with(b".lock");
    RelPath::new(name).is_ok_and(|path| path.components().all(part))
        && !name.iter().any(bad)
        && !name.ends_with(b".")
        && !name.windows(2).any(|pair| pair == b".." || pair == b"@{")
}

/// What a ref points to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GitTarget {
    /// An object.
    Object(GitOid),
    /// Another ref.
    Symbolic(GitRefName),
}

/// One ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRef {
    /// Its full name.
    pub name: GitRefName,
    /// What it points to.
    pub target: GitTarget,
}

/// The refs of a repository but for `HEAD`, ascending by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitRefs {
    /// How objects are named.
    pub hash: GitHash,
    /// Strictly ascending by name.
    pub refs: Vec<GitRef>,
}

impl GitRefs {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.byte(self.hash as u8);
        to.varint(self.refs.len() as u64);
        for GitRef { name, target } in &self.refs {
            to.bytes(name.as_bytes());
            match target {
                GitTarget::Object(oid) => {
                    to.byte(0);
                    oid.write(&mut to);
                }
                GitTarget::Symbolic(name) => {
                    to.byte(1);
                    to.bytes(name.as_bytes());
                }
            }
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let hash = GitHash::read(&mut from)?;
        let count = from.count("refs", bytes.len(), 8)?;
        let mut refs: Vec<GitRef> = Vec::with_capacity(count);
        for _ in 0..count {
            let name = GitRefName::read(&mut from)?;
            if refs.last().is_some_and(|last| last.name >= name) {
                return Err(DecodeError::Order { what: "refs" });
            }
            let target = match from.byte()? {
                0 => GitTarget::Object(GitOid::read(hash, &mut from)?),
                1 => GitTarget::Symbolic(
                    GitRefName::read(&mut from)?
                        .below_refs()
                        .ok_or(DecodeError::Inconsistent { what: "symbolic ref" })?,
                ),
                value => return Err(DecodeError::Unknown { what: "ref", value: value.into() }),
            };
            refs.push(GitRef { name, target });
        }
        from.finish()?;
        Ok(Self { hash, refs })
    }
}

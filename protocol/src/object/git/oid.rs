//! Names of git's objects, by either hash that git knows.

use std::fmt;

use crate::encode::{DecodeError, Reader, Writer};

/// The hash by which a repository names its objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GitHash {
    /// 20 bytes.
    Sha1 = 1,
    /// 32 bytes.
    Sha256 = 2,
}

impl GitHash {
    /// Bytes of a name.
    #[expect(clippy::len_without_is_empty, reason = "the length of what it makes")]
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// As git calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        match from.byte()? {
            1 => Ok(Self::Sha1),
            2 => Ok(Self::Sha256),
            value => Err(DecodeError::Unknown { what: "git hash", value: value.into() }),
        }
    }
}

/// The name of an object of git.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GitOid {
    hash: GitHash,
    /// Zero behind the length of the hash.
    bytes: [u8; 32],
}

impl GitOid {
    /// The name in these bytes, if there are as many as the hash has.
    pub fn new(hash: GitHash, bytes: &[u8]) -> Option<Self> {
        let mut all = [0; 32];
        if bytes.len() != hash.len() {
            return None;
        }
        all.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(Self { hash, bytes: all })
    }

    /// Reads lowercase hex digits.
    pub fn from_hex(hash: GitHash, hex: &[u8]) -> Option<Self> {
        Self::new(hash, &data_encoding::HEXLOWER.decode(hex).ok()?)
    }

    /// The name that stands for no object.
    pub const fn null(hash: GitHash) -> Self {
        Self { hash, bytes: [0; 32] }
    }

    /// Whether this stands for no object.
    pub fn is_null(&self) -> bool {
        self.bytes == [0; 32]
    }

    /// By which hash.
    pub const fn hash(&self) -> GitHash {
        self.hash
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.hash.len()).unwrap_or_default()
    }

    pub(super) fn write(&self, to: &mut Writer) {
        to.fixed(self.as_bytes());
    }

    /// Reads the name of an object: the one that stands for none is refused.
    pub(super) fn read(hash: GitHash, from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bytes = from.fixed(hash.len())?;
        Self::new(hash, bytes)
            .filter(|oid| !oid.is_null())
            .ok_or(DecodeError::Inconsistent { what: "object name" })
    }
}

impl fmt::Display for GitOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(self.as_bytes()))
    }
}

impl fmt::Debug for GitOid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Objects of git, ascending by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitOids {
    /// How they are named.
    pub hash: GitHash,
    /// Strictly ascending.
    pub oids: Vec<GitOid>,
}

impl GitOids {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.byte(self.hash as u8);
        to.varint(self.oids.len() as u64);
        self.oids.iter().for_each(|oid| oid.write(&mut to));
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let hash = GitHash::read(&mut from)?;
        let count = from.count("objects", bytes.len(), hash.len())?;
        let mut oids: Vec<GitOid> = Vec::with_capacity(count);
        for _ in 0..count {
            let oid = GitOid::read(hash, &mut from)?;
            if oids.last().is_some_and(|last| *last >= oid) {
                return Err(DecodeError::Order { what: "objects" });
            }
            oids.push(oid);
        }
        from.finish()?;
        Ok(Self { hash, oids })
    }
}

//! What is known of the files of one directory, and its bytes.

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::id::{ChunkId, ManifestId};
use baton_protocol::object::{Blob, Content, MAX_CHUNK};
use baton_protocol::path::MAX_NAME;

/// How long a file must have been at rest before the scan began. The coarsest tick of a local Linux
/// file system is 10 ms (`CONFIG_HZ=100`).
const AT_REST_NS: i64 = 50_000_000;

/// A time that no file has: what is known of one with it never holds.
const UNSETTLED: i64 = i64::MIN;

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStat {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) size: u64,
    /// Nanoseconds since 1970.
    pub(crate) mtime: i64,
    /// Nanoseconds since 1970.
    pub(crate) ctime: i64,
}

impl FileStat {
    /// Takes what the system said.
    pub(crate) fn new(stat: &rustix::fs::Stat) -> Self {
        // The types of these fields differ from one platform to the next.
        #[expect(clippy::unnecessary_cast, reason = "not on every platform")]
        #[expect(clippy::cast_sign_loss, reason = "sizes and inode numbers are never negative")]
        #[expect(clippy::cast_possible_wrap, reason = "a nanosecond count is below 2^30")]
        Self {
            dev: stat.st_dev as u64,
            ino: stat.st_ino as u64,
            size: stat.st_size as u64,
            mtime: nanoseconds(stat.st_mtime as i64, stat.st_mtime_nsec as i64),
            ctime: nanoseconds(stat.st_ctime as i64, stat.st_ctime_nsec as i64),
        }
    }

    /// Whether the file had come to rest before a scan that began at `started_at` nanoseconds since
    /// 1970. A time in the future never has.
    pub(crate) fn is_at_rest(&self, started_at: i64) -> bool {
        self.mtime.max(self.ctime) <= started_at.saturating_sub(AT_REST_NS)
    }
}

const fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

/// What tells one directory from another that takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Inode {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
}

impl Inode {
    /// Takes what the system said.
    pub(crate) fn new(stat: &rustix::fs::Stat) -> Self {
        let FileStat { dev, ino, .. } = FileStat::new(stat);
        Self { dev, ino }
    }
}

/// A file as it was when its content was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedFile {
    pub(crate) name: Vec<u8>,
    pub(crate) stat: FileStat,
    pub(crate) hash: [u8; 32],
}

impl CachedFile {
    /// Remembers a file. Its size must be that of its content.
    pub(crate) fn new(name: &[u8], stat: FileStat, blob: &Blob) -> Self {
        Self { name: name.to_vec(), stat, hash: blob.content.id().hash }
    }

    /// The same of a scan that began at `started_at`: of a file that had not come to rest only that this
    /// name is one of its inode.
    pub(crate) fn seen(name: &[u8], stat: FileStat, blob: &Blob, started_at: i64) -> Self {
        let ctime = if stat.is_at_rest(started_at) { stat.ctime } else { UNSETTLED };
        Self::new(name, FileStat { ctime, ..stat }, blob)
    }

    /// Whether its content is known for as long as its state is the same.
    pub(crate) const fn is_settled(&self) -> bool {
        self.stat.ctime != UNSETTLED
    }

    /// Its content, where the file is in this very state.
    pub(crate) fn blob(&self, stat: &FileStat) -> Option<Blob> {
        if self.stat != *stat || !self.is_settled() {
            return None;
        }
        let content = if stat.size <= MAX_CHUNK as u64 {
            Content::Chunk(ChunkId::from_bytes(self.hash))
        } else {
            Content::Manifest(ManifestId::from_bytes(self.hash))
        };
        Some(Blob { size: stat.size, content })
    }
}

/// The files of one directory, ascending by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CachedDirectory {
    /// Which directory they were in.
    pub(crate) inode: Option<Inode>,
    pub(crate) files: Vec<CachedFile>,
}

impl CachedDirectory {
    /// What is known of the file of this name.
    pub(crate) fn file(&self, name: &[u8]) -> Option<&CachedFile> {
        let at = self.files.binary_search_by(|file| file.name.as_slice().cmp(name)).ok()?;
        self.files.get(at)
    }
}

/// The bytes of a run of files.
pub(super) fn encode(files: &[CachedFile]) -> Vec<u8> {
    let mut to = Writer::new();
    for CachedFile { name, stat, hash } in files {
        to.bytes(name);
        to.varint(stat.dev);
        to.varint(stat.ino);
        to.varint(stat.size);
        to.fixed(&stat.mtime.to_le_bytes());
        to.fixed(&stat.ctime.to_le_bytes());
        to.fixed(hash);
    }
    to.finish()
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8], to: &mut Vec<CachedFile>) -> Result<(), DecodeError> {
    let mut from = Reader::new(bytes);
    while from.left() > 0 {
        let name = from.bytes("name length", MAX_NAME)?.to_vec();
        let stat = FileStat {
            dev: from.varint()?,
            ino: from.varint()?,
            size: from.varint()?,
            mtime: i64::from_le_bytes(from.array()?),
            ctime: i64::from_le_bytes(from.array()?),
        };
        let hash = from.array()?;
        if to.last().is_some_and(|last| last.name >= name) {
            return Err(DecodeError::Order { what: "cached files" });
        }
        to.push(CachedFile { name, stat, hash });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_at_rest_are_trusted() {
        let stat = FileStat { dev: 0, ino: 0, size: 0, mtime: 0, ctime: 1_000_000_000 };
        assert!(stat.is_at_rest(1_050_000_000));
        assert!(!stat.is_at_rest(1_049_999_999));
        assert!(!stat.is_at_rest(0));
        assert!(!FileStat { mtime: i64::MAX, ..stat }.is_at_rest(2_000_000_000));
    }
}

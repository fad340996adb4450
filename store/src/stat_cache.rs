//! What the last scan knew about every file, so that the next one reads only what changed.
//!
//! One flat file a workspace: magic, checksum, then directories ascending by path, each with its
//! files ascending by name. It is a cache: a missing, damaged or newer file is an empty one.
//!
//! **Invariant:** an entry is kept only if the file had come to rest well before the scan that read
//! it began. A file that may change again within the same tick of its file system's clock is read
//! again.

use std::cmp::Ordering;
use std::ops::Range;
use std::path::Path;

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::id::{ChunkId, ManifestId};
use baton_protocol::object::{Blob, Content, MAX_CHUNK};
use baton_protocol::path::{MAX_NAME, MAX_PATH};

use crate::fs::{self, FsError};

/// The first bytes of the file; the last one is the version.
const MAGIC: &[u8; 8] = b"BATONSC\x01";

/// Magic and BLAKE3 of what follows.
const HEADER: usize = 8 + 32;

/// Largest cache that is read: 20 million files. What is larger is started anew.
const MAX_CACHE: u64 = 4 << 30;

/// How long a file must have been at rest before the scan began. The coarsest tick of a local Linux
/// file system is 10 ms (`CONFIG_HZ=100`).
const AT_REST_NS: i64 = 50_000_000;

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

/// What the last scan knew.
#[derive(Debug, Default)]
pub struct StatCache {
    bytes: Vec<u8>,
    /// Ascending by path: where the path and the files of each directory stand in `bytes`.
    directories: Vec<(Range<usize>, Range<usize>)>,
    files: u64,
}

impl StatCache {
    /// Reads the cache of a workspace; an empty one where there is none that can be used.
    pub fn load(path: &Path) -> Self {
        let bytes = match fs::read_if_exists(path, MAX_CACHE) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Self::default(),
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the stat cache is not used");
                return Self::default();
            }
        };
        Self::open(bytes).unwrap_or_else(|| {
            tracing::warn!(path = %path.display(), "the stat cache is damaged and starts anew");
            Self::default()
        })
    }

    fn open(bytes: Vec<u8>) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk()?;
        let (sum, body) = rest.split_first_chunk::<32>()?;
        if magic != MAGIC || blake3::hash(body).as_bytes() != sum {
            return None;
        }
        Self::from_body(bytes).ok()
    }

    /// Finds the directories in bytes that were checked, or just made.
    fn from_body(bytes: Vec<u8>) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes.get(HEADER..).unwrap_or_default());
        let files = from.varint()?;
        let mut directories: Vec<(Range<usize>, Range<usize>)> = Vec::new();
        while from.left() > 0 {
            let len = from.bytes("path length", MAX_PATH)?.len();
            let at = HEADER + from.at();
            let path = at - len..at;
            let len = from.bytes("files", bytes.len())?.len();
            let at = HEADER + from.at();
            let last = directories.last().and_then(|(last, _)| bytes.get(last.clone()));
            if last.is_some_and(|last| bytes.get(path.clone()).is_none_or(|path| path <= last)) {
                return Err(DecodeError::Order { what: "directories" });
            }
            directories.push((path, at - len..at));
        }
        Ok(Self { bytes, directories, files })
    }

    /// Replaces the cache of a workspace as one step.
    pub fn save(&self, path: &Path) -> Result<(), FsError> {
        if self.bytes.is_empty() {
            return fs::write_atomic(path, &CacheBuilder::default().finish().bytes, 0o600);
        }
        fs::write_atomic(path, &self.bytes, 0o600)
    }

    /// Files in it.
    pub const fn len(&self) -> u64 {
        self.files
    }

    /// Whether it knows nothing.
    pub const fn is_empty(&self) -> bool {
        self.files == 0
    }

    /// The files of one directory.
    pub(crate) fn directory(&self, path: &[u8]) -> CachedDirectory<'_> {
        let compare = |(at, _): &(Range<usize>, Range<usize>)| {
            self.bytes.get(at.clone()).map_or(Ordering::Less, |found| found.cmp(path))
        };
        let found = self.directories.binary_search_by(compare).ok();
        let files = found.and_then(|at| self.directories.get(at)).map(|(_, files)| files.clone());
        let mut from = Reader::new(files.and_then(|at| self.bytes.get(at)).unwrap_or_default());
        let mut files = Vec::new();
        while from.left() > 0 {
            // The checksum held, so these are the bytes that were written; if they still make no
            // sense the rest of the directory is not known.
            let Ok(file) = read_file(&mut from) else { break };
            files.push(file);
        }
        CachedDirectory(files)
    }
}

/// The files of one directory, ascending by name.
#[derive(Debug)]
pub(crate) struct CachedDirectory<'a>(Vec<CachedFile<'a>>);

#[derive(Debug)]
struct CachedFile<'a> {
    name: &'a [u8],
    stat: FileStat,
    hash: [u8; 32],
}

impl CachedDirectory<'_> {
    /// Whether anything is known about a file of this name.
    pub(crate) fn knows(&self, name: &[u8]) -> bool {
        self.0.binary_search_by(|file| file.name.cmp(name)).is_ok()
    }

    /// The content of the file in this very state.
    pub(crate) fn find(&self, name: &[u8], stat: &FileStat) -> Option<Blob> {
        let at = self.0.binary_search_by(|file| file.name.cmp(name)).ok()?;
        let file = self.0.get(at).filter(|file| file.stat == *stat)?;
        let content = if stat.size <= MAX_CHUNK as u64 {
            Content::Chunk(ChunkId::from_bytes(file.hash))
        } else {
            Content::Manifest(ManifestId::from_bytes(file.hash))
        };
        Some(Blob { size: stat.size, content })
    }
}

/// What one directory adds to the next cache.
#[derive(Debug, Default)]
pub(crate) struct CacheRecords(Vec<(Vec<u8>, FileStat, Blob)>);

impl CacheRecords {
    /// Remembers a file. Its size must be that of its content.
    pub(crate) fn push(&mut self, name: &[u8], stat: FileStat, blob: Blob) {
        self.0.push((name.to_vec(), stat, blob));
    }

    /// Takes what another part of the directory found.
    pub(crate) fn append(&mut self, mut other: Self) {
        self.0.append(&mut other.0);
    }
}

/// Collects directories in any order.
#[derive(Debug, Default)]
pub(crate) struct CacheBuilder {
    directories: Vec<(Vec<u8>, Vec<u8>)>,
    files: u64,
}

impl CacheBuilder {
    /// Adds a directory.
    pub(crate) fn push(&mut self, path: &[u8], mut records: CacheRecords) {
        if records.0.is_empty() {
            return;
        }
        records.0.sort_unstable_by(|(a, ..), (b, ..)| a.cmp(b));
        let mut to = Writer::new();
        for (name, stat, blob) in &records.0 {
            write_file(&mut to, name, stat, blob);
        }
        self.files += records.0.len() as u64;
        self.directories.push((path.to_vec(), to.finish()));
    }

    /// The cache for the next scan.
    pub(crate) fn finish(mut self) -> StatCache {
        self.directories.sort_unstable();
        let mut to = Writer::new();
        to.fixed(&[0; HEADER]);
        to.varint(self.files);
        for (path, files) in self.directories {
            to.bytes(&path);
            to.bytes(&files);
        }
        let mut bytes = to.finish();
        let sum = blake3::hash(bytes.get(HEADER..).unwrap_or_default());
        let header = MAGIC.iter().chain(sum.as_bytes());
        bytes.iter_mut().zip(header).for_each(|(to, from)| *to = *from);
        StatCache::from_body(bytes).unwrap_or_default()
    }
}

fn write_file(to: &mut Writer, name: &[u8], stat: &FileStat, blob: &Blob) {
    to.bytes(name);
    to.varint(stat.dev);
    to.varint(stat.ino);
    to.varint(stat.size);
    to.fixed(&stat.mtime.to_le_bytes());
    to.fixed(&stat.ctime.to_le_bytes());
    to.fixed(&blob.content.id().hash);
}

fn read_file<'a>(from: &mut Reader<'a>) -> Result<CachedFile<'a>, DecodeError> {
    Ok(CachedFile {
        name: from.bytes("name length", MAX_NAME)?,
        stat: FileStat {
            dev: from.varint()?,
            ino: from.varint()?,
            size: from.varint()?,
            mtime: i64::from_le_bytes(from.array()?),
            ctime: i64::from_le_bytes(from.array()?),
        },
        hash: from.array()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(size: u64) -> FileStat {
        FileStat { dev: 7, ino: 1 << 40, size, mtime: -5, ctime: 1_700_000_000_123_456_789 }
    }

    fn blob(size: u64) -> Blob {
        let content = if size <= MAX_CHUNK as u64 {
            Content::Chunk(ChunkId::of(b"c"))
        } else {
            Content::Manifest(ManifestId::of(b"m"))
        };
        Blob { size, content }
    }

    fn sample() -> StatCache {
        let mut builder = CacheBuilder::default();
        for path in [&b"z"[..], b"", b"a/\xff\n"] {
            let mut records = CacheRecords::default();
            records.push(b"two", stat(300_000), blob(300_000));
            records.push(b"one", stat(1), blob(1));
            builder.push(path, records);
        }
        builder.push(b"empty", CacheRecords::default());
        builder.finish()
    }

    fn check(cache: &StatCache) {
        assert_eq!(cache.len(), 6);
        for path in [&b"z"[..], b"", b"a/\xff\n"] {
            let directory = cache.directory(path);
            assert_eq!(directory.find(b"one", &stat(1)), Some(blob(1)));
            assert_eq!(directory.find(b"two", &stat(300_000)), Some(blob(300_000)));
            assert_eq!(directory.find(b"one", &stat(2)), None);
            assert_eq!(directory.find(b"one", &FileStat { ctime: 5, ..stat(1) }), None);
            assert!(directory.knows(b"two") && !directory.knows(b"three"));
        }
        assert!(!cache.directory(b"b").knows(b"one"));
    }

    #[test]
    fn what_is_saved_is_what_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache");
        check(&sample());
        sample().save(&path).unwrap();
        check(&StatCache::load(&path));
        StatCache::default().save(&path).unwrap();
        assert!(StatCache::load(&path).is_empty());
    }

    #[test]
    fn damage_anywhere_makes_an_empty_cache() {
        let bytes = sample().bytes;
        check(&StatCache::open(bytes.clone()).unwrap());
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x20;
            assert!(StatCache::open(damaged).is_none(), "byte {at}");
            assert!(StatCache::open(bytes[..at].to_vec()).is_none(), "cut at {at}");
        }
    }

    #[test]
    fn only_files_at_rest_are_trusted() {
        let stat = FileStat { dev: 0, ino: 0, size: 0, mtime: 0, ctime: 1_000_000_000 };
        assert!(stat.is_at_rest(1_050_000_000));
        assert!(!stat.is_at_rest(1_049_999_999));
        assert!(!stat.is_at_rest(0));
        assert!(!FileStat { mtime: i64::MAX, ..stat }.is_at_rest(2_000_000_000));
    }
}

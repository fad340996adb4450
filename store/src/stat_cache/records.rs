//! What is known of one directory, and its bytes.
//!
//! **Invariant:** the tree of a directory is known only together with all that it was built from: it is
//! the tree of exactly these files, links and directories, whatever became of them since.

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::id::{ChunkId, ManifestId, TreeId};
use baton_protocol::object::{Blob, Content, Entry, EntryKind, MAX_CHUNK, TreeSums};
use baton_protocol::path::MAX_NAME;
use rustix::fs::FileType;

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
    /// Kind and permissions.
    pub(crate) mode: u32,
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
            mode: stat.st_mode as u32,
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

    fn kind(&self) -> FileType {
        FileType::from_raw_mode(self.mode as rustix::fs::RawMode)
    }

    fn permissions(&self) -> u16 {
        (self.mode & 0o777) as u16
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

/// A file or symbolic link as it was when its content was read.
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

    /// Its content, where it is a file in this very state.
    pub(crate) fn blob(&self, stat: &FileStat) -> Option<Blob> {
        let known = self.stat == *stat && self.is_settled() && self.is_file();
        known.then(|| content(stat.size, self.hash))
    }

    /// Whether it is a regular file.
    pub(crate) fn is_file(&self) -> bool {
        self.stat.kind() == FileType::RegularFile
    }
}

fn content(size: u64, hash: [u8; 32]) -> Blob {
    let content = if size <= MAX_CHUNK as u64 {
        Content::Chunk(ChunkId::from_bytes(hash))
    } else {
        Content::Manifest(ManifestId::from_bytes(hash))
    };
    Blob { size, content }
}

/// What is known of one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct CachedDirectory {
    /// Which directory it was.
    pub(crate) inode: Option<Inode>,
    /// Its tree, where that holds nothing but what is listed here, and all of that.
    pub(crate) tree: Option<(TreeId, TreeSums)>,
    /// The directories in it, ascending by name, where a scan has listed them.
    pub(crate) below: Option<Vec<Entry>>,
    /// Its files and links, ascending by name.
    pub(crate) files: Vec<CachedFile>,
}

/// The same as it is kept: its files are looked at without taking them apart.
#[derive(Debug, Default)]
pub(crate) struct PackedDirectory {
    pub(crate) inode: Option<Inode>,
    pub(crate) tree: Option<(TreeId, TreeSums)>,
    pub(super) below: Option<Vec<Entry>>,
    pub(super) files: Vec<u8>,
}

impl PackedDirectory {
    /// Its files and links, ascending by name; an error ends them.
    pub(crate) fn files(&self) -> PackedFiles<'_> {
        PackedFiles(Reader::new(&self.files))
    }

    /// Takes it apart. What cannot be read is not known.
    pub(crate) fn unpack(&self) -> CachedDirectory {
        let mut files = Vec::new();
        match decode(&self.files, &mut files) {
            Ok(()) => {
                let Self { inode, tree, below, .. } = self;
                CachedDirectory { inode: *inode, tree: *tree, below: below.clone(), files }
            }
            Err(_) => CachedDirectory::default(),
        }
    }

    /// Whether these are the directories in it.
    pub(crate) fn is_below(&self, directories: &[Entry]) -> bool {
        self.below.as_deref() == Some(directories)
    }
}

/// Files and links, one after the other.
pub(crate) struct PackedFiles<'a>(Reader<'a>);

/// One of them.
pub(crate) struct PackedFile<'a> {
    pub(crate) name: &'a [u8],
    pub(crate) stat: FileStat,
    hash: [u8; 32],
}

impl PackedFile<'_> {
    /// Its place in the tree of its directory.
    pub(crate) fn entry(&self) -> Entry {
        let blob = content(self.stat.size, self.hash);
        let kind = if self.stat.kind() == FileType::Symlink {
            EntryKind::Symlink { target: blob }
        } else {
            EntryKind::File { mode: self.stat.permissions(), blob }
        };
        Entry { name: self.name.to_vec(), kind }
    }

    fn unpack(&self) -> CachedFile {
        CachedFile { name: self.name.to_vec(), stat: self.stat, hash: self.hash }
    }
}

impl<'a> PackedFiles<'a> {
    fn read(from: &mut Reader<'a>) -> Result<PackedFile<'a>, DecodeError> {
        let name = from.bytes("name length", MAX_NAME)?;
        let stat = FileStat {
            dev: from.varint()?,
            ino: from.varint()?,
            mode: from.bounded("mode", u32::MAX.into())? as u32,
            size: from.varint()?,
            mtime: i64::from_le_bytes(from.array()?),
            ctime: i64::from_le_bytes(from.array()?),
        };
        Ok(PackedFile { name, stat, hash: from.array()? })
    }
}

impl<'a> Iterator for PackedFiles<'a> {
    type Item = Result<PackedFile<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.left() == 0 {
            return None;
        }
        let file = Self::read(&mut self.0);
        if file.is_err() {
            self.0 = Reader::new(b"");
        }
        Some(file)
    }
}

impl CachedDirectory {
    /// What is known of the file of this name.
    pub(crate) fn file(&self, name: &[u8]) -> Option<&CachedFile> {
        let at = self.files.binary_search_by(|file| file.name.as_slice().cmp(name)).ok()?;
        self.files.get(at)
    }
}

/// Bytes with a checksum behind them: what is read of a file may have changed on the disk, and would be believed.
pub(super) fn seal(mut bytes: Vec<u8>) -> Vec<u8> {
    let sum = crc32c::crc32c(&bytes);
    bytes.extend(sum.to_le_bytes());
    bytes
}

/// The bytes without their checksum, where that is right.
pub(super) fn unseal(bytes: &[u8]) -> rusqlite::Result<&[u8]> {
    match bytes.split_last_chunk() {
        Some((bytes, sum)) if crc32c::crc32c(bytes) == u32::from_le_bytes(*sum) => Ok(bytes),
        _ => {
            let kind = rusqlite::types::Type::Blob;
            Err(rusqlite::Error::FromSqlConversionFailure(0, kind, "the checksum is wrong".into()))
        }
    }
}

/// The bytes of a run of files.
pub(super) fn encode(files: &[CachedFile]) -> Vec<u8> {
    let mut to = Writer::new();
    for CachedFile { name, stat, hash } in files {
        to.bytes(name);
        to.varint(stat.dev);
        to.varint(stat.ino);
        to.varint(stat.mode.into());
        to.varint(stat.size);
        to.fixed(&stat.mtime.to_le_bytes());
        to.fixed(&stat.ctime.to_le_bytes());
        to.fixed(hash);
    }
    to.finish()
}

/// Reads what [`encode`] wrote.
pub(super) fn decode(bytes: &[u8], to: &mut Vec<CachedFile>) -> Result<(), DecodeError> {
    for file in PackedFiles(Reader::new(bytes)) {
        let file = file?;
        if to.last().is_some_and(|last| last.name.as_slice() >= file.name) {
            return Err(DecodeError::Order { what: "cached files" });
        }
        to.push(file.unpack());
    }
    Ok(())
}

/// The bytes of a tree.
pub(super) fn encode_tree((tree, sums): (TreeId, TreeSums)) -> Vec<u8> {
    let mut to = Writer::new();
    write_tree(&mut to, tree, sums);
    to.finish()
}

/// Reads what [`encode_tree`] wrote.
pub(super) fn decode_tree(bytes: &[u8]) -> Result<(TreeId, TreeSums), DecodeError> {
    read_tree(&mut Reader::new(bytes))
}

/// The bytes of a list of directories.
pub(super) fn encode_below(below: &[Entry]) -> Vec<u8> {
    let mut to = Writer::new();
    for entry in below {
        if let EntryKind::Directory { mode, tree, below } = entry.kind {
            to.bytes(&entry.name);
            to.varint(mode.into());
            write_tree(&mut to, tree, below);
        }
    }
    to.finish()
}

/// Reads what [`encode_below`] wrote.
pub(super) fn decode_below(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let mut from = Reader::new(bytes);
    let mut directories = Vec::new();
    while from.left() > 0 {
        let name = from.bytes("name length", MAX_NAME)?.to_vec();
        let mode = from.bounded("mode", 0o777)? as u16;
        let (tree, below) = read_tree(&mut from)?;
        directories.push(Entry { name, kind: EntryKind::Directory { mode, tree, below } });
    }
    Ok(directories)
}

fn write_tree(to: &mut Writer, tree: TreeId, sums: TreeSums) {
    to.fixed(tree.as_bytes());
    to.varint(sums.files);
    to.varint(sums.bytes);
}

fn read_tree(from: &mut Reader<'_>) -> Result<(TreeId, TreeSums), DecodeError> {
    let tree = TreeId::from_bytes(from.array()?);
    Ok((tree, TreeSums { files: from.varint()?, bytes: from.varint()? }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_at_rest_are_trusted() {
        let stat =
            FileStat { dev: 0, ino: 0, mode: 0o100_644, size: 0, mtime: 0, ctime: 1_000_000_000 };
        assert!(stat.is_at_rest(1_050_000_000));
        assert!(!stat.is_at_rest(1_049_999_999));
        assert!(!stat.is_at_rest(0));
        assert!(!FileStat { mtime: i64::MAX, ..stat }.is_at_rest(2_000_000_000));
    }
}

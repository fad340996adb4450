//! The index of a repository, entry by entry.
//!
//! Not here: times, inodes and the rest of what git remembers of files on one machine. A rebuild looks
//! at its own files for them, for the entries that say that their file was as they have it.

use super::oid::{GitHash, GitOid};
use super::read_flag;
use crate::encode::{DecodeError, Reader, Writer};
use crate::path::{MAX_PATH, RelPath, is_git_name};

/// What an entry of an index stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum GitMode {
    /// A file.
    File = 0,
    /// A file that may be executed.
    Executable = 1,
    /// A symbolic link.
    Symlink = 2,
    /// A commit of another repository.
    Submodule = 3,
    /// A directory with everything in it, of a sparse index.
    Directory = 4,
}

impl GitMode {
    /// Every mode, in the order of their numbers.
    pub const ALL: [Self; 5] =
        [Self::File, Self::Executable, Self::Symlink, Self::Submodule, Self::Directory];

    /// As git writes it.
    pub const fn bits(self) -> u32 {
        match self {
            Self::File => 0o100_644,
            Self::Executable => 0o100_755,
            Self::Symlink => 0o120_000,
            Self::Submodule => 0o160_000,
            Self::Directory => 0o040_000,
        }
    }

    /// The mode that git writes so.
    pub fn from_bits(bits: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|mode| mode.bits() == bits)
    }
}

/// One entry of an index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitEntry {
    /// Relative to the worktree; a directory's ends with a slash.
    pub path: Vec<u8>,
    /// 0, or in a conflict 1 for the common ancestor, 2 for ours and 3 for theirs.
    pub stage: u8,
    /// What it stands for.
    pub mode: GitMode,
    /// Git is told to believe that the file did not change.
    pub assume_valid: bool,
    /// The file need not be there.
    pub skip_worktree: bool,
    /// Nothing of it is staged but that it will be.
    pub intent_to_add: bool,
    /// Bytes of the file on the disk, modulo 2³², where git knew for sure that it is as the entry has it.
    pub clean: Option<u32>,
    /// The object.
    pub oid: GitOid,
}

impl GitEntry {
    const STAGE: u8 = 0x18;

    fn flags(&self) -> u8 {
        self.mode as u8
            | self.stage << 3
            | u8::from(self.assume_valid) << 5
            | u8::from(self.skip_worktree) << 6
            | u8::from(self.intent_to_add) << 7
    }
}

/// The three sides of a conflict that was resolved, so that git can bring it back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitUndo {
    /// Relative to the worktree.
    pub path: Vec<u8>,
    /// Stages 1 to 3 as they were.
    pub stages: [Option<(GitMode, GitOid)>; 3],
}

/// An index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitIndex {
    /// How objects are named.
    pub hash: GitHash,
    /// The version of the file, 2 to 4.
    pub version: u8,
    /// Whether entries may stand for directories.
    pub sparse: bool,
    /// Strictly ascending by path and stage.
    pub entries: Vec<GitEntry>,
    /// Strictly ascending by path.
    pub undo: Vec<GitUndo>,
}

/// Whether an entry may have this path. A directory's ends with a slash, which is not part of it here.
pub fn is_index_path(path: &[u8]) -> bool {
    RelPath::new(path)
        .is_ok_and(|path| !path.is_root() && path.components().all(|name| !is_git_name(name)))
}

/// The names of files by which git finds submodules, attributes and so on: no link may have them,
/// because git would read what it points to.
fn is_read_by_git(path: &[u8]) -> bool {
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    name.eq_ignore_ascii_case(b".gitmodules")
}

impl GitIndex {
    /// How many entries one has whose bytes begin with these. Its `size` bounds what may be said.
    pub fn count_entries(start: &[u8], size: u64) -> Result<u64, DecodeError> {
        let mut from = Reader::new(start);
        let hash = GitHash::read(&mut from)?;
        from.byte()?;
        read_flag(&mut from)?;
        from.bounded("entries", size / (4 + hash.len() as u64))
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.byte(self.hash as u8);
        to.byte(self.version);
        to.byte(u8::from(self.sparse));
        to.varint(self.entries.len() as u64);
        for entry in &self.entries {
            to.bytes(&entry.path);
            to.byte(entry.flags());
            entry.oid.write(&mut to);
            // One more than the size, so that nothing is zero.
            to.varint(entry.clean.map_or(0, |size| u64::from(size) + 1));
        }
        to.varint(self.undo.len() as u64);
        for undo in &self.undo {
            to.bytes(&undo.path);
            for stage in &undo.stages {
                match stage {
                    None => to.byte(0),
                    Some((mode, oid)) => {
                        to.byte(*mode as u8 + 1);
                        oid.write(&mut to);
                    }
                }
            }
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let hash = GitHash::read(&mut from)?;
        let version = from.byte()?;
        if !(2..=4).contains(&version) {
            return Err(DecodeError::Unknown { what: "index version", value: version.into() });
        }
        let sparse = read_flag(&mut from)?;
        let count = from.count("entries", bytes.len(), 4 + hash.len())?;
        let mut entries: Vec<GitEntry> = Vec::with_capacity(count);
        for _ in 0..count {
            let entry = read_entry(&mut from, hash, sparse)?;
            let after = |last: &GitEntry| (&last.path, last.stage) < (&entry.path, entry.stage);
            if !entries.last().is_none_or(after) {
                return Err(DecodeError::Order { what: "entries" });
            }
            entries.push(entry);
        }
        let count = from.count("undo", bytes.len(), 5)?;
        let mut undo: Vec<GitUndo> = Vec::with_capacity(count);
        for _ in 0..count {
            let one = read_undo(&mut from, hash)?;
            if undo.last().is_some_and(|last| last.path >= one.path) {
                return Err(DecodeError::Order { what: "undo" });
            }
            undo.push(one);
        }
        from.finish()?;
        Ok(Self { hash, version, sparse, entries, undo })
    }
}

fn read_entry(from: &mut Reader<'_>, hash: GitHash, sparse: bool) -> Result<GitEntry, DecodeError> {
    let path = from.bytes("entry path", MAX_PATH + 1)?.to_vec();
    let flags = from.byte()?;
    let number = flags & 7;
    let mode = GitMode::ALL
        .into_iter()
        .find(|&mode| mode as u8 == number)
        .ok_or(DecodeError::Unknown { what: "entry mode", value: number.into() })?;
    let plain = match mode {
        GitMode::Directory if sparse => path.strip_suffix(b"/").unwrap_or_default(),
        GitMode::Directory => b"",
        _ => &path,
    };
    if !is_index_path(plain) || (mode == GitMode::Symlink && is_read_by_git(plain)) {
        return Err(DecodeError::Inconsistent { what: "entry path" });
    }
    let entry = GitEntry {
        stage: (flags & GitEntry::STAGE) >> 3,
        mode,
        assume_valid: flags & 0x20 != 0,
        skip_worktree: flags & 0x40 != 0,
        intent_to_add: flags & 0x80 != 0,
        oid: GitOid::read(hash, from)?,
        clean: match from.bounded("file size", u64::from(u32::MAX) + 1)? {
            0 => None,
            more => Some((more - 1) as u32),
        },
        path,
    };
    Ok(entry)
}

fn read_undo(from: &mut Reader<'_>, hash: GitHash) -> Result<GitUndo, DecodeError> {
    let path = from.bytes("undo path", MAX_PATH)?.to_vec();
    if !is_index_path(&path) {
        return Err(DecodeError::Inconsistent { what: "undo path" });
    }
    let mut stages = [None; 3];
    for stage in &mut stages {
        let number = from.byte()?;
        if number != 0 {
            let mode = GitMode::ALL
                .into_iter()
                .find(|&mode| mode as u8 + 1 == number && mode != GitMode::Directory)
                .ok_or(DecodeError::Unknown { what: "undo mode", value: number.into() })?;
            *stage = Some((mode, GitOid::read(hash, from)?));
        }
    }
    if stages.iter().all(Option::is_none) {
        return Err(DecodeError::Inconsistent { what: "undo" });
    }
    Ok(GitUndo { path, stages })
}

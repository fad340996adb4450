//! In what two trees differ, entry by entry, and what of it is on the disk.
//!
//! **Invariant:** what is equal in both trees is neither read nor looked at. A file is taken for that of a
//! tree only where kind, mode, size and content are its.

use std::os::fd::{AsFd, BorrowedFd};

use baton_protocol::id::{ChunkId, ObjectId, ObjectKind, TreeId};
use baton_protocol::object::{Blob, EntryKind};
use baton_protocol::path::{MAX_PATH, RelPath, is_git_name};
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::RestoreError;
use super::measure::{MAX_BYTES, MAX_ENTRIES};
use crate::chunk::Chunker;
use crate::diff::pair_entries;
use crate::error::StoreError;
use crate::objects::{ObjectSink, ObjectSource};
use crate::stat_cache::{FileStat, StatCache};
use crate::trees::compare;

/// One path at which the trees differ: not two directories of one mode.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) path: RelPath,
    pub(super) old: Option<EntryKind>,
    pub(super) new: Option<EntryKind>,
}

/// What stands at the path of a step.
#[derive(Clone, Copy, Debug)]
pub(super) enum Found {
    Nothing,
    /// What the old tree has there, in this state.
    Old(FileStat),
    /// What the new tree has there. Of a directory nothing but that it is one.
    New,
    /// Something that neither of them knows.
    Other,
}

/// Lists in what two trees differ, each path after those above it.
pub(super) fn find_steps<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
) -> Result<Vec<Step>, RestoreError> {
    let mut steps = Vec::new();
    let mut bytes = 0u64;
    let mut pairs = vec![(RelPath::root(), Some(old), Some(new))];
    while let Some((above, old, new)) = pairs.pop() {
        let found = compare(source, old, new)?;
        for (old, new) in pair_entries(found.old, found.new) {
            let Some(entry) = new.as_ref().or(old.as_ref()) else { continue };
            let path = above.join(&entry.name);
            if path.as_bytes().len() > MAX_PATH {
                return Err(StoreError::DamagedObject(entry.content()).into());
            }
            if is_git_name(&entry.name) {
                return Err(RestoreError::GitName { path });
            }
            let (old, new) = (old.map(|entry| entry.kind), new.map(|entry| entry.kind));
            let tree = |kind: Option<EntryKind>| match kind {
                Some(EntryKind::Directory { tree, .. }) => Some(tree),
                _ => None,
            };
            if tree(old) != tree(new) {
                pairs.push((path.clone(), tree(old), tree(new)));
            }
            if let (
                Some(EntryKind::Directory { mode: before, .. }),
                Some(EntryKind::Directory { mode: after, .. }),
            ) = (old, new)
                && before == after
            {
                continue;
            }
            if let Some(EntryKind::File { blob, .. }) = new {
                bytes = bytes.saturating_add(blob.size);
            }
            let entries = steps.len() as u64 + 1;
            if entries > MAX_ENTRIES || bytes > MAX_BYTES {
                return Err(RestoreError::TooLarge { entries, bytes });
            }
            steps.push(Step { path, old, new });
        }
    }
    steps.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(steps)
}

/// Tells whether a file is that of a tree.
pub(super) struct Looker<'a> {
    pub(super) cache: &'a StatCache,
    chunker: Chunker,
}

impl<'a> Looker<'a> {
    pub(super) fn new(cache: &'a StatCache) -> Self {
        Self { cache, chunker: Chunker::new() }
    }

    /// What stands at a name of a directory.
    pub(super) fn find(
        &mut self,
        directory: BorrowedFd<'_>,
        step: &Step,
        name: &[u8],
    ) -> Result<Found, Errno> {
        let stat = match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileStat::new(&stat),
            Err(Errno::NOENT) => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        let path = Some(step.path.split_last().unwrap_or_default().0);
        for (kind, found) in [(step.old, Found::Old(stat)), (step.new, Found::New)] {
            if let Some(kind) = kind
                && self.is(directory, name, path, &stat, kind)?
            {
                return Ok(found);
            }
        }
        Ok(Found::Other)
    }

    /// Whether what stands at a name, in this state, is what a tree says. The cache is asked where the path
    /// of the directory is given.
    pub(super) fn is(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        path: Option<&[u8]>,
        stat: &FileStat,
        kind: EntryKind,
    ) -> Result<bool, Errno> {
        let found = FileType::from_raw_mode(stat.mode as rustix::fs::RawMode);
        match kind {
            EntryKind::Directory { .. } => Ok(found == FileType::Directory),
            EntryKind::Symlink { target } if found == FileType::Symlink => {
                let found = rustix::fs::readlinkat(directory, name, Vec::new())?;
                Ok(target.content.id() == ObjectId::from(ChunkId::of(found.to_bytes())))
            }
            EntryKind::File { mode, blob }
                if found == FileType::RegularFile
                    && stat.mode & 0o7777 == u32::from(mode)
                    && stat.size == blob.size =>
            {
                let known = path.and_then(|path| self.cache.file(path, name)?.blob(stat));
                match known {
                    Some(known) => Ok(known == blob),
                    None => self.reads_as(directory, name, stat, blob),
                }
            }
            EntryKind::File { .. } | EntryKind::Symlink { .. } => Ok(false),
        }
    }

    /// Reads a file. One that cannot be read, or changes meanwhile, is not known to be anything.
    fn reads_as(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        stat: &FileStat,
        blob: Blob,
    ) -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::PERM) => return Ok(false),
            Err(error) => return Err(error),
        };
        let is_same = |file: &std::fs::File| {
            rustix::fs::fstat(file.as_fd()).is_ok_and(|now| FileStat::new(&now) == *stat)
        };
        Ok(is_same(&file)
            && self.chunker.store(&file, &NamesOnly).is_ok_and(|found| found == blob)
            && is_same(&file))
    }
}

/// Names objects and keeps none.
struct NamesOnly;

impl ObjectSink for NamesOnly {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        Ok(ObjectId::of(kind, bytes))
    }
}

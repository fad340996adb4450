//! The files of a restore: read in the order of the disk, written by several threads.
//!
//! A thread takes whole records, so that each is read and decompressed once; a file costs one lookup, the
//! hash of its bytes, and three system calls: it is made with its mode, written and closed.
//!
//! **Invariant:** a file is new and is reached through no link; it has its exact mode, and all its bytes,
//! before the folder that it is in can be reached by anybody else.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use baton_protocol::id::{ChunkId, ObjectId};
use baton_protocol::object::{Blob, Content, Extent, MAX_CHUNK};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::layout::{File, Layout, Modes, Number};
use super::{Build, RestoreError, open_directory};
use crate::chunk::{for_each_extent, is_zero, read_chunk};
use crate::error::StoreError;
use crate::objects::{Location, ObjectSource, OpenRecord};

/// Files that one thread takes at a time, and the rest of the last one's record.
const BATCH: usize = 64;

/// Files that one thread takes at most: there may be millions of copies of one content.
const MOST: usize = 16 * BATCH;

/// Files that are looked up at a time.
const LOOKUPS: usize = 64 * 1024;

/// Directories that one thread keeps open.
const OPEN: usize = 16;

/// Zeros shorter than a page of the file system are written: a hole would not be one.
const HOLE: usize = 4096;

const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// What the threads share.
struct Writing<'a> {
    layout: &'a Layout,
    /// The first file that nobody has taken.
    next: Mutex<usize>,
    files: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<RestoreError>>,
}

/// What a thread keeps from one file to the next.
#[derive(Default)]
struct Desk {
    opened: Opened,
    record: OpenRecord,
    modes: Modes,
}

/// The directories that a thread has open, the last used one first.
#[derive(Default)]
struct Opened(Vec<(Number, OwnedFd)>);

impl<'a> Writing<'a> {
    /// Takes the next files: some, up to the end of a record.
    fn take(&self) -> &'a [File] {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let left = self.layout.files.get(*next..).unwrap_or_default();
        let record = |file: &File| file.at.map(|at| at.record());
        let mut end = left.len().min(BATCH);
        while end < MOST
            && let [last, following, ..] = left.get(end.saturating_sub(1)..).unwrap_or_default()
            && record(last).is_some()
            && record(last) == record(following)
        {
            end += 1;
        }
        *next += end;
        left.get(..end).unwrap_or_default()
    }
}

impl<S: ObjectSource + ?Sized> Build<'_, S> {
    /// Writes all files; returns their number and bytes.
    pub(super) fn write_files(
        &self,
        layout: &mut Layout,
        threads: usize,
    ) -> Result<(u64, u64), RestoreError> {
        for files in layout.files.chunks_mut(LOOKUPS) {
            let ids: Vec<ObjectId> = files.iter().map(|file| file.blob.content.id()).collect();
            for (file, at) in files.iter_mut().zip(self.source.locations(&ids)?) {
                file.at = at;
            }
        }
        // Copies of one content stand together, and what is not on the disk comes first.
        layout.files.sort_unstable_by_key(|file| (file.at, file.place));
        let writing = Writing {
            layout,
            next: Mutex::new(0),
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        std::thread::scope(|scope| {
            for _ in 1..threads.max(1) {
                // Without a further thread this one does the work.
                let spawned = std::thread::Builder::new()
                    .name("restore".to_owned())
                    .spawn_scoped(scope, || self.write_some(&writing));
                if let Err(error) = spawned {
                    tracing::warn!(%error, "restoring with fewer threads");
                }
            }
            self.write_some(&writing);
        });
        match writing.failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok((writing.files.into_inner(), writing.bytes.into_inner())),
        }
    }

    fn write_some(&self, writing: &Writing<'_>) {
        let mut desk = Desk::default();
        loop {
            let batch = writing.take();
            if batch.is_empty() {
                return;
            }
            for file in batch {
                if writing.stop.load(Ordering::Relaxed) {
                    return;
                }
                let written = if self.progress.is_cancelled() {
                    Err(RestoreError::Cancelled)
                } else {
                    self.write_file(writing, &mut desk, file)
                };
                if let Err(error) = written {
                    writing.stop.store(true, Ordering::Relaxed);
                    let mut failure =
                        writing.failure.lock().unwrap_or_else(PoisonError::into_inner);
                    failure.get_or_insert(error);
                    return;
                }
            }
        }
    }

    fn write_file(
        &self,
        writing: &Writing<'_>,
        desk: &mut Desk,
        file: &File,
    ) -> Result<(), RestoreError> {
        let Desk { opened, record, modes } = desk;
        let layout = writing.layout;
        let failed = |action, error: Errno| self.failed(action, &layout.path_of(file.place), error);
        let number = file.place.directory;
        let directory = match opened.take(number) {
            Some(fd) => fd,
            None => open_directory(self.root, layout.path(number))
                .map_err(|error| failed("opening the directory of", error))?,
        };
        let mode = Mode::from_raw_mode(file.mode.into());
        let created = rustix::fs::openat(&directory, layout.name(file.place), CREATE, mode);
        opened.keep(number, directory);
        let to = match created {
            Ok(to) => std::fs::File::from(to),
            Err(error) => return self.refused("creating", &layout.path_of(file.place), error),
        };
        let written = match file.blob.content {
            Content::Chunk(chunk) => {
                let extent = Extent { len: file.blob.size as u32, chunk };
                self.write_chunk(&to, extent, file.at.as_ref(), record)
            }
            Content::Manifest(_) => self.write_content(&to, file.blob),
        };
        written.map_err(|error| match error {
            ContentError::Write(error) => failed("writing", error),
            ContentError::Restore(error) => error,
        })?;
        let comes_out = match modes.comes_out(file.mode) {
            Some(comes_out) => comes_out,
            None => rustix::fs::fstat(to.as_fd())
                .map(|stat| modes.note(file.mode, stat.st_mode))
                .map_err(|error| failed("looking at", error))?,
        };
        if !comes_out {
            rustix::fs::fchmod(to.as_fd(), mode)
                .map_err(|error| failed("setting the mode of", error))?;
        }
        writing.files.fetch_add(1, Ordering::Relaxed);
        writing.bytes.fetch_add(file.blob.size, Ordering::Relaxed);
        self.progress.add(1, file.blob.size);
        Ok(())
    }

    /// Writes a file that is one chunk.
    fn write_chunk(
        &self,
        to: &std::fs::File,
        extent: Extent,
        at: Option<&Location>,
        record: &mut OpenRecord,
    ) -> Result<(), ContentError> {
        let id = ObjectId::from(extent.chunk);
        let bytes = self.source.read_from(record, &id, at)?;
        if bytes.len() as u64 != u64::from(extent.len) {
            return Err(StoreError::DamagedObject(id).into());
        }
        let written = if bytes.len() >= HOLE && is_zero(bytes) {
            to.set_len(bytes.len() as u64)
        } else {
            to.write_all_at(bytes, 0)
        };
        written.map_err(|error| write_error(&error))
    }

    fn write_content(&self, to: &std::fs::File, blob: Blob) -> Result<(), ContentError> {
        // The last chunk that was all zero: a hole has the same one over and over.
        let mut zero: Option<ChunkId> = None;
        let mut end = 0;
        for_each_extent(self.source, blob, |offset, extent| {
            if self.progress.is_cancelled() {
                return Err(ContentError::Restore(RestoreError::Cancelled));
            }
            if zero == Some(extent.chunk) {
                return Ok(());
            }
            let bytes = read_chunk(self.source, extent)?;
            if bytes.len() >= HOLE && is_zero(&bytes) {
                zero = Some(extent.chunk);
                return Ok(());
            }
            end = offset + bytes.len() as u64;
            to.write_all_at(&bytes, offset).map_err(|error| write_error(&error))
        })?;
        if end < blob.size {
            to.set_len(blob.size).map_err(|error| write_error(&error))?;
        }
        Ok(())
    }

    /// The bytes of a blob that is one chunk.
    pub(super) fn read_small(&self, blob: Blob) -> Result<Vec<u8>, StoreError> {
        let mut bytes = Vec::new();
        for_each_extent(self.source, blob, |offset, extent: Extent| {
            if offset + u64::from(extent.len) > MAX_CHUNK as u64 {
                return Err(StoreError::DamagedObject(blob.content.id()));
            }
            bytes.extend_from_slice(&read_chunk(self.source, extent)?);
            Ok(())
        })?;
        Ok(bytes)
    }
}

/// Why a file has not got its content.
enum ContentError {
    Write(Errno),
    Restore(RestoreError),
}

impl From<StoreError> for ContentError {
    fn from(error: StoreError) -> Self {
        Self::Restore(error.into())
    }
}

fn write_error(error: &std::io::Error) -> ContentError {
    ContentError::Write(error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))
}

impl Opened {
    fn take(&mut self, directory: Number) -> Option<OwnedFd> {
        let at = self.0.iter().position(|&(number, _)| number == directory)?;
        Some(self.0.remove(at).1)
    }

    fn keep(&mut self, directory: Number, fd: OwnedFd) {
        self.0.truncate(OPEN - 1);
        self.0.insert(0, (directory, fd));
    }
}

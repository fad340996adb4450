//! The files of a restore: read in the order of the disk, written by several threads.
//!
//! **Invariant:** a file is new, is reached through no link, and has its exact mode only when all its
//! bytes are there.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use baton_protocol::id::ChunkId;
use baton_protocol::object::{Blob, Extent, MAX_CHUNK};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::layout::{File, Layout};
use super::{Build, RestoreError, open_directory};
use crate::chunk::{for_each_extent, is_zero, read_chunk};
use crate::error::StoreError;
use crate::objects::ObjectSource;

/// Files that one thread takes at a time.
const BATCH: usize = 64;

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
    next: AtomicUsize,
    files: AtomicU64,
    bytes: AtomicU64,
    stop: AtomicBool,
    failure: Mutex<Option<RestoreError>>,
}

/// The directories that a thread has open, the last used one first.
#[derive(Default)]
struct Opened(Vec<(Option<usize>, OwnedFd)>);

impl<S: ObjectSource + ?Sized> Build<'_, S> {
    /// Writes all files; returns their number and bytes.
    pub(super) fn write_files(
        &self,
        layout: &mut Layout,
        threads: usize,
    ) -> Result<(u64, u64), RestoreError> {
        let mut order = Vec::with_capacity(layout.files.len());
        for (at, file) in std::mem::take(&mut layout.files).into_iter().enumerate() {
            let position = self.source.position(&file.blob.content.id())?;
            order.push((position.unwrap_or(u64::MAX), at, file));
        }
        order.sort_unstable_by_key(|&(position, at, _)| (position, at));
        layout.files = order.into_iter().map(|(_, _, file)| file).collect();
        let writing = Writing {
            layout,
            next: AtomicUsize::new(0),
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
        let mut opened = Opened::default();
        let files = &writing.layout.files;
        loop {
            let at = writing.next.fetch_add(BATCH, Ordering::Relaxed);
            let Some(batch) = files.get(at..files.len().min(at.saturating_add(BATCH))) else {
                return;
            };
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
                    self.write_file(writing, &mut opened, file)
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
        opened: &mut Opened,
        file: &File,
    ) -> Result<(), RestoreError> {
        let failed =
            |action, error: Errno| self.failed(action, &writing.layout.path_of(&file.place), error);
        let number = file.place.directory;
        let directory = match opened.take(number) {
            Some(fd) => fd,
            None => open_directory(self.root, writing.layout.path(number))
                .map_err(|error| failed("opening the directory of", error))?,
        };
        let name = file.place.name.as_slice();
        let created = rustix::fs::openat(&directory, name, CREATE, Mode::RUSR | Mode::WUSR);
        opened.keep(number, directory);
        let to = match created {
            Ok(to) => std::fs::File::from(to),
            Err(error) => {
                return self.refused("creating", &writing.layout.path_of(&file.place), error);
            }
        };
        self.write_content(&to, file.blob).map_err(|error| match error {
            ContentError::Write(error) => failed("writing", error),
            ContentError::Restore(error) => error,
        })?;
        rustix::fs::fchmod(to.as_fd(), Mode::from_raw_mode(file.mode.into()))
            .map_err(|error| failed("setting the mode of", error))?;
        writing.files.fetch_add(1, Ordering::Relaxed);
        writing.bytes.fetch_add(file.blob.size, Ordering::Relaxed);
        self.progress.add(1, file.blob.size);
        Ok(())
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
    fn take(&mut self, directory: Option<usize>) -> Option<OwnedFd> {
        let at = self.0.iter().position(|&(number, _)| number == directory)?;
        Some(self.0.remove(at).1)
    }

    fn keep(&mut self, directory: Option<usize>, fd: OwnedFd) {
        self.0.truncate(OPEN - 1);
        self.0.insert(0, (directory, fd));
    }
}

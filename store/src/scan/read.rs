//! Reads a file that others may be writing to.
//!
//! A read is whole if `fstat` says the same before and after, and as many bytes came as it said.
//! Otherwise it is tried again; what the last attempt saw is kept, and flagged.
//!
//! **Invariant:** reading ends. No more is read than the size that the file had when it was opened.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use baton_protocol::id::ChunkId;
use baton_protocol::object::{Blob, Content, MAX_CHUNK};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Progress, ScanError};
use crate::chunk::{ChunkError, Chunker, store_bytes};
use crate::objects::ObjectSink;
use crate::secrets::{Finding, LOOKED_AT};
use crate::stat_cache::FileStat;

/// Attempts at a whole read.
const ATTEMPTS: u32 = 3;

/// `O_NONBLOCK`: what was a file a moment ago may be a fifo now, which is opened only to be closed.
const FILE: OFlags = OFlags::RDONLY
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// What a file held.
#[derive(Debug)]
pub(super) struct FileRead {
    /// Its bytes, in the sink; unless it is held back.
    pub(super) blob: Blob,
    /// Why it is held back.
    pub(super) held: Option<Finding>,
    /// The state they belong to.
    pub(super) stat: Stat,
    /// Whether the file changed during every attempt.
    pub(super) torn: bool,
}

/// Says why a file with these bytes, or with these first ones, is held back.
pub(super) type Inspect<'a> = &'a dyn Fn(&[u8]) -> Option<Finding>;

/// A file could not be read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// For a reason of its own.
    File(Errno),
    /// It is no regular file any more.
    NotRegular(FileType),
    /// For a reason that ends the scan.
    Scan(ScanError),
}

/// Reads files one after the other and keeps its buffers.
#[derive(Debug, Default)]
pub(super) struct FileReader {
    /// As long as what was ever read into it: filled anew, never cleared.
    small: Vec<u8>,
    chunker: Chunker,
}

/// What one attempt came to.
enum Attempt {
    /// Bytes in the sink, and the state after.
    Put(Blob, Stat),
    Held(Finding),
    /// It changed meanwhile.
    Changed,
}

impl FileReader {
    /// Reads the file of this name and puts its content.
    pub(super) fn read<S: ObjectSink>(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        sink: &S,
        progress: &Progress,
        inspect: Option<Inspect<'_>>,
    ) -> Result<FileRead, ReadError> {
        let mut attempt = 1;
        loop {
            let file = rustix::fs::openat(directory, name, FILE, Mode::empty())
                .map_err(ReadError::File)?;
            let before = regular(rustix::fs::fstat(&file).map_err(ReadError::File)?)?;
            let last = attempt == ATTEMPTS;
            let file = file.into();
            let read = if FileStat::new(&before).size > MAX_CHUNK as u64 {
                self.read_large(&file, &before, sink, progress, inspect)?
            } else {
                self.read_small(&file, &before, last, sink, inspect)?
            };
            match read {
                Attempt::Held(finding) => {
                    let content = Content::Chunk(ChunkId::of(b""));
                    let blob = Blob { size: 0, content };
                    return Ok(FileRead { blob, held: Some(finding), stat: before, torn: false });
                }
                Attempt::Put(blob, after) => {
                    let (before, state) = (FileStat::new(&before), FileStat::new(&after));
                    let whole = before == state && blob.size == state.size;
                    if whole || last {
                        return Ok(FileRead { blob, held: None, stat: after, torn: !whole });
                    }
                }
                Attempt::Changed => {}
            }
            attempt += 1;
        }
    }

    /// One attempt at a file of one chunk, which is read once: its bytes are put only when they are known
    /// to be good, or are to be kept whatever they are.
    fn read_small<S: ObjectSink>(
        &mut self,
        file: &std::fs::File,
        before: &Stat,
        keep: bool,
        sink: &S,
        inspect: Option<Inspect<'_>>,
    ) -> Result<Attempt, ReadError> {
        let size = FileStat::new(before).size;
        // One byte more than the file had: a file that grew is not taken for whole.
        let read = self.fill(file, size as usize + 1, size as usize)?;
        let stat = rustix::fs::fstat(file.as_fd()).map_err(ReadError::File)?;
        let whole = read == size as usize && FileStat::new(before) == FileStat::new(&stat);
        if !whole && !keep {
            return Ok(Attempt::Changed);
        }
        let bytes = self.small.get(..read.min(MAX_CHUNK)).unwrap_or_default();
        if let Some(finding) = inspect.and_then(|inspect| inspect(bytes)) {
            return Ok(Attempt::Held(finding));
        }
        let blob = store_bytes(bytes, sink).map_err(|error| ReadError::Scan(error.into()))?;
        Ok(Attempt::Put(blob, stat))
    }

    /// One attempt at a larger file, whose beginning is looked at before anything of it is put.
    fn read_large<S: ObjectSink>(
        &mut self,
        file: &std::fs::File,
        before: &Stat,
        sink: &S,
        progress: &Progress,
        inspect: Option<Inspect<'_>>,
    ) -> Result<Attempt, ReadError> {
        let mut read = 0;
        if let Some(inspect) = inspect {
            read = self.fill(file, LOOKED_AT, LOOKED_AT)?;
            if let Some(finding) = inspect(self.small.get(..read).unwrap_or_default()) {
                return Ok(Attempt::Held(finding));
            }
        }
        // What was inspected is what is put: somebody may be writing.
        let inspected = self.small.get(..read).unwrap_or_default();
        let content = inspected.chain(Watched { file, progress });
        let content = content.take(FileStat::new(before).size);
        let blob = self.chunker.store(content, sink).map_err(|error| match error {
            ChunkError::Store(error) => ReadError::Scan(error.into()),
            ChunkError::Read(error) => read_error(&error),
        })?;
        let stat = rustix::fs::fstat(file.as_fd()).map_err(ReadError::File)?;
        Ok(Attempt::Put(blob, stat))
    }

    /// Reads at most `most` bytes, until the file ends or there are `enough`; says how many.
    fn fill(
        &mut self,
        mut file: &std::fs::File,
        most: usize,
        enough: usize,
    ) -> Result<usize, ReadError> {
        if self.small.len() < most {
            self.small.resize(most, 0);
        }
        let mut filled = 0;
        while filled < most {
            let rest = self.small.get_mut(filled..most).unwrap_or_default();
            match file.read(rest) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(read_error(&error)),
            }
            if filled >= enough {
                break;
            }
        }
        Ok(filled)
    }
}

fn regular(stat: Stat) -> Result<Stat, ReadError> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => Ok(stat),
        other => Err(ReadError::NotRegular(other)),
    }
}

/// An error that does not come from the system is the one of [`Watched`].
fn read_error(error: &io::Error) -> ReadError {
    match error.raw_os_error() {
        Some(error) => ReadError::File(Errno::from_raw_os_error(error)),
        None => ReadError::Scan(ScanError::Cancelled),
    }
}

/// A large file, read until the caller has had enough.
struct Watched<'a> {
    file: &'a std::fs::File,
    progress: &'a Progress,
}

impl Read for Watched<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if self.progress.is_cancelled() {
            return Err(io::Error::other("cancelled"));
        }
        self.file.read(to)
    }
}

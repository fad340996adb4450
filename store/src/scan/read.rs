//! Reads a file that others may be writing to.
//!
//! A read is whole if `fstat` says the same before and after, and as many bytes came as it said.
//! Otherwise it is tried again; what the last attempt saw is kept, and flagged.
//!
//! **Invariant:** reading ends. No more is read than the size that the file had when it was opened.

use std::io::{self, Read, Seek};
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
    small: Vec<u8>,
    chunker: Chunker,
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
            if let Some(inspect) = inspect
                && let Some(finding) = self.inspect(&file, inspect)?
            {
                let content = Content::Chunk(ChunkId::of(b""));
                let blob = Blob { size: 0, content };
                return Ok(FileRead { blob, held: Some(finding), stat: before, torn: false });
            }
            let (blob, after) = self.read_once(&file, &before, last, sink, progress)?;
            let whole = FileStat::new(&before) == FileStat::new(&after);
            match blob {
                Some(blob) if whole && blob.size == FileStat::new(&after).size => {
                    return Ok(FileRead { blob, held: None, stat: after, torn: false });
                }
                Some(blob) if last => {
                    return Ok(FileRead { blob, held: None, stat: after, torn: true });
                }
                _ => attempt += 1,
            }
        }
    }

    /// Looks at the beginning of a file before anything of it is put.
    fn inspect(
        &mut self,
        file: &std::fs::File,
        inspect: Inspect<'_>,
    ) -> Result<Option<Finding>, ReadError> {
        self.small.clear();
        file.take(LOOKED_AT as u64)
            .read_to_end(&mut self.small)
            .and_then(|_| (&*file).rewind())
            .map_err(|error| read_error(&error))?;
        Ok(inspect(&self.small))
    }

    /// One attempt: what was read, where it is worth keeping, and the state after.
    fn read_once<S: ObjectSink>(
        &mut self,
        file: &std::fs::File,
        before: &Stat,
        keep: bool,
        sink: &S,
        progress: &Progress,
    ) -> Result<(Option<Blob>, Stat), ReadError> {
        let size = FileStat::new(before).size;
        let after = |file: &std::fs::File| rustix::fs::fstat(file.as_fd()).map_err(ReadError::File);
        if size > MAX_CHUNK as u64 {
            let content = Watched { file, progress }.take(size);
            let blob = self.chunker.store(content, sink).map_err(|error| match error {
                ChunkError::Store(error) => ReadError::Scan(error.into()),
                ChunkError::Read(error) => read_error(&error),
            })?;
            return Ok((Some(blob), after(file)?));
        }
        self.small.clear();
        // One byte more than the file had: a file that grew is not taken for whole. It is known to
        // be small, so the bytes are put only when they are known to be good.
        file.take(size + 1).read_to_end(&mut self.small).map_err(|error| read_error(&error))?;
        self.small.truncate(MAX_CHUNK);
        let stat = after(file)?;
        let whole =
            self.small.len() as u64 == size && FileStat::new(before) == FileStat::new(&stat);
        if !whole && !keep {
            return Ok((None, stat));
        }
        let blob = store_bytes(&self.small, sink).map_err(|error| ReadError::Scan(error.into()))?;
        Ok((Some(blob), stat))
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

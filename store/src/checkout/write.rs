//! What is made of one chunk: small files, parts of large ones, links.
//!
//! A thread takes whole records, so that each is read and decompressed once; a file costs one lookup, the
//! hash of its bytes, and three system calls: it is made with its mode, written and closed.
//!
//! **Invariant:** a file is new and is reached through no link; it has its exact mode, and all its bytes,
//! before the folder that it is in can be reached by anybody else.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use baton_protocol::id::ObjectId;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::crew::Crew;
use super::layout::{Layout, Modes, Number, Piece, Place, What};
use super::{Build, RestoreError, open_directory};
use crate::chunk::is_zero;
use crate::error::StoreError;
use crate::objects::{ObjectSource, OpenRecord};

/// Pieces that one thread takes at a time, and the rest of the last one's record.
const BATCH: usize = 64;

/// Pieces that one thread takes at most: there may be millions of copies of one content.
const MOST: usize = 16 * BATCH;

/// Pieces that are looked up at a time.
const LOOKUPS: usize = 16 * 1024;

/// Directories that one thread keeps open.
const OPEN: usize = 16;

/// Zeros shorter than a page of the file system are written: a hole would not be one.
const HOLE: usize = 4096;

/// How a file is opened to be written.
pub(super) const WRITE: OFlags = OFlags::WRONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// How a file is made.
pub(super) const CREATE: OFlags = WRITE.union(OFlags::CREATE).union(OFlags::EXCL);

/// What a thread keeps from one piece to the next.
#[derive(Default)]
struct Desk {
    opened: Opened,
    record: OpenRecord,
    modes: Modes,
    /// The large file that the last part was of.
    large: Option<(Place, File)>,
    /// What was made and is not counted yet.
    files: u64,
    bytes: u64,
}

/// The directories that a thread has open, the last used one first.
#[derive(Default)]
pub(super) struct Opened(Vec<(Number, OwnedFd)>);

impl<S: ObjectSource + ?Sized> Build<'_, S> {
    /// Makes all pieces, and takes them off the list.
    pub(super) fn write_pieces(
        &self,
        layout: &Layout,
        pieces: &mut Vec<Piece>,
    ) -> Result<(), RestoreError> {
        self.locate(pieces)?;
        // Copies of one content stand together, and what is not on the disk comes first.
        pieces.sort_unstable_by_key(|piece| (piece.at, piece.place));
        let left = Mutex::new(pieces.as_slice());
        let threads = self.threads.min(pieces.len().div_ceil(BATCH));
        Crew::run(threads, |crew| {
            let mut desk = Desk::default();
            loop {
                let batch = take(&mut left.lock().unwrap_or_else(PoisonError::into_inner));
                if batch.is_empty() {
                    return Ok(());
                }
                for piece in batch {
                    if crew.is_stopped() {
                        return Ok(());
                    }
                    if self.progress.is_cancelled() {
                        return Err(RestoreError::Cancelled);
                    }
                    self.write_piece(layout, &mut desk, piece)?;
                }
                self.add(std::mem::take(&mut desk.files), std::mem::take(&mut desk.bytes));
            }
        })?;
        pieces.clear();
        Ok(())
    }

    /// Finds out where the chunks are.
    fn locate(&self, pieces: &mut [Piece]) -> Result<(), RestoreError> {
        let threads = self.threads.min(pieces.len().div_ceil(LOOKUPS));
        let left = Mutex::new(pieces.chunks_mut(LOOKUPS));
        Crew::run(threads, |crew| {
            while !crew.is_stopped() {
                let Some(some) = left.lock().unwrap_or_else(PoisonError::into_inner).next() else {
                    break;
                };
                let ids: Vec<ObjectId> = some.iter().map(|piece| piece.chunk.into()).collect();
                for (piece, at) in some.iter_mut().zip(self.source.locations(&ids)?) {
                    piece.at = at;
                }
            }
            Ok(())
        })
    }

    fn write_piece(
        &self,
        layout: &Layout,
        desk: &mut Desk,
        piece: &Piece,
    ) -> Result<(), RestoreError> {
        let Desk { opened, record, modes, large, .. } = desk;
        let place = piece.place;
        let failed = |action, error: Errno| self.failed(action, &layout.path_of(place), error);
        let refused = |error| self.refused("creating", &layout.path_of(place), error);
        let id = ObjectId::from(piece.chunk);
        let bytes = self.source.read_from(record, &id, piece.at.as_ref())?;
        if bytes.len() as u64 != u64::from(piece.len) {
            return Err(StoreError::DamagedObject(id).into());
        }
        let is_hole = bytes.len() >= HOLE && is_zero(bytes);
        let directory = opened
            .find(self, layout, place.directory)
            .map_err(|error| failed("opening the directory of", error))?;
        match piece.what {
            What::File(mode) => {
                let raw_mode = Mode::from_raw_mode(mode.into());
                let made = rustix::fs::openat(directory, layout.name(place), CREATE, raw_mode);
                let to = match made {
                    Ok(to) => File::from(to),
                    Err(error) => return refused(error),
                };
                let written = if is_hole {
                    to.set_len(bytes.len() as u64)
                } else {
                    to.write_all_at(bytes, 0)
                };
                written.map_err(|error| failed("writing", errno(&error)))?;
                let comes_out = match modes.comes_out(mode) {
                    Some(comes_out) => comes_out,
                    None => rustix::fs::fstat(to.as_fd())
                        .map(|stat| modes.note(mode, stat.st_mode))
                        .map_err(|error| failed("looking at", error))?,
                };
                if !comes_out {
                    rustix::fs::fchmod(to.as_fd(), raw_mode)
                        .map_err(|error| failed("setting the mode of", error))?;
                }
                desk.files += 1;
                desk.bytes += u64::from(piece.len);
            }
            // Its length is set: what is not written is a hole.
            What::Part(_) if is_hole => desk.bytes += u64::from(piece.len),
            What::Part(offset) => {
                if large.as_ref().is_none_or(|(opened, _)| *opened != place) {
                    let to =
                        rustix::fs::openat(directory, layout.name(place), WRITE, Mode::empty())
                            .map_err(|error| failed("opening", error))?;
                    *large = Some((place, to.into()));
                }
                if let Some((_, to)) = large {
                    to.write_all_at(bytes, offset)
                        .map_err(|error| failed("writing", errno(&error)))?;
                }
                desk.bytes += u64::from(piece.len);
            }
            What::Link => match rustix::fs::symlinkat(bytes, directory, layout.name(place)) {
                Ok(()) => desk.files += 1,
                Err(error) => return refused(error),
            },
        }
        Ok(())
    }
}

/// Takes the next pieces: some, up to the end of a record.
fn take<'a>(left: &mut &'a [Piece]) -> &'a [Piece] {
    let record = |piece: &Piece| piece.at.map(|at| at.record());
    let mut end = left.len().min(BATCH);
    while end < MOST
        && let [last, following, ..] = left.get(end.saturating_sub(1)..).unwrap_or_default()
        && record(last).is_some()
        && record(last) == record(following)
    {
        end += 1;
    }
    let (taken, rest) = left.split_at_checked(end).unwrap_or_default();
    *left = rest;
    taken
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error)
}

impl Opened {
    /// A directory of the tree being built.
    pub(super) fn find<S: ObjectSource + ?Sized>(
        &mut self,
        build: &Build<'_, S>,
        layout: &Layout,
        directory: Number,
    ) -> Result<&OwnedFd, Errno> {
        if let Some(at) = self.0.iter().position(|&(number, _)| number == directory) {
            if let Some(before) = self.0.get_mut(..=at) {
                before.rotate_right(1);
            }
        } else {
            let fd = open_directory(build.root, layout.path(directory))?;
            self.0.truncate(OPEN - 1);
            self.0.insert(0, (directory, fd));
        }
        self.0.first().map(|(_, fd)| fd).ok_or(Errno::BADF)
    }
}

//! Files of several chunks: made with their length, and filled in parts like any other piece.
//!
//! So a record is decompressed once, whether small files, parts of a large one or both are in it, and a
//! file of gigabytes is written by all threads.
//!
//! **Invariant:** the list of parts is bounded, however large the files. A file has its mode when all
//! its parts are written.

use std::os::fd::AsFd;

use baton_protocol::id::ChunkId;
use baton_protocol::object::Extent;
use rustix::fs::Mode;

use super::layout::{Large, Layout, Piece, What};
use super::write::{CREATE, Opened, WRITE};
use super::{Build, RestoreError};
use crate::chunk::{for_each_extent, is_zero_chunk};
use crate::objects::ObjectSource;

/// Parts that are listed at a time: 8 GB of chunks of the usual length, in 12 MB.
const PARTS: usize = if cfg!(test) { 8 } else { 128 * 1024 };

/// Finds the chunks of a hole: the same one over and over.
#[derive(Default)]
struct Holes {
    last: Option<ChunkId>,
    zero: Option<ChunkId>,
}

impl Holes {
    /// Whether a chunk is known to be zeros. The first of a run is not, and is looked into when it is read.
    fn has(&mut self, extent: Extent) -> bool {
        let is_again = self.last.replace(extent.chunk) == Some(extent.chunk);
        if is_again && self.zero != self.last && is_zero_chunk(extent) {
            self.zero = self.last;
        }
        self.zero == self.last
    }
}

impl<S: ObjectSource + ?Sized> Build<'_, S> {
    /// Writes all files; those of one chunk are listed.
    pub(super) fn write_files(
        &self,
        layout: &Layout,
        mut pieces: Vec<Piece>,
    ) -> Result<(), RestoreError> {
        let mut opened = Opened::default();
        let mut made = Vec::new();
        let mut most = pieces.len() + PARTS;
        for large in &layout.large {
            if !self.make(layout, &mut opened, large)? {
                continue;
            }
            made.push(large);
            let mut holes = Holes::default();
            for_each_extent(self.source, large.blob, |offset, extent: Extent| {
                if self.progress.is_cancelled() {
                    return Err(RestoreError::Cancelled);
                }
                if holes.has(extent) {
                    self.add(0, extent.len.into());
                    return Ok(());
                }
                if pieces.len() >= most {
                    self.write_pieces(layout, &mut pieces)?;
                    most = PARTS;
                }
                let Extent { len, chunk } = extent;
                let what = What::Part(offset);
                pieces.push(Piece { at: None, place: large.place, chunk, len, what });
                Ok(())
            })?;
        }
        self.write_pieces(layout, &mut pieces)?;
        made.iter().try_for_each(|large| self.set_mode(layout, &mut opened, large))
    }

    /// Makes a file of its length; false where the target cannot hold one of this name.
    fn make(
        &self,
        layout: &Layout,
        opened: &mut Opened,
        large: &Large,
    ) -> Result<bool, RestoreError> {
        let failed = |action, error| self.failed(action, &layout.path_of(large.place), error);
        let directory = opened
            .find(self, layout, large.place.directory)
            .map_err(|error| failed("opening the directory of", error))?;
        let mode = Mode::RUSR.union(Mode::WUSR);
        match rustix::fs::openat(directory, layout.name(large.place), CREATE, mode) {
            Ok(to) => {
                rustix::fs::ftruncate(&to, large.blob.size)
                    .map_err(|error| failed("writing", error))?;
                self.add(1, 0);
                Ok(true)
            }
            Err(error) => {
                self.refused("creating", &layout.path_of(large.place), error).map(|()| false)
            }
        }
    }

    fn set_mode(
        &self,
        layout: &Layout,
        opened: &mut Opened,
        large: &Large,
    ) -> Result<(), RestoreError> {
        let failed =
            |error| self.failed("setting the mode of", &layout.path_of(large.place), error);
        let directory = opened.find(self, layout, large.place.directory).map_err(failed)?;
        let name = layout.name(large.place);
        let file = rustix::fs::openat(directory, name, WRITE, Mode::empty()).map_err(failed)?;
        rustix::fs::fchmod(file.as_fd(), Mode::from_raw_mode(large.mode.into())).map_err(failed)
    }
}

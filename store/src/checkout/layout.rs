//! The directories of a tree, made from the top down, and the list of what goes into them.
//!
//! The directories of one level are made by several threads, and those below them after that.
//!
//! **Invariant:** a directory stands in the list after the one it is in. Nobody but the owner gets into
//! any of them before the mode of the root is set, which is done last. One that its owner may not enter
//! or write to gets that mode when everything is in it, from the bottom up.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use baton_protocol::id::{ChunkId, TreeId};
use baton_protocol::object::{Blob, Content, Entry, EntryKind, TreeSums};
use baton_protocol::path::{MAX_PATH, RelPath, is_git_name};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::crew::Crew;
use super::{Build, RestoreError, open_directory};
use crate::error::StoreError;
use crate::objects::{Location, ObjectSource, OpenRecord};
use crate::snapshot::for_each_entry;

/// Directories that one thread takes at a time.
const BATCH: usize = 32;

/// What is to be made.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// All but the root, each after the one it is in.
    directories: Vec<Directory>,
    /// Files that are one chunk.
    pub(super) files: Vec<Piece>,
    /// The others.
    pub(super) large: Vec<Large>,
    pub(super) links: Vec<Piece>,
    /// The names of all that is in directories, one after the other.
    names: Vec<u8>,
}

/// A directory that was made.
#[derive(Debug)]
struct Directory {
    path: Vec<u8>,
    mode: u16,
    /// Whether it has that mode already.
    is_set: bool,
    tree: TreeId,
    /// What is said to be below it.
    said: TreeSums,
}

/// Something to be made of one chunk.
#[derive(Debug)]
pub(super) struct Piece {
    /// Where the chunk is, if that is known; pieces are made in this order.
    pub(super) at: Option<Location>,
    pub(super) place: Place,
    pub(super) chunk: ChunkId,
    pub(super) len: u32,
    pub(super) what: What,
}

/// What the chunk becomes.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// A file, with this mode.
    File(u16),
    /// What stands at this offset of a file that is there.
    Part(u64),
    /// A link to what it says.
    Link,
}

/// A file of several chunks.
#[derive(Debug)]
pub(super) struct Large {
    pub(super) place: Place,
    pub(super) mode: u16,
    pub(super) blob: Blob,
}

/// A directory of the list by its number, counted from one; zero is the root.
pub(super) type Number = u32;

/// A name in one of the directories. There may be millions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) directory: Number,
    /// Where the name starts in the list of names. The most names of a checkout, each of the greatest length,
    /// take less than 4 GiB.
    start: u32,
    len: u8,
}

impl Layout {
    fn directory(&self, number: Number) -> Option<&Directory> {
        self.directories.get((number as usize).checked_sub(1)?)
    }

    /// The path of a directory.
    pub(super) fn path(&self, directory: Number) -> &[u8] {
        self.directory(directory).map(|directory| directory.path.as_slice()).unwrap_or_default()
    }

    /// The name of something in a directory.
    pub(super) fn name(&self, place: Place) -> &[u8] {
        let start = place.start as usize;
        self.names.get(start..start + usize::from(place.len)).unwrap_or_default()
    }

    /// The path of something in a directory.
    pub(super) fn path_of(&self, place: Place) -> Vec<u8> {
        join(self.path(place.directory), self.name(place))
    }

    fn place(&mut self, directory: Number, name: &[u8]) -> Place {
        let start = self.names.len() as u32;
        self.names.extend_from_slice(name);
        Place { directory, start, len: name.len() as u8 }
    }

    /// Adds a file or a link; a directory is nothing that is written.
    pub(super) fn add(
        &mut self,
        directory: Number,
        name: &[u8],
        kind: EntryKind,
    ) -> Result<(), StoreError> {
        let at = None;
        match kind {
            EntryKind::File { mode, blob } => {
                let place = self.place(directory, name);
                match blob.content {
                    Content::Chunk(chunk) => {
                        let (len, what) = (blob.size as u32, What::File(mode));
                        self.files.push(Piece { at, place, chunk, len, what });
                    }
                    Content::Manifest(_) => self.large.push(Large { place, mode, blob }),
                }
            }
            EntryKind::Symlink { target } => {
                // The decoder lets through what is one chunk long.
                let Content::Chunk(chunk) = target.content else {
                    return Err(StoreError::DamagedObject(target.content.id()));
                };
                let place = self.place(directory, name);
                let (len, what) = (target.size as u32, What::Link);
                self.links.push(Piece { at, place, chunk, len, what });
            }
            EntryKind::Directory { .. } => {}
        }
        Ok(())
    }

    /// Adds what is in some more directories.
    fn append(&mut self, mut other: Self) {
        let before = self.names.len() as u32;
        let pieces = other.files.iter_mut().chain(&mut other.links).map(|piece| &mut piece.place);
        for place in pieces.chain(other.large.iter_mut().map(|large| &mut large.place)) {
            place.start += before;
        }
        self.names.append(&mut other.names);
        self.directories.append(&mut other.directories);
        self.files.append(&mut other.files);
        self.large.append(&mut other.large);
        self.links.append(&mut other.links);
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

impl<S: ObjectSource + ?Sized> Build<'_, S> {
    /// Makes the directories and lists the rest.
    pub(super) fn lay_out(&self, root: TreeId) -> Result<Layout, RestoreError> {
        let mut layout = Layout::default();
        let mut level = 0..1;
        while !level.is_empty() {
            let next = AtomicUsize::new(level.start);
            let found = Mutex::new(Vec::new());
            let threads = self.threads.min(level.len().div_ceil(BATCH));
            Crew::run(threads, |crew| {
                let mut modes = Modes::default();
                let mut record = OpenRecord::default();
                while !crew.is_stopped() {
                    let start = next.fetch_add(BATCH, Ordering::Relaxed);
                    if start >= level.end {
                        break;
                    }
                    let numbers = start..level.end.min(start + BATCH);
                    let trees: Vec<TreeId> = numbers
                        .clone()
                        .map(|number| layout.directory(number as Number).map_or(root, |at| at.tree))
                        .collect();
                    self.trees.read_ahead(&trees, 1, &mut record)?;
                    let mut some = Layout::default();
                    for number in numbers {
                        self.lay_out_one(&layout, number as Number, root, &mut some, &mut modes)?;
                    }
                    found.lock().unwrap_or_else(PoisonError::into_inner).push((start, some));
                }
                Ok(())
            })?;
            let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
            found.sort_unstable_by_key(|&(start, _)| start);
            for (_, some) in found {
                layout.append(some);
            }
            level = level.end..layout.directories.len() + 1;
        }
        Ok(layout)
    }

    /// Makes the directories in one, and lists what else is in it.
    fn lay_out_one(
        &self,
        layout: &Layout,
        number: Number,
        root: TreeId,
        to: &mut Layout,
        modes: &mut Modes,
    ) -> Result<(), RestoreError> {
        if self.progress.is_cancelled() {
            return Err(RestoreError::Cancelled);
        }
        let path = layout.path(number);
        let (tree, said) = match layout.directory(number) {
            Some(directory) => (directory.tree, Some(directory.said)),
            None => (root, None),
        };
        let mut opened = None;
        let sums = for_each_entry(self.trees, tree, |entry| {
            let Entry { name, kind } = entry;
            if is_git_name(&name) {
                let path = RelPath::new(&join(path, &name)).unwrap_or_default();
                return Err(RestoreError::GitName { path });
            }
            if path.len() + usize::from(!path.is_empty()) + name.len() > MAX_PATH {
                self.omit(&join(path, &name));
                return Ok(());
            }
            match kind {
                EntryKind::File { .. } | EntryKind::Symlink { .. } => {
                    to.add(number, &name, kind)?;
                }
                EntryKind::Directory { mode, tree, below: said } => {
                    let above = match opened.take() {
                        Some(above) => above,
                        None => open_directory(self.root, path)
                            .map_err(|error| self.failed("opening", path, error))?,
                    };
                    let made = make_directory(above.as_fd(), &name, mode, modes);
                    opened = Some(above);
                    let path = join(path, &name);
                    match made {
                        Ok(is_set) => {
                            to.directories.push(Directory { path, mode, is_set, tree, said });
                        }
                        Err(error) => self.refused("creating", &path, error)?,
                    }
                }
            }
            Ok::<_, RestoreError>(())
        })?;
        if said.is_some_and(|said| said != sums) {
            return Err(StoreError::DamagedObject(tree.into()).into());
        }
        Ok(())
    }

    /// Sets the modes that directories do not have yet, from the bottom up: one that its owner may not
    /// enter is closed after everything in it is done. That of the root stays.
    pub(super) fn set_modes(&self, layout: &Layout) -> Result<(), RestoreError> {
        let others = layout.directories.iter().rev().filter(|directory| !directory.is_set);
        for Directory { path, mode, .. } in others {
            let failed = |error| self.failed("setting the mode of", path, error);
            let fd = open_directory(self.root, path).map_err(failed)?;
            rustix::fs::fchmod(fd.as_fd(), Mode::from_raw_mode((*mode).into())).map_err(failed)?;
        }
        Ok(())
    }
}

/// Makes a directory that its owner may fill; says whether it has its mode already.
fn make_directory(
    above: BorrowedFd<'_>,
    name: &[u8],
    mode: u16,
    modes: &mut Modes,
) -> Result<bool, Errno> {
    let wanted = Mode::from_raw_mode(mode.into());
    if !wanted.contains(Mode::RWXU) || modes.comes_out(mode) == Some(false) {
        return rustix::fs::mkdirat(above, name, Mode::RWXU).map(|()| false);
    }
    rustix::fs::mkdirat(above, name, wanted)?;
    if let Some(comes_out) = modes.comes_out(mode) {
        return Ok(comes_out);
    }
    let made = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode;
    let is_set = modes.note(mode, made);
    // What the mask takes away may be what the owner needs.
    if !is_set {
        rustix::fs::chmodat(above, name, Mode::RWXU, AtFlags::empty())?;
    }
    Ok(is_set)
}

/// Which modes files, or directories, come out with when they are made with them: the mask of the
/// process, and what a folder hands down to those in it, may change them. Both are the same for all of a
/// restore, and are found out with the first of each mode.
#[derive(Debug, Default)]
pub(super) struct Modes(Vec<(u16, bool)>);

impl Modes {
    /// Whether one of this mode comes out with it, where that is known.
    pub(super) fn comes_out(&self, mode: u16) -> Option<bool> {
        self.0.iter().find(|&&(known, _)| known == mode).map(|&(_, comes_out)| comes_out)
    }

    /// Notes with which mode the first of this one came out.
    pub(super) fn note(&mut self, mode: u16, found: rustix::fs::RawMode) -> bool {
        let comes_out = found & 0o7777 == rustix::fs::RawMode::from(mode);
        self.0.push((mode, comes_out));
        comes_out
    }
}

//! The directories of a tree, made from the top down, and the list of what goes into them.
//!
//! **Invariant:** a directory stands in the list after the one it is in. Nobody but the owner gets into
//! any of them before the mode of the root is set, which is done last. One that its owner may not enter
//! or write to gets that mode when everything is in it, from the bottom up.

use std::os::fd::{AsFd, BorrowedFd};

use baton_protocol::id::TreeId;
use baton_protocol::object::{Blob, Entry, EntryKind, TreeSums};
use baton_protocol::path::{MAX_PATH, RelPath, is_git_name};
use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::{Build, RestoreError, open_directory};
use crate::error::StoreError;
use crate::objects::{Location, ObjectSource};
use crate::snapshot::for_each_entry;

/// What is to be made.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// All but the root, each after the one it is in.
    pub(super) directories: Vec<Directory>,
    pub(super) files: Vec<File>,
    pub(super) links: Vec<Link>,
    /// The names of files and links, one after the other.
    names: Vec<u8>,
}

/// A directory that was made.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: Vec<u8>,
    mode: u16,
    /// Whether it has that mode already.
    is_set: bool,
}

/// A file to be written.
#[derive(Debug)]
pub(super) struct File {
    /// Where its content is, if that is known; files are written in this order.
    pub(super) at: Option<Location>,
    pub(super) place: Place,
    pub(super) mode: u16,
    pub(super) blob: Blob,
}

/// A link to be made.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) place: Place,
    pub(super) target: Blob,
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
    /// The path of a directory.
    pub(super) fn path(&self, directory: Number) -> &[u8] {
        let at = (directory as usize).checked_sub(1).and_then(|at| self.directories.get(at));
        at.map(|directory| directory.path.as_slice()).unwrap_or_default()
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
        let mut modes = Modes::default();
        let mut left: Vec<(Number, TreeId, Option<TreeSums>)> = vec![(0, root, None)];
        while let Some((number, tree, said)) = left.pop() {
            if self.progress.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let path = layout.path(number).to_vec();
            let fd = open_directory(self.root, &path)
                .map_err(|error| self.failed("opening", &path, error))?;
            let sums = for_each_entry(self.source, tree, |entry| {
                let Entry { name, kind } = entry;
                if is_git_name(&name) {
                    let path = RelPath::new(&join(&path, &name)).unwrap_or_default();
                    return Err(RestoreError::GitName { path });
                }
                if path.len() + usize::from(!path.is_empty()) + name.len() > MAX_PATH {
                    self.omit(&join(&path, &name));
                    return Ok(());
                }
                match kind {
                    EntryKind::File { mode, blob } => {
                        let place = layout.place(number, &name);
                        layout.files.push(File { at: None, place, mode, blob });
                    }
                    EntryKind::Symlink { target } => {
                        let place = layout.place(number, &name);
                        layout.links.push(Link { place, target });
                    }
                    EntryKind::Directory { mode, tree, below } => {
                        let path = join(&path, &name);
                        match make_directory(fd.as_fd(), &name, mode, &mut modes) {
                            Ok(is_set) => {
                                layout.directories.push(Directory { path, mode, is_set });
                                left.push((layout.directories.len() as Number, tree, Some(below)));
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
        }
        Ok(layout)
    }

    /// Makes the links and returns their number.
    pub(super) fn make_links(&self, layout: &Layout) -> Result<u64, RestoreError> {
        let mut made = 0;
        let mut opened = None;
        for link in &layout.links {
            let fd = match opened.take() {
                Some((directory, fd)) if directory == link.place.directory => fd,
                _ => {
                    let path = layout.path(link.place.directory);
                    open_directory(self.root, path)
                        .map_err(|error| self.failed("opening", path, error))?
                }
            };
            let target = self.read_small(link.target)?;
            let name = layout.name(link.place);
            match rustix::fs::symlinkat(target.as_slice(), &fd, name) {
                Ok(()) => {
                    made += 1;
                    self.progress.add(1, 0);
                }
                Err(error) => self.refused("creating", &layout.path_of(link.place), error)?,
            }
            opened = Some((link.place.directory, fd));
        }
        Ok(made)
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

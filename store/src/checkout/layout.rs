//! The directories of a tree, made from the top down, and the list of what goes into them.
//!
//! **Invariant:** a directory stands in the list after the one it is in, and is open to its owner
//! alone until its mode is set, which happens from the bottom up when everything is in it.

use std::os::fd::AsFd;

use baton_protocol::id::TreeId;
use baton_protocol::object::{Blob, Entry, EntryKind, TreeSums};
use baton_protocol::path::{MAX_PATH, RelPath, is_git_name};
use rustix::fs::Mode;

use super::{Build, RestoreError, open_directory};
use crate::error::StoreError;
use crate::objects::ObjectSource;
use crate::snapshot::for_each_entry;

/// What is to be made.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// All but the root, each after the one it is in.
    pub(super) directories: Vec<Directory>,
    pub(super) files: Vec<File>,
    pub(super) links: Vec<Link>,
}

/// A directory that was made.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: Vec<u8>,
    mode: u16,
}

/// A file to be written.
#[derive(Debug)]
pub(super) struct File {
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

/// A name in one of the directories.
#[derive(Debug)]
pub(super) struct Place {
    /// Its number in the list; none for the root.
    pub(super) directory: Option<usize>,
    pub(super) name: Vec<u8>,
}

impl Layout {
    /// The path of a directory.
    pub(super) fn path(&self, directory: Option<usize>) -> &[u8] {
        let directory = directory.and_then(|at| self.directories.get(at));
        directory.map(|directory| directory.path.as_slice()).unwrap_or_default()
    }

    /// The path of something in a directory.
    pub(super) fn path_of(&self, place: &Place) -> Vec<u8> {
        join(self.path(place.directory), &place.name)
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
        let mut left: Vec<(Option<usize>, TreeId, Option<TreeSums>)> = vec![(None, root, None)];
        while let Some((number, tree, said)) = left.pop() {
            if self.progress.is_cancelled() {
                return Err(RestoreError::Cancelled);
            }
            let path = layout.path(number).to_vec();
            let fd = open_directory(self.root, &path)
                .map_err(|error| self.failed("opening", &path, error))?;
            let sums = for_each_entry(self.source, tree, |entry| {
                let path = join(&path, &entry.name);
                if is_git_name(&entry.name) {
                    let path = RelPath::new(&path).unwrap_or_default();
                    return Err(RestoreError::GitName { path });
                }
                if path.len() > MAX_PATH {
                    self.omit(&path);
                    return Ok(());
                }
                let Entry { name, kind } = entry;
                let place = Place { directory: number, name };
                match kind {
                    EntryKind::File { mode, blob } => layout.files.push(File { place, mode, blob }),
                    EntryKind::Symlink { target } => layout.links.push(Link { place, target }),
                    EntryKind::Directory { mode, tree, below } => {
                        let name = place.name.as_slice();
                        match rustix::fs::mkdirat(&fd, name, Mode::RWXU) {
                            Ok(()) => {
                                left.push((Some(layout.directories.len()), tree, Some(below)));
                                layout.directories.push(Directory { path, mode });
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
            let path = || layout.path_of(&link.place);
            let name = link.place.name.as_slice();
            match rustix::fs::symlinkat(target.as_slice(), &fd, name) {
                Ok(()) => {
                    made += 1;
                    self.progress.add(1, 0);
                }
                Err(error) => self.refused("creating", &path(), error)?,
            }
            opened = Some((link.place.directory, fd));
        }
        Ok(made)
    }

    /// Sets the modes of all directories but the root, from the bottom up: one that its owner may
    /// not enter is closed after everything in it is done.
    pub(super) fn set_modes(&self, layout: &Layout) -> Result<(), RestoreError> {
        let others = layout.directories.iter().rev();
        for Directory { path, mode } in others {
            let failed = |error| self.failed("setting the mode of", path, error);
            let fd = open_directory(self.root, path).map_err(failed)?;
            rustix::fs::fchmod(fd.as_fd(), Mode::from_raw_mode((*mode).into())).map_err(failed)?;
        }
        Ok(())
    }
}

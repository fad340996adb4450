//! A folder of another program, in which files are read and made: by descriptor, beneath it, and through no link.
//!
//! The folder itself may be reached by a link, for that is its user's to decide. What is in it may change at any
//! time, and may have been put there by anybody.
//!
//! - [`stage`]: several new files, all of which come to their places or none
//! - [`scratch`]: a folder of ours for a moment
//! - [`database`]: a database among the files
//!
//! **Invariant:** nothing outside of the folder is read or written; a link, a special file and a name that is too long
//! are errors that name the path.

mod stage;
mod scratch;
pub mod database;

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::path::RelPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::{self, Context, FsError};
use crate::scan::directory::{list, open_below, open_in};

pub use scratch::Scratch;
pub use stage::{Placed, Seen, Stage};

/// Entries of one directory that are looked at; programs that keep more in one have others to clean up.
pub const MAX_ENTRIES: usize = 100_000;

/// A file of the folder could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// It is a link, a device, or a directory where a file is expected.
    #[error("{} is no regular file", path.display())]
    NotRegular {
        /// Which.
        path: PathBuf,
    },
    /// A link, or a file, stands where a directory is expected.
    #[error("{} is no directory of its own: a link is not followed", path.display())]
    NotDirectory {
        /// Which, or something above it.
        path: PathBuf,
    },
    /// What is in it cannot be read where it is, and there is no other place.
    #[error("there is no place for a copy of what is in {}", path.display())]
    NoScratch {
        /// The folder.
        path: PathBuf,
    },
    /// A directory has too many entries.
    #[error("{} has more than {MAX_ENTRIES} entries", path.display())]
    TooMany {
        /// Which.
        path: PathBuf,
    },
}

/// What an entry of a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A link, or something that is not to be opened.
    Other,
}

/// A folder that is open.
#[derive(Debug)]
pub struct Folder {
    fd: OwnedFd,
    path: PathBuf,
    /// Whether somebody else than its user decides what is in it.
    is_anybodys: bool,
    /// Where something can be put for a moment.
    scratch: Option<PathBuf>,
}

impl Folder {
    /// Opens a folder; nothing where there is none.
    pub fn open(path: &Path) -> Result<Option<Self>, FolderError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::NOTDIR) => Err(FolderError::NotDirectory { path: path.to_owned() }),
            opened => Ok(Some(Self {
                fd: opened.context("opening", path)?,
                path: path.to_owned(),
                is_anybodys: false,
                scratch: None,
            })),
        }
    }

    /// Opens a folder, and makes it, for its owner only, where there is none.
    pub fn open_or_create(path: &Path) -> Result<Self, FolderError> {
        if let Some(folder) = Self::open(path)? {
            return Ok(folder);
        }
        fs::create_dir_all(path)?;
        Self::open(path)?.ok_or_else(|| FolderError::NotDirectory { path: path.to_owned() })
    }

    /// The folder of this name in another one, of which somebody else decides what is in it: never through a link. Made, for
    /// its owner only, where there is none and that is wanted.
    pub fn open_in(home: &Path, name: &RelPath, create: bool) -> Result<Option<Self>, FolderError> {
        let path = home.join(std::ffi::OsStr::from_bytes(name.as_bytes()));
        let Some(home) = Self::open(home)? else { return Ok(None) };
        let mut fd = home.fd;
        for part in name.components() {
            let opened = match open_in(fd.as_fd(), part) {
                Err(Errno::NOENT) if create => {
                    rustix::fs::mkdirat(&fd, part, Mode::RWXU).context("creating", &path)?;
                    open_in(fd.as_fd(), part)
                }
                opened => opened,
            };
            fd = match opened {
                Err(Errno::NOENT) => return Ok(None),
                Err(Errno::LOOP | Errno::NOTDIR) => {
                    return Err(FolderError::NotDirectory { path });
                }
                opened => opened.context("opening", &path)?,
            };
        }
        Ok(Some(Self { fd, path, is_anybodys: true, scratch: None }))
    }

    /// Removes a file that was looked at, if it is still the one: `seen` is an open descriptor of it.
    pub fn remove(&self, at: &RelPath, seen: &File) -> Result<bool, FolderError> {
        let path = self.path_of(at);
        let (above, name) = at.split_last().unwrap_or((b"", b""));
        let directory = open_below(self.fd.as_fd(), above).context("opening", &path)?;
        let expected = rustix::fs::fstat(seen).context("looking at", &path)?;
        let is_it = match rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => false,
            found => {
                let found = found.context("looking at", &path)?;
                (found.st_dev, found.st_ino) == (expected.st_dev, expected.st_ino)
            }
        };
        if is_it {
            rustix::fs::unlinkat(&directory, name, AtFlags::empty()).context("removing", &path)?;
        }
        Ok(is_it)
    }

    /// The same, with a folder of ours in which something can be put for a moment.
    #[must_use]
    pub fn with_scratch(mut self, scratch: &Path) -> Self {
        self.scratch = Some(scratch.to_owned());
        self
    }

    /// Makes a folder for a moment; an error where nobody said where.
    pub fn scratch(&self) -> Result<Scratch, FolderError> {
        let above = self.scratch.as_deref();
        let above = above.ok_or_else(|| FolderError::NoScratch { path: self.path.clone() })?;
        Ok(Scratch::new(above)?)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Names and kinds in a directory, ascending; nothing where it is missing.
    pub fn list(&self, directory: &RelPath) -> Result<Vec<(Vec<u8>, Kind)>, FolderError> {
        let path = self.path_of(directory);
        let fd = match open_below(self.fd.as_fd(), directory.as_bytes()) {
            Err(Errno::NOENT) => return Ok(Vec::new()),
            Err(Errno::LOOP | Errno::NOTDIR) => return Err(FolderError::NotDirectory { path }),
            opened => opened.context("opening", &path)?,
        };
        let entries = list(fd.as_fd()).context("listing", &path)?;
        if entries.len() > MAX_ENTRIES {
            return Err(FolderError::TooMany { path });
        }
        let kind = |name: &[u8], kind| match kind {
            FileType::Directory => Kind::Directory,
            // Some systems do not say it in a listing.
            FileType::Unknown if open_in(fd.as_fd(), name).is_ok() => Kind::Directory,
            FileType::RegularFile | FileType::Unknown => Kind::File,
            _ => Kind::Other,
        };
        let with_kind = |(name, found): (Vec<u8>, FileType)| {
            let kind = kind(&name, found);
            (name, kind)
        };
        Ok(entries.into_iter().map(with_kind).collect())
    }

    /// Opens a regular file to be read; nothing where there is none.
    pub fn file(&self, path: &RelPath) -> Result<Option<File>, FolderError> {
        let whole = self.path_of(path);
        let Some((above, name)) = path.split_last() else {
            return Err(FolderError::NotRegular { path: whole });
        };
        let directory = match open_below(self.fd.as_fd(), above) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NOTDIR) => {
                return Err(FolderError::NotDirectory { path: whole });
            }
            opened => opened.context("opening the directory of", &whole)?,
        };
        // Without waiting for whoever writes into a pipe.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(&directory, name, flags, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::LOOP | Errno::NXIO) => return Err(FolderError::NotRegular { path: whole }),
            opened => File::from(opened.context("opening", &whole)?),
        };
        let found = file.metadata().context("looking at", &whole)?;
        if found.is_file() { Ok(Some(file)) } else { Err(FolderError::NotRegular { path: whole }) }
    }

    /// The path of an entry, for messages.
    pub fn path_of(&self, path: &RelPath) -> PathBuf {
        self.path.join(std::ffi::OsStr::from_bytes(path.as_bytes()))
    }
}

#[cfg(test)]
mod tests;

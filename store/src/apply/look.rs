//! Whether what stands at a name of a directory is what a tree says.
//!
//! **Invariant:** a file is taken for a form only after all of it was read, and held still meanwhile. No
//! state is believed: what was written through a mapping leaves no trace in one.

use std::os::fd::{AsFd, BorrowedFd};

use baton_protocol::id::{ChunkId, ObjectId, ObjectKind};
use baton_protocol::object::Blob;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::form::Form;
use crate::chunk::Chunker;
use crate::error::StoreError;
use crate::objects::ObjectSink;
use crate::scan::directory::{list, open_in};
use crate::stat_cache::FileStat;

/// Looks at files, and keeps the buffer for the next one.
#[derive(Debug, Default)]
pub(super) struct Looker {
    chunker: Chunker,
}

/// What stands at a name; nothing where nothing does.
pub(super) fn stat(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Permission bits of something.
pub(super) const fn mode_of(stat: &Stat) -> u16 {
    (stat.st_mode & 0o7777) as u16
}

/// Whether something is a directory.
pub(super) fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

impl Looker {
    /// Whether a name has this form. Of a directory only that it is one.
    pub(super) fn is(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        form: Option<Form>,
    ) -> Result<bool, Errno> {
        match (stat(directory, name)?, form) {
            (None, None) => Ok(true),
            (Some(stat), Some(form)) => self.has(directory, name, &stat, form),
            _ => Ok(false),
        }
    }

    /// Whether what waits in the folder of an apply is what was staged there. A directory in which something
    /// is was in the checkout meanwhile, and is not ours any more.
    pub(super) fn is_staged(
        &mut self,
        folder: BorrowedFd<'_>,
        name: &[u8],
        form: Option<Form>,
    ) -> Result<bool, Errno> {
        if !self.is(folder, name, form)? {
            return Ok(false);
        }
        if form.is_some_and(|form| form.is_directory()) {
            return Ok(list(open_in(folder, name)?.as_fd())?.is_empty());
        }
        Ok(true)
    }

    /// The same of something that was looked at.
    fn has(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        form: Form,
    ) -> Result<bool, Errno> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        let found = FileStat::new(stat);
        match form {
            Form::Directory { .. } => Ok(kind == FileType::Directory),
            Form::Link { target } if kind == FileType::Symlink => {
                match rustix::fs::readlinkat(directory, name, Vec::new()) {
                    Ok(says) => {
                        Ok(target.content.id() == ObjectId::from(ChunkId::of(says.to_bytes())))
                    }
                    Err(Errno::NOENT | Errno::INVAL) => Ok(false),
                    Err(error) => Err(error),
                }
            }
            Form::File { mode, blob }
                if kind == FileType::RegularFile
                    && mode_of(stat) & 0o777 == mode
                    && found.size == blob.size =>
            {
                self.reads_as(directory, name, &found, blob)
            }
            Form::File { .. } | Form::Link { .. } => Ok(false),
        }
    }

    /// Reads a file. One that cannot be read, or changes meanwhile, is not known to be anything.
    fn reads_as(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        found: &FileStat,
        blob: Blob,
    ) -> Result<bool, Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(directory, name, flags, Mode::empty()) {
            Ok(file) => std::fs::File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::ACCESS | Errno::PERM | Errno::NXIO) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        let is_same = |file: &std::fs::File| {
            rustix::fs::fstat(file.as_fd()).is_ok_and(|now| FileStat::new(&now) == *found)
        };
        Ok(is_same(&file)
            && self.chunker.store(&file, &NamesOnly).is_ok_and(|read| read == blob)
            && is_same(&file))
    }
}

/// Names objects and keeps none.
struct NamesOnly;

impl ObjectSink for NamesOnly {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        Ok(ObjectId::of(kind, bytes))
    }
}

//! Bringing additions into a folder: what is there stays, and what is not comes to it.
//!
//! Times are kept, for builds compare them; several names of one file stay names of one file. Where the file system can
//! share bytes between files, none are copied.
//!
//! **Invariant:** nothing that is there is changed, and nothing is written through a link.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::{AdditionsError, Failure, borrowed, check_level, entries, open_top};
use crate::layers::cloning::{mode, share, times};
use crate::scan::directory::{join, open_in};

/// How much was brought.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Files and links.
    pub files: u64,
    /// Bytes of the files, shared or not.
    pub bytes: u64,
}

/// Brings what is in one folder into another one, which is there.
pub fn copy_missing(from: &Path, to: &Path) -> Result<Copied, AdditionsError> {
    let (source, target) = (open_top(from)?, open_top(to)?);
    let root = target.try_clone().map_err(|error| super::FsError {
        action: "opening",
        path: to.to_owned(),
        source: error,
    })?;
    let mut copying =
        Copying { root, names: HashMap::new(), shares: true, copied: Copied::default() };
    let done = copying.directory(&source, &target, &[], 0);
    done.map(|()| copying.copied).map_err(|failure| failure.at("copying into", to))
}

struct Copying {
    root: OwnedFd,
    /// Where a file of several names was brought to first.
    names: HashMap<(u64, u64), Vec<u8>>,
    /// Whether the file system can share bytes, as far as is known.
    shares: bool,
    copied: Copied,
}

impl Copying {
    fn directory(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &[u8],
        level: usize,
    ) -> Result<(), Failure> {
        check_level(level)?;
        for (name, kind) in entries(borrowed(from))? {
            match kind {
                FileType::Directory => self.inner(from, to, path, &name, level)?,
                FileType::RegularFile => self.file(from, to, path, &name)?,
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(from, name.as_slice(), Vec::new())?;
                    match rustix::fs::symlinkat(target, to, name.as_slice()) {
                        Err(Errno::EXIST) => {}
                        made => {
                            made?;
                            self.copied.files += 1;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn inner(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &[u8],
        name: &[u8],
        level: usize,
    ) -> Result<(), Failure> {
        let source = open_in(borrowed(from), name)?;
        let path = join(path, name);
        match rustix::fs::mkdirat(to, name, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return match open_in(borrowed(to), name) {
                    Ok(target) => self.directory(&source, &target, &path, level + 1),
                    // A file, a link, or nothing that may be looked into.
                    Err(Errno::NOTDIR | Errno::LOOP | Errno::ACCESS) => Ok(()),
                    Err(error) => Err(error.into()),
                };
            }
            Err(error) => return Err(error.into()),
        }
        let target = open_in(borrowed(to), name)?;
        self.directory(&source, &target, &path, level + 1)?;
        let stat = rustix::fs::fstat(&source)?;
        rustix::fs::fchmod(&target, mode(&stat))?;
        Ok(rustix::fs::futimens(&target, &times(&stat))?)
    }

    fn file(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        path: &[u8],
        name: &[u8],
    ) -> Result<(), Failure> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
        let stat = rustix::fs::fstat(&source)?;
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            let first = self.names.get(&inode).map(|first| {
                rustix::fs::linkat(&self.root, first.as_slice(), to, name, AtFlags::empty())
            });
            match first {
                Some(Ok(())) => {
                    self.copied.files += 1;
                    return Ok(());
                }
                Some(Err(Errno::EXIST)) => return Ok(()),
                // As many names as there can be, or too long a path: a file of its own.
                Some(Err(_)) => {}
                None => drop(self.names.insert(inode, join(path, name))),
            }
        }
        let write =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = match rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR) {
            Err(Errno::EXIST) => {
                // What is there is another file: no name of this one.
                self.names.remove(&(stat.st_dev, stat.st_ino));
                return Ok(());
            }
            opened => File::from(opened?),
        };
        self.content(source, &target)?;
        rustix::fs::fchmod(&target, mode(&stat))?;
        rustix::fs::futimens(&target, &times(&stat))?;
        self.copied.files += 1;
        let bytes = u64::try_from(stat.st_size).unwrap_or_default();
        self.copied.bytes = self.copied.bytes.saturating_add(bytes);
        Ok(())
    }

    fn content(&mut self, mut source: File, mut target: &File) -> Result<(), Failure> {
        if self.shares && share(&source, target).is_ok() {
            return Ok(());
        }
        self.shares = false;
        let copied = std::io::copy(&mut source, &mut target);
        copied
            .map(drop)
            .map_err(|error| Failure::System(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }
}

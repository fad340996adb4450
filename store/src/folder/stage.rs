//! New files that come to their places together: written beside, synced, and then renamed.
//!
//! **Invariant:** until [`Stage::finish`] the folder can be made again what it was, and is where the stage is dropped;
//! a file that somebody else makes or changes meanwhile is never replaced.
//!
//! **Invariant:** however many files there are, a few descriptors are open.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use baton_protocol::path::RelPath;
use rustix::fs::{AtFlags, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::{Folder, FolderError};
use crate::checkout::remove::remove_contents;
use crate::error::StoreError;
use crate::fs::{Context, FsError};
use crate::scan::directory::{open_below, open_in};

/// What became of a file that was to be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placed {
    /// It is there.
    Done,
    /// Something else is there, or came there, and stays.
    Occupied,
}

/// Files on their way into a folder.
#[derive(Debug)]
pub struct Stage<'a> {
    folder: &'a Folder,
    fd: OwnedFd,
    name: String,
    /// How many files were made.
    count: usize,
    placed: Vec<Step>,
    is_finished: bool,
}

/// A file as it was when it was looked at; another one has another, also where it has its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    id: (u64, u64),
    modified: (i64, i64),
    length: u64,
}

impl Seen {
    /// An open file, of which so many bytes were looked at.
    pub fn new(file: &File, length: u64) -> std::io::Result<Self> {
        let stat = rustix::fs::fstat(file)?;
        Ok(Self { length, ..Self::of(&stat) })
    }

    #[allow(clippy::useless_conversion, reason = "the types of these differ between systems")]
    fn of(stat: &Stat) -> Self {
        Self {
            id: id_of(stat),
            modified: (
                i64::from(stat.st_mtime),
                i64::try_from(stat.st_mtime_nsec).unwrap_or_default(),
            ),
            length: u64::try_from(stat.st_size).unwrap_or_default(),
        }
    }
}

#[allow(clippy::useless_conversion, reason = "the types of these differ between systems")]
fn id_of(stat: &Stat) -> (u64, u64) {
    (u64::try_from(stat.st_dev).unwrap_or_default(), u64::from(stat.st_ino))
}

#[derive(Debug)]
struct Step {
    /// Below the folder.
    directory: Vec<u8>,
    /// Which that was.
    id: (u64, u64),
    name: Vec<u8>,
    /// The number of what was taken out for it; nothing where nothing was.
    replaced: Option<String>,
}

impl Folder {
    /// Makes a place in the folder for files on their way into it.
    pub fn stage(&self) -> Result<Stage<'_>, FolderError> {
        let mut random = [0; 8];
        getrandom::fill(&mut random).map_err(|_| FsError {
            action: "drawing a name in",
            path: self.path.clone(),
            source: std::io::Error::other(StoreError::Random),
        })?;
        let name = format!(".baton-{:016x}", u64::from_ne_bytes(random));
        let path = self.path.join(&name);
        rustix::fs::mkdirat(&self.fd, &name, Mode::RWXU).context("creating", &path)?;
        let fd = open_in(self.fd.as_fd(), name.as_bytes()).context("opening", &path)?;
        Ok(Stage { folder: self, fd, name, count: 0, placed: Vec::new(), is_finished: false })
    }
}

impl Stage<'_> {
    /// Makes a file to be written, for its owner only; it is known by the number.
    pub fn create(&mut self) -> Result<(usize, File), FolderError> {
        let number = self.count;
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let made = rustix::fs::openat(&self.fd, number.to_string(), flags, mode);
        let file = File::from(made.context("creating a file in", &self.path())?);
        self.count += 1;
        Ok((number, file))
    }

    /// Puts a file to a place at which nothing is, and makes the directories on the way.
    pub fn place(&mut self, number: usize, at: &RelPath) -> Result<Placed, FolderError> {
        let (directory, name) = self.directory(at)?;
        let path = self.folder.path_of(at);
        let mut step = step(&directory, at, None).context("looking at the directory of", &path)?;
        match self.link(number, &directory, &name) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(Placed::Occupied),
            Err(error) => return Err(error).context("creating", &path)?,
        }
        step.name = name;
        self.placed.push(step);
        Ok(Placed::Done)
    }

    /// Puts a file to the place of one that was looked at, if that is still as it was. Where files cannot be exchanged in
    /// one step, nothing is replaced.
    pub fn replace(
        &mut self,
        number: usize,
        at: &RelPath,
        seen: Seen,
    ) -> Result<Placed, FolderError> {
        let (directory, name) = self.directory(at)?;
        let path = self.folder.path_of(at);
        let number = number.to_string();
        let step = step(&directory, at, Some(number.clone()));
        let step = step.context("looking at the directory of", &path)?;
        if !exchange(&self.fd, &number, &directory, &name).context("replacing", &path)? {
            return Ok(Placed::Occupied);
        }
        let out = rustix::fs::statat(&self.fd, number.as_str(), AtFlags::SYMLINK_NOFOLLOW)
            .context("looking at", &path)?;
        if Seen::of(&out) != seen {
            exchange(&self.fd, &number, &directory, &name).context("putting back", &path)?;
            return Ok(Placed::Occupied);
        }
        self.placed.push(Step { name, ..step });
        Ok(Placed::Done)
    }

    /// Makes what was placed durable; from here on it stays.
    pub fn finish(mut self) -> Result<(), FolderError> {
        let directories: BTreeSet<_> =
            self.placed.iter().map(|step| (&step.directory, step.id)).collect();
        for (directory, id) in directories {
            let synced = self.open(directory, id).and_then(rustix::fs::fsync);
            synced.context("syncing", &self.folder.path)?;
        }
        self.is_finished = true;
        Ok(())
    }

    fn path(&self) -> PathBuf {
        self.folder.path.join(&self.name)
    }

    /// A name at a place for which there is no file of that name. A file system without the one way has the other.
    fn link(&self, number: usize, directory: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
        let number = number.to_string();
        #[cfg(target_os = "linux")]
        {
            let flags = rustix::fs::RenameFlags::NOREPLACE;
            match rustix::fs::renameat_with(&self.fd, number.as_str(), directory, name, flags) {
                Err(Errno::INVAL | Errno::NOSYS) => {}
                done => return done,
            }
        }
        rustix::fs::linkat(&self.fd, number.as_str(), directory, name, AtFlags::empty())?;
        rustix::fs::unlinkat(&self.fd, number.as_str(), AtFlags::empty())
    }

    /// Opens the directory of a place, and makes it and those above it where they are missing.
    fn directory(&self, at: &RelPath) -> Result<(OwnedFd, Vec<u8>), FolderError> {
        let path = self.folder.path_of(at);
        let Some((above, name)) = at.split_last() else {
            return Err(FolderError::NotRegular { path });
        };
        let failed = |error| match error {
            Errno::LOOP | Errno::NOTDIR => FolderError::NotDirectory { path: path.clone() },
            error => FsError {
                action: "making the directory of",
                path: path.clone(),
                source: error.into(),
            }
            .into(),
        };
        let mut directory = open_below(self.folder.fd.as_fd(), b"").map_err(failed)?;
        for part in above.split(|&byte| byte == b'/').filter(|part| !part.is_empty()) {
            match rustix::fs::mkdirat(&directory, part, Mode::RWXU) {
                Ok(()) => rustix::fs::fsync(&directory).map_err(failed)?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
            directory = open_in(directory.as_fd(), part).map_err(failed)?;
        }
        Ok((directory, name.to_vec()))
    }

    fn take_back(&self) -> Result<(), Errno> {
        for step in self.placed.iter().rev() {
            let directory = self.open(&step.directory, step.id)?;
            match &step.replaced {
                Some(number) => {
                    exchange(&self.fd, number, &directory, &step.name)?;
                }
                None => rustix::fs::unlinkat(&directory, &step.name, AtFlags::empty())?,
            }
        }
        Ok(())
    }

    /// Opens a directory again, if it is still that one.
    fn open(&self, directory: &[u8], id: (u64, u64)) -> Result<OwnedFd, Errno> {
        let opened = open_below(self.folder.fd.as_fd(), directory)?;
        let found = id_of(&rustix::fs::fstat(&opened)?);
        if found == id { Ok(opened) } else { Err(Errno::STALE) }
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(error) = self.take_back()
        {
            tracing::warn!(%error, folder = %self.folder.path.display(), "files were not taken back");
            // What was taken out for them is still there.
            return;
        }
        let removed = remove_contents(self.fd.as_fd())
            .and_then(|()| rustix::fs::unlinkat(&self.folder.fd, &self.name, AtFlags::REMOVEDIR));
        if let Err(error) = removed {
            tracing::warn!(%error, path = %self.path().display(), "a folder was left behind");
        }
    }
}

/// What is noted of a file that comes into a directory.
fn step(directory: &OwnedFd, at: &RelPath, replaced: Option<String>) -> Result<Step, Errno> {
    let (above, _) = at.split_last().unwrap_or_default();
    let id = id_of(&rustix::fs::fstat(directory)?);
    Ok(Step { directory: above.to_vec(), id, name: Vec::new(), replaced })
}

/// Exchanges two files in one step; false where that cannot be.
#[cfg(target_os = "linux")]
fn exchange(stage: &OwnedFd, number: &str, to: &OwnedFd, name: &[u8]) -> Result<bool, Errno> {
    let flags = rustix::fs::RenameFlags::EXCHANGE;
    match rustix::fs::renameat_with(stage, number, to, name, flags) {
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOENT) => Ok(false),
        done => done.map(|()| true),
    }
}

#[cfg(not(target_os = "linux"))]
fn exchange(_stage: &OwnedFd, _number: &str, _to: &OwnedFd, _name: &[u8]) -> Result<bool, Errno> {
    Ok(false)
}

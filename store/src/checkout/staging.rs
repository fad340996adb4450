//! Where a restore is built, and how it gets to its place.
//!
//! Beside the target, in `.NAME.baton-XXXXXXXX`, and renamed over it when it is whole. Where that
//! cannot be (the target is a mount point, or the directory above may not be written to) in a folder
//! inside the target, from where the entries are moved up at the end.
//!
//! **Invariant:** what was not committed is taken away, and nothing else is; what others put into the
//! target meanwhile stays there, and the restore fails.

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::RestoreError;
use super::remove::remove_contents;
use crate::error::StoreError;
use crate::fs::{Context, FsError};
use crate::scan::directory::{list, open_in};

/// Bytes of the target's name in that of the staging folder, so that it fits a name.
const NAME_KEPT: usize = 200;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory whose content becomes the target's, or is taken away.
#[derive(Debug)]
pub(super) struct Staging {
    directory: OwnedFd,
    /// What the folder is in, and its name there.
    above: OwnedFd,
    name: OsString,
    target: PathBuf,
    place: Place,
    is_committed: bool,
}

#[derive(Debug)]
enum Place {
    /// Beside the target, which has this name.
    Beside { target: OsString, replaces: bool },
    /// In the target.
    Inside,
}

impl Staging {
    /// Opens a directory to build in; `inside` the target, or beside it where that can be.
    pub(super) fn open(into: &Path, inside: bool) -> Result<Self, RestoreError> {
        let (target, replaces) = match std::fs::metadata(into) {
            Ok(metadata) if metadata.is_dir() => {
                (into.canonicalize().context("resolving", into)?, true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound && !is_link(into) => {
                (into.to_owned(), false)
            }
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(FsError { action: "opening", path: into.to_owned(), source: error })?;
            }
            _ => return Err(RestoreError::NotDirectory { path: into.to_owned() }),
        };
        if replaces {
            let fd =
                rustix::fs::open(&target, DIRECTORY, Mode::empty()).context("opening", &target)?;
            if !list(fd.as_fd()).context("listing", &target)?.is_empty() {
                return Err(RestoreError::NotEmpty { path: into.to_owned() });
            }
            if inside || is_mount_point(&target) {
                return Self::make(fd, &target, ".baton", target.clone(), Place::Inside);
            }
        }
        match Self::open_beside(&target, replaces) {
            Err(RestoreError::Fs(error)) if replaces && cannot_build_beside(&error) => {
                tracing::info!(path = %target.display(), "building the restore in its place");
                Self::open(into, true)
            }
            opened => opened,
        }
    }

    fn open_beside(target: &Path, replaces: bool) -> Result<Self, RestoreError> {
        let not_directory = || RestoreError::NotDirectory { path: target.to_owned() };
        let name = target.file_name().ok_or_else(not_directory)?.to_owned();
        let above_path = match target.parent() {
            Some(path) if !path.as_os_str().is_empty() => path,
            _ => Path::new("."),
        };
        let above = rustix::fs::open(above_path, DIRECTORY, Mode::empty())
            .context("opening", above_path)?;
        let kept = name.as_bytes();
        let mut prefix = OsString::from(".");
        prefix.push(OsStr::from_bytes(kept.get(..NAME_KEPT).unwrap_or(kept)));
        prefix.push(".baton");
        let place = Place::Beside { target: name, replaces };
        Self::make(above, above_path, prefix, target.to_owned(), place)
    }

    /// Makes a folder of a name that nobody else has.
    fn make(
        above: OwnedFd,
        above_path: &Path,
        prefix: impl Into<OsString>,
        target: PathBuf,
        place: Place,
    ) -> Result<Self, RestoreError> {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|_| StoreError::Random)?;
        let mut name = prefix.into();
        name.push(format!("-{:08x}", u32::from_ne_bytes(random)));
        let path = above_path.join(&name);
        rustix::fs::mkdirat(&above, &name, Mode::RWXU).context("creating", &path)?;
        let directory = open_in(above.as_fd(), name.as_bytes()).context("opening", &path)?;
        // Without the bit that a folder may have handed down: below it every mode comes out alike.
        rustix::fs::fchmod(&directory, Mode::RWXU).context("creating", &path)?;
        Ok(Self { directory, above, name, target, place, is_committed: false })
    }

    /// The directory to build in.
    pub(super) fn directory(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Where that is.
    pub(super) fn path(&self) -> PathBuf {
        let above = match &self.place {
            Place::Inside => self.target.as_path(),
            Place::Beside { .. } => self.target.parent().unwrap_or(Path::new("")),
        };
        above.join(&self.name)
    }

    /// Puts what was built in its place; false where only building inside the target will do.
    pub(super) fn commit(&mut self) -> Result<bool, RestoreError> {
        let (done, inside) = match &self.place {
            Place::Beside { target, replaces } => (self.rename(target, *replaces), !*replaces),
            Place::Inside => (self.move_up(), true),
        };
        match done {
            Ok(()) => {}
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {
                return Err(RestoreError::NotEmpty { path: self.target.clone() });
            }
            Err(Errno::BUSY | Errno::XDEV) if !inside => return Ok(false),
            Err(error) => return Err(error).context("renaming to", &self.target)?,
        }
        self.is_committed = true;
        Ok(true)
    }

    /// Renames the folder over the target. An empty directory is replaced, where that is what was
    /// found; nothing else is.
    fn rename(&self, target: &OsStr, replaces: bool) -> Result<(), Errno> {
        if replaces {
            rustix::fs::renameat(&self.above, &self.name, &self.above, target)
        } else {
            rename_new(self.above.as_fd(), self.name.as_bytes(), self.above.as_fd(), target)
        }
    }

    /// Moves the entries of the folder into the target around it, or none of them.
    fn move_up(&self) -> Result<(), Errno> {
        let mode = mode_of(self.directory.as_fd())?;
        // The mode of the root may be one that lets nobody move anything out of it.
        rustix::fs::fchmod(&self.directory, Mode::RWXU)?;
        let entries = list(self.directory.as_fd())?;
        let others = list(self.above.as_fd())?;
        if others.iter().any(|(name, _)| name != self.name.as_bytes()) {
            return Err(Errno::NOTEMPTY);
        }
        for (at, (name, _)) in entries.iter().enumerate() {
            let moved = move_entry(self.directory.as_fd(), name, self.above.as_fd());
            if let Err(error) = moved {
                for (name, _) in entries.iter().take(at) {
                    move_entry(self.above.as_fd(), name, self.directory.as_fd())?;
                }
                return Err(error);
            }
        }
        rustix::fs::unlinkat(&self.above, &self.name, AtFlags::REMOVEDIR)?;
        rustix::fs::fchmod(&self.above, mode)
    }
}

/// Moves an entry; a directory that may not be written to cannot be moved without that right.
fn move_entry(from: BorrowedFd<'_>, name: &[u8], to: BorrowedFd<'_>) -> Result<(), Errno> {
    match rename_new(from, name, to, OsStr::from_bytes(name)) {
        Err(Errno::ACCESS) => {}
        done => return done,
    }
    let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::ACCESS);
    }
    rustix::fs::chmodat(from, name, Mode::RWXU, AtFlags::empty())?;
    let directory = open_in(from, name)?;
    let moved = rename_new(from, name, to, OsStr::from_bytes(name));
    rustix::fs::fchmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    moved
}

/// Renames to a name that nothing has.
fn rename_new(
    from: BorrowedFd<'_>,
    name: &[u8],
    to: BorrowedFd<'_>,
    new: &OsStr,
) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(from, name, to, new, flags) {
            // Not on this file system.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            done => return done,
        }
    }
    match rustix::fs::statat(to, new, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => rustix::fs::renameat(from, name, to, new),
        Ok(_) => Err(Errno::EXIST),
        Err(error) => Err(error),
    }
}

fn mode_of(fd: BorrowedFd<'_>) -> Result<Mode, Errno> {
    Ok(Mode::from_raw_mode(rustix::fs::fstat(fd)?.st_mode & 0o777))
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.is_committed {
            return;
        }
        let removed = rustix::fs::fchmod(&self.directory, Mode::RWXU)
            .and_then(|()| remove_contents(self.directory.as_fd()))
            .and_then(|()| rustix::fs::unlinkat(&self.above, &self.name, AtFlags::REMOVEDIR));
        if let Err(error) = removed {
            tracing::warn!(%error, target = %self.target.display(), "a failed restore left files");
        }
    }
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok()
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| std::fs::metadata(path).map(|metadata| metadata.dev()).ok();
    path.parent().is_none_or(|above| device(above) != device(path))
}

fn cannot_build_beside(error: &FsError) -> bool {
    matches!(error.source.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem)
}

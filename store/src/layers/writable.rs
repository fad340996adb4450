//! What a run changed: what is in its writable layer.
//!
//! A character device with the number 0 stands for a name that is gone; a directory that hides the one below it, or
//! shows another one, says so in an attribute.
//!
//! **Invariant:** every name that is seen otherwise than through the lower layers alone is dirty.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use baton_protocol::object::{Omission, OmitReason, Snapshot};
use baton_protocol::path::{MAX_PATH, RelPath};
use rustix::fs::{Access, AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::LayerError;
use super::overlay::Marks;
use crate::fs::{Context, FsError};
use crate::git;
use crate::objects::ObjectSource;
use crate::scan::directory::{join, list, open_below, open_in};
use crate::scan::dirty::{Depth, Dirty, MAX_DIRECTORIES};
use crate::snapshot::load_omissions;

/// Finds out what differs from the lower layers. Nobody may write meanwhile, or look again after it.
pub fn changed(upper: &Path, marks: Marks) -> Result<Dirty, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty()).context("opening", upper)?;
    let mut dirty = Dirty::default();
    let mut left = vec![Vec::new()];
    while let Some(path) = left.pop() {
        let directory = open_below(root.as_fd(), &path).context("opening", upper)?;
        let inner = look_in(&path, &directory, marks, &mut dirty).context("reading", upper)?;
        if dirty.is_everything() {
            break;
        }
        // What is deeper than a tree may be is carried by none: its names need not be known.
        let inner = inner.iter().map(|name| join(&path, name));
        left.extend(inner.filter(|path| path.len() <= MAX_PATH));
        if left.len() > MAX_DIRECTORIES {
            dirty.set_everything();
            break;
        }
    }
    Ok(dirty)
}

/// Whether a directory has a new name in a writable layer, so that what it shows is found below another one. Where that
/// would take long to find out, it may have.
pub fn has_moved(upper: &Path, marks: Marks) -> Result<bool, FsError> {
    if !marks.rename() {
        return Ok(false);
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(upper, flags, Mode::empty()).context("opening", upper)?;
    let mut left = vec![Vec::new()];
    while let Some(path) = left.pop() {
        let directory = open_below(root.as_fd(), &path).context("opening", upper)?;
        if has_attribute(&directory, marks.redirect()).context("reading", upper)? {
            return Ok(true);
        }
        for (name, kind) in list(directory.as_fd()).context("reading", upper)? {
            if kind == FileType::Directory {
                left.push(join(&path, &name));
            }
        }
        if left.len() > MAX_DIRECTORIES || left.last().is_some_and(|path| path.len() > MAX_PATH) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a scan of a snapshot's checkout leaves out: what the snapshot says, and the repositories, which it has otherwise.
pub fn left_out<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: &Snapshot,
) -> Result<Vec<Omission>, LayerError> {
    let mut omitted = load_omissions(objects, snapshot)?;
    let worktrees = snapshot.git.map(|state| git::worktrees(objects, state)).transpose()?;
    for mut path in worktrees.unwrap_or_default() {
        path.extend_from_slice(if path.is_empty() { b".git" } else { b"/.git" });
        let path = RelPath::new(&path).ok();
        omitted.extend(path.map(|path| Omission { path, reason: OmitReason::GitMetadata }));
    }
    omitted.sort_unstable();
    omitted.dedup();
    Ok(omitted)
}

/// Marks what is in a directory; returns those in it that show what is below them too.
fn look_in(
    path: &[u8],
    directory: &OwnedFd,
    marks: Marks,
    dirty: &mut Dirty,
) -> Result<Vec<Vec<u8>>, Errno> {
    let mut inner = Vec::new();
    for (name, kind) in list(directory.as_fd())? {
        let is_git = name == b".git";
        if is_git && !path.is_empty() {
            // A repository inside has rules of its own.
            dirty.walk(path);
        }
        let stat = match kind {
            FileType::Directory => None,
            _ => Some(rustix::fs::statat(directory, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?),
        };
        let is_directory =
            stat.is_none_or(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory);
        let shows = is_directory && shows(directory, &name, marks)?;
        match (is_git, shows) {
            // What changed in it decides about files, which is found out by comparing it; of those inside nobody does.
            (true, true) => {
                let git = open_in(directory.as_fd(), &name)?;
                if path.is_empty()
                    && rustix::fs::statat(&git, "modules", AtFlags::SYMLINK_NOFOLLOW).is_ok()
                {
                    dirty.set_everything();
                }
            }
            (true, false) if path.is_empty() => dirty.set_everything(),
            (true, false) => {}
            (false, true) => {
                dirty.name(path, &name, Depth::Look);
                inner.push(name);
            }
            // Many files of one folder are not named one by one: then all in it are looked at.
            (false, false) if !is_directory => dirty.name(path, &name, Depth::Look),
            (false, false) => dirty.name(path, &name, Depth::Walk),
        }
    }
    Ok(inner)
}

/// Whether what is below a directory is seen through it, as far as can be said. One that keeps its owner out is looked at as
/// a whole: what can be read of it is found then.
fn shows(above: &OwnedFd, name: &[u8], marks: Marks) -> Result<bool, Errno> {
    let opened = open_in(above.as_fd(), name).and_then(|directory| {
        // One may be opened without its entries being of use to anybody.
        rustix::fs::accessat(&directory, ".", Access::EXEC_OK, AtFlags::EACCESS)?;
        Ok(directory)
    });
    match opened {
        Err(Errno::ACCESS) => Ok(false),
        opened => Ok(!hides(&opened?, marks)?),
    }
}

/// Whether a directory does not show what is below its own name.
pub(crate) fn hides(directory: &OwnedFd, marks: Marks) -> Result<bool, Errno> {
    Ok(has_attribute(directory, marks.opaque())? || has_attribute(directory, marks.redirect())?)
}

fn has_attribute(directory: &OwnedFd, name: &str) -> Result<bool, Errno> {
    match rustix::fs::fgetxattr(directory, name, &mut [0u8; 1]) {
        // Longer than one byte, too.
        Ok(_) | Err(Errno::RANGE) => Ok(true),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

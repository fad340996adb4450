//! Taking away a directory that a restore has made, however deep.
//!
//! Directories below are moved up to the top before they are emptied, so that two descriptors are
//! enough and no path is long.
//!
//! **Invariant:** only for directories that Baton made and nobody else has seen. No link is followed.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::{Context, FsError};
use crate::scan::directory::{list, open_in};

/// Rounds over the top directory; each takes away one level.
const ROUNDS: usize = 2 * baton_protocol::path::MAX_DEPTH;

/// Takes a folder away, however deep and whatever the modes in it; nothing where there is none.
pub fn remove_made(folder: &Path) -> Result<(), FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(folder, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.context("opening", folder)?,
    };
    remove_contents(opened.as_fd()).context("emptying", folder)?;
    rustix::fs::rmdir(folder).context("removing", folder)
}

/// Empties a directory.
pub(crate) fn remove_contents(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut moved = 0u64;
    for _ in 0..ROUNDS {
        let entries = list(top)?;
        if entries.is_empty() {
            return Ok(());
        }
        for (name, kind) in entries {
            if !is_directory(top, &name, kind)? {
                rustix::fs::unlinkat(top, name.as_slice(), AtFlags::empty())?;
                continue;
            }
            // Its mode may be set already, to one that keeps even its owner out.
            rustix::fs::chmodat(top, name.as_slice(), Mode::RWXU, AtFlags::empty())?;
            let directory = open_in(top, &name)?;
            for (child, kind) in list(directory.as_fd())? {
                let is_directory = is_directory(directory.as_fd(), &child, kind)?;
                let child = child.as_slice();
                if is_directory {
                    // Moving changes its `..`, which takes the right to write to it.
                    rustix::fs::chmodat(&directory, child, Mode::RWXU, AtFlags::empty())?;
                    move_up(directory.as_fd(), child, top, &mut moved)?;
                } else {
                    rustix::fs::unlinkat(&directory, child, AtFlags::empty())?;
                }
            }
            rustix::fs::unlinkat(top, name.as_slice(), AtFlags::REMOVEDIR)?;
        }
    }
    Err(Errno::NOTEMPTY)
}

/// Some file systems do not say in a listing what an entry is.
fn is_directory(above: BorrowedFd<'_>, name: &[u8], kind: FileType) -> Result<bool, Errno> {
    if kind != FileType::Unknown {
        return Ok(kind == FileType::Directory);
    }
    let stat = rustix::fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// Moves a directory to the top, under a name that is free there.
fn move_up(
    from: BorrowedFd<'_>,
    name: &[u8],
    top: BorrowedFd<'_>,
    moved: &mut u64,
) -> Result<(), Errno> {
    loop {
        *moved += 1;
        match rustix::fs::renameat(from, name, top, format!(".baton-removed-{moved}")) {
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            done => return done,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;

    #[test]
    fn a_tree_deeper_than_any_path_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        crate::fs::create_new(&outside.path().join("stays")).unwrap();
        let top: OwnedFd = crate::fs::open(dir.path()).unwrap().into();
        let mut fd = top.try_clone().unwrap();
        for _ in 0..500 {
            rustix::fs::mkdirat(&fd, "long-name", Mode::RWXU).unwrap();
            rustix::fs::symlinkat(outside.path(), &fd, "link").unwrap();
            fd = open_in(fd.as_fd(), b"long-name").unwrap();
        }
        rustix::fs::fchmod(&fd, Mode::empty()).unwrap();
        remove_contents(top.as_fd()).unwrap();
        assert!(list(top.as_fd()).unwrap().is_empty());
        assert!(outside.path().join("stays").exists());
    }
}

//! Taking away a directory that a restore has made, however deep.
//!
//! Directories below are moved up to the top before they are emptied, so that two descriptors are
//! enough and no path is long.
//!
//! **Invariant:** only for directories that Baton made and nobody else has seen. No link is followed.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::{Context, FsError};
use crate::scan::directory::{list, open_in};

/// Rounds over the top directory; each takes away one level.
const ROUNDS: usize = 2 * baton_protocol::path::MAX_DEPTH;

/// Takes a folder away, whatever the modes in it; nothing where there is none.
pub fn remove_made(folder: &Path) -> Result<(), FsError> {
    remove_until(folder, &AtomicBool::new(false))
}

fn remove_until(folder: &Path, stop: &AtomicBool) -> Result<(), FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = match rustix::fs::open(folder, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return crate::fs::remove_file(folder),
        opened => opened.context("opening", folder)?,
    };
    // Whoever made it may have gone as deep as the disk is large, but each round ends nearer to the bottom.
    while !empty(opened.as_fd(), stop).context("emptying", folder)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    rustix::fs::rmdir(folder).context("removing", folder)
}

/// Moves a file or folder into a folder of the same file system, where it gets a name that begins with `prefix` and that
/// nothing has; nothing where there is none. It takes no time, whatever is in it.
pub fn put_aside(path: &Path, folder: &Path, prefix: &str) -> Result<(), FsError> {
    let mut number = 0u64;
    loop {
        let aside = folder.join(format!("{prefix}{number}"));
        number += 1;
        if aside.symlink_metadata().is_ok() {
            continue;
        }
        match crate::fs::rename_unsynced(path, &aside) {
            Err(error) if error.is_not_found() && path.symlink_metadata().is_err() => return Ok(()),
            // Another one has taken the name meanwhile.
            Err(_) if aside.symlink_metadata().is_ok() => {}
            moved => return moved,
        }
    }
}

/// Takes away what was put aside into a folder, until it is told to `stop`. What cannot be taken away stays, and the first
/// such is the error.
pub fn sweep(folder: &Path, prefix: &str, stop: &AtomicBool) -> Result<(), FsError> {
    let names = crate::fs::list_dir(folder)?.into_iter();
    let aside = names.filter(|name| name.as_bytes().starts_with(prefix.as_bytes()));
    let mut swept = Ok(());
    for name in aside {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        swept = swept.and(remove_until(&folder.join(name), stop));
    }
    swept
}

/// Empties a directory.
pub(crate) fn remove_contents(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let stop = AtomicBool::new(false);
    for _ in 0..ROUNDS {
        if empty(top, &stop)? {
            return Ok(());
        }
    }
    Err(Errno::NOTEMPTY)
}

/// One round; says whether nothing is left.
fn empty(top: BorrowedFd<'_>, stop: &AtomicBool) -> Result<bool, Errno> {
    let mut moved = 0u64;
    let entries = list(top)?;
    let is_empty = entries.is_empty();
    for (name, kind) in entries {
        if stop.load(Ordering::Relaxed) {
            break;
        }
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
    Ok(is_empty)
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

    #[test]
    fn what_was_put_aside_goes_however_deep_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let (made, aside) = (dir.path().join("made"), dir.path().join("aside"));
        crate::fs::create_dir_all(&aside).unwrap();
        for _ in 0..2 {
            crate::fs::create_dir_all(&made).unwrap();
            let mut fd: OwnedFd = crate::fs::open(&made).unwrap().into();
            // Deeper than any tree that a snapshot has.
            for _ in 0..ROUNDS + 100 {
                rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
                fd = open_in(fd.as_fd(), b"d").unwrap();
            }
            put_aside(&made, &aside, "gone-").unwrap();
        }
        put_aside(&made, &aside, "gone-").unwrap();
        crate::fs::create_new(&made).unwrap();
        put_aside(&made, &aside, "gone-").unwrap();
        crate::fs::create_new(&aside.join("else")).unwrap();
        let names = crate::fs::list_dir(&aside).unwrap();
        assert_eq!(names, ["else", "gone-0", "gone-1", "gone-2"]);
        sweep(&aside, "gone-", &AtomicBool::new(true)).unwrap();
        assert_eq!(crate::fs::list_dir(&aside).unwrap(), names);
        sweep(&aside, "gone-", &AtomicBool::new(false)).unwrap();
        assert_eq!(crate::fs::list_dir(&aside).unwrap(), ["else"]);
    }
}

//! What of a folder is not the snapshot's: the rest of it is taken away.
//!
//! The folder is a checkout in which a program has run, or the writable layer of one.
//!
//! **Invariant:** what is left hides nothing: no marks of an overlay, no special files, no file or repository that the
//! snapshot has.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use baton_protocol::id::TreeId;
use rustix::fs::{AtFlags, FileType, Mode};
use rustix::io::Errno;

use super::{
    AdditionsError, Failure, borrowed, check_level, entries, of_snapshot, open_top, tree_of,
};
use crate::checkout::remove::remove_contents;
use crate::layers::overlay::Marks;
use crate::objects::ObjectSource;
use crate::scan::directory::open_in;

/// Marks of an overlay on a folder, which would hide what is below it.
const MARKS: [&str; 4] = [
    Marks::Trusted.opaque(),
    Marks::Trusted.redirect(),
    Marks::User.opaque(),
    Marks::User.redirect(),
];

/// How much was left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    /// Files and links.
    pub files: u64,
    /// Bytes of the files, one of several names for each of them.
    pub bytes: u64,
}

/// Takes away what is not beside the files of a snapshot: what it has itself, however that was changed, and what
/// says that something of it is gone. With no snapshot all is beside it.
pub fn keep_additions<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: Option<TreeId>,
    folder: &Path,
) -> Result<Kept, AdditionsError> {
    let top = open_top(folder)?;
    let mut keeping = Keeping { objects, kept: Kept::default() };
    let done = keeping.directory(&top, snapshot, 0);
    done.map(|_| keeping.kept).map_err(|failure| failure.at("looking through", folder))
}

struct Keeping<'a, S: ?Sized> {
    objects: &'a S,
    kept: Kept,
}

impl<S: ObjectSource + ?Sized> Keeping<'_, S> {
    /// Says whether anything is left in a folder.
    fn directory(
        &mut self,
        folder: &OwnedFd,
        snapshot: Option<TreeId>,
        level: usize,
    ) -> Result<bool, Failure> {
        check_level(level)?;
        show(folder)?;
        let fd = borrowed(folder);
        let names = entries(fd)?;
        let of_snapshot = of_snapshot(self.objects, snapshot, &names)?;
        let mut is_left = false;
        for (name, kind) in names {
            let known = of_snapshot.get(&name);
            // The repository of a folder of the snapshot is the snapshot's, though it is not in its tree.
            let is_repository = snapshot.is_some() && name == b".git";
            match kind {
                FileType::Directory if is_repository => take_away(fd, &name)?,
                FileType::Directory if known.is_some() && tree_of(known).is_none() => {
                    take_away(fd, &name)?;
                }
                FileType::Directory => {
                    let inner = open_even_closed(fd, &name)?;
                    let tree = tree_of(known);
                    if self.directory(&inner, tree, level + 1)? || tree.is_none() {
                        is_left = true;
                    } else {
                        rustix::fs::unlinkat(fd, name.as_slice(), AtFlags::REMOVEDIR)?;
                    }
                }
                FileType::RegularFile | FileType::Symlink if known.is_none() && !is_repository => {
                    let stat = rustix::fs::statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
                    self.kept.files = self.kept.files.saturating_add(1);
                    if kind == FileType::RegularFile {
                        let bytes = u64::try_from(stat.st_size).unwrap_or_default();
                        self.kept.bytes = self.kept.bytes.saturating_add(bytes);
                    }
                    is_left = true;
                }
                _ => rustix::fs::unlinkat(fd, name.as_slice(), AtFlags::empty())?,
            }
        }
        Ok(is_left)
    }
}

/// Opens a folder of which even the owner may have been kept out.
fn open_even_closed(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    match open_in(above, name) {
        Err(Errno::ACCESS) => {
            rustix::fs::chmodat(above, name, Mode::RWXU, AtFlags::empty())?;
            open_in(above, name)
        }
        opened => opened,
    }
}

/// Takes the marks off a folder by which it would hide another one.
fn show(folder: &OwnedFd) -> Result<(), Errno> {
    for mark in MARKS {
        match remove_mark(folder, mark) {
            // Not there; or a file system that has none, or a user who cannot have made one.
            Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM) => {}
            // Even the owner needs the right to write; a mark that is there must not stay.
            Err(Errno::ACCESS) => {
                if !matches!(
                    rustix::fs::fgetxattr(folder, mark, &mut [0u8; 1]),
                    Err(Errno::NODATA | Errno::OPNOTSUPP)
                ) {
                    let mode = Mode::from_raw_mode(rustix::fs::fstat(folder)?.st_mode & 0o777);
                    rustix::fs::fchmod(folder, mode | Mode::RWXU)?;
                    let removed = remove_mark(folder, mark);
                    rustix::fs::fchmod(folder, mode)?;
                    removed?;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(target_os = "linux")]
fn remove_mark(folder: &OwnedFd, mark: &str) -> Result<(), Errno> {
    rustix::fs::fremovexattr(folder, mark)
}

#[cfg(not(target_os = "linux"))]
fn remove_mark(_folder: &OwnedFd, _mark: &str) -> Result<(), Errno> {
    Ok(())
}

/// Takes a folder away with all that is in it.
fn take_away(above: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::chmodat(above, name, Mode::RWXU, AtFlags::empty())?;
    let folder = open_in(above, name)?;
    remove_contents(borrowed(&folder))?;
    rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)
}

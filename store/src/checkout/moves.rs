//! Moves between a checkout and the folder beside it.
//!
//! **Invariant:** no move replaces anything: two names change places, or the new one was free.

use std::ffi::OsStr;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use baton_protocol::path::RelPath;
use rustix::io::Errno;

use super::staging::{NAME_KEPT, rename_new};

/// Lets a file beside the checkout and one in it change places.
pub(super) fn swap(
    staging: BorrowedFd<'_>,
    number: &[u8],
    directory: BorrowedFd<'_>,
    name: &[u8],
) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    {
        let flags = rustix::fs::RenameFlags::EXCHANGE;
        match rustix::fs::renameat_with(staging, number, directory, name, flags) {
            // Not on this file system.
            Err(Errno::INVAL | Errno::NOSYS) => {}
            done => return done,
        }
    }
    let between = [number, b"-between"].concat();
    rename_new(directory, name, staging, as_name(&between))?;
    if let Err(error) = rename_new(staging, number, directory, as_name(name)) {
        rename_new(staging, &between, directory, as_name(name))?;
        return Err(error);
    }
    rename_new(staging, &between, staging, as_name(number))
}

/// Gives back what was taken out, under another name where its own is taken by now.
pub(super) fn put_back(
    staging: BorrowedFd<'_>,
    out: &[u8],
    directory: BorrowedFd<'_>,
    path: &RelPath,
) -> Result<(), Errno> {
    let back = |name: &[u8]| rename_new(staging, out, directory, as_name(name));
    match back(split(path).1) {
        Err(Errno::EXIST) => beside(path, back).map(drop),
        done => done,
    }
}

/// Makes something under a free name beside a path, and returns its own.
pub(super) fn beside(
    path: &RelPath,
    make: impl Fn(&[u8]) -> Result<(), Errno>,
) -> Result<RelPath, Errno> {
    let (above, name) = split(path);
    let kept = name.get(..NAME_KEPT).unwrap_or(name);
    loop {
        let mut random = [0; 4];
        getrandom::fill(&mut random).map_err(|_| Errno::IO)?;
        let name = [kept, format!(".baton-{:08x}", u32::from_ne_bytes(random)).as_bytes()].concat();
        match make(&name) {
            Ok(()) => {
                let above = RelPath::new(above).map_err(|_| Errno::NAMETOOLONG)?;
                return Ok(above.join(&name));
            }
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The path of the directory that an entry is in, and its name.
pub(super) fn split(path: &RelPath) -> (&[u8], &[u8]) {
    path.split_last().unwrap_or_default()
}

pub(super) fn as_name(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

//! Directories by descriptor: opened one name at a time from a root that stays open.
//!
//! A tree may be deeper than `PATH_MAX` and than the limit on open files. Few descriptors are held;
//! a directory whose descriptor was let go is opened again from the root, name by name.
//!
//! **Invariant:** no symbolic link is followed below the root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

/// Directories held open at most, beside one a thread. `ulimit -n` is 256 where it is lowest.
const HELD: usize = 96;

/// Flags for a directory below the root.
const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::NONBLOCK)
    .union(OFlags::CLOEXEC);

/// Opens a directory by one name.
pub(crate) fn open_in(above: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(above, name, DIRECTORY, Mode::empty())
}

/// Opens the directory at a path of names joined by slashes.
pub(crate) fn open_below(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let mut names = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty());
    let Some(first) = names.next() else { return rustix::io::fcntl_dupfd_cloexec(root, 0) };
    names.try_fold(open_in(root, first)?, |above, name| open_in(above.as_fd(), name))
}

/// Names and kinds of the entries of a directory, ascending; unknown kinds are looked up.
pub(crate) fn list(directory: BorrowedFd<'_>) -> Result<Vec<(Vec<u8>, FileType)>, Errno> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            entries.push((name.to_vec(), entry.file_type()));
        }
    }
    entries.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    Ok(entries)
}

/// The path of a name in a directory.
pub(crate) fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = directory.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

/// Counts the descriptors that are held for later.
#[derive(Debug, Default)]
pub(crate) struct Budget(Arc<AtomicUsize>);

/// An open directory that others will need, for as long as the budget allows.
#[derive(Debug)]
pub(crate) struct Held {
    fd: OwnedFd,
    count: Arc<AtomicUsize>,
}

impl Budget {
    /// Keeps a descriptor, or closes it where too many are open already.
    pub(crate) fn hold(&self, fd: OwnedFd) -> Option<Arc<Held>> {
        let fits = |count| (count < HELD).then_some(count + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Arc::new(Held { fd, count: Arc::clone(&self.0) }))
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_on_the_way_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        crate::fs::create_dir_all(&dir.path().join("a/b")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("link")).unwrap();
        let root = crate::fs::open(dir.path()).unwrap();
        assert!(open_below(root.as_fd(), b"a/b").is_ok());
        assert!(open_below(root.as_fd(), b"").is_ok());
        assert!(open_below(root.as_fd(), b"link/b").is_err());
        assert!(open_below(root.as_fd(), b"a/link").is_err());
        assert_eq!(list(root.as_fd()).unwrap().len(), 2);
    }

    #[test]
    fn descriptors_are_let_go_beyond_the_budget() {
        let dir = tempfile::tempdir().unwrap();
        let budget = Budget::default();
        let open = || OwnedFd::from(crate::fs::open(dir.path()).unwrap());
        let held: Vec<_> = (0..HELD + 5).filter_map(|_| budget.hold(open())).collect();
        assert_eq!(held.len(), HELD);
        drop(held);
        assert!(budget.hold(open()).is_some());
    }
}

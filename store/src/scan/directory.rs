//! Directories by descriptor: opened one name at a time from a root that stays open.
//!
//! A tree may be deeper than `PATH_MAX` and than the limit on open files. Few descriptors are held;
//! a directory whose descriptor was let go is opened again from the root, name by name.
//!
//! **Invariant:** no symbolic link is followed below the root.

use std::ops::Range;
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
    // Not a copy of the descriptor: that would share its place in the listing.
    let Some(first) = names.next() else { return open_in(root, b".") };
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

/// The entries of one directory, ascending by name, in memory that is kept for the next one.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    names: Vec<u8>,
    entries: Vec<(Range<usize>, FileType)>,
    /// Where the system writes.
    buffer: Vec<u8>,
}

impl Listing {
    /// Lists a directory that was just opened, in place of what was listed before.
    pub(crate) fn read(&mut self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        self.names.clear();
        self.entries.clear();
        self.fill(directory)?;
        let Self { names, entries, .. } = self;
        let name = |range: &Range<usize>| names.get(range.clone()).unwrap_or_default();
        entries.sort_unstable_by(|(a, _), (b, _)| name(a).cmp(name(b)));
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn fill(&mut self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        const BUFFER: usize = 32 * 1024;
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.reserve(BUFFER);
        let mut entries = rustix::fs::RawDir::new(directory, buffer.spare_capacity_mut());
        while let Some(entry) = entries.next() {
            let entry = entry?;
            self.push(entry.file_name().to_bytes(), entry.file_type());
        }
        self.buffer = buffer;
        Ok(())
    }

    #[cfg(not(target_os = "linux"))]
    fn fill(&mut self, directory: BorrowedFd<'_>) -> Result<(), Errno> {
        for entry in rustix::fs::Dir::read_from(directory)? {
            let entry = entry?;
            self.push(entry.file_name().to_bytes(), entry.file_type());
        }
        Ok(())
    }

    fn push(&mut self, name: &[u8], kind: FileType) {
        if name != b"." && name != b".." {
            let start = self.names.len();
            self.names.extend_from_slice(name);
            self.entries.push((start..self.names.len(), kind));
        }
    }

    /// Names and kinds; the system does not say every kind.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], FileType)> {
        self.entries.iter().map(|(range, kind)| (self.slice(range), *kind))
    }

    /// The name at a place in the list.
    pub(crate) fn name(&self, at: usize) -> &[u8] {
        self.entries.get(at).map(|(range, _)| self.slice(range)).unwrap_or_default()
    }

    /// Whether this name is listed.
    pub(crate) fn has(&self, name: &[u8]) -> bool {
        self.entries.binary_search_by(|(range, _)| self.slice(range).cmp(name)).is_ok()
    }

    fn slice(&self, range: &Range<usize>) -> &[u8] {
        self.names.get(range.clone()).unwrap_or_default()
    }
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
        let mut listing = Listing::default();
        for _ in 0..2 {
            listing.read(open_below(root.as_fd(), b"").unwrap().as_fd()).unwrap();
            let listed: Vec<_> = listing.iter().map(|(name, kind)| (name.to_vec(), kind)).collect();
            assert_eq!(listed, list(root.as_fd()).unwrap());
            assert!(listing.has(b"link") && !listing.has(b"b"));
            assert_eq!(listing.name(1), b"link");
        }
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

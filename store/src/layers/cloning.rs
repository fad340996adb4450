//! A directory copied with all that is in it, where the file system lets files share bytes until one is written.
//!
//! Modes, times, extended attributes and links are as they were; several names of one file stay names of one file. A file
//! that cannot be shared is copied.
//!
//! **Invariant:** what is copied is only read.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::fs::{Context, FsError};
use crate::scan::directory::{join, list, open_below, open_in};

/// Longest value and list of extended attributes.
const MAX_ATTRIBUTE: usize = 64 * 1024;

/// Copies what is in one folder into another one, which is empty, with as many threads; without what stands at the paths of
/// `without`. Says how many files share their bytes now.
pub(super) fn copy_tree(
    from: &Path,
    to: &Path,
    without: &dyn Fn(&[u8]) -> bool,
    threads: usize,
) -> Result<u64, FsError> {
    let open = |path: &Path| {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(path, flags, Mode::empty()).context("opening", path)
    };
    let (source, target) = (open(from)?, open(to)?);
    let copying = Copying {
        from: source.as_fd(),
        to: target.as_fd(),
        shares: AtomicUsize::new(0),
        shared: AtomicU64::new(0),
        names: Mutex::default(),
    };
    copying.all(without, threads).context("copying into", to)?;
    Ok(copying.shared.into_inner())
}

/// Whether files of one folder can share bytes with those of another one.
pub(super) fn can_share(kept: &Path, copies: &Path) -> Result<(), FsError> {
    let (from, to) = (kept.join("clone-trial"), copies.join("clone-trial-copy"));
    for path in [&from, &to] {
        crate::fs::remove_file(path)?;
    }
    crate::fs::write_whole(&from, &vec![1; 64 * 1024], 0o600)?;
    let (source, target) = (crate::fs::open(&from)?, crate::fs::create_new(&to)?);
    let shared = share(&source, &target).context("sharing the bytes of", &from);
    for path in [&from, &to] {
        crate::fs::remove_file(path)?;
    }
    shared
}

/// Refusals of the file system after which it is not asked any more.
const PATIENCE: usize = 64;

struct Copying<'a> {
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
    /// How often the file system would not share, while it never has.
    shares: AtomicUsize,
    shared: AtomicU64,
    /// Where a file of several names was brought to first.
    names: Mutex<HashMap<(u64, u64), Vec<u8>>>,
}

/// A directory and the files in it.
struct Folder {
    path: Vec<u8>,
    files: Vec<Vec<u8>>,
    stat: Stat,
}

impl Copying<'_> {
    fn all(&self, without: &dyn Fn(&[u8]) -> bool, threads: usize) -> Result<(), Errno> {
        let mut folders = Vec::new();
        let mut left = vec![Vec::new()];
        while let Some(path) = left.pop() {
            let folder = self.directory(path, without, &mut left)?;
            folders.push(folder);
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(folder) = folders.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.files(folder)?;
            }
            Ok::<_, Errno>(())
        };
        std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads.max(1)).map(|_| scope.spawn(work)).collect();
            let own = work();
            others.into_iter().fold(own, |all, it| all.and(it.join().unwrap_or(Err(Errno::IO))))
        })?;
        // Last, because what is made in one changes its time, and its mode may forbid it.
        for folder in folders.iter().rev() {
            let target = open_below(self.to, &folder.path)?;
            let source = open_below(self.from, &folder.path)?;
            copy_attributes(&source, &target)?;
            rustix::fs::fchmod(&target, mode(&folder.stat))?;
            rustix::fs::futimens(&target, &times(&folder.stat))?;
        }
        Ok(())
    }

    /// Makes the directories and links of one, and says which files are in it.
    fn directory(
        &self,
        path: Vec<u8>,
        without: &dyn Fn(&[u8]) -> bool,
        left: &mut Vec<Vec<u8>>,
    ) -> Result<Folder, Errno> {
        let (from, to) = (open_below(self.from, &path)?, open_below(self.to, &path)?);
        let mut files = Vec::new();
        for (name, kind) in list(from.as_fd())? {
            let inner = join(&path, &name);
            if without(&inner) {
                continue;
            }
            let stat = || rustix::fs::statat(&from, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW);
            match kind_of(&from, &name, kind)? {
                FileType::Directory => {
                    rustix::fs::mkdirat(&to, name.as_slice(), Mode::RWXU)?;
                    left.push(inner);
                }
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(&from, name.as_slice(), Vec::new())?;
                    rustix::fs::symlinkat(target, &to, name.as_slice())?;
                    let (times, flags) = (times(&stat()?), AtFlags::SYMLINK_NOFOLLOW);
                    rustix::fs::utimensat(&to, name.as_slice(), &times, flags)?;
                }
                FileType::RegularFile => files.push(name),
                // Nothing that a snapshot has.
                _ => {}
            }
        }
        Ok(Folder { path, files, stat: rustix::fs::fstat(&from)? })
    }

    fn files(&self, folder: &Folder) -> Result<(), Errno> {
        if folder.files.is_empty() {
            return Ok(());
        }
        let from = open_below(self.from, &folder.path)?;
        let to = open_below(self.to, &folder.path)?;
        folder.files.iter().try_for_each(|name| self.file((&from, &to), &folder.path, name))
    }

    fn file(
        &self,
        (from, to): (&OwnedFd, &OwnedFd),
        path: &[u8],
        name: &[u8],
    ) -> Result<(), Errno> {
        let read = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = File::from(rustix::fs::openat(from, name, read, Mode::empty())?);
        let stat = rustix::fs::fstat(&source)?;
        if stat.st_nlink > 1 {
            // Held while the first one is made: the others are names of it.
            let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = names.get(&inode) {
                let linked =
                    rustix::fs::linkat(self.to, first.as_slice(), to, name, AtFlags::empty());
                if linked.is_ok() {
                    return Ok(());
                }
            }
            self.make(&source, to, name, &stat)?;
            names.insert(inode, join(path, name));
            return Ok(());
        }
        self.make(&source, to, name, &stat)
    }

    fn make(&self, source: &File, to: &OwnedFd, name: &[u8], stat: &Stat) -> Result<(), Errno> {
        let write =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = File::from(rustix::fs::openat(to, name, write, Mode::RUSR | Mode::WUSR)?);
        self.content(source, &target, stat)?;
        copy_attributes(source, &target)?;
        rustix::fs::fchmod(&target, mode(stat))?;
        rustix::fs::futimens(&target, &times(stat))
    }

    fn content(&self, mut source: &File, mut target: &File, stat: &Stat) -> Result<(), Errno> {
        if stat.st_size == 0 {
            return Ok(());
        }
        let has_shared = self.shared.load(Ordering::Relaxed) > 0;
        if has_shared || self.shares.load(Ordering::Relaxed) < PATIENCE {
            if share(source, target).is_ok() {
                self.shared.fetch_add(1, Ordering::Relaxed);
                return Ok(());
            }
            self.shares.fetch_add(1, Ordering::Relaxed);
        }
        let copied = std::io::copy(&mut source, &mut target);
        copied.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(())
    }
}

/// Makes a file have the bytes of another one, where the file system can.
#[cfg(target_os = "linux")]
pub(crate) fn share(from: &File, to: &File) -> Result<(), Errno> {
    rustix::fs::ioctl_ficlone(to.as_fd(), from.as_fd())
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn share(_from: &File, _to: &File) -> Result<(), Errno> {
    Err(Errno::OPNOTSUPP)
}

/// Copies extended attributes, which most files have none of.
#[cfg(target_os = "linux")]
fn copy_attributes(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let mut names = Vec::new();
    match rustix::fs::flistxattr(from.as_fd(), &mut [0u8; 0]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(()),
        Ok(length) => names.resize(length.min(MAX_ATTRIBUTE), 0u8),
        Err(error) => return Err(error),
    }
    let length = rustix::fs::flistxattr(from.as_fd(), &mut names)?;
    names.truncate(length);
    for name in names.split(|&byte| byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0u8; MAX_ATTRIBUTE];
        let length = rustix::fs::fgetxattr(from.as_fd(), name, &mut value)?;
        let value = value.get(..length).unwrap_or_default();
        rustix::fs::fsetxattr(to.as_fd(), name, value, XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
fn copy_attributes(_from: impl AsFd, _to: impl AsFd) -> Result<(), Errno> {
    Ok(())
}

/// Permission bits; no others are brought.
pub(crate) const fn mode(stat: &Stat) -> Mode {
    Mode::from_raw_mode(stat.st_mode & 0o777)
}

pub(crate) fn times(stat: &Stat) -> Timestamps {
    // Below a thousand million, whatever the type is on a platform.
    let nanoseconds = i64::try_from(stat.st_mtime_nsec).unwrap_or_default();
    let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: nanoseconds };
    Timestamps { last_access: modified, last_modification: modified }
}

/// Puts what is in one folder over what is in another one: directories become one, and all else takes the place of what has
/// its name.
pub(super) fn lay_over(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    list(from.as_fd())?.into_iter().try_for_each(|(name, kind)| lay_one_over(from, to, &name, kind))
}

fn lay_one_over(from: &OwnedFd, to: &OwnedFd, name: &[u8], kind: FileType) -> Result<(), Errno> {
    let below = match rustix::fs::statat(to, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => None,
        found => Some(FileType::from_raw_mode(found?.st_mode)),
    };
    let is_directory = kind_of(from, name, kind)? == FileType::Directory;
    match below {
        Some(FileType::Directory) if is_directory => {
            let (inner, target) = (open_in(from.as_fd(), name)?, open_in(to.as_fd(), name)?);
            lay_over(&inner, &target)?;
            return rustix::fs::fchmod(&target, mode(&rustix::fs::fstat(&inner)?));
        }
        Some(_) => take_out(to, name)?,
        None => {}
    }
    rustix::fs::renameat(from, name, to, name)
}

/// What has a name in a directory, which not every file system says where it lists the names.
fn kind_of(directory: &OwnedFd, name: &[u8], said: FileType) -> Result<FileType, Errno> {
    if said != FileType::Unknown {
        return Ok(said);
    }
    let stat = rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(FileType::from_raw_mode(stat.st_mode))
}

/// Takes what has a name out of a folder.
pub(super) fn take_out(folder: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {
            rustix::fs::chmodat(folder, name, Mode::RWXU, AtFlags::empty())?;
            let inner = open_in(folder.as_fd(), name)?;
            crate::checkout::remove::remove_contents(inner.as_fd())?;
            rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR)
        }
        done => done,
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test has the file system itself")]
mod tests {
    use super::*;

    #[test]
    fn a_folder_stays_where_the_file_system_does_not_say_what_a_name_is() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            rustix::fs::open(folder.path().join(name), flags, Mode::empty()).unwrap()
        };
        for (name, content) in
            [("to/dir/kept", "kept"), ("to/file", "old"), ("from/dir/new", "new")]
        {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        std::fs::write(folder.path().join("from/file"), "new").unwrap();
        let (from, to) = (open("from"), open("to"));
        for name in [&b"dir"[..], b"file"] {
            lay_one_over(&from, &to, name, FileType::Unknown).unwrap();
        }
        for (name, content) in [("dir/kept", "kept"), ("dir/new", "new"), ("file", "new")] {
            let found = std::fs::read_to_string(folder.path().join("to").join(name));
            assert_eq!(found.unwrap(), content, "{name}");
        }
    }
}

//! How much a run has written, and whether the disk has room.
//!
//! **Invariant:** no link is followed, however often names are replaced while they are counted, and the memory and the
//! descriptors that counting takes are bounded, whatever a run has made.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// Bytes that a file or folder counts at least: a disk has an end of those, too.
const LEAST: u64 = 1024;

/// Folders that are held open at once, on the way down.
const MAX_HELD: usize = 32;

/// Bytes of names of folders that are kept at once; those beyond are not looked into. Their folders alone take more than
/// a gigabyte.
const MAX_NAMES: usize = 64 << 20;

/// What keeping a name takes beside it.
const EACH_NAME: usize = 64;

/// So many files of a folder are counted between two questions whether to go on.
const MANY: usize = 1024;

/// Of a file system, so many hundredths stay free, within bounds.
const RESERVE: u64 = 5;
const LEAST_RESERVE: u64 = 256 << 20;
const MOST_RESERVE: u64 = 10 << 30;

/// Of the inodes of a file system, so many hundredths stay free.
const INODES: u64 = 2;

/// What is free on a file system for who is not root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Free {
    /// Bytes.
    pub bytes: u64,
    /// Inodes; of a file system that counts none, as many as can be.
    pub inodes: u64,
}

/// What must stay free on a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reserve {
    /// Bytes.
    pub bytes: u64,
    /// Inodes.
    pub inodes: u64,
}

impl Free {
    /// On the file system that a folder is on; nothing where it does not say.
    pub fn at(folder: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(folder).ok()?;
        let bytes = found.f_bavail.saturating_mul(found.f_frsize);
        // Some file systems make inodes as they need them, and count none.
        let inodes = if found.f_files > 0 { found.f_favail } else { u64::MAX };
        Some(Self { bytes, inodes })
    }

    /// Whether what must stay free is not free any more.
    pub const fn is_short_of(&self, reserve: &Reserve) -> bool {
        self.bytes < reserve.bytes || self.inodes < reserve.inodes
    }

    /// Whether there is less of it than there was.
    pub const fn is_less_than(&self, earlier: &Self) -> bool {
        self.bytes < earlier.bytes || self.inodes < earlier.inodes
    }
}

impl Reserve {
    /// Of the file system that a folder is on; nothing where it does not say.
    pub fn at(folder: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(folder).ok()?;
        let size = found.f_blocks.saturating_mul(found.f_frsize);
        let bytes = (size / 100 * RESERVE).clamp(LEAST_RESERVE, MOST_RESERVE).min(size / 2);
        Some(Self { bytes, inodes: found.f_files / 100 * INODES })
    }

    /// For one that begins when so much is free: a disk that is rather full already is nothing that it did.
    #[must_use]
    pub fn for_one_that_begins(self, free: &Free) -> Self {
        Self { bytes: self.bytes.min(free.bytes / 2), inodes: self.inodes.min(free.inodes / 2) }
    }

    /// Half of it, beyond which somebody has to go, whoever it was.
    #[must_use]
    pub const fn half(self) -> Self {
        Self { bytes: self.bytes / 2, inodes: self.inodes / 2 }
    }
}

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Bytes.
    pub bytes: u64,
    /// Whether there may be any number more: a folder is closed to us, or so much was there that not all was looked into.
    pub is_partial: bool,
}

/// Adds up what is in some folders, until there are more bytes than `limit` or `go_on` says no; then what was counted so
/// far. What vanishes meanwhile counts nothing.
pub fn used(folders: &[PathBuf], limit: u64, go_on: &dyn Fn() -> bool) -> Counted {
    let mut walk = Walk { sum: 0, is_partial: false, names: 0, limit, go_on };
    for folder in folders {
        match open(rustix::fs::CWD, folder.as_os_str()) {
            Ok(top) => walk.run(top),
            Err(error) => walk.is_partial |= is_closed(error),
        }
    }
    Counted { bytes: walk.sum, is_partial: walk.is_partial }
}

struct Walk<'a> {
    sum: u64,
    is_partial: bool,
    /// Bytes of names that are kept.
    names: usize,
    limit: u64,
    go_on: &'a dyn Fn() -> bool,
}

/// A folder on the way down to the one that is looked into.
struct Level {
    /// Nothing where so many are above it that it was closed.
    folder: Option<OwnedFd>,
    /// Which folder it is.
    is: (u64, u64),
    /// Those in it that are still to be looked into.
    waiting: Vec<Vec<u8>>,
}

impl Walk<'_> {
    fn run(&mut self, top: OwnedFd) {
        if self.sum > self.limit || !(self.go_on)() {
            return;
        }
        let mut levels = Vec::new();
        self.enter(top, &mut levels);
        while let Some(level) = levels.last_mut() {
            if self.sum > self.limit || !(self.go_on)() {
                return;
            }
            let Some(name) = level.waiting.pop() else {
                let Some(done) = levels.pop() else { return };
                // Back to the one above, unless the folder was moved away meanwhile: then to one that is open.
                let above = levels.last().filter(|above| above.folder.is_none());
                if let Some(above) = above {
                    let folder = done.folder.and_then(|folder| parent(&folder, above.is));
                    if folder.is_none() {
                        while let Some(level) = levels.pop_if(|level| level.folder.is_none()) {
                            let names =
                                level.waiting.iter().map(|name| name.len() + EACH_NAME).sum();
                            self.names = self.names.saturating_sub(names);
                        }
                    } else if let Some(above) = levels.last_mut() {
                        above.folder = folder;
                    }
                }
                continue;
            };
            self.names = self.names.saturating_sub(name.len() + EACH_NAME);
            match level.folder.as_ref().map(|folder| open(folder, OsStr::from_bytes(&name))) {
                Some(Ok(below)) => self.enter(below, &mut levels),
                Some(Err(error)) => self.is_partial |= is_closed(error),
                None => {}
            }
        }
    }

    /// Counts what is in a folder, and goes on with those in it.
    fn enter(&mut self, folder: OwnedFd, levels: &mut Vec<Level>) {
        let Ok(stat) = rustix::fs::fstat(&folder) else { return };
        let mut waiting = Vec::new();
        // It may be replaced, and its entries vanish: what is there now counts.
        if let Err(error) = self.look_into(&folder, &mut waiting) {
            self.is_partial |= is_closed(error);
        }
        if levels.len() > MAX_HELD
            && let Some(above) = levels.last_mut()
        {
            above.folder = None;
        }
        levels.push(Level { folder: Some(folder), is: (stat.st_dev, stat.st_ino), waiting });
    }

    fn look_into(&mut self, folder: &OwnedFd, waiting: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
        for (at, entry) in Dir::read_from(folder)?.enumerate() {
            let entry = entry?;
            if at % MANY == MANY - 1 && !(self.go_on)() {
                break;
            }
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => stat,
                Err(error) => {
                    self.is_partial |= is_closed(error);
                    continue;
                }
            };
            self.sum = self.sum.saturating_add(size(&stat));
            if self.sum > self.limit {
                break;
            }
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder && self.names < MAX_NAMES {
                self.names += name.to_bytes().len() + EACH_NAME;
                waiting.push(name.to_bytes().to_vec());
            } else if is_folder {
                self.is_partial = true;
            }
        }
        Ok(())
    }
}

/// Whether something is there that we may not look at.
fn is_closed(error: Errno) -> bool {
    matches!(error, Errno::ACCESS | Errno::PERM)
}

/// The folder above one, if it is the one that it was.
fn parent(folder: &OwnedFd, is: (u64, u64)) -> Option<OwnedFd> {
    let above = open(folder, OsStr::new("..")).ok()?;
    let stat = rustix::fs::fstat(&above).ok()?;
    ((stat.st_dev, stat.st_ino) == is).then_some(above)
}

/// What a file takes on the disk; of one with several names each name its part.
fn size(stat: &Stat) -> u64 {
    let blocks = u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512);
    let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let links = if is_folder { 1 } else { number(stat.st_nlink).max(1) };
    (blocks / links).max(LEAST)
}

/// The type of some numbers differs from system to system.
fn number(of: impl TryInto<u64>) -> u64 {
    of.try_into().unwrap_or(u64::MAX)
}

fn open(above: impl AsFd, name: &OsStr) -> Result<OwnedFd, Errno> {
    let flags =
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    rustix::fs::openat(above, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use baton_store::fs;

    use super::*;

    #[test]
    fn what_was_written_counts_once_and_links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (top, other) = (folder.path().join("top"), folder.path().join("other"));
        fs::create_dir_all(&top.join("a/b")).unwrap();
        fs::create_dir_all(&other).unwrap();
        let block = vec![1; 1 << 20];
        fs::write_atomic(&top.join("a/b/one"), &block, 0o644).unwrap();
        std::fs::hard_link(top.join("a/b/one"), top.join("two")).unwrap();
        fs::write_atomic(&other.join("large"), &vec![1; 4 << 20], 0o644).unwrap();
        std::os::unix::fs::symlink(&other, top.join("link")).unwrap();
        std::os::unix::fs::symlink(&other, folder.path().join("top-link")).unwrap();

        let all = || true;
        let counted = used(std::slice::from_ref(&top), u64::MAX, &all).bytes;
        assert!(((1 << 20)..(3 << 19)).contains(&counted), "{counted}");
        // A folder that is a link itself is not looked into, and one that is missing is empty.
        let links = [folder.path().join("top-link"), folder.path().join("missing")];
        assert_eq!(used(&links, u64::MAX, &all), Counted::default());
        // Who has counted enough stops, and so does who is told to.
        assert!(used(&[other.clone(), top.clone()], 1 << 20, &all).bytes < 5 << 20);
        assert_eq!(used(&[other, top], u64::MAX, &|| false).bytes, 0);
    }

    #[test]
    fn empty_files_and_deep_folders_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut fd: OwnedFd = fs::open(folder.path()).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = open(&fd, OsStr::new("d")).unwrap();
        }
        let counted = used(&[folder.path().to_owned()], u64::MAX, &|| true).bytes;
        assert!(counted >= 3000 * LEAST, "{counted}");
        baton_store::checkout::remove_made(&folder.path().join("d")).unwrap();
        for name in 0..50 {
            fs::create_new(&folder.path().join(name.to_string())).unwrap();
        }
        let counted = used(&[folder.path().to_owned()], u64::MAX, &|| true);
        assert_eq!(counted, Counted { bytes: 50 * LEAST, is_partial: false });
    }

    #[test]
    fn a_part_of_the_disk_stays_free() {
        let reserve = Reserve::at(Path::new("/")).unwrap();
        assert!(reserve.bytes >= 1 && reserve.bytes <= MOST_RESERVE);
        let reserve = Reserve { bytes: 10, inodes: 10 };
        for (bytes, inodes, short) in [(9, 10, true), (10, 10, false), (10, 9, true)] {
            assert_eq!(Free { bytes, inodes }.is_short_of(&reserve), short);
        }
        // Where little is free from the beginning, half of that is.
        let begins = reserve.for_one_that_begins(&Free { bytes: 8, inodes: u64::MAX });
        assert_eq!(begins, Reserve { bytes: 4, inodes: 10 });
        assert!(!Free { bytes: 8, inodes: u64::MAX }.is_short_of(&begins));
        assert_eq!(begins.half(), Reserve { bytes: 2, inodes: 5 });
    }
}

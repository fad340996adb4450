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
    /// Bytes that must stay free.
    pub reserve: u64,
    /// Whether there are few inodes left, though not few bytes.
    pub few_inodes: bool,
}

impl Free {
    /// On the file system that a folder is on; nothing where it does not say.
    pub fn at(folder: &Path) -> Option<Self> {
        let found = rustix::fs::statvfs(folder).ok()?;
        let size = found.f_blocks.saturating_mul(found.f_frsize);
        let bytes = found.f_bavail.saturating_mul(found.f_frsize);
        let reserve = (size / 100 * RESERVE).clamp(LEAST_RESERVE, MOST_RESERVE).min(size / 2);
        // Some file systems make inodes as they need them, and count none.
        let few_inodes = found.f_files > 0 && found.f_favail < found.f_files / 100 * INODES;
        Some(Self { bytes, reserve, few_inodes })
    }

    /// Whether what must stay free is not free any more.
    pub const fn is_short(&self) -> bool {
        self.bytes < self.reserve || self.few_inodes
    }
}

/// Adds up what is in some folders, until there are more bytes than `limit` or `go_on` says no; then what was counted so
/// far. What vanishes meanwhile, or cannot be read, counts nothing.
pub fn used(folders: &[PathBuf], limit: u64, go_on: &dyn Fn() -> bool) -> u64 {
    let mut walk = Walk { sum: 0, names: 0, limit, go_on };
    for folder in folders {
        if let Ok(top) = open(rustix::fs::CWD, folder.as_os_str()) {
            walk.run(top);
        }
    }
    walk.sum
}

struct Walk<'a> {
    sum: u64,
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
                            let names: usize = level.waiting.iter().map(Vec::len).sum();
                            self.names = self.names.saturating_sub(names);
                        }
                    } else if let Some(above) = levels.last_mut() {
                        above.folder = folder;
                    }
                }
                continue;
            };
            self.names = self.names.saturating_sub(name.len());
            let below = level.folder.as_ref().map(|folder| open(folder, OsStr::from_bytes(&name)));
            if let Some(Ok(below)) = below {
                self.enter(below, &mut levels);
            }
        }
    }

    /// Counts what is in a folder, and goes on with those in it.
    fn enter(&mut self, folder: OwnedFd, levels: &mut Vec<Level>) {
        let Ok(stat) = rustix::fs::fstat(&folder) else { return };
        let mut waiting = Vec::new();
        // It may be replaced, and its entries vanish: what is there now counts.
        let _ = self.look_into(&folder, &mut waiting);
        if levels.len() > MAX_HELD
            && let Some(above) = levels.last_mut()
        {
            above.folder = None;
        }
        levels.push(Level { folder: Some(folder), is: (stat.st_dev, stat.st_ino), waiting });
    }

    fn look_into(&mut self, folder: &OwnedFd, waiting: &mut Vec<Vec<u8>>) -> Result<(), Errno> {
        for entry in Dir::read_from(folder)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_bytes() == b"." || name.to_bytes() == b".." {
                continue;
            }
            let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else {
                continue;
            };
            self.sum = self.sum.saturating_add(size(&stat));
            if self.sum > self.limit {
                break;
            }
            let is_folder = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
            if is_folder && self.names < MAX_NAMES {
                self.names += name.to_bytes().len();
                waiting.push(name.to_bytes().to_vec());
            }
        }
        Ok(())
    }
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
        let counted = used(std::slice::from_ref(&top), u64::MAX, &all);
        assert!(((1 << 20)..(3 << 19)).contains(&counted), "{counted}");
        // A folder that is a link itself is not looked into, and one that is missing is empty.
        let links = [folder.path().join("top-link"), folder.path().join("missing")];
        assert_eq!(used(&links, u64::MAX, &all), 0);
        // Who has counted enough stops, and so does who is told to.
        assert!(used(&[other.clone(), top.clone()], 1 << 20, &all) < 5 << 20);
        assert_eq!(used(&[other, top], u64::MAX, &|| false), 0);
    }

    #[test]
    fn empty_files_and_deep_folders_count() {
        let folder = tempfile::tempdir().unwrap();
        let mut fd: OwnedFd = fs::open(folder.path()).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&fd, "d", Mode::RWXU).unwrap();
            fd = open(&fd, OsStr::new("d")).unwrap();
        }
        let counted = used(&[folder.path().to_owned()], u64::MAX, &|| true);
        assert!(counted >= 3000 * LEAST, "{counted}");
        baton_store::checkout::remove_made(&folder.path().join("d")).unwrap();
        for name in 0..50 {
            fs::create_new(&folder.path().join(name.to_string())).unwrap();
        }
        assert_eq!(used(&[folder.path().to_owned()], u64::MAX, &|| true), 50 * LEAST);
    }

    #[test]
    fn a_part_of_the_disk_stays_free() {
        let free = Free::at(Path::new("/")).unwrap();
        assert!(free.reserve >= 1 && free.reserve <= MOST_RESERVE);
        assert!(Free { bytes: 9, reserve: 10, few_inodes: false }.is_short());
        assert!(!Free { bytes: 10, reserve: 10, few_inodes: false }.is_short());
        assert!(Free { bytes: 10, reserve: 10, few_inodes: true }.is_short());
    }
}

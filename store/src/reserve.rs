//! Room that is set aside, so that on a full disk something can be deleted: to forget and to collect takes some.
//!
//! It is a few files that are given up when the disk is full. A limit on what this program writes itself would not do:
//! others fill the disk, too. Several files and not one, so that inodes are set aside with the bytes.
//!
//! **Invariant:** while what was set aside is given up, nothing new is taken, until it could be set aside again: else that would
//! fill the room in which things are deleted.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::StoreError;
use crate::fs::{self, FEW_INODES, FsError, Room};

/// Files that are set aside; an inode each.
const FILES: u64 = 8;

/// Bytes that they have together at most: what the journal is folded to, and the copy of a whole segment.
const MOST: u64 = 80 << 20;

/// Of a small disk, this part.
const PART: u64 = 4;

/// Bytes that are free beside it at least before it is set aside: a start takes some.
const BESIDE: u64 = 1 << 20;

/// What is set aside in one store.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// Nothing where none is kept.
    folder: Option<PathBuf>,
    /// How many are deleting.
    deleting: Mutex<usize>,
    /// Whether it is given up.
    is_given_up: AtomicBool,
}

/// For as long as it is held there is the room that was set aside.
#[derive(Debug)]
pub struct RoomToDelete(Arc<Reserve>);

/// Gives up what a store in this folder has set aside, where the disk is so full that it could not even be opened.
pub(crate) fn give_up_if_full(root: &Path) {
    let folder = folder_of(root);
    if !fs::is_simulated(root)
        && folder.exists()
        && fs::room(root).is_some_and(|room| is_short(&room))
    {
        remove_all(&folder);
    }
}

impl Reserve {
    /// Sets it aside, as far as there is room.
    pub(crate) fn open(root: &Path) -> Arc<Self> {
        let folder = (!fs::is_simulated(root)).then(|| folder_of(root));
        let reserve =
            Self { folder, deleting: Mutex::default(), is_given_up: AtomicBool::new(true) };
        reserve.set_aside();
        Arc::new(reserve)
    }

    /// Of a store that is only read: none.
    pub(crate) fn none() -> Arc<Self> {
        let is_given_up = AtomicBool::new(false);
        Arc::new(Self { folder: None, deleting: Mutex::default(), is_given_up })
    }

    /// Refuses what is new while it is given up and cannot be set aside again.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        if !self.is_given_up.load(Ordering::Acquire) {
            return Ok(());
        }
        let deleting = self.lock();
        if *deleting == 0 {
            self.set_aside();
        }
        if !self.is_given_up.load(Ordering::Acquire) {
            return Ok(());
        }
        let path = self.folder.clone().unwrap_or_default();
        let source = io::ErrorKind::StorageFull.into();
        Err(FsError { action: "setting room to delete aside in", path, source }.into())
    }

    /// Gives it up where the disk is full, for as long as what is returned is held.
    pub(crate) fn give(self: &Arc<Self>) -> RoomToDelete {
        let mut deleting = self.lock();
        *deleting += 1;
        if let Some(folder) = &self.folder
            && let Some(room) = fs::room(folder)
            && (room.free < size(&room) + BESIDE.min(room.size / PART) || has_few_inodes(&room))
        {
            self.is_given_up.store(true, Ordering::Release);
            remove_all(folder);
        }
        RoomToDelete(Arc::clone(self))
    }

    fn set_aside(&self) {
        let made = self.folder.as_deref().map_or(Ok(()), make_all);
        if let Err(error) = &made {
            tracing::debug!(error = error as &dyn std::error::Error, "nothing is set aside");
        }
        // A file system that cannot do it is no reason to take nothing.
        let is_full = made.is_err_and(|error| {
            matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
        });
        self.is_given_up.store(is_full, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, usize> {
        self.deleting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for RoomToDelete {
    fn drop(&mut self) {
        let mut deleting = self.0.lock();
        *deleting -= 1;
        if *deleting == 0 && self.0.is_given_up.load(Ordering::Acquire) {
            self.0.set_aside();
        }
    }
}

fn folder_of(root: &Path) -> PathBuf {
    root.join("reserve")
}

/// Bytes of all files on such a disk.
const fn size(room: &Room) -> u64 {
    let part = room.size / PART;
    if part < MOST { part } else { MOST }
}

const fn has_few_inodes(room: &Room) -> bool {
    room.free_inodes < FEW_INODES
}

fn is_short(room: &Room) -> bool {
    room.free < BESIDE.min(room.size / PART) || has_few_inodes(room)
}

fn make_all(folder: &Path) -> io::Result<()> {
    let failed = |error: FsError| error.source;
    let root = folder.parent().unwrap_or(folder);
    let Some(room) = fs::room(root) else { return Ok(()) };
    let each = size(&room) / FILES;
    let paths = (0..FILES).map(|number| folder.join(number.to_string()));
    let missing: Vec<_> = paths.filter(|path| fs::len(path) != Some(each)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let wanted = each * missing.len() as u64 + BESIDE.min(room.size / PART);
    if room.free < wanted || room.free_inodes < FEW_INODES {
        return Err(io::ErrorKind::StorageFull.into());
    }
    fs::create_dir_all(folder).map_err(failed)?;
    for path in missing {
        // A disk may have become larger.
        fs::remove_file(&path).map_err(failed)?;
        if let Err(error) = fs::set_aside(&path, each) {
            drop(fs::remove_file(&path));
            return Err(error);
        }
    }
    Ok(())
}

fn remove_all(folder: &Path) {
    for number in 0..FILES {
        if let Err(error) = fs::remove_file(&folder.join(number.to_string())) {
            tracing::debug!(error = &error as &dyn std::error::Error, "what is set aside stays");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_set_aside_and_set_aside_again() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::open(folder.path());
        let files = || fs::list_dir(&folder_of(folder.path())).unwrap().len() as u64;
        let room = fs::room(folder.path()).unwrap();
        if room.free < size(&room) + BESIDE || room.free_inodes < FEW_INODES {
            assert!(reserve.check().is_err());
            return;
        }
        assert_eq!(files(), FILES);
        assert_eq!(fs::len(&folder_of(folder.path()).join("0")), Some(size(&room) / FILES));
        reserve.check().unwrap();

        // As on a full disk.
        let (one, other) = (reserve.give(), reserve.give());
        reserve.is_given_up.store(true, Ordering::Release);
        remove_all(&folder_of(folder.path()));
        let refused = reserve.check().unwrap_err();
        assert!(refused.is_disk_full(), "{refused}");
        drop(one);
        assert!(reserve.check().is_err(), "somebody still deletes");
        assert_eq!(files(), 0);
        drop(other);
        reserve.check().unwrap();
        assert_eq!(files(), FILES);
    }

    #[test]
    fn a_small_disk_keeps_a_part() {
        let room = |size| Room { size, free: size, free_inodes: u64::MAX };
        assert_eq!(size(&room(32 << 20)), 8 << 20);
        assert_eq!(size(&room(1 << 40)), MOST);
        assert!(is_short(&Room { free: 1000, ..room(1 << 30) }));
        assert!(is_short(&Room { free_inodes: 3, ..room(1 << 30) }));
        assert!(!is_short(&room(1 << 30)));
    }
}

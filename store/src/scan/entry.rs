//! One entry that is no directory: what it is, and its content.
//!
//! **Invariant:** a special file is never opened, and whatever goes wrong with one entry is an
//! omission, not the end of the scan.

use std::os::fd::BorrowedFd;

use baton_protocol::object::{Entry, EntryKind, OmitReason};
use rustix::fs::{AtFlags, FileType, Stat};
use rustix::io::Errno;

use super::read::{FileReader, Inspect, ReadError};
use super::{Progress, ScanError};
use crate::chunk::store_bytes;
use crate::objects::{ObjectSink, ObjectSource};
use crate::secrets::Finding;
use crate::stat_cache::{CachedFile, FileStat, Inode};

/// How often an entry that changes its kind under us is looked at again.
const ATTEMPTS: u32 = 3;

/// What became of an entry.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// The entry, unless it is left out.
    pub(super) entry: Option<Entry>,
    /// What is to be said about it.
    pub(super) omitted: Option<OmitReason>,
    /// The state of a file or a link, where that may be believed later on.
    pub(super) stat: Option<FileStat>,
    /// How many names the file has, where these are several.
    pub(super) links: Option<Linked>,
    /// Why it is held back, where it is.
    pub(super) held: Option<Finding>,
    /// Whether the file had to be read.
    pub(super) read: bool,
}

/// A file of several names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Linked {
    pub(super) inode: Inode,
    /// How many, on the whole file system.
    pub(super) names: u64,
}

impl Linked {
    pub(super) fn of(stat: &Stat) -> Option<Self> {
        #[expect(clippy::unnecessary_cast, reason = "not on every platform")]
        let names = stat.st_nlink as u64;
        (names > 1).then(|| Self { inode: Inode::new(stat), names })
    }
}

/// What is known of a file before it is looked at.
#[derive(Clone, Copy)]
pub(super) struct Known<'a> {
    pub(super) file: Option<&'a CachedFile>,
    /// Whether the content that is known of is kept for sure.
    pub(super) kept: bool,
    /// What its content is searched for before it is taken.
    pub(super) inspect: Option<Inspect<'a>>,
}

impl Taken {
    fn left_out(reason: OmitReason) -> Self {
        Self { omitted: Some(reason), ..Self::default() }
    }
}

/// What an entry is taken with.
#[derive(Debug)]
pub(super) struct Taker<'a, S> {
    pub(super) sink: &'a S,
    pub(super) progress: &'a Progress,
    pub(super) reader: FileReader,
}

impl<S: ObjectSource + ObjectSink> Taker<'_, S> {
    /// Takes the entry of this name, which was listed as `kind`.
    pub(super) fn take(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        mut kind: FileType,
        known: Known<'_>,
    ) -> Result<Taken, ScanError> {
        for _ in 0..ATTEMPTS {
            let result = match kind {
                FileType::RegularFile => self.file(directory, name, known),
                FileType::Symlink => self.symlink(directory, name),
                FileType::Unknown => match look(directory, name) {
                    Ok(stat) => {
                        kind = FileType::from_raw_mode(stat.st_mode);
                        continue;
                    }
                    Err(error) => Err(ReadError::File(error)),
                },
                // Listed as something else a moment ago, or it would not be here.
                FileType::Directory => return Ok(Taken::left_out(OmitReason::Vanished)),
                _ => return Ok(Taken::left_out(OmitReason::Special)),
            };
            match result {
                Ok(taken) => return Ok(taken),
                Err(ReadError::Scan(error)) => return Err(error),
                Err(ReadError::NotRegular(found)) => kind = found,
                // What we open is no link any more, or has become one.
                Err(ReadError::File(Errno::LOOP | Errno::INVAL)) => kind = FileType::Unknown,
                Err(ReadError::File(error)) => {
                    return Ok(Taken::left_out(reason(error).map_err(exhausted)?));
                }
            }
        }
        Ok(Taken::left_out(OmitReason::Vanished))
    }

    fn file(
        &mut self,
        directory: BorrowedFd<'_>,
        name: &[u8],
        known: Known<'_>,
    ) -> Result<Taken, ReadError> {
        if let Some(file) = known.file {
            let stat = look(directory, name).map_err(ReadError::File)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            if kind != FileType::RegularFile {
                return Err(ReadError::NotRegular(kind));
            }
            let state = FileStat::new(&stat);
            if let Some(blob) = file.blob(&state) {
                let kept = known.kept
                    || self
                        .sink
                        .contains(&blob.content.id())
                        .map_err(|error| ReadError::Scan(error.into()))?;
                if kept {
                    self.progress.add(1, blob.size);
                    let mode = permissions(&stat);
                    return Ok(Taken {
                        entry: Some(entry(name, EntryKind::File { mode, blob })),
                        omitted: dropped_bits(&stat),
                        stat: Some(state),
                        links: Linked::of(&stat),
                        ..Taken::default()
                    });
                }
            }
        }
        let found = self.reader.read(directory, name, self.sink, self.progress, known.inspect)?;
        if let Some(finding) = found.held {
            return Ok(Taken { held: Some(finding), ..Taken::left_out(OmitReason::Secret) });
        }
        self.progress.add(1, found.blob.size);
        let (mode, blob) = (permissions(&found.stat), found.blob);
        let torn = found.torn.then_some(OmitReason::Torn);
        Ok(Taken {
            entry: Some(entry(name, EntryKind::File { mode, blob })),
            omitted: torn.or(dropped_bits(&found.stat)),
            stat: (!found.torn).then(|| FileStat::new(&found.stat)),
            links: Linked::of(&found.stat),
            held: None,
            read: true,
        })
    }

    fn symlink(&self, directory: BorrowedFd<'_>, name: &[u8]) -> Result<Taken, ReadError> {
        // Before the target is read: what comes after it shows in the next state.
        let stat = look(directory, name).map_err(ReadError::File)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Symlink {
            return Err(ReadError::NotRegular(kind));
        }
        let target = rustix::fs::readlinkat(directory, name, Vec::new())
            .map_err(ReadError::File)?
            .into_bytes();
        if target.is_empty() || target.len() > baton_protocol::path::MAX_PATH {
            return Ok(Taken::left_out(OmitReason::NotCarried));
        }
        let target = store_bytes(&target, self.sink).map_err(|e| ReadError::Scan(e.into()))?;
        self.progress.add(1, 0);
        Ok(Taken {
            entry: Some(entry(name, EntryKind::Symlink { target })),
            stat: Some(FileStat::new(&stat)).filter(|stat| stat.size == target.size),
            ..Taken::default()
        })
    }
}

fn entry(name: &[u8], kind: EntryKind) -> Entry {
    Entry { name: name.to_vec(), kind }
}

pub(super) fn look(directory: BorrowedFd<'_>, name: &[u8]) -> Result<Stat, Errno> {
    rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)
}

/// The permission bits that are carried.
pub(super) const fn permissions(stat: &Stat) -> u16 {
    (stat.st_mode & 0o777) as u16
}

/// Whether there are bits that are not: setuid, setgid, sticky.
pub(super) fn dropped_bits(stat: &Stat) -> Option<OmitReason> {
    (stat.st_mode & 0o7000 != 0).then_some(OmitReason::NotCarried)
}

/// Why an entry is left out, or the error that ends the scan because every entry would fail alike.
pub(super) fn reason(error: Errno) -> Result<OmitReason, Errno> {
    match error {
        Errno::MFILE | Errno::NFILE | Errno::NOMEM => Err(error),
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::STALE => Ok(OmitReason::Vanished),
        // What a socket or a device without a driver says.
        Errno::NXIO | Errno::NODEV => Ok(OmitReason::Special),
        _ => Ok(OmitReason::Unreadable),
    }
}

/// The path is filled in by the walk, which knows it.
pub(super) fn exhausted(error: Errno) -> ScanError {
    ScanError::Exhausted { path: std::path::PathBuf::new(), source: error.into() }
}

//! What can go wrong with a store.

use std::path::{Path, PathBuf};

use baton_protocol::id::ObjectId;

use crate::fs::FsError;

/// A store operation failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A database operation failed.
    #[error("{doing} in {}", path.display())]
    Database {
        /// What was done, as a participle.
        doing: &'static str,
        /// Which database.
        path: PathBuf,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// Bytes on the disk are not what was written.
    #[error("{} is damaged at byte {offset}: {detail}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong.
        detail: &'static str,
    },
    /// An object's bytes do not have its hash, or are not an object.
    #[error("{0} is damaged")]
    DamagedObject(ObjectId),
    /// An object is whole, and another one that names it says something else of it: of its length, or of
    /// what lies below it. Whoever made that one lied.
    #[error("{0} is not what is said of it")]
    Contradicted(ObjectId),
    /// A record of another log says of this object that it has another hash than it has.
    #[error("{0} is not what a record says that it is")]
    Forged(ObjectId),
    /// There is more than can be handled.
    #[error("there are more than {limit} {what}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many may be.
        limit: u64,
    },
    /// An object that must be there is not.
    #[error("{0} is not in the store")]
    Absent(ObjectId),
    /// Another process has this home open.
    #[error("{} is in use by process {pid}", path.display())]
    Locked {
        /// The home.
        path: PathBuf,
        /// Who has it; 0 where that is not known.
        pid: u32,
    },
    /// Written by a newer program.
    #[error("{} has format {found}; this program reads up to {supported}", path.display())]
    Newer {
        /// The file or folder.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// What we read.
        supported: u32,
    },
    /// Nothing can be read without knowing this feature.
    #[error("{} has the feature `{feature}`, and this program does not know how to read that", path.display())]
    Unread {
        /// The store.
        path: PathBuf,
        /// Its name.
        feature: String,
    },
    /// Everything can be read without knowing this feature, and nothing may be written.
    #[error(
        "{} is only read: its store has the feature `{feature}`, and this program does not know how to write that",
        path.display()
    )]
    ReadOnly {
        /// What was to be written.
        path: PathBuf,
        /// Its name.
        feature: String,
    },
    /// There was no room to bring a database up to date; it is as it was.
    #[error("bringing {} up to date may take {needs} bytes of room, and the disk is full", path.display())]
    NoRoomToUpgrade {
        /// Which one.
        path: PathBuf,
        /// How much it may take.
        needs: u64,
    },
    /// A sync failed earlier: what reached the disk is unknown, so nothing more is acknowledged
    /// until the store is opened again.
    #[error("an earlier write failed ({first}); the store takes nothing more until it is reopened")]
    Poisoned {
        /// What failed.
        first: String,
    },
    /// An object that was put could not be written, so that what is on its way in is not whole.
    #[error("an earlier object could not be written ({first}); all of it has to be put again")]
    Incomplete {
        /// What failed.
        first: String,
        /// Whether there was no room.
        is_full: bool,
    },
    /// A record could not be compressed; memory is the only known cause.
    #[error("compressing a record")]
    Compress(#[source] baton_protocol::delta::DeltaError),
    /// The random number generator of the system failed.
    #[error("drawing random bytes failed")]
    Random,
}

/// Room that bringing a database up to date may take beside what it has: its log, and what is shared of that.
const UPGRADE: u64 = 1 << 20;

fn room_to_upgrade(path: &Path) -> u64 {
    UPGRADE + crate::fs::len(path).unwrap_or_default()
}

impl StoreError {
    /// Says of a database that was to be brought up to date how much room that takes, where there was none; `other` says
    /// what else went wrong.
    pub(crate) fn upgrading(
        path: &Path,
        source: rusqlite::Error,
        other: impl FnOnce(rusqlite::Error) -> Self,
    ) -> Self {
        if source.sqlite_error_code() != Some(rusqlite::ErrorCode::DiskFull) {
            return other(source);
        }
        Self::NoRoomToUpgrade { path: path.to_owned(), needs: room_to_upgrade(path) }
    }

    /// Refuses to begin to bring a database up to date where there is less room than that may take.
    pub(crate) fn check_room_to_upgrade(path: &Path) -> Result<(), Self> {
        let needs = room_to_upgrade(path);
        let free = path.parent().and_then(crate::fs::room).map(|room| room.free);
        if free.is_some_and(|free| free < needs) {
            return Err(Self::NoRoomToUpgrade { path: path.to_owned(), needs });
        }
        Ok(())
    }

    /// Whether stored bytes are at fault, so that `check` and `repair` can help.
    pub fn is_corruption(&self) -> bool {
        use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase, TypeMismatch, Unknown};
        match self {
            Self::Damaged { .. } | Self::DamagedObject(_) | Self::Absent(_) => true,
            Self::Database { source, .. } => match source.sqlite_error_code() {
                Some(code) => {
                    matches!(code, DatabaseCorrupt | NotADatabase | TypeMismatch | Unknown)
                }
                // A value of another type than the one we wrote, or no row where there is one.
                None => true,
            },
            _ => false,
        }
    }

    /// Whether the disk is full of files, and not of bytes.
    pub fn is_out_of_inodes(&self) -> bool {
        let path = match self {
            Self::Fs(error) => &error.path,
            Self::Database { path, .. } | Self::NoRoomToUpgrade { path, .. } => path,
            _ => return false,
        };
        let folder = path.ancestors().find_map(crate::fs::room);
        self.is_disk_full()
            && folder.is_some_and(|room| room.free_inodes < crate::fs::FEW_INODES && room.free > 0)
    }

    /// Whether the disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Fs(error) => error.is_disk_full(),
            Self::Database { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Incomplete { is_full, .. } => *is_full,
            Self::NoRoomToUpgrade { .. } => true,
            _ => false,
        }
    }
}

//! What a collection asks of the index, and changes in it.
//!
//! A row that is *condemned* (1) is on its way out: nothing led to its object when somebody looked. Who brings
//! the object again, or needs it, takes the row back (2): it is here as any other (0), but as long as nobody has walked
//! through all below it, some of that may have gone.

use baton_protocol::id::{ObjectId, ObjectKind};
use rusqlite::params;

use super::Index;
use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::objects::Location;

/// What stands in a row that is on its way out, and in one that was taken back.
pub(super) const CONDEMNED: u8 = 1;
pub(super) const TAKEN_BACK: u8 = 2;

/// A row as a collection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Whose.
    pub id: ObjectId,
    /// Whether it is said that all below it is here.
    pub is_closed: bool,
    /// Whether it is on its way out.
    pub is_condemned: bool,
}

/// What of a segment has rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Live {
    /// Objects.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// An object, where it was, and where it is now.
#[derive(Clone, Copy, Debug)]
pub struct Moved {
    /// Which.
    pub id: ObjectId,
    /// Where it was.
    pub from: Location,
    /// Where it is.
    pub to: Location,
}

impl Index {
    /// Rows in the order of their hashes: at most `limit` after a hash, or from the first one on.
    pub fn page(&self, after: Option<&[u8; 32]>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        // No hash is empty, so that all are after that.
        let after = after.map_or(&[][..], |hash| &hash[..]);
        self.read("listing objects", |db| {
            db.prepare_cached(
                "SELECT hash, kind, closed, condemned FROM object WHERE hash > ?1
                 ORDER BY hash LIMIT ?2",
            )?
            .query_map(params![after, limit], |row| {
                let kind = ObjectKind::from_number(row.get(1)?);
                let (hash, is_closed) = (row.get(0)?, row.get(2)?);
                let is_condemned = row.get::<_, u8>(3)? == CONDEMNED;
                let kind = kind.ok_or(rusqlite::Error::InvalidQuery)?;
                Ok(Listed { id: ObjectId { kind, hash }, is_closed, is_condemned })
            })?
            .collect()
        })
    }

    /// Takes back that these are whole, as one step.
    pub fn unclose(&self, ids: &[ObjectId]) -> Result<(), StoreError> {
        let change = "UPDATE object SET closed = 0 WHERE hash = ?1 AND kind != 1";
        self.each("taking proofs back", change, ids).map(drop)
    }

    /// Condemns rows, as one step.
    pub fn condemn(&self, ids: &[ObjectId]) -> Result<usize, StoreError> {
        self.each("condemning objects", "UPDATE object SET condemned = 1 WHERE hash = ?1", ids)
    }

    /// Takes rows back, as one step; returns how many were there and condemned.
    pub fn revive(&self, ids: &[ObjectId]) -> Result<usize, StoreError> {
        let change = "UPDATE object SET condemned = 2 WHERE hash = ?1 AND condemned = 1";
        self.each("taking objects back", change, ids)
    }

    /// The same of what has to stay with all below it.
    pub fn acquit(&self, ids: &[ObjectId]) -> Result<usize, StoreError> {
        let change = "UPDATE object SET condemned = 0 WHERE hash = ?1 AND condemned";
        self.each("taking objects back", change, ids)
    }

    /// Deletes those of these rows that are still condemned, as one step; returns how many.
    pub fn delete_condemned(&self, ids: &[ObjectId]) -> Result<usize, StoreError> {
        let change = "DELETE FROM object WHERE hash = ?1 AND condemned = 1";
        self.each("deleting objects", change, ids)
    }

    fn each(
        &self,
        doing: &'static str,
        change: &str,
        ids: &[ObjectId],
    ) -> Result<usize, StoreError> {
        if ids.is_empty() {
            return Ok(0);
        }
        self.write(doing, |db| {
            let transaction = db.transaction()?;
            let mut changed = 0;
            {
                let mut change = transaction.prepare_cached(change)?;
                for id in ids {
                    changed += change.execute([&id.hash[..]])?;
                }
            }
            transaction.commit()?;
            Ok(changed)
        })
    }

    /// How much of each segment has rows; those that have none are left out.
    pub fn live_by_segment(&self) -> Result<Vec<(u32, Live)>, StoreError> {
        self.read("counting objects", |db| {
            db.prepare_cached("SELECT segment, count(*), sum(len) FROM object GROUP BY segment")?
                .query_map([], |row| {
                    Ok((row.get(0)?, Live { objects: row.get(1)?, bytes: row.get(2)? }))
                })?
                .collect()
        })
    }

    /// Notes where objects are now that were copied and synced, as one step; `indexed` says of segments how far they
    /// have rows. A row that went or moved meanwhile stays as it is.
    pub fn relocate(&self, moved: &[Moved], indexed: &[(u32, u64)]) -> Result<(), StoreError> {
        self.write("moving objects", |db| {
            let transaction = db.transaction()?;
            {
                let mut set = transaction.prepare_cached(
                    "UPDATE object SET segment = ?4, offset = ?5, record_len = ?6, inner = ?7
                     WHERE hash = ?1 AND segment = ?2 AND offset = ?3",
                )?;
                for Moved { id, from, to } in moved {
                    set.execute(params![
                        &id.hash[..],
                        from.segment,
                        from.offset,
                        to.segment,
                        to.offset,
                        to.record_len,
                        to.inner
                    ])?;
                }
                let mut note = transaction.prepare_cached(
                    "UPDATE segment SET indexed = max(indexed, ?2) WHERE segment = ?1",
                )?;
                for (segment, indexed) in indexed {
                    note.execute(params![segment, indexed])?;
                }
            }
            transaction.commit()
        })
    }

    /// Takes a segment away whose file is gone.
    pub fn remove_segment(&self, segment: u32) -> Result<(), StoreError> {
        self.write("removing a segment", |db| {
            db.execute("DELETE FROM segment WHERE segment = ?1", [segment]).map(drop)
        })
    }

    /// Returns when all that was changed by now survives a power cut.
    pub fn sync(&self) -> Result<(), StoreError> {
        let mut log = self.path.clone().into_os_string();
        log.push("-wal");
        let log = std::path::PathBuf::from(log);
        // No other change meanwhile; what is not in the log was synced when it was taken out of it.
        self.write("syncing", |_| Ok(()))?;
        match fs::open(&log) {
            Err(error) if error.is_not_found() => {
                let path = &self.path;
                Ok(fs::open(path)?.sync_all().context("syncing", path)?)
            }
            file => Ok(file?.sync_all().context("syncing", &log)?),
        }
    }

    /// Forgets what is known of which objects there are, where some have gone.
    pub fn forget_known(&self) {
        *self.known.write().unwrap_or_else(std::sync::PoisonError::into_inner) = None;
    }
}

//! Where each object of a vault is: SQLite, one file a vault, without a rowid.
//!
//! The index is a cache of the segments: it can be dropped, and the vault rebuilds it. Its rows are
//! written after the bytes they name are synced, and would go before them. Where it turns out not to
//! fit the segments that is noted in a file beside it, and whoever opens the vault next makes it anew.
//!
//! - [`condemned`]: what a collection asks and changes
//! - [`damage`]: what SQLite calls otherwise
//! - [`lost`]: rows whose bytes are not there
//! - [`schema`]: its tables, and how those of an older program get there
//! - [`only_read`]: an index that nothing is written to
//!
//! **Invariant:** a *closed* row proves that everything below the object is in the vault. Losing the bit
//! costs a walk, never a lie.

mod condemned;
mod damage;
mod lost;
mod schema;
mod only_read;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use baton_protocol::id::{HashPrefix, ObjectId, ObjectKind};
use rusqlite::{Connection, OptionalExtension, params};

pub use condemned::{Listed, Live, Moved};
#[cfg(test)]
pub(crate) use schema::{bring_up, die_if_told};

use crate::error::StoreError;
use crate::fs;
pub use crate::objects::Location;

/// Below this SQLite can corrupt a WAL database at a reset.
const LEAST_SQLITE: i32 = 3_051_003;

/// Objects that are looked up one by one before the fingerprints of all are loaded: with a million rows
/// that takes half a second and 20 MB, for a snapshot of a tree in which nothing changed.
const ASKED_SINGLY: u32 = 1000;

/// Idle read connections that are kept.
const MAX_IDLE: usize = 4;

/// A segment as the index knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentRow {
    /// Its number.
    pub segment: u32,
    /// Its file name.
    pub name: String,
    /// 0 data, 1 metadata.
    pub class: u8,
    /// Bytes whose records have rows.
    pub indexed: u64,
}

/// What the index says of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Where it is.
    pub at: Location,
    /// Whether all below it is here.
    pub is_closed: bool,
    /// Whether it is on its way out.
    pub is_condemned: bool,
    /// Whether it was, and nobody has proved since that all below it is here.
    pub is_taken_back: bool,
}

/// The index of one vault.
#[derive(Debug)]
pub struct Index {
    path: PathBuf,
    is_only_read: bool,
    writer: Mutex<Connection>,
    idle: Mutex<Vec<Connection>>,
    /// First eight bytes of every hash, once somebody has asked often: answers most misses.
    known: RwLock<Option<HashSet<HashPrefix>>>,
    /// How often somebody asked before that.
    asked: AtomicU32,
    doubted: AtomicBool,
    /// The largest number that a segment has had: none is used twice while somebody may have an old one open.
    last_segment: AtomicU32,
}

impl Index {
    /// Opens the index, or makes an empty one. An index of a newer program is refused.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        assert!(rusqlite::version_number() >= LEAST_SQLITE, "the bundled SQLite is too old");
        let mut writer = connect(path)?;
        #[cfg(test)]
        schema::die_if_told(&mut writer);
        schema::bring_up(&mut writer, path)?;
        Self::of(path, writer, false)
    }

    fn of(path: &Path, writer: Connection, is_only_read: bool) -> Result<Self, StoreError> {
        let last: Option<u32> = writer
            .query_row("SELECT max(segment) FROM segment", [], |row| row.get(0))
            .map_err(database("opening the index", path))?;
        Ok(Self {
            path: path.to_owned(),
            is_only_read,
            writer: Mutex::new(writer),
            idle: Mutex::default(),
            known: RwLock::default(),
            asked: AtomicU32::new(0),
            doubted: AtomicBool::new(false),
            last_segment: AtomicU32::new(last.unwrap_or_default()),
        })
    }

    /// The file that says that the index at this path is not to be believed.
    pub fn doubt_file(path: &Path) -> PathBuf {
        path.with_extension("doubted")
    }

    /// Notes that the index, or what it names, is damaged.
    pub fn doubt(&self) {
        if self.is_only_read || self.doubted.swap(true, Ordering::Relaxed) {
            return;
        }
        tracing::warn!(path = %self.path.display(), "the index is made anew when it is opened next");
        if let Err(error) = fs::write_atomic(&Self::doubt_file(&self.path), b"", 0o600) {
            // The next reader of the damage tries again.
            self.doubted.store(false, Ordering::Relaxed);
            tracing::warn!(%error, "a damaged index could not be marked");
        }
    }

    /// What is known of an object.
    pub fn find(&self, id: &ObjectId) -> Result<Option<Found>, StoreError> {
        if !self.may_know(id)? {
            return Ok(None);
        }
        self.read("looking up an object", |db| {
            db.prepare_cached(
                "SELECT segment, offset, record_len, inner, len, closed, condemned
                 FROM object WHERE hash = ?1 AND kind = ?2",
            )?
            .query_row(params![&id.hash[..], id.kind as u8], |row| {
                let (is_closed, state) = (row.get(5)?, row.get::<_, u8>(6)?);
                let (is_condemned, is_taken_back) =
                    (state == condemned::CONDEMNED, state == condemned::TAKEN_BACK);
                Ok(Found { at: location(row)?, is_closed, is_condemned, is_taken_back })
            })
            .optional()
        })
    }

    /// Where each of these objects is: in one transaction and by ascending hash, so that an object costs half
    /// of what [`Index::find`] does.
    pub fn find_all(&self, ids: &[ObjectId]) -> Result<Vec<Option<Location>>, StoreError> {
        let mut order: Vec<usize> = (0..ids.len()).collect();
        order.sort_unstable_by_key(|&at| ids.get(at).map(|id| id.hash));
        let mut found = vec![None; ids.len()];
        self.read("looking up objects", |db| {
            let transaction = db.unchecked_transaction()?;
            let mut find = transaction.prepare_cached(
                "SELECT segment, offset, record_len, inner, len FROM object
                 WHERE hash = ?1 AND kind = ?2",
            )?;
            for at in order {
                let (Some(id), Some(place)) = (ids.get(at), found.get_mut(at)) else { continue };
                *place =
                    find.query_row(params![&id.hash[..], id.kind as u8], location).optional()?;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The object of a kind whose hash starts with these bytes, where there is exactly one.
    pub fn find_prefix(
        &self,
        kind: Option<ObjectKind>,
        prefix: &[u8],
    ) -> Result<Vec<ObjectId>, StoreError> {
        let mut upper = [0xff; 32];
        for (to, from) in upper.iter_mut().zip(prefix) {
            *to = *from;
        }
        self.read("looking up a prefix", |db| {
            db.prepare_cached(
                "SELECT hash, kind FROM object WHERE hash >= ?1 AND hash <= ?2 AND
                 (?3 IS NULL OR kind = ?3) AND condemned != 1 LIMIT 16",
            )?
            .query_map(params![prefix, &upper[..], kind.map(|kind| kind as u8)], |row| {
                Ok((row.get::<_, u8>(1)?, row.get(0)?))
            })?
            .collect::<rusqlite::Result<Vec<_>>>()
        })
        .map(|rows| {
            let id = |(kind, hash)| Some(ObjectId { kind: ObjectKind::from_number(kind)?, hash });
            rows.into_iter().filter_map(id).collect()
        })
    }

    /// Adds objects of one segment whose bytes are synced, and notes that the segment is indexed up
    /// to `indexed`. Objects that are there already stay where they are, unless they were condemned: those are back.
    pub fn insert(
        &self,
        segment: u32,
        indexed: u64,
        objects: &mut [(ObjectId, Location)],
        closed: bool,
    ) -> Result<(), StoreError> {
        objects.sort_unstable_by_key(|(id, _)| id.hash);
        self.write("adding objects", |db| {
            let transaction = db.transaction()?;
            {
                let mut add = transaction.prepare_cached(
                    "INSERT INTO object(hash, kind, segment, offset, record_len, inner, len, closed)
                     VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
                     ON CONFLICT (hash) DO UPDATE SET
                       segment = iif(condemned = 1, excluded.segment, segment),
                       offset = iif(condemned = 1, excluded.offset, offset),
                       record_len = iif(condemned = 1, excluded.record_len, record_len),
                       inner = iif(condemned = 1, excluded.inner, inner),
                       closed = iif(condemned = 1, excluded.closed, max(closed, excluded.closed)),
                       condemned = iif(condemned = 0, 0, 2)",
                )?;
                for (id, at) in &*objects {
                    // A chunk refers to nothing: it is closed as soon as it is here.
                    let closed = closed || id.kind == ObjectKind::Chunk;
                    add.execute(params![
                        &id.hash[..],
                        id.kind as u8,
                        at.segment,
                        at.offset,
                        at.record_len,
                        at.inner,
                        at.len,
                        closed
                    ])?;
                }
                transaction.execute(
                    "UPDATE segment SET indexed = max(indexed, ?2) WHERE segment = ?1",
                    params![segment, indexed],
                )?;
            }
            transaction.commit()
        })?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &mut *known {
            known.extend(objects.iter().map(|(id, _)| id.prefix()));
        }
        Ok(())
    }

    /// Notes that everything below these objects is here.
    pub fn close(&self, ids: &[ObjectId]) -> Result<(), StoreError> {
        if ids.is_empty() {
            return Ok(());
        }
        self.write("closing objects", |db| {
            let transaction = db.transaction()?;
            {
                let mut close = transaction.prepare_cached(
                    "UPDATE object SET closed = 1, condemned = 0 WHERE hash = ?1",
                )?;
                for id in ids {
                    close.execute([&id.hash[..]])?;
                }
            }
            transaction.commit()
        })
    }

    /// Takes back that anything is closed.
    pub fn reopen(&self) -> Result<(), StoreError> {
        self.write("taking proofs back", |db| {
            db.execute("UPDATE object SET closed = 0 WHERE kind != 1 AND closed != 0", []).map(drop)
        })
    }

    /// Every segment.
    pub fn segments(&self) -> Result<Vec<SegmentRow>, StoreError> {
        self.read("listing segments", |db| {
            db.prepare_cached("SELECT segment, name, class, indexed FROM segment")?
                .query_map([], segment_row)?
                .collect()
        })
    }

    /// One segment.
    pub fn segment(&self, segment: u32) -> Result<Option<SegmentRow>, StoreError> {
        self.read("looking up a segment", |db| {
            db.prepare_cached(
                "SELECT segment, name, class, indexed FROM segment WHERE segment = ?1",
            )?
            .query_row([segment], segment_row)
            .optional()
        })
    }

    /// Adds a segment and returns its number.
    pub fn add_segment(&self, name: &str, class: u8) -> Result<u32, StoreError> {
        let segment = self.last_segment.fetch_add(1, Ordering::Relaxed) + 1;
        self.write("adding a segment", |db| {
            let add = "INSERT INTO segment (segment, name, class, indexed) VALUES (?1, ?2, ?3, 0)";
            db.execute(add, params![segment, name, class]).map(|_| segment)
        })
    }

    /// Notes a segment's new name, and that all of it is indexed.
    pub fn rename_segment(&self, segment: u32, name: &str, indexed: u64) -> Result<(), StoreError> {
        self.write("renaming a segment", |db| {
            db.execute(
                "UPDATE segment SET name = ?2, indexed = ?3 WHERE segment = ?1",
                params![segment, name, indexed],
            )
            .map(drop)
        })
    }

    /// Takes away rows whose bytes are gone: of a segment, from an offset on. Returns how many.
    pub fn forget_from(&self, segment: u32, offset: u64) -> Result<usize, StoreError> {
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.write("forgetting lost objects", |db| {
            let transaction = db.transaction()?;
            let gone = transaction.execute(
                "DELETE FROM object WHERE segment = ?1 AND offset + record_len > ?2",
                params![segment, offset],
            )?;
            // What was proved whole may have lost a part.
            if gone > 0 {
                transaction.execute("UPDATE object SET closed = 0 WHERE kind != 1", [])?;
            }
            transaction.execute(
                "UPDATE segment SET indexed = min(indexed, ?2) WHERE segment = ?1",
                params![segment, offset],
            )?;
            if offset == 0 {
                transaction.execute("DELETE FROM segment WHERE segment = ?1", [segment])?;
            }
            transaction.commit()?;
            Ok(gone)
        })
    }

    /// Hands every object with its place to `visit`, in the order of their hashes.
    pub fn for_each(&self, mut visit: impl FnMut(ObjectId, Location)) -> Result<(), StoreError> {
        self.read("listing objects", |db| {
            let mut all = db.prepare(
                "SELECT segment, offset, record_len, inner, len, hash, kind FROM object
                 ORDER BY hash",
            )?;
            let mut rows = all.query([])?;
            while let Some(row) = rows.next()? {
                if let Some(kind) = ObjectKind::from_number(row.get(6)?) {
                    visit(ObjectId { kind, hash: row.get(5)? }, location(row)?);
                }
            }
            Ok(())
        })
    }

    /// What SQLite itself finds wrong with the file.
    pub fn integrity(&self) -> Result<Option<String>, StoreError> {
        let found: String = self.read("checking the index", |db| {
            db.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
        })?;
        Ok((found != "ok").then_some(found))
    }

    fn may_know(&self, id: &ObjectId) -> Result<bool, StoreError> {
        if let Some(is_known) = self.is_known(id.prefix()) {
            return Ok(is_known);
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) < ASKED_SINGLY {
            return Ok(true);
        }
        self.has_prefix(&id.prefix())
    }

    /// Whether the hash of some object begins so; nothing where those of all are not loaded.
    fn is_known(&self, prefix: HashPrefix) -> Option<bool> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map(|known| known.contains(&prefix))
    }

    /// Whether the hash of some object begins so. For who asks often: the first one loads the beginnings of all.
    pub fn has_prefix(&self, prefix: &HashPrefix) -> Result<bool, StoreError> {
        if let Some(is_known) = self.is_known(*prefix) {
            return Ok(is_known);
        }
        // Loaded under the lock, so that no insert falls between the reading and the set.
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let mut all = HashSet::new();
            self.read("loading the index", |db| {
                let mut hashes = db.prepare("SELECT substr(hash, 1, 8) FROM object")?;
                let mut rows = hashes.query([])?;
                while let Some(row) = rows.next()? {
                    all.insert(row.get(0)?);
                }
                Ok(())
            })?;
            *known = Some(all);
        }
        Ok(known.as_ref().is_some_and(|known| known.contains(prefix)))
    }

    fn read<T>(
        &self,
        doing: &'static str,
        query: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let db = match idle {
            Some(db) => db,
            None if self.is_only_read => only_read::connect(&self.path)?,
            None => connect(&self.path)?,
        };
        let found = query(&db).map_err(|source| self.failure(doing, source));
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(db);
        }
        found
    }

    fn write<T>(
        &self,
        doing: &'static str,
        change: impl FnOnce(&mut MutexGuard<'_, Connection>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let mut db = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut db).map_err(|source| self.failure(doing, source))
    }

    fn failure(&self, doing: &'static str, source: rusqlite::Error) -> StoreError {
        let error = database(doing, &self.path)(source);
        if error.is_corruption() {
            self.doubt();
        }
        error
    }
}

fn segment_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<SegmentRow> {
    Ok(SegmentRow {
        segment: row.get(0)?,
        name: row.get(1)?,
        class: row.get(2)?,
        indexed: row.get(3)?,
    })
}

fn location(row: &rusqlite::Row<'_>) -> rusqlite::Result<Location> {
    Ok(Location {
        segment: row.get(0)?,
        offset: row.get(1)?,
        record_len: row.get(2)?,
        inner: row.get(3)?,
        len: row.get(4)?,
    })
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let db = Connection::open(path)?;
        db.busy_timeout(std::time::Duration::from_secs(30))?;
        db.set_prepared_statement_cache_capacity(32);
        db.execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
             PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384;",
        )?;
        Ok(db)
    };
    open().map_err(database("opening the index", path))
}

fn database(doing: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Database {
        doing,
        path: path.to_owned(),
        source: damage::named(source, path),
    }
}

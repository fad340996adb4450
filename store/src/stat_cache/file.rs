//! The SQLite file of a stat cache.
//!
//! **Invariant:** opening one that is there writes nothing.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use crate::fs;

/// Statements that are kept parsed: all there are.
const STATEMENTS: usize = 32;

/// `BTNt`: tells a stat cache from any other SQLite file.
const APPLICATION: u32 = u32::from_be_bytes(*b"BTNt");

/// The format that this program reads and writes; any other is dropped.
const FORMAT: u32 = 3;

/// Opens the file, or makes one. One of another program or another format is refused.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags)?;
    // What does not fit in a quarter of a page costs further pages: most directories do.
    db.pragma_update(None, "page_size", 16384)?;
    let read = |name| db.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let header = (read("application_id")?, read("user_version")?);
    if header != (0, 0) && header != (APPLICATION, FORMAT) {
        return Err(rusqlite::Error::InvalidQuery);
    }
    db.pragma_update(None, "journal_mode", "wal")?;
    // A power cut loses the last rows, never the order of what was written.
    db.pragma_update(None, "synchronous", "normal")?;
    db.pragma_update(None, "locking_mode", "exclusive")?;
    db.set_prepared_statement_cache_capacity(STATEMENTS);
    prepare(&db, header == (0, 0))?;
    Ok(db)
}

/// Makes the tables where they are not there.
pub(super) fn prepare(db: &Connection, is_new: bool) -> rusqlite::Result<()> {
    db.execute_batch(
        "CREATE TABLE IF NOT EXISTS directory(
             path BLOB NOT NULL, first BLOB NOT NULL, inode BLOB, tree BLOB, below BLOB,
             files BLOB NOT NULL,
             PRIMARY KEY(path, first)
         ) STRICT, WITHOUT ROWID;
         CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;",
    )?;
    if is_new {
        db.pragma_update(None, "application_id", APPLICATION)?;
        db.pragma_update(None, "user_version", FORMAT)?;
    }
    db.pragma_update(None, "cache_size", -2048)?;
    db.execute_batch("BEGIN")
}

/// Takes the files of a cache away that cannot be used.
pub(super) fn remove(path: &Path) {
    for end in ["", "-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        if let Err(error) = fs::remove_file(Path::new(&name)) {
            tracing::debug!(%error, "not removed");
        }
    }
}

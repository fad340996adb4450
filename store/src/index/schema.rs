//! The tables of an index, and how those of an older program get there.
//!
//! **Invariant:** whatever ends a migration, the index is as it was or as it is to be.

use std::path::Path;

use rusqlite::Connection;

use super::database;
use crate::error::StoreError;

/// Format 2 has rows that are condemned.
pub(super) const FORMAT: u32 = 2;

const TABLES: &str = "
CREATE TABLE IF NOT EXISTS object (
    hash BLOB PRIMARY KEY, kind INTEGER, segment INTEGER, offset INTEGER,
    record_len INTEGER, inner INTEGER, len INTEGER, closed INTEGER,
    condemned INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (
    segment INTEGER PRIMARY KEY, name TEXT UNIQUE, class INTEGER, indexed INTEGER
);
";

/// Adds the column. A row that has none before is not condemned.
const STEP_2: &str = "ALTER TABLE object ADD COLUMN condemned INTEGER NOT NULL DEFAULT 0;";

/// For tests: ends this process as a kill would where the environment says so, after that many times ten steps of SQLite.
#[cfg(test)]
pub(crate) fn die_if_told(db: &mut Connection) {
    #[expect(clippy::disallowed_methods, reason = "a test tells the process that it starts")]
    let told = std::env::var("BATON_TEST_DIES_AT");
    let Some(mut left) = told.ok().and_then(|told| told.parse::<u32>().ok()) else { return };
    let count = move || {
        left -= 1;
        if left == 0 {
            let this = rustix::process::getpid();
            rustix::process::kill_process(this, rustix::process::Signal::KILL).unwrap();
        }
        false
    };
    db.progress_handler(10, Some(count)).unwrap();
}

/// The format of an index. That of a newer program is refused.
pub(super) fn format_of(db: &Connection, path: &Path) -> Result<u32, StoreError> {
    let found: u32 = db
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(database("opening the index", path))?;
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found, supported: FORMAT });
    }
    Ok(found)
}

/// Makes the tables, or brings them to [`FORMAT`], in one transaction.
pub(crate) fn bring_up(db: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found = format_of(db, path)?;
    let mut step = || {
        let transaction = db.transaction()?;
        transaction.execute_batch(TABLES)?;
        if found < 2 && transaction.prepare("SELECT condemned FROM object LIMIT 0").is_err() {
            transaction.execute_batch(STEP_2)?;
        }
        if found != FORMAT {
            transaction.pragma_update(None, "user_version", FORMAT)?;
        }
        transaction.commit()
    };
    step().map_err(|source| {
        StoreError::upgrading(path, source, database("bringing the index up to date", path))
    })
}

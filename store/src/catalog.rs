//! What is not content: users, devices, tickets, remotes, workspaces and runs, in one SQLite file.
//!
//! Not here: objects and refs (vaults), and anything that could be computed again. The catalog is
//! backed up, never rebuilt.
//!
//! - [`meta`]: single values of the home
//! - [`users`]: who owns which vault
//! - [`devices`]: which keys may connect, and what they may do
//! - [`tickets`]: how a key becomes a device
//! - [`remotes`]: the nodes that this home knows
//! - [`workspaces`]: the trees that are kept, and what each node has acknowledged of them
//! - [`queue`]: what waits for the network
//! - [`history`]: which snapshots are kept, and which were thinned out
//! - [`held`]: what the secret scan holds back, and what was allowed
//! - [`runs`]: runs of this node, and what was last seen of those elsewhere
//! - [`roots`]: which snapshots have to stay, and which were forgotten
//!
//! - [`durable`]: making commits durable, those of several threads at once
//! - [`only_read`]: a catalog that nothing is written to
//!
//! **Invariant:** a call that returned has survived a power cut, unless it says otherwise. Who reads may see what another
//! one has not been answered yet.
//!
//! **Invariant:** a file of a newer format is never written to.

mod durable;
mod only_read;
pub mod meta;
pub mod users;
pub mod devices;
pub mod tickets;
pub mod remotes;
pub mod workspaces;
pub mod queue;
pub mod history;
pub mod held;
pub mod runs;
pub mod roots;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use durable::{Commit, Durable, log_of};

use crate::error::StoreError;
use crate::fs::{self, FsError};
use crate::layout::Layout;

/// The format that this program writes.
const FORMAT: u32 = 5;

/// `BTNc`: tells a catalog from any other SQLite file.
const APPLICATION: u32 = u32::from_be_bytes(*b"BTNc");

/// Before 3.51.3 a reset of the write-ahead log could corrupt the database.
const LEAST_SQLITE: i32 = 3_051_003;

/// Statements that are kept parsed: parsing one takes longer than most of them.
const STATEMENTS: usize = 64;

/// How long a second process (a command without its daemon) waits for the first one's write.
const BUSY: Duration = Duration::from_secs(5);

/// Format 1. A later format adds a step; a step that was released never changes.
const STEP_1: &str = "
CREATE TABLE meta(
    key TEXT PRIMARY KEY,
    value BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE users(
    name TEXT PRIMARY KEY,
    vault BLOB NOT NULL UNIQUE
) STRICT, WITHOUT ROWID;

CREATE TABLE devices(
    id BLOB PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users(name),
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    last_seen INTEGER,
    revoked INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE tickets(
    hash BLOB PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users(name),
    role TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    uses_left INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE redemptions(
    hash BLOB NOT NULL REFERENCES tickets(hash) ON DELETE CASCADE,
    device BLOB NOT NULL,
    PRIMARY KEY(hash, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE remotes(
    name TEXT PRIMARY KEY,
    node BLOB NOT NULL,
    user TEXT NOT NULL,
    addresses TEXT NOT NULL,
    joined_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE workspaces(
    id BLOB PRIMARY KEY,
    root BLOB NOT NULL UNIQUE,
    created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE acked(
    workspace BLOB NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
    node BLOB NOT NULL,
    snapshot BLOB NOT NULL,
    PRIMARY KEY(workspace, node)
) STRICT, WITHOUT ROWID;

CREATE TABLE runs(
    run BLOB PRIMARY KEY,
    user TEXT NOT NULL REFERENCES users(name),
    vault BLOB NOT NULL,
    thread BLOB NOT NULL,
    workspace BLOB NOT NULL,
    snapshot BLOB NOT NULL,
    agent TEXT NOT NULL,
    command BLOB NOT NULL,
    prompt TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    result BLOB,
    exit_code INTEGER,
    isolated INTEGER NOT NULL DEFAULT 0,
    checkout TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER
) STRICT;
CREATE INDEX runs_by_user ON runs(user, created_at);
CREATE INDEX runs_live ON runs(state)
    WHERE state NOT IN ('succeeded', 'failed', 'cancelled', 'interrupted');

CREATE TABLE remembered_runs(
    run BLOB NOT NULL,
    node BLOB NOT NULL,
    seen_at INTEGER NOT NULL,
    thread BLOB NOT NULL,
    workspace BLOB NOT NULL,
    snapshot BLOB NOT NULL,
    agent TEXT NOT NULL,
    command BLOB NOT NULL,
    prompt TEXT,
    state TEXT NOT NULL,
    reason TEXT,
    result BLOB,
    exit_code INTEGER,
    isolated INTEGER NOT NULL,
    checkout TEXT,
    created_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    PRIMARY KEY(node, run)
) STRICT;
";

/// Format 2: workspaces that are watched, the queue, what is kept and what is held.
const STEP_2: [&str; 4] = [workspaces::STEP_2, queue::STEP_2, history::STEP_2, held::STEP_2];

/// Format 3: runs that follow up another one.
const STEP_3: &str = runs::STEP_3;

/// Format 4: under which terms runs work, what they wait for, and what became of their checks.
const STEP_4: &str = runs::STEP_4;

/// Format 5: what was forgotten.
const STEP_5: &str = roots::STEP_5;

/// The catalog of a home; clones share one connection.
#[derive(Clone)]
pub struct Catalog(Arc<Inner>);

struct Inner {
    path: PathBuf,
    /// Reads while the other one waits for the disk; closed first, since the last one to be closed tidies up.
    reader: Mutex<Connection>,
    connection: Mutex<Connection>,
    durable: Durable,
    /// Of a home that is only read.
    only_read: Option<Layout>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Catalog").field("path", &self.0.path).finish_non_exhaustive()
    }
}

impl Catalog {
    /// Opens the catalog at `path`, and makes it where there is none; its folder must be there.
    ///
    /// Fails with [`StoreError::Newer`] where a newer program wrote it, with
    /// [`StoreError::Damaged`] where it is no database of ours.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        if rusqlite::version_number() < LEAST_SQLITE {
            let source = rusqlite::Error::InvalidParameterName(format!(
                "SQLite {} is linked, 3.51.3 or later is needed",
                rusqlite::version()
            ));
            return Err(StoreError::Database { doing: "opening", path: path.to_owned(), source });
        }
        match fs::create_new(path) {
            // SQLite gives its other files the mode of this one.
            Ok(file) => {
                drop(file);
                fs::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
            }
            Err(FsError { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error.into()),
        }
        let failed = |source| failure("opening", path, source);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let mut connection = Connection::open_with_flags(resolved(path)?, flags).map_err(failed)?;
        connection.busy_timeout(BUSY).map_err(failed)?;
        // Reads the header: refuse what is not ours before the first write.
        recognise(&connection, path)?;
        connection.pragma_update(None, "journal_mode", "wal").map_err(failed)?;
        connection.pragma_update(None, "synchronous", "full").map_err(failed)?;
        connection.pragma_update(None, "foreign_keys", true).map_err(failed)?;
        connection.pragma_update(None, "trusted_schema", false).map_err(failed)?;
        #[cfg(test)]
        crate::index::die_if_told(&mut connection);
        migrate(&mut connection, path)?;
        if log_of(&resolved(path)?).metadata().is_ok_and(|log| log.len() > 0) {
            // What an earlier daemon has committed without a sync, and what this one has migrated, lasts from here on.
            let truncate = "PRAGMA wal_checkpoint(TRUNCATE)";
            connection.query_row(truncate, [], |_| Ok(())).map_err(failed)?;
        }
        // From here on the log is synced by whoever waits for that.
        connection.pragma_update(None, "synchronous", "normal").map_err(failed)?;
        let durable = Durable::open(&resolved(path)?)?;
        let reader = Connection::open_with_flags(resolved(path)?, flags).map_err(failed)?;
        reader.busy_timeout(BUSY).map_err(failed)?;
        reader.pragma_update(None, "query_only", true).map_err(failed)?;
        reader.pragma_update(None, "trusted_schema", false).map_err(failed)?;
        for connection in [&connection, &reader] {
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
        }
        let (connection, reader) = (Mutex::new(connection), Mutex::new(reader));
        let path = path.to_owned();
        Ok(Self(Arc::new(Inner { path, reader, connection, durable, only_read: None })))
    }

    /// Reads the whole file and says what is wrong with it; nothing where it is sound: its structure, and what of the values
    /// has a checksum or leads to another table. A value that is only another one is not noticed.
    pub fn check(&self) -> Result<Vec<String>, StoreError> {
        self.read("checking", |db| {
            let mut statement = db.prepare("PRAGMA integrity_check(20)")?;
            let lines = statement.query_map([], |row| row.get::<_, String>(0))?;
            let mut found: Vec<String> =
                lines.filter(|line| line.as_deref() != Ok("ok")).collect::<Result<_, _>>()?;
            let mut statement = db.prepare("PRAGMA foreign_key_check")?;
            let tables = statement.query_map([], |row| row.get::<_, String>(0))?;
            for table in tables {
                found.push(format!("a row of {} leads to none of another table", table?));
            }
            found.extend(queue::check(db)?);
            Ok(found)
        })
    }

    /// One statement, or several that only read.
    fn read<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let reader = self.0.reader.lock().unwrap_or_else(PoisonError::into_inner);
        work(&reader).map_err(|source| failure(doing, &self.0.path, source))
    }

    /// Several statements as one: all of them last, or none.
    fn write<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        let (value, commit) = self.commit(doing, work)?;
        self.0.durable.wait(commit)?;
        Ok(value)
    }

    /// The same, and does not wait for the disk: a power cut may take it back.
    fn note<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        self.commit(doing, work).map(|(value, _)| value)
    }

    /// Returns when all that was written by now is durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.0.durable.wait(self.0.durable.latest())
    }

    fn commit<T>(
        &self,
        doing: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>,
    ) -> Result<(T, Commit), StoreError> {
        self.check_writable()?;
        self.0.durable.check()?;
        let mut connection = self.lock();
        connection
            .transaction_with_behavior(TransactionBehavior::Immediate)
            .and_then(|transaction| {
                let value = work(&transaction)?;
                transaction.commit()?;
                Ok((value, self.0.durable.committed()))
            })
            .map_err(|source| failure(doing, &self.0.path, source))
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        // A panic under the lock has rolled its transaction back: the connection is as before.
        self.0.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The folder without symbolic links, as `NOFOLLOW` wants it; the file itself must not be one.
fn resolved(path: &Path) -> Result<PathBuf, FsError> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let resolved = folder.canonicalize().map_err(|source| FsError {
        action: "resolving",
        path: folder.to_owned(),
        source,
    })?;
    Ok(resolved.join(path.file_name().unwrap_or_default()))
}

/// Gives a failure its place, and damage its name.
fn failure(doing: &'static str, path: &Path, source: rusqlite::Error) -> StoreError {
    let detail = match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => "not a database",
        Some(ErrorCode::DatabaseCorrupt) => "the database is corrupt",
        _ => return StoreError::Database { doing, path: path.to_owned(), source },
    };
    StoreError::Damaged { path: path.to_owned(), offset: 0, detail }
}

/// Refuses a file that is newer than this program or is not a catalog.
fn recognise(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let read = |name| connection.pragma_query_value(None, name, |row| row.get::<_, u32>(0));
    let header = || Ok((read("application_id")?, read("user_version")?));
    let (application, found) = header().map_err(|source| failure("opening", path, source))?;
    if application == 0 && found == 0 {
        let count = "SELECT count(*) FROM sqlite_schema";
        let tables = connection.query_row(count, [], |row| row.get::<_, i64>(0));
        if tables.map_err(|source| failure("opening", path, source))? == 0 {
            return Ok(());
        }
    }
    if application != APPLICATION {
        let detail = "the database of another program";
        return Err(StoreError::Damaged { path: path.to_owned(), offset: 68, detail });
    }
    if found > FORMAT {
        return Err(StoreError::Newer { path: path.to_owned(), found, supported: FORMAT });
    }
    Ok(())
}

/// Brings the file to [`FORMAT`], step by step, in one transaction.
fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found: u32 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|source| failure("opening", path, source))?;
    if (1..FORMAT).contains(&found) {
        StoreError::check_room_to_upgrade(path)?;
    }
    let mut step = || {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let found: u32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if found < 1 {
            transaction.execute_batch(STEP_1)?;
            transaction.pragma_update(None, "application_id", APPLICATION)?;
        }
        if found < 2 {
            STEP_2.iter().try_for_each(|step| transaction.execute_batch(step))?;
        }
        if found < 3 {
            transaction.execute_batch(STEP_3)?;
        }
        if found < 4 {
            transaction.execute_batch(STEP_4)?;
        }
        if found < 5 {
            transaction.execute_batch(STEP_5)?;
        }
        transaction.execute_batch(queue::SUMS)?;
        if found < FORMAT {
            transaction.pragma_update(None, "user_version", FORMAT)?;
        }
        transaction.commit()
    };
    step().map_err(|source| {
        StoreError::upgrading(path, source, |source| failure("migrating", path, source))
    })
}

/// A number as SQLite keeps it. Times and counts stay far below the limit.
fn sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number that [`sql`] has stored.
fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

/// A value that no version of this program has stored.
fn unreadable(column: usize, what: &'static str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, what.into())
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// Makes a catalog as a program of an older format did, with a little in it.
    pub(crate) fn of_format(path: &Path, format: u32) {
        let steps =
            [STEP_1.to_owned(), STEP_2.concat(), STEP_3.into(), STEP_4.into(), STEP_5.into()];
        let db = Connection::open(path).unwrap();
        db.pragma_update(None, "journal_mode", "wal").unwrap();
        for step in steps.iter().take(format as usize) {
            db.execute_batch(step).unwrap();
        }
        db.execute_batch(
            "INSERT INTO users VALUES ('ann', x'01');
             INSERT INTO workspaces(id, root, created_at) VALUES (x'02', x'03', 4);",
        )
        .unwrap();
        db.pragma_update(None, "application_id", APPLICATION).unwrap();
        db.pragma_update(None, "user_version", format).unwrap();
    }

    /// Brings it to today's, and nothing else: what changed is in the log only while what is returned is open.
    pub(crate) fn migrated(path: &Path) -> Connection {
        let mut db = Connection::open(path).unwrap();
        db.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        migrate(&mut db, path).unwrap();
        db
    }

    pub(crate) const TODAY: u32 = FORMAT;

    /// A catalog of its own, and the folder that must outlive it.
    pub(crate) fn catalog() -> (tempfile::TempDir, Catalog) {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        (folder, catalog)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn opens_again_with_what_was_written_and_is_private() {
        let (folder, catalog) = testing::catalog();
        catalog.set_meta("a", b"1").unwrap();
        assert_eq!(catalog.check().unwrap(), Vec::<String>::new());
        for name in ["catalog.db", "catalog.db-wal"] {
            let mode = std::fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        let second = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        assert_eq!(second.meta("a").unwrap(), Some(b"1".to_vec()));
    }

    #[test]
    fn every_commit_is_synced() {
        let (_folder, catalog) = testing::catalog();
        // Before a checkpoint and after it; each commit by `durable`.
        let level: i64 =
            catalog.lock().pragma_query_value(None, "synchronous", |row| row.get(0)).unwrap();
        assert_eq!(level, 1);
        let mode: String = catalog
            .read("reading", |db| db.pragma_query_value(None, "journal_mode", |row| row.get(0)))
            .unwrap();
        assert_eq!(mode, "wal");
    }

    #[test]
    fn a_newer_file_is_refused_and_not_touched() {
        let (folder, catalog) = testing::catalog();
        let path = folder.path().join("catalog.db");
        catalog.write("ageing", |db| db.pragma_update(None, "user_version", FORMAT + 1)).unwrap();
        drop(catalog);
        let before = fs::read_if_exists(&path, 1 << 20).unwrap();
        let refused = Catalog::open(&path).unwrap_err();
        let StoreError::Newer { found, supported, .. } = refused else { panic!("{refused}") };
        assert_eq!((found, supported), (FORMAT + 1, FORMAT));
        assert_eq!(fs::read_if_exists(&path, 1 << 20).unwrap(), before);
    }

    #[test]
    fn what_is_no_catalog_is_called_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text.db");
        fs::write_atomic(&text, &[b'x'; 4096], 0o600).unwrap();
        let refused = Catalog::open(&text).unwrap_err();
        assert!(refused.is_corruption() && refused.to_string().contains("not a database"));
        assert_eq!(fs::read_if_exists(&text, 8192).unwrap(), Some(vec![b'x'; 4096]));

        let other = folder.path().join("other.db");
        Connection::open(&other).unwrap().execute_batch("CREATE TABLE notes(text)").unwrap();
        let refused = Catalog::open(&other).unwrap_err();
        assert!(refused.is_corruption() && refused.to_string().contains("another program"));
    }

    #[test]
    fn overwritten_pages_are_called_damaged() {
        let (folder, catalog) = testing::catalog();
        drop(catalog);
        let path = folder.path().join("catalog.db");
        let mut bytes = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        // The schema stays readable; every table behind it does not.
        let schema = 4096.min(bytes.len());
        bytes[schema..].fill(0xa5);
        fs::write_atomic(&path, &bytes, 0o600).unwrap();
        let found = Catalog::open(&path).and_then(|catalog| catalog.check());
        match found {
            Ok(problems) => assert!(!problems.is_empty()),
            Err(error) => assert!(error.is_corruption(), "{error}"),
        }
    }

    #[test]
    fn a_transaction_that_fails_leaves_nothing() {
        let (_folder, catalog) = testing::catalog();
        let failed = catalog.write("writing", |db| {
            db.execute("INSERT INTO meta VALUES ('x', x'00')", [])?;
            db.execute("INSERT INTO nowhere VALUES (1)", [])
        });
        assert!(matches!(failed, Err(StoreError::Database { doing: "writing", .. })));
        assert_eq!(catalog.meta("x").unwrap(), None);
    }
}

//! A SQLite database of another program: looked into while that is at work, and never written.
//!
//! In a folder of our own user it is read where it lies, as one of the readers that SQLite lets be there beside a writer.
//! In a folder in which anybody may have put anything it is copied first, file by file: SQLite maps a file that all its
//! readers share, and whoever shortens that ends a process that has it mapped; and it goes by paths, which lead
//! elsewhere where a name is exchanged for a link.
//!
//! A copy is whole although nobody waits for anybody: pages of the database change only when the log is taken over into it,
//! and so a database that reads the same before and after its log was copied is one with that log. A log that was begun anew
//! has another head.
//!
//! **Invariant:** whatever the file says, a call ends: steps, and bytes of a value, are bounded.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_protocol::path::RelPath;
use rusqlite::limits::Limit;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, params_from_iter};

use super::{Folder, FolderError, Scratch};
use crate::fs::{self, FsError};

/// Longest database that is copied, without its log, which may be as long.
const MAX_COPY: u64 = 1 << 30;

/// How often a database that changes is copied.
const TRIES: usize = 5;

/// How long somebody who has all of it is waited for.
const BUSY: Duration = Duration::from_secs(3);

/// Longest value that is ever in memory.
const MAX_VALUE: i32 = 64 << 20;

/// Steps of SQLite's machine between two looks at how many there were, and how many there may be: some minute's worth.
const STEPS: i32 = 100_000;
const MOST_LOOKS: u32 = if cfg!(test) { 50 } else { 20_000 };

/// Bytes at the beginning of a log that are others when it was begun anew.
const HEAD: u64 = 32;

/// A database could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// A file of it could not be opened.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// SQLite could not read it.
    #[error("{doing} the database {}", path.display())]
    Sqlite {
        /// What was done, as a participle.
        doing: &'static str,
        /// Which.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// It has not what is looked for.
    #[error("the database {} has no table {table}", path.display())]
    NoTable {
        /// Which.
        path: PathBuf,
        /// The table.
        table: String,
    },
    /// It changed whenever it was copied.
    #[error("the database {} changes while it is being read", path.display())]
    Unsteady {
        /// Which.
        path: PathBuf,
    },
    /// It is larger than what is copied.
    #[error("the database {} is larger than {MAX_COPY} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
    },
}

/// A database, as it was when it was first asked for something.
#[derive(Debug)]
pub struct Database {
    db: Connection,
    path: PathBuf,
    /// Closed before it goes.
    _copy: Option<Scratch>,
}

impl Folder {
    /// Opens the database of this name, directly in the folder; nothing where there is none.
    pub fn database(&self, name: &str) -> Result<Option<Database>, DatabaseError> {
        let at = RelPath::new(name.as_bytes()).unwrap_or_default();
        let Some(file) = self.file(&at)? else { return Ok(None) };
        let path = self.path_of(&at);
        if self.is_anybodys {
            let scratch = self.scratch()?;
            let copy = scratch.path().join("db");
            copied(self, &at, &copy)?;
            // Ours: what its log has is taken over.
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE;
            return Database::open(&copy, path, flags, Some(scratch)).map(Some);
        }
        drop(file);
        let real = real(&path)?;
        Database::open(&real, path, OpenFlags::SQLITE_OPEN_READ_ONLY, None).map(Some)
    }
}

/// Without links, of which SQLite is to follow none.
fn real(path: &Path) -> Result<PathBuf, FsError> {
    let failed = |source| FsError { action: "looking for", path: path.to_owned(), source };
    path.canonicalize().map_err(failed)
}

impl Database {
    fn open(
        at: &Path,
        path: PathBuf,
        flags: OpenFlags,
        copy: Option<Scratch>,
    ) -> Result<Self, DatabaseError> {
        let flags = flags | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
        let opened = Connection::open_with_flags(at, flags).and_then(|mut db| {
            db.busy_timeout(BUSY)?;
            db.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_VALUE)?;
            let mut looks = 0;
            db.progress_handler(
                STEPS,
                Some(move || {
                    looks += 1;
                    looks > MOST_LOOKS
                }),
            )?;
            // What the file says of itself calls nothing.
            db.pragma_update(None, "trusted_schema", false)?;
            db.pragma_update(None, "cell_size_check", true)?;
            db.pragma_update(None, "query_only", true)?;
            // All that is asked is answered from one state of it.
            db.execute_batch("BEGIN")?;
            Ok(db)
        });
        match opened {
            Ok(db) => Ok(Self { db, path, _copy: copy }),
            Err(source) => Err(DatabaseError::Sqlite { doing: "opening", path, source }),
        }
    }

    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fails where one of these is no table.
    pub fn expect(&self, tables: &[&str]) -> Result<(), DatabaseError> {
        for table in tables {
            if !self.has_table(table)? {
                let (path, table) = (self.path.clone(), (*table).to_owned());
                return Err(DatabaseError::NoTable { path, table });
            }
        }
        Ok(())
    }

    /// Whether there is such a table: a view of that name, or one that is computed, may be anything.
    pub fn has_table(&self, name: &str) -> Result<bool, DatabaseError> {
        const FIND: &str = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?1 AND rootpage > 0";
        Ok(self.number(FIND, &[name])? == 1)
    }

    /// The number that a query finds; 0 where it finds none.
    pub fn number(&self, query: &str, with: &[&str]) -> Result<i64, DatabaseError> {
        let mut number = 0;
        self.rows(query, with, |row| {
            number = row.number(0).unwrap_or_default();
            Ok::<_, DatabaseError>(())
        })?;
        Ok(number)
    }

    /// Visits what a query finds.
    pub fn rows<E: From<DatabaseError>>(
        &self,
        query: &str,
        with: &[&str],
        mut see: impl FnMut(&Row<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let failed =
            |source| DatabaseError::Sqlite { doing: "reading", path: self.path.clone(), source };
        let mut statement = self.db.prepare_cached(query).map_err(failed)?;
        let mut rows = statement.query(params_from_iter(with)).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            see(&Row(row))?;
        }
        Ok(())
    }
}

/// What a query has found.
#[derive(Debug)]
pub struct Row<'a>(&'a rusqlite::Row<'a>);

impl Row<'_> {
    /// A text; nothing where it is none.
    pub fn text(&self, column: usize) -> Option<&str> {
        match self.0.get_ref(column).ok()? {
            ValueRef::Text(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// A whole number; nothing where it is none.
    pub fn number(&self, column: usize) -> Option<i64> {
        match self.0.get_ref(column).ok()? {
            ValueRef::Integer(number) => Some(number),
            _ => None,
        }
    }

    /// Any number; nothing where it is none.
    pub fn real(&self, column: usize) -> Option<f64> {
        match self.0.get_ref(column).ok()? {
            ValueRef::Real(number) => Some(number),
            #[expect(clippy::cast_precision_loss, reason = "as SQLite does it")]
            ValueRef::Integer(number) => Some(number as f64),
            _ => None,
        }
    }
}

/// Copies a database and its log as they were at one time.
fn copied(folder: &Folder, at: &RelPath, to: &Path) -> Result<(), DatabaseError> {
    let path = folder.path_of(at);
    let beside =
        |end: &str| RelPath::new(&[at.as_bytes(), end.as_bytes()].concat()).unwrap_or_default();
    let (log, journal) = (beside("-wal"), beside("-journal"));
    let to_log = to.with_file_name("db-wal");
    for _ in 0..TRIES {
        fs::remove_file(to)?;
        fs::remove_file(&to_log)?;
        let head = head(folder, &log)?;
        if folder.file(&journal)?.is_some_and(|it| it.metadata().is_ok_and(|it| it.len() > 0)) {
            continue;
        }
        let Some(length) = copy(folder, at, to)? else { continue };
        if head.is_some() && copy(folder, &log, &to_log)?.is_none() {
            continue;
        }
        if self::head(folder, &log)? == head && is_same(folder, at, to, length)? {
            return Ok(());
        }
        tracing::debug!(path = %path.display(), "it has changed while it was copied");
    }
    Err(DatabaseError::Unsteady { path })
}

/// The beginning of a log; nothing where it has none.
fn head(folder: &Folder, log: &RelPath) -> Result<Option<Vec<u8>>, DatabaseError> {
    let Some(file) = folder.file(log)? else { return Ok(None) };
    let mut bytes = Vec::new();
    file.take(HEAD).read_to_end(&mut bytes).map_err(read_failed(&folder.path_of(log)))?;
    Ok(Some(bytes).filter(|bytes| !bytes.is_empty()))
}

fn read_failed(path: &Path) -> impl Fn(io::Error) -> FsError + use<> {
    let path = path.to_owned();
    move |source| FsError { action: "reading", path: path.clone(), source }
}

/// Copies a file; nothing where it is gone. Says how many bytes.
fn copy(folder: &Folder, at: &RelPath, to: &Path) -> Result<Option<u64>, DatabaseError> {
    let Some(file) = folder.file(at)? else { return Ok(None) };
    let path = folder.path_of(at);
    if file.metadata().map_err(read_failed(&path))?.len() > MAX_COPY {
        return Err(DatabaseError::TooLarge { path });
    }
    let mut out = fs::create_new(to)?;
    let length = io::copy(&mut file.take(MAX_COPY + 1), &mut out).map_err(read_failed(&path))?;
    out.flush().map_err(read_failed(to))?;
    if length > MAX_COPY {
        return Err(DatabaseError::TooLarge { path });
    }
    Ok(Some(length))
}

/// Whether a file still has the bytes of its copy.
fn is_same(folder: &Folder, at: &RelPath, copy: &Path, length: u64) -> Result<bool, DatabaseError> {
    let Some(file) = folder.file(at)? else { return Ok(false) };
    let path = folder.path_of(at);
    let failed = read_failed(&path);
    if file.metadata().map_err(&failed)?.len() != length {
        return Ok(false);
    }
    let (mut there, mut here) = (wide(file), wide(fs::open(copy)?));
    let (mut a, mut b) = (vec![0; BUFFER], vec![0; BUFFER]);
    loop {
        let read = here.read(&mut a).map_err(&failed)?;
        let (Some(own), Some(other)) = (a.get(..read), b.get_mut(..read)) else { return Ok(false) };
        if own.is_empty() {
            return Ok(true);
        }
        match there.read_exact(other) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            done => done.map_err(&failed)?,
        }
        if own != other {
            return Ok(false);
        }
    }
}

const BUFFER: usize = 256 * 1024;

fn wide(file: File) -> BufReader<File> {
    BufReader::with_capacity(BUFFER, file)
}

#[cfg(test)]
mod tests;

//! A catalog that nothing is written to, for a home that is only read.

use std::path::Path;
use std::sync::{Arc, Mutex};

use rusqlite::{Connection, OpenFlags};

use super::durable::Durable;
use super::{BUSY, Catalog, FORMAT, Inner, STATEMENTS, failure, recognise, resolved};
use crate::error::StoreError;
use crate::fs;
use crate::layout::Layout;

impl Catalog {
    /// Opens the catalog beside a store: where that is only read, to be read, too.
    pub fn open_beside(layout: &Layout, path: &Path) -> Result<Self, StoreError> {
        if !layout.is_read_only() {
            return Self::open(path);
        }
        let connection = connect(path)?;
        recognise(&connection, path)?;
        let found: u32 = connection
            .pragma_query_value(None, "user_version", |row| row.get(0))
            .map_err(|source| failure("opening", path, source))?;
        if found < FORMAT {
            // It would have to be brought up to date.
            layout.check_writable_at(path)?;
        }
        let reader = Mutex::new(connect(path)?);
        // Nobody commits: there is no log to sync.
        let durable = Durable::of(path.to_owned(), fs::open(path)?);
        let (path, connection) = (path.to_owned(), Mutex::new(connection));
        let only_read = Some(layout.clone());
        Ok(Self(Arc::new(Inner { path, reader, connection, durable, only_read })))
    }

    /// Refuses where nothing may be written.
    pub(super) fn check_writable(&self) -> Result<(), StoreError> {
        match &self.0.only_read {
            None => Ok(()),
            Some(layout) => layout.check_writable_at(&self.0.path),
        }
    }

    /// Whether nothing is written to it.
    pub(super) fn is_only_read(&self) -> bool {
        self.0.only_read.is_some()
    }
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let at = resolved(path)?;
    let open = || {
        let db = Connection::open_with_flags(at, flags)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "query_only", true)?;
        db.pragma_update(None, "trusted_schema", false)?;
        db.set_prepared_statement_cache_capacity(STATEMENTS);
        Ok(db)
    };
    open().map_err(|source| failure("opening", path, source))
}

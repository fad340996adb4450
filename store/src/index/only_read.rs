//! An index that nothing is written to, for a store that is only read.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::schema::{FORMAT, format_of};
use super::{Index, database};
use crate::error::StoreError;

impl Index {
    /// Opens the index to read it. `refuse` says why one of an older program cannot be read: it would be brought up to date.
    pub fn open_read_only(
        path: &Path,
        refuse: impl FnOnce(&Path) -> Result<(), StoreError>,
    ) -> Result<Self, StoreError> {
        let db = connect(path)?;
        if format_of(&db, path)? < FORMAT {
            refuse(path)?;
        }
        Self::of(path, db, true)
    }
}

pub(super) fn connect(path: &Path) -> Result<Connection, StoreError> {
    let open = || {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = Connection::open_with_flags(path, flags)?;
        db.busy_timeout(std::time::Duration::from_secs(30))?;
        db.set_prepared_statement_cache_capacity(32);
        Ok(db)
    };
    open().map_err(database("opening the index", path))
}

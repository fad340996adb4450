//! Damage that SQLite has other names for.

use std::os::unix::fs::FileExt;
use std::path::Path;

use rusqlite::Error;
use rusqlite::ErrorCode::{ConstraintViolation, DatabaseCorrupt, ReadOnly, TooBig};

use crate::fs;

/// Where the header of a file says which version may write it (<https://sqlite.org/fileformat2.html>), and the last that
/// SQLite has had.
const WRITE_VERSION: u64 = 18;
const LAST_VERSION: u8 = 2;

/// Calls it by its name: rows that contradict those that are there, which nothing that we write does where they are as we
/// wrote them, values longer than any, and a header by which only a newer SQLite may write the file.
pub(super) fn named(mut error: Error, path: &Path) -> Error {
    if let Error::SqliteFailure(failure, _) = &mut error
        && match failure.code {
            ConstraintViolation | TooBig => true,
            ReadOnly => is_for_newer(path),
            _ => false,
        }
    {
        failure.code = DatabaseCorrupt;
    }
    error
}

fn is_for_newer(path: &Path) -> bool {
    let mut version = [0];
    let read = fs::open(path).map(|file| file.read_exact_at(&mut version, WRITE_VERSION));
    matches!(read, Ok(Ok(()))) && version[0] > LAST_VERSION
}

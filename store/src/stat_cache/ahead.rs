//! Rows read ahead: a walk comes to directories in about the order in which they stand here, so that many
//! are read at once, and not each looked for.
//!
//! **Invariant:** a row is handed out once, and only while nobody has changed the table behind it.

use std::collections::HashMap;

use rusqlite::{Connection, Row};

use super::records::{PackedDirectory, decode_below, decode_tree, unseal};
use super::{read_inode, unreadable};

/// Bytes read at a time.
const STEP: usize = 256 * 1024;

/// Bytes kept at most: those that no walk asked for go with all others.
const MOST: usize = 16 * STEP;

/// What is kept of a directory beside its files, about.
const OVERHEAD: usize = 200;

/// Directories that were read and not asked for yet.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    directories: HashMap<Vec<u8>, PackedDirectory>,
    bytes: usize,
}

impl Ahead {
    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        if self.bytes > 0 {
            *self = Self::default();
        }
    }

    /// What is known of a directory.
    pub(super) fn take(
        &mut self,
        db: &Connection,
        path: &[u8],
    ) -> rusqlite::Result<PackedDirectory> {
        if let Some(found) = self.forget(path) {
            return Ok(found);
        }
        if self.bytes > MOST {
            self.clear();
        }
        self.read(db, path, STEP)?;
        Ok(self.forget(path).unwrap_or_default())
    }

    /// What is known of one directory, for who does not ask for those that follow.
    pub(super) fn one(db: &Connection, path: &[u8]) -> rusqlite::Result<PackedDirectory> {
        let mut alone = Self::default();
        alone.read(db, path, 1)?;
        Ok(alone.forget(path).unwrap_or_default())
    }

    /// Hands a directory out, or forgets it: what is known of it changes.
    pub(super) fn forget(&mut self, path: &[u8]) -> Option<PackedDirectory> {
        let found = self.directories.remove(path)?;
        self.bytes = self.bytes.saturating_sub(size(path, &found));
        Some(found)
    }

    /// Reads the directory at `path` whole, and those that follow up to so many bytes.
    fn read(&mut self, db: &Connection, path: &[u8], most: usize) -> rusqlite::Result<()> {
        let list = "SELECT path, inode, tree, below, files FROM directory WHERE path >= ?1
                    ORDER BY path, first";
        let mut list = db.prepare_cached(list)?;
        let mut rows = list.query([path])?;
        let mut current: Option<(Vec<u8>, PackedDirectory)> = None;
        let mut read = 0;
        while let Some(row) = rows.next()? {
            let at = blob(row, 0)?.unwrap_or_default();
            if let Some((_, directory)) = current.as_mut().filter(|(path, _)| path == at) {
                directory.files.extend_from_slice(sealed(row, 4)?.unwrap_or_default());
                continue;
            }
            if let Some((path, directory)) = current.take() {
                read += size(&path, &directory);
                self.keep(&path, directory);
            }
            // The first that follows says whether there is one at all.
            if read >= most || (read == 0 && at != path) {
                return Ok(());
            }
            let directory = PackedDirectory {
                inode: sealed(row, 1)?.and_then(read_inode),
                tree: sealed(row, 2)?.map(decode_tree).transpose().map_err(unreadable)?,
                below: sealed(row, 3)?.map(decode_below).transpose().map_err(unreadable)?,
                files: sealed(row, 4)?.unwrap_or_default().to_vec(),
            };
            current = Some((at.to_vec(), directory));
        }
        if let Some((path, directory)) = current {
            self.keep(&path, directory);
        }
        Ok(())
    }

    fn keep(&mut self, path: &[u8], directory: PackedDirectory) {
        self.bytes += size(path, &directory);
        if let Some(old) = self.directories.insert(path.to_vec(), directory) {
            self.bytes = self.bytes.saturating_sub(size(path, &old));
        }
    }
}

fn size(path: &[u8], directory: &PackedDirectory) -> usize {
    let below = directory.below.as_ref().map_or(0, Vec::len);
    path.len() + directory.files.len() + below * OVERHEAD + OVERHEAD
}

fn sealed<'a>(row: &'a Row<'_>, at: usize) -> rusqlite::Result<Option<&'a [u8]>> {
    blob(row, at)?.map(unseal).transpose()
}

fn blob<'a>(row: &'a Row<'_>, at: usize) -> rusqlite::Result<Option<&'a [u8]>> {
    row.get_ref(at)?.as_blob_or_null().map_err(|error| {
        let kind = rusqlite::types::Type::Blob;
        rusqlite::Error::FromSqlConversionFailure(at, kind, error.into())
    })
}

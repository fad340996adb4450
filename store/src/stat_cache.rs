//! What the last scan knew about every file, so that the next one reads only what changed.
//!
//! One SQLite file a workspace: a row for each directory, further rows for each run of names of a wide
//! one, so that an edit rewrites little however large the tree is, and nothing is held in memory. It is
//! a cache: a missing, damaged or newer file is an empty one, and after an error it knows nothing. SQLite does not notice
//! bytes that have changed on the disk, so whatever is believed has a checksum.
//!
//! - [`records`]: what is known of one directory
//! - [`file`]: the file that they are in
//! - [`ahead`]: rows read before they are asked for, because a walk comes to them next
//!
//! **Invariant:** the content of a file is known only if it had come to rest well before the scan that read
//! it began; of any other just that it has this name. A file that may change again within the same tick of its file system's clock is read
//! again.
//!
//! **Invariant:** what a scan that did not end has written is told apart ([`StatCache::is_trusted`]):
//! the content that it names may not have been kept.

pub(crate) mod records;
mod file;
mod ahead;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_protocol::encode::{Reader, Writer};
use rusqlite::{Connection, OptionalExtension};

use file::{connect, prepare, remove};
pub(crate) use records::{CachedDirectory, CachedFile, FileStat, Inode, PackedDirectory};

/// Names in a row of a directory when it is written whole, and the most after edits.
const RUN: usize = 256;
const MAX_RUN: usize = 512;

/// Rows written as one transaction: a crash costs reading their files again.
const BATCH: u32 = 2000;

/// What the last scan knew.
#[derive(Debug)]
pub struct StatCache {
    path: PathBuf,
    /// Nothing once it has failed.
    open: Mutex<Option<Open>>,
}

#[derive(Debug)]
struct Open {
    db: Connection,
    /// Rows written since the last commit.
    written: u32,
    /// Whether a scan has begun and not ended.
    in_scan: bool,
    /// Whether the file says that what was written may not be kept.
    is_marked: bool,
    /// Whether anything was written since the last scan ended.
    is_unkept: bool,
    /// What [`StatCache::directory_on_a_walk`] has read ahead; nothing of it outlives a change.
    ahead: ahead::Ahead,
}

impl Open {
    fn new(db: Connection) -> Self {
        let ahead = ahead::Ahead::default();
        Self { db, written: 0, in_scan: false, is_marked: false, is_unkept: false, ahead }
    }
}

impl Default for StatCache {
    /// A cache in memory that knows nothing.
    fn default() -> Self {
        let db = Connection::open_in_memory().and_then(|db| prepare(&db, true).map(|()| db));
        let open = db.ok().map(Open::new);
        Self { path: PathBuf::new(), open: Mutex::new(open) }
    }
}

impl StatCache {
    /// Opens the cache of a workspace; an empty one where there is none that can be used.
    pub fn open(path: &Path) -> Self {
        let db = connect(path).or_else(|error| {
            tracing::warn!(%error, path = %path.display(), "the stat cache starts anew");
            remove(path);
            connect(path)
        });
        match db {
            Ok(db) => Self { path: path.to_owned(), open: Mutex::new(Some(Open::new(db))) },
            Err(error) => {
                tracing::warn!(%error, path = %path.display(), "the stat cache is not used");
                Self::default()
            }
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.with((), |open| {
            open.ahead.clear();
            open.is_marked = false;
            open.db
                .execute_batch("DELETE FROM directory; DELETE FROM meta;")
                .and_then(|()| open.wrote())
        });
        self.flush();
    }

    /// Files whose content it knows.
    pub fn len(&self) -> u64 {
        let mut files = 0;
        self.for_each(|_, directory| {
            let known = |file: &&CachedFile| file.is_file() && file.is_settled();
            files += directory.files.iter().filter(known).count() as u64;
        });
        files
    }

    /// Whether it knows no file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The paths of all directories, each after the one above it.
    pub fn directories(&self) -> Vec<Vec<u8>> {
        self.with(Vec::new(), |open| {
            let list = "SELECT path FROM directory WHERE first = x'' ORDER BY path";
            let mut list = open.db.prepare_cached(list)?;
            list.query_map([], |row| row.get(0))?.collect()
        })
    }

    /// Whether the scan that wrote this has ended, and what it read was kept.
    pub(crate) fn is_trusted(&self) -> bool {
        self.with(false, |open| Ok(!open.in_scan && !open.find_mark()?))
    }

    /// From here on what is written may not be kept. The file says so from the first row on: where nothing has
    /// changed nothing is written.
    pub(crate) fn begin_scan(&self) {
        self.with((), |open| {
            open.ahead.clear();
            open.is_marked = open.find_mark()?;
            open.in_scan = true;
            // A seal that gave up has left rows that this scan may find as they are.
            if open.is_unkept { open.wrote() } else { Ok(()) }
        });
    }

    /// What was written is kept: the snapshot that it belongs to is durable.
    pub fn end_scan(&self) {
        let set = "DELETE FROM meta WHERE key = 'scanning'";
        self.with((), |open| {
            open.ahead.clear();
            (open.in_scan, open.is_unkept) = (false, false);
            if std::mem::take(&mut open.is_marked) {
                open.db.prepare_cached(set)?.execute([])?;
            }
            Ok(())
        });
        self.flush();
    }

    /// Makes what was written last.
    pub fn flush(&self) {
        self.with((), Open::commit);
    }

    /// What was remembered of the repository of the tree.
    pub fn repository(&self) -> Option<Vec<u8>> {
        let find = "SELECT value FROM meta WHERE key = 'repository'";
        self.with(None, |open| {
            let found: Option<Vec<u8>> =
                open.db.prepare_cached(find)?.query_row([], |row| row.get(0)).optional()?;
            found.map(|bytes| records::unseal(&bytes).map(<[u8]>::to_vec)).transpose()
        })
    }

    /// Remembers something of the repository of the tree, with what the scan has written.
    pub fn set_repository(&self, value: Option<&[u8]>) {
        self.with((), |open| {
            let set = match value {
                Some(_) => "INSERT OR REPLACE INTO meta(key, value) VALUES('repository', ?1)",
                None => "DELETE FROM meta WHERE key = 'repository' AND ?1 IS NULL",
            };
            let value = value.map(|value| records::seal(value.to_vec()));
            open.db.prepare_cached(set)?.execute([value]).map(drop)
        });
    }

    /// What is known of a directory.
    pub(crate) fn directory(&self, path: &[u8]) -> CachedDirectory {
        self.with(
            CachedDirectory::default(),
            |open| Ok(ahead::Ahead::one(&open.db, path)?.unpack()),
        )
    }

    /// The same, for a walk that comes to all directories in about the order of their paths, and replaces
    /// what is known of one only after it has asked.
    pub(crate) fn directory_on_a_walk(&self, path: &[u8]) -> PackedDirectory {
        self.with(PackedDirectory::default(), |open| open.ahead.take(&open.db, path))
    }

    /// What is known of one file, at a cost that does not grow with its directory.
    pub(crate) fn file(&self, path: &[u8], name: &[u8]) -> Option<CachedFile> {
        self.with(None, |open| {
            let Some((_, files)) = open.run_of(path, name)? else { return Ok(None) };
            Ok(files.into_iter().find(|file| file.name == name))
        })
    }

    /// Which directory was at this path.
    pub(crate) fn inode(&self, path: &[u8]) -> Option<Inode> {
        let find = "SELECT inode FROM directory WHERE path = ?1 AND first = x''";
        self.with(None, |open| {
            let found: Option<Vec<u8>> =
                open.db.prepare_cached(find)?.query_row([path], |row| row.get(0)).optional()?;
            Ok(match found {
                Some(bytes) => read_inode(records::unseal(&bytes)?),
                None => None,
            })
        })
    }

    /// Replaces what is known of a directory; `before` is what [`StatCache::directory`] said, so that
    /// nothing is written where nothing changed.
    pub(crate) fn replace(&self, path: &[u8], before: &CachedDirectory, after: &CachedDirectory) {
        if before == after {
            return;
        }
        self.with((), |open| {
            let remove = "DELETE FROM directory WHERE path = ?1";
            open.db.prepare_cached(remove)?.execute([path])?;
            // Another part of the walk may have read past it meanwhile.
            open.ahead.forget(path);
            let mut runs = after.files.chunks(RUN);
            open.put(path, b"", Some(after), runs.next().unwrap_or_default())?;
            for run in runs {
                let first = run.first().map(|file| file.name.as_slice()).unwrap_or_default();
                open.put(path, first, None, run)?;
            }
            Ok(())
        });
    }

    /// Remembers which directory is at a path, and nothing of what is in it.
    pub(crate) fn met_directory(&self, path: &[u8], inode: Option<Inode>) {
        let met = CachedDirectory { inode, ..CachedDirectory::default() };
        self.replace(path, &CachedDirectory::default(), &met);
    }

    /// Remembers one file of a directory that is known, or forgets it.
    pub(crate) fn set(&self, path: &[u8], name: &[u8], file: Option<CachedFile>) {
        self.with((), |open| {
            let Some((first, mut files)) = open.run_of(path, name)? else { return Ok(()) };
            match files.binary_search_by(|file| file.name.as_slice().cmp(name)) {
                Ok(at) => match file {
                    Some(file) if files.get(at) == Some(&file) => return Ok(()),
                    Some(file) => files.splice(at..=at, [file]).for_each(drop),
                    None => drop(files.remove(at)),
                },
                Err(_) if file.is_none() => return Ok(()),
                Err(at) => files.splice(at..at, file).for_each(drop),
            }
            // It is not the tree any more of what is known.
            let forget = "UPDATE directory SET tree = NULL
                          WHERE path = ?1 AND first = x'' AND tree IS NOT NULL";
            open.db.prepare_cached(forget)?.execute([path])?;
            open.ahead.clear();
            if files.is_empty() && !first.is_empty() {
                let remove = "DELETE FROM directory WHERE path = ?1 AND first = ?2";
                open.db.prepare_cached(remove)?.execute((path, first))?;
                open.wrote()?;
                return Ok(());
            }
            if files.len() > MAX_RUN {
                let rest = files.split_off(files.len() / 2);
                let second = rest.first().map(|file| file.name.clone()).unwrap_or_default();
                open.put(path, &second, None, &rest)?;
            }
            let update = "UPDATE directory SET files = ?3 WHERE path = ?1 AND first = ?2";
            let bytes = records::seal(records::encode(&files));
            open.db.prepare_cached(update)?.execute((path, first, bytes))?;
            open.wrote()?;
            Ok(())
        });
    }

    /// Forgets a directory and all below it.
    pub(crate) fn remove_below(&self, path: &[u8]) {
        self.with((), |open| {
            let (from, to) = range_below(path);
            let remove = "DELETE FROM directory WHERE path = ?1 OR (path >= ?2 AND path < ?3)";
            open.db.prepare_cached(remove)?.execute((path, from, to))?;
            open.ahead.clear();
            open.wrote()?;
            Ok(())
        });
    }

    /// A directory went elsewhere, with all below it.
    pub(crate) fn rename(&self, from: &[u8], to: &[u8]) {
        if from.is_empty() || to.is_empty() || from == to {
            return;
        }
        self.remove_below(to);
        self.with((), |open| {
            let (low, high) = range_below(from);
            let rename =
                "UPDATE OR REPLACE directory SET path = CAST(?1 || substr(path, ?2) AS BLOB)
                          WHERE path = ?3 OR (path >= ?4 AND path < ?5)";
            let keep = i64::try_from(from.len() + 1).unwrap_or(i64::MAX);
            open.db.prepare_cached(rename)?.execute((to, keep, from, low, high))?;
            open.ahead.clear();
            open.wrote()?;
            Ok(())
        });
    }

    /// Forgets a directory and all below it but for those that are `kept`, which ascend.
    pub(crate) fn retain_below(&self, path: &[u8], kept: &[Vec<u8>]) {
        let (from, to) = range_below(path);
        let known: Vec<Vec<u8>> = self.with(Vec::new(), |open| {
            let list = "SELECT path FROM directory
                        WHERE first = x'' AND (path = ?1 OR (path >= ?2 AND path < ?3))";
            let mut list = open.db.prepare_cached(list)?;
            list.query_map((path, from, to), |row| row.get(0))?.collect()
        });
        for gone in known.into_iter().filter(|path| kept.binary_search(path).is_err()) {
            self.with((), |open| {
                open.ahead.clear();
                let remove = "DELETE FROM directory WHERE path = ?1";
                open.db.prepare_cached(remove)?.execute([gone])?;
                open.wrote()?;
                Ok(())
            });
        }
    }

    /// Directory and name of each file that is one of these.
    pub(crate) fn names_of(&self, inodes: &HashSet<(u64, u64)>) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        self.for_each(|path, directory| {
            let named = |file: &&CachedFile| {
                file.is_file() && inodes.contains(&(file.stat.dev, file.stat.ino))
            };
            let names = directory.files.iter().filter(named);
            found.extend(names.map(|file| (path.to_vec(), file.name.clone())));
        });
        found
    }

    /// Visits rows; a wide directory comes in several.
    fn for_each(&self, mut visit: impl FnMut(&[u8], &CachedDirectory)) {
        self.with((), |open| {
            let mut list = open.db.prepare_cached("SELECT path, files FROM directory")?;
            let mut rows = list.query([])?;
            while let Some(row) = rows.next()? {
                let (path, bytes): (Vec<u8>, Vec<u8>) = (row.get(0)?, row.get(1)?);
                let mut directory = CachedDirectory::default();
                records::decode(records::unseal(&bytes)?, &mut directory.files)
                    .map_err(unreadable)?;
                visit(&path, &directory);
            }
            Ok(())
        });
    }

    /// Does something with the file; what fails makes the cache empty for good.
    fn with<T>(&self, otherwise: T, work: impl FnOnce(&mut Open) -> rusqlite::Result<T>) -> T {
        let mut open = self.lock();
        let Some(database) = open.as_mut() else { return otherwise };
        let done = work(database).and_then(|done| {
            if database.written >= BATCH {
                database.commit()?;
            }
            Ok(done)
        });
        done.unwrap_or_else(|error| {
            tracing::warn!(%error, path = %self.path.display(), "the stat cache is given up");
            *open = None;
            if !self.path.as_os_str().is_empty() {
                remove(&self.path);
            }
            otherwise
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// The run in which a name stands, or would.
    fn run_of(
        &self,
        path: &[u8],
        name: &[u8],
    ) -> rusqlite::Result<Option<(Vec<u8>, Vec<CachedFile>)>> {
        let find = "SELECT first, files FROM directory WHERE path = ?1 AND first <= ?2
                    ORDER BY first DESC LIMIT 1";
        let found: Option<(Vec<u8>, Vec<u8>)> = self
            .db
            .prepare_cached(find)?
            .query_row((path, name), |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((first, bytes)) = found else { return Ok(None) };
        let mut files = Vec::new();
        records::decode(records::unseal(&bytes)?, &mut files).map_err(unreadable)?;
        Ok(Some((first, files)))
    }

    fn put(
        &mut self,
        path: &[u8],
        first: &[u8],
        whole: Option<&CachedDirectory>,
        files: &[CachedFile],
    ) -> rusqlite::Result<()> {
        self.wrote()?;
        let put = "INSERT OR REPLACE INTO directory(path, first, inode, tree, below, files)
                   VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let inode = whole.and_then(|whole| whole.inode).map(write_inode);
        let tree = whole.and_then(|whole| whole.tree).map(records::encode_tree);
        let below = whole.and_then(|whole| whole.below.as_deref()).map(records::encode_below);
        let [inode, tree, below] = [inode, tree, below].map(|bytes| bytes.map(records::seal));
        let row = (path, first, inode, tree, below, records::seal(records::encode(files)));
        self.db.prepare_cached(put)?.execute(row).map(drop)
    }

    /// A row was, or is about to be, written. With the first one of a scan, and in the same transaction, the file
    /// is marked.
    fn wrote(&mut self) -> rusqlite::Result<()> {
        self.written += 1;
        self.is_unkept = true;
        if self.in_scan && !self.is_marked {
            let set = "INSERT OR IGNORE INTO meta(key, value) VALUES ('scanning', x'')";
            self.db.prepare_cached(set)?.execute([])?;
            self.is_marked = true;
        }
        Ok(())
    }

    fn find_mark(&self) -> rusqlite::Result<bool> {
        let mut find = self.db.prepare_cached("SELECT 1 FROM meta WHERE key = 'scanning'")?;
        find.exists([])
    }

    fn commit(&mut self) -> rusqlite::Result<()> {
        self.written = 0;
        self.db.prepare_cached("COMMIT")?.execute([])?;
        self.db.prepare_cached("BEGIN")?.execute([]).map(drop)
    }
}

/// The paths below a directory: from the first, to before the second.
fn range_below(path: &[u8]) -> (Vec<u8>, Vec<u8>) {
    if path.is_empty() {
        return (Vec::new(), vec![0xff; baton_protocol::path::MAX_PATH + 1]);
    }
    let (mut from, mut to) = (path.to_vec(), path.to_vec());
    from.push(b'/');
    to.push(b'/' + 1);
    (from, to)
}

fn write_inode(inode: Inode) -> Vec<u8> {
    let mut to = Writer::new();
    to.varint(inode.dev);
    to.varint(inode.ino);
    to.finish()
}

fn read_inode(bytes: &[u8]) -> Option<Inode> {
    let mut from = Reader::new(bytes);
    Some(Inode { dev: from.varint().ok()?, ino: from.varint().ok()? })
}

fn unreadable(error: baton_protocol::encode::DecodeError) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Blob, Box::new(error))
}

#[cfg(test)]
mod tests;

//! A damaged file of a cache: as a file, and row by row with checksums that are right.
//!
//! An input that begins with zero is a file without what is zero in it anyway; any other is what rows say.

use rusqlite::types::Value;

use super::*;
use crate::fuzz::fuzzing::{CORPUS, Random, fuzz_with, within};
use crate::fuzz::rows::{Sparse, value, write_value};
use crate::fuzz::scratch;
use crate::objects::memory::MemoryObjects;
use crate::scan::{Progress, ScanOptions, Scanned, scan};

/// What a query may take: what is read ahead, and statements.
const FIXED: usize = 8 << 20;

fn look(root: &Path, cache: &StatCache) -> Scanned {
    // Long after everything that is there was written.
    let options = ScanOptions { started_at_ns: i64::MAX, ..ScanOptions::default() };
    let objects = MemoryObjects::default();
    scan(root, cache, &objects, &options, &Progress::default()).unwrap()
}

/// All rows of a file without their checksums, each after the number of its table.
fn rows_of(db: &Connection) -> Vec<u8> {
    let mut to = Writer::new();
    let mut list = db.prepare("SELECT * FROM directory").unwrap();
    let mut rows = list.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        to.byte(1);
        for column in 0..6 {
            let sealed = |bytes: Vec<u8>| Value::Blob(bytes[..bytes.len() - 4].to_vec());
            write_value(
                &match row.get(column).unwrap() {
                    Value::Blob(bytes) if column > 1 => sealed(bytes),
                    other => other,
                },
                &mut to,
            );
        }
    }
    to.byte(2);
    write_value(&Value::Text("repository".into()), &mut to);
    write_value(&Value::Blob(b"of it".to_vec()), &mut to);
    to.finish()
}

/// Puts rows in place of those that are there, as far as the file takes them; says how many.
fn put_rows(db: &Connection, input: &[u8]) -> usize {
    db.execute_batch("BEGIN; DELETE FROM directory; DELETE FROM meta;").unwrap();
    let (from, mut put_rows) = (&mut Reader::new(input), 0);
    while let Ok(number) = from.byte() {
        let (table, columns, plain) =
            if number % 2 == 1 { ("directory", 6, 2) } else { ("meta", 2, 1) };
        let mut next = |column| match value(from)? {
            Value::Blob(bytes) if column >= plain => Some(Value::Blob(records::seal(bytes))),
            other => Some(other),
        };
        let Some(row) = (0..columns).map(&mut next).collect::<Option<Vec<_>>>() else { break };
        let marks = vec!["?"; columns].join(", ");
        let put = format!("INSERT OR REPLACE INTO {table} VALUES ({marks})");
        put_rows += db.execute(&put, rusqlite::params_from_iter(row)).unwrap_or_default();
    }
    db.execute_batch("COMMIT").unwrap();
    put_rows
}

/// Asks for everything that is known of these paths, and changes some of it.
fn ask(cache: &StatCache, paths: &[Vec<u8>], random: &mut Random) {
    for path in paths {
        let directory = cache.directory(path);
        assert!(directory.files.is_sorted_by(|one, next| one.name < next.name));
        // A walk reads ahead, and gives all of it up where another directory is damaged.
        let packed = cache.directory_on_a_walk(path).files().count();
        assert!(packed >= directory.files.len() || cache.directories().is_empty());
        // It stands in the first row, which may be gone.
        assert!(cache.inode(path).is_none_or(|inode| directory.inode == Some(inode)));
        for file in directory.files.iter().take(5) {
            assert!(cache.file(path, &file.name).is_none_or(|found| found.name == file.name));
        }
    }
    let any = |random: &mut Random| paths[random.below(paths.len())].clone();
    cache.set(&any(random), b"new", Some(file("new", 5)));
    cache.set(&any(random), b"one", None);
    cache.rename(&any(random), b"elsewhere");
    cache.remove_below(&any(random));
    cache.retain_below(b"", &[b"".to_vec(), any(random)]);
    cache.names_of(&[(7, 1 << 40)].into());
    cache.flush();
}

#[test]
fn stat_caches() {
    let folder = scratch();
    let (root, path) = (folder.path().join("tree"), folder.path().join("cache"));
    for name in ["a/one", "a/b/two", "a/b/three", "c/four", "five"] {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_whole(&path, name.as_bytes(), 0o600).unwrap();
    }
    std::os::unix::fs::symlink("five", root.join("c/link")).unwrap();
    let cache = StatCache::open(&path);
    let truth = look(&root, &cache);
    cache.end_scan();
    cache.set_repository(Some(b"of it"));
    cache.flush();
    drop(cache);
    let whole = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
    let sparse = Sparse::of(&whole);
    let rows = rows_of(&Connection::open(&path).unwrap());
    let file = [&[0], sparse.pack(&whole).as_slice()].concat();
    let corpus = (0..CORPUS).map(|at| if at % 4 == 0 { file.clone() } else { rows.clone() });

    fuzz_with(500, corpus.collect(), |_, input| {
        let random = &mut Random::of(input);
        file::remove(&path);
        let (is_file, rows) = if let Some((0, packed)) = input.split_first() {
            fs::write_whole(&path, &sparse.unpack(packed), 0o600).unwrap();
            (true, 1)
        } else {
            fs::write_whole(&path, &whole, 0o600).unwrap();
            (false, put_rows(&Connection::open(&path).unwrap(), input))
        };
        let cache = within(input, 64, FIXED, |_| StatCache::open(&path));
        let is_known = !cache.is_empty();
        let repository = cache.repository();
        assert!(!is_file || repository.is_none_or(|bytes| bytes == b"of it"));
        let found = look(&root, &cache);
        if is_file {
            // The checksums are as the damage left them: nothing wrong is believed.
            assert_eq!((found.root, found.sums), (truth.root, truth.sums));
        }
        drop(cache);
        // The same, asked for directly; and what is left after that.
        let cache = StatCache::open(&path);
        let mut paths = within(input, 64, FIXED, |_| cache.directories());
        paths.truncate(20);
        paths.extend([b"".to_vec(), b"a/b".to_vec()]);
        within(input, 256, FIXED, |_| ask(&cache, &paths, random));
        cache.clear();
        let found = look(&root, &cache);
        assert_eq!((found.root, found.sums), (truth.root, truth.sums));
        is_known && rows > 0
    });
}

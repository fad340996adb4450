//! Migrations that are cut short: by a kill at every moment, and by what of a log reaches the disk.
//!
//! Of each the database is as it was or as it is to be, and whoever opens it next gets it as it is to be.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use rusqlite::Connection;

use super::*;
use crate::catalog::{Catalog, testing};
use crate::index::{Index, bring_up};

/// A process that finds this in its environment opens the database at that path, and does nothing else.
const OPENS: &str = "BATON_TEST_OPENS";

/// Bytes of the head of a log, and of that of each page in it.
const LOG: usize = 32;
const FRAME: usize = 24;

/// A database of an older format: how it is made, opened as usual, and migrated by a connection that stays.
struct Old {
    name: &'static str,
    format: u32,
    today: u32,
    make: fn(&Path, u32),
    migrate: fn(&Path) -> Connection,
}

fn open(path: &Path) {
    if path.file_name().is_some_and(|name| name == "catalog.db") {
        drop(Catalog::open(path).unwrap());
    } else {
        drop(Index::open(path).unwrap());
    }
}

fn make_index(path: &Path, _format: u32) {
    let db = Connection::open(path).unwrap();
    db.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL;
         CREATE TABLE object (
           hash BLOB PRIMARY KEY, kind INTEGER, segment INTEGER, offset INTEGER,
           record_len INTEGER, inner INTEGER, len INTEGER, closed INTEGER
         ) WITHOUT ROWID;
         CREATE TABLE segment (
           segment INTEGER PRIMARY KEY, name TEXT UNIQUE, class INTEGER, indexed INTEGER
         );
         INSERT INTO segment VALUES (1, 'open-1', 0, 64);
         INSERT INTO object VALUES (x'01', 1, 1, 64, 100, 0, 10, 1);
         PRAGMA user_version = 1;",
    )
    .unwrap();
}

fn migrate_index(path: &Path) -> Connection {
    let mut db = Connection::open(path).unwrap();
    db.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
    bring_up(&mut db, path).unwrap();
    db
}

fn all_old() -> Vec<Old> {
    let catalog = (1..testing::TODAY).map(|format| Old {
        name: "catalog.db",
        format,
        today: testing::TODAY,
        make: testing::of_format,
        migrate: testing::migrated,
    });
    let index =
        Old { name: "index.db", format: 1, today: 2, make: make_index, migrate: migrate_index };
    catalog.chain([index]).collect()
}

/// What a database is: its format, its tables with their columns, and what is in some of them.
fn looks(path: &Path) -> (u32, Vec<String>, Vec<i64>) {
    let db = Connection::open(path).unwrap();
    let whole: String = db.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(whole, "ok");
    let format = db.query_row("PRAGMA user_version", [], |row| row.get(0)).unwrap();
    let columns = "SELECT m.name || '.' || c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c ORDER BY 1";
    let columns: Vec<String> = db
        .prepare(columns)
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .collect::<rusqlite::Result<_>>()
        .unwrap();
    let rows = ["users", "workspaces", "object", "segment"].map(|table| {
        let count = format!("SELECT count(*) FROM {table}");
        db.query_row(&count, [], |row| row.get(0)).unwrap_or(-1)
    });
    (format, columns, rows.to_vec())
}

/// What the old one looks like, and what it is to look like.
fn before_and_after(old: &Old) -> [(u32, Vec<String>, Vec<i64>); 2] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(old.name);
    (old.make)(&path, old.format);
    let before = looks(&path);
    open(&path);
    let after = looks(&path);
    assert_eq!((before.0, after.0), (old.format, old.today));
    assert_ne!(before.1, after.1);
    assert_eq!(before.2, after.2, "nothing is lost");
    assert!(before.2.iter().filter(|&&rows| rows == 1).count() == 2, "{before:?}");
    [before, after]
}

#[test]
fn killed_at_any_moment_a_migration_is_whole_and_the_next_opening_finishes_it() {
    #[expect(clippy::disallowed_methods, reason = "a test tells the process that it starts")]
    if let Some(path) = std::env::var_os(OPENS) {
        return open(Path::new(&path));
    }
    let name = "store::tests::migrations::killed_at_any_moment_a_migration_is_whole_and_the_next_opening_finishes_it";
    for old in all_old() {
        let [before, after] = before_and_after(&old);
        let (mut seen_old, mut seen_new, mut at) = (0, 0, 1u32);
        loop {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(old.name);
            (old.make)(&path, old.format);
            let output = Command::new(std::env::current_exe().unwrap())
                .args([name, "--exact"])
                .env(OPENS, &path)
                .env("BATON_TEST_DIES_AT", at.to_string())
                .output()
                .unwrap();
            if output.status.success() {
                assert_eq!(looks(&path), after);
                break;
            }
            assert_eq!(output.status.signal(), Some(9), "{output:?}");
            // As somebody would who copies what is there, log and all.
            let copy = tempfile::tempdir().unwrap();
            for file in std::fs::read_dir(folder.path()).unwrap() {
                let file = file.unwrap();
                std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
            }
            let left = looks(&copy.path().join(old.name));
            assert!(left == before || left == after, "after {at}: {left:?}");
            *if left == before { &mut seen_old } else { &mut seen_new } += 1;
            open(&path);
            assert_eq!(looks(&path), after, "after {at}");
            at += 1 + at / 8;
        }
        assert!(seen_old > 5, "{} {}: {seen_old} old, {seen_new} new", old.name, old.format);
    }
}

#[test]
fn whatever_of_the_log_of_a_migration_is_on_the_disk_it_is_the_old_one_or_the_new_one() {
    for old in all_old() {
        let [before, after] = before_and_after(&old);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(old.name);
        (old.make)(&path, old.format);
        let migrated = (old.migrate)(&path);
        let log_of = |path: &Path| path.with_file_name(format!("{}-wal", old.name));
        let (bytes, log) = (std::fs::read(&path).unwrap(), std::fs::read(log_of(&path)).unwrap());
        let page: usize = migrated.query_row("PRAGMA page_size", [], |row| row.get(0)).unwrap();
        let frames = (log.len() - LOG) / (FRAME + page);
        assert!(frames > 0, "{frames}");
        let ends = (0..=frames).map(|frame| LOG + frame * (FRAME + page));
        for cut in ends.flat_map(|end| [end - 1, end, (end + 100).min(log.len())]).chain([0]) {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join(old.name);
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(log_of(&path), &log[..cut]).unwrap();
            let left = looks(&path);
            let is_all = cut >= LOG + frames * (FRAME + page);
            assert_eq!(&left, if is_all { &after } else { &before }, "{cut} of {}", log.len());
            // Looking has tidied up: again from what was there.
            std::fs::write(&path, &bytes).unwrap();
            std::fs::write(log_of(&path), &log[..cut]).unwrap();
            open(&path);
            assert_eq!(looks(&path), after, "{cut} of {}", log.len());
        }
    }
}

#[test]
fn an_index_of_a_newer_program_is_refused_and_not_touched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.db");
    drop(Index::open(&path).unwrap());
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "user_version", 3).unwrap();
    drop(db);
    let before = std::fs::read(&path).unwrap();
    let refused = Index::open(&path).unwrap_err();
    assert!(matches!(refused, StoreError::Newer { found: 3, supported: 2, .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

//! Read while another one writes, and whatever it is.

use std::os::unix::fs::symlink;

use super::*;

/// A home of somebody, in which a program keeps a database.
struct Lab {
    dir: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(&dir.path().join("home/data")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("home/data").join(name)
    }

    /// As the user's own, and as anybody's.
    fn folders(&self) -> [Folder; 2] {
        let scratch = self.dir.path().join("scratch");
        let name = RelPath::new(b"data").unwrap();
        let own = Folder::open(&self.dir.path().join("home/data")).unwrap().unwrap();
        let home = self.dir.path().join("home");
        let anybodys = Folder::open_in(&home, &name, false).unwrap().unwrap();
        [own, anybodys].map(|folder| folder.with_scratch(&scratch))
    }

    /// A program at work, whose log is not taken over.
    fn writer(&self) -> Connection {
        let db = Connection::open(self.path("a.db")).unwrap();
        db.pragma_update(None, "journal_mode", "wal").unwrap();
        db.pragma_update(None, "wal_autocheckpoint", 0).unwrap();
        db.execute_batch("CREATE TABLE IF NOT EXISTS t(x)").unwrap();
        db
    }
}

fn all(db: &Database) -> Result<Vec<String>, DatabaseError> {
    let mut found = Vec::new();
    db.expect(&["t"])?;
    db.rows("SELECT x FROM t ORDER BY rowid", &[], |row| {
        found.push(row.text(0).unwrap_or("?").to_owned());
        Ok::<_, DatabaseError>(())
    })?;
    Ok(found)
}

#[test]
fn what_a_program_at_work_has_committed_is_read_and_nothing_is_written() {
    let lab = Lab::new();
    let writer = lab.writer();
    writer.execute("INSERT INTO t VALUES ('one')", []).unwrap();
    writer.execute_batch("BEGIN; INSERT INTO t VALUES ('not yet')").unwrap();
    let bytes = |name| fs::read_if_exists(&lab.path(name), 1 << 20).unwrap().unwrap();
    let before = (bytes("a.db"), bytes("a.db-wal"));
    for folder in lab.folders() {
        let db = folder.database("a.db").unwrap().unwrap();
        assert_eq!(all(&db).unwrap(), ["one"]);
        assert!(folder.database("none.db").unwrap().is_none());
    }
    assert_eq!((bytes("a.db"), bytes("a.db-wal")), before);
    writer.execute_batch("COMMIT").unwrap();
    for folder in lab.folders() {
        let db = folder.database("a.db").unwrap().unwrap();
        assert_eq!(all(&db).unwrap(), ["one", "not yet"]);
        // From then on it stays as it was.
        writer.execute("INSERT INTO t VALUES ('later')", []).unwrap();
        assert_eq!(all(&db).unwrap(), ["one", "not yet"]);
        writer.execute("DELETE FROM t WHERE x = 'later'", []).unwrap();
    }
    // Copies are gone.
    assert_eq!(fs::list_dir(&lab.dir.path().join("scratch")).unwrap().len(), 0);
}

/// A copy taken while somebody writes, takes the log over and begins it anew is one state, never a part of one.
#[test]
fn a_copy_is_never_torn() {
    let lab = Lab::new();
    let writer = lab.writer();
    writer
        .execute_batch("CREATE TABLE u(x); INSERT INTO t VALUES ('0'); INSERT INTO u VALUES ('0')")
        .unwrap();
    let stopped = std::sync::atomic::AtomicBool::new(false);
    let (stop, [_, folder]) = (&stopped, lab.folders());
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for number in 1.. {
                if stop.load(std::sync::atomic::Ordering::Relaxed) {
                    break;
                }
                let pad = "x".repeat(20_000);
                writer
                    .execute_batch(&format!(
                        "BEGIN; UPDATE t SET x = '{number}'; UPDATE u SET x = '{number}{pad}'; COMMIT"
                    ))
                    .unwrap();
                if number % 7 == 0 {
                    writer.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap_or_default();
                }
            }
        });
        let mut read = 0;
        for _ in 0..100 {
            let db = match folder.database("a.db") {
                Err(DatabaseError::Unsteady { .. }) => continue,
                opened => opened.unwrap().unwrap(),
            };
            let mut other = String::new();
            db.rows("SELECT rtrim(x, 'x') FROM u", &[], |row| {
                row.text(0).unwrap().clone_into(&mut other);
                Ok::<_, DatabaseError>(())
            })
            .unwrap();
            assert_eq!(all(&db).unwrap(), [other]);
            read += 1;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(read > 0, "it was never read");
    });
}

#[test]
fn what_is_no_database_is_an_error_and_ends() {
    let lab = Lab::new();
    let write = |name: &str, bytes: &[u8]| {
        fs::write_atomic(&lab.path(name), bytes, 0o600).unwrap();
    };
    write("text.db", b"this is no database, and long enough to be looked at as one, one hundred bytes and more of it in a file");
    write("empty.db", b"");
    symlink("/etc/passwd", lab.path("link.db")).unwrap();
    let endless = Connection::open(lab.path("view.db")).unwrap();
    endless
        .execute_batch(
            "CREATE VIEW t AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
        )
        .unwrap();
    for folder in lab.folders() {
        let read = |name: &str| folder.database(name).and_then(|db| all(&db.unwrap()));
        assert!(matches!(read("text.db"), Err(DatabaseError::Sqlite { .. })));
        assert!(matches!(read("empty.db"), Err(DatabaseError::NoTable { .. })));
        assert!(matches!(read("view.db"), Err(DatabaseError::NoTable { .. })));
        assert!(matches!(read("link.db"), Err(DatabaseError::Folder(_))));
        // One that asks for it itself does not wait for ever.
        let db = folder.database("view.db").unwrap().unwrap();
        let asked = db.rows("SELECT max(x) FROM t", &[], |_| Ok::<_, DatabaseError>(()));
        assert!(matches!(asked, Err(DatabaseError::Sqlite { .. })), "{asked:?}");
    }
}

#[test]
fn a_value_of_any_length_is_passed_over() {
    let lab = Lab::new();
    let writer = lab.writer();
    writer.execute_batch("INSERT INTO t VALUES (zeroblob(70000000)), ('small')").unwrap();
    let [folder, anybodys] = lab.folders();
    let db = folder.database("a.db").unwrap().unwrap();
    let mut lengths = Vec::new();
    let query = "SELECT octet_length(x), iif(octet_length(x) < 1000, x, NULL) FROM t";
    db.rows(query, &[], |row| {
        lengths.push((row.number(0), row.text(1).map(str::to_owned)));
        Ok::<_, DatabaseError>(())
    })
    .unwrap();
    assert_eq!(lengths, [(Some(70_000_000), None), (Some(5), Some("small".to_owned()))]);
    // Asked for, it is an error.
    let asked = db.rows("SELECT x || '' FROM t", &[], |_| Ok::<_, DatabaseError>(()));
    assert!(matches!(asked, Err(DatabaseError::Sqlite { .. })), "{asked:?}");
    drop(db);
    // And a database that is too large is none that is copied.
    let file = File::options().write(true).open(lab.path("a.db")).unwrap();
    file.set_len(MAX_COPY + 1).unwrap();
    let copied = anybodys.database("a.db");
    assert!(matches!(copied, Err(DatabaseError::TooLarge { .. })), "{copied:?}");
}

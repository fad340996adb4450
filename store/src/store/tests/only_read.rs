//! A store with features that this program does not know: refused, or read without a byte of it changing.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

use super::*;
use crate::check::check as check_all;

/// Every file and folder with its bytes, but what SQLite shares between processes, and logs in which nothing is.
fn files(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut open) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(folder) = open.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files.insert(path.clone(), Vec::new());
                open.push(path);
                continue;
            }
            let (name, bytes) =
                (path.to_string_lossy().into_owned(), std::fs::read(&path).unwrap());
            if !(name.ends_with("-shm") || name.ends_with("-wal") && bytes.is_empty()) {
                files.insert(path, bytes);
            }
        }
    }
    files
}

fn add_feature(root: &Path, line: &str) {
    let path = root.join("format");
    let mut text = std::fs::read_to_string(&path).unwrap();
    text.push_str(line);
    text.push('\n');
    std::fs::write(path, text).unwrap();
}

/// A store with something in segments, and something that only the journal has.
fn filled() -> (tempfile::TempDir, Head) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = commit(&store, &small(1), 1, None).unwrap().head;
    store.fold().unwrap();
    let head = commit(&store, &small(2), 2, Some(first.snapshot)).unwrap().head;
    (folder, head)
}

#[test]
fn who_does_not_know_how_to_read_it_is_told_which_feature_and_changes_nothing() {
    let (folder, _) = filled();
    add_feature(folder.path(), "write-required other");
    add_feature(folder.path(), "read-required made-up");
    let before = files(folder.path());
    let refused = Store::open(folder.path()).unwrap_err();
    assert!(matches!(&refused, StoreError::Unread { feature, .. } if feature == "made-up"));
    assert!(refused.to_string().contains("`made-up`"), "{refused}");
    assert_eq!(files(folder.path()), before);
}

#[test]
fn who_does_not_know_how_to_write_it_reads_all_of_it_and_changes_nothing() {
    let (folder, head) = filled();
    add_feature(folder.path(), "write-required made-up");
    let before = files(folder.path());
    {
        let store = Store::open(folder.path()).unwrap();
        let vault = store.vault(VAULT).unwrap();
        assert_eq!(vault.heads(), [head]);
        let checked = check_all(&store, true, |_, _| {}).unwrap();
        assert_eq!((checked.problems.len(), checked.snapshots), (0, 2));
        let snapshot = vault.read(&head.snapshot.into()).unwrap();
        assert!(snapshot.is_some());

        let refused = [
            commit(&store, &small(3), 3, Some(head.snapshot)).map(drop).unwrap_err().to_string(),
            store.fold().unwrap_err().to_string(),
            store.check_poison().unwrap_err().to_string(),
            store.remove_refs(VAULT, |_| true).unwrap_err().to_string(),
        ];
        for refused in refused {
            assert!(refused.contains("`made-up`"), "{refused}");
        }
        let second = Store::open(folder.path()).unwrap_err();
        assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    }
    assert_eq!(files(folder.path()), before);

    // Whoever knows it goes on.
    std::fs::write(folder.path().join("format"), "baton store 1\n").unwrap();
    let store = Store::open(folder.path()).unwrap();
    commit(&store, &small(3), 3, Some(head.snapshot)).unwrap();
}

#[test]
fn records_without_rows_are_read_where_nothing_may_be_written() {
    let (folder, head) = filled();
    let layout = Layout::open(folder.path()).unwrap();
    let store = Store::open(folder.path()).unwrap();
    store.fold().unwrap();
    drop(store);
    // As a power cut may leave the index: it has forgotten what its log had.
    let db = rusqlite::Connection::open(layout.index(VAULT)).unwrap();
    let all: i64 = db.query_row("SELECT count(*) FROM object", [], |row| row.get(0)).unwrap();
    db.execute_batch("DELETE FROM object; UPDATE segment SET indexed = 64").unwrap();
    drop(db);
    assert!(all > 0);
    add_feature(folder.path(), "write-required made-up");
    let before = files(folder.path());
    let store = Store::open(folder.path()).unwrap();
    assert!(store.vault(VAULT).unwrap().read(&head.snapshot.into()).unwrap().is_some());
    let checked = check_all(&store, true, |_, _| {}).unwrap();
    assert_eq!((checked.problems.len(), checked.snapshots), (0, 2));
    drop(store);
    assert_eq!(files(folder.path()), before);

    // Without an index nothing can be read that way, and it says why.
    std::fs::remove_file(layout.index(VAULT)).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let refused = store.vault(VAULT).unwrap_err();
    assert!(matches!(&refused, StoreError::ReadOnly { feature, .. } if feature == "made-up"));
    assert!(!layout.index(VAULT).exists());
}

#[test]
fn optional_features_stay_whatever_is_done() {
    let (folder, head) = filled();
    add_feature(folder.path(), "optional made-up");
    let format = std::fs::read(folder.path().join("format")).unwrap();
    for sequence in 3..6 {
        let store = Store::open(folder.path()).unwrap();
        let head = store.vault(VAULT).unwrap().heads()[0].snapshot;
        commit(&store, &small(sequence), sequence, Some(head)).unwrap();
        store.fold().unwrap();
        crate::repair::repair(&store, |_| Vec::new(), |_, _| {}).unwrap();
    }
    let store = Store::open(folder.path()).unwrap();
    assert_ne!(store.vault(VAULT).unwrap().heads(), [head]);
    assert_eq!(std::fs::read(folder.path().join("format")).unwrap(), format);
}

#[test]
fn a_list_of_features_that_nobody_wrote_is_damage() {
    let (folder, _) = filled();
    add_feature(folder.path(), "optional \u{7f}");
    let refused = Store::open(folder.path()).unwrap_err();
    assert!(refused.is_corruption(), "{refused}");
    // Of a newer format the number counts, whatever follows.
    std::fs::write(folder.path().join("format"), "baton store 2\nwho knows\n").unwrap();
    let newer = Store::open(folder.path()).unwrap_err();
    assert!(matches!(newer, StoreError::Newer { found: 2, supported: 1, .. }), "{newer}");
}

//! The store against disks that fail, processes that are killed, and handles that outlive it.

use std::io::ErrorKind;

use super::*;
use crate::fs::fault;
use crate::fs::simulated::Disk;
use crate::fuzz::scratch;
use crate::vault::Roots;

/// A snapshot, and what is in it.
type Acked = (SnapshotId, BTreeMap<String, Vec<u8>>);

/// Commits, folds and commits again while operations fail; whatever fails is tried again once. Returns
/// what was acknowledged last. Ends with the first commit after it is over.
fn work(path: &std::path::Path, is_over: impl Fn() -> bool) -> Option<Acked> {
    let mut acked: Option<Acked> = None;
    let Ok(store) = Store::open(path) else { return None };
    for (sequence, is_large) in [(1, false), (2, true), (3, false), (4, false)] {
        let content = if is_large { large(sequence) } else { small(sequence) };
        let parent = acked.as_ref().map(|(id, _)| *id);
        let sequence = if parent.is_none() { 1 } else { sequence };
        let mut committed = commit(&store, &content, sequence, parent);
        if committed.is_err() {
            committed = commit(&store, &content, sequence, parent);
        }
        if let Ok(committed) = committed {
            let head = store.vault(VAULT).unwrap().head(WORKSPACE, DEVICE);
            assert_eq!(head, Some(committed.head));
            // A read may fail with the disk, but nothing may be gone.
            let read = files(&store, committed.head.snapshot);
            assert!(!matches!(read, Err(StoreError::Absent(_))), "{read:?}");
            acked = Some((committed.head.snapshot, content));
            if is_over() {
                break;
            }
        }
        if sequence != 3 {
            let _failed = store.fold().and_then(|()| collect(&store, sequence == 4));
        }
    }
    acked
}

/// Collects what is not below a ref; what fails is left as it is.
fn collect(store: &Store, purge: bool) -> Result<(), StoreError> {
    let vault = store.vault(VAULT)?;
    if purge {
        vault.purge_next()?;
    }
    match vault.collect()? {
        Some(mut collection) => {
            super::collecting::finish(&mut collection, &Roots::default()).map(drop)
        }
        None => Ok(()),
    }
}

#[test]
fn whatever_operation_fails_nothing_acknowledged_is_lost() {
    for (kind, times) in
        [(ErrorKind::StorageFull, 1), (ErrorKind::Other, 1), (ErrorKind::StorageFull, 40)]
    {
        let mut at = times % 2;
        loop {
            let folder = tempfile::tempdir().unwrap();
            let armed = fault::arm(folder.path(), None, at, times, kind);
            let acked = work(folder.path(), || false);
            let done = armed.seen() <= at;
            drop(armed);
            has_all(folder.path(), acked, &format!("{kind:?} at {at}"));
            if done {
                break;
            }
            at += 7;
        }
    }
}

/// What was acknowledged is there, and nothing is damaged.
fn has_all(path: &std::path::Path, acked: Option<Acked>, what: &str) {
    let store = Store::open(path).unwrap();
    if let Some((snapshot, content)) = acked {
        assert_eq!(files(&store, snapshot).unwrap(), content, "{what}");
        // A later update that was not acknowledged may have taken effect all the same.
        let vault = store.vault(VAULT).unwrap();
        let head = vault.head(WORKSPACE, DEVICE).unwrap();
        let history = Snapshot::decode(&vault.require(&head.snapshot.into()).unwrap());
        let parents = history.unwrap().parents;
        assert!(head.snapshot == snapshot || parents == [snapshot], "{what}");
    }
    assert_eq!(crate::check::check(&store, true, |_, _| {}).unwrap().problems, [], "{what}");
}

/// Each operation of the work fails once, with a full disk and with an error of the disk; what failed is not on the disk
/// when the power is cut after the next acknowledgement.
#[test]
fn whatever_operation_fails_a_power_cut_later_takes_nothing_acknowledged() {
    let mut tried = 0;
    for kind in [ErrorKind::StorageFull, ErrorKind::Other] {
        let mut at = 0;
        loop {
            let (folder, left) = (scratch(), scratch());
            let disk = Disk::follow(folder.path(), at);
            let armed = fault::arm(folder.path(), None, at, 1, kind);
            let acked = work(folder.path(), || armed.seen() > at);
            let done = armed.seen() <= at;
            drop(armed);
            disk.cut(left.path(), at);
            drop(disk);
            has_all(left.path(), acked, &format!("{kind:?} at {at}"));
            tried += 1;
            if done {
                break;
            }
            at += 1;
        }
    }
    println!("{tried} operations failed");
    assert!(tried > 300, "{tried} operations");
}

#[test]
fn an_intake_that_lost_an_object_commits_nothing_and_hangs_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let intake = store.vault(VAULT).unwrap().intake();
    let data = folder.path().join(format!("vaults/{VAULT}/data"));
    let armed = fault::arm(&data, Some("writing"), 1, u64::MAX, ErrorKind::StorageFull);
    let put = |at| intake.put(ObjectKind::Chunk, &noise(at, 100_000));
    let error = (0..40).find_map(|at| put(at).err()).unwrap();
    assert!(error.is_disk_full());
    drop(armed);
    // It was taken, and stood in the record that could not be written.
    let lost = ObjectId::of(ObjectKind::Chunk, &noise(0, 100_000));
    assert!(intake.read(&lost).is_err());
    let update = RefUpdate {
        workspace: WORKSPACE,
        device: DEVICE,
        expected: None,
        new: SnapshotId::from_bytes([0; 32]),
        sequence: 1,
        key: IdempotencyKey::from_bytes([0; 16]),
    };
    let refused = intake.commit_in_place(&update).unwrap_err();
    assert!(matches!(refused, CommitError::Store(StoreError::Incomplete { .. })), "{refused}");
    // The next one starts over.
    commit(&store, &large(1), 1, None).unwrap();
}

#[test]
fn records_of_a_killed_process_are_synced_before_anybody_relies_on_them() {
    let folder = tempfile::tempdir().unwrap();
    {
        let store = Store::open(folder.path()).unwrap();
        commit(&store, &large(1), 1, None).unwrap();
        // Appended and never synced.
        let intake = store.vault(VAULT).unwrap().intake();
        for bytes in large(2).values() {
            intake.put(ObjectKind::Chunk, bytes).unwrap();
        }
    }
    let data = folder.path().join(format!("vaults/{VAULT}/data"));
    let segment = data.join(&fs::list_dir(&data).unwrap()[0]);
    let armed = fault::arm(&segment, Some("syncing"), 0, u64::MAX, ErrorKind::Other);
    let store = Store::open(folder.path()).unwrap();
    assert!(store.vault(VAULT).is_err());
    drop(armed);
    store.vault(VAULT).unwrap();
}

#[test]
fn a_vault_that_outlives_its_store_keeps_others_out() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    drop(store);
    assert!(matches!(Store::open(folder.path()), Err(StoreError::Locked { .. })));
    vault.intake().keep(&[]).unwrap();
    drop(vault);
    Store::open(folder.path()).unwrap();
}

#[test]
fn a_store_that_is_folding_is_closed_when_it_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..5 {
        let store = Store::open(folder.path()).unwrap();
        let parent = store.vault(VAULT).unwrap().head(WORKSPACE, DEVICE);
        commit(&store, &small(round), round + 1, parent.map(|head| head.snapshot)).unwrap();
        store.0.shared.commits.fold.send(()).unwrap();
        // Now and then it is in the middle of it.
        std::thread::yield_now();
    }
}

#[test]
fn what_compresses_well_does_not_pile_up_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    for at in 0..50u64 {
        let intake = vault.intake();
        for part in 0..3u8 {
            let mut bytes = vec![part; 250_000];
            bytes[..8].copy_from_slice(&at.to_le_bytes());
            intake.put(ObjectKind::Chunk, &bytes).unwrap();
        }
        intake.keep(&[]).unwrap();
    }
    let commits = &store.0.shared.commits;
    // Folded without being asked; the test hangs where it is not.
    while commits.has_to_fold() {
        std::thread::yield_now();
    }
}

#[test]
fn children_that_are_started_meanwhile_do_not_keep_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::process::Command::new("true").status().unwrap();
                }
            });
        }
        let opened = (0..60).try_for_each(|_| Store::open(folder.path()).map(drop));
        stop.store(true, Ordering::Relaxed);
        opened.unwrap();
    });
}

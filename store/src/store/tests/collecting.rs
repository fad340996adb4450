//! What a collection takes away, and what it leaves.

use std::time::Duration;

use baton_protocol::object::Object;

use super::*;
use crate::fs::simulated::Disk;
use crate::vault::{Collected, Collection, Roots, Step};

/// Takes every step of a collection; whether it came to its end.
pub(super) fn finish(collection: &mut Collection, roots: &Roots) -> Result<bool, StoreError> {
    loop {
        match collection.needs() {
            Step::Roots => collection.mark(roots)?,
            Step::Goes => drop(collection.step()?),
            Step::Waits => return Ok(false),
            Step::Done => return Ok(true),
        }
    }
}

/// Collects a vault, of which nothing but its refs and these roots has to stay.
pub(super) fn collect(store: &Store, roots: &Roots) -> Collected {
    store.fold().unwrap();
    let mut collection = store.vault(VAULT).unwrap().collect().unwrap().unwrap();
    assert!(finish(&mut collection, roots).unwrap());
    collection.collected().clone()
}

fn some(snapshots: &[SnapshotId]) -> Roots {
    Roots { some: snapshots.iter().map(|&id| id.into()).collect(), ..Roots::default() }
}

/// Every byte of every file of a store, the index aside.
fn all_bytes(root: &std::path::Path) -> Vec<u8> {
    let mut all = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for name in fs::list_dir(&folder).unwrap() {
            let path = folder.join(name);
            if path.is_dir() {
                open.push(path);
            } else {
                all.extend(fs::read_if_exists(&path, u64::MAX - 1).unwrap().unwrap());
            }
        }
    }
    all
}

fn has(all: &[u8], part: &[u8]) -> bool {
    all.windows(part.len()).any(|window| window == part)
}

/// A store with two snapshots that have no file in common, folded; the ref is at the second one.
fn two() -> (tempfile::TempDir, Store, [SnapshotId; 2]) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = commit(&store, &large(1), 1, None).unwrap().head.snapshot;
    let second = commit(&store, &large(2), 2, Some(first)).unwrap().head.snapshot;
    store.fold().unwrap();
    (folder, store, [first, second])
}

#[test]
fn what_nothing_leads_to_goes_and_all_else_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut before: Vec<SnapshotId> = Vec::new();
    for sequence in 1..=4 {
        let mut content = large(sequence);
        content.extend(small(7));
        let parent = before.last().copied();
        before.push(commit(&store, &content, sequence, parent).unwrap().head.snapshot);
    }
    let roots = some(&before[1..2]);
    let dry = {
        let mut collection = store.vault(VAULT).unwrap().collect().unwrap().unwrap();
        collection.mark(&roots).unwrap();
        collection.survey().unwrap()
    };
    let collected = collect(&store, &roots);
    // Of two snapshots: their chunks, their trees, and themselves.
    assert_eq!(collected.objects, 2 * 42, "{collected:?}");
    assert_eq!((dry.objects, collected.left, collected.damage), (2 * 42, 0, Vec::new()));
    assert!(collected.freed_bytes > 4_000_000, "{}", collected.freed_bytes);
    assert!(dry.freed_bytes.abs_diff(collected.freed_bytes) < 500_000, "{}", dry.freed_bytes);
    let verify = |store: &Store| {
        for (at, &snapshot) in before.iter().enumerate() {
            let found = files(store, snapshot);
            if at == 1 || at == 3 {
                assert_eq!(found.unwrap().len(), 45);
            } else {
                assert!(matches!(found, Err(StoreError::Absent(_))));
            }
        }
        assert_eq!(crate::check::check(store, true, |_, _| {}).unwrap().problems, []);
    };
    verify(&store);
    assert_eq!(collect(&store, &roots), Collected::default());
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    verify(&store);
    assert_eq!(collect(&store, &roots), Collected::default());
}

#[test]
fn what_was_purged_is_in_no_file_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    // Bytes that no compression changes, among many that stay: far less than what is rewritten by itself.
    let secret = noise(99, 300);
    let mut with = large(1);
    with.insert("secret".to_owned(), secret.clone());
    let first = commit(&store, &with, 1, None).unwrap().head.snapshot;
    let mut also = small(2);
    also.insert("secret too".to_owned(), noise(98, 300));
    let second = commit(&store, &also, 2, Some(first)).unwrap().head.snapshot;
    commit(&store, &large(1), 3, Some(second)).unwrap();
    assert!(has(&all_bytes(folder.path()), &secret));
    collect(&store, &Roots::default());
    assert!(has(&all_bytes(folder.path()), &secret), "it is too little to be rewritten");
    let vault = store.vault(VAULT).unwrap();
    vault.purge_next().unwrap();
    collect(&store, &Roots::default());
    assert!(!vault.is_to_be_purged());
    let all = all_bytes(folder.path());
    assert!(!has(&all, &secret) && !has(&all, &noise(98, 300)));
    assert!(has(&all, &noise(100, 60_000)[..500]), "what stays is found so");
    let head = vault.head(WORKSPACE, DEVICE).unwrap();
    assert_eq!(files(&store, head.snapshot).unwrap(), large(1));
}

#[test]
fn an_index_that_is_made_anew_brings_nothing_back_for_good() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = commit(&store, &large(1), 1, None).unwrap().head.snapshot;
    // So little of the segment of file data is dead that it stays.
    let mut content = large(1);
    let gone = ObjectId::of(ObjectKind::Chunk, &content["f000"]);
    content.insert("f000".to_owned(), b"other".to_vec());
    let second = commit(&store, &content, 2, Some(first)).unwrap().head.snapshot;
    assert_eq!(collect(&store, &Roots::default()).objects, 3);
    assert!(!store.vault(VAULT).unwrap().contains(&gone).unwrap());
    drop(store);
    fs::write_atomic(&folder.path().join(format!("vaults/{VAULT}/index.doubted")), b"", 0o600)
        .unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(files(&store, second).unwrap(), content);
    let vault = store.vault(VAULT).unwrap();
    assert!(vault.contains(&gone).unwrap(), "its bytes are still there");
    assert_eq!(collect(&store, &Roots::default()).objects, 1);
    assert!(!vault.contains(&gone).unwrap());
    assert!(files(&store, first).is_err());
    assert_eq!(files(&store, second).unwrap(), content);
}

#[test]
fn who_began_before_reads_on_and_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = commit(&store, &large(1), 1, None).unwrap().head.snapshot;
    commit(&store, &large(2), 2, Some(first)).unwrap();
    store.fold().unwrap();
    let vault = store.vault(VAULT).unwrap();
    let lease = store.lease();
    let mut collection = vault.collect().unwrap().unwrap();
    assert!(vault.collect().unwrap().is_none(), "one at a time");
    assert!(!finish(&mut collection, &Roots::default()).unwrap());
    assert_eq!(collection.collected().left, 42);
    assert_eq!(files(&store, first).unwrap(), large(1));
    assert_eq!(vault.find_snapshots(&first.to_string()).unwrap(), [], "who looks for it now");
    collection.wait(Duration::ZERO);
    assert_eq!(collection.needs(), Step::Waits);
    drop(lease);
    assert!(finish(&mut collection, &Roots::default()).unwrap());
    assert_eq!(collection.collected().objects, 42);
    assert!(files(&store, first).is_err());
}

#[test]
fn what_was_condemned_comes_back_with_who_brings_it_and_who_meets_it() {
    let (folder, store, [_, second]) = two();
    let vault = store.vault(VAULT).unwrap();
    let lease = store.lease();
    let mut collection = vault.collect().unwrap().unwrap();
    finish(&mut collection, &Roots::default()).unwrap();
    // The same files again, of which the roots of trees are the same, too.
    let third = commit(&store, &large(1), 3, Some(second)).unwrap().head.snapshot;
    drop(lease);
    // A collection that is left there leaves them for the next one, which may be after a restart.
    drop(collection);
    drop((vault, store));
    let store = Store::open(folder.path()).unwrap();
    let collected = collect(&store, &some(&[second]));
    assert_eq!((collected.objects, collected.damage), (1, Vec::new()), "the first snapshot itself");
    assert_eq!(files(&store, third).unwrap(), large(1));
    assert_eq!(files(&store, second).unwrap(), large(2));
    assert_eq!(crate::check::check(&store, true, |_, _| {}).unwrap().problems, []);
}

#[test]
fn a_commit_between_whose_walk_and_ref_something_was_condemned_walks_again() {
    for is_blind in [false, true] {
        let (_folder, store, [_, second]) = two();
        let vault = store.vault(VAULT).unwrap();
        vault.be_blind(is_blind);
        let intake = vault.intake();
        let update = put(&intake, &large(1), 3, Some(second)).unwrap();
        // The walk is done here; the rest of the commit comes later.
        assert_eq!(intake.missing(update.new.into(), 10).unwrap(), []);
        let mut collection = vault.collect().unwrap().unwrap();
        finish(&mut collection, &Roots::default()).unwrap();
        let third = intake.commit(update).unwrap().head.snapshot;
        let condemned = vault.index().page(None, 1000).unwrap();
        let condemned = condemned.iter().filter(|row| row.is_condemned).count();
        // Of the first snapshot nothing is left but itself; who is blind has a ref to what is condemned.
        assert_eq!(condemned, if is_blind { 42 } else { 1 });
        assert!(finish(&mut collection, &Roots::default()).unwrap());
        // All of it is back in any case: it was marked once more before anything was deleted.
        assert_eq!(files(&store, third).unwrap(), large(1));
    }
}

/// The same, where the walk is right before the ref.
#[test]
fn a_commit_at_whose_gate_something_was_condemned_walks_again() {
    let (_folder, store, [_, second]) = two();
    let vault = store.vault(VAULT).unwrap();
    let intake = vault.intake();
    let update = put(&intake, &large(1), 3, Some(second)).unwrap();
    let condemned = {
        let vault = vault.clone();
        move || {
            let rows = vault.index().page(None, 1000).unwrap();
            rows.iter().filter(|row| row.is_condemned).count()
        }
    };
    let (collecting, count) = (vault.clone(), condemned.clone());
    vault.meanwhile(move || {
        let mut collection = collecting.collect().unwrap().unwrap();
        // It waits for the intake, with everything condemned that only the first snapshot needs.
        assert!(!finish(&mut collection, &Roots::default()).unwrap());
        assert_eq!(count(), 42);
    });
    let third = intake.commit(update).unwrap().head.snapshot;
    // Of the first snapshot nothing but itself.
    assert_eq!(condemned(), 1);
    assert_eq!(collect(&store, &Roots::default()).objects, 1 + 42);
    assert_eq!(files(&store, third).unwrap(), large(1));
}

#[test]
fn damage_below_a_root_keeps_everything() {
    let (_folder, store, [first, second]) = two();
    let vault = store.vault(VAULT).unwrap();
    let Ok(Object::Snapshot(snapshot)) =
        Object::decode(ObjectKind::Snapshot, &vault.require(&second.into()).unwrap())
    else {
        panic!("it was just made");
    };
    let lost = [ObjectId::from(snapshot.root)];
    vault.index().condemn(&lost).unwrap();
    vault.index().delete_condemned(&lost).unwrap();
    let collected = collect(&store, &Roots::default());
    assert_eq!((collected.objects, collected.left, collected.damage.len()), (0, 0, 1));
    assert_eq!(collected.damage[0].id, lost[0]);
    assert_eq!(files(&store, first).unwrap(), large(1));
    // Of what need not be whole that is no damage.
    let roots = some(&[SnapshotId::from_bytes([9; 32])]);
    commit(&store, &large(2), 3, Some(second)).unwrap();
    assert_eq!(collect(&store, &roots).damage, []);
}

#[test]
fn what_is_kept_without_a_ref_and_what_is_on_its_way_goes_in_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    let intake = vault.intake();
    let kept = put(&intake, &large(1), 1, None).unwrap().new;
    intake.keep(&[kept.into()]).unwrap();
    let given_up = vault.intake();
    put(&given_up, &large(3), 1, None).unwrap();
    given_up.flush_all().unwrap();
    let mut collection = vault.collect().unwrap().unwrap();
    assert!(!finish(&mut collection, &some(&[kept])).unwrap(), "the intake is at work");
    // It goes on, with all that it had brought.
    let update = put(&given_up, &large(3), 1, None).unwrap();
    given_up.commit(update).unwrap();
    assert!(finish(&mut collection, &some(&[kept])).unwrap());
    drop(collection);
    assert_eq!(files(&store, update.new).unwrap(), large(3));
    assert_eq!(files(&store, kept).unwrap(), large(1));
    assert_eq!(collect(&store, &Roots::default()).objects, 42);
    assert!(files(&store, kept).is_err());
}

#[test]
fn what_is_named_after_it_was_condemned_stays() {
    let (_folder, store, [first, second]) = two();
    let vault = store.vault(VAULT).unwrap();
    // Somebody found the first one whole, and has still to note that it has to stay.
    let lease = store.lease();
    assert_eq!(files(&store, first).unwrap(), large(1));
    let mut collection = vault.collect().unwrap().unwrap();
    assert!(!finish(&mut collection, &Roots::default()).unwrap());
    assert_eq!(collection.collected().left, 42);
    drop(lease);
    assert!(finish(&mut collection, &some(&[first])).unwrap());
    assert_eq!(collection.collected().objects, 0);
    drop(collection);
    assert_eq!(files(&store, first).unwrap(), large(1));
    assert_eq!(files(&store, second).unwrap(), large(2));
    assert_eq!(crate::check::check(&store, true, |_, _| {}).unwrap().problems, []);
}

/// Cuts a part off that the log of an index has from before it was synced, or nothing.
fn lose_the_end(root: &std::path::Path, cut: u64) {
    let log = root.join(format!("vaults/{VAULT}/index.db-wal"));
    let Ok(found) = log.metadata() else { return };
    fs::open_writable(&log).unwrap().set_len(found.len() - found.len() * cut / 4).unwrap();
}

#[test]
fn a_kill_or_a_power_cut_after_any_step_loses_nothing_and_the_next_collection_finds_the_rest() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::follow(folder.path(), 7);
    let store = Store::open(folder.path()).unwrap();
    let mut last = None;
    for sequence in 1..=3 {
        let mut content = large(sequence);
        content.extend(small(sequence / 2));
        content.retain(|name, _| !name.starts_with("f02"));
        last = Some(commit(&store, &content, sequence, last).unwrap().head.snapshot);
        if sequence == 1 {
            // Of a segment nothing stays.
            store.fold().unwrap();
            store.vault(VAULT).unwrap().seal_now().unwrap();
        }
    }
    let last = last.unwrap();
    let expected = files(&store, last).unwrap();
    store.fold().unwrap();
    let vault = store.vault(VAULT).unwrap();
    vault.purge_next().unwrap();
    // What a power cut leaves of the index is at least this.
    vault.index().sync().unwrap();
    let mut collection = vault.collect().unwrap().unwrap();
    collection.go_slowly(17);
    let (mut steps, mut cuts) = (0, 0);
    loop {
        match collection.needs() {
            Step::Roots => collection.mark(&Roots::default()).unwrap(),
            Step::Goes => drop(collection.step().unwrap()),
            Step::Waits => panic!("nobody is here"),
            Step::Done => break,
        }
        steps += 1;
        // What is noted while files are removed is synced before.
        let most = if collection.is_rewriting() { 0 } else { 4 };
        let ends = (0..=most).map(|cut| {
            let copy = copy_store(folder.path());
            lose_the_end(copy.path(), cut);
            copy
        });
        let powerless = (0..3).map(|cut| {
            let left = tempfile::tempdir().unwrap();
            disk.cut(left.path(), steps * 10 + cut);
            left
        });
        for (cut, copy) in ends.chain(powerless).enumerate() {
            cuts += 1;
            let store = Store::open(copy.path()).unwrap();
            let what = format!("step {steps}, cut {cut}");
            assert_eq!(files(&store, last).unwrap(), expected, "{what}");
            let next = collect(&store, &Roots::default());
            assert_eq!((&next.damage[..], &next.doubted[..]), (&[][..], &[][..]), "{what}");
            assert_eq!(files(&store, last).unwrap(), expected, "{what}");
            let vault = store.vault(VAULT).unwrap();
            assert_eq!(vault.intake().missing(last.into(), 10).unwrap(), [], "{what}");
            assert_eq!(vault.index().page(None, 1000).unwrap().len(), expected.len() + 2, "{what}");
            assert!(!vault.is_to_be_purged(), "{what}");
            assert_eq!(
                crate::check::check(&store, true, |_, _| {}).unwrap().problems,
                [],
                "{what}"
            );
        }
    }
    assert!(steps > 25 && cuts > 80, "{steps} steps, {cuts} cuts");
    assert!(!has(&all_bytes(folder.path()), &noise(100, 60_000)[..1000]));
}

/// Memory of this process, in KiB.
fn resident() -> u64 {
    let status = fs::read_if_exists(std::path::Path::new("/proc/self/status"), 1 << 16);
    let status = status.ok().flatten().unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or_default()
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how much is for whoever runs it; times are printed")]
fn however_many_rows_there_are_each_step_takes_a_few() {
    let is_night = std::env::var_os("BATON_SEEDS").is_some();
    let rows: u64 = if is_night { 2_000_000 } else { 25_000 };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    let segment = vault.index().add_segment("open-nothing", 0).unwrap();
    for start in (0..rows).step_by(50_000) {
        let row = |at: u64| {
            let id = ObjectId::of(ObjectKind::Chunk, &at.to_le_bytes());
            let at = crate::index::Location {
                segment,
                offset: at * 100,
                record_len: 100,
                inner: 0,
                len: 8,
            };
            (id, at)
        };
        let mut all: Vec<_> = (start..rows.min(start + 50_000)).map(row).collect();
        vault.index().insert(segment, 0, &mut all, false).unwrap();
    }
    let (before, begun) = (resident(), std::time::Instant::now());
    let mut collection = vault.collect().unwrap().unwrap();
    let with_marks = resident();
    collection.mark(&Roots::default()).unwrap();
    let (mut steps, mut longest) = (0u64, Duration::ZERO);
    while collection.needs() != Step::Done {
        let this = std::time::Instant::now();
        match collection.needs() {
            Step::Roots => collection.mark(&Roots::default()).unwrap(),
            _ => drop(collection.step().unwrap()),
        }
        longest = longest.max(this.elapsed());
        steps += 1;
    }
    println!(
        "{rows} rows: {steps} steps, {longest:?} the longest, {:?} in all; {} KiB of marks",
        begun.elapsed(),
        with_marks.saturating_sub(before)
    );
    assert_eq!(collection.collected().objects, rows);
    assert!(steps >= 3 * (rows / 10_000));
}

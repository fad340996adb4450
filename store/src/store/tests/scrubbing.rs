//! What is read now and then: when, how much, in which order, and what of damage stays known.

use super::*;
use crate::layout::Class;
use crate::noted::noted;
use crate::repair::repair;
use crate::scrub::{Pace, Scrubbed, due_in, scrub};

const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

/// A store with some sealed segments, and when the last of them was written.
fn sealed(root: &Path) -> (Store, u64) {
    let store = Store::open(root).unwrap();
    let vault = store.vault(VAULT).unwrap();
    let mut parent = None;
    for step in 1..=3 {
        parent = Some(commit(&store, &small(step), step, parent).unwrap().head.snapshot);
        store.fold().unwrap();
        vault.seal_now().unwrap();
    }
    let written = segments(&store).into_iter().map(|path| fs::modified_ms(&path).unwrap().unwrap());
    let last = written.max().unwrap();
    (store, last)
}

fn segments(store: &Store) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for class in Class::ALL {
        let folder = store.layout().segments(VAULT, class);
        let names = fs::list_dir(&folder).unwrap().into_iter();
        found.extend(names.map(|name| folder.join(name)));
    }
    found.retain(|path| !path.to_string_lossy().contains("open-"));
    found
}

const PACE: Pace = Pace { per_day: 24, every_ms: 30 * DAY };

fn look(store: &Store, now: u64, per_day: u64) -> Scrubbed {
    scrub(store, now, Pace { per_day, every_ms: 30 * DAY }, || false).unwrap()
}

#[test]
fn segments_are_read_when_they_are_due_one_after_the_other_within_the_budget() {
    let folder = tempfile::tempdir().unwrap();
    let (store, last) = sealed(folder.path());
    let all = segments(&store).len() as u64;
    assert!(all >= 6, "{all} segments");
    let plenty = 1 << 40;
    assert_eq!(look(&store, last + DAY, plenty), Scrubbed::default(), "nothing is due");
    let due = last + 31 * DAY;
    assert_eq!(look(&store, due, 0), Scrubbed::default(), "it is off");
    assert_eq!(
        scrub(&store, due, Pace { per_day: plenty, every_ms: 30 * DAY }, || true).unwrap().segments,
        0
    );
    // So little that each is more than an hour's budget: one at a time, and only when it is paid for.
    let mut now = due;
    for at in 0..all {
        let done = look(&store, now, 24);
        assert_eq!((done.segments, done.problems), (1, vec![]), "segment {at}");
        assert_eq!(look(&store, now + 1, 24).segments, 0, "the budget is spent");
        let next = due_in(&store, now + 1, PACE).unwrap().unwrap();
        assert!(at + 1 == all || (1..DAY).contains(&next), "segment {at}: {next}");
        now += DAY + 1;
    }
    assert_eq!(look(&store, now, 24).segments, 0, "each was read once");
    // The position is durable.
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(look(&store, now, plenty).segments, 0);
    assert_eq!(look(&store, now + 31 * DAY, plenty).segments, all);
    // A file that nobody understands means that nothing was read.
    fs::write_atomic(&store.layout().verified(), &[0xff; 100], 0o600).unwrap();
    assert_eq!(look(&store, now + 40 * DAY, plenty).segments, all);
}

#[test]
fn damage_that_a_scrub_finds_stays_noted_until_a_repair_has_healed_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, last) = sealed(folder.path());
    let all = segments(&store);
    drop(store);
    for path in all {
        let mut bytes = bytes_of(&path);
        let middle = bytes.len() / 3;
        bytes[middle] ^= 1;
        fs::write_whole(&path, &bytes, 0o600).unwrap();
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(noted(store.layout()).unwrap(), []);
    let done = look(&store, last + 31 * DAY, 1 << 40);
    assert!(!done.problems.is_empty());
    let before = noted(store.layout()).unwrap();
    assert!(!before.is_empty());
    // Opened again the index is made anew and lists nothing that is damaged: still it is known.
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    store.vault(VAULT).unwrap();
    assert!(before.iter().all(|it| noted(store.layout()).unwrap().contains(it)));
    // What is lost stays named.
    let repaired = repair(&store, |_| Vec::new(), |_, _| {}).unwrap();
    assert!(!repaired.lost.is_empty() && before.iter().all(|it| repaired.found.contains(it)));
    assert_eq!(noted(store.layout()).unwrap().len(), repaired.left.len() + repaired.lost.len());
}

#[test]
fn who_waits_is_told_for_how_long_and_a_segment_that_is_written_to_is_read_too() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let now = 1_900_000_000_000;
    assert_eq!(due_in(&store, now, PACE).unwrap(), None, "there is nothing");
    let first = commit(&store, &small(1), 1, None).unwrap().head.snapshot;
    assert_eq!(due_in(&store, now, PACE).unwrap(), None, "all is in the journal");
    store.fold().unwrap();
    assert_eq!(segments(&store), [""; 0].map(PathBuf::from), "nothing is sealed");
    assert_eq!(due_in(&store, now, Pace { per_day: 0, ..PACE }).unwrap(), None, "it is off");
    assert_eq!(due_in(&store, now, PACE).unwrap(), Some(0));
    let read = look(&store, now, 1 << 40);
    assert_eq!((read.segments, &read.problems[..]), (2, &[][..]));
    assert_eq!(due_in(&store, now, PACE).unwrap(), Some(30 * DAY));
    // More comes to the same file, and something happens to what was there.
    commit(&store, &small(2), 2, Some(first)).unwrap();
    store.fold().unwrap();
    assert_eq!(due_in(&store, now + 29 * DAY, PACE).unwrap(), Some(DAY));
    let data = store.layout().segments(VAULT, Class::Data);
    let path = data.join(fs::list_dir(&data).unwrap().remove(0));
    let mut bytes = bytes_of(&path);
    bytes[300] ^= 1;
    std::os::unix::fs::FileExt::write_all_at(&fs::open_writable(&path).unwrap(), &bytes, 0)
        .unwrap();
    assert!(!look(&store, now + 30 * DAY, 1 << 40).problems.is_empty());
    assert!(!noted(store.layout()).unwrap().is_empty());
}

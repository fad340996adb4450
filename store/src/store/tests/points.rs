//! Every point at which a store can end: after each operation of the seam, by a kill and by a power cut.
//!
//! One work has all that a store does: it is made, takes small and large snapshots, is opened again, folds, seals, collects
//! what nothing needs, purges, is checked and scrubbed. What is on the disk right after each of its operations is opened:
//! what was acknowledged until then restores identically, what was not is there whole or not at all, the ref is one of both,
//! nothing is damaged, and work goes on.
//!
//! Where the power is cut `BATON_SEEDS=from..to` says which of what it may leave; `BATON_NIGHTLY` means many.

use super::*;
use crate::check::check;
use crate::fs::simulated::{Disk, Followed};
use crate::fuzz::simulations::{scratch, seeds};
use crate::scrub::{Pace, scrub};
use crate::vault::Roots;

/// Of what a power cut may leave at each point: in the default run, and in the nightly one.
const FEW: u64 = 1;
const MANY: u64 = 20;

/// Of one work, after how many operations what is left is kept at once.
const AT_ONCE: u64 = 16;

type Content = BTreeMap<String, Vec<u8>>;

/// How the work ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    PowerCut(u64),
}

/// What those learn who ask for the work.
enum Heard {
    /// A snapshot was asked for.
    Asked(SnapshotId, Content),
    /// It was acknowledged.
    Acked,
    /// Of those acknowledged so many at the front may go: a collection was told that nobody needs them.
    Released(usize),
}

/// What they know when it ends.
#[derive(Default)]
struct Known<'a> {
    acked: Vec<(SnapshotId, &'a Content)>,
    released: usize,
    /// Was asked for and not answered yet.
    open: Option<(SnapshotId, &'a Content)>,
}

impl<'a> Known<'a> {
    /// Of what was heard, that which was heard before an operation.
    fn before(operation: u64, heard: &'a [(u64, Heard)]) -> Self {
        let mut known = Self::default();
        for (_, heard) in heard.iter().filter(|(done, _)| *done < operation) {
            match heard {
                Heard::Asked(id, content) => known.open = Some((*id, content)),
                Heard::Acked => known.acked.extend(known.open.take()),
                Heard::Released(count) => known.released = *count,
            }
        }
        known
    }
}

/// Above what a journal takes, in one snapshot.
fn large(seed: u64) -> Content {
    (0..18).map(|at| (format!("f{at:03}"), noise(seed * 100 + at, 60_000))).collect()
}

struct Work {
    disk: Followed,
    /// The last of its operations that matters.
    last: u64,
    acked: Vec<SnapshotId>,
    /// With how many operations were done then.
    heard: Vec<(u64, Heard)>,
}

impl Work {
    fn hear(&mut self, what: Heard) {
        self.heard.push((self.disk.operations(), what));
    }

    fn is_over(&self) -> bool {
        self.disk.operations() >= self.last
    }

    fn commit(&mut self, store: &Store, content: Content) {
        let sequence = self.acked.len() as u64 + 1;
        let intake = store.vault(VAULT).unwrap().intake();
        let update = put(&intake, &content, sequence, self.acked.last().copied()).unwrap();
        self.acked.push(update.new);
        self.hear(Heard::Asked(update.new, content));
        intake.commit(update).unwrap();
        self.hear(Heard::Acked);
    }

    /// Takes away the snapshots before the last `keep`.
    fn collect(&mut self, store: &Store, keep: usize) {
        let released = self.acked.len() - keep;
        self.hear(Heard::Released(released));
        let roots = self.acked.iter().skip(released).map(|&id| id.into()).collect();
        super::collecting::collect(store, &Roots { some: roots, ..Roots::default() });
    }

    /// Does all of it, or as much as matters.
    fn go(&mut self, path: &std::path::Path) {
        let mut store = Store::open(path).unwrap();
        for seed in 1..=2 {
            self.commit(&store, small(seed));
        }
        self.commit(&store, large(3));
        drop(store);
        if self.is_over() {
            return;
        }
        store = Store::open(path).unwrap();
        self.commit(&store, small(4));
        store.fold().unwrap();
        // Somebody gives up in the middle.
        let given_up = store.vault(VAULT).unwrap().intake();
        given_up.put(ObjectKind::Chunk, &noise(4711, 5000)).unwrap();
        given_up.flush().unwrap();
        drop(given_up);
        self.commit(&store, large(5));
        store.vault(VAULT).unwrap().seal_now().unwrap();
        self.commit(&store, small(6));
        if self.is_over() {
            return;
        }
        self.collect(&store, 4);
        self.commit(&store, large(7));
        store.fold().unwrap();
        store.vault(VAULT).unwrap().seal_now().unwrap();
        if self.is_over() {
            return;
        }
        store.vault(VAULT).unwrap().purge_next().unwrap();
        self.collect(&store, 2);
        assert_eq!(check(&store, true, |_, _| {}).unwrap().problems, []);
        let pace = Pace { per_day: u64::MAX, every_ms: 0 };
        assert!(scrub(&store, 1 << 50, pace, || false).unwrap().segments > 0);
        drop(store);
        store = Store::open(path).unwrap();
        self.commit(&store, small(8));
    }
}

/// Opens what is left, and holds it against what is known.
fn verify(left: &std::path::Path, known: &Known, what: &str) {
    let mut store = Store::open(left).unwrap_or_else(|error| panic!("{what}: {error}"));
    let vault = store.vault(VAULT).unwrap();
    let head = vault.head(WORKSPACE, DEVICE).map(|head| head.snapshot);
    let acked = known.acked.last().map(|(id, _)| *id);
    let open = known.open.as_ref().map(|(id, _)| *id);
    let is_forward = head == acked || (head.is_some() && head == open);
    assert!(is_forward, "{what}: the ref is at {head:?}, not at {acked:?} or {open:?}");
    drop(vault);
    for (at, (id, content)) in known.acked.iter().chain(&known.open).enumerate() {
        let must = head == Some(*id) || (known.released..known.acked.len()).contains(&at);
        match files(&store, *id) {
            Ok(found) => assert_eq!(found, **content, "{what}: snapshot {at}"),
            Err(StoreError::Absent(_)) if !must => {}
            Err(error) => panic!("{what}: snapshot {at}: {error}"),
        }
    }
    assert_eq!(check(&store, true, |_, _| {}).unwrap().problems, [], "{what}");
    // Work goes on.
    let next = known.acked.len() as u64 + 1 + u64::from(head != acked);
    let content = small(next * 7);
    let id = commit(&store, &content, next, head).unwrap().head.snapshot;
    store.fold().unwrap();
    drop(store);
    store = Store::open(left).unwrap();
    assert_eq!(files(&store, id).unwrap(), content, "{what}");
}

/// Ends the work after each of its operations. Returns how many there are.
fn every_point(end: impl Fn(u64) -> End) -> u64 {
    for first in (1..).step_by(AT_ONCE as usize) {
        let folder = scratch();
        // The ids that are made are the same each time.
        let disk = Disk::follow(folder.path(), 1);
        let points = first..first + AT_ONCE;
        let left: Vec<_> = points.clone().map(|operation| (operation, scratch())).collect();
        for (operation, left) in &left {
            match end(*operation) {
                End::Kill => disk.kill_after(*operation, left.path()),
                End::PowerCut(seed) => disk.cut_after(*operation, left.path(), seed),
            }
        }
        let mut work = Work { disk, last: points.end - 1, acked: Vec::new(), heard: Vec::new() };
        work.go(folder.path());
        let done = work.disk.operations();
        for (operation, left) in left.iter().filter(|(operation, _)| *operation <= done) {
            let known = Known::before(*operation, &work.heard);
            let what = format!("{:?} after operation {operation}", end(*operation));
            verify(left.path(), &known, &what);
        }
        if done < points.end - 1 {
            return done;
        }
    }
    unreachable!("the work ends")
}

#[test]
fn killed_after_any_operation_everything_acknowledged_is_there() {
    let points = every_point(|_| End::Kill);
    println!("{points} points of a kill");
    assert!(points > 200, "{points} points");
}

#[test]
fn without_power_after_any_operation_everything_acknowledged_is_there() {
    let rounds = seeds(FEW, MANY);
    let mut all = 0;
    for round in rounds.clone() {
        let points = every_point(|operation| End::PowerCut(round << 32 | operation));
        assert!(points > 200, "{points} points");
        all += points;
    }
    println!("{all} points of a power cut, rounds {rounds:?}");
}

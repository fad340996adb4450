//! A collection against writers, readers and restarts: one scheduler takes the steps of all of them in an order that a seed
//! determines.
//!
//! `BATON_SEEDS=from..to` takes those seeds; so a night goes on where the one before ended.

use std::collections::{BTreeSet, HashSet};
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::*;
use crate::vault::{Collection, Intake, Lease, Roots, Step, Vault};

/// Seeds that every run of the tests takes.
const ALWAYS: std::ops::Range<u64> = 0..300;

/// In which something was once lost: to a reader of what was named only until the roots were marked again.
const ONCE: [u64; 1] = [13_161];

/// Steps of one seed.
const STEPS: u64 = 60;

const WRITERS: usize = 3;

struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        let hash = blake3::hash(&seed.to_le_bytes());
        let mut start = [0; 8];
        start.copy_from_slice(&hash.as_bytes()[..8]);
        Self(u64::from_le_bytes(start))
    }

    fn next(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

type Content = BTreeMap<String, Vec<u8>>;

/// Somebody on the way to a commit.
struct Writing {
    intake: Intake,
    content: Content,
    update: Option<RefUpdate>,
}

/// Somebody who reads what was there when they began.
struct Reading {
    snapshot: SnapshotId,
    _lease: Lease,
}

/// Somebody who found a snapshot whole and is about to note that it has to stay.
struct Naming {
    snapshot: SnapshotId,
    _lease: Lease,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    Leases,
}

struct World {
    random: Random,
    folder: tempfile::TempDir,
    store: Option<Store>,
    collection: Option<Collection>,
    writers: [Option<Writing>; WRITERS],
    reading: Option<Reading>,
    naming: Option<Naming>,
    heads: [Option<(SnapshotId, u64)>; WRITERS],
    /// What somebody outside of the vault wants to stay.
    named: BTreeSet<SnapshotId>,
    /// All that ever was.
    known: BTreeMap<SnapshotId, Content>,
    without: Without,
    trace: String,
    deleted: u64,
}

fn device(at: usize) -> DeviceId {
    DeviceId::from_bytes([at as u8 + 1; 32])
}

/// In memory where that can be: nothing here is about disks.
fn folder() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    match tempfile::tempdir_in(memory) {
        Ok(folder) if memory.is_dir() => folder,
        _ => tempfile::tempdir().unwrap(),
    }
}

impl World {
    fn new(seed: u64, without: Without) -> Self {
        let mut world = Self {
            random: Random::new(seed),
            folder: folder(),
            store: None,
            collection: None,
            writers: [const { None }; WRITERS],
            reading: None,
            naming: None,
            heads: [None; WRITERS],
            named: BTreeSet::new(),
            known: BTreeMap::new(),
            without,
            trace: String::new(),
            deleted: 0,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        self.store = Some(Store::open(self.folder.path()).unwrap());
        if self.without == Without::Leases {
            self.vault().ignore_leases();
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn vault(&self) -> Vault {
        self.store().vault(VAULT).unwrap()
    }

    fn say(&mut self, what: std::fmt::Arguments<'_>) {
        writeln!(self.trace, "{what}").unwrap();
    }

    fn content(&mut self) -> Content {
        let count = 1 + self.random.next(5);
        // Few contents, so that most of it is here already, or was.
        (0..count)
            .map(|_| {
                let (name, seed) = (self.random.next(4), self.random.next(6));
                (format!("f{name}"), noise(seed, 40 + seed as usize * 200))
            })
            .collect()
    }

    fn step(&mut self) {
        match self.random.next(20) {
            0..=6 => {
                let at = self.random.next(WRITERS as u64) as usize;
                self.write(at);
            }
            7..=13 => self.collect(),
            14 => self.read(),
            15 => self.name(),
            16 => {
                let first = self.named.first().copied();
                if let Some(snapshot) = first {
                    self.named.remove(&snapshot);
                    self.say(format_args!("no longer named: {snapshot}"));
                }
            }
            17 => {
                self.store().fold().unwrap();
                self.say(format_args!("folded"));
            }
            18 if self.random.next(4) == 0 => self.restart(),
            _ => {
                let vault = self.vault();
                if self.random.next(3) == 0 {
                    vault.purge_next().unwrap();
                }
            }
        }
    }

    fn write(&mut self, at: usize) {
        let Some(mut writing) = self.writers[at].take() else {
            let (intake, content) = (self.vault().intake(), self.content());
            self.say(format_args!("{at} begins with {} files", content.len()));
            self.writers[at] = Some(Writing { intake, content, update: None });
            return;
        };
        let Some(update) = writing.update else {
            let (parent, sequence) = match self.heads[at] {
                Some((head, sequence)) => (Some(head), sequence + 1),
                None => (None, 1),
            };
            let update = put(&writing.intake, &writing.content, sequence, parent).unwrap();
            let update = of_device(&writing.intake, update, at);
            self.say(format_args!("{at} has put {}", update.new));
            writing.update = Some(update);
            self.writers[at] = Some(writing);
            return;
        };
        match self.random.next(6) {
            0 => {
                writing.intake.flush_all().unwrap();
                self.say(format_args!("{at} flushes"));
                self.writers[at] = Some(writing);
            }
            1 => {
                let missing = writing.intake.missing(update.new.into(), 100).unwrap();
                assert_eq!(missing, [], "it was put, or said to be here");
                self.say(format_args!("{at} walks"));
                self.writers[at] = Some(writing);
            }
            2 => self.say(format_args!("{at} gives up")),
            _ => {
                let committed = writing.intake.commit(update).unwrap();
                assert!(!committed.replayed);
                self.heads[at] = Some((update.new, update.sequence));
                self.known.insert(update.new, writing.content);
                self.say(format_args!("{at} is at {}", update.new));
            }
        }
    }

    fn collect(&mut self) {
        let Some(mut collection) = self.collection.take() else {
            let mut collection = self.vault().collect().unwrap().unwrap();
            collection.go_slowly(1 + self.random.next(6) as usize);
            self.say(format_args!("a collection of {} rows begins", collection.rows()));
            self.collection = Some(collection);
            return;
        };
        for _ in 0..=self.random.next(6) {
            match collection.needs() {
                Step::Roots => {
                    let some = self.named.iter().map(|&id| id.into()).collect();
                    collection.mark(&Roots { some, ..Roots::default() }).unwrap();
                    self.say(format_args!("marked"));
                }
                Step::Goes => {
                    collection.step().unwrap();
                    let collected = collection.collected();
                    let (left, gone) = (collected.left, collected.objects);
                    assert_eq!((&collected.damage[..], &collected.doubted[..]), (&[][..], &[][..]));
                    self.say(format_args!("{left} condemned, {gone} deleted"));
                }
                Step::Waits => {
                    self.say(format_args!("it waits"));
                    break;
                }
                Step::Done => {
                    self.deleted += collection.collected().objects;
                    return;
                }
            }
        }
        if self.random.next(30) != 0 {
            self.collection = Some(collection);
        }
    }

    /// What is to stay now, with what it has.
    fn roots(&self) -> Vec<SnapshotId> {
        let heads = self.heads.iter().flatten().map(|(head, _)| *head);
        heads.chain(self.named.iter().copied()).collect()
    }

    fn read(&mut self) {
        if let Some(reading) = self.reading.take() {
            self.verify(reading.snapshot);
            self.say(format_args!("{} was read", reading.snapshot));
            return;
        }
        let roots = self.roots();
        if !roots.is_empty() {
            let snapshot = roots[self.random.next(roots.len() as u64) as usize];
            self.reading = Some(Reading { snapshot, _lease: self.vault().lease() });
            self.say(format_args!("{snapshot} is to be read"));
        }
    }

    fn name(&mut self) {
        if let Some(naming) = self.naming.take() {
            self.named.insert(naming.snapshot);
            self.say(format_args!("{} is named", naming.snapshot));
            return;
        }
        let count = self.known.len() as u64;
        if count == 0 {
            return;
        }
        let at = self.random.next(count) as usize;
        let snapshot = *self.known.keys().nth(at).unwrap();
        let lease = self.vault().lease();
        if self.vault().intake().missing(snapshot.into(), 1).unwrap().is_empty() {
            self.naming = Some(Naming { snapshot, _lease: lease });
            self.say(format_args!("{snapshot} is to be named"));
        } else {
            self.say(format_args!("{snapshot} is not here"));
        }
    }

    fn verify(&self, snapshot: SnapshotId) {
        assert_eq!(files(self.store(), snapshot).unwrap(), self.known[&snapshot], "{snapshot}");
    }

    fn restart(&mut self) {
        self.collection = None;
        self.writers = [const { None }; WRITERS];
        self.reading = None;
        self.naming = None;
        self.store = None;
        let is_anew = self.random.next(3) == 0;
        if is_anew {
            for suffix in ["", "-wal", "-shm"] {
                let index = format!("vaults/{VAULT}/index.db{suffix}");
                fs::remove_file(&self.folder.path().join(index)).unwrap();
            }
        }
        self.open();
        self.say(format_args!("restarted, with {} index", if is_anew { "a new" } else { "its" }));
    }

    fn run(mut self) -> (String, u64) {
        for _ in 0..STEPS {
            self.step();
            for snapshot in self.roots() {
                self.verify(snapshot);
            }
        }
        if let Some(reading) = self.reading.take() {
            self.verify(reading.snapshot);
        }
        self.collection = None;
        let checked = crate::check::check(self.store(), true, |_, _| {}).unwrap();
        assert_eq!(checked.problems, []);
        for snapshot in self.roots() {
            let missing = self.vault().intake().missing(snapshot.into(), 10).unwrap();
            assert_eq!(missing, [], "{snapshot}");
        }
        (self.trace, self.deleted)
    }
}

/// The same snapshot of another device.
fn of_device(intake: &Intake, update: RefUpdate, at: usize) -> RefUpdate {
    let bytes = intake.require(&update.new.into()).unwrap();
    let mut snapshot = Snapshot::decode(&bytes).unwrap();
    snapshot.device = device(at);
    let bytes = snapshot.encode();
    intake.put(ObjectKind::Snapshot, &bytes).unwrap();
    let key = noise(update.sequence * 100 + at as u64, 16).try_into().unwrap();
    let (device, key) = (device(at), IdempotencyKey::from_bytes(key));
    RefUpdate { new: SnapshotId::of(&bytes), device, key, ..update }
}

fn seeds() -> std::ops::Range<u64> {
    #[expect(clippy::disallowed_methods, reason = "which seeds is for whoever runs the tests")]
    let asked = std::env::var("BATON_SEEDS").ok();
    let Some(asked) = asked else { return ALWAYS };
    let (from, to) = asked.split_once("..").expect("BATON_SEEDS=from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

#[test]
fn no_order_of_writers_readers_and_a_collection_loses_anything() {
    let mut deleted = 0;
    for seed in ONCE.into_iter().chain(seeds()) {
        let outcome = catch_unwind(|| World::new(seed, Without::Nothing).run());
        let Ok((_, gone)) = outcome else {
            panic!("seed {seed}: BATON_SEEDS={seed}..{}", seed + 1);
        };
        deleted += gone;
        if seed % 1000 == 999 {
            println!("seed {seed}: {deleted} objects deleted so far");
        }
    }
    assert!(deleted > 0, "nothing was ever collected");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let mut different = HashSet::new();
    for seed in 0..20 {
        let [first, second] = [(); 2].map(|()| World::new(seed, Without::Nothing).run());
        assert_eq!(first, second, "seed {seed}");
        different.insert(first.0);
    }
    assert_eq!(different.len(), 20);
}

#[test]
fn without_leases_something_is_lost() {
    let lost = (0..300).find(|&seed| {
        let world = World::new(seed, Without::Leases);
        catch_unwind(AssertUnwindSafe(|| world.run())).is_err()
    });
    assert!(lost.is_some(), "nobody noticed in 300 seeds");
}

//! Bits that flip, sectors that become zeros, files that are cut or change places: in every file of a store, one at a time.
//!
//! Of each: opening the store or `check` must notice it; if nobody does, everything must be there and right, so that no byte
//! that anybody reads depends on what was changed. Whatever is read is right or an error. Then the store is repaired, with what
//! is lost brought again as a push or a fetch brings it, and has to be whole.
//!
//! It is a store as it is a moment after a commit: before that moment damage in the newest entries of the journal cannot be told
//! from what a power cut leaves of a write that nobody was told of.
//!
//! `BATON_FLIPS=n` takes so many seeds, `BATON_SEEDS=from..to` those.

mod catalog;
mod stat_cache;
mod sweep;

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use super::*;
use crate::check::check;
use crate::fs::simulated::Dice;
use crate::fuzz::scratch;
use crate::noted::noted;
use crate::repair::repair;

const ALWAYS: std::ops::Range<u64> = 0..300;

/// What happens to a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Harm {
    Bit,
    Zeros512,
    Zeros4096,
    Blocks,
    Files,
    Cut,
}

const HARMS: [Harm; 6] =
    [Harm::Bit, Harm::Zeros512, Harm::Zeros4096, Harm::Blocks, Harm::Files, Harm::Cut];

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A store as a power cut would leave it, and everything that was put into it.
struct Template {
    files: Files,
    objects: HashMap<ObjectId, Vec<u8>>,
    /// In order; the last one is the ref.
    snapshots: Vec<(u64, SnapshotId)>,
}

fn content(seed: u64) -> BTreeMap<String, Vec<u8>> {
    let mut content = small(seed);
    // Some stay from snapshot to snapshot, some are of their own.
    content.extend((0..4).map(|at| (format!("g{at}"), noise(900 + at, 3000))));
    content.extend((0..3).map(|at| (format!("h{at}"), noise(seed * 50 + at, 9000))));
    content
}

impl Template {
    fn new() -> Self {
        let folder = scratch();
        let store = Store::open(folder.path()).unwrap();
        let vault = store.vault(VAULT).unwrap();
        let mut objects = HashMap::new();
        let mut snapshots: Vec<(u64, SnapshotId)> = Vec::new();
        for step in 1..=8 {
            let parent = snapshots.last().map(|(_, id)| *id);
            let committed = commit(&store, &content(step), step, parent).unwrap();
            snapshots.push((step, committed.head.snapshot));
            // Two sealed segments of each class, an open one, and the journal.
            match step {
                2 | 4 => {
                    store.fold().unwrap();
                    vault.seal_now().unwrap();
                }
                6 => store.fold().unwrap(),
                _ => {}
            }
        }
        store.0.shared.commits.journal.mark();
        let end_of_journal = store.end_of_journal().1 as usize;
        for (_, snapshot) in &snapshots {
            let mut open = vec![ObjectId::from(*snapshot)];
            while let Some(id) = open.pop() {
                let bytes = vault.require(&id).unwrap();
                if id.kind != ObjectKind::Chunk {
                    let object = Object::decode(id.kind, &bytes).unwrap();
                    open.extend(object.children());
                }
                objects.insert(id, bytes);
            }
        }
        let mut files = Files::new();
        let mut open = vec![folder.path().to_owned()];
        while let Some(folder_in) = open.pop() {
            for name in fs::list_dir(&folder_in).unwrap() {
                let path = folder_in.join(&name);
                if path.is_dir() {
                    open.push(path);
                } else if !["lock", "index.db-shm"].iter().any(|skipped| name == *skipped) {
                    let short = path.strip_prefix(folder.path()).unwrap().to_owned();
                    // Of the room ahead of the journal a part stays.
                    let mut bytes = bytes_of(&path);
                    if short.starts_with("journal") {
                        bytes.resize(end_of_journal + 8192, 0);
                    }
                    files.insert(short, bytes);
                }
            }
        }
        Self { files, objects, snapshots }
    }
}

/// A folder with these files.
fn put_files(files: &Files) -> tempfile::TempDir {
    let folder = scratch();
    for (path, bytes) in files {
        let path = folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_whole(&path, bytes, 0o600).unwrap();
    }
    folder
}

/// The files, one of them harmed as the seed says; which, and how.
fn harmed(files: &Files, seed: u64) -> (Files, (Harm, PathBuf, String)) {
    let mut dice = Dice::new(seed.wrapping_mul(0x1234_5677).wrapping_add(seed));
    loop {
        let mut files = files.clone();
        if let Some(harmed) = harm(&mut files, &mut dice) {
            return (files, harmed);
        }
    }
}

/// Does one thing to one file; says what, or nothing where it would change nothing.
fn harm(files: &mut Files, dice: &mut Dice) -> Option<(Harm, PathBuf, String)> {
    let names: Vec<PathBuf> = files.keys().cloned().collect();
    let pick = |dice: &mut Dice| names[dice.roll(names.len() as u64) as usize].clone();
    let name = pick(dice);
    let harm = HARMS[dice.roll(HARMS.len() as u64) as usize];
    let bytes = files.get_mut(&name).unwrap();
    let before = bytes.clone();
    let len = bytes.len() as u64;
    let mut detail = String::new();
    let mut zero = |bytes: &mut Vec<u8>, sector: u64, dice: &mut Dice| {
        let from = dice.roll(len.div_ceil(sector)) * sector;
        let to = (from + sector).min(len);
        bytes[from as usize..to as usize].fill(0);
        detail = format!("{from}..{to}");
    };
    match harm {
        Harm::Bit => {
            let at = dice.roll(len);
            bytes[at as usize] ^= 1 << dice.roll(8);
            detail = format!("at {at} of {len}");
        }
        Harm::Zeros512 => zero(bytes, 512, dice),
        Harm::Zeros4096 => zero(bytes, 4096, dice),
        Harm::Blocks => {
            let blocks = len / 4096;
            let (a, b) = (dice.roll(blocks.max(1)), dice.roll(blocks.max(1)));
            for at in 0..4096.min(len) {
                let at = |block: u64| (block * 4096 + at) as usize;
                bytes.swap(at(a), at(b));
            }
            detail = format!("{a} and {b} of {blocks}");
        }
        Harm::Files => {
            let other = pick(dice);
            let mine = files[&name].clone();
            let others = files.insert(other.clone(), mine).unwrap();
            if others == before {
                return None;
            }
            files.insert(name.clone(), others);
            return Some((harm, name, format!("and {}", other.display())));
        }
        Harm::Cut => {
            let to = dice.roll(len);
            bytes.truncate(to as usize);
            detail = format!("to {to} of {len}");
        }
    }
    (files[&name] != before).then_some((harm, name, detail))
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// Noticed, and whole again after repair.
    Repaired,
    /// Noticed: the store is refused as it is, and nothing in it is touched.
    Refused,
    /// Opening it took rows of lost bytes and all proofs away, below snapshots that are no refs: whole again after repair.
    Dropped,
    /// Nobody noticed, and nobody had to.
    Harmless,
}

struct Case<'a> {
    template: &'a Template,
    root: &'a Path,
    name: PathBuf,
    detail: &'a str,
}

impl Case<'_> {
    fn run(&self) -> End {
        let store = match Store::open(self.root) {
            Ok(store) => store,
            Err(error) => {
                assert!(
                    error.is_corruption() || matches!(error, StoreError::Newer { .. }),
                    "{error:?}"
                );
                return End::Refused;
            }
        };
        let mut noticed = !store.recovery().damaged.is_empty();
        let checked = check(&store, true, |_, _| {}).unwrap();
        noticed |= !checked.problems.is_empty();
        let vault = match store.vault(VAULT) {
            Ok(vault) => vault,
            Err(error) => {
                assert!(noticed, "{error:?}");
                assert!(
                    error.is_corruption() || matches!(error, StoreError::Newer { .. }),
                    "{error:?}"
                );
                return End::Refused;
            }
        };
        let head = vault.head(WORKSPACE, DEVICE).map(|head| head.snapshot);
        noticed |= !noted(store.layout()).unwrap().is_empty();
        let mut is_whole = head == Some(self.last());
        for (id, bytes) in &self.template.objects {
            match vault.read(id) {
                Ok(Some(read)) => assert_eq!(read, *bytes, "{id} was served and is wrong"),
                Ok(None) => is_whole = false,
                Err(error) => {
                    assert!(error.is_corruption(), "{error:?}");
                    is_whole = false;
                }
            }
        }
        let end = match (noticed, is_whole) {
            (true, _) => End::Repaired,
            (false, true) => End::Harmless,
            (false, false) => {
                let is_of_journal = [&self.name.to_string_lossy(), self.detail]
                    .iter()
                    .any(|place| place.contains("journal"));
                assert!(!is_of_journal, "entries are gone: nobody noticed");
                assert!(!self.is_known_lost(&vault), "nobody noticed: {checked:?}");
                End::Dropped
            }
        };
        drop((vault, store));
        self.repair();
        end
    }

    fn last(&self) -> SnapshotId {
        self.template.snapshots.last().unwrap().1
    }

    /// Whether something is gone of which the vault says that it is whole.
    fn is_known_lost(&self, vault: &Vault) -> bool {
        self.template.snapshots.iter().any(|(_, id)| {
            vault.was_whole(&(*id).into()).unwrap() == Some(true)
                && !vault.intake().missing((*id).into(), 1).unwrap().is_empty()
        })
    }

    /// Repairs, brings what is lost, and looks at everything.
    fn repair(&self) {
        let mut store = Store::open(self.root).unwrap();
        let all: Vec<SnapshotId> = self.template.snapshots.iter().map(|(_, id)| *id).collect();
        for _ in 0..4 {
            let repaired = repair(&store, |_| all.clone(), |_, _| {}).unwrap();
            if repaired.is_to_be_reopened {
                drop(store);
                store = Store::open(self.root).unwrap();
            } else if repaired.found.is_empty() {
                break;
            }
            self.bring(&store);
        }
        self.bring(&store);
        let vault = store.vault(VAULT).unwrap();
        for (id, bytes) in &self.template.objects {
            assert_eq!(vault.read(id).unwrap().as_ref(), Some(bytes), "{id} did not come back");
        }
        assert_eq!(vault.head(WORKSPACE, DEVICE).unwrap().snapshot, self.last());
        assert_eq!(check(&store, true, |_, _| {}).unwrap().problems, []);
        let again = repair(&store, |_| all.clone(), |_, _| {}).unwrap();
        assert_eq!((again.found, again.lost), (vec![], vec![]), "a second repair finds something");
    }

    /// What a home that has everything sends: what the walk says is missing, and the ref.
    fn bring(&self, store: &Store) {
        let vault = store.vault(VAULT).unwrap();
        for (sequence, snapshot) in &self.template.snapshots {
            let root = ObjectId::from(*snapshot);
            let intake = vault.intake();
            loop {
                let missing = intake.missing(root, 100).unwrap();
                if missing.is_empty() {
                    break;
                }
                for id in missing {
                    intake.put_hashed(id, &self.template.objects[&id]).unwrap();
                }
            }
            let head = vault.head(WORKSPACE, DEVICE);
            if head.is_some_and(|head| head.sequence >= *sequence) {
                intake.keep(&[root]).unwrap();
                continue;
            }
            let update = RefUpdate {
                workspace: WORKSPACE,
                device: DEVICE,
                expected: head.map(|head| head.snapshot),
                new: *snapshot,
                sequence: *sequence,
                key: IdempotencyKey::from_bytes(noise(1000 + sequence, 16).try_into().unwrap()),
            };
            intake.commit(update).unwrap();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "which seeds is for whoever runs the tests")]
fn seeds() -> std::ops::Range<u64> {
    if let Ok(asked) = std::env::var("BATON_SEEDS") {
        let (from, to) = asked.split_once("..").expect("BATON_SEEDS=from..to");
        return from.parse().unwrap()..to.parse().unwrap();
    }
    let flips = std::env::var("BATON_FLIPS").ok().map(|flips| flips.parse().unwrap());
    flips.map_or(ALWAYS, |flips| 0..flips)
}

/// Harms the files once for each seed and looks at what is left in a folder: what is told of that is counted for each kind of
/// harm. Fails where looking panicked.
fn each<E: std::fmt::Debug + Ord>(
    files: &Files,
    look: impl Fn(&Path, (Harm, &Path, &str)) -> E,
) -> BTreeMap<(Harm, E), u64> {
    let mut ends: BTreeMap<(Harm, E), u64> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in seeds() {
        let (files, (harm, name, detail)) = harmed(files, seed);
        let folder = put_files(&files);
        match catch_unwind(AssertUnwindSafe(|| look(folder.path(), (harm, &name, &detail)))) {
            Ok(end) => *ends.entry((harm, end)).or_default() += 1,
            Err(_) => failed.push(format!("seed {seed}: {harm:?} {} {detail}", name.display())),
        }
    }
    for ((harm, end), count) in &ends {
        println!("{harm:?} {end:?} {count}");
    }
    assert_eq!(failed, [""; 0]);
    ends
}

#[test]
fn whatever_is_damaged_is_noticed_never_served_and_repaired() {
    let template = Template::new();
    each(&template.files, |root, (_, name, detail)| {
        Case { template: &template, root, name: name.to_owned(), detail }.run()
    });
}

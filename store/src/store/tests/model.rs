//! Random operations against a map: whatever is acknowledged reads back, after folds, restarts, lost
//! indexes and power cuts.

use std::path::Path;

use super::*;
use crate::fs::simulated::Dice;

#[derive(Default)]
struct Model {
    head: Option<(SnapshotId, u64)>,
    snapshots: BTreeMap<SnapshotId, BTreeMap<String, Vec<u8>>>,
    /// Kept without a ref.
    kept: BTreeMap<ObjectId, Vec<u8>>,
}

impl Model {
    fn verify(&self, store: &Store, what: &str) {
        let vault = store.vault(VAULT).unwrap();
        let head = vault.head(WORKSPACE, DEVICE).map(|head| (head.snapshot, head.sequence));
        assert_eq!(head, self.head, "{what}");
        for (snapshot, content) in &self.snapshots {
            assert_eq!(files(store, *snapshot).unwrap(), *content, "{what}");
        }
        for (id, bytes) in &self.kept {
            assert_eq!(vault.require(id).unwrap(), *bytes, "{what}");
        }
        if let Some((snapshot, _)) = self.head {
            assert_eq!(vault.intake().missing(snapshot.into(), 10).unwrap(), [], "{what}");
        }
        assert_eq!(crate::check::check(store, true, |_, _| {}).unwrap().problems, [], "{what}");
    }
}

fn content(random: &mut Dice) -> BTreeMap<String, Vec<u8>> {
    let count = 1 + random.roll(12);
    let is_large = random.roll(4) == 0;
    (0..count)
        .map(|_| {
            // Few names and few contents, so that much of it is there already.
            let len = if is_large { 200_000 } else { 1 + random.roll(3000) as usize };
            (format!("f{}", random.roll(30)), noise(random.roll(40), len))
        })
        .collect()
}

/// All files below a folder with their lengths.
fn lengths(root: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for name in fs::list_dir(&folder).unwrap() {
            let path = folder.join(name);
            // Files come and go while the store folds.
            let Ok(metadata) = path.symlink_metadata() else { continue };
            if metadata.is_dir() {
                open.push(path);
            } else {
                let is_journal = folder.ends_with("journal");
                let len = if is_journal { bytes_of(&path).len() as u64 } else { metadata.len() };
                found.insert(path.strip_prefix(root).unwrap().to_owned(), len);
            }
        }
    }
    found
}

/// Cuts off what was appended to segments since they were synced, or a part of it, or fills it with
/// zeros: what a power cut does.
fn cut_power(root: &Path, durable: &BTreeMap<PathBuf, u64>, random: &mut Dice) {
    for (name, len) in lengths(root) {
        let is_open = name.to_string_lossy().contains("open-");
        let Some(&synced) = durable.get(&name).filter(|&&synced| is_open && synced < len) else {
            continue;
        };
        let file = fs::open_writable(&root.join(&name)).unwrap();
        let cut = synced + random.roll(len - synced + 1);
        file.set_len(cut).unwrap();
        if random.roll(2) == 0 {
            file.set_len(len).unwrap();
        }
    }
}

/// Cuts the journal somewhere in what was appended to it, or not at all; returns whether it did.
fn cut_journal(root: &Path, durable: &BTreeMap<PathBuf, u64>, random: &mut Dice) -> bool {
    let path = journal_files(root).pop().unwrap();
    let len = bytes_of(&path).len() as u64;
    let synced = durable[path.strip_prefix(root).unwrap()];
    let cut = synced + random.roll(len - synced + 1);
    fs::open_writable(&path).unwrap().set_len(cut).unwrap();
    cut < len
}

fn drop_index(root: &Path) {
    for suffix in ["", "-wal", "-shm"] {
        fs::remove_file(&root.join(format!("vaults/{VAULT}/index.db{suffix}"))).unwrap();
    }
}

fn run(seed: u64, steps: u64) {
    let mut random = Dice::new(seed);
    let mut folder = tempfile::tempdir().unwrap();
    let mut store = Store::open(folder.path()).unwrap();
    let mut model = Model::default();
    for step in 0..steps {
        let what = format!("seed {seed} step {step}");
        match random.roll(10) {
            0..=4 => {
                let content = content(&mut random);
                let sequence = model.head.map_or(1, |(_, sequence)| sequence + 1);
                let parent = model.head.map(|(snapshot, _)| snapshot);
                let committed = commit(&store, &content, sequence, parent).unwrap();
                model.head = Some((committed.head.snapshot, sequence));
                model.snapshots.insert(committed.head.snapshot, content);
                if random.roll(3) == 0 {
                    let replay = commit(
                        &store,
                        &model.snapshots[&committed.head.snapshot],
                        sequence,
                        parent,
                    );
                    assert!(replay.unwrap().replayed, "{what}");
                }
            }
            5 => {
                let intake = store.vault(VAULT).unwrap().intake();
                for bytes in content(&mut random).into_values() {
                    let id = intake.put(ObjectKind::Chunk, &bytes).unwrap();
                    model.kept.insert(id, bytes);
                }
                intake.keep(&[]).unwrap();
            }
            6 => store.fold().unwrap(),
            7 => {
                drop(store);
                if random.roll(2) == 0 {
                    drop_index(folder.path());
                }
                store = Store::open(folder.path()).unwrap();
            }
            _ => {
                let copy = match random.roll(3) {
                    0 => std::thread::scope(|scope| {
                        let folding = scope.spawn(|| store.fold());
                        let copy = copy_folding(folder.path());
                        folding.join().unwrap().unwrap();
                        copy
                    }),
                    1 => {
                        // In the middle of a push, of which a part was synced.
                        let intake = store.vault(VAULT).unwrap().intake();
                        put(&intake, &content(&mut random), 1, None).unwrap();
                        intake.flush().unwrap();
                        let durable = lengths(folder.path());
                        put(&intake, &content(&mut random), 1, None).unwrap();
                        let copy = copy_store(folder.path());
                        cut_power(copy.path(), &durable, &mut random);
                        copy
                    }
                    _ => {
                        // In the middle of writing a commit to the journal.
                        let durable = lengths(folder.path());
                        let content = content(&mut random);
                        let sequence = model.head.map_or(1, |(_, sequence)| sequence + 1);
                        let parent = model.head.map(|(snapshot, _)| snapshot);
                        let head = commit(&store, &content, sequence, parent).unwrap().head;
                        let copy = copy_store(folder.path());
                        if !cut_journal(copy.path(), &durable, &mut random) {
                            model.head = Some((head.snapshot, sequence));
                            model.snapshots.insert(head.snapshot, content);
                        }
                        copy
                    }
                };
                drop(store);
                if random.roll(3) == 0 {
                    drop_index(copy.path());
                }
                folder = copy;
                store = Store::open(folder.path()).unwrap();
            }
        }
        model.verify(&store, &what);
    }
}

/// A copy of a store that is folding: the journal first, because its files go once everything is in
/// segments. The index is left out: it cannot be copied while it is written.
fn copy_folding(from: &Path) -> tempfile::TempDir {
    loop {
        let to = tempfile::tempdir().unwrap();
        let before = journal_files(from);
        let mut copied = true;
        for part in ["format", "lock", "journal", "vaults"] {
            let mut copy = std::process::Command::new("cp");
            copy.arg("-a").arg(from.join(part)).arg(to.path()).stderr(std::process::Stdio::null());
            // The files of the index vanish under it.
            copied &= copy.status().unwrap().success() || part == "vaults";
            copied &= part != "journal" || journal_files(from) == before;
        }
        if copied {
            drop_index(to.path());
            return to;
        }
    }
}

#[test]
fn random_operations_agree_with_a_map() {
    #[expect(
        clippy::disallowed_methods,
        reason = "how long to go on is for whoever runs the tests"
    )]
    let seconds = std::env::var("BATON_FUZZ_SECONDS").ok().and_then(|text| text.parse().ok());
    let Some(seconds) = seconds else {
        (1..=2).for_each(|seed| run(seed, 14));
        return;
    };
    #[expect(clippy::disallowed_methods, reason = "the length of the run is no result")]
    let start = std::time::Instant::now();
    let mut seed = 100;
    while start.elapsed() < std::time::Duration::from_secs(seconds) {
        run(seed, 40);
        seed += 1;
    }
}

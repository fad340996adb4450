//! What each stage of a handoff costs, in the order in which the data passes through them, on one seeded
//! tree of 5,000 files.
//!
//! Not here: the network, and whole commands.
//!
//! Run it, with nothing else at work on the machine, and compare with a run of before:
//!
//! ```text
//! cargo bench -p baton --bench stages                              # all of it, below two minutes
//! cargo bench -p baton --bench stages -- scan                      # one stage
//! cargo bench -p baton --bench stages -- --save-baseline before    # then: --baseline before
//! ```
//!
//! Files are in the folder for temporary ones (`TMPDIR`): where that is memory, syncs cost nothing and
//! `commit` says little. A commit about speed quotes the lines of before and after, and the machine.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark: fails by panicking, and makes the files it measures"
)]

use std::collections::HashSet;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use baton_protocol::id::{
    DeviceId, IdempotencyKey, ObjectId, ObjectKind, SnapshotId, TreeId, VaultId, WorkspaceId,
};
use baton_protocol::object::Snapshot;
use baton_store::checkout::{RestoreOptions, restore};
use baton_store::chunk::Chunker;
use baton_store::error::StoreError;
use baton_store::journal::RefUpdate;
use baton_store::layout::Class;
use baton_store::objects::{ObjectSink, ObjectSource};
use baton_store::plan::plan_push;
use baton_store::scan::{Progress, ScanOptions, Scanned, scan};
use baton_store::segment::RecordBuilder;
use baton_store::stat_cache::StatCache;
use baton_store::store::Store;
use baton_store::vault::{Intake, Vault};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const FILES: usize = 5_000;

/// Bytes of the large file.
const LARGE: usize = 64 * 1024 * 1024;

/// Objects in the index that is probed.
const ROWS: u32 = 200_000;

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([2; 16]);
const DEVICE: DeviceId = DeviceId::from_bytes([3; 32]);

/// xorshift64*: the same tree on every machine.
struct Seeded(u64);

impl Seeded {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.next()) * limit as u128) >> 64) as usize
    }

    /// Text that compresses about as source code does.
    fn source(&mut self, len: usize) -> Vec<u8> {
        const WORDS: [&str; 16] = [
            "let ", "self.", "fn ", "return ", "value", "index", "(", ")", " = ", ";\n", "    ",
            "match ", "error", "&mut ", "pub ", "count",
        ];
        let mut text = Vec::with_capacity(len + 16);
        while text.len() < len {
            match self.below(4) {
                0 => text.extend(format!("name_{} ", self.below(5_000)).bytes()),
                _ => text.extend(WORDS[self.below(WORDS.len())].bytes()),
            }
        }
        text.truncate(len);
        text
    }

    fn noise(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..len / 8).flat_map(|_| self.next().to_le_bytes()).collect();
        bytes.resize(len, 0);
        bytes
    }
}

/// 5,000 files in 400 folders; most have a few KiB, one in a hundred 100.
fn make_tree(root: &Path) {
    let mut seeded = Seeded(42);
    for at in 0..FILES {
        let folder = seeded.below(400);
        let folder = root.join(format!("top{}/part{}/d{folder}", folder % 10, folder % 40));
        std::fs::create_dir_all(&folder).unwrap();
        let len = match seeded.below(100) {
            0 => 100_000,
            few => 200 + seeded.below(120 * few),
        };
        std::fs::write(folder.join(format!("file{at}.rs")), seeded.source(len)).unwrap();
    }
}

/// Knows ids and keeps nothing: what is left is the work of the stage itself.
#[derive(Default)]
struct Known(Mutex<HashSet<ObjectId>>);

impl ObjectSink for Known {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        let id = ObjectId::of(kind, bytes);
        self.0.lock().unwrap().insert(id);
        Ok(id)
    }
}

impl ObjectSource for Known {
    fn read(&self, _: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.0.lock().unwrap().contains(id))
    }
}

/// The tree on the disk and in a vault, once for all stages.
struct Fixture {
    folder: tempfile::TempDir,
    tree: PathBuf,
    store: Store,
    snapshot: SnapshotId,
    root: TreeId,
    bytes: u64,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        make_tree(&tree);
        let store = Store::open(&folder.path().join("store")).unwrap();
        let intake = vault_of(&store).intake();
        let scanned = scan_into(&tree, &StatCache::default(), &intake);
        let (root, bytes) = (scanned.root, scanned.sums.bytes);
        let snapshot = put_snapshot(&intake, root, 1);
        intake.commit(update(None, snapshot, 1)).unwrap();
        // As it is found later: in segments, and not in memory.
        store.fold().unwrap();
        Self { folder, tree, store, snapshot, root, bytes }
    }

    fn vault(&self) -> Vault {
        vault_of(&self.store)
    }
}

fn vault_of(store: &Store) -> Vault {
    store.vault(VaultId::from_bytes([1; 16])).unwrap()
}

fn scan_into<S: ObjectSource + ObjectSink>(tree: &Path, cache: &StatCache, sink: &S) -> Scanned {
    // Long after the files came to rest, so that the next scan believes the cache.
    let options = ScanOptions { started_at_ns: i64::MAX, ..ScanOptions::default() };
    let scanned = scan(tree, cache, sink, &options, &Progress::default()).unwrap();
    cache.end_scan();
    scanned
}

fn put_snapshot(intake: &Intake, root: TreeId, sequence: u64) -> SnapshotId {
    let snapshot = Snapshot {
        workspace: WORKSPACE,
        device: DEVICE,
        sequence,
        parents: Vec::new(),
        root,
        root_mode: 0o755,
        omitted: None,
        conversations: Vec::new(),
        created_at: 0,
        message: String::new(),
    };
    let id = intake.put(ObjectKind::Snapshot, &snapshot.encode()).unwrap();
    SnapshotId::from_bytes(id.hash)
}

fn update(expected: Option<SnapshotId>, new: SnapshotId, sequence: u64) -> RefUpdate {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&sequence.to_le_bytes());
    let key = IdempotencyKey::from_bytes(key);
    RefUpdate { workspace: WORKSPACE, device: DEVICE, expected, new, sequence, key }
}

fn scans(criterion: &mut Criterion, fixture: &Fixture) {
    let mut group = criterion.benchmark_group("scan");
    group.throughput(Throughput::Bytes(fixture.bytes)).sample_size(10);
    group.bench_function("cold", |bencher| {
        bencher.iter(|| scan_into(&fixture.tree, &StatCache::default(), &Known::default()).root);
    });
    let known = Known::default();
    let cache = StatCache::default();
    scan_into(&fixture.tree, &cache, &known);
    group.throughput(Throughput::Elements(FILES as u64));
    group.bench_function("unchanged", |bencher| {
        bencher.iter(|| {
            let scanned = scan_into(&fixture.tree, &cache, &known);
            assert_eq!(scanned.hashed_files, 0, "the cache was not believed");
            scanned.root
        });
    });
    group.finish();
}

fn chunks(criterion: &mut Criterion) {
    let large = Seeded(7).noise(LARGE);
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(LARGE as u64)).sample_size(10);
    group.bench_function("large file", |bencher| {
        let (mut chunker, known) = (Chunker::new(), Known::default());
        bencher.iter(|| chunker.store(&mut large.as_slice(), &known).unwrap());
    });
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut seeded = Seeded(9);
    let mut builder = RecordBuilder::default();
    let mut bytes = 0;
    while !builder.is_full(Class::Data) {
        let source = seeded.source(8_000);
        bytes += source.len() as u64;
        builder.push(ObjectId::of(ObjectKind::Chunk, &source), &source);
    }
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Bytes(bytes)).sample_size(30);
    group.bench_function("encode", |bencher| {
        bencher.iter(|| builder.encode(Class::Data).unwrap());
    });
    group.finish();
}

/// One file of the tree with one more line, each time another one; then one sync of the disk.
fn commits(criterion: &mut Criterion, fixture: &Fixture) {
    let folder = tempfile::tempdir_in(fixture.folder.path()).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = vault_of(&store);
    let (mut seeded, mut sequence, mut head) = (Seeded(3), 0, None);
    let mut group = criterion.benchmark_group("commit");
    group.throughput(Throughput::Elements(1)).sample_size(50);
    group.bench_function("small push", |bencher| {
        bencher.iter(|| {
            let intake = vault.intake();
            let file = seeded.source(4_000);
            let root = small_tree(&intake, &file);
            sequence += 1;
            let new = put_snapshot(&intake, root, sequence);
            intake.commit(update(head, new, sequence)).unwrap();
            head = Some(new);
        });
    });
    group.finish();
}

/// Four levels of folders above one file, as an edit makes them anew.
fn small_tree(intake: &Intake, file: &[u8]) -> TreeId {
    use baton_protocol::object::{Entry, EntryKind, build_tree};
    let blob = baton_store::chunk::store_bytes(file, intake).unwrap();
    let mut kind = EntryKind::File { mode: 0o644, blob };
    let mut root = TreeId::from_bytes([0; 32]);
    for name in ["file.rs", "src", "part", "top"] {
        let entries = vec![Entry { name: name.into(), kind }];
        let (tree, below) =
            build_tree(entries, |_, _, bytes| intake.put(ObjectKind::Tree, &bytes).map(drop))
                .unwrap();
        kind = EntryKind::Directory { mode: 0o755, tree, below };
        root = tree;
    }
    root
}

fn probes(criterion: &mut Criterion, fixture: &Fixture) {
    const PROBES: u32 = 1_000;
    let folder = tempfile::tempdir_in(fixture.folder.path()).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = vault_of(&store);
    let chunk = |number: u32| [number.to_le_bytes(), [0xb5; 4]].concat();
    let intake = vault.intake();
    for number in 0..ROWS {
        intake.put(ObjectKind::Chunk, &chunk(number)).unwrap();
    }
    intake.flush().unwrap();
    let id = |number: u32| ObjectId::of(ObjectKind::Chunk, &chunk(number));
    let step = ROWS / PROBES;
    let hits: Vec<_> = (0..PROBES).map(|at| id(at * step)).collect();
    let misses: Vec<_> = (0..PROBES).map(|at| id(ROWS + at)).collect();
    assert!(vault.contains(&hits[7]).unwrap() && !vault.contains(&misses[7]).unwrap());
    let mut group = criterion.benchmark_group("index");
    group.throughput(Throughput::Elements(PROBES.into())).sample_size(20);
    for (name, ids) in [("hits", &hits), ("misses", &misses)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| ids.iter().filter(|id| vault.contains(id).unwrap()).count());
        });
    }
    group.finish();
}

fn plans(criterion: &mut Criterion, fixture: &Fixture) {
    let vault = fixture.vault();
    let edited = fixture.tree.join("top7/part7/d7");
    let file = std::fs::read_dir(&edited).unwrap().next().unwrap().unwrap().path();
    let before = std::fs::read(&file).unwrap();
    std::fs::write(&file, [&before[..], b"// one more line\n"].concat()).unwrap();
    let intake = vault.intake();
    let root = scan_into(&fixture.tree, &StatCache::default(), &intake).root;
    let new = put_snapshot(&intake, root, 2);
    intake.keep(&[new.into()]).unwrap();
    std::fs::write(&file, before).unwrap();
    let plan = || plan_push(&vault, Some(fixture.snapshot), black_box(new)).unwrap();
    // The snapshot, four folders and the file.
    assert_eq!(plan().len(), 6);
    let mut group = criterion.benchmark_group("plan");
    group.throughput(Throughput::Elements(1)).sample_size(50);
    group.bench_function("one line", |bencher| bencher.iter(plan));
    group.finish();
}

fn checkouts(criterion: &mut Criterion, fixture: &Fixture) {
    let vault = fixture.vault();
    let mut group = criterion.benchmark_group("checkout");
    group.throughput(Throughput::Elements(FILES as u64)).sample_size(10);
    group.bench_function("whole", |bencher| {
        bencher.iter_batched(
            || tempfile::tempdir_in(fixture.folder.path()).unwrap(),
            |folder| {
                let into = folder.path().join("out");
                let (options, progress) = (RestoreOptions::default(), Progress::default());
                let restored =
                    restore(&vault, fixture.root, 0o755, &into, &options, &progress).unwrap();
                assert_eq!(restored.files, FILES as u64);
                // Taken away when the time was taken.
                folder
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn stages(criterion: &mut Criterion) {
    let fixture = Fixture::new();
    scans(criterion, &fixture);
    chunks(criterion);
    records(criterion);
    commits(criterion, &fixture);
    probes(criterion, &fixture);
    plans(criterion, &fixture);
    checkouts(criterion, &fixture);
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    targets = stages
}
criterion_main!(all);

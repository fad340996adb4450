//! From objects to the disk and back: append, commit, index, plan, checkout.

use std::hint::black_box;

use baton_protocol::id::{ObjectId, ObjectKind, TreeId};
use baton_store::checkout::{RestoreOptions, restore};
use baton_store::objects::{ObjectSink, ObjectSource};
use baton_store::plan::plan_push;
use baton_store::scan::Progress;
use baton_store::stat_cache::StatCache;
use baton_store::store::Store;
use baton_store::vault::Intake;
use criterion::{BatchSize, Criterion, Throughput};

use crate::fixture::{DEVICE, FILES, Fixture, Seeded, put_snapshot, scan_into, update, vault_of};

/// Objects in the index that is probed.
const ROWS: u32 = 200_000;

/// Files that are new, in number and size: more than stays in memory, so that segments are written.
const APPENDED: usize = 1_000;
const APPENDED_LEN: usize = 8_000;

/// Into segments, with one sync at the end.
pub(crate) fn appends(criterion: &mut Criterion, fixture: &Fixture) {
    let folder = tempfile::tempdir_in(fixture.folder.path()).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = vault_of(&store);
    let mut seeded = Seeded(4);
    let mut group = criterion.benchmark_group("append");
    group.throughput(Throughput::Bytes((APPENDED * APPENDED_LEN) as u64)).sample_size(10);
    group.bench_function("new files", |bencher| {
        bencher.iter_batched(
            || (0..APPENDED).map(|_| seeded.source(APPENDED_LEN)).collect::<Vec<_>>(),
            |files| {
                let intake = vault.intake();
                for file in &files {
                    intake.put(ObjectKind::Chunk, file).unwrap();
                }
                intake.flush().unwrap();
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

/// One file of the tree with one more line, each time another one; then one sync of the disk.
pub(crate) fn commits(criterion: &mut Criterion, fixture: &Fixture) {
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
            let new = put_snapshot(&intake, DEVICE, root, sequence);
            intake.commit(update(head, new, sequence)).unwrap();
            head = Some(new);
        });
    });
    group.finish();
}

/// Four levels of folders above one file, as an edit makes them anew.
pub(crate) fn small_tree(intake: &Intake, file: &[u8]) -> TreeId {
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

pub(crate) fn probes(criterion: &mut Criterion, fixture: &Fixture) {
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

pub(crate) fn plans(criterion: &mut Criterion, fixture: &Fixture) {
    let vault = fixture.vault();
    let file = fixture.edited();
    let before = std::fs::read(&file).unwrap();
    std::fs::write(&file, [&before[..], b"// one more line\n"].concat()).unwrap();
    let intake = vault.intake();
    let root = scan_into(&fixture.tree, &StatCache::default(), &intake).root;
    let new = put_snapshot(&intake, DEVICE, root, 2);
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

pub(crate) fn checkouts(criterion: &mut Criterion, fixture: &Fixture) {
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

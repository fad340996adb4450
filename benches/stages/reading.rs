//! From files to objects: scan, chunk, hash, compress, and the nodes of directories.

use std::hint::black_box;

use baton_protocol::batch::Batch;
use baton_protocol::delta::compress;
use baton_protocol::id::{ChunkId, ObjectId, ObjectKind};
use baton_protocol::object::{Blob, Content, Entry, EntryKind, build_tree};
use baton_store::chunk::Chunker;
use baton_store::layout::Class;
use baton_store::scan::dirty::{Depth, Dirty};
use baton_store::scan::{Progress, ScanOptions, seal};
use baton_store::segment::RecordBuilder;
use baton_store::stat_cache::StatCache;
use criterion::{Criterion, Throughput};

use crate::fixture::{EDITED, FILES, Fixture, Known, Seeded, scan_into};

/// Bytes of the large file.
const LARGE: usize = 64 * 1024 * 1024;

/// Names in a directory: wide enough to be split.
const NAMES: usize = 5_000;

pub(crate) fn scans(criterion: &mut Criterion, fixture: &Fixture) {
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

pub(crate) fn chunks(criterion: &mut Criterion) {
    let large = Seeded(7).noise(LARGE);
    let mut group = criterion.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(LARGE as u64)).sample_size(10);
    group.bench_function("large file", |bencher| {
        let (mut chunker, known) = (Chunker::new(), Known::default());
        bencher.iter(|| chunker.store(&mut large.as_slice(), &known).unwrap());
    });
    group.finish();
}

/// What a file costs to be named: an id a piece.
pub(crate) fn hashes(criterion: &mut Criterion) {
    const BYTES: usize = 4 * 1024 * 1024;
    let noise = Seeded(8).noise(BYTES);
    let mut group = criterion.benchmark_group("hash");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(20);
    for (name, piece) in [("1 KiB", 1024), ("4 KiB", 4096), ("256 KiB", 256 * 1024)] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                for piece in noise.chunks(piece) {
                    black_box(ObjectId::of(ObjectKind::Chunk, piece));
                }
            });
        });
    }
    group.finish();
}

/// One file alone, one against what it was, and as many as a record takes.
pub(crate) fn compressions(criterion: &mut Criterion) {
    let mut seeded = Seeded(9);
    let source = seeded.source(8_000);
    let mut edited = source.clone();
    edited.splice(4_000..4_000, *b"let one = more;\n");
    let mut group = criterion.benchmark_group("compress");
    group.throughput(Throughput::Bytes(source.len() as u64)).sample_size(30);
    group.bench_function("file", |bencher| bencher.iter(|| compress(&source, 3).unwrap()));
    group.bench_function("edit", |bencher| {
        let of = |bytes: &[u8]| ObjectId::of(ObjectKind::Chunk, bytes);
        let (base, id) = (of(&source), of(&edited));
        bencher.iter(|| {
            let mut batch = Batch::new();
            batch.push_delta(id, &edited, base, &source).unwrap();
            batch.finish().unwrap()
        });
    });
    let mut builder = RecordBuilder::default();
    let mut bytes = 0;
    while !builder.is_full(Class::Data) {
        let source = seeded.source(8_000);
        bytes += source.len() as u64;
        builder.push(ObjectId::of(ObjectKind::Chunk, &source), &source);
    }
    group.throughput(Throughput::Bytes(bytes));
    group.bench_function("record", |bencher| {
        bencher.iter(|| builder.encode(Class::Data).unwrap());
    });
    group.finish();
}

/// The nodes of a wide directory from its entries; and of all directories above one edit.
pub(crate) fn trees(criterion: &mut Criterion, fixture: &Fixture) {
    let blob = |at: usize| {
        let content = Content::Chunk(ChunkId::of(&at.to_le_bytes()));
        EntryKind::File { mode: 0o644, blob: Blob { size: 8, content } }
    };
    let name = |at: usize| format!("file{at:05}.rs").into_bytes();
    let entries: Vec<_> = (0..NAMES).map(|at| Entry { name: name(at), kind: blob(at) }).collect();
    let mut group = criterion.benchmark_group("tree");
    group.throughput(Throughput::Elements(NAMES as u64)).sample_size(20);
    group.bench_function("wide", |bencher| {
        bencher.iter(|| {
            build_tree(entries.clone(), |_, _, bytes| {
                black_box(bytes);
                Ok::<_, std::convert::Infallible>(())
            })
            .unwrap()
            .0
        });
    });
    let (vault, cache) = (fixture.vault(), StatCache::default());
    let intake = vault.intake();
    let mut scanned = Some(scan_into(&fixture.tree, &cache, &intake));
    let file = fixture.edited();
    let before = std::fs::read(&file).unwrap();
    let name = file.file_name().unwrap().as_encoded_bytes().to_vec();
    let mut edits = 0;
    group.throughput(Throughput::Elements(1));
    group.bench_function("seal one file", |bencher| {
        bencher.iter(|| {
            edits += 1;
            let line = format!("// edit {edits}\n");
            std::fs::write(&file, [&before[..], line.as_bytes()].concat()).unwrap();
            let mut dirty = Dirty::default();
            dirty.name(EDITED.as_bytes(), &name, Depth::Read);
            let options = ScanOptions { started_at_ns: i64::MAX, ..ScanOptions::default() };
            let (old, progress) = (scanned.take().unwrap(), Progress::default());
            let new =
                seal(&fixture.tree, old, &dirty, &cache, &intake, &options, &progress).unwrap();
            assert_eq!(new.hashed_files, 1, "the edit was not seen");
            scanned = Some(new);
        });
    });
    group.finish();
    std::fs::write(&file, before).unwrap();
}

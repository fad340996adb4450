//! Batches of every kind, and those that lie.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::arbitrary::mutated;
use crate::delta::LEVEL;
use crate::frame::{FrameKind, encode_header};
use crate::id::{ChunkId, SnapshotId, TreeId, WorkspaceId};
use crate::object::{
    Blob, Content, Entry, EntryKind, Extent, MAX_CHUNK, Manifest, Snapshot, Tree, build_tree,
};

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// An object, and what it was.
type Pair = (ObjectKind, Vec<u8>, Option<Vec<u8>>);

fn pack(items: &[Pair]) -> Vec<u8> {
    let mut batch = Batch::new();
    for (kind, bytes, base) in items {
        match base {
            Some(base) => {
                let (id, base_id) = (ObjectId::of(*kind, bytes), ObjectId::of(*kind, base));
                batch.push_delta(id, bytes, base_id, base).unwrap();
            }
            None => batch.push_full(*kind, bytes),
        }
    }
    let body = batch.finish().unwrap();
    assert!(batch.is_empty());
    body
}

/// Hands a batch the bases that are known, by what they are called.
fn open(
    body: &[u8],
    bases: &[(ObjectKind, Vec<u8>)],
) -> Result<Vec<(ObjectId, Vec<u8>)>, FrameError> {
    let mut parcel = Parcel::decode(body)?;
    while let Some(wanted) = parcel.next_base() {
        let mut known = bases.iter().map(|(kind, bytes)| (ObjectId::of(*kind, bytes), bytes));
        let found = known.find(|(id, _)| match wanted {
            Wanted::Id(wanted) => *id == wanted,
            Wanted::Prefix(kind, prefix) => id.kind == kind && id.prefix() == prefix,
        });
        parcel.supply(found.map(|(id, bytes)| (id, bytes.clone())));
    }
    parcel.restore()
}

fn there_and_back(items: &[Pair]) -> Vec<u8> {
    let body = pack(items);
    assert!(encode_header(FrameKind::Objects, body.len()).is_ok());
    let bases: Vec<_> =
        items.iter().filter_map(|(kind, _, base)| Some((*kind, base.clone()?))).collect();
    let found = open(&body, &bases).unwrap();
    let expected: Vec<_> =
        items.iter().map(|(kind, bytes, _)| (ObjectId::of(*kind, bytes), bytes.clone())).collect();
    assert!(found == expected);
    body
}

fn chunk(bytes: &[u8]) -> Content {
    Content::Chunk(ChunkId::of(bytes))
}

fn file(name: &str, bytes: &[u8]) -> Entry {
    let blob = Blob { size: bytes.len() as u64, content: chunk(bytes) };
    Entry { name: name.into(), kind: EntryKind::File { mode: 0o644, blob } }
}

/// The nodes of a directory, those below first.
fn nodes(entries: Vec<Entry>) -> Vec<(Vec<u8>, Tree)> {
    let mut nodes = Vec::new();
    build_tree::<std::convert::Infallible>(entries, |_, tree, bytes| {
        nodes.push((bytes, tree.clone()));
        Ok(())
    })
    .unwrap();
    nodes
}

#[test]
fn batches_round_trip() {
    let text = b"hello hello hello hello hello hello hello".to_vec();
    let (base, object) = (noise(1, 3000), noise(1, 2990));
    let items = [
        (ObjectKind::Chunk, text, None),
        (ObjectKind::Chunk, object.clone(), Some(base.clone())),
        (ObjectKind::Tree, Tree::Leaf(Vec::new()).encode(), None),
        (ObjectKind::Chunk, Vec::new(), None),
        (ObjectKind::Chunk, Vec::new(), Some(base.clone())),
    ];
    let body = there_and_back(&items);
    let bases = [(ObjectKind::Chunk, base)];
    for cut in 0..body.len() {
        assert!(open(&body[..cut], &bases).is_err(), "cut at {cut}");
    }
    assert!(Parcel::decode(&body).unwrap().whole().unwrap().is_none());
    let whole = Parcel::decode(&pack(&[(ObjectKind::Chunk, object.clone(), None)])).unwrap();
    assert_eq!(whole.whole().unwrap(), Some(vec![(ObjectKind::Chunk, object)]));
}

#[test]
fn the_same_edit_in_many_files_is_sent_once() {
    let edit = noise(9, 1000);
    let one: Vec<Pair> = (0..40)
        .map(|seed| {
            let base = noise(100 + seed, 9000);
            let object = [&base[..4000], &edit, &base[4000..]].concat();
            (ObjectKind::Chunk, object, Some(base))
        })
        .collect();
    let body = there_and_back(&one);
    assert!(body.len() < 1000 + 40 * 30, "{}", body.len());
    // What was moved from one file to another does not travel at all.
    let (from, to) = (noise(1, 9000), noise(2, 9000));
    let moved = [
        (ObjectKind::Chunk, [&from[..3000], &from[5000..]].concat(), Some(from.clone())),
        (ObjectKind::Chunk, [&to[..], &from[3000..5000]].concat(), Some(to)),
    ];
    assert!(there_and_back(&moved).len() < 100);
}

#[test]
fn a_directory_above_an_edit_costs_its_name_and_no_hash() {
    let (old, new) = (noise(1, 5000), noise(1, 5030));
    let (far_old, far_new) = (noise(2, 300), noise(3, 500));
    for width in [5, 3000] {
        let entries = |first: &[u8], last: &[u8]| {
            let mut entries: Vec<_> = (0..width)
                .map(|number| file(&format!("f{number:05}"), &noise(1000 + number, 9)))
                .collect();
            entries[0] = file("f00000", first);
            *entries.last_mut().unwrap() = file(&format!("f{:05}", width - 1), last);
            entries
        };
        let (before, after) = (nodes(entries(&old, &far_old)), nodes(entries(&new, &far_new)));
        let below = |name: &[u8], nodes: &[(Vec<u8>, Tree)]| {
            let (bytes, tree) = nodes.last().unwrap();
            let (tree, below) = (TreeId::of(bytes), tree.sums());
            Entry { name: name.into(), kind: EntryKind::Directory { mode: 0o755, tree, below } }
        };
        let root = |nodes| Tree::Leaf(vec![below(b"d", nodes)]).encode();
        let snapshot = |root: &[u8], sequence, parents| Snapshot {
            workspace: WorkspaceId::from_bytes([1; 16]),
            device: crate::id::DeviceId::from_bytes([2; 32]),
            sequence,
            parents,
            root: TreeId::of(root),
            root_mode: 0o755,
            omitted: None,
            git: None,
            conversations: Vec::new(),
            created_at: 1 << 40,
            message: String::new(),
        };
        let (root_before, root_after) = (root(&before), root(&after));
        let first = snapshot(&root_before, 7, Vec::new()).encode();
        let second = snapshot(&root_after, 8, vec![SnapshotId::of(&first)]).encode();
        let mut items = vec![
            (ObjectKind::Chunk, new.clone(), Some(old.clone())),
            (ObjectKind::Chunk, far_new.clone(), Some(far_old.clone())),
        ];
        let changed = before.iter().zip(&after).filter(|(before, after)| before.0 != after.0);
        items.extend(changed.map(|((before, _), (after, _))| {
            (ObjectKind::Tree, after.clone(), Some(before.clone()))
        }));
        items.push((ObjectKind::Tree, root_after, Some(root_before)));
        items.push((ObjectKind::Snapshot, second, Some(first)));
        let inserted = 30 + 500;
        let body = there_and_back(&items);
        // Eight bytes name the snapshot, and what was inserted was pushed first.
        assert!(body.len() < inserted + 8 + items.len() * 8 + 10, "{width}: {}", body.len());
    }
}

#[test]
fn a_manifest_above_changed_chunks_costs_no_hash() {
    let chunks = |salt: u64| (0..40).map(|at| noise(at + salt * (at % 2), 70_000)).collect();
    let [before, after]: [Vec<Vec<u8>>; 2] = [chunks(0), chunks(1000)];
    let manifest = |chunks: &[Vec<u8>]| {
        let extent = |bytes: &Vec<u8>| Extent { len: 70_000, chunk: ChunkId::of(bytes) };
        Manifest::Leaf(chunks.iter().map(extent).collect()).encode()
    };
    let mut items: Vec<Pair> = Vec::new();
    for (old, new) in before.iter().zip(&after).filter(|(old, new)| old != new).take(3) {
        items.push((ObjectKind::Chunk, new.clone(), Some(old.clone())));
    }
    let mut partly = before.clone();
    for at in [1, 3, 5] {
        partly[at].clone_from(&after[at]);
    }
    let manifests = [manifest(&partly), manifest(&before)];
    let text: usize = 3 * 70_000;
    let [new, old] = manifests;
    items.push((ObjectKind::Manifest, new, Some(old)));
    let body = there_and_back(&items);
    assert!(body.len() < text + 100, "{}", body.len());
}

#[test]
fn a_batch_without_its_bases_is_not_restored() {
    let (base, object) = (noise(1, 3000), noise(1, 3001));
    let items =
        [(ObjectKind::Chunk, object, Some(base.clone())), (ObjectKind::Chunk, noise(3, 300), None)];
    let body = pack(&items);
    let other = noise(2, 3000);
    for bases in [vec![], vec![(ObjectKind::Manifest, base)]] {
        assert!(open(&body, &bases).is_err());
    }
    // Another object whose hash begins alike gives another one, or nothing.
    let mut parcel = Parcel::decode(&body).unwrap();
    assert!(parcel.next_base().is_some());
    parcel.supply(Some((ObjectId::of(ObjectKind::Chunk, &other), other)));
    if let Ok(objects) = parcel.restore() {
        assert_ne!(objects[0].1, items[0].1);
    }
}

/// A batch that says what it likes.
fn lying(table: &Table, packed: &[u8]) -> Vec<u8> {
    let mut to = Writer::new();
    to.varint(table.0.len() as u64);
    to.bytes(&table.0);
    to.fixed(packed);
    to.finish()
}

/// The bytes of a table.
struct Table(Vec<u8>);

fn table(values: &[u64]) -> Table {
    let mut to = Writer::new();
    for value in values {
        to.varint(*value);
    }
    Table(to.finish())
}

#[test]
fn a_batch_cannot_claim_more_than_a_batch_may_hold() {
    let long = MAX_OBJECT as u64;
    let bomb = delta::compress(&vec![0; 4 * MAX_OBJECT], LEVEL).unwrap();
    let limit = |what| move |result: Result<Parcel, FrameError>| matches!(result, Err(FrameError::Batch(DecodeError::Limit { what: found, .. })) if found == what);
    let four = lying(&table(&[4, 1, long, 1, long, 1, long, 1, long]), &bomb);
    assert!(limit("batch length")(Parcel::decode(&four)));
    let longer = lying(&table(&[1, 1, long + 1]), &bomb);
    assert!(limit("object length")(Parcel::decode(&longer)));
    let mut to = Writer::new();
    to.varint(MAX_TABLE as u64 + 1);
    to.bytes(&bomb);
    assert!(limit("table length")(Parcel::decode(&to.finish())));
    // The table itself as a bomb.
    let mut to = Writer::new();
    to.varint(MAX_TABLE as u64);
    to.bytes(&bomb);
    assert!(matches!(Parcel::decode(&to.finish()), Err(FrameError::Delta(_))));
    // Text that is a bomb, or too short.
    for packed in [&bomb[..], b"x"] {
        let parcel = Parcel::decode(&lying(&table(&[1, 1, 10]), packed)).unwrap();
        assert!(matches!(parcel.restore(), Err(FrameError::Delta(_))));
    }
}

#[test]
fn a_batch_cannot_restore_more_than_a_batch_may() {
    let zeros = vec![0; MAX_CHUNK];
    let mut one_more = zeros.clone();
    one_more[7] = 1;
    let item = (ObjectKind::Chunk, one_more.clone(), Some(zeros.clone()));
    let mut batch = Batch::new();
    let mut count = 0;
    while !batch.is_full() {
        let (id, base) = (ObjectId::of(item.0, &one_more), ObjectId::of(item.0, &zeros));
        batch.push_delta(id, &one_more, base, &zeros).unwrap();
        count += 1;
    }
    assert_eq!(count, BATCH_RESTORED / MAX_CHUNK / 2);
    // Some more fit, as if the last one had been a directory of the largest size.
    let bases = [(ObjectKind::Chunk, zeros)];
    let most = MOST_RESTORED / MAX_CHUNK / 2;
    assert!(count < most && open(&pack(&vec![item.clone(); most]), &bases).is_ok());
    assert!(open(&pack(&vec![item.clone(); most + 1]), &bases).is_err());
    // Bases alone are not more, either.
    let mut parcel = Parcel::decode(&pack(&vec![item; 4 * count])).unwrap();
    let mut taken = 0;
    while parcel.next_base().is_some() {
        parcel.supply(Some((ObjectId::of(ObjectKind::Chunk, b""), vec![0; MAX_CHUNK])));
        taken += MAX_CHUNK;
    }
    assert!(taken <= MOST_RESTORED + MAX_OBJECT);
    assert!(parcel.restore().is_err());
}

#[test]
fn a_full_batch_of_the_worst_objects_fits_a_frame() {
    let mut batch = Batch::new();
    let id = |bytes: &[u8]| ObjectId::of(ObjectKind::Chunk, bytes);
    while !batch.is_full() {
        let (bytes, base) = (noise(batch.items.len() as u64, 60), noise(1 << 40, 60));
        batch.push_delta(id(&bytes), &bytes, id(&base), &base).unwrap();
    }
    batch = Batch::new();
    // As many hunks as there can be.
    let base = noise(3, MAX_CHUNK);
    let mut object = base.clone();
    object.iter_mut().step_by(33).for_each(|byte| *byte ^= 0x55);
    while batch.table + 60_000 < TABLE_TARGET {
        batch.push_delta(id(&object), &object, id(&base), &base).unwrap();
    }
    while batch.text.len() < BATCH_TARGET - 1 {
        let bytes =
            noise(batch.items.len() as u64, (BATCH_TARGET - 1 - batch.text.len()).min(5000));
        batch.push_full(ObjectKind::Chunk, &bytes);
    }
    assert!(!batch.is_full());
    batch.push_delta(id(&object), &object, id(&base), &base).unwrap();
    batch.push_full(ObjectKind::Chunk, &noise(9, MAX_OBJECT));
    assert!(batch.is_full() && batch.table <= MAX_TABLE);
    let body = batch.finish().unwrap();
    assert!(encode_header(FrameKind::Objects, body.len()).is_ok(), "{}", body.len());
}

/// Objects with an edit, or without a base.
fn item() -> impl Strategy<Value = Pair> {
    let bytes = || {
        prop_oneof![
            vec(any::<u8>(), 0..40),
            (any::<u8>(), 0..4000usize).prop_map(|(byte, len)| vec![byte; len]),
            (any::<u64>(), 0..4000usize).prop_map(|(seed, len)| noise(seed % 3, len)),
        ]
    };
    (bytes(), proptest::option::of(bytes()))
        .prop_map(|(bytes, base)| (ObjectKind::Chunk, bytes, base))
}

proptest! {
    #[test]
    fn any_items_round_trip(items in vec(item(), 0..30)) {
        there_and_back(&items);
    }

    #[test]
    fn changed_batches_are_refused_or_bounded(
        body in mutated(vec(item(), 0..9).prop_map(|items| pack(&items))),
    ) {
        if let Ok(mut parcel) = Parcel::decode(&body) {
            prop_assert!(parcel.len() <= MAX_BATCH);
            while parcel.next_base().is_some() {
                let base = noise(1, 3000);
                parcel.supply(Some((ObjectId::of(ObjectKind::Chunk, &base), base)));
            }
            if let Ok(objects) = parcel.restore() {
                let total: usize = objects.iter().map(|(_, bytes)| bytes.len()).sum();
                prop_assert!(total <= BATCH_TARGET + MAX_OBJECT + MOST_RESTORED);
            }
        }
    }
}

//! The store against a model, and against what crashes and damage do to its files.

use std::collections::BTreeMap;
use std::path::PathBuf;

use baton_protocol::id::{
    ChunkId, DeviceId, IdempotencyKey, ObjectId, ObjectKind, SnapshotId, VaultId, WorkspaceId,
};
use baton_protocol::object::{Blob, Content, Entry as TreeEntry, EntryKind, Snapshot, build_tree};

mod collecting;
mod races;
mod faults;
mod flips;
mod migrations;
mod model;
mod only_read;
mod points;
mod power;
mod proofs;
mod scrubbing;
mod together;

use super::*;
use crate::journal::RefUpdate;
use crate::layout::Class;
use crate::objects::{ObjectSink, ObjectSource};
use crate::vault::{CommitError, Committed};

const VAULT: VaultId = VaultId::from_bytes([1; 16]);
const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([2; 16]);
const DEVICE: DeviceId = DeviceId::from_bytes([3; 32]);

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Puts a snapshot of these files and commits it after `parent`.
fn commit(
    store: &Store,
    files: &BTreeMap<String, Vec<u8>>,
    sequence: u64,
    parent: Option<SnapshotId>,
) -> Result<Committed, CommitError> {
    let intake = store.vault(VAULT)?.intake();
    let update = put(&intake, files, sequence, parent)?;
    intake.commit(update)
}

fn put(
    intake: &crate::vault::Intake,
    files: &BTreeMap<String, Vec<u8>>,
    sequence: u64,
    parent: Option<SnapshotId>,
) -> Result<RefUpdate, StoreError> {
    let mut entries = Vec::new();
    for (name, bytes) in files {
        intake.put(ObjectKind::Chunk, bytes)?;
        let blob = Blob { size: bytes.len() as u64, content: Content::Chunk(ChunkId::of(bytes)) };
        entries.push(TreeEntry {
            name: name.clone().into_bytes(),
            kind: EntryKind::File { mode: 0o644, blob },
        });
    }
    let (root, _) =
        build_tree(entries, |_, _, bytes| intake.put(ObjectKind::Tree, &bytes).map(drop))?;
    let snapshot = Snapshot {
        workspace: WORKSPACE,
        device: DEVICE,
        sequence,
        parents: parent.into_iter().collect(),
        root,
        root_mode: 0o755,
        omitted: None,
        git: None,
        conversations: Vec::new(),
        created_at: 0,
        message: String::new(),
    };
    let new = SnapshotId::of(&snapshot.encode());
    intake.put(ObjectKind::Snapshot, &snapshot.encode())?;
    Ok(RefUpdate {
        workspace: WORKSPACE,
        device: DEVICE,
        expected: parent,
        new,
        sequence,
        key: IdempotencyKey::from_bytes(noise(sequence, 16).try_into().unwrap()),
    })
}

/// The files of a snapshot, read back.
fn files(store: &Store, snapshot: SnapshotId) -> Result<BTreeMap<String, Vec<u8>>, StoreError> {
    use baton_protocol::object::Tree;
    let vault = store.vault(VAULT)?;
    let snapshot = Snapshot::decode(&vault.require(&snapshot.into())?).unwrap();
    let mut files = BTreeMap::new();
    let mut open = vec![snapshot.root];
    while let Some(id) = open.pop() {
        match Tree::decode(&vault.require(&id.into())?).unwrap() {
            Tree::Leaf(entries) => {
                for entry in entries {
                    let bytes = vault.require(&entry.content())?;
                    files.insert(String::from_utf8(entry.name).unwrap(), bytes);
                }
            }
            Tree::Node { children, .. } => open.extend(children.iter().map(|child| child.id)),
        }
    }
    Ok(files)
}

fn small(seed: u64) -> BTreeMap<String, Vec<u8>> {
    (0..5).map(|at| (format!("f{at}"), noise(seed * 10 + at, 100))).collect()
}

fn large(seed: u64) -> BTreeMap<String, Vec<u8>> {
    (0..40).map(|at| (format!("f{at:03}"), noise(seed * 100 + at, 60_000))).collect()
}

fn journal_files(store: &std::path::Path) -> Vec<PathBuf> {
    let folder = store.join("journal");
    fs::list_dir(&folder).unwrap().into_iter().map(|name| folder.join(name)).collect()
}

/// What is in a file; of a journal without the room ahead.
fn bytes_of(path: &std::path::Path) -> Vec<u8> {
    let mut bytes = fs::read_if_exists(path, u64::MAX - 1).unwrap().unwrap();
    if path.parent().is_some_and(|folder| folder.ends_with("journal")) {
        let room = bytes.iter().rev().take_while(|&&byte| byte == 0).count();
        // The last checksum may end with zeros.
        bytes.truncate((bytes.len() - room + 4).min(bytes.len()));
    }
    bytes
}

fn copy_store(from: &std::path::Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", from.display()))
        .arg(to.path())
        .status()
        .unwrap();
    assert!(status.success());
    to
}

#[test]
fn what_was_committed_reads_back_after_every_kind_of_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut model: BTreeMap<u64, (SnapshotId, BTreeMap<String, Vec<u8>>)> = BTreeMap::new();
    let mut parent = None;
    let mut store = Store::open(folder.path()).unwrap();
    for step in 1..=30u64 {
        let content = if step % 7 == 0 { large(step) } else { small(step) };
        let committed = commit(&store, &content, step, parent).unwrap();
        assert!(!committed.replayed);
        parent = Some(committed.head.snapshot);
        model.insert(step, (committed.head.snapshot, content));
        match step % 5 {
            0 => store.fold().unwrap(),
            1 => {
                drop(store);
                store = Store::open(folder.path()).unwrap();
            }
            2 => {
                drop(store);
                for suffix in ["", "-wal", "-shm"] {
                    let index = folder.path().join(format!("vaults/{VAULT}/index.db{suffix}"));
                    fs::remove_file(&index).unwrap();
                }
                store = Store::open(folder.path()).unwrap();
            }
            _ => {}
        }
        let head = store.vault(VAULT).unwrap().head(WORKSPACE, DEVICE).unwrap();
        assert_eq!(Some(head.snapshot), parent);
        for (snapshot, content) in model.values() {
            assert_eq!(files(&store, *snapshot).unwrap(), *content, "after step {step}");
        }
    }
}

#[test]
fn a_ref_moves_only_from_where_it_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = commit(&store, &small(1), 1, None).unwrap().head;
    let moved = commit(&store, &small(2), 2, None).unwrap_err();
    assert!(matches!(moved, CommitError::HeadMoved { head: Some(head) } if head == first));
    let second = commit(&store, &small(3), 2, Some(first.snapshot)).unwrap().head;
    // The same update again, as a client sends it whose answer was lost.
    let replay = commit(&store, &small(3), 2, Some(first.snapshot)).unwrap();
    assert_eq!(replay, Committed { head: second, replayed: true });
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let replay = commit(&store, &small(3), 2, Some(first.snapshot)).unwrap();
    assert_eq!(replay, Committed { head: second, replayed: true });
}

#[test]
fn concurrent_commits_of_one_ref_leave_one_winner_each_round() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let mut parent = None;
    for round in 1..=10u64 {
        let won: Vec<_> = std::thread::scope(|scope| {
            let contenders: Vec<_> = (0..6)
                .map(|at| {
                    let store = &store;
                    scope.spawn(move || commit(store, &small(round * 100 + at), round, parent))
                })
                .collect();
            contenders.into_iter().filter_map(|thread| thread.join().unwrap().ok()).collect()
        });
        assert_eq!(won.len(), 1, "round {round}");
        parent = Some(won[0].head.snapshot);
    }
}

#[test]
fn a_commit_without_all_of_its_objects_is_refused_and_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let elsewhere = Store::open(scratch.path()).unwrap();
    let other = elsewhere.vault(VAULT).unwrap().intake();
    let update = put(&other, &small(1), 1, None).unwrap();
    let intake = store.vault(VAULT).unwrap().intake();
    // The way down, as a push without a base goes it.
    for _ in 0..10 {
        let Err(CommitError::Missing(ids)) = intake.commit_in_place(&update) else { break };
        assert!(!ids.is_empty());
        for id in ids {
            intake.put_hashed(id, &other.require(&id).unwrap()).unwrap();
        }
    }
    assert_eq!(files(&store, update.new).unwrap(), small(1));
    assert!(intake.commit_in_place(&update).unwrap().replayed);
}

#[test]
fn the_journal_cut_anywhere_keeps_every_commit_before_the_cut() {
    let folder = tempfile::tempdir().unwrap();
    let path = journal_path(folder.path());
    let mut ends = Vec::new();
    {
        let store = Store::open(folder.path()).unwrap();
        let mut parent = None;
        for step in 1..=4 {
            let head = commit(&store, &small(step), step, parent).unwrap().head;
            parent = Some(head.snapshot);
            let end = store.0.shared.commits.journal.len() as usize;
            ends.push((end, head.snapshot, step));
        }
    }
    let whole = bytes_of(&path);
    for cut in (0..whole.len()).step_by(13) {
        let copy = copy_store(folder.path());
        fs::write_atomic(&journal_path(copy.path()), &whole[..cut], 0o600).unwrap();
        let store = Store::open(copy.path()).unwrap();
        let head = store.vault(VAULT).unwrap().head(WORKSPACE, DEVICE);
        let last = ends.iter().rev().find(|(end, _, _)| *end <= cut);
        assert_eq!(head.map(|head| head.snapshot), last.map(|last| last.1), "cut at {cut}");
        if let Some((_, snapshot, step)) = last {
            assert_eq!(files(&store, *snapshot).unwrap(), small(*step));
        }
        // And it takes new commits.
        let parent = head.map(|head| head.snapshot);
        let sequence = head.map_or(1, |head| head.sequence + 1);
        commit(&store, &small(99), sequence, parent).unwrap();
    }
}

fn journal_path(store: &std::path::Path) -> PathBuf {
    store.join("journal").join(format!("{:016x}", 1))
}

#[test]
fn a_flipped_bit_in_the_journal_loses_at_most_its_own_commit_and_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let mut heads = Vec::new();
    {
        let store = Store::open(folder.path()).unwrap();
        let mut parent = None;
        for step in 1..=3 {
            let head = commit(&store, &small(step), step, parent).unwrap().head;
            parent = Some(head.snapshot);
            heads.push((head.snapshot, step));
        }
    }
    let whole = bytes_of(&journal_path(folder.path()));
    for at in (0..whole.len()).step_by(13) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        let copy = copy_store(folder.path());
        fs::write_atomic(&journal_path(copy.path()), &flipped, 0o600).unwrap();
        let store = Store::open(copy.path()).unwrap();
        let lost = heads
            .iter()
            .filter(|(snapshot, step)| files(&store, *snapshot).ok() != Some(small(*step)))
            .count();
        assert!(lost <= 1, "byte {at}: {lost} commits lost");
        let recovery = store.recovery();
        let noticed = !recovery.damaged.is_empty() || recovery.torn_bytes > 0;
        assert!(noticed || lost == 0, "byte {at} was not noticed");
        for aside in &recovery.damaged {
            assert_eq!(bytes_of(aside), flipped);
        }
    }
}

#[test]
fn folding_leaves_one_short_journal_and_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let head = commit(&store, &small(1), 1, None).unwrap().head;
    store.fold().unwrap();
    store.fold().unwrap();
    let left = journal_files(folder.path());
    assert_eq!(left.len(), 1);
    assert!(bytes_of(&left[0]).len() < 1000);
    assert_eq!(files(&store, head.snapshot).unwrap(), small(1));
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(files(&store, head.snapshot).unwrap(), small(1));
    let next = commit(&store, &small(2), 2, Some(head.snapshot)).unwrap();
    assert!(!next.replayed);
}

#[test]
fn a_damaged_index_is_made_anew_from_the_segments() {
    let folder = tempfile::tempdir().unwrap();
    let head = {
        let store = Store::open(folder.path()).unwrap();
        let head = commit(&store, &large(1), 1, None).unwrap().head;
        store.fold().unwrap();
        head
    };
    let index = folder.path().join(format!("vaults/{VAULT}/index.db"));
    let mut bytes = bytes_of(&index);
    for at in (0..bytes.len()).step_by(100) {
        bytes[at] ^= 0xff;
    }
    fs::write_atomic(&index, &bytes, 0o600).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(files(&store, head.snapshot).unwrap(), large(1));
}

/// Opens a store that was just closed: a program that another test is starting has its lock for a
/// moment, too.
fn open_again(folder: &std::path::Path) -> Store {
    for _ in 0..1000 {
        match Store::open(folder) {
            Err(StoreError::Locked { .. }) => {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            opened => return opened.unwrap(),
        }
    }
    panic!("{} stays locked", folder.display());
}

#[test]
fn a_bit_of_the_index_costs_at_most_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let head = {
        let store = Store::open(folder.path()).unwrap();
        let head = commit(&store, &large(1), 1, None).unwrap().head;
        store.fold().unwrap();
        head
    };
    let index = format!("vaults/{VAULT}/index.db");
    let whole = bytes_of(&folder.path().join(&index));
    let mut noticed = 0;
    for at in (0..whole.len()).step_by(whole.len() / 40) {
        let copy = copy_store(folder.path());
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        fs::write_atomic(&copy.path().join(&index), &flipped, 0o600).unwrap();
        let store = open_again(copy.path());
        match files(&store, head.snapshot) {
            Ok(found) => assert_eq!(found, large(1), "byte {at}"),
            Err(error) => assert!(error.is_corruption(), "byte {at}: {error}"),
        }
        let checked = crate::check::check(&store, true, |_, _| {}).unwrap();
        noticed += usize::from(!checked.problems.is_empty());
        drop(store);
        let store = open_again(copy.path());
        assert_eq!(files(&store, head.snapshot).unwrap(), large(1), "byte {at}");
        let checked = crate::check::check(&store, true, |_, _| {}).unwrap();
        assert_eq!(checked.problems, [], "byte {at}");
    }
    // How many hit a row depends on where SQLite has put it: segments have random names.
    assert!(noticed > 0, "none of the flipped bits mattered");
}

#[test]
fn a_segment_that_lost_its_end_is_missing_just_that_and_takes_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let head = {
        let store = Store::open(folder.path()).unwrap();
        let head = commit(&store, &large(1), 1, None).unwrap().head;
        store.fold().unwrap();
        head
    };
    let data = folder.path().join(format!("vaults/{VAULT}/data"));
    let segment = data.join(&fs::list_dir(&data).unwrap()[0]);
    let whole = bytes_of(&segment);
    fs::write_atomic(&segment, &whole[..whole.len() / 2], 0o600).unwrap();
    let store = Store::open(folder.path()).unwrap();
    let lost = files(&store, head.snapshot).unwrap_err();
    assert!(lost.is_corruption(), "{lost}");
    // Whoever still has the objects can bring them back: they are asked for.
    let intake = store.vault(VAULT).unwrap().intake();
    let missing = intake.missing(head.snapshot.into(), 1000).unwrap();
    assert!(!missing.is_empty() && missing.len() < 40, "{}", missing.len());
    for (_, bytes) in large(1) {
        intake.put(ObjectKind::Chunk, &bytes).unwrap();
    }
    intake.keep(&[head.snapshot.into()]).unwrap();
    assert_eq!(files(&store, head.snapshot).unwrap(), large(1));
}

#[test]
fn a_flipped_bit_in_a_segment_is_never_served() {
    let folder = tempfile::tempdir().unwrap();
    let head = {
        let store = Store::open(folder.path()).unwrap();
        let head = commit(&store, &large(1), 1, None).unwrap().head;
        store.fold().unwrap();
        head
    };
    let data = folder.path().join(format!("vaults/{VAULT}/data"));
    let segment = data.join(&fs::list_dir(&data).unwrap()[0]);
    let whole = bytes_of(&segment);
    for at in (64..whole.len()).step_by(whole.len() / 40) {
        let copy = copy_store(folder.path());
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        let name = segment.strip_prefix(folder.path()).unwrap();
        fs::write_atomic(&copy.path().join(name), &flipped, 0o600).unwrap();
        let store = Store::open(copy.path()).unwrap();
        let read = files(&store, head.snapshot);
        assert!(read.is_err_and(|error| error.is_corruption()), "byte {at}");
    }
}

#[test]
fn segments_are_sealed_under_their_hash_and_stay_readable() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let intake = store.vault(VAULT).unwrap().intake();
    let ids: Vec<ObjectId> =
        (0..700u64).map(|at| intake.put(ObjectKind::Chunk, &noise(at, 200_000)).unwrap()).collect();
    intake.keep(&[]).unwrap();
    let check = |store: &Store| {
        let vault = store.vault(VAULT).unwrap();
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(vault.require(id).unwrap(), noise(at as u64, 200_000));
        }
    };
    check(&store);
    drop(store);
    let layout = Layout::open(folder.path()).unwrap();
    let names = fs::list_dir(&layout.segments(VAULT, Class::Data)).unwrap();
    let sealed = names.iter().filter(|name| name.len() == 64).count();
    assert_eq!((sealed, names.len()), (2, 3));
    check(&Store::open(folder.path()).unwrap());
    fs::remove_file(&layout.index(VAULT)).unwrap();
    check(&Store::open(folder.path()).unwrap());
}

#[test]
fn a_second_process_and_a_newer_format_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let second = Store::open(folder.path()).unwrap_err();
    assert!(matches!(second, StoreError::Locked { pid, .. } if pid == std::process::id()));
    drop(store);
    fs::write_atomic(&folder.path().join("format"), b"baton store 2\n", 0o600).unwrap();
    let newer = Store::open(folder.path()).unwrap_err();
    assert!(matches!(newer, StoreError::Newer { found: 2, supported: 1, .. }));
}

#[test]
fn a_ref_never_goes_back_to_an_older_number() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let head = commit(&store, &small(1), 7, None).unwrap().head;
    for (at, sequence) in [(2, 6), (3, 7)] {
        let refused = commit(&store, &small(at), sequence, Some(head.snapshot));
        assert!(matches!(refused, Err(CommitError::Backwards { head: 7, .. })), "{refused:?}");
    }
    assert_eq!(store.vault(VAULT).unwrap().heads(), [head]);
    commit(&store, &small(4), 8, Some(head.snapshot)).unwrap();
}

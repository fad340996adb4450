//! Closed bits prove something true, whatever was put, lost or damaged.

use super::*;

/// A directory whose one file is in no store.
fn hollow_tree() -> (ObjectId, Vec<u8>) {
    let bytes = noise(4711, 50);
    let blob = Blob { size: 50, content: Content::Chunk(ChunkId::of(&bytes)) };
    let entry = TreeEntry { name: b"gone".to_vec(), kind: EntryKind::File { mode: 0o644, blob } };
    let mut tree = None;
    build_tree::<std::convert::Infallible>(vec![entry], |_, _, bytes| {
        tree = Some((ObjectId::of(ObjectKind::Tree, &bytes), bytes));
        Ok(())
    })
    .unwrap();
    tree.unwrap()
}

fn missing(store: &Store, root: ObjectId) -> usize {
    store.vault(VAULT).unwrap().intake().missing(root, 1000).unwrap().len()
}

#[test]
fn what_merely_came_along_with_a_commit_is_not_proved_by_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (id, bytes) = hollow_tree();
    {
        let store = Store::open(folder.path()).unwrap();
        let intake = store.vault(VAULT).unwrap().intake();
        intake.put_hashed(id, &bytes).unwrap();
        let update = put(&intake, &small(1), 1, None).unwrap();
        intake.commit(update).unwrap();
        assert_eq!(missing(&store, id), 1);
    }
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(missing(&store, id), 1);
    store.fold().unwrap();
    assert_eq!(missing(&store, id), 1);
    let vault = store.vault(VAULT).unwrap();
    let head = vault.head(WORKSPACE, DEVICE).unwrap().snapshot;
    assert_eq!(vault.closed(&head.into()).unwrap(), Some(true));
}

#[test]
fn a_walk_that_found_something_missing_proves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let (id, bytes) = hollow_tree();
    let intake = store.vault(VAULT).unwrap().intake();
    intake.put_hashed(id, &bytes).unwrap();
    assert_eq!(intake.missing(id, 10).unwrap().len(), 1);
    intake.keep(&[]).unwrap();
    assert_eq!(missing(&store, id), 1);
}

#[test]
fn every_root_that_is_kept_is_remembered_as_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    let intake = vault.intake();
    let roots: Vec<ObjectId> =
        (1..4).map(|at| put(&intake, &small(at), at, None).unwrap().new.into()).collect();
    intake.keep(&roots).unwrap();
    for root in roots {
        assert_eq!(vault.closed(&root).unwrap(), Some(true));
    }
}

#[test]
fn proofs_that_rely_on_a_damaged_journal_are_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let head = {
        let store = Store::open(folder.path()).unwrap();
        let first = commit(&store, &small(1), 1, None).unwrap().head.snapshot;
        // Goes to segments, but for what the journal has.
        let mut content = large(2);
        content.extend(small(1).into_iter().map(|(name, bytes)| (format!("g{name}"), bytes)));
        commit(&store, &content, 2, Some(first)).unwrap().head.snapshot
    };
    let path = journal_path(folder.path());
    let mut bytes = bytes_of(&path);
    bytes[200] ^= 1;
    fs::write_atomic(&path, &bytes, 0o600).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert_eq!(store.recovery().damaged.len(), 1);
    assert_eq!(missing(&store, head.into()), 5);
}

#[test]
fn proofs_in_the_journal_that_rely_on_a_lost_segment_are_taken_back() {
    let folder = tempfile::tempdir().unwrap();
    let head = {
        let store = Store::open(folder.path()).unwrap();
        let first = commit(&store, &large(1), 1, None).unwrap().head.snapshot;
        let mut content = large(1);
        content.extend(small(2).into_iter().map(|(name, bytes)| (format!("g{name}"), bytes)));
        commit(&store, &content, 2, Some(first)).unwrap().head.snapshot
    };
    let data = folder.path().join(format!("vaults/{VAULT}/data"));
    let segment = data.join(&fs::list_dir(&data).unwrap()[0]);
    let whole = bytes_of(&segment);
    fs::write_atomic(&segment, &whole[..whole.len() / 2], 0o600).unwrap();
    let store = Store::open(folder.path()).unwrap();
    assert!(missing(&store, head.into()) > 0);
}

#[test]
fn a_flipped_bit_in_a_folded_journal_loses_no_ref() {
    let folder = tempfile::tempdir().unwrap();
    let head = {
        let store = Store::open(folder.path()).unwrap();
        let head = commit(&store, &small(1), 1, None).unwrap().head;
        store.fold().unwrap();
        head
    };
    let path = journal_files(folder.path()).remove(0);
    let whole = bytes_of(&path);
    for at in (0..whole.len()).step_by(17) {
        let mut flipped = whole.clone();
        flipped[at] ^= 4;
        fs::write_atomic(&path, &flipped, 0o600).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.vault(VAULT).unwrap().head(WORKSPACE, DEVICE), Some(head), "byte {at}");
        assert!(!store.recovery().damaged.is_empty(), "byte {at}");
        drop(store);
        fs::write_atomic(&path, &whole, 0o600).unwrap();
    }
}

#[test]
fn check_reads_the_journal_and_finds_damage_behind_the_back_of_a_running_store() {
    use crate::check::check;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let first = commit(&store, &small(1), 1, None).unwrap().head.snapshot;
    commit(&store, &small(2), 2, Some(first)).unwrap();
    let checked = check(&store, true, |_, _| {}).unwrap();
    assert_eq!(checked.problems, []);
    assert!(checked.bytes_read > 1000);
    let path = journal_path(folder.path());
    let whole = bytes_of(&path);
    for at in [whole.len() / 4, whole.len() - 100] {
        let mut flipped = whole.clone();
        flipped[at] ^= 1;
        std::os::unix::fs::FileExt::write_all_at(&fs::open_writable(&path).unwrap(), &flipped, 0)
            .unwrap();
        assert!(!check(&store, true, |_, _| {}).unwrap().problems.is_empty(), "byte {at}");
        assert_eq!(check(&store, false, |_, _| {}).unwrap().problems, []);
    }
    // What is in memory is whole: folding brings it to safety.
    store.fold().unwrap();
    assert_eq!(check(&store, true, |_, _| {}).unwrap().problems, []);
}

//! Several intakes, threads and readers at once.

use super::*;

#[test]
fn the_same_objects_from_many_threads_and_intakes_read_back_throughout() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    let bytes = |at: u64| noise(at, 5_000 + (at as usize % 7) * 20_000);
    let pushes: Vec<_> = (0..3).map(|_| vault.intake()).collect();
    std::thread::scope(|scope| {
        for intake in &pushes {
            for thread in 0..3u64 {
                scope.spawn(move || {
                    for step in 0..60u64 {
                        let at = (step + thread * 20) % 60;
                        let id = intake.put(ObjectKind::Chunk, &bytes(at)).unwrap();
                        assert_eq!(intake.read(&id).unwrap(), Some(bytes(at)));
                        if step % 25 == 24 {
                            intake.flush().unwrap();
                        }
                    }
                });
            }
        }
        scope.spawn(|| (0..5).for_each(|_| store.fold().unwrap()));
    });
    for intake in pushes {
        intake.keep(&[]).unwrap();
    }
    for at in 0..60 {
        assert_eq!(vault.require(&ObjectId::of(ObjectKind::Chunk, &bytes(at))).unwrap(), bytes(at));
    }
    assert_eq!(crate::check::check(&store, true, |_, _| {}).unwrap().problems, []);
}

#[test]
fn what_is_put_during_a_commit_is_not_taken_for_durable() {
    let folder = tempfile::tempdir().unwrap();
    let late: Vec<Vec<u8>> = (0..200).map(|at| noise(9000 + at, 100)).collect();
    let taken: Vec<ObjectId> = {
        let store = Store::open(folder.path()).unwrap();
        let vault = store.vault(VAULT).unwrap();
        let intake = vault.intake();
        let update = put(&intake, &small(1), 1, None).unwrap();
        std::thread::scope(|scope| {
            let putting = scope.spawn(|| {
                for bytes in &late {
                    intake.put(ObjectKind::Chunk, bytes).unwrap();
                }
            });
            intake.commit_in_place(&update).unwrap();
            putting.join().unwrap();
        });
        let ids = late.iter().map(|bytes| ObjectId::of(ObjectKind::Chunk, bytes));
        ids.filter(|id| vault.contains(id).unwrap()).collect()
    };
    let store = Store::open(folder.path()).unwrap();
    for id in taken {
        store.vault(VAULT).unwrap().require(&id).unwrap();
    }
}

#[test]
fn a_record_of_another_log_is_kept_as_it_is_where_all_of_it_is_new() {
    use crate::objects::OpenRecord;
    use crate::segment::{RecordBuilder, decode_record, decode_table};

    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    let record = |class, kind, seeds: std::ops::Range<u64>, len| {
        let mut builder = RecordBuilder::default();
        for bytes in seeds.map(|seed| noise(seed, len)) {
            builder.push(ObjectId::of(kind, &bytes), &bytes);
        }
        builder.encode(class).unwrap()
    };
    let data = |seeds| record(Class::Data, ObjectKind::Chunk, seeds, 30_000);
    // All of it new; the half of it; small; nothing of it; chunks among the metadata.
    let records = [
        (data(0..8), true),
        (data(4..12), false),
        (record(Class::Data, ObjectKind::Chunk, 20..23, 100), false),
        (data(0..8), true),
        (record(Class::Metadata, ObjectKind::Chunk, 30..38, 30_000), false),
    ];
    let intake = vault.intake();
    for (bytes, _) in &records {
        let mut entries = Vec::new();
        let head = decode_table(bytes, &mut entries).unwrap();
        intake.put_record(bytes.clone(), head, &entries).unwrap();
    }
    intake.keep(&[]).unwrap();
    drop(vault);
    drop(store);
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    let mut open = OpenRecord::default();
    for (bytes, is_kept) in &records {
        let mut objects = Vec::new();
        for entry in decode_record(bytes).unwrap().entries {
            vault.require(&entry.id).unwrap();
            objects.extend(
                vault.locations(&[entry.id]).unwrap().pop().flatten().map(|at| (at, entry.id)),
            );
        }
        let packed = vault.packed_record(&mut open, &objects[0].0).unwrap();
        assert_eq!(packed.is_some_and(|record| record.bytes == bytes.as_slice()), *is_kept);
        // What stands together is read through one record, and damage is not read at all.
        for (at, id) in &objects {
            let bytes = vault.read_from(&mut open, id, Some(at)).unwrap();
            assert_eq!(ObjectId::of(id.kind, bytes), *id);
        }
    }
    assert_eq!(crate::check::check(&store, true, |_, _| {}).unwrap().problems, []);
}

#[test]
fn a_record_that_lies_ends_the_intake_and_leaves_nothing() {
    use crate::error::StoreError;
    use crate::segment::{RecordBuilder, decode_table};

    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(VAULT).unwrap();
    // Small ones are proved at once, large ones beside.
    for len in [100, 30_000] {
        let intake = vault.intake();
        let mut builder = RecordBuilder::default();
        let bytes: Vec<_> = (40..48).map(|seed| noise(seed, len)).collect();
        let ids: Vec<_> = bytes.iter().map(|it| ObjectId::of(ObjectKind::Chunk, it)).collect();
        // Two of them under the names of each other.
        for (id, bytes) in ids.iter().zip(bytes[1..].iter().chain(&bytes[..1])) {
            builder.push(*id, bytes);
        }
        let record = builder.encode(Class::Data).unwrap();
        let mut entries = Vec::new();
        let head = decode_table(&record, &mut entries).unwrap();
        let put = intake.put_record(record, head, &entries);
        assert!(put.is_ok() || matches!(put, Err(StoreError::Forged(_))), "{put:?}");
        let lie = intake.missing(ids[0], 1).unwrap_err();
        assert!(matches!(lie, StoreError::Forged(_)), "{lie}");
        assert!(matches!(intake.flush(), Err(StoreError::Forged(_))));
        drop(intake);
        assert!(ids.iter().all(|id| !vault.contains(id).unwrap()));
    }
}

//! An acknowledgement means that the entry is there.

use std::io::ErrorKind;

use baton_protocol::id::{ObjectId, ObjectKind, VaultId};

use super::*;
use crate::fs::fault;
use crate::layout::Class;
use crate::segment::RecordBuilder;

fn commit(at: u8) -> Entry {
    Entry::Commit(Commit { vault: VaultId::from_bytes([at; 16]), update: None, records: vec![] })
}

fn start(layout: &Layout) -> Journal {
    Journal::open(layout, &replay(layout, |_| Ok(())).unwrap()).unwrap()
}

/// The vaults of the entries that a start would believe now.
fn believed(layout: &Layout) -> Vec<u8> {
    let mut vaults = Vec::new();
    replay(layout, |replayed| {
        if let Entry::Commit(commit) = replayed.entry {
            vaults.push(commit.vault.as_bytes()[0]);
        }
        Ok(())
    })
    .unwrap();
    vaults
}

#[test]
fn what_was_acknowledged_is_found_by_a_start_at_that_moment() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (journal, poison) = (start(&layout), Poison::default());
    std::thread::scope(|scope| {
        for thread in 0..6u8 {
            let (journal, poison, layout) = (&journal, &poison, &layout);
            scope.spawn(move || {
                for at in 0..8 {
                    let at = thread * 8 + at;
                    journal.append(&commit(at), poison).unwrap();
                    assert!(believed(layout).contains(&at));
                }
            });
        }
    });
    assert_eq!(believed(&layout).len(), 48);
}

#[test]
fn an_unfinished_write_is_told_from_damage_by_the_room_that_it_was_written_to() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (journal, poison) = (start(&layout), Poison::default());
    journal.make_room();
    assert!(!journal.is_short_of_room());
    let mut last = journal.len() as usize;
    for at in 0..3u8 {
        let mut record = RecordBuilder::default();
        let bytes: Vec<u8> = (0..2000u32).map(|byte| (byte % 251) as u8 | 1).collect();
        record.push(ObjectId::of(ObjectKind::Chunk, &bytes), &bytes);
        let records = vec![record.encode_raw(Class::Data)];
        let vault = VaultId::from_bytes([at + 1; 16]);
        last = journal.len() as usize;
        journal.append(&Entry::Commit(Commit { vault, update: None, records }), &poison).unwrap();
    }
    let (path, end) = (layout.journal_file(1), journal.len() as usize);
    let whole = fs::read_if_exists(&path, 1 << 30).unwrap().unwrap();
    assert!(whole.len() > end && end - last > 4 * 512);
    // As after a power cut, and not as after an orderly end, which gives the room back.
    drop(journal);
    fs::remove_file(&layout.watermark()).unwrap();
    assert_eq!(path.metadata().unwrap().len(), end as u64);
    let found = |bytes: &[u8]| {
        fs::write_atomic(&path, bytes, 0o600).unwrap();
        let mut vaults = Vec::new();
        let end = replay(&layout, |replayed| {
            if let Entry::Commit(commit) = replayed.entry {
                vaults.push(commit.vault.as_bytes()[0]);
            }
            Ok(())
        });
        let end = end.unwrap();
        (vaults, end.torn > 0, end.damaged.len(), end.len as usize)
    };
    assert_eq!(found(&whole), (vec![1, 2, 3], false, 0, end));
    let mut start = last;
    while start < end {
        let next = ((start / 512 + 1) * 512).min(end);
        let mut torn = whole.clone();
        torn[start..next].fill(0);
        assert_eq!(found(&torn), (vec![1, 2], true, 0, last), "sector at {start}");
        start = next;
    }
    for at in (last..end).step_by(97) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x10;
        let (vaults, torn, damaged, intact) = found(&flipped);
        assert_eq!((vaults, intact), (vec![1, 2], last), "byte {at}");
        // A length that was changed may point behind the end.
        assert!(damaged == 1 || (torn && at < last + 16), "byte {at}");
    }
    let mut nothing = whole;
    nothing[last..].fill(0);
    assert_eq!(found(&nothing), (vec![1, 2], false, 0, last));
}

/// Found by the simulator.
#[test]
fn a_last_sector_of_a_few_bytes_that_was_never_written_is_a_cut() {
    let of_len = |len: usize| {
        let mut record = RecordBuilder::default();
        let bytes = vec![7; len];
        record.push(ObjectId::of(ObjectKind::Chunk, &bytes), &bytes);
        let records = vec![record.encode_raw(Class::Data)];
        Entry::Commit(Commit { vault: VaultId::from_bytes([1; 16]), update: None, records })
    };
    for over in 1..=5 {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        let (journal, poison) = (start(&layout), Poison::default());
        let before = journal.len() as usize;
        // Its last bytes, which are those of its checksum, are alone in a sector.
        let ends_there = |len: &usize| {
            let bytes = of_len(*len).encode();
            (before + bytes.len()) % 512 == over && bytes.last() != Some(&0)
        };
        let len = (600..9000).find(ends_there).unwrap();
        journal.append(&of_len(len), &poison).unwrap();
        drop(journal);
        fs::remove_file(&layout.watermark()).unwrap();
        let path = layout.journal_file(1);
        let mut bytes = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
        let from = bytes.len() - over;
        bytes[from..].fill(0);
        fs::write_atomic(&path, &bytes, 0o600).unwrap();
        let end = replay(&layout, |_| Ok(())).unwrap();
        let found = (end.len as usize, end.damaged.len(), end.torn > 0);
        assert_eq!(found, (before, 0, true), "{over}");
    }
}

/// A journal of three entries, of which the watermark names so many; its bytes, and where each entry ends.
fn marked(layout: &Layout, entries: usize) -> (Vec<u8>, Vec<usize>) {
    let (journal, poison) = (start(layout), Poison::default());
    let mut ends = Vec::new();
    for at in 1..=3u8 {
        if ends.len() == entries {
            journal.mark();
        }
        journal.append(&commit(at), &poison).unwrap();
        ends.push(journal.len() as usize);
    }
    if entries == 3 {
        journal.mark();
    }
    // Not closed: that would say more.
    let watermark = fs::read_if_exists(&layout.watermark(), 4096).unwrap().unwrap();
    drop(journal);
    fs::write_atomic(&layout.watermark(), &watermark, 0o600).unwrap();
    let bytes = fs::read_if_exists(&layout.journal_file(1), 1 << 20).unwrap().unwrap();
    (bytes, ends)
}

/// What a start finds: believable entries, whether something is torn, and how much is damaged.
fn found(layout: &Layout, bytes: &[u8]) -> (usize, bool, usize) {
    fs::write_atomic(&layout.journal_file(1), bytes, 0o600).unwrap();
    let end = replay(layout, |_| Ok(())).unwrap();
    (believed(layout).len(), end.torn > 0, end.damaged.len())
}

#[test]
fn what_is_cut_off_before_the_watermark_is_damage_and_after_it_is_a_cut() {
    for entries in 0..=3 {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::open(folder.path()).unwrap();
        let (whole, ends) = marked(&layout, entries);
        assert_eq!(found(&layout, &whole), (3, false, 0));
        let marked = if entries == 0 { 0 } else { ends[entries - 1] };
        let checkpoint = whole.len() - 3 * (ends[1] - ends[0]);
        for to in checkpoint..whole.len() {
            let left = ends.iter().filter(|&&end| end <= to).count();
            let is_damage = to < marked;
            let is_torn = !is_damage && to > checkpoint && !ends.contains(&to);
            let what = format!("{entries} marked, cut to {to}");
            let cut = found(&layout, &whole[..to]);
            assert_eq!(cut, (left, is_torn, usize::from(is_damage)), "{what}");
            // The same with the room ahead.
            let mut zeroed = whole.clone();
            zeroed[to..].fill(0);
            // Zeros may be what was there.
            if is_damage && zeroed[to..marked] != whole[to..marked] {
                assert_eq!(found(&layout, &zeroed).2, 1, "{what}, with zeros");
            }
        }
        fs::remove_file(&layout.journal_file(1)).unwrap();
        assert_eq!(replay(&layout, |_| Ok(())).unwrap().damaged, [(layout.journal_file(1), 0)]);
    }
}

#[test]
fn a_start_that_found_damage_does_not_find_it_again() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (whole, ends) = marked(&layout, 3);
    assert_eq!(found(&layout, &whole[..ends[1]]), (2, false, 1));
    // What comes then may be torn again, in the place of what is gone.
    drop(start(&layout));
    assert_eq!(found(&layout, &whole[..ends[1] + 7]), (2, true, 0));
}

#[test]
fn a_watermark_survives_the_loss_of_a_slot_and_without_one_the_journal_is_read_as_ever() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (whole, ends) = marked(&layout, 3);
    let journal = start(&layout);
    journal.append(&commit(4), &Poison::default()).unwrap();
    let last = journal.len() as usize;
    drop(journal);
    let watermark = fs::read_if_exists(&layout.watermark(), 4096).unwrap().unwrap();
    let longer = fs::read_if_exists(&layout.journal_file(1), 1 << 20).unwrap().unwrap();
    let read = |bytes: &[u8]| {
        fs::write_whole(&layout.watermark(), bytes, 0o600).unwrap();
        let found = watermark::read(&layout).unwrap();
        (found.mark.map(|mark| (mark.number, mark.end as usize)), found.is_damaged)
    };
    let (older, newer) = (Some((1, ends[2])), Some((1, last)));
    assert_eq!(read(&watermark), (newer, false));
    for at in (0..watermark.len()).filter(|at| at % 512 < 40 || at % 97 == 0) {
        for bit in 0..8 {
            let mut flipped = watermark.clone();
            flipped[at] ^= 1 << bit;
            let (mark, is_damaged) = read(&flipped);
            assert!(mark == newer || mark == older, "{mark:?} at {at}");
            assert!(!is_damaged);
        }
    }
    for slot in [0, 512] {
        let mut torn = watermark.clone();
        torn[slot..slot + 512].fill(0);
        assert!([newer, older].contains(&read(&torn).0));
    }
    assert_eq!(read(&[0; 1024]), (None, true));
    assert_eq!(read(&[0xff; 5000]), (None, true));
    assert_eq!(read(b""), (None, true));
    assert!(replay(&layout, |_| Ok(())).unwrap().is_watermark_damaged());
    // It is made anew, and one that is not there is no damage.
    drop(start(&layout));
    assert!(!replay(&layout, |_| Ok(())).unwrap().is_watermark_damaged());
    fs::remove_file(&layout.watermark()).unwrap();
    assert_eq!(found(&layout, &longer[..last - 1]), (3, true, 0));
    assert_eq!(found(&layout, &whole), (3, false, 0));
}

#[test]
fn what_a_power_cut_has_left_in_the_middle_is_no_damage_later() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (whole, ends) = marked(&layout, 1);
    // Of two entries that were written together the second one alone has reached the disk.
    let mut holed = whole;
    holed[ends[0]..ends[1]].fill(0);
    assert_eq!(found(&layout, &holed), (2, true, 0));
    let (journal, poison) = (start(&layout), Poison::default());
    journal.append(&commit(4), &poison).unwrap();
    drop(journal);
    let end = replay(&layout, |_| Ok(())).unwrap();
    assert_eq!((believed(&layout).len(), end.damaged.len()), (3, 0));
    // From the next file on all of it can be proved again.
    let journal = start(&layout);
    journal.rotate(Vec::new(), &poison).unwrap();
    journal.append(&commit(5), &poison).unwrap();
    drop(journal);
    let path = layout.journal_file(2);
    let bytes = fs::read_if_exists(&path, 1 << 20).unwrap().unwrap();
    fs::write_atomic(&path, &bytes[..bytes.len() - 1], 0o600).unwrap();
    assert_eq!(replay(&layout, |_| Ok(())).unwrap().damaged.len(), 1);
}

#[test]
fn after_a_failed_sync_nothing_is_acknowledged_any_more() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (journal, poison) = (start(&layout), Poison::default());
    journal.append(&commit(1), &poison).unwrap();
    let armed = fault::arm(&layout.journal(), Some("syncing"), 0, 1, ErrorKind::Other);
    std::thread::scope(|scope| {
        for at in 2..8 {
            let (journal, poison) = (&journal, &poison);
            scope.spawn(move || journal.append(&commit(at), poison).unwrap_err());
        }
    });
    drop(armed);
    assert!(matches!(journal.append(&commit(9), &poison), Err(StoreError::Poisoned { .. })));
    assert!(matches!(journal.rotate(Vec::new(), &poison), Err(StoreError::Poisoned { .. })));
    assert!(believed(&layout).contains(&1));
}

#[test]
fn a_full_disk_costs_the_entry_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (journal, poison) = (start(&layout), Poison::default());
    let armed = fault::arm(&layout.journal(), Some("writing"), 0, 1, ErrorKind::StorageFull);
    assert!(journal.append(&commit(1), &poison).unwrap_err().is_disk_full());
    drop(armed);
    journal.append(&commit(2), &poison).unwrap();
    let armed = fault::arm(&layout.journal(), Some("writing"), 0, 1, ErrorKind::StorageFull);
    assert!(journal.rotate(Vec::new(), &poison).unwrap_err().is_disk_full());
    drop(armed);
    journal.append(&commit(3), &poison).unwrap();
    assert_eq!((believed(&layout), journal.number()), (vec![2, 3], 1));
}

#[test]
fn a_rotation_that_may_have_happened_takes_no_later_ref_back() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (journal, poison) = (start(&layout), Poison::default());
    let second = layout.journal_file(2);
    // The file itself is synced before it has its name.
    let armed = fault::arm(&layout.journal(), Some("syncing"), 1, 1, ErrorKind::Other);
    assert!(journal.rotate(Vec::new(), &poison).is_err());
    drop(armed);
    assert!(second.exists());
    assert!(matches!(journal.append(&commit(1), &poison), Err(StoreError::Poisoned { .. })));
}

#[test]
fn a_checkpoint_of_many_vaults_is_read_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    let (journal, poison) = (start(&layout), Poison::default());
    let state = |at: u16| {
        let mut id = [0; 16];
        id[..2].copy_from_slice(&at.to_le_bytes());
        let key = baton_protocol::id::IdempotencyKey::from_bytes(id);
        let head = baton_protocol::message::Head {
            workspace: baton_protocol::id::WorkspaceId::from_bytes(id),
            device: baton_protocol::id::DeviceId::from_bytes([1; 32]),
            snapshot: baton_protocol::id::SnapshotId::from_bytes([2; 32]),
            sequence: u64::from(at),
        };
        let vault = VaultId::from_bytes(id);
        RefState { vault, heads: vec![head], keys: vec![(key, head); 100] }
    };
    let states: Vec<_> = (0..250).map(state).collect();
    journal.rotate(states.clone(), &poison).unwrap();
    journal.remove_through(1).unwrap();
    let mut read = Vec::new();
    replay(&layout, |replayed| {
        if let Entry::Checkpoint(states) = replayed.entry {
            read.push(states);
        }
        Ok(())
    })
    .unwrap();
    assert!(read.len() > 2);
    assert_eq!(read.concat(), [states.clone(), states].concat());
}

//! Whole segments: sealed ones, and such as a crash left open.

use std::collections::BTreeSet;

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::object::MAX_OBJECT;

use super::fuzzing::{CORPUS, Random, fuzz_with, within};
use super::ground::{Ground, VAULT, served};
use super::scratch;
use super::{bytes, number, sum};
use crate::fs;
use crate::index::Index;
use crate::layout::Class;
use crate::objects::{Location, ObjectSink};
use crate::segment::{
    MAX_RECORD, RECORD_TARGET, RecordBuilder, SegmentHeader, SegmentWriter, read_footer,
    read_header, scan,
};

const UID: [u8; 16] = [5; 16];

/// Of a footer: what it has for each object, and what follows all of them.
const ROW: usize = 53;
const TAIL: usize = 52;

/// What reading a file may take, whatever is in it: a record as it stands there and unpacked, a window, and the
/// statements of a database.
const FIXED: usize = 3 * (MAX_RECORD + RECORD_TARGET + MAX_OBJECT);

/// A segment as the program writes it.
pub(super) fn segment(random: &mut Random, class: Class, is_sealed: bool) -> (String, Vec<u8>) {
    let folder = scratch();
    let header = SegmentHeader { class, vault: VAULT, uid: UID };
    let mut writer = SegmentWriter::create(folder.path(), header).unwrap();
    let kind = if class == Class::Data { ObjectKind::Chunk } else { ObjectKind::Tree };
    for _ in 0..random.below(4) {
        let mut builder = RecordBuilder::default();
        for _ in 0..=random.below(3) {
            let bytes = bytes(random, 200);
            builder.push(ObjectId::of(kind, &bytes), &bytes);
        }
        let record = if random.below(2) == 0 {
            builder.encode_raw(class)
        } else {
            builder.encode(class).unwrap()
        };
        writer.append(&record, builder.entries()).unwrap();
    }
    let name = if is_sealed { writer.seal().unwrap().name } else { SegmentWriter::open_name(&UID) };
    let bytes = fs::read_if_exists(&folder.path().join(&name), 1 << 20).unwrap().unwrap();
    (name, bytes)
}

/// Makes all checksums right, as far as one record leads to the next, and has the footer begin where it would have to.
fn sum_segment(bytes: &mut [u8]) {
    sum(bytes, 0, SegmentHeader::LEN - 4);
    let mut at = SegmentHeader::LEN;
    while bytes.get(at..at + 4) == Some(b"BTNR") {
        let (Some(count), Some(stored)) = (number(bytes, at + 8), number(bytes, at + 16)) else {
            break;
        };
        let table = at.saturating_add(20 + count.saturating_mul(37));
        let end = table.saturating_add(stored).saturating_add(8);
        if end > bytes.len() {
            break;
        }
        sum(bytes, at, table);
        sum(bytes, table + 4, end - 4);
        at = end;
    }
    let Some(tail) = bytes.len().checked_sub(TAIL) else { return };
    let count = number(bytes, tail).unwrap_or_default();
    let Some(begin) = count.checked_mul(ROW).and_then(|rows| tail.checked_sub(rows)) else {
        return;
    };
    if bytes[tail + 44..tail + 48] == *b"BTNF" {
        bytes[tail + 4..tail + 12].copy_from_slice(&(begin as u64).to_le_bytes());
        let sum = crc32c::crc32c(&bytes[begin..tail + 48]).to_le_bytes();
        bytes[tail + 48..].copy_from_slice(&sum);
    }
}

#[test]
fn segments() {
    let mut random = Random::new(1);
    let mut any = |at: usize| segment(&mut random, Class::ALL[at % 2], !at.is_multiple_of(3)).1;
    let corpus = (0..CORPUS).map(&mut any).collect();
    let ground = Ground::new();
    fuzz_with(600, corpus, |_, input| {
        let random = &mut Random::of(input);
        let mut input = input.to_vec();
        if random.below(4) > 0 {
            sum_segment(&mut input);
        }
        let class = if input.get(12) == Some(&1) { Class::Metadata } else { Class::Data };
        let is_open = random.below(2) == 0;
        let hash = input.len().checked_sub(40).map(|at| &input[at..at + 32]);
        let name = match hash {
            Some(hash) if !is_open => {
                hash.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
            }
            _ => SegmentWriter::open_name(&UID),
        };
        ground.clear();
        let path = ground.segments(class).join(&name);
        ground.put(&path, &input);

        // What stands in it, by its readers alone.
        let file = fs::open(&path).unwrap();
        let is_segment = within(&input, 32, FIXED, |_| read_header(&file, &path));
        let is_segment = is_segment.is_ok_and(|header| {
            header.is_some_and(|header| (header.class, header.vault) == (class, VAULT))
        });
        let mut asked = BTreeSet::new();
        let mut intact = BTreeSet::new();
        let mut places = Vec::new();
        let start = SegmentHeader::LEN as u64;
        let end = within(&input, 64, FIXED, |_| {
            scan(&file, &path, start, true, |offset, record_len, record| {
                assert!(offset + u64::from(record_len) <= input.len() as u64);
                for entry in &record.entries {
                    asked.insert(entry.id);
                    if ObjectId::of(entry.id.kind, record.bytes(entry)) == entry.id {
                        intact.insert(entry.id);
                    }
                    let (inner, len) = (entry.inner, entry.len);
                    places
                        .push((entry.id, Location { segment: 1, offset, record_len, inner, len }));
                }
                Ok(())
            })
        });
        assert!(end.unwrap() <= (input.len() as u64).max(start));
        let footer = within(&input, 32, FIXED, |_| read_footer(&file, &path)).unwrap();
        for entry in footer.iter().flat_map(|footer| &footer.entries) {
            asked.insert(entry.id);
        }
        let asked: Vec<_> = asked.into_iter().take(100).collect();

        if random.below(2) == 0 {
            // The index has heard of a part of it, and believes all that it was told.
            let index = Index::open(&ground.index()).unwrap();
            let segment = index.add_segment(&name, class as u8).unwrap();
            let indexed = random.below(input.len() + 20) as u64;
            places.retain(|(_, at)| at.offset + u64::from(at.record_len) <= indexed);
            index.insert(segment, indexed, &mut places, false).unwrap();
        }
        let Some(vault) = within(&input, 256, FIXED, |_| ground.open()) else { return false };
        let before = served(&vault, &asked);

        // Somebody goes on with it.
        let new = [b"new ", bytes(random, 50).as_slice()].concat();
        let intake = vault.intake();
        let id = intake.put(ObjectKind::Chunk, &new).unwrap();
        let above = intake.put(ObjectKind::Tree, &new).unwrap();
        intake.flush_all().unwrap();
        drop(intake);
        if random.below(4) == 0 {
            vault.seal_now().unwrap();
        }
        assert_eq!(served(&vault, &[id, above]), [id, above]);
        // A record that was read for one object may by now serve another, whose row names a wrong length.
        let still = served(&vault, &before);
        assert_eq!(still, before, "going on with it lost something");
        drop(vault);
        let vault = ground.open().unwrap();
        assert_eq!(served(&vault, &[id, above]), [id, above]);
        drop(vault);

        // Whatever index and footer said: what is intact is there.
        let vault = ground.open_doubted();
        if is_segment {
            let intact: Vec<_> = intact.into_iter().collect();
            assert_eq!(served(&vault, &intact), intact, "what is intact is not found");
        }
        assert_eq!(served(&vault, &[id, above]), [id, above]);
        !before.is_empty()
    });
}

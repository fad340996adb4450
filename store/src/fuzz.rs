//! Damaged input for what reads files of the store, and files of the user.

#[path = "../../tests/support/fuzzing.rs"]
pub(crate) mod fuzzing;
#[path = "../../tests/support/simulations.rs"]
pub(crate) mod simulations;

mod catalogs;
pub(crate) mod ground;
mod indexes;
pub(crate) mod rows;
mod segments;
mod small;

use baton_protocol::id::{
    DeviceId, IdempotencyKey, ObjectId, ObjectKind, SnapshotId, VaultId, WorkspaceId,
};
use baton_protocol::object::MAX_OBJECT;
use fuzzing::{CORPUS, Random, fuzz, texts, within};
pub(crate) use simulations::scratch;

use crate::apply::{MAX_TEXT, merge_entry};
use crate::fs;
use crate::git::TextMerge;
use crate::journal::{Commit, Entry, RefState, RefUpdate, replay};
use crate::layout::{Class, Layout};
use crate::secrets::SecretRules;
use crate::segment::{MAX_RECORD, RECORD_TARGET, RecordBuilder, decode_record, decode_table};

fn bytes(random: &mut Random, most: usize) -> Vec<u8> {
    let len = random.below(most);
    // Packs well, as most files do.
    (0..len).map(|_| b"abcdefgh"[random.below(8)]).collect()
}

fn record(random: &mut Random) -> Vec<u8> {
    let mut builder = RecordBuilder::default();
    for _ in 0..=random.below(5) {
        let bytes = bytes(random, 300);
        builder.push(ObjectId::of(ObjectKind::Chunk, &bytes), &bytes);
    }
    let class = Class::ALL[random.below(Class::ALL.len())];
    if random.below(3) == 0 { builder.encode_raw(class) } else { builder.encode(class).unwrap() }
}

/// Writes the checksum of what comes before it.
pub(crate) fn sum(bytes: &mut [u8], from: usize, at: usize) {
    if let Some(covered) = bytes.get(from..at) {
        let sum = crc32c::crc32c(covered).to_le_bytes();
        if let Some(to) = bytes.get_mut(at..at + 4) {
            to.copy_from_slice(&sum);
        }
    }
}

fn number(bytes: &[u8], at: usize) -> Option<usize> {
    let bytes = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes(bytes.try_into().unwrap()) as usize)
}

/// Makes the checksums of a record right, which would hide what is behind them.
fn sum_record(bytes: &mut [u8]) {
    let (Some(count), Some(stored)) = (number(bytes, 8), number(bytes, 16)) else { return };
    let Some(table) = count.checked_mul(37).filter(|len| *len < bytes.len()) else { return };
    sum(bytes, 0, 20 + table);
    if stored < bytes.len() {
        sum(bytes, 24 + table, 24 + table + stored);
    }
}

#[test]
fn records() {
    let mut random = Random::new(1);
    let corpus = (0..CORPUS).map(|_| record(&mut random)).collect();
    // What is decompressed, and the table.
    let fixed = MAX_RECORD + RECORD_TARGET + MAX_OBJECT + 65_536;
    fuzz(corpus, |random, input| {
        let mut input = input.to_vec();
        if random.below(4) > 0 {
            sum_record(&mut input);
        }
        let record = within(&input, 32, fixed, decode_record);
        let mut table = Vec::new();
        let head = within(&input, 32, fixed, |input| decode_table(input, &mut table));
        if let Some(record) = &record {
            assert!(head.is_some());
            assert_eq!(table, record.entries);
            let all: usize = record.entries.iter().map(|entry| entry.len as usize).sum();
            assert_eq!(all, record.raw.len());
            for entry in &record.entries {
                assert_eq!(record.bytes(entry).len(), entry.len as usize);
            }
        }
        record.is_some()
    });
}

fn entry(random: &mut Random) -> Entry {
    let id = |random: &mut Random| SnapshotId::from_bytes([random.below(4) as u8; 32]);
    let update = RefUpdate {
        workspace: WorkspaceId::from_bytes([2; 16]),
        device: DeviceId::from_bytes([3; 32]),
        expected: (random.below(2) == 0).then(|| id(random)),
        new: id(random),
        sequence: random.next(),
        key: IdempotencyKey::from_bytes([random.below(9) as u8; 16]),
    };
    let vault = VaultId::from_bytes([1; 16]);
    if random.below(3) == 0 {
        let heads = vec![update.head(); random.below(3)];
        let keys = vec![(update.key, update.head()); random.below(3)];
        return Entry::Checkpoint(vec![RefState { vault, heads, keys }; random.below(3)]);
    }
    let records = (0..random.below(3)).map(|_| record(random)).collect();
    Entry::Commit(Commit { vault, update: Some(update), records })
}

/// Makes the checksums of a journal right, as far as one entry leads to the next.
fn sum_journal(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(len) = number(bytes, at + 8).filter(|len| *len < bytes.len()) {
        sum(bytes, at, at + 12);
        sum(bytes, at + 16, at + 16 + len);
        at += 20 + len;
    }
}

#[test]
fn journals() {
    let mut random = Random::new(1);
    let mut journal = |_| (0..=random.below(4)).flat_map(|_| entry(&mut random).encode()).collect();
    let corpus = (0..CORPUS).map(&mut journal).collect();
    let folder = tempfile::tempdir().unwrap();
    let layout = Layout::open(folder.path()).unwrap();
    fs::create_dir_all(&layout.journal()).unwrap();
    let path = layout.journal().join(format!("{:016x}", 1));
    fuzz(corpus, |random, input| {
        let mut input = input.to_vec();
        if random.below(4) > 0 {
            sum_journal(&mut input);
        }
        fs::write_whole(&path, &input, 0o600).unwrap();
        let mut found = 0;
        let fixed = 4 * (MAX_RECORD + MAX_OBJECT);
        let end = within(&input, 64, fixed, |_| {
            replay(&layout, |replayed| {
                found += 1;
                // It means the same when it is written again.
                let again = replayed.entry.encode();
                assert_eq!(number(&again, 8), Some(again.len() - 20));
                Ok(())
            })
        });
        let end = end.unwrap();
        assert!(end.len <= input.len() as u64, "{end:?}");
        found > 0
    });
}

#[test]
fn ignore_rules() {
    let lines: [&[u8]; 8] = [
        b"*.o\n!keep.o\n",
        b"/a/**/b\n",
        b"a/**\n",
        b"[a-z]*[!x]\n",
        b"\\#x\n#c\n",
        b"**/x/\n",
        b"a*b*c*d*e*f\n",
        b"\xef\xbb\xbf x \\ \n[[:alpha:]]\n",
    ];
    let paths: [&[u8]; 5] =
        [b"a", b"a/b/c.o", b"keep.o", b"aaaaaaaaaaaabbbbbbbbbbccccccccdddddd", b"x/\xff\xfe/y"];
    fuzz(lines.map(<[u8]>::to_vec).to_vec(), |random, input| {
        // Longer ones are no other: a line is looked at by itself.
        let input = &input[..input.len().min(4096)];
        let path = paths[random.below(paths.len())];
        let said = within(input, 256, 8192, |input| crate::ignore::decides(input, path));
        // Lines that say nothing change nothing.
        let more = [input, b"\n\n# said\n"].concat();
        assert_eq!(crate::ignore::decides(&more, path), said);
        said.is_some()
    });
}

#[test]
fn merged_texts() {
    let text = |at: usize| -> Vec<u8> {
        (0..20)
            .flat_map(|line| format!("line {}\n", line * (at % 3 + 1) % 17).into_bytes())
            .collect()
    };
    let base = text(0);
    fuzz((0..CORPUS).map(text).collect(), |random, input| {
        let input = &input[..input.len().min(64 * 1024)];
        let other = text(random.below(3));
        for (ours, theirs) in [(input, &other[..]), (&other[..], input)] {
            let merged = within(input, 512, 1 << 20, |_| merge_entry(&base, ours, theirs));
            if let TextMerge::Clean(merged) = &merged {
                assert!(merged.len() <= base.len() + ours.len() + theirs.len());
            }
        }
        assert!(input.len() as u64 <= MAX_TEXT);
        // Who changed nothing has the other's.
        match merge_entry(&base, input, &base) {
            TextMerge::Clean(merged) => {
                assert_eq!(merged, input);
                true
            }
            TextMerge::Conflict => panic!("nobody met"),
            TextMerge::Binary => {
                assert!(input.contains(&0));
                false
            }
        }
    });
}

#[test]
fn secret_scan() {
    let rules = SecretRules::standard().unwrap();
    let corpus = texts(&[
        "password = \"hunter2hunter2\"\n",
        "https://user:secretsecret@example.com/\n",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\n-----END RSA PRIVATE KEY-----\n",
        "{\"api_key\": \"c3VwZXItc2VjcmV0LXZhbHVlLTEyMzQ1\"}\n",
        "AKIAABCDEFGHIJKLMNOP\n",
    ]);
    fuzz(corpus, |random, input| {
        let path: &[u8] = [&b".env"[..], b"src/main.rs", b"config.yml"][random.below(3)];
        let found = within(input, 64, 65_536, |input| rules.scan(path, input));
        // One look is as good as another.
        assert_eq!(format!("{found:?}"), format!("{:?}", rules.scan(path, input)));
        true
    });
}

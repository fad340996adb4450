//! Damaged input for every decoder: seeded, on stable Rust, short by default.
//!
//! Each decoder has one test. It starts from valid values, damages them (flips, cuts, splices,
//! lengths that lie), and keeps what is still accepted as the start of further damage. What may
//! never happen: a panic, a value with a second byte form, more memory than the input deserves.
//!
//! `BATON_FUZZ_SECONDS=60` lets each test run that long; `BATON_FUZZ_SEED=n` starts elsewhere. A
//! failure prints the seed and the input.

mod allocations;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::arbitrary;
use crate::batch::{BATCH_TARGET, Batch, MAX_BATCH, Parcel, Wanted};
use crate::delta::hunks;
use crate::delta::{self, LEVEL};
use crate::encode::{DecodeError, Reader, Writer};
use crate::frame::{HEADER, MAX_FRAME, decode_header, encode_header};
use crate::id::{ChunkId, ObjectId, ObjectKind};
use crate::message::{self, AheadRequest, FetchRequest, Opening, PushRequest, Reply};
use crate::object::{
    Blob, Content, Conversation, Entry, EntryKind, MAX_OBJECT, Manifest, Object, Omissions,
    Snapshot, Tree,
};
use crate::ticket::Ticket;

/// Inputs of each test where no time is given.
const INPUTS: u64 = 3000;

/// Values that a corpus starts with, and grows to.
const CORPUS: usize = 40;

/// xorshift64*: enough for choosing damage, and the same everywhere.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Below `limit`, which is not zero.
    fn below(&mut self, limit: usize) -> usize {
        ((self.next() >> 16) % limit as u64) as usize
    }

    fn pick<'a>(&mut self, corpus: &'a [Vec<u8>]) -> &'a [u8] {
        &corpus[self.below(corpus.len())]
    }
}

/// A member of the corpus with one to four kinds of damage.
fn damaged(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    const ODD: [u8; 8] = [0, 1, 0x7f, 0x80, 0x81, 0xfe, 0xff, b'/'];
    let mut bytes = random.pick(corpus).to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let to = (at + random.below(12)).min(bytes.len());
        match random.below(10) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 if at < bytes.len() => bytes[at] = ODD[random.below(ODD.len())],
            // A length one more or less, as a decoder that is off by one would like it.
            3 if at < bytes.len() => {
                bytes[at] = bytes[at].wrapping_add(if random.below(2) == 0 { 1 } else { 0xff });
            }
            4 => bytes.truncate(at),
            5 => drop(bytes.drain(at..to)),
            6 => {
                let piece = bytes[at..to].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            7 => {
                let other = random.pick(corpus);
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            8 => {
                let huge = [0xff; 10];
                drop(bytes.splice(at..to, huge[..=random.below(9)].iter().copied()));
            }
            _ => bytes.insert(at, random.next() as u8),
        }
        bytes.truncate(4 * MAX_FRAME);
    }
    bytes
}

/// What the environment says, or nothing.
fn setting(name: &str) -> Option<u64> {
    #[expect(clippy::disallowed_methods, reason = "a test, told how long to run")]
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[expect(clippy::disallowed_methods, reason = "how long a test runs is no part of what it finds")]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

/// Damages members of `corpus` until the inputs or the seconds are used up. `check` says whether it
/// accepted an input, and panics where it should not have.
fn fuzz(mut corpus: Vec<Vec<u8>>, mut check: impl FnMut(&mut Random, &[u8]) -> bool) {
    let seconds = setting("BATON_FUZZ_SECONDS").map(std::time::Duration::from_secs);
    let first = setting("BATON_FUZZ_SEED").unwrap_or(1);
    let start = now();
    let mut accepted = 0u64;
    for seed in first.. {
        let done = match seconds {
            Some(seconds) => seed % 100 == 0 && start.elapsed() >= seconds,
            None => seed - first >= INPUTS,
        };
        if done {
            break;
        }
        let mut random = Random::new(seed);
        let input = damaged(&mut random, &corpus);
        let outcome = catch_unwind(AssertUnwindSafe(|| check(&mut random, &input)));
        match outcome {
            Ok(true) => {
                accepted += 1;
                if input.len() < 64 * 1024 {
                    let at = random.below(2 * CORPUS);
                    match corpus.get_mut(at) {
                        Some(member) => *member = input,
                        None => corpus.push(input),
                    }
                }
            }
            Ok(false) => {}
            Err(panic) => {
                let hex = data_encoding::HEXLOWER.encode(&input);
                eprintln!("fuzzing from seed {first} failed at seed {seed}; the input was\n{hex}");
                resume_unwind(panic);
            }
        }
    }
    assert!(accepted > 0, "no damage was ever accepted: the check shows nothing");
}

/// Valid values, the same at each run.
fn corpus<T: std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    (0..CORPUS).map(|_| encode(&strategy.new_tree(&mut runner).unwrap().current())).collect()
}

/// Runs a decoder and checks what it allocated at its peak: so much for each byte of input, and so
/// much whatever the input.
fn within<T>(input: &[u8], each: usize, fixed: usize, decode: impl FnOnce(&[u8]) -> T) -> T {
    let (value, peak) = allocations::peak(|| decode(input));
    let limit = each * input.len() + fixed;
    assert!(peak <= limit, "{peak} bytes were allocated for an input of {}", input.len());
    value
}

/// A hashed object: what is accepted is canonical.
fn object<T>(
    corpus: Vec<Vec<u8>>,
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T) -> Vec<u8>,
) {
    fuzz(corpus, |_, input| {
        let decoded = within(input, 32, 8192, &decode);
        decoded.inspect(|value| assert_eq!(encode(value), input)).is_ok()
    });
}

#[test]
fn manifest() {
    object(corpus(arbitrary::manifest(), Manifest::encode), Manifest::decode, Manifest::encode);
}

#[test]
fn tree() {
    object(corpus(arbitrary::tree(), Tree::encode), Tree::decode, Tree::encode);
}

#[test]
fn conversation() {
    let corpus = corpus(arbitrary::conversation(), Conversation::encode);
    object(corpus, Conversation::decode, Conversation::encode);
}

#[test]
fn snapshot() {
    object(corpus(arbitrary::snapshot(), Snapshot::encode), Snapshot::decode, Snapshot::encode);
}

#[test]
fn omissions() {
    object(corpus(arbitrary::omissions(), Omissions::encode), Omissions::decode, Omissions::encode);
}

#[test]
fn any_object() {
    let corpus = [
        corpus(arbitrary::manifest(), Manifest::encode),
        corpus(arbitrary::tree(), Tree::encode),
        corpus(arbitrary::conversation(), Conversation::encode),
        corpus(arbitrary::snapshot(), Snapshot::encode),
    ];
    fuzz(corpus.concat(), |random, input| {
        let kind = ObjectKind::ALL[random.below(5)];
        let object = within(input, 32, 8192, |input| Object::decode(kind, input));
        object.is_ok_and(|object| object.children().len() * 32 <= input.len())
    });
}

#[test]
fn reader() {
    let corpus =
        [corpus(arbitrary::tree(), Tree::encode), corpus(arbitrary::manifest(), Manifest::encode)];
    fuzz(corpus.concat(), |random, input| {
        let mut from = Reader::new(input);
        for done in 0..20 {
            let at = from.at();
            let ok = match random.below(7) {
                0 => from.byte().is_ok(),
                1 => from.varint().is_ok(),
                2 => from.bounded("x", 1000).is_ok_and(|value| value <= 1000),
                3 => from.count("x", 1 << 40, 3).is_ok_and(|count| count * 3 <= from.left()),
                4 => from.bytes("x", 50).is_ok_and(|bytes| bytes.len() <= 50),
                5 => from.text("x", 50).is_ok_and(|text| text.len() <= 50),
                _ => from.array::<4>().is_ok(),
            };
            assert_eq!(from.at() + from.left(), input.len());
            assert!(from.at() >= at);
            if !ok {
                return done > 2;
            }
        }
        true
    });
}

/// What the deltas of [`batch`] lean on: a chunk, and a directory that names it.
fn bases() -> [(ObjectId, Vec<u8>); 2] {
    let chunk: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
    [(ObjectKind::Chunk, chunk.clone()), (ObjectKind::Tree, directory(&chunk))]
        .map(|(kind, bytes)| (ObjectId::of(kind, &bytes), bytes))
}

/// A directory of one file.
fn directory(chunk: &[u8]) -> Vec<u8> {
    let content = Content::Chunk(ChunkId::of(chunk));
    let blob = Blob { size: chunk.len() as u64, content };
    let kind = EntryKind::File { mode: 0o644, blob };
    Tree::Leaf(vec![Entry { name: b"f".to_vec(), kind }]).encode()
}

/// A batch of a few objects and deltas.
fn batch(random: &mut Random) -> Vec<u8> {
    let mut batch = Batch::new();
    let [(chunk_id, chunk), (tree_id, tree)] = bases();
    for _ in 0..random.below(9) {
        let mut bytes = chunk.clone();
        bytes[random.below(3000)] ^= 1;
        bytes.truncate(random.below(4000));
        let id = ObjectId::of(ObjectKind::Chunk, &bytes);
        match random.below(3) {
            0 => batch.push_full(ObjectKind::Chunk, &bytes),
            1 => batch.push_delta(id, &bytes, chunk_id, &chunk).unwrap(),
            _ => {
                let above = directory(&bytes);
                let id = ObjectId::of(ObjectKind::Tree, &above);
                batch.push_delta(id, &above, tree_id, &tree).unwrap();
            }
        }
    }
    batch.finish().unwrap()
}

#[test]
fn batches() {
    let mut random = Random::new(1);
    let corpus = (0..CORPUS).map(|_| batch(&mut random)).collect();
    // The table, the list of items and the hunks of as many as it has bytes for.
    let fixed = 4 << 20;
    let bases = bases();
    fuzz(corpus, |_, input| {
        let Ok(mut parcel) = within(input, 4, fixed, Parcel::decode) else { return false };
        assert!(parcel.len() <= MAX_BATCH);
        while let Some(wanted) = parcel.next_base() {
            let (Wanted::Id(ObjectId { kind, .. }) | Wanted::Prefix(kind, _)) = wanted;
            parcel.supply(bases.iter().find(|(id, _)| id.kind == kind).cloned());
        }
        // What comes out of a delta is bounded by its base and the text.
        let most = parcel.len() * 2 * MAX_OBJECT;
        let text = 3 * (BATCH_TARGET + MAX_OBJECT);
        let restored = within(input, 4, text + most.min(64 << 20), |_| parcel.restore());
        if let Ok(objects) = &restored {
            for (id, bytes) in objects {
                assert_eq!(*id, ObjectId::of(id.kind, bytes));
            }
        }
        restored.is_ok()
    });
}

#[test]
fn headers() {
    let corpus = vec![vec![9, 0, 0, 0, 1], vec![0, 0, 8, 0, 2], vec![0, 0, 17, 0, 2]];
    fuzz(corpus, |_, input| {
        let Some(header) = input.first_chunk::<HEADER>() else { return false };
        decode_header(*header)
            .inspect(|&(kind, len)| assert_eq!(encode_header(kind, len).unwrap(), *header))
            .is_ok()
    });
}

/// A message: what is accepted means itself when it is written again. serde reserves up to 1 MiB
/// for a list whose length lies, and a run has lists in lists.
fn message<T>(corpus: Vec<Vec<u8>>)
where
    T: serde::Serialize + for<'a> serde::Deserialize<'a> + PartialEq + std::fmt::Debug,
{
    fuzz(corpus, |_, input| {
        let decoded = within(input, 64, 4 << 20, |input| message::decode::<T>(input));
        decoded
            .inspect(|value| {
                let again = message::encode(value).unwrap();
                assert_eq!(message::decode::<T>(&again[HEADER..]).as_ref().ok(), Some(value));
            })
            .is_ok()
    });
}

fn body<T: serde::Serialize>(message: &T) -> Vec<u8> {
    message::encode(message).unwrap().split_off(HEADER)
}

#[test]
fn openings() {
    message::<Opening>(corpus(arbitrary::opening(), body));
    fuzz(corpus(arbitrary::opening(), body), |_, input| {
        let opening = within(input, 64, 4 << 20, Opening::decode);
        opening.inspect(|opening| assert!(opening.is_spoken())).is_ok()
    });
}

#[test]
fn replies() {
    message::<Reply>(corpus(arbitrary::reply(), body));
}

#[test]
fn push_requests() {
    message::<PushRequest>(corpus(arbitrary::push_request(), body));
}

#[test]
fn ahead_requests() {
    message::<AheadRequest>(corpus(arbitrary::ahead_request(), body));
}

#[test]
fn fetch_requests() {
    message::<FetchRequest>(corpus(arbitrary::fetch_request(), body));
}

#[test]
fn deltas() {
    let base: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
    let delta = |i: usize| {
        let mut object = base.clone();
        object[i * 17] ^= 1;
        object.truncate(2000 + i);
        let mut to = Writer::new();
        hunks::write(&hunks::compare(&base, &object), &mut to);
        to.finish()
    };
    let corpus = (0..CORPUS).map(delta).collect();
    let text = vec![7; 1000];
    fuzz(corpus, |_, input| {
        let mut from = Reader::new(input);
        // A hunk takes eight times the bytes that it stands in.
        let Ok(found) = within(input, 9, 4096, |_| hunks::read(&mut from)) else { return false };
        let len = hunks::restored_len(base.len(), &found);
        assert!(len.is_none_or(|len| len <= MAX_OBJECT));
        let restored = within(input, 0, len.unwrap_or_default() + 4096, |_| {
            hunks::restore(&base, &found, &mut Reader::new(&text))
        });
        if len.is_some() {
            let mut around = Vec::new();
            hunks::surroundings(&base, &found, &mut around);
            assert!(around.len() <= base.len());
        }
        restored.inspect(|object| assert_eq!(Some(object.len()), len)).is_ok()
    });
}

#[test]
fn texts() {
    let reference: Vec<u8> = (0..3000u32).map(|i| (i % 251) as u8).collect();
    let text = |i: usize| [&reference[i..i + 500], &[i as u8], &reference[2000 - i..]].concat();
    let corpus = (0..CORPUS).map(|i| delta::compress_text(&reference, &text(i)).unwrap()).collect();
    fuzz(corpus, |random, input| {
        let len = [1501 + random.below(CORPUS), random.below(2 * MAX_OBJECT)][random.below(2)];
        let fixed = len + 3 * MAX_OBJECT;
        let restored =
            within(input, 4, fixed, |input| delta::decompress_text(&reference, input, len));
        restored.inspect(|text| assert_eq!(text.len(), len)).is_ok()
    });
}

#[test]
fn compressed_groups() {
    let corpus =
        (0..CORPUS).map(|i| delta::compress(&vec![i as u8; 100 + i % 2], LEVEL).unwrap()).collect();
    fuzz(corpus, |random, input| {
        let len = [100, 101, random.below(1 << 20)][random.below(3)];
        let restored = within(input, 1, len + 4096, |input| delta::decompress(input, len));
        restored.inspect(|bytes| assert_eq!(bytes.len(), len)).is_ok()
    });
}

#[test]
fn tickets() {
    // Damage to the bytes below the checksum, which would hide what is behind it.
    fuzz(corpus(arbitrary::ticket(), Ticket::unchecked_bytes), |_, input| {
        let word = Ticket::word(input);
        let ticket = within(word.as_bytes(), 16, 4096, |_| Ticket::decode(&word));
        ticket.inspect(|ticket| assert_eq!(ticket.encode(), word)).is_ok()
    });
    let words = corpus(arbitrary::ticket(), |ticket| ticket.encode().into_bytes());
    let valid = words.clone();
    fuzz(words, |random, input| {
        let input = if random.below(50) == 0 { &valid[0] } else { input };
        let Ok(word) = std::str::from_utf8(input) else { return false };
        let ticket = within(input, 16, 4096, |_| Ticket::decode(word));
        ticket.inspect(|ticket| assert_eq!(ticket.encode(), word.trim().to_lowercase())).is_ok()
    });
}

#[test]
#[should_panic(expected = "the byte that must not be")]
fn a_failure_is_found() {
    fuzz(vec![vec![0; 10]], |_, input| {
        assert!(!input.contains(&0x55), "the byte that must not be");
        true
    });
}

#[test]
#[should_panic(expected = "bytes were allocated")]
fn an_absurd_allocation_is_found() {
    within(&[1, 2, 3], 32, 8192, |input| Vec::<u8>::with_capacity(input.len() << 20));
}

//! Damaged input for every decoder: seeded, on stable Rust, short by default.
//!
//! Each decoder has one test; `tests/support/fuzzing.rs` says how. What may never happen: a panic, a value with a second byte
//! form, more memory than the input deserves.

#[path = "../../tests/support/fuzzing.rs"]
mod fuzzing;

use fuzzing::{CORPUS, Random, fuzz, within};
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;

use crate::arbitrary;
use crate::batch::{BATCH_TARGET, Batch, MAX_BATCH, Parcel, Wanted};
use crate::delta::hunks;
use crate::delta::{self, LEVEL};
use crate::encode::{DecodeError, Reader, Writer};
use crate::frame::{HEADER, decode_header, encode_header};
use crate::id::{ChunkId, ObjectId, ObjectKind};
use crate::message::{self, AheadRequest, FetchRequest, Opening, PushRequest, Reply};
use crate::mux::{self, FIRST_WINDOW, Mux, MuxError, Side, Written};
use crate::object::{
    Blob, Content, Conversation, Entry, EntryKind, GitFiles, GitIndex, GitOids, GitOmissions,
    GitRefs, GitSettings, GitState, MAX_OBJECT, Manifest, Object, Omissions, Snapshot, Tree,
};
use crate::ticket::Ticket;

/// Valid values, the same at each run.
fn corpus<T: std::fmt::Debug>(
    strategy: impl Strategy<Value = T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    (0..CORPUS).map(|_| encode(&strategy.new_tree(&mut runner).unwrap().current())).collect()
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
fn git_state() {
    object(corpus(arbitrary::git::state(), GitState::encode), GitState::decode, GitState::encode);
}

#[test]
fn git_lists() {
    use arbitrary::git;
    object(corpus(git::oids(), GitOids::encode), GitOids::decode, GitOids::encode);
    object(corpus(git::refs(), GitRefs::encode), GitRefs::decode, GitRefs::encode);
    object(corpus(git::settings(), GitSettings::encode), GitSettings::decode, GitSettings::encode);
    object(corpus(git::files(), GitFiles::encode), GitFiles::decode, GitFiles::encode);
    let omissions = corpus(git::omissions(), GitOmissions::encode);
    object(omissions, GitOmissions::decode, GitOmissions::encode);
}

#[test]
fn git_index() {
    object(corpus(arbitrary::git::index(), GitIndex::encode), GitIndex::decode, GitIndex::encode);
}

#[test]
fn any_object() {
    let corpus = [
        corpus(arbitrary::manifest(), Manifest::encode),
        corpus(arbitrary::tree(), Tree::encode),
        corpus(arbitrary::conversation(), Conversation::encode),
        corpus(arbitrary::snapshot(), Snapshot::encode),
        corpus(arbitrary::git::state(), GitState::encode),
    ];
    fuzz(corpus.concat(), |random, input| {
        let kind = ObjectKind::ALL[random.below(ObjectKind::ALL.len())];
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
        // Its length is said elsewhere.
        let mut is_restored = false;
        for _ in 0..8 {
            let len = [1501 + random.below(CORPUS), random.below(2 * MAX_OBJECT)][random.below(2)];
            let fixed = len + 3 * MAX_OBJECT;
            let restored =
                within(input, 4, fixed, |input| delta::decompress_text(&reference, input, len));
            is_restored |= restored.inspect(|text| assert_eq!(text.len(), len)).is_ok();
        }
        is_restored
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

/// What a dialling end says while it does this and that on a few streams, and what it is answered.
fn multiplexed(random: &mut Random) -> [Vec<u8>; 2] {
    let mut ends = [Mux::new(Side::Dialling), Mux::new(Side::Accepting)];
    let mut said = [Vec::new(), Vec::new()];
    for _ in 0..random.below(12) + 3 {
        let at = random.below(2);
        act(random, &mut ends[at]);
        let mut bytes = Vec::new();
        ends[at].transmit(&mut bytes, 4000);
        ends[1 - at].receive(&bytes).unwrap();
        said[at].extend(bytes);
    }
    said
}

/// Something that a user of a multiplexer does, with some stream.
fn act(random: &mut Random, mux: &mut Mux) {
    let id = random.below(5) as u32;
    match random.below(14) {
        0 | 1 => drop(mux.open().or_else(|| mux.accept())),
        2..5 => {
            let bytes = vec![random.next() as u8; random.below(3000)];
            if let Written::Some(count) = mux.write(id, &bytes) {
                assert!(count <= bytes.len());
            }
        }
        5..8 => {
            let (mut into, most) = (Vec::new(), random.below(5000));
            let read = mux.read(id, most, &mut into);
            assert!(into.len() <= most);
            assert_eq!(read == mux::Read::Some(into.len()), !into.is_empty());
        }
        8 => mux.finish(id),
        9 => mux.reset(id),
        10 => mux.stop(id),
        11 => mux.drop_reader(id),
        12 => mux.drop_writer(id),
        _ => mux.ping(id),
    }
}

#[test]
fn multiplexers() {
    let mut random = Random::new(1);
    let corpus = (0..CORPUS).flat_map(|_| multiplexed(&mut random)).collect();
    // Each kind of end also gets what its own kind says.
    fuzz(corpus, |random, input| {
        let sides = [Side::Dialling, Side::Accepting];
        let at = random.below(2);
        let (mut mux, mut peer) = (Mux::new(sides[at]), Mux::new(sides[1 - at]));
        // What lies unread, at most twice that in its buffers; and what this end wants to say itself.
        let fixed = 4 * FIRST_WINDOW as usize + (1 << 20);
        let (mut left, mut listens) = (input, true);
        within(input, 64, fixed, |_| {
            while !left.is_empty() {
                let (piece, rest) = left.split_at(left.len().min(1 + random.below(2000)));
                left = rest;
                if mux.receive(piece).is_err() {
                    return false;
                }
                act(random, &mut mux);
                let mut said = Vec::new();
                mux.transmit(&mut said, 20_000);
                // Whatever it was told, it keeps to the rules. Only credit and streams it has as it was told.
                while peer.open().is_some() {}
                if listens && let Err(error) = peer.receive(&said) {
                    assert!(matches!(error, MuxError::Credit | MuxError::Streams), "{error}");
                    listens = false;
                }
            }
            true
        })
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

//! Where an object differs from its base.
//!
//! Text that stands in both is found by the hash of [`WINDOW`] bytes at steps of the base, and first of all
//! where it would stand if as many bytes were replaced as were inserted. Not here: what is inserted, which
//! travels with the text of other objects.
//!
//! **Invariant:** no list of hunks makes more than [`MAX_OBJECT`] bytes, or reads outside its base.

use crate::encode::{DecodeError, Reader, Writer};
use crate::object::MAX_OBJECT;

/// Most hunks of one object.
const MAX_HUNKS: usize = 16 * 1024;

/// Fewest bytes between two hunks. Of 300 edits, with 16 the places took 160 kB more than they saved, with
/// 64 the text did.
const LEAST: usize = 32;

/// Bytes that are hashed to find where they stand in the base, and the step there: of [`LEAST`] bytes that
/// are the same one window is whole.
const WINDOW: usize = LEAST / 2;

/// Bytes before and after a hunk that serve as reference for what is inserted. Four times as many saved 2 %
/// and cost twice the time.
const AROUND: usize = 2048;

/// Bytes that are compared at once.
const BLOCK: usize = 64;

/// One place where an object differs from its base. After the last one, the rest of the base follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hunk {
    /// Bytes of the base before it.
    pub copy: usize,
    /// Bytes of the object that stand there.
    pub insert: usize,
    /// Where in the base it goes on, before or after.
    pub resume: usize,
}

/// Where `object` differs from `base`, from its start to its end.
pub fn compare(base: &[u8], object: &[u8]) -> Vec<Hunk> {
    let start = same_start(base, object);
    let (Some(base_rest), Some(rest)) = (base.get(start..), object.get(start..)) else {
        return Vec::new();
    };
    let end = same_end(base_rest, rest);
    let middle = base_rest.get(..base_rest.len() - end).unwrap_or_default();
    let changed = rest.get(..rest.len() - end).unwrap_or_default();
    let mut hunks = Vec::new();
    // What was copied last, and where it ends in the middle of both.
    let (mut copy, mut at, mut from) = (start, 0, 0);
    if changed.len() >= WINDOW && middle.len() >= WINDOW {
        let places = Places::new(middle);
        let mut look = 0;
        while hunks.len() < MAX_HUNKS - 1
            && let Some(window) = changed.get(look..).and_then(<[u8]>::first_chunk)
        {
            let expected = at + (look - from);
            let found = [Some(expected), places.get(window)]
                .into_iter()
                .flatten()
                .filter_map(|place| grown(middle, place, changed, (from, look)))
                .max_by_key(|found| found.len);
            let Some(Found { place, at: begins, len }) = found else {
                look += 1;
                continue;
            };
            hunks.push(Hunk { copy, insert: begins - from, resume: start + place });
            (copy, at, from) = (len, place + len, begins + len);
            look = from;
        }
    }
    if at < middle.len() || from < changed.len() {
        let insert = changed.len() - from;
        hunks.push(Hunk { copy, insert, resume: start + middle.len() });
    }
    hunks
}

/// The same bytes in both.
struct Found {
    place: usize,
    at: usize,
    len: usize,
}

/// How far what stands at `place` and at `look` is the same, back to `from`; nothing where that is too
/// little.
fn grown(base: &[u8], place: usize, object: &[u8], (from, look): (usize, usize)) -> Option<Found> {
    let after = same_start(base.get(place..)?, object.get(look..)?);
    if after < WINDOW {
        return None;
    }
    let before = same_end(base.get(..place)?, object.get(from..look)?);
    let len = before + after;
    (len >= LEAST).then_some(Found { place: place - before, at: look - before, len })
}

/// Where windows of a base begin, by their hash; of several with the same one the first.
struct Places {
    table: Vec<u32>,
    shift: u32,
}

/// No window has this hash.
const NONE: u32 = u32::MAX;

impl Places {
    fn new(base: &[u8]) -> Self {
        let windows = base.len() / WINDOW;
        let bits = (windows.max(8) * 2).next_power_of_two().ilog2();
        let mut places = Self { table: vec![NONE; 1 << bits], shift: u64::BITS - bits };
        for (number, window) in base.as_chunks().0.iter().enumerate() {
            let slot = places.slot(window);
            if let Some(place @ &mut NONE) = places.table.get_mut(slot) {
                *place = (number * WINDOW) as u32;
            }
        }
        places
    }

    fn get(&self, window: &[u8; WINDOW]) -> Option<usize> {
        let place = *self.table.get(self.slot(window))?;
        (place != NONE).then_some(place as usize)
    }

    fn slot(&self, window: &[u8; WINDOW]) -> usize {
        // Odd numbers without a pattern: the bits of the golden ratio, and of its square.
        const MIX: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x6a09_e667_f3bc_c909];
        let value = u128::from_le_bytes(*window);
        let [low, high] = [value as u64, (value >> 64) as u64];
        let mixed = low.wrapping_mul(MIX[0]) ^ high.rotate_left(29).wrapping_mul(MIX[1]);
        ((mixed ^ (mixed >> 32)).wrapping_mul(MIX[0]) >> self.shift) as usize
    }
}

/// Bytes at the start that are the same: compared as blocks that takes a tenth of the time.
fn same_start(a: &[u8], b: &[u8]) -> usize {
    let pairs = a.as_chunks::<BLOCK>().0.iter().zip(b.as_chunks::<BLOCK>().0);
    let known = pairs.take_while(|(a, b)| a == b).count() * BLOCK;
    let (a, b) = (a.get(known..).unwrap_or_default(), b.get(known..).unwrap_or_default());
    known + a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Bytes at the end that are the same.
fn same_end(a: &[u8], b: &[u8]) -> usize {
    let pairs = a.as_rchunks::<BLOCK>().1.iter().rev().zip(b.as_rchunks::<BLOCK>().1.iter().rev());
    let known = pairs.take_while(|(a, b)| a == b).count() * BLOCK;
    let a = a.get(..a.len() - known).unwrap_or_default();
    let b = b.get(..b.len() - known).unwrap_or_default();
    known + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

/// What `hunks` insert, from the object that they were found in.
pub fn inserted<'a>(
    base: &[u8],
    hunks: &'a [Hunk],
    object: &'a [u8],
) -> impl Iterator<Item = &'a [u8]> {
    debug_assert_eq!(restored_len(base.len(), hunks), Some(object.len()));
    let mut at = 0;
    hunks.iter().map(move |hunk| {
        let begins = at + hunk.copy;
        at = begins + hunk.insert;
        object.get(begins..at).unwrap_or_default()
    })
}

/// Length of what comes out of a base of `base_len` bytes, or nothing where the hunks do not fit it.
pub fn restored_len(base_len: usize, hunks: &[Hunk]) -> Option<usize> {
    let (mut at, mut len) = (0usize, 0usize);
    for hunk in hunks {
        if at.checked_add(hunk.copy)? > base_len || hunk.resume > base_len {
            return None;
        }
        len = len.checked_add(hunk.copy)?.checked_add(hunk.insert)?;
        at = hunk.resume;
    }
    len.checked_add(base_len.checked_sub(at)?).filter(|len| *len <= MAX_OBJECT)
}

/// The object, from its base and from text that begins with what is inserted.
pub fn restore(base: &[u8], hunks: &[Hunk], text: &mut Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    const MISFIT: DecodeError = DecodeError::Inconsistent { what: "base of a delta" };
    let mut object = Vec::with_capacity(restored_len(base.len(), hunks).ok_or(MISFIT)?);
    let mut at = 0;
    for hunk in hunks {
        object.extend_from_slice(base.get(at..at + hunk.copy).ok_or(MISFIT)?);
        object.extend_from_slice(text.fixed(hunk.insert)?);
        at = hunk.resume;
    }
    object.extend_from_slice(base.get(at..).ok_or(MISFIT)?);
    Ok(object)
}

/// Appends what stands around the hunks in the base, once and in its order: no more than the base.
pub fn surroundings(base: &[u8], hunks: &[Hunk], to: &mut Vec<u8>) {
    let mut at = 0;
    let mut around: Vec<(usize, usize)> = Vec::with_capacity(hunks.len());
    for hunk in hunks {
        let left = at + hunk.copy;
        let [first, second] = if left <= hunk.resume {
            [(left, hunk.resume); 2]
        } else {
            [(left, left), (hunk.resume, hunk.resume)]
        };
        around.push(first);
        if second != first {
            around.push(second);
        }
        at = hunk.resume;
    }
    around.sort_unstable();
    let mut done = 0;
    for (from, until) in around {
        let from = from.saturating_sub(AROUND).max(done);
        let until = until.saturating_add(AROUND).min(base.len());
        to.extend_from_slice(base.get(from..until).unwrap_or_default());
        done = done.max(until);
    }
}

/// Writes a list of hunks.
pub fn write(hunks: &[Hunk], to: &mut Writer) {
    to.varint(hunks.len() as u64);
    let mut at = 0;
    for &Hunk { copy, insert, resume } in hunks {
        to.varint(copy as u64);
        to.varint(insert as u64);
        // Mostly as much is left out as is inserted.
        to.near(at + copy + insert, resume);
        at = resume;
    }
}

/// Reads a list of hunks, of which nothing is known yet but that each number is one of an object.
pub fn read(from: &mut Reader<'_>) -> Result<Vec<Hunk>, DecodeError> {
    const MOST: u64 = MAX_OBJECT as u64;
    let count = from.count("hunks", MAX_HUNKS, 3)?;
    let mut hunks = Vec::with_capacity(count);
    let mut at = 0;
    for _ in 0..count {
        let copy = from.bounded("copied bytes", MOST)? as usize;
        let insert = from.bounded("inserted bytes", MOST)? as usize;
        let resume = from.near("left out bytes", at + copy + insert, MAX_OBJECT)?;
        hunks.push(Hunk { copy, insert, resume });
        at = resume;
    }
    Ok(hunks)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn there_and_back(base: &[u8], object: &[u8]) -> (Vec<Hunk>, Vec<u8>) {
        let hunks = compare(base, object);
        let text: Vec<u8> = inserted(base, &hunks, object).flatten().copied().collect();
        assert_eq!(restored_len(base.len(), &hunks), Some(object.len()));
        let mut reader = Reader::new(&text);
        assert_eq!(restore(base, &hunks, &mut reader).unwrap(), object);
        reader.finish().unwrap();
        let mut to = Writer::new();
        write(&hunks, &mut to);
        let written = to.finish();
        let mut from = Reader::new(&written);
        assert_eq!(read(&mut from).unwrap(), hunks);
        from.finish().unwrap();
        (hunks, text)
    }

    #[test]
    fn a_change_in_one_place_is_one_hunk() {
        let base = noise(1, 5000);
        let (mut changed, mut longer, mut shorter) = (base.clone(), base.clone(), base.clone());
        changed[2999] ^= 1;
        longer.splice(700..710, noise(2, 100));
        shorter.drain(300..4000);
        assert_eq!(there_and_back(&base, &base).0, []);
        let one = |copy, insert, resume| vec![Hunk { copy, insert, resume }];
        assert_eq!(there_and_back(&base, &changed).0, one(2999, 1, 3000));
        assert_eq!(there_and_back(&base, &longer).0, one(700, 100, 710));
        assert_eq!(there_and_back(&base, &shorter).0, one(300, 0, 4000));
        assert_eq!(there_and_back(&base, &[]).0, one(0, 0, 5000));
        assert_eq!(there_and_back(&[], &base).0, one(0, 5000, 0));
        // Repeated bytes belong to the start or to the end, not to both.
        let (few, many) = (vec![7; 100], vec![7; 150]);
        assert_eq!(there_and_back(&few, &many).1.len(), 50);
        assert_eq!(there_and_back(&many, &few).1.len(), 0);
    }

    #[test]
    fn changes_in_many_places_and_what_moved_are_found() {
        let base = noise(1, MAX_OBJECT);
        let mut object = base.clone();
        for place in (1000..MAX_OBJECT).step_by(5000) {
            object[place] ^= 1;
        }
        let (hunks, text) = there_and_back(&base, &object);
        assert_eq!((hunks.len(), text.len()), (105, 105));
        object = [&base[..1000], &base[9000..12_000], &base[1000..9000], &base[12_000..]].concat();
        let (hunks, text) = there_and_back(&base, &object);
        assert!(hunks.len() == 3 && text.is_empty(), "{hunks:?}");
    }

    #[test]
    fn surroundings_are_parts_of_the_base() {
        let base = noise(1, 20_000);
        let around = |hunks: &[Hunk]| {
            let mut to = Vec::new();
            surroundings(&base, hunks, &mut to);
            to
        };
        assert_eq!(around(&[]), []);
        let hunk = |copy, resume| Hunk { copy, insert: 9, resume };
        assert_eq!(around(&[hunk(5000, 6000)]), base[2952..8048]);
        assert_eq!(around(&[hunk(1, 19_999)]), base);
        // Back, and further on than before.
        let parts = [&base[952..5048], &base[12_952..]].concat();
        assert_eq!(around(&[hunk(15_000, 3000), hunk(0, 3000), hunk(12_000, 18_000)]), parts);
    }

    #[test]
    fn hunks_that_do_not_fit_are_refused() {
        let hunk = |copy, insert, resume| Hunk { copy, insert, resume };
        for (len, hunks) in [
            (10, vec![hunk(11, 0, 0)]),
            (10, vec![hunk(0, 0, 11)]),
            (10, vec![hunk(10, 0, 5), hunk(6, 0, 10)]),
            (10, vec![hunk(0, MAX_OBJECT, 9)]),
            (MAX_OBJECT, vec![hunk(MAX_OBJECT, 0, MAX_OBJECT - 1)]),
            (10, vec![hunk(usize::MAX, 0, 10)]),
            (10, vec![hunk(0, usize::MAX, 10)]),
        ] {
            assert_eq!(restored_len(len, &hunks), None, "{hunks:?}");
            let base = vec![0; len];
            assert!(restore(&base, &hunks, &mut Reader::new(&[0; 100])).is_err());
        }
        // Less text than is inserted.
        assert!(restore(&[0; 10], &[hunk(1, 5, 2)], &mut Reader::new(&[0; 4])).is_err());
        for (values, fits) in [
            ([1, 5, 5, 19], true),
            ([1, 5, 5, 21], false),
            ([1, 0, 0, 1], false),
            ([1, 0, 0, 1 << 20], true),
            ([1, 0, 0, 2 + (1 << 20)], false),
            ([1, 1 << 20, 0, 0], false),
            ([1, 0, 1 << 20, 0], false),
        ] {
            let mut to = Writer::new();
            for value in values {
                to.varint(value);
            }
            let written = to.finish();
            assert_eq!(read(&mut Reader::new(&written)).is_ok(), fits, "{values:?}");
        }
    }

    proptest! {
        #[test]
        fn any_two_objects_are_told_apart(
            base in vec(0..3u8, 0..400),
            object in vec(0..3u8, 0..400),
        ) {
            there_and_back(&base, &object);
        }

        #[test]
        fn any_edits_of_an_object_are_found(
            len in 0..20_000usize,
            edits in vec((any::<prop::sample::Index>(), 0..500usize, 0..500usize, any::<bool>()), 0..9),
        ) {
            let base = noise(3, len);
            let mut object = base.clone();
            let mut new = 0;
            for (number, (place, left_out, insert, moved)) in edits.into_iter().enumerate() {
                let place = place.index(object.len() + 1);
                let until = (place + left_out).min(object.len());
                let text = if moved && insert <= base.len() {
                    base[..insert].to_vec()
                } else {
                    noise(100 + number as u64, insert)
                };
                new += insert + 2 * LEAST;
                object.splice(place..until, text);
            }
            let (_, text) = there_and_back(&base, &object);
            prop_assert!(text.len() <= new, "{} of {new}", text.len());
        }
    }
}

//! Finds every occurrence of a few hundred words in text, in either case.
//!
//! Three bytes in a row are looked up in a table of 64 Ki bits, at every other place: each word is there by
//! two of its places in a row, of which one is even wherever it stands. One of fewer than four bytes is there
//! with whatever may stand beside it. What is found there is compared whole. A look does not wait for the one before, as the steps of an automaton do: over the Linux source
//! that takes a third of the time, and all of it a few kilobytes.
//!
//! **Invariant:** found is exactly what an automaton over the same words finds, in its order: ascending
//! by the end, then by the beginning, then by the number of the word.

use std::ops::Range;

/// Bits of the table.
const TABLE: usize = 1 << 16;

/// What each byte of a key is folded with: letters of both cases become one, and few others.
const FOLD: u32 = 0x0020_2020;

/// What a key keeps of four bytes.
const THREE: u32 = 0x00ff_ffff;

/// How seldom letters are, from the most frequent in English and in code; what is no letter is seldom.
const FREQUENT: &[u8] = b"etaoinsrhldcumfpgwybvkxjqz";

/// Words, ready to be found.
#[derive(Debug)]
pub(super) struct Words {
    list: Vec<Box<[u8]>>,
    table: Box<[u64; TABLE / 64]>,
    /// Ascending by key.
    places: Vec<Place>,
}

/// Where three bytes stand in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    key: u32,
    word: u16,
    /// Bytes from the beginning of the word; the first of the three may stand before it.
    offset: i16,
}

/// A word that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) word: usize,
    pub(super) range: Range<usize>,
}

impl Words {
    /// Of these words, each of at least two bytes.
    pub(super) fn new(words: &[&str]) -> Self {
        let list: Vec<Box<[u8]>> = words.iter().map(|word| word.as_bytes().into()).collect();
        let mut places = Vec::new();
        for (number, word) in list.iter().enumerate() {
            let number = number as u16;
            let mut add = |bytes: [u8; 3], offset| {
                places.push(Place { key: key_of(bytes), word: number, offset });
            };
            debug_assert!(word.len() >= 2, "a word of one byte is everywhere");
            if let [a, b] = **word {
                (0..=u8::MAX).for_each(|after| add([a, b, after], 0));
                (0..=u8::MAX).for_each(|before| add([before, a, b], -1));
                continue;
            }
            if let [a, b, c] = **word {
                add([a, b, c], 0);
                (0..=u8::MAX).for_each(|before| add([before, a, b], -1));
                continue;
            }
            let pairs = word.windows(4).enumerate();
            let seldom = pairs
                .min_by_key(|(_, four)| four.iter().map(|byte| frequency(*byte)).product::<u32>());
            if let Some((at, &[a, b, c, d])) = seldom {
                // Words are a few dozen bytes long.
                let at = i16::try_from(at).unwrap_or(i16::MAX - 1);
                add([a, b, c], at);
                add([b, c, d], at + 1);
            }
        }
        places.sort_unstable();
        places.dedup();
        let mut table = Box::new([0; TABLE / 64]);
        for place in &places {
            let bit = bit_of(place.key);
            if let Some(bits) = table.get_mut(bit / 64) {
                *bits |= 1 << (bit % 64);
            }
        }
        Self { list, table, places }
    }

    /// All that stand in `bytes`.
    pub(super) fn find(&self, bytes: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        let mut at = 0;
        while let Some(four) = bytes.get(at..).and_then(|rest| rest.first_chunk()) {
            let key = (u32::from_le_bytes(*four) | FOLD) & THREE;
            if self.may_be(key) {
                self.compare(bytes, at, key, &mut found);
            }
            at += 2;
        }
        match bytes.get(at..) {
            Some(&[a, b, c]) => self.compare(bytes, at, key_of([a, b, c]), &mut found),
            // Whatever may come after it.
            Some(&[a, b]) => self.compare(bytes, at, key_of([a, b, 0]), &mut found),
            _ => {}
        }
        found.sort_unstable_by_key(|found| (found.range.end, found.range.start, found.word));
        found
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub(super) fn memory_usage(&self) -> usize {
        let words: usize = self.list.iter().map(|word| word.len() + 16).sum();
        words + size_of_val(&*self.table) + self.places.len() * size_of::<Place>()
    }

    fn may_be(&self, key: u32) -> bool {
        let bit = bit_of(key);
        self.table.get(bit / 64).is_some_and(|bits| bits >> (bit % 64) & 1 != 0)
    }

    /// Adds the words that have these three bytes at this place.
    fn compare(&self, bytes: &[u8], at: usize, key: u32, to: &mut Vec<Found>) {
        let first = self.places.partition_point(|place| place.key < key);
        let places = self.places.iter().skip(first).take_while(|place| place.key == key);
        for place in places {
            let number = usize::from(place.word);
            let Some(start) = at.checked_add_signed(-isize::from(place.offset)) else { continue };
            let Some(word) = self.list.get(number) else { continue };
            let range = start..start + word.len();
            if bytes.get(range.clone()).is_some_and(|bytes| bytes.eq_ignore_ascii_case(word)) {
                to.push(Found { word: number, range });
            }
        }
    }
}

fn key_of([a, b, c]: [u8; 3]) -> u32 {
    u32::from_le_bytes([a, b, c, 0]) | FOLD
}

/// The place of a key in the table, by multiplicative hashing.
const fn bit_of(key: u32) -> usize {
    (key.wrapping_mul(0x9e37_79b1) >> 16) as usize
}

fn frequency(byte: u8) -> u32 {
    let rank = FREQUENT.iter().position(|letter| *letter == byte.to_ascii_lowercase());
    rank.map_or(2, |rank| 30 - rank as u32)
}

#[cfg(test)]
mod tests {
    use aho_corasick::{AhoCorasick, MatchKind};
    use proptest::prelude::*;

    use super::*;

    const WORDS: [&str; 13] = [
        "Q~",
        "secret",
        "secret_key",
        "key",
        "://",
        "password",
        "PassWord",
        "_pwd",
        "AKIA",
        "aaaa",
        "aaaaa",
        "1//0",
        "-----BEGIN ",
    ];

    fn oracle(words: &[&str], bytes: &[u8]) -> Vec<Found> {
        let automaton = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(words)
            .unwrap();
        let found = automaton.find_overlapping_iter(bytes);
        found.map(|at| Found { word: at.pattern().as_usize(), range: at.range() }).collect()
    }

    #[test]
    fn words_are_found_wherever_they_stand() {
        let words = Words::new(&WORDS);
        for word in WORDS {
            for before in 0..5 {
                for after in 0..5 {
                    let text =
                        [&b"\xff:/._"[..before], word.as_bytes(), &b":/k_a"[..after]].concat();
                    assert_eq!(words.find(&text), oracle(&WORDS, &text));
                    let text = text.to_ascii_uppercase();
                    assert!(words.find(&text).iter().any(|found| found.range.start == before));
                }
            }
        }
        assert!(words.find(b"").is_empty() && words.find(b"ke").is_empty());
    }

    proptest! {
        #[test]
        fn an_automaton_finds_the_same(
            parts in proptest::collection::vec((0..WORDS.len() + 3, any::<[u8; 3]>(), 0..=12usize), 0..40)
        ) {
            let mut text = Vec::new();
            for (at, noise, cut) in parts {
                match WORDS.get(at) {
                    Some(word) => text.extend(word.as_bytes().iter().take(cut)),
                    None => text.extend(noise),
                }
            }
            prop_assert_eq!(Words::new(&WORDS).find(&text), oracle(&WORDS, &text));
        }
    }
}

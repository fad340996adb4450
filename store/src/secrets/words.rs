//! Finding the words that the rules begin with, each of them, wherever it stands.
//!
//! A text is gone over in pairs of bytes, each looked up in one table. For every word two pairs are chosen that
//! are rare in text: whether the word stands at an even place or at an odd one, one of them is among those that are
//! looked at. One pair of twenty is some word's, and only there words are compared.
//!
//! **Invariant:** what is found is what a search for each word alone would find, in the order of their ends.

use std::ops::{ControlFlow, Range};

/// Bytes that are gone over before what was found in them is looked at: bounds what is kept of it. Even.
const WINDOW: usize = 64 * 1024;

/// The values of a pair.
const PAIRS: usize = 1 << 16;

/// A word to look for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Word<'a> {
    pub(super) text: &'a str,
    /// Whether it is found however it is written.
    pub(super) any_case: bool,
}

/// The words, ready to be looked for.
#[derive(Debug)]
pub(super) struct Words {
    /// Each, and whether it is found however it is written.
    all: Vec<(Box<[u8]>, bool)>,
    /// By pair: 0, or one more than the index of its group.
    groups: Box<[u16; PAIRS]>,
    /// Words that may stand where a pair is.
    places: Vec<Vec<Place>>,
}

/// A word that has a pair, and how far from its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    word: u32,
    offset: u32,
    /// Its first eight bytes, or all and zeros.
    begin: u64,
    /// The bits of those that count.
    mask: u64,
}

/// A word that was found. Ascending is the order in which they are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    end: usize,
    start: usize,
    word: u32,
}

impl Words {
    /// Words of two bytes or more.
    pub(super) fn new(words: &[Word<'_>]) -> Self {
        let mut by_pair: Vec<Vec<Place>> = vec![Vec::new(); PAIRS];
        for (number, word) in (0..).zip(words) {
            for first in [0, 1] {
                let offset = rarest(*word, first);
                for pair in pairs(*word, offset) {
                    if let Some(places) = by_pair.get_mut(usize::from(pair)) {
                        places.push(Place::new(number, *word, offset));
                    }
                }
            }
        }
        #[expect(clippy::large_stack_arrays, reason = "once in the life of a program")]
        let (mut groups, mut places) = (Box::new([0; PAIRS]), Vec::new());
        for (group, here) in groups.iter_mut().zip(by_pair) {
            if here.is_empty() {
                continue;
            }
            // Words are printable, which leaves far fewer groups than there are numbers.
            let at = places.iter().position(|other| *other == here).unwrap_or(places.len());
            *group = (at + 1) as u16;
            if at == places.len() {
                places.push(here);
            }
        }
        let words = words.iter().map(|word| (word.text.as_bytes().into(), word.any_case));
        Self { all: words.collect(), groups, places }
    }

    /// Visits each word, by its number, and where it stands.
    pub(super) fn visit<T>(
        &self,
        bytes: &[u8],
        mut visit: impl FnMut(usize, Range<usize>) -> ControlFlow<T>,
    ) -> Option<T> {
        let mut found = Vec::new();
        for (window, part) in bytes.chunks(WINDOW).enumerate() {
            let begin = window * WINDOW;
            let (fours, rest) = part.as_chunks::<8>();
            for (at, &[a, b, c, d, e, f, g, h]) in fours.iter().enumerate() {
                let (w, x) = (self.group([a, b]), self.group([c, d]));
                let (y, z) = (self.group([e, f]), self.group([g, h]));
                if w | x | y | z == 0 {
                    continue;
                }
                let at = begin + 8 * at;
                for (at, group) in [(at, w), (at + 2, x), (at + 4, y), (at + 6, z)] {
                    if group != 0 {
                        self.compare(bytes, at, group, &mut found);
                    }
                }
            }
            for (at, pair) in (begin + part.len() - rest.len()..).step_by(2).zip(rest.chunks(2)) {
                let pair =
                    [pair.first(), pair.get(1)].map(|byte| byte.copied().unwrap_or_default());
                self.compare(bytes, at, self.group(pair), &mut found);
            }
            found.sort_unstable();
            // A word of the next window may end before one of this does that reaches into it.
            let end = begin + part.len();
            let settled = found.partition_point(|word| word.end <= end);
            for Found { word, start, end } in found.drain(..settled) {
                if let ControlFlow::Break(result) = visit(word as usize, start..end) {
                    return Some(result);
                }
            }
        }
        None
    }

    /// Bytes of memory that the tables take, about.
    #[cfg(test)]
    pub(super) fn memory_usage(&self) -> usize {
        let places: usize =
            self.places.iter().map(|places| places.len() * size_of::<Place>() + 24).sum();
        let words: usize = self.all.iter().map(|(word, _)| word.len() + 24).sum();
        size_of_val(&*self.groups) + places + words
    }

    #[inline]
    fn group(&self, pair: [u8; 2]) -> u16 {
        self.groups.get(usize::from(u16::from_be_bytes(pair))).copied().unwrap_or_default()
    }

    /// Finds the words that have the pair at `at` where they have it.
    fn compare(&self, bytes: &[u8], at: usize, group: u16, found: &mut Vec<Found>) {
        let Some(group) = usize::from(group).checked_sub(1) else { return };
        for place in self.places.get(group).into_iter().flatten() {
            let Some(start) = at.checked_sub(place.offset as usize) else { continue };
            // Most places are another word's, which mostly shows at once.
            if let Some(&here) = bytes.get(start..).and_then(<[u8]>::first_chunk)
                && u64::from_le_bytes(here) & place.mask != place.begin
            {
                continue;
            }
            let Some((word, any_case)) = self.all.get(place.word as usize) else { continue };
            let end = start + word.len();
            let is_word = bytes.get(start..end).is_some_and(|text| {
                if *any_case { text.eq_ignore_ascii_case(word) } else { text == &**word }
            });
            if is_word {
                found.push(Found { end, start, word: place.word });
            }
        }
    }
}

impl Place {
    fn new(number: u32, word: Word<'_>, offset: usize) -> Self {
        let (mut begin, mut mask) = ([0; 8], [0; 8]);
        for ((begin, mask), byte) in begin.iter_mut().zip(&mut mask).zip(word.text.bytes()) {
            // The bit in which the cases of a letter differ.
            let case = if word.any_case && byte.is_ascii_alphabetic() { 0x20 } else { 0 };
            (*begin, *mask) = (byte & !case, !case);
        }
        let (begin, mask) = (u64::from_le_bytes(begin), u64::from_le_bytes(mask));
        Self { word: number, offset: offset as u32, begin, mask }
    }
}

/// Where in a word its rarest pair is, among those at every second place from `first` on. A word of two bytes
/// has none from 1 on: there the second byte decides, and whatever comes after it.
fn rarest(word: Word<'_>, first: usize) -> usize {
    let whole = (first..word.text.len().saturating_sub(1)).step_by(2);
    let share = |offset: &usize| pairs(word, *offset).into_iter().map(share).sum::<u32>();
    whole.min_by_key(share).unwrap_or(first)
}

/// The pairs that a word may have at an offset.
fn pairs(word: Word<'_>, offset: usize) -> Vec<u16> {
    let forms = |byte: u8| {
        let [lower, upper] = [byte.to_ascii_lowercase(), byte.to_ascii_uppercase()];
        if word.any_case && lower != upper { vec![lower, upper] } else { vec![byte] }
    };
    let bytes = word.text.as_bytes();
    let first = bytes.get(offset).map_or_else(Vec::new, |&byte| forms(byte));
    let second = bytes.get(offset + 1).map_or_else(|| (0..=u8::MAX).collect(), |&byte| forms(byte));
    let pair = |(a, b): (&u8, &u8)| u16::from_be_bytes([*a, *b]);
    first.iter().flat_map(|a| second.iter().map(move |b| (a, b))).map(pair).collect()
}

/// How often a pair is to be expected in a text, as the product of how often its bytes are: counted in source code,
/// in steps. Only the speed depends on it.
fn share(pair: u16) -> u32 {
    let byte = |byte: u8| match byte {
        b' ' | b'\t' | b'\n' => 50,
        b'_' | b'e' | b't' | b'i' | b'r' | b's' | b'n' | b'a' | b'd' | b'o' | b'0' | b'c' => 30,
        b'l' | b'f' | b'u' | b'p' | b'm' | b',' | b'E' | b'T' | b'S' | b'A' | b'C' | b'R' => 13,
        b'I' | b';' | b'x' | b'*' | b'(' | b')' | b'h' | b'-' | b'g' | b'P' | b'v' | b'M' => 9,
        b'L' | b'b' | b'D' | b'N' | b'=' | b'O' | b'1' | b'2' | b'F' | b'>' | b'/' | b'k' => 6,
        b'U' | b'G' | b'.' | b'w' | b'y' | b'B' | b'"' | b'3' | b'#' | b'H' | b'4' | b'8' => 3,
        _ => 1,
    };
    let [first, second] = pair.to_be_bytes();
    byte(first) * byte(second)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: [(&str, bool); 10] = [
        ("secret", true),
        ("secret_key", true),
        ("key", false),
        ("et_k", false),
        ("re_", false),
        ("Q~", false),
        ("://", false),
        ("KEY", true),
        ("tsec", true),
        ("key", false),
    ];

    fn words() -> Vec<Word<'static>> {
        WORDS.map(|(text, any_case)| Word { text, any_case }).to_vec()
    }

    /// Text in which the words stand often, at even places and at odd ones, and across every border.
    fn text(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut text = Vec::new();
        while text.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 5 {
                0 => {
                    let at = (state >> 8) as usize % WORDS.len();
                    text.extend_from_slice(WORDS[at].0.as_bytes());
                }
                1 => text.extend_from_slice(b"Secret_KEY"),
                _ => text.push((state >> 16) as u8),
            }
        }
        text.truncate(len);
        text
    }

    /// Every word at every place, compared.
    fn by_hand(text: &[u8]) -> Vec<Found> {
        let mut found = Vec::new();
        for (number, word) in (0..).zip(words()) {
            let len = word.text.len();
            for (start, here) in text.windows(len).enumerate() {
                let is_same = here == word.text.as_bytes();
                let is_alike = here.eq_ignore_ascii_case(word.text.as_bytes());
                if is_same || (word.any_case && is_alike) {
                    found.push(Found { end: start + len, start, word: number });
                }
            }
        }
        found.sort_unstable();
        found
    }

    #[test]
    fn every_word_is_found_at_its_place_and_in_order() {
        let words = Words::new(&words());
        let lengths = [0, 1, 2, 3, 5, 100, 101, 9001, WINDOW - 1, WINDOW, 2 * WINDOW + 77];
        for (seed, len) in lengths.into_iter().enumerate() {
            let text = text(seed as u64 + 1, len);
            let mut found = Vec::new();
            let none = words.visit(&text, |word, at| {
                found.push(Found { end: at.end, start: at.start, word: word as u32 });
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(none, None);
            let expected = by_hand(&text);
            assert_eq!(found, expected, "{len} bytes");
            let third = words.visit(&text, |_, at| {
                if at.end > len / 2 {
                    ControlFlow::Break(at.end)
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert_eq!(third, expected.iter().map(|found| found.end).find(|&end| end > len / 2));
        }
    }

    #[test]
    fn a_word_alone_is_found() {
        let words = Words::new(&words());
        for text in ["Q~", " Q~", "key", "xkey", "SECRET", " sEcret_keY"] {
            let mut ends = Vec::new();
            let all = words.visit(text.as_bytes(), |_, at| {
                ends.push(at.end);
                ControlFlow::<()>::Continue(())
            });
            assert_eq!((all, ends.last()), (None, Some(&text.len())), "{text}");
        }
    }
}

//! Finding the words that the rules begin with, each of them, wherever it stands.
//!
//! One automaton (Aho-Corasick, as a table) goes over the bytes. Each step waits for the load of the step
//! before, so that a long text is gone over at four places at once: that takes a third of the time.
//!
//! **Invariant:** what is found is what one pass from the first byte to the last would find, in its order.

use std::ops::{ControlFlow, Range};

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::dfa::DFA;
use aho_corasick::{Anchored, BuildError, MatchError, MatchKind, StartKind};

/// Bytes that are gone over before what was found in them is looked at: bounds what is kept of it.
const WINDOW: usize = 64 * 1024;

/// A text is gone over at several places from this length on.
const SHORT: usize = 2048;

/// Every word, in any case.
#[derive(Debug)]
pub(super) struct Words {
    automaton: DFA,
    start: StateID,
    longest: usize,
}

/// The words of the rules do not make an automaton; too many prefixes are the only known cause.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WordsError {
    /// It would be too large.
    #[error("the words are too many")]
    Build(#[from] BuildError),
    /// It cannot be begun in the middle of a text.
    #[error("the words cannot be looked for anywhere")]
    Start(#[from] MatchError),
}

/// A word that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Found {
    word: usize,
    end: usize,
}

impl Words {
    pub(super) fn new(words: &[&str]) -> Result<Self, WordsError> {
        let automaton = DFA::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .start_kind(StartKind::Unanchored)
            .prefilter(false)
            .build(words)?;
        let start = automaton.start_state(Anchored::No)?;
        let longest = words.iter().map(|word| word.len()).max().unwrap_or_default();
        Ok(Self { automaton, start, longest })
    }

    /// Visits each word, by its number, and where it stands, by its end.
    pub(super) fn visit<T>(
        &self,
        bytes: &[u8],
        mut visit: impl FnMut(usize, Range<usize>) -> ControlFlow<T>,
    ) -> Option<T> {
        let mut found = [const { Vec::new() }; 4];
        let mut at = 0;
        while at < bytes.len() {
            let end = bytes.len().min(at + WINDOW);
            self.window(bytes, at..end, &mut found);
            for Found { word, end } in found.iter_mut().flat_map(|found| found.drain(..)) {
                let len = self.automaton.pattern_len(aho_corasick::PatternID::new_unchecked(word));
                if let ControlFlow::Break(result) = visit(word, end - len..end) {
                    return Some(result);
                }
            }
            at = end;
        }
        None
    }

    /// Bytes of memory that the automaton takes.
    #[cfg(test)]
    pub(super) fn memory_usage(&self) -> usize {
        self.automaton.memory_usage()
    }

    /// Finds what ends in a window.
    fn window(&self, bytes: &[u8], window: Range<usize>, found: &mut [Vec<Found>; 4]) {
        let len = window.len() / 4;
        let start = |lane: usize| window.start + lane * len;
        let [first, second, third, fourth] = found;
        if window.len() < SHORT {
            let state = self.state_at(bytes, window.start);
            self.pass(bytes, window, state, first);
            return;
        }
        let part = |lane: usize| bytes.get(start(lane)..start(lane) + len).unwrap_or_default();
        let mut states = [0, 1, 2, 3].map(|lane| self.state_at(bytes, start(lane)));
        let lanes = part(0).iter().zip(part(1)).zip(part(2)).zip(part(3));
        for (at, (((a, b), c), d)) in lanes.enumerate() {
            let next = |state, byte: &u8| self.automaton.next_state(Anchored::No, state, *byte);
            let [w, x, y, z] = states;
            states = [next(w, a), next(x, b), next(y, c), next(z, d)];
            let [w, x, y, z] = states;
            let is_any = |state| self.automaton.is_special(state);
            if is_any(w) | is_any(x) | is_any(y) | is_any(z) {
                self.note(w, start(0) + at + 1, first);
                self.note(x, start(1) + at + 1, second);
                self.note(y, start(2) + at + 1, third);
                self.note(z, start(3) + at + 1, fourth);
            }
        }
        let [.., state] = states;
        self.pass(bytes, start(4)..window.end, state, fourth);
    }

    /// The state of a pass from the first byte on before the byte at `at`: only so many bytes decide it as the
    /// longest word has.
    fn state_at(&self, bytes: &[u8], at: usize) -> StateID {
        let before = bytes.get(at.saturating_sub(self.longest)..at).unwrap_or_default();
        before
            .iter()
            .fold(self.start, |state, &byte| self.automaton.next_state(Anchored::No, state, byte))
    }

    fn pass(&self, bytes: &[u8], part: Range<usize>, mut state: StateID, found: &mut Vec<Found>) {
        let first = part.start + 1;
        for (at, &byte) in bytes.get(part).unwrap_or_default().iter().enumerate() {
            state = self.automaton.next_state(Anchored::No, state, byte);
            if self.automaton.is_special(state) {
                self.note(state, first + at, found);
            }
        }
    }

    fn note(&self, state: StateID, end: usize, found: &mut Vec<Found>) {
        if !self.automaton.is_match(state) {
            return;
        }
        for at in 0..self.automaton.match_len(state) {
            let word = self.automaton.match_pattern(state, at).as_usize();
            found.push(Found { word, end });
        }
    }
}

#[cfg(test)]
mod tests {
    use aho_corasick::AhoCorasick;

    use super::*;

    const WORDS: [&str; 9] =
        ["secret", "secret_key", "key", "et_k", "re_", "a", "://", "KEY", "tsec"];

    /// Text in which the words stand often, and across every border.
    fn text(seed: u64, len: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut text = Vec::new();
        while text.len() < len {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            match state % 5 {
                0 => text.extend_from_slice(WORDS[(state >> 8) as usize % WORDS.len()].as_bytes()),
                1 => text.extend_from_slice(b"Secret_KEY"),
                _ => text.push((state >> 16) as u8),
            }
        }
        text.truncate(len);
        text
    }

    #[test]
    fn four_places_find_what_one_pass_finds() {
        let words = Words::new(&WORDS).unwrap();
        let one = AhoCorasick::builder()
            .ascii_case_insensitive(true)
            .match_kind(MatchKind::Standard)
            .build(WORDS)
            .unwrap();
        let lengths = [0, 1, 5, 100, SHORT - 1, SHORT, SHORT + 3, 9001, WINDOW, 2 * WINDOW + 77];
        for (seed, len) in lengths.into_iter().enumerate() {
            let text = text(seed as u64 + 1, len);
            let mut found = Vec::new();
            let none = words.visit(&text, |word, at| {
                found.push((at.end, at.start, word));
                ControlFlow::<()>::Continue(())
            });
            assert_eq!(none, None);
            let expected: Vec<_> = one
                .find_overlapping_iter(&text)
                .map(|found| (found.end(), found.start(), found.pattern().as_usize()))
                .collect();
            assert_eq!(found, expected, "{len} bytes");
            let third = words.visit(&text, |_, at| {
                if at.end > len / 2 {
                    ControlFlow::Break(at.end)
                } else {
                    ControlFlow::Continue(())
                }
            });
            assert_eq!(third, expected.iter().map(|found| found.0).find(|&end| end > len / 2));
        }
    }
}

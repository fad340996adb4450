//! Values that are known to be secret, wherever they stand: as they are, line by line, and in base64.
//!
//! Not here: where they come from, and what becomes of text in which they stand.
//!
//! A value that stands in base64 among other bytes has, of its own, one of three forms, by where in a group of three
//! bytes it begins; what also depends on its neighbours belongs to none of them. Values of fewer than
//! [`LEAST_VALUE`] bytes are not looked for: prose is full of them.
//!
//! All are looked for at once, by an automaton of which each state is the beginning of a form. So a text may come
//! in pieces, and after each byte it is known how much of the text could still become one.
//!
//! **Invariant:** a byte belongs to a known value if, and only if, it lies in a place where one of its forms stands.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::OnceLock;

use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{AhoCorasick, AhoCorasickKind, Anchored};

use super::{Finding, LOOKED_AT};

/// Bytes of the shortest value, and of the shortest line of one, that is looked for.
pub const LEAST_VALUE: usize = 8;

/// Bytes of the shortest value for which a file is held back. What is shorter is a name or a number as often as a key, and
/// a file that is not in a result is harder to miss than a word that is not in a log.
pub const LEAST_HELD: usize = 16;

/// Longest value that is also looked for in base64: a form of a key or token, not of a file.
const LONGEST_ENCODED: usize = 8 * 1024;

/// Letters of a line of base64, where whoever encodes it breaks lines (RFC 2045).
const ENCODED_LINE: usize = 76;

/// Digits of base64, and the two in which the form for URLs differs (RFC 4648).
const DIGITS: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const LAST_DIGITS: [[u8; 2]; 2] = [*b"+/", *b"-_"];

/// The name of the rule.
const RULE: &str = "known-value";

/// Values that are looked for.
pub struct KnownValues {
    automaton: NFA,
    start: StateID,
    /// What each state but the first one says.
    states: HashMap<StateID, Place>,
    /// Whole values, of those that are long enough to hold a file back.
    whole: Vec<Vec<u8>>,
    /// What finds them, once that is asked for; nothing where they are too many.
    finder: OnceLock<Option<AhoCorasick>>,
}

/// Where a text that is being looked through is.
#[derive(Clone, Copy, Debug)]
pub struct Cursor(StateID);

/// What is known of the text that ends here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its last bytes that are the beginning of a form, as many as can be.
    pub begun: usize,
    /// Its last bytes that are a form, as many as can be; none where no form ends here.
    pub ended: usize,
}

impl fmt::Debug for KnownValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KnownValues(***)")
    }
}

/// The values are too many and too long to be looked for.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the values are too many and too long to be looked for")]
pub struct TooManyValues;

impl KnownValues {
    /// Prepares to look for these; nothing where each of them is too short.
    ///
    /// Takes some fifty bytes of memory for each byte of a form.
    pub fn new<'a>(
        values: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Option<Self>, TooManyValues> {
        let mut forms = BTreeSet::new();
        let mut whole = BTreeSet::new();
        for value in values {
            let plain = value.trim_ascii();
            if plain.len() >= LEAST_HELD {
                whole.insert(plain.to_vec());
                let is_key = plain.len() <= LONGEST_ENCODED;
                for (last, before) in
                    LAST_DIGITS.iter().flat_map(|last| [(last, 0), (last, 1), (last, 2)])
                {
                    if is_key {
                        whole.insert(encoded(plain, before, *last));
                    }
                }
            }
            forms_of(value, &mut forms);
        }
        if forms.is_empty() {
            return Ok(None);
        }
        // No prefilter: it would leave states out.
        let automaton = NFA::builder().prefilter(false).build(&forms).map_err(|_| TooManyValues)?;
        let start = automaton.start_state(Anchored::No).map_err(|_| TooManyValues)?;
        let mut states = HashMap::new();
        for form in &forms {
            let mut state = start;
            for (before, &byte) in form.iter().enumerate() {
                state = automaton.next_state(Anchored::No, state, byte);
                states.entry(state).or_insert_with(|| Place {
                    begun: before + 1,
                    ended: longest_match(&automaton, state),
                });
            }
        }
        let whole = whole.into_iter().collect();
        Ok(Some(Self { automaton, start, states, whole, finder: OnceLock::new() }))
    }

    /// At the beginning of a text.
    pub const fn start(&self) -> Cursor {
        Cursor(self.start)
    }

    /// One byte further.
    pub fn step(&self, cursor: &mut Cursor, byte: u8) -> Place {
        cursor.0 = self.automaton.next_state(Anchored::No, cursor.0, byte);
        if cursor.0 == self.start {
            return Place::default();
        }
        self.states.get(&cursor.0).copied().unwrap_or_default()
    }

    /// The finding in a file with these bytes, or with these first ones: a whole value of [`LEAST_HELD`] bytes or more. A
    /// line of a longer one stands in many files. All are one finding: nobody is told which value it was.
    pub fn finding(&self, bytes: &[u8]) -> Option<Finding> {
        let bytes = bytes.get(..LOOKED_AT).unwrap_or(bytes);
        let finder = self.finder.get_or_init(|| {
            let kind = Some(AhoCorasickKind::NoncontiguousNFA);
            AhoCorasick::builder().kind(kind).build(&self.whole).ok()
        });
        let at = match finder {
            Some(finder) => finder.find(bytes)?.end(),
            None => self.find(bytes)?,
        };
        let lines = bytes.get(..at).unwrap_or_default().split(|&byte| byte == b'\n').count();
        let fingerprint = *blake3::hash(RULE.as_bytes()).as_bytes();
        Some(Finding { rule: RULE, line: lines as u64, fingerprint })
    }

    /// Where in a text the first form ends; nothing where none stands in it.
    pub fn find(&self, text: &[u8]) -> Option<usize> {
        let mut cursor = self.start();
        text.iter().position(|&byte| self.step(&mut cursor, byte).ended > 0)
    }
}

/// The longest form that ends in a state.
fn longest_match(automaton: &NFA, state: StateID) -> usize {
    if !automaton.is_match(state) {
        return 0;
    }
    let forms = (0..automaton.match_len(state)).map(|index| automaton.match_pattern(state, index));
    forms.map(|form| automaton.pattern_len(form)).max().unwrap_or(0)
}

/// Every form in which a value is looked for.
fn forms_of(value: &[u8], forms: &mut BTreeSet<Vec<u8>>) {
    let mut add = |form: &[u8]| {
        if form.len() >= LEAST_VALUE {
            forms.insert(form.to_vec());
        }
    };
    add(value);
    // A line may be indented where it is shown, and may end otherwise there.
    value.split(|&byte| byte == b'\n').for_each(|line| add(line.trim_ascii()));
    if (LEAST_VALUE..=LONGEST_ENCODED).contains(&value.len()) {
        for last in LAST_DIGITS {
            for before in 0..3 {
                let encoded = encoded(value, before, last);
                // Broken into lines or not, it is the same pieces; further in, lines end elsewhere.
                let piece = if before == 0 { ENCODED_LINE } else { encoded.len().max(1) };
                encoded.chunks(piece).for_each(&mut add);
            }
        }
    }
}

/// The digits of base64 that a value alone decides where `before` bytes stand before it in a group of three.
fn encoded(value: &[u8], before: usize, last: [u8; 2]) -> Vec<u8> {
    let bytes: Vec<u8> = std::iter::repeat_n(0, before).chain(value.iter().copied()).collect();
    let digits = bytes.len() * 8 / 6;
    // The first digits are also of what stands before it: 2 of 8 bits, 3 of 16.
    let skipped = if before == 0 { 0 } else { before + 1 };
    let digit = |at: usize| {
        let bit = at * 6;
        let byte = |at: usize| u16::from(bytes.get(at).copied().unwrap_or(0));
        let pair = (byte(bit / 8) << 8) | byte(bit / 8 + 1);
        let value = usize::from(pair >> (10 - bit % 8)) & 0x3f;
        DIGITS.iter().chain(&last).nth(value).copied().unwrap_or(b'=')
    };
    (skipped..digits).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(values: &[&[u8]]) -> KnownValues {
        KnownValues::new(values.iter().copied()).unwrap().unwrap()
    }

    /// The same, by looking at every place.
    fn forms(values: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut forms = BTreeSet::new();
        for value in values {
            forms_of(value, &mut forms);
        }
        forms.into_iter().collect()
    }

    #[test]
    fn values_are_found_whole_by_line_and_in_base64_wherever_they_begin() {
        let value = b"hunter2-is-no-password";
        let known = known(&[value]);
        assert_eq!(known.find(b"say hunter2-is-no-password!"), Some(25));
        assert_eq!(known.find(b"hunter2-is-no-passwor"), None);
        let alphabet = |text: &[u8], last| {
            let digits = encoded(text, 0, last);
            known.find(&digits).is_some()
        };
        for before in 0..7 {
            let text = [&b"0123456"[..before], value, b"x:y"].concat();
            for last in LAST_DIGITS {
                assert!(alphabet(&text, last), "{before}");
            }
        }
        assert!(!alphabet(b"hunter3-is-no-password", LAST_DIGITS[0]));
    }

    #[test]
    fn a_file_is_held_for_a_whole_value_and_not_for_a_word_or_a_line() {
        let config = b"apiVersion: v1\nclusters:\n- cluster: {token: dGhlIGtleSBvZiBhbGwga2V5cw}\n";
        let known = known(&[b"localhost", config, b"a-key-of-its-own-0123"]);
        for text in [&b"host = localhost\n"[..], b"apiVersion: v1\nkind: Pod\n"] {
            assert!(known.finding(text).is_none() && known.find(text).is_some());
        }
        let found = known.finding(b"one\ntwo a-key-of-its-own-0123\n").unwrap();
        assert_eq!(found.line, 2);
        assert!(known.finding(&[&b"x\n"[..], config.trim_ascii(), b" y"].concat()).is_some());
    }

    #[test]
    fn base64_is_what_others_make_of_it() {
        // RFC 4648, 10.
        for (text, digits) in [("foobar", "Zm9vYmFy"), ("fooba", "Zm9vYm"), ("foob", "Zm9vY")] {
            assert_eq!(encoded(text.as_bytes(), 0, *b"+/"), digits.as_bytes());
        }
        assert_eq!(encoded(&[0xfb, 0xff, 0xbf], 0, *b"+/"), b"+/+/");
        assert_eq!(encoded(&[0xfb, 0xff, 0xbf], 0, *b"-_"), b"-_-_");
    }

    #[test]
    fn lines_are_found_by_themselves_and_short_ones_only_with_the_others() {
        let known = known(&[b"-- begin --\n  indented line\r\nshort\n"]);
        for found in ["-- begin --", "indented line", "x indented line x"] {
            assert!(known.find(found.as_bytes()).is_some(), "{found}");
        }
        for free in ["short", "indented", "-- begin -"] {
            assert_eq!(known.find(free.as_bytes()), None, "{free}");
        }
        assert!(KnownValues::new([&b"short"[..], b"1234567"]).unwrap().is_none());
        assert!(KnownValues::new([]).unwrap().is_none());
        assert!(KnownValues::new([&b"a\nb\nc\nd"[..]]).unwrap().is_none());
    }

    #[test]
    fn nothing_of_a_value_is_shown() {
        assert_eq!(format!("{:?}", known(&[b"swordfish"])), "KnownValues(***)");
    }

    proptest! {
        #[test]
        fn each_place_is_what_a_search_at_it_finds(
            values in prop::collection::vec("[ab]{7,10}", 1..5),
            text in "[abc]{0,80}",
        ) {
            let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
            let Some(known) = KnownValues::new(values.iter().copied()).unwrap() else {
                return Ok(());
            };
            let forms = forms(&values);
            let mut cursor = known.start();
            for (at, &byte) in text.as_bytes().iter().enumerate() {
                let place = known.step(&mut cursor, byte);
                let read = &text.as_bytes()[..=at];
                let ended = forms.iter().filter(|form| read.ends_with(form)).map(Vec::len).max();
                prop_assert_eq!(place.ended, ended.unwrap_or(0));
                let begun = (0..=read.len()).rev().find(|&length| {
                    forms.iter().any(|form| form.starts_with(&read[read.len() - length..]))
                });
                prop_assert_eq!(place.begun, begun.unwrap());
            }
        }
    }
}

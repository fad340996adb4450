//! Known values in the output of a run are written to its log as `***`.
//!
//! Output comes in pieces that end anywhere. What could still become a value is held back until it is one, or is
//! known to be none. When nothing more comes for a while, up to [`SHOWN`] such bytes are shown all the same, so
//! that a question is not shown without its end; more of them are hardly chance, and wait.
//!
//! Not here: how a value is found ([`baton_store::secrets::known`]), and how output becomes lines
//! ([`lines`](super::lines)).
//!
//! **Invariant:** no byte that lies in a known value is handed out, but for at most [`SHOWN`] at the beginning of one
//! before which the output stood still; every other byte is, in order.

use std::sync::Arc;

use baton_store::secrets::known::{Cursor, KnownValues, LEAST_VALUE};

use super::lines::Lines;

/// What is written instead. As in other services that run other people's commands.
const MASK: &[u8] = b"***";

/// Bytes of the beginning of a value that are shown while nothing more comes: fewer than half of the shortest.
const SHOWN: usize = LEAST_VALUE / 2 - 1;

/// One stream of output in which values are masked.
struct Masker {
    known: Arc<KnownValues>,
    cursor: Cursor,
    /// How many of the last bytes could still become a value.
    begun: usize,
    /// Bytes that were not handed out.
    held: Vec<u8>,
    /// Where values stand in what is held; ascending, apart from each other.
    covered: Vec<(usize, usize)>,
    /// Whether the last byte that was handed out was one of a mask.
    masking: bool,
}

impl Masker {
    fn new(known: Arc<KnownValues>) -> Self {
        let cursor = known.start();
        Self { known, cursor, begun: 0, held: Vec::new(), covered: Vec::new(), masking: false }
    }

    /// Takes bytes and hands out those that are decided.
    fn push(&mut self, bytes: &[u8], out: impl FnMut(&[u8])) {
        let before = self.held.len();
        self.held.extend_from_slice(bytes);
        for (end, &byte) in (before + 1..).zip(bytes) {
            let place = self.known.step(&mut self.cursor, byte);
            self.begun = place.begun;
            if place.ended > 0 {
                // The beginning may have been shown.
                self.cover(end.saturating_sub(place.ended), end);
            }
        }
        self.hand_out(self.held.len().saturating_sub(self.begun), out);
    }

    /// Notes a value; none that was noted before ends later.
    fn cover(&mut self, mut from: usize, to: usize) {
        while let Some(&(start, end)) = self.covered.last() {
            if end < from {
                break;
            }
            from = from.min(start);
            self.covered.pop();
        }
        self.covered.push((from, to));
    }

    /// Hands out what is held up to a place.
    fn hand_out(&mut self, end: usize, mut out: impl FnMut(&[u8])) {
        let mut at = 0;
        let mut rest = Vec::new();
        for &(from, to) in &self.covered {
            if to > end {
                rest.push((from.max(end) - end, to - end));
            }
            let (from, to) = (from.min(end), to.min(end));
            if from > at {
                out(self.held.get(at..from).unwrap_or_default());
                self.masking = false;
            }
            if to > from && !self.masking {
                out(MASK);
                self.masking = true;
            }
            at = to.max(at);
        }
        if end > at {
            out(self.held.get(at..end).unwrap_or_default());
            self.masking = false;
        }
        self.held.drain(..end.min(self.held.len()));
        self.covered = rest;
    }

    /// Nothing more came for a while.
    fn idle(&mut self, out: impl FnMut(&[u8])) {
        if self.begun <= SHOWN {
            self.hand_out(self.held.len(), out);
        }
    }

    /// Nothing more will come.
    fn end(&mut self, out: impl FnMut(&[u8])) {
        self.hand_out(self.held.len(), out);
        self.cursor = self.known.start();
        self.begun = 0;
        self.masking = false;
    }

    /// Whether something would be shown if nothing more came.
    fn has_begun(&self) -> bool {
        !self.held.is_empty() && self.begun <= SHOWN
    }
}

/// One stream of output that is masked, where there is something to mask, and cut into lines.
#[derive(Default)]
pub(super) struct MaskedLines {
    masker: Option<Masker>,
    lines: Lines,
}

impl MaskedLines {
    pub(super) fn new(known: Option<&Arc<KnownValues>>) -> Self {
        let masker = known.map(|known| Masker::new(Arc::clone(known)));
        Self { masker, lines: Lines::default() }
    }

    /// Takes bytes and hands out every line that is complete.
    pub(super) fn push(&mut self, bytes: &[u8], mut piece: impl FnMut(&[u8])) {
        let lines = &mut self.lines;
        match &mut self.masker {
            Some(masker) => masker.push(bytes, |bytes| lines.push(bytes, &mut piece)),
            None => lines.push(bytes, piece),
        }
    }

    /// Nothing more came for a while: hands out the line that has begun.
    pub(super) fn idle(&mut self, mut piece: impl FnMut(&[u8])) {
        let lines = &mut self.lines;
        if let Some(masker) = &mut self.masker {
            masker.idle(|bytes| lines.push(bytes, &mut piece));
        }
        lines.flush(piece);
    }

    /// Nothing more will come: hands out the rest.
    pub(super) fn end(&mut self, mut piece: impl FnMut(&[u8])) {
        let lines = &mut self.lines;
        if let Some(masker) = &mut self.masker {
            masker.end(|bytes| lines.push(bytes, &mut piece));
        }
        lines.flush(piece);
    }

    /// Whether a line has begun of which something could be shown.
    pub(super) fn has_begun(&self) -> bool {
        self.lines.has_begun() || self.masker.as_ref().is_some_and(Masker::has_begun)
    }
}

/// A whole text with its values masked.
pub(super) fn masked(known: Option<&Arc<KnownValues>>, text: String) -> String {
    let Some(known) = known else { return text };
    let mut bytes = Vec::with_capacity(text.len());
    let mut masker = Masker::new(Arc::clone(known));
    masker.push(text.as_bytes(), |piece| bytes.extend_from_slice(piece));
    masker.end(|piece| bytes.extend_from_slice(piece));
    // A value may be a part of a letter.
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn known(values: &[&[u8]]) -> Arc<KnownValues> {
        Arc::new(KnownValues::new(values.iter().copied()).unwrap().unwrap())
    }

    /// What a log gets of output in these pieces; `pause` after each.
    fn log(known: &Arc<KnownValues>, pieces: &[&[u8]], pause: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let mut lines = MaskedLines::new(Some(known));
        for piece in pieces {
            lines.push(piece, |line| out.extend_from_slice(line));
            if pause {
                lines.idle(|line| out.extend_from_slice(line));
                assert!(!lines.has_begun(), "it would be looked at for ever");
            }
        }
        lines.end(|line| out.extend_from_slice(line));
        out
    }

    /// What the log must be: every place of the text is looked at.
    fn expected(values: &[&[u8]], text: &[u8]) -> Vec<u8> {
        let mut covered = vec![false; text.len()];
        for value in values.iter().filter(|value| value.len() >= LEAST_VALUE) {
            for (at, window) in text.windows(value.len()).enumerate() {
                if window == *value {
                    covered[at..at + value.len()].fill(true);
                }
            }
        }
        let mut out = Vec::new();
        for (at, &byte) in text.iter().enumerate() {
            if !covered[at] {
                out.push(byte);
            } else if at == 0 || !covered[at - 1] {
                out.extend_from_slice(MASK);
            }
        }
        out
    }

    #[test]
    fn values_are_masked_wherever_they_are_cut() {
        let known = known(&[b"hunter2-is-no-password", b"a\nkey of lines\n\nlast one\n"]);
        let text = b"TOKEN=hunter2-is-no-password\nkey of lines\nhunter2-is-no\n last one";
        let masked = b"TOKEN=***\n***\nhunter2-is-no\n ***";
        for at in 0..text.len() {
            let (a, b) = text.split_at(at);
            assert_eq!(log(&known, &[a, b], false), masked, "cut at {at}");
        }
        let bytes: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(log(&known, &bytes, false), masked);
    }

    #[test]
    fn where_output_stands_still_a_question_is_shown_and_no_value() {
        let known = known(&[b"hunter2-is-no-password"]);
        let mut lines = MaskedLines::new(Some(&known));
        let mut out = Vec::new();
        lines.push(b"which one? hun", |line| out.extend_from_slice(line));
        assert!(out.is_empty() && lines.has_begun());
        lines.idle(|line| out.extend_from_slice(line));
        assert_eq!(out, b"which one? hun");
        assert!(!lines.has_begun());
        // It was a value after all.
        lines.push(b"ter2-is-no-", |line| out.extend_from_slice(line));
        lines.idle(|line| out.extend_from_slice(line));
        assert!(!lines.has_begun(), "what must wait is not waited for");
        assert_eq!(out, b"which one? hun");
        lines.push(b"password.\nhunters", |line| out.extend_from_slice(line));
        assert_eq!(out, b"which one? hun***.\n");
        lines.end(|line| out.extend_from_slice(line));
        assert_eq!(out, b"which one? hun***.\nhunters");
    }

    #[test]
    fn without_values_nothing_is_held() {
        let mut lines = MaskedLines::default();
        let mut out = Vec::new();
        lines.push(b"a line\nbegun", |line| out.extend_from_slice(line));
        assert_eq!(out, b"a line\n");
        assert!(lines.has_begun());
        lines.idle(|line| out.extend_from_slice(line));
        assert_eq!(out, b"a line\nbegun");
        assert_eq!(masked(None, "text".to_owned()), "text");
        let known = known(&[b"swordfish"]);
        assert_eq!(masked(Some(&known), "no swordfish!".to_owned()), "no ***!");
    }

    /// Texts in which values and their beginnings are likely.
    fn text(values: Vec<Vec<u8>>) -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<u8>)> {
        let piece = (any::<prop::sample::Index>(), any::<prop::sample::Index>(), "[abc\n]{0,4}");
        prop::collection::vec(piece, 0..12).prop_map(move |pieces| {
            let mut text = Vec::new();
            for (which, until, other) in pieces {
                let value = which.get(&values);
                text.extend_from_slice(&value[..until.index(value.len() + 1)]);
                text.extend_from_slice(other.as_bytes());
            }
            (values.clone(), text)
        })
    }

    fn values() -> impl Strategy<Value = Vec<Vec<u8>>> {
        prop::collection::vec("[abc]{6,14}".prop_map(String::into_bytes), 1..5)
    }

    proptest! {
        #[test]
        fn no_value_reaches_a_log_and_all_else_does(
            (values, text) in values().prop_flat_map(text),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..9),
        ) {
            let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
            let Some(known) = KnownValues::new(values.iter().copied()).unwrap() else {
                return Ok(());
            };
            let known = Arc::new(known);
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.push(text.len());
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&text[from..cut]);
                from = cut;
            }
            // In three letters no form in base64 stands.
            prop_assert_eq!(log(&known, &pieces, false), expected(&values, &text));
            // Where output stands still after each piece, a value is still none in the log.
            let shown = log(&known, &pieces, true);
            for value in values.iter().filter(|value| value.len() >= LEAST_VALUE) {
                let found = shown.windows(value.len()).any(|window| window == *value);
                prop_assert!(!found, "{:?} in {:?}", value, shown);
            }
        }
    }
}

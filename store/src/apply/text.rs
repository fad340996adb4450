//! Merging text in three ways, as `git merge-file` does.
//!
//! Not here: whether two sides have to be merged at all.
//!
//! **Invariant:** what is merged without a conflict has every change of either side, and what is not text
//! is never merged.

use gix_imara_diff::InternedInput;
use gix_merge::blob::Resolution;
use gix_merge::blob::builtin_driver::text::{Conflict, Labels, Options};

use crate::git::TextMerge;

/// Longest text that is merged: more is no text that people wrote, and lines take some ten times as much
/// memory while they are compared.
pub const MAX_TEXT: u64 = 8 << 20;

/// Lines that one text may have: each is a token of the comparison.
const MAX_LINES: usize = 1 << 20;

/// What two changed texts came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Merged {
    /// Both changes.
    Clean(Vec<u8>),
    /// They meet; this is the text with markers around where they do.
    Conflict(Vec<u8>),
}

/// Merges two changed texts; nothing where one of the three is no text.
pub(super) fn merge_text(
    base: &[u8],
    (ours, theirs): (&[u8], &[u8]),
    (our_label, their_label): (&str, &str),
) -> Option<Merged> {
    if ![base, ours, theirs].into_iter().all(is_text) {
        return None;
    }
    let labels =
        Labels { ancestor: None, current: Some(our_label.into()), other: Some(their_label.into()) };
    let mut input = InternedInput::default();
    let mut merged = Vec::new();
    let Options { diff_algorithm, .. } = Options::default();
    let merge = gix_merge::blob::builtin_driver::text::Merge::new(
        &mut input,
        ours,
        base,
        theirs,
        diff_algorithm,
    );
    Some(match merge.run(&mut merged, labels, Conflict::default()) {
        Resolution::Complete => Merged::Clean(merged),
        Resolution::CompleteWithAutoResolvedConflict | Resolution::Conflict => {
            Merged::Conflict(merged)
        }
    })
}

/// The same of two changed entries of an index.
pub fn merge_entry(base: &[u8], ours: &[u8], theirs: &[u8]) -> TextMerge {
    match merge_text(base, (ours, theirs), ("ours", "theirs")) {
        Some(Merged::Clean(text)) => TextMerge::Clean(text),
        Some(Merged::Conflict(_)) => TextMerge::Conflict,
        None => TextMerge::Binary,
    }
}

/// Whether bytes are text, more narrowly than git says it: no NUL anywhere.
fn is_text(bytes: &[u8]) -> bool {
    bytes.len() as u64 <= MAX_TEXT
        && !bytes.contains(&0)
        && bytes.split(|&byte| byte == b'\n').count() <= MAX_LINES
}

#[cfg(test)]
mod tests;

//! Files that are ours alone, until somebody changes them: a line in each says so, with a sum of all the other lines.
//!
//! **Invariant:** a file whose sum is wrong belongs to whoever changed it.

use baton_protocol::id::ChunkId;

/// What the line has.
const MARK: &str = "baton-setup:";

/// Stands in a text where the sum belongs.
pub(crate) const SUM: &str = "@SUM@";

/// Digits of the sum.
const DIGITS: usize = 16;

/// A text with its sum. One of its lines has [`SUM`].
pub(crate) fn sealed(text: &str) -> String {
    text.replace(SUM, &format!("{MARK}{}", sum(text)))
}

/// Whether a text is as it was written by us, in this version or another one.
pub(crate) fn is_ours(text: &str) -> bool {
    let Some(at) = text.find(MARK) else { return false };
    let digits = at + MARK.len();
    let (Some(before), Some(told), Some(after)) =
        (text.get(..at), text.get(digits..digits + DIGITS), text.get(digits + DIGITS..))
    else {
        return false;
    };
    sum(&[before, SUM, after].concat()) == told
}

fn sum(text: &str) -> String {
    let mut sum = ChunkId::of(text.as_bytes()).to_string();
    sum.truncate(DIGITS);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_ours_until_it_is_changed() {
        let text = sealed("# written by baton, @SUM@\nhello é\n");
        assert!(is_ours(&text), "{text}");
        assert!(!is_ours(&text.replace("hello", "bye")));
        assert!(!is_ours(&text.replace("baton-setup:", "baton-setup:0")));
        for other in ["", "hello", "baton-setup:", "baton-setup:é23456789012345", "# @SUM@"] {
            assert!(!is_ours(other), "{other}");
        }
    }
}

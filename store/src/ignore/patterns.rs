//! The lines of one file of ignore patterns.
//!
//! **Invariant:** the last line that matches decides; no line, no decision.

use gix::bstr::BStr;
use gix::glob::Pattern;
use gix::glob::pattern::{Case, Mode as Kind};
use gix::glob::wildmatch::Mode;

/// Longest file of patterns that is read; git's own limit (`PATTERN_MAX_FILE_SIZE`).
pub(crate) const MAX_RULES: u64 = 100 << 20;

/// The patterns of one file, for paths below the directory it stands in.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// Bytes of a path that lead to the directory, its slash included.
    base: usize,
    list: Vec<Pattern>,
}

impl Patterns {
    pub(super) fn parse(bytes: &[u8], base: usize) -> Self {
        let list = gix::ignore::parse(bytes, false).map(|(pattern, ..)| pattern).collect();
        Self { base, list }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether `path` is ignored; nothing where no pattern matches it.
    pub(super) fn decide(&self, path: &[u8], is_directory: bool, case: Case) -> Option<bool> {
        let path = path.get(self.base..)?;
        let basename = path.iter().rposition(|&byte| byte == b'/').map(|at| at + 1);
        let matches = |pattern: &&Pattern| {
            pattern.matches_repo_relative_path(
                BStr::new(path),
                basename,
                Some(is_directory),
                case,
                Mode::NO_MATCH_SLASH_LITERAL,
            )
        };
        self.list.iter().rfind(matches).map(|pattern| !pattern.is_negative())
    }

    /// Whether a line spells out a way that may lead below this directory. A line without a slash
    /// spells out none.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        let mut prefix = directory.to_vec();
        prefix.push(b'/');
        let leads = |pattern: &Pattern| {
            let text: &[u8] = &pattern.text;
            let literal = pattern.first_wildcard_pos.and_then(|at| text.get(..at));
            !pattern.is_negative()
                && !pattern.mode.contains(Kind::NO_SUB_DIR)
                && match literal {
                    Some(literal) => prefix.starts_with(literal) || literal.starts_with(&prefix),
                    None => text.starts_with(&prefix),
                }
        };
        self.list.iter().any(leads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_matching_line_decides() {
        let patterns = Patterns::parse(b"*.log\n!keep.log\n/top\nsub/*.o\nonly/\n# x\n", 0);
        let decide = |path: &str, dir| patterns.decide(path.as_bytes(), dir, Case::Sensitive);
        assert_eq!(decide("a/b.log", false), Some(true));
        assert_eq!(decide("a/keep.log", false), Some(false));
        assert_eq!(decide("top", false), Some(true));
        assert_eq!(decide("a/top", false), None);
        assert_eq!(decide("sub/x.o", false), Some(true));
        assert_eq!(decide("a/sub/x.o", false), None);
        assert_eq!(decide("a/only", true), Some(true));
        assert_eq!(decide("a/only", false), None);
    }

    #[test]
    fn patterns_start_at_their_directory() {
        let patterns = Patterns::parse(b"/x\n", "deep/er/".len());
        assert_eq!(patterns.decide(b"deep/er/x", false, Case::Sensitive), Some(true));
        assert_eq!(patterns.decide(b"deep/er/y/x", false, Case::Sensitive), None);
        assert_eq!(patterns.decide(b"deep/er/X", false, Case::Fold), Some(true));
    }
}

//! The lines of one file of ignore patterns, read as git reads them.
//!
//! **Invariant:** the last line that matches decides; no line, no decision.

use super::glob::{self, Case};

/// Longest file of patterns that is read; git's own limit (`PATTERN_MAX_FILE_SIZE`).
pub(crate) const MAX_RULES: u64 = 100 << 20;

/// What may stand before the first line.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// The patterns of one file, for paths below the directory it stands in.
#[derive(Debug, Default)]
pub(super) struct Patterns {
    /// Bytes of a path that lead to the directory, its slash included.
    base: usize,
    list: Vec<Pattern>,
}

/// What one line says.
#[derive(Debug)]
struct Pattern {
    /// Without what the other fields say.
    text: Box<[u8]>,
    /// How much of it stands for itself.
    literal: usize,
    /// Whether it takes back what lines before it say.
    is_negative: bool,
    /// Whether it is for directories alone.
    directories: bool,
    /// Whether it is for the whole path below the file, and not for the last name in it.
    whole: bool,
}

impl Patterns {
    pub(super) fn parse(bytes: &[u8], base: usize) -> Self {
        let bytes = bytes.strip_prefix(BOM).unwrap_or(bytes);
        Self { base, list: bytes.split(|&byte| byte == b'\n').filter_map(Pattern::parse).collect() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether `path` is ignored; nothing where no pattern matches it.
    pub(super) fn decide(&self, path: &[u8], is_directory: bool, case: Case) -> Option<bool> {
        let path = path.get(self.base..)?;
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        let matches = |pattern: &&Pattern| {
            (is_directory || !pattern.directories)
                && pattern.matches(if pattern.whole { path } else { name }, case)
        };
        self.list.iter().rfind(matches).map(|pattern| !pattern.is_negative)
    }

    /// Whether a line spells out a way that may lead below this directory. A line without a slash
    /// spells out none.
    pub(super) fn may_match_below(&self, directory: &[u8]) -> bool {
        let mut prefix = directory.to_vec();
        prefix.push(b'/');
        let leads = |pattern: &Pattern| {
            let literal = pattern.text.get(..pattern.literal).unwrap_or_default();
            let leads = if literal.len() < pattern.text.len() {
                prefix.starts_with(literal) || literal.starts_with(&prefix)
            } else {
                literal.starts_with(&prefix)
            };
            leads && !pattern.is_negative && pattern.text.contains(&b'/')
        };
        self.list.iter().any(leads)
    }
}

impl Pattern {
    /// Nothing for a line that says nothing. In git a line ends where a NUL is.
    fn parse(line: &[u8]) -> Option<Self> {
        if line.is_empty() || line.starts_with(b"#") {
            return None;
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = line.split(|&byte| byte == 0).next().unwrap_or_default();
        let line = without_spaces_at_its_end(line);
        let (is_negative, text) = match line.strip_prefix(b"!") {
            Some(text) => (true, text),
            None => (false, line),
        };
        let (directories, text) = match text.strip_suffix(b"/") {
            Some(text) => (true, text),
            None => (false, text),
        };
        let whole = text.contains(&b'/');
        let text = text.strip_prefix(b"/").unwrap_or(text);
        let literal = glob::literal_len(text);
        Some(Self { text: text.into(), literal, is_negative, directories, whole })
    }

    fn matches(&self, path: &[u8], case: Case) -> bool {
        let Some((literal, pattern)) = self.text.split_at_checked(self.literal) else {
            return false;
        };
        let Some((begin, rest)) = path.split_at_checked(literal.len()) else { return false };
        case.equal(literal, begin) && glob::matches(pattern, rest, case)
    }
}

/// Spaces at the end are not meant, but for one behind a backslash.
fn without_spaces_at_its_end(line: &[u8]) -> &[u8] {
    let mut end = 0;
    let mut bytes = line.iter().enumerate();
    while let Some((at, &byte)) = bytes.next() {
        match byte {
            b' ' => {}
            // A backslash at the very end keeps what is before it.
            b'\\' => end = bytes.next().map_or(line.len(), |(at, _)| at + 1),
            _ => end = at + 1,
        }
    }
    line.get(..end).unwrap_or(line)
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

    #[test]
    fn lines_are_read_as_git_reads_them() {
        let is = |line: &[u8], name: &[u8]| {
            let patterns = Patterns::parse(line, 0);
            patterns.decide(name, true, Case::Sensitive) == Some(true)
        };
        for (line, name) in [
            (&b"a\r"[..], &b"a"[..]),
            (b"a\r\n", b"a"),
            (b"a\r\r\n", b"a\r"),
            (b"a  ", b"a"),
            (b"a\\  ", b"a "),
            (b"a\t", b"a\t"),
            (b"\t", b"\t"),
            (b"\xef\xbb\xbfa", b"a"),
            (b"\xff\xfea", b"\xff\xfea"),
            (b"a\0b", b"a"),
            (b"\\#a", b"#a"),
            (b"\\!a", b"!a"),
            (b"/a/", b"a"),
        ] {
            assert!(is(line, name), "{}", line.escape_ascii());
        }
        let nothing: [&[u8]; 8] = [b"", b"#a", b" ", b"!", b"/", b"//a", b"a//", b"a\\"];
        for line in nothing {
            assert!(
                !is(line, b"a") && !is(line, b"#a") && !is(line, b" "),
                "{}",
                line.escape_ascii()
            );
        }
        // From where the first wildcard is, and for the whole path.
        assert!(is(b"a/b**/c", b"a/bx/y/c") && !is(b"b**", b"b/c") && is(b"x/b**", b"x/b/c"));
    }
}

//! Whether a pattern of a file of ignore rules matches a path, as git says it.
//!
//! Not here: which pattern decides, and what a line means beside its pattern.
//!
//! The rules are git's own, its odd ones included (`wildmatch.c`, `match_pathname` in `dir.c`; measured against git 2.47):
//!
//! 1. `*` and `?` stand for no slash, nor does a set in brackets, whatever is in it.
//! 2. `**` stands for slashes, too, where a slash or the beginning is before it and a slash or the end
//!    behind it; then `**/` may also stand for nothing. Elsewhere it is a `*`.
//! 3. The beginning is where the first wildcard is, for a pattern with a slash: `a/b**/c` has a `**` that stands for
//!    slashes.
//! 4. Where case is folded, so is every byte outside brackets that has no backslash before it. In brackets only
//!    the byte of the path is: made small for single bytes, both ways for ranges.
//! 5. A pattern that ends inside brackets, or after a backslash, matches nothing; nor does one with a class that git
//!    does not know.
//!
//! **Invariant:** the time is bounded by the product of the two lengths: of two stars that have matched something
//! only the last is ever tried again, and of two `**` likewise.

/// Whether upper and lower case are the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    /// `core.ignoreCase`, for ASCII alone, as in git.
    Fold,
}

impl Case {
    /// A byte of a path, or of a pattern where nothing is special about it.
    const fn of(self, byte: u8) -> u8 {
        match self {
            Self::Sensitive => byte,
            Self::Fold => byte.to_ascii_lowercase(),
        }
    }

    /// Whether two pieces of text are the same.
    pub(super) fn equal(self, a: &[u8], b: &[u8]) -> bool {
        match self {
            Self::Sensitive => a == b,
            Self::Fold => a.eq_ignore_ascii_case(b),
        }
    }
}

/// Where the bytes of a pattern begin to be special.
pub(super) fn literal_len(pattern: &[u8]) -> usize {
    let is_special = |byte: &u8| matches!(byte, b'*' | b'?' | b'[' | b'\\');
    pattern.iter().position(is_special).unwrap_or(pattern.len())
}

/// Where to go on: what is left of a pattern, and of a path.
type Place<'a> = (&'a [u8], &'a [u8]);

/// Whether all of `text` is what `pattern` stands for.
pub(super) fn matches(pattern: &[u8], text: &[u8], case: Case) -> bool {
    let (mut rest, mut left) = (pattern, text);
    // Where to go on if what follows the last `*`, or the last `**`, does not match here.
    let (mut star, mut stars): (Option<Place<'_>>, Option<Place<'_>>) = (None, None);
    loop {
        match step(pattern, rest, left, case) {
            Step::Matched => return true,
            Step::On(next, after) => (rest, left) = (next, after),
            Step::Star(next) => {
                star = Some((next, left));
                rest = next;
            }
            Step::Stars { behind, or_nothing } => {
                star = None;
                let later = || left.split_first().map(|(_, after)| (behind, after));
                stars = if or_nothing.is_some() { Some((behind, left)) } else { later() };
                rest = or_nothing.unwrap_or(behind);
            }
            Step::Failed => {
                let single = star.and_then(|(next, from)| match from.split_first() {
                    Some((&byte, after)) if byte != b'/' => Some((next, after)),
                    _ => None,
                });
                if let Some((next, from)) = single {
                    star = Some((next, from));
                    (rest, left) = (next, from);
                    continue;
                }
                star = None;
                let Some((next, from)) = stars else { return false };
                (rest, left) = (next, from);
                stars = from.split_first().map(|(_, after)| (next, after));
            }
        }
    }
}

/// What the next element of a pattern makes of the next bytes of a path.
enum Step<'a> {
    /// Both are at their end.
    Matched,
    Failed,
    On(&'a [u8], &'a [u8]),
    /// What follows a `*`.
    Star(&'a [u8]),
    /// What follows a `**`, and what may follow at once where it stands for nothing.
    Stars {
        behind: &'a [u8],
        or_nothing: Option<&'a [u8]>,
    },
}

fn step<'a>(pattern: &[u8], rest: &'a [u8], left: &'a [u8], case: Case) -> Step<'a> {
    let Some((&first, next)) = rest.split_first() else {
        return if left.is_empty() { Step::Matched } else { Step::Failed };
    };
    if first == b'*' {
        let behind = next.iter().position(|&byte| byte != b'*').and_then(|at| next.get(at..));
        let behind = behind.unwrap_or_default();
        let before = pattern.len() - rest.len();
        let begins = before == 0 || pattern.get(before - 1) == Some(&b'/');
        let ends = behind.is_empty() || behind.starts_with(b"/") || behind.starts_with(b"\\/");
        return if next.starts_with(b"*") && begins && ends {
            Step::Stars { behind, or_nothing: behind.strip_prefix(b"/") }
        } else {
            Step::Star(behind)
        };
    }
    let Some((&byte, after)) = left.split_first() else { return Step::Failed };
    let byte = case.of(byte);
    let (is_so, next) = match first {
        b'?' => (byte != b'/', next),
        b'[' => match in_brackets(next, byte, case) {
            Some((is_in, next)) => (is_in && byte != b'/', next),
            None => return Step::Failed,
        },
        b'\\' => match next.split_first() {
            Some((&meant, next)) => (meant == byte, next),
            None => return Step::Failed,
        },
        _ => (case.of(first) == byte, next),
    };
    if is_so { Step::On(next, after) } else { Step::Failed }
}

/// Whether a byte is in the set whose bracket was just opened, and what follows the set; nothing where the set is none.
fn in_brackets(set: &[u8], byte: u8, case: Case) -> Option<(bool, &[u8])> {
    let negated = matches!(set.first(), Some(b'!' | b'^'));
    let mut rest = if negated { set.get(1..)? } else { set };
    let mut is_in = false;
    // The byte before, where a range may begin with it.
    let mut low = None;
    loop {
        let (&first, next) = rest.split_first()?;
        rest = next;
        match (first, low) {
            (b'\\', _) => {
                let (&meant, next) = rest.split_first()?;
                is_in |= meant == byte;
                (low, rest) = (Some(meant), next);
            }
            (b'-', Some(from)) if rest.first().is_some_and(|&to| to != b']') => {
                let (&to, next) = rest.split_first()?;
                rest = next;
                let to = match to {
                    b'\\' => {
                        let (&meant, next) = rest.split_first()?;
                        rest = next;
                        meant
                    }
                    _ => to,
                };
                let folded = case == Case::Fold && (from..=to).contains(&byte.to_ascii_uppercase());
                is_in |= (from..=to).contains(&byte) || folded;
                low = None;
            }
            (b'[', _) if rest.starts_with(b":") => {
                let end = rest.iter().position(|&byte| byte == b']')?;
                let name = rest.get(1..end).and_then(|name| name.strip_suffix(b":"));
                if let Some(name) = name {
                    is_in |= in_class(name, byte, case)?;
                    (low, rest) = (None, rest.get(end + 1..)?);
                } else {
                    is_in |= byte == b'[';
                    low = Some(b'[');
                }
            }
            _ => {
                is_in |= first == byte;
                low = Some(first);
            }
        }
        // The first one is never the end.
        if let Some(after) = rest.strip_prefix(b"]") {
            return Some((is_in != negated, after));
        }
    }
}

/// Whether a byte is in a class; nothing where there is no such class.
fn in_class(name: &[u8], byte: u8, case: Case) -> Option<bool> {
    Some(match name {
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"alpha" => byte.is_ascii_alphabetic(),
        b"blank" => matches!(byte, b' ' | b'\t'),
        b"cntrl" => byte.is_ascii_control(),
        b"digit" => byte.is_ascii_digit(),
        b"graph" => byte.is_ascii_graphic(),
        b"lower" => byte.is_ascii_lowercase(),
        b"print" => byte.is_ascii_graphic() || byte == b' ',
        b"punct" => byte.is_ascii_punctuation(),
        b"space" => matches!(byte, b' ' | b'\t' | b'\n' | b'\r'),
        b"upper" => byte.is_ascii_uppercase() || (case == Case::Fold && byte.is_ascii_lowercase()),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is(pattern: &str, text: &str) -> bool {
        matches(pattern.as_bytes(), text.as_bytes(), Case::Sensitive)
    }

    #[test]
    fn stars_stand_for_what_they_stand_for_in_git() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "ab"][..], &["a/b", "/"][..]),
            ("**", &["", "a/b/c"], &[]),
            ("**/a", &["a", "b/a", "/a", "b/c/a"], &["ba", "a/b"]),
            ("a/**", &["a/", "a/b/c"], &["a", "b/a/c"]),
            ("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/xb", "ab"]),
            ("a**/b", &["a/b", "axy/b"], &["a/x/b"]),
            ("**\\/b", &["/b", "a/b", "a/c/b"], &["b"]),
            ("*a*b", &["ab", "aab", "xaxbb"], &["xa/b", "aba"]),
            ("**/*a*/**/b*", &["a/b", "x/a/y/z/bc", "ca/a/x/b"], &["b/a", "a/xb"]),
            ("***", &["a/b"], &[]),
        ] {
            assert!(yes.iter().all(|text| is(pattern, text)), "{pattern}");
            assert!(!no.iter().any(|text| is(pattern, text)), "{pattern}");
        }
    }

    #[test]
    fn brackets_hold_what_they_hold_in_git() {
        for (pattern, yes, no) in [
            ("[]a]", "]a", "b[/"),
            ("[!]a]", "b[", "]a/"),
            ("[^a-c]", "d-", "abc/"),
            ("[a-]", "a-", "b"),
            ("[\\a-c]", "abc", "\\-"),
            ("[a-\\c]", "abc", "\\-"),
            ("[\\]]", "]", "\\"),
            ("[[:digit:]-z]", "0-z", "a"),
            ("[[:x]", "[:x", "]"),
            ("[+-0]", "+,-.0", "/1"),
            ("[[:none:]a]", "", "a"),
            ("[a", "", "a["),
            ("[", "", "["),
            ("\\", "", "\\"),
        ] {
            let is = |byte: char| is(pattern, &byte.to_string());
            assert!(yes.chars().all(is), "{pattern}");
            assert!(!no.chars().any(is), "{pattern}");
        }
    }

    #[test]
    fn case_is_folded_where_git_does() {
        let is =
            |pattern: &str, text: &str| matches(pattern.as_bytes(), text.as_bytes(), Case::Fold);
        assert!(is("a*C", "ABc") && is("[A-C]", "b") && is("[a-c]", "B") && is("[[:upper:]]", "b"));
        // A single byte that is not small, in brackets or behind a backslash, is none of any path.
        assert!(!is("[A]", "a") && !is("[A]", "A") && !is("\\A", "A") && is("\\a", "A"));
    }

    #[test]
    fn many_stars_take_no_time() {
        let pattern = "**/*a".repeat(2000) + "**/x*[b]";
        let text = "a/aaaa".repeat(2000);
        assert!(!matches(pattern.as_bytes(), text.as_bytes(), Case::Sensitive));
    }
}

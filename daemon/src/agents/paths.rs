//! Paths of one machine as those of another, where they stand in the text of a transcript.
//!
//! **Invariant:** a path is replaced only where it stands as a whole: `/src/app` is in `/src/app/x` and in
//! `cd '/src/app'`, and not in `/src/app2` or `/my/src/app`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What becomes what; the longest that fits is taken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PathMap {
    /// As they stand in JSON, and in JSON inside of a JSON string.
    pairs: Vec<(Vec<u8>, Vec<u8>)>,
    /// As they stand in a URL.
    urls: Vec<(Vec<u8>, Vec<u8>)>,
    /// As they are.
    paths: Vec<(PathBuf, PathBuf)>,
}

impl PathMap {
    /// From absolute paths; others, the root of all and what is no UTF-8 cannot stand in a transcript and are left out.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a Path, &'a Path)>) -> Self {
        let mut map = Self::default();
        for (from, to) in pairs {
            let (Some(old), Some(new)) = (text(from), text(to)) else { continue };
            if old.is_empty() || map.paths.iter().any(|(known, _)| known == from) {
                continue;
            }
            map.paths.push((from.to_owned(), to.to_owned()));
            for form in [escaped, |text: &str| escaped(&escaped(text))] {
                let old = form(old).into_bytes();
                if !map.pairs.iter().any(|(known, _)| *known == old) {
                    map.pairs.push((old, form(new).into_bytes()));
                }
            }
            map.urls.push((url(old).into_bytes(), url(new).into_bytes()));
        }
        for pairs in [&mut map.pairs, &mut map.urls] {
            pairs.sort_by_key(|(old, _)| std::cmp::Reverse(old.len()));
        }
        map.paths.sort_by_key(|(old, _)| std::cmp::Reverse(old.as_os_str().len()));
        map
    }

    /// A path as it is there.
    pub fn path(&self, path: &Path) -> PathBuf {
        let found = self.paths.iter().find_map(|(old, new)| {
            let below = path.strip_prefix(old).ok()?;
            Some(if below.as_os_str().is_empty() { new.clone() } else { new.join(below) })
        });
        found.unwrap_or_else(|| path.to_owned())
    }

    /// The text of a JSON string with its paths replaced; nothing where there are none.
    pub(super) fn replace(&self, text: &[u8]) -> Option<Vec<u8>> {
        let mut out: Option<Vec<u8>> = None;
        let (mut at, mut copied) = (0, 0);
        while let Some(slash) = position(text, b'/', at) {
            at = slash + 1;
            if !begins(text, slash) {
                continue;
            }
            let rest = text.get(slash..).unwrap_or_default();
            let fits = |(old, _): &&(Vec<u8>, Vec<u8>)| {
                rest.strip_prefix(old.as_slice()).is_some_and(ends)
            };
            let is_url = text.get(..slash).is_some_and(|before| before.ends_with(b"://"));
            let pairs = if is_url { &self.urls } else { &self.pairs };
            if let Some((old, new)) = pairs.iter().find(fits) {
                let out = out.get_or_insert_default();
                out.extend_from_slice(text.get(copied..slash).unwrap_or_default());
                out.extend_from_slice(new);
                copied = slash + old.len();
                at = copied;
            }
        }
        let mut out = out?;
        out.extend_from_slice(text.get(copied..).unwrap_or_default());
        (out != text).then_some(out)
    }
}

fn position(text: &[u8], byte: u8, from: usize) -> Option<usize> {
    text.get(from..)?.iter().position(|&it| it == byte).map(|at| from + at)
}

/// Without a slash at the end; nothing where it is not absolute.
fn text(path: &Path) -> Option<&str> {
    path.is_absolute().then(|| path.to_str().map(|text| text.trim_end_matches('/')))?
}

/// As between the quotes of JSON.
fn escaped(text: &str) -> String {
    let quoted = serde_json::Value::from(text).to_string();
    quoted.get(1..quoted.len() - 1).unwrap_or_default().to_owned()
}

/// As in a URL of the scheme `file`.
fn url(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte) {
            out.push(byte.into());
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

/// Whether what stands there cannot be the middle of a longer path.
fn begins(text: &[u8], slash: usize) -> bool {
    let before = text.get(..slash).unwrap_or_default();
    let Some(&last) = before.last() else { return true };
    if is_of_name(last) {
        // `\n` before it is the end of a line, and not a name.
        let escape = before.len().checked_sub(2).and_then(|at| before.get(at)) == Some(&b'\\');
        return escape && matches!(last, b'n' | b't' | b'r');
    }
    match last {
        b'/' => before.ends_with(b"://"),
        b'.' | b'-' | b'~' | b'+' | b'@' | b'%' => false,
        _ => true,
    }
}

/// Whether a path has ended where this goes on.
fn ends(rest: &[u8]) -> bool {
    match *rest {
        // The end of a sentence, unless it is the beginning of a suffix.
        [b'.', next, ..] => !(is_of_name(next) || matches!(next, b'.' | b'-')),
        [b'-' | b'~' | b'+' | b'@' | b'%', ..] => false,
        [next, ..] => !is_of_name(next),
        [] => true,
    }
}

const fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> PathMap {
        PathMap::new(pairs.iter().map(|(from, to)| (Path::new(*from), Path::new(*to))))
    }

    fn replaced(map: &PathMap, text: &str) -> String {
        let new = map.replace(text.as_bytes()).unwrap_or_else(|| text.as_bytes().to_vec());
        String::from_utf8(new).unwrap()
    }

    #[test]
    fn a_path_is_replaced_where_it_stands_as_a_whole() {
        let map = map(&[("/src/app", "/w/1")]);
        for (from, to) in [
            ("/src/app", "/w/1"),
            ("/src/app/", "/w/1/"),
            ("/src/app/x.rs:3", "/w/1/x.rs:3"),
            ("cd '/src/app' && ls", "cd '/w/1' && ls"),
            (r"a\n/src/app\n/src/app/b", r"a\n/w/1\n/w/1/b"),
            (r#"{\"cmd\":\"cat /src/app/a\"}"#, r#"{\"cmd\":\"cat /w/1/a\"}"#),
            ("PATH=/bin:/src/app/bin:/x", "PATH=/bin:/w/1/bin:/x"),
            ("-I/src/app", "-I/src/app"),
            ("--out=/src/app", "--out=/w/1"),
            ("file:///src/app/x", "file:///w/1/x"),
            ("See /src/app.", "See /w/1."),
            ("<cwd>/src/app</cwd>", "<cwd>/w/1</cwd>"),
        ] {
            assert_eq!(replaced(&map, from), to);
        }
        for same in [
            "/src/app2",
            "/my/src/app",
            "/src/app.bak",
            "/src/app-old",
            "/src/application",
            "../src/app",
            "src/app",
            "/src/appé",
            "//src/app",
            "x/src/app",
            "/src/ap",
            "",
        ] {
            assert_eq!(replaced(&map, same), same);
            assert_eq!(map.replace(same.as_bytes()), None);
        }
    }

    #[test]
    fn the_longest_that_fits_is_taken_once() {
        let map = map(&[("/home/ann", "/home/bob"), ("/home/ann/app", "/home/ann"), ("/", "/x")]);
        assert_eq!(replaced(&map, "/home/ann/app/x /home/ann/y /z"), "/home/ann/x /home/bob/y /z");
        assert_eq!(map.path(Path::new("/home/ann/app")), Path::new("/home/ann"));
        assert_eq!(map.path(Path::new("/home/ann/app/x")), Path::new("/home/ann/x"));
        assert_eq!(map.path(Path::new("/home/ann2")), Path::new("/home/ann2"));
    }

    #[test]
    fn names_that_are_written_otherwise_are_found() {
        let map = map(&[("/a \"b\"/ü\\c", "/n w")]);
        assert_eq!(replaced(&map, r#"cat /a \"b\"/ü\\c/x"#), "cat /n w/x");
        assert_eq!(replaced(&map, r#"cat /a \\\"b\\\"/ü\\\\c/x"#), "cat /n w/x");
        assert_eq!(replaced(&map, "file:///a%20%22b%22/%C3%BC%5Cc/x"), "file:///n%20w/x");
        assert_eq!(map.path(Path::new("relative")), Path::new("relative"));
    }
}

//! What a store has beyond its format, by name: what a program must know to read it, or to write to it.
//!
//! Names stand in the file of the format. A program that comes upon one it does not know does not have to guess from a
//! number whether the rest is for it.
//!
//! Not here: what a feature means. This program has none; the first one that changes bytes adds its name to [`KNOWN`].
//!
//! **Invariant:** names are bounded before they are kept: a file, a number of names, a length, an alphabet.

use std::path::Path;

use crate::error::StoreError;

/// Those that this program knows.
const KNOWN: [&str; 0] = [];

/// Longest file of a format that is read.
pub(crate) const MAX_FILE: u64 = 4096;

/// Most names in a store.
const MOST: usize = 64;

/// Longest name, in bytes.
const LONGEST: usize = 40;

/// Without knowing it nothing can be read.
const READ: &str = "read-required";

/// Without knowing it everything can be read, and nothing may be written.
const WRITE: &str = "write-required";

/// Who does not know it does as if it was not there.
const OPTIONAL: &str = "optional";

/// The features of a store, as they stand in its file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Features {
    /// Of those that have to be known to read, the first that is not.
    unread: Option<String>,
    /// The same of writing.
    unwritten: Option<String>,
}

impl Features {
    /// Reads the lines after that of the format; nothing where they are none that a program would write.
    pub(crate) fn parse<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut features = Self::default();
        let mut seen = Vec::new();
        for line in lines {
            let (kind, name) = line.split_once(' ')?;
            if seen.len() == MOST || !is_name(name) || seen.contains(&name) {
                return None;
            }
            seen.push(name);
            let first_unknown = match kind {
                READ => &mut features.unread,
                WRITE => &mut features.unwritten,
                OPTIONAL => continue,
                _ => return None,
            };
            if !KNOWN.contains(&name) {
                first_unknown.get_or_insert_with(|| name.to_owned());
            }
        }
        Some(features)
    }

    /// Refuses what cannot be read without knowing more.
    pub(crate) fn check_readable(&self, path: &Path) -> Result<(), StoreError> {
        match &self.unread {
            None => Ok(()),
            Some(feature) => {
                Err(StoreError::Unread { path: path.to_owned(), feature: feature.clone() })
            }
        }
    }

    /// What has to be known to write, and is not.
    pub(crate) fn into_unwritten(self) -> Option<String> {
        self.unwritten
    }
}

fn is_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=LONGEST).contains(&name.len()) && name.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<Features> {
        Features::parse(text.lines())
    }

    #[test]
    fn the_first_unknown_one_of_each_kind_is_named() {
        assert_eq!(parse(""), Some(Features::default()));
        assert_eq!(parse("optional a\noptional b-2"), Some(Features::default()));
        let found =
            parse("optional z\nwrite-required b\nread-required a\nwrite-required c").unwrap();
        assert_eq!(found.unread.as_deref(), Some("a"));
        assert_eq!(found.unwritten.as_deref(), Some("b"));
        let refused = found.check_readable(Path::new("store")).unwrap_err();
        assert!(matches!(refused, StoreError::Unread { feature, .. } if feature == "a"));
    }

    #[test]
    fn names_and_their_number_are_bounded() {
        let longest = "x".repeat(LONGEST);
        assert!(parse(&format!("optional {longest}")).is_some());
        for bad in [
            format!("optional {longest}x"),
            "optional ".to_owned(),
            "optional".to_owned(),
            "optional A".to_owned(),
            "optional a b".to_owned(),
            "optional a\nread-required a".to_owned(),
            "required a".to_owned(),
            "optional a\n\noptional b".to_owned(),
            "optional ä".to_owned(),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
        let many = |count: usize| {
            (0..count).fold(String::new(), |text, n| text + &format!("optional n{n}\n"))
        };
        assert!(parse(&many(MOST)).is_some());
        assert_eq!(parse(&many(MOST + 1)), None);
        assert!(many(MOST).len() < MAX_FILE as usize);
    }
}

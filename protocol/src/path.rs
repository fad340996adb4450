//! Names and paths as raw bytes, and which of them may stand in a tree.
//!
//! A name is one component. Names are bytes end to end: UTF-8, case and Unicode forms are a matter
//! of the checkout, not of the format.

use std::fmt;

/// Longest name in bytes: `NAME_MAX` of every file system that Baton runs on.
pub const MAX_NAME: usize = 255;

/// Longest path in bytes: Linux `PATH_MAX` without its NUL.
pub const MAX_PATH: usize = 4095;

/// Deepest nesting of directories. A path of [`MAX_PATH`] bytes holds at most 2,048 names.
pub const MAX_DEPTH: usize = 2048;

/// Why a byte string is not a name.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum NameError {
    /// No bytes at all.
    #[error("empty name")]
    Empty,
    /// More than [`MAX_NAME`] bytes.
    #[error("name of {0} bytes, allowed are {MAX_NAME}")]
    TooLong(usize),
    /// `.` or `..`.
    #[error("name is a dot or two dots")]
    Dots,
    /// Contains `/` or NUL.
    #[error("name contains a slash or a NUL byte")]
    Separator,
    /// Could stand for git's own folder: see [`is_git_name`]. Only what comes from a peer is refused
    /// for it.
    #[error("name could stand for a .git folder")]
    Git,
}

/// Checks that `name` may stand in a tree.
pub fn check_name(name: &[u8]) -> Result<(), NameError> {
    match name {
        [] => Err(NameError::Empty),
        b"." | b".." => Err(NameError::Dots),
        _ if name.len() > MAX_NAME => Err(NameError::TooLong(name.len())),
        _ if name.iter().any(|&byte| byte == b'/' || byte == 0) => Err(NameError::Separator),
        _ => Ok(()),
    }
}

/// Whether a name could reach git's own folder on some file system: by case, by trailing dots and
/// spaces, by a short name, by a stream suffix, or by code points that HFS+ ignores.
///
/// The rules are those of git's `verify_path` with `core.protectHFS` and `core.protectNTFS`.
pub fn is_git_name(name: &[u8]) -> bool {
    // Every one of them has a `g`, and few other names are looked at closely.
    let has_g = name.iter().any(|byte| byte.eq_ignore_ascii_case(&b'g'));
    has_g && (is_dot_git_hfs(name) || is_dot_git_ntfs(name))
}

/// HFS+ compares without case and without these code points.
fn is_dot_git_hfs(name: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(name) else { return false };
    let ignored = |c: &char| matches!(u32::from(*c), 0x200c..=0x200f | 0x202a..=0x202e | 0x206a..=0x206f | 0xfeff);
    text.chars().filter(|c| !ignored(c)).map(|c| c.to_ascii_lowercase()).eq(".git".chars())
}

/// NTFS compares without case, drops trailing dots and spaces, knows `git~1`, and cuts at `:`;
/// a backslash separates.
fn is_dot_git_ntfs(name: &[u8]) -> bool {
    name.split(|&byte| byte == b'\\').any(|part| {
        let stem = part.split(|&byte| byte == b':').next().unwrap_or_default();
        let kept =
            stem.iter().rposition(|&byte| byte != b'.' && byte != b' ').map_or(0, |at| at + 1);
        let stem = stem.get(..kept).unwrap_or_default();
        stem.eq_ignore_ascii_case(b".git") || stem.eq_ignore_ascii_case(b"git~1")
    })
}

/// A relative path: names joined by `/`, never empty names, never `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RelPath(Vec<u8>);

/// Why a byte string is not a relative path.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum PathError {
    /// More than [`MAX_PATH`] bytes.
    #[error("path of {0} bytes, allowed are {MAX_PATH}")]
    TooLong(usize),
    /// One component is not a name.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl RelPath {
    /// The path of the root itself.
    pub const fn root() -> Self {
        Self(Vec::new())
    }

    /// Checks every component.
    pub fn new(bytes: &[u8]) -> Result<Self, PathError> {
        if bytes.len() > MAX_PATH {
            return Err(PathError::TooLong(bytes.len()));
        }
        if !bytes.is_empty() {
            bytes.split(|&byte| byte == b'/').try_for_each(check_name)?;
        }
        Ok(Self(bytes.to_vec()))
    }

    /// The path of an entry of this directory. `name` was checked by the tree it came from.
    #[must_use]
    pub fn join(&self, name: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1 + name.len());
        bytes.extend_from_slice(&self.0);
        if !bytes.is_empty() {
            bytes.push(b'/');
        }
        bytes.extend_from_slice(name);
        Self(bytes)
    }

    /// The raw bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Whether this is the root.
    pub const fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The names from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|&byte| byte == b'/').filter(|name| !name.is_empty())
    }

    /// The directory that holds this entry, and its name; nothing for the root.
    pub fn split_last(&self) -> Option<(&[u8], &[u8])> {
        if self.is_root() {
            return None;
        }
        Some(match self.0.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (self.0.get(..at)?, self.0.get(at + 1..)?),
            None => (&[], &self.0),
        })
    }

    /// For people: lossy where the bytes are not UTF-8.
    pub fn display(&self) -> std::borrow::Cow<'_, str> {
        String::from_utf8_lossy(&self.0)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.display())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_that_could_leave_their_directory_are_refused() {
        assert_eq!(check_name(b""), Err(NameError::Empty));
        assert_eq!(check_name(b"."), Err(NameError::Dots));
        assert_eq!(check_name(b".."), Err(NameError::Dots));
        assert_eq!(check_name(b"a/b"), Err(NameError::Separator));
        assert_eq!(check_name(b"a\0"), Err(NameError::Separator));
        assert_eq!(check_name(&[b'x'; 256]), Err(NameError::TooLong(256)));
        assert_eq!(check_name(&[b'x'; 255]), Ok(()));
        assert_eq!(check_name(b"..."), Ok(()));
        assert_eq!(check_name(b"-rf\n\xff"), Ok(()));
    }

    #[test]
    fn disguises_of_the_git_folder_are_seen() {
        for name in [
            &b".git"[..],
            b".GIT",
            b".Git",
            b".git.",
            b".git ",
            b".git . .",
            b"git~1",
            b"GIT~1",
            b".GIT.",
            b".Git::$INDEX_ALLOCATION",
            b".git:stream",
            b".git::$INDEX_ALLOCATION",
            b".git\\config",
            b"a\\.git",
            ".g\u{200c}it".as_bytes(),
            "\u{feff}.git".as_bytes(),
        ] {
            assert!(is_git_name(name), "{:?}", String::from_utf8_lossy(name));
        }
        for name in [&b".gitignore"[..], b"git", b".gi", b"git~2", b".github", b"x.git"] {
            assert!(!is_git_name(name), "{:?}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn paths_are_checked_by_component() {
        assert!(RelPath::new(b"a/../b").is_err());
        assert!(RelPath::new(b"/a").is_err());
        assert!(RelPath::new(b"a//b").is_err());
        assert!(RelPath::new(b"a/").is_err());
        let path = RelPath::new(b"a/b").unwrap();
        assert_eq!(path.split_last(), Some((&b"a"[..], &b"b"[..])));
        assert_eq!(path.components().count(), 2);
        assert_eq!(RelPath::root().join(b"a").join(b"b"), path);
    }

    proptest! {
        #[test]
        fn paths_are_their_components(path in crate::arbitrary::rel_path()) {
            prop_assert_eq!(RelPath::new(path.as_bytes()), Ok(path.clone()));
            let joined = path.components().fold(RelPath::root(), |path, name| path.join(name));
            prop_assert_eq!(&joined, &path);
            let (parent, name) = path.split_last().unwrap();
            prop_assert_eq!(RelPath::new(parent).unwrap().join(name), path);
        }

        #[test]
        fn what_is_accepted_cannot_leave_its_root(bytes in proptest::collection::vec(
            prop_oneof![proptest::sample::select(b"./a\0".to_vec()), any::<u8>()], 0..20,
        )) {
            if let Ok(path) = RelPath::new(&bytes) {
                prop_assert_eq!(path.as_bytes(), &bytes[..]);
                prop_assert!(path.components().all(|name| check_name(name).is_ok()));
                prop_assert!(!bytes.starts_with(b"/") && !bytes.contains(&0));
            }
        }
    }

    #[test]
    fn the_longest_path_is_the_last_that_is_taken() {
        let name = [b'x'; MAX_NAME];
        let longest = [&name[..]; 16].join(&b'/');
        assert_eq!(longest.len(), MAX_PATH);
        assert!(RelPath::new(&longest).is_ok());
        let longer = [&longest[..], b"/a"].concat();
        assert_eq!(RelPath::new(&longer), Err(PathError::TooLong(MAX_PATH + 2)));
        assert_eq!(RelPath::new(&[b'a'; 256]), Err(PathError::Name(NameError::TooLong(256))));
    }
}

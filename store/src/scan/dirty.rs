//! What may have changed in a tree since it was last looked at: the question that a seal answers.
//!
//! Made by a watcher from what the system told it, and by nobody else believed to be exact: a name in
//! here is looked at, a name that is not stands as it was.
//!
//! **Invariant:** memory is bounded by the number of directories, whatever happens in them: a directory
//! with many dirty names is listed instead, and a tree with many dirty directories is walked.

use std::collections::{BTreeMap, BTreeSet};

/// Dirty names of one directory above which it is listed instead.
pub const MAX_NAMES: usize = 1024;

/// Dirty directories above which the whole tree is looked at.
pub const MAX_DIRECTORIES: usize = 50_000;

/// Moved directories that are remembered; of those beyond the files are read again.
pub const MAX_MOVES: usize = 4096;

/// How much of a name has to be looked at; each includes those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Its state: what is known of a file in this very state still holds.
    Look,
    /// Its content, whatever its state says: a store through a mapping leaves the times alone.
    Read,
    /// It may be another directory than before: everything below it.
    Walk,
}

/// What is dirty in one directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DirtyDirectory {
    /// All of its names have to be looked at, and it may have others.
    pub list: bool,
    /// Everything below has to be looked at.
    pub walk: bool,
    /// Single names; also beside `list`, where one has to be read or walked.
    pub names: BTreeMap<Vec<u8>, Depth>,
}

impl DirtyDirectory {
    /// Whether there may be names that were not written down, for there were too many.
    pub fn is_full(&self) -> bool {
        self.list && self.names.len() >= MAX_NAMES
    }

    /// Adds other marks.
    pub(crate) fn add(&mut self, other: &Self) {
        self.list |= other.list;
        self.walk |= other.walk;
        for (name, depth) in &other.names {
            let mark = self.names.entry(name.clone()).or_insert(*depth);
            *mark = (*mark).max(*depth);
        }
    }
}

/// What may have changed in a tree. Paths are relative to its root, names joined by slashes, the root
/// itself is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty {
    /// Nothing is known: every directory is listed and every state looked at.
    everything: bool,
    directories: BTreeMap<Vec<u8>, DirtyDirectory>,
    /// Directories that went from one path to another, in the order in which it happened.
    moves: Vec<(Vec<u8>, Vec<u8>)>,
    /// Directories whose marks went along with moves, so that going to and fro has a bound.
    carried: usize,
}

impl Dirty {
    /// Everything is dirty.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Nothing is known any more.
    pub fn set_everything(&mut self) {
        self.everything = true;
        self.directories.clear();
    }

    /// Whether nothing is known.
    pub const fn is_everything(&self) -> bool {
        self.everything
    }

    /// Whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        !self.everything && self.directories.is_empty()
    }

    /// One name of a directory has to be looked at.
    pub fn name(&mut self, directory: &[u8], name: &[u8], depth: Depth) {
        let Some(dirty) = self.directory(directory) else { return };
        if let Some(before) = dirty.names.get_mut(name) {
            *before = depth.max(*before);
            return;
        }
        if dirty.names.len() >= MAX_NAMES {
            dirty.list = true;
            if depth == Depth::Look {
                return;
            }
        }
        dirty.names.insert(name.to_vec(), depth);
    }

    /// A directory has to be listed.
    pub fn list(&mut self, directory: &[u8]) {
        if let Some(dirty) = self.directory(directory) {
            dirty.list = true;
        }
    }

    /// Everything below a directory has to be looked at.
    pub fn walk(&mut self, directory: &[u8]) {
        if directory.is_empty() {
            return self.set_everything();
        }
        if let Some(dirty) = self.directory(directory) {
            dirty.walk = true;
        }
    }

    /// These paths have to be looked at.
    pub(crate) fn look_at(&mut self, paths: &[Vec<u8>]) {
        for path in paths {
            let (directory, name) = split(path);
            self.name(directory, name, Depth::Look);
        }
    }

    /// Visits every directory on the way to something, but for the root, each after the one above it.
    pub(crate) fn for_each_way(&self, mut visit: impl FnMut(&[u8])) {
        let mut seen: BTreeSet<&[u8]> = BTreeSet::new();
        for path in self.directories.keys() {
            let mut ways = Vec::new();
            let mut way = path.as_slice();
            // Those above one that was seen were, too.
            while !way.is_empty() && seen.insert(way) {
                ways.push(way);
                way = split(way).0;
            }
            ways.into_iter().rev().for_each(&mut visit);
        }
    }

    /// A directory went to another path: what is known of the files below it is found there. Both paths
    /// have to be marked as well. What was marked below the old path is marked below the new one, too:
    /// a file that has to be read has to be read wherever it stands.
    pub fn moved(&mut self, from: &[u8], to: &[u8]) {
        if self.moves.len() < MAX_MOVES && self.carried < MAX_DIRECTORIES {
            self.carry(from, to);
            self.moves.push((from.to_vec(), to.to_vec()));
        }
    }

    /// Marks below `to` what is marked below `from`. The marks stay where they were, too: something
    /// else may stand there by now.
    fn carry(&mut self, from: &[u8], to: &[u8]) {
        if self.everything || from.is_empty() {
            return;
        }
        let below = self.directories.range(from.to_vec()..).take_while(|(path, _)| {
            path.starts_with(from) && path.get(from.len()).is_none_or(|&byte| byte <= b'/')
        });
        let is_below = |path: &[u8]| path.get(from.len()).is_none_or(|&byte| byte == b'/');
        let below: Vec<_> = below
            .filter(|(path, _)| is_below(path))
            .map(|(path, marks)| {
                ([to, path.get(from.len()..).unwrap_or_default()].concat(), marks.clone())
            })
            .collect();
        self.carried += below.len();
        for (path, marks) in below {
            self.add_marks(&path, marks);
        }
    }

    fn add_marks(&mut self, directory: &[u8], marks: DirtyDirectory) {
        if marks.walk {
            self.walk(directory);
        }
        if marks.list {
            self.list(directory);
        }
        for (name, depth) in marks.names {
            self.name(directory, &name, depth);
        }
    }

    /// Adds what happened later.
    pub fn merge(&mut self, later: Self) {
        if later.everything {
            self.set_everything();
        }
        for (from, to) in later.moves {
            self.moved(&from, &to);
        }
        for (directory, marks) in later.directories {
            self.add_marks(&directory, marks);
        }
    }

    /// Takes the marks of some directories out. Where everything is dirty there are none.
    #[must_use]
    pub fn split_off(&mut self, which: impl Fn(&[u8]) -> bool) -> Self {
        let directories = self.directories.extract_if(.., |path, _| which(path)).collect();
        self.moves.retain(|(from, to)| !which(from) && !which(to));
        Self { directories, ..Self::default() }
    }

    /// What is dirty, by directory.
    pub const fn directories(&self) -> &BTreeMap<Vec<u8>, DirtyDirectory> {
        &self.directories
    }

    /// Directories that went elsewhere, in order.
    pub fn moves(&self) -> &[(Vec<u8>, Vec<u8>)] {
        &self.moves
    }

    /// Whether a seal looks at this path, at least this deep.
    pub fn covers(&self, path: &[u8], depth: Depth) -> bool {
        if self.everything {
            return depth == Depth::Look;
        }
        let (directory, name) = split(path);
        let here = self.directories.get(directory).is_some_and(|dirty| {
            dirty.names.get(name).is_some_and(|found| *found >= depth)
                || (dirty.list && depth == Depth::Look)
        });
        here || self.is_walked(path, depth)
    }

    /// Whether a directory on the way to this path is walked.
    fn is_walked(&self, path: &[u8], depth: Depth) -> bool {
        let mut above = path;
        while !above.is_empty() {
            if depth == Depth::Look && self.directories.get(above).is_some_and(|dirty| dirty.walk) {
                return true;
            }
            let (directory, name) = split(above);
            let walked = |dirty: &DirtyDirectory| dirty.names.get(name) == Some(&Depth::Walk);
            if self.directories.get(directory).is_some_and(walked) {
                return true;
            }
            above = directory;
        }
        false
    }

    /// The marks of a directory; nothing where everything is dirty, or is from here on.
    fn directory(&mut self, path: &[u8]) -> Option<&mut DirtyDirectory> {
        if self.everything {
            return None;
        }
        if !self.directories.contains_key(path) && self.directories.len() >= MAX_DIRECTORIES {
            self.set_everything();
            return None;
        }
        Some(self.directories.entry(path.to_vec()).or_default())
    }
}

/// The directory of a path, and its name in it.
pub fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (path.get(..at).unwrap_or_default(), path.get(at + 1..).unwrap_or_default()),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_cover_what_they_say_and_nothing_else() {
        let mut dirty = Dirty::default();
        dirty.name(b"a", b"file", Depth::Look);
        dirty.name(b"a", b"new", Depth::Walk);
        dirty.list(b"b/c");
        dirty.walk(b"d");
        assert!(dirty.covers(b"a/file", Depth::Look) && !dirty.covers(b"a/file", Depth::Read));
        assert!(dirty.covers(b"a/new/deep/er", Depth::Look));
        assert!(dirty.covers(b"b/c/any", Depth::Look) && !dirty.covers(b"b/c/any/x", Depth::Look));
        assert!(dirty.covers(b"d/any/where", Depth::Look));
        assert!(!dirty.covers(b"b/c", Depth::Look) && !dirty.covers(b"e", Depth::Look));
        dirty.name(b"a", b"file", Depth::Read);
        dirty.name(b"a", b"file", Depth::Look);
        assert!(dirty.covers(b"a/file", Depth::Read));
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_forgotten() {
        let mut dirty = Dirty::default();
        for i in 0..MAX_NAMES + 10 {
            dirty.name(b"", format!("{i}").as_bytes(), Depth::Look);
        }
        assert!(dirty.covers(b"any", Depth::Look));
        dirty.name(b"", b"mapped", Depth::Read);
        assert!(dirty.covers(b"mapped", Depth::Read));
        for i in 0..=MAX_DIRECTORIES {
            dirty.list(format!("d{i}").as_bytes());
        }
        assert!(dirty.is_everything() && dirty.directories().is_empty());
    }

    #[test]
    fn merging_keeps_the_deeper_mark_and_the_order_of_moves() {
        let mut dirty = Dirty::default();
        dirty.name(b"", b"x", Depth::Read);
        dirty.moved(b"a", b"b");
        let mut later = Dirty::default();
        later.name(b"", b"x", Depth::Look);
        later.list(b"y");
        later.moved(b"b", b"c");
        dirty.merge(later);
        assert!(dirty.covers(b"x", Depth::Read) && dirty.covers(b"y/z", Depth::Look));
        assert_eq!(dirty.moves().len(), 2);
        dirty.merge(Dirty::everything());
        assert!(dirty.is_everything());
    }

    #[test]
    fn what_has_to_be_read_has_to_be_read_where_its_directory_went() {
        let mut dirty = Dirty::default();
        dirty.name(b"a/deep", b"mapped", Depth::Read);
        dirty.name(b"a-b", b"other", Depth::Read);
        let mut later = Dirty::default();
        later.moved(b"a", b"b");
        later.moved(b"b/deep", b"c");
        dirty.merge(later);
        assert!(dirty.covers(b"a/deep/mapped", Depth::Read));
        assert!(dirty.covers(b"b/deep/mapped", Depth::Read));
        assert!(dirty.covers(b"c/mapped", Depth::Read));
        assert!(!dirty.covers(b"b-b/other", Depth::Look));
        assert_eq!(dirty.moves().len(), 2);
    }
}

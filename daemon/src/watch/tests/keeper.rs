//! A keeper in small: it knows a tree, and corrects what it knows by looking at what is dirty only.

#![expect(clippy::disallowed_methods, reason = "a test, which works on a tree of its own")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use baton_store::scan::dirty::{Depth, Dirty};
use tempfile::TempDir;

use super::super::{Watch, WatchOptions};
use super::Backend;

/// Directories of this name do not belong to the tree.
pub(super) const IGNORED: &[u8] = b"ignored";

/// What stands at a path.
#[derive(Clone, Debug)]
pub(super) enum Entry {
    Directory { mode: u32 },
    File { stat: Stat, content: Vec<u8> },
    Other { stat: Stat, target: Option<PathBuf> },
}

impl Entry {
    /// Whether a snapshot of both would be the same. A link more elsewhere makes no difference.
    fn is_same(&self, other: &Self) -> bool {
        let shown = |stat: &Stat| (stat.mode, stat.size, stat.modified);
        match (self, other) {
            (Self::Directory { mode }, Self::Directory { mode: other }) => mode == other,
            (
                Self::File { stat, content },
                Self::File { stat: other_stat, content: other_content },
            ) => shown(stat) == shown(other_stat) && content == other_content,
            (
                Self::Other { stat, target },
                Self::Other { stat: other_stat, target: other_target },
            ) => shown(stat) == shown(other_stat) && target == other_target,
            _ => false,
        }
    }
}

/// What changes when a file does, as a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    inode: u64,
    mode: u32,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
    links: u64,
}

type Known = BTreeMap<Vec<u8>, Entry>;

/// A folder, a watch on it, and what is known of it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) backend: Backend,
    top: TempDir,
    pub(super) watch: Box<dyn Watch>,
    pub(super) known: Known,
    /// Directories that were come upon since the last time that some were added.
    found: Vec<Vec<u8>>,
}

impl Keeper {
    /// A folder with this in it.
    pub(super) fn new(backend: Backend, options: &WatchOptions, fill: impl FnOnce(&Path)) -> Self {
        let top = tempfile::tempdir().unwrap();
        let root = top.path().join("tree");
        std::fs::create_dir(&root).unwrap();
        std::fs::create_dir(top.path().join("outside")).unwrap();
        fill(&root);
        let watch = backend.open(&root, options);
        let mut keeper = Self { backend, top, watch, known: Known::new(), found: Vec::new() };
        let mut first = Dirty::everything();
        while keeper.enter(b"", &mut first) {}
        keeper.seal();
        keeper.learn(&Dirty::everything());
        keeper.compare("in the beginning");
        keeper
    }

    /// The watch, and the folder that it is on.
    pub(super) fn apart(self) -> (TempDir, Box<dyn Watch>) {
        (self.top, self.watch)
    }

    pub(super) fn root(&self) -> PathBuf {
        self.top.path().join("tree")
    }

    pub(super) fn outside(&self) -> PathBuf {
        self.top.path().join("outside")
    }

    /// Does something, and looks whether what is known then is what is there.
    pub(super) fn check(&mut self, what: &str, change: impl FnOnce(&Path)) -> Dirty {
        let before = disk(&self.root());
        change(&self.root());
        let dirty = self.seal();
        let after = disk(&self.root());
        for (path, entry) in &after {
            // Names of a file that was written by another name are for the keeper to remember.
            let is_linked = matches!(entry, Entry::File { stat, .. } if stat.links > 1);
            let is_new =
                !is_linked && !before.get(path).is_some_and(|before| before.is_same(entry));
            assert!(
                !is_new || dirty.covers(path, Depth::Look),
                "{:?}, {what}: not covered: {}\n{dirty:#?}",
                self.backend,
                path.escape_ascii()
            );
        }
        self.compare(what);
        dirty
    }

    pub(super) fn compare(&self, what: &str) {
        let disk = disk(&self.root());
        let wrong = |(path, entry): &(&Vec<u8>, &Entry)| {
            !self.known.get(*path).is_some_and(|known| known.is_same(entry))
        };
        if let Some((path, entry)) = disk.iter().find(wrong) {
            let known = self.known.get(path);
            panic!(
                "{:?}, {what}: {}\nknown: {known:?}\nthere: {entry:?}",
                self.backend,
                path.escape_ascii()
            );
        }
        let gone = self.known.keys().find(|path| !disk.contains_key(*path));
        if let Some(path) = gone {
            panic!("{:?}, {what}: {} is gone", self.backend, path.escape_ascii());
        }
    }

    /// What a seal does: drains, adds what is new, until nothing is, and looks at what is dirty.
    pub(super) fn seal(&mut self) -> Dirty {
        let mut total = Dirty::default();
        for _ in 0..1000 {
            let dirty = self.watch.drain().unwrap();
            let walks = self.to_walk(&dirty);
            total.merge(dirty);
            let mut again = false;
            for path in walks {
                again |= self.enter(&path, &mut total);
            }
            if again {
                continue;
            }
            // Looking may come upon directories that are newer than the drain. All have to be added: in
            // a swept one nothing would tell of them later.
            self.learn(&total);
            for path in std::mem::take(&mut self.found) {
                again |= self.enter(&path, &mut total);
            }
            if !again {
                return total;
            }
        }
        panic!("the drains do not come to an end");
    }

    /// Directories that may be others than those that are known.
    fn to_walk(&self, dirty: &Dirty) -> Vec<Vec<u8>> {
        if dirty.is_everything() {
            return vec![Vec::new()];
        }
        let mut walks = Vec::new();
        for (directory, marks) in dirty.directories() {
            if marks.walk {
                walks.push(directory.clone());
            }
            for (name, depth) in &marks.names {
                if *depth == Depth::Walk {
                    walks.push(join(directory, name));
                }
            }
            if marks.list {
                let names = names(&self.root(), directory).into_iter();
                let paths = names.map(|name| join(directory, &name));
                walks.extend(
                    paths.filter(|path| {
                        !matches!(self.known.get(path), Some(Entry::Directory { .. }))
                    }),
                );
            }
        }
        walks
    }

    /// Adds a directory and all below; whether some of them were new.
    fn enter(&mut self, path: &[u8], total: &mut Dirty) -> bool {
        let mut found = Vec::new();
        let mut stack = vec![path.to_vec()];
        while let Some(path) = stack.pop() {
            if !path.split(|&byte| byte == b'/').any(|name| name == IGNORED)
                && is_directory(&self.root(), &path)
            {
                let below = names(&self.root(), &path).into_iter();
                stack.extend(below.map(|name| join(&path, &name)));
                found.push(path);
            }
        }
        let new = self.watch.add(&mut found.iter().map(Vec::as_slice)).unwrap();
        for path in &new {
            total.list(path);
        }
        // One that is not known has to be walked, watched or not.
        let walked = found.iter().filter(|path| !self.known.contains_key(*path));
        walked.for_each(|path| total.walk(path));
        !new.is_empty()
    }

    /// Looks at everything, whatever is dirty.
    pub(super) fn learn_all(&mut self) {
        self.learn(&Dirty::everything());
    }

    fn learn(&mut self, dirty: &Dirty) {
        self.look_at_dirty(dirty);
        // What is written by one name of a file is not told of the others.
        let inode = |entry: &Entry, least| match entry {
            Entry::File { stat, .. } if stat.links >= least => Some(stat.inode),
            _ => None,
        };
        let linked: BTreeSet<_> = self.known.values().filter_map(|it| inode(it, 2)).collect();
        let names = self
            .known
            .iter()
            .filter(|(_, entry)| inode(entry, 1).is_some_and(|inode| linked.contains(&inode)));
        let names: Vec<_> = names.map(|(path, _)| path.clone()).collect();
        for path in names {
            self.look(&path, false);
        }
    }

    fn look_at_dirty(&mut self, dirty: &Dirty) {
        if dirty.is_everything() {
            return self.look_below(b"", false);
        }
        for (directory, marks) in dirty.directories() {
            if marks.walk {
                self.look_below(directory, false);
            }
            if marks.list {
                let mut all: BTreeSet<_> = names(&self.root(), directory).into_iter().collect();
                all.extend(self.known_names(directory));
                for name in all {
                    self.look(&join(directory, &name), false);
                }
                if directory.is_empty() {
                    self.look(b"", false);
                }
            }
            for (name, depth) in &marks.names {
                let path = join(directory, name);
                match depth {
                    Depth::Look => self.look(&path, false),
                    Depth::Read => self.look(&path, true),
                    Depth::Walk => self.look_below(&path, true),
                }
            }
        }
    }

    fn known_names(&self, directory: &[u8]) -> Vec<Vec<u8>> {
        let first = join(directory, b"");
        let below = self.known.range(first.clone()..).map(|(path, _)| path);
        let below = below.take_while(|path| path.starts_with(&first));
        let names = below.filter_map(|path| split(path));
        names.filter(|(above, _)| *above == directory).map(|(_, name)| name.to_vec()).collect()
    }

    /// Looks at one path, and reads a file that is another than before, or if it has to.
    fn look(&mut self, path: &[u8], read: bool) {
        let above = split(path).map(|(above, _)| above);
        let has_place = |above| matches!(self.known.get(above), Some(Entry::Directory { .. }));
        if path.split(|&byte| byte == b'/').any(|name| name == IGNORED)
            || above.is_some_and(|above| !path.is_empty() && !has_place(above))
        {
            return;
        }
        let old = self.known.get(path).cloned();
        let new = entry(&self.root(), path, if read { None } else { old.as_ref() });
        if !matches!(new, Some(Entry::Directory { .. })) {
            let first = [path, b"/"].concat();
            let below = self.known.range(first.clone()..);
            let below = below.map(|(path, _)| path.clone());
            for path in below.take_while(|path| path.starts_with(&first)).collect::<Vec<_>>() {
                self.known.remove(&path);
            }
        }
        if matches!(new, Some(Entry::Directory { .. }))
            && !matches!(old, Some(Entry::Directory { .. }))
        {
            self.found.push(path.to_vec());
        }
        match new {
            Some(new) => self.known.insert(path.to_vec(), new),
            None => self.known.remove(path),
        };
    }

    fn look_below(&mut self, path: &[u8], read: bool) {
        self.look(path, read);
        if !matches!(self.known.get(path), Some(Entry::Directory { .. })) {
            return;
        }
        let mut all: BTreeSet<_> = names(&self.root(), path).into_iter().collect();
        all.extend(self.known_names(path));
        for name in all {
            self.look_below(&join(path, &name), read);
        }
    }
}

/// All that stands below a root.
pub(super) fn disk(root: &Path) -> Known {
    let mut found = Known::new();
    let mut stack = vec![Vec::new()];
    while let Some(path) = stack.pop() {
        let Some(entry) = entry(root, &path, None) else { continue };
        if matches!(entry, Entry::Directory { .. }) {
            let names = names(root, &path).into_iter().filter(|name| name != IGNORED);
            stack.extend(names.map(|name| join(&path, &name)));
        }
        found.insert(path, entry);
    }
    found
}

fn entry(root: &Path, path: &[u8], old: Option<&Entry>) -> Option<Entry> {
    let full = full(root, path);
    let metadata = std::fs::symlink_metadata(&full).ok()?;
    let stat = Stat {
        inode: metadata.ino(),
        mode: metadata.mode(),
        size: metadata.size(),
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        links: metadata.nlink(),
    };
    if metadata.is_dir() {
        return Some(Entry::Directory { mode: metadata.mode() });
    }
    if !metadata.is_file() {
        return Some(Entry::Other { stat, target: std::fs::read_link(&full).ok() });
    }
    match old {
        Some(Entry::File { stat: known, .. }) if *known == stat => old.cloned(),
        _ => Some(Entry::File { stat, content: std::fs::read(&full).ok()? }),
    }
}

fn is_directory(root: &Path, path: &[u8]) -> bool {
    std::fs::symlink_metadata(full(root, path)).is_ok_and(|metadata| metadata.is_dir())
}

fn names(root: &Path, path: &[u8]) -> Vec<Vec<u8>> {
    if !is_directory(root, path) {
        return Vec::new();
    }
    let entries = std::fs::read_dir(full(root, path)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_vec()).collect()
}

fn full(root: &Path, path: &[u8]) -> PathBuf {
    if path.is_empty() { root.to_owned() } else { root.join(OsStr::from_bytes(path)) }
}

/// The path of a name; of an empty name, how the paths of all others begin.
fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|&byte| byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    })
}

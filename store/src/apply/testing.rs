//! For tests: random numbers that come again, trees in memory and on the disk, and whether the heavy suites
//! are asked for.

#![expect(
    clippy::disallowed_methods,
    reason = "a test has the file system and the environment itself"
)]

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use baton_protocol::id::ObjectKind;
use baton_protocol::object::{Entry, EntryKind, Tree, build_tree};

use super::plan::Root;
use crate::chunk::store_bytes;
use crate::objects::ObjectSink;

/// A generator whose numbers follow from its seed (splitmix64, Steele and others 2014).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a limit.
    pub(crate) const fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Whether the heavy suites run.
pub(crate) fn is_nightly() -> bool {
    std::env::var_os("BATON_NIGHTLY").is_some()
}

/// A folder in memory where there is one: syncs cost nothing there.
pub(crate) fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Does something without what root may do beyond others; nothing where this thread cannot give that up and have
/// it again.
#[cfg(target_os = "linux")]
pub(crate) fn as_plain_owner<T>(work: impl FnOnce() -> T) -> Option<T> {
    use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
    struct Again(CapabilitySets);
    impl Drop for Again {
        fn drop(&mut self) {
            set_capabilities(None, self.0).unwrap();
        }
    }
    let all = capabilities(None).unwrap();
    let beyond = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    if !all.effective.contains(beyond) {
        eprintln!("skipped: only root can read what keeps its owner out");
        return None;
    }
    let less = CapabilitySets { effective: all.effective.difference(beyond), ..all };
    set_capabilities(None, less).unwrap();
    let _again = Again(all);
    Some(work())
}

/// What stands at a path of a tree in memory.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Node {
    File(u16, Vec<u8>),
    Link(Vec<u8>),
    Directory(u16),
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(mode, content) => {
                write!(f, "{mode:o} {:?}", String::from_utf8_lossy(content))
            }
            Self::Link(target) => write!(f, "-> {:?}", String::from_utf8_lossy(target)),
            Self::Directory(mode) => write!(f, "{mode:o}/"),
        }
    }
}

impl Node {
    pub(crate) const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

/// A tree in memory, by path; the root is not in it.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Model(pub(crate) BTreeMap<Vec<u8>, Node>);

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(k, v)| (String::from_utf8_lossy(k), v))).finish()
    }
}

const NAMES: [&str; 5] = ["a", "a-b", "b", "c", "d"];

/// Directories that their owner may not change are among them, and none that it may not read.
const DIRECTORIES: [u16; 5] = [0o755, 0o755, 0o755, 0o700, 0o555];
const FILES: [u16; 5] = [0o644, 0o644, 0o755, 0o600, 0o444];

impl Model {
    /// A small random tree.
    pub(crate) fn random(rng: &mut Rng) -> Self {
        let mut model = Self::default();
        for _ in 0..rng.below(12) {
            model.add(rng);
        }
        model
    }

    /// The same after a few random changes.
    pub(crate) fn changed(&self, rng: &mut Rng) -> Self {
        let mut model = self.clone();
        for _ in 0..rng.below(6) {
            model.change(rng);
        }
        model
    }

    fn above(path: &[u8]) -> &[u8] {
        path.iter().rposition(|&byte| byte == b'/').map_or(&[], |at| &path[..at])
    }

    fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let prefix = [path, b"/"].concat();
        self.0.keys().filter(|key| key.starts_with(&prefix)).cloned().collect()
    }

    pub(crate) fn remove(&mut self, path: &[u8]) {
        for below in self.below(path) {
            self.0.remove(&below);
        }
        self.0.remove(path);
    }

    fn pick(&self, rng: &mut Rng) -> Option<Vec<u8>> {
        if self.0.is_empty() {
            return None;
        }
        self.0.keys().nth(rng.below(self.0.len())).cloned()
    }

    fn content(rng: &mut Rng) -> Vec<u8> {
        match rng.below(8) {
            0 => Vec::new(),
            1 => format!("bin\0{}", rng.below(4)).into_bytes(),
            2 | 3 => format!("line {}\n", rng.below(6)).into_bytes(),
            _ => {
                let lines = (0..8).map(|line| format!("{line} of {}\n", rng.below(1 << 16)));
                lines.collect::<String>().into_bytes()
            }
        }
    }

    fn node(rng: &mut Rng) -> Node {
        match rng.below(8) {
            0 => Node::Link(NAMES[rng.below(NAMES.len())].into()),
            1 | 2 => Node::Directory(DIRECTORIES[rng.below(DIRECTORIES.len())]),
            _ => Node::File(FILES[rng.below(FILES.len())], Self::content(rng)),
        }
    }

    /// A free place for something.
    fn place(&self, rng: &mut Rng) -> Option<Vec<u8>> {
        let mut path: Vec<u8> = Vec::new();
        loop {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(NAMES[rng.below(NAMES.len())].as_bytes());
            match self.0.get(&path) {
                None => return Some(path),
                Some(Node::Directory(_)) if path.len() < 12 => {}
                Some(_) => return None,
            }
        }
    }

    fn add(&mut self, rng: &mut Rng) {
        if let Some(path) = self.place(rng) {
            self.0.insert(path, Self::node(rng));
        }
    }

    fn change(&mut self, rng: &mut Rng) {
        let Some(path) = self.pick(rng) else { return self.add(rng) };
        let node = self.0[&path].clone();
        match rng.below(9) {
            0 => self.remove(&path),
            1 => {
                // Moved, with all that is in it.
                let Some(to) = self.place(rng) else { return };
                if to.starts_with(&[&path[..], b"/"].concat()) {
                    return;
                }
                for below in self.below(&path) {
                    let moved = [&to[..], &below[path.len()..]].concat();
                    let node = self.0.remove(&below).unwrap();
                    self.0.insert(moved, node);
                }
                self.0.remove(&path);
                self.0.insert(to, node);
            }
            2 => {
                self.remove(&path);
                self.0.insert(path, Self::node(rng));
            }
            3 => {
                let mode = match node {
                    Node::File(_, content) => Node::File(FILES[rng.below(FILES.len())], content),
                    Node::Directory(_) => {
                        Node::Directory(DIRECTORIES[rng.below(DIRECTORIES.len())])
                    }
                    link @ Node::Link(_) => link,
                };
                self.0.insert(path, mode);
            }
            4 => self.add(rng),
            _ => {
                if let Node::File(mode, content) = node {
                    let mut lines: Vec<_> = content
                        .split_inclusive(|&byte| byte == b'\n')
                        .map(<[u8]>::to_vec)
                        .collect();
                    let at = rng.below(lines.len() + 1);
                    let new = format!("edit {}\n", rng.below(1 << 16)).into_bytes();
                    if at < lines.len() && rng.below(3) > 0 {
                        lines[at] = new;
                    } else {
                        lines.insert(at, new);
                    }
                    self.0.insert(path, Node::File(mode, lines.concat()));
                } else {
                    self.add(rng);
                }
            }
        }
    }

    /// The same with directories that keep their owner out.
    pub(crate) fn closed(mut self, rng: &mut Rng) -> Self {
        const CLOSED: [u16; 6] = [0o000, 0o100, 0o200, 0o311, 0o500, 0o755];
        for node in self.0.values_mut() {
            if let Node::Directory(mode) = node {
                *mode = CLOSED[rng.below(CLOSED.len())];
            }
        }
        self
    }

    /// Puts it as trees.
    pub(crate) fn store<S: ObjectSink>(&self, objects: &S) -> Root {
        let EntryKind::Directory { tree, .. } = self.entry(objects, b"", 0o755) else {
            unreachable!("a directory")
        };
        Root { tree, mode: 0o755 }
    }

    fn entry<S: ObjectSink>(&self, objects: &S, at: &[u8], mode: u16) -> EntryKind {
        let own = self.0.iter().filter(|(path, _)| Self::above(path) == at);
        let entries = own.map(|(path, node)| {
            let name = path.rsplit(|&byte| byte == b'/').next().unwrap().to_vec();
            let kind = match node {
                Node::File(mode, content) => {
                    EntryKind::File { mode: *mode, blob: store_bytes(content, objects).unwrap() }
                }
                Node::Link(target) => {
                    EntryKind::Symlink { target: store_bytes(target, objects).unwrap() }
                }
                Node::Directory(mode) => self.entry(objects, path, *mode),
            };
            Entry { name, kind }
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let put = |_, _: &Tree, bytes: Vec<u8>| objects.put(ObjectKind::Tree, &bytes).map(drop);
        let (tree, below) = build_tree(entries, put).unwrap();
        EntryKind::Directory { mode, tree, below }
    }

    /// Writes it into a folder.
    pub(crate) fn write(&self, folder: &Path) {
        let set = |path: &Path, mode: u16| {
            let mode = std::fs::Permissions::from_mode(mode.into());
            std::fs::set_permissions(path, mode).unwrap();
        };
        std::fs::create_dir_all(folder).unwrap();
        set(folder, 0o755);
        for (path, node) in &self.0 {
            let path = folder.join(OsStr::from_bytes(path));
            match node {
                Node::File(mode, content) => {
                    std::fs::write(&path, content).unwrap();
                    set(&path, *mode);
                }
                Node::Link(target) => {
                    std::os::unix::fs::symlink(OsStr::from_bytes(target), &path).unwrap();
                }
                Node::Directory(_) => std::fs::create_dir(&path).unwrap(),
            }
        }
        for (path, node) in self.0.iter().rev() {
            if let Node::Directory(mode) = node {
                set(&folder.join(OsStr::from_bytes(path)), *mode);
            }
        }
    }

    /// Reads one back from a folder.
    pub(crate) fn read(folder: &Path) -> Self {
        let mut model = Self::default();
        let mut open = vec![folder.to_owned()];
        while let Some(path) = open.pop() {
            for entry in std::fs::read_dir(&path).unwrap() {
                let path = entry.unwrap().path();
                let found = path.symlink_metadata().unwrap();
                let mode = (found.permissions().mode() & 0o7777) as u16;
                let node = if found.is_dir() {
                    open.push(path.clone());
                    Node::Directory(mode)
                } else if found.is_symlink() {
                    Node::Link(OsString::from(std::fs::read_link(&path).unwrap()).into_vec())
                } else {
                    Node::File(mode, std::fs::read(&path).unwrap())
                };
                let path = path.strip_prefix(folder).unwrap().as_os_str().as_bytes().to_vec();
                model.0.insert(path, node);
            }
        }
        model
    }
}

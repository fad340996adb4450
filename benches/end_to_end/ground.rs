//! The tree that is edited: a copy of the given one, and the files in it that edits are made in.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::processes::Scratch;

/// Files that an edit may be in are text of at most this size, as most that people edit are.
const LARGEST: u64 = 200_000;

const ENDINGS: [&str; 10] = ["c", "h", "rs", "ts", "js", "py", "go", "java", "md", "txt"];

/// A copy, and 101 of its files.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) tree: PathBuf,
    edited: Vec<PathBuf>,
    edits: Cell<u64>,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

impl Ground {
    /// Copies a tree.
    pub(crate) fn copied(from: &Path, scratch: &Scratch) -> Self {
        let tree = scratch.path("tree");
        scratch.must(scratch.command("cp").arg("-a").arg(from).arg(&tree));
        Self::of(tree)
    }

    /// Takes a tree that may be edited.
    pub(crate) fn of(tree: PathBuf) -> Self {
        // Those with the least hash of their path: the same ones each time, spread over all folders,
        // and without a list of all files in our memory, which children are seen to inherit.
        let mut least = BTreeSet::new();
        let mut last_resort = None;
        let (mut files, mut bytes) = (0, 0);
        walk(&tree, &mut |path, meta| {
            files += 1;
            bytes += meta.size();
            let ending = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            if !meta.is_file() || meta.size() > LARGEST {
                return;
            }
            last_resort.get_or_insert_with(|| path.to_owned());
            if ENDINGS.contains(&ending) {
                let name = path.strip_prefix(&tree).unwrap().as_os_str().as_encoded_bytes();
                least.insert((*blake3::hash(name).as_bytes(), path.to_owned()));
                if least.len() > 101 {
                    least.pop_last();
                }
            }
        });
        let mut edited: Vec<_> = least.into_iter().map(|(_, path)| path).collect();
        if edited.is_empty() {
            edited.extend(last_resort);
        }
        assert!(!edited.is_empty(), "{} has no file to edit", tree.display());
        Self { tree, edited, edits: Cell::new(0), files, bytes }
    }

    /// Appends a line to one file: the next one each time.
    pub(crate) fn one(&self) {
        let at = self.edits.get() as usize % self.edited.len();
        self.append(&self.edited[at]);
    }

    /// Appends a line to 100 files.
    pub(crate) fn hundred(&self) {
        self.edited.iter().take(100).for_each(|file| self.append(file));
    }

    fn append(&self, file: &Path) {
        let number = self.edits.get() + 1;
        self.edits.set(number);
        let mut file = OpenOptions::new().append(true).open(file).unwrap();
        // Not to be guessed by what compresses the line before.
        let word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        file.write_all(format!("// line {number} {word:x}\n").as_bytes()).unwrap();
    }
}

/// Every file below a folder, links as themselves.
pub(crate) fn walk(folder: &Path, see: &mut impl FnMut(&Path, &std::fs::Metadata)) {
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        let entries = std::fs::read_dir(&folder);
        let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        for entry in entries {
            let entry = entry.unwrap();
            // A log or a socket of a living daemon may go away in between.
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                left.push(entry.path());
            } else {
                see(&entry.path(), &meta);
            }
        }
    }
}

/// Bytes of a file, or of all files below a folder.
pub(crate) fn size(path: &Path) -> u64 {
    match std::fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => {
            let mut bytes = 0;
            walk(path, &mut |_, meta| bytes += meta.size());
            bytes
        }
        Ok(meta) => meta.size(),
        Err(_) => 0,
    }
}

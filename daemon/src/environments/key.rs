//! Which environment a tree asks for: what it says, and the files on which that depends.
//!
//! **Invariant:** two trees have one key only where the same scripts ran, or would run, with the same variables and the
//! same files that the tree names, on the same system.

use std::fmt;

use baton_protocol::id::TreeId;
use baton_protocol::object::{Entry, EntryKind, Snapshot};
use baton_protocol::path::RelPath;
use baton_store::error::StoreError;
use baton_store::objects::ObjectSource;
use baton_store::trees::{find_entry, for_each_entry};
use data_encoding::HEXLOWER;
use ring::digest::{Context, SHA256};

use super::file::{Description, FileError, MAX_FILE, PATH};
use super::glob::Globs;

/// Names the way in which keys are made.
const VERSION: &[u8] = b"baton environment v1";

/// Most files that a key depends on.
const MAX_FILES: usize = 10_000;

/// Most folders that are gone into for them.
const MAX_FOLDERS: usize = 200_000;

/// Most steps of comparing names with patterns: a second or two.
const MAX_STEPS: u64 = 500_000_000;

/// Files that pin what is to be installed, and what would mostly install it.
const LOCKFILES: [(&str, &str); 17] = [
    ("package-lock.json", "npm ci"),
    ("npm-shrinkwrap.json", "npm ci"),
    ("pnpm-lock.yaml", "pnpm install --frozen-lockfile"),
    ("yarn.lock", "yarn install --immutable"),
    ("bun.lock", "bun install --frozen-lockfile"),
    ("bun.lockb", "bun install --frozen-lockfile"),
    ("deno.lock", "deno install --frozen"),
    ("uv.lock", "uv sync --frozen"),
    ("poetry.lock", "poetry install --sync"),
    ("Pipfile.lock", "pipenv sync"),
    (
        "requirements.txt",
        "python3 -m venv .venv && .venv/bin/python -m pip install -r requirements.txt",
    ),
    ("Cargo.lock", "cargo fetch --locked"),
    ("go.sum", "go mod download"),
    ("Gemfile.lock", "bundle install"),
    ("composer.lock", "composer install"),
    ("mix.lock", "mix deps.get"),
    ("pubspec.lock", "dart pub get --enforce-lockfile"),
];

/// The name of an environment within its workspace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key([u8; 32]);

impl Key {
    /// Bytes of it as text.
    pub const TEXT: usize = 64;

    /// Enough of it to tell it from others in a log.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }

    /// Reads it.
    pub fn parse(text: &str) -> Option<Self> {
        HEXLOWER.decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.short())
    }
}

/// What a tree asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing; what it could ask for, where something pins it.
    Nothing(Option<Suggestion>),
    /// What cannot be.
    Refused(FileError),
    /// This.
    Environment(Box<Asked>),
}

/// An environment that a tree asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its name.
    pub key: Key,
    /// What it is.
    pub description: Description,
}

/// What a tree could ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suggestion {
    /// The file that pins something.
    pub lockfile: &'static str,
    /// What would mostly install it.
    pub setup: &'static str,
}

impl Suggestion {
    /// In one line, for people.
    pub fn text(&self) -> String {
        let Self { lockfile, setup } = self;
        format!(
            "{lockfile} is there, and no {PATH}: with setup = \"{setup}\" in it, runs find it installed"
        )
    }
}

/// Finds out what a tree asks for. `system` says what else the result depends on.
pub fn wanted<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: &Snapshot,
    system: &[u8],
) -> Result<Wanted, StoreError> {
    let Ok(path) = RelPath::new(PATH.as_bytes()) else { return Ok(Wanted::Nothing(None)) };
    let Some(found) = find_entry(objects, snapshot.root, &path)? else {
        return suggestion(objects, snapshot.root).map(Wanted::Nothing);
    };
    let blob = match found.kind {
        EntryKind::File { blob, .. } if blob.size <= MAX_FILE => blob,
        _ => return Ok(Wanted::Refused(FileError::NoFile)),
    };
    // So short that it is one chunk.
    let bytes = objects.require(&blob.content.id())?;
    let description = match Description::parse(&bytes) {
        Ok(description) => description,
        Err(error) => return Ok(Wanted::Refused(error)),
    };
    let mut hash = Hash(Context::new(&SHA256));
    hash.add(VERSION);
    hash.add(system);
    hash.add(description.setup.as_bytes());
    for (name, value) in &description.env {
        hash.add(name.as_bytes());
        hash.add(value.as_bytes());
    }
    hash.add(b"files");
    let added = match &description.cache_key {
        Some(globs) => {
            let mut search = Search::new(objects, &mut hash);
            search.directory(snapshot.root, &[], &Globs::at_top(globs))?
        }
        None => of_lockfiles(objects, snapshot.root, &mut hash).map(|()| true)?,
    };
    if !added {
        let limit = format!(
            "{MAX_FILES} files, leads into {MAX_FOLDERS} folders, or compares too many names"
        );
        return Ok(Wanted::Refused(FileError::TooMuch { key: "cache_key", limit }));
    }
    let digest = hash.0.finish();
    let mut key = [0; 32];
    key.copy_from_slice(digest.as_ref());
    Ok(Wanted::Environment(Box::new(Asked { key: Key(key), description })))
}

impl Suggestion {
    /// For a folder without the file of an environment, in which there are files of such names.
    pub fn new(has: impl Fn(&str) -> bool) -> Option<Self> {
        let found = LOCKFILES.iter().find(|(name, _)| has(name));
        found.map(|&(lockfile, setup)| Self { lockfile, setup })
    }
}

/// The first of the well-known files at the top of a tree.
pub fn suggestion<S: ObjectSource + ?Sized>(
    objects: &S,
    root: TreeId,
) -> Result<Option<Suggestion>, StoreError> {
    let mut found = Vec::new();
    for_each_entry(objects, root, |entry| {
        if matches!(entry.kind, EntryKind::File { .. }) && is_lockfile(&entry.name) {
            found.push(entry.name);
        }
        Ok::<_, StoreError>(())
    })?;
    Ok(Suggestion::new(|name| found.iter().any(|found| found == name.as_bytes())))
}

fn is_lockfile(name: &[u8]) -> bool {
    LOCKFILES.iter().any(|(known, _)| known.as_bytes() == name)
}

/// Those at the top of a tree that does not name others.
fn of_lockfiles<S: ObjectSource + ?Sized>(
    objects: &S,
    root: TreeId,
    hash: &mut Hash,
) -> Result<(), StoreError> {
    for_each_entry(objects, root, |entry| {
        if is_lockfile(&entry.name) {
            hash.entry(&[], &entry);
        }
        Ok::<_, StoreError>(())
    })
    .map(drop)
}

/// Parts, none of which can be taken for the beginning of the next one.
struct Hash(Context);

impl Hash {
    fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn entry(&mut self, folder: &[u8], entry: &Entry) {
        self.add(folder);
        self.add(&entry.name);
        let mode = match entry.kind {
            EntryKind::File { mode, .. } => mode,
            EntryKind::Symlink { .. } | EntryKind::Directory { .. } => u16::MAX,
        };
        self.add(&mode.to_le_bytes());
        self.add(entry.content().to_string().as_bytes());
    }
}

struct Search<'a, S: ?Sized> {
    objects: &'a S,
    hash: &'a mut Hash,
    files: usize,
    folders: usize,
    steps: u64,
}

impl<'a, S: ObjectSource + ?Sized> Search<'a, S> {
    const fn new(objects: &'a S, hash: &'a mut Hash) -> Self {
        Self { objects, hash, files: 0, folders: 0, steps: 0 }
    }

    const fn is_too_much(&self) -> bool {
        self.files > MAX_FILES || self.folders > MAX_FOLDERS || self.steps > MAX_STEPS
    }

    /// Adds the files of a folder that are meant; says whether they were not too many.
    fn directory(
        &mut self,
        tree: TreeId,
        path: &[u8],
        globs: &Globs<'_>,
    ) -> Result<bool, StoreError> {
        // Counted as they are found: what waits takes room, too.
        let mut inner = Vec::new();
        for_each_entry(self.objects, tree, |entry| {
            if self.is_too_much() {
                return Ok(());
            }
            if let EntryKind::Directory { tree, .. } = entry.kind {
                if globs.lead_into(&entry.name, &mut self.steps) {
                    self.folders += 1;
                    inner.push((entry.name, tree));
                }
            } else if globs.mean(&entry.name, &mut self.steps) {
                self.files += 1;
                self.hash.entry(path, &entry);
            }
            Ok::<_, StoreError>(())
        })?;
        for (name, tree) in inner {
            if self.is_too_much() {
                break;
            }
            let globs = globs.below(&name, &mut self.steps);
            let path = [path, b"/", &name].concat();
            if !self.directory(tree, &path, &globs)? {
                return Ok(false);
            }
        }
        Ok(!self.is_too_much())
    }
}

//! Bases and layers of a workspace: made, found again, and let go of.
//!
//! ```text
//! N/tree     what the layer has; N counts up
//! N/record   what it shows together with those below it
//! new-…      one that is being made
//! gone-…     one that is being taken away
//! ```
//!
//! A layer over fifteen others is made over their base instead, so that no stack is high and what they have in common is
//! written once.
//!
//! **Invariant:** one layer of a workspace is made at a time.
//!
//! **Invariant:** a layer gets its name when all of it is there. What has none goes when the folder is opened.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{GitOmission, GitOmitReason, Omission, Snapshot};
use rustix::fs::{FileType, Mode};

use super::LayerError;
use super::changes::{Changes, changes};
use super::overlay::{self, Overlay};
use super::record::{MAX_LEN, Record};
use crate::checkout::{
    RepositoryOptions, RestoreOptions, RestoredRepository, remove_made, restore, restore_snapshot,
};
use crate::fs::{self, Context, FsError};
use crate::git::{self, Former, GitError, RebuildOptions};
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::Progress;
use crate::trees;

/// Layers of a stack, its base among them. The kernel takes 500, but each is looked through for a name that is in none.
const MAX_HEIGHT: usize = 16;

/// Entries of a layer that are always few.
const FEW: u64 = 1000;

/// Longest note of who uses layers.
const MAX_NOTE: u64 = 4096;

const NEW: &str = "new-";
const GONE: &str = "gone-";

/// The number of a layer, within its workspace.
pub type LayerId = u64;

/// How layers are made.
#[derive(Debug)]
pub struct LayerOptions<'a> {
    /// How files are written.
    pub restore: RestoreOptions,
    /// How repositories are made.
    pub repository: &'a RepositoryOptions,
    /// Names this start of the machine.
    pub boot: &'a str,
}

/// The layers of a workspace. One at a time may be open for a folder.
#[derive(Debug)]
pub struct Layers {
    folder: PathBuf,
    making: Mutex<()>,
}

/// Layers that show a snapshot together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stack {
    /// The topmost first.
    pub layers: Vec<LayerId>,
    /// Their trees, in the same order.
    pub trees: Vec<PathBuf>,
    /// What the file system could not hold.
    pub not_carried: Vec<Omission>,
    /// What of the repository did not come, or is to be looked at; nothing where there is none.
    pub told: Option<Vec<GitOmission>>,
}

impl Stack {
    /// The topmost tree that has a repository: that of the snapshot.
    pub fn repository(&self) -> Option<&Path> {
        let found = self.trees.iter().find(|tree| tree.join(".git").symlink_metadata().is_ok())?;
        found.join(".git").is_dir().then_some(found)
    }
}

impl Layers {
    /// Opens the layers in a folder, which is made where it is missing.
    pub fn open(folder: &Path) -> Result<Self, FsError> {
        fs::create_dir_all(folder)?;
        for name in fs::list_dir(folder)? {
            let bytes = name.as_bytes();
            if bytes.starts_with(NEW.as_bytes()) || bytes.starts_with(GONE.as_bytes()) {
                overlay::unmount(&folder.join(&name).join("merged"))?;
                remove_made(&folder.join(&name))?;
            }
        }
        Ok(Self { folder: folder.to_owned(), making: Mutex::default() })
    }

    /// The layers that show a snapshot, made where they are not there. That they are used is noted in the file `user`:
    /// as long as it is there, they are.
    pub fn stack<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        user: &Path,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Stack, LayerError> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let stack = self.find_or_make(objects, snapshot, options, progress)?;
        let noted: Vec<_> = stack.layers.iter().map(LayerId::to_string).collect();
        fs::write_atomic(user, noted.join("\n").as_bytes(), 0o600)?;
        Ok(stack)
    }

    /// The layers that were noted in a file by [`Layers::stack`] for a snapshot; nothing where they are not there as they
    /// were.
    pub fn noted(
        &self,
        user: &Path,
        snapshot: &Snapshot,
        boot: &str,
    ) -> Result<Option<Stack>, FsError> {
        let layers = noted(user)?;
        let known = self.known(boot)?;
        let Some((top, record)) = layers.first().and_then(|top| known.get_key_value(top)) else {
            return Ok(None);
        };
        let stack = self.above(&known, *top);
        Ok((record.shows(snapshot) && stack.layers == layers).then_some(stack))
    }

    fn find_or_make<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Stack, LayerError> {
        let known = self.known(options.boot)?;
        if let Some((&id, _)) = known.iter().rev().find(|(_, record)| record.shows(snapshot)) {
            return Ok(self.above(&known, id));
        }
        // Those of an earlier start of the machine have numbers, too.
        let id = self.numbers()?.last().map_or(1, |id| id + 1);
        let new = self.folder.join(format!("{NEW}{id}"));
        overlay::unmount(&new.join("merged"))?;
        remove_made(&new)?;
        fs::create_dir_all(&new)?;
        let made = self.make(objects, snapshot, &known, &new, options, progress);
        let record = made.inspect_err(|_| drop(remove_made(&new)))?;
        fs::write_atomic(&new.join("record"), &record.encode(), 0o600)?;
        fs::rename(&new, &self.folder.join(id.to_string()))?;
        let known = known.into_iter().chain([(id, record)]).collect();
        Ok(self.above(&known, id))
    }

    /// Takes away what none of the users has noted, who are asked for when nobody can become one, but for the newest stack. Returns what went.
    pub fn collect(
        &self,
        users: impl FnOnce() -> Result<Vec<PathBuf>, FsError>,
        boot: &str,
    ) -> Result<Vec<LayerId>, FsError> {
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let known = self.known(boot)?;
        let mut kept = BTreeSet::new();
        // Nobody becomes one meanwhile.
        for user in users()? {
            kept.extend(noted(&user)?);
        }
        if let Some((&newest, _)) = known.last_key_value() {
            kept.extend(height(&known, newest));
        }
        let mut gone = Vec::new();
        for id in self.numbers()? {
            if kept.contains(&id) {
                continue;
            }
            let aside = self.folder.join(format!("{GONE}{id}"));
            fs::rename(&self.folder.join(id.to_string()), &aside)?;
            remove_made(&aside)?;
            gone.push(id);
        }
        Ok(gone)
    }

    fn numbers(&self) -> Result<BTreeSet<LayerId>, FsError> {
        let names = fs::list_dir(&self.folder)?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }

    /// Layers whose record can be read, that this start of the machine has made, and that stand on such.
    fn known(&self, boot: &str) -> Result<BTreeMap<LayerId, Record>, FsError> {
        let mut known: BTreeMap<LayerId, Record> = BTreeMap::new();
        for id in self.numbers()? {
            let path = self.folder.join(id.to_string()).join("record");
            let Some(bytes) = fs::read_if_exists(&path, MAX_LEN)? else { continue };
            let Ok(record) = Record::decode(&bytes) else { continue };
            let stands = record.below.is_none_or(|below| below < id && known.contains_key(&below));
            if record.boot == boot && stands {
                known.insert(id, record);
            }
        }
        Ok(known)
    }

    fn above(&self, known: &BTreeMap<LayerId, Record>, id: LayerId) -> Stack {
        let layers = height(known, id);
        let tree = |id: &LayerId| self.folder.join(id.to_string()).join("tree");
        let trees = layers.iter().map(tree).collect();
        let top = known.get(&id);
        let not_carried = layers.iter().filter_map(|id| known.get(id));
        let mut not_carried: Vec<_> =
            not_carried.flat_map(|record| record.not_carried.clone()).collect();
        not_carried.sort_unstable();
        not_carried.dedup();
        let told = top.filter(|record| record.git.is_some()).map(|record| record.told.clone());
        Stack { layers, trees, not_carried, told }
    }

    fn make<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        known: &BTreeMap<LayerId, Record>,
        new: &Path,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Record, LayerError> {
        match self.make_layer(objects, snapshot, known, new, options, progress) {
            Ok(Some(record)) => return Ok(record),
            Ok(None) => {}
            Err(error) if error.is_of_the_store() => return Err(error),
            Err(error) => {
                // What cannot be made over what is there can be made whole.
                tracing::info!(%error, "a layer is made whole");
                overlay::unmount(&new.join("merged"))?;
                remove_made(new)?;
                fs::create_dir_all(new)?;
            }
        }
        let (tree, repository) = (new.join("tree"), options.repository);
        let made =
            restore_snapshot(objects, snapshot, &tree, &options.restore, repository, progress);
        let (restored, told) = match made? {
            (restored, RestoredRepository::Absent) => (restored, Vec::new()),
            (restored, RestoredRepository::Rebuilt(told)) => (restored, told),
            (_, RestoredRepository::Failed(error)) => return Err(error.into()),
        };
        Ok(record_of(snapshot, None, options, restored.not_carried, told))
    }

    /// Makes a layer over what is there; nothing where that has too little in common with the snapshot.
    fn make_layer<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        known: &BTreeMap<LayerId, Record>,
        new: &Path,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Option<Record>, LayerError> {
        let Some((&newest, _)) = known.last_key_value() else { return Ok(None) };
        let stack = height(known, newest);
        let below = if stack.len() < MAX_HEIGHT { stack.first() } else { stack.last() };
        let Some((&below, record)) = below.and_then(|below| known.get_key_value(below)) else {
            return Ok(None);
        };
        let files = trees::sums_of(objects, snapshot.root)?.files;
        let limit = FEW.max(files / 4);
        let Some(changes) = changes(objects, record.root, snapshot.root, limit)? else {
            return Ok(None);
        };
        let alike = match (record.git, snapshot.git) {
            (None, None) => true,
            (Some(before), Some(now)) => git::is_alike(objects, before, now)?,
            _ => false,
        };
        // Repositories inside are not taken over one by one.
        let has_inner = |state| git::worktrees(objects, state).map(|all| all.len() > 1);
        if !alike && record.git.map(has_inner).transpose()?.unwrap_or_default() {
            return Ok(None);
        }
        let lower = self.above(known, below);
        let tree = new.join("tree");
        let (sparse, mode) = (changes.tree, snapshot.root_mode);
        let restored = restore(objects, sparse, mode, &tree, &options.restore, progress)?;
        take_away(&tree, &changes)?;
        let told = if alike {
            record.told.clone()
        } else {
            let before = record.git.filter(|_| lower.repository().is_some());
            make_repository(objects, snapshot, (&lower, before), new, options)?
        };
        Ok(Some(record_of(snapshot, Some(below), options, restored.not_carried, told)))
    }
}

/// The layers that a file names.
fn noted(user: &Path) -> Result<Vec<LayerId>, FsError> {
    let bytes = fs::read_if_exists(user, MAX_NOTE)?.unwrap_or_default();
    let lines = bytes.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect())
}

fn record_of(
    snapshot: &Snapshot,
    below: Option<LayerId>,
    options: &LayerOptions<'_>,
    not_carried: Vec<Omission>,
    told: Vec<GitOmission>,
) -> Record {
    Record {
        root: snapshot.root,
        root_mode: snapshot.root_mode,
        git: snapshot.git,
        below,
        boot: options.boot.to_owned(),
        not_carried,
        told,
    }
}

/// A layer and those below it.
fn height(known: &BTreeMap<LayerId, Record>, top: LayerId) -> Vec<LayerId> {
    let below = |id: &LayerId| known.get(id).and_then(|record| record.below);
    std::iter::successors(Some(top).filter(|top| known.contains_key(top)), below).collect()
}

/// Hides names of the layers below.
fn take_away(tree: &Path, changes: &Changes) -> Result<(), FsError> {
    for path in &changes.gone {
        let path = tree.join(std::ffi::OsStr::from_bytes(path));
        if let Some(above) = path.parent() {
            fs::create_dir_all(above)?;
        }
        hide(&path)?;
    }
    Ok(())
}

/// What an overlay takes for a name that is gone.
fn hide(path: &Path) -> Result<(), FsError> {
    let made = rustix::fs::mknodat(
        rustix::fs::CWD,
        path,
        FileType::CharacterDevice,
        Mode::empty(),
        rustix::fs::makedev(0, 0),
    );
    made.context("hiding", path)
}

/// Makes the repository of a snapshot in a layer, in the place of that of the layers below, which was made from `before`.
fn make_repository<S: ObjectSource + ObjectSink>(
    objects: &S,
    snapshot: &Snapshot,
    (lower, before): (&Stack, Option<GitStateId>),
    new: &Path,
    options: &LayerOptions<'_>,
) -> Result<Vec<GitOmission>, LayerError> {
    let (upper, work, merged) = (new.join("tree"), new.join("work"), new.join("merged"));
    let Some(state) = snapshot.git else {
        if before.is_some() {
            hide(&upper.join(".git"))?;
        }
        return Ok(Vec::new());
    };
    for folder in [&work, &merged] {
        fs::create_dir_all(folder)?;
    }
    let overlay = Overlay { lower: &lower.trees, upper: &upper, work: &work, at: &merged };
    overlay::mount(&overlay)?;
    let made = rebuild_in(objects, (before, state), &merged, lower, options);
    overlay::unmount(&merged)?;
    remove_made(&merged)?;
    remove_made(&work)?;
    made
}

/// Makes a repository where another one stands. That goes aside and gives what both have, of which nothing is written.
fn rebuild_in<S: ObjectSource + ObjectSink>(
    objects: &S,
    (before, state): (Option<GitStateId>, GitStateId),
    merged: &Path,
    lower: &Stack,
    options: &LayerOptions<'_>,
) -> Result<Vec<GitOmission>, LayerError> {
    let aside = free_name(merged)?;
    let mut former = None;
    if let Some(state) = before {
        fs::rename_unsynced(&merged.join(".git"), &aside)?;
        // One that lacks objects would make the next one believe that they are there.
        let is_whole = |told: &GitOmission| told.reason != GitOmitReason::Missing;
        if lower.told.iter().flatten().all(is_whole) {
            former = Some(Former { git_dir: aside.clone(), state });
        }
    }
    let rebuilding = RebuildOptions {
        git: options.repository.git.clone().ok_or(GitError::NoProgram)?,
        scratch: options.repository.scratch.clone(),
        beside: merged.to_owned(),
        commands: options.repository.commands.clone(),
    };
    let made = git::rebuild_over(objects, state, merged, &rebuilding, former)?;
    if before.is_some() {
        fs::remove_dir_all(&aside)?;
    }
    Ok(made.omitted)
}

/// A name in a folder that nothing has.
fn free_name(folder: &Path) -> Result<PathBuf, FsError> {
    let mut number = 0u64;
    loop {
        let path = folder.join(format!("git-before-{number}"));
        match path.symlink_metadata() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error).context("looking at", &path),
            Ok(_) => number += 1,
        }
    }
}

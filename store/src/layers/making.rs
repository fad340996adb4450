//! A layer made, over those that are there or on its own.
//!
//! **Invariant:** a layer and those below it show what the snapshot has, or it is not made.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{GitOmission, GitOmitReason, Omission, Snapshot};
use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;

use super::LayerError;
use super::changes::changes;
use super::known::{Known, LayerId, Stack};
use super::overlay::{self, Overlay};
use super::record::Record;
use crate::checkout::{
    RepositoryOptions, RestoreOptions, RestoredRepository, remove_made, restore, restore_snapshot,
};
use crate::fs::{self, Context, FsError};
use crate::git::{self, Former, GitError, RebuildOptions};
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::Progress;
use crate::scan::directory::open_below;
use crate::scan::dirty::split;
use crate::trees;

/// Layers of a stack, its base among them. The kernel takes 500, but each is looked through for a name that is in none.
const MAX_HEIGHT: usize = 16;

/// In the folder of a layer that is being made: what it and those below it show.
pub(super) const MERGED: &str = "merged";

/// Entries of a layer that are always few.
const FEW: u64 = 1000;

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

/// Makes a layer of a snapshot in a folder, which is empty.
pub(super) fn make<S: ObjectSource + ObjectSink>(
    objects: &S,
    snapshot: &Snapshot,
    known: &Known,
    new: &Path,
    options: &LayerOptions<'_>,
    progress: &Progress,
) -> Result<Record, LayerError> {
    match make_over(objects, snapshot, known, new, options, progress) {
        Ok(Some(record)) => return Ok(record),
        Ok(None) => {}
        Err(error) if error.is_of_the_store() => return Err(error),
        Err(error) => {
            // What cannot be made over what is there can be made whole.
            tracing::info!(%error, "a layer is made whole");
            overlay::unmount(&new.join(MERGED))?;
            remove_made(new)?;
            fs::create_dir_all(new)?;
        }
    }
    let (tree, repository) = (new.join("tree"), options.repository);
    let made = restore_snapshot(objects, snapshot, &tree, &options.restore, repository, progress);
    let (restored, told) = match made? {
        (restored, RestoredRepository::Absent) => (restored, Vec::new()),
        (restored, RestoredRepository::Rebuilt(told)) => (restored, told),
        (_, RestoredRepository::Failed(error)) => return Err(error.into()),
    };
    Ok(record_of(snapshot, None, options, restored.not_carried, told))
}

/// Makes a layer over what is there; nothing where that has too little in common with the snapshot.
fn make_over<S: ObjectSource + ObjectSink>(
    objects: &S,
    snapshot: &Snapshot,
    known: &Known,
    new: &Path,
    options: &LayerOptions<'_>,
    progress: &Progress,
) -> Result<Option<Record>, LayerError> {
    let stack = known.newest();
    let below = if stack.len() < MAX_HEIGHT { stack.first() } else { stack.last() };
    let Some((below, record)) = below.and_then(|&below| Some((below, known.record(below)?))) else {
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
    let lower = known.stack(below);
    let tree = new.join("tree");
    let (sparse, mode) = (changes.tree, snapshot.root_mode);
    let restored = restore(objects, sparse, mode, &tree, &options.restore, progress)?;
    take_away(&tree, &changes.gone)?;
    let told = if alike {
        record.told.clone()
    } else {
        let before = record.git.filter(|_| lower.repository().is_some());
        make_repository(objects, snapshot, (&lower, before), new, options)?
    };
    Ok(Some(record_of(snapshot, Some(below), options, restored.not_carried, told)))
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

/// Hides names of the layers below. The folders that they are in are there: they changed.
fn take_away(tree: &Path, gone: &[Vec<u8>]) -> Result<(), FsError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = rustix::fs::open(tree, flags, Mode::empty()).context("opening", tree)?;
    for path in gone {
        let (above, name) = split(path);
        let hidden = open_below(root.as_fd(), above).and_then(|above| hide(above.as_fd(), name));
        hidden.context("hiding", &tree.join(std::ffi::OsStr::from_bytes(path)))?;
    }
    Ok(())
}

/// Puts what an overlay takes for a name that is gone.
fn hide(folder: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let (kind, device) = (FileType::CharacterDevice, rustix::fs::makedev(0, 0));
    rustix::fs::mknodat(folder, name, kind, Mode::empty(), device)
}

/// Makes the repository of a snapshot in a layer, in the place of that of the layers below, which was made from `before`.
fn make_repository<S: ObjectSource + ObjectSink>(
    objects: &S,
    snapshot: &Snapshot,
    (lower, before): (&Stack, Option<GitStateId>),
    new: &Path,
    options: &LayerOptions<'_>,
) -> Result<Vec<GitOmission>, LayerError> {
    let (upper, work, merged) = (new.join("tree"), new.join("work"), new.join(MERGED));
    let Some(state) = snapshot.git else {
        if before.is_some() {
            take_away(&upper, &[b".git".to_vec()])?;
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

//! A layer made, over those that are there or on its own.
//!
//! **Invariant:** a layer and those below it show what the snapshot has, or it is not made.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{GitOmission, Omission, Snapshot};
use rustix::fs::{FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;

use super::LayerError;
use super::changes::changes;
use super::known::{Known, LayerId, Stack};
use super::overlay::{self, Marks, Overlay};
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
const MERGED: &str = "merged";

/// And what those below it show.
const VIEW: &str = "view";

/// Whatever is seen in it.
pub(super) const SHOWN: [&str; 2] = [MERGED, VIEW];

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
    /// What layers are marked with.
    pub marks: Marks,
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
            for shown in SHOWN {
                overlay::unmount(&new.join(shown))?;
            }
            remove_made(new)?;
            fs::create_dir_all(new)?;
        }
    }
    make_whole(objects, snapshot, &new.join("tree"), options, progress)
}

/// Makes all of a snapshot.
pub(super) fn make_whole<S: ObjectSource + ?Sized>(
    objects: &S,
    snapshot: &Snapshot,
    tree: &Path,
    options: &LayerOptions<'_>,
    progress: &Progress,
) -> Result<Record, LayerError> {
    let (how, repository) = (&options.restore, options.repository);
    let made = restore_snapshot(objects, snapshot, tree, how, repository, progress);
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
    let Some(alike) = are_alike(objects, record.git, snapshot.git)? else { return Ok(None) };
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

/// Whether one repository is as another one; nothing where it cannot be made out of it: repositories inside are not taken
/// over one by one.
pub(super) fn are_alike<S: ObjectSource + ?Sized>(
    objects: &S,
    before: Option<GitStateId>,
    now: Option<GitStateId>,
) -> Result<Option<bool>, LayerError> {
    let alike = match (before, now) {
        (None, None) => true,
        (Some(before), Some(now)) => git::is_alike(objects, before, now)?,
        _ => false,
    };
    let has_inner = |state| git::worktrees(objects, state).map(|all| all.len() > 1);
    let stays = alike || !before.map(has_inner).transpose()?.unwrap_or_default();
    Ok(stays.then_some(alike))
}

pub(super) fn record_of(
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
    let marks = options.marks;
    if !marks.rename() && before.is_some() {
        // What stands there cannot be moved, only hidden.
        take_away(&upper, &[b".git".to_vec()])?;
    }
    let overlay = Overlay { lower: &lower.trees, upper: &upper, work: &work, at: &merged, marks };
    overlay::mount(&overlay)?;
    let made = if marks.rename() {
        rebuild_in(objects, (before, state), &merged, lower.is_whole(), options)
    } else {
        rebuild_beside(objects, (before, state), new, lower, options)
    };
    overlay::unmount(&merged)?;
    remove_made(&merged)?;
    remove_made(&work)?;
    made
}

/// Makes a repository where another one stands. That goes aside and gives what both have, of which nothing is written.
pub(super) fn rebuild_in<S: ObjectSource + ObjectSink>(
    objects: &S,
    (before, state): (Option<GitStateId>, GitStateId),
    merged: &Path,
    is_whole: bool,
    options: &LayerOptions<'_>,
) -> Result<Vec<GitOmission>, LayerError> {
    let aside = free_name(merged)?;
    let mut former = None;
    if let Some(state) = before {
        fs::rename_unsynced(&merged.join(".git"), &aside)?;
        former =
            is_whole.then(|| Former { git_dir: aside.clone(), state, lends: false, copied: None });
    }
    let made = git::rebuild_over(objects, state, merged, &rebuilding(merged, options)?, former)?;
    if before.is_some() {
        fs::remove_dir_all(&aside)?;
    }
    Ok(made.omitted)
}

/// The same where no directory of the layers below can be moved: the new one stands in the place of the other, and the
/// objects of that are seen through it.
fn rebuild_beside<S: ObjectSource + ObjectSink>(
    objects: &S,
    (before, state): (Option<GitStateId>, GitStateId),
    new: &Path,
    lower: &Stack,
    options: &LayerOptions<'_>,
) -> Result<Vec<GitOmission>, LayerError> {
    let (merged, view) = (new.join(MERGED), new.join(VIEW));
    let below = if let [only] = lower.trees.as_slice() {
        only.clone()
    } else {
        fs::create_dir_all(&view)?;
        overlay::mount_view(&lower.trees, &view, options.marks)?;
        view.clone()
    };
    let below = below.join(".git");
    let former = before.filter(|_| lower.is_whole()).map(|state| Former {
        git_dir: below.clone(),
        state,
        lends: true,
        copied: None,
    });
    let rebuilding = rebuilding(&merged, options)?;
    let made = git::rebuild_over(objects, state, &merged, &rebuilding, former);
    let joined = made.map_err(LayerError::from).and_then(|made| {
        overlay::unmount(&merged)?;
        if made.took_over {
            see_through(&new.join("tree/.git"), &below, options.marks)?;
        }
        Ok(made.omitted)
    });
    overlay::unmount(&view)?;
    remove_made(&view)?;
    joined
}

/// Lets the objects of a repository be seen through one that stands over it, and nothing else of it.
fn see_through(own: &Path, below: &Path, marks: Marks) -> Result<(), FsError> {
    match rustix::fs::lremovexattr(own, marks.opaque()) {
        Ok(()) | Err(Errno::NODATA) => {}
        Err(error) => return Err(error).context("marking", own),
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = rustix::fs::open(own, flags, Mode::empty()).context("opening", own)?;
    for name in fs::list_dir(below)?.into_iter().filter(|name| name != "objects") {
        let path = own.join(&name);
        match path.symlink_metadata() {
            Ok(found) if found.is_dir() => {
                rustix::fs::lsetxattr(&path, marks.opaque(), b"y", XattrFlags::empty())
                    .context("marking", &path)?;
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                hide(folder.as_fd(), name.as_bytes()).context("hiding", &path)?;
            }
            Err(error) => return Err(error).context("looking at", &path),
        }
    }
    Ok(())
}

pub(super) fn rebuilding(
    merged: &Path,
    options: &LayerOptions<'_>,
) -> Result<RebuildOptions, GitError> {
    Ok(RebuildOptions {
        git: options.repository.git.clone().ok_or(GitError::NoProgram)?,
        scratch: options.repository.scratch.clone(),
        beside: merged.to_owned(),
        commands: options.repository.commands.clone(),
    })
}

/// A name in a folder that nothing has.
pub(super) fn free_name(folder: &Path) -> Result<PathBuf, FsError> {
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

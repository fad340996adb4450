//! Checkouts that share bytes with one that is kept: where there are no overlays, and the file system can do that.
//!
//! ```text
//! tree     a checkout of a snapshot, which no run sees
//! record   what it is of; there while the tree is whole
//! new-over what it is brought to another snapshot with
//! gone-…   one that is being taken away
//! ```
//!
//! A checkout of the same snapshot is a copy of the tree in which each file shares its bytes. For another snapshot the tree
//! is first brought to that, at the cost of what differs. There is one tree a workspace.
//!
//! **Invariant:** the tree is not changed while it is copied, and what could not be changed to the end is not used again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{PoisonError, RwLock};

use baton_protocol::object::{GitOmission, Omission, Snapshot};
use rustix::fs::{Mode, OFlags};

use super::LayerError;
use super::changes::changes;
use super::cloning::{can_share, copy_tree, lay_over, take_out};
use super::making::{
    LayerOptions, are_alike, free_name, make_whole, rebuild_in, rebuilding, record_of,
};
use super::record::{MAX_LEN, Record};
use crate::checkout::{put_aside, remove_made, restore, sweep};
use crate::fs::{self, Context, FsError};
use crate::git::{self, Former};
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::Progress;
use crate::scan::directory::open_below;
use crate::scan::dirty::split;
use crate::trees;

const TREE: &str = "tree";
const RECORD: &str = "record";
const OVER: &str = "new-over";
const GONE: &str = "gone-";

/// Entries that are always few.
const FEW: u64 = 1000;

/// The tree of a workspace that checkouts are copied from. One at a time may be open for a folder.
#[derive(Debug)]
pub struct Clones {
    folder: PathBuf,
    /// Held by who copies the tree, and alone by who changes it.
    tree: RwLock<()>,
}

/// A checkout that was made.
#[derive(Debug)]
pub struct Cloned {
    /// What the file system could not hold.
    pub not_carried: Vec<Omission>,
    /// What of the repository did not come, or is to be looked at; nothing where there is none.
    pub told: Option<Vec<GitOmission>>,
    /// Files that share their bytes with those of the tree.
    pub shared: u64,
}

impl Clones {
    /// Whether files of one folder can share bytes with their copies in another one, found out by trying.
    pub fn try_in(folder: &Path, copies: &Path) -> Result<(), FsError> {
        fs::create_dir_all(folder)?;
        fs::create_dir_all(copies)?;
        can_share(folder, copies)
    }

    /// Opens the folder of a workspace, which is made where it is missing.
    pub fn open(folder: &Path) -> Result<Self, FsError> {
        fs::create_dir_all(folder)?;
        Ok(Self { folder: folder.to_owned(), tree: RwLock::default() })
    }

    /// Makes a checkout of a snapshot at a place where there is nothing. After an error there is nothing, either, or an
    /// unfinished one.
    pub fn checkout<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        at: &Path,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Cloned, LayerError> {
        {
            let _shared = self.tree.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = self.record(options.boot)?.filter(|it| it.shows(snapshot)) {
                return self.copy(objects, snapshot, &record, at, options);
            }
        }
        let _alone = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        let record = match self.record(options.boot)? {
            // Another one was faster.
            Some(record) if record.shows(snapshot) => record,
            before => self.make(objects, snapshot, before, options, progress)?,
        };
        self.copy(objects, snapshot, &record, at, options)
    }

    /// What the tree shows, if this start of the machine has made it: nothing of it is synced.
    fn record(&self, boot: &str) -> Result<Option<Record>, FsError> {
        let bytes = fs::read_if_exists(&self.folder.join(RECORD), MAX_LEN)?;
        let record = bytes.and_then(|bytes| Record::decode(&bytes).ok());
        Ok(record.filter(|record| record.boot == boot && self.tree().is_dir()))
    }

    fn tree(&self) -> PathBuf {
        self.folder.join(TREE)
    }

    fn make<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        before: Option<Record>,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Record, LayerError> {
        // Gone before the first change, so that whatever ends this leaves nothing that looks whole.
        fs::remove_file(&self.folder.join(RECORD))?;
        let made = match before {
            Some(before) => self.bring(objects, snapshot, before, options, progress),
            None => Ok(None),
        };
        let made = match made {
            Err(error) if error.is_of_the_store() => return Err(error),
            Err(error) => {
                tracing::info!(%error, "the tree that checkouts are copied from is made anew");
                None
            }
            Ok(made) => made,
        };
        let record = if let Some(record) = made {
            record
        } else {
            put_aside(&self.tree(), &self.folder, GONE)?;
            make_whole(objects, snapshot, &self.tree(), options, progress)?
        };
        fs::write_whole(&self.folder.join(RECORD), &record.encode(), 0o600)?;
        Ok(record)
    }

    /// Brings the tree to another snapshot; nothing where that is too much.
    fn bring<S: ObjectSource + ObjectSink>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        before: Record,
        options: &LayerOptions<'_>,
        progress: &Progress,
    ) -> Result<Option<Record>, LayerError> {
        let files = trees::sums_of(objects, snapshot.root)?.files;
        let Some(alike) = are_alike(objects, before.git, snapshot.git)? else { return Ok(None) };
        let limit = FEW.max(files / 2);
        let Some(changes) = changes(objects, before.root, snapshot.root, limit)? else {
            return Ok(None);
        };
        // What could not be held then might be in the way now.
        if !before.not_carried.is_empty() {
            return Ok(None);
        }
        let (tree, over) = (self.tree(), self.folder.join(OVER));
        remove_made(&over)?;
        let mode = snapshot.root_mode;
        let restored = restore(objects, changes.tree, mode, &over, &options.restore, progress)?;
        let (top, new) = (open(&tree)?, open(&over)?);
        fs::set_mode(&tree, u32::from(mode) | 0o700)?;
        for path in &changes.gone {
            let (above, name) = split(path);
            let gone = open_below(top.as_fd(), above).and_then(|above| take_out(&above, name));
            gone.context("changing", &tree)?;
        }
        lay_over(&new, &top).context("changing", &tree)?;
        remove_made(&over)?;
        let told = if alike {
            before.told
        } else {
            let is_whole = before.is_whole();
            if let Some(state) = snapshot.git {
                rebuild_in(objects, (before.git, state), &tree, is_whole, options)?
            } else {
                take_out(&top, b".git").context("changing", &tree)?;
                Vec::new()
            }
        };
        fs::set_mode(&tree, mode.into())?;
        Ok(Some(record_of(snapshot, None, options, restored.not_carried, told)))
    }

    /// Copies the tree, and makes its repository in the copy: that names the folder that it is in, and what its files look
    /// like.
    fn copy<S: ObjectSource + ?Sized>(
        &self,
        objects: &S,
        snapshot: &Snapshot,
        record: &Record,
        at: &Path,
        options: &LayerOptions<'_>,
    ) -> Result<Cloned, LayerError> {
        fs::create_dir_all(at)?;
        let worktrees = snapshot.git.map(|state| git::worktrees(objects, state)).transpose()?;
        let worktrees = worktrees.unwrap_or_default();
        let is_repository = |path: &[u8]| {
            let above = path.strip_suffix(b".git");
            above.is_some_and(|above| worktrees.contains(above.strip_suffix(b"/").unwrap_or(above)))
        };
        let (tree, threads) = (self.tree(), options.restore.threads);
        let shared = copy_tree(&tree, at, &is_repository, threads)?;
        fs::set_mode(at, u32::from(record.root_mode) | 0o700)?;
        let told = match snapshot.git {
            None => None,
            Some(state) => {
                let aside = free_name(at)?;
                fs::create_dir_all(&aside)?;
                copy_tree(&tree.join(".git"), &aside, &|_| false, threads)?;
                let former = record.is_whole().then(|| Former {
                    git_dir: aside.clone(),
                    state,
                    lends: false,
                    copied: Some(tree),
                });
                let made =
                    git::rebuild_over(objects, state, at, &rebuilding(at, options)?, former)?;
                fs::remove_dir_all(&aside)?;
                Some(made.omitted)
            }
        };
        fs::set_mode(at, record.root_mode.into())?;
        let not_carried = record.not_carried.clone();
        Ok(Cloned { not_carried, told, shared })
    }

    /// Puts the tree aside if it is of another start of the machine.
    pub fn collect(&self, boot: &str) -> Result<(), FsError> {
        let _alone = self.tree.write().unwrap_or_else(PoisonError::into_inner);
        if self.record(boot)?.is_none() {
            fs::remove_file(&self.folder.join(RECORD))?;
            put_aside(&self.tree(), &self.folder, GONE)?;
            put_aside(&self.folder.join(OVER), &self.folder, GONE)?;
        }
        Ok(())
    }

    /// Takes away what was put aside, until it is told to `stop`. What cannot be taken away stays.
    pub fn sweep(&self, stop: &AtomicBool) -> Result<(), FsError> {
        sweep(&self.folder, GONE, stop)
    }
}

fn open(path: &Path) -> Result<OwnedFd, FsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).context("opening", path)
}

//! Checkouts that share what they have in common, each with a layer of its own for what its run changes.
//!
//! ```text
//! LAYER/stack    the layers below
//! LAYER/upper    what the run changed
//! LAYER/work     for the system
//! LAYER/sealed   what the run left is in a snapshot
//! ```
//!
//! **Invariant:** the layer of a run that is not sealed is never taken away.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::{VaultId, WorkspaceId};
use baton_protocol::object::{Omission, OmitReason, Snapshot};
use baton_protocol::path::RelPath;
use baton_store::checkout::{RepositoryOptions, RestoreOptions, RestoredRepository, remove_made};
use baton_store::fs::{self, FsError};
use baton_store::git::{self, GitError};
use baton_store::layers::overlay::{self, Overlay};
use baton_store::layers::{LayerError, LayerOptions, Layers, Stack, changed};
use baton_store::scan::{Made as MadeTree, Progress, ScanError, ScanOptions, Scanned, seal_made};
use baton_store::snapshot::load_omissions;
use baton_store::trees;
use baton_store::vault::{Intake, Vault};

use super::Made;
use crate::runs::checkout::Place;

const STACK: &str = "stack";
const SEALED: &str = "sealed";

/// Where the system says which start of the machine this is, and how long that is.
const BOOT: (&str, u64) = ("/proc/sys/kernel/random/boot_id", 64);

/// Layers of all workspaces of a node.
#[derive(Debug)]
pub struct SharedLayers {
    folder: PathBuf,
    /// Has one folder for each run.
    runs: PathBuf,
    boot: String,
    open: Mutex<HashMap<(VaultId, WorkspaceId), Arc<Layers>>>,
}

/// A checkout that shares layers could not be made or read.
#[derive(Debug, thiserror::Error)]
pub(super) enum SharedError {
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Store(#[from] baton_store::error::StoreError),
    #[error(transparent)]
    Scan(#[from] ScanError),
    #[error(transparent)]
    Git(#[from] GitError),
    #[error("what the run changed is in a layer, and this machine cannot mount overlays any more")]
    NoOverlays,
}

impl SharedLayers {
    /// Layers in a folder, if this machine can mount them there: why not, otherwise.
    pub fn choose(folder: PathBuf, runs: PathBuf) -> Result<Self, FsError> {
        fs::create_dir_all(&folder)?;
        overlay::try_in(&folder, &runs)?;
        let (path, len) = BOOT;
        let boot = fs::read_if_exists(Path::new(path), len)?.unwrap_or_default();
        let boot = String::from_utf8_lossy(&boot).trim().to_owned();
        Ok(Self { folder, runs, boot, open: Mutex::default() })
    }

    fn making<'a>(&'a self, repository: &'a RepositoryOptions) -> LayerOptions<'a> {
        LayerOptions { restore: RestoreOptions::default(), repository, boot: &self.boot }
    }

    fn layers(&self, place: &Place) -> Result<Arc<Layers>, FsError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(layers) = open.get(&(place.vault, place.workspace)) {
            return Ok(Arc::clone(layers));
        }
        let folder = self.folder.join(place.vault.to_string()).join(place.workspace.to_string());
        let layers = Arc::new(Layers::open(&folder)?);
        open.insert((place.vault, place.workspace), Arc::clone(&layers));
        Ok(layers)
    }

    /// Makes a checkout of a snapshot.
    pub(super) fn prepare(
        &self,
        place: &Place,
        vault: &Vault,
        snapshot: &Snapshot,
        repository: &RepositoryOptions,
    ) -> Result<Made, SharedError> {
        let layers = self.layers(place)?;
        fs::create_dir_all(&place.layer)?;
        let (user, intake) = (place.layer.join(STACK), vault.intake());
        let options = self.making(repository);
        let stack = layers.stack(&intake, snapshot, &user, &options, &Progress::default())?;
        let upper = place.layer.join("upper");
        for folder in [&upper, &place.layer.join("work"), &place.checkout] {
            fs::create_dir_all(folder)?;
        }
        // The writable layer decides about the root of the tree.
        fs::set_mode(&upper, snapshot.root_mode.into())?;
        show(place, &stack)?;
        if let Err(error) = layers.collect(|| self.users(), &self.boot) {
            tracing::warn!(%error, "layers that nobody uses stay");
        }
        let below = trees::sums_of(vault, snapshot.root)?;
        let repository = stack.told.map_or(RestoredRepository::Absent, RestoredRepository::Rebuilt);
        let Stack { not_carried, .. } = stack;
        Ok(Made { files: below.files, bytes: below.bytes, not_carried, repository })
    }

    /// What a run has left, found in its own layer.
    pub(super) fn scan(
        &self,
        place: &Place,
        before: &Snapshot,
        intake: &Intake,
        repository: &RepositoryOptions,
        options: &ScanOptions,
    ) -> Result<Scanned, SharedError> {
        let layers = self.layers(place)?;
        let user = place.layer.join(STACK);
        let stack = match layers.noted(&user, before, &self.boot)? {
            Some(stack) => stack,
            // The machine was started again meanwhile, or somebody made room: what was below is made again, and is
            // the same. What is shown now may lack it.
            None => {
                overlay::unmount(&place.checkout)?;
                let options = self.making(repository);
                layers.stack(intake, before, &user, &options, &Progress::default())?
            }
        };
        if !overlay::is_mounted(&place.checkout)? {
            show(place, &stack)?;
        }
        let made = MadeTree {
            root: before.root,
            omitted: left_out(intake, before)?,
            repository: stack.repository(),
            dirty: changed(&place.layer.join("upper"))?,
        };
        Ok(seal_made(&place.checkout, made, intake, options, &Progress::default())?)
    }

    /// The notes of all runs that use layers, of every workspace: numbers of another one keep a few layers longer.
    fn users(&self) -> Result<Vec<PathBuf>, FsError> {
        let names = fs::list_dir(&self.runs)?.into_iter();
        Ok(names.map(|name| self.runs.join(name).join("layer").join(STACK)).collect())
    }
}

/// What a scan of a snapshot's checkout leaves out: what the snapshot says, and the repositories, which it has otherwise.
fn left_out(intake: &Intake, snapshot: &Snapshot) -> Result<Vec<Omission>, SharedError> {
    let mut omitted = load_omissions(intake, snapshot)?;
    let worktrees = snapshot.git.map(|state| git::worktrees(intake, state)).transpose()?;
    for mut path in worktrees.unwrap_or_default() {
        path.extend_from_slice(if path.is_empty() { b".git" } else { b"/.git" });
        let path = RelPath::new(&path).ok();
        omitted.extend(path.map(|path| Omission { path, reason: OmitReason::GitMetadata }));
    }
    omitted.sort_unstable();
    omitted.dedup();
    Ok(omitted)
}

fn show(place: &Place, stack: &Stack) -> Result<(), FsError> {
    let (upper, work) = (place.layer.join("upper"), place.layer.join("work"));
    overlay::mount(&Overlay {
        lower: &stack.trees,
        upper: &upper,
        work: &work,
        at: &place.checkout,
    })
}

/// Whether a checkout shares layers.
pub(super) fn is_shared(layer: &Path) -> bool {
    layer.join(STACK).exists()
}

/// Notes that what is in a layer is in a snapshot, too.
pub(super) fn note_sealed(layer: &Path) {
    if is_shared(layer)
        && let Err(error) = fs::write_atomic(&layer.join(SEALED), b"", 0o600)
    {
        tracing::warn!(%error, "the layer of a run stays");
    }
}

/// Takes a checkout away, whatever kind it is.
pub(super) fn release(checkout: &Path, layer: &Path) -> Result<(), FsError> {
    overlay::unmount(checkout)?;
    remove_made(checkout)?;
    remove_made(layer)
}

/// Takes a checkout away that shares layers, and is sealed.
pub(super) fn let_go(checkout: &Path, layer: &Path) -> Result<(), FsError> {
    // What is in no snapshot stays where it can be seen.
    if !layer.join(SEALED).exists() {
        return Ok(());
    }
    overlay::unmount(checkout)?;
    remove_made(checkout)?;
    remove_made(layer)
}

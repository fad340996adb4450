//! Checkouts of their own that share bytes with one that is kept for each workspace.
//!
//! What a run leaves is found as in every checkout of its own. Where the kept one cannot be made or copied, the checkout is
//! written from the store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::{VaultId, WorkspaceId};
use baton_protocol::object::Snapshot;
use baton_store::checkout::{
    RepositoryOptions, RestoreOptions, RestoredRepository, put_aside, remove_made,
};
use baton_store::fs::{self, FsError};
use baton_store::layers::overlay::Marks;
use baton_store::layers::{Clones, LayerError, LayerOptions};
use baton_store::scan::Progress;
use baton_store::trees;
use baton_store::vault::Vault;

use super::Made;
use super::layered::{boot, is_gone};
use crate::runs::checkout::Place;

/// The kept checkouts of all workspaces of a node.
#[derive(Debug)]
pub struct SharedBytes {
    folder: PathBuf,
    boot: String,
    open: Mutex<HashMap<(VaultId, WorkspaceId), Arc<Clones>>>,
    /// Whether those of every workspace have been opened.
    has_opened_all: AtomicBool,
}

impl SharedBytes {
    /// Puts what was kept in a folder aside, where nothing shares bytes any more.
    pub fn give_up(folder: &Path, aside: &Path) -> Result<(), FsError> {
        if is_gone(folder) {
            return Ok(());
        }
        fs::create_dir_all(aside)?;
        put_aside(folder, aside, "")
    }

    /// Keeps them in a folder, if their files can share bytes with those of runs: why not, otherwise.
    pub fn choose(folder: PathBuf, runs: &Path) -> Result<Self, FsError> {
        Clones::try_in(&folder, runs)?;
        Self::with(folder)
    }

    /// The same, whether they can or not.
    pub(super) fn with(folder: PathBuf) -> Result<Self, FsError> {
        let (boot, open) = (boot()?, Mutex::default());
        Ok(Self { folder, boot, open, has_opened_all: AtomicBool::new(false) })
    }

    fn clones(&self, vault: VaultId, workspace: WorkspaceId) -> Result<Arc<Clones>, FsError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(clones) = open.get(&(vault, workspace)) {
            return Ok(Arc::clone(clones));
        }
        let folder = self.folder.join(vault.to_string()).join(workspace.to_string());
        let clones = Arc::new(Clones::open(&folder)?);
        open.insert((vault, workspace), Arc::clone(&clones));
        Ok(clones)
    }

    /// Makes a checkout of a snapshot; nothing where it has to be written from the store.
    pub(super) fn prepare(
        &self,
        place: &Place,
        vault: &Vault,
        snapshot: &Snapshot,
        repository: &RepositoryOptions,
    ) -> Result<Option<Made>, LayerError> {
        match self.try_prepare(place, vault, snapshot, repository) {
            Ok(made) => Ok(Some(made)),
            Err(error) if error.is_of_the_store() => Err(error),
            Err(error) => {
                tracing::info!(%error, "a checkout is written from the store");
                remove_made(&place.checkout)?;
                Ok(None)
            }
        }
    }

    fn try_prepare(
        &self,
        place: &Place,
        vault: &Vault,
        snapshot: &Snapshot,
        repository: &RepositoryOptions,
    ) -> Result<Made, LayerError> {
        let clones = self.clones(place.vault, place.workspace)?;
        let (restore, boot) = (RestoreOptions::default(), self.boot.as_str());
        // There are no layers to be marked.
        let options = LayerOptions { restore, repository, boot, marks: Marks::User };
        let (intake, progress) = (vault.intake(), Progress::default());
        let at = &place.checkout;
        let cloned = clones.checkout(&intake, snapshot, at, &options, &progress)?;
        let below = trees::sums_of(vault, snapshot.root)?;
        Ok(Made {
            files: below.files,
            bytes: below.bytes,
            not_carried: cloned.not_carried,
            repository: cloned.told.map_or(RestoredRepository::Absent, RestoredRepository::Rebuilt),
        })
    }

    /// Takes away what is of an earlier start of the machine, until it is told to `stop`.
    pub(super) fn sweep(&self, stop: &AtomicBool) -> Result<(), FsError> {
        let mut swept = Ok(());
        if !self.has_opened_all.load(Ordering::SeqCst) {
            for vault in fs::list_dir(&self.folder)? {
                let inner = fs::list_dir(&self.folder.join(&vault)).unwrap_or_default();
                let vault = vault.to_str().and_then(|name| name.parse().ok());
                let Some(vault) = vault else { continue };
                for workspace in inner.iter().filter_map(|name| name.to_str()?.parse().ok()) {
                    swept = swept.and(self.clones(vault, workspace).map(drop));
                }
            }
            self.has_opened_all.store(swept.is_ok(), Ordering::SeqCst);
        }
        let open: Vec<_> = {
            let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
            open.values().cloned().collect()
        };
        for clones in open.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
            swept = swept.and(clones.collect(&self.boot).and_then(|()| clones.sweep(stop)));
        }
        swept
    }
}

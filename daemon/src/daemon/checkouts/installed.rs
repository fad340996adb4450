//! Environments in checkouts: set up over the files of a snapshot, and seen beside those of others.
//!
//! In a checkout that shares layers an environment is one more layer, below the writable one of the run. Where it has a
//! file that the snapshot has too, that of the snapshot lies over it. In a checkout of its own it is copied.
//!
//! ```text
//! LAYER/over     files of the snapshot that the environment would hide
//! LAYER/view     what is sealed: the snapshot and what the run changed, without the environment
//! environment    beside the checkout: which one it has
//! ```
//!
//! **Invariant:** what a run leaves is found without its environment: what that has is no change by the run.

use std::path::{Path, PathBuf};

use baton_protocol::id::{ObjectId, ObjectKind, SnapshotId};
use baton_protocol::object::Snapshot;
use baton_store::additions::{copy_missing, keep_additions};
use baton_store::checkout::{RestoreOptions, restore_snapshot};
use baton_store::error::StoreError;
use baton_store::fs;
use baton_store::layers::overlay::{self, Marks, Overlay};
use baton_store::objects::{ObjectSink, ObjectSource};
use baton_store::scan::{Guard, Progress, ScanOptions, scan};
use baton_store::snapshot::load_snapshot;
use baton_store::stat_cache::StatCache;
use baton_store::vault::Vault;

use super::layered::{is_shared, note, show_with};
use super::{Doing, NodeCheckouts};
use crate::environments::cache::{Kept, Record, SetupPlace};
use crate::environments::key::{Key, Wanted, wanted};
use crate::environments::setups::{Setups, Which};
use crate::runs::checkout::{CheckoutError, Environments, Place};

const FURNISHING: &str = "giving it its environment";
const SETTING_UP: &str = "preparing the environment's setup";
const KEEPING: &str = "keeping the environment";
const TELLING: &str = "telling what the run has left from its environment";

/// Most bytes of an environment.
const MAX_BYTES: u64 = 32 << 30;

/// An environment that is not kept.
#[derive(Debug, thiserror::Error)]
enum NotKept {
    #[error("the setup has left the value of a secret in {0}")]
    Secret(String),
    #[error("the setup has left {0} bytes; at most {MAX_BYTES} are kept")]
    TooLarge(u64),
}

/// What a run has left cannot be told from its environment.
#[derive(Debug, thiserror::Error)]
#[error("the environment {} is not there any more", .0.short())]
struct Gone(Key);

/// A note names no environment.
#[derive(Debug, thiserror::Error)]
#[error("{} does not say which environment the checkout has", .0.display())]
struct NoKey(PathBuf);

impl Environments for NodeCheckouts {
    fn wanted(&self, place: &Place, snapshot: SnapshotId) -> Result<Wanted, CheckoutError> {
        let doing = "reading what environment the tree asks for";
        let (vault, loaded) = self.loaded(place, snapshot, doing)?;
        let shares = match &self.shared {
            Some(shared) if is_shared(&place.layer) => match shared.marks() {
                Marks::Trusted => "layers",
                Marks::User => "layers of a user",
            },
            _ => "copies",
        };
        let system = [self.system.as_bytes(), b"\n", shares.as_bytes()].concat();
        wanted(&vault, &loaded, &system).doing(doing)
    }

    fn furnish(
        &self,
        place: &Place,
        home: &Path,
        snapshot: SnapshotId,
        key: Key,
    ) -> Result<Option<Kept>, CheckoutError> {
        let found = self.environments.find(which(place, key), place.run, self.clock.now_ms());
        let Some(kept) = found.doing(FURNISHING)? else { return Ok(None) };
        let (vault, loaded) = self.loaded(place, snapshot, FURNISHING)?;
        // First said, so that what comes into the checkout is never taken for the run's.
        fs::write_atomic(&note(place), key.to_string().as_bytes(), 0o600).doing(FURNISHING)?;
        if is_shared(&place.layer) {
            self.show_with(place, &kept, &vault, &loaded)?;
        } else {
            copy_missing(&kept.tree, &place.checkout).doing(FURNISHING)?;
        }
        copy_missing(&kept.home, home).doing(FURNISHING)?;
        Ok(Some(kept))
    }

    fn begin(
        &self,
        place: &Place,
        snapshot: SnapshotId,
        key: Key,
    ) -> Result<SetupPlace, CheckoutError> {
        let (vault, loaded) = self.loaded(place, snapshot, SETTING_UP)?;
        let setup = self.environments.begin(which(place, key)).doing(SETTING_UP)?;
        match &self.shared {
            Some(shared) if is_shared(&place.layer) => {
                let (stack, marks) = shared.stack_of(place, &loaded).doing(SETTING_UP)?;
                fs::set_mode(&setup.upper, loaded.root_mode.into()).doing(SETTING_UP)?;
                let overlay = Overlay {
                    lower: &stack.trees,
                    upper: &setup.upper,
                    work: &setup.work,
                    at: &setup.checkout,
                    marks,
                };
                overlay::mount_for_keeping(&overlay).doing(SETTING_UP)?;
            }
            _ => {
                let (options, progress) = (RestoreOptions::default(), Progress::default());
                let (at, repository) = (&setup.checkout, self.repository());
                restore_snapshot(&vault, &loaded, at, &options, &repository, &progress)
                    .doing(SETTING_UP)?;
            }
        }
        Ok(setup)
    }

    fn keep(&self, place: &Place, snapshot: SnapshotId, key: Key) -> Result<Record, CheckoutError> {
        let (vault, loaded) = self.loaded(place, snapshot, KEEPING)?;
        let setup = self.environments.place(which(place, key));
        let tree = if overlay::is_mounted(&setup.checkout).doing(KEEPING)? {
            overlay::unmount(&setup.checkout).doing(KEEPING)?;
            &setup.upper
        } else {
            &setup.checkout
        };
        let beside = keep_additions(&vault, Some(loaded.root), tree).doing(KEEPING)?;
        let at_home = keep_additions(&vault, None, &setup.home).doing(KEEPING)?;
        let bytes = beside.bytes.saturating_add(at_home.bytes);
        if bytes > MAX_BYTES {
            return Err(NotKept::TooLarge(bytes)).doing(KEEPING);
        }
        for folder in [tree, &setup.home] {
            self.refuse_secrets(place, folder)?;
        }
        let files = beside.files.saturating_add(at_home.files);
        let record = Record { files, bytes, used: self.clock.now_ms() };
        self.environments.keep(which(place, key), place.run, tree, record).doing(KEEPING)?;
        Ok(record)
    }

    fn leave_off(&self, place: &Place, key: Key) -> Result<(), CheckoutError> {
        self.environments.leave_off(which(place, key)).doing("clearing up")
    }

    fn setups(&self) -> &Setups {
        &self.setups
    }
}

impl NodeCheckouts {
    fn loaded(
        &self,
        place: &Place,
        snapshot: SnapshotId,
        doing: &'static str,
    ) -> Result<(Vault, Snapshot), CheckoutError> {
        let vault = self.store.vault(place.vault).doing(doing)?;
        let loaded = load_snapshot(&vault, snapshot).doing(doing)?;
        Ok((vault, loaded))
    }

    /// Shows a checkout with its environment.
    fn show_with(
        &self,
        place: &Place,
        kept: &Kept,
        vault: &Vault,
        snapshot: &Snapshot,
    ) -> Result<(), CheckoutError> {
        let Some(shared) = &self.shared else { return Ok(()) };
        let (stack, marks) = shared.stack_of(place, snapshot).doing(FURNISHING)?;
        show_with(place, (&stack, marks), kept, &vault.intake(), snapshot).doing(FURNISHING)
    }

    /// Refuses what has a value that only runs may have.
    fn refuse_secrets(&self, place: &Place, folder: &Path) -> Result<(), CheckoutError> {
        let Some(known) = self.secrets.to_hold(place.vault, place.run) else { return Ok(()) };
        let options = ScanOptions { guard: Some(Guard::Known(known)), ..ScanOptions::default() };
        let (cache, progress) = (StatCache::default(), Progress::default());
        let scanned = scan(folder, &cache, &Nowhere, &options, &progress).doing(KEEPING)?;
        match scanned.held.keys().next() {
            None => Ok(()),
            Some(path) => {
                let path = String::from_utf8_lossy(path).into_owned();
                Err(NotKept::Secret(path)).doing(KEEPING)
            }
        }
    }

    /// The environment that a checkout was given. Writes nothing: there may be no room.
    pub(super) fn given(&self, place: &Place) -> Result<Option<Kept>, CheckoutError> {
        let Some(key) = key_of(place)? else { return Ok(None) };
        match self.environments.look(which(place, key)).doing(TELLING)? {
            Some(kept) => Ok(Some(kept)),
            None => Err(Gone(key)).doing(TELLING),
        }
    }
}

fn which(place: &Place, key: Key) -> Which {
    (place.vault, place.workspace, key)
}

/// The environment that a checkout has.
fn key_of(place: &Place) -> Result<Option<Key>, CheckoutError> {
    let path = note(place);
    let Some(text) = fs::read_if_exists(&path, Key::TEXT as u64).doing(TELLING)? else {
        return Ok(None);
    };
    match std::str::from_utf8(&text).ok().and_then(Key::parse) {
        Some(key) => Ok(Some(key)),
        None => Err(NoKey(path)).doing(TELLING),
    }
}

/// Objects that are looked through and not kept.
struct Nowhere;

impl ObjectSource for Nowhere {
    fn read(&self, _id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(None)
    }

    fn contains(&self, _id: &ObjectId) -> Result<bool, StoreError> {
        Ok(false)
    }
}

impl ObjectSink for Nowhere {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        Ok(ObjectId::of(kind, bytes))
    }
}

//! How much is kept for each device and each user, where a node lets them have only so much.
//!
//! It is measured before the first push, and counted from there on; what came counts as much as it weighed on the way. All pushes at
//! work count together, so that many at once find no more room than one. It is measured again where that leads beyond the limit,
//! and after something was forgotten or collected.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use baton_protocol::id::{DeviceId, ObjectId, SnapshotId, VaultId};
use baton_store::catalog::Catalog;
use baton_store::error::StoreError;
use baton_store::snapshot::load_snapshot;
use baton_store::vault::Vault;

use crate::config::ServeConfig;
use crate::sync::Kept;
use crate::thinning::walk;

/// What devices and users may have, in bytes; nothing: as much as there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Most {
    /// Each user.
    pub user: Option<u64>,
    /// Each device.
    pub device: Option<u64>,
}

impl Most {
    /// What a configuration lets them have.
    pub const fn of(config: &ServeConfig) -> Self {
        Self { user: config.quota_bytes, device: config.device_quota_bytes }
    }
}

/// What is kept for devices and users; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    most: Most,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Of those that asked since it was last forgotten: to measure it is work.
    devices: HashMap<DeviceId, Arc<AtomicU64>>,
    /// As long as a push is at work.
    vaults: HashMap<VaultId, Weak<AtomicU64>>,
}

impl Usage {
    /// Nothing is known yet.
    pub fn new(most: Most) -> Self {
        Self { most, known: Arc::default() }
    }

    /// What is kept for a device; nothing where it may have as much as its user.
    pub(super) fn of_device(
        &self,
        catalog: &Catalog,
        vault: &Vault,
        device: DeviceId,
    ) -> Result<Option<Kept>, StoreError> {
        let Some(most) = self.most.device else { return Ok(None) };
        let known = self.lock().devices.get(&device).cloned();
        let now = if let Some(now) = known {
            now
        } else {
            let now = Arc::new(AtomicU64::new(measure(catalog, vault, device)?));
            // Another one may have been as fast.
            Arc::clone(self.lock().devices.entry(device).or_insert(now))
        };
        Ok(Some(Kept { now, most }))
    }

    /// What is kept for a user; nothing where they may have as much as the disk holds.
    pub(super) fn of_user(&self, vault: &Vault) -> Result<Option<Kept>, StoreError> {
        let Some(most) = self.most.user else { return Ok(None) };
        let known = |known: &Known| known.vaults.get(&vault.id()).and_then(Weak::upgrade);
        let counted = known(&self.lock());
        let now = if let Some(now) = counted {
            now
        } else {
            // Nobody waits for what is read here.
            let measured = Arc::new(AtomicU64::new(vault.bytes()?));
            let mut all = self.lock();
            // Another one may have been as fast.
            known(&all).unwrap_or_else(|| {
                all.vaults.retain(|_, others| others.strong_count() > 0);
                all.vaults.insert(vault.id(), Arc::downgrade(&measured));
                measured
            })
        };
        Ok(Some(Kept { now, most }))
    }

    /// A push has ended. Of what came some may have been there, or belong to nothing: what seems to be too much is
    /// measured again.
    pub(super) fn came(&self, device: DeviceId, vault: VaultId) {
        let Most { user, device: of_device } = self.most;
        let mut known = self.lock();
        let is_over = |now: &AtomicU64, most: Option<u64>| {
            most.is_some_and(|most| now.load(Ordering::Relaxed) > most)
        };
        if known.devices.get(&device).is_some_and(|now| is_over(now, of_device)) {
            known.devices.remove(&device);
        }
        let of_vault = known.vaults.get(&vault).and_then(Weak::upgrade);
        if of_vault.is_some_and(|now| is_over(&now, user)) {
            known.vaults.remove(&vault);
        }
    }

    /// Something was taken away: it is measured again.
    pub fn renew(&self) {
        *self.lock() = Known::default();
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of all snapshots of a device that are here.
fn measure(catalog: &Catalog, vault: &Vault, device: DeviceId) -> Result<u64, StoreError> {
    let heads = vault.heads().into_iter().filter(|head| head.device == device);
    let mut starts: Vec<SnapshotId> = heads.map(|head| head.snapshot).collect();
    // What came before one that was forgotten.
    for (of, snapshot) in catalog.roots()?.kept {
        let is_its = of == vault.id()
            && load_snapshot(vault, snapshot).is_ok_and(|found| found.device == device);
        if is_its {
            starts.push(snapshot);
        }
    }
    let walked = walk(vault, starts, &BTreeSet::new())?;
    vault.bytes_of(walked.snapshots.into_iter().map(|(id, _)| ObjectId::from(id)))
}

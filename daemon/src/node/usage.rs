//! How much of a vault each device needs, where a node lets devices have only so much.
//!
//! It is measured before the first push of a device, and counted from there on; what came counts as much as it weighed on the way. It
//! is measured again where that leads beyond the limit, and after something was forgotten or collected.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{DeviceId, ObjectId, SnapshotId};
use baton_store::catalog::Catalog;
use baton_store::error::StoreError;
use baton_store::snapshot::load_snapshot;
use baton_store::vault::Vault;

use crate::sync::Kept;
use crate::thinning::walk;

/// What is kept for devices.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    most: Option<u64>,
    /// Of those that asked since it was last forgotten.
    known: Arc<Mutex<HashMap<DeviceId, u64>>>,
}

impl Usage {
    /// Nothing is known yet. A device may have so many bytes; nothing: as many as its user.
    pub fn new(most: Option<u64>) -> Self {
        Self { most, known: Arc::default() }
    }

    /// What is kept for a device; nothing where it may have as much as its user.
    pub(super) fn kept(
        &self,
        catalog: &Catalog,
        vault: &Vault,
        device: DeviceId,
    ) -> Result<Option<Kept>, StoreError> {
        let Some(most) = self.most else { return Ok(None) };
        let known = self.lock().get(&device).copied();
        let now = if let Some(now) = known {
            now
        } else {
            let now = measure(catalog, vault, device)?;
            self.lock().insert(device, now);
            now
        };
        Ok(Some(Kept { now, most }))
    }

    /// Counts what came from a device.
    pub(super) fn came(&self, device: DeviceId, bytes: u64) {
        let Some(most) = self.most else { return };
        let mut known = self.lock();
        if let Some(now) = known.get_mut(&device) {
            *now = now.saturating_add(bytes);
            // Some of it may have been here, or belong to nothing.
            if *now > most {
                known.remove(&device);
            }
        }
    }

    /// Something was taken away: it is measured again.
    pub fn renew(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<DeviceId, u64>> {
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

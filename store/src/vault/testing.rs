//! What tests change in a vault: what they have to see fail, and what is to happen at a moment that is hard to meet.

use std::sync::Mutex;
use std::sync::atomic::Ordering;

use baton_protocol::id::VaultId;

use super::{Pending, Refs, Vault};
use crate::error::StoreError;

/// What happens once, between the walk of a commit and its gate.
#[derive(Default)]
pub(super) struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Meanwhile {
    pub(super) fn happens(&self) {
        let action = self.0.lock().unwrap().take();
        if let Some(action) = action {
            action();
        }
    }
}

impl std::fmt::Debug for Meanwhile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Meanwhile").finish_non_exhaustive()
    }
}

impl Vault {
    /// Lets something happen between the next walk of a commit and its gate.
    pub(crate) fn meanwhile(&self, action: impl FnOnce() + Send + 'static) {
        *self.0.collecting.meanwhile.0.lock().unwrap() = Some(Box::new(action));
    }

    /// Walks believe what they saw before.
    pub(crate) fn be_blind(&self, is_blind: bool) {
        self.0.collecting.is_blind.store(is_blind, Ordering::SeqCst);
    }

    /// Opens a vault beside this one as it stands on the disk: the store knows nothing of it, so that it is opened anew each time.
    pub(crate) fn open_beside(&self, id: VaultId) -> Result<Self, StoreError> {
        let commits = self.0.commits.clone();
        Self::open(id, &self.0.layout, commits, Refs::default(), Pending::default())
    }

    /// No collection waits for anybody.
    pub(crate) fn ignore_leases(&self) {
        self.0.commits.leases.ignore();
    }
}

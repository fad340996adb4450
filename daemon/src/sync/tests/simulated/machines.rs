//! A store on a disk that loses power.

use std::sync::Arc;

use baton_protocol::id::VaultId;
use baton_store::fs::simulated::{Dice, Disk, Followed};
use baton_store::store::Store;
use baton_store::vault::Vault;

use crate::fuzz::scratch;

/// Whose objects they are, at home and at the node.
const VAULT: VaultId = VaultId::from_bytes([9; 16]);

/// Operations of a disk after which its power is cut, at most.
const SOON: u64 = 60;

#[derive(Debug)]
pub(super) struct Machine {
    store: Option<Store>,
    pub(super) disk: Arc<Followed>,
    folder: tempfile::TempDir,
    /// What is left of the folder when the power is cut.
    left: tempfile::TempDir,
    lies: bool,
}

impl Machine {
    pub(super) fn new(dice: &mut Dice, lies: bool) -> Self {
        Self::on(scratch(), dice, lies)
    }

    fn on(folder: tempfile::TempDir, dice: &mut Dice, lies: bool) -> Self {
        let disk = Disk::follow(folder.path(), dice.roll(u64::MAX));
        if lies {
            disk.lie_about(&folder.path().join("journal"));
        }
        let store = Store::open(folder.path()).unwrap();
        store.vault(VAULT).unwrap();
        Self { store: Some(store), disk: Arc::new(disk), folder, left: scratch(), lies }
    }

    /// Lets the power be cut soon.
    pub(super) fn doom(&mut self, dice: &mut Dice) {
        let at = self.disk.operations() + 1 + dice.roll(SOON);
        self.disk.cut_after(at, self.left.path(), dice.roll(u64::MAX));
    }

    pub(super) fn is_without_power(&self) -> bool {
        self.disk.is_cut()
    }

    pub(super) fn vault(&self) -> Vault {
        self.store.as_ref().unwrap().vault(VAULT).unwrap()
    }

    pub(super) fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    /// Starts with what the power cut has left; nobody uses the store any more.
    pub(super) fn restart(&mut self, dice: &mut Dice) {
        self.store = None;
        let left = std::mem::replace(&mut self.left, scratch());
        *self = Self::on(left, dice, self.lies);
    }

    /// Ends the process, and starts it again.
    pub(super) fn reopen(&mut self) {
        self.store = None;
        self.store = Some(Store::open(self.folder.path()).unwrap());
    }
}

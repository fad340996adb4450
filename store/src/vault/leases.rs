//! Who may rely on what is here, so that a collection waits before it takes that away.
//!
//! Epochs are numbers in memory. A collection that has condemned something begins the next one, and deletes
//! only once every lease from before it has ended. A restart ends them all. No clock is read.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The leases of a store.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    table: Mutex<Table>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    epoch: u64,
    /// How many leases of each epoch have not ended.
    active: BTreeMap<u64, usize>,
    /// For tests that have to fail: nobody waits for a lease.
    #[cfg(test)]
    are_ignored: bool,
}

/// What was here when it was taken, or is found here while it is held, can be read until it is dropped; and what is
/// brought in meanwhile can be committed.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    epoch: u64,
}

impl Leases {
    /// Takes a lease.
    pub(crate) fn take(self: &Arc<Self>) -> Lease {
        let mut table = self.table();
        let epoch = table.epoch;
        *table.active.entry(epoch).or_default() += 1;
        drop(table);
        Lease { leases: Arc::clone(self), epoch }
    }

    /// Begins the next epoch, and returns it.
    pub(crate) fn advance(&self) -> u64 {
        let mut table = self.table();
        table.epoch += 1;
        table.epoch
    }

    /// Whether every lease from before an epoch has ended.
    pub(crate) fn are_over(&self, epoch: u64) -> bool {
        self.table().are_over(epoch)
    }

    /// Waits for that, at most so long; whether they have ended.
    pub(crate) fn wait(&self, epoch: u64, most: Duration) -> bool {
        let table = self.table();
        let waited = self.ended.wait_timeout_while(table, most, |table| !table.are_over(epoch));
        let (table, _) = waited.unwrap_or_else(PoisonError::into_inner);
        table.are_over(epoch)
    }

    /// For tests that have to fail.
    #[cfg(test)]
    pub(crate) fn ignore(&self) {
        self.table().are_ignored = true;
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn are_over(&self, epoch: u64) -> bool {
        #[cfg(test)]
        if self.are_ignored {
            return true;
        }
        self.active.first_key_value().is_none_or(|(&oldest, _)| oldest >= epoch)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = self.leases.table();
        if let Some(count) = table.active.get_mut(&self.epoch) {
            *count -= 1;
            if *count == 0 {
                table.active.remove(&self.epoch);
                self.leases.ended.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_from_before_an_epoch_are_waited_for_and_later_ones_are_not() {
        let leases = Arc::new(Leases::default());
        let (first, again) = (leases.take(), leases.take());
        let epoch = leases.advance();
        let later = leases.take();
        drop(first);
        assert!(!leases.are_over(epoch) && !leases.wait(epoch, Duration::ZERO));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| leases.wait(epoch, Duration::MAX));
            drop(again);
            assert!(waits.join().unwrap());
        });
        assert!(leases.are_over(epoch) && !leases.are_over(leases.advance()));
        drop(later);
    }
}

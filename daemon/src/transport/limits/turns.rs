//! Whose pushes and fetches are at work: each holds a thread, an open vault and buffers of its own.
//!
//! A device has two places that nobody else takes, so one that reads slowly, or a thousand that do, keep no other from its
//! turn. Beyond these, devices share a number of places, and nobody has more than [`MOST`] of them. Who finds none waits.
//!
//! **Invariant:** at most [`OWN`] × devices + [`SHARED`] are at work.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use baton_protocol::id::DeviceId;
use tokio::sync::Notify;

use super::lock;

/// Places of each device. A push and what goes ahead of the next one.
pub(crate) const OWN: usize = 2;

/// Places for all devices together, beside these.
pub(crate) const SHARED: usize = 128;

/// Places of both kinds that one device has at once.
const MOST: usize = 16;

/// Gives turns; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Turns(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    taken: Mutex<Taken>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct Taken {
    shared: usize,
    of: HashMap<DeviceId, usize>,
}

impl Turns {
    /// Waits for a place.
    pub async fn turn(&self, device: DeviceId) -> Turn {
        loop {
            let freed = self.0.freed.notified();
            tokio::pin!(freed);
            // From here on nothing that is freed is missed.
            freed.as_mut().enable();
            if let Some(turn) = self.take(device) {
                return turn;
            }
            freed.await;
        }
    }

    fn take(&self, device: DeviceId) -> Option<Turn> {
        let mut taken = lock(&self.0.taken);
        let has = taken.of.get(&device).copied().unwrap_or(0);
        if has >= OWN {
            if has >= MOST || taken.shared >= SHARED {
                return None;
            }
            taken.shared += 1;
        }
        taken.of.insert(device, has + 1);
        Some(Turn { turns: self.clone(), device })
    }

    /// How many are at work.
    pub fn at_work(&self) -> usize {
        lock(&self.0.taken).of.values().sum()
    }
}

/// A place at work; dropping it frees it.
#[derive(Debug)]
pub struct Turn {
    turns: Turns,
    device: DeviceId,
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut taken = lock(&self.turns.0.taken);
        let has = taken.of.remove(&self.device).unwrap_or(0);
        if has > OWN {
            taken.shared -= 1;
        }
        if has > 1 {
            taken.of.insert(self.device, has - 1);
        }
        drop(taken);
        self.turns.0.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn device(number: u8) -> DeviceId {
        DeviceId::from_bytes([number; 32])
    }

    #[test]
    fn whatever_others_take_each_device_has_its_own_places() {
        let turns = Turns::default();
        let mut held = Vec::new();
        for number in 0..=u8::MAX {
            held.extend(std::iter::from_fn(|| turns.take(device(number))));
        }
        // Nine devices share what there is to share; all the others have their own.
        assert_eq!(held.len(), 256 * OWN + SHARED);
        assert_eq!(held.iter().filter(|turn| turn.device == device(0)).count(), MOST);
        assert_eq!(held.iter().filter(|turn| turn.device == device(200)).count(), OWN);
        assert_eq!(turns.at_work(), held.len());
        held.clear();
        assert!(lock(&turns.0.taken).of.is_empty());
        assert_eq!(lock(&turns.0.taken).shared, 0);
    }

    #[test]
    fn who_waits_is_woken_by_a_place_that_becomes_free() {
        let turns = Turns::default();
        let mut held: Vec<_> = std::iter::from_fn(|| turns.take(device(1))).collect();
        assert_eq!(held.len(), MOST);
        let mut waiting = [1, 1, 2].map(|number| {
            Box::pin({
                let turns = turns.clone();
                async move { turns.turn(device(number)).await }
            })
        });
        let mut context = Context::from_waker(Waker::noop());
        let mut poll = |at: usize| waiting[at].as_mut().poll(&mut context);
        assert!(poll(0).is_pending());
        assert!(poll(1).is_pending());
        let Poll::Ready(_other) = poll(2) else { panic!("another device waits") };
        held.pop();
        let Poll::Ready(_first) = poll(0) else { panic!("a free place is not found") };
        assert!(poll(1).is_pending());
    }
}

//! Who is listened to, and whose requests are worked on.
//!
//! Whoever is on the machine reaches a forwarder, and only the run has its key. So a connection has a place among many at
//! first, which it loses to a later one where there are too many; what takes one of the few places of a request has shown
//! the key.
//!
//! **Invariant:** who has not shown the key takes no place of a request.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// Connections at once that have not shown the key.
pub(super) const MAX_STRANGERS: usize = 128;

/// Requests of a run at once.
pub(super) const MAX_REQUESTS: usize = 16;

/// Requests of a run that wait for a place.
const MAX_WAITING: usize = 64;

/// The places of one run.
#[derive(Debug)]
pub(super) struct Places {
    requests: Arc<Semaphore>,
    waiting: Semaphore,
    strangers: Mutex<Strangers>,
}

#[derive(Debug, Default)]
struct Strangers {
    next: u64,
    /// By age, each with what tells it to go.
    all: BTreeMap<u64, oneshot::Sender<()>>,
}

/// A connection, for as long as it is there.
#[derive(Debug)]
pub(super) struct Guest {
    places: Arc<Places>,
    id: u64,
    place: OnceLock<OwnedSemaphorePermit>,
}

/// Too many requests wait.
#[derive(Clone, Copy, Debug)]
pub(super) struct Crowded;

impl Places {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            requests: Arc::new(Semaphore::new(MAX_REQUESTS)),
            waiting: Semaphore::new(MAX_WAITING),
            strangers: Mutex::default(),
        })
    }

    /// Lets a connection in, and sends the oldest stranger away where there are too many. The receiver gets something once
    /// it is this one's turn, and an error when it is a stranger no more.
    pub(super) fn enter(self: &Arc<Self>) -> (Guest, oneshot::Receiver<()>) {
        let (send_away, sent_away) = oneshot::channel();
        let mut strangers = self.strangers();
        if strangers.all.len() >= MAX_STRANGERS
            && let Some((_, oldest)) = strangers.all.pop_first()
        {
            // It may have gone by itself.
            let _gone = oldest.send(());
        }
        let id = strangers.next;
        strangers.next += 1;
        strangers.all.insert(id, send_away);
        (Guest { places: Arc::clone(self), id, place: OnceLock::new() }, sent_away)
    }

    fn strangers(&self) -> MutexGuard<'_, Strangers> {
        self.strangers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest {
    /// Takes a place for the request of one that has shown the key, until its connection ends.
    pub(super) async fn seat(&self) -> Result<(), Crowded> {
        drop(self.places.strangers().all.remove(&self.id));
        let _waiting = self.places.waiting.try_acquire().map_err(|_| Crowded)?;
        let place = Arc::clone(&self.places.requests).acquire_owned().await;
        self.place.set(place.map_err(|_| Crowded)?).map_err(|_| Crowded)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.places.strangers().all.remove(&self.id));
    }
}

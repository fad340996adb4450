//! An entry that is being sent, from the queue or at once, and taking it back.
//!
//! **Invariant:** an entry that [`Queue::cancel`] reported as cancelled is never sent afterwards. A flight is
//! entered before the entry is looked at for the last time, and the entry is cancelled where no flight
//! can be entered meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_protocol::id::QueueId;
use baton_store::catalog::queue::{Cost, EntryState, NewEntry};
use baton_store::error::StoreError;
use tokio::sync::watch;

use super::{Queue, QueueError};
use crate::api::control::Progress;

/// How long a cancel waits for what is being sent to stop.
const STOP: Duration = Duration::from_secs(10);

/// How sending ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// The node has it.
    Sent,
    /// It will never be sent.
    NotSent,
    /// It waits.
    Waiting,
}

/// What became of a cancel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cancelled {
    /// It will not be sent.
    Yes,
    /// It was sent before.
    Sent,
    /// It is being sent and did not stop yet; it will if it can.
    Pending,
}

/// An entry that is being sent.
#[derive(Debug)]
pub struct Flight {
    /// What is sent.
    pub wanted: NewEntry,
    stop: Arc<AtomicBool>,
    progress: watch::Sender<Option<Progress>>,
    landed: watch::Sender<Option<Landed>>,
}

impl Flight {
    /// Set once it is to stop.
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether it is to stop.
    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Says how far it is.
    pub fn set_progress(&self, progress: Progress) {
        self.progress.send_replace(Some(progress));
    }

    /// How far it is, for whoever waits for it.
    pub fn progress(&self) -> watch::Receiver<Option<Progress>> {
        self.progress.subscribe()
    }
}

/// A flight that is under way; it has to land.
#[derive(Debug)]
pub struct Airborne {
    queue: Queue,
    flight: Arc<Flight>,
    landed: Landed,
}

impl Airborne {
    /// The flight.
    pub const fn flight(&self) -> &Arc<Flight> {
        &self.flight
    }

    /// Ends it.
    pub fn land(mut self, landed: Landed) {
        self.landed = landed;
    }
}

impl Drop for Airborne {
    fn drop(&mut self) {
        self.queue.flights().remove(&self.flight.wanted.id);
        self.flight.landed.send_replace(Some(self.landed));
        self.queue.0.tell_change();
    }
}

impl Queue {
    /// Something is being sent from here on.
    pub fn take_off(&self, wanted: NewEntry) -> Airborne {
        let id = wanted.id;
        let flight = Arc::new(Flight {
            wanted,
            stop: Arc::default(),
            progress: watch::Sender::new(None),
            landed: watch::Sender::new(None),
        });
        self.flights().insert(id, Arc::clone(&flight));
        self.0.tell_change();
        // One that is dropped on its way was not sent to its end.
        Airborne { queue: self.clone(), flight, landed: Landed::Waiting }
    }

    /// What is being sent.
    pub fn under_way(&self) -> Vec<Arc<Flight>> {
        self.flights().values().cloned().collect()
    }

    /// The flight of an entry.
    pub fn flight(&self, id: QueueId) -> Option<Arc<Flight>> {
        self.flights().get(&id).cloned()
    }

    /// Takes an entry back; what is being sent is stopped where it can be.
    pub async fn cancel(&self, id: QueueId) -> Result<Cancelled, QueueError> {
        let queue = self.clone();
        let cancel = move || {
            // Nobody takes off meanwhile.
            let flights = queue.flights();
            if let Some(flight) = flights.get(&id) {
                return Ok(Some(Arc::clone(flight)));
            }
            let parts = &queue.0.parts;
            let (state, now) = (EntryState::Cancelled, parts.clock.now_ms());
            parts.catalog.end_queued(id, state, None, Cost::default(), now)?;
            drop(flights);
            queue.0.tell_change();
            Ok::<_, StoreError>(None)
        };
        let flight = self.0.parts.tasks.spawn_blocking("queue-cancel", cancel).await??;
        let Some(flight) = flight else { return self.fate(id).await };
        flight.stop.store(true, Ordering::SeqCst);
        let mut landed = flight.landed.subscribe();
        let stopped = tokio::time::timeout(STOP, landed.wait_for(Option::is_some)).await.is_ok();
        if stopped { self.fate_of(&flight).await } else { Ok(Cancelled::Pending) }
    }

    async fn fate_of(&self, flight: &Flight) -> Result<Cancelled, QueueError> {
        let landed = *flight.landed.borrow();
        match landed {
            Some(Landed::Sent) => return Ok(Cancelled::Sent),
            Some(Landed::NotSent) => return Ok(Cancelled::Yes),
            Some(Landed::Waiting) | None => {}
        }
        self.fate(flight.wanted.id).await
    }

    /// What the row of an entry says that is not under way any more.
    async fn fate(&self, id: QueueId) -> Result<Cancelled, QueueError> {
        let entry = self.rows(move |catalog| catalog.queue_entry(id)).await?;
        Ok(match entry.map(|entry| entry.state) {
            Some(EntryState::Done) => Cancelled::Sent,
            Some(EntryState::Waiting) => Cancelled::Pending,
            _ => Cancelled::Yes,
        })
    }
}

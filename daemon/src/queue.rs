//! What waits for the network, and the worker of each node that sends it.
//!
//! Not here: the rows themselves ([`baton_store::catalog::queue`]) and how an entry is sent: that is
//! behind [`Deliver`].
//!
//! - [`backoff`]: how long to wait before a node that is away is tried again
//! - [`flight`]: an entry that is being sent, and taking it back
//! - [`worker`]: sends the entries of a node in their order
//!
//! **Invariant:** the entries of a node are sent one after the other, in the order of their numbers. While
//! there are any, nothing else is sent in their stead: who asks for more puts it behind them
//! ([`Queue::is_busy`]).
//!
//! **Invariant:** where nothing waits there is no task, no timer and no socket.

pub mod backoff;
pub mod flight;
mod worker;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use baton_protocol::id::{NodeId, QueueId, WorkspaceId};
use baton_store::catalog::Catalog;
use baton_store::catalog::queue::{Cost, Entry};
use baton_store::error::StoreError;
use tokio::sync::{Notify, OwnedMutexGuard, watch};

use crate::api::socket::BoxFuture;
use crate::client::pool::Pool;
use crate::clock::Clock;
use crate::task::{TaskFailed, Tasks};
use flight::Flight;

/// A node that could not be reached is believed to be away for this many times as long as it took to
/// find that out, without asking it again for a person who waits: who is told at once that nobody is
/// there can ask again, and who waited two seconds for silence should not wait at each command.
const BELIEVED: u32 = 4;

/// Longest time of that.
const LONGEST_BELIEF: Duration = Duration::from_secs(5);

/// Why an entry was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undelivered {
    /// The node cannot be reached: it is tried again for as long as it takes.
    #[error("{0}")]
    Away(String),
    /// Something failed that may be better later: it is tried again, but not for ever.
    #[error("{0}")]
    Later(String),
    /// The same would fail again.
    #[error("{0}")]
    Refused(String),
    /// It was taken back.
    #[error("it was cancelled")]
    Cancelled,
}

/// The queue could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The catalog failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A part of the daemon ended where it must not.
    #[error(transparent)]
    Task(#[from] TaskFailed),
}

/// Sends entries.
pub trait Deliver: Send + Sync + 'static {
    /// Makes sure of a connection to a node. May be dropped and called again.
    fn connect(self: Arc<Self>, node: NodeId) -> BoxFuture<'static, Result<(), Undelivered>>;

    /// Sends an entry. It takes effect once, however often it is called, also by a later daemon.
    fn deliver(
        self: Arc<Self>,
        entry: Entry,
        flight: Arc<Flight>,
    ) -> BoxFuture<'static, Result<Cost, Undelivered>>;
}

/// What the queue needs.
#[derive(Clone, Debug)]
pub struct QueueParts {
    /// Where the entries are.
    pub catalog: Catalog,
    /// Says when a connection is made.
    pub pool: Pool,
    /// Starts the workers.
    pub tasks: Tasks,
    /// Tells the time.
    pub clock: Clock,
}

/// The queue of a home; clones share it.
#[derive(Clone, Debug)]
pub struct Queue(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: QueueParts,
    lanes: Mutex<HashMap<NodeId, Arc<Lane>>>,
    flights: Mutex<HashMap<QueueId, Arc<Flight>>>,
    orders: Mutex<HashMap<(WorkspaceId, NodeId), Order>>,
    /// Grows with every end and every failure.
    changed: watch::Sender<u64>,
    /// An entry failed or expired, and nobody was told.
    untold: AtomicBool,
}

/// See [`Queue::order`].
type Order = Arc<tokio::sync::Mutex<()>>;

/// What is known of a node that entries may wait for.
#[derive(Debug, Default)]
struct Lane {
    state: Mutex<LaneState>,
    nudge: Notify,
}

#[derive(Debug, Default)]
struct LaneState {
    /// Whether a worker runs: only then can there be entries.
    running: bool,
    /// Entries put in so far.
    enqueued: u64,
    /// When it could not be reached, and how long that is believed; nothing once that is not known any
    /// more.
    away_since: Option<(Instant, Duration)>,
    /// Tries that failed so far.
    failures: u64,
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// A queue whose entries wait until [`Queue::start`].
    pub fn new(parts: QueueParts) -> Self {
        Self(Arc::new(Inner {
            parts,
            lanes: Mutex::default(),
            flights: Mutex::default(),
            orders: Mutex::default(),
            changed: watch::Sender::new(0),
            // Not known: the first who asks looks.
            untold: AtomicBool::new(true),
        }))
    }

    /// Takes up what an earlier daemon has left. Must be called within a runtime.
    pub fn start<D: Deliver>(&self, deliver: &Arc<D>) -> Result<(), StoreError> {
        for node in self.0.parts.catalog.queue_nodes()? {
            self.wake(node, deliver);
        }
        Ok(())
    }

    /// Whether entries of a node may wait: then what is asked for now is put behind them.
    pub fn is_busy(&self, node: NodeId) -> bool {
        self.lane(node).lock().running
    }

    /// Entries of this node were put in: makes sure that a worker sees to them.
    pub fn wake<D: Deliver>(&self, node: NodeId, deliver: &Arc<D>) {
        let lane = self.lane(node);
        {
            let mut state = lane.lock();
            state.enqueued += 1;
            if state.running {
                return;
            }
            state.running = true;
        }
        let work = worker::run(self.clone(), node, lane, Arc::clone(deliver));
        self.0.parts.tasks.spawn("queue", work).detach();
    }

    /// Something says that a node may be there again: it is tried at once.
    pub fn nudge(&self, node: NodeId) {
        let lane = self.lane(node);
        let mut state = lane.lock();
        state.away_since = None;
        if state.running {
            lane.nudge.notify_one();
        }
    }

    /// Has the worker of a node try again at once, without believing that the node is there.
    pub fn hurry(&self, node: NodeId) {
        let lane = self.lane(node);
        if lane.lock().running {
            lane.nudge.notify_one();
        }
    }

    /// A node could not be reached just now, which took this long to find out.
    pub fn note_away(&self, node: NodeId, took: Duration) {
        self.0.note_failure(&self.lane(node), Some(took));
    }

    /// Whether a node is believed to be away, so that nobody needs to wait to hear it.
    pub fn is_away(&self, node: NodeId) -> bool {
        let since = self.lane(node).lock().away_since;
        let clock = &self.0.parts.clock;
        since.is_some_and(|(since, believed)| clock.since(since) < believed)
            && !self.0.parts.pool.has_connection(node)
    }

    /// Tries of a node that failed so far: more than before means that it was tried again.
    pub fn failures(&self, node: NodeId) -> u64 {
        self.lane(node).lock().failures
    }

    /// Changes whenever an entry ends or was tried.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// Held while a snapshot of a workspace is taken for a node and sent there or put into the queue,
    /// so that what is sent has the order in which it was taken.
    pub async fn order(&self, workspace: WorkspaceId, node: NodeId) -> OwnedMutexGuard<()> {
        self.order_of(workspace, node).lock_owned().await
    }

    /// The same where nobody holds it.
    pub fn try_order(&self, workspace: WorkspaceId, node: NodeId) -> Option<OwnedMutexGuard<()>> {
        self.order_of(workspace, node).try_lock_owned().ok()
    }

    fn order_of(&self, workspace: WorkspaceId, node: NodeId) -> Order {
        let mut orders = self.0.orders.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(orders.entry((workspace, node)).or_default())
    }

    /// Whether somebody should look at what failed or expired; once for each of them.
    pub fn take_untold(&self) -> bool {
        self.0.untold.swap(false, Ordering::Relaxed)
    }

    /// Reads or writes rows where it holds up nothing else.
    async fn rows<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalog) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, QueueError> {
        let catalog = self.0.parts.catalog.clone();
        Ok(self.0.parts.tasks.spawn_blocking("queue-rows", move || work(&catalog)).await??)
    }

    fn lane(&self, node: NodeId) -> Arc<Lane> {
        let mut lanes = self.0.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(lanes.entry(node).or_default())
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<QueueId, Arc<Flight>>> {
        self.0.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// With `away` it could not be reached, which took this long to find out.
    fn note_failure(&self, lane: &Lane, away: Option<Duration>) {
        {
            let mut state = lane.lock();
            state.failures += 1;
            if let Some(took) = away {
                let believed = (took * BELIEVED).min(LONGEST_BELIEF);
                state.away_since = Some((self.parts.clock.instant(), believed));
            }
        }
        self.tell_change();
    }

    fn tell_change(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
mod tests;

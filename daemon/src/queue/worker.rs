//! Sends the entries of a node in their order, for as long as there are any.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::NodeId;
use baton_store::catalog::queue::{Cost, Entry, EntryState};
use tokio::sync::watch;

use super::backoff::Backoff;
use super::flight::Landed;
use super::{Deliver, Lane, Queue, Undelivered};
use crate::network::NetworkChanges;

/// Tries of an entry whose failure may pass before it counts as refused; a node that is away does not
/// count.
const MAX_TRIES: u32 = 20;

/// Between a change of the network and the next try: changes come in bursts.
const SETTLE: Duration = Duration::from_millis(50);

/// Wakes a worker that waits.
struct Signals {
    network: NetworkChanges,
    connected: watch::Receiver<u64>,
    backoff: Backoff,
}

/// The worker of one node. Ends when nothing waits, or when the tasks are told to end.
pub(super) async fn run<D: Deliver>(queue: Queue, node: NodeId, lane: Arc<Lane>, deliver: Arc<D>) {
    let mut signals = Signals {
        network: NetworkChanges::listen(),
        connected: queue.0.parts.pool.connections(),
        backoff: Backoff::new(seed(node)),
    };
    // It was tried by whoever put the first entry in.
    let mut wait = lane.lock().away_since.is_some();
    let mut tries = 0;
    loop {
        if wait {
            signals.wait(&queue, node, &lane).await;
        }
        if queue.0.parts.tasks.is_cancelled() {
            lane.lock().running = false;
            return;
        }
        let seen = lane.lock().enqueued;
        let entry = match queue.rows(move |catalog| catalog.next_queued(node)).await {
            Ok(Some(entry)) => entry,
            Ok(None) => {
                let mut state = lane.lock();
                if state.enqueued == seen {
                    state.running = false;
                    return;
                }
                wait = false;
                continue;
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "reading the queue");
                wait = true;
                continue;
            }
        };
        let clock = &queue.0.parts.clock;
        let begun = clock.instant();
        match send(&queue, &deliver, &mut signals, entry, &mut tries).await {
            Ok(()) => {
                (wait, tries) = (false, 0);
                lane.lock().away_since = None;
                signals.backoff.reset();
            }
            Err(away) => {
                wait = true;
                queue.0.note_failure(&lane, away.then(|| clock.since(begun)));
            }
        }
    }
}

/// Sees to one entry; says, where it still waits, whether that is because the node is away.
async fn send<D: Deliver>(
    queue: &Queue,
    deliver: &Arc<D>,
    signals: &mut Signals,
    entry: Entry,
    tries: &mut u32,
) -> Result<(), bool> {
    let (id, node) = (entry.wanted.id, entry.wanted.node);
    let clock = &queue.0.parts.clock;
    if entry.is_expired(clock.now_ms()) {
        let reason = "the network came back too late for it: it was not started";
        return end(queue, &entry, EntryState::Expired, Some(reason), Cost::default()).await;
    }
    if let Err(failed) = connect(deliver, signals, node).await {
        return failed_to_send(queue, &entry, failed, tries).await;
    }
    let airborne = queue.take_off(entry.wanted.clone());
    // Whoever cancelled it before saw no flight; whoever does from here on sees this one.
    let entry = match queue.rows(move |catalog| catalog.queue_entry(id)).await {
        Ok(Some(entry)) if entry.state == EntryState::Waiting => entry,
        Ok(_) => return Ok(()),
        Err(error) => {
            let failed = Undelivered::Later(error.to_string());
            return failed_to_send(queue, &entry, failed, tries).await;
        }
    };
    let flight = Arc::clone(airborne.flight());
    let delivered = Arc::clone(deliver).deliver(entry.clone(), flight).await;
    let ended = match delivered {
        Ok(cost) => {
            let ended = end(queue, &entry, EntryState::Done, None, cost).await;
            airborne.land(Landed::Sent);
            return ended;
        }
        // Taken back while it could not be sent anyway.
        Err(failed) if airborne.flight().is_stopped() && failed != Undelivered::Cancelled => {
            end(queue, &entry, EntryState::Cancelled, None, Cost::default()).await
        }
        Err(failed) => failed_to_send(queue, &entry, failed, tries).await,
    };
    airborne.land(Landed::Waiting);
    ended
}

/// Connects; begins anew when the network changes meanwhile, which what was sent before may not have
/// survived.
async fn connect<D: Deliver>(
    deliver: &Arc<D>,
    signals: &mut Signals,
    node: NodeId,
) -> Result<(), Undelivered> {
    loop {
        // Of what came before, this try is the consequence.
        signals.network.drain();
        tokio::select! {
            connected = Arc::clone(deliver).connect(node) => {
                signals.connected.mark_unchanged();
                return connected;
            }
            () = signals.network.changed() => tokio::time::sleep(SETTLE).await,
        }
    }
}

async fn failed_to_send(
    queue: &Queue,
    entry: &Entry,
    failed: Undelivered,
    tries: &mut u32,
) -> Result<(), bool> {
    let (id, reason) = (entry.wanted.id, failed.to_string());
    if queue.0.parts.tasks.is_cancelled() {
        return Err(false);
    }
    let away = match failed {
        Undelivered::Away(_) => true,
        Undelivered::Later(_) => {
            *tries += 1;
            if *tries >= MAX_TRIES {
                return end(queue, entry, EntryState::Failed, Some(&reason), Cost::default()).await;
            }
            false
        }
        Undelivered::Refused(_) => {
            return end(queue, entry, EntryState::Failed, Some(&reason), Cost::default()).await;
        }
        Undelivered::Cancelled => {
            return end(queue, entry, EntryState::Cancelled, None, Cost::default()).await;
        }
    };
    tracing::debug!(entry = %id.short(), %reason, "not sent yet");
    let noted = queue.rows(move |catalog| catalog.note_attempt(id, &reason)).await;
    if let Err(error) = noted {
        tracing::warn!(error = &error as &dyn std::error::Error, "noting an attempt");
    }
    Err(away)
}

/// Ends an entry. Where that cannot be written it is sent again, which changes nothing there.
async fn end(
    queue: &Queue,
    entry: &Entry,
    state: EntryState,
    reason: Option<&str>,
    cost: Cost,
) -> Result<(), bool> {
    let (id, now) = (entry.wanted.id, queue.0.parts.clock.now_ms());
    let text = reason.map(str::to_owned);
    let ended =
        queue.rows(move |catalog| catalog.end_queued(id, state, text.as_deref(), cost, now));
    if let Err(error) = ended.await {
        tracing::error!(error = &error as &dyn std::error::Error, "ending an entry of the queue");
        return Err(false);
    }
    match state {
        EntryState::Failed | EntryState::Expired => {
            queue.0.untold.store(true, std::sync::atomic::Ordering::Relaxed);
            let reason = reason.unwrap_or_default();
            tracing::warn!(entry = %id.short(), state = state.name(), reason, "not sent");
        }
        _ => tracing::info!(entry = %id.short(), state = state.name(), "left the queue"),
    }
    queue.0.tell_change();
    Ok(())
}

impl Signals {
    /// Returns when the node should be tried again.
    async fn wait(&mut self, queue: &Queue, node: NodeId, lane: &Lane) {
        let parts = &queue.0.parts;
        let pause = self.backoff.wait();
        let connected = async {
            loop {
                // The pool lives as long as the queue.
                if self.connected.changed().await.is_err() {
                    return std::future::pending::<()>().await;
                }
                if parts.pool.is_connected(node).await {
                    return;
                }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => self.backoff.grow(),
            () = self.network.changed() => {
                tracing::debug!("the network has changed");
                self.backoff.reset();
                tokio::time::sleep(SETTLE).await;
            }
            () = connected => {}
            () = lane.nudge.notified() => {}
            () = parts.tasks.cancelled() => {}
        }
    }
}

/// Differs between homes, and from one worker to the next.
fn seed(node: NodeId) -> u64 {
    let drawn = crate::workspace::random().unwrap_or_default();
    u64::from_le_bytes(drawn) ^ u64::from(node.as_bytes().first().copied().unwrap_or_default())
}

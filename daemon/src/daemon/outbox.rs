//! Sending: at once where that is possible, else into the queue; and what the queue sends.
//!
//! A push or handoff that is asked for is a *parcel*. It goes out at once where nothing waits for its node
//! and the node answers: that writes no row. In every other case it becomes an entry of the
//! [queue](crate::queue), durable before the command is answered.
//!
//! **Invariant:** parcels of a workspace reach a node in the order in which their snapshots were taken:
//! the order is held from before the snapshot until it is sent or in the queue.
//!
//! **Invariant:** what takes effect on the node takes effect once: a snapshot is moved to by its id, and a
//! run has the id that was made here, however often either is asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::{NodeId, QueueId, SnapshotId, WorkspaceId};
use baton_protocol::message::{RunInfo, RunSpec};
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::PushStats;
use baton_store::catalog::history::Pin;
use baton_store::catalog::queue::{Cost, Entry, EntryKind, EntryState, NewEntry};
use baton_store::snapshot::load_snapshot;
use tokio::sync::OwnedMutexGuard;

use super::Daemon;
use super::failure::{Fail, chain};
use super::parcels::Parcel;
use super::remotes::Target;
use super::transfer::Pushed;
use crate::api::control::Event;
use crate::api::socket::{BoxFuture, EventSender};
use crate::queue::flight::{Flight, Landed};
use crate::queue::{Deliver, Undelivered};

/// How long a command waits for what is before it in the queue, where the node answers.
const MOMENT: Duration = Duration::from_secs(5);

/// What became of a parcel.
#[derive(Debug)]
pub(super) struct Sent {
    /// `acked` or `queued`.
    pub(super) state: &'static str,
    /// The snapshot that the node has, or will get.
    pub(super) id: SnapshotId,
    /// Its number, where it is another one than was taken.
    pub(super) sequence: Option<u64>,
    pub(super) cost: Cost,
    pub(super) send_ms: Option<f64>,
    /// Its runs, as the node has them.
    pub(super) runs: Vec<RunInfo>,
    /// Its id, where it is or was in the queue.
    pub(super) queue: Option<QueueId>,
}

impl From<Pushed> for Sent {
    fn from(pushed: Pushed) -> Self {
        Self {
            state: "acked",
            id: pushed.id,
            sequence: Some(pushed.snapshot.sequence),
            cost: cost_of(pushed.stats),
            send_ms: Some(pushed.send_ms),
            runs: Vec::new(),
            queue: None,
        }
    }
}

impl Daemon {
    /// To be held while a snapshot of the tree is taken for a node and sent.
    pub(super) async fn order(
        self: &Arc<Self>,
        root: &std::path::Path,
        target: &Target,
        events: &EventSender,
    ) -> Result<(WorkspaceId, OwnedMutexGuard<()>), Fail> {
        let root: PathBuf = root.to_owned();
        let find =
            self.blocking("workspace", move |daemon| Ok(daemon.workspaces.find_or_add(&root)?));
        let workspace = find.await?.id;
        let order = self.queue.order(workspace, target.remote.node);
        Ok((workspace, self.while_telling(workspace, events, order).await))
    }

    /// Sends a parcel, or puts it into the queue; with `wait` the answer comes once the node has it.
    pub(super) async fn send(
        self: &Arc<Self>,
        mut parcel: Parcel,
        order: OwnedMutexGuard<()>,
        wait: bool,
        events: &EventSender,
    ) -> Result<Sent, Fail> {
        self.tell_untold(events).await;
        let urgent = self.urgent(parcel.wanted.workspace);
        let (id, node) = (parcel.wanted.id, parcel.wanted.node);
        events.send(Event::Accepted { queue: id.to_string() }).await;
        let was_busy = self.queue.is_busy(node);
        if !was_busy {
            let begun = self.clock.instant();
            match self.send_now(&mut parcel, events).await {
                Err(fail) if is_away(&fail) => {
                    self.queue.note_away(node, self.clock.since(begun));
                    tracing::debug!(reason = fail.0.message, "queued");
                }
                sent => return sent,
            }
        }
        self.enqueue(parcel.wanted.clone()).await?;
        // What waits for a node keeps nobody from others.
        drop((order, urgent));
        tracing::info!(entry = %id.short(), snapshot = %parcel.wanted.snapshot, "queued");
        let failures = self.queue.failures(node);
        let away = self.queue.is_away(node);
        self.queue.wake(node, self);
        if was_busy && away {
            // Whoever types something may know better; but they are not kept waiting for it.
            self.queue.hurry(node);
        } else if was_busy {
            self.queue.nudge(node);
        }
        if (wait || !away)
            && let Some(sent) = self.wait_for(&parcel, wait, failures, events).await?
        {
            return Ok(sent);
        }
        events.note(queued_note(&parcel, self.queue.is_away(node))).await;
        Ok(Sent {
            state: "queued",
            id: parcel.wanted.snapshot,
            sequence: None,
            cost: Cost::default(),
            send_ms: None,
            runs: Vec::new(),
            queue: Some(id),
        })
    }

    /// Puts something at the end of the queue.
    pub(super) async fn enqueue(self: &Arc<Self>, wanted: NewEntry) -> Result<(), Fail> {
        let queued = self.blocking("queue", move |daemon| Ok(daemon.catalog.enqueue(&wanted)?));
        let queued = queued.await?.map_err(|full| {
            Fail::new("queue-full", chain(&full)).hint("baton queue, and baton queue cancel ID")
        });
        queued.map(drop)
    }

    /// Sends without a row of the queue.
    async fn send_now(
        self: &Arc<Self>,
        parcel: &mut Parcel,
        events: &EventSender,
    ) -> Result<Sent, Fail> {
        let airborne = self.queue.take_off(parcel.wanted.clone());
        let Parcel { target, wanted, snapshot, ahead } = parcel;
        let flight = Arc::clone(airborne.flight());
        let shipped = self.ship(wanted, snapshot, target, (&flight, false), events).await;
        match shipped {
            Ok(mut sent) => {
                airborne.land(Landed::Sent);
                sent.cost.bytes_sent += ahead.stats.bytes_sent;
                sent.cost.objects_sent += ahead.stats.objects_sent;
                sent.cost.round_trips += ahead.stats.round_trips;
                sent.send_ms = sent.send_ms.map(|ms| ms + ahead.wait_ms);
                Ok(sent)
            }
            Err(fail) if flight.is_stopped() => {
                airborne.land(Landed::NotSent);
                Err(if is_away(&fail) { Fail::cancelled() } else { fail })
            }
            Err(fail) => {
                // Where it is put into the queue next, a cancel finds it there.
                airborne.land(if is_away(&fail) { Landed::Waiting } else { Landed::NotSent });
                Err(fail)
            }
        }
    }

    /// Makes the node have the snapshot and the run. How far that came is noted in `wanted`, and with
    /// `queued` in its row, so that the same is asked for again.
    async fn ship(
        self: &Arc<Self>,
        wanted: &mut NewEntry,
        snapshot: &mut Snapshot,
        target: &Target,
        (flight, queued): (&Arc<Flight>, bool),
        events: &EventSender,
    ) -> Result<Sent, Fail> {
        let stop = flight.stop_flag();
        let what = (wanted.snapshot, snapshot.clone());
        let pushed = self.push_snapshot(target, what, &stop, events).await?;
        let mut cost = cost_of(pushed.stats);
        let id = wanted.id;
        if pushed.id != wanted.snapshot {
            (wanted.snapshot, *snapshot) = (pushed.id, pushed.snapshot.clone());
            if queued {
                let sent = pushed.id;
                let note = move |daemon: &Self| Ok(daemon.catalog.set_sent(id, sent)?);
                self.blocking("queue", note).await?;
            }
        }
        let mut runs = Vec::new();
        if !wanted.runs.is_empty() {
            if flight.is_stopped() {
                return Err(Fail::cancelled());
            }
            if queued && !wanted.begun {
                self.blocking("queue", move |daemon| Ok(daemon.catalog.set_begun(id)?)).await?;
            }
            wanted.begun = true;
            let of_snapshot = |spec: &RunSpec| RunSpec { snapshot: pushed.id, ..spec.clone() };
            runs = self.start_runs(target, wanted.runs.iter().map(of_snapshot)).await?;
            cost.round_trips += 1;
        }
        let pin = match wanted.kind {
            EntryKind::Push => Pin::Push,
            EntryKind::Handoff | EntryKind::FollowUp => Pin::Handoff,
        };
        // What a run left is in its own history.
        if pushed.snapshot.workspace == wanted.workspace {
            self.acks.pin(wanted.workspace, pushed.id, pin);
        }
        Ok(Sent {
            state: "acked",
            id: pushed.id,
            sequence: Some(pushed.snapshot.sequence),
            cost,
            send_ms: Some(pushed.send_ms),
            runs,
            queue: None,
        })
    }

    /// Waits until the worker has sent an entry; nothing where it goes on waiting. With `wait` that is
    /// only where nobody listens any more.
    async fn wait_for(
        self: &Arc<Self>,
        parcel: &Parcel,
        wait: bool,
        failures: u64,
        events: &EventSender,
    ) -> Result<Option<Sent>, Fail> {
        let (id, node) = (parcel.wanted.id, parcel.wanted.node);
        let (mut changes, mut stopping) = (self.queue.changes(), self.stop.subscribe());
        let moment = tokio::time::sleep(MOMENT);
        tokio::pin!(moment);
        let mut said = false;
        loop {
            changes.mark_unchanged();
            let entry =
                self.blocking("queue", move |daemon| Ok(daemon.catalog.queue_entry(id)?)).await?;
            match entry {
                None => return Ok(None),
                Some(entry) if entry.state == EntryState::Waiting => {}
                Some(entry) => return self.ended(&entry).await.map(Some),
            }
            let failed = self.queue.failures(node) > failures || self.queue.is_away(node);
            if failed && !wait {
                return Ok(None);
            }
            if failed && !said {
                said = true;
                let remote = &parcel.target.remote.name;
                let note = format!(
                    "{remote} cannot be reached; this goes out when it can. Ctrl-C leaves it in the \
                     queue, baton queue cancel {} takes it back",
                    id.short()
                );
                events.note(note).await;
            }
            let progress = self.queue.flight(id).map(|flight| flight.progress());
            let passes_on = async {
                let Some(mut progress) = progress else { return std::future::pending().await };
                while progress.changed().await.is_ok() {
                    if let Some(now) = progress.borrow_and_update().clone() {
                        events.progress(now);
                    }
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                // The queue holds the other end.
                _ = changes.changed() => {}
                () = passes_on => {}
                () = &mut moment, if !wait => return Ok(None),
                () = events.gone() => return Ok(None),
                _ = stopping.wait_for(|stop| *stop) => return Ok(None),
            }
        }
    }

    /// The answer for an entry that has left the queue.
    async fn ended(self: &Arc<Self>, entry: &Entry) -> Result<Sent, Fail> {
        let reason = entry.last_error.clone().unwrap_or_default();
        match entry.state {
            EntryState::Waiting | EntryState::Done => {}
            EntryState::Cancelled => return Err(Fail::cancelled()),
            EntryState::Failed | EntryState::Expired => {
                return Err(Fail::new("not-sent", reason).hint("baton queue"));
            }
        }
        let (node, wanted) = (entry.wanted.node, entry.wanted.runs.clone());
        let id = entry.sent.unwrap_or(entry.wanted.snapshot);
        let find = self.blocking("sent", move |daemon| {
            let sequence = load_snapshot(&daemon.workspaces.vault, id)?.sequence;
            if wanted.is_empty() {
                return Ok((sequence, Vec::new()));
            }
            let known = daemon.catalog.remembered_runs()?;
            let of_node = known.into_iter().filter(|(at, ..)| *at == node).map(|(_, info, _)| info);
            let known: Vec<_> = of_node.collect();
            let find =
                |spec: &RunSpec| known.iter().find(|info| info.spec.run == spec.run).cloned();
            Ok((sequence, wanted.iter().filter_map(find).collect()))
        });
        let (sequence, runs) = find.await?;
        Ok(Sent {
            state: "acked",
            id,
            sequence: Some(sequence),
            cost: entry.cost,
            send_ms: None,
            runs,
            queue: Some(entry.wanted.id),
        })
    }

    /// The node of an entry, as it is known now.
    async fn target_of(self: &Arc<Self>, node: NodeId) -> Result<Target, Fail> {
        if node == self.identity.node() {
            return self.local().await;
        }
        let found =
            self.blocking("remote", move |daemon| Ok(daemon.catalog.remote_of_node(node)?)).await?;
        found.map(|remote| Target { remote, embedded: false }).ok_or_else(|| {
            let message = format!("this home has left the node {}", node.short());
            Fail::new("no-remote", message).hint("baton remote list")
        })
    }

    async fn deliver_entry(
        self: &Arc<Self>,
        entry: Entry,
        flight: &Arc<Flight>,
        events: &EventSender,
    ) -> Result<Cost, Fail> {
        let target = self.target_of(entry.wanted.node).await?;
        if entry.wanted.kind == EntryKind::FollowUp {
            return self.deliver_follow_up(&target, &entry).await;
        }
        let mut wanted = entry.wanted;
        wanted.snapshot = entry.sent.unwrap_or(wanted.snapshot);
        let id = wanted.snapshot;
        let mut snapshot = self
            .blocking("load", move |daemon| Ok(load_snapshot(&daemon.workspaces.vault, id)?))
            .await?;
        let sent = self.ship(&mut wanted, &mut snapshot, &target, (flight, true), events).await?;
        for info in &sent.runs {
            self.remember(&target, info).await?;
        }
        Ok(sent.cost)
    }
}

impl Deliver for Daemon {
    fn connect(self: Arc<Self>, node: NodeId) -> BoxFuture<'static, Result<(), Undelivered>> {
        Box::pin(async move {
            let target = self.target_of(node).await.map_err(undelivered)?;
            let connected = self.pool.connect(&target.remote).await;
            connected.map_err(|error| undelivered(error.into()))
        })
    }

    fn deliver(
        self: Arc<Self>,
        entry: Entry,
        flight: Arc<Flight>,
    ) -> BoxFuture<'static, Result<Cost, Undelivered>> {
        Box::pin(async move {
            let (events, mut received) = EventSender::channel();
            let passes_on = async {
                while let Some(event) = received.recv().await {
                    match event {
                        Event::Progress(progress) => flight.set_progress(progress),
                        Event::Note { message } => {
                            tracing::warn!(message, "sending from the queue");
                        }
                        _ => {}
                    }
                }
            };
            let work = async {
                let events = events;
                self.deliver_entry(entry, &flight, &events).await
            };
            let (sent, ()) = tokio::join!(work, passes_on);
            sent.map_err(undelivered)
        })
    }
}

fn cost_of(stats: PushStats) -> Cost {
    Cost {
        bytes_sent: stats.bytes_sent,
        objects_sent: stats.objects_sent,
        round_trips: stats.round_trips,
    }
}

/// Whether a node could not be reached: nothing else is wrong with what was asked.
pub(super) fn is_away(fail: &Fail) -> bool {
    fail.0.code == "remote-unreachable"
}

/// What a failure means for an entry.
fn undelivered(fail: Fail) -> Undelivered {
    let reason = match &fail.0.hint {
        Some(hint) => format!("{}; {hint}", fail.0.message),
        None => fail.0.message,
    };
    match fail.0.code.as_str() {
        // Another machine has the node's address in this network: the next one is another network.
        "remote-unreachable" | "wrong-identity" => Undelivered::Away(reason),
        "cancelled" => Undelivered::Cancelled,
        "remote-failed" | "transport" | "internal" | "store" | "store-poisoned" | "disk-full" => {
            Undelivered::Later(reason)
        }
        _ => Undelivered::Refused(reason),
    }
}

fn queued_note(parcel: &Parcel, away: bool) -> String {
    let remote = &parcel.target.remote.name;
    let why = if away {
        format!(
            "{remote} cannot be reached: this is on this disk and goes out by itself when it can be"
        )
    } else {
        format!(
            "others wait for {remote} before this one: it is on this disk and goes out by itself"
        )
    };
    let id = parcel.wanted.id.short();
    format!("{why}; the lid may be closed. To take it back: baton queue cancel {id}")
}

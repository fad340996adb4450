//! A push of a small edit over a standing connection: the snapshot is sent while it is being made durable
//! here, so that the two waits for a disk, here and there, are one; and all of it is done by one thread,
//! because waking another one takes as long as a round trip.
//!
//! Not here: everything else. Where anything is not as it usually is, the snapshot is taken as always, and the
//! outbox sends it; saying the same twice to a node is harmless.
//!
//! **Invariant:** the answer comes after both have it. Where only the node does, because this machine lost
//! its power in between, the next push adopts what the node has.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use baton_protocol::id::{IdempotencyKey, SnapshotId};
use baton_protocol::message::PushHello;
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::PushOutcome;
use baton_store::catalog::history::Pin;
use baton_store::catalog::remotes::Remote;
use baton_store::plan::plan_push;
use baton_store::scan;
use baton_store::vault::Intake;
use tokio::sync::OwnedMutexGuard;

use super::Daemon;
use super::ahead::SentAhead;
use super::failure::Fail;
use super::remotes::Target;
use super::transfer::{Pushed, with_progress};
use crate::api::socket::EventSender;
use crate::clock::decimal_ms;
use crate::sync::Wire;
use crate::sync::push::Sending;
use crate::workspace::{Beside, TakeOptions, Taken};

/// Objects of an edit that is sent in this way: it fits into what a connection sends without an answer.
const MAX_OBJECTS: usize = 512;

/// A snapshot that was taken for a node.
pub(super) struct Begun {
    pub(super) target: Target,
    /// The [order](crate::queue::Queue::order) of the workspace and the node.
    pub(super) order: OwnedMutexGuard<()>,
    pub(super) taken: Taken,
    /// Nothing where it is still to be sent.
    pub(super) pushed: Option<Pushed>,
    /// What of it was sent already has cost.
    pub(super) ahead: SentAhead,
}

/// Brings a snapshot to a node while it is being made durable here.
struct Courier<'a> {
    daemon: &'a Daemon,
    remote: &'a Remote,
    under_way: Option<UnderWay>,
    pushed: Option<Pushed>,
}

struct UnderWay {
    wire: Wire,
    sending: Sending,
    id: SnapshotId,
    snapshot: Snapshot,
    started: Instant,
}

impl Daemon {
    /// Takes a snapshot for a node, and where that is possible makes the node have it meanwhile.
    pub(super) async fn begin_push(
        self: &Arc<Self>,
        root: PathBuf,
        remote: Option<String>,
        events: &EventSender,
    ) -> Result<Begun, Fail> {
        let progress = Arc::new(scan::Progress::default());
        let (shown, tree, name) = (Arc::clone(&progress), root.clone(), remote.clone());
        let work = self.blocking("push", move |daemon| daemon.try_swiftly(&tree, name, &progress));
        let work = with_progress(work, &shown, "scan", events);
        let Some(begun) = self.inhibitor.during(work).await? else {
            let target = self.target(remote).await?;
            let (workspace, order) = self.order(&root, &target, events).await?;
            let options = TakeOptions::default();
            let (taken, ahead) = self.take_for((workspace, &target), root, options, events).await?;
            return Ok(Begun { target, order, taken, pushed: None, ahead });
        };
        for note in &begun.taken.notes {
            events.note(note.clone()).await;
        }
        if let Some(pushed) = &begun.pushed {
            self.acks.note(begun.taken.workspace, begun.target.remote.node, pushed.id);
            self.histories.wake(begun.taken.workspace);
            self.acks.pin(begun.taken.workspace, pushed.id, Pin::Push);
            tracing::info!(snapshot = %pushed.id, bytes = pushed.stats.bytes_sent,
                trips = pushed.stats.round_trips, "pushed");
        }
        self.see_to_history(&begun.taken).await;
        Ok(begun)
    }

    /// Nothing where somebody or something has to be waited for before the tree is looked at.
    fn try_swiftly(
        &self,
        root: &Path,
        remote: Option<String>,
        progress: &scan::Progress,
    ) -> Result<Option<Begun>, Fail> {
        let Some(remote) = self.find_remote(remote)? else { return Ok(None) };
        if self.queue.is_busy(remote.node) || !self.pool.has_connection(remote.node) {
            return Ok(None);
        }
        let Some(workspace) = self.workspaces.find(root)? else { return Ok(None) };
        // A first snapshot is sent in another way, and so is one that would be cut for this node alone.
        let receiver = self.receiver(workspace.id, remote.node)?;
        if receiver.acked.is_none() || self.workspaces.is_cut_for(workspace.id, receiver)? {
            return Ok(None);
        }
        let Some(order) = self.queue.try_order(workspace.id, remote.node) else { return Ok(None) };
        let mut courier = Courier { daemon: self, remote: &remote, under_way: None, pushed: None };
        let options = TakeOptions::default();
        let beside = Some(&mut courier as &mut dyn Beside);
        let taken = self.workspaces.take_beside(workspace.id, root, &options, progress, beside)?;
        let pushed = courier.pushed;
        let target = Target { remote, embedded: false };
        Ok(Some(Begun { target, order, taken, pushed, ahead: SentAhead::default() }))
    }
}

impl Courier<'_> {
    /// Sends what an intake holds; nothing where that is not as simple as it mostly is.
    fn send(&self, intake: &Intake, id: SnapshotId, snapshot: &Snapshot) -> Option<UnderWay> {
        let Self { daemon, remote, .. } = self;
        let started = daemon.clock.instant();
        let base = daemon.acks.get(snapshot.workspace, remote.node).ok()?;
        // What the node has is the parent: nobody has overtaken anybody.
        let base = base.filter(|base| snapshot.parents.contains(base))?;
        let plan = plan_push(intake, Some(base), id).ok()?;
        if plan.len() > MAX_OBJECTS || !intake.is_small() {
            return None;
        }
        let key = IdempotencyKey::from_bytes(crate::workspace::random().ok()?);
        let hello = PushHello { workspace: snapshot.workspace, base: Some(base), new: id, key };
        let runtime = tokio::runtime::Handle::current();
        let stream = runtime.block_on(daemon.pool.open(remote)).ok()?;
        let mut wire = Wire::new(stream);
        let mut sending = Sending::new(hello, plan);
        match sending.begin(&mut wire, intake, &mut |_, _| {}) {
            Ok(()) => Some(UnderWay { wire, sending, id, snapshot: snapshot.clone(), started }),
            Err(error) => {
                tracing::debug!(%error, "sent in the usual way instead");
                None
            }
        }
    }
}

impl Beside for Courier<'_> {
    fn begin(&mut self, intake: &Intake, id: SnapshotId, snapshot: &Snapshot) {
        self.under_way = self.send(intake, id, snapshot);
    }

    fn end(&mut self, intake: &Intake) {
        let Some(UnderWay { mut wire, mut sending, id, snapshot, started }) = self.under_way.take()
        else {
            return;
        };
        let outcome = sending.end(&mut wire, intake, &mut |_, _| {});
        let send_ms = decimal_ms(self.daemon.clock.since(started));
        wire.into_stream().finish();
        match outcome {
            Ok((PushOutcome::Acked { .. }, stats)) => {
                self.pushed = Some(Pushed { id, snapshot, stats, send_ms });
            }
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "sent in the usual way instead"),
        }
    }
}

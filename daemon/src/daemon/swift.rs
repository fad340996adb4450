//! A push of a small edit over a standing connection: the snapshot is sent while it is being made durable
//! here, so that the two waits for a disk, here and there, are one.
//!
//! Not here: everything else. Where anything is not as it usually is, the snapshot is taken as always, and the
//! outbox sends it; saying the same twice to a node is harmless.
//!
//! **Invariant:** the answer comes after both have it. Where only the node does, because this machine lost
//! its power in between, the next push adopts what the node has.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::{IdempotencyKey, SnapshotId};
use baton_protocol::message::PushHello;
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::PushOutcome;
use baton_store::catalog::history::Pin;
use baton_store::plan::plan_push;
use baton_store::scan;
use baton_store::vault::Intake;

use super::Daemon;
use super::failure::Fail;
use super::remotes::Target;
use super::transfer::{Pushed, with_progress};
use crate::api::socket::EventSender;
use crate::clock::decimal_ms;
use crate::sync::{Wire, push};
use crate::workspace::{TakeOptions, Taken};

/// Objects of an edit that is sent in this way: it fits into what a connection sends without an answer.
const MAX_OBJECTS: usize = 512;

impl Daemon {
    /// Takes a snapshot, and where that is possible makes a node have it meanwhile.
    ///
    /// The caller holds the order of the workspace and the node.
    pub(super) async fn take_swiftly(
        self: &Arc<Self>,
        root: PathBuf,
        target: &Target,
        events: &EventSender,
    ) -> Result<(Taken, Option<Pushed>), Fail> {
        let node = target.remote.node;
        if self.queue.is_busy(node) || !self.pool.has_connection(node) {
            return Ok((self.take(root, TakeOptions::default(), events).await?, None));
        }
        let progress = Arc::new(scan::Progress::default());
        let (shown, target) = (Arc::clone(&progress), target.clone());
        let work = self.blocking("push", move |daemon| {
            let sent = Mutex::new(None);
            let send = |intake: &Intake, id: SnapshotId, snapshot: &Snapshot| {
                let pushed = daemon.send_beside(&target, intake, id, snapshot);
                *sent.lock().unwrap_or_else(PoisonError::into_inner) = pushed;
            };
            let options = TakeOptions::default();
            let taken = daemon.workspaces.take_beside(&root, &options, &progress, Some(&send))?;
            Ok((taken, sent.into_inner().unwrap_or_else(PoisonError::into_inner)))
        });
        let work = with_progress(work, &shown, "scan", events);
        let (taken, pushed) = self.inhibitor.during(work).await?;
        for note in &taken.notes {
            events.note(note.clone()).await;
        }
        if let Some(pushed) = &pushed {
            self.acks.note(taken.workspace, node, pushed.id);
            self.acks.pin(taken.workspace, pushed.id, Pin::Push);
            tracing::info!(snapshot = %pushed.id, bytes = pushed.stats.bytes_sent,
                trips = pushed.stats.round_trips, "pushed");
        }
        Ok((taken, pushed))
    }

    /// Sends what an intake holds; nothing where that is not as simple as it mostly is.
    fn send_beside(
        &self,
        target: &Target,
        intake: &Intake,
        id: SnapshotId,
        snapshot: &Snapshot,
    ) -> Option<Pushed> {
        let started = self.clock.instant();
        let base = self.acks.get(snapshot.workspace, target.remote.node).ok()?;
        // What the node has is the parent: nobody has overtaken anybody.
        let base = base.filter(|base| snapshot.parents.contains(base))?;
        let plan = plan_push(intake, Some(base), id).ok()?;
        if plan.len() > MAX_OBJECTS || !intake.is_small() {
            return None;
        }
        let key = IdempotencyKey::from_bytes(crate::workspace::random().ok()?);
        let hello = PushHello { workspace: snapshot.workspace, base: Some(base), new: id, key };
        let runtime = tokio::runtime::Handle::current();
        let stream = runtime.block_on(self.pool.open(&target.remote)).ok()?;
        let _entered = runtime.enter();
        let mut wire = Wire::new(stream);
        let outcome = push::send(&mut wire, intake, hello, plan, |_, _| {});
        wire.into_stream().finish();
        match outcome {
            Ok((PushOutcome::Acked { .. }, stats)) => {
                let send_ms = decimal_ms(self.clock.since(started));
                Some(Pushed { id, snapshot: snapshot.clone(), stats, send_ms })
            }
            Ok(_) => None,
            Err(error) => {
                tracing::debug!(%error, "sent in the usual way instead");
                None
            }
        }
    }
}

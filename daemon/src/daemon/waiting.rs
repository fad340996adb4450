//! The queue as people see it: `queue`, `queue cancel`, what `status` says of it, and who is told what
//! was not sent.

use std::sync::Arc;

use baton_protocol::id::{QueueId, WorkspaceId};
use baton_store::catalog::queue::{Entry, EntryKind, EntryState, NewEntry};

use super::Daemon;
use super::failure::{Fail, chain};
use super::remotes::only;
use crate::api::control::{Answer, QueueAnswer, QueueCancelAnswer, QueueEntry};
use crate::api::socket::EventSender;
use crate::clock::rfc3339;
use crate::queue::QueueError;
use crate::queue::flight::{Cancelled, Flight};

/// What `status` says of a workspace's entries.
#[derive(Debug, Default)]
pub(super) struct QueueState {
    pub(super) queued: u64,
    /// Whether one of them waits for a node that cannot be reached.
    pub(super) away: bool,
    pub(super) last_error: Option<String>,
}

impl From<QueueError> for Fail {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Store(error) => error.into(),
            QueueError::Task(error) => Self::new("internal", chain(&error)),
        }
    }
}

impl Daemon {
    /// Says, once for each, what was not sent after all.
    pub(super) async fn tell_untold(self: &Arc<Self>, events: &EventSender) {
        if !self.queue.take_untold() {
            return;
        }
        match self.blocking("queue", |daemon| Ok(daemon.catalog.tell_queued()?)).await {
            Ok(untold) => {
                for entry in untold {
                    events.note(untold_note(&entry)).await;
                }
            }
            Err(fail) => tracing::warn!(reason = fail.0.message, "reading the queue"),
        }
    }

    /// What `status` says of a workspace, given all entries.
    pub(super) fn queue_state(
        &self,
        entries: &[Entry],
        workspace: WorkspaceId,
        is_synced: bool,
    ) -> QueueState {
        let mut state = QueueState::default();
        for entry in entries.iter().filter(|entry| entry.wanted.workspace == workspace) {
            let waits = entry.state == EntryState::Waiting;
            if waits {
                state.queued += 1;
                state.away |= entry.attempts > 0 || self.queue.is_away(entry.wanted.node);
            }
            // A push that failed is of no interest once a later one has arrived.
            let stale = !waits && is_synced && entry.wanted.kind == EntryKind::Push;
            if entry.last_error.is_some() && !stale {
                state.last_error.clone_from(&entry.last_error);
            }
        }
        state
    }

    pub(super) async fn queue_list(self: &Arc<Self>) -> Result<Answer, Fail> {
        let mut entries = self.blocking("queue", |daemon| Ok(daemon.catalog.queue()?)).await?;
        let now = self.clock.now_ms();
        let under_way = self.queue.under_way();
        for entry in &mut entries {
            // Its worker finds out at its next try.
            if entry.state == EntryState::Waiting && entry.is_expired(now) {
                entry.state = EntryState::Expired;
            }
        }
        let mut queue: Vec<_> =
            entries.iter().map(|entry| queue_entry(entry, &under_way)).collect();
        // What is sent at once is no entry.
        let direct = under_way
            .iter()
            .filter(|flight| !entries.iter().any(|entry| entry.wanted.id == flight.wanted.id));
        queue.extend(direct.map(|flight| shown(&flight.wanted, "sending")));
        Ok(Answer::Queue(QueueAnswer { queue }))
    }

    pub(super) async fn queue_cancel(
        self: &Arc<Self>,
        digits: &str,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let known = self.blocking("queue", |daemon| Ok(daemon.catalog.queue()?)).await?;
        let mut ids: Vec<_> = known.iter().map(|entry| entry.wanted.id).collect();
        ids.extend(self.queue.under_way().iter().map(|flight| flight.wanted.id));
        ids.retain(|id| id.to_string().starts_with(digits));
        ids.sort_unstable();
        ids.dedup();
        let id = only(&ids, "entry of the queue", digits, "baton queue")?;
        self.cancel_entry(id, events).await?;
        Ok(Answer::QueueCancelled(QueueCancelAnswer { cancelled: vec![id.to_string()] }))
    }

    /// A run whose answer was lost on the way may be there all the same.
    async fn warn_of_begun(
        self: &Arc<Self>,
        id: QueueId,
        events: &EventSender,
    ) -> Result<(), Fail> {
        let entry =
            self.blocking("queue", move |daemon| Ok(daemon.catalog.queue_entry(id)?)).await?;
        let runs = entry.filter(|entry| entry.wanted.begun).map(|entry| entry.wanted.runs);
        for spec in runs.unwrap_or_default() {
            let run = spec.run.short();
            let note = format!(
                "the connection was lost while the node was asked for run {run}: it may have started. \
                 See baton runs when the node can be reached, and baton run cancel {run}"
            );
            events.note(note).await;
        }
        Ok(())
    }

    /// Takes an entry back, or off the list where it was not sent.
    pub(super) async fn cancel_entry(
        self: &Arc<Self>,
        id: QueueId,
        events: &EventSender,
    ) -> Result<(), Fail> {
        let dismiss =
            self.blocking("queue", move |daemon| Ok(daemon.catalog.dismiss_queued(id)?));
        if dismiss.await? {
            return Ok(());
        }
        match self.queue.cancel(id).await? {
            Cancelled::Yes => {
                tracing::info!(entry = %id.short(), "cancelled");
                self.warn_of_begun(id, events).await
            }
            Cancelled::Sent => {
                Err(Fail::new("already-sent", format!("{} was sent already", id.short()))
                    .hint("baton runs; baton run cancel RUN ends a run")
                    .exit(4))
            }
            Cancelled::Pending => {
                let message = format!("{} is being sent; it is stopped if it can be", id.short());
                Err(Fail::new("being-sent", message).hint("baton queue"))
            }
        }
    }
}

fn untold_note(entry: &Entry) -> String {
    let NewEntry { id, kind, remote, created_at, .. } = &entry.wanted;
    format!(
        "the {} of {} to {remote} was not sent: {} (baton queue cancel {} takes it off the list)",
        kind.name(),
        rfc3339(*created_at),
        entry.last_error.as_deref().unwrap_or(entry.state.name()),
        id.short()
    )
}

fn queue_entry(entry: &Entry, under_way: &[Arc<Flight>]) -> QueueEntry {
    let flies = under_way.iter().any(|flight| flight.wanted.id == entry.wanted.id);
    let state = if flies { "sending" } else { entry.state.name() };
    QueueEntry {
        attempts: entry.attempts + u64::from(flies),
        last_error: entry.last_error.clone(),
        ..shown(&entry.wanted, state)
    }
}

fn shown(wanted: &NewEntry, state: &str) -> QueueEntry {
    QueueEntry {
        id: wanted.id.to_string(),
        kind: wanted.kind.name().to_owned(),
        state: state.to_owned(),
        remote: wanted.remote.clone(),
        workspace: wanted.workspace.to_string(),
        snapshot: wanted.snapshot.to_string(),
        run: wanted.runs.first().map(|spec| spec.run.to_string()),
        created_at: rfc3339(wanted.created_at),
        expires_at: wanted.expires_at.map(rfc3339),
        attempts: 1,
        last_error: None,
    }
}

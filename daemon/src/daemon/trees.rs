//! Snapshots and what is done with them: push, log, diff, restore, status.

use std::path::PathBuf;
use std::sync::Arc;

use baton_protocol::id::{NodeId, TreeId, WorkspaceId};
use baton_store::catalog::history::Pin;
use baton_store::checkout::Restored;
use baton_store::diff::{ChangeKind, diff};
use baton_store::error::StoreError;
use baton_store::objects::ObjectSource;
use baton_store::scan;
use baton_store::snapshot::load_snapshot;

use super::ahead::SentAhead;
use super::background::Doing;
use super::failure::Fail;
use super::outbox::Sent;
use super::parcels::Parcel;
use super::remotes::Target;
use super::report::to_path;
use super::swift::Begun;
use super::transfer::with_progress;
use super::{Daemon, patch, report};
use crate::api::control::{
    Answer, Bytes, ChangeEntry, DiffAnswer, PushFields, ReportPath, RestoreAnswer, StatusAnswer,
    TimingMs, WorkspaceEntry,
};
use crate::api::control::{SyncProgress, WatchEntry};
use crate::api::socket::EventSender;
use crate::clock::{decimal_ms, rfc3339};
use crate::keeper::Seen;
use crate::workspace::{Beside, Receiver, TakeError, TakeOptions, Taken, Workspaces};

impl Daemon {
    /// Takes a snapshot, telling how far it is.
    pub(super) async fn take(
        self: &Arc<Self>,
        root: PathBuf,
        options: TakeOptions,
        events: &EventSender,
    ) -> Result<Taken, Fail> {
        let take = move |workspaces: &Workspaces, progress: &scan::Progress| {
            Ok((workspaces.take(&root, &options, progress)?, ()))
        };
        Ok(self.take_with(take, events).await?.0)
    }

    /// Takes a snapshot for a node, which may have much of it when this returns; says what that has cost.
    pub(super) async fn take_for(
        self: &Arc<Self>,
        (workspace, target): (WorkspaceId, &Target),
        root: PathBuf,
        options: TakeOptions,
        events: &EventSender,
    ) -> Result<(Taken, SentAhead), Fail> {
        let _urgent = self.urgent(workspace);
        let (daemon, target) = (Arc::clone(self), target.clone());
        let take = move |workspaces: &Workspaces, progress: &scan::Progress| {
            let mut ahead = daemon.ahead(workspace, &target, None);
            let receiver = daemon.receiver(workspace, target.remote.node)?;
            let options = TakeOptions { receiver: Some(receiver), ..options };
            let beside = Some(&mut ahead as &mut dyn Beside);
            let taken = workspaces.take_beside(workspace, &root, &options, progress, beside)?;
            Ok((taken, ahead))
        };
        let work = async {
            let (taken, ahead) = self.take_with(take, events).await?;
            Ok((taken, ahead.end(events).await))
        };
        self.inhibitor.during(work).await
    }

    /// A node as somebody for whom a snapshot is taken.
    pub(super) fn receiver(
        &self,
        workspace: WorkspaceId,
        node: NodeId,
    ) -> Result<Receiver, StoreError> {
        Ok(Receiver { acked: self.acks.get(workspace, node)? })
    }

    async fn take_with<T: Send + 'static>(
        self: &Arc<Self>,
        take: impl FnOnce(&Workspaces, &scan::Progress) -> Result<(Taken, T), TakeError>
        + Send
        + 'static,
        events: &EventSender,
    ) -> Result<(Taken, T), Fail> {
        let progress = Arc::new(scan::Progress::default());
        let watched = Arc::clone(&progress);
        let work =
            self.blocking("snapshot", move |daemon| Ok(take(&daemon.workspaces, &progress)?));
        let (taken, with) = with_progress(work, &watched, "scan", events).await?;
        for note in &taken.notes {
            events.note(note.clone()).await;
        }
        self.see_to_history(&taken).await;
        tracing::info!(
            snapshot = %taken.id, workspace = %taken.workspace, files = taken.sums.files,
            changed = taken.files_changed, "snapshot"
        );
        Ok((taken, with))
    }

    pub(super) async fn snapshot(
        self: &Arc<Self>,
        path: Bytes,
        message: Option<String>,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let options = TakeOptions { message, ..TakeOptions::default() };
        let taken = self.take(to_path(path), options, events).await?;
        let sequence = taken.snapshot.sequence;
        self.acks.pin(taken.workspace, taken.id, Pin::Snapshot);
        let answer = report::snapshot(&taken, taken.id, sequence, report::timing(&taken), None);
        Ok(Answer::Snapshot(answer))
    }

    pub(super) async fn push(
        self: &Arc<Self>,
        path: Bytes,
        remote: Option<String>,
        wait: bool,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let started = self.clock.instant();
        let Begun { target, order, taken, pushed, ahead } =
            self.begin_push(to_path(path), remote, events).await?;
        let remote = target.remote.name.clone();
        let sent = if let Some(pushed) = pushed {
            Sent::from(pushed)
        } else {
            let parcel = Parcel::push(target, &taken, ahead, self.clock.now_ms())?;
            self.send(parcel, order, wait, events).await?
        };
        let timing = TimingMs {
            send: sent.send_ms,
            total: decimal_ms(self.clock.since(started)),
            ..report::timing(&taken)
        };
        let fields = PushFields {
            state: sent.state.to_owned(),
            remote,
            bytes_sent: sent.cost.bytes_sent,
            objects_sent: sent.cost.objects_sent,
            round_trips: sent.cost.round_trips,
            queue: sent.queue.map(|id| id.to_string()),
        };
        let sequence = sent.sequence.unwrap_or(taken.snapshot.sequence);
        Ok(Answer::Snapshot(report::snapshot(&taken, sent.id, sequence, timing, Some(fields))))
    }

    pub(super) async fn restore(
        self: &Arc<Self>,
        snapshot: String,
        into: Bytes,
        remote: Option<String>,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let into = to_path(into);
        let id = self.obtain(&snapshot, remote, events).await?;
        let root = into.to_string_lossy().into_owned();
        let (restored, receipt) = self.write_out(id, into, (None, None), events).await?;
        let Restored { files, bytes, .. } = restored;
        Ok(Answer::Restore(RestoreAnswer { root, files, bytes, receipt }))
    }

    pub(super) async fn diff(
        self: &Arc<Self>,
        a: String,
        b: Option<String>,
        path: Bytes,
        with_patch: bool,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let old = self.obtain(&a, None, events).await?;
        let new = match b {
            Some(b) => self.obtain(&b, None, events).await?,
            // Against the tree as it is now: what it holds has to be kept to be compared.
            None => self.take(to_path(path), TakeOptions::default(), events).await?.id,
        };
        let answer = self.blocking("diff", move |daemon| {
            let vault = &daemon.workspaces.vault;
            let (old, new) = (load_snapshot(vault, old)?.root, load_snapshot(vault, new)?.root);
            diff_answer(vault, old, new, with_patch)
        });
        answer.await.map(Answer::Diff)
    }

    pub(super) async fn status(
        self: &Arc<Self>,
        path: Option<Bytes>,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        self.tell_untold(events).await;
        self.blocking("status", move |daemon| daemon.status_answer(path.map(to_path)))
            .await
            .map(Answer::Status)
    }

    fn status_answer(&self, path: Option<PathBuf>) -> Result<StatusAnswer, Fail> {
        let remotes = self.remotes_answer()?.remotes;
        let default = remotes.iter().find(|remote| remote.default);
        let node = default.and_then(|remote| remote.node_id.parse().ok());
        let listed = match path {
            Some(path) => self.workspaces.find(&path)?.into_iter().collect(),
            None => self.catalog.workspaces()?,
        };
        let mut workspaces = Vec::new();
        let queue = self.catalog.queue()?;
        for workspace in listed {
            let head = self.workspaces.head(workspace.id).map(|head| head.snapshot);
            let acked = match node {
                Some(node) => self.acks.get(workspace.id, node)?,
                None => None,
            };
            let waiting = self.queue_state(&queue, workspace.id, head == acked);
            let step = self.background.step(workspace.id).map(|step| step.report());
            let seen = self.workspaces.watched(workspace.id).map(|watched| watched.seen());
            let pending = seen.as_ref().and_then(|seen| seen.pending);
            let by_git = seen.as_ref().is_some_and(|seen| seen.git);
            let is_still = (pending == Some(0) && !by_git) || (step.is_none() && pending.is_none());
            let (doing, error, away) = step.unwrap_or_default();
            let last_error = error.or(waiting.last_error);
            let away = away || waiting.away;
            let is_busy = waiting.queued > 0 || !matches!(doing, Doing::Resting);
            let state = match &last_error {
                _ if away => "offline",
                Some(_) => "error",
                None if is_busy => "syncing",
                None if head.is_none() || head != acked => "paused",
                None if is_still => "synced",
                None => "syncing",
            };
            let synced_at = match acked {
                // A damaged snapshot is no reason not to say how the others are.
                Some(id) => load_snapshot(&self.workspaces.vault, id).ok(),
                None => None,
            };
            let (follows, waits) = self.history(workspace.id);
            workspaces.push(WorkspaceEntry {
                workspace: workspace.id.to_string(),
                root: String::from_utf8_lossy(&workspace.root).into_owned(),
                state: state.to_owned(),
                pending_files: pending.unwrap_or_default(),
                head: head.map(|id| id.to_string()),
                acked: acked.map(|id| id.to_string()),
                queued: waiting.queued,
                remote: default.map(|remote| remote.name.clone()),
                last_error,
                synced_at: synced_at.map(|snapshot| rfc3339(snapshot.created_at)),
                held: self.held_entries(workspace.id)?,
                watch: seen.and_then(watch_entry),
                progress: self.sync_progress(&doing),
                history: follows.then(|| "following".to_owned()),
                history_waits: waits,
            });
        }
        let as_of = rfc3339(self.clock.now_ms());
        let damage = self.noted_damage();
        Ok(StatusAnswer { workspaces, remotes, daemon: self.answer(), as_of, damage })
    }
}

impl Daemon {
    fn sync_progress(&self, doing: &Doing) -> Option<SyncProgress> {
        let (files, bytes, started) = match doing {
            Doing::Resting | Doing::Sending(None, _) => return None,
            Doing::Sealing(progress, started) => (progress.files(), progress.bytes(), started),
            Doing::Sending(Some(progress), started) => (progress.done, progress.bytes, started),
        };
        let total = match doing {
            Doing::Sending(Some(progress), _) => progress.total,
            Doing::Sealing(progress, _) => progress.total(),
            _ => None,
        };
        let passed =
            u64::try_from(self.clock.since(*started).as_millis()).unwrap_or(u64::MAX).max(1);
        // By what is done of what is known to be there: bytes on the wire are not known before.
        let left = total.filter(|_| files > 0).map(|total| {
            let left = u128::from(total.saturating_sub(files)) * u128::from(passed);
            u64::try_from(left / u128::from(files)).unwrap_or(u64::MAX)
        });
        Some(SyncProgress {
            files,
            bytes,
            total_bytes: None,
            rate: Some(bytes.saturating_mul(1000) / passed),
            left_ms: left,
        })
    }
}

fn watch_entry(seen: Seen) -> Option<WatchEntry> {
    let note = seen.error;
    match seen.coverage {
        Some(coverage) => Some(WatchEntry {
            backend: coverage.backend.to_owned(),
            watched: coverage.watched,
            swept: coverage.swept,
            note: coverage.note.or(note),
        }),
        None => note.map(|note| WatchEntry {
            backend: "sweep".to_owned(),
            watched: 0,
            swept: 0,
            note: Some(note),
        }),
    }
}

/// What differs between two trees, sorted by path.
pub(super) fn diff_answer<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
    with_patch: bool,
) -> Result<DiffAnswer, Fail> {
    let changes = diff(source, old, new)?;
    let patch = if with_patch { Some(patch::unified(source, old, new, &changes)?) } else { None };
    Ok(DiffAnswer { changes: changes.iter().map(change_entry).collect(), patch })
}

/// What is said of one path that differs.
pub(super) fn change_entry(change: &baton_store::diff::Change) -> ChangeEntry {
    ChangeEntry {
        path: ReportPath::new(change.path.as_bytes()),
        kind: kind_name(change.kind).to_owned(),
    }
}

const fn kind_name(kind: ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Added => "added",
        ChangeKind::Removed => "removed",
        ChangeKind::Modified => "modified",
        ChangeKind::Mode => "mode",
        ChangeKind::Type => "type",
    }
}

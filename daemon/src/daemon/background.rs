//! Always-on sync: a task for each watched workspace, which seals and pushes after a quiet moment.
//!
//! Not here: how changes are seen (the keeper), and what a command sends (the outbox).
//!
//! - [`step`]: what is being done about one workspace
//!
//! What a person asks for goes first. A push of the background that somebody else's handoff would have to
//! share the wire with is stopped, and goes on later from what the node has by then; one of the same
//! workspace is not: the handoff needs what it brings, and waits for it.
//!
//! **Invariant:** the background makes snapshots and moves this device's own refs, and nothing else; it
//! holds the order of workspace and node meanwhile.
//!
//! **Invariant:** with nothing to do there is no timer. What cannot be done for now is tried again after
//! at most [`MAX_PAUSE`], or when the network changes.

mod step;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::{NodeId, WorkspaceId};
use baton_protocol::message::{Forget, MAX_FORGET};
use baton_store::catalog::workspaces::Workspace;
use baton_store::scan;
use tokio::sync::watch;

pub(super) use step::Doing;
use step::Step;

use super::ahead::Ahead;
use super::failure::{Fail, chain};
use super::outbox::is_away;
use super::{Daemon, remotes::Target};
use crate::api::control::{Answer, Bytes, Progress, WatchAnswer};
use crate::api::socket::EventSender;
use crate::network;
use crate::thinning::plan::Retention;
use crate::thinning::thin_out;
use crate::workspace::{Beside, PlaceError, TakeOptions, Taken, Workspaces};

/// After a failure it is tried again after this time, then twice as long each time, up to the second.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// How long the tree must be quiet, in lengths of the last sync: who changes much syncs in larger steps.
const SETTLE_FACTOR: u32 = 3;

/// Events of one push that wait to be looked at.
const PROGRESS: Duration = Duration::from_millis(250);

/// The workspaces that are kept in step, and who has to be given way to.
#[derive(Debug)]
pub(super) struct Background {
    tasks: Mutex<HashMap<WorkspaceId, Arc<Step>>>,
    /// Commands that send something at this moment.
    urgent: watch::Sender<usize>,
}

/// What became of one step.
enum Outcome {
    /// The node has the tree as it is.
    InStep,
    /// Somebody else goes first.
    GaveWay,
}

/// As long as this is held, other workspaces' background pushes give way.
#[derive(Debug)]
pub(super) struct Urgent(Arc<Daemon>);

impl Drop for Urgent {
    fn drop(&mut self) {
        self.0.background.urgent.send_modify(|count| *count -= 1);
    }
}

impl Background {
    pub(super) fn new() -> Self {
        Self { tasks: Mutex::default(), urgent: watch::Sender::new(0) }
    }

    /// What is being done about a workspace, if it is kept in step.
    pub(super) fn step(&self, workspace: WorkspaceId) -> Option<Arc<Step>> {
        self.tasks().get(&workspace).cloned()
    }

    fn tasks(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Arc<Step>>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon {
    pub(super) async fn watch(
        self: &Arc<Self>,
        path: Bytes,
        remote: Option<String>,
    ) -> Result<Answer, Fail> {
        let root = super::report::to_path(path);
        if let Some(remote) = &remote {
            // Fails where there is none of that name.
            self.target(Some(remote.clone())).await?;
        }
        let workspace = self
            .blocking("watch", move |daemon| {
                let workspace = daemon.workspaces.find_or_add(&root)?;
                daemon.catalog.set_watched(workspace.id, true, remote.as_deref())?;
                Ok(workspace)
            })
            .await?;
        // Started anew where it runs, since it may be for another node.
        self.end_step(workspace.id);
        self.start_step(&workspace);
        Ok(Answer::Watch(watch_answer(&workspace)))
    }

    pub(super) async fn unwatch(self: &Arc<Self>, path: Bytes) -> Result<Answer, Fail> {
        let root = super::report::to_path(path);
        let workspace = self
            .blocking("unwatch", move |daemon| {
                let found = daemon.workspaces.find(&root)?;
                let watched = daemon.catalog.watched()?;
                let is_watched =
                    |workspace: &Workspace| watched.iter().any(|(w, _)| w.id == workspace.id);
                let Some(workspace) = found.filter(is_watched) else {
                    let what = format!("{} is not watched", root.display());
                    return Err(Fail::new("not-watched", what).hint("baton status"));
                };
                daemon.catalog.set_watched(workspace.id, false, None)?;
                Ok(workspace)
            })
            .await?;
        self.end_step(workspace.id);
        let id = workspace.id;
        let let_go = move |daemon: &Self| {
            daemon.workspaces.let_go(id);
            Ok(())
        };
        self.blocking("unwatch", let_go).await?;
        Ok(Answer::Watch(watch_answer(&workspace)))
    }

    /// Begins to keep every watched workspace in step.
    pub(super) fn start_background(self: &Arc<Self>) -> Result<(), Fail> {
        for (workspace, _) in self.catalog.watched()? {
            self.start_step(&workspace);
        }
        Ok(())
    }

    /// Something is to be sent for a person: pushes of the background for other workspaces stop.
    pub(super) fn urgent(self: &Arc<Self>, workspace: WorkspaceId) -> Urgent {
        self.background.urgent.send_modify(|count| *count += 1);
        self.histories.give_way();
        for (id, step) in self.background.tasks().iter() {
            if *id != workspace {
                step.give_way.store(true, Ordering::Relaxed);
            }
        }
        Urgent(Arc::clone(self))
    }

    /// What may travel of a workspace has changed.
    pub(super) fn look_again(&self, workspace: WorkspaceId) {
        if let Some(step) = self.background.step(workspace) {
            step.again.notify_one();
        }
    }

    fn start_step(self: &Arc<Self>, workspace: &Workspace) {
        use std::os::unix::ffi::OsStrExt;
        let root = PathBuf::from(std::ffi::OsStr::from_bytes(&workspace.root));
        let step = Arc::new(Step::default());
        self.background.tasks().insert(workspace.id, Arc::clone(&step));
        let (daemon, id) = (Arc::clone(self), workspace.id);
        let work = async move { daemon.keep_in_step(&step, id, root).await };
        self.tasks.spawn("background sync", work).detach();
    }

    fn end_step(&self, workspace: WorkspaceId) {
        if let Some(step) = self.background.tasks().remove(&workspace) {
            step.stop();
        }
    }

    async fn keep_in_step(self: &Arc<Self>, step: &Arc<Step>, id: WorkspaceId, root: PathBuf) {
        let mut changed = self.changed.subscribe();
        let mut pause = PAUSE;
        let mut cost = Duration::ZERO;
        loop {
            if step.ended.load(Ordering::Relaxed) || self.tasks.is_cancelled() {
                return;
            }
            let started = self.clock.instant();
            let outcome = self.one_step(step, id, &root).await;
            cost = self.clock.since(started).max(cost / 2);
            step.set(Doing::Resting);
            let failed = match outcome {
                Ok(Outcome::InStep) => {
                    let mut state = step.lock();
                    (state.error, state.away) = (None, false);
                    pause = PAUSE;
                    None
                }
                Ok(Outcome::GaveWay) => {
                    self.wait_until_nothing_is_urgent().await;
                    continue;
                }
                Err(fail) if step.ended.load(Ordering::Relaxed) => {
                    tracing::debug!(reason = fail.0.message, "ended");
                    return;
                }
                Err(fail) => {
                    let away = is_away(&fail);
                    tracing::debug!(reason = fail.0.message, away, "out of step");
                    let mut state = step.lock();
                    state.away = away;
                    state.error = (!away).then_some(fail.0.message);
                    let this = pause;
                    pause = (pause * 2).min(MAX_PAUSE);
                    Some((this, away))
                }
            };
            let is_dirty = self.workspaces.watched(id).is_some_and(|watched| watched.is_dirty());
            if failed.is_some() || !is_dirty {
                tokio::select! {
                    () = changes_of(&mut changed, id) => {}
                    () = step.again.notified() => {}
                    () = retry(failed) => {}
                    () = step.end.notified() => return,
                    () = self.tasks.cancelled() => return,
                }
            }
            // A failure that the tree has nothing to do with is not repeated with every edit.
            if let Some((pause, true)) = failed {
                tokio::select! {
                    () = retry(Some((pause, true))) => {}
                    () = step.again.notified() => {}
                    () = step.end.notified() => return,
                    () = self.tasks.cancelled() => return,
                }
            }
            self.settle(step, &mut changed, id, cost).await;
        }
    }

    /// Waits until the tree is quiet, but not for ever.
    async fn settle(
        &self,
        step: &Step,
        changed: &mut tokio::sync::broadcast::Receiver<WorkspaceId>,
        id: WorkspaceId,
        cost: Duration,
    ) {
        let sync = &self.config.sync;
        let quiet = (cost * SETTLE_FACTOR).clamp(sync.settle, sync.settle_max);
        let limit = tokio::time::sleep(sync.settle_max);
        tokio::pin!(limit);
        loop {
            tokio::select! {
                () = changes_of(changed, id) => {}
                () = tokio::time::sleep(quiet) => return,
                () = &mut limit => return,
                () = step.end.notified() => return step.stop(),
                () = self.tasks.cancelled() => return,
            }
        }
    }

    pub(super) async fn wait_until_nothing_is_urgent(&self) {
        let mut urgent = self.background.urgent.subscribe();
        tokio::select! {
            // The sender lives as long as the daemon.
            _ = urgent.wait_for(|count| *count == 0) => {}
            () = self.tasks.cancelled() => {}
        }
    }

    async fn one_step(
        self: &Arc<Self>,
        step: &Arc<Step>,
        id: WorkspaceId,
        root: &std::path::Path,
    ) -> Result<Outcome, Fail> {
        let name = self
            .blocking("watched", move |daemon| {
                let watched = daemon.catalog.watched()?;
                Ok(watched.into_iter().find(|(workspace, _)| workspace.id == id))
            })
            .await?
            .and_then(|(_, remote)| remote);
        let target = match name {
            _ if !self.config.sync.background => None,
            Some(name) => Some(self.target(Some(name)).await?),
            None => self.joined_target().await?,
        };
        let Some(target) = target else {
            // Nothing is joined, or nothing is to be sent by itself: the tree is kept here.
            self.seal_in_background(step, id, root, None).await?;
            return Ok(Outcome::InStep);
        };
        let node = target.remote.node;
        let _order = self.queue.order(id, node).await;
        step.give_way.store(false, Ordering::Relaxed);
        let sealed = self.seal_in_background(step, id, root, Some(&target)).await?;
        if self.queue.is_busy(node) {
            return Err(Fail::new("remote-unreachable", "what was queued before is still waiting"));
        }
        self.send_in_background(step, &target, node, sealed).await
    }

    async fn seal_in_background(
        self: &Arc<Self>,
        step: &Arc<Step>,
        id: WorkspaceId,
        root: &std::path::Path,
        target: Option<&Target>,
    ) -> Result<(Taken, Option<Ahead>), Fail> {
        let progress = Arc::new(scan::Progress::with_total());
        step.set(Doing::Sealing(Arc::clone(&progress), self.clock.instant()));
        let mut ahead = None;
        let node = target.map(|target| target.remote.node);
        if let Some(target) = target.cloned() {
            let (daemon, give_way) = (Arc::clone(self), Arc::clone(&step.give_way));
            let prepare = move |_: &Self| Ok(daemon.ahead(id, &target, Some(give_way)));
            ahead = Some(self.blocking("ahead", prepare).await?);
        }
        let (daemon, root) = (Arc::clone(self), root.to_owned());
        let work = move || {
            daemon.workspaces.check_place(id, &root)?;
            let beside = ahead.as_mut().map(|ahead| ahead as &mut dyn Beside);
            let receiver = node.map(|node| daemon.receiver(id, node)).transpose()?;
            let options = TakeOptions { receiver, ..TakeOptions::default() };
            let taken = daemon.workspaces.take_beside(id, &root, &options, &progress, beside)?;
            Ok::<_, Fail>((taken, ahead))
        };
        let sealed = self.tasks.run_low("seal", work).await;
        let (taken, ahead) = sealed.map_err(|error| Fail::new("internal", chain(&error)))??;
        self.see_to_history(&taken).await;
        if taken.is_new {
            tracing::info!(snapshot = %taken.id, workspace = %id, changed = taken.files_changed, "sealed");
        }
        Ok((taken, ahead))
    }

    async fn send_in_background(
        self: &Arc<Self>,
        step: &Arc<Step>,
        target: &Target,
        node: NodeId,
        (taken, ahead): (Taken, Option<Ahead>),
    ) -> Result<Outcome, Fail> {
        let (id, workspace) = (taken.id, taken.workspace);
        let acked =
            self.blocking("acked", move |daemon| Ok(daemon.acks.get(workspace, node)?)).await?;
        if acked != Some(id) {
            let begun = self.clock.instant();
            step.set(Doing::Sending(None, begun));
            let (events, mut told) = EventSender::channel();
            let watcher = Arc::clone(step);
            let follow = async move {
                while let Some(event) = told.recv().await {
                    if let crate::api::control::Event::Progress(progress) = event {
                        watcher.set(Doing::Sending(Some(progress), begun));
                    }
                }
            };
            let pushed = async move {
                if let Some(ahead) = ahead {
                    self.inhibitor.during(ahead.end(&events)).await;
                }
                // Its end is that of what follows it.
                let what = (id, taken.snapshot);
                self.push_snapshot(target, what, &step.give_way, &events).await
            };
            let (pushed, ()) = tokio::join!(pushed, follow);
            match pushed {
                Ok(_) => self.queue.nudge(node),
                Err(fail) if fail.0.code == "cancelled" => return Ok(Outcome::GaveWay),
                Err(fail) => {
                    if is_away(&fail) {
                        self.queue.note_away(node, self.clock.since(begun));
                    }
                    return Err(fail);
                }
            }
        }
        let thinned = self.blocking("thin", move |daemon| {
            let retention = Retention::from(&daemon.config.sync);
            let now = daemon.clock.now_ms();
            let Workspaces { vault, device, .. } = &daemon.workspaces;
            let of = (workspace, *device);
            let (_, thinned) = thin_out(&daemon.catalog, vault, of, now, &retention, false)?;
            for ids in thinned.chunks(MAX_FORGET) {
                daemon.note_untold(node, &Forget::Thinned(ids.to_vec()))?;
            }
            daemon.grown.notify_one();
            Ok(!thinned.is_empty())
        });
        if thinned.await? {
            self.tell_forgotten(target);
        }
        Ok(Outcome::InStep)
    }

    /// Tells a command that waits for the background how far that is.
    pub(super) async fn while_telling<T>(
        &self,
        workspace: WorkspaceId,
        events: &EventSender,
        work: impl Future<Output = T>,
    ) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(PROGRESS) => {
                    let step = self.background.step(workspace);
                    match step.map(|step| step.report().0) {
                        Some(Doing::Sealing(progress, _)) => events.progress(Progress {
                            stage: "scan".to_owned(),
                            done: progress.files(),
                            total: progress.total(),
                            bytes: progress.bytes(),
                        }),
                        Some(Doing::Sending(Some(progress), _)) => events.progress(progress),
                        _ => {}
                    }
                }
            }
        }
    }
}

impl From<PlaceError> for Fail {
    fn from(error: PlaceError) -> Self {
        match error {
            PlaceError::Store(error) => error.into(),
            gone => Self::new("workspace-gone", gone.to_string())
                .hint("put the folder back, or baton unwatch it"),
        }
    }
}

/// Resolves when the workspace has changed.
async fn changes_of(changed: &mut tokio::sync::broadcast::Receiver<WorkspaceId>, id: WorkspaceId) {
    use tokio::sync::broadcast::error::RecvError;
    loop {
        match changed.recv().await {
            Ok(other) if other != id => {}
            // Of those that were missed one may have been ours.
            Ok(_) | Err(RecvError::Lagged(_)) => return,
            Err(RecvError::Closed) => return std::future::pending().await,
        }
    }
}

/// Resolves when what failed may be tried again.
async fn retry(failed: Option<(Duration, bool)>) {
    match failed {
        None => std::future::pending().await,
        Some((pause, false)) => tokio::time::sleep(pause).await,
        Some((pause, true)) => tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = network::changed() => {}
        },
    }
}

fn watch_answer(workspace: &Workspace) -> WatchAnswer {
    WatchAnswer {
        workspace: workspace.id.to_string(),
        root: String::from_utf8_lossy(&workspace.root).into_owned(),
    }
}

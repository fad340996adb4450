//! The rest of histories that were cut: packed and sent in the background, of every workspace that needs it, watched or
//! not.
//!
//! Not here: what a rest is (the store), and where it is kept (the workspace).
//!
//! 1. The rest is packed, durable here, and sent to each node that has the workspace. A person's command does not
//!    wait for that: it goes out with history cut as before, and this gives way to it.
//! 2. Once they have it, a snapshot with all history takes the place of the latest one: it names what they have.
//! 3. The next one has every ref again.
//!
//! After a restart it begins where it was: at what the latest snapshot lacks, with what the nodes have.
//!
//! **Invariant:** the workspace has no snapshot with the rest before the nodes have the rest.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::{SnapshotId, WorkspaceId};
use baton_protocol::message::{Reply, Request};
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::PushOutcome;
use baton_store::catalog::workspaces::Workspace;
use baton_store::scan;

use super::Daemon;
use super::failure::{Fail, chain};
use super::outbox::is_away;
use super::remotes::Target;
use crate::api::socket::EventSender;
use crate::queue::network;
use crate::workspace::{Rest, TakeOptions, Taken};

/// After a failure it is tried again after this time, then twice as long each time, up to the second.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);

/// Heads that a node may have of a rest in one push: there is one writer.
const MAX_HEADS: usize = 3;

/// Rests on their way, by workspace, each with what stops its sending for a while.
#[derive(Debug, Default)]
pub(super) struct Histories(Mutex<HashMap<WorkspaceId, Arc<AtomicBool>>>);

/// What became of one try.
enum Outcome {
    Whole,
    /// Somebody else goes first.
    GaveWay,
    /// It is to be looked at again: something changed meanwhile.
    Again,
}

impl Histories {
    fn lock(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Arc<AtomicBool>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether history of a workspace is on its way.
    pub(super) fn follows(&self, id: WorkspaceId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Whether nobody sees to that workspace yet; from here on somebody does.
    fn begin(&self, id: WorkspaceId, flag: &Arc<AtomicBool>) -> bool {
        let mut all = self.lock();
        let is_new = !all.contains_key(&id);
        all.entry(id).or_insert_with(|| Arc::clone(flag));
        is_new
    }

    /// Something is to be sent for a person.
    pub(super) fn give_way(&self) {
        for flag in self.lock().values() {
            flag.store(true, Ordering::SeqCst);
        }
    }
}

impl Daemon {
    /// Goes on with every rest that was on its way.
    pub(super) async fn start_histories(self: &Arc<Self>) -> Result<(), Fail> {
        let cut = self.blocking("history", |daemon| {
            let own = daemon.identity.node();
            let nodes: Vec<_> = daemon.catalog.remotes()?.iter().map(|it| it.node).collect();
            let mut cut = Vec::new();
            for workspace in daemon.catalog.workspaces()? {
                let mut follows = daemon.has_cut(workspace.id);
                // What is whole here may not have come there; or what came there was forgotten here.
                let was_cut = daemon.workspaces.has_rest(workspace.id);
                for node in nodes.iter().chain([&own]).filter(|_| was_cut) {
                    follows |= match daemon.acks.get(workspace.id, *node)? {
                        Some(acked) => daemon.workspaces.is_cut_there(acked),
                        None => *node != own,
                    };
                }
                if follows {
                    cut.push(workspace);
                }
            }
            Ok(cut)
        });
        for workspace in cut.await? {
            self.follow_up_history(&workspace);
        }
        Ok(())
    }

    /// Sees to it that the history of a workspace becomes whole, where this snapshot of it is cut.
    pub(super) async fn see_to_history(self: &Arc<Self>, taken: &Taken) {
        if !taken.is_cut {
            return;
        }
        let id = taken.workspace;
        let cut = self.blocking("history", move |daemon| {
            let all = daemon.catalog.workspaces()?;
            Ok(all.into_iter().find(|it| it.id == id && daemon.has_cut(id)))
        });
        match cut.await {
            Ok(Some(workspace)) => self.follow_up_history(&workspace),
            Ok(None) => {}
            Err(fail) => tracing::warn!(reason = fail.0.message, "whether history is cut"),
        }
    }

    /// Whether history of a workspace is still to come.
    pub(super) fn follows(&self, id: WorkspaceId) -> bool {
        self.histories.follows(id) || self.has_cut(id)
    }

    fn has_cut(&self, id: WorkspaceId) -> bool {
        self.workspaces.is_cut(id).unwrap_or_else(|error| {
            // A damaged one is replaced by the next.
            tracing::warn!(%error, workspace = %id, "whether history is cut is not known");
            false
        })
    }

    fn follow_up_history(self: &Arc<Self>, workspace: &Workspace) {
        let id = workspace.id;
        let flag = Arc::<AtomicBool>::default();
        if self.histories.begin(id, &flag) {
            let daemon = Arc::clone(self);
            let root = PathBuf::from(std::ffi::OsStr::from_bytes(&workspace.root));
            let work = async move {
                daemon.make_whole(id, root, &flag).await;
                daemon.histories.lock().remove(&id);
            };
            self.tasks.spawn("history", work).detach();
        }
    }

    async fn make_whole(
        self: &Arc<Self>,
        id: WorkspaceId,
        root: PathBuf,
        give_way: &Arc<AtomicBool>,
    ) {
        let mut pause = PAUSE;
        loop {
            self.wait_until_nothing_is_urgent().await;
            if self.tasks.is_cancelled() {
                return;
            }
            give_way.store(false, Ordering::SeqCst);
            let waits = match self.try_to_make_whole(id, &root, give_way).await {
                Ok(Outcome::Whole) => {
                    tracing::info!(workspace = %id, "history is whole");
                    return;
                }
                Ok(Outcome::GaveWay) => {
                    pause = PAUSE;
                    continue;
                }
                Ok(Outcome::Again) => pause,
                Err(fail) => {
                    tracing::debug!(
                        reason = fail.0.message,
                        away = is_away(&fail),
                        "history waits"
                    );
                    pause
                }
            };
            pause = (pause * 2).min(MAX_PAUSE);
            tokio::select! {
                () = tokio::time::sleep(waits) => {}
                () = network::changed() => {}
                () = self.tasks.cancelled() => return,
            }
        }
    }

    async fn try_to_make_whole(
        self: &Arc<Self>,
        id: WorkspaceId,
        root: &std::path::Path,
        give_way: &Arc<AtomicBool>,
    ) -> Result<Outcome, Fail> {
        // What is on its way to one of them for the first time comes before it.
        let nodes = self.targets(None).await?;
        for node in &nodes {
            drop(self.queue.order(id, node.remote.node).await);
        }
        let targets = self.having(id, &nodes).await?;
        let (daemon, tree) = (Arc::clone(self), root.to_owned());
        let packing = move || {
            daemon.workspaces.check_place(id, &tree)?;
            Ok::<_, Fail>(daemon.workspaces.rest(id, &tree)?)
        };
        let packed = self.tasks.run_low("history", packing).await;
        let rest = packed.map_err(|error| Fail::new("internal", chain(&error)))??;
        if let Some(rest) = &rest {
            for target in &targets {
                if !self.send_rest(target, rest, give_way).await? {
                    return Ok(Outcome::GaveWay);
                }
            }
        }
        // From here on a command waits, but for little: the nodes have all of it.
        let mut orders = Vec::new();
        for node in &nodes {
            orders.push(self.queue.order(id, node.remote.node).await);
        }
        let have_now = self.having(id, &nodes).await?.len();
        if have_now != targets.len() || self.is_queued(id).await? {
            return Ok(Outcome::Again);
        }
        if let Some(rest) = rest {
            let tree = root.to_owned();
            let deepened = self.blocking("history", move |daemon| {
                Ok(daemon.workspaces.deepen(id, &tree, &rest)?)
            });
            let Some(deepened) = deepened.await? else { return Ok(Outcome::Again) };
            self.push_to_all(&targets, deepened).await?;
        }
        let tree = root.to_owned();
        let take = move |daemon: &Self| {
            let options = TakeOptions { whole_history: true, ..TakeOptions::default() };
            let progress = scan::Progress::default();
            Ok(daemon.workspaces.take_beside(id, &tree, &options, &progress, None)?)
        };
        let taken = self.blocking("snapshot", take).await?;
        self.push_to_all(&targets, (taken.id, taken.snapshot)).await?;
        drop(orders);
        let is_cut =
            self.blocking("history", move |daemon| Ok(daemon.workspaces.is_cut(id)?)).await?;
        Ok(if is_cut { Outcome::Again } else { Outcome::Whole })
    }

    async fn push_to_all(
        self: &Arc<Self>,
        targets: &[Target],
        (id, snapshot): (SnapshotId, Snapshot),
    ) -> Result<(), Fail> {
        for target in targets {
            let (events, _told) = EventSender::channel();
            self.push_snapshot(target, (id, snapshot.clone()), &Arc::default(), &events).await?;
        }
        Ok(())
    }

    /// Makes a node have a rest; false where it gave way.
    async fn send_rest(
        self: &Arc<Self>,
        target: &Target,
        rest: &Rest,
        give_way: &Arc<AtomicBool>,
    ) -> Result<bool, Fail> {
        let mut base = None;
        for _ in 0..MAX_HEADS {
            let (events, _told) = EventSender::channel();
            let pushed = self.push_once(target, base, rest.id, &rest.snapshot, (give_way, &events));
            match pushed.await {
                Ok((PushOutcome::Acked { .. }, stats)) => {
                    tracing::info!(remote = %target.remote.name, bytes = stats.bytes_sent, "history sent");
                    return Ok(true);
                }
                Ok((PushOutcome::HeadMoved { head: Some((head, _)) }, _)) if head == rest.id => {
                    return Ok(true);
                }
                Ok((PushOutcome::HeadMoved { head }, _)) => base = head.map(|(head, _)| head),
                Err(fail) if fail.0.code == "cancelled" => return Ok(false),
                Err(fail) => return Err(fail),
            }
        }
        Err(Fail::new(
            "head-moves",
            "another machine keeps moving this workspace's ref on the node",
        ))
    }

    /// Those of some nodes that have something of a workspace. One that has acknowledged nothing is asked: what it
    /// acknowledged last before a power cut may be forgotten here.
    async fn having(
        self: &Arc<Self>,
        id: WorkspaceId,
        nodes: &[Target],
    ) -> Result<Vec<Target>, Fail> {
        let mut having = Vec::new();
        for target in nodes {
            let (node, device) = (target.remote.node, self.workspaces.device);
            let known =
                self.blocking("acked", move |daemon| Ok(daemon.acks.get(id, node)?)).await?;
            if known.is_none() {
                let reply = self.pool.request(&target.remote, Request::Refs).await?;
                let Reply::Refs(heads) = reply else {
                    let what = "the node answered something else than was asked";
                    return Err(Fail::new("transport", what));
                };
                let head = heads.iter().find(|it| it.workspace == id && it.device == device);
                let Some(head) = head else { continue };
                self.acks.note(id, node, head.snapshot);
            }
            having.push(target.clone());
        }
        Ok(having)
    }

    async fn is_queued(self: &Arc<Self>, id: WorkspaceId) -> Result<bool, Fail> {
        self.blocking("queue", move |daemon| {
            let queue = daemon.catalog.queue()?;
            Ok(daemon.queue_state(&queue, id, true).queued > 0)
        })
        .await
    }
}

//! The rest of histories that were cut: packed and sent in the background, of every workspace that needs it, watched or
//! not.
//!
//! Not here: what a rest is (the store), and where it is kept (the workspace).
//!
//! 1. The rest is packed, durable here, and sent to each node that acknowledged a snapshot with its history cut. A
//!    person's command does not wait for that: it goes out with history cut as before, and this gives way to it.
//! 2. Once one of them has it, the latest snapshot is made whole: the same tree and the same repository, with the
//!    packs of the rest. It goes to those that have the rest; the others are tried on their own.
//!
//! After a restart it begins where it was: at what the latest snapshot lacks, with what the nodes acknowledged. What
//! cannot be done is said in `status`, and tried again with pauses that grow.
//!
//! **Invariant:** nothing is read of a tree for it, and no snapshot taken. What a person did not send is not sent: a node
//! gets the whole form of what it has, or waits for the next push, which then finds the rest there.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::{NodeId, SnapshotId, WorkspaceId};
use baton_protocol::message::{Reply, Request};
use baton_protocol::session::push::PushOutcome;
use baton_store::catalog::queue::EntryState;
use baton_store::snapshot::load_snapshot;
use tokio::sync::Notify;

use super::Daemon;
use super::failure::{Fail, chain};
use super::outbox::is_away;
use super::remotes::Target;
use crate::api::socket::EventSender;
use crate::network;
use crate::workspace::{Rest, Taken};

/// After a failure it is tried again after this time, then twice as long each time, up to the second where a node is
/// away or the folder, and else up to the third: packing costs much. What a node acknowledges ends a pause.
const PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_mins(1);
const MAX_LONG_PAUSE: Duration = Duration::from_hours(1);

/// Why nothing follows where something was changed here that nobody has sent yet.
const BEFORE: &str =
    "what was sent last is cut, and there are later snapshots here; baton push sends all of it";

/// Heads that a node may have of a rest in one push: there is one writer.
const MAX_HEADS: usize = 3;

/// Rests on their way, by workspace.
#[derive(Debug, Default)]
pub(super) struct Histories(Mutex<HashMap<WorkspaceId, Following>>);

#[derive(Debug)]
struct Following {
    /// Stops its sending for a while.
    give_way: Arc<AtomicBool>,
    /// Ends its pause.
    wake: Arc<Notify>,
    /// Something came meanwhile: a snapshot that is cut, or a node that has one. Nobody is forgotten who came between a
    /// look and what was done after it.
    again: bool,
    /// Why it does not go on.
    why: Option<String>,
}

/// Lets somebody else see to a workspace where one who did has panicked.
struct Ends(Arc<Daemon>, WorkspaceId);

impl Drop for Ends {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.histories.lock().remove(&self.1);
        }
    }
}

/// What became of one try.
enum Outcome {
    Whole,
    /// Somebody else goes first.
    GaveWay,
    /// It is to be looked at again: something changed meanwhile.
    Again,
}

impl Histories {
    fn lock(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Following>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether history of a workspace is on its way.
    pub(super) fn follows(&self, id: WorkspaceId) -> bool {
        self.lock().contains_key(&id)
    }

    /// Why history of a workspace does not go on now.
    pub(super) fn why(&self, id: WorkspaceId) -> Option<String> {
        self.lock().get(&id)?.why.clone()
    }

    fn set_why(&self, id: WorkspaceId, why: Option<String>) {
        if let Some(following) = self.lock().get_mut(&id) {
            following.why = why;
        }
    }

    /// From here on somebody sees to that workspace; nothing where somebody does already.
    fn begin(&self, id: WorkspaceId) -> Option<(Arc<AtomicBool>, Arc<Notify>)> {
        let mut all = self.lock();
        match all.entry(id) {
            Entry::Occupied(mut following) => {
                following.get_mut().again = true;
                None
            }
            Entry::Vacant(free) => {
                let (flag, wake) = (Arc::<AtomicBool>::default(), Arc::<Notify>::default());
                let (give_way, ends) = (Arc::clone(&flag), Arc::clone(&wake));
                free.insert(Following { give_way, wake: ends, again: false, why: None });
                Some((flag, wake))
            }
        }
    }

    /// Whether nothing came meanwhile; then nobody sees to that workspace any more.
    fn end(&self, id: WorkspaceId) -> bool {
        let mut all = self.lock();
        let again = all.get_mut(&id).is_some_and(|it| std::mem::take(&mut it.again));
        if !again {
            all.remove(&id);
        }
        !again
    }

    /// A node has something of a workspace that it did not have.
    pub(super) fn wake(&self, id: WorkspaceId) {
        if let Some(following) = self.lock().get_mut(&id) {
            following.again = true;
            following.wake.notify_one();
        }
    }

    /// Something is to be sent for a person.
    pub(super) fn give_way(&self) {
        for following in self.lock().values() {
            following.give_way.store(true, Ordering::SeqCst);
        }
    }
}

impl Daemon {
    /// Goes on with every rest that was on its way.
    pub(super) async fn start_histories(self: &Arc<Self>) -> Result<(), Fail> {
        let cut = self.blocking("history", |daemon| {
            let remotes: Vec<_> = daemon.catalog.remotes()?.iter().map(|it| it.node).collect();
            let nodes = || remotes.iter().copied().chain([daemon.identity.node()]);
            let mut cut = Vec::new();
            for workspace in daemon.catalog.workspaces()? {
                let mut follows = daemon.has_cut(workspace.id);
                // What is whole here may not have come there.
                for node in nodes().filter(|_| daemon.workspaces.has_rest(workspace.id)) {
                    follows |= daemon.has_cut_there(workspace.id, node)?;
                }
                if follows {
                    cut.push(workspace.id);
                }
            }
            Ok(cut)
        });
        for id in cut.await? {
            self.follow_up_history(id);
        }
        Ok(())
    }

    /// Sees to it that the history of a workspace becomes whole, where this snapshot of it is cut.
    pub(super) async fn see_to_history(self: &Arc<Self>, taken: &Taken) {
        if !taken.is_cut {
            return;
        }
        let id = taken.workspace;
        match self.blocking("history", move |daemon| Ok(daemon.has_cut(id))).await {
            Ok(true) => self.follow_up_history(id),
            Ok(false) => {}
            Err(fail) => tracing::warn!(reason = fail.0.message, "whether history is cut"),
        }
    }

    /// Whether history of a workspace is still to come, here or on a node; and why it does not go on now.
    pub(super) fn history(&self, id: WorkspaceId) -> (bool, Option<String>) {
        if self.histories.follows(id) {
            return (true, self.histories.why(id));
        }
        if self.has_cut(id) {
            return (true, None);
        }
        let nodes = || self.catalog.remotes().unwrap_or_default();
        let is_cut = |node| self.has_cut_there(id, node).unwrap_or(false);
        let is_there = self.workspaces.has_rest(id) && nodes().iter().any(|it| is_cut(it.node));
        (is_there, is_there.then(|| BEFORE.to_owned()))
    }

    fn has_cut(&self, id: WorkspaceId) -> bool {
        self.workspaces.is_cut(id).unwrap_or_else(|error| {
            // A damaged one is replaced by the next.
            tracing::warn!(%error, workspace = %id, "whether history is cut is not known");
            false
        })
    }

    /// Whether what a node acknowledged of a workspace has its history cut.
    fn has_cut_there(&self, id: WorkspaceId, node: NodeId) -> Result<bool, Fail> {
        Ok(self.acks.get(id, node)?.is_some_and(|acked| self.workspaces.is_cut_there(acked)))
    }

    fn follow_up_history(self: &Arc<Self>, id: WorkspaceId) {
        if let Some((flag, wake)) = self.histories.begin(id) {
            let daemon = Arc::clone(self);
            let work = async move {
                let _ends = Ends(Arc::clone(&daemon), id);
                loop {
                    daemon.make_whole(id, &flag, &wake).await;
                    if daemon.tasks.is_cancelled() || daemon.histories.end(id) {
                        return;
                    }
                }
            };
            self.tasks.spawn("history", work).detach();
        }
    }

    async fn make_whole(
        self: &Arc<Self>,
        id: WorkspaceId,
        give_way: &Arc<AtomicBool>,
        wake: &Notify,
    ) {
        let mut pause = PAUSE;
        if let Err(fail) = self.recall(id).await {
            tracing::info!(workspace = %id, reason = fail.0.message, "what the nodes have");
        }
        loop {
            // Before the wait: who comes after it is seen.
            give_way.store(false, Ordering::SeqCst);
            self.wait_until_nothing_is_urgent().await;
            if self.tasks.is_cancelled() {
                return;
            }
            let (why, most) = match self.try_to_make_whole(id, give_way).await {
                Ok(Outcome::Whole) => {
                    tracing::info!(workspace = %id, "history is whole");
                    return;
                }
                Ok(Outcome::GaveWay) => {
                    pause = PAUSE;
                    continue;
                }
                Ok(Outcome::Again) => (None, MAX_PAUSE),
                Err(fail) => {
                    let is_cheap = is_away(&fail) || fail.0.code == "workspace-gone";
                    let most = if is_cheap { MAX_PAUSE } else { MAX_LONG_PAUSE };
                    tracing::info!(workspace = %id, reason = fail.0.message, "history waits");
                    let why = match fail.0.hint {
                        Some(hint) => format!("{}; {hint}", fail.0.message),
                        None => fail.0.message,
                    };
                    (Some(why), most)
                }
            };
            self.histories.set_why(id, why);
            let waits = pause.min(most);
            pause = (waits * 2).min(most);
            tokio::select! {
                () = tokio::time::sleep(waits) => {}
                () = network::changed() => {}
                () = wake.notified() => pause = PAUSE,
                () = self.tasks.cancelled() => return,
            }
        }
    }

    async fn try_to_make_whole(
        self: &Arc<Self>,
        id: WorkspaceId,
        give_way: &Arc<AtomicBool>,
    ) -> Result<Outcome, Fail> {
        // What is on its way to one of them for the first time comes before it.
        let nodes = self.targets(None).await?;
        for node in &nodes {
            drop(self.queue.order(id, node.remote.node).await);
        }
        let targets = self.cut_there(id, &nodes).await?;
        let daemon = Arc::clone(self);
        let packing = move || {
            let root = daemon.workspaces.own_place(id)?;
            // What nobody sent goes nowhere: what follows is what the first of them lacks.
            let of = match targets.first() {
                Some((_, acked)) => load_snapshot(&daemon.workspaces.vault, *acked)?,
                None => match daemon.workspaces.latest(id)? {
                    Some((_, latest)) => latest,
                    None => return Ok((root, None, Vec::new())),
                },
            };
            let rest = daemon.workspaces.rest(id, &root, &of)?;
            let mut same = Vec::new();
            for (target, acked) in targets {
                let acked = load_snapshot(&daemon.workspaces.vault, acked)?;
                if let Some(rest) = &rest
                    && daemon.workspaces.is_rest_of(rest, &acked)?
                {
                    same.push(target);
                }
            }
            Ok::<_, Fail>((root, rest, same))
        };
        let packed = self.tasks.run_low("history", packing).await;
        let (root, rest, targets) =
            packed.map_err(|error| Fail::new("internal", chain(&error)))??;
        let (mut ready, mut failed) = (Vec::new(), None);
        for target in targets {
            let sent = match &rest {
                Some(rest) => self.send_rest(&target, rest.clone(), give_way).await,
                None => Ok(true),
            };
            match sent {
                Ok(true) => ready.push(target),
                Ok(false) => return Ok(Outcome::GaveWay),
                // The others do not wait for one that is away.
                Err(fail) => failed = Some(fail),
            }
        }
        if let Some(fail) = failed.take_if(|_| ready.is_empty()) {
            return Err(fail);
        }
        // From here on a command waits, but for little: they have all of it.
        let mut orders = Vec::new();
        for target in &ready {
            orders.push(self.queue.order(id, target.remote.node).await);
        }
        let waiting = self.waiting_for(id).await?;
        let waits = |target: &Target| waiting.contains(&target.remote.node);
        if ready.is_empty() && !waiting.is_empty() || ready.iter().any(waits) {
            return Ok(Outcome::Again);
        }
        let whole = self.blocking("history", move |daemon| {
            let workspaces = &daemon.workspaces;
            let Some((head, snapshot)) = workspaces.deepen(id, &root, rest.as_ref())? else {
                return Ok(None);
            };
            // What is newer than what they have goes there when somebody sends it.
            let mut same = Vec::new();
            for target in ready {
                if let Some(acked) = daemon.acks.get(id, target.remote.node)?
                    && workspaces.is_made_whole((acked, &snapshot), rest.as_ref())?
                {
                    same.push(target);
                }
            }
            Ok(Some((head, snapshot, same, workspaces.is_cut(id)?)))
        });
        let Some((head, snapshot, same, is_cut)) = whole.await? else {
            return Ok(Outcome::Whole);
        };
        for target in &same {
            let (events, _told) = EventSender::channel();
            let pushed = self.push_snapshot(target, (head, snapshot.clone()), give_way, &events);
            match pushed.await {
                Ok(_) => {}
                Err(fail) if fail.0.code == "cancelled" => return Ok(Outcome::GaveWay),
                Err(fail) => failed = Some(fail),
            }
        }
        drop(orders);
        match failed {
            Some(fail) => Err(fail),
            // A repository inside has gone, or something was left out since.
            None if is_cut => Err(Fail::new(
                "history",
                "the latest snapshot has its history cut elsewhere than what was sent",
            )
            .hint("baton push sends it")),
            None if !waiting.is_empty() => Ok(Outcome::Again),
            None => Ok(Outcome::Whole),
        }
    }

    /// Makes a node have a rest; false where it gave way.
    async fn send_rest(
        self: &Arc<Self>,
        target: &Target,
        mut rest: Rest,
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
                Ok((PushOutcome::HeadMoved { head: Some((head, sequence)) }, _)) => {
                    // A ref never goes back: this home may have been put back to an older state.
                    if sequence >= rest.snapshot.sequence {
                        let own = (rest.id, rest.snapshot);
                        (rest.id, rest.snapshot) = self.adopt(own, (head, sequence)).await?;
                    }
                    base = Some(head);
                }
                Ok((PushOutcome::HeadMoved { head: None }, _)) => base = None,
                Err(fail) if fail.0.code == "cancelled" => return Ok(false),
                Err(fail) => return Err(fail),
            }
        }
        Err(Fail::new(
            "head-moves",
            "another machine keeps moving this workspace's ref on the node",
        ))
    }

    /// Those of some nodes that acknowledged a snapshot of a workspace with its history cut, and that one.
    async fn cut_there(
        self: &Arc<Self>,
        id: WorkspaceId,
        nodes: &[Target],
    ) -> Result<Vec<(Target, SnapshotId)>, Fail> {
        let nodes = nodes.to_vec();
        self.blocking("acked", move |daemon| {
            let mut cut = Vec::new();
            for target in nodes {
                if let Some(acked) = daemon.acks.get(id, target.remote.node)?
                    && daemon.workspaces.is_cut_there(acked)
                {
                    cut.push((target, acked));
                }
            }
            Ok(cut)
        })
        .await
    }

    /// Asks nodes of which no acknowledgement is known whether they have something of ours: what one acknowledged right
    /// before a power cut may be forgotten here. Who is away is not waited for.
    async fn recall(self: &Arc<Self>, id: WorkspaceId) -> Result<(), Fail> {
        for target in self.targets(None).await? {
            let (node, device) = (target.remote.node, self.workspaces.device);
            let known =
                self.blocking("acked", move |daemon| Ok(daemon.acks.get(id, node)?)).await?;
            if known.is_some() {
                continue;
            }
            let said = self.pool.request(&target.remote, Request::Refs).await;
            let Ok(Reply::Refs(heads)) = said else { continue };
            let head = heads.iter().find(|it| it.workspace == id && it.device == device);
            let Some(head) = head.map(|it| it.snapshot) else { continue };
            let latest =
                self.blocking("history", move |daemon| Ok(daemon.workspaces.latest(id)?)).await?;
            // Of what is not in our own history only a push knows what to make.
            if let Some((own, latest)) = latest
                && (own == head || self.continues(&latest, head).await?)
            {
                self.acks.note(id, node, head);
            }
        }
        Ok(())
    }

    /// The nodes for which something of a workspace waits.
    async fn waiting_for(self: &Arc<Self>, id: WorkspaceId) -> Result<Vec<NodeId>, Fail> {
        self.blocking("queue", move |daemon| {
            let queue = daemon.catalog.queue()?.into_iter();
            let waits = queue
                .filter(|it| it.wanted.workspace == id && it.state == EntryState::Waiting)
                .map(|it| it.wanted.node);
            Ok(waits.collect())
        })
        .await
    }
}

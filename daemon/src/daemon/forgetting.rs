//! Forgetting: what somebody wants to be gone, here and on every node that may have it.
//!
//! A snapshot that is forgotten is in no history any more, and no root; its bytes are gone after the next collection of each store, which
//! rewrites every segment that has any of them. A node that cannot be reached is told with the next push to it.
//!
//! **Invariant:** nothing is forgotten here that a node refuses to forget.

use std::sync::Arc;

use baton_protocol::id::{NodeId, SnapshotId, WorkspaceId};
use baton_protocol::message::{Forget, Reply, Request};
use baton_store::catalog::queue::EntryState;
use baton_store::snapshot::load_snapshot;

use super::Daemon;
use super::failure::{Fail, chain};
use super::outbox::is_away;
use super::remotes::{Target, only};
use crate::api::control::{Answer, ForgetAnswer, ForgetCall};
use crate::api::socket::EventSender;
use crate::thinning::plan::Retention;
use crate::thinning::thin_out;
use crate::workspace::rest_id;

impl Daemon {
    pub(super) async fn forget(
        self: &Arc<Self>,
        call: ForgetCall,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let _room = self.store.room_to_delete();
        let answer = match call {
            ForgetCall::Snapshot(digits) => self.forget_snapshot(digits).await?,
            ForgetCall::Run(digits) => self.forget_run(&digits, events).await?,
            ForgetCall::Workspace(digits) => {
                let list = move |daemon: &Self| Ok(daemon.catalog.workspaces()?);
                let all = self.blocking("workspaces", list).await?;
                let fits = |id: &WorkspaceId| id.to_string().starts_with(&digits);
                let found: Vec<_> = all.iter().map(|found| found.id).filter(fits).collect();
                let id = only(&found, "workspace", &digits, "baton status")?;
                self.forget_workspace(id).await?
            }
            ForgetCall::Folder(path) => {
                let root = super::report::to_path(path);
                let found = self
                    .blocking("workspace", move |daemon| {
                        let none = || {
                            let what = format!("nothing is kept of {}", root.display());
                            Fail::new("not-found", what).hint("baton status")
                        };
                        daemon.workspaces.find(&root)?.ok_or_else(none)
                    })
                    .await?;
                self.forget_workspace(found.id).await?
            }
        };
        if answer.queued.is_empty() {
            events
                .note("their bytes are gone after `baton gc`, here and on each node".to_owned())
                .await;
        } else {
            let remotes = answer.queued.join(", ");
            let what = format!(
                "not told yet, because away or of an older version: {remotes}; the next push there tells it"
            );
            events.note(what).await;
        }
        Ok(Answer::Forget(answer))
    }

    async fn forget_snapshot(self: &Arc<Self>, digits: String) -> Result<ForgetAnswer, Fail> {
        let id = self
            .blocking("find", move |daemon| {
                let found = daemon.workspaces.vault.find_snapshots(&digits)?;
                let whole = digits.parse::<SnapshotId>().ok().filter(|_| found.is_empty());
                match whole {
                    Some(id) => Ok(id),
                    None => only(&found, "snapshot", &digits, "baton log"),
                }
            })
            .await?;
        self.blocking("forget", move |daemon| daemon.may_forget(id)).await?;
        let queued = self.tell_all(&Forget::Snapshots(vec![id])).await?;
        self.blocking("forget", move |daemon| daemon.forget_here(id)).await?;
        Ok(ForgetAnswer { forgotten: vec![id.to_string()], queued })
    }

    /// Refuses where something here needs a snapshot.
    fn may_forget(&self, id: SnapshotId) -> Result<(), Fail> {
        let short = id.short();
        let needed = |what: String, hint: String| Err(Fail::new("needed", what).hint(hint).exit(4));
        if self.workspaces.vault.heads().iter().any(|head| head.snapshot == id) {
            let what = format!("snapshot {short} is the latest one of its workspace");
            let hint = "change what is in the tree, baton push it, and forget this one then";
            return needed(what, hint.to_owned());
        }
        if self.catalog.queued_snapshots()?.contains(&id) {
            let what = format!("snapshot {short} waits in the queue");
            return needed(what, "baton queue, baton queue cancel ID".to_owned());
        }
        let runs = self.catalog.remembered_runs()?;
        let about =
            runs.iter().find(|(_, run, _)| run.spec.snapshot == id || run.result == Some(id));
        if let Some((_, run, _)) = about {
            let run = run.spec.run.short();
            let what = format!("run {run} is about snapshot {short}");
            return needed(what, format!("baton forget --run {run}"));
        }
        let applies = self.applies().list();
        let applies = applies.map_err(|error| Fail::new("applies", chain(&error)))?;
        let undone =
            |record: &baton_store::apply::Record| record.safety == id || record.there == id;
        if applies.iter().any(|known| undone(&known.record)) {
            let what = format!("`baton undo` may still need snapshot {short}, for a week at most");
            return needed(what, "baton undo, or wait for that".to_owned());
        }
        Ok(())
    }

    fn forget_here(&self, id: SnapshotId) -> Result<(), Fail> {
        let vault = &self.workspaces.vault;
        vault.purge_next()?;
        let Ok(snapshot) = load_snapshot(vault, id) else {
            return Ok(self.catalog.drop_from_histories(id)?);
        };
        // All that came before it is in the history by itself, and not for having come before it.
        let (of, now) = ((snapshot.workspace, self.workspaces.device), self.clock.now_ms());
        let retention = Retention::from(&self.config.sync);
        thin_out(&self.catalog, vault, of, now, &retention, true)?;
        self.catalog.forget_snapshot(vault.id(), id, &snapshot.parents)?;
        Ok(self.catalog.drop_from_histories(id)?)
    }

    async fn forget_run(
        self: &Arc<Self>,
        digits: &str,
        events: &EventSender,
    ) -> Result<ForgetAnswer, Fail> {
        let (target, info) = self.find_run(digits, events).await?;
        let run = info.spec.run;
        self.run_delete(&run.to_string(), events).await?;
        self.tell(&target, &Forget::Run(run)).await?;
        self.blocking("forget", move |daemon| Ok(daemon.workspaces.vault.purge_next()?)).await?;
        Ok(ForgetAnswer { forgotten: vec![run.to_string()], queued: Vec::new() })
    }

    async fn forget_workspace(self: &Arc<Self>, id: WorkspaceId) -> Result<ForgetAnswer, Fail> {
        self.blocking("forget", move |daemon| {
            let watched = daemon.catalog.watched()?;
            if watched.iter().any(|(workspace, _)| workspace.id == id) {
                let what = format!("workspace {id} is watched");
                return Err(Fail::new("watched", what).hint("baton unwatch PATH").exit(4));
            }
            let waits = |entry: &baton_store::catalog::queue::Entry| {
                entry.wanted.workspace == id && entry.state == EntryState::Waiting
            };
            if daemon.catalog.queue()?.iter().any(waits) {
                let what = format!("something of workspace {id} waits in the queue");
                return Err(Fail::new("needed", what).hint("baton queue cancel ID").exit(4));
            }
            Ok(())
        })
        .await?;
        let ids = vec![id, rest_id(id)];
        let queued = self.tell_all(&Forget::Workspaces(ids.clone())).await?;
        self.blocking("forget", move |daemon| {
            let vault = &daemon.workspaces.vault;
            vault.purge_next()?;
            daemon.workspaces.let_go(id);
            daemon.catalog.remove_workspace(id)?;
            daemon.acks.forget(id);
            daemon.store.remove_refs(vault.id(), |head| ids.contains(&head.workspace))?;
            Ok(())
        })
        .await?;
        Ok(ForgetAnswer { forgotten: vec![id.to_string()], queued })
    }

    /// Tells every node; returns those that cannot be reached or do not know of it yet, and are told later.
    async fn tell_all(self: &Arc<Self>, what: &Forget) -> Result<Vec<String>, Fail> {
        let mut away = Vec::new();
        for target in self.targets(None).await? {
            match self.tell(&target, what).await {
                Ok(()) => {}
                // An older node is told once it is a newer one.
                Err(fail) if is_away(&fail) || fail.0.code == "node-version" => {
                    away.push(target.remote);
                }
                Err(fail) => return Err(fail),
            }
        }
        let (what, nodes) = (what.clone(), away.clone());
        self.blocking("forget", move |daemon| {
            nodes.iter().try_for_each(|remote| daemon.note_untold(remote.node, &what))
        })
        .await?;
        Ok(away.into_iter().map(|remote| remote.name).collect())
    }

    async fn tell(&self, target: &Target, what: &Forget) -> Result<(), Fail> {
        match self.pool.request(&target.remote, Request::Forget(what.clone())).await {
            Ok(Reply::Forgotten) => Ok(()),
            Ok(_) => Err(Fail::new("transport", "the node answered something else than was asked")),
            Err(error) => Err(error.into()),
        }
    }

    /// Notes what a node has to hear.
    pub(super) fn note_untold(&self, node: NodeId, what: &Forget) -> Result<(), Fail> {
        let message = serde_json::to_vec(what)
            .map_err(|error| Fail::new("internal", format!("noting what to forget: {error}")))?;
        Ok(self.catalog.add_untold(node, &message)?)
    }

    /// Tells a node what it has not heard yet, beside whatever is done.
    pub(super) fn tell_forgotten(self: &Arc<Self>, target: &Target) {
        let (daemon, target) = (Arc::clone(self), target.clone());
        let work = async move {
            if let Err(Fail(failure)) = daemon.tell_untold_forgotten(&target).await {
                tracing::debug!(reason = failure.message, "a node was not told what to forget");
            }
        };
        self.tasks.spawn("forgetting", work).detach();
    }

    async fn tell_untold_forgotten(self: &Arc<Self>, target: &Target) -> Result<(), Fail> {
        let node = target.remote.node;
        let untold =
            self.blocking("untold", move |daemon| Ok(daemon.catalog.untold(node)?)).await?;
        for (number, message) in untold {
            if let Ok(what) = serde_json::from_slice::<Forget>(&message) {
                match self.tell(target, &what).await {
                    Ok(()) => {}
                    // The same will be so the next time; what is needed there goes with what needs it.
                    Err(fail) if fail.0.code == "conflict" => {
                        tracing::warn!(reason = fail.0.message, "a node keeps what was forgotten");
                    }
                    Err(fail) => return Err(fail),
                }
            }
            self.blocking("told", move |daemon| Ok(daemon.catalog.is_told(number)?)).await?;
        }
        Ok(())
    }
}

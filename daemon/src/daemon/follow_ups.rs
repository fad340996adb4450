//! Going on with a run where it ended; and what runs changed.
//!
//! On the node that has it nothing of a tree travels for it: the node has what the run left. What another one lacks of that,
//! and what is attached, goes there from here.

use std::sync::Arc;

use baton_protocol::id::{QueueId, RunId, ThreadId};
use baton_protocol::message::{Request, RunInfo, RunSpec, RunState, Terms};
use baton_store::catalog::queue::{Cost, Entry, EntryKind, NewEntry};
use baton_store::diff::diff;
use baton_store::snapshot::load_snapshot;
use tokio::task::JoinSet;

use super::failure::Fail;
use super::handoffs::COMMAND;
use super::outbox::is_away;
use super::parcels::Parcel;
use super::remotes::Target;
use super::report::to_path;
use super::trees::change_entry;
use super::{Daemon, handoffs, patch};
use crate::api::control::{Answer, Bytes, FollowUpAnswer, FollowUpCall, RunChange, RunDiffAnswer};
use crate::api::socket::EventSender;
use crate::workspace::{TakeOptions, random};

const ONE_NEXT: &str = "follow up the newest run of the thread, or add --fork";

impl Daemon {
    pub(super) async fn follow_up(
        self: &Arc<Self>,
        call: FollowUpCall,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, info, next) = self.find_run_and_next(&call.run).await?;
        let parent = &info.spec;
        let short = parent.run.short();
        if !info.state.is_final() {
            let message = format!("run {short} has not ended: it is {}", info.state.name());
            return Err(Fail::new("run-live", message)
                .hint(format!("baton run wait {short}, or baton run cancel {short}"))
                .exit(4));
        }
        // The node looks again, at its own runs.
        if let Some(next) = next.filter(|_| !call.fork) {
            let what = format!("run {short} was followed up by run {next} already");
            return Err(Fail::new("conflict", what).hint(ONE_NEXT).exit(4));
        }
        let mut command: Vec<_> = call.command.into_iter().map(|Bytes(bytes)| bytes).collect();
        let mut agent = parent.agent.clone();
        if command.is_empty() {
            command.clone_from(&parent.command);
        } else {
            COMMAND.clone_into(&mut agent);
        }
        if agent != COMMAND && call.prompt.is_none() {
            return Err(Fail::new("usage", format!("there is nothing for {agent} to do"))
                .hint(format!("baton follow-up {short} -p PROMPT"))
                .exit(2));
        }
        let thread = if call.fork { ThreadId::from_bytes(random()?) } else { parent.thread };
        let spec = RunSpec {
            run: RunId::from_bytes(random()?),
            thread,
            // A run that has left nothing stands where it started.
            snapshot: info.result.unwrap_or(parent.snapshot),
            prompt: call.prompt,
            agent,
            command,
            parent: Some(parent.run),
            terms: terms(call.terms, &parent.terms),
            ..parent.clone()
        };
        let other = match call.remote {
            Some(name) => Some(self.target(Some(name)).await?),
            None => None,
        };
        let other = other.filter(|other| other.remote.node != target.remote.node);
        if other.is_some() || !call.attachments.is_empty() {
            let options = TakeOptions {
                attachments: call.attachments.into_iter().map(to_path).collect(),
                session: spec.run.to_string(),
                ..TakeOptions::default()
            };
            let to = other.unwrap_or_else(|| target.clone());
            let expires_ms = call.expires_ms.unwrap_or(handoffs::EXPIRES_MS);
            return self.carry((&target, to), spec, (options, expires_ms), events).await;
        }
        let asked = self.run_request(&target, Request::CreateRun(spec.clone())).await;
        let started = match asked {
            Ok(started) => started,
            Err(fail) if is_away(&fail) => {
                return self.queue_follow_up(&target, spec, call.expires_ms).await;
            }
            Err(fail) if fail.0.code == "conflict" => {
                return Err(fail.hint(ONE_NEXT));
            }
            Err(fail) => return Err(fail),
        };
        self.remember(&target, &started).await?;
        Ok(follow_up_answer(&target, &started.spec, Some(&started), None))
    }

    /// Brings what a run left to a node, with what is attached to it, and has it followed up there.
    async fn carry(
        self: &Arc<Self>,
        (from, to): (&Target, Target),
        mut spec: RunSpec,
        (options, expires_ms): (TakeOptions, u64),
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let result = spec.snapshot;
        self.fetch_from(from, result, events).await?;
        let order = self.queue.order(spec.workspace, to.remote.node).await;
        let carried =
            self.blocking("carry", move |daemon| Ok(daemon.workspaces.carry(result, &options)?));
        let (id, snapshot) = carried.await?;
        spec.snapshot = id;
        let now = self.clock.now_ms();
        let parcel = Parcel::carried(to.clone(), (id, snapshot), spec.clone(), now, expires_ms)?;
        let sent = self.send(parcel, order, false, events).await?;
        spec.snapshot = sent.id;
        for info in &sent.runs {
            self.remember(&to, info).await?;
        }
        Ok(follow_up_answer(&to, &spec, sent.runs.first(), sent.queue))
    }

    /// Has a follow-up asked for when the node can be reached.
    async fn queue_follow_up(
        self: &Arc<Self>,
        target: &Target,
        spec: RunSpec,
        expires_ms: Option<u64>,
    ) -> Result<Answer, Fail> {
        let now = self.clock.now_ms();
        let wanted = NewEntry {
            id: QueueId::from_bytes(random()?),
            kind: EntryKind::FollowUp,
            workspace: spec.workspace,
            node: target.remote.node,
            remote: target.remote.name.clone(),
            snapshot: spec.snapshot,
            runs: vec![spec.clone()],
            created_at: now,
            expires_at: Some(now.saturating_add(expires_ms.unwrap_or(handoffs::EXPIRES_MS))),
            // The answer may have been lost on its way.
            begun: true,
        };
        let id = wanted.id;
        self.enqueue(wanted).await?;
        self.queue.wake(target.remote.node, self);
        Ok(follow_up_answer(target, &spec, None, Some(id)))
    }

    /// Makes a node have the run of an entry that follows up another one.
    pub(super) async fn deliver_follow_up(
        self: &Arc<Self>,
        target: &Target,
        entry: &Entry,
    ) -> Result<Cost, Fail> {
        let id = entry.wanted.id;
        if !entry.wanted.begun {
            self.blocking("queue", move |daemon| Ok(daemon.catalog.set_begun(id)?)).await?;
        }
        for info in self.start_runs(target, entry.wanted.runs.iter().cloned()).await? {
            self.remember(target, &info).await?;
        }
        Ok(Cost { round_trips: 1, ..Cost::default() })
    }

    /// Makes a node have runs, all of them asked for at once; those that it has already it tells of.
    pub(super) async fn start_runs(
        self: &Arc<Self>,
        target: &Target,
        specs: impl Iterator<Item = RunSpec>,
    ) -> Result<Vec<RunInfo>, Fail> {
        let mut asked = JoinSet::new();
        for (at, spec) in specs.enumerate() {
            let (daemon, target) = (Arc::clone(self), target.clone());
            asked.spawn(async move {
                (at, daemon.run_request(&target, Request::CreateRun(spec)).await)
            });
        }
        let mut runs = Vec::new();
        while let Some(answered) = asked.join_next().await {
            let (at, info) = answered
                .map_err(|_| Fail::new("internal", "the daemon failed; its log has more"))?;
            runs.push((at, info?));
        }
        runs.sort_by_key(|&(at, _)| at);
        Ok(runs.into_iter().map(|(_, info)| info).collect())
    }

    pub(super) async fn run_diff(
        self: &Arc<Self>,
        run: &str,
        other: Option<String>,
        with_patch: bool,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, info) = self.find_run(run, events).await?;
        let (old, new, other) = match other {
            None => {
                (info.spec.snapshot, self.result_of(&target, info.clone(), events).await?, None)
            }
            Some(other) => {
                let (beside, second) = self.find_run(&other, events).await?;
                let first = self.result_of(&target, info.clone(), events).await?;
                let id = second.spec.run.to_string();
                (first, self.result_of(&beside, second, events).await?, Some(id))
            }
        };
        self.fetch_from(&target, old, events).await?;
        let id = info.spec.run.to_string();
        let answer = self.blocking("run-diff", move |daemon| {
            let vault = &daemon.workspaces.vault;
            let (old, new) = (load_snapshot(vault, old)?.root, load_snapshot(vault, new)?.root);
            let found = diff(vault, old, new)?;
            let mut changes = Vec::with_capacity(found.len());
            for change in &found {
                let lines = patch::lines(vault, old, new, change)?;
                changes.push(RunChange {
                    change: change_entry(change),
                    added: lines.map(|(added, _)| added),
                    removed: lines.map(|(_, removed)| removed),
                });
            }
            let patch =
                if with_patch { Some(patch::unified(vault, old, new, &found)?) } else { None };
            Ok(RunDiffAnswer { run: id, other, changes, patch })
        });
        answer.await.map(Answer::RunDiff)
    }

    /// What a run has left, here.
    async fn result_of(
        self: &Arc<Self>,
        target: &Target,
        info: RunInfo,
        events: &EventSender,
    ) -> Result<baton_protocol::id::SnapshotId, Fail> {
        let info = self.up_to_now(target, info, events).await?;
        let short = info.spec.run.short();
        let result = info.result.ok_or_else(|| {
            let message = format!("run {short} has left nothing yet: it is {}", info.state.name());
            Fail::new("no-result", message).hint(format!("baton run wait {short}"))
        })?;
        self.fetch_from(target, result, events).await?;
        Ok(result)
    }
}

/// How a follow-up is to be treated: as it was asked for, and in everything else as what it follows up.
fn terms(asked: Terms, before: &Terms) -> Terms {
    Terms {
        check: asked.check.or_else(|| before.check.clone()),
        timeout_ms: asked.timeout_ms.or(before.timeout_ms),
        input: asked.input.or(before.input),
        model: asked.model.or_else(|| before.model.clone()),
        permissions: asked.permissions.or(before.permissions),
    }
}

fn follow_up_answer(
    target: &Target,
    spec: &RunSpec,
    started: Option<&RunInfo>,
    queue: Option<QueueId>,
) -> Answer {
    Answer::FollowUp(Box::new(FollowUpAnswer {
        run: spec.run.to_string(),
        thread: spec.thread.to_string(),
        state: started.map_or(RunState::Queued, |info| info.state).name().to_owned(),
        parent: spec.parent.map(|parent| parent.to_string()).unwrap_or_default(),
        snapshot: spec.snapshot.to_string(),
        remote: target.remote.name.clone(),
        checkout: started.and_then(|info| info.checkout.clone()),
        queue: queue.map(|id| id.to_string()),
    }))
}

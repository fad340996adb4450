//! Moving work to a node and starting it there, and bringing its result home.

use std::sync::Arc;

use baton_protocol::id::{RunId, ThreadId};
use baton_protocol::message::{Reply, Request, RunInfo, RunSpec};

use super::failure::Fail;
use super::remotes::Target;
use super::trees::to_path;
use super::{Daemon, report};
use crate::api::control::{
    Answer, Bytes, HandoffAnswer, HandoffCall, HandoffRun, PullAnswer, TimingMs,
};
use crate::api::socket::EventSender;
use crate::clock::decimal_ms;
use crate::workspace::{TakeOptions, Taken, random};

/// The agent that runs a command itself.
const COMMAND: &str = "command";

impl Daemon {
    pub(super) async fn handoff(
        self: &Arc<Self>,
        call: HandoffCall,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let started = self.clock.instant();
        if call.command.is_empty() && call.prompt.is_some() {
            return Err(Fail::new("no-agent", "no agent takes a prompt in this version")
                .hint("say what shall run: baton handoff -p PROMPT -- COMMAND")
                .exit(2));
        }
        let target = self.target(call.remote).await?;
        let run = RunId::from_bytes(random()?);
        let thread = ThreadId::from_bytes(random()?);
        let handoff = RunId::from_bytes(random()?).to_string();
        let options = TakeOptions {
            message: None,
            attachments: call.attachments.into_iter().map(to_path).collect(),
            session: handoff.clone(),
        };
        let taken = self.take(to_path(call.path), options, events).await?;
        if call.dry_run {
            let answer = self.handoff_answer(handoff, "dry-run", &target, &taken, taken.id).await?;
            return Ok(Answer::Handoff(Box::new(answer)));
        }
        if target.embedded && !self.options.serving && !call.command.is_empty() {
            events
                .note(
                    "no node is joined: the run is on this machine and stops when it sleeps. \
                     For a real one: `baton serve` there, and `baton join TICKET` here",
                )
                .await;
        }
        let pushed = self.push_taken(&target, &taken, events).await?;
        let mut answer = self.handoff_answer(handoff, "acked", &target, &taken, pushed.id).await?;
        answer.bytes_sent = pushed.stats.bytes_sent;
        answer.objects_sent = pushed.stats.objects_sent;
        answer.round_trips = pushed.stats.round_trips;
        if !call.command.is_empty() {
            let spec = RunSpec {
                run,
                thread,
                workspace: taken.workspace,
                snapshot: pushed.id,
                agent: COMMAND.to_owned(),
                command: call.command.into_iter().map(|Bytes(bytes)| bytes).collect(),
                prompt: call.prompt,
            };
            let info = self.run_request(&target, Request::CreateRun(spec)).await?;
            answer.round_trips += 1;
            answer.receipt.isolated = Some(info.isolated);
            answer.runs.push(HandoffRun {
                run: info.spec.run.to_string(),
                thread: info.spec.thread.to_string(),
                state: info.state.name().to_owned(),
                checkout: info.checkout,
            });
        }
        answer.timing_ms.send = Some(pushed.send_ms);
        answer.timing_ms.total = decimal_ms(self.clock.since(started));
        Ok(Answer::Handoff(Box::new(answer)))
    }

    async fn handoff_answer(
        self: &Arc<Self>,
        handoff: String,
        state: &str,
        target: &Target,
        taken: &Taken,
        id: baton_protocol::id::SnapshotId,
    ) -> Result<HandoffAnswer, Fail> {
        let snapshot = taken.snapshot.clone();
        let receipt = self
            .blocking("receipt", move |daemon| {
                Ok(report::receipt(&daemon.workspaces.vault, id, &snapshot, &[], None)?)
            })
            .await?;
        Ok(HandoffAnswer {
            handoff,
            snapshot: id.to_string(),
            state: state.to_owned(),
            remote: target.remote.name.clone(),
            runs: Vec::new(),
            receipt,
            files: taken.sums.files,
            bytes: taken.sums.bytes,
            bytes_sent: 0,
            objects_sent: 0,
            round_trips: 0,
            timing_ms: TimingMs { ..report::timing(taken) },
        })
    }

    /// Asks a node something about a run.
    pub(super) async fn run_request(
        &self,
        target: &Target,
        request: Request,
    ) -> Result<RunInfo, Fail> {
        match self.pool.request(&target.remote, request).await? {
            Reply::Run(info) => Ok(*info),
            _ => Err(Fail::new("transport", "the node answered something else than was asked")),
        }
    }

    pub(super) async fn pull(
        self: &Arc<Self>,
        run: &str,
        into: Bytes,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, info) = self.find_run(run).await?;
        // A run that has left nothing yet stands where it started.
        let result = info.result.unwrap_or(info.spec.snapshot);
        self.fetch_from(&target, result, events).await?;
        let into = to_path(into);
        let root = into.to_string_lossy().into_owned();
        let (restored, receipt, _) =
            self.write_out(result, into, Some(info.isolated), events).await?;
        Ok(Answer::Pull(Box::new(PullAnswer {
            root,
            snapshot: result.to_string(),
            files: restored.files,
            bytes: restored.bytes,
            applied: Vec::new(),
            merged: Vec::new(),
            conflicts: Vec::new(),
            skipped: report::omitted(&restored.not_carried),
            resume_command: Vec::new(),
            undo: None,
            receipt,
        })))
    }
}

//! Moving work to a node and starting it there, and bringing its result home.

use std::sync::Arc;

use baton_protocol::id::{RunId, ThreadId};
use baton_protocol::message::{RunSpec, RunState};

use super::failure::Fail;
use super::parcels::Parcel;
use super::remotes::Target;
use super::report::to_path;
use super::{Daemon, report};
use crate::api::control::{Answer, Bytes, HandoffAnswer, HandoffCall, HandoffRun, TimingMs};
use crate::api::socket::EventSender;
use crate::clock::decimal_ms;
use crate::workspace::{TakeOptions, Taken, random};

/// The agent that runs a command itself.
const COMMAND: &str = "command";

/// How long after it was asked for a handoff may still start, unless said: whoever comes back after a
/// longer time has other plans.
pub(super) const EXPIRES_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Most runs of one handoff.
const MAX_VARIANTS: u32 = 64;

impl Daemon {
    pub(super) async fn handoff(
        self: &Arc<Self>,
        call: HandoffCall,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let started = self.clock.instant();
        if call.command.is_empty() && !call.prompts.is_empty() {
            return Err(Fail::new("no-agent", "no agent takes a prompt in this version")
                .hint("say what shall run: baton handoff -p PROMPT -- COMMAND")
                .exit(2));
        }
        let target = self.target(call.remote).await?;
        let handoff = RunId::from_bytes(random()?).to_string();
        let root = to_path(call.path);
        let is_for_agent = call.command.is_empty();
        let conversation = self
            .conversation(root.clone(), call.conversation, is_for_agent, call.agents, events)
            .await?;
        let options = TakeOptions {
            attachments: call.attachments.into_iter().map(to_path).collect(),
            session: handoff.clone(),
            conversation,
            ..TakeOptions::default()
        };
        let (workspace, order) = self.order(&root, &target, events).await?;
        if call.dry_run {
            let taken = self.take(root, options, events).await?;
            let answer = self.handoff_answer(handoff, "dry-run", &target, &taken, taken.id).await?;
            return Ok(Answer::Handoff(Box::new(answer)));
        }
        let (taken, ahead) = self.take_for((workspace, &target), root, options, events).await?;
        if target.embedded && !self.options.serving && !call.command.is_empty() {
            events
                .note(
                    "no node is joined: the run is on this machine and stops when it sleeps. \
                     For a real one: `baton serve` there, and `baton join TICKET` here",
                )
                .await;
        }
        let command: Vec<_> = call.command.into_iter().map(|Bytes(bytes)| bytes).collect();
        let mut runs = Vec::new();
        for prompt in attempts(&command, call.variants, &call.prompts)? {
            runs.push(RunSpec {
                run: RunId::from_bytes(random()?),
                thread: ThreadId::from_bytes(random()?),
                workspace: taken.workspace,
                snapshot: taken.id,
                agent: COMMAND.to_owned(),
                command: command.clone(),
                prompt,
                parent: None,
                terms: call.terms.clone(),
            });
        }
        let expires_ms = call.expires_ms.unwrap_or(EXPIRES_MS);
        let now = self.clock.now_ms();
        let parcel = Parcel::handoff(target.clone(), &taken, ahead, runs.clone(), now, expires_ms)?;
        let sent = self.send(parcel, order, false, events).await?;
        let mut answer = self.handoff_answer(handoff, sent.state, &target, &taken, sent.id).await?;
        answer.queue = sent.queue.map(|id| id.to_string());
        answer.bytes_sent = sent.cost.bytes_sent;
        answer.objects_sent = sent.cost.objects_sent;
        answer.round_trips = sent.cost.round_trips;
        answer.receipt.isolated = sent.runs.first().map(|info| info.isolated);
        answer.runs.extend(runs.into_iter().map(|spec| {
            let info = sent.runs.iter().find(|info| info.spec.run == spec.run);
            HandoffRun {
                run: spec.run.to_string(),
                thread: spec.thread.to_string(),
                state: info.map_or(RunState::Queued, |info| info.state).name().to_owned(),
                checkout: info.and_then(|info| info.checkout.clone()),
            }
        }));
        answer.timing_ms.send = sent.send_ms;
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
            queue: None,
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
}

/// What each run of a handoff is asked: as many as there are variants of one prompt, or one for each of several.
fn attempts(
    command: &[Vec<u8>],
    variants: u32,
    prompts: &[String],
) -> Result<Vec<Option<String>>, Fail> {
    let wrong = |message| Err(Fail::new("usage", message).exit(2));
    if command.is_empty() {
        return Ok(Vec::new());
    }
    match (variants, prompts) {
        (0, _) | (1, []) => Ok(vec![None; 1]),
        (count, _) if count > MAX_VARIANTS || prompts.len() > MAX_VARIANTS as usize => {
            wrong(format!("more than {MAX_VARIANTS} variants"))
        }
        (count, []) => Ok(vec![None; count as usize]),
        (count, [one]) => Ok(vec![Some(one.clone()); count as usize]),
        (count, several) if count > 1 && several.len() != count as usize => {
            wrong(format!("{count} variants of {} prompts", several.len()))
        }
        (_, several) => Ok(several.iter().cloned().map(Some).collect()),
    }
}

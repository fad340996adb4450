//! Moving work to a node and starting it there, and bringing its result home.

use std::sync::Arc;

use baton_protocol::id::{RunId, ThreadId};
use baton_protocol::message::{AgentReport, Reply, Request, RunSpec, RunState};

use super::failure::Fail;
use super::outbox::is_away;
use super::parcels::Parcel;
use super::remotes::Target;
use super::report::to_path;
use super::{Daemon, report};
use crate::agents;
use crate::api::control::{
    Answer, Bytes, HandoffAnswer, HandoffCall, HandoffRun, NodeAgent, NodeAgentsCall, TimingMs,
};
use crate::api::socket::EventSender;
use crate::clock::decimal_ms;
use crate::workspace::{TakeOptions, Taken, random};

/// The agent that runs a command itself.
pub(super) const COMMAND: &str = "command";

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
        let target = self.target(call.remote).await?;
        let handoff = RunId::from_bytes(random()?).to_string();
        let root = to_path(call.path);
        let is_for_agent = call.command.is_empty();
        let conversation = self
            .conversation(
                root.clone(),
                (call.conversation, call.speaks),
                is_for_agent,
                call.agents,
                events,
            )
            .await?;
        let travels = conversation.as_ref().map(|wanted| wanted.agent);
        let has_prompt = !call.prompts.is_empty();
        let by = self.doers(&call.by, !is_for_agent, has_prompt, travels)?;
        let attempts = attempts(&by, call.variants, &call.prompts)?;
        if !call.dry_run {
            self.ready(&target, &by, events).await?;
        }
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
        if target.embedded && !self.options.serving && !attempts.is_empty() {
            events
                .note(
                    "no node is joined: the run is on this machine and stops when it sleeps. \
                     For a real one: `baton serve` there, and `baton join TICKET` here",
                )
                .await;
        }
        let command: Vec<_> = call.command.into_iter().map(|Bytes(bytes)| bytes).collect();
        let mut runs = Vec::new();
        for (agent, prompt) in attempts {
            runs.push(RunSpec {
                run: RunId::from_bytes(random()?),
                thread: ThreadId::from_bytes(random()?),
                workspace: taken.workspace,
                snapshot: taken.id,
                agent,
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

/// Who does each run of a handoff, and what it is asked: as many as there are variants, agents or prompts; of what there
/// is only one, all have that.
fn attempts(
    by: &[String],
    variants: u32,
    prompts: &[String],
) -> Result<Vec<(String, Option<String>)>, Fail> {
    let wrong = |message| Err(Fail::new("usage", message).exit(2));
    if by.is_empty() {
        return Ok(Vec::new());
    }
    let said = usize::try_from(variants).unwrap_or(usize::MAX);
    let count = said.max(by.len()).max(prompts.len()).max(1);
    if count > MAX_VARIANTS as usize {
        return wrong(format!("more than {MAX_VARIANTS} variants"));
    }
    for (number, of) in [(by.len(), "agents"), (prompts.len(), "prompts"), (said, "variants")] {
        if number > 1 && number != count {
            return wrong(format!("{number} {of} for {count} runs: one for all, or one for each"));
        }
    }
    let agents = by.iter().cycle();
    let asked = prompts.iter().map(Some).cycle().chain(std::iter::repeat(None));
    Ok(agents.zip(asked).take(count).map(|(by, prompt)| (by.clone(), prompt.cloned())).collect())
}

impl Daemon {
    /// Who does the runs: whom somebody named, else whose conversation travels, else the one that is configured. Nobody
    /// where there is nothing to do.
    fn doers(
        &self,
        by: &[String],
        has_command: bool,
        has_prompt: bool,
        travels: Option<&'static str>,
    ) -> Result<Vec<String>, Fail> {
        let usage = |message: String, hint: &str| Fail::new("usage", message).hint(hint).exit(2);
        if has_command {
            return match by.iter().find(|agent| *agent != COMMAND) {
                Some(agent) => Err(usage(
                    format!("{agent} takes a prompt and no command"),
                    "either --agent A -p PROMPT, or -- COMMAND",
                )),
                None => Ok(vec![COMMAND.to_owned()]),
            };
        }
        if !has_prompt {
            return match by.first() {
                Some(agent) if agent == COMMAND => Err(usage(
                    "the agent `command` needs a command".to_owned(),
                    "pass a program: baton handoff -- COMMAND…",
                )),
                Some(agent) => Err(usage(
                    format!("there is nothing for {agent} to do"),
                    "say what: -p PROMPT, or --prompt-file F",
                )),
                None => Ok(Vec::new()),
            };
        }
        if by.iter().any(|agent| agent == COMMAND) {
            return Err(usage(
                "the agent `command` needs a command".to_owned(),
                "pass a program: baton handoff -p PROMPT -- COMMAND…",
            ));
        }
        if !by.is_empty() {
            return Ok(by.to_vec());
        }
        let configured = self.config.agents.keys().map(String::as_str);
        let configured: Vec<_> = configured.filter(|name| *name != COMMAND).collect();
        match (travels, configured.as_slice()) {
            (Some(agent), _) | (None, &[agent]) => Ok(vec![agent.to_owned()]),
            (None, _) => {
                let known = agents::ALL.iter().map(|agent| agent.name());
                let mut all: Vec<_> = known.chain(configured.iter().copied()).collect();
                all.sort_unstable();
                all.dedup();
                let all = all.join(", ");
                Err(Fail::new(
                    "no-agent",
                    format!("no agent is named for the prompt; there are {all}"),
                )
                .hint("baton handoff --agent A -p PROMPT; baton agent list shows those installed")
                .exit(2))
            }
        }
    }

    /// Finds out whether a node has the agents, before anything is sent. Where it cannot be reached that is found when it can.
    async fn ready(
        self: &Arc<Self>,
        target: &Target,
        by: &[String],
        events: &EventSender,
    ) -> Result<(), Fail> {
        let mut names: Vec<_> = by.iter().filter(|agent| *agent != COMMAND).cloned().collect();
        names.dedup();
        if names.is_empty() {
            return Ok(());
        }
        let reports = match self.asked_of(target, Request::CheckAgents(names)).await {
            Ok(reports) => reports,
            Err(fail) if is_away(&fail) => {
                events
                    .note(format!(
                        "{} cannot be asked now whether it has the agent",
                        target.remote.name
                    ))
                    .await;
                return Ok(());
            }
            Err(fail) => return Err(fail),
        };
        let missing = reports
            .into_iter()
            .find_map(|report| Some((report.problem?, report.fix, report.agent)));
        match missing {
            None => Ok(()),
            Some((problem, fix, agent)) => {
                let what = format!("{} has no {agent} for this: {problem}", target.remote.name);
                let fail = Fail::new("agent-not-ready", what);
                Err(match fix {
                    Some(fix) => fail.hint(fix),
                    None => fail,
                })
            }
        }
    }

    /// How agents stand on the node that is named, or the usual one.
    pub(super) async fn node_agents(
        self: &Arc<Self>,
        call: NodeAgentsCall,
    ) -> Result<Answer, Fail> {
        let NodeAgentsCall { agents, remote, turn } = call;
        let target = self.target(remote).await?;
        let mut all = Vec::new();
        if turn {
            for agent in agents {
                let started = self.clock.instant();
                let reports = self.asked_of(&target, Request::TryAgent(agent)).await?;
                let took = decimal_ms(self.clock.since(started));
                all.extend(reports.into_iter().map(|report| (report, Some(took))));
            }
        } else {
            let reports = self.asked_of(&target, Request::CheckAgents(agents)).await?;
            all.extend(reports.into_iter().map(|report| (report, None)));
        }
        let entry = |(report, turn_ms): (AgentReport, Option<f64>)| {
            let AgentReport { agent, version, login, permissions, problem, fix } = report;
            let remote = target.remote.name.clone();
            NodeAgent { agent, remote, version, login, permissions, problem, fix, turn_ms }
        };
        Ok(Answer::NodeAgents(all.into_iter().map(entry).collect()))
    }

    /// How agents stand on a node.
    async fn asked_of(
        self: &Arc<Self>,
        target: &Target,
        request: Request,
    ) -> Result<Vec<AgentReport>, Fail> {
        match self.pool.request(&target.remote, request).await? {
            Reply::Agents(reports) => Ok(reports),
            _ => Err(Fail::new("transport", "the node answered something else than was asked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_runs_as_variants_agents_or_prompts() {
        let all = |by: &[&str], variants, prompts: &[&str]| {
            let own = |all: &[&str]| all.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>();
            let found = attempts(&own(by), variants, &own(prompts)).ok()?;
            let one = |(by, asked): (String, Option<String>)| {
                format!("{by} {}", asked.unwrap_or_default())
            };
            Some(found.into_iter().map(one).collect::<Vec<_>>())
        };
        let expect = |all: &[&str]| Some(all.iter().map(|one| (*one).to_owned()).collect());
        assert_eq!(all(&[], 1, &[]), expect(&[]));
        assert_eq!(all(&["a"], 1, &[]), expect(&["a "]));
        assert_eq!(all(&["a"], 2, &["x"]), expect(&["a x", "a x"]));
        assert_eq!(all(&["a"], 1, &["x", "y"]), expect(&["a x", "a y"]));
        assert_eq!(all(&["a", "b"], 1, &["x"]), expect(&["a x", "b x"]));
        assert_eq!(all(&["a", "b"], 2, &["x", "y"]), expect(&["a x", "b y"]));
        assert_eq!(all(&["a", "b"], 3, &["x"]), None);
        assert_eq!(all(&["a", "b", "c"], 1, &["x", "y"]), None);
        assert_eq!(all(&["a"], 65, &[]), None);
    }
}

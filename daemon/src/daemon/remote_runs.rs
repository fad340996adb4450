//! The runs of the nodes that this home knows.

use std::sync::Arc;

use baton_protocol::id::{RunId, SnapshotId};
use baton_protocol::message::{
    LogEntry, LogReply, LogStream, Opening, Reply, Request, RunInfo, RunSpec, RunState,
};
use baton_store::catalog::queue::{Entry, EntryState};

use super::failure::Fail;
use super::remotes::{Target, only};
use super::{Daemon, report};
use crate::api::control::{Answer, Bytes, CancelAnswer, Event, LogLine, RunsAnswer};
use crate::api::socket::EventSender;
use crate::clock::rfc3339;

/// Times that a followed log is taken up again on a new connection, with nothing new in between.
const MAX_RESUMES: usize = 5;

impl Daemon {
    /// The runs of a node, kept for when it cannot be reached; or what was kept, and when.
    async fn runs_of(
        self: &Arc<Self>,
        target: &Target,
    ) -> Result<(Vec<RunInfo>, Option<u64>), Fail> {
        let node = target.remote.node;
        match self.pool.request(&target.remote, Request::ListRuns).await {
            Ok(Reply::Runs(runs)) => {
                let (keep, now) = (runs.clone(), self.clock.now_ms());
                self.blocking("remember", move |daemon| {
                    Ok(daemon.catalog.remember_runs(node, &keep, now)?)
                })
                .await?;
                Ok((runs, None))
            }
            Ok(_) => Err(Fail::new("transport", "the node answered something else than was asked")),
            Err(error) if error.is_retryable() => {
                let kept = self
                    .blocking("remembered", move |daemon| Ok(daemon.catalog.remembered_runs()?))
                    .await?;
                let of_node: Vec<_> = kept.into_iter().filter(|(at, _, _)| *at == node).collect();
                let as_of = of_node.iter().map(|(_, _, seen)| *seen).min();
                let runs = of_node.into_iter().map(|(_, info, _)| info).collect();
                Ok((runs, Some(as_of.unwrap_or_else(|| self.clock.now_ms()))))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn run_list(self: &Arc<Self>, remote: Option<String>) -> Result<Answer, Fail> {
        let mut all = Vec::new();
        let mut as_of = None;
        for target in self.targets(remote).await? {
            let (runs, stale) = self.runs_of(&target).await?;
            as_of = [as_of, stale].into_iter().flatten().min();
            let name = target.remote.name;
            all.extend(runs.into_iter().map(|info| (info.created_at, report::run(&name, &info))));
        }
        for (entry, info) in self.runs_in_queue().await? {
            // One that has just been sent is in both.
            if !all.iter().any(|(_, run)| run.run == info.spec.run.to_string()) {
                all.push((info.created_at, report::run(&entry.wanted.remote, &info)));
            }
        }
        all.sort_by_key(|(created_at, _)| std::cmp::Reverse(*created_at));
        let runs = all.into_iter().map(|(_, run)| run).collect();
        Ok(Answer::Runs(RunsAnswer { runs, as_of: as_of.map(rfc3339) }))
    }

    /// Runs of handoffs that are in the queue, as they will be; one that is not sent any more has ended.
    async fn runs_in_queue(self: &Arc<Self>) -> Result<Vec<(Entry, RunInfo)>, Fail> {
        let queue = self.blocking("queue", |daemon| Ok(daemon.catalog.queue()?)).await?;
        let run = |entry: &Entry, spec: &RunSpec| {
            let state = match entry.state {
                EntryState::Failed => RunState::Failed,
                EntryState::Expired | EntryState::Cancelled => RunState::Cancelled,
                EntryState::Waiting | EntryState::Done => RunState::Queued,
            };
            RunInfo {
                spec: spec.clone(),
                state,
                reason: entry.last_error.clone(),
                result: None,
                exit_code: None,
                isolated: false,
                checkout: None,
                created_at: entry.wanted.created_at,
                started_at: None,
                ended_at: entry.ended_at,
                waiting: None,
                checked: None,
            }
        };
        let runs = |entry: Entry| {
            let of_entry = |spec: &RunSpec| (entry.clone(), run(&entry, spec));
            entry.wanted.runs.iter().map(of_entry).collect::<Vec<_>>()
        };
        Ok(queue.into_iter().flat_map(runs).collect())
    }

    /// The run in the queue that these digits mean, where there is one.
    async fn run_in_queue(
        self: &Arc<Self>,
        digits: &str,
    ) -> Result<Option<(Entry, RunInfo)>, Fail> {
        let runs = self.runs_in_queue().await?;
        Ok(runs.into_iter().find(|(_, info)| is_meant(digits, info)))
    }

    /// The run that an id, a prefix, or a thread means, and the node it is on. One that is still in the
    /// queue is on none.
    ///
    /// Whoever names one that was followed up is told.
    pub(super) async fn find_run(
        self: &Arc<Self>,
        digits: &str,
        events: &EventSender,
    ) -> Result<(Target, RunInfo), Fail> {
        let (target, info, next) = self.find_run_and_next(digits).await?;
        if let Some(next) = next {
            let (short, next) = (info.spec.run.short(), next.short());
            events.note(format!("run {short} was followed up by run {next}")).await;
        }
        Ok((target, info))
    }

    /// The same, and what goes on from it in its thread, on whichever node.
    pub(super) async fn find_run_and_next(
        self: &Arc<Self>,
        digits: &str,
    ) -> Result<(Target, RunInfo, Option<RunId>), Fail> {
        let queued = self.runs_in_queue().await?;
        if let Some((entry, info)) = queued.iter().find(|(_, info)| is_meant(digits, info)) {
            let (run, remote) = (info.spec.run.short(), &entry.wanted.remote);
            let message = match entry.state {
                EntryState::Waiting => {
                    format!("run {run} has not started: it waits in the queue for {remote}")
                }
                _ => format!("run {run} was not sent to {remote} and will not start"),
            };
            return Err(Fail::new("run-queued", message).hint("baton queue"));
        }
        let mut found: Vec<(Target, RunInfo)> = Vec::new();
        let mut all = Vec::new();
        for target in self.targets(None).await? {
            let (runs, _) = self.runs_of(&target).await?;
            // Newest first: a thread means its newest run.
            let by_run = runs.iter().filter(|info| info.spec.run.to_string().starts_with(digits));
            let by_thread =
                runs.iter().find(|info| info.spec.thread.to_string().starts_with(digits));
            let fits: Vec<&RunInfo> = match by_run.collect::<Vec<_>>() {
                runs if runs.is_empty() => by_thread.into_iter().collect(),
                runs => runs,
            };
            found.extend(fits.into_iter().map(|info| (target.clone(), info.clone())));
            all.extend(runs);
        }
        let places: Vec<usize> = (0..found.len()).collect();
        let at = only(&places, "run", digits, "baton runs")?;
        let (target, info) = found.swap_remove(at);
        let waiting = queued.into_iter().filter(|(entry, _)| entry.state == EntryState::Waiting);
        all.extend(waiting.map(|(_, info)| info));
        let RunSpec { run, thread, .. } = &info.spec;
        let next = all.iter().find(|it| it.spec.parent == Some(*run) && it.spec.thread == *thread);
        Ok((target, info, next.map(|next| next.spec.run)))
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

    /// What was handed over with which the thread of a run, or that which it was forked from, has begun: the run itself
    /// may have started from what another one left.
    pub(super) async fn begun_with(
        self: &Arc<Self>,
        target: &Target,
        info: &RunInfo,
    ) -> Result<SnapshotId, Fail> {
        let mut at = info.clone();
        if at.spec.parent.is_none() {
            return Ok(at.spec.snapshot);
        }
        let (mut runs, _) = self.runs_of(target).await?;
        // It may have begun on another node.
        let kept = self.blocking("remembered", |daemon| Ok(daemon.catalog.remembered_runs()?));
        runs.extend(kept.await?.into_iter().map(|(_, info, _)| info));
        // Not more often than there are runs: a node may say anything.
        for _ in 0..=runs.len() {
            let Some(parent) = at.spec.parent else { return Ok(at.spec.snapshot) };
            let Some(before) = runs.iter().find(|info| info.spec.run == parent) else { break };
            at = before.clone();
        }
        let message = format!("what run {} goes back to is not known", info.spec.run.short());
        Err(Fail::new("no-parent", message)
            .hint(format!("baton pull {} --into DIR", info.spec.run.short())))
    }

    pub(super) async fn run_show(
        self: &Arc<Self>,
        run: &str,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        if let Some((entry, info)) = self.run_in_queue(run).await? {
            return Ok(Answer::Run(Box::new(report::run(&entry.wanted.remote, &info))));
        }
        let (target, info) = self.find_run(run, events).await?;
        Ok(Answer::Run(Box::new(report::run(&target.remote.name, &info))))
    }

    pub(super) async fn run_wait(
        self: &Arc<Self>,
        run: &str,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, mut info) = self.find_run(run, events).await?;
        let id = info.spec.run;
        let mut failures = 0;
        while !info.state.is_final() {
            match self.pool.request(&target.remote, Request::WaitRun(id)).await {
                Ok(Reply::Run(now)) => info = *now,
                Ok(_) => return Err(Fail::new("transport", "the node answered something else")),
                // The node may be restarting; the run is in its catalog.
                Err(error) if error.is_retryable() && failures < MAX_RESUMES => failures += 1,
                Err(error) => return Err(error.into()),
            }
        }
        self.remember(&target, &info).await?;
        Ok(Answer::Run(Box::new(report::run(&target.remote.name, &info))))
    }

    pub(super) async fn run_cancel(
        self: &Arc<Self>,
        run: &str,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        if let Some((entry, info)) = self.run_in_queue(run).await? {
            match self.cancel_entry(entry.wanted.id, events).await {
                Ok(()) => {
                    let (run, state) = (info.spec.run.to_string(), RunState::Cancelled.name());
                    return Ok(Answer::Cancel(CancelAnswer { run, state: state.to_owned() }));
                }
                // It has just left the queue: then it is on the node.
                Err(fail) if fail.0.code == "already-sent" => {}
                Err(fail) => return Err(fail),
            }
        }
        let (target, info) = self.find_run(run, events).await?;
        let id = info.spec.run;
        if info.state.is_final() {
            let what = format!("run {id} has ended already: it is {}", info.state.name());
            return Err(Fail::new("run-ended", what)
                .hint(format!("baton pull {} --into DIR", id.short()))
                .exit(4));
        }
        let info = self.run_request(&target, Request::CancelRun(id)).await?;
        self.remember(&target, &info).await?;
        let state = info.state.name().to_owned();
        Ok(Answer::Cancel(CancelAnswer { run: id.to_string(), state }))
    }

    /// Keeps what a node said about a run.
    pub(super) async fn remember(
        self: &Arc<Self>,
        target: &Target,
        info: &RunInfo,
    ) -> Result<(), Fail> {
        let (node, info, now) = (target.remote.node, info.clone(), self.clock.now_ms());
        self.blocking("remember", move |daemon| {
            Ok(daemon.catalog.remember_runs(node, &[info], now)?)
        })
        .await
    }

    pub(super) async fn run_logs(
        self: &Arc<Self>,
        run: &str,
        follow: bool,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, info) = self.find_run(run, events).await?;
        let id = info.spec.run;
        let mut seen = 0u64;
        let mut failures = 0;
        loop {
            let before = seen;
            match self.stream_logs(&target, id, &mut seen, follow, events).await {
                Ok(()) => return Ok(Answer::LogsEnd),
                Err(_) if events.is_gone() => return Ok(Answer::LogsEnd),
                // A follower outlives the connection, and a restart of the node.
                Err(fail) if follow && fail.0.code == "remote-unreachable" => {
                    failures = if seen > before { 0 } else { failures + 1 };
                    if failures > MAX_RESUMES {
                        return Err(fail);
                    }
                    self.pool.forget(target.remote.node).await;
                    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
                }
                Err(fail) => return Err(fail),
            }
        }
    }

    /// Passes the output from entry `seen` on, counting.
    async fn stream_logs(
        &self,
        target: &Target,
        run: RunId,
        seen: &mut u64,
        follow: bool,
        events: &EventSender,
    ) -> Result<(), Fail> {
        let mut stream = self.pool.open(&target.remote).await?;
        stream.send(&Opening::new(Request::Logs { run, from: *seen, follow })).await?;
        stream.finish();
        loop {
            // A run may be silent for hours; the connection's own pings notice a dead node.
            let reply = tokio::select! {
                reply = stream.reader.message_at_last() => reply?,
                () = events.gone() => return Ok(()),
            };
            match reply {
                Reply::Log(LogReply::Entries(entries)) => {
                    for entry in entries {
                        *seen += 1;
                        events.send(Event::Line(line(entry))).await;
                    }
                }
                Reply::Log(LogReply::End) => return Ok(()),
                Reply::Refused(refusal) => return Err(refusal.into()),
                _ => return Err(Fail::new("transport", "the node answered something else")),
            }
        }
    }
}

/// Whether these digits mean a run or its thread.
fn is_meant(digits: &str, info: &RunInfo) -> bool {
    let RunSpec { run, thread, .. } = &info.spec;
    digits.len() >= baton_protocol::id::MIN_PREFIX
        && (run.to_string().starts_with(digits) || thread.to_string().starts_with(digits))
}

fn line(entry: LogEntry) -> LogLine {
    let stream = match entry.stream {
        LogStream::Stdout => "stdout",
        LogStream::Stderr => "stderr",
        LogStream::Node => "node",
    };
    let (text, text_b64) = match String::from_utf8(entry.text) {
        Ok(text) => (text, None),
        Err(error) => {
            let lossy = String::from_utf8_lossy(error.as_bytes()).into_owned();
            (lossy, Some(Bytes(error.into_bytes())))
        }
    };
    LogLine { time: rfc3339(entry.time), stream: stream.to_owned(), text, text_b64 }
}

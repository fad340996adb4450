//! The program of a run: what it is given and held to, and how it ended.
//!
//! Not here: its process and its output ([`execute`](super::execute)).
//!
//! **Invariant:** a program is started in the room of its run and within its limits, or not at all.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use baton_protocol::message::{Checked, RunSpec, RunState};
use baton_store::catalog::runs::RunUpdate;
use baton_store::secrets::known::KnownValues;
use tokio::sync::watch;

use super::agent::{Program, Speaks};
use super::attend::{Attention, attend};
use super::environment::{Installed, environment, find_in_home_first, set_where_free};
use super::execute::{ExecuteError, Execution, execute};
use super::git_access;
use super::hearing::Hearing;
use super::limits::Held;
use super::process::Processes;
use super::refused::{chain, reason};
use super::{Live, Runs, Stop};
use crate::rooms::{Job, RoomError};
use crate::secrets::Given;
use crate::task::{Task, TaskFailed};

/// What a shell answers where there is no such program, and where it cannot be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// How a program ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    /// Nothing where that is not known.
    pub(super) code: Option<i32>,
    pub(super) stop: Option<Stop>,
    /// What kept it from running to its end.
    pub(super) failure: Option<String>,
    pub(super) at: u64,
    /// What is known of its check, and with that what it left is sealed.
    pub(super) checked: Option<Checked>,
    /// Nothing was started in its checkout, in which there is half of an environment.
    pub(super) is_half_made: bool,
}

impl Ended {
    /// The state that follows, and why.
    pub(super) fn state(&self) -> (RunState, Option<String>) {
        match (self.stop, self.code, self.failure.clone()) {
            (Some(Stop::Cancelled), ..) => (RunState::Cancelled, None),
            (Some(Stop::Interrupted), ..) => {
                (RunState::Interrupted, Some("the node was shut down".to_owned()))
            }
            (Some(Stop::TookTooLong), _, reason) | (None, _, reason @ Some(_)) => {
                (RunState::Failed, reason)
            }
            (None, Some(0), None) => (RunState::Succeeded, None),
            (None, Some(code), None) => {
                (RunState::Failed, Some(format!("the program ended with code {code}")))
            }
            (None, None, None) => {
                let reason = "the node stopped while the run was at work";
                (RunState::Interrupted, Some(reason.to_owned()))
            }
        }
    }
}

impl Runs {
    pub(super) async fn run_program(&self, live: &Arc<Live>, installed: Installed) -> Ended {
        let clock = &self.0.parts.clock;
        let stop = *live.stop.borrow();
        if stop.is_some() {
            return Ended { stop, at: clock.now_ms(), ..Ended::default() };
        }
        let checkout = live.folders.checkout();
        let update = RunUpdate {
            checkout: Some(checkout.to_string_lossy().into_owned()),
            started_at: Some(clock.now_ms()),
            isolated: Some(self.0.parts.room.isolated()),
            ..RunUpdate::default()
        };
        if let Err(error) = self.advance(live, RunState::Running, update).await {
            let failure = Some(reason("the run could not be begun", &error));
            return Ended { failure, at: clock.now_ms(), ..Ended::default() };
        }
        let stop = *live.stop.borrow();
        if stop.is_some() {
            return Ended { stop, at: clock.now_ms(), ..Ended::default() };
        }

        let given = match self.give(live).await {
            Ok(given) => given,
            Err(failure) => {
                return Ended { failure: Some(failure), at: clock.now_ms(), ..Ended::default() };
            }
        };
        let Program { words, attention } = self.program(live);
        drop(live.installed.set(installed));
        self.run_in_room(live, &given, &words, attention).await
    }

    /// Runs a program of a run, which finds installed what the run does, to its end.
    pub(super) async fn run_in_room(
        &self,
        live: &Arc<Live>,
        given: &Given,
        words: &[OsString],
        attention: Attention,
    ) -> Ended {
        let installed = live.installed.get().cloned().unwrap_or_default();
        let (checkout, home) = (live.folders.checkout(), live.home());
        let node = &self.0.options.environment;
        let mut variables = environment(node, &live.spec, &live.folders, &home, given);
        set_where_free(&mut variables, self.variables_of_agent(live));
        set_where_free(&mut variables, installed.variables);
        if installed.made_at.is_some() {
            find_in_home_first(&mut variables, &home);
        }
        let forwarder = match self.forward(live, given).await {
            Ok(forwarder) => forwarder,
            Err(failure) => {
                let at = self.0.parts.clock.now_ms();
                return Ended { failure: Some(failure), at, ..Ended::default() };
            }
        };
        git_access::tell(&mut variables, &live.folders, forwarder.as_ref());
        let (program, arguments) = words
            .split_first()
            .map_or((OsStr::new(""), words), |(first, rest)| (first.as_os_str(), rest));
        let (attachments, receipt) = (live.folders.attachments(), live.folders.receipt());
        let (git, told) = (live.folders.git(), live.folders.told());
        let mut readable: Vec<&Path> = vec![&attachments, &receipt, &git];
        if live.told.get().is_some() {
            readable.push(&told);
        }
        let temporary = live.folders.temporaries();
        let job = Job {
            program,
            arguments,
            checkout: &checkout,
            home: &home,
            temporary: Some(temporary.each_ref().map(PathBuf::as_path)),
            readable: &readable,
            seen_at: installed.made_at.as_ref().map(|(checkout, home)| (&**checkout, &**home)),
            environment: &variables,
            network: !self.is_without_network(&live.spec),
            entrances: &[],
        };
        self.carry_out(live, &job, given.known.clone(), Vec::new(), (attention, None)).await
    }

    /// Runs a program in the room and within the limits of a run, until it has ended or the run is to end, and no longer
    /// than its `limit`. What is in `written` counts as written by the run, too.
    pub(super) async fn carry_out(
        &self,
        live: &Arc<Live>,
        job: &Job<'_>,
        known: Option<Arc<KnownValues>>,
        written: Vec<PathBuf>,
        (attention, limit): (Attention, Option<Duration>),
    ) -> Ended {
        let clock = &self.0.parts.clock;
        let held = match self.hold(live, written).await {
            Ok(held) => held,
            Err(failure) => {
                return Ended { failure: Some(failure), at: clock.now_ms(), ..Ended::default() };
            }
        };
        let job = Job { entrances: held.group.entrances(), ..*job };
        let wrapped = match self.0.parts.room.command(&job) {
            Ok(wrapped) => wrapped,
            Err(error) => {
                let code = match error {
                    RoomError::NotFound { .. } | RoomError::Hidden { .. } => NOT_FOUND,
                    RoomError::NotExecutable { .. }
                    | RoomError::NoWalls
                    | RoomError::Prepare(_) => NOT_EXECUTABLE,
                };
                let failure = Some(chain(&error));
                self.finish_holding(&held).await;
                return Ended { code: Some(code), failure, at: clock.now_ms(), ..Ended::default() };
            }
        };
        let input = match self.input_of(live, attention) {
            Ok(input) => input,
            Err(error) => {
                let failure = Some(reason("its input could not be made", &error));
                self.finish_holding(&held).await;
                return Ended { failure, at: clock.now_ms(), ..Ended::default() };
            }
        };
        let started = watch::Sender::new(None);
        let (mut is_started, attended) = (started.subscribe(), started.subscribe());
        let speaks = live.speaks.get().filter(|_| attention == Attention::Agent);
        let hearing = speaks.and_then(|speaks| speaks.agent).map(Hearing::new);
        let (hearing, heard) = hearing.unzip();
        let execution = Execution {
            run: live.run,
            wrapped,
            input,
            layers: self.0.parts.room.layers(),
            enters: self.0.parts.room.enters(),
            held: Arc::clone(&held),
            log: Arc::clone(&live.log),
            known,
            hearing,
            clock: clock.clone(),
            started,
        };
        let record = live.folders.process();
        let work = move || execute(execution, &record);
        let mut work = self.0.parts.tasks.spawn_blocking("run-program", work);
        let over = watch::Sender::new(false);
        let what = (attention, heard);
        let beside = attend(self.clone(), Arc::clone(live), what, attended, over.subscribe());
        let beside = self.0.parts.tasks.spawn("run-attend", beside);
        let stopped = async {
            let Some(limit) = limit else { return Some(live.stopped().await) };
            tokio::time::timeout(limit, live.stopped()).await.ok()
        };
        let (result, is_late, stop) = tokio::select! {
            biased;
            result = &mut work => (result, false, None),
            stop = stopped => {
                let processes = is_started.wait_for(Option::is_some).await;
                let result = match processes.ok().and_then(|processes| processes.clone()) {
                    Some(processes) => self.end(live, processes, work).await,
                    None => work.await,
                };
                (result, stop.is_none(), stop)
            }
        };
        let at = clock.now_ms();
        live.input.close();
        over.send_replace(true);
        if let Err(error) = beside.await {
            tracing::error!(run = %live.run, %error, "a run was not attended to");
        }
        let exceeded = self.finish_holding(&held).await;
        let (code, failure) = match result {
            Ok(Ok(code)) if exceeded.is_some() => (Some(code), exceeded),
            Ok(Ok(code)) => {
                let refused = held.refused().filter(|_| code != 0);
                let text = |refused| format!("the program ended with code {code}; {refused}");
                let said = live.failed.lock().unwrap_or_else(PoisonError::into_inner).take();
                let said = said.map(|said| format!("{} said: {said}", live.spec.agent));
                (Some(code), refused.map(text).or(said))
            }
            Ok(Err(error)) => {
                let not_found =
                    |cause: &std::io::Error| cause.kind() == std::io::ErrorKind::NotFound;
                let code = match &error {
                    ExecuteError::Start(cause) if not_found(cause) => Some(NOT_FOUND),
                    ExecuteError::Start(_) => Some(NOT_EXECUTABLE),
                    ExecuteError::Record(_) | ExecuteError::Wait(_) => None,
                };
                (code, Some(chain(&error)))
            }
            Err(error) => (None, Some(chain(&error))),
        };
        let of_script = limit.filter(|_| is_late).map(|limit| {
            format!("it was at work for {} s, and may not be for longer", limit.as_secs())
        });
        let limit = self.time_limit(&live.spec).filter(|_| stop == Some(Stop::TookTooLong));
        let late = limit
            .map(|limit| format!("it took longer than its {}", humantime::format_duration(limit)));
        Ended { code, stop, failure: late.or(failure).or(of_script), at, ..Ended::default() }
    }

    /// What a program in the room of a run reads.
    fn input_of(&self, live: &Live, attention: Attention) -> std::io::Result<Stdio> {
        let spec = &live.spec;
        if let (Attention::Agent, Some(speaks)) = (attention, live.speaks.get()) {
            let Speaks { agent, input, stays_open } = speaks;
            return live.input.open_for(*agent, input, *stays_open).map(Stdio::from);
        }
        let open = spec.terms.input.unwrap_or_else(|| self.0.options.agent(&spec.agent).input);
        if open && attention == Attention::Whole {
            live.input.open().map(Stdio::from)
        } else {
            live.input.none();
            Ok(Stdio::null())
        }
    }

    /// Makes what holds a run to its limits.
    async fn hold(&self, live: &Arc<Live>, written: Vec<PathBuf>) -> Result<Arc<Held>, String> {
        let (runs, work) = (self.clone(), Arc::clone(live));
        let opened = self.blocking("run-limits", move || Held::open(&runs, &work, written)).await;
        let what = "the limits of the run could not be set";
        match opened {
            Ok(Ok(held)) => Ok(Arc::new(held)),
            Ok(Err(error)) => Err(reason(what, &error)),
            Err(error) => Err(reason(what, &error)),
        }
    }

    /// Returns when what held a run is gone, and says which limit it went beyond.
    async fn finish_holding(&self, held: &Arc<Held>) -> Option<String> {
        let work = Arc::clone(held);
        match self.blocking("run-limits", move || work.finish()).await {
            Ok(exceeded) => exceeded.map(|exceeded| exceeded.to_string()),
            Err(error) => {
                tracing::error!(%error, "the limits of a run are not looked at");
                None
            }
        }
    }

    /// The secrets of a run: as they are when its program is started.
    pub(super) async fn give(&self, live: &Live) -> Result<Arc<Given>, String> {
        let (secrets, vault, run) = (self.0.parts.secrets.clone(), live.vault, live.run);
        let agent = live.spec.agent.clone();
        match self.blocking("run-secrets", move || secrets.give(vault, run, &agent)).await {
            Ok(Ok(given)) => Ok(given),
            Ok(Err(error)) => {
                tracing::error!(%run, error = chain(&error), "a run is not given its secrets");
                Err(error.for_user().to_owned())
            }
            Err(error) => Err(reason("its secrets could not be read", &error)),
        }
    }

    pub(super) fn is_without_network(&self, spec: &RunSpec) -> bool {
        self.0.options.without_network.contains(&spec.agent)
    }

    /// Asks a run's processes to end, and kills those that do not.
    async fn end(
        &self,
        live: &Live,
        processes: Arc<Processes>,
        mut work: Task<Result<i32, ExecuteError>>,
    ) -> Result<Result<i32, ExecuteError>, TaskFailed> {
        let asked = Arc::clone(&processes);
        self.blocking("run-terminate", move || asked.terminate()).await?;
        let grace = self.0.options.grace;
        tokio::select! {
            biased;
            result = &mut work => return result,
            () = tokio::time::sleep(grace) => {}
        }
        self.note(live, &format!("did not end within {} s, and is killed", grace.as_secs()));
        self.blocking("run-kill", move || processes.kill()).await?;
        work.await
    }
}

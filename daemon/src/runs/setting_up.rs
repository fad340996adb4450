//! What a run finds installed: its environment, set up by the first run that wants it and given to all.
//!
//! Both scripts run in the room of the run, without its secrets, and what they say is in its log.
//!
//! **Invariant:** a program is started with the environment that its tree asks for, or not at all.
//!
//! **Invariant:** what is kept comes from a setup that ended well.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::message::RunState;
use baton_store::catalog::runs::RunUpdate;

use super::attend::Attention;
use super::checkout::Environments;
use super::environment::{Installed, Variables, environment, find_in_home_first, set_where_free};
use super::git_access::ask_nobody;
use super::program::Ended;
use super::refused::reason;
use super::{Live, Runs, Stop};
use crate::environments::cache::{Kept, Record};
use crate::environments::file::PATH;
use crate::environments::key::{Asked, Key, Wanted};
use crate::environments::setups::{Mine, Outcome, Turn};
use crate::rooms::Job;
use crate::secrets::Given;

/// What only programs of a run get.
const OF_PROGRAMS: [&str; 3] = ["BATON_PROMPT", "BATON_ATTACHMENTS", "BATON_RECEIPT"];

/// One of the scripts.
#[derive(Clone, Copy)]
struct Script<'a> {
    /// Its key in the file.
    name: &'static str,
    text: &'a str,
    checkout: &'a Path,
    home: &'a Path,
    /// Where what it finds installed was made.
    made_at: Option<&'a (PathBuf, PathBuf)>,
    /// What it writes to, beside the folders of the run.
    written: &'a [PathBuf],
}

impl Runs {
    /// Gives a run what its tree asks for; returns what it is to be told of that.
    pub(super) async fn furnish(&self, live: &Arc<Live>) -> Result<Installed, Ended> {
        let doing = "finding out what the tree asks for";
        let wanted = self.on_environments(live, doing, |environments, live| {
            environments.wanted(&live.place(), live.spec.snapshot)
        });
        // It only reads, and comes to its end by itself.
        let wanted = tokio::select! {
            biased;
            stop = live.stopped() => return Err(self.stopped(stop)),
            wanted = wanted => wanted?,
        };
        let asked = match wanted {
            None | Some(Wanted::Nothing(None)) => return Ok(Installed::default()),
            Some(Wanted::Nothing(Some(suggestion))) => {
                self.note(live, &format!("environment: none; {}", suggestion.text()));
                return Ok(Installed::default());
            }
            Some(Wanted::Refused(error)) => return Err(self.failed(format!("{PATH}: {error}"))),
            Some(Wanted::Environment(asked)) => asked,
        };
        let made_at = self.find_or_set_up(live, &asked).await?.map(|kept| kept.made_at);
        Ok(Installed { variables: variables(&asked), made_at })
    }

    async fn find_or_set_up(&self, live: &Arc<Live>, asked: &Asked) -> Result<Option<Kept>, Ended> {
        let key = asked.key;
        loop {
            if let Some(kept) = self.reuse(live, asked).await? {
                return Ok(Some(kept));
            }
            let which = (live.vault, live.spec.workspace, key);
            let turn = self
                .0
                .parts
                .checkouts
                .environments()
                .map(|environments| environments.setups().turn(which, live.run));
            match turn {
                None => return Ok(None),
                Some(Turn::Mine(mine)) => return self.set_up(live, asked, mine).await.map(Some),
                Some(Turn::Wait(mut wait)) => {
                    self.note(
                        live,
                        &format!("environment: waiting for run {}, which sets it up", wait.by),
                    );
                    // Meanwhile another one may be at work.
                    live.give_turn_back();
                    let outcome = tokio::select! {
                        biased;
                        stop = live.stopped() => return Err(self.stopped(stop)),
                        outcome = wait.outcome() => outcome,
                    };
                    if let Outcome::Failed(why) = outcome {
                        let by = wait.by;
                        return Err(
                            self.failed(format!("{why}; its output is in the log of run {by}"))
                        );
                    }
                    let asked = self.0.turns.ask(&live.user, &live.spec.agent);
                    live.wait_for_turn(asked).await.map_err(|stop| self.stopped(stop))?;
                }
            }
        }
    }

    /// Gives a run an environment that is kept, and looks after it, if there is one.
    async fn reuse(&self, live: &Arc<Live>, asked: &Asked) -> Result<Option<Kept>, Ended> {
        let Some(kept) = self.give_kept(live, asked.key).await? else { return Ok(None) };
        let record = kept.record;
        self.note(live, &format!("environment: reused {}, {}", asked.key.short(), size(record)));
        if !asked.description.maintain.trim().is_empty() {
            self.begin_to_set_up(live).await?;
            self.note(live, "environment: maintain");
            let script = Script {
                name: "maintain",
                text: &asked.description.maintain,
                checkout: &live.folders.checkout(),
                home: &live.home(),
                made_at: Some(&kept.made_at),
                written: &[],
            };
            self.run_script(live, asked, script).await?;
        }
        Ok(Some(kept))
    }

    async fn give_kept(&self, live: &Arc<Live>, key: Key) -> Result<Option<Kept>, Ended> {
        let found =
            self.on_environments(live, "giving it its environment", move |environments, live| {
                environments.furnish(&live.place(), &live.home(), live.spec.snapshot, key)
            });
        match found.await {
            Ok(found) => Ok(found.flatten()),
            Err(ended) => Err(Ended { is_half_made: true, ..ended }),
        }
    }

    async fn set_up(&self, live: &Arc<Live>, asked: &Asked, mine: Mine) -> Result<Kept, Ended> {
        // Whoever had the turn before may have ended after we looked.
        if let Some(kept) = self.reuse(live, asked).await? {
            mine.end(Outcome::Made);
            return Ok(kept);
        }
        let key = asked.key;
        self.begin_to_set_up(live).await?;
        self.note(live, &format!("environment: setup of {}", key.short()));
        let ended = match self.try_to_set_up(live, asked).await {
            Ok(record) => {
                self.note(live, &format!("environment: kept {}, {}", key.short(), size(record)));
                mine.end(Outcome::Made);
                return match self.give_kept(live, key).await? {
                    Some(kept) => Ok(kept),
                    None => Err(self.failed("its environment is not there any more".to_owned())),
                };
            }
            Err(ended) => ended,
        };
        let left_off = self.on_environments(live, "clearing up", move |environments, live| {
            environments.leave_off(&live.place(), key)
        });
        if let Err(error) = left_off.await {
            tracing::warn!(run = %live.run, reason = error.failure, "what was set up stays behind");
        }
        match &ended {
            // The next one tries.
            Ended { stop: Some(_), .. } | Ended { failure: None, .. } => drop(mine),
            Ended { failure: Some(why), .. } => mine.end(Outcome::Failed(why.clone())),
        }
        Err(ended)
    }

    /// From here on scripts are started: where the node dies meanwhile the next one ends them, and does not start them again.
    async fn begin_to_set_up(&self, live: &Arc<Live>) -> Result<(), Ended> {
        let isolated = Some(self.0.parts.room.isolated());
        let update = RunUpdate { isolated, ..RunUpdate::default() };
        let begun = self.advance(live, RunState::Preparing, update).await;
        begun.map_err(|error| self.failed(reason("the run could not be begun", &error)))
    }

    async fn try_to_set_up(&self, live: &Arc<Live>, asked: &Asked) -> Result<Record, Ended> {
        let key = asked.key;
        let place =
            self.on_environments(live, "preparing the environment's setup", move |all, live| {
                all.begin(&live.place(), live.spec.snapshot, key)
            });
        let Some(place) = place.await? else {
            return Err(self.failed("the node has no environments".to_owned()));
        };
        let text = &asked.description.setup;
        let (checkout, home) = (&*place.checkout, &*place.home);
        // Of an overlay only what lies above the tree is written by the script.
        let is_shared = live.folders.layer().is_dir();
        let tree = if is_shared { &place.upper } else { &place.checkout };
        let written = &[tree.clone(), place.home.clone()];
        let script = Script { name: "setup", text, checkout, home, made_at: None, written };
        self.run_script(live, asked, script).await?;
        let kept =
            self.on_environments(live, "keeping the environment", move |environments, live| {
                environments.keep(&live.place(), live.spec.snapshot, key)
            });
        kept.await?.ok_or_else(|| self.failed("the node has no environments".to_owned()))
    }

    /// Runs a script to its end, which must be a good one.
    async fn run_script(
        &self,
        live: &Arc<Live>,
        asked: &Asked,
        script: Script<'_>,
    ) -> Result<(), Ended> {
        let (node, given) = (&self.0.options.environment, Given::default());
        let mut all = environment(node, &live.spec, &live.folders, script.home, &given);
        all.retain(|(name, _)| name != "HOME" && !OF_PROGRAMS.iter().any(|other| name == other));
        all.push(("HOME".into(), script.home.into()));
        set_where_free(&mut all, variables(asked));
        find_in_home_first(&mut all, script.home);
        ask_nobody(&mut all);
        let arguments = ["-e", "-c", script.text].map(OsString::from);
        let temporary = live.folders.temporaries();
        let job = Job {
            program: OsStr::new("sh"),
            arguments: &arguments,
            checkout: script.checkout,
            home: script.home,
            temporary: Some(temporary.each_ref().map(PathBuf::as_path)),
            readable: &[],
            seen_at: script.made_at.map(|(checkout, home)| (&**checkout, &**home)),
            environment: &all,
            network: !self.is_without_network(&live.spec),
            entrances: &[],
        };
        // It is given none, but may find one in the tree.
        let (secrets, vault, run) = (self.0.parts.secrets.clone(), live.vault, live.run);
        let known = self.blocking("run-secrets", move || secrets.to_hold(vault, run)).await;
        let known = known.map_err(|error| self.failed(reason("reading its secrets", &error)))?;
        let written = script.written.to_vec();
        let how = (Attention::TimeOnly, Some(self.0.options.setup_limit));
        let ended = self.carry_out(live, &job, known, written, how);
        let Ended { code, stop, failure, at, .. } = ended.await;
        if stop.is_some() {
            return Err(Ended { stop, at, ..Ended::default() });
        }
        let name = script.name;
        match (code, failure) {
            (Some(0), None) => Ok(()),
            (_, Some(why)) => Err(self.failed(format!("the environment's {name} failed: {why}"))),
            (code, None) => {
                let code = code.map_or("no code".to_owned(), |code| format!("code {code}"));
                Err(self.failed(format!("the environment's {name} ended with {code}")))
            }
        }
    }

    /// The end of a run whose program is not started.
    fn failed(&self, failure: String) -> Ended {
        let at = self.0.parts.clock.now_ms();
        Ended { failure: Some(failure), at, ..Ended::default() }
    }

    /// The end of a run that is stopped before its program was started.
    fn stopped(&self, stop: Stop) -> Ended {
        Ended { stop: Some(stop), at: self.0.parts.clock.now_ms(), ..Ended::default() }
    }

    /// Does something that takes long; nothing where the node has no environments.
    async fn on_environments<T: Send + 'static>(
        &self,
        live: &Arc<Live>,
        doing: &str,
        work: impl FnOnce(&dyn Environments, &Live) -> Result<T, super::checkout::CheckoutError>
        + Send
        + 'static,
    ) -> Result<Option<T>, Ended> {
        let (checkouts, live) = (Arc::clone(&self.0.parts.checkouts), Arc::clone(live));
        let work = move || {
            checkouts.environments().map(|environments| work(environments, &live)).transpose()
        };
        match self.blocking("run-environment", work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(self.failed(reason(doing, &error))),
            Err(error) => Err(self.failed(reason(doing, &error))),
        }
    }
}

fn variables(asked: &Asked) -> Variables {
    let env = &asked.description.env;
    env.iter().map(|(name, value)| (name.into(), value.into())).collect()
}

fn size(record: Record) -> String {
    format!("{} files, {} bytes", record.files, record.bytes)
}

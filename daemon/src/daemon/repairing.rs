//! Healing the stores of this home: what the store can do, and then what is lost asked back from the nodes that have it.
//!
//! **Invariant:** what cannot be repaired stays named, in every answer, until it is there again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::SnapshotId;
use baton_store::noted;
use baton_store::repair::{Lost, Repaired, repair};
use baton_store::scrub::{Pace, due_in, scrub};
use baton_store::vault::Vault;

use super::Daemon;
use super::failure::{Fail, chain};
use crate::api::control::{Answer, Problem, Progress, RepairAnswer, Unrepaired};
use crate::api::socket::EventSender;

/// For what only a new start of the daemon repairs.
const RESTART: &str = "baton daemon stop, then baton repair";

/// For what no node had.
const BRING: &str = "baton push where its files or its history still are";

impl Daemon {
    pub(super) async fn repair(self: &Arc<Self>, events: &EventSender) -> Result<Answer, Fail> {
        let told = events.clone();
        let work = self.blocking("repair", move |daemon| {
            let stage = || "repair".to_owned();
            let known = daemon.catalog.roots()?;
            let more = |vault: &Vault| -> Vec<SnapshotId> {
                let is_own = vault.id() == daemon.workspaces.vault.id();
                let own = is_own.then(|| known.history.iter().copied());
                let kept = known.kept.iter().filter(|(id, _)| *id == vault.id());
                let kept = kept.map(|(_, snapshot)| *snapshot);
                own.into_iter().flatten().chain(kept).collect()
            };
            Ok(repair(&daemon.store, more, |done, bytes| {
                told.progress(Progress { stage: stage(), done, total: None, bytes });
            })?)
        });
        let Repaired { found, done, left, lost, is_to_be_reopened } = work.await?;
        let mut answer = RepairAnswer {
            found: found.into_iter().map(problem).collect(),
            repaired: done.into_iter().map(problem).collect(),
            quarantine: self.store.layout().quarantine().to_string_lossy().into_owned(),
            ..RepairAnswer::default()
        };
        let next = if is_to_be_reopened { RESTART } else { "baton repair" };
        answer.problems.extend(left.into_iter().map(|left| Unrepaired {
            what: left.what,
            detail: left.detail,
            snapshot: None,
            objects: 0,
            next: next.to_owned(),
        }));
        self.ask_back(lost, &mut answer, events).await?;
        if answer.problems.is_empty() {
            let all_is_there = |daemon: &Self| Ok(noted::replace(daemon.store.layout(), &[])?);
            self.blocking("repair", all_is_there).await?;
        }
        tracing::info!(found = answer.found.len(), lost = answer.problems.len(), "stores repaired");
        Ok(Answer::Repair(answer))
    }

    /// How often what is stored is read, and how much of it.
    fn pace(&self) -> Pace {
        let store = &self.config.store;
        let every_ms = u64::try_from(store.scrub_every.as_millis()).unwrap_or(u64::MAX);
        Pace { per_day: store.scrub.0, every_ms }
    }

    /// For how long nothing has to be read; for ever where nothing is stored.
    pub(super) async fn until_scrub(self: &Arc<Self>) -> Option<Duration> {
        let this = Arc::clone(self);
        let work = move || due_in(&this.store, this.clock.now_ms(), this.pace());
        match self.tasks.run_low("scrub", work).await {
            Ok(Ok(due)) => due.map(Duration::from_millis),
            Ok(Err(error)) => {
                tracing::warn!(reason = chain(&error), "when to scrub is not known");
                None
            }
            Err(error) => {
                tracing::warn!(reason = chain(&error), "when to scrub is not known");
                None
            }
        }
    }

    /// Reads a part of what is stored where that is due; what is damaged is repaired at once, as far as that goes by itself.
    pub(super) async fn scrub(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let work = move || {
            scrub(&this.store, this.clock.now_ms(), this.pace(), || this.tasks.is_cancelled())
        };
        let scrubbed = match self.tasks.run_low("scrub", work).await {
            Ok(Ok(scrubbed)) => scrubbed,
            Ok(Err(error)) => {
                return tracing::warn!(reason = chain(&error), "nothing was scrubbed");
            }
            Err(error) => return tracing::warn!(reason = chain(&error), "nothing was scrubbed"),
        };
        let (segments, bytes) = (scrubbed.segments, scrubbed.bytes);
        tracing::debug!(segments, bytes, "scrubbed");
        let Some(first) = scrubbed.problems.first() else { return };
        tracing::error!(what = first.what, detail = first.detail, "damage was found");
        let (events, _unheard) = EventSender::channel();
        if let Err(Fail(failure)) = self.repair(&events).await {
            tracing::warn!(reason = failure.message, "what is damaged was not repaired");
        }
    }

    /// Damage that was found, and is not dealt with.
    pub(super) fn noted_damage(&self) -> Vec<Problem> {
        match noted::noted(self.store.layout()) {
            Ok(noted) => noted.into_iter().map(problem).collect(),
            Err(error) => {
                let what = self.store.layout().noted().display().to_string();
                vec![Problem { what, detail: chain(&error) }]
            }
        }
    }

    /// Fetches what is lost of this home's own snapshots from whichever node has it; names the rest.
    async fn ask_back(
        self: &Arc<Self>,
        lost: Vec<Lost>,
        answer: &mut RepairAnswer,
        events: &EventSender,
    ) -> Result<(), Fail> {
        if lost.is_empty() {
            return Ok(());
        }
        let own = self.workspaces.vault.id();
        let targets = self.targets(None).await?;
        for lost in lost {
            let mut why = BTreeSet::new();
            let mut is_back = false;
            if lost.vault == own {
                for target in &targets {
                    match self.fetch_from(target, lost.snapshot, events).await {
                        Ok(()) => {
                            is_back = true;
                            break;
                        }
                        Err(Fail(failure)) => drop(why.insert(failure.message)),
                    }
                }
            }
            if is_back {
                answer.fetched.push(lost.snapshot.to_string());
                continue;
            }
            let objects = lost.objects.len() as u64;
            let mut detail = match lost.objects.first() {
                Some(first) if objects == 1 => format!("{first} is gone"),
                Some(first) => format!("{objects} objects are gone, {first} among them"),
                None => "something is gone".to_owned(),
            };
            for why in why {
                detail = format!("{detail}; {why}");
            }
            answer.problems.push(Unrepaired {
                what: format!("snapshot {} of vault {}", lost.snapshot.short(), lost.vault),
                detail,
                snapshot: Some(lost.snapshot.to_string()),
                objects,
                next: BRING.to_owned(),
            });
        }
        Ok(())
    }
}

fn problem(problem: baton_store::check::Problem) -> Problem {
    Problem { what: problem.what, detail: problem.detail }
}

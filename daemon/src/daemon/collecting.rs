//! What is taken away of the stores of this home, and when: when somebody asks, or a store has grown.
//!
//! Not here: how that is done without stopping anybody (the store).
//!
//! A root is whatever names a snapshot. Those of a vault are
//!
//! 1. its refs, and what comes before them up to a history: one that was thinned out of a history is none;
//! 2. what the catalog names: histories, pins, the queue, what nodes acknowledged, runs here and elsewhere;
//! 3. what an apply may still need to go on or to be undone: its snapshots, and the contents of its steps;
//! 4. what came before a snapshot that was forgotten.
//!
//! What is under way has a lease, and what it makes reachable is a root before that ends.
//!
//! **Invariant:** refs are read before the catalog, and that before what is beside it, so that nothing is missed that goes from one
//! to the next meanwhile; what goes the other way is noted by the store.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::{ObjectId, SnapshotId, VaultId};
use baton_store::objects::ObjectSource;
use baton_store::vault::{Collected, Collection, Roots, Step, Vault};

use super::Daemon;
use super::failure::{Fail, chain};
use crate::api::control::{Answer, GcAnswer, Problem, Progress};
use crate::api::socket::EventSender;
use crate::thinning::walk;

/// How long a collection waits for those who use what it is to take away. What it leaves then is condemned, and the next one
/// takes it.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long it waits at a time, before it looks whether the daemon is to end.
const GLANCE: Duration = Duration::from_millis(100);

/// After a look at how large the stores are the next one has nothing to do for so long.
const SELDOM: Duration = Duration::from_mins(5);

/// Longest time for which it sleeps: clocks are set.
const LONGEST: Duration = Duration::from_hours(24);

/// Where the catalog says how large they were after the last collection.
const LEFT: &str = "collected-left";

impl Daemon {
    pub(super) async fn gc(
        self: &Arc<Self>,
        dry_run: bool,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let told = events.clone();
        let done = self.blocking("gc", move |daemon| daemon.collect(dry_run, &told)).await?;
        if done.in_use > 0 {
            let what = "objects are used by what is under way; the next collection takes them";
            events.note(format!("{} {what}", done.in_use)).await;
        }
        Ok(Answer::Gc(done))
    }

    /// Collects by itself, when the stores have grown.
    pub(super) fn start_collecting(self: &Arc<Self>) {
        let daemon = Arc::clone(self);
        let work = async move {
            let mut last = None;
            // Also where nobody writes: it sleeps until something is due, and a machine that sleeps is not woken.
            let mut scrub = daemon.until_scrub().await;
            loop {
                let is_due = tokio::select! {
                    () = daemon.grown.notified() => false,
                    () = sleep(scrub) => true,
                    () = daemon.tasks.cancelled() => return,
                };
                if !is_due {
                    let is_early = |last| daemon.clock.since(last) < SELDOM;
                    if last.is_some_and(is_early) {
                        continue;
                    }
                    last = Some(daemon.clock.instant());
                    daemon.look_for_garbage().await;
                }
                daemon.scrub().await;
                let next = daemon.until_scrub().await;
                // What could not be read is not tried again and again.
                let is_stuck = is_due && next.is_some_and(|next| next.is_zero());
                scrub = if is_stuck { Some(SELDOM) } else { next };
            }
        };
        self.tasks.spawn("collecting", work).detach();
    }

    async fn look_for_garbage(self: &Arc<Self>) {
        let this = Arc::clone(self);
        match self.tasks.run_low("collect", move || this.collect_if_due()).await {
            Ok(Ok(())) => {}
            Ok(Err(Fail(failure))) => {
                tracing::warn!(reason = failure.message, "nothing was collected");
            }
            Err(error) => tracing::warn!(reason = chain(&error), "nothing was collected"),
        }
    }

    fn collect_if_due(&self) -> Result<(), Fail> {
        let left = self.catalog.meta(LEFT)?.and_then(|left| left.try_into().ok());
        let left = left.map_or(0, u64::from_be_bytes);
        let mut now = 0;
        for id in self.store.vaults()? {
            now += self.store.vault(id)?.disk_bytes()?;
        }
        if !self.config.store.is_due(left, now) {
            return Ok(());
        }
        let (events, _unheard) = EventSender::channel();
        let done = self.collect(false, &events)?;
        tracing::info!(bytes = done.freed_bytes, objects = done.objects, "collected");
        let budget = self.config.store.budget.map(|budget| budget.0);
        let after = now.saturating_sub(done.freed_bytes);
        if budget.is_some_and(|budget| after > budget) {
            tracing::warn!(bytes = after, "what has to stay is more than store.budget");
        }
        Ok(())
    }

    fn collect(&self, dry_run: bool, events: &EventSender) -> Result<GcAnswer, Fail> {
        let mut answer = GcAnswer { dry_run, ..GcAnswer::default() };
        let _room = (!dry_run).then(|| self.store.room_to_delete());
        // What only the journal has is not collected.
        self.store.fold()?;
        let (mut left, mut rows) = (0, 0);
        for id in self.store.vaults()? {
            let vault = self.store.vault(id)?;
            let Some(mut collection) = vault.collect()? else {
                return Err(Fail::new("busy", "another collection is under way")
                    .hint("wait for it, and try again"));
            };
            rows += collection.rows() as u64;
            let total = Some(rows);
            let stage = || "collect".to_owned();
            events.progress(Progress { stage: stage(), done: 0, total, bytes: 0 });
            let collected = if dry_run {
                collection.mark(&self.roots_of(&vault)?)?;
                collection.survey()?
            } else {
                self.finish(&mut collection, &vault)?
            };
            let bytes = answer.freed_bytes + collected.freed_bytes;
            events.progress(Progress { stage: stage(), done: rows, total, bytes });
            drop(collection);
            add(&mut answer, id, &collected);
            if !dry_run && collected.damage.is_empty() {
                self.drop_forgotten(&vault)?;
            }
            left += vault.disk_bytes()?;
        }
        if !dry_run {
            self.usage.renew();
            self.catalog.set_meta(LEFT, &left.to_be_bytes())?;
        }
        Ok(answer)
    }

    /// Takes a collection as far as it comes.
    fn finish(&self, collection: &mut Collection, vault: &Vault) -> Result<Collected, Fail> {
        let begun = self.clock.instant();
        while !self.tasks.is_cancelled() {
            match collection.needs() {
                Step::Roots => collection.mark(&self.roots_of(vault)?)?,
                Step::Goes => drop(collection.step()?),
                Step::Waits if self.clock.since(begun) > PATIENCE => break,
                Step::Waits => collection.wait(GLANCE),
                Step::Done => break,
            }
        }
        Ok(collection.collected().clone())
    }

    /// What has to stay in a vault.
    fn roots_of(&self, vault: &Vault) -> Result<Roots, Fail> {
        let id = vault.id();
        let is_own = id == self.workspaces.vault.id();
        let heads = vault.heads();
        let fresh = self.acks.fresh();
        let known = self.catalog.roots()?;
        let of = |all: &BTreeSet<(VaultId, SnapshotId)>| -> Vec<SnapshotId> {
            all.iter().filter(|(vault, _)| *vault == id).map(|(_, snapshot)| *snapshot).collect()
        };
        let history = if is_own { known.history } else { BTreeSet::new() };
        let kept = of(&known.kept);
        let starts = heads.iter().map(|head| head.snapshot).chain(kept.iter().copied());
        let walked = walk(vault, starts, &history)?;
        let before = walked.snapshots.into_iter().map(|(snapshot, _)| snapshot);
        let before = before.filter(|snapshot| !known.forgotten.contains(&(id, *snapshot)));
        let mut some: Vec<ObjectId> = heads
            .iter()
            .map(|head| head.snapshot)
            .chain(kept)
            .chain(before)
            .map(Into::into)
            .collect();
        some.extend(of(&known.of_runs).into_iter().map(ObjectId::from));
        if is_own {
            // Somebody may have forgotten what is about to be pinned.
            let fresh = fresh.into_iter().filter(|it| !known.forgotten.contains(&(id, *it)));
            let own = history.into_iter().chain(known.here).chain(fresh);
            some.extend(own.map(ObjectId::from));
            let applies = self.applies().list();
            let applies = applies.map_err(|error| Fail::new("applies", chain(&error)))?;
            some.extend(applies.iter().flat_map(|known| known.record.needs()));
        }
        // What is behind a damaged one cannot be seen: as damage it keeps everything.
        let whole = walked.damaged.into_iter().map(|(snapshot, _)| snapshot.into()).collect();
        Ok(Roots { whole, some })
    }

    /// Of forgotten snapshots that are gone nothing is known any more.
    fn drop_forgotten(&self, vault: &Vault) -> Result<(), Fail> {
        let forgotten = self.catalog.roots()?.forgotten;
        let mut gone = Vec::new();
        for (id, snapshot) in forgotten {
            if id == vault.id() && !vault.contains(&snapshot.into())? {
                gone.push(snapshot);
            }
        }
        if !gone.is_empty() {
            self.catalog.forgotten_are_gone(vault.id(), &gone)?;
        }
        Ok(())
    }
}

/// For ever where that is not known.
async fn sleep(time: Option<Duration>) {
    match time {
        Some(time) => tokio::time::sleep(time.min(LONGEST)).await,
        None => std::future::pending().await,
    }
}

fn add(answer: &mut GcAnswer, vault: VaultId, collected: &Collected) {
    answer.freed_bytes += collected.freed_bytes;
    answer.objects += collected.objects;
    answer.in_use += collected.left;
    let damage = collected.damage.iter().map(|damage| Problem {
        what: format!("vault {vault}"),
        detail: format!("{} {}; nothing was collected", damage.id, damage.what),
    });
    answer.problems.extend(damage);
    answer.problems.extend(collected.doubted.iter().map(|segment| Problem {
        what: format!("segment {segment} of vault {vault}"),
        detail: "not all that should be in it was found; it was left as it is".to_owned(),
    }));
}

//! Runs that have ended: their checkouts can be looked at for a while, and results that could not be sealed are sealed
//! later.
//!
//! **Invariant:** what a run has left is let go of only when it is in a snapshot.

use std::collections::{HashSet, VecDeque};
use std::error::Error;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use baton_protocol::id::RunId;
use baton_store::catalog::runs::{RunRow, RunUpdate};
use baton_store::fs;

use super::Runs;
use super::environment::Folders;
use super::homes::remove_temporary;
use super::refused::chain;

/// Checkouts of ended runs that can still be looked at. What is in them is in snapshots, too.
const MAX_ENDED: usize = 32;

impl Runs {
    /// The checkout of a run that has ended can be looked at, and that of the one that ended the longest ago not any more.
    pub(super) fn keep_for_looking(&self, folders: Folders) {
        let mut ended = self.ended();
        ended.push_back(folders);
        let oldest = if ended.len() > MAX_ENDED { ended.pop_front() } else { None };
        drop(ended);
        let runs = self.clone();
        let let_go = move || {
            if let Some(folders) = oldest {
                runs.let_go(&folders);
            }
            runs.sweep_soon();
        };
        self.0.parts.tasks.spawn_blocking("run-let-go", let_go).detach();
    }

    /// The checkout of a run is not to be looked at any more.
    pub(super) fn not_looked_at(&self, folders: &Folders) {
        self.ended().retain(|known| known.root() != folders.root());
    }

    /// Lets go of the checkout of a run that has ended.
    fn let_go(&self, folders: &Folders) {
        let let_go = self.0.parts.checkouts.let_go(&folders.checkout(), &folders.layer());
        if let Err(error) = let_go {
            tracing::warn!(error = chain(&error), "a checkout that nobody needs stays");
        }
    }

    /// Takes away what checkouts have left, some time soon. Nobody waits for it.
    pub(super) fn sweep_soon(&self) {
        let runs = self.clone();
        // One at a time; whoever comes meanwhile makes it go round once more.
        if self.0.sweeps.fetch_add(1, Ordering::SeqCst) > 0 {
            return;
        }
        let sweep = move || {
            let (sweeps, stop) = (&runs.0.sweeps, &runs.0.stopping);
            loop {
                let asked = sweeps.load(Ordering::SeqCst);
                runs.sweep_homes();
                if !stop.load(Ordering::SeqCst)
                    && let Err(error) = runs.0.parts.checkouts.sweep(stop)
                {
                    tracing::warn!(error = chain(&error), "what nobody needs stays");
                }
                let done = sweeps.compare_exchange(asked, 0, Ordering::SeqCst, Ordering::SeqCst);
                if done.is_ok() {
                    break;
                }
            }
        };
        if let Err(error) = self.0.parts.tasks.spawn_thread("run-sweep", sweep) {
            self.0.sweeps.store(0, Ordering::SeqCst);
            tracing::warn!(%error, "what nobody needs stays");
        }
    }

    /// Lets go of all that can be looked at.
    pub(super) async fn let_go_of_looked_at(&self) {
        let looked_at = std::mem::take(&mut *self.ended());
        let runs = self.clone();
        let let_go = move || looked_at.iter().for_each(|folders| runs.let_go(folders));
        if let Err(error) = self.blocking("run-let-go", let_go).await {
            tracing::warn!(%error, "checkouts of ended runs stay");
        }
    }

    /// Seals what a run has left that ended without a result.
    async fn seal_once_more(&self, row: RunRow) {
        let run = row.info.spec.run;
        let runs = self.clone();
        let seal = move || runs.seal_ended(row);
        match self.blocking("run-seal", seal).await {
            Ok(Ok(true)) => tracing::info!(%run, "the result of an ended run is sealed"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => {
                let error = chain(&*error);
                tracing::error!(%run, error, "the result of an ended run is still not sealed");
            }
            Err(error) => tracing::error!(%run, %error, "an ended run is not looked at"),
        }
    }

    fn seal_ended(&self, row: RunRow) -> Result<bool, Box<dyn Error + Send + Sync>> {
        let parts = &self.0.parts;
        let spec = &row.info.spec;
        let folders = Folders::of(&self.0.options.folder, spec.run);
        let place = folders.place(spec, row.vault);
        if !parts.checkouts.is_there(&place.checkout, &place.layer) {
            return Ok(false);
        }
        // Whoever emptied it meanwhile did not mean that the run had removed everything.
        if fs::list_dir(&place.checkout).is_ok_and(|names| names.is_empty())
            && !place.layer.exists()
        {
            return Ok(false);
        }
        let result = parts.checkouts.seal(&place, spec.snapshot)?;
        let before = row.info.reason.map_or(String::new(), |reason| format!("{reason}; "));
        let reason = Some(format!("{before}sealed at a later start of the node"));
        let unsealed = Some(false);
        let update = RunUpdate { result: Some(result), reason, unsealed, ..RunUpdate::default() };
        parts.catalog.set_state(spec.run, row.info.state, &update)?;
        self.keep_for_looking(folders);
        Ok(true)
    }

    fn ended(&self) -> MutexGuard<'_, VecDeque<Folders>> {
        self.0.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is left of runs that ended: checkouts that nobody needs, and results that could not be sealed.
pub(super) async fn look_after_ended(runs: Runs) {
    let all = runs.clone();
    let let_go = move || {
        let live: HashSet<RunId> = all.live().keys().copied().collect();
        let folder = &all.0.options.folder;
        let names = fs::list_dir(folder).unwrap_or_default();
        let there = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        for run in there.filter(|run| !live.contains(run)) {
            let folders = Folders::of(folder, run);
            all.let_go(&folders);
            remove_temporary(&folders);
        }
        all.sweep_homes();
        all.0.parts.catalog.unsealed_runs()
    };
    let rows = match runs.blocking("run-recover", let_go).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => {
            return tracing::warn!(error = chain(&error), "unsealed results are not looked for");
        }
        Err(error) => {
            return tracing::warn!(error = chain(&error), "unsealed results are not looked for");
        }
    };
    runs.sweep_soon();
    for row in rows {
        // Only so many at once; never closed.
        let _slot = Arc::clone(&runs.0.slots).acquire_owned().await;
        if runs.0.stopping.load(Ordering::SeqCst) {
            return;
        }
        runs.seal_once_more(row).await;
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use baton_protocol::message::{RunInfo, RunState};

    use super::super::testing::{Node, spec, within};
    use super::*;

    #[tokio::test]
    async fn a_result_that_could_not_be_sealed_is_sealed_at_a_later_start() {
        let node = Node::new();
        let info = node.run(spec(1, &["sh", "-c", "echo x > made; echo y > unsealable"])).await;
        let run = info.spec.run;
        assert_eq!((info.state, info.exit_code, info.result), (RunState::Failed, Some(0), None));
        // One that has a result is not asked for again.
        node.run(spec(2, &["true"])).await;
        let seals = || node.checkouts.seals.lock().unwrap().len();
        assert_eq!(seals(), 1);

        // What was in the way still is.
        let next = node.next_daemon();
        look_after_ended(next.runs.clone()).await;
        assert_eq!(next.runs.show("ann", run).await.unwrap(), info);

        let checkout = PathBuf::from(info.checkout.clone().unwrap());
        fs::remove_file(&checkout.join("unsealable")).unwrap();
        let next = node.next_daemon();
        next.runs.recover().await.unwrap();
        let sealed = within(async {
            loop {
                let info = next.runs.show("ann", run).await.unwrap();
                if info.result.is_some() {
                    break info;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(next.sealed(&sealed, "made"), b"x\n");
        let before = info.reason.clone().unwrap();
        assert_eq!(
            sealed.reason.as_ref().unwrap().strip_prefix(&before).unwrap(),
            "; sealed at a later start of the node"
        );
        // How it ended stays as it was.
        assert_eq!(
            sealed,
            RunInfo { result: sealed.result, reason: sealed.reason.clone(), ..info }
        );
        assert_eq!(next.checkouts.seals.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn what_is_not_there_any_more_is_not_sealed() {
        let node = Node::new();
        let info = node.run(spec(1, &["sh", "-c", "echo y > unsealable"])).await;
        fs::remove_dir_all(&PathBuf::from(info.checkout.clone().unwrap())).unwrap();
        let next = node.next_daemon();
        look_after_ended(next.runs.clone()).await;
        assert_eq!(next.runs.show("ann", info.spec.run).await.unwrap(), info);
        assert!(next.checkouts.seals.lock().unwrap().is_empty());
    }
}

//! Taking a run away.
//!
//! What it left stays in the store: other runs may start from there.
//!
//! **Invariant:** its row goes last. What a crash leaves of a run that was being taken away can be taken away again.

use std::error::Error;
use std::sync::PoisonError;

use baton_protocol::id::RunId;
use baton_protocol::message::RunInfo;
use baton_store::catalog::runs::RunRow;
use baton_store::checkout::remove_made;

use super::environment::Folders;
use super::refused::chain;
use super::{Runs, RunsError};

impl Runs {
    /// Takes a run away that has ended: its output, its checkout, and what is known of it; with the last run of a thread
    /// the thread's home. Runs that follow it up stay. Returns it as it was.
    pub async fn delete(&self, user: &str, run: RunId) -> Result<RunInfo, RunsError> {
        let (runs, owner) = (self.clone(), user.to_owned());
        let work = move || {
            let row = runs.begin_to_delete(&owner, run)?;
            let deleted = runs.delete_now(&row);
            runs.0.leaving().remove(&run);
            deleted.map(|()| row)
        };
        let row = self.blocking("run-delete", work).await??;
        tracing::info!(%run, user, "run deleted");
        self.sweep_soon();
        Ok(row.info)
    }

    /// From here on nobody goes on from it.
    fn begin_to_delete(&self, user: &str, run: RunId) -> Result<RunRow, RunsError> {
        let _one = self.0.creating.lock().unwrap_or_else(PoisonError::into_inner);
        let row = self.0.parts.catalog.run(user, run)?.ok_or(RunsError::NotFound(run))?;
        if self.live().contains_key(&run) || !row.info.state.is_final() {
            return Err(RunsError::Live(run));
        }
        if !self.0.leaving().insert(run) {
            return Err(RunsError::NotFound(run));
        }
        Ok(row)
    }

    fn delete_now(&self, row: &RunRow) -> Result<(), RunsError> {
        let (run, thread) = (row.info.spec.run, row.info.spec.thread);
        let catalog = &self.0.parts.catalog;
        let folders = Folders::of(&self.0.options.folder, run);
        self.not_looked_at(&folders);
        let failed = |error: &dyn Error| RunsError::NotDeleted { run, why: chain(error) };
        let (checkout, layer) = (folders.checkout(), folders.layer());
        let is_there = self.0.parts.checkouts.is_there(&checkout, &layer);
        if is_there && catalog.unsealed_runs()?.iter().any(|row| row.info.spec.run == run) {
            return Err(RunsError::Unsealed { run, checkout });
        }
        if is_there {
            self.0.parts.checkouts.release(&checkout, &layer).map_err(|error| failed(&error))?;
        }
        if folders.root().symlink_metadata().is_ok() {
            remove_made(folders.root()).map_err(|error| failed(&error))?;
        }
        if !catalog.has_other_runs_of(row.vault, thread, run)? {
            self.forget_home(row.vault, thread).map_err(|error| failed(&error))?;
        }
        catalog.delete_run(&row.user, run)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::ThreadId;
    use baton_protocol::message::{RefusalCode, RunSpec, RunState};

    use super::super::testing::{Node, spec, within};

    #[tokio::test]
    async fn a_run_that_has_ended_is_taken_away_with_all_that_is_its_own() {
        let node = Node::new();
        let info = node.run(spec(1, &["sh", "-c", "echo x > made"])).await;
        let run = info.spec.run;
        let next = RunSpec { parent: Some(run), ..spec(2, &["true"]) };
        node.run(next.clone()).await;
        let foreign = node.runs.delete("bob", run).await.unwrap_err();
        assert_eq!(foreign.refusal().code, RefusalCode::NotFound);
        assert_eq!(node.runs.delete("ann", run).await.unwrap(), info);
        let folder = node.folder.path().join("runs").join(run.to_string());
        assert!(!folder.exists());
        let gone = node.runs.show("ann", run).await.unwrap_err();
        assert_eq!(gone.refusal().code, RefusalCode::NotFound);
        let home = node.folder.path().join("runs/homes").join(node.vault.to_string());
        assert!(home.join(info.spec.thread.to_string()).join("home").is_dir());
        // What it left is there, and so is who went on with it.
        assert_eq!(node.sealed(&info, "made"), b"x\n");
        let all = node.runs.list("ann").await.unwrap();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].spec.parent, Some(run));
        let last = RunSpec { parent: Some(next.run), ..spec(3, &["true"]) };
        assert_eq!(node.run(last).await.state, RunState::Succeeded);
        let next = node.next_daemon();
        next.runs.recover().await.unwrap();
        let left = next.runs.list("ann").await.unwrap();
        assert_eq!(left.len(), 2);
        for info in left {
            assert!(home.join(info.spec.thread.to_string()).is_dir());
            next.runs.delete("ann", info.spec.run).await.unwrap();
        }
        // The home goes with the last run of its thread.
        assert!(!home.join(info.spec.thread.to_string()).exists());
    }

    #[tokio::test]
    async fn what_goes_on_from_a_run_elsewhere_is_one_in_its_thread() {
        let node = Node::new();
        let parent = Some(spec(9, &["true"]).run);
        let first = RunSpec { parent, ..spec(1, &["true"]) };
        assert_eq!(node.run(first.clone()).await.state, RunState::Succeeded);
        let second = RunSpec { parent, ..spec(2, &["true"]) };
        let refused = node.runs.create("ann", node.vault, second).await.unwrap_err().refusal();
        assert_eq!(refused.code, RefusalCode::Conflict, "{refused}");
        let thread = ThreadId::from_bytes([1; 16]);
        let fork = RunSpec { parent, thread, ..spec(3, &["true"]) };
        assert_eq!(node.run(fork).await.state, RunState::Succeeded);
    }

    #[tokio::test]
    async fn nobody_goes_on_from_what_is_being_taken_away() {
        let node = Node::new();
        let info = node.run(spec(1, &["true"])).await;
        let run = info.spec.run;
        node.runs.begin_to_delete("ann", run).unwrap();
        let next = RunSpec { parent: Some(run), ..spec(2, &["true"]) };
        let refused = node.runs.create("ann", node.vault, next.clone()).await.unwrap_err();
        assert_eq!(refused.refusal().code, RefusalCode::NotFound);
        let twice = node.runs.delete("ann", run).await.unwrap_err();
        assert_eq!(twice.refusal().code, RefusalCode::NotFound);
        node.runs.0.leaving().clear();
        assert_eq!(node.run(next).await.state, RunState::Succeeded);
    }

    #[tokio::test]
    async fn what_is_in_no_snapshot_is_not_taken_away() {
        let node = Node::new();
        let info = node.run(spec(1, &["sh", "-c", "echo x > made; echo y > unsealable"])).await;
        assert_eq!(info.result, None);
        let refused = node.runs.delete("ann", info.spec.run).await.unwrap_err().refusal();
        assert_eq!(refused.code, RefusalCode::Conflict);
        assert!(refused.message.contains("in no snapshot"), "{refused}");
        let checkout = std::path::PathBuf::from(info.checkout.unwrap());
        assert!(checkout.join("made").exists());
    }

    #[tokio::test]
    async fn a_live_run_is_not_taken_away() {
        let node = Node::new();
        let asked = spec(1, &["sleep", "300"]);
        node.start(asked.clone()).await;
        let refused = node.runs.delete("ann", asked.run).await.unwrap_err().refusal();
        assert_eq!(refused.code, RefusalCode::Conflict);
        assert!(refused.message.contains("cancel it first"), "{refused}");
        let info = within(node.runs.cancel("ann", asked.run)).await.unwrap();
        assert_eq!(info.state, RunState::Cancelled);
        node.runs.delete("ann", asked.run).await.unwrap();
    }
}

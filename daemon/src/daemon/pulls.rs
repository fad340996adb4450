//! What a run left, in a folder of its own: a linked worktree beside the checkout that it came from, or where the user
//! says.
//!
//! **Invariant:** nothing of a checkout changes: what comes has a folder and, in a repository, a branch of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::id::{SnapshotId, WorkspaceId};
use baton_protocol::object::Snapshot;
use baton_store::checkout::{RestoreOptions, Restored, restore_linked};
use baton_store::git::{self, LinkPlace, Linked};
use baton_store::scan;
use baton_store::snapshot::load_snapshot;

use super::Daemon;
use super::conversations::GoesOn;
use super::failure::Fail;
use super::report::{self, to_path};
use super::transfer::with_progress;
use crate::api::control::{Answer, Bytes, PullAnswer, PullCall, Receipt};
use crate::api::socket::EventSender;
use crate::workspace::Workspaces;

/// Names that are tried for a folder.
const MAX_NAMES: usize = 1000;

impl Daemon {
    pub(super) async fn pull(
        self: &Arc<Self>,
        call: PullCall,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, info) = self.find_run(&call.run, events).await?;
        let info = self.up_to_now(&target, info, events).await?;
        let live = !info.state.is_final();
        // A run that has left nothing yet stands where it started.
        let result = info.result.unwrap_or(info.spec.snapshot);
        self.fetch_from(&target, result, events).await?;
        let (isolated, name) = (Some(info.isolated), info.spec.run.short());
        // What a run left is nothing that was asked for, also where another one goes on from it.
        let asked = self.begun_with(&target, &info).await.ok();
        let (mut branch, mut refs) = (None, Vec::new());
        let (root, restored, receipt) = if let Some(into) = call.into.map(to_path) {
            let to = (asked, isolated);
            let (restored, receipt) = self.write_out(result, into.clone(), to, events).await?;
            (into, restored, receipt)
        } else {
            let (workspace, here) = (info.spec.workspace, call.here.map(to_path));
            let short = name.clone();
            let (checkout, linked) = self
                .blocking("checkout", move |daemon| {
                    daemon.checkout_beside(workspace, result, here, &short)
                })
                .await?;
            let place = free_place(&checkout, &name)?;
            if linked {
                let progress = Arc::new(scan::Progress::default());
                let (watched, to) = (Arc::clone(&progress), place.clone());
                let work = self.blocking("pull", move |daemon| {
                    daemon.link((result, asked), (&checkout, &to), (&name, isolated), &progress)
                });
                let (restored, receipt, linked) =
                    with_progress(work, &watched, "pull", events).await?;
                branch = Some(linked.branch().to_owned());
                refs =
                    linked.refs().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
                (place, restored, receipt)
            } else {
                let to = (asked, isolated);
                let (restored, receipt) = self.write_out(result, place.clone(), to, events).await?;
                (place, restored, receipt)
            }
        };
        tracing::info!(snapshot = %result, files = restored.files, "pulled");
        let GoesOn { resume: resume_command, imports: import_commands, omitted } =
            self.go_on(result, root.clone(), call.agents, events).await;
        Ok(Answer::Pull(Box::new(PullAnswer {
            root: root.to_string_lossy().into_owned(),
            branch,
            refs,
            snapshot: result.to_string(),
            live,
            files: restored.files,
            bytes: restored.bytes,
            applied: Vec::new(),
            merged: Vec::new(),
            conflicts: Vec::new(),
            skipped: [report::omitted(&restored.not_carried), omitted].concat(),
            resume_command,
            import_commands,
            undo: None,
            receipt,
        })))
    }

    /// The checkout beside which a run's result belongs, and whether that becomes a linked worktree of its repository:
    /// the checkout of the workspace, else `here` if it has a part of the history.
    fn checkout_beside(
        &self,
        workspace: WorkspaceId,
        result: SnapshotId,
        here: Option<PathBuf>,
        run: &str,
    ) -> Result<(PathBuf, bool), Fail> {
        let loaded = load_snapshot(&self.workspaces.vault, result)?;
        let known = self.catalog.workspace(workspace)?.map(|known| to_path(Bytes(known.root)));
        if let Some(root) = known.filter(|root| root.is_dir()) {
            // Another one may have been cloned to the same place.
            let linked = self.relation(&loaded, &root).unwrap_or(true) && has_repository(&root);
            return Ok((root, linked && loaded.git.is_some()));
        }
        if let Some(here) = here
            && self.relation(&loaded, &here) == Some(true)
        {
            return Ok((here, true));
        }
        let what = format!(
            "this home has no checkout of the workspace of run {run}, and the current folder has no commit of it"
        );
        Err(Fail::new("no-checkout", what).hint(format!("baton pull {run} --into DIR")))
    }

    /// Whether a folder is the worktree of a repository that has commits of a snapshot's; nothing where that has none.
    fn relation(&self, snapshot: &Snapshot, here: &Path) -> Option<bool> {
        let Workspaces { vault, git: Some(git), scratch, .. } = &self.workspaces else {
            return Some(false);
        };
        let (Some(state), true) = (snapshot.git, has_repository(here)) else { return Some(false) };
        git::is_related(vault, state, here, git, scratch).unwrap_or_else(|error| {
            tracing::debug!(%error, "another repository");
            Some(false)
        })
    }

    fn link(
        &self,
        (id, asked): (SnapshotId, Option<SnapshotId>),
        (checkout, place): (&Path, &Path),
        (name, isolated): (&str, Option<bool>),
        progress: &scan::Progress,
    ) -> Result<(Restored, Receipt, Linked), Fail> {
        let vault = &self.workspaces.vault;
        let loaded = load_snapshot(vault, id)?;
        let repository = self.repository_options(id, asked)?;
        let at = LinkPlace { checkout, place, name };
        let options = RestoreOptions::default();
        let (restored, linked) =
            restore_linked(vault, &loaded, at, &options, &repository, progress).map_err(
                |error| {
                    let into = format!("baton pull {name} --into DIR");
                    let fail = Fail::from(error);
                    if fail.0.hint.is_some() { fail } else { fail.hint(into) }
                },
            )?;
        let mut receipt = report::receipt(vault, id, &loaded, &restored.not_carried, isolated)?;
        report::linked(&mut receipt, &linked);
        Ok((restored, receipt, linked))
    }
}

fn has_repository(root: &Path) -> bool {
    root.join(".git").symlink_metadata().is_ok()
}

/// A folder beside a checkout that is not there yet.
fn free_place(checkout: &Path, name: &str) -> Result<PathBuf, Fail> {
    let own = checkout.file_name().map(|own| own.to_string_lossy().into_owned());
    let own = own.unwrap_or_else(|| "checkout".into());
    let above = checkout.parent().unwrap_or(checkout);
    let numbered = (2..MAX_NAMES).map(|number| format!("{own}-handoff-{name}-{number}"));
    std::iter::once(format!("{own}-handoff-{name}"))
        .chain(numbered)
        .map(|folder| above.join(folder))
        .find(|folder| folder.symlink_metadata().is_err())
        .ok_or_else(|| {
            let what = format!("there are too many folders of run {name} in {}", above.display());
            Fail::new("target-not-empty", what).hint(format!("baton pull {name} --into DIR"))
        })
}

//! What a run left, merged into a checkout; and putting that back.
//!
//! The checkout is sealed first: that snapshot is the state that is merged with, and the safety copy.
//!
//! **Invariant:** one apply to a workspace at a time, and one that was cut off is gone on with before any other.

use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use baton_protocol::id::{ApplyId, MIN_PREFIX, SnapshotId, WorkspaceId};
use baton_protocol::message::RunInfo;
use baton_protocol::path::RelPath;
use baton_store::apply::{
    Applied, Applies, ApplyError, CheckoutRules, Done, Known, MAX_TEXT, PlanOptions, Record,
    RepositoryDone, Request, Root, Stage, Trees, merge_entry, plan,
};
use baton_store::catalog::history::Pin;
use baton_store::checkout::RestoreOptions;
use baton_store::git::{self, Arrival, ArrivalOptions, GitError};
use baton_store::scan::Progress;
use baton_store::snapshot::{load_omissions, load_snapshot};

use super::applied::{answer_of, fail_of, interrupted, reason_of, tell};
use super::brought::{self, PlannedRepository};
use super::failure::{Fail, chain};
use super::remotes::only;
use super::report::to_path;
use super::transfer::with_progress;
use super::{Daemon, report};
use crate::api::apply::{ApplyAnswer, ApplyCall, KeptRef, OnlyPath, UndoAnswer};
use crate::api::control::{Answer, Bytes, OmittedEntry, ReportPath};
use crate::api::socket::EventSender;
use crate::workspace::{TakeOptions, Workspaces, random};

/// What is merged into which checkout.
struct Job {
    info: RunInfo,
    there: SnapshotId,
    root: PathBuf,
    only: Vec<RelPath>,
    markers: bool,
    dry_run: bool,
}

impl Daemon {
    pub(super) fn applies(&self) -> Applies {
        let Workspaces { git, scratch, .. } = &self.workspaces;
        Applies::new(&self.options.home.applies_dir()).with_git(git.clone(), scratch)
    }

    /// Goes on with what was cut off, and forgets what is over.
    pub(super) async fn resume_applies(self: &Arc<Self>) -> Result<(), Fail> {
        self.blocking("resume applies", |daemon| {
            daemon.forget_applies();
            match daemon.applies().list() {
                Ok(known) => {
                    let mut seen = HashSet::new();
                    for Known { record, .. } in known {
                        if !seen.insert(record.workspace) {
                            continue;
                        }
                        // What cannot be done now is tried again by the next command.
                        let root = daemon.root_of(&record);
                        let finished =
                            root.and_then(|root| daemon.finish_applies(record.workspace, &root));
                        if let Err(error) = finished {
                            tracing::warn!(apply = %record.id, error = %error.0.message, "not finished");
                        }
                    }
                }
                Err(error) => tracing::warn!(%error, "applies cannot be listed"),
            }
            Ok(())
        })
        .await
    }

    /// Forgets what came out of checkouts a week ago.
    fn forget_applies(&self) {
        match self.applies().purge(self.clock.now_ms()) {
            Ok(purged) => {
                for id in purged {
                    tracing::info!(apply = %id, "what came out of a checkout is forgotten");
                }
            }
            Err(error) => tracing::warn!(%error, "old applies stay"),
        }
    }

    /// Where the checkout that was changed is now.
    fn root_of(&self, record: &Record) -> Result<PathBuf, Fail> {
        let known = self.catalog.workspace(record.workspace)?;
        Ok(known.map_or_else(|| record.root.clone(), |known| to_path(Bytes(known.root))))
    }

    /// Goes on with every apply to a workspace that was cut off. One to another folder, which was there before
    /// this one, stays as it is.
    fn finish_applies(&self, workspace: WorkspaceId, root: &Path) -> Result<(), Fail> {
        let applies = self.applies();
        for Known { record, .. } in applies.list()? {
            if record.workspace != workspace {
                continue;
            }
            let _lock = applies.lock(workspace)?;
            match applies.resume(&self.workspaces.vault, record.id, root) {
                Ok(None) => {}
                Ok(Some(_)) => tracing::info!(apply = %record.id, "went on with an apply"),
                Err(error @ ApplyError::OtherCheckout { .. }) => {
                    tracing::warn!(apply = %record.id, %error, "an apply stays half done");
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) async fn apply(
        self: &Arc<Self>,
        call: ApplyCall,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let (target, info) = self.find_run(&call.run, events).await?;
        let mut info = self.up_to_now(&target, info, events).await?;
        let path = call.path.map(to_path);
        let (workspace, run) = (info.spec.workspace, info.spec.run.short());
        let root = self
            .blocking("checkout", move |daemon| daemon.checkout_of(workspace, path, &run))
            .await?;
        let only = call.only.iter().map(|path| below(&root, path)).collect::<Result<_, _>>()?;
        // A run that has left nothing yet stands where it started.
        let there = info.result.unwrap_or(info.spec.snapshot);
        // All of what the thread did since is brought, and not only its last part.
        info.spec.snapshot = self.begun_with(&target, &info).await?;
        self.fetch_from(&target, info.spec.snapshot, events).await?;
        self.fetch_from(&target, there, events).await?;
        let job = Job { info, there, root, only, markers: call.markers, dry_run: call.dry_run };
        let progress = Arc::new(Progress::default());
        let watched = Arc::clone(&progress);
        let work = self.blocking("apply", move |daemon| daemon.apply_here(&job, &progress));
        let (answer, notes) = with_progress(work, &watched, "apply", events).await?;
        for note in notes {
            events.note(note).await;
        }
        Ok(Answer::Applied(Box::new(answer)))
    }

    /// The root of the checkout that is meant.
    fn checkout_of(
        &self,
        workspace: WorkspaceId,
        path: Option<PathBuf>,
        run: &str,
    ) -> Result<PathBuf, Fail> {
        let elsewhere = format!("baton pull {run} --into DIR");
        let Some(path) = path else {
            let Some(known) = self.catalog.workspace(workspace)? else {
                let what = format!("this home has no checkout of the workspace of run {run}");
                return Err(Fail::new("no-checkout", what).hint(elsewhere));
            };
            let root = to_path(Bytes(known.root));
            if !root.is_dir() {
                let what =
                    format!("the checkout of run {run} was in {}, which is gone", root.display());
                let hint =
                    format!("baton pull {run} --apply PATH, where it is now; or {elsewhere}");
                return Err(Fail::new("no-checkout", what).hint(hint));
            }
            return Ok(root);
        };
        if self.workspaces.find_moved(&path)?.is_some_and(|found| found.id == workspace) {
            return Ok(path);
        }
        let what = format!(
            "{} is a checkout of another workspace than the one of run {run}",
            path.display()
        );
        let hint = match self.catalog.workspace(workspace)? {
            Some(known) => format!(
                "baton pull {run} --apply {}; or {elsewhere}",
                String::from_utf8_lossy(&known.root)
            ),
            None => elsewhere,
        };
        Err(Fail::new("other-workspace", what).hint(hint))
    }

    fn apply_here(
        &self,
        job: &Job,
        progress: &Progress,
    ) -> Result<(ApplyAnswer, Vec<String>), Fail> {
        let Job { info, there, root, only, .. } = job;
        let (workspace, vault) = (info.spec.workspace, &self.workspaces.vault);
        let applies = self.applies();
        // A disk that is not mounted is not an empty checkout.
        self.workspaces.check_place(workspace, root).map_err(|error| {
            Fail::new("no-checkout", chain(&error))
                .hint("see whether its disk is mounted, and try again; nothing was changed")
        })?;
        // A dry run writes nothing, here and in the home: what was cut off stays so, and is in its way.
        let _lock = if job.dry_run {
            if let Some(id) = applies.unfinished(workspace, root)? {
                return Err(ApplyError::Unfinished(id).into());
            }
            None
        } else {
            self.forget_applies();
            self.finish_applies(workspace, root)?;
            let lock = applies.lock(workspace)?;
            if let Err(error) = applies.sweep_repository(root, self.clock.now_ms()) {
                tracing::warn!(%error, "objects of an apply that was cut off may be left");
            }
            Some(lock)
        };
        let base = load_snapshot(vault, info.spec.snapshot)?;
        let result = load_snapshot(vault, *there)?;
        if base.workspace != workspace || result.workspace != workspace {
            let what =
                format!("the result of run {} is of another workspace", info.spec.run.short());
            return Err(Fail::new("other-workspace", what).hint("baton runs"));
        }
        let taken = self.workspaces.take_beside(
            workspace,
            root,
            &TakeOptions::default(),
            progress,
            None,
        )?;
        // What a plan is compared with is kept as any look at the tree is.
        if !job.dry_run {
            self.acks.pin(workspace, taken.id, Pin::Snapshot);
        }
        // All that is told must be there before the first write.
        let receipt = report::receipt(vault, *there, &result, &[], Some(info.isolated))?;
        let mut answer = answer_of((info, *there), root, taken.id, receipt);
        let root_of = |snapshot: &baton_protocol::object::Snapshot| Root {
            tree: snapshot.root,
            mode: snapshot.root_mode,
        };
        let id = ApplyId::from_bytes(random()?);
        let (aside, run) = (id.to_string(), info.spec.run.short());
        let (arrival, not_come) = match &self.workspaces.git {
            Some(git) => git::arrive(
                vault,
                ArrivalOptions {
                    git,
                    scratch: &self.workspaces.scratch,
                    base: base.git,
                    there: result.git,
                    checkout: root,
                    run: &run,
                    // Of a dry run nothing comes into the repository.
                    aside: (!job.dry_run).then_some(aside.as_str()),
                },
            )
            .map_err(|error| fail_of(error.into(), &run))?,
            None if base.git != result.git => (None, PlannedRepository::without_git()),
            None => (None, Vec::new()),
        };
        let trees =
            Trees { base: root_of(&base), here: root_of(&taken.snapshot), there: root_of(&result) };
        let options = PlanOptions {
            only: only.clone(),
            markers: job.markers.then(|| ("here".to_owned(), format!("run {run}"))),
            not_sealed: taken.omitted.clone(),
            not_carried: load_omissions(vault, &result)?,
            rules: Some(CheckoutRules {
                root: root.clone(),
                git_user: self.workspaces.git_user.clone(),
                exclude: self.workspaces.exclude.clone(),
            }),
            tracked: arrival.as_ref().map(Arrival::tracked).unwrap_or_default(),
        };
        let intake = vault.intake();
        let plan =
            plan(&intake, &trees, &options, progress).map_err(|error| fail_of(error, &run))?;
        let brought = arrival.map(|arrival| {
            let options = plan.bring_options(only, job.markers);
            let brought = arrival.plan(&options, MAX_TEXT, merge_entry)?;
            Ok::<_, GitError>((arrival, brought))
        });
        let brought = brought.transpose().map_err(|error| fail_of(error.into(), &run))?;
        let of_git = brought.as_ref().map(|(_, brought)| brought);
        let planned = (&plan, &PlannedRepository::new(of_git, not_come));
        let mut notes = taken.notes.clone();
        for path in &plan.unmatched {
            notes.push(format!("run {run} changed nothing at {}", path.display()));
        }
        if job.dry_run {
            let (done, late) = (Vec::new(), Vec::new());
            let applied = Applied { id: None, done, late, shelf: None, repository: None };
            tell(&mut answer, planned, &applied);
            "dry-run".clone_into(&mut answer.state);
            return Ok((answer, notes));
        }
        if !plan.made.is_empty() {
            intake.keep(&plan.made)?;
        }
        let request = Request {
            id,
            workspace,
            root: root.clone(),
            safety: taken.id,
            there: *there,
            now_ms: self.clock.now_ms(),
        };
        match applies.apply(vault, &request, &plan, brought, RestoreOptions::default(), progress) {
            Ok(applied) => tell(&mut answer, planned, &applied),
            // What is known is told, and above all how it is put back.
            Err(error @ ApplyError::Interrupted { id, .. }) => {
                let (done, late) = (vec![Done::Waiting; plan.steps.len()], Vec::new());
                let (id, repository) = (Some(id), Some(RepositoryDone::interrupted()));
                let applied = Applied { id, done, late, shelf: None, repository };
                tell(&mut answer, planned, &applied);
                interrupted(&mut answer, error);
            }
            Err(error) => return Err(fail_of(error, &run)),
        }
        tracing::info!(run = %info.spec.run, steps = plan.steps.len(), safety = %taken.id, "applied");
        Ok((answer, notes))
    }

    pub(super) async fn undo(
        self: &Arc<Self>,
        id: Option<String>,
        path: Bytes,
    ) -> Result<Answer, Fail> {
        let answer = self.blocking("undo", move |daemon| {
            let applies = daemon.applies();
            let known = applies.list()?;
            let id = match id {
                Some(digits) => named(&known, &digits)?,
                None => daemon.last_apply(&known, &to_path(path))?,
            };
            let Some(known) = known.iter().find(|known| known.record.id == id) else {
                return Err(ApplyError::Unknown(id).into());
            };
            let workspace = known.record.workspace;
            let root = daemon.root_of(&known.record)?;
            // One that is on its way is put back from where it is.
            if !matches!(known.stage, Stage::Begun | Stage::Undoing) {
                daemon.finish_applies(workspace, &root)?;
            }
            let _lock = applies.lock(workspace)?;
            let undone = applies.undo(&daemon.workspaces.vault, id, &root)?;
            tracing::info!(apply = %id, restored = undone.restored.len(), kept = undone.kept.len(), "undone");
            let named = |(name, _): &(Vec<u8>, Done)| String::from_utf8_lossy(name).into_owned();
            let kept = undone.kept.iter().map(|(path, done)| OmittedEntry {
                path: ReportPath::new(path.as_bytes()),
                reason: reason_of(*done).to_owned(),
            });
            Ok(UndoAnswer {
                undo: id.to_string(),
                root: undone.record.root.to_string_lossy().into_owned(),
                restored: undone.restored.iter().map(|path| ReportPath::new(path.as_bytes())).collect(),
                kept: kept.collect(),
                displaced: Some(undone.shelf.to_string_lossy().into_owned()),
                index: undone.index.map(|done| {
                    if done.is_so() { "restored" } else { "kept" }.to_owned()
                }),
                refs: undone.refs.iter().filter(|(_, done)| done.is_so()).map(named).collect(),
                refs_kept: undone
                    .refs
                    .iter()
                    .filter(|(_, done)| !done.is_so())
                    .map(|one| KeptRef {
                        name: named(one),
                        reason: brought::reason_of(one.1).to_owned(),
                    })
                    .collect(),
            })
        });
        Ok(Answer::Undone(Box::new(answer.await?)))
    }

    /// The last apply to the workspace of a folder that was not put back.
    fn last_apply(&self, known: &[Known], path: &Path) -> Result<ApplyId, Fail> {
        let workspace = self.workspaces.find_moved(path)?.map(|found| found.id);
        let last = known.iter().find(|known| {
            Some(known.record.workspace) == workspace
                && !matches!(known.stage, Stage::Planned | Stage::Undone)
        });
        last.map(|known| known.record.id).ok_or_else(|| {
            let what = format!("nothing was applied to {} that could be put back", path.display());
            let other = known
                .iter()
                .find(|known| !matches!(known.stage, Stage::Planned | Stage::Undone))
                .map(|known| (known.record.id.short(), known.record.root.display()));
            let hint = other.map_or_else(
                || "baton runs lists what can be applied".to_owned(),
                |(id, root)| format!("baton undo {id}, for what was applied to {root}"),
            );
            Fail::new("nothing-to-undo", what).hint(hint)
        })
    }
}

/// The apply that an id or a prefix means.
fn named(known: &[Known], digits: &str) -> Result<ApplyId, Fail> {
    let fits = |known: &&Known| {
        digits.len() >= MIN_PREFIX && known.record.id.to_string().starts_with(digits)
    };
    let found: Vec<_> = known.iter().filter(fits).map(|known| known.record.id).collect();
    only(&found, "apply", digits, "baton undo, for the last one")
}

/// A path that was typed, below the root of the checkout.
fn below(root: &Path, path: &OnlyPath) -> Result<RelPath, Fail> {
    let absolute = to_path(path.absolute.clone());
    let typed = to_path(path.typed.clone());
    let inside = match absolute.strip_prefix(root) {
        Ok(inside) => inside.to_owned(),
        // Typed elsewhere it is meant from the root.
        Err(_) => typed.components().filter(|part| *part != Component::CurDir).collect(),
    };
    RelPath::new(inside.as_os_str().as_bytes()).map_err(|error| {
        let what =
            format!("{} is not in the checkout {}: {error}", typed.display(), root.display());
        Fail::new("not-in-checkout", what).hint("name paths of the checkout").exit(2)
    })
}

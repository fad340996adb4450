//! The applies of a home: made, gone on with, and forgotten after a week.
//!
//! **Invariant:** a plan is durable before anything is staged, and that it was begun before the first write. Of
//! one that was planned and never begun nothing is left; one that was begun is gone on with to its end.

use std::fs::File;
use std::path::{Path, PathBuf};

use baton_protocol::id::{ApplyId, SnapshotId, WorkspaceId};
use baton_protocol::path::RelPath;
use rustix::fs::FlockOperation;

use super::git::{GitLock, check_git, let_go_of_noted};
use super::ground::Ground;
use super::journal::{Done, Folder, Record, Stage};
use super::plan::{Plan, Step};
use super::preflight::{Preflight, preflight};
use super::record::RepositoryChange;
use super::repository::{Repository, RepositoryDone, Tools};
use super::shelf::{Pass, Shelf, choose_area, remove_area};
use super::writing::{Writing, needs_staging};
use super::{ApplyError, KEPT_MS, crash};
use crate::checkout::RestoreOptions;
use crate::fs;
use crate::git::{Arrival, Brought, GitProgram};
use crate::objects::ObjectSource;
use crate::scan::Progress;

/// What the name of a record ends with that is being forgotten.
const GONE: &str = "gone";

/// Which checkout a plan is for.
#[derive(Clone, Debug)]
pub struct Request {
    /// A new id.
    pub id: ApplyId,
    /// Of which workspace it is.
    pub workspace: WorkspaceId,
    /// Its root: absolute, and no link.
    pub root: PathBuf,
    /// The snapshot of it as it is now, durable.
    pub safety: SnapshotId,
    /// What is applied.
    pub there: SnapshotId,
    /// The time, in milliseconds since 1970.
    pub now_ms: u64,
}

/// What was done.
#[derive(Clone, Debug)]
pub struct Applied {
    /// By which it is put back; nothing where there was nothing to do.
    pub id: Option<ApplyId>,
    /// What became of each step of the plan, in its order.
    pub done: Vec<Done>,
    /// What was written to after it had come out of the checkout, by whoever had it open: it is on the shelf.
    pub late: Vec<RelPath>,
    /// Where what came out is.
    pub shelf: Option<PathBuf>,
    /// What became of the repository; nothing where that was not to change.
    pub repository: Option<RepositoryDone>,
}

/// An apply that is known.
#[derive(Clone, Debug)]
pub struct Known {
    /// What it is.
    pub record: Record,
    /// How far it is.
    pub stage: Stage,
}

/// The applies of a home.
#[derive(Clone, Debug)]
pub struct Applies {
    pub(super) folder: PathBuf,
    /// Without it no repository is changed.
    pub(super) tools: Option<Tools>,
}

/// No other apply to the workspace until this is dropped.
#[derive(Debug)]
pub struct ApplyLock(File);

impl Drop for ApplyLock {
    fn drop(&mut self) {
        // A child that is being started has the descriptor too; where this fails, closing is what remains.
        let _closed_then = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

impl Applies {
    /// Those that are kept in a folder, which need not be there yet.
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), tools: None }
    }

    /// The same, which change repositories, too; `scratch` is a folder for what git needs for a moment.
    #[must_use]
    pub fn with_git(mut self, git: Option<GitProgram>, scratch: &Path) -> Self {
        self.tools = git.map(|git| Tools { git, scratch: scratch.to_owned() });
        self
    }

    /// Takes a workspace for one apply.
    pub fn lock(&self, workspace: WorkspaceId) -> Result<ApplyLock, ApplyError> {
        fs::create_dir_all(&self.folder)?;
        let file = fs::open_append(&self.folder.join(format!("{workspace}.lock")))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(ApplyLock(file)),
            Err(_) => Err(ApplyError::Locked),
        }
    }

    /// Every apply that is known, the newest first. What is damaged is left out, and logged.
    pub fn list(&self) -> Result<Vec<Known>, ApplyError> {
        let mut found = Vec::new();
        for name in fs::list_dir(&self.folder)? {
            let Some(id) = name.to_str().and_then(|name| name.parse::<ApplyId>().ok()) else {
                continue;
            };
            let folder = self.folder(id);
            match folder.record().and_then(|record| Ok((record, folder.stage()?))) {
                Ok((Some(record), stage)) => found.push(Known { record, stage }),
                Ok((None, _)) => {}
                Err(error) => tracing::warn!(%id, %error, "an apply that cannot be read"),
            }
        }
        found.sort_by_key(|known| std::cmp::Reverse((known.record.created_at, known.record.id)));
        Ok(found)
    }

    /// One to the checkout that is at `root` now, which was cut off and is not finished.
    pub fn unfinished(
        &self,
        workspace: WorkspaceId,
        root: &Path,
    ) -> Result<Option<ApplyId>, ApplyError> {
        self.unfinished_at(workspace, &Ground::open(root)?)
    }

    fn unfinished_at(
        &self,
        workspace: WorkspaceId,
        ground: &Ground,
    ) -> Result<Option<ApplyId>, ApplyError> {
        // One to a folder that was here before is not in the way.
        let unfinished = |known: &Known| {
            known.record.workspace == workspace
                && known.record.place == ground.place()
                && matches!(known.stage, Stage::Begun | Stage::Undoing)
        };
        Ok(self.list()?.iter().find(|known| unfinished(known)).map(|known| known.record.id))
    }

    /// Carries a plan out, and with it what becomes of the repository. Everything that they need is read and verified
    /// first.
    ///
    /// The caller has the [lock](Self::lock), and merged texts of the plan are durable. The objects that came wait under
    /// the id of the request.
    pub fn apply<S: ObjectSource + ?Sized>(
        &self,
        source: &S,
        request: &Request,
        plan: &Plan,
        repository: Option<(Arrival<'_>, Brought)>,
        options: RestoreOptions,
        progress: &Progress,
    ) -> Result<Applied, ApplyError> {
        let mut ground = Ground::open(&request.root)?;
        if let Some(id) = self.unfinished_at(request.workspace, &ground)? {
            return Err(ApplyError::Unfinished(id));
        }
        check_git(&request.root, request.id)?;
        let Preflight { tight, held } = preflight(&mut ground, &plan.steps)?;
        let numbers: Vec<usize> =
            (0..plan.steps.len()).filter(|at| !held.contains_key(at)).collect();
        let steps: Vec<Step> =
            numbers.iter().filter_map(|&number| plan.steps.get(number).cloned()).collect();
        let mut all: Vec<Done> = vec![Done::Waiting; plan.steps.len()];
        for (&number, &done) in &held {
            if let Some(place) = all.get_mut(number) {
                *place = done;
            }
        }
        let repository = repository.filter(|(_, brought)| !brought.is_empty());
        if steps.is_empty() && repository.is_none() {
            let (id, late, shelf, repository) = (None, Vec::new(), None, None);
            return Ok(Applied { id, done: all, late, shelf, repository });
        }
        let held: Vec<&RelPath> =
            held.keys().filter_map(|&at| plan.steps.get(at)).map(|step| &step.path).collect();
        let folder = self.folder(request.id);
        fs::create_dir_all(&self.folder)?;
        let own = folder.0.join("area");
        let record = Record {
            id: request.id,
            workspace: request.workspace,
            created_at: request.now_ms,
            root: request.root.clone(),
            place: ground.place(),
            safety: request.safety,
            there: request.there,
            area: choose_area(&ground, &own, &request.id.to_string())?,
            tight,
            held: Vec::new(),
            steps,
        };
        let begun = begin(source, &mut ground, (&folder, &record), options, progress);
        let begun = begun.and_then(|(shelf, lock)| {
            let repository = repository
                .map(|work| Repository::begin(work, &folder, request.id, &held))
                .transpose()?;
            folder.note(Stage::Begun, &[])?;
            Ok((shelf, lock, repository))
        });
        let (shelf, lock, repository) = match begun {
            Ok(begun) => begun,
            Err(error) => {
                // Nothing was written yet. The failure that is told is the first one.
                if let Err(left) = self.drop_record(&record) {
                    tracing::warn!(%left, "an apply that was not begun left files");
                }
                return Err(error);
            }
        };
        let interrupted = |error: ApplyError| error.on_its_way(request.id);
        let writing = Writing::new((&mut ground, &shelf), &record.steps, &record.tight);
        let ended = lock.during(|| {
            repository.as_ref().map_or(Ok(()), Repository::let_in)?;
            let (done, late) = writing.run()?;
            let mut left = left(&record.steps, &done);
            left.extend(&held);
            let repository = repository.as_ref().map(|it| it.write(&left)).transpose()?;
            Ok((done, late, repository))
        });
        let (done, late, repository) = ended.map_err(interrupted)?;
        finish(&folder, &shelf, Stage::Applied, &record.steps, (&done, repository.as_ref()))
            .map_err(interrupted)?;
        for (number, done) in numbers.into_iter().zip(done) {
            if let Some(place) = all.get_mut(number) {
                *place = done;
            }
        }
        let (id, shelf) = (Some(request.id), Some(shelf.out_path()));
        Ok(Applied { id, done: all, late, shelf, repository })
    }

    /// Goes on with one that was cut off, in the checkout that is at `root` now; nothing where there is nothing
    /// to go on with.
    pub fn resume<S: ObjectSource + ?Sized>(
        &self,
        source: &S,
        id: ApplyId,
        root: &Path,
    ) -> Result<Option<Known>, ApplyError> {
        let folder = self.folder(id);
        let Some(record) = folder.record()? else { return Ok(None) };
        match folder.stage()? {
            Stage::Planned => {
                self.drop_record(&record)?;
                return Ok(None);
            }
            Stage::Begun => {
                let record = record.moved(root);
                let repository = self.repository(&folder, &record)?;
                go_on(
                    source,
                    (&folder, &record),
                    repository.as_ref(),
                    (Pass::Apply, Stage::Applied),
                )?;
            }
            Stage::Undoing => {
                let record = folder.undo()?.moved(root);
                let repository = self.repository(&folder, &record)?;
                go_on(
                    source,
                    (&folder, &record),
                    repository.as_ref(),
                    (Pass::Undo, Stage::Undone),
                )?;
            }
            Stage::Applied | Stage::Undone => {
                // An undo was cut off before it was begun.
                let_go_of_noted(&folder, id)?;
                return Ok(None);
            }
        }
        let stage = folder.stage()?;
        Ok(Some(Known { record, stage }))
    }

    /// Forgets applies that ended longer ago than [`KEPT_MS`], and what came out of checkouts with them; those to a
    /// workspace that is in use stay until the next time.
    pub fn purge(&self, now_ms: u64) -> Result<Vec<ApplyId>, ApplyError> {
        self.sweep()?;
        let mut purged = Vec::new();
        for Known { record, stage } in self.list()? {
            if !matches!(stage, Stage::Applied | Stage::Undone) {
                continue;
            }
            let ended = self.folder(record.id).noted_at(stage)?.unwrap_or_default();
            if ended.max(record.created_at).saturating_add(KEPT_MS) > now_ms {
                continue;
            }
            match self.lock(record.workspace) {
                Ok(_lock) => self.drop_record(&record)?,
                Err(ApplyError::Locked) => continue,
                Err(error) => return Err(error),
            }
            purged.push(record.id);
        }
        Ok(purged)
    }

    /// The repository that an apply changes, which was begun; nothing where it changes none.
    pub(super) fn repository(
        &self,
        folder: &Folder,
        record: &Record,
    ) -> Result<Option<Repository>, ApplyError> {
        // Another folder may be in its place.
        drop(ground_of(record).map_err(|error| error.on_its_way(record.id))?);
        let opened = Repository::open(self.tools.as_ref(), folder, &record.root, record.id);
        opened.map_err(|error| error.on_its_way(record.id))
    }

    /// Takes away all that is known of an apply: first what its record leads to. The record loses its name as
    /// one step, since a part of it would tell of another stage.
    pub(super) fn drop_record(&self, record: &Record) -> Result<(), ApplyError> {
        let folder = self.folder(record.id);
        // What waits in the repository of one that was not begun goes; where that cannot be, git takes it away in time.
        if folder.stage()? == Stage::Planned
            && let (Some(tools), Ok(_)) = (&self.tools, ground_of(record))
            && record.root.join(".git").symlink_metadata().is_ok()
            && let Err(error) = Repository::forget(tools, &record.root, record.id)
        {
            tracing::warn!(%error, "an apply that was not begun left files in a repository");
        }
        let_go_of_noted(&folder, record.id)?;
        remove_area(&record.area)?;
        crash::point();
        let folder = folder.0;
        let gone = folder.with_extension(GONE);
        match fs::rename(&folder, &gone) {
            Err(error) if error.is_not_found() => return Ok(()),
            renamed => renamed?,
        }
        crash::point();
        Ok(fs::remove_dir_all(&gone)?)
    }

    /// Takes away what is left of records that were being forgotten.
    fn sweep(&self) -> Result<(), ApplyError> {
        for name in fs::list_dir(&self.folder)? {
            let path = self.folder.join(name);
            if path.extension().is_some_and(|extension| extension == GONE) {
                fs::remove_dir_all(&path)?;
            }
        }
        Ok(())
    }

    pub(super) fn folder(&self, id: ApplyId) -> Folder {
        Folder(self.folder.join(id.to_string()))
    }
}

/// Everything up to the last look.
fn begin<S: ObjectSource + ?Sized>(
    source: &S,
    ground: &mut Ground,
    (folder, record): (&Folder, &Record),
    options: RestoreOptions,
    progress: &Progress,
) -> Result<(Shelf, GitLock), ApplyError> {
    crash::point();
    folder.plan(record)?;
    crash::point();
    let shelf = Shelf::make(ground, &record.area, Pass::Apply)?;
    let staged: Vec<_> =
        record.steps.iter().enumerate().filter(|(_, step)| needs_staging(step)).collect();
    shelf.stage(source, &staged, (options, progress))?;
    let lock = GitLock::hold(&record.root, folder, record.id)?;
    Ok((shelf, lock))
}

/// Notes what became of the steps, and takes away what is not needed any more.
pub(super) fn finish(
    folder: &Folder,
    shelf: &Shelf,
    stage: Stage,
    steps: &[Step],
    (done, repository): (&[Done], Option<&RepositoryDone>),
) -> Result<(), ApplyError> {
    shelf.list(steps)?;
    let of_repository = repository.map(RepositoryDone::list).unwrap_or_default();
    folder.note(stage, &[done, &of_repository].concat())?;
    crash::point();
    shelf.clear(steps)
}

/// Paths at which something else is than there should be.
pub(super) fn left<'s>(steps: &'s [Step], done: &[Done]) -> Vec<&'s RelPath> {
    let left = steps.iter().zip(done).filter(|(_, done)| !done.is_so());
    left.map(|(step, _)| &step.path).collect()
}

/// The checkout that a record is of; where another folder is in its place, nothing is done there.
pub(super) fn ground_of(record: &Record) -> Result<Ground, ApplyError> {
    match Ground::open(&record.root) {
        Ok(ground) if ground.place() == record.place => Ok(ground),
        Err(error) if !matches!(&error, ApplyError::Fs(error) if error.is_not_found()) => {
            Err(error)
        }
        _ => Err(ApplyError::OtherCheckout { id: record.id, root: record.root.clone() }),
    }
}

/// Does what is left of a plan, unless git is at work.
fn go_on<S: ObjectSource + ?Sized>(
    source: &S,
    (folder, record): (&Folder, &Record),
    repository: Option<&Repository>,
    (pass, stage): (Pass, Stage),
) -> Result<(), ApplyError> {
    let on_its_way = |error: ApplyError| error.on_its_way(record.id);
    let ground = ground_of(record).map_err(on_its_way)?;
    let shelf = Shelf::open(&ground, &record.area, pass).map_err(on_its_way)?;
    let lock = GitLock::hold(&record.root, folder, record.id).map_err(on_its_way)?;
    let done = lock.during(|| {
        if pass == Pass::Apply {
            repository.map_or(Ok(()), Repository::let_in)?;
        }
        let done = do_the_rest(source, record, ground, &shelf)?;
        let of_repository = match pass {
            Pass::Apply => {
                repository.map(|it| it.write(&left(&record.steps, &done))).transpose()?
            }
            Pass::Undo => match repository {
                Some(it) => Some(it.put_back(&made(folder, it)?)?),
                None => None,
            },
        };
        Ok((done, of_repository))
    });
    let finished = done.and_then(|(done, of_repository)| {
        finish(folder, &shelf, stage, &record.steps, (&done, of_repository.as_ref()))
    });
    finished.map_err(on_its_way)
}

/// What an apply made of a repository.
pub(super) fn made(folder: &Folder, repository: &Repository) -> Result<RepositoryDone, ApplyError> {
    let steps = folder.record()?.map_or(0, |record| record.steps.len());
    made_of(folder, steps, &repository.change)
}

/// The same, of one of so many other steps.
pub(super) fn made_of(
    folder: &Folder,
    steps: usize,
    change: &RepositoryChange,
) -> Result<RepositoryDone, ApplyError> {
    let done = folder.done(Stage::Applied, steps + change.len())?;
    Ok(change.done_of(done.get(steps..).unwrap_or_default()))
}

fn do_the_rest<S: ObjectSource + ?Sized>(
    source: &S,
    record: &Record,
    mut ground: Ground,
    shelf: &Shelf,
) -> Result<Vec<Done>, ApplyError> {
    let mut writing = Writing::new((&mut ground, shelf), &record.steps, &record.tight);
    let staged = writing.settle().and_then(|()| writing.unstaged()).and_then(|staged| {
        let step = |number| Some((number, record.steps.get(number)?));
        let staged: Vec<_> = staged.into_iter().filter_map(step).collect();
        shelf.stage(source, &staged, (RestoreOptions::default(), &Progress::default()))
    });
    if let Err(error) = staged {
        // The failure that is told is the first one.
        if let Err(left) = writing.set_modes(false) {
            tracing::warn!(%left, "directories that were opened may be so still");
        }
        return Err(error);
    }
    Ok(writing.run()?.0)
}

//! Putting an apply back: the same steps the other way round, in a pass of their own.
//!
//! One that was cut off is not gone on with for that: what of it is done is looked for, and put back.
//!
//! **Invariant:** what was edited since is left, and told. Nothing is written before it is known how everything
//! will be put back, but what a crash had left out of its place.

use std::path::{Path, PathBuf};

use baton_protocol::id::ApplyId;
use baton_protocol::path::RelPath;

use super::ApplyError;
use super::applies::{Applies, finish, ground_of, made, made_of};
use super::git::{GitLock, check_git};
use super::journal::{Done, Folder, Record, Stage};
use super::plan::Step;
use super::preflight::{Preflight, preflight};
use super::record::RepositoryChange;
use super::repository::{Repository, RepositoryDone};
use super::shelf::{Pass, Shelf, discard_staged, out_path};
use super::writing::{Writing, needs_staging};
use crate::checkout::RestoreOptions;
use crate::git::GitError;
use crate::objects::ObjectSource;
use crate::scan::Progress;

/// What was put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undone {
    /// Which apply.
    pub record: Record,
    /// What is as it was before.
    pub restored: Vec<RelPath>,
    /// What was edited since, and was left.
    pub kept: Vec<(RelPath, Done)>,
    /// Where what came out is.
    pub shelf: PathBuf,
    /// What became of the index; nothing where the apply did not change it.
    pub index: Option<Done>,
    /// What became of the refs that the apply changed.
    pub refs: Vec<(Vec<u8>, Done)>,
}

impl Applies {
    /// Puts the state before an apply back, in the checkout that is at `root` now. What was edited since is
    /// left, and told.
    ///
    /// The caller has the [lock](Self::lock) of the workspace.
    pub fn undo<S: ObjectSource + ?Sized>(
        &self,
        source: &S,
        id: ApplyId,
        root: &Path,
    ) -> Result<Undone, ApplyError> {
        let folder = self.folder(id);
        let Some(record) = folder.record()? else { return Err(ApplyError::Unknown(id)) };
        let record = record.moved(root);
        match folder.stage()? {
            Stage::Planned => {
                self.drop_record(&record)?;
                return Err(ApplyError::Unknown(id));
            }
            Stage::Begun => stop(&folder, &record, self.repository(&folder, &record)?.as_ref())?,
            Stage::Applied => {}
            Stage::Undoing => {
                self.resume(source, id, root)?;
                let undo = folder.undo()?.moved(root);
                let repository = self.repository(&folder, &record)?;
                let (steps, more) =
                    (undo.steps.len(), repository.as_ref().map_or(0, Repository::len));
                let mut done = folder.done(Stage::Undone, steps + more)?;
                let of_repository = done.split_off(steps);
                let of_repository = repository.map(|it| {
                    let (made, back) = (made(&folder, &it)?, it.done_of(&of_repository));
                    Ok::<_, ApplyError>((it, made, back))
                });
                return Ok(undone(undo, done, &[], of_repository.transpose()?));
            }
            Stage::Undone => return Err(ApplyError::Undone(id)),
        }
        let (repository, stays) = self.repository_to_put_back(&folder, &record)?;
        let more = repository.as_ref().map_or(0, Repository::len);
        let more = more + stays.as_ref().map_or(0, RepositoryChange::len);
        let done = folder.done(Stage::Applied, record.steps.len() + more)?;
        let steps = reversed(&record.steps, &done);
        let mut ground = ground_of(&record)?;
        check_git(&record.root, id)?;
        let Preflight { tight, held } = preflight(&mut ground, &steps)?;
        let mut kept = Vec::new();
        let mut left = Vec::with_capacity(steps.len());
        for (number, step) in steps.into_iter().enumerate() {
            match held.get(&number) {
                Some(&done) => kept.push((step.path, done)),
                None => left.push(step),
            }
        }
        let undo = Record { tight, steps: left, held: kept, ..record.clone() };
        // Of one that was cut off before it was begun.
        discard_staged(&undo.area, Pass::Undo)?;
        let shelf = Shelf::make(&ground, &undo.area, Pass::Undo)?;
        let staged: Vec<_> =
            undo.steps.iter().enumerate().filter(|(_, step)| needs_staging(step)).collect();
        let options = (RestoreOptions::default(), &Progress::default());
        let begun = shelf
            .stage(source, &staged, options)
            .and_then(|()| GitLock::hold(&record.root, &folder, id))
            .and_then(|lock| match folder.begin_undo(&undo) {
                Ok(()) => Ok(lock),
                Err(error) => lock.during(|| Err(error)),
            });
        let lock = match begun {
            Ok(lock) => lock,
            Err(error) => {
                // Nothing was written yet.
                if let Err(left) = shelf.clear(&undo.steps) {
                    tracing::warn!(%left, "an undo that was not begun left files");
                }
                return Err(error);
            }
        };
        let interrupted = |error: ApplyError| error.on_its_way(id);
        let writing = Writing::new((&mut ground, &shelf), &undo.steps, &undo.tight);
        let ended = lock.during(|| {
            let (done, late) = writing.run()?;
            let of_repository = match repository {
                Some(it) => {
                    let made = made(&folder, &it)?;
                    let back = it.put_back(&made)?;
                    Some((it, made, back))
                }
                None => None,
            };
            Ok((done, late, of_repository))
        });
        let (done, late, of_repository) = ended.map_err(interrupted)?;
        let back = of_repository.as_ref().map(|(_, _, back)| back);
        finish(&folder, &shelf, Stage::Undone, &undo.steps, (&done, back)).map_err(interrupted)?;
        let mut undone = undone(undo, done, &late, of_repository);
        if let Some(change) = stays {
            let made = made_of(&folder, record.steps.len(), &change)?;
            undone.index = made.index.filter(|made| *made == Done::Made).map(|_| Done::Blocked);
            let steps = change.refs.into_iter().zip(made.refs);
            let steps = steps.filter(|(_, made)| *made == Done::Made);
            undone.refs = steps.map(|(step, _)| (step.name, Done::Blocked)).collect();
        }
        Ok(undone)
    }

    /// The repository that an apply has changed; or, where git or the repository is gone, how it did: files go back
    /// without.
    fn repository_to_put_back(
        &self,
        folder: &Folder,
        record: &Record,
    ) -> Result<(Option<Repository>, Option<RepositoryChange>), ApplyError> {
        drop(ground_of(record)?);
        match Repository::open(self.tools.as_ref(), folder, &record.root, record.id) {
            Ok(repository) => Ok((repository, None)),
            Err(ApplyError::Git(
                error
                @ (GitError::NoProgram | GitError::NoRepository { .. } | GitError::Run { .. }),
            )) => {
                tracing::warn!(%error, "a repository stays as an apply has made it");
                Ok((None, folder.repository()?))
            }
            Err(error) => Err(error),
        }
    }
}

/// Lets one that was cut off end where it is: what of it is done is looked for, and noted.
fn stop(
    folder: &Folder,
    record: &Record,
    repository: Option<&Repository>,
) -> Result<(), ApplyError> {
    let on_its_way = |error: ApplyError| error.on_its_way(record.id);
    let mut ground = ground_of(record).map_err(on_its_way)?;
    let shelf = Shelf::open(&ground, &record.area, Pass::Apply).map_err(on_its_way)?;
    let lock = GitLock::hold(&record.root, folder, record.id).map_err(on_its_way)?;
    let writing = Writing::new((&mut ground, &shelf), &record.steps, &record.tight);
    let stopped = lock.during(|| {
        let done = writing.stop()?;
        Ok((done, repository.map(Repository::stop).transpose()?))
    });
    stopped
        .and_then(|(done, of_repository)| {
            finish(folder, &shelf, Stage::Applied, &record.steps, (&done, of_repository.as_ref()))
        })
        .map_err(on_its_way)
}

/// What was put back, by what became of each step that does so.
fn undone(
    undo: Record,
    done: Vec<Done>,
    late: &[RelPath],
    repository: Option<(Repository, RepositoryDone, RepositoryDone)>,
) -> Undone {
    let mut kept = undo.held.clone();
    let mut restored = Vec::new();
    for (step, done) in undo.steps.iter().zip(done) {
        if done.is_so() && !late.contains(&step.path) {
            restored.push(step.path.clone());
        } else {
            kept.push((step.path.clone(), done));
        }
    }
    restored.sort_unstable();
    kept.sort_by(|a, b| a.0.cmp(&b.0));
    let shelf = out_path(&undo.area, Pass::Undo);
    let (mut index, mut refs) = (None, Vec::new());
    if let Some((it, made, back)) = repository {
        index = back.index.filter(|_| made.index == Some(Done::Made));
        let all = it.named(&back.refs).into_iter().zip(made.refs);
        refs.extend(all.filter(|(_, made)| *made == Done::Made).map(|(back, _)| back));
    }
    Undone { record: undo, restored, kept, shelf, index, refs }
}

/// The steps that put back what was made.
fn reversed(steps: &[Step], done: &[Done]) -> Vec<Step> {
    let made = steps.iter().zip(done).filter(|(_, done)| **done == Done::Made);
    let mut back: Vec<Step> = made
        .map(|(step, _)| {
            let Step { path, from, to, .. } = step.clone();
            Step { path, from: to, to: from, needs: None }
        })
        .collect();
    // What was moved goes back before it is taken away from where it is.
    for (step, _) in steps.iter().zip(done).filter(|(_, done)| **done == Done::Made) {
        if let Some(needed) = &step.needs
            && let Some(other) = back.iter_mut().find(|back| back.path == *needed)
        {
            other.needs = Some(step.path.clone());
        }
    }
    back
}

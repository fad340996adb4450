//! A snapshot restored whole: its files, and the repository beside them.
//!
//! **Invariant:** a repository that cannot be made again takes no file away: the files are restored, and why there is no
//! repository is said.

use std::path::{Path, PathBuf};

use baton_protocol::object::{GitOmission, Omission, OmitReason, Snapshot};
use baton_protocol::path::RelPath;
use rustix::fs::Mode;

use super::staging::Staging;
use super::{RestoreError, RestoreOptions, Restored, restore_with};
use crate::fs::Context;
use crate::git::{
    Commands, GitError, GitProgram, LinkPlace, Linked, RebuildOptions, Rebuilt, link, rebuild,
};
use crate::objects::ObjectSource;
use crate::scan::Progress;
use crate::snapshot::BlobError;

/// How a repository is made again.
#[derive(Clone, Debug)]
pub struct RepositoryOptions {
    /// Git; without, no repository is.
    pub git: Option<GitProgram>,
    /// A folder for what git needs for a moment.
    pub scratch: PathBuf,
    /// What may run later.
    pub commands: Commands,
}

/// What became of a repository.
#[derive(Debug, Default)]
pub enum RestoredRepository {
    /// The snapshot has none.
    #[default]
    Absent,
    /// It is there. This was not taken, or is to be looked at.
    Rebuilt(Vec<GitOmission>),
    /// It could not be made.
    Failed(GitError),
}

/// Makes the tree of a snapshot at `into` like [`restore`](super::restore()), and its repository.
pub fn restore_snapshot<S: ObjectSource + ?Sized>(
    source: &S,
    snapshot: &Snapshot,
    into: &Path,
    options: &RestoreOptions,
    repository: &RepositoryOptions,
    progress: &Progress,
) -> Result<(Restored, RestoredRepository), RestoreError> {
    let root = (snapshot.root, snapshot.root_mode);
    let complete = |staging: &Staging| match make(source, snapshot, staging, repository) {
        Ok(Some(Rebuilt { omitted, .. })) => Ok(RestoredRepository::Rebuilt(omitted)),
        Ok(None) => Ok(RestoredRepository::Absent),
        Err(GitError::Fs(error)) if error.is_disk_full() => Err(error.into()),
        Err(GitError::Store(error) | GitError::Blob(BlobError::Store(error)))
            if !error.is_corruption() =>
        {
            Err(error.into())
        }
        Err(error) => Ok(RestoredRepository::Failed(error)),
    };
    let (mut restored, made) = restore_with(source, root, into, *options, progress, complete)?;
    if let (RestoredRepository::Failed(_), Ok(path)) = (&made, RelPath::new(b".git")) {
        restored.not_carried.push(Omission { path, reason: OmitReason::NotCarried });
        restored.not_carried.sort_unstable();
    }
    Ok((restored, made))
}

/// Makes the tree of a snapshot at `at.place` like [`restore`](super::restore()), and it a linked worktree of the repository
/// of a checkout.
pub fn restore_linked<S: ObjectSource + ?Sized>(
    source: &S,
    snapshot: &Snapshot,
    at: LinkPlace<'_>,
    options: &RestoreOptions,
    repository: &RepositoryOptions,
    progress: &Progress,
) -> Result<(Restored, Linked), RestoreError> {
    let root = (snapshot.root, snapshot.root_mode);
    let complete = |staging: &Staging| {
        let state = snapshot.git.ok_or(GitError::NoState)?;
        let link = |options: &RebuildOptions, files: &Path| link(source, state, files, at, options);
        Ok(within(snapshot, staging, repository, link)?)
    };
    let (restored, mut linked) =
        restore_with(source, root, at.place, *options, progress, complete)?;
    linked.keep();
    Ok((restored, linked))
}

fn make<S: ObjectSource + ?Sized>(
    source: &S,
    snapshot: &Snapshot,
    staging: &Staging,
    options: &RepositoryOptions,
) -> Result<Option<Rebuilt>, GitError> {
    let Some(state) = snapshot.git else { return Ok(None) };
    let rebuild = |options: &RebuildOptions, files: &Path| rebuild(source, state, files, options);
    within(snapshot, staging, options, rebuild).map(Some)
}

/// Makes something of git in a folder that is not yet in its place.
fn within<T>(
    snapshot: &Snapshot,
    staging: &Staging,
    options: &RepositoryOptions,
    make: impl FnOnce(&RebuildOptions, &Path) -> Result<T, GitError>,
) -> Result<T, GitError> {
    let folder = staging.path();
    // The mode of the root may be one that lets nobody make anything in it.
    let set = |mode: u16| {
        let mode = Mode::from_raw_mode(mode.into());
        rustix::fs::fchmod(staging.directory(), mode).context("setting the mode of", &folder)
    };
    set(snapshot.root_mode | 0o700)?;
    let rebuilding = RebuildOptions {
        git: options.git.clone().ok_or(GitError::NoProgram)?,
        scratch: options.scratch.clone(),
        beside: folder.clone(),
        commands: options.commands.clone(),
    };
    let made = make(&rebuilding, &folder);
    set(snapshot.root_mode)?;
    made
}

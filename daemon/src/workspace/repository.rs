//! The repository of a tree, captured together with it.
//!
//! Not here: how a repository is captured, and what of it travels.
//!
//! **Invariant:** the files and the state of a snapshot belong together: git changed nothing between the look at the
//! tree and the capture. Where it was at work all the while, that is said.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use baton_protocol::id::{GitStateId, ObjectId, TreeId};
use baton_protocol::object::{GitOmitReason, Omission, OmitReason};
use baton_protocol::path::RelPath;
use baton_store::git::{self, CaptureOptions, Captured, GitError, Glance};
use baton_store::objects::ObjectSource;
use baton_store::scan::{Progress, ScanOptions, Scanned};
use baton_store::snapshot::BlobError;
use baton_store::vault::Intake;

use super::history::Base;
use super::{TakeError, Workspaces};
use crate::keeper::{Keeper, Known, Look};

/// Looks at a tree in which git is at work, before it is taken as it is.
const LOOKS: usize = 3;

/// A tree and its repository.
pub(super) struct Looked {
    pub(super) scanned: Scanned,
    /// How long the barriers took.
    pub(super) barrier: Duration,
    /// The state, in the intake.
    pub(super) git: Option<GitStateId>,
    /// What neither the tree nor the state has.
    pub(super) omitted: Vec<Omission>,
    /// What to remember once the snapshot is durable.
    pub(super) known: Option<Known>,
    /// What people should know.
    pub(super) notes: Vec<String>,
    /// Whether history was cut, as far as the repository was captured now.
    pub(super) is_cut: bool,
}

/// The state of a repository.
struct State {
    id: GitStateId,
    /// Whether git was at work.
    busy: bool,
    /// Whether nothing of it was missing.
    is_whole: bool,
    /// The tree that it holds for alone, if so.
    tree: Option<TreeId>,
    /// What people should know of history that follows.
    note: Option<String>,
}

impl Workspaces {
    /// Looks at a tree and its repository until both are of one moment.
    pub(super) fn look(
        &self,
        keeper: &mut Keeper,
        base: Base,
        intake: &Intake,
        options: &ScanOptions,
        progress: &Progress,
    ) -> Result<Looked, TakeError> {
        let root = keeper.root().to_owned();
        let mut inner = match keeper.inner() {
            Some(inner) => inner.to_vec(),
            None => base.state().map(|base| inner_of(intake, base)).unwrap_or_default(),
        };
        let mut barriers = Duration::ZERO;
        let mut looks = 0;
        loop {
            looks += 1;
            let is_last = looks >= LOOKS;
            let before = self.glance(&root, &inner);
            let Look { scanned, barrier } = keeper.look(intake, options, progress, &self.clock)?;
            barriers += barrier;
            let before = match before {
                Ok(Some(before)) => before,
                Ok(None) => return Ok(Looked::without(scanned, barriers)),
                Err(error) => return Ok(Looked::without(scanned, barriers).noting(keeper, &error)),
            };
            let found = inner_worktrees(&scanned.omitted);
            keeper.set_inner(found.clone());
            if found == inner || is_last {
                let state = self.state(keeper, (scanned.root, before), base, &found, intake);
                let State { id, busy, is_whole, tree, note } = match state {
                    Ok(state) => state,
                    Err(GitError::Store(error)) => return Err(error.into()),
                    Err(error) => {
                        return Ok(Looked::without(scanned, barriers).noting(keeper, &error));
                    }
                };
                let after = self.glance(&root, &found).ok().flatten();
                let held_still = after == Some(before) && found == inner;
                if held_still || busy || is_last {
                    keeper.set_busy(busy || !held_still);
                    let is_sure = held_still && !busy && is_whole && before.is_settled(self.now());
                    let known = is_sure.then_some(Known { digest: *before.digest(), id, tree });
                    let looked = Looked::without(scanned, barriers);
                    return Ok(looked.with(intake, id, known, busy || !held_still).and(note));
                }
            }
            inner = found;
            // It is of a moment that has passed, and what is found next goes on from there.
            keeper.keep(scanned);
        }
    }

    /// The state of the repository of a tree: the one of before, if nothing has changed in it.
    fn state(
        &self,
        keeper: &Keeper,
        (tree, glance): (TreeId, Glance),
        from: Base,
        inner: &[PathBuf],
        intake: &Intake,
    ) -> Result<State, GitError> {
        let base = match from {
            Base::Known => keeper.repository().map(|known| known.id),
            Base::State(id) => Some(id),
            Base::Nothing => None,
        };
        let same_tree = |known: &Known| known.tree.is_none_or(|of| of == tree);
        let is_base = |known: &Known| base == Some(known.id);
        let known = keeper.repository().filter(|it| it.digest == *glance.digest());
        let known = known.filter(|it| same_tree(it) && is_base(it));
        if let Some(&Known { id, tree, .. }) = known
            && intake.contains(&ObjectId::from(id))?
        {
            return Ok(State { id, busy: false, is_whole: true, tree, note: None });
        }
        let nested = inner.iter().filter_map(|path| RelPath::new(path.as_os_str().as_bytes()).ok());
        let mut options = CaptureOptions {
            git: self.git.clone().ok_or(GitError::NoProgram)?,
            scratch: self.scratch.clone(),
            within: None,
            base,
            user: self.git_user.clone(),
            nested: nested.collect(),
            now: self.now(),
            most_history: self.most_history,
            room: u64::MAX,
        };
        let captured = match git::capture(keeper.root(), intake, &options) {
            // What was kept before is damaged: new work must not fail for that.
            Err(error) if options.base.is_some() && is_damage(&error) => {
                tracing::warn!(%error, "the state of the repository before is damaged");
                options.base = None;
                git::capture(keeper.root(), intake, &options)
            }
            captured => captured,
        };
        let Captured { id, state, omitted, filters } = captured?;
        // What was missing may come without a sign.
        let is_whole = omitted.iter().all(|it| it.reason != GitOmitReason::Missing);
        let later = omitted.iter().find(|it| it.reason == GitOmitReason::Later);
        let note = later.map(|it| format!("{} follows in the background", it.what));
        Ok(State { id, busy: state.busy, is_whole, tree: filters.then_some(tree), note })
    }

    /// A glance at the repository of a tree and those inside it; nothing where there is none.
    fn glance(&self, root: &Path, inner: &[PathBuf]) -> Result<Option<Glance>, GitError> {
        if root.join(".git").symlink_metadata().is_err() {
            return Ok(None);
        }
        Glance::take(root, inner, &self.git_user).map(Some)
    }

    pub(super) fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.clock.now_ms())
    }
}

impl Looked {
    fn without(scanned: Scanned, barrier: Duration) -> Self {
        let omitted = scanned.omitted.clone();
        let notes = Vec::new();
        Self { scanned, barrier, git: None, omitted, known: None, notes, is_cut: false }
    }

    /// The repository could not be captured now. What was known of it serves the next time.
    fn noting(mut self, keeper: &Keeper, error: &GitError) -> Self {
        self.known = keeper.repository().cloned();
        let cause = std::error::Error::source(error).map(|it| format!(": {it}"));
        let (root, cause) = (keeper.root().display(), cause.unwrap_or_default());
        self.notes.push(format!("the repository in {root} does not travel: {error}{cause}"));
        self
    }

    /// What is said of history that follows.
    fn and(mut self, note: Option<String>) -> Self {
        self.is_cut = note.is_some();
        self.notes.extend(note);
        self
    }

    fn with(mut self, intake: &Intake, id: GitStateId, known: Option<Known>, busy: bool) -> Self {
        self.omitted = not_carried(&self.omitted, &worktrees(intake, id));
        (self.git, self.known) = (Some(id), known);
        if busy {
            let note =
                "git is at work in the repository: its state and the files may be of two moments";
            self.notes.push(note.to_owned());
        }
        self
    }
}

/// The worktrees of a state, the outermost too; nothing where they cannot be read.
fn worktrees<S: ObjectSource + ?Sized>(source: &S, id: GitStateId) -> BTreeSet<Vec<u8>> {
    git::worktrees(source, id).unwrap_or_default()
}

fn inner_of<S: ObjectSource + ?Sized>(source: &S, id: GitStateId) -> Vec<PathBuf> {
    let inner = worktrees(source, id).into_iter().filter(|path| !path.is_empty());
    as_paths(inner)
}

fn as_paths(list: impl Iterator<Item = impl AsRef<[u8]>>) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        list.map(|path| PathBuf::from(std::ffi::OsStr::from_bytes(path.as_ref()))).collect();
    paths.sort();
    paths
}

fn is_damage(error: &GitError) -> bool {
    match error {
        GitError::Store(error) | GitError::Blob(BlobError::Store(error)) => error.is_corruption(),
        GitError::Malformed(_) | GitError::Blob(_) => true,
        _ => false,
    }
}

/// The worktrees inside a tree, by what was left out of it.
pub(crate) fn inner_worktrees(omitted: &[Omission]) -> Vec<PathBuf> {
    let git = omitted.iter().filter(|omission| omission.reason == OmitReason::GitMetadata);
    as_paths(git.filter_map(|omission| omission.path.as_bytes().strip_suffix(b"/.git")))
}

/// What was left out of a tree and is in no state either.
pub(crate) fn not_carried(omitted: &[Omission], worktrees: &BTreeSet<Vec<u8>>) -> Vec<Omission> {
    let is_carried = |omission: &&Omission| {
        let path = omission.path.as_bytes();
        let above = if path == b".git" { Some(&b""[..]) } else { path.strip_suffix(b"/.git") };
        omission.reason == OmitReason::GitMetadata
            && above.is_some_and(|above| worktrees.contains(above))
    };
    omitted.iter().filter(|omission| !is_carried(omission)).cloned().collect()
}

#[cfg(test)]
mod tests;

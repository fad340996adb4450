//! The trees that this home keeps, and taking snapshots of them.
//!
//! Everything here blocks: it walks trees and waits for disks. One snapshot of a workspace is taken
//! at a time.

mod error;
mod attach;
mod carried;
pub mod conversing;
mod history;
mod place;
pub(crate) mod repository;
mod taken;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{DeviceId, IdempotencyKey, SnapshotId, WorkspaceId};
use baton_protocol::message::Head;
use baton_protocol::object::Snapshot;
use baton_store::catalog::Catalog;
use baton_store::catalog::held::HeldFinding;
use baton_store::catalog::workspaces::Workspace;
use baton_store::diff::count_changes;
use baton_store::error::StoreError;
use baton_store::git::GitProgram;
use baton_store::ignore::GitUser;
use baton_store::journal::RefUpdate;
use baton_store::scan::{Guard, Progress, ScanOptions, Scanned};
use baton_store::secrets::SecretRules;
use baton_store::snapshot::{
    SnapshotParts, build_snapshot, has_same_content, load_snapshot, store_snapshot,
};
use baton_store::vault::{CommitError, Intake, Vault};

use attach::attach;
use conversing::{LookedAt, Wanted};
pub use error::TakeError;
pub(crate) use history::rest_id;
pub use history::{Receiver, Rest};
pub use place::PlaceError;
use place::place_of;
use repository::Looked;
pub use taken::{Taken, split_torn};

use crate::agents::session::AgentError;
use crate::clock::Clock;
use crate::keeper::{Keeper, Watched, Watching};

/// How far a node may be ahead of a home that was put back to an older state: numbers would run out if
/// any were believed.
const MAX_AHEAD: u64 = 1 << 32;

/// Watches from which on no further tree is known beside the others: each has a descriptor of inotify, of which a user
/// has 128. A tree has one, and a linked worktree one more for the repository that it is of.
const MAX_KEPT: usize = 64;

/// How often a conversation is looked at again that changes meanwhile.
const TRIES: u32 = 3;

/// What a snapshot is taken with, beside the tree.
#[derive(Clone, Debug, Default)]
pub struct TakeOptions {
    /// What the user wrote.
    pub message: Option<String>,
    /// Files to attach.
    pub attachments: Vec<PathBuf>,
    /// The session that the attachments belong to.
    pub session: String,
    /// Whom it is taken for, where it is to be sent.
    pub receiver: Option<Receiver>,
    /// The conversation that travels with it.
    pub conversation: Option<Wanted>,
}

/// What is done with a snapshot while it is being made durable: begun before, so that it goes on
/// meanwhile.
pub trait Beside {
    /// The tree is about to be looked at, and what is new in it goes into this intake. Called again where
    /// it has to be looked at once more.
    fn start(&mut self, _intake: &Intake) {}

    /// The snapshot is whole in the intake, and may yet fail to be kept. Called again where that failed and
    /// another one takes its place.
    fn begin(&mut self, _intake: &Intake, _id: SnapshotId, _snapshot: &Snapshot) {}

    /// It is durable here.
    fn end(&mut self, _intake: &Intake) {}
}

/// The workspaces of this home.
#[derive(Debug)]
pub struct Workspaces {
    /// Where they are listed.
    pub catalog: Catalog,
    /// Where their objects are.
    pub vault: Vault,
    /// This device.
    pub device: DeviceId,
    /// Folder of the stat caches.
    pub caches: PathBuf,
    /// What git knows about the user.
    pub git_user: GitUser,
    /// Git; no repository travels without.
    pub git: Option<GitProgram>,
    /// A folder for what git needs for a moment.
    pub scratch: PathBuf,
    /// Bytes of objects of a repository above which the first snapshot has its history cut.
    pub most_history: u64,
    /// The time.
    pub clock: Clock,
    /// What every tree leaves out, in the syntax of `.gitignore`.
    pub exclude: Vec<u8>,
    /// What is searched for in files before they leave; nothing is held back without.
    pub secrets: Option<Arc<SecretRules>>,
    /// How trees are watched; without, each snapshot looks at everything.
    pub watching: Option<Watching>,
    /// The trees that are known.
    pub kept: Mutex<HashMap<WorkspaceId, Kept>>,
}

/// A tree that is known.
#[derive(Debug)]
pub struct Kept {
    keeper: Arc<Mutex<Keeper>>,
    watched: Arc<Watched>,
    /// Grows with each use.
    used: u64,
}

/// Draws random bytes for an id.
pub fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Random)?;
    Ok(bytes)
}

impl Workspaces {
    /// The workspace of a folder, where it has one.
    pub fn find(&self, root: &Path) -> Result<Option<Workspace>, StoreError> {
        self.catalog.workspace_by_root(root.as_os_str().as_bytes())
    }

    /// The workspace of a folder, minted on first use.
    pub fn find_or_add(&self, root: &Path) -> Result<Workspace, StoreError> {
        if let Some(workspace) = self.find(root)? {
            return Ok(workspace);
        }
        let place = place_of(root);
        if let Some(place) = place
            && let Some(moved) = self.moved_to(root, place)?
        {
            return Ok(moved);
        }
        let workspace = Workspace {
            id: WorkspaceId::from_bytes(random()?),
            root: root.as_os_str().as_bytes().to_vec(),
            created_at: self.clock.now_ms(),
        };
        self.catalog.add_workspace(&workspace)?;
        // Another command may have been quicker.
        let workspace = self.find(root)?.unwrap_or(workspace);
        if let Some(place) = place {
            self.catalog.set_place(workspace.id, &workspace.root, place)?;
        }
        Ok(workspace)
    }

    /// This device's latest snapshot of a workspace.
    pub fn head(&self, workspace: WorkspaceId) -> Option<Head> {
        self.vault.head(workspace, self.device)
    }

    /// Takes a snapshot of the tree at `root`, durable when this returns; the existing one if nothing
    /// has changed and nothing was said.
    pub fn take(
        &self,
        root: &Path,
        options: &TakeOptions,
        progress: &Progress,
    ) -> Result<Taken, TakeError> {
        let workspace = self.find_or_add(root)?.id;
        self.take_beside(workspace, root, options, progress, None)
    }

    /// The same of a workspace that was found, and does something with a new snapshot while it is being made
    /// durable.
    pub fn take_beside(
        &self,
        workspace: WorkspaceId,
        root: &Path,
        options: &TakeOptions,
        progress: &Progress,
        mut beside: Option<&mut dyn Beside>,
    ) -> Result<Taken, TakeError> {
        let keeper = self.keeper(workspace, root);
        let mut tries = 0;
        loop {
            tries += 1;
            // Before the tree is anybody's: it may take long.
            let said = self.look_at_conversation(workspace, options)?;
            // One look at a time.
            let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
            let keeper = &mut *keeper;
            match self.take_from(workspace, keeper, (options, &said), progress, &mut beside) {
                Err(TakeError::Commit(
                    error @ (CommitError::Missing(_)
                    | CommitError::Store(StoreError::Contradicted(_))),
                )) => {
                    tracing::warn!(%error, "what is known of files is wrong; every one is read again");
                    keeper.forget();
                    let options = (options, &said);
                    return self.take_from(workspace, keeper, options, progress, &mut beside);
                }
                Err(TakeError::Conversation(AgentError::Unsteady { .. })) if tries < TRIES => {}
                taken => return taken,
            }
        }
    }

    fn take_from(
        &self,
        workspace: WorkspaceId,
        keeper: &mut Keeper,
        (options, said): (&TakeOptions, &LookedAt),
        progress: &Progress,
        beside: &mut Option<&mut dyn Beside>,
    ) -> Result<Taken, TakeError> {
        let storing = self.clock.instant();
        let intake = self.vault.intake();
        // Nobody hears of what is put before somebody is told of the intake.
        let mut conversations = said.store(&intake, &self.scratch)?;
        let said_in = self.clock.since(storing);
        let started = self.clock.instant();
        if progress.wants_total()
            && let Some(files) = self.files_before(workspace)
        {
            progress.set_total(files);
        }
        if let Some(beside) = beside {
            beside.start(&intake);
        }
        let scan_options = ScanOptions {
            started_at_ns: i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX / 1_000_000)
                * 1_000_000,
            git_user: self.git_user.clone(),
            exclude: self.exclude.clone(),
            guard: self.guard(workspace)?,
            ..ScanOptions::default()
        };
        let head = self.head(workspace);
        let before = match head {
            Some(head) => whole(load_snapshot(&self.vault, head.snapshot))?,
            None => None,
        };
        let base = self.base_for(options.receiver, before.as_ref().and_then(|before| before.git));
        let Looked { scanned, barrier, git, omitted, known, notes: of_git, is_cut } =
            self.look(keeper, base, &intake, &scan_options, progress)?;
        let scan = self.clock.since(started).saturating_sub(barrier);
        let storing = self.clock.instant();
        let omitted = [omitted, said.omitted.clone()].concat();
        conversations.extend(attach(&intake, options)?);
        let parts = SnapshotParts {
            workspace,
            device: self.device,
            sequence: head.map_or(1, |head| head.sequence.saturating_add(1)),
            parents: head.iter().map(|head| head.snapshot).collect(),
            git,
            conversations,
            created_at: self.clock.now_ms(),
            message: options.message.clone().unwrap_or_default(),
        };
        let snapshot = build_snapshot(&scanned, &omitted, parts, &intake)?;
        let counted = match &before {
            Some(before) => whole(count_changes(&intake, before.root, snapshot.root))?,
            None => None,
        };
        let files_changed = counted.unwrap_or(scanned.sums.files);
        let unchanged = before.filter(|before| has_same_content(before, &snapshot));
        let is_new = unchanged.is_none() || options.message.is_some();
        let (id, snapshot) = match (head, unchanged) {
            (Some(head), Some(before)) if options.message.is_none() => {
                // Nothing to write, unless a part of it had been lost.
                intake.keep(&[head.snapshot.into()])?;
                (head.snapshot, before)
            }
            _ => (self.commit(&intake, &snapshot, head, beside)?, snapshot),
        };
        self.note_held(workspace, &scanned)?;
        let sums = scanned.sums;
        let notes = [scanned.notes.clone(), of_git, said.notes.clone()].concat();
        keeper.remember(known);
        keeper.keep(scanned);
        let store = self.clock.since(storing) + said_in;
        Ok(Taken {
            workspace,
            id,
            snapshot,
            sums,
            files_changed,
            omitted,
            notes,
            is_new,
            is_cut,
            barrier,
            scan,
            store,
        })
    }

    /// What is watched of a workspace, where anything was asked of it since the daemon started.
    pub fn watched(&self, workspace: WorkspaceId) -> Option<Arc<Watched>> {
        self.keepers().get(&workspace).map(|kept| Arc::clone(&kept.watched))
    }

    /// What is held back and let through was changed: those files are looked at again; with `all` every
    /// file is.
    pub fn reconsider(&self, workspace: WorkspaceId, all: bool) {
        let kept = self.keepers().get(&workspace).map(|kept| Arc::clone(&kept.keeper));
        let Some(keeper) = kept else { return };
        let mut keeper = keeper.lock().unwrap_or_else(PoisonError::into_inner);
        if all {
            keeper.forget();
        } else {
            let held = keeper.held();
            keeper.doubt(held.into_iter());
        }
    }

    /// Lets go of a workspace: nothing of it is watched any more.
    pub fn let_go(&self, workspace: WorkspaceId) {
        drop(self.keepers().remove(&workspace));
    }

    /// Lets go of all of them.
    pub fn close(&self) {
        let all = std::mem::take(&mut *self.keepers());
        for kept in all.into_values() {
            kept.watched.close();
        }
    }

    fn keeper(&self, workspace: WorkspaceId, root: &Path) -> Arc<Mutex<Keeper>> {
        let mut keepers = self.keepers();
        let count = |keepers: &HashMap<_, Kept>| -> usize {
            keepers.values().map(|kept| kept.watched.watches()).sum()
        };
        while !keepers.contains_key(&workspace) && count(&keepers) >= MAX_KEPT {
            // A workspace that is in use is taken up again with its next snapshot.
            let oldest = keepers.iter().min_by_key(|(_, kept)| kept.used).map(|(id, _)| *id);
            oldest.map(|id| keepers.remove(&id));
        }
        let used = keepers.values().map(|kept| kept.used).max().unwrap_or_default() + 1;
        let kept = keepers.entry(workspace).or_insert_with(|| {
            let cache = self.caches.join(format!("tree-{workspace}.db"));
            let keeper = Keeper::open(workspace, root, &cache, self.watching.clone());
            Kept { watched: keeper.watched(), keeper: Arc::new(Mutex::new(keeper)), used }
        });
        kept.used = used;
        Arc::clone(&kept.keeper)
    }

    fn keepers(&self) -> MutexGuard<'_, HashMap<WorkspaceId, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guard(&self, workspace: WorkspaceId) -> Result<Option<Guard>, StoreError> {
        let Some(rules) = &self.secrets else { return Ok(None) };
        let allowed = self.catalog.allowed(workspace)?;
        Ok(Some(Guard::Rules { rules: Arc::clone(rules), allowed }))
    }

    /// Tells `status` what is held back.
    fn note_held(&self, workspace: WorkspaceId, scanned: &Scanned) -> Result<(), StoreError> {
        if self.secrets.is_none() {
            return Ok(());
        }
        let now = self.clock.now_ms();
        let held: Vec<_> =
            scanned.held.iter().map(|(path, found)| HeldFinding::new(path, found, now)).collect();
        self.catalog.set_held(workspace, &held).map(drop)
    }

    /// Continues both this device's own history and a head that a node has of it: this home was put
    /// back to an older state, and what it had pushed since is kept as a parent.
    pub fn adopt(
        &self,
        workspace: WorkspaceId,
        own: SnapshotId,
        snapshot: &Snapshot,
        (other, sequence): (SnapshotId, u64),
    ) -> Result<(SnapshotId, Snapshot), TakeError> {
        let head = self.head(workspace);
        let own = head.map_or(own, |head| head.snapshot);
        let before = head.map_or(snapshot.sequence, |head| head.sequence);
        if sequence > before.saturating_add(MAX_AHEAD) {
            return Err(TakeError::Ahead { theirs: sequence, own: before });
        }
        let mut snapshot = snapshot.clone();
        snapshot.parents = vec![own];
        if other != own {
            snapshot.parents.push(other);
        }
        snapshot.sequence = sequence.max(before).saturating_add(1);
        snapshot.created_at = self.clock.now_ms();
        let id = self.commit(&self.vault.intake(), &snapshot, head, &mut None)?;
        Ok((id, snapshot))
    }

    #[expect(clippy::unused_self, reason = "a step of the two above")]
    fn commit(
        &self,
        intake: &Intake,
        snapshot: &Snapshot,
        head: Option<Head>,
        beside: &mut Option<&mut dyn Beside>,
    ) -> Result<SnapshotId, TakeError> {
        let id = store_snapshot(snapshot, intake)?;
        let update = RefUpdate {
            workspace: snapshot.workspace,
            device: snapshot.device,
            expected: head.map(|head| head.snapshot),
            new: id,
            sequence: snapshot.sequence,
            key: IdempotencyKey::from_bytes(random()?),
        };
        if let Some(beside) = beside {
            beside.begin(intake, id, snapshot);
        }
        intake.commit_in_place(&update)?;
        if let Some(beside) = beside {
            beside.end(intake);
        }
        Ok(id)
    }
}

/// Nothing where what was kept before is damaged: new work must not fail for that.
fn whole<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Err(error) if error.is_corruption() => {
            tracing::warn!(%error, "the snapshot before is damaged");
            Ok(None)
        }
        other => other.map(Some),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The git of this machine.
    #[expect(clippy::disallowed_methods, reason = "a test asks where git is")]
    pub(crate) fn git_program() -> Option<GitProgram> {
        let path = std::env::var_os("PATH").unwrap();
        let program = std::env::split_paths(&path).map(|it| it.join("git")).find(|it| it.is_file());
        program.map(GitProgram::new)
    }

    /// Those of a home of their own, with a clock that stands still.
    pub(crate) fn workspaces(folder: &Path) -> Workspaces {
        let store = baton_store::store::Store::open(&folder.join("store")).unwrap();
        Workspaces {
            catalog: Catalog::open(&folder.join("catalog.db")).unwrap(),
            vault: store.vault(baton_protocol::id::VaultId::from_bytes([1; 16])).unwrap(),
            device: DeviceId::from_bytes([2; 32]),
            caches: folder.to_owned(),
            git_user: GitUser::default(),
            git: None,
            scratch: folder.to_owned(),
            most_history: u64::MAX,
            clock: Clock::manual(1_000_000),
            exclude: Vec::new(),
            secrets: None,
            watching: None,
            kept: Mutex::default(),
        }
    }

    #[test]
    fn a_head_that_a_node_claims_is_kept_as_a_parent_unless_it_cannot_be() {
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        baton_store::fs::create_dir_all(&tree).unwrap();
        let workspaces = workspaces(folder.path());
        let take =
            || workspaces.take(&tree, &TakeOptions::default(), &Progress::default()).unwrap();
        let taken = take();
        let other = SnapshotId::from_bytes([9; 32]);
        for impossible in [u64::MAX, u64::MAX - 1, 1 << 33] {
            let head = (other, impossible);
            let refused =
                workspaces.adopt(taken.workspace, taken.id, &taken.snapshot, head).unwrap_err();
            assert!(matches!(refused, TakeError::Ahead { own: 1, .. }), "{refused}");
        }
        assert_eq!(take().id, taken.id);
        let head = (other, 100);
        let (id, snapshot) =
            workspaces.adopt(taken.workspace, taken.id, &taken.snapshot, head).unwrap();
        assert_eq!(snapshot.parents, [taken.id, other]);
        assert_eq!(snapshot.sequence, 101);
        // It is the head now, and goes on.
        baton_store::fs::create_new(&tree.join("new")).unwrap();
        let next = take();
        assert_eq!((next.snapshot.parents, next.snapshot.sequence), (vec![id], 102));
    }
}

//! History that was cut out of a first snapshot: what follows, and the snapshot that has it.
//!
//! Not here: sending, and when.
//!
//! The rest is kept as a snapshot under an id of its own, so that it can be sent for as long as it takes while the
//! workspace itself goes on. A ref has it, so that nothing of it is lost with a restart.
//!
//! **Invariant:** a snapshot of the workspace gets the rest only if it is the rest of what that snapshot lacks.

use std::path::Path;
use std::sync::PoisonError;

use baton_protocol::id::{ChunkId, GitStateId, ObjectKind, SnapshotId, TreeId, WorkspaceId};
use baton_protocol::object::{Snapshot, Tree, build_tree};
use baton_store::git::{self, CaptureOptions, GitError, Packed};
use baton_store::objects::{ObjectSink, ObjectSource};
use baton_store::snapshot::load_snapshot;
use baton_store::vault::Intake;

use super::{TakeError, Workspaces};

/// Bytes of the disk that are left free.
const LEAST_FREE: u64 = 1 << 30;

/// Snapshots before a cut one among which one that is not cut is looked for.
const MAX_BEFORE: usize = 256;

/// A node for which a snapshot is taken: who has little of a long history gets it cut.
#[derive(Clone, Copy, Debug)]
pub struct Receiver {
    /// What it has of the workspace.
    pub acked: Option<SnapshotId>,
}

/// What a state of a repository goes on from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Base {
    /// What is known of it.
    Known,
    /// A state.
    State(GitStateId),
    /// Nothing: it is captured anew.
    Nothing,
}

impl Base {
    pub(super) const fn state(self) -> Option<GitStateId> {
        match self {
            Self::State(id) => Some(id),
            Self::Known | Self::Nothing => None,
        }
    }
}

/// A rest, and the snapshot that holds it.
#[derive(Clone, Debug)]
pub struct Rest {
    /// The snapshot that holds it.
    pub id: SnapshotId,
    /// The same.
    pub snapshot: Snapshot,
    state: GitStateId,
}

impl Workspaces {
    /// Whether history of the latest snapshot of a workspace is still to follow.
    pub fn is_cut(&self, workspace: WorkspaceId) -> Result<bool, TakeError> {
        let Some((_, snapshot)) = self.latest(workspace)? else { return Ok(false) };
        let cut = snapshot.git.map(|state| git::is_cut(&self.vault, state)).transpose();
        Ok(cut.map_err(TakeError::History)?.unwrap_or(false))
    }

    /// Whether history of a snapshot that a node has is still to follow. Nothing that is damaged here says so.
    pub fn is_cut_there(&self, acked: SnapshotId) -> bool {
        let state = load_snapshot(&self.vault, acked).ok().and_then(|snapshot| snapshot.git);
        state.is_some_and(|state| git::is_cut(&self.vault, state).unwrap_or(false))
    }

    /// Whether history of a workspace was cut once, and its rest was packed.
    pub fn has_rest(&self, workspace: WorkspaceId) -> bool {
        self.head(rest_id(workspace)).is_some()
    }

    /// What the next state goes on from, where the latest one is this. A long history that is whole here is cut for who
    /// has nothing of it, and stays cut for who got it so and not its rest yet: what follows does so in the background.
    pub(super) fn base_for(&self, receiver: Option<Receiver>, latest: Option<GitStateId>) -> Base {
        let Some(latest) = latest else { return Base::Known };
        let is_whole = || {
            let is_long = git::is_longer(&self.vault, latest, self.most_history);
            is_long.unwrap_or(false) && !git::is_cut(&self.vault, latest).unwrap_or(true)
        };
        match receiver {
            Some(Receiver { acked: None }) if is_whole() => Base::Nothing,
            Some(Receiver { acked: Some(acked) }) if is_whole() && self.is_cut_there(acked) => {
                let acked = load_snapshot(&self.vault, acked).ok().and_then(|acked| acked.git);
                acked.map_or(Base::State(latest), Base::State)
            }
            _ => Base::State(latest),
        }
    }

    /// Whether a snapshot that is taken for a node would be cut though it is whole here.
    pub fn is_cut_for(
        &self,
        workspace: WorkspaceId,
        receiver: Receiver,
    ) -> Result<bool, TakeError> {
        let latest = self.latest(workspace)?.and_then(|(_, latest)| latest.git);
        let as_usual = latest.map_or(Base::Known, Base::State);
        Ok(self.base_for(Some(receiver), latest) != as_usual)
    }

    /// The state of the nearest snapshot before this one whose history is not cut.
    fn whole_before(&self, of: &Snapshot) -> Option<GitStateId> {
        let mut next = of.parents.first().copied();
        for _ in 0..MAX_BEFORE {
            // Those that were thinned out lead nowhere.
            let before = load_snapshot(&self.vault, next?).ok()?;
            if let Some(state) = before.git
                && !git::is_cut(&self.vault, state).ok()?
            {
                return Some(state);
            }
            next = before.parents.first().copied();
        }
        None
    }

    /// The rest of a snapshot of a workspace, durable here: packed now, as far as it was not before. Where it lacks
    /// nothing, what was packed once; nothing where there is none.
    pub fn rest(
        &self,
        workspace: WorkspaceId,
        root: &Path,
        of: &Snapshot,
    ) -> Result<Option<Rest>, TakeError> {
        let Some(state) = of.git else { return Ok(None) };
        let own = rest_id(workspace);
        let known = self.latest(own)?;
        let known = known.and_then(|(id, snapshot)| {
            let state = snapshot.git?;
            Some(Rest { id, snapshot, state })
        });
        if let Some(rest) = &known
            && self.is_rest_of(rest, of)?
        {
            return Ok(known);
        }
        if !git::is_cut(&self.vault, state).map_err(TakeError::History)? {
            return Ok(None);
        }
        let intake = self.vault.intake();
        let options = CaptureOptions {
            git: self.git.clone().ok_or(TakeError::History(GitError::NoProgram))?,
            scratch: self.scratch.clone(),
            within: None,
            base: None,
            user: self.git_user.clone(),
            nested: Vec::new(),
            now: self.now(),
            most_history: u64::MAX,
            room: self.room(),
        };
        let before = self.whole_before(of).map(Packed::Whole);
        let before = before.or(known.as_ref().map(|known| Packed::Rest(known.state)));
        let rest = git::make_rest(root, state, before, &intake, &options);
        let Some(rest) = rest.map_err(TakeError::History)? else { return Ok(None) };
        if known.as_ref().is_some_and(|known| known.state == rest) {
            return Ok(known);
        }
        let head = self.head(own);
        let snapshot = Snapshot {
            workspace: own,
            sequence: head.map_or(1, |head| head.sequence.saturating_add(1)),
            parents: head.iter().map(|head| head.snapshot).collect(),
            // Nothing of the tree goes along.
            root: no_files(&intake)?,
            omitted: None,
            git: Some(rest),
            conversations: Vec::new(),
            created_at: self.clock.now_ms(),
            message: String::new(),
            ..of.clone()
        };
        let id = self.commit(&intake, &snapshot, head, &mut None)?;
        Ok(Some(Rest { id, snapshot, state: rest }))
    }

    /// Whether a rest is that of a snapshot.
    pub fn is_rest_of(&self, rest: &Rest, of: &Snapshot) -> Result<bool, TakeError> {
        let Some(state) = of.git else { return Ok(false) };
        let probe = self.vault.intake();
        let deeper = git::deepen(state, rest.state, &probe).map_err(TakeError::History)?;
        Ok(!git::is_cut(&probe, deeper).map_err(TakeError::History)?)
    }

    /// Bytes that may be packed here without taking the last of the disk.
    fn room(&self) -> u64 {
        rustix::fs::statvfs(&self.caches).map_or(u64::MAX, |found| {
            found.f_bavail.saturating_mul(found.f_frsize).saturating_sub(LEAST_FREE)
        })
    }

    /// The latest snapshot with its rest, durable here and the latest from now on: the same tree, and the same
    /// repository. Where that is not its rest, or nothing is cut, the latest as it is.
    pub fn deepen(
        &self,
        workspace: WorkspaceId,
        root: &Path,
        rest: Option<&Rest>,
    ) -> Result<Option<(SnapshotId, Snapshot)>, TakeError> {
        // No look goes on from the one before meanwhile.
        let keeper = self.keeper(workspace, root);
        let _alone = keeper.lock().unwrap_or_else(PoisonError::into_inner);
        let head = self.head(workspace);
        let Some((id, latest)) = self.latest(workspace)? else { return Ok(None) };
        let (Some(state), Some(rest)) = (latest.git, rest) else { return Ok(Some((id, latest))) };
        let intake = self.vault.intake();
        let deeper = git::deepen(state, rest.state, &intake).map_err(TakeError::History)?;
        if deeper == state {
            return Ok(Some((id, latest)));
        }
        let snapshot = Snapshot {
            sequence: latest.sequence.saturating_add(1),
            parents: vec![id],
            git: Some(deeper),
            created_at: self.clock.now_ms(),
            message: String::new(),
            ..latest
        };
        let id = self.commit(&intake, &snapshot, head, &mut None)?;
        Ok(Some((id, snapshot)))
    }

    /// Whether a snapshot is an earlier one made whole, and nothing else: who has that has all of its files.
    pub fn is_made_whole(
        &self,
        (before, after): (SnapshotId, &Snapshot),
        rest: Option<&Rest>,
    ) -> Result<bool, TakeError> {
        let before = load_snapshot(&self.vault, before)?;
        let same = before.root == after.root && before.conversations == after.conversations;
        let (Some(state), Some(rest), true) = (before.git, rest, same) else { return Ok(false) };
        let deeper = git::deepen(state, rest.state, &self.vault.intake());
        Ok(Some(deeper.map_err(TakeError::History)?) == after.git)
    }

    /// How many files the latest snapshot of a workspace has, where that can be read.
    pub(super) fn files_before(&self, workspace: WorkspaceId) -> Option<u64> {
        let (_, latest) = self.latest(workspace).ok()??;
        Some(Tree::decode(&self.vault.require(&latest.root.into()).ok()?).ok()?.sums().files)
    }

    /// The latest snapshot of a workspace.
    pub(crate) fn latest(
        &self,
        workspace: WorkspaceId,
    ) -> Result<Option<(SnapshotId, Snapshot)>, TakeError> {
        let Some(head) = self.head(workspace) else { return Ok(None) };
        Ok(Some((head.snapshot, load_snapshot(&self.vault, head.snapshot)?)))
    }
}

/// A tree without files.
fn no_files(intake: &Intake) -> Result<TreeId, TakeError> {
    let (tree, _) =
        build_tree(Vec::new(), |_, _, bytes| intake.put(ObjectKind::Tree, &bytes).map(drop))?;
    Ok(tree)
}

/// The id under which the rest of a workspace is kept and sent.
pub(crate) fn rest_id(workspace: WorkspaceId) -> WorkspaceId {
    let hash = ChunkId::of(&[b"the rest of ", &workspace.as_bytes()[..]].concat());
    let mut id = [0; WorkspaceId::LEN];
    for (to, from) in id.iter_mut().zip(hash.as_bytes()) {
        *to = *from;
    }
    WorkspaceId::from_bytes(id)
}

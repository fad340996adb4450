//! What is to be sent to a node: a snapshot, and runs that begin with it.

use baton_protocol::id::{QueueId, SnapshotId, WorkspaceId};
use baton_protocol::message::RunSpec;
use baton_protocol::object::Snapshot;
use baton_store::catalog::queue::{EntryKind, NewEntry};

use super::ahead::SentAhead;
use super::failure::Fail;
use super::remotes::Target;
use crate::workspace::{Taken, random};

/// What is to be sent.
#[derive(Debug)]
pub(super) struct Parcel {
    pub(super) target: Target,
    pub(super) wanted: NewEntry,
    pub(super) snapshot: Snapshot,
    /// What it has cost already to send some of it.
    pub(super) ahead: SentAhead,
}

impl Parcel {
    pub(super) fn push(
        target: Target,
        taken: &Taken,
        ahead: SentAhead,
        now: u64,
    ) -> Result<Self, Fail> {
        let what = (taken.id, taken.snapshot.clone());
        Self::new(target, taken.workspace, what, EntryKind::Push, (ahead, now))
    }

    pub(super) fn handoff(
        target: Target,
        taken: &Taken,
        ahead: SentAhead,
        runs: Vec<RunSpec>,
        now: u64,
        expires_ms: u64,
    ) -> Result<Self, Fail> {
        let what = (taken.id, taken.snapshot.clone());
        let parcel = Self::new(target, taken.workspace, what, EntryKind::Handoff, (ahead, now))?;
        Ok(parcel.with_runs(runs, expires_ms))
    }

    /// A snapshot that this home has made of what a run left, and what goes on from there.
    pub(super) fn carried(
        target: Target,
        what: (SnapshotId, Snapshot),
        run: RunSpec,
        now: u64,
        expires_ms: u64,
    ) -> Result<Self, Fail> {
        let ahead = (SentAhead::default(), now);
        let parcel = Self::new(target, run.workspace, what, EntryKind::Handoff, ahead)?;
        Ok(parcel.with_runs(vec![run], expires_ms))
    }

    fn new(
        target: Target,
        workspace: WorkspaceId,
        (id, snapshot): (SnapshotId, Snapshot),
        kind: EntryKind,
        (ahead, now): (SentAhead, u64),
    ) -> Result<Self, Fail> {
        let wanted = NewEntry {
            id: QueueId::from_bytes(random()?),
            kind,
            workspace,
            node: target.remote.node,
            remote: target.remote.name.clone(),
            snapshot: id,
            runs: Vec::new(),
            created_at: now,
            expires_at: None,
            begun: false,
        };
        Ok(Self { target, wanted, snapshot, ahead })
    }

    fn with_runs(mut self, runs: Vec<RunSpec>, expires_ms: u64) -> Self {
        self.wanted.expires_at = Some(self.wanted.created_at.saturating_add(expires_ms));
        self.wanted.runs = runs;
        self
    }
}

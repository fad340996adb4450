//! What is to be sent to a node: a snapshot, and runs that begin with it.

use baton_protocol::id::{QueueId, SnapshotId};
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
        Self::new(target, taken, EntryKind::Push, (ahead, now))
    }

    pub(super) fn handoff(
        target: Target,
        taken: &Taken,
        ahead: SentAhead,
        runs: Vec<RunSpec>,
        now: u64,
        expires_ms: u64,
    ) -> Result<Self, Fail> {
        let mut parcel = Self::new(target, taken, EntryKind::Handoff, (ahead, now))?;
        parcel.wanted.runs = runs;
        parcel.wanted.expires_at = Some(now.saturating_add(expires_ms));
        Ok(parcel)
    }

    /// A snapshot that this home has made of what a run left, and what goes on from there.
    pub(super) fn carried(
        target: Target,
        (id, snapshot): (SnapshotId, Snapshot),
        run: RunSpec,
        now: u64,
        expires_ms: u64,
    ) -> Result<Self, Fail> {
        let wanted = NewEntry {
            id: QueueId::from_bytes(random()?),
            kind: EntryKind::Handoff,
            workspace: run.workspace,
            node: target.remote.node,
            remote: target.remote.name.clone(),
            snapshot: id,
            runs: vec![run],
            created_at: now,
            expires_at: Some(now.saturating_add(expires_ms)),
            begun: false,
        };
        Ok(Self { target, wanted, snapshot, ahead: SentAhead::default() })
    }

    fn new(
        target: Target,
        taken: &Taken,
        kind: EntryKind,
        (ahead, now): (SentAhead, u64),
    ) -> Result<Self, Fail> {
        let wanted = NewEntry {
            id: QueueId::from_bytes(random()?),
            kind,
            workspace: taken.workspace,
            node: target.remote.node,
            remote: target.remote.name.clone(),
            snapshot: taken.id,
            runs: Vec::new(),
            created_at: now,
            expires_at: None,
            begun: false,
        };
        Ok(Self { target, wanted, snapshot: taken.snapshot.clone(), ahead })
    }
}

//! What a run left, made ready to go to a node: as a snapshot of this device, with what is attached to it.
//!
//! **Invariant:** nothing of a workspace's own history changes: it has an id of its own, under which it is kept here and
//! there.

use baton_protocol::id::{SnapshotId, WorkspaceId};
use baton_protocol::object::Snapshot;
use baton_store::snapshot::load_snapshot;

use super::attach::attach;
use super::{TakeError, TakeOptions, Workspaces, random};

impl Workspaces {
    /// Makes such a snapshot of one that is whole here; durable when this returns.
    pub fn carry(
        &self,
        result: SnapshotId,
        options: &TakeOptions,
    ) -> Result<(SnapshotId, Snapshot), TakeError> {
        let mut snapshot = load_snapshot(&self.vault, result)?;
        let intake = self.vault.intake();
        snapshot.conversations.extend(attach(&intake, options)?);
        snapshot.workspace = WorkspaceId::from_bytes(random()?);
        snapshot.device = self.device;
        snapshot.sequence = 1;
        snapshot.parents = vec![result];
        snapshot.created_at = self.clock.now_ms();
        let id = self.commit(&intake, &snapshot, None, &mut None)?;
        Ok((id, snapshot))
    }
}

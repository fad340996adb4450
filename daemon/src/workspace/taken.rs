//! What taking a snapshot came to.

use std::time::Duration;

use baton_protocol::id::{SnapshotId, WorkspaceId};
use baton_protocol::object::{Omission, OmitReason, Snapshot, TreeSums};

/// A snapshot that is durable here.
#[derive(Debug)]
pub struct Taken {
    /// Whose.
    pub workspace: WorkspaceId,
    /// Its id.
    pub id: SnapshotId,
    /// The snapshot.
    pub snapshot: Snapshot,
    /// Files and bytes in it.
    pub sums: TreeSums,
    /// Paths that differ from the snapshot before.
    pub files_changed: u64,
    /// What was left out or torn.
    pub omitted: Vec<Omission>,
    /// What people should know.
    pub notes: Vec<String>,
    /// Whether it was made now; otherwise nothing had changed.
    pub is_new: bool,
    /// Whether history of its repository was cut; what follows is to be seen to.
    pub is_cut: bool,
    /// How long the barrier took.
    pub barrier: Duration,
    /// How long the scan took.
    pub scan: Duration,
    /// How long storing took.
    pub store: Duration,
}

/// What of a list was left out, and what was carried though it changed while it was read.
pub fn split_torn(omitted: &[Omission]) -> (Vec<&Omission>, Vec<&Omission>) {
    omitted.iter().partition(|omission| omission.reason != OmitReason::Torn)
}

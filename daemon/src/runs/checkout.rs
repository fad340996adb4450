//! How a run gets its files, and how they are kept when it has ended.
//!
//! Not here: doing either. This is the seam to the store.

use std::path::Path;

use baton_protocol::id::{RunId, SnapshotId, VaultId, WorkspaceId};

/// Makes checkouts, and snapshots of them. Its methods block, for minutes where a tree is large.
pub trait Checkouts: Send + Sync {
    /// Writes a snapshot's tree to `checkout`, which is not there yet, and its attachments to
    /// `attachments`, which is an empty folder.
    ///
    /// A crash in the middle leaves something that no program has run in, and that is never sealed.
    fn prepare(
        &self,
        vault: VaultId,
        snapshot: SnapshotId,
        checkout: &Path,
        attachments: &Path,
    ) -> Result<Prepared, CheckoutError>;

    /// Makes a durable snapshot of a run's checkout, whose parent is the one that the run started from, and
    /// moves the ref of the run's device to it. Nothing changes the checkout meanwhile.
    ///
    /// Must be safe to repeat: a crash after it returned makes the node ask again.
    fn seal(
        &self,
        vault: VaultId,
        workspace: WorkspaceId,
        run: RunId,
        checkout: &Path,
        parent: SnapshotId,
    ) -> Result<SnapshotId, CheckoutError>;
}

/// What [`Checkouts::prepare`] has made.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Files written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// The receipt for the run, a [`Receipt`](crate::api::control::Receipt) as JSON; `isolated` is filled in by the
    /// node.
    pub receipt: serde_json::Value,
}

/// A checkout cannot be made or kept.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed")]
pub struct CheckoutError {
    /// What was done, as a participle: `restoring the snapshot`.
    pub doing: &'static str,
    /// Why it failed.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

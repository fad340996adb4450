//! What nodes have acknowledged: known here at once, on the disk a moment later.
//!
//! It is a belief, and a node is believed over it: if a crash loses the last one, the next push learns
//! from the node where the ref is, which costs a round trip. So no push waits for a disk to note it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{NodeId, SnapshotId, WorkspaceId};
use baton_store::catalog::Catalog;
use baton_store::error::StoreError;

use crate::task::Tasks;

/// What nodes have acknowledged; clones share it.
#[derive(Clone, Debug)]
pub struct Acks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    catalog: Catalog,
    tasks: Tasks,
    fresh: Mutex<Fresh>,
}

/// What the catalog does not say yet.
#[derive(Debug, Default)]
struct Fresh {
    acked: HashMap<(WorkspaceId, NodeId), SnapshotId>,
    is_writing: bool,
}

impl Acks {
    /// Those of a catalog.
    pub fn new(catalog: Catalog, tasks: Tasks) -> Self {
        Self(Arc::new(Inner { catalog, tasks, fresh: Mutex::default() }))
    }

    /// The last snapshot of a workspace that a node has acknowledged.
    pub fn get(
        &self,
        workspace: WorkspaceId,
        node: NodeId,
    ) -> Result<Option<SnapshotId>, StoreError> {
        if let Some(fresh) = self.0.lock().acked.get(&(workspace, node)) {
            return Ok(Some(*fresh));
        }
        self.0.catalog.acked(workspace, node)
    }

    /// Notes what a node has acknowledged. Must be called within a runtime.
    pub fn note(&self, workspace: WorkspaceId, node: NodeId, snapshot: SnapshotId) {
        let mut fresh = self.0.lock();
        fresh.acked.insert((workspace, node), snapshot);
        if std::mem::replace(&mut fresh.is_writing, true) {
            return;
        }
        drop(fresh);
        let inner = Arc::clone(&self.0);
        self.0.tasks.spawn_blocking("acks", move || inner.write()).detach();
    }
}

impl Inner {
    /// Writes until nothing is fresh any more. What cannot be written stays known here.
    fn write(&self) {
        loop {
            let next = {
                let mut fresh = self.lock();
                let next = fresh.acked.iter().next().map(|(key, snapshot)| (*key, *snapshot));
                fresh.is_writing = next.is_some();
                next
            };
            let Some((key @ (workspace, node), snapshot)) = next else { return };
            if let Err(error) = self.catalog.set_acked(workspace, node, snapshot) {
                tracing::warn!(%error, "what a node acknowledged was not noted");
                self.lock().is_writing = false;
                return;
            }
            let mut fresh = self.lock();
            if fresh.acked.get(&key) == Some(&snapshot) {
                fresh.acked.remove(&key);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Fresh> {
        self.fresh.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_noted_is_known_at_once_and_written_in_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        let tasks = Tasks::new();
        let acks = Acks::new(catalog.clone(), tasks.clone());
        let (workspace, node) = (WorkspaceId::from_bytes([1; 16]), NodeId::from_bytes([2; 32]));
        let added = baton_store::catalog::workspaces::Workspace {
            id: workspace,
            root: b"/x".to_vec(),
            created_at: 1,
        };
        catalog.add_workspace(&added).unwrap();
        for byte in 0..50 {
            let snapshot = SnapshotId::from_bytes([byte; 32]);
            acks.note(workspace, node, snapshot);
            assert_eq!(acks.get(workspace, node).unwrap(), Some(snapshot));
        }
        tasks.shut_down(std::time::Duration::from_secs(10)).await;
        assert_eq!(catalog.acked(workspace, node).unwrap(), Some(SnapshotId::from_bytes([49; 32])));
    }
}

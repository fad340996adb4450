//! What nodes have acknowledged, and what was sent because somebody asked: known here at once, on the disk
//! a moment later, several together.
//!
//! It is a belief, and a node is believed over it: if a crash loses the last one, the next push learns
//! from the node where the ref is, which costs a round trip; and a snapshot that is not pinned loses its
//! line in `log` as it ages. So no push waits for a disk to note it, nor shares one with it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::{NodeId, SnapshotId, WorkspaceId};
use baton_store::catalog::Catalog;
use baton_store::catalog::history::Pin;
use baton_store::error::StoreError;

use crate::task::Tasks;

/// How long what is noted is gathered before it is written.
const GATHER: Duration = Duration::from_millis(500);

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
    pins: Vec<(WorkspaceId, SnapshotId, Pin)>,
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

    /// The snapshots that the catalog does not name yet.
    pub fn fresh(&self) -> Vec<SnapshotId> {
        let fresh = self.0.lock();
        let pins = fresh.pins.iter().map(|(_, snapshot, _)| *snapshot);
        fresh.acked.values().copied().chain(pins).collect()
    }

    /// Notes what a node has acknowledged. Must be called within a runtime.
    pub fn note(&self, workspace: WorkspaceId, node: NodeId, snapshot: SnapshotId) {
        self.change(|fresh| {
            fresh.acked.insert((workspace, node), snapshot);
        });
    }

    /// Notes that somebody asked for a snapshot, so that it stays in the history. Must be called within a
    /// runtime.
    pub fn pin(&self, workspace: WorkspaceId, snapshot: SnapshotId, why: Pin) {
        self.change(|fresh| fresh.pins.push((workspace, snapshot, why)));
    }

    /// Of a workspace that is forgotten nothing is fresh any more. To be called when the catalog does not name it.
    pub fn forget(&self, workspace: WorkspaceId) {
        let mut fresh = self.0.lock();
        fresh.acked.retain(|&(of, _), _| of != workspace);
        fresh.pins.retain(|&(of, _, _)| of != workspace);
    }

    fn change(&self, change: impl FnOnce(&mut Fresh)) {
        let mut fresh = self.0.lock();
        change(&mut fresh);
        if std::mem::replace(&mut fresh.is_writing, true) {
            return;
        }
        drop(fresh);
        let inner = Arc::clone(&self.0);
        let gather = async move {
            tokio::select! {
                () = tokio::time::sleep(GATHER) => {}
                () = inner.tasks.cancelled() => {}
            }
            let writer = Arc::clone(&inner);
            inner.tasks.spawn_blocking("acks", move || writer.write()).detach();
        };
        self.0.tasks.spawn("acks", gather).detach();
    }
}

impl Inner {
    /// Writes what is fresh. What cannot be written stays known here, and is written with what comes.
    fn write(&self) {
        let (acked, pins) = {
            let mut fresh = self.lock();
            fresh.is_writing = false;
            let acked: Vec<_> =
                fresh.acked.iter().map(|(&(ws, node), &snapshot)| (ws, node, snapshot)).collect();
            (acked, fresh.pins.clone())
        };
        if let Err(error) = self.catalog.note_sent(&acked, &pins) {
            tracing::warn!(%error, "what a node acknowledged was not noted");
            return;
        }
        // Until now they were fresh: whoever collects meanwhile finds them here or there.
        let mut fresh = self.lock();
        fresh.pins.retain(|pin| !pins.contains(pin));
        for (workspace, node, snapshot) in acked {
            if fresh.acked.get(&(workspace, node)) == Some(&snapshot) {
                fresh.acked.remove(&(workspace, node));
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
            acks.pin(workspace, snapshot, Pin::Push);
            assert_eq!(acks.get(workspace, node).unwrap(), Some(snapshot));
        }
        tasks.shut_down(std::time::Duration::from_secs(10)).await;
        assert_eq!(catalog.acked(workspace, node).unwrap(), Some(SnapshotId::from_bytes([49; 32])));
        assert_eq!(catalog.pins(workspace).unwrap().len(), 50);
    }
}

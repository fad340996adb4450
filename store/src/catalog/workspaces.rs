//! The trees that are kept, and what each node is known to have of them.
//!
//! **Invariant:** a root has one id for good. What is noted as acknowledged is a belief: a node whose
//! state was rolled back says so, and is believed over this.

use baton_protocol::id::{NodeId, SnapshotId, WorkspaceId};
use rusqlite::OptionalExtension;

use super::{Catalog, sql, unsigned};
use crate::error::StoreError;

/// Which trees are watched, and for which remote.
pub(super) const STEP_2: &str = "
ALTER TABLE workspaces ADD COLUMN watched INTEGER NOT NULL DEFAULT 0;
ALTER TABLE workspaces ADD COLUMN remote TEXT;
ALTER TABLE workspaces ADD COLUMN dev INTEGER;
ALTER TABLE workspaces ADD COLUMN ino INTEGER;
";

pub(super) const SET_ACKED: &str = "
INSERT INTO acked(workspace, node, snapshot) SELECT ?1, ?2, ?3
WHERE EXISTS (SELECT 1 FROM workspaces WHERE id = ?1)
ON CONFLICT(workspace, node) DO UPDATE SET snapshot = excluded.snapshot";

/// A tree that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workspace {
    /// Minted on first use.
    pub id: WorkspaceId,
    /// The raw bytes of its absolute path.
    pub root: Vec<u8>,
    /// When it was first kept, in milliseconds since 1970.
    pub created_at: u64,
}

impl Catalog {
    /// The workspace at this root.
    pub fn workspace_by_root(&self, root: &[u8]) -> Result<Option<Workspace>, StoreError> {
        self.read("reading a workspace", |db| {
            let find = format!("{SELECT} WHERE root = ?1");
            db.prepare_cached(&find)?.query_row([root], from_row).optional()
        })
    }

    /// The workspace with this id.
    pub fn workspace(&self, id: WorkspaceId) -> Result<Option<Workspace>, StoreError> {
        self.read("reading a workspace", |db| {
            let find = format!("{SELECT} WHERE id = ?1");
            db.prepare_cached(&find)?.query_row([id.as_bytes()], from_row).optional()
        })
    }

    /// Every workspace, by root.
    pub fn workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        self.read("listing workspaces", |db| {
            let mut list = db.prepare_cached(&format!("{SELECT} ORDER BY root"))?;
            list.query_map([], from_row)?.collect()
        })
    }

    /// Adds a workspace, and returns the one that is now at its root: where two callers meet, the
    /// first one's.
    pub fn add_workspace(&self, workspace: &Workspace) -> Result<Workspace, StoreError> {
        self.write("adding a workspace", |db| {
            let Workspace { id, root, created_at } = workspace;
            let add = "INSERT INTO workspaces(id, root, created_at) VALUES (?1, ?2, ?3)
                       ON CONFLICT(root) DO NOTHING";
            db.execute(add, (id.as_bytes(), root, sql(*created_at)))?;
            db.query_row(&format!("{SELECT} WHERE root = ?1"), [root], from_row)
        })
    }

    /// Takes a workspace away with its history and all else that is known of it; its folder is nobody's business.
    pub fn remove_workspace(&self, id: WorkspaceId) -> Result<bool, StoreError> {
        self.write("removing a workspace", |db| {
            db.execute("DELETE FROM remembered_runs WHERE workspace = ?1", [id.as_bytes()])?;
            Ok(db.execute("DELETE FROM workspaces WHERE id = ?1", [id.as_bytes()])? > 0)
        })
    }

    /// Whether a workspace is watched, and for which remote; the default one where none is named.
    pub fn set_watched(
        &self,
        id: WorkspaceId,
        watched: bool,
        remote: Option<&str>,
    ) -> Result<(), StoreError> {
        self.write("noting what is watched", |db| {
            let set = "UPDATE workspaces SET watched = ?2, remote = ?3 WHERE id = ?1";
            db.execute(set, (id.as_bytes(), watched, remote)).map(drop)
        })
    }

    /// Every workspace that is watched, and for which remote.
    pub fn watched(&self) -> Result<Vec<(Workspace, Option<String>)>, StoreError> {
        self.read("listing what is watched", |db| {
            let list = "SELECT id, root, created_at, remote FROM workspaces
                        WHERE watched ORDER BY root";
            let mut list = db.prepare_cached(list)?;
            list.query_map([], |row| Ok((from_row(row)?, row.get(3)?)))?.collect()
        })
    }

    /// Which directory the root of a workspace was last: device and inode.
    pub fn place(&self, id: WorkspaceId) -> Result<Option<(u64, u64)>, StoreError> {
        self.read("reading where a workspace is", |db| {
            let find = "SELECT dev, ino FROM workspaces WHERE id = ?1 AND dev IS NOT NULL";
            let place =
                |row: &rusqlite::Row<'_>| Ok((unsigned(row.get(0)?), unsigned(row.get(1)?)));
            db.prepare_cached(find)?.query_row([id.as_bytes()], place).optional()
        })
    }

    /// The workspaces whose root was this directory.
    pub fn workspaces_at(&self, dev: u64, ino: u64) -> Result<Vec<Workspace>, StoreError> {
        self.read("looking for a workspace", |db| {
            let mut list =
                db.prepare_cached(&format!("{SELECT} WHERE dev = ?1 AND ino = ?2 ORDER BY root"))?;
            list.query_map((sql(dev), sql(ino)), from_row)?.collect()
        })
    }

    /// Notes where a workspace is. A root that another one has is not taken.
    pub fn set_place(
        &self,
        id: WorkspaceId,
        root: &[u8],
        (dev, ino): (u64, u64),
    ) -> Result<(), StoreError> {
        self.write("noting where a workspace is", |db| {
            let set = "UPDATE OR IGNORE workspaces SET root = ?2, dev = ?3, ino = ?4 WHERE id = ?1";
            db.execute(set, (id.as_bytes(), root, sql(dev), sql(ino))).map(drop)
        })
    }

    /// The last snapshot of a workspace that a node has acknowledged.
    pub fn acked(
        &self,
        workspace: WorkspaceId,
        node: NodeId,
    ) -> Result<Option<SnapshotId>, StoreError> {
        self.read("reading what was acknowledged", |db| {
            let find = "SELECT snapshot FROM acked WHERE workspace = ?1 AND node = ?2";
            db.prepare_cached(find)?
                .query_row((workspace.as_bytes(), node.as_bytes()), |row| row.get(0))
                .optional()
                .map(|found| found.map(SnapshotId::from_bytes))
        })
    }

    /// Notes what a node has acknowledged. The workspace must be there.
    pub fn set_acked(
        &self,
        workspace: WorkspaceId,
        node: NodeId,
        snapshot: SnapshotId,
    ) -> Result<(), StoreError> {
        self.write("noting what was acknowledged", |db| {
            let ids = (workspace.as_bytes(), node.as_bytes(), snapshot.as_bytes());
            db.prepare_cached(SET_ACKED)?.execute(ids).map(drop)
        })
    }

    /// Forgets what a node has acknowledged of a workspace, so that the next push offers all of it.
    pub fn clear_acked(&self, workspace: WorkspaceId, node: NodeId) -> Result<(), StoreError> {
        self.write("forgetting what was acknowledged", |db| {
            let forget = "DELETE FROM acked WHERE workspace = ?1 AND node = ?2";
            db.execute(forget, (workspace.as_bytes(), node.as_bytes())).map(drop)
        })
    }
}

const SELECT: &str = "SELECT id, root, created_at FROM workspaces";

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Workspace> {
    Ok(Workspace {
        id: WorkspaceId::from_bytes(row.get(0)?),
        root: row.get(1)?,
        created_at: unsigned(row.get(2)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;

    fn workspace(byte: u8, root: &[u8]) -> Workspace {
        Workspace { id: WorkspaceId::from_bytes([byte; 16]), root: root.to_vec(), created_at: 4 }
    }

    #[test]
    fn a_root_keeps_its_first_id_whatever_its_bytes() {
        let (_folder, catalog) = catalog();
        let first = workspace(1, b"/src/\xff\xfe");
        assert_eq!(catalog.add_workspace(&first).unwrap(), first);
        assert_eq!(catalog.add_workspace(&workspace(2, b"/src/\xff\xfe")).unwrap(), first);
        assert_eq!(catalog.workspace_by_root(b"/src/\xff\xfe").unwrap(), Some(first.clone()));
        assert_eq!(catalog.workspace(first.id).unwrap(), Some(first.clone()));
        assert_eq!(catalog.workspace_by_root(b"/src").unwrap(), None);
        assert_eq!(catalog.workspaces().unwrap(), vec![first]);
    }

    #[test]
    fn one_id_does_not_serve_two_roots() {
        let (_folder, catalog) = catalog();
        catalog.add_workspace(&workspace(1, b"/a")).unwrap();
        assert!(catalog.add_workspace(&workspace(1, b"/b")).is_err());
    }

    #[test]
    fn acknowledgements_are_per_node() {
        let (_folder, catalog) = catalog();
        let kept = catalog.add_workspace(&workspace(1, b"/a")).unwrap();
        let [rack, cloud] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let [old, new] = [3, 4].map(|byte| SnapshotId::from_bytes([byte; 32]));
        assert_eq!(catalog.acked(kept.id, rack).unwrap(), None);
        catalog.set_acked(kept.id, rack, old).unwrap();
        catalog.set_acked(kept.id, rack, new).unwrap();
        assert_eq!(catalog.acked(kept.id, rack).unwrap(), Some(new));
        assert_eq!(catalog.acked(kept.id, cloud).unwrap(), None);
        catalog.clear_acked(kept.id, rack).unwrap();
        assert_eq!(catalog.acked(kept.id, rack).unwrap(), None);
    }
}

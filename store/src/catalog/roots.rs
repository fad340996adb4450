//! Which snapshots have to stay that no ref leads to, and which were forgotten.
//!
//! Not here: refs, and what is before a head; and what is known outside of the catalog.
//!
//! **Invariant:** what names a snapshot in any table is among the roots. A table that gets such a column gets a line here.

use std::collections::BTreeSet;

use baton_protocol::id::{NodeId, SnapshotId, VaultId};
use rusqlite::Connection;

use super::Catalog;
use crate::error::StoreError;

/// Format 5: what was forgotten, what stays that came before it, and which nodes are still to be told.
pub(super) const STEP_5: &str = "
CREATE TABLE forgotten(
    vault BLOB NOT NULL,
    snapshot BLOB NOT NULL,
    PRIMARY KEY(vault, snapshot)
) STRICT, WITHOUT ROWID;

CREATE TABLE kept(
    vault BLOB NOT NULL,
    snapshot BLOB NOT NULL,
    PRIMARY KEY(vault, snapshot)
) STRICT, WITHOUT ROWID;

CREATE TABLE untold(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    node BLOB NOT NULL,
    message BLOB NOT NULL,
    UNIQUE(node, message)
) STRICT;
";

/// Messages that wait for a node at most: one that is away for good must not fill the disk.
const MOST_UNTOLD: i64 = 10_000;

/// What the catalog says of snapshots, as of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogRoots {
    /// Of this home's own vault: those of histories. A walk from a head may stop there.
    pub history: BTreeSet<SnapshotId>,
    /// The same: pinned, acknowledged, queued, and those of runs elsewhere.
    pub here: BTreeSet<SnapshotId>,
    /// Those of runs of this node.
    pub of_runs: BTreeSet<(VaultId, SnapshotId)>,
    /// What came before one that was forgotten.
    pub kept: BTreeSet<(VaultId, SnapshotId)>,
    /// What was forgotten: none for having come before another one.
    pub forgotten: BTreeSet<(VaultId, SnapshotId)>,
}

impl Catalog {
    /// What has to stay, as of one moment.
    pub fn roots(&self) -> Result<CatalogRoots, StoreError> {
        self.read("reading what has to stay", |db| {
            let moment = db.unchecked_transaction()?;
            let mut roots = CatalogRoots {
                history: snapshots(&moment, "SELECT snapshot FROM history")?,
                ..CatalogRoots::default()
            };
            for list in [
                "SELECT covered FROM thinnings",
                "SELECT snapshot FROM pins",
                "SELECT snapshot FROM acked",
                "SELECT snapshot FROM queue WHERE state = 'waiting'",
                "SELECT sent FROM queue WHERE state = 'waiting' AND sent IS NOT NULL",
                "SELECT snapshot FROM remembered_runs",
                "SELECT result FROM remembered_runs WHERE result IS NOT NULL",
            ] {
                roots.here.extend(snapshots(&moment, list)?);
            }
            for list in [
                "SELECT vault, snapshot FROM runs",
                "SELECT vault, result FROM runs WHERE result IS NOT NULL",
            ] {
                roots.of_runs.extend(of_vaults(&moment, list)?);
            }
            roots.kept = of_vaults(&moment, "SELECT vault, snapshot FROM kept")?;
            roots.forgotten = of_vaults(&moment, "SELECT vault, snapshot FROM forgotten")?;
            Ok(roots)
        })
    }

    /// Forgets a snapshot of a vault, whose parents stay, and takes it out of every history.
    pub fn forget_snapshot(
        &self,
        vault: VaultId,
        snapshot: SnapshotId,
        parents: &[SnapshotId],
    ) -> Result<(), StoreError> {
        self.write("forgetting a snapshot", |db| {
            let ids = (vault.as_bytes(), snapshot.as_bytes());
            db.execute("INSERT OR IGNORE INTO forgotten(vault, snapshot) VALUES (?1, ?2)", ids)?;
            db.execute("DELETE FROM kept WHERE vault = ?1 AND snapshot = ?2", ids)?;
            let keep = "INSERT OR IGNORE INTO kept(vault, snapshot) SELECT ?1, ?2 WHERE NOT EXISTS
                        (SELECT 1 FROM forgotten WHERE vault = ?1 AND snapshot = ?2)";
            for parent in parents {
                db.prepare_cached(keep)?.execute((vault.as_bytes(), parent.as_bytes()))?;
            }
            Ok(())
        })
    }

    /// Takes a snapshot out of what this home itself keeps.
    pub fn drop_from_histories(&self, snapshot: SnapshotId) -> Result<(), StoreError> {
        self.write("forgetting a snapshot", |db| {
            for table in ["history", "pins", "acked"] {
                let delete = format!("DELETE FROM {table} WHERE snapshot = ?1");
                db.execute(&delete, [snapshot.as_bytes()])?;
            }
            Ok(())
        })
    }

    /// Drops what is said of forgotten snapshots that are gone by now.
    pub fn forgotten_are_gone(
        &self,
        vault: VaultId,
        gone: &[SnapshotId],
    ) -> Result<(), StoreError> {
        self.write("forgetting snapshots", |db| {
            let delete = "DELETE FROM forgotten WHERE vault = ?1 AND snapshot = ?2";
            let mut delete = db.prepare_cached(delete)?;
            gone.iter().try_for_each(|snapshot| {
                delete.execute((vault.as_bytes(), snapshot.as_bytes())).map(drop)
            })
        })
    }

    /// Puts a message away that a node has to hear; not twice.
    pub fn add_untold(&self, node: NodeId, message: &[u8]) -> Result<(), StoreError> {
        self.write("noting what a node has to hear", |db| {
            let add = "INSERT OR IGNORE INTO untold(node, message) SELECT ?1, ?2
                       WHERE (SELECT count(*) FROM untold WHERE node = ?1) < ?3";
            db.execute(add, (node.as_bytes(), message, MOST_UNTOLD)).map(drop)
        })
    }

    /// What a node has still to hear, the oldest first.
    pub fn untold(&self, node: NodeId) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        self.read("reading what a node has to hear", |db| {
            let list = "SELECT number, message FROM untold WHERE node = ?1 ORDER BY number";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            db.prepare_cached(list)?.query_map([node.as_bytes()], row)?.collect()
        })
    }

    /// A node has heard a message, or never will.
    pub fn is_told(&self, number: i64) -> Result<(), StoreError> {
        self.write("noting what a node has heard", |db| {
            db.execute("DELETE FROM untold WHERE number = ?1", [number]).map(drop)
        })
    }
}

fn snapshots(db: &Connection, list: &str) -> rusqlite::Result<BTreeSet<SnapshotId>> {
    db.prepare_cached(list)?.query_map([], |row| row.get(0).map(SnapshotId::from_bytes))?.collect()
}

fn of_vaults(db: &Connection, list: &str) -> rusqlite::Result<BTreeSet<(VaultId, SnapshotId)>> {
    let row = |row: &rusqlite::Row<'_>| {
        Ok((VaultId::from_bytes(row.get(0)?), SnapshotId::from_bytes(row.get(1)?)))
    };
    db.prepare_cached(list)?.query_map([], row)?.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;

    const VAULT: VaultId = VaultId::from_bytes([1; 16]);

    fn id(byte: u8) -> SnapshotId {
        SnapshotId::from_bytes([byte; 32])
    }

    #[test]
    fn every_column_that_names_a_snapshot_is_among_the_roots() {
        let (_folder, catalog) = catalog();
        let columns: Vec<String> = catalog
            .read("listing columns", |db| {
                let list = "SELECT m.name || '.' || c.name FROM sqlite_schema AS m
                            JOIN pragma_table_info(m.name) AS c
                            WHERE m.type = 'table' AND c.type = 'BLOB' ORDER BY 1";
                db.prepare(list)?.query_map([], |row| row.get(0))?.collect()
            })
            .unwrap();
        // Who adds a column of bytes says here which it is, and in `roots` where it is a snapshot.
        let others = [
            "acked.node",
            "acked.workspace",
            "allowed",
            "command",
            "devices.",
            "finding",
            "held",
            "history.workspace",
            "kept.vault",
            "forgotten.vault",
            "meta.value",
            "pins.workspace",
            "queue.id",
            "queue.node",
            "queue.workspace",
            "redemptions.",
            "remembered_runs.node",
            "remotes.node",
            ".parent",
            ".run",
            ".thread",
            "runs.vault",
            ".workspace",
            "thinnings.workspace",
            "tickets.hash",
            "untold.",
            "users.vault",
            "workspaces.",
        ];
        let named: Vec<_> = columns
            .iter()
            .filter(|column| !others.iter().any(|other| column.contains(other)))
            .collect();
        assert_eq!(
            named,
            [
                "acked.snapshot",
                "forgotten.snapshot",
                "history.snapshot",
                "kept.snapshot",
                "pins.snapshot",
                "queue.sent",
                "queue.snapshot",
                "remembered_runs.result",
                "remembered_runs.snapshot",
                "runs.result",
                "runs.snapshot",
                "thinnings.covered",
            ]
        );
    }

    #[test]
    fn what_came_before_a_forgotten_snapshot_stays_until_that_is_forgotten_too() {
        let (_folder, catalog) = catalog();
        catalog.forget_snapshot(VAULT, id(3), &[id(2)]).unwrap();
        catalog.forget_snapshot(VAULT, id(2), &[id(1)]).unwrap();
        // Once more, as by a message that came twice.
        catalog.forget_snapshot(VAULT, id(3), &[id(2)]).unwrap();
        let roots = catalog.roots().unwrap();
        assert_eq!(roots.kept, [(VAULT, id(1))].into());
        assert_eq!(roots.forgotten, [(VAULT, id(2)), (VAULT, id(3))].into());
        catalog.forgotten_are_gone(VAULT, &[id(3)]).unwrap();
        assert_eq!(catalog.roots().unwrap().forgotten, [(VAULT, id(2))].into());
    }

    #[test]
    fn a_node_hears_each_message_once_and_in_order() {
        let (_folder, catalog) = catalog();
        let node = NodeId::from_bytes([7; 32]);
        for message in [b"one", b"two", b"one"] {
            catalog.add_untold(node, message).unwrap();
        }
        let untold = catalog.untold(node).unwrap();
        assert_eq!(untold.iter().map(|(_, it)| &it[..]).collect::<Vec<_>>(), [b"one", b"two"]);
        catalog.is_told(untold[0].0).unwrap();
        assert_eq!(catalog.untold(node).unwrap(), untold[1..]);
        assert_eq!(catalog.untold(NodeId::from_bytes([8; 32])).unwrap(), []);
    }
}

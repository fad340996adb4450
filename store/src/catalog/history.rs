//! Which snapshots are kept, and which were thinned out.
//!
//! A tree that is always in step makes thousands of snapshots a week. Here stands the history of a
//! workspace up to its last thinning: the snapshots that stayed, so that nobody has to walk past those
//! that did not. What is newer is reached from the head.
//!
//! Not here: the decision. And nothing is deleted from a vault: a snapshot that was thinned out can be
//! restored by its id until the next collection.
//!
//! **Invariant:** every row is an ancestor of the snapshot that [`Thinning::covered`] names, which has
//! a row, too. So a walk from the head may stop at the first snapshot that has a row.

use std::collections::BTreeMap;

use baton_protocol::id::{NodeId, SnapshotId, WorkspaceId};
use rusqlite::OptionalExtension;

use super::workspaces::SET_ACKED;
use super::{Catalog, sql, unreadable, unsigned};
use crate::error::StoreError;

/// Its tables.
pub(super) const STEP_2: &str = "
CREATE TABLE history(
    workspace BLOB NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    snapshot BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    PRIMARY KEY(workspace, sequence, snapshot)
) STRICT, WITHOUT ROWID;

CREATE TABLE thinnings(
    workspace BLOB PRIMARY KEY REFERENCES workspaces(id) ON DELETE CASCADE,
    covered BLOB NOT NULL,
    thinned_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE pins(
    workspace BLOB NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
    snapshot BLOB NOT NULL,
    why TEXT NOT NULL,
    PRIMARY KEY(workspace, snapshot, why)
) STRICT, WITHOUT ROWID;
";

/// What made a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The background: it is thinned out with time.
    Automatic,
    /// A user, who said something to it.
    Named,
    /// A handoff: it carries a conversation or attachments.
    Handoff,
}

impl Kind {
    const ALL: [Self; 3] = [Self::Automatic, Self::Named, Self::Handoff];

    /// The word by which it is kept.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Automatic => "automatic",
            Self::Named => "named",
            Self::Handoff => "handoff",
        }
    }
}

/// Why a snapshot stays that looks like an automatic one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pin {
    /// Somebody typed `snapshot`.
    Snapshot,
    /// Somebody typed `push`.
    Push,
    /// A handoff is about it.
    Handoff,
    /// An entry of the queue waits with it.
    Queue,
}

impl Pin {
    const ALL: [Self; 4] = [Self::Snapshot, Self::Push, Self::Handoff, Self::Queue];

    /// The word by which it is kept.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Snapshot => "snapshot",
            Self::Push => "push",
            Self::Handoff => "handoff",
            Self::Queue => "queue",
        }
    }
}

/// A snapshot of the history that stayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryRow {
    /// Its place.
    pub sequence: u64,
    /// Which one.
    pub snapshot: SnapshotId,
    /// Milliseconds since 1970 by the clock of its device.
    pub created_at: u64,
    /// What made it.
    pub kind: Kind,
}

/// How far the history of a workspace was looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thinning {
    /// What was the head then.
    pub covered: SnapshotId,
    /// When, in milliseconds since 1970.
    pub at: u64,
}

impl Catalog {
    /// The snapshots of a workspace that stayed at the last thinning, newest first.
    pub fn history(&self, workspace: WorkspaceId) -> Result<Vec<HistoryRow>, StoreError> {
        self.read("reading the history", |db| {
            let mut list = db.prepare_cached(
                "SELECT sequence, snapshot, created_at, kind FROM history
                 WHERE workspace = ?1 ORDER BY sequence DESC, snapshot DESC",
            )?;
            let row = |row: &rusqlite::Row<'_>| {
                let kind: String = row.get(3)?;
                let kind = Kind::ALL.into_iter().find(|known| known.name() == kind);
                Ok(HistoryRow {
                    sequence: unsigned(row.get(0)?),
                    snapshot: SnapshotId::from_bytes(row.get(1)?),
                    created_at: unsigned(row.get(2)?),
                    kind: kind.ok_or_else(|| unreadable(3, "a kind of snapshot"))?,
                })
            };
            list.query_map([workspace.as_bytes()], row)?.collect()
        })
    }

    /// The last thinning of a workspace.
    pub fn last_thinning(&self, workspace: WorkspaceId) -> Result<Option<Thinning>, StoreError> {
        self.read("reading the last thinning", |db| {
            let find = "SELECT covered, thinned_at FROM thinnings WHERE workspace = ?1";
            let row = |row: &rusqlite::Row<'_>| {
                let covered = SnapshotId::from_bytes(row.get(0)?);
                Ok(Thinning { covered, at: unsigned(row.get(1)?) })
            };
            db.prepare_cached(find)?.query_row([workspace.as_bytes()], row).optional()
        })
    }

    /// Adds what came since the last thinning, and takes away what is thinned out, as one. `thinning`
    /// must cover every row, and must not itself be thinned out.
    pub fn thin_history(
        &self,
        workspace: WorkspaceId,
        new: &[HistoryRow],
        thinned: &[SnapshotId],
        thinning: Thinning,
    ) -> Result<(), StoreError> {
        self.write("thinning the history", |db| {
            let id = workspace.as_bytes();
            let mut add = db.prepare_cached(
                "INSERT OR REPLACE INTO history(workspace, sequence, snapshot, created_at, kind)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?;
            for HistoryRow { sequence, snapshot, created_at, kind } in new {
                let (sequence, created_at) = (sql(*sequence), sql(*created_at));
                add.execute((id, sequence, snapshot.as_bytes(), created_at, kind.name()))?;
            }
            let remove = "DELETE FROM history WHERE workspace = ?1 AND snapshot = ?2";
            let mut remove = db.prepare_cached(remove)?;
            for snapshot in thinned {
                remove.execute((id, snapshot.as_bytes()))?;
            }
            let note = "INSERT INTO thinnings(workspace, covered, thinned_at) VALUES (?1, ?2, ?3)
                        ON CONFLICT(workspace) DO UPDATE SET covered = excluded.covered,
                        thinned_at = excluded.thinned_at";
            db.execute(note, (id, thinning.covered.as_bytes(), sql(thinning.at))).map(drop)
        })
    }

    /// Keeps a snapshot, whatever its age. Writes only where it is not pinned so already. The workspace
    /// must be there.
    pub fn pin_snapshot(
        &self,
        workspace: WorkspaceId,
        snapshot: SnapshotId,
        why: Pin,
    ) -> Result<(), StoreError> {
        let ids = (workspace.as_bytes(), snapshot.as_bytes(), why.name());
        let is_pinned = self.read("reading a pin", |db| {
            let find = "SELECT 1 FROM pins WHERE workspace = ?1 AND snapshot = ?2 AND why = ?3";
            db.prepare_cached(find)?.exists(ids)
        })?;
        if is_pinned {
            return Ok(());
        }
        self.write("pinning a snapshot", |db| {
            let add = "INSERT OR IGNORE INTO pins(workspace, snapshot, why) VALUES (?1, ?2, ?3)";
            db.prepare_cached(add)?.execute(ids).map(drop)
        })
    }

    /// Notes what nodes have acknowledged, and pins snapshots, as one write.
    pub fn note_sent(
        &self,
        acked: &[(WorkspaceId, NodeId, SnapshotId)],
        pins: &[(WorkspaceId, SnapshotId, Pin)],
    ) -> Result<(), StoreError> {
        self.write("noting what was sent", |db| {
            for (workspace, node, snapshot) in acked {
                let ids = (workspace.as_bytes(), node.as_bytes(), snapshot.as_bytes());
                db.prepare_cached(SET_ACKED)?.execute(ids)?;
            }
            // Of a workspace that is not here any more, or never was, nothing is kept; nor what was forgotten meanwhile.
            let add = "INSERT OR IGNORE INTO pins(workspace, snapshot, why) SELECT ?1, ?2, ?3
                       WHERE EXISTS (SELECT 1 FROM workspaces WHERE id = ?1)
                       AND NOT EXISTS (SELECT 1 FROM forgotten WHERE snapshot = ?2)";
            for (workspace, snapshot, why) in pins {
                let ids = (workspace.as_bytes(), snapshot.as_bytes(), why.name());
                db.prepare_cached(add)?.execute(ids)?;
            }
            Ok(())
        })
    }

    /// Takes one reason away to keep a snapshot; says whether it was one.
    pub fn unpin_snapshot(
        &self,
        workspace: WorkspaceId,
        snapshot: SnapshotId,
        why: Pin,
    ) -> Result<bool, StoreError> {
        self.write("unpinning a snapshot", |db| {
            let remove = "DELETE FROM pins WHERE workspace = ?1 AND snapshot = ?2 AND why = ?3";
            let ids = (workspace.as_bytes(), snapshot.as_bytes(), why.name());
            Ok(db.execute(remove, ids)? == 1)
        })
    }

    /// The pinned snapshots of a workspace, and why each is.
    pub fn pins(
        &self,
        workspace: WorkspaceId,
    ) -> Result<BTreeMap<SnapshotId, Vec<Pin>>, StoreError> {
        self.read("listing pins", |db| {
            let list = "SELECT snapshot, why FROM pins WHERE workspace = ?1 ORDER BY snapshot, why";
            let mut list = db.prepare_cached(list)?;
            let mut rows = list.query([workspace.as_bytes()])?;
            let mut pins: BTreeMap<_, Vec<Pin>> = BTreeMap::new();
            while let Some(row) = rows.next()? {
                let why: String = row.get(1)?;
                let snapshot = pins.entry(SnapshotId::from_bytes(row.get(0)?)).or_default();
                // A reason that we do not know is one all the same: the entry stays.
                snapshot.extend(Pin::ALL.into_iter().find(|known| known.name() == why));
            }
            Ok(pins)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;
    use crate::catalog::workspaces::Workspace;

    fn workspace(catalog: &Catalog, byte: u8) -> WorkspaceId {
        let id = WorkspaceId::from_bytes([byte; 16]);
        catalog.add_workspace(&Workspace { id, root: vec![b'/', byte], created_at: 1 }).unwrap().id
    }

    fn id(byte: u8) -> SnapshotId {
        SnapshotId::from_bytes([byte; 32])
    }

    #[test]
    fn what_is_thinned_out_is_gone_and_the_rest_stays_in_order() {
        let (_folder, catalog) = catalog();
        let (one, other) = (workspace(&catalog, 1), workspace(&catalog, 2));
        assert_eq!(
            (catalog.history(one).unwrap(), catalog.last_thinning(one).unwrap()),
            (vec![], None)
        );
        let row = |n: u8, kind| HistoryRow {
            sequence: n.into(),
            snapshot: id(n),
            created_at: 100 * u64::from(n),
            kind,
        };
        let rows = [row(1, Kind::Automatic), row(2, Kind::Named), row(3, Kind::Handoff)];
        let thinning = Thinning { covered: id(3), at: 5 };
        catalog.thin_history(one, &rows, &[id(1)], thinning).unwrap();
        assert_eq!(catalog.history(one).unwrap(), [rows[2], rows[1]]);
        assert_eq!(catalog.last_thinning(one).unwrap(), Some(thinning));
        assert_eq!(catalog.history(other).unwrap(), []);
        let thinning = Thinning { covered: id(4), at: 6 };
        let four = row(4, Kind::Automatic);
        catalog.thin_history(one, &[four, rows[2]], &[], thinning).unwrap();
        assert_eq!(catalog.history(one).unwrap(), [four, rows[2], rows[1]]);
        assert_eq!(catalog.last_thinning(one).unwrap(), Some(thinning));
    }

    #[test]
    fn a_snapshot_stays_pinned_until_its_last_reason_is_gone() {
        let (_folder, catalog) = catalog();
        let one = workspace(&catalog, 1);
        for why in [Pin::Push, Pin::Queue, Pin::Push] {
            catalog.pin_snapshot(one, id(1), why).unwrap();
        }
        assert_eq!(catalog.pins(one).unwrap()[&id(1)], [Pin::Push, Pin::Queue]);
        assert!(catalog.unpin_snapshot(one, id(1), Pin::Queue).unwrap());
        assert!(!catalog.unpin_snapshot(one, id(1), Pin::Queue).unwrap());
        assert_eq!(catalog.pins(one).unwrap()[&id(1)], [Pin::Push]);
        assert!(catalog.unpin_snapshot(one, id(1), Pin::Push).unwrap());
        assert!(catalog.pins(one).unwrap().is_empty());
    }

    #[test]
    fn what_was_sent_of_an_unknown_workspace_is_in_no_others_way() {
        let (_folder, catalog) = catalog();
        let (known, unknown) = (workspace(&catalog, 1), WorkspaceId::from_bytes([9; 16]));
        let node = NodeId::from_bytes([7; 32]);
        let acked = [(unknown, node, id(1)), (known, node, id(2))];
        let pins = [(unknown, id(1), Pin::Handoff), (known, id(2), Pin::Handoff)];
        catalog.note_sent(&acked, &pins).unwrap();
        assert_eq!(catalog.acked(known, node).unwrap(), Some(id(2)));
        assert_eq!(catalog.acked(unknown, node).unwrap(), None);
        assert!(catalog.unpin_snapshot(known, id(2), Pin::Handoff).unwrap());
        assert!(!catalog.unpin_snapshot(unknown, id(1), Pin::Handoff).unwrap());
    }
}

//! Histories in a real vault and catalog.

use baton_protocol::id::{IdempotencyKey, ObjectId, VaultId};
use baton_store::catalog::history::Pin;
use baton_store::catalog::workspaces::Workspace;
use baton_store::journal::RefUpdate;
use baton_store::objects::ObjectSink;
use baton_store::snapshot::store_snapshot;
use baton_store::store::Store;

use super::*;

const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
const START: u64 = 20_000 * DAY;

struct Place {
    _folder: tempfile::TempDir,
    catalog: Catalog,
    vault: Vault,
    _store: Store,
    workspace: WorkspaceId,
    device: DeviceId,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        let workspace = WorkspaceId::from_bytes([3; 16]);
        let row = Workspace { id: workspace, root: b"/w".to_vec(), created_at: START };
        catalog.add_workspace(&row).unwrap();
        let vault = store.vault(VaultId::from_bytes([1; 16])).unwrap();
        let device = DeviceId::from_bytes([2; 32]);
        Self { _folder: folder, catalog, vault, _store: store, workspace, device }
    }

    /// One more snapshot on top of the head.
    fn snapshot(&self, created_at: u64, message: &str) -> SnapshotId {
        let intake = self.vault.intake();
        let head = self.vault.head(self.workspace, self.device);
        let tree = baton_protocol::object::Tree::Leaf(Vec::new()).encode();
        let root = intake.put(baton_protocol::id::ObjectKind::Tree, &tree).unwrap();
        let snapshot = Snapshot {
            workspace: self.workspace,
            device: self.device,
            sequence: head.map_or(1, |head| head.sequence + 1),
            parents: head.iter().map(|head| head.snapshot).collect(),
            root: baton_protocol::id::TreeId::from_bytes(root.hash),
            root_mode: 0o755,
            omitted: None,
            git: None,
            conversations: Vec::new(),
            created_at,
            message: message.to_owned(),
        };
        let id = store_snapshot(&snapshot, &intake).unwrap();
        let update = RefUpdate {
            workspace: self.workspace,
            device: self.device,
            expected: head.map(|head| head.snapshot),
            new: id,
            sequence: snapshot.sequence,
            key: IdempotencyKey::from_bytes(crate::workspace::random().unwrap()),
        };
        intake.commit(update).unwrap();
        id
    }

    fn thin(&self, now: u64) -> Thinned {
        let (workspace, device) = (self.workspace, self.device);
        thin(&self.catalog, &self.vault, workspace, device, now, &Retention::default()).unwrap()
    }

    fn history(&self) -> Vec<u64> {
        let rows = self.catalog.history(self.workspace).unwrap();
        rows.iter().rev().map(|row| row.sequence).collect()
    }
}

#[test]
fn what_was_asked_for_and_the_newest_stay_and_the_rest_is_thinned_out() {
    let place = Place::new();
    assert_eq!(place.thin(START), Thinned::default());
    let hours = |n: u64| START + n * 60 * MINUTE;
    // Four in the first hour: a plain one, a named one, a pinned one, the last.
    place.snapshot(hours(0), "");
    place.snapshot(hours(0) + MINUTE, "before the change");
    let pinned = place.snapshot(hours(0) + 2 * MINUTE, "");
    place.catalog.pin_snapshot(place.workspace, pinned, Pin::Push).unwrap();
    place.snapshot(hours(0) + 3 * MINUTE, "");
    place.snapshot(hours(5), "");
    assert_eq!(place.thin(hours(5)), Thinned { added: 4, removed: 1 });
    assert_eq!(place.history(), [2, 3, 4, 5]);
    // Nothing new, and then too soon: nothing is done.
    assert_eq!(place.thin(hours(6)), Thinned::default());
    place.snapshot(hours(5) + MINUTE, "");
    assert_eq!(place.thin(hours(5) + 2 * MINUTE), Thinned::default());
    assert_eq!(place.thin(hours(5) + 9 * MINUTE), Thinned { added: 1, removed: 0 });
    // Days later only the last of the day is left of the automatic ones.
    for day in 1..=3 {
        place.snapshot(hours(24 * day), "");
    }
    place.thin(hours(24 * 3) + MINUTE);
    assert_eq!(place.history(), [2, 3, 6, 7, 8, 9]);
}

#[test]
fn a_clock_that_went_back_does_not_stop_the_thinning() {
    let place = Place::new();
    place.snapshot(START + DAY, "");
    assert_eq!(place.thin(START + DAY), Thinned { added: 1, removed: 0 });
    place.snapshot(START, "");
    assert_eq!(place.thin(START), Thinned { added: 1, removed: 0 });
    assert_eq!(place.history(), [1, 2]);
}

#[test]
fn a_walk_stops_at_what_is_known() {
    let place = Place::new();
    let ids: Vec<_> = (0..5).map(|n| place.snapshot(START + n, "")).collect();
    let stop: BTreeSet<_> = [ids[1]].into();
    let walked = walk(&place.vault, [ids[4]], &stop).unwrap();
    let found: Vec<_> = walked.snapshots.iter().map(|(id, _)| *id).collect();
    assert_eq!(found, [ids[4], ids[3], ids[2]]);
    let absent = SnapshotId::from_bytes([0xee; 32]);
    assert!(walk(&place.vault, [absent], &stop).unwrap().snapshots.is_empty());
}

/// A vault in which one object is damaged.
struct Damaged<'a>(&'a Vault, ObjectId);

impl ObjectSource for Damaged<'_> {
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        if *id == self.1 { Err(StoreError::DamagedObject(*id)) } else { self.0.read(id) }
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        self.0.contains(id)
    }
}

#[test]
fn a_damaged_snapshot_ends_its_branch_and_not_the_walk() {
    let place = Place::new();
    let ids: Vec<_> = (0..5).map(|n| place.snapshot(START + n, "")).collect();
    let source = Damaged(&place.vault, ids[2].into());
    let walked = walk(&source, [ids[4], ids[1]], &BTreeSet::new()).unwrap();
    let mut found: Vec<_> = walked.snapshots.iter().map(|(_, one)| one.sequence).collect();
    found.sort_unstable();
    assert_eq!(found, [1, 2, 4, 5]);
    assert!(matches!(&walked.damaged[..], [(id, StoreError::DamagedObject(_))] if *id == ids[2]));
}

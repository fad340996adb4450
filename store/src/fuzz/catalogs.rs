//! What rows of a catalog say, whatever it is: of the queue, of runs, of devices and remotes, of findings.

use std::collections::HashMap;

use baton_protocol::encode::{Reader, Writer};
use baton_protocol::id::{
    DeviceId, NodeId, QueueId, RunId, SnapshotId, ThreadId, VaultId, WorkspaceId,
};
use baton_protocol::message::{RunSpec, Terms};
use rusqlite::Connection;

use super::fuzzing::{CORPUS, Random, fuzz_with, within};
use super::rows::{value, write_value};
use super::scratch;
use crate::catalog::queue::{EntryKind, NewEntry, sum_all};
use crate::catalog::remotes::Remote;
use crate::catalog::workspaces::Workspace;
use crate::catalog::{Catalog, queue};

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([1; 16]);
const NODE: NodeId = NodeId::from_bytes([2; 32]);

fn spec(byte: u8) -> RunSpec {
    RunSpec {
        run: RunId::from_bytes([byte; 16]),
        thread: ThreadId::from_bytes([byte; 16]),
        workspace: WORKSPACE,
        snapshot: SnapshotId::from_bytes([byte; 32]),
        agent: "command".to_owned(),
        command: vec![b"sh".to_vec(), b"\xff".to_vec(), Vec::new()],
        prompt: Some("größe".to_owned()),
        parent: None,
        terms: Terms::default(),
    }
}

/// A little of everything.
fn fill(catalog: &Catalog) -> HashMap<u64, NewEntry> {
    catalog.set_meta("a", b"1").unwrap();
    catalog.ensure_user("ann", VaultId::from_bytes([3; 16])).unwrap();
    let root = b"/tree".to_vec();
    catalog.add_workspace(&Workspace { id: WORKSPACE, root, created_at: 3 }).unwrap();
    let remote = Remote {
        name: "box".into(),
        node: NODE,
        user: "ann".into(),
        addresses: vec!["box:1".into(), "[::1]:2".into()],
        joined_at: 4,
    };
    catalog.add_remote(&remote).unwrap().unwrap();
    for byte in 1..3 {
        catalog.create_run(&spec(byte), "ann", VaultId::from_bytes([3; 16]), 5).unwrap().unwrap();
    }
    let mut queued = HashMap::new();
    for (byte, kind) in [(1, EntryKind::Push), (2, EntryKind::Handoff), (3, EntryKind::FollowUp)] {
        let entry = NewEntry {
            id: QueueId::from_bytes([byte; 16]),
            kind,
            workspace: WORKSPACE,
            node: NODE,
            remote: "box".to_owned(),
            snapshot: SnapshotId::from_bytes([byte; 32]),
            runs: if byte == 2 { vec![spec(7)] } else { Vec::new() },
            created_at: 1_000,
            expires_at: (byte == 2).then_some(5),
            begun: byte == 3,
        };
        let put = catalog.enqueue(&entry).unwrap().unwrap();
        queued.insert(put.number, entry);
    }
    queued
}

/// Each table, and its columns.
fn tables(db: &Connection) -> Vec<(String, usize)> {
    let list = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
                AND name <> 'queue_sum' ORDER BY name";
    let names: Vec<String> = db
        .prepare(list)
        .unwrap()
        .query_map([], |row| row.get(0))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let columns =
        |name: &String| db.prepare(&format!("SELECT * FROM {name}")).unwrap().column_count();
    names.iter().map(|name| (name.clone(), columns(name))).collect()
}

#[test]
fn catalogs() {
    let folder = scratch();
    let path = folder.path().join("catalog.db");
    let catalog = Catalog::open(&path).unwrap();
    let queued = fill(&catalog);
    let db = Connection::open(&path).unwrap();
    db.pragma_update(None, "foreign_keys", false).unwrap();
    let tables = tables(&db);
    assert!(tables.len() > 10);
    let mut rows = Vec::new();
    for (number, (table, columns)) in tables.iter().enumerate() {
        let mut list = db.prepare(&format!("SELECT * FROM {table}")).unwrap();
        let mut found = list.query([]).unwrap();
        while let Some(row) = found.next().unwrap() {
            let mut to = Writer::new();
            to.byte(number as u8);
            for column in 0..*columns {
                write_value(&row.get(column).unwrap(), &mut to);
            }
            rows.push(to.finish());
        }
    }
    // All of it, and one after the other: where little is damaged at a time more of it is looked at.
    let corpus = (0..CORPUS).map(|at| rows.get(at).cloned().unwrap_or_else(|| rows.concat()));
    let sums: Vec<(i64, i64)> = {
        let mut list = db.prepare("SELECT number, sum FROM queue_sum").unwrap();
        let found = list.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        found.map(Result::unwrap).collect()
    };

    fuzz_with(1500, corpus.collect(), |_, input| {
        let random = &mut Random::of(input);
        db.execute_batch("BEGIN; DELETE FROM queue_sum").unwrap();
        for (table, _) in &tables {
            db.execute(&format!("DELETE FROM {table}"), []).unwrap();
        }
        let (from, mut taken) = (&mut Reader::new(input), 0);
        while let Ok(number) = from.byte() {
            let (table, columns) = &tables[usize::from(number) % tables.len()];
            let row: Option<Vec<_>> = (0..*columns).map(|_| value(from)).collect();
            let Some(row) = row else { break };
            let marks = vec!["?"; *columns].join(", ");
            let put = format!("INSERT OR REPLACE INTO {table} VALUES ({marks})");
            taken += db.execute(&put, rusqlite::params_from_iter(row)).unwrap_or_default();
        }
        let is_mended = random.below(4) > 0;
        if is_mended {
            sum_all(&db);
        } else {
            for (number, sum) in &sums {
                let put = "INSERT INTO queue_sum VALUES (?1, ?2)";
                db.execute(put, [number, sum]).unwrap();
            }
        }
        db.execute_batch("COMMIT").unwrap();

        let mut failed = 0;
        let mut hear = |error: Option<crate::error::StoreError>| {
            if let Some(error) = error {
                assert!(error.is_corruption(), "{error:?}");
                failed += 1;
            }
        };
        within(input, 256, 1 << 20, |_| {
            let entries = catalog.queue();
            if let Ok(entries) = &entries {
                for entry in entries.iter().filter(|_| !is_mended) {
                    // Its place is among what has the checksum.
                    let wanted = queued.get(&entry.number);
                    if let Some(wanted) = wanted {
                        let begun = entry.wanted.begun;
                        assert_eq!(entry.wanted, NewEntry { begun, ..wanted.clone() });
                    }
                }
            }
            hear(entries.err());
            for wanted in queued.values() {
                hear(catalog.queue_entry(wanted.id).err());
            }
            hear(catalog.next_queued(NODE).err());
            hear(catalog.queue_nodes().err());
            hear(catalog.queued_snapshots().err());
            hear(catalog.runs("ann").err());
            hear(catalog.run("ann", spec(1).run).err());
            hear(catalog.live_runs().err());
            hear(catalog.unsealed_runs().err());
            hear(catalog.remembered_runs().err());
            hear(catalog.remotes().err());
            hear(catalog.remote("box").err());
            hear(catalog.default_remote().err());
            hear(catalog.users().err());
            hear(catalog.devices().err());
            hear(catalog.device(DeviceId::from_bytes([0; 32])).err());
            hear(catalog.workspaces().err());
            hear(catalog.workspace_by_root(b"/tree").err());
            hear(catalog.watched().err());
            hear(catalog.place(WORKSPACE).err());
            hear(catalog.held(WORKSPACE).err());
            hear(catalog.allowed(WORKSPACE).err());
            hear(catalog.held_by_id("a").err());
            hear(catalog.history(WORKSPACE).err());
            hear(catalog.last_thinning(WORKSPACE).err());
            hear(catalog.roots().err());
            hear(catalog.untold(NODE).err());
            hear(catalog.meta("a").err());
            hear(catalog.check().err());
        });
        // What waits goes on, or is refused.
        let now = 2_000;
        let cost = queue::Cost::default();
        for wanted in queued.values() {
            let ended = catalog.end_queued(wanted.id, queue::EntryState::Done, None, cost, now);
            assert!(ended.is_ok());
        }
        hear(catalog.tell_queued().err());
        taken > 0 && failed == 0
    });
}

//! The same with the catalog of a home. It is derived from nothing, and SQLite has no checksums of its pages: what of it is
//! structure or has a checksum is noticed, and what waits in the queue is right or an error.

use std::collections::BTreeSet;

use baton_protocol::id::{NodeId, QueueId};
use rusqlite::{Connection, types::Value};

use super::*;
use crate::catalog::Catalog;
use crate::catalog::queue::{EntryKind, NewEntry};

const NODES: u8 = 3;

fn wanted(at: u8) -> NewEntry {
    let own = |what: u64, len| noise(u64::from(at) * 10 + what, len);
    NewEntry {
        id: QueueId::from_bytes(own(0, 16).try_into().unwrap()),
        kind: EntryKind::Push,
        workspace: WorkspaceId::from_bytes(own(1, 16).try_into().unwrap()),
        node: NodeId::from_bytes([at % NODES; 32]),
        remote: format!("remote-{}", at % NODES),
        snapshot: SnapshotId::from_bytes(own(2, 32).try_into().unwrap()),
        runs: Vec::new(),
        created_at: 1_700_000_000_000 + u64::from(at),
        expires_at: at.is_multiple_of(4).then_some(1_800_000_000_000),
        begun: false,
    }
}

/// Everything that is in a catalog, by table.
fn dump(path: &Path) -> rusqlite::Result<BTreeMap<String, BTreeSet<String>>> {
    let db = Connection::open(path)?;
    let mut tables = db.prepare("SELECT name FROM sqlite_schema WHERE type = 'table'")?;
    let tables: Vec<String> =
        tables.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    let mut all = BTreeMap::new();
    for table in tables {
        let mut select = db.prepare(&format!("SELECT * FROM {table}"))?;
        let columns = select.column_count();
        let mut rows = select.query([])?;
        let found: &mut BTreeSet<String> = all.entry(table).or_default();
        while let Some(row) = rows.next()? {
            let values: rusqlite::Result<Vec<Value>> =
                (0..columns).map(|at| row.get::<_, Value>(at)).collect();
            found.insert(format!("{:?}", values?));
        }
    }
    Ok(all)
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum End {
    /// It is not opened.
    Refused,
    /// `check` names it.
    Noticed,
    /// Everything is there and right.
    Harmless,
    /// A value is another one and nobody knows.
    Unnoticed,
}

struct Template {
    files: Files,
    queue: Vec<NewEntry>,
    dump: BTreeMap<String, BTreeSet<String>>,
}

impl Template {
    fn new() -> Self {
        let folder = scratch();
        let path = folder.path().join("catalog.db");
        let catalog = Catalog::open(&path).unwrap();
        for at in 0..40u64 {
            let vault = VaultId::from_bytes(noise(5000 + at, 16).try_into().unwrap());
            catalog.ensure_user(&format!("user-{at}"), vault).unwrap();
            catalog.set_meta(&format!("key-{at}"), &noise(6000 + at, 100)).unwrap();
        }
        let queue: Vec<NewEntry> = (0..60).map(wanted).collect();
        for entry in &queue {
            catalog.enqueue(entry).unwrap().unwrap();
        }
        // Closed, so that its log is in the file.
        drop(catalog);
        let dump = dump(&path).unwrap();
        let files = Files::from([("catalog.db".into(), bytes_of(&path))]);
        Self { files, queue, dump }
    }

    fn look(&self, path: &Path) -> End {
        let Ok(catalog) = Catalog::open(path) else { return End::Refused };
        let is_noticed = !catalog.check().is_ok_and(|found| found.is_empty());
        // What is handed out is right, whoever has looked before.
        for entry in &self.queue {
            match catalog.queue_entry(entry.id) {
                Ok(Some(found)) => assert_eq!(found.wanted, *entry),
                Ok(None) => assert!(is_noticed, "an entry is gone: nobody noticed"),
                Err(error) => assert!(is_noticed && error.is_corruption(), "{error:?}"),
            }
        }
        let known = |wanted: &NewEntry| self.queue.contains(wanted);
        for node in 0..NODES {
            let next = catalog.next_queued(NodeId::from_bytes([node; 32]));
            assert!(next.is_err() || next.unwrap().is_none_or(|next| known(&next.wanted)));
        }
        if let Ok(listed) = catalog.queue() {
            assert!(listed.iter().all(|entry| known(&entry.wanted)));
            assert!(is_noticed || listed.len() == self.queue.len());
        } else {
            assert!(is_noticed);
        }
        drop(catalog);
        match (is_noticed, dump(path)) {
            (true, _) => End::Noticed,
            (false, Ok(dump)) if dump == self.dump => End::Harmless,
            (false, _) => End::Unnoticed,
        }
    }
}

#[test]
fn a_damaged_catalog_is_noticed_where_it_can_be_and_no_wrong_entry_is_sent() {
    let template = Template::new();
    each(&template.files, |root, (harm, ..)| {
        let end = template.look(&root.join("catalog.db"));
        // More than single bits always breaks what SQLite knows, or something with a checksum.
        assert!(harm == Harm::Bit || end != End::Unnoticed, "it was not noticed");
        end
    });
}

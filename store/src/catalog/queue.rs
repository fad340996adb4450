//! What waits for the network: pushes and handoffs that were asked for and that their node has not
//! acknowledged yet, in order.
//!
//! Not here: sending them, and when. A snapshot that an entry names must be kept as long as it waits:
//! [`Catalog::queued_snapshots`].
//!
//! **Invariant:** an entry is waited for until it ends, and ends once: `done`, `cancelled`, `failed` and
//! `expired` are final. Its outcome is kept for [`KEEP_MS`].
//!
//! **Invariant:** numbers grow for good and are never used again; the entries of a node are sent in
//! their order.

use baton_protocol::id::{NodeId, QueueId, SnapshotId, WorkspaceId};
use baton_protocol::message::RunSpec;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row};

use super::{Catalog, sql, unreadable, unsigned};
use crate::error::StoreError;

/// Its tables.
pub(super) const STEP_2: &str = "
CREATE TABLE queue(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id BLOB NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    workspace BLOB NOT NULL,
    node BLOB NOT NULL,
    remote TEXT NOT NULL,
    snapshot BLOB NOT NULL,
    sent BLOB,
    run TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    begun INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    last_error TEXT,
    state TEXT NOT NULL DEFAULT 'waiting',
    ended_at INTEGER,
    told INTEGER NOT NULL DEFAULT 0,
    bytes_sent INTEGER NOT NULL DEFAULT 0,
    objects_sent INTEGER NOT NULL DEFAULT 0,
    round_trips INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX queue_waiting ON queue(node, number) WHERE state = 'waiting';
";

/// What was put in has a checksum, for SQLite does not notice bytes that have changed on the disk. A table of its own: to an
/// older program, which adds none, it means nothing.
pub(super) const SUMS: &str = "
CREATE TABLE IF NOT EXISTS queue_sum(
    number INTEGER PRIMARY KEY REFERENCES queue(number) ON DELETE CASCADE,
    sum INTEGER NOT NULL
) STRICT;
";

/// How long the outcome of an entry is kept, in milliseconds: a week, so that who comes back from a
/// holiday still sees what became of it.
pub const KEEP_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// Entries that may wait at a time: each pins a snapshot.
pub const MAX_WAITING: u64 = 10_000;

/// What an entry does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A snapshot goes to a node.
    Push,
    /// The same, and runs there if it has some.
    Handoff,
    /// A run goes on from what another one left on the node.
    FollowUp,
}

impl EntryKind {
    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Push => "push",
            Self::Handoff => "handoff",
            Self::FollowUp => "follow-up",
        }
    }
}

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryState {
    /// It goes out by itself.
    Waiting,
    /// The node has acknowledged all of it.
    Done,
    /// It was taken back before it was sent.
    Cancelled,
    /// The node refused it for good.
    Failed,
    /// It was too old to be started.
    Expired,
}

impl EntryState {
    const ALL: [Self; 5] =
        [Self::Waiting, Self::Done, Self::Cancelled, Self::Failed, Self::Expired];

    /// As it is stored and shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

/// What is put into the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEntry {
    /// Random, made by whoever asks.
    pub id: QueueId,
    /// What it does.
    pub kind: EntryKind,
    /// Whose snapshot.
    pub workspace: WorkspaceId,
    /// Where it goes.
    pub node: NodeId,
    /// What the user called that node then.
    pub remote: String,
    /// What goes there.
    pub snapshot: SnapshotId,
    /// The runs that are started there, with the ids that were given out.
    pub runs: Vec<RunSpec>,
    /// When it was asked for, in milliseconds since 1970.
    pub created_at: u64,
    /// When it is no longer wanted.
    pub expires_at: Option<u64>,
    /// The node was asked for the run, and may have it: from then on it is not too old any more.
    pub begun: bool,
}

/// What sending has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Bytes of the streams.
    pub bytes_sent: u64,
    /// Objects.
    pub objects_sent: u64,
    /// Round trips.
    pub round_trips: u64,
}

/// An entry of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its place.
    pub number: u64,
    /// As it was put in.
    pub wanted: NewEntry,
    /// The snapshot that stands for it on the node, where that is another one: this home had been put
    /// back, and what the node had is its parent.
    pub sent: Option<SnapshotId>,
    /// Times that sending it was tried.
    pub attempts: u64,
    /// Why it was not sent the last time.
    pub last_error: Option<String>,
    /// Where it stands.
    pub state: EntryState,
    /// When it ended.
    pub ended_at: Option<u64>,
    /// What sending it has cost.
    pub cost: Cost,
}

impl Entry {
    /// Whether it is too old to be started.
    pub fn is_expired(&self, now: u64) -> bool {
        !self.wanted.begun && self.wanted.expires_at.is_some_and(|at| at <= now)
    }
}

/// The queue takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{MAX_WAITING} pushes and handoffs wait already")]
pub struct QueueFull;

impl Catalog {
    /// Puts an entry at the end, and drops outcomes that are old. The same id again changes nothing.
    pub fn enqueue(&self, wanted: &NewEntry) -> Result<Result<Entry, QueueFull>, StoreError> {
        self.write("queueing", |db| {
            let runs = Some(&wanted.runs).filter(|runs| !runs.is_empty());
            let runs = runs.map(serde_json::to_string).transpose();
            let runs =
                runs.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
            let count = "SELECT count(*) FROM queue WHERE state = 'waiting'";
            let waiting: i64 = db.query_row(count, [], |row| row.get(0))?;
            if unsigned(waiting) >= MAX_WAITING {
                return Ok(Err(QueueFull));
            }
            let forget = "DELETE FROM queue WHERE state <> 'waiting' AND ended_at < ?1";
            db.execute(forget, [sql(wanted.created_at.saturating_sub(KEEP_MS))])?;
            let add = "INSERT INTO queue(id, kind, workspace, node, remote, snapshot, run,
                       created_at, expires_at, begun)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
                       ON CONFLICT(id) DO NOTHING";
            let values = (
                wanted.id.as_bytes(),
                wanted.kind.name(),
                wanted.workspace.as_bytes(),
                wanted.node.as_bytes(),
                &wanted.remote,
                wanted.snapshot.as_bytes(),
                &runs,
                sql(wanted.created_at),
                wanted.expires_at.map(sql),
                wanted.begun,
            );
            if db.execute(add, values)? > 0 {
                let number = db.last_insert_rowid();
                let stored = format!("{SELECT} WHERE number = ?1");
                let sum = db.query_row(&stored, [number], sum_of)?;
                db.execute("INSERT INTO queue_sum VALUES (?1, ?2)", [number, sum])?;
            }
            read(db, wanted.id)?.ok_or(rusqlite::Error::QueryReturnedNoRows).map(Ok)
        })
    }

    /// The entry with this id.
    pub fn queue_entry(&self, id: QueueId) -> Result<Option<Entry>, StoreError> {
        self.read("reading the queue", |db| read(db, id))
    }

    /// The entry of a node whose turn it is.
    pub fn next_queued(&self, node: NodeId) -> Result<Option<Entry>, StoreError> {
        self.read("reading the queue", |db| {
            let next =
                format!("{SELECT} WHERE node = ?1 AND state = 'waiting' ORDER BY number LIMIT 1");
            db.prepare_cached(&next)?.query_row([node.as_bytes()], from_row).optional()
        })
    }

    /// What waits, and what ended without being sent, oldest first.
    pub fn queue(&self) -> Result<Vec<Entry>, StoreError> {
        self.read("listing the queue", |db| {
            let list = format!("{SELECT} WHERE state NOT IN ('done', 'cancelled') ORDER BY number");
            db.prepare_cached(&list)?.query_map([], from_row)?.collect()
        })
    }

    /// Nodes that something waits for.
    pub fn queue_nodes(&self) -> Result<Vec<NodeId>, StoreError> {
        self.read("listing the queue", |db| {
            let list = "SELECT DISTINCT node FROM queue WHERE state = 'waiting'";
            let nodes = |row: &Row<'_>| row.get(0).map(NodeId::from_bytes);
            db.prepare_cached(list)?.query_map([], nodes)?.collect()
        })
    }

    /// Snapshots that entries wait to send: none of them may be thinned out or collected.
    pub fn queued_snapshots(&self) -> Result<Vec<SnapshotId>, StoreError> {
        self.read("listing the queue", |db| {
            let list = "SELECT snapshot FROM queue WHERE state = 'waiting' UNION
                        SELECT sent FROM queue WHERE state = 'waiting' AND sent IS NOT NULL";
            let snapshots = |row: &Row<'_>| row.get(0).map(SnapshotId::from_bytes);
            db.prepare_cached(list)?.query_map([], snapshots)?.collect()
        })
    }

    /// Notes that sending was tried and why it failed.
    pub fn note_attempt(&self, id: QueueId, error: &str) -> Result<(), StoreError> {
        self.write("noting an attempt", |db| {
            let set = "UPDATE queue SET attempts = attempts + 1, last_error = ?2
                       WHERE id = ?1 AND state = 'waiting'";
            db.prepare_cached(set)?.execute((id.as_bytes(), error)).map(drop)
        })
    }

    /// Notes which snapshot stands for the entry on its node, before anything relies on that.
    pub fn set_sent(&self, id: QueueId, sent: SnapshotId) -> Result<(), StoreError> {
        self.write("noting what was sent", |db| {
            let set = "UPDATE queue SET sent = ?2 WHERE id = ?1 AND state = 'waiting'";
            db.execute(set, (id.as_bytes(), sent.as_bytes())).map(drop)
        })
    }

    /// Notes that the node is asked for the run now.
    pub fn set_begun(&self, id: QueueId) -> Result<(), StoreError> {
        self.write("noting what was begun", |db| {
            let set = "UPDATE queue SET begun = 1 WHERE id = ?1 AND state = 'waiting'";
            db.execute(set, [id.as_bytes()]).map(drop)
        })
    }

    /// Ends an entry; says whether it had waited until now.
    pub fn end_queued(
        &self,
        id: QueueId,
        state: EntryState,
        reason: Option<&str>,
        cost: Cost,
        now: u64,
    ) -> Result<bool, StoreError> {
        self.write("ending an entry of the queue", |db| {
            let attempt = i64::from(matches!(state, EntryState::Done | EntryState::Failed));
            let set = "UPDATE queue SET state = ?2, last_error = ?3, ended_at = ?4,
                       bytes_sent = ?5, objects_sent = ?6, round_trips = ?7,
                       attempts = attempts + ?8 WHERE id = ?1 AND state = 'waiting'";
            let values = (
                id.as_bytes(),
                state.name(),
                reason,
                sql(now),
                sql(cost.bytes_sent),
                sql(cost.objects_sent),
                sql(cost.round_trips),
                attempt,
            );
            Ok(db.prepare_cached(set)?.execute(values)? == 1)
        })
    }

    /// Takes an entry out of the list whose failure was seen; says whether there was one.
    pub fn dismiss_queued(&self, id: QueueId) -> Result<bool, StoreError> {
        self.write("clearing the queue", |db| {
            let set = "DELETE FROM queue WHERE id = ?1 AND state IN ('failed', 'expired')";
            Ok(db.execute(set, [id.as_bytes()])? == 1)
        })
    }

    /// Entries that failed or expired and that nobody was told of yet; they count as told from now on.
    pub fn tell_queued(&self) -> Result<Vec<Entry>, StoreError> {
        const UNTOLD: &str = "state IN ('failed', 'expired') AND told = 0";
        self.write("reading the queue", |db| {
            let list = format!("{SELECT} WHERE {UNTOLD} ORDER BY number");
            let untold: rusqlite::Result<Vec<_>> =
                db.prepare_cached(&list)?.query_map([], from_row)?.collect();
            db.execute(&format!("UPDATE queue SET told = 1 WHERE {UNTOLD}"), [])?;
            untold
        })
    }
}

const SELECT: &str = "SELECT number, id, kind, workspace, node, remote, snapshot, run, created_at, \
                      expires_at, sent, attempts, last_error, state, ended_at, bytes_sent, \
                      objects_sent, round_trips, begun, \
                      (SELECT sum FROM queue_sum WHERE queue_sum.number = queue.number) FROM queue";

/// The checksum of what never changes of an entry: its first columns.
fn sum_of(row: &Row<'_>) -> rusqlite::Result<i64> {
    let mut sum = 0;
    for column in 0..10 {
        // Each with its kind and length, so that nothing moves from one to the next.
        let (kind, number);
        let bytes = match row.get_ref(column)? {
            ValueRef::Text(bytes) | ValueRef::Blob(bytes) => {
                (kind, number) = (1, bytes.len() as u64);
                bytes
            }
            ValueRef::Integer(value) => {
                (kind, number) = (2, value.cast_unsigned());
                &[]
            }
            ValueRef::Null | ValueRef::Real(_) => {
                (kind, number) = (0, 0);
                &[]
            }
        };
        sum = crc32c::crc32c_append(sum, &[kind]);
        sum = crc32c::crc32c_append(sum, &number.to_le_bytes());
        sum = crc32c::crc32c_append(sum, bytes);
    }
    Ok(sum.into())
}

/// Reads every entry, and says of which what was put in is not there any more.
pub(super) fn check(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(SELECT)?;
    let mut rows = statement.query([])?;
    let mut damaged = Vec::new();
    while let Some(row) = rows.next()? {
        if let Err(error) = from_row(row) {
            let number: i64 = row.get(0)?;
            damaged.push(format!("entry {number} of the queue: {error}"));
        }
    }
    Ok(damaged)
}

fn read(db: &Connection, id: QueueId) -> rusqlite::Result<Option<Entry>> {
    let find = format!("{SELECT} WHERE id = ?1");
    db.prepare_cached(&find)?.query_row([id.as_bytes()], from_row).optional()
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let sum: Option<i64> = row.get(19)?;
    if let Some(sum) = sum
        && sum_of(row)? != sum
    {
        let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT);
        let detail = "its checksum is wrong".to_owned();
        return Err(rusqlite::Error::SqliteFailure(code, Some(detail)));
    }
    let (kind, state): (String, String) = (row.get(2)?, row.get(13)?);
    let runs: Option<String> = row.get(7)?;
    let runs = match runs {
        Some(runs) => serde_json::from_str(&runs).map_err(|_| unreadable(7, "unreadable runs"))?,
        None => Vec::new(),
    };
    let wanted = NewEntry {
        id: QueueId::from_bytes(row.get(1)?),
        kind: [EntryKind::Push, EntryKind::Handoff, EntryKind::FollowUp]
            .into_iter()
            .find(|known| known.name() == kind)
            .ok_or_else(|| unreadable(2, "unknown kind of a queue entry"))?,
        workspace: WorkspaceId::from_bytes(row.get(3)?),
        node: NodeId::from_bytes(row.get(4)?),
        remote: row.get(5)?,
        snapshot: SnapshotId::from_bytes(row.get(6)?),
        runs,
        created_at: unsigned(row.get(8)?),
        expires_at: row.get::<_, Option<i64>>(9)?.map(unsigned),
        begun: row.get(18)?,
    };
    Ok(Entry {
        number: unsigned(row.get(0)?),
        wanted,
        sent: row.get::<_, Option<[u8; 32]>>(10)?.map(SnapshotId::from_bytes),
        attempts: unsigned(row.get(11)?),
        last_error: row.get(12)?,
        state: EntryState::ALL
            .into_iter()
            .find(|known| known.name() == state)
            .ok_or_else(|| unreadable(13, "unknown state of a queue entry"))?,
        ended_at: row.get::<_, Option<i64>>(14)?.map(unsigned),
        cost: Cost {
            bytes_sent: unsigned(row.get(15)?),
            objects_sent: unsigned(row.get(16)?),
            round_trips: unsigned(row.get(17)?),
        },
    })
}

/// For tests: makes the checksum of every entry right.
#[cfg(test)]
pub(crate) fn sum_all(db: &Connection) {
    db.execute_batch("DELETE FROM queue_sum").unwrap();
    let mut list = db.prepare(SELECT).unwrap();
    let mut rows = list.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let number: i64 = row.get(0).unwrap();
        let sum = sum_of(row).unwrap();
        db.execute("INSERT INTO queue_sum VALUES (?1, ?2)", [number, sum]).unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;
    use baton_protocol::id::{RunId, ThreadId};

    fn entry(byte: u8, node: u8) -> NewEntry {
        NewEntry {
            id: QueueId::from_bytes([byte; 16]),
            kind: EntryKind::Push,
            workspace: WorkspaceId::from_bytes([1; 16]),
            node: NodeId::from_bytes([node; 32]),
            remote: "box".to_owned(),
            snapshot: SnapshotId::from_bytes([byte; 32]),
            runs: Vec::new(),
            created_at: 1_000,
            expires_at: None,
            begun: false,
        }
    }

    fn handoff(byte: u8, node: u8) -> NewEntry {
        let wanted = entry(byte, node);
        let run = RunSpec {
            run: RunId::from_bytes([byte; 16]),
            thread: ThreadId::from_bytes([byte; 16]),
            workspace: wanted.workspace,
            snapshot: wanted.snapshot,
            agent: "command".to_owned(),
            command: vec![b"sh".to_vec(), b"\xff".to_vec(), Vec::new()],
            prompt: Some("größe".to_owned()),
            parent: None,
            terms: baton_protocol::message::Terms::default(),
        };
        NewEntry { kind: EntryKind::Handoff, runs: vec![run], expires_at: Some(2_000), ..wanted }
    }

    fn put(catalog: &Catalog, wanted: &NewEntry) -> Entry {
        catalog.enqueue(wanted).unwrap().unwrap()
    }

    fn end(catalog: &Catalog, wanted: &NewEntry, state: EntryState, now: u64) -> bool {
        catalog.end_queued(wanted.id, state, Some("because"), Cost::default(), now).unwrap()
    }

    #[test]
    fn entries_come_out_in_order_for_each_node_and_as_they_went_in() {
        let (_folder, catalog) = catalog();
        let all = [entry(1, 1), handoff(2, 2), handoff(3, 1), entry(4, 1)];
        for wanted in &all {
            assert_eq!(&put(&catalog, wanted).wanted, wanted);
        }
        assert_eq!(put(&catalog, &all[0]).number, 1, "the same id is the same entry");
        let nodes = catalog.queue_nodes().unwrap();
        assert_eq!(nodes, [all[0].node, all[1].node]);
        for at in [0, 2, 3] {
            let next = catalog.next_queued(all[0].node).unwrap().unwrap();
            assert_eq!((&next.wanted, next.state), (&all[at], EntryState::Waiting));
            assert!(end(&catalog, &all[at], EntryState::Done, 5));
            assert!(!end(&catalog, &all[at], EntryState::Failed, 6), "an end is final");
        }
        assert_eq!(catalog.next_queued(all[0].node).unwrap(), None);
        assert_eq!(catalog.queue().unwrap().len(), 1);
        // A number is not used again.
        assert!(put(&catalog, &entry(5, 1)).number > 4);
    }

    #[test]
    fn attempts_and_what_stands_for_an_entry_are_kept() {
        let (_folder, catalog) = catalog();
        let wanted = handoff(1, 1);
        put(&catalog, &wanted);
        catalog.note_attempt(wanted.id, "away").unwrap();
        catalog.note_attempt(wanted.id, "still away").unwrap();
        let sent = SnapshotId::from_bytes([9; 32]);
        catalog.set_sent(wanted.id, sent).unwrap();
        assert_eq!(catalog.queued_snapshots().unwrap(), [wanted.snapshot, sent]);
        assert!(catalog.next_queued(wanted.node).unwrap().unwrap().is_expired(2_000));
        catalog.set_begun(wanted.id).unwrap();
        // Its run may be there already.
        assert!(!catalog.next_queued(wanted.node).unwrap().unwrap().is_expired(2_000));
        let cost = Cost { bytes_sent: 10, objects_sent: 3, round_trips: 1 };
        assert!(catalog.end_queued(wanted.id, EntryState::Done, None, cost, 7).unwrap());
        let ended = catalog.queue_entry(wanted.id).unwrap().unwrap();
        assert_eq!((ended.attempts, ended.last_error), (3, None));
        assert_eq!((ended.sent, ended.cost, ended.ended_at), (Some(sent), cost, Some(7)));
        assert_eq!(catalog.queued_snapshots().unwrap(), []);
        assert_eq!(ended.wanted.expires_at, Some(2_000));
    }

    #[test]
    fn what_was_not_sent_stays_listed_and_is_told_once() {
        let (_folder, catalog) = catalog();
        let all = [entry(1, 1), handoff(2, 1), entry(3, 1), entry(4, 1)];
        for wanted in &all {
            put(&catalog, wanted);
        }
        let states =
            [EntryState::Failed, EntryState::Expired, EntryState::Cancelled, EntryState::Done];
        for (wanted, state) in all.iter().zip(states) {
            assert!(end(&catalog, wanted, state, 1_500));
        }
        let listed: Vec<_> = catalog.queue().unwrap().iter().map(|one| one.state).collect();
        assert_eq!(listed, [EntryState::Failed, EntryState::Expired]);
        assert_eq!(catalog.tell_queued().unwrap().len(), 2);
        assert_eq!(catalog.tell_queued().unwrap(), []);
        assert!(catalog.dismiss_queued(all[0].id).unwrap());
        assert!(!catalog.dismiss_queued(all[3].id).unwrap());
        assert_eq!(catalog.queue().unwrap().len(), 1);
        // The rest goes when it is old.
        let late = NewEntry { created_at: 1_501 + KEEP_MS, ..entry(5, 1) };
        put(&catalog, &late);
        assert_eq!(catalog.queue().unwrap().len(), 1);
        assert_eq!(catalog.queue_entry(all[3].id).unwrap(), None);
    }

    #[test]
    fn a_file_of_format_1_gets_a_queue_and_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("catalog.db");
        let old = Connection::open(&path).unwrap();
        old.execute_batch(crate::catalog::STEP_1).unwrap();
        old.pragma_update(None, "application_id", crate::catalog::APPLICATION).unwrap();
        old.pragma_update(None, "user_version", 1).unwrap();
        old.execute("INSERT INTO workspaces VALUES (?1, ?2, 3)", ([1u8; 16], b"/tree")).unwrap();
        drop(old);
        let catalog = Catalog::open(&path).unwrap();
        assert_eq!(catalog.workspaces().unwrap().len(), 1);
        let wanted = handoff(1, 1);
        put(&catalog, &wanted);
        drop(catalog);
        let again = Catalog::open(&path).unwrap();
        assert_eq!(again.next_queued(wanted.node).unwrap().unwrap().wanted, wanted);
    }
}

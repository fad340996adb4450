//! Runs of this node, and what was last seen of runs elsewhere.
//!
//! **Invariant:** a run is created once however often it is asked for, and a final state never
//! changes.

use baton_protocol::encode::{Reader, Writer};
use baton_protocol::id::{NodeId, RunId, SnapshotId, ThreadId, VaultId, WorkspaceId};
use baton_protocol::message::{Checked, MAX_COMMAND, Question, RunInfo, RunSpec, RunState};
use rusqlite::{Connection, OptionalExtension, Row, Transaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Catalog, sql, unreadable, unsigned};
use crate::error::StoreError;

/// A run of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// What its user may see.
    pub info: RunInfo,
    /// Whose it is.
    pub user: String,
    /// That user's vault.
    pub vault: VaultId,
}

/// The id of a new run stands for another run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run {0} was asked for before, with another content")]
pub struct RunConflict(pub RunId);

/// What changes with a run's state; nothing leaves a field as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunUpdate {
    /// Why it failed or was interrupted.
    pub reason: Option<String>,
    /// Its result so far.
    pub result: Option<SnapshotId>,
    /// How the program ended.
    pub exit_code: Option<i32>,
    /// Whether it runs in a room.
    pub isolated: Option<bool>,
    /// The working folder.
    pub checkout: Option<String>,
    /// When the program started.
    pub started_at: Option<u64>,
    /// When it ended.
    pub ended_at: Option<u64>,
    /// What it waits for. It waits for nothing in any other state than [`RunState::Waiting`].
    pub waiting: Option<Question>,
    /// What became of its check.
    pub checked: Option<Checked>,
    /// Whether what it left is not in its result.
    pub unsealed: Option<bool>,
}

/// Format 3: which run one follows up.
pub(super) const STEP_3: &str = "
ALTER TABLE runs ADD COLUMN parent BLOB;
ALTER TABLE remembered_runs ADD COLUMN parent BLOB;
CREATE INDEX runs_by_parent ON runs(parent) WHERE parent IS NOT NULL;
";

/// Format 4: under which terms runs work, what they wait for, and what became of their checks; each as JSON.
pub(super) const STEP_4: &str = "
ALTER TABLE runs ADD COLUMN terms TEXT;
ALTER TABLE runs ADD COLUMN waiting TEXT;
ALTER TABLE runs ADD COLUMN checked TEXT;
ALTER TABLE runs ADD COLUMN unsealed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE remembered_runs ADD COLUMN terms TEXT;
ALTER TABLE remembered_runs ADD COLUMN waiting TEXT;
ALTER TABLE remembered_runs ADD COLUMN checked TEXT;
";

impl Catalog {
    /// Creates a run that is queued. The user must be there.
    ///
    /// The same run for the same user returns its row as it stands now. Either lasts once [`Catalog::sync`] has returned.
    pub fn create_run(
        &self,
        spec: &RunSpec,
        user: &str,
        vault: VaultId,
        created_at: u64,
    ) -> Result<Result<RunRow, RunConflict>, StoreError> {
        self.note("creating a run", |db| {
            if let Some(known) = read(db, spec.run)? {
                let same = known.info.spec == *spec && known.user == user && known.vault == vault;
                return Ok(if same { Ok(known) } else { Err(RunConflict(spec.run)) });
            }
            let add = "INSERT INTO runs(run, user, vault, thread, workspace, snapshot, agent,
                       command, prompt, state, created_at, parent, terms)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)";
            let values = (
                spec.run.as_bytes(),
                user,
                vault.as_bytes(),
                spec.thread.as_bytes(),
                spec.workspace.as_bytes(),
                spec.snapshot.as_bytes(),
                &spec.agent,
                encode_command(&spec.command),
                &spec.prompt,
                RunState::Queued.name(),
                sql(created_at),
                spec.parent.as_ref().map(RunId::as_bytes),
                to_json(&spec.terms)?,
            );
            db.execute(add, values)?;
            read(db, spec.run)?.ok_or(rusqlite::Error::QueryReturnedNoRows).map(Ok)
        })
    }

    /// The run that goes on with another one in its thread, where there is one.
    pub fn next_of(&self, parent: RunId, thread: ThreadId) -> Result<Option<RunId>, StoreError> {
        self.read("reading a run", |db| {
            let find = "SELECT run FROM runs WHERE parent = ?1 AND thread = ?2 LIMIT 1";
            let values = (parent.as_bytes(), thread.as_bytes());
            let found = db.prepare_cached(find)?.query_row(values, |row| row.get(0)).optional()?;
            Ok(found.map(RunId::from_bytes))
        })
    }

    /// A run of this user.
    pub fn run(&self, user: &str, run: RunId) -> Result<Option<RunRow>, StoreError> {
        let found = self.read("reading a run", |db| read(db, run))?;
        Ok(found.filter(|row| row.user == user))
    }

    /// Every run of this user, newest first.
    pub fn runs(&self, user: &str) -> Result<Vec<RunRow>, StoreError> {
        self.read("listing runs", |db| {
            let list = format!(
                "SELECT {COLUMNS}, user, vault FROM runs WHERE user = ?1
                 ORDER BY created_at DESC, rowid DESC"
            );
            db.prepare_cached(&list)?.query_map([user], row_from_row)?.collect()
        })
    }

    /// Every run of every user that has not ended, oldest first.
    pub fn live_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.read("listing live runs", |db| {
            let list = format!(
                "SELECT {COLUMNS}, user, vault FROM runs WHERE {LIVE} ORDER BY created_at, rowid"
            );
            db.prepare_cached(&list)?.query_map([], row_from_row)?.collect()
        })
    }

    /// Every run of every user that was started and has ended without what it left being in a result, oldest first.
    pub fn unsealed_runs(&self) -> Result<Vec<RunRow>, StoreError> {
        self.read("listing unsealed runs", |db| {
            let list = format!(
                "SELECT {COLUMNS}, user, vault FROM runs
                 WHERE NOT ({LIVE}) AND (result IS NULL OR unsealed) AND checkout IS NOT NULL
                 ORDER BY created_at, rowid"
            );
            db.prepare_cached(&list)?.query_map([], row_from_row)?.collect()
        })
    }

    /// Moves a run to a state, and returns its row as it stands afterwards; nothing where there is
    /// no such run.
    ///
    /// A run that has ended stays as it is unless `state` is the state it ended in: of two ends at
    /// once the first one holds, and the caller sees in the row which.
    pub fn set_state(
        &self,
        run: RunId,
        state: RunState,
        update: &RunUpdate,
    ) -> Result<Option<RunRow>, StoreError> {
        self.write("moving a run", |db| {
            let set = format!(
                "UPDATE runs SET state = ?2, reason = coalesce(?3, reason),
                 result = coalesce(?4, result), exit_code = coalesce(?5, exit_code),
                 isolated = coalesce(?6, isolated), checkout = coalesce(?7, checkout),
                 started_at = coalesce(?8, started_at), ended_at = coalesce(?9, ended_at),
                 waiting = ?10, checked = coalesce(?11, checked),
                 unsealed = coalesce(?12, unsealed)
                 WHERE run = ?1 AND ({LIVE} OR state = ?2)"
            );
            let values = (
                run.as_bytes(),
                state.name(),
                &update.reason,
                update.result.as_ref().map(SnapshotId::as_bytes),
                update.exit_code,
                update.isolated,
                &update.checkout,
                update.started_at.map(sql),
                update.ended_at.map(sql),
                update.waiting.as_ref().map(to_json).transpose()?,
                update.checked.as_ref().map(to_json).transpose()?,
                update.unsealed,
            );
            db.prepare_cached(&set)?.execute(values)?;
            read(db, run)
        })
    }

    /// Notes what a run that has not ended has done so far. Its state stays as it is.
    pub fn set_result(&self, run: RunId, result: SnapshotId) -> Result<(), StoreError> {
        self.write("noting the snapshot of a run", |db| {
            let set = format!("UPDATE runs SET result = ?2 WHERE run = ?1 AND ({LIVE})");
            db.prepare_cached(&set)?.execute((run.as_bytes(), result.as_bytes())).map(drop)
        })
    }

    /// A run of a vault that starts from a snapshot or has left it, where there is one.
    pub fn run_about(
        &self,
        vault: VaultId,
        snapshot: SnapshotId,
    ) -> Result<Option<RunId>, StoreError> {
        self.read("reading runs", |db| {
            let find = "SELECT run FROM runs WHERE vault = ?1 AND (snapshot = ?2 OR result = ?2)
                        LIMIT 1";
            let values = (vault.as_bytes(), snapshot.as_bytes());
            let found = db.prepare_cached(find)?.query_row(values, |row| row.get(0)).optional()?;
            Ok(found.map(RunId::from_bytes))
        })
    }

    /// Remembers what a node said about runs. It can be asked again: a power cut may take it back.
    pub fn remember_runs(
        &self,
        node: NodeId,
        runs: &[RunInfo],
        seen_at: u64,
    ) -> Result<(), StoreError> {
        // They can be asked for again.
        if self.is_only_read() {
            return Ok(());
        }
        self.note("remembering runs", |db| {
            runs.iter().try_for_each(|info| remember(db, node, info, seen_at))
        })
    }

    /// Every run that was remembered, newest first: its node, what that said, and when.
    pub fn remembered_runs(&self) -> Result<Vec<(NodeId, RunInfo, u64)>, StoreError> {
        self.read("listing remembered runs", |db| {
            let list = format!(
                "SELECT {COLUMNS}, node, seen_at FROM remembered_runs
                 ORDER BY created_at DESC, rowid DESC"
            );
            db.prepare_cached(&list)?
                .query_map([], |row| {
                    let node = NodeId::from_bytes(row.get(FIRST_FREE)?);
                    Ok((node, info_from_row(row)?, unsigned(row.get(FIRST_FREE + 1)?)))
                })?
                .collect()
        })
    }

    /// Takes away a run of this user that has ended; whether there was one.
    pub fn delete_run(&self, user: &str, run: RunId) -> Result<bool, StoreError> {
        self.write("deleting a run", |db| {
            let delete = format!("DELETE FROM runs WHERE run = ?1 AND user = ?2 AND NOT ({LIVE})");
            Ok(db.execute(&delete, (run.as_bytes(), user))? > 0)
        })
    }

    /// Whether a thread has another run than this one.
    pub fn has_other_runs_of(
        &self,
        vault: VaultId,
        thread: ThreadId,
        run: RunId,
    ) -> Result<bool, StoreError> {
        self.read("reading runs", |db| {
            let find = "SELECT EXISTS (SELECT 1 FROM runs WHERE vault = ?1 AND thread = ?2
                        AND run <> ?3)";
            let values = (vault.as_bytes(), thread.as_bytes(), run.as_bytes());
            db.query_row(find, values, |row| row.get(0))
        })
    }

    /// Forgets a run of a node.
    pub fn forget_run(&self, node: NodeId, run: RunId) -> Result<(), StoreError> {
        self.write("forgetting a run", |db| {
            let forget = "DELETE FROM remembered_runs WHERE node = ?1 AND run = ?2";
            db.execute(forget, (node.as_bytes(), run.as_bytes())).map(drop)
        })
    }
}

fn remember(
    db: &Transaction<'_>,
    node: NodeId,
    info: &RunInfo,
    seen_at: u64,
) -> rusqlite::Result<()> {
    let set = format!(
        "INSERT OR REPLACE INTO remembered_runs({COLUMNS}, node, seen_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16,
         ?17, ?18, ?19, ?20, ?21, ?22)"
    );
    let RunInfo { spec, .. } = info;
    let values = rusqlite::params![
        spec.run.as_bytes(),
        spec.thread.as_bytes(),
        spec.workspace.as_bytes(),
        spec.snapshot.as_bytes(),
        spec.agent,
        encode_command(&spec.command),
        spec.prompt,
        info.state.name(),
        info.reason,
        info.result.as_ref().map(SnapshotId::as_bytes),
        info.exit_code,
        info.isolated,
        info.checkout,
        sql(info.created_at),
        info.started_at.map(sql),
        info.ended_at.map(sql),
        spec.parent.as_ref().map(RunId::as_bytes),
        to_json(&spec.terms)?,
        info.waiting.as_ref().map(to_json).transpose()?,
        info.checked.as_ref().map(to_json).transpose()?,
        node.as_bytes(),
        sql(seen_at),
    ];
    db.prepare_cached(&set)?.execute(values).map(drop)
}

/// What both tables have, in the order in which [`info_from_row`] reads it.
const COLUMNS: &str = "run, thread, workspace, snapshot, agent, command, prompt, state, reason,
    result, exit_code, isolated, checkout, created_at, started_at, ended_at, parent, terms, waiting,
    checked";

/// The column after those.
const FIRST_FREE: usize = 20;

/// As the index of the table has it.
const LIVE: &str = "state NOT IN ('succeeded', 'failed', 'cancelled', 'interrupted')";

fn read(db: &Connection, run: RunId) -> rusqlite::Result<Option<RunRow>> {
    db.prepare_cached(&format!("SELECT {COLUMNS}, user, vault FROM runs WHERE run = ?1"))?
        .query_row([run.as_bytes()], row_from_row)
        .optional()
}

fn row_from_row(row: &Row<'_>) -> rusqlite::Result<RunRow> {
    Ok(RunRow {
        info: info_from_row(row)?,
        user: row.get(FIRST_FREE)?,
        vault: VaultId::from_bytes(row.get(FIRST_FREE + 1)?),
    })
}

fn info_from_row(row: &Row<'_>) -> rusqlite::Result<RunInfo> {
    let state: String = row.get(7)?;
    Ok(RunInfo {
        spec: RunSpec {
            run: RunId::from_bytes(row.get(0)?),
            thread: ThreadId::from_bytes(row.get(1)?),
            workspace: WorkspaceId::from_bytes(row.get(2)?),
            snapshot: SnapshotId::from_bytes(row.get(3)?),
            agent: row.get(4)?,
            command: decode_command(row.get_ref(5)?.as_blob()?)
                .ok_or_else(|| unreadable(5, "unreadable command"))?,
            prompt: row.get(6)?,
            parent: row.get::<_, Option<[u8; 16]>>(16)?.map(RunId::from_bytes),
            // Those from before there were any have the usual ones.
            terms: from_json(row, 17)?.unwrap_or_default(),
        },
        state: RunState::ALL
            .into_iter()
            .find(|known| known.name() == state)
            .ok_or_else(|| unreadable(7, "unknown state of a run"))?,
        reason: row.get(8)?,
        result: row.get::<_, Option<[u8; 32]>>(9)?.map(SnapshotId::from_bytes),
        exit_code: row.get(10)?,
        isolated: row.get(11)?,
        checkout: row.get(12)?,
        created_at: unsigned(row.get(13)?),
        started_at: row.get::<_, Option<i64>>(14)?.map(unsigned),
        ended_at: row.get::<_, Option<i64>>(15)?.map(unsigned),
        waiting: from_json(row, 18)?,
        checked: from_json(row, 19)?,
    })
}

fn to_json(value: &impl Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn from_json<T: DeserializeOwned>(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<T>> {
    let text: Option<String> = row.get(column)?;
    let read = text.map(|text| serde_json::from_str(&text)).transpose();
    read.map_err(|_| unreadable(column, "unreadable JSON of a run"))
}

/// Arguments are raw bytes, NUL aside; so each goes with its length.
fn encode_command(command: &[Vec<u8>]) -> Vec<u8> {
    let mut to = Writer::new();
    to.varint(command.len() as u64);
    for argument in command {
        to.bytes(argument);
    }
    to.finish()
}

fn decode_command(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut from = Reader::new(bytes);
    let count = from.count("arguments", MAX_COMMAND, 1).ok()?;
    let command = (0..count)
        .map(|_| from.bytes("argument", MAX_COMMAND).map(<[u8]>::to_vec))
        .collect::<Result<_, _>>()
        .ok()?;
    from.finish().ok().map(|()| command)
}

#[cfg(test)]
mod tests {
    use baton_protocol::message::{CheckState, Permissions, QuestionKind, Terms};

    use super::*;
    use crate::catalog::testing::catalog;

    const VAULT: VaultId = VaultId::from_bytes([1; 16]);

    fn spec(byte: u8) -> RunSpec {
        RunSpec {
            run: RunId::from_bytes([byte; 16]),
            thread: ThreadId::from_bytes([byte; 16]),
            workspace: WorkspaceId::from_bytes([2; 16]),
            snapshot: SnapshotId::from_bytes([3; 32]),
            agent: "command".to_owned(),
            command: vec![b"sh".to_vec(), b"-c".to_vec(), b"\xff 'x'".to_vec(), Vec::new()],
            prompt: Some("do it".to_owned()),
            parent: None,
            terms: Terms::default(),
        }
    }

    fn question() -> Question {
        let (id, text) = ("1".to_owned(), "name?".to_owned());
        Question { id, kind: QuestionKind::Input, text, options: Vec::new(), asked_at: 9 }
    }

    fn with_users() -> (tempfile::TempDir, Catalog) {
        let (folder, catalog) = catalog();
        catalog.ensure_user("ann", VAULT).unwrap();
        catalog.ensure_user("bob", VaultId::from_bytes([9; 16])).unwrap();
        (folder, catalog)
    }

    #[test]
    fn a_run_is_created_once() {
        let (_folder, catalog) = with_users();
        let first = catalog.create_run(&spec(1), "ann", VAULT, 10).unwrap().unwrap();
        assert_eq!(first.info.spec, spec(1));
        assert_eq!(first.info.state, RunState::Queued);
        let update = RunUpdate { started_at: Some(11), ..RunUpdate::default() };
        catalog.set_state(spec(1).run, RunState::Running, &update).unwrap();
        let again = catalog.create_run(&spec(1), "ann", VAULT, 20).unwrap().unwrap();
        assert_eq!((again.info.state, again.info.created_at), (RunState::Running, 10));
        let mut other = spec(1);
        other.prompt = None;
        let refused = catalog.create_run(&other, "ann", VAULT, 20).unwrap();
        assert_eq!(refused, Err(RunConflict(other.run)));
        let bobs = VaultId::from_bytes([9; 16]);
        assert!(catalog.create_run(&spec(1), "bob", bobs, 20).unwrap().is_err());
    }

    #[test]
    fn users_see_their_own_runs_newest_first() {
        let (_folder, catalog) = with_users();
        for (byte, at) in [(1, 10), (2, 30), (3, 20), (4, 20)] {
            catalog.create_run(&spec(byte), "ann", VAULT, at).unwrap().unwrap();
        }
        let order: Vec<_> = catalog
            .runs("ann")
            .unwrap()
            .iter()
            .map(|row| row.info.spec.run.as_bytes()[0])
            .collect();
        assert_eq!(order, [2, 4, 3, 1]);
        assert_eq!(catalog.runs("bob").unwrap(), Vec::new());
        assert_eq!(catalog.run("bob", spec(1).run).unwrap(), None);
        assert!(catalog.run("ann", spec(1).run).unwrap().is_some());
    }

    #[test]
    fn an_end_is_final_and_the_first_one_holds() {
        let (_folder, catalog) = with_users();
        catalog.create_run(&spec(1), "ann", VAULT, 10).unwrap().unwrap();
        catalog.create_run(&spec(2), "ann", VAULT, 10).unwrap().unwrap();
        let run = spec(1).run;
        let update = RunUpdate {
            exit_code: Some(0),
            isolated: Some(true),
            checkout: Some("/runs/1".to_owned()),
            ended_at: Some(12),
            ..RunUpdate::default()
        };
        let row = catalog.set_state(run, RunState::Succeeded, &update).unwrap().unwrap();
        assert_eq!(
            (row.info.exit_code, row.info.isolated, row.info.ended_at),
            (Some(0), true, Some(12))
        );
        let late = RunUpdate { exit_code: Some(9), ..RunUpdate::default() };
        let row = catalog.set_state(run, RunState::Cancelled, &late).unwrap().unwrap();
        assert_eq!((row.info.state, row.info.exit_code), (RunState::Succeeded, Some(0)));
        let result = SnapshotId::from_bytes([8; 32]);
        let sealed = RunUpdate { result: Some(result), ..RunUpdate::default() };
        let row = catalog.set_state(run, RunState::Succeeded, &sealed).unwrap().unwrap();
        assert_eq!((row.info.result, row.info.exit_code), (Some(result), Some(0)));
        let live: Vec<_> =
            catalog.live_runs().unwrap().into_iter().map(|row| row.info.spec.run).collect();
        assert_eq!(live, [spec(2).run]);
        let missing = RunId::from_bytes([7; 16]);
        assert_eq!(catalog.set_state(missing, RunState::Failed, &late).unwrap(), None);
    }

    #[test]
    fn the_database_and_the_protocol_agree_on_what_is_final() {
        let (_folder, catalog) = with_users();
        for (at, state) in RunState::ALL.into_iter().enumerate() {
            let spec = spec(at as u8);
            catalog.create_run(&spec, "ann", VAULT, 1).unwrap().unwrap();
            catalog.set_state(spec.run, state, &RunUpdate::default()).unwrap();
        }
        let live: Vec<_> =
            catalog.live_runs().unwrap().into_iter().map(|row| row.info.state).collect();
        let expected: Vec<_> =
            RunState::ALL.into_iter().filter(|state| !state.is_final()).collect();
        assert_eq!(live, expected);
    }

    #[test]
    fn what_was_seen_elsewhere_is_remembered_per_node() {
        let (_folder, catalog) = with_users();
        let [rack, cloud] = [1, 2].map(|byte| NodeId::from_bytes([byte; 32]));
        let mut info = RunInfo {
            spec: spec(1),
            state: RunState::Running,
            reason: Some("because".to_owned()),
            result: Some(SnapshotId::from_bytes([8; 32])),
            exit_code: Some(-1),
            isolated: true,
            checkout: Some("/x".to_owned()),
            created_at: 1,
            started_at: Some(2),
            ended_at: None,
            waiting: None,
            checked: None,
        };
        catalog.remember_runs(rack, &[info.clone()], 50).unwrap();
        info.state = RunState::Failed;
        info.ended_at = Some(3);
        catalog.remember_runs(rack, &[info.clone()], 60).unwrap();
        assert_eq!(catalog.remembered_runs().unwrap(), vec![(rack, info.clone(), 60)]);
        catalog.remember_runs(cloud, &[info.clone()], 70).unwrap();
        assert_eq!(catalog.remembered_runs().unwrap().len(), 2);
        catalog.forget_run(rack, info.spec.run).unwrap();
        assert_eq!(catalog.remembered_runs().unwrap(), vec![(cloud, info, 70)]);
    }

    #[test]
    fn a_run_waits_in_one_state_only() {
        let (_folder, catalog) = with_users();
        let mut asked = spec(1);
        asked.terms = Terms {
            check: Some("ls".into()),
            timeout_ms: Some(5),
            input: Some(false),
            model: Some("m".into()),
            permissions: Some(Permissions::Ask),
        };
        catalog.create_run(&asked, "ann", VAULT, 10).unwrap().unwrap();
        assert_eq!(catalog.run("ann", asked.run).unwrap().unwrap().info.spec, asked);
        let set = |state, update: RunUpdate| {
            catalog.set_state(asked.run, state, &update).unwrap().unwrap().info
        };
        let waits = RunUpdate { waiting: Some(question()), ..RunUpdate::default() };
        assert_eq!(set(RunState::Waiting, waits).waiting, Some(question()));
        assert_eq!(set(RunState::Running, RunUpdate::default()).waiting, None);
        let tail = "no\n".to_owned();
        let checked = Checked { state: CheckState::Failed, exit_code: Some(3), tail };
        let update = RunUpdate { checked: Some(checked.clone()), ..RunUpdate::default() };
        assert_eq!(set(RunState::Running, update).checked, Some(checked.clone()));
        assert_eq!(set(RunState::Succeeded, RunUpdate::default()).checked, Some(checked));
    }

    #[test]
    fn what_a_run_has_done_so_far_is_no_last_result() {
        let (_folder, catalog) = with_users();
        let run = spec(1).run;
        catalog.create_run(&spec(1), "ann", VAULT, 10).unwrap().unwrap();
        let so_far = SnapshotId::from_bytes([7; 32]);
        let checkout = Some("/w".to_owned());
        let begun = RunUpdate { checkout, ..RunUpdate::default() };
        catalog.set_state(run, RunState::Running, &begun).unwrap();
        catalog.set_result(run, so_far).unwrap();
        let failed = RunUpdate { unsealed: Some(true), ..RunUpdate::default() };
        let info = catalog.set_state(run, RunState::Failed, &failed).unwrap().unwrap().info;
        assert_eq!(info.result, Some(so_far));
        assert_eq!(catalog.unsealed_runs().unwrap().len(), 1);
        // An end is an end.
        catalog.set_result(run, SnapshotId::from_bytes([8; 32])).unwrap();
        assert_eq!(catalog.run("ann", run).unwrap().unwrap().info.result, Some(so_far));
        let sealed = RunUpdate { unsealed: Some(false), ..RunUpdate::default() };
        catalog.set_state(run, RunState::Failed, &sealed).unwrap();
        assert_eq!(catalog.unsealed_runs().unwrap(), Vec::new());
    }

    #[test]
    fn only_who_has_ended_is_deleted_and_only_by_its_user() {
        let (_folder, catalog) = with_users();
        let run = spec(1).run;
        catalog.create_run(&spec(1), "ann", VAULT, 10).unwrap().unwrap();
        assert!(!catalog.delete_run("ann", run).unwrap());
        catalog.set_state(run, RunState::Cancelled, &RunUpdate::default()).unwrap();
        assert!(!catalog.delete_run("bob", run).unwrap());
        assert!(catalog.delete_run("ann", run).unwrap());
        assert_eq!(catalog.run("ann", run).unwrap(), None);
    }
}

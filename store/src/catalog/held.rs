//! What the secret scan holds back, and what was allowed.
//!
//! **Invariant:** nothing here is content: a path, the name of a rule, a line and a keyed hash.
//!
//! **Invariant:** what was allowed stays allowed until it is taken back. An allowed path is allowed
//! whatever its file holds later; an allowed finding is allowed in every file of its workspace, and in every conversation
//! about it.

use std::collections::BTreeSet;

use baton_protocol::id::WorkspaceId;
use rusqlite::{Connection, OptionalExtension};

use super::{Catalog, sql, unsigned};
use crate::error::StoreError;
use crate::secrets::Finding;

/// Its tables.
pub(super) const STEP_2: &str = "
CREATE TABLE held(
    workspace BLOB NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
    path BLOB NOT NULL,
    rule TEXT NOT NULL,
    line INTEGER NOT NULL,
    fingerprint BLOB NOT NULL,
    seen_at INTEGER NOT NULL,
    PRIMARY KEY(workspace, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE allowed_paths(
    workspace BLOB NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
    path BLOB NOT NULL,
    allowed_at INTEGER NOT NULL,
    PRIMARY KEY(workspace, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE allowed_findings(
    workspace BLOB NOT NULL REFERENCES workspaces(id) ON DELETE CASCADE,
    fingerprint BLOB NOT NULL,
    allowed_at INTEGER NOT NULL,
    PRIMARY KEY(workspace, fingerprint)
) STRICT, WITHOUT ROWID;
";

/// Under which the key of the fingerprints is kept.
const KEY: &str = "finding-key";

/// Digits of the id of a finding: its fingerprint's first.
const DIGITS: usize = 16;

/// Fewest digits by which a finding can be named.
const LEAST_DIGITS: usize = 8;

/// Begins what stands in place of the path for what was said and not written: no path has this byte.
const SAID: u8 = 0;

/// A file that is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldFinding {
    /// The raw bytes of its path, relative to the root of the workspace.
    pub path: Vec<u8>,
    /// The rule that found something.
    pub rule: String,
    /// Where, counted from 1.
    pub line: u64,
    /// Tells this secret from every other.
    pub fingerprint: [u8; 32],
    /// When it was first held, in milliseconds since 1970.
    pub seen_at: u64,
}

impl HeldFinding {
    /// What was found in the file at `path`.
    pub fn new(path: &[u8], finding: &Finding, seen_at: u64) -> Self {
        let Finding { rule, line, fingerprint } = finding;
        let (path, rule) = (path.to_vec(), (*rule).to_owned());
        Self { path, rule, line: *line, fingerprint: *fingerprint, seen_at }
    }

    /// What was found in a file of a conversation about the workspace.
    pub fn said(file: &str, finding: &Finding, seen_at: u64) -> Self {
        let digits = id_of(&finding.fingerprint);
        let name = [&[SAID], file.as_bytes(), &[SAID], digits.as_bytes()].concat();
        Self::new(&name, finding, seen_at)
    }

    /// By which people name it: 16 digits.
    pub fn id(&self) -> String {
        id_of(&self.fingerprint)
    }
}

/// What a user let through in one workspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    paths: BTreeSet<Vec<u8>>,
    fingerprints: BTreeSet<[u8; 32]>,
}

impl Allowed {
    /// Whether this finding is no reason to hold the file at `path` back.
    pub fn permits(&self, path: &[u8], finding: &Finding) -> bool {
        self.permits_path(path) || self.permits_finding(finding)
    }

    /// Whether this finding is no reason to hold anything back.
    pub fn permits_finding(&self, finding: &Finding) -> bool {
        self.fingerprints.contains(&finding.fingerprint)
    }

    /// Whether the file at `path` travels whatever it holds, so that it need not be looked at.
    pub fn permits_path(&self, path: &[u8]) -> bool {
        self.paths.contains(path)
    }
}

impl Catalog {
    /// The key of this home's fingerprints; `fresh`, which the caller has drawn at random, becomes it
    /// where there is none.
    pub fn finding_key(&self, fresh: [u8; 32]) -> Result<[u8; 32], StoreError> {
        if let Some(kept) = self.meta(KEY)?.and_then(|kept| kept.try_into().ok()) {
            return Ok(kept);
        }
        let kept = self.meta_or_set(KEY, &fresh)?;
        // Of another length it was not written by us; what was allowed is then asked for again.
        Ok(kept.try_into().unwrap_or(fresh))
    }

    /// What is held back in a workspace, by path.
    pub fn held(&self, workspace: WorkspaceId) -> Result<Vec<HeldFinding>, StoreError> {
        self.read("listing what is held", |db| held(db, workspace))
    }

    /// Replaces what is held back in a workspace. Writes only where something else is held than
    /// before; what was held before keeps the time at which it was first seen. Says whether it wrote.
    pub fn set_held(
        &self,
        workspace: WorkspaceId,
        findings: &[HeldFinding],
    ) -> Result<bool, StoreError> {
        let known = self.held(workspace)?;
        let mut wanted = findings.to_vec();
        wanted.sort_by(|a, b| a.path.cmp(&b.path));
        wanted.dedup_by(|a, b| a.path == b.path);
        for finding in &mut wanted {
            let at = known.binary_search_by(|before| before.path.cmp(&finding.path));
            let before = at.ok().and_then(|at| known.get(at));
            if let Some(before) = before.filter(|it| it.fingerprint == finding.fingerprint) {
                finding.seen_at = before.seen_at;
            }
        }
        if wanted == known {
            return Ok(false);
        }
        self.write("noting what is held", |db| {
            let forget = format!("DELETE FROM held WHERE workspace = ?1 AND NOT {IS_SAID}");
            db.execute(&forget, [workspace.as_bytes()])?;
            add_all(db, workspace, &wanted)?;
            Ok(true)
        })
    }

    /// Replaces what holds a conversation about a workspace back, so that it can be named and allowed.
    pub fn set_said(
        &self,
        workspace: WorkspaceId,
        findings: &[HeldFinding],
    ) -> Result<(), StoreError> {
        let said = |finding: &&HeldFinding| finding.path.first() == Some(&SAID);
        let wanted: Vec<_> = findings.iter().filter(said).cloned().collect();
        self.write("noting what holds a conversation back", |db| {
            let forget = format!("DELETE FROM held WHERE workspace = ?1 AND {IS_SAID}");
            db.execute(&forget, [workspace.as_bytes()])?;
            add_all(db, workspace, &wanted)
        })
    }

    /// What was let through in a workspace.
    pub fn allowed(&self, workspace: WorkspaceId) -> Result<Allowed, StoreError> {
        self.read("listing what is allowed", |db| {
            let mut paths =
                db.prepare_cached("SELECT path FROM allowed_paths WHERE workspace = ?1")?;
            let mut findings =
                db.prepare_cached("SELECT fingerprint FROM allowed_findings WHERE workspace = ?1")?;
            let workspace = [workspace.as_bytes()];
            Ok(Allowed {
                paths: paths.query_map(workspace, |row| row.get(0))?.collect::<Result<_, _>>()?,
                fingerprints: findings
                    .query_map(workspace, |row| row.get(0))?
                    .collect::<Result<_, _>>()?,
            })
        })
    }

    /// Lets the file at `path` through, whatever it holds now and later. Says whether that is new.
    pub fn allow_path(
        &self,
        workspace: WorkspaceId,
        path: &[u8],
        at: u64,
    ) -> Result<bool, StoreError> {
        self.write("allowing a file", |db| {
            let add = "INSERT OR IGNORE INTO allowed_paths(workspace, path, allowed_at)
                       VALUES (?1, ?2, ?3)";
            Ok(db.execute(add, (workspace.as_bytes(), path, sql(at)))? == 1)
        })
    }

    /// Lets one secret through, in whatever file of the workspace it stands. Says whether that is new.
    pub fn allow_finding(
        &self,
        workspace: WorkspaceId,
        fingerprint: &[u8; 32],
        at: u64,
    ) -> Result<bool, StoreError> {
        self.write("allowing a finding", |db| {
            let add = "INSERT OR IGNORE INTO allowed_findings(workspace, fingerprint, allowed_at)
                       VALUES (?1, ?2, ?3)";
            Ok(db.execute(add, (workspace.as_bytes(), fingerprint, sql(at)))? == 1)
        })
    }

    /// Holds the file at `path` back again where something is found in it. Says whether it was allowed.
    pub fn disallow_path(&self, workspace: WorkspaceId, path: &[u8]) -> Result<bool, StoreError> {
        self.write("holding a file again", |db| {
            let forget = "DELETE FROM allowed_paths WHERE workspace = ?1 AND path = ?2";
            Ok(db.execute(forget, (workspace.as_bytes(), path))? == 1)
        })
    }

    /// Holds files back again for the allowed findings whose ids begin with `id`; gives their ids.
    pub fn disallow_finding(
        &self,
        workspace: WorkspaceId,
        id: &str,
    ) -> Result<Vec<String>, StoreError> {
        if !is_id(id) {
            return Ok(Vec::new());
        }
        let allowed = self.allowed(workspace)?.fingerprints;
        let named = allowed.into_iter().filter(|fingerprint| id_of(fingerprint).starts_with(id));
        let named: Vec<_> = named.collect();
        if named.is_empty() {
            return Ok(Vec::new());
        }
        self.write("holding a finding again", |db| {
            let forget = "DELETE FROM allowed_findings WHERE workspace = ?1 AND fingerprint = ?2";
            for fingerprint in &named {
                db.execute(forget, (workspace.as_bytes(), fingerprint))?;
            }
            Ok(named.iter().map(id_of).collect())
        })
    }

    /// The workspaces and the findings that a user can mean by `id`, the first digits of a finding's
    /// id; none where those are fewer than 8, or are none.
    pub fn held_by_id(&self, id: &str) -> Result<Vec<(WorkspaceId, HeldFinding)>, StoreError> {
        if !is_id(id) {
            return Ok(Vec::new());
        }
        // Few are held: SQLite cannot search by half a byte.
        self.read("finding what is held", |db| {
            let list = "SELECT DISTINCT workspace FROM held ORDER BY workspace";
            let mut list = db.prepare_cached(list)?;
            let workspaces: Vec<_> = list
                .query_map([], |row| row.get(0).map(WorkspaceId::from_bytes))?
                .collect::<Result<_, _>>()?;
            let mut found = Vec::new();
            for workspace in workspaces {
                let mut all = held(db, workspace)?;
                all.extend(of(db, workspace, IS_SAID)?);
                let all = all.into_iter();
                let named = all.filter(|finding| finding.id().starts_with(id));
                found.extend(named.map(|finding| (workspace, finding)));
            }
            Ok(found)
        })
    }

    /// The finding in the file at `path`, where it is held.
    pub fn held_at(
        &self,
        workspace: WorkspaceId,
        path: &[u8],
    ) -> Result<Option<HeldFinding>, StoreError> {
        self.read("reading what is held", |db| {
            let find = format!("{SELECT} AND path = ?2");
            db.prepare_cached(&find)?.query_row((workspace.as_bytes(), path), from_row).optional()
        })
    }
}

/// Whether this can be the beginning of a finding's id.
pub fn is_id(text: &str) -> bool {
    let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    (LEAST_DIGITS..=DIGITS).contains(&text.len()) && text.bytes().all(digit)
}

fn id_of(fingerprint: &[u8; 32]) -> String {
    let [a, b, c, d, e, f, g, h, ..] = *fingerprint;
    format!("{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h]))
}

const SELECT: &str = "SELECT path, rule, line, fingerprint, seen_at FROM held WHERE workspace = ?1";

/// Whether a row is about what was said.
const IS_SAID: &str = "substr(path, 1, 1) = x'00'";

/// The files that are held back.
fn held(db: &Connection, workspace: WorkspaceId) -> rusqlite::Result<Vec<HeldFinding>> {
    of(db, workspace, &format!("NOT {IS_SAID}"))
}

fn add_all(
    db: &Connection,
    workspace: WorkspaceId,
    findings: &[HeldFinding],
) -> rusqlite::Result<()> {
    let mut add = db.prepare_cached(
        "INSERT OR REPLACE INTO held(workspace, path, rule, line, fingerprint, seen_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for HeldFinding { path, rule, line, fingerprint, seen_at } in findings {
        let (line, seen_at) = (sql(*line), sql(*seen_at));
        add.execute((workspace.as_bytes(), path, rule, line, fingerprint, seen_at))?;
    }
    Ok(())
}

fn of(db: &Connection, workspace: WorkspaceId, which: &str) -> rusqlite::Result<Vec<HeldFinding>> {
    let mut list = db.prepare_cached(&format!("{SELECT} AND {which} ORDER BY path"))?;
    list.query_map([workspace.as_bytes()], from_row)?.collect()
}

fn from_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<HeldFinding> {
    Ok(HeldFinding {
        path: row.get(0)?,
        rule: row.get(1)?,
        line: unsigned(row.get(2)?),
        fingerprint: row.get(3)?,
        seen_at: unsigned(row.get(4)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::testing::catalog;
    use crate::catalog::workspaces::Workspace;

    fn workspace(catalog: &Catalog, byte: u8) -> WorkspaceId {
        let id = WorkspaceId::from_bytes([byte; 16]);
        let root = vec![b'/', byte];
        catalog.add_workspace(&Workspace { id, root, created_at: 1 }).unwrap().id
    }

    fn finding(byte: u8) -> Finding {
        Finding { rule: "github-token", line: 3, fingerprint: [byte; 32] }
    }

    #[test]
    fn what_is_held_is_replaced_and_written_only_when_it_changes() {
        let (_folder, catalog) = catalog();
        let (one, other) = (workspace(&catalog, 1), workspace(&catalog, 2));
        let a = HeldFinding::new(b"a\xff", &finding(1), 10);
        let b = HeldFinding::new(b"b", &finding(2), 10);
        assert!(catalog.set_held(one, &[b.clone(), a.clone()]).unwrap());
        assert_eq!(catalog.held(one).unwrap(), [a.clone(), b.clone()]);
        assert_eq!(catalog.held_at(one, b"b").unwrap(), Some(b.clone()));
        assert_eq!(catalog.held(other).unwrap(), []);
        // Seen again later: nothing is new.
        let later = |held: &HeldFinding| HeldFinding { seen_at: 99, ..held.clone() };
        assert!(!catalog.set_held(one, &[later(&a), later(&b)]).unwrap());
        assert_eq!(catalog.held(one).unwrap(), [a.clone(), b]);
        // Another secret in the same file is.
        let changed = HeldFinding::new(b"b", &finding(3), 50);
        assert!(catalog.set_held(one, &[later(&a), changed.clone()]).unwrap());
        assert_eq!(catalog.held(one).unwrap(), [a, changed]);
        assert!(catalog.set_held(one, &[]).unwrap());
        assert_eq!(catalog.held(one).unwrap(), []);
    }

    #[test]
    fn a_path_is_allowed_alone_and_a_finding_everywhere() {
        let (_folder, catalog) = catalog();
        let (one, other) = (workspace(&catalog, 1), workspace(&catalog, 2));
        assert_eq!(catalog.allowed(one).unwrap(), Allowed::default());
        assert!(catalog.allow_path(one, b"a", 5).unwrap());
        assert!(!catalog.allow_path(one, b"a", 6).unwrap());
        assert!(catalog.allow_finding(one, &[2; 32], 5).unwrap());
        let allowed = catalog.allowed(one).unwrap();
        assert!(allowed.permits(b"a", &finding(1)) && allowed.permits_path(b"a"));
        assert!(!allowed.permits(b"b", &finding(1)));
        assert!(allowed.permits(b"b", &finding(2)) && !allowed.permits_path(b"b"));
        assert!(!catalog.allowed(other).unwrap().permits(b"a", &finding(2)));
        assert!(catalog.disallow_path(one, b"a").unwrap());
        assert!(!catalog.allowed(one).unwrap().permits(b"a", &finding(1)));
        assert_eq!(catalog.disallow_finding(one, "03030303").unwrap(), [""; 0]);
        assert_eq!(catalog.disallow_finding(one, "02020202").unwrap(), ["0202020202020202"]);
        assert_eq!(catalog.allowed(one).unwrap(), Allowed::default());
    }

    #[test]
    fn a_finding_is_named_by_its_first_digits() {
        let (_folder, catalog) = catalog();
        let one = workspace(&catalog, 1);
        let held = HeldFinding::new(b"a", &finding(0xab), 1);
        catalog.set_held(one, std::slice::from_ref(&held)).unwrap();
        assert_eq!(held.id(), "abababababababab");
        assert_eq!(catalog.held_by_id("abababab").unwrap(), [(one, held.clone())]);
        assert_eq!(catalog.held_by_id("abababababababab").unwrap(), [(one, held)]);
        for none in ["abababa", "abababac", "ABABABAB", "ababababababababab", "%%%%%%%%"] {
            assert_eq!(catalog.held_by_id(none).unwrap(), [], "{none}");
        }
    }

    #[test]
    fn what_was_said_is_named_and_allowed_and_no_file() {
        let (_folder, catalog) = catalog();
        let one = workspace(&catalog, 1);
        let file = HeldFinding::new(b"a", &finding(1), 10);
        let said = HeldFinding::said("session.jsonl", &finding(0xab), 10);
        catalog.set_held(one, std::slice::from_ref(&file)).unwrap();
        catalog.set_said(one, &[said.clone(), file.clone()]).unwrap();
        // Of files there is the one, before and after the next scan.
        assert_eq!(catalog.held(one).unwrap(), std::slice::from_ref(&file));
        assert!(!catalog.set_held(one, &[file]).unwrap());
        assert_eq!(catalog.held_by_id("abababab").unwrap(), [(one, said.clone())]);
        catalog.set_held(one, &[]).unwrap();
        assert_eq!(catalog.held_by_id("abababab").unwrap(), [(one, said)]);
        catalog.set_said(one, &[]).unwrap();
        assert_eq!(catalog.held_by_id("abababab").unwrap(), []);
    }

    #[test]
    fn the_key_of_the_fingerprints_is_drawn_once() {
        let (_folder, catalog) = catalog();
        assert_eq!(catalog.finding_key([1; 32]).unwrap(), [1; 32]);
        assert_eq!(catalog.finding_key([2; 32]).unwrap(), [1; 32]);
    }
}

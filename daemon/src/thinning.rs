//! Which automatic snapshots stay in the history: all for a while, then one an hour, then one a day, then
//! none.
//!
//! - [`plan`]: the decision, from numbers alone
//! - [`thin`]: looks through what came since the last time, and writes down what stays
//!
//! Nothing is deleted by it: thinning takes a snapshot out of what `log` lists. Its id restores it until the next collection.
//!
//! **Invariant:** what somebody asked for by name, by `push`, by a handoff or by the queue stays, and so
//! does the newest snapshot, and the head of every device.

pub mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use baton_protocol::id::{DeviceId, SnapshotId, WorkspaceId};
use baton_protocol::object::Snapshot;
use baton_store::catalog::Catalog;
use baton_store::catalog::history::{HistoryRow, Kind, Thinning};
use baton_store::error::StoreError;
use baton_store::objects::ObjectSource;
use baton_store::snapshot::load_snapshot;
use baton_store::vault::Vault;

use plan::{Candidate, Retention, plan};

/// How long after a thinning the next one has nothing to do.
const SELDOM: Duration = Duration::from_mins(5);

/// What a thinning did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thinned {
    /// Snapshots that are in the history from now on.
    pub added: usize,
    /// Snapshots that no longer are.
    pub removed: usize,
}

/// Where the walk from a head led.
#[derive(Debug, Default)]
pub struct Walked {
    /// The snapshots on the way.
    pub snapshots: Vec<(SnapshotId, Snapshot)>,
    /// Those that are there and cannot be read, and why not; what is behind them was not seen.
    pub damaged: Vec<(SnapshotId, StoreError)>,
}

/// Every snapshot from `heads` back, up to those that `stop` has and what is not here. A snapshot that
/// is damaged ends its branch, not the walk.
pub fn walk<S: ObjectSource + ?Sized>(
    source: &S,
    heads: impl IntoIterator<Item = SnapshotId>,
    stop: &BTreeSet<SnapshotId>,
) -> Result<Walked, StoreError> {
    let mut walked = Walked::default();
    let mut open: Vec<_> = heads.into_iter().collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if stop.contains(&id) || !seen.insert(id) {
            continue;
        }
        match load_snapshot(source, id) {
            Ok(snapshot) => {
                open.extend(&snapshot.parents);
                walked.snapshots.push((id, snapshot));
            }
            // What was never fetched is the end of what is known here.
            Err(StoreError::Absent(_)) => {}
            Err(error) if error.is_corruption() => walked.damaged.push((id, error)),
            Err(error) => return Err(error),
        }
    }
    Ok(walked)
}

/// Thins the history of a workspace, of which `device` is this home. To be called after each automatic
/// snapshot: within five minutes of the last time it costs one read of the catalog, else one
/// snapshot for each that came since, and one write.
pub fn thin(
    catalog: &Catalog,
    vault: &Vault,
    workspace: WorkspaceId,
    device: DeviceId,
    now_ms: u64,
    retention: &Retention,
) -> Result<Thinned, StoreError> {
    Ok(thin_out(catalog, vault, (workspace, device), now_ms, retention, false)?.0)
}

/// The same; with `at_once` also where that was done just before. Says also which snapshots are no longer in the history.
pub fn thin_out(
    catalog: &Catalog,
    vault: &Vault,
    (workspace, device): (WorkspaceId, DeviceId),
    now_ms: u64,
    retention: &Retention,
    at_once: bool,
) -> Result<(Thinned, Vec<SnapshotId>), StoreError> {
    let last = catalog.last_thinning(workspace)?;
    let Some(head) = vault.head(workspace, device) else {
        return Ok((Thinned::default(), Vec::new()));
    };
    // A clock that went back must not stop it for as long as it is behind.
    let passed = last.and_then(|last| now_ms.checked_sub(last.at));
    let is_fresh = passed.is_some_and(|passed| u128::from(passed) < SELDOM.as_millis());
    if (is_fresh && !at_once) || last.is_some_and(|last| last.covered == head.snapshot) {
        return Ok((Thinned::default(), Vec::new()));
    }
    let kept = catalog.history(workspace)?;
    let known: BTreeSet<_> = kept.iter().map(|row| row.snapshot).collect();
    let walked = walk(vault, [head.snapshot], &known)?;
    if !walked.snapshots.iter().any(|(id, _)| *id == head.snapshot) {
        // The head cannot be read: what covers the history would have no row.
        return Ok((Thinned::default(), Vec::new()));
    }
    let new = walked.snapshots.iter().map(|(id, snapshot)| HistoryRow {
        sequence: snapshot.sequence,
        snapshot: *id,
        created_at: snapshot.created_at,
        kind: kind(snapshot),
    });
    let rows: BTreeMap<_, _> =
        kept.into_iter().chain(new).map(|row| ((row.sequence, row.snapshot), row)).collect();

    let pins = catalog.pins(workspace)?;
    let heads: BTreeSet<_> = vault
        .heads()
        .into_iter()
        .filter(|head| head.workspace == workspace)
        .map(|head| head.snapshot)
        .collect();
    let candidate = |row: &HistoryRow| Candidate {
        created_at: row.created_at,
        kept: row.kind != Kind::Automatic
            || row.snapshot == head.snapshot
            || heads.contains(&row.snapshot)
            || pins.contains_key(&row.snapshot),
    };
    let candidates: Vec<_> = rows.values().map(candidate).collect();
    let stays = plan(&candidates, now_ms, retention);
    let (mut new, mut thinned) = (Vec::new(), Vec::new());
    for (row, stays) in rows.values().zip(stays) {
        if !stays {
            thinned.push(row.snapshot);
        } else if !known.contains(&row.snapshot) {
            new.push(*row);
        }
    }
    let thinning = Thinning { covered: head.snapshot, at: now_ms };
    catalog.thin_history(workspace, &new, &thinned, thinning)?;
    if !thinned.is_empty() {
        tracing::debug!(%workspace, thinned = thinned.len(), "automatic snapshots thinned out");
    }
    Ok((Thinned { added: new.len(), removed: thinned.len() }, thinned))
}

/// What made a snapshot, as far as it says so itself.
fn kind(snapshot: &Snapshot) -> Kind {
    if !snapshot.conversations.is_empty() {
        Kind::Handoff
    } else if snapshot.message.is_empty() {
        Kind::Automatic
    } else {
        Kind::Named
    }
}

#[cfg(test)]
mod tests;

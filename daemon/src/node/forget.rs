//! Forgetting, on a node: what a device asked to be taken out of its user's vault.
//!
//! What is forgotten is no longer a root; its bytes go with the next collection.
//!
//! **Invariant:** what a ref or a run needs stays, and whoever asked for it to go is told which.

use baton_protocol::id::{RunId, SnapshotId, VaultId};
use baton_protocol::message::{Forget, MAX_FORGET, Refusal, RefusalCode};
use baton_store::catalog::Catalog;
use baton_store::error::StoreError;
use baton_store::snapshot::load_snapshot;
use baton_store::store::Store;

/// Forgets it in a vault; or says why not. Runs of workspaces are the caller's.
pub(crate) fn forget(
    (store, catalog): (&Store, &Catalog),
    vault: VaultId,
    what: &Forget,
) -> Result<Result<(), Refusal>, StoreError> {
    let many = match what {
        Forget::Snapshots(ids) | Forget::Thinned(ids) => ids.len(),
        Forget::Workspaces(ids) => ids.len(),
        Forget::Run(_) => 1,
    };
    if many > MAX_FORGET {
        let message = format!("more than {MAX_FORGET} at once");
        return Ok(Err(Refusal { code: RefusalCode::Limit, message }));
    }
    match what {
        Forget::Snapshots(ids) => {
            for id in ids {
                if let Some(why) = needed(store, catalog, vault, *id)? {
                    return Ok(Err(Refusal { code: RefusalCode::Conflict, message: why }));
                }
            }
            // First: whoever collects in between then rewrites too much, and not too little.
            store.vault(vault)?.purge_next()?;
            for id in ids {
                one(store, catalog, vault, *id)?;
            }
        }
        Forget::Thinned(ids) => {
            for id in ids {
                if needed(store, catalog, vault, *id)?.is_none() {
                    one(store, catalog, vault, *id)?;
                }
            }
        }
        Forget::Run(run) => {
            store.vault(vault)?.purge_next()?;
            let device = run.device();
            store.remove_refs(vault, |head| head.device == device)?;
        }
        Forget::Workspaces(ids) => {
            store.vault(vault)?.purge_next()?;
            store.remove_refs(vault, |head| ids.contains(&head.workspace))?;
        }
    }
    Ok(Ok(()))
}

/// Why a snapshot has to stay.
fn needed(
    store: &Store,
    catalog: &Catalog,
    vault: VaultId,
    id: SnapshotId,
) -> Result<Option<String>, StoreError> {
    let short = id.short();
    if store.vault(vault)?.heads().iter().any(|head| head.snapshot == id) {
        return Ok(Some(format!(
            "snapshot {short} is the latest one there: `baton push --wait` a newer one, then forget this one"
        )));
    }
    let run: Option<RunId> = catalog.run_about(vault, id)?;
    Ok(run.map(|run| {
        let run = run.short();
        format!("run {run} is about snapshot {short}: baton forget --run {run} first")
    }))
}

fn one(store: &Store, catalog: &Catalog, vault: VaultId, id: SnapshotId) -> Result<(), StoreError> {
    let parents = match load_snapshot(&store.vault(vault)?, id) {
        Ok(snapshot) => snapshot.parents,
        // It never was here, or is gone.
        Err(StoreError::Absent(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    catalog.forget_snapshot(vault, id, &parents)
}

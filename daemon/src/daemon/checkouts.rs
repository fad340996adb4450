//! The checkouts of runs: plain copies out of a vault, and back into it.

use std::path::Path;

use baton_protocol::id::{IdempotencyKey, RunId, SnapshotId, VaultId, WorkspaceId};
use baton_store::checkout::{RestoreOptions, restore};
use baton_store::error::StoreError;
use baton_store::journal::RefUpdate;
use baton_store::scan::{Progress, ScanOptions, scan};
use baton_store::snapshot::{
    SnapshotParts, build_snapshot, load_conversation, load_snapshot, store_snapshot,
};
use baton_store::stat_cache::StatCache;
use baton_store::store::Store;

use super::report;
use crate::clock::Clock;
use crate::runs::checkout::{CheckoutError, Checkouts, Prepared};
use crate::workspace::random;

/// Makes and seals checkouts in the vaults of a store.
#[derive(Debug)]
pub struct PlainCheckouts {
    /// Where the vaults are.
    pub store: Store,
    /// The time.
    pub clock: Clock,
}

impl Checkouts for PlainCheckouts {
    fn prepare(
        &self,
        vault: VaultId,
        snapshot: SnapshotId,
        checkout: &Path,
        attachments: &Path,
    ) -> Result<Prepared, CheckoutError> {
        let failed = failed("restoring the snapshot");
        let vault = self.store.vault(vault).map_err(&failed)?;
        let loaded = load_snapshot(&vault, snapshot).map_err(&failed)?;
        let options = RestoreOptions::default();
        let progress = Progress::default();
        let restored = restore(&vault, loaded.root, loaded.root_mode, checkout, &options, &progress)
            .map_err(failed)?;
        for &id in &loaded.conversations {
            let failed = self::failed("writing the attachments");
            let conversation = load_conversation(&vault, id).map_err(&failed)?;
            for part in conversation.attachments {
                baton_store::checkout::write_blob(&vault, part.blob, attachments, &part.path)
                    .map_err(&failed)?;
            }
        }
        let failed = self::failed("writing the receipt");
        let receipt = report::receipt(&vault, snapshot, &loaded, &restored.not_carried, None)
            .map_err(&failed)?;
        let receipt = serde_json::to_value(receipt).map_err(failed)?;
        Ok(Prepared { files: restored.files, bytes: restored.bytes, receipt })
    }

    fn seal(
        &self,
        vault: VaultId,
        workspace: WorkspaceId,
        run: RunId,
        checkout: &Path,
        parent: SnapshotId,
    ) -> Result<SnapshotId, CheckoutError> {
        let failed = failed("keeping what the run has left");
        let vault = self.store.vault(vault).map_err(&failed)?;
        let before = load_snapshot(&vault, parent).map_err(&failed)?;
        let head = vault.head(workspace, run.device());
        let intake = vault.intake();
        let options = ScanOptions {
            started_at_ns: i64::try_from(self.clock.now_ms()).unwrap_or_default() * 1_000_000,
            ..ScanOptions::default()
        };
        let scanned =
            scan(checkout, &StatCache::default(), &intake, &options, &Progress::default())
                .map_err(&failed)?;
        let last = match head {
            Some(head) => (head.snapshot, head.sequence),
            None => (parent, before.sequence),
        };
        let parts = SnapshotParts {
            workspace,
            device: run.device(),
            sequence: last.1 + 1,
            parents: vec![last.0],
            conversations: before.conversations,
            created_at: self.clock.now_ms(),
            message: format!("result of run {run}"),
        };
        let snapshot = build_snapshot(&scanned, parts, &intake).map_err(&failed)?;
        if let Some(head) = head {
            // Sealed before, and nothing has changed since: the same answer.
            let sealed = load_snapshot(&vault, head.snapshot).map_err(&failed)?;
            if baton_store::snapshot::has_same_content(&sealed, &snapshot) {
                return Ok(head.snapshot);
            }
        }
        let new = store_snapshot(&snapshot, &intake).map_err(&failed)?;
        let update = RefUpdate {
            workspace,
            device: run.device(),
            expected: head.map(|head| head.snapshot),
            new,
            sequence: snapshot.sequence,
            key: IdempotencyKey::from_bytes(random().map_err(&failed)?),
        };
        intake.commit(update).map_err(|error| CheckoutError {
            doing: "keeping what the run has left",
            source: Box::new(error),
        })?;
        Ok(new)
    }
}

/// Names what was done; for errors of any type.
fn failed<E>(doing: &'static str) -> impl Fn(E) -> CheckoutError
where
    E: std::error::Error + Send + Sync + 'static,
{
    move |error| CheckoutError { doing, source: Box::new(error) }
}

/// Keeps the seam honest: what the store says is what the run is told.
impl From<StoreError> for CheckoutError {
    fn from(error: StoreError) -> Self {
        Self { doing: "reading the store", source: Box::new(error) }
    }
}

//! The checkouts of runs: plain copies out of a vault, and back into it.

use std::collections::BTreeMap;
use std::path::Path;

use baton_protocol::id::{
    IdempotencyKey, ObjectKind, RunId, SnapshotId, TreeId, VaultId, WorkspaceId,
};
use baton_protocol::object::{Entry, EntryKind, Snapshot, build_tree};
use baton_store::checkout::{RestoreOptions, restore};
use baton_store::journal::RefUpdate;
use baton_store::objects::ObjectSink;
use baton_store::scan::{Progress, ScanOptions, scan};
use baton_store::snapshot::{
    SnapshotParts, build_snapshot, load_conversation, load_snapshot, store_snapshot,
};
use baton_store::stat_cache::StatCache;
use baton_store::store::Store;
use baton_store::vault::{CommitError, Vault};

use super::report;
use crate::clock::Clock;
use crate::runs::checkout::{CheckoutError, Checkouts, Prepared};
use crate::workspace::random;

const RESTORING: &str = "restoring the snapshot";
const ATTACHING: &str = "writing the attachments";
const RECEIPT: &str = "writing the receipt";
const SEALING: &str = "keeping what the run has left";

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
        let vault = self.store.vault(vault).doing(RESTORING)?;
        let loaded = load_snapshot(&vault, snapshot).doing(RESTORING)?;
        let options = RestoreOptions::default();
        let progress = Progress::default();
        let restored =
            restore(&vault, loaded.root, loaded.root_mode, checkout, &options, &progress)
                .doing(RESTORING)?;
        if let Some(tree) = attachments_tree(&vault, &loaded).doing(ATTACHING)? {
            restore(&vault, tree, 0o755, attachments, &options, &progress).doing(ATTACHING)?;
        }
        let receipt = report::receipt(&vault, snapshot, &loaded, &restored.not_carried, None)
            .doing(RECEIPT)?;
        let receipt = serde_json::to_value(receipt).doing(RECEIPT)?;
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
        let vault = self.store.vault(vault).doing(SEALING)?;
        let before = load_snapshot(&vault, parent).doing(SEALING)?;
        let head = vault.head(workspace, run.device());
        let intake = vault.intake();
        let options = ScanOptions {
            started_at_ns: i64::try_from(self.clock.now_ms()).unwrap_or_default() * 1_000_000,
            ..ScanOptions::default()
        };
        let scanned =
            scan(checkout, &StatCache::default(), &intake, &options, &Progress::default())
                .doing(SEALING)?;
        let last = match head {
            Some(head) => (head.snapshot, head.sequence),
            None => (parent, before.sequence),
        };
        let parts = SnapshotParts {
            workspace,
            device: run.device(),
            sequence: last.1.saturating_add(1),
            parents: vec![last.0],
            conversations: before.conversations,
            created_at: self.clock.now_ms(),
            message: format!("result of run {run}"),
        };
        let snapshot = build_snapshot(&scanned, parts, &intake).doing(SEALING)?;
        if let Some(head) = head {
            // Sealed before, and nothing has changed since: the same answer.
            let sealed = load_snapshot(&vault, head.snapshot).doing(SEALING)?;
            if baton_store::snapshot::has_same_content(&sealed, &snapshot) {
                return Ok(head.snapshot);
            }
        }
        let new = store_snapshot(&snapshot, &intake).doing(SEALING)?;
        let update = RefUpdate {
            workspace,
            device: run.device(),
            expected: head.map(|head| head.snapshot),
            new,
            sequence: snapshot.sequence,
            key: IdempotencyKey::from_bytes(random().doing(SEALING)?),
        };
        intake.commit(update).doing(SEALING)?;
        Ok(new)
    }
}

/// The attachments of a snapshot as a directory, which is made like any other.
fn attachments_tree(vault: &Vault, snapshot: &Snapshot) -> Result<Option<TreeId>, CommitError> {
    let mut files = BTreeMap::new();
    for &id in &snapshot.conversations {
        for part in load_conversation(vault, id)?.attachments {
            let name = part.path.components().last().unwrap_or_default().to_vec();
            files.insert(name, EntryKind::File { mode: 0o644, blob: part.blob });
        }
    }
    if files.is_empty() {
        return Ok(None);
    }
    let intake = vault.intake();
    let entries = files.into_iter().map(|(name, kind)| Entry { name, kind }).collect();
    let (tree, _) =
        build_tree(entries, |_, _, bytes| intake.put(ObjectKind::Tree, &bytes).map(drop))?;
    intake.keep(&[tree.into()])?;
    Ok(Some(tree))
}

/// Names what was done when it failed.
trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, CheckoutError>;
}

impl<T, E: std::error::Error + Send + Sync + 'static> Doing<T> for Result<T, E> {
    fn doing(self, doing: &'static str) -> Result<T, CheckoutError> {
        self.map_err(|error| CheckoutError { doing, source: Box::new(error) })
    }
}

//! The checkouts of runs: out of a vault, and back into it.
//!
//! - [`layered`]: those that share what they have in common
//! - [`cloned`]: those that share bytes of their files
//! - [`installed`]: what they find beside their files
//! - [`conversing`]: the conversations of their agents
//! - [`repositories`]: their repositories, made and captured

mod layered;
mod cloned;
mod installed;
mod conversing;
mod repositories;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use baton_protocol::id::{IdempotencyKey, ObjectKind, SnapshotId, TreeId};
use baton_protocol::object::{Entry, EntryKind, Omission, Snapshot, build_tree};
use baton_store::additions::unchanged;
use baton_store::checkout::{
    RepositoryOptions, RestoreOptions, Restored, RestoredRepository, restore, restore_snapshot,
    sweep,
};
use baton_store::fs::{self, Context, FsError};
use baton_store::git::GitProgram;
use baton_store::journal::RefUpdate;
use baton_store::layers::overlay::{self, Marks};
use baton_store::objects::ObjectSink;
use baton_store::scan::{Guard, Progress, ScanOptions, scan};
use baton_store::snapshot::{
    SnapshotParts, build_snapshot, load_conversation, load_snapshot, store_snapshot,
};
use baton_store::stat_cache::StatCache;
use baton_store::store::Store;
use baton_store::vault::{CommitError, Vault};
use rustix::fs::{Access, AtFlags, CWD, FileType, accessat, statat};
use rustix::io::Errno;

use super::report;
use crate::clock::Clock;
use crate::environments::cache::EnvironmentCache;
use crate::environments::setups::Setups;
use crate::runs::checkout::{CheckoutError, Checkouts, Conversed, Environments, Place, Prepared};
use crate::runs::environment::Folders;
use crate::secrets::Secrets;
use crate::workspace::random;
pub use cloned::SharedBytes;
pub use layered::SharedLayers;
use layered::{SharedError, is_gone, is_sealed, is_shared, note_sealed};
pub use repositories::Captures;
use repositories::{as_before, has_left_git_alone};

const RESTORING: &str = "restoring the snapshot";
const REBUILDING: &str = "making the repository again";
const ATTACHING: &str = "writing the attachments";
const RECEIPT: &str = "writing the receipt";
const RELEASING: &str = "taking a checkout away";
const SEALING: &str = "keeping what the run has left";

/// Makes and seals checkouts in the vaults of a store.
#[derive(Debug)]
pub struct NodeCheckouts {
    /// Where the vaults are.
    pub store: Store,
    /// The time.
    pub clock: Clock,
    /// Git; a run's checkout has no repository without.
    pub git: Option<GitProgram>,
    /// A folder for what git needs for a moment.
    pub scratch: PathBuf,
    /// Captures of repositories at once.
    pub captures: Captures,
    /// What must not be in a result.
    pub secrets: Secrets,
    /// Layers that checkouts share; each is a copy of its own without.
    pub shared: Option<SharedLayers>,
    /// What such copies share bytes with; they are written from the store without.
    pub cloned: Option<SharedBytes>,
    /// What runs are told of the kind of their checkouts.
    pub note: Option<String>,
    /// A folder of the same file system as the checkouts for what is to be taken away.
    pub aside: PathBuf,
    /// What was set up for them.
    pub environments: EnvironmentCache,
    /// What is being set up.
    pub setups: Setups,
    /// The system on which it is, for which it was made.
    pub system: String,
}

impl Checkouts for NodeCheckouts {
    fn prepare(&self, place: &Place, snapshot: SnapshotId) -> Result<Prepared, CheckoutError> {
        let _lease = self.store.lease();
        let vault = self.store.vault(place.vault).doing(RESTORING)?;
        let loaded = load_snapshot(&vault, snapshot).doing(RESTORING)?;
        let repository = self.repository();
        let made = match &self.shared {
            Some(shared) => shared.prepare(place, &vault, &loaded, &repository).doing(RESTORING)?,
            None => self.make_own(place, &vault, &loaded, &repository)?,
        };
        if let Some(tree) = attachments_tree(&vault, &loaded).doing(ATTACHING)? {
            let (options, progress) = (RestoreOptions::default(), Progress::default());
            restore(&vault, tree, 0o755, &place.attachments, &options, &progress)
                .doing(ATTACHING)?;
        }
        let mut receipt =
            report::receipt(&vault, snapshot, &loaded, &made.not_carried, None).doing(RECEIPT)?;
        report::made(&mut receipt, &made.repository);
        let mut receipt = serde_json::to_value(receipt).doing(RECEIPT)?;
        if let (Some(note), Some(receipt)) = (&self.note, receipt.as_object_mut()) {
            receipt.insert("notes".to_owned(), vec![note.as_str()].into());
        }
        Ok(Prepared { files: made.files, bytes: made.bytes, receipt, note: self.note.clone() })
    }

    fn converse(
        &self,
        place: &Place,
        snapshot: SnapshotId,
        is_fork: bool,
    ) -> Result<Option<Conversed>, CheckoutError> {
        let _lease = self.store.lease();
        self.write_conversation(place, snapshot, is_fork)
    }

    fn seal(&self, place: &Place, parent: SnapshotId) -> Result<SnapshotId, CheckoutError> {
        let sealed = self.store(place, parent, Moment::Last)?;
        note_sealed(&place.layer);
        Ok(sealed)
    }

    fn keep(&self, place: &Place, parent: SnapshotId) -> Result<SnapshotId, CheckoutError> {
        self.store(place, parent, Moment::Live)
    }

    fn is_there(&self, checkout: &Path, layer: &Path) -> bool {
        !is_gone(checkout) || !is_gone(layer)
    }

    fn release(&self, checkout: &Path, layer: &Path) -> Result<(), CheckoutError> {
        layered::release(checkout, layer, &self.aside).doing(RELEASING)
    }

    fn let_go(&self, checkout: &Path, layer: &Path) -> Result<(), CheckoutError> {
        layered::let_go(checkout, layer, &self.aside).doing(RELEASING)
    }

    fn environments(&self) -> Option<&dyn Environments> {
        Some(self)
    }

    fn sweep(&self, stop: &AtomicBool) -> Result<(), CheckoutError> {
        let shared = self.shared.as_ref().map_or(Ok(()), |shared| shared.sweep(stop));
        let runs = self.aside.parent().unwrap_or(&self.aside);
        let is_there = |run| {
            let folders = Folders::of(runs, run);
            self.is_there(&folders.checkout(), &folders.layer())
        };
        let environments = self.environments.sweep(is_there, stop);
        let cloned = self.cloned.as_ref().map_or(Ok(()), |cloned| cloned.sweep(stop));
        let shared = shared.and(cloned);
        shared.and(environments).and(sweep(&self.aside, "", stop)).doing(RELEASING)
    }
}

/// What the checkouts of a node share with each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Layers.
    Layers(Marks),
    /// Bytes of their files; and why no layers.
    Bytes(String),
    /// Nothing; and why.
    Nothing(String),
}

impl Sharing {
    /// What runs are told of it, where it is not what a node could have.
    pub fn note(&self, serving: bool) -> Option<String> {
        match self {
            Self::Layers(marks) if marks.rename() => None,
            Self::Layers(_) => Some(
                "the checkout is of layers of a user: a folder that came with the snapshot cannot be renamed (EXDEV), only \
                 copied and removed, as mv does"
                    .to_owned(),
            ),
            Self::Bytes(why) if serving => {
                Some(format!("the checkout is a copy that shares bytes with others: {why}"))
            }
            Self::Nothing(why) if serving => Some(format!("the checkout is a copy: {why}")),
            Self::Bytes(_) | Self::Nothing(_) => None,
        }
    }
}

/// When a snapshot of a run is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// Its program is at work.
    Live,
    /// It has ended.
    Last,
}

impl NodeCheckouts {
    fn store(
        &self,
        place: &Place,
        parent: SnapshotId,
        moment: Moment,
    ) -> Result<SnapshotId, CheckoutError> {
        let _lease = self.store.lease();
        let Place { run, checkout, workspace, .. } = place;
        let vault = self.store.vault(place.vault).doing(SEALING)?;
        let before = load_snapshot(&vault, parent).doing(SEALING)?;
        let head = vault.head(*workspace, run.device());
        // What is in a snapshot may have been taken away since.
        if let Some(head) = head
            && moment == Moment::Last
            && (is_sealed(&place.layer) || !self.is_there(checkout, &place.layer))
        {
            return Ok(head.snapshot);
        }
        if moment == Moment::Last {
            open_up(place).doing(SEALING)?;
        }
        let intake = vault.intake();
        let mut options = ScanOptions {
            started_at_ns: i64::try_from(self.clock.now_ms()).unwrap_or_default() * 1_000_000,
            guard: self.secrets.to_hold(place.vault, *run).map(Guard::Known),
            ..ScanOptions::default()
        };
        let scanned = match (&self.shared, is_shared(&place.layer)) {
            (Some(shared), true) => {
                let repository = self.repository();
                let environment = self.given(place)?;
                if moment == Moment::Live {
                    shared.check_at_work(place, &before).doing(SEALING)?;
                }
                shared
                    .scan(
                        place,
                        &before,
                        &intake,
                        &repository,
                        &mut options,
                        (environment.as_ref(), moment == Moment::Live),
                    )
                    .doing(SEALING)?
            }
            // What is at its place is nothing that the run has left.
            (None, true) => {
                return Err(SharedError::NoOverlays(place.layer.join("upper"))).doing(SEALING);
            }
            (_, false) => {
                if let Some(kept) = self.given(place)? {
                    options.exclude =
                        unchanged(&intake, before.root, &kept.tree, checkout).doing(SEALING)?;
                }
                let (cache, progress) = (StatCache::default(), Progress::default());
                scan(checkout, &cache, &intake, &options, &progress).doing(SEALING)?
            }
        };
        let (state, mut omitted) = match moment {
            // Who is at work could put another repository in its place between a look at it and the next.
            Moment::Live => as_before(&before, &scanned, &intake),
            // To look at every file of it takes time and memory, of many runs at once.
            Moment::Last if has_left_git_alone(place, &before, &scanned, &intake) => {
                as_before(&before, &scanned, &intake)
            }
            Moment::Last => self.capture(checkout, &scanned, before.git, &intake),
        };
        let (conversations, held) = self.conversations(place, &before, &intake, &vault);
        omitted.extend(held);
        let sealed = head.map(|head| load_snapshot(&vault, head.snapshot)).transpose();
        let sealed = sealed.doing(SEALING)?;
        let at_work = format!("run {run} at work");
        // One that was made while it was at work leads nowhere: what was in it for a moment only goes with it.
        let (last, sequence) = match (head, &sealed) {
            (Some(head), Some(sealed)) if sealed.message == at_work => (parent, head.sequence),
            (Some(head), _) => (head.snapshot, head.sequence),
            (None, _) => (parent, before.sequence),
        };
        let parts = SnapshotParts {
            workspace: *workspace,
            device: run.device(),
            sequence: sequence.saturating_add(1),
            parents: vec![last],
            git: state,
            conversations,
            created_at: self.clock.now_ms(),
            message: match moment {
                Moment::Live => at_work,
                Moment::Last => format!("result of run {run}"),
            },
        };
        let snapshot = build_snapshot(&scanned, &omitted, parts, &intake).doing(SEALING)?;
        if let (Some(head), Some(sealed)) = (head, &sealed)
            && baton_store::snapshot::has_same_content(sealed, &snapshot)
        {
            // Sealed before, and nothing has changed since: the same answer.
            return Ok(head.snapshot);
        }
        let new = store_snapshot(&snapshot, &intake).doing(SEALING)?;
        let update = RefUpdate {
            workspace: *workspace,
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

/// Lets its owner into a checkout that a run has shut at the top, which is no reason to keep nothing of it. What it shut
/// below is looked at as far as that can be read.
fn open_up(place: &Place) -> Result<(), FsError> {
    let upper = place.layer.join("upper");
    let is_seen = !is_shared(&place.layer) || overlay::is_mounted(&place.checkout)?;
    let top = if is_seen { &place.checkout } else { &upper };
    match accessat(CWD, top, Access::READ_OK | Access::EXEC_OK, AtFlags::EACCESS) {
        Err(Errno::ACCESS) => {}
        // Whatever else is wrong with it is said when it is read.
        _ => return Ok(()),
    }
    let stat = statat(CWD, top, AtFlags::SYMLINK_NOFOLLOW).context("looking at", top)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Ok(());
    }
    fs::set_mode(top, (stat.st_mode & 0o777) | 0o700)
}

/// A checkout that was made.
struct Made {
    files: u64,
    bytes: u64,
    not_carried: Vec<Omission>,
    repository: RestoredRepository,
}

/// Makes a checkout that shares nothing.
fn copy(
    place: &Place,
    vault: &Vault,
    snapshot: &Snapshot,
    repository: &RepositoryOptions,
) -> Result<Made, CheckoutError> {
    let (options, progress) = (RestoreOptions::default(), Progress::default());
    let made = restore_snapshot(vault, snapshot, &place.checkout, &options, repository, &progress);
    let (restored, repository) = made.doing(RESTORING)?;
    if let RestoredRepository::Failed(error) = repository {
        return Err(error).doing(REBUILDING);
    }
    let Restored { files, bytes, not_carried } = restored;
    Ok(Made { files, bytes, not_carried, repository })
}

impl NodeCheckouts {
    /// Makes a checkout that shares no layers.
    fn make_own(
        &self,
        place: &Place,
        vault: &Vault,
        snapshot: &Snapshot,
        repository: &RepositoryOptions,
    ) -> Result<Made, CheckoutError> {
        if let Some(cloned) = &self.cloned
            && let Some(made) =
                cloned.prepare(place, vault, snapshot, repository).doing(RESTORING)?
        {
            return Ok(made);
        }
        copy(place, vault, snapshot, repository)
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

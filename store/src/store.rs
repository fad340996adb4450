//! The store of a node: its vaults, and the journal that all of them share.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use baton_protocol::id::{ObjectId, VaultId};
use baton_protocol::message::Head;
use baton_protocol::object::Object;

use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::journal::{Entry, Journal, Poison, RefState, Replayed, replay};
use crate::layout::Layout;
use crate::noted::note_one;
use crate::reserve::{Reserve, RoomToDelete, give_up_if_full};
use crate::segment::Record;
use crate::vault::{Commits, Lease, Pending, PendingObject, Refs, Vault};

/// How long after a commit the watermark follows, so that many share one.
const MARK_AFTER: Duration = Duration::from_secs(1);

/// What opening a store found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Commits read back from the journal.
    pub commits: u64,
    /// Bytes of an unacknowledged write at its end that were dropped.
    pub torn_bytes: u64,
    /// Journal files in which something before the end is damaged; they are kept aside.
    pub damaged: Vec<std::path::PathBuf>,
}

/// A store; cheap to clone. The last clone to go ends its thread; other processes can have it once
/// its vaults are gone too.
#[derive(Clone, Debug)]
pub struct Store(Arc<Running>);

/// The store, and the thread that folds its journal.
#[derive(Debug)]
struct Running {
    shared: Arc<Shared>,
    folder: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    layout: Layout,
    commits: Arc<Commits>,
    vaults: Mutex<HashMap<VaultId, Slot>>,
    recovery: Recovery,
    folding: Mutex<()>,
    closing: AtomicBool,
    /// Whether what opening it found is dealt with.
    is_settled: AtomicBool,
}

/// A vault that is open, or what the journal said of one that nobody has asked for.
#[derive(Debug)]
enum Slot {
    Open(Vault),
    Dormant(Refs, Pending),
}

impl Store {
    /// Opens the store in `root`, or makes one there; takes it for this process, and reads back what
    /// the journal holds. One with a feature that has to be known to write, and is not, is opened to be read: nothing in it
    /// changes, and what would change it is refused with [`StoreError::ReadOnly`].
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::open(root)?;
        let lock = match layout.lock() {
            Err(error) if error.is_disk_full() => {
                give_up_if_full(root);
                layout.lock()?
            }
            lock => lock?,
        };
        let is_read_only = layout.is_read_only();
        if !is_read_only {
            give_up_if_full(root);
        }
        let mut recovery = Recovery::default();
        let mut dormant: HashMap<VaultId, (Refs, Pending)> = HashMap::new();
        let end = replay(&layout, |replayed| {
            apply(&mut dormant, replayed, &mut recovery);
            Ok(())
        })?;
        recovery.torn_bytes = end.torn;
        for (path, offset) in &end.damaged {
            if is_read_only {
                recovery.damaged.push(path.clone());
                continue;
            }
            let aside = keep_aside(&layout, path, *offset)?;
            let detail = "it was damaged before its end; what could be believed was taken over";
            note_one(&layout, aside.display(), detail);
            recovery.damaged.push(aside);
        }
        if end.is_watermark_damaged() {
            let detail = "it says nothing any more about what of the journal has to be there";
            note_one(&layout, layout.watermark().display(), detail);
        }
        if !end.damaged.is_empty() {
            for (_, pending) in dormant.values_mut() {
                pending.reopen();
            }
        }
        let journal = Journal::open(&layout, &end)?;
        let (fold, wake) = sync_channel(1);
        let memory: u64 = dormant.values().map(|(_, pending)| pending.size()).sum();
        let commits = Arc::new(Commits {
            journal,
            poison: Poison::of(&layout),
            gate: RwLock::new(()),
            fold,
            memory: AtomicU64::new(memory),
            reserve: if is_read_only { Reserve::none() } else { Reserve::open(root) },
            leases: Arc::default(),
            _lock: lock,
        });
        let vaults = dormant
            .into_iter()
            .map(|(id, (refs, pending))| (id, Slot::Dormant(refs, pending)))
            .collect();
        let shared = Arc::new(Shared {
            layout,
            commits,
            vaults: Mutex::new(vaults),
            recovery,
            folding: Mutex::default(),
            closing: AtomicBool::new(false),
            is_settled: AtomicBool::new(false),
        });
        if !end.damaged.is_empty() && !is_read_only {
            shared.reopen()?;
        }
        let _first = shared.commits.fold.try_send(());
        let folding = shared.clone();
        let thread = if is_read_only || fs::is_simulated(root) {
            None
        } else {
            let thread = std::thread::Builder::new()
                .name("fold".into())
                .spawn(move || fold_when_woken(&wake, &folding))
                .context("starting the folding thread of", root)?;
            Some(thread)
        };
        Ok(Self(Arc::new(Running { shared, folder: Mutex::new(thread) })))
    }

    /// What opening it found.
    pub fn recovery(&self) -> &Recovery {
        &self.0.shared.recovery
    }

    /// Journal files in which opening it found damage, until somebody has dealt with that.
    pub(crate) fn damaged_at_opening(&self) -> &[std::path::PathBuf] {
        let is_settled = self.0.shared.is_settled.load(Ordering::SeqCst);
        if is_settled { &[] } else { &self.0.shared.recovery.damaged }
    }

    /// Notes that damage which opening it found is dealt with.
    pub(crate) fn settle(&self) {
        self.0.shared.is_settled.store(true, Ordering::SeqCst);
    }

    /// A vault, made on first use.
    pub fn vault(&self, id: VaultId) -> Result<Vault, StoreError> {
        self.0.shared.vault(id)
    }

    /// Relies on what is in any vault until it is dropped.
    pub fn lease(&self) -> Lease {
        self.0.shared.commits.leases.take()
    }

    /// Room for what deletes something, on a full disk, too, for as long as what is returned is held.
    pub fn room_to_delete(&self) -> RoomToDelete {
        self.0.shared.commits.reserve.give()
    }

    /// Every vault that has a folder or a ref.
    pub fn vaults(&self) -> Result<Vec<VaultId>, StoreError> {
        self.0.shared.ids()
    }

    /// Takes refs of a vault away; durable when this returns. What only they led to is collected later. Returns how many.
    pub fn remove_refs(
        &self,
        vault: VaultId,
        is_meant: impl Fn(&Head) -> bool,
    ) -> Result<usize, StoreError> {
        self.check_poison()?;
        let removed = self.vault(vault)?.remove_refs(is_meant);
        if removed > 0 {
            // The checkpoint of the next file does not have them.
            self.fold()?;
        }
        Ok(removed)
    }

    /// Moves what the journal holds into segments, and starts a new journal file.
    pub fn fold(&self) -> Result<(), StoreError> {
        self.0.shared.fold()
    }

    /// Does what the folding thread would do now: in a simulation there is none.
    #[cfg(any(test, feature = "simulation"))]
    pub fn fold_if_due(&self) {
        self.0.shared.fold_if_due();
        self.0.shared.commits.journal.mark();
    }

    /// The folders.
    pub fn layout(&self) -> &Layout {
        &self.0.shared.layout
    }

    /// The number of the newest journal file, and where its last entry ends.
    pub(crate) fn end_of_journal(&self) -> (u64, u64) {
        self.0.shared.commits.journal.end()
    }

    /// Refuses where an earlier write failed.
    pub fn check_poison(&self) -> Result<(), StoreError> {
        self.0.shared.commits.poison.check()
    }
}

impl Shared {
    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<VaultId, Slot>> {
        self.vaults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ids(&self) -> Result<Vec<VaultId>, StoreError> {
        let mut ids: Vec<VaultId> = self.slots().keys().copied().collect();
        for name in fs::list_dir(&self.layout.vaults())? {
            ids.extend(name.to_str().and_then(|name| name.parse::<VaultId>().ok()));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    fn vault(&self, id: VaultId) -> Result<Vault, StoreError> {
        let mut slots = self.slots();
        // A vault that cannot be opened keeps its slot: the next checkpoint needs its refs.
        let (refs, pending) = match slots.get(&id) {
            Some(Slot::Open(vault)) => return Ok(vault.clone()),
            Some(Slot::Dormant(refs, pending)) => (Refs::restore(&refs.state(id)), pending.clone()),
            None => (Refs::default(), Pending::default()),
        };
        let vault = Vault::open(id, &self.layout, self.commits.clone(), refs, pending)?;
        slots.insert(id, Slot::Open(vault.clone()));
        Ok(vault)
    }

    /// Takes back, in every vault, that anything is whole: the journal has lost something.
    fn reopen(&self) -> Result<(), StoreError> {
        for id in self.ids()? {
            if let Err(error) = self.vault(id).and_then(|vault| vault.reopen()) {
                let error = &error as &dyn std::error::Error;
                tracing::error!(vault = %id, error, "a vault cannot be opened");
            }
        }
        Ok(())
    }

    /// Folds the journal where it has become long, and makes room in it.
    fn fold_if_due(&self) {
        let commits = &self.commits;
        if commits.has_to_fold()
            && let Err(error) = self.fold()
        {
            tracing::error!(error = &error as &dyn std::error::Error, "folding the journal failed");
        }
        commits.journal.make_room();
    }

    fn fold(&self) -> Result<(), StoreError> {
        let _one = self.folding.lock().unwrap_or_else(PoisonError::into_inner);
        let before = {
            // Slots first: whoever opens a vault holds them for long, and commits must not wait for that.
            let slots = self.slots();
            let _gate = self.commits.gate.write().unwrap_or_else(PoisonError::into_inner);
            let states: Vec<RefState> = slots
                .iter()
                .map(|(id, slot)| match slot {
                    Slot::Open(vault) => vault.ref_state(),
                    Slot::Dormant(refs, _) => refs.state(*id),
                })
                .collect();
            self.commits.journal.rotate(states, &self.commits.poison)?
        };
        let idle = |slot: &Slot| matches!(slot, Slot::Dormant(_, pending) if pending.is_empty());
        let busy: Vec<VaultId> =
            self.slots().iter().filter(|(_, slot)| !idle(slot)).map(|(id, _)| *id).collect();
        // A vault that cannot be folded keeps the journal, and does not keep the others.
        let mut folded = Ok(());
        for id in busy {
            folded = folded.and(self.vault(id).and_then(|vault| vault.fold(before)));
        }
        folded?;
        self.commits.journal.remove_through(before)?;
        self.commits.journal.mark();
        tracing::debug!(through = before, "journal folded");
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        // Full means that the thread is about to look anyway.
        let _already = self.shared.commits.fold.try_send(());
        if let Some(thread) = self.folder.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of the thread was reported where it happened.
            let _panicked = thread.join();
        }
    }
}

fn fold_when_woken(wake: &Receiver<()>, shared: &Shared) {
    let journal = &shared.commits.journal;
    loop {
        let is_to_be_marked = journal.has_unmarked();
        let woken = if is_to_be_marked {
            wake.recv_timeout(MARK_AFTER)
        } else {
            wake.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        if woken == Err(RecvTimeoutError::Disconnected) || shared.closing.load(Ordering::SeqCst) {
            return;
        }
        shared.fold_if_due();
        if is_to_be_marked {
            journal.mark();
        }
    }
}

/// Applies one believable entry.
fn apply(
    vaults: &mut HashMap<VaultId, (Refs, Pending)>,
    replayed: Replayed,
    recovery: &mut Recovery,
) {
    match replayed.entry {
        Entry::Checkpoint(states) => {
            for state in states {
                vaults.entry(state.vault).or_default().0 = Refs::restore(&state);
            }
        }
        Entry::Commit(commit) => {
            recovery.commits += 1;
            let (refs, pending) = vaults.entry(commit.vault).or_default();
            let proved = commit.update.map(|update| proved(update.new.into(), &replayed.records));
            let proved = proved.unwrap_or_default();
            for record in &replayed.records {
                for entry in &record.entries {
                    let object = PendingObject {
                        bytes: record.bytes(entry).into(),
                        journal: replayed.number,
                        closed: !entry.id.kind.is_metadata() || proved.contains(&entry.id),
                    };
                    pending.insert(entry.id, object);
                }
            }
            if let Some(update) = &commit.update {
                refs.replay(update);
            }
        }
    }
}

/// The metadata of a commit that its snapshot reaches through that same commit: all of it was walked
/// when the ref moved. What else came along proves nothing.
fn proved(snapshot: ObjectId, records: &[Record]) -> HashSet<ObjectId> {
    let own: HashMap<ObjectId, &[u8]> = records
        .iter()
        .flat_map(|record| record.entries.iter().map(|entry| (entry.id, record.bytes(entry))))
        .filter(|(id, _)| id.kind.is_metadata())
        .collect();
    let mut proved = HashSet::new();
    let mut open = vec![snapshot];
    while let Some(id) = open.pop() {
        if let Some(bytes) = own.get(&id)
            && proved.insert(id)
            && let Ok(object) = Object::decode(id.kind, bytes)
        {
            open.extend(object.children());
        }
    }
    proved
}

/// What a damaged journal file is called where it is kept.
pub(crate) fn aside_name(path: &Path, offset: u64) -> String {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    format!("journal-{name}-{offset}")
}

/// Keeps a damaged journal file as it is now, for whoever wants to look.
pub(crate) fn keep_aside(
    layout: &Layout,
    path: &Path,
    offset: u64,
) -> Result<std::path::PathBuf, StoreError> {
    let folder = layout.quarantine();
    fs::create_dir_all(&folder)?;
    let aside = folder.join(aside_name(path, offset));
    // Where it is gone nothing is left to keep.
    if !aside.exists() && path.exists() {
        std::fs::copy(path, &aside).context("copying to", &aside)?;
        // The file itself goes when the journal is folded.
        fs::open(&aside)?.sync_all().context("syncing", &aside)?;
        fs::sync_dir(&folder)?;
        fs::sync_dir(layout.root())?;
    }
    Ok(aside)
}

#[cfg(test)]
mod tests;

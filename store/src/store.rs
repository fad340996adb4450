//! The store of a node: its vaults, and the journal that all of them share.

use std::collections::HashMap;
use std::fs::File;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::thread::JoinHandle;

use baton_protocol::id::VaultId;

use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::journal::{Entry, Journal, Poison, RefState, Replayed, replay};
use crate::layout::Layout;
use crate::vault::{Commits, Pending, PendingObject, Refs, Vault};

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

/// A store; cheap to clone. The last clone to go closes it.
#[derive(Clone, Debug)]
pub struct Store(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    layout: Layout,
    commits: Arc<Commits>,
    vaults: Mutex<HashMap<VaultId, Slot>>,
    recovery: Recovery,
    folder: Mutex<Option<JoinHandle<()>>>,
    _lock: File,
}

/// A vault that is open, or what the journal said of one that nobody has asked for.
#[derive(Debug)]
enum Slot {
    Open(Vault),
    Dormant(Refs, Pending),
}

impl Store {
    /// Opens the store in `root`, or makes one there; takes it for this process, and reads back what
    /// the journal holds.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let layout = Layout::open(root)?;
        let lock = layout.lock()?;
        let mut recovery = Recovery::default();
        let mut dormant: HashMap<VaultId, (Refs, Pending)> = HashMap::new();
        let end = replay(&layout, |replayed| {
            apply(&mut dormant, replayed, &mut recovery);
            Ok(())
        })?;
        recovery.torn_bytes = end.torn;
        for (path, offset) in &end.damaged {
            recovery.damaged.push(keep_aside(&layout, path, *offset)?);
        }
        if !end.damaged.is_empty() {
            for (_, pending) in dormant.values_mut() {
                pending.reopen();
            }
        }
        let journal = Journal::open(&layout, end.number, end.len)?;
        let (fold, wake) = sync_channel(1);
        let commits =
            Arc::new(Commits { journal, poison: Poison::default(), gate: RwLock::new(()), fold });
        let vaults = dormant
            .into_iter()
            .map(|(id, (refs, pending))| (id, Slot::Dormant(refs, pending)))
            .collect();
        let store = Self(Arc::new(Shared {
            layout,
            commits,
            vaults: Mutex::new(vaults),
            recovery,
            folder: Mutex::new(None),
            _lock: lock,
        }));
        let shared = Arc::downgrade(&store.0);
        let thread = std::thread::Builder::new()
            .name("fold".into())
            .spawn(move || fold_when_woken(&wake, &shared))
            .context("starting the folding thread of", root)?;
        *store.0.folder.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(store)
    }

    /// What opening it found.
    pub fn recovery(&self) -> &Recovery {
        &self.0.recovery
    }

    /// A vault, made on first use.
    pub fn vault(&self, id: VaultId) -> Result<Vault, StoreError> {
        self.0.vault(id)
    }

    /// Every vault that has a folder or a ref.
    pub fn vaults(&self) -> Result<Vec<VaultId>, StoreError> {
        let mut ids: Vec<VaultId> = self.0.slots().keys().copied().collect();
        for name in fs::list_dir(&self.0.layout.vaults())? {
            ids.extend(name.to_str().and_then(|name| name.parse::<VaultId>().ok()));
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    /// Moves what the journal holds into segments, and starts a new journal file.
    pub fn fold(&self) -> Result<(), StoreError> {
        self.0.fold()
    }

    /// The folders.
    pub fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Refuses where an earlier write failed.
    pub fn check_poison(&self) -> Result<(), StoreError> {
        self.0.commits.poison.check()
    }
}

impl Shared {
    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<VaultId, Slot>> {
        self.vaults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn vault(&self, id: VaultId) -> Result<Vault, StoreError> {
        let mut slots = self.slots();
        let (refs, pending) = match slots.remove(&id) {
            Some(Slot::Open(vault)) => {
                slots.insert(id, Slot::Open(vault.clone()));
                return Ok(vault);
            }
            Some(Slot::Dormant(refs, pending)) => (refs, pending),
            None => (Refs::default(), Pending::default()),
        };
        let state = refs.state(id);
        let kept = pending.clone();
        match Vault::open(id, &self.layout, self.commits.clone(), refs, pending) {
            Ok(vault) => {
                slots.insert(id, Slot::Open(vault.clone()));
                Ok(vault)
            }
            Err(error) => {
                // A vault that cannot be opened keeps its refs: the next checkpoint needs them.
                slots.insert(id, Slot::Dormant(Refs::restore(&state), kept));
                Err(error)
            }
        }
    }

    fn fold(&self) -> Result<(), StoreError> {
        let before = {
            let _gate = self.commits.gate.write().unwrap_or_else(PoisonError::into_inner);
            let slots = self.slots();
            let states: Vec<RefState> = slots
                .iter()
                .map(|(id, slot)| match slot {
                    Slot::Open(vault) => vault.ref_state(),
                    Slot::Dormant(refs, _) => refs.state(*id),
                })
                .collect();
            drop(slots);
            self.commits.journal.rotate(states, &self.commits.poison)?
        };
        let idle = |slot: &Slot| matches!(slot, Slot::Dormant(_, pending) if pending.is_empty());
        let busy: Vec<VaultId> =
            self.slots().iter().filter(|(_, slot)| !idle(slot)).map(|(id, _)| *id).collect();
        for id in busy {
            self.vault(id)?.fold(before)?;
        }
        self.commits.journal.remove_through(before)?;
        tracing::debug!(through = before, "journal folded");
        Ok(())
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // The folding thread ends when it finds the store gone.
        let _already = self.commits.fold.try_send(());
        if let Some(thread) = self.folder.lock().unwrap_or_else(PoisonError::into_inner).take()
            && thread.thread().id() != std::thread::current().id()
        {
            // A panic of the thread was reported where it happened.
            let _panicked = thread.join();
        }
    }
}

fn fold_when_woken(wake: &Receiver<()>, shared: &Weak<Shared>) {
    while wake.recv().is_ok() {
        let Some(shared) = shared.upgrade() else { return };
        if let Err(error) = shared.fold() {
            tracing::error!(error = &error as &dyn std::error::Error, "folding the journal failed");
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
            for record in &replayed.records {
                for entry in &record.entries {
                    let object = PendingObject {
                        bytes: record.bytes(entry).into(),
                        journal: replayed.number,
                        closed: commit.update.is_some(),
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

/// Keeps a damaged journal file as it is now, for whoever wants to look.
fn keep_aside(layout: &Layout, path: &Path, offset: u64) -> Result<std::path::PathBuf, StoreError> {
    let folder = layout.root().join("damaged");
    fs::create_dir_all(&folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = folder.join(format!("journal-{name}-{offset}"));
    if !aside.exists() {
        std::fs::copy(path, &aside).context("copying to", &aside)?;
    }
    Ok(aside)
}

#[cfg(test)]
mod tests;

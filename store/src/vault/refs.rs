//! The refs of a vault in memory: moved only by compare-and-swap, one change of a ref at a time.
//!
//! The journal is where they are kept; [`Refs::begin`] reserves a ref while its change is on its way there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{DeviceId, IdempotencyKey, VaultId, WorkspaceId};
use baton_protocol::message::Head;

use crate::journal::{RefState, RefUpdate};

/// Updates whose keys are remembered: a replay comes within minutes, and a device pushes a few times
/// a second at most.
const MAX_KEYS: usize = 1024;

type Key = (WorkspaceId, DeviceId);

/// The refs of one vault.
#[derive(Debug, Default)]
pub(crate) struct Refs {
    table: Mutex<Table>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Table {
    heads: HashMap<Key, Head>,
    keys: VecDeque<(IdempotencyKey, Head)>,
    busy: HashSet<Key>,
}

/// What became of an attempt to move a ref.
#[derive(Debug)]
pub(super) enum Begun<'a> {
    /// The ref is reserved until this is dropped.
    Reserved(Reservation<'a>),
    /// The same update took effect before.
    Replayed(Head),
    /// The ref is somewhere else.
    Moved(Option<Head>),
    /// The ref has this sequence number, which is not below the new one.
    Backwards(u64),
}

/// A ref that nobody else moves meanwhile.
#[derive(Debug)]
pub(super) struct Reservation<'a> {
    refs: &'a Refs,
    update: RefUpdate,
}

impl Refs {
    /// Applies a checkpoint.
    pub(crate) fn restore(state: &RefState) -> Self {
        let refs = Self::default();
        {
            let mut table = refs.table();
            for head in &state.heads {
                table.heads.insert((head.workspace, head.device), *head);
            }
            table.keys.extend(state.keys.iter().copied());
        }
        refs
    }

    /// Applies an update that the journal holds.
    pub(crate) fn replay(&self, update: &RefUpdate) {
        self.table().apply(update);
    }

    pub(super) fn head(&self, workspace: WorkspaceId, device: DeviceId) -> Option<Head> {
        self.table().heads.get(&(workspace, device)).copied()
    }

    pub(super) fn heads(&self) -> Vec<Head> {
        let mut heads: Vec<_> = self.table().heads.values().copied().collect();
        heads.sort_unstable_by_key(|head| (head.workspace, head.device));
        heads
    }

    /// What a checkpoint has to say.
    pub(crate) fn state(&self, vault: VaultId) -> RefState {
        let table = self.table();
        RefState {
            vault,
            heads: table.heads.values().copied().collect(),
            keys: table.keys.iter().copied().collect(),
        }
    }

    /// Takes refs away, and what is remembered of their updates; nobody may be moving one. Returns how many.
    pub(super) fn remove(&self, is_meant: impl Fn(&Head) -> bool) -> usize {
        let mut table = self.table();
        let before = table.heads.len();
        table.heads.retain(|_, head| !is_meant(head));
        table.keys.retain(|(_, head)| !is_meant(head));
        before - table.heads.len()
    }

    /// Waits until nobody moves this ref, and compares.
    pub(super) fn begin(&self, update: RefUpdate) -> Begun<'_> {
        let key = (update.workspace, update.device);
        let mut table = self.table();
        while table.busy.contains(&key) {
            table = self.freed.wait(table).unwrap_or_else(PoisonError::into_inner);
        }
        if let Some(head) = table.replayed(&update) {
            return Begun::Replayed(head);
        }
        let head = table.heads.get(&key).copied();
        if head.map(|head| head.snapshot) != update.expected {
            return Begun::Moved(head);
        }
        if let Some(head) = head.filter(|head| head.sequence >= update.sequence) {
            return Begun::Backwards(head.sequence);
        }
        table.busy.insert(key);
        Begun::Reserved(Reservation { refs: self, update })
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// The head that this very update led to, where it took effect before.
    fn replayed(&self, update: &RefUpdate) -> Option<Head> {
        let by_key = self.keys.iter().rev().find(|(key, _)| *key == update.key);
        if let Some((_, head)) = by_key
            && *head == update.head()
        {
            return Some(*head);
        }
        let head = self.heads.get(&(update.workspace, update.device))?;
        (head.snapshot == update.new).then_some(*head)
    }

    fn apply(&mut self, update: &RefUpdate) {
        let head = update.head();
        self.heads.insert((head.workspace, head.device), head);
        self.keys.push_back((update.key, head));
        while self.keys.len() > MAX_KEYS {
            self.keys.pop_front();
        }
    }
}

impl Reservation<'_> {
    /// The update took effect: moves the ref.
    pub(super) fn apply(self) -> Head {
        self.refs.table().apply(&self.update);
        self.update.head()
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.refs.table().busy.remove(&(self.update.workspace, self.update.device));
        self.refs.freed.notify_all();
    }
}

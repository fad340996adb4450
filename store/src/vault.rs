//! A vault: the objects and refs of one user of a node, and the unit of isolation.
//!
//! Objects are in segments, or in memory while only the journal has them. An [`Intake`] is one
//! snapshot, push or fetch on its way in.
//!
//! **Invariant:** what [`ObjectSource::read`] returns has the hash that was asked for.

mod leases;
mod pending;
mod cache;
mod refs;
mod segments;
mod reconcile;
mod staging;
mod closure;
mod intake;
mod collect;
#[cfg(test)]
mod testing;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock};

use baton_protocol::id::{
    DeviceId, HashPrefix, ObjectId, ObjectKind, SnapshotId, VaultId, WorkspaceId,
};
use baton_protocol::message::Head;

pub use collect::{Collected, Collection, Damage, Roots, Step};
pub use intake::{CommitError, Committed, Intake};
pub use leases::Lease;
pub(crate) use leases::Leases;
pub(crate) use pending::{Pending, PendingObject};
pub(crate) use refs::Refs;

use crate::error::StoreError;
use crate::fs::Context;
use crate::index::{Found, Index, Location};
use crate::journal::{Journal, Poison};
use crate::layout::{Layout, StoreLock};
use crate::noted::note_one;
use crate::objects::{ObjectSource, OpenRecord, PackedRecord};
use crate::segment::{Record, SegmentWriter, decode_table};

/// What all vaults of a store share to make things durable.
#[derive(Debug)]
pub(crate) struct Commits {
    pub(crate) journal: Journal,
    pub(crate) poison: Poison,
    /// Held shared from before a commit is journalled until its ref is in memory; held exclusively
    /// while a checkpoint is made of all refs.
    pub(crate) gate: RwLock<()>,
    /// Wakes the thread that folds the journal.
    pub(crate) fold: std::sync::mpsc::SyncSender<()>,
    /// Bytes of memory that objects take which only the journal has.
    pub(crate) memory: AtomicU64,
    /// Room to delete in.
    pub(crate) reserve: Arc<crate::reserve::Reserve>,
    /// Who relies on what is here.
    pub(crate) leases: Arc<Leases>,
    /// The store is this process's for as long as anything can write to it. Goes last.
    pub(crate) _lock: StoreLock,
}

impl Commits {
    /// Whether the journal has become so long, or takes so much memory, that it should go to segments.
    pub(crate) fn has_to_fold(&self) -> bool {
        self.journal.len() > intake::FOLD_AT
            || self.memory.load(Ordering::Relaxed) > intake::FOLD_MEMORY
    }
}

/// One vault; cheap to clone.
#[derive(Clone, Debug)]
pub struct Vault(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: VaultId,
    layout: Layout,
    commits: Arc<Commits>,
    index: Index,
    /// The open segment of each class.
    writers: [Mutex<Option<Writer>>; 2],
    files: segments::Files,
    unindexed: segments::Unindexed,
    cache: Mutex<cache::RecordCache>,
    pending: RwLock<Pending>,
    refs: Refs,
    collecting: Collecting,
}

/// What a collection and those who commit tell each other.
#[derive(Debug, Default)]
struct Collecting {
    /// Whether there is one.
    is_on: AtomicBool,
    /// What was made reachable since it began, and it has not marked.
    since: Mutex<Vec<ObjectId>>,
    /// How often something was condemned: who walked before that walks again.
    generation: AtomicU64,
    /// Commits that have walked too often: nothing is condemned before they are done.
    held_off: Mutex<usize>,
    let_go: Condvar,
    /// For tests that have to fail: who walked before believes it.
    #[cfg(test)]
    is_blind: AtomicBool,
    /// For tests: happens once, between the walk of a commit and its gate.
    #[cfg(test)]
    meanwhile: testing::Meanwhile,
}

/// Nothing is condemned until this is dropped.
#[derive(Debug)]
struct HoldOff<'a>(&'a Collecting);

impl Drop for HoldOff<'_> {
    fn drop(&mut self) {
        *self.0.held_off.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.let_go.notify_all();
    }
}

#[derive(Debug)]
struct Writer {
    /// Its number in the index.
    segment: u32,
    writer: SegmentWriter,
}

impl Vault {
    /// Opens a vault with what the journal knows of it, and brings its index up to its segments.
    pub(crate) fn open(
        id: VaultId,
        layout: &Layout,
        commits: Arc<Commits>,
        refs: Refs,
        mut pending: Pending,
    ) -> Result<Self, StoreError> {
        let (index, whole) = if layout.is_read_only() {
            reconcile::open_as_it_is(layout, id, &mut pending)?
        } else {
            reconcile::open_index(layout, id)?
        };
        if !whole {
            pending.reopen();
        }
        Ok(Self(Arc::new(Inner {
            id,
            layout: layout.clone(),
            commits,
            files: segments::Files::default(),
            unindexed: segments::Unindexed::default(),
            index,
            writers: [Mutex::new(None), Mutex::new(None)],
            cache: Mutex::default(),
            pending: RwLock::new(pending),
            refs,
            collecting: Collecting::default(),
        })))
    }

    /// Its id.
    pub fn id(&self) -> VaultId {
        self.0.id
    }

    /// Relies on what is here until it is dropped.
    pub fn lease(&self) -> Lease {
        self.0.commits.leases.take()
    }

    /// Starts something on its way in.
    pub fn intake(&self) -> Intake {
        Intake::new(self.clone())
    }

    /// Where a ref is.
    pub fn head(&self, workspace: WorkspaceId, device: DeviceId) -> Option<Head> {
        self.0.refs.head(workspace, device)
    }

    /// Every ref.
    pub fn heads(&self) -> Vec<Head> {
        self.0.refs.heads()
    }

    /// Takes refs away, which lasts once the journal has been folded. Returns how many.
    pub(crate) fn remove_refs(&self, is_meant: impl Fn(&Head) -> bool) -> usize {
        // Whoever moves a ref has the gate.
        let _gate = self.0.commits.gate.write().unwrap_or_else(PoisonError::into_inner);
        self.0.refs.remove(is_meant)
    }

    /// Whether an object in the segments has a hash that begins so. For who asks of many.
    pub fn may_hold(&self, prefix: &HashPrefix) -> Result<bool, StoreError> {
        self.0.index.has_prefix(prefix)
    }

    /// Objects whose hash starts with `prefix`: at most 16, of any kind unless one is given.
    pub fn find_prefix(
        &self,
        kind: Option<ObjectKind>,
        prefix: &[u8],
    ) -> Result<Vec<ObjectId>, StoreError> {
        let mut found = self.pending().find_prefix(kind, prefix);
        found.extend(self.0.index.find_prefix(kind, prefix)?);
        found.sort_unstable();
        found.dedup();
        found.truncate(16);
        Ok(found)
    }

    /// The snapshots whose id starts with these hex digits, at most 16.
    pub fn find_snapshots(&self, digits: &str) -> Result<Vec<SnapshotId>, StoreError> {
        let even = digits.len() & !1;
        let Some(prefix) = digits
            .get(..even)
            .and_then(|digits| {
                (0..even).step_by(2).map(|at| hex_byte(digits, at)).collect::<Option<Vec<u8>>>()
            })
            .filter(|prefix| prefix.len() <= 32)
        else {
            return Ok(Vec::new());
        };
        let found = self.find_prefix(Some(ObjectKind::Snapshot), &prefix)?;
        let ids = found.into_iter().map(|id| SnapshotId::from_bytes(id.hash));
        Ok(ids.filter(|id| id.to_string().starts_with(digits)).collect())
    }

    /// Bytes of its segments on the disk.
    pub fn disk_bytes(&self) -> Result<u64, StoreError> {
        let mut bytes = 0;
        for class in crate::layout::Class::ALL {
            let folder = self.0.layout.segments(self.0.id, class);
            for name in crate::fs::list_dir(&folder)? {
                let path = folder.join(name);
                bytes += crate::fs::open(&path)?.metadata().context("reading", &path)?.len();
            }
        }
        Ok(bytes)
    }

    /// The same with what only the journal has.
    pub fn bytes(&self) -> Result<u64, StoreError> {
        Ok(self.disk_bytes()? + self.pending().size())
    }

    /// Whether everything below an object is known to be here; nothing where it is not here itself.
    pub(crate) fn closed(&self, id: &ObjectId) -> Result<Option<bool>, StoreError> {
        if let Some(object) = self.pending().get(id) {
            return Ok(Some(object.closed));
        }
        Ok(self.take(id)?.map(|found| found.is_closed))
    }

    /// The length of an object, where it is here.
    pub(crate) fn length(&self, id: &ObjectId) -> Result<Option<u64>, StoreError> {
        if let Some(object) = self.pending().get(id) {
            return Ok(Some(object.bytes.len() as u64));
        }
        Ok(self.take(id)?.map(|found| found.at.len.into()))
    }

    /// Whether an object is here for somebody who relies on it from now on.
    pub(crate) fn has(&self, id: &ObjectId) -> Result<bool, StoreError> {
        Ok(self.pending().get(id).is_some() || self.take(id)?.is_some())
    }

    /// Whether everything below an object is known to be here, for somebody who only looks: nothing where it is not here, or
    /// where a collection has condemned it.
    pub(crate) fn was_whole(&self, id: &ObjectId) -> Result<Option<bool>, StoreError> {
        if let Some(object) = self.pending().get(id) {
            return Ok(Some(object.closed));
        }
        let found = self.0.index.find(id)?;
        let found = found.filter(|found| !found.is_condemned && !found.is_taken_back);
        Ok(found.map(|found| found.is_closed))
    }

    /// What the index says of an object, which is taken back where it was condemned.
    fn take(&self, id: &ObjectId) -> Result<Option<Found>, StoreError> {
        let Some(found) = self.0.index.find(id)? else { return Ok(None) };
        // No collection goes on in a store that is only read.
        if !found.is_condemned || self.0.layout.is_read_only() {
            return Ok(Some(found));
        }
        self.0.index.revive(&[*id])?;
        // It may have gone, or come again, since it was looked at.
        Ok(self.0.index.find(id)?.filter(|found| !found.is_condemned))
    }

    /// Notes what was made reachable, for a collection that is under way. The gate is held.
    fn note_reachable(&self, roots: &[ObjectId]) {
        if self.0.collecting.is_on.load(Ordering::SeqCst) {
            let mut since = self.0.collecting.since.lock().unwrap_or_else(PoisonError::into_inner);
            since.extend_from_slice(roots);
        }
    }

    /// How often something was condemned.
    fn generation(&self) -> u64 {
        #[cfg(test)]
        if self.0.collecting.is_blind.load(Ordering::SeqCst) {
            return 0;
        }
        self.0.collecting.generation.load(Ordering::SeqCst)
    }

    /// Keeps a collection from condemning anything.
    fn hold_off(&self) -> HoldOff<'_> {
        *self.0.collecting.held_off.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let held = HoldOff(&self.0.collecting);
        // One that is at it ends first.
        drop(self.0.commits.gate.read().unwrap_or_else(PoisonError::into_inner));
        held
    }

    pub(crate) fn index(&self) -> &Index {
        &self.0.index
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    fn pending(&self) -> std::sync::RwLockReadGuard<'_, Pending> {
        self.0.pending.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is pending, and keeps count of the memory that it takes.
    fn change_pending<T>(&self, change: impl FnOnce(&mut Pending) -> T) -> T {
        let mut pending = self.0.pending.write().unwrap_or_else(PoisonError::into_inner);
        let before = pending.size();
        let changed = change(&mut pending);
        let memory = &self.0.commits.memory;
        memory.fetch_add(pending.size(), Ordering::Relaxed);
        memory.fetch_sub(before, Ordering::Relaxed);
        changed
    }

    /// Objects that only the journal has.
    pub(crate) fn pending_ids(&self) -> Vec<ObjectId> {
        self.pending().ids()
    }

    /// Takes every proof back that something is whole: what it relied on may be lost.
    pub(crate) fn reopen(&self) -> Result<(), StoreError> {
        self.change_pending(Pending::reopen);
        self.0.index.reopen()
    }

    /// What a checkpoint has to say of this vault.
    pub(crate) fn ref_state(&self) -> crate::journal::RefState {
        self.0.refs.state(self.0.id)
    }

    /// Moves what journal files up to `last` hold into segments, synced and indexed.
    pub(crate) fn fold(&self, last: u64) -> Result<(), StoreError> {
        let objects = self.pending().through(last);
        if objects.is_empty() {
            return Ok(());
        }
        let intake = self.intake();
        for (id, object) in &objects {
            intake.store_in_segment(*id, &object.bytes)?;
        }
        intake.flush()?;
        // A collection may have taken proofs back meanwhile.
        let _gate = self.0.commits.gate.read().unwrap_or_else(PoisonError::into_inner);
        let is_closed = |id: &ObjectId| {
            id.kind.is_metadata() && self.pending().get(id).is_some_and(|object| object.closed)
        };
        let closed: Vec<_> = objects.iter().map(|(id, _)| *id).filter(is_closed).collect();
        self.0.index.close(&closed)?;
        self.change_pending(|pending| pending.remove_through(last));
        Ok(())
    }

    /// Reads the object at a place and checks its hash.
    fn read_at(&self, id: &ObjectId, at: &Location) -> Result<Vec<u8>, StoreError> {
        if let Some(bytes) = self.try_read_at(id, at)? {
            return Ok(bytes);
        }
        // Either the bytes are damaged, or they are somewhere else.
        self.found_damaged(id);
        Err(StoreError::DamagedObject(*id))
    }

    /// Notes that bytes are not what their row says.
    fn found_damaged(&self, id: &ObjectId) {
        let what = format!("vault {}", self.0.id);
        note_one(&self.0.layout, what, format!("{id} was to be read, and is damaged"));
        self.0.index.doubt();
    }

    /// The same; nothing where it is not there, or damaged.
    fn try_read_at(&self, id: &ObjectId, at: &Location) -> Result<Option<Vec<u8>>, StoreError> {
        let record = self.record(at)?;
        let start = at.inner as usize;
        let bytes =
            record.as_ref().and_then(|record| record.raw.get(start..start + at.len as usize));
        let bytes = bytes.filter(|bytes| ObjectId::of(id.kind, bytes) == *id);
        Ok(bytes.map(<[u8]>::to_vec))
    }

    fn record(&self, at: &Location) -> Result<Option<Arc<Record>>, StoreError> {
        let key = (at.segment, at.offset);
        {
            let mut cache = self.0.cache.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(record) = cache.find(key) {
                return Ok(Some(record));
            }
        }
        let Some(record) = self.read_record(at)? else { return Ok(None) };
        let record = Arc::new(record);
        let mut cache = self.0.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.insert(key, record.clone());
        Ok(Some(record))
    }
}

impl ObjectSource for Vault {
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        if let Some(object) = self.pending().get(id) {
            return Ok(Some(object.bytes.to_vec()));
        }
        let mut tried: Option<Location> = None;
        while let Some(Found { at, .. }) = self.0.index.find(id)? {
            if let Some(bytes) = self.try_read_at(id, &at)? {
                return Ok(Some(bytes));
            }
            // A collection may have moved it since.
            if tried.replace(at) == Some(at) {
                self.found_damaged(id);
                return Err(StoreError::DamagedObject(*id));
            }
        }
        // Folded since it was looked for, or brought again.
        Ok(self.pending().get(id).map(|object| object.bytes.to_vec()))
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        if self.pending().get(id).is_some() {
            return Ok(true);
        }
        Ok(self.0.index.find(id)?.is_some())
    }

    fn locations(&self, ids: &[ObjectId]) -> Result<Vec<Option<Location>>, StoreError> {
        self.0.index.find_all(ids)
    }

    fn read_from<'a>(
        &self,
        open: &'a mut OpenRecord,
        id: &ObjectId,
        at: Option<&Location>,
    ) -> Result<&'a [u8], StoreError> {
        if let Some(at) = at
            && self.open_record(at, open)?
            && open.bytes(at).is_some_and(|bytes| ObjectId::of(id.kind, bytes) == *id)
        {
            return Ok(open.bytes(at).unwrap_or_default());
        }
        // Not on the disk yet, or damaged: the usual way says which.
        open.alone = self.require(id)?;
        Ok(&open.alone)
    }

    fn packed_record<'a>(
        &self,
        open: &'a mut OpenRecord,
        at: &Location,
    ) -> Result<Option<PackedRecord<'a>>, StoreError> {
        open.at = None;
        let OpenRecord { packed, record, .. } = open;
        let is_intact =
            self.read_packed(at, packed)? && decode_table(packed, &mut record.entries).is_some();
        Ok(is_intact.then_some(PackedRecord { entries: &record.entries, bytes: packed }))
    }
}

fn hex_byte(digits: &str, at: usize) -> Option<u8> {
    let pair = digits.get(at..at + 2)?;
    if pair.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    u8::from_str_radix(pair, 16).ok()
}

//! One snapshot, push or fetch on its way into a vault.
//!
//! Up to [`SMALL`] bytes stay in memory and go into the journal with the ref; more goes to segments as
//! it comes. Objects may be put from several threads: compression happens outside every lock.
//!
//! **Invariant:** a ref moves only after everything below its snapshot is durable and was walked.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::message::Head;
use baton_protocol::object::Snapshot;

use super::Vault;
use super::closure::Walk;
use super::pending::PendingObject;
use super::refs::Begun;
use crate::error::StoreError;
use crate::index::Location;
use crate::journal::{Commit, Entry, RefUpdate};
use crate::layout::Class;
use crate::objects::{ObjectSink, ObjectSource};
use crate::segment::RecordBuilder;

/// Raw bytes up to which a commit goes into the journal.
const SMALL: usize = 1024 * 1024;

/// Length of the journal at which it is folded into segments.
const FOLD_AT: u64 = 8 * 1024 * 1024;

/// Records under construction for each class: as many threads can put at once.
const SLOTS: usize = 4;

/// Objects after which appended records are synced and indexed, so that an interrupted push goes on
/// from there, and memory stays bounded.
const FLUSH_AT: usize = 100_000;

/// Where an object of an intake is.
#[derive(Clone, Debug)]
enum Place {
    Memory(Arc<[u8]>),
    Building(Class, usize),
    Segment(Location),
}

#[derive(Debug, Default)]
struct Small {
    objects: Vec<(ObjectId, Arc<[u8]>)>,
    bytes: usize,
    spilled: bool,
}

/// Something on its way into a vault.
#[derive(Debug)]
pub struct Intake {
    vault: Vault,
    small: Mutex<Small>,
    staged: RwLock<HashMap<ObjectId, Place>>,
    data: [Mutex<RecordBuilder>; SLOTS],
    metadata: [Mutex<RecordBuilder>; SLOTS],
    /// Appended records without rows.
    appended: Mutex<Vec<(ObjectId, Location)>>,
    walk: Mutex<Walk>,
    hasher: RandomState,
}

/// A ref was moved, or had been by the same update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// Where it is.
    pub head: Head,
    /// Whether it had been there.
    pub replayed: bool,
}

/// A ref was not moved.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// It is somewhere else than expected.
    #[error("the ref of this workspace and device is somewhere else")]
    HeadMoved {
        /// Where it is.
        head: Option<Head>,
    },
    /// The snapshot is not whole.
    #[error("{} objects of the snapshot are missing", .0.len())]
    Missing(Vec<ObjectId>),
    /// The snapshot says another workspace, device or sequence than the update.
    #[error("the snapshot does not belong to this ref")]
    Foreign,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Intake {
    pub(super) fn new(vault: Vault) -> Self {
        Self {
            vault,
            small: Mutex::default(),
            staged: RwLock::default(),
            data: Default::default(),
            metadata: Default::default(),
            appended: Mutex::default(),
            walk: Mutex::default(),
            hasher: RandomState::new(),
        }
    }

    /// The vault it goes into.
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Takes an object whose id was computed from these very bytes.
    pub fn put_hashed(&self, id: ObjectId, bytes: &[u8]) -> Result<(), StoreError> {
        if self.contains(&id)? {
            return Ok(());
        }
        let spilled = {
            let mut small = lock(&self.small);
            if !small.spilled && small.bytes + bytes.len() <= SMALL {
                let shared: Arc<[u8]> = bytes.into();
                small.bytes += bytes.len();
                small.objects.push((id, shared.clone()));
                self.stage(id, Place::Memory(shared));
                return Ok(());
            }
            small.spilled = true;
            small.bytes = 0;
            std::mem::take(&mut small.objects)
        };
        for (id, bytes) in spilled {
            self.store_in_segment(id, &bytes)?;
        }
        self.store_in_segment(id, bytes)
    }

    /// Objects that are missing below `root`, at most `limit`; none where all of it is here.
    pub fn missing(&self, root: ObjectId, limit: usize) -> Result<Vec<ObjectId>, StoreError> {
        lock(&self.walk).advance(self, root, limit)
    }

    /// Makes what was put durable and moves a ref to it, as one step.
    pub fn commit(self, update: RefUpdate) -> Result<Committed, CommitError> {
        self.commit_in_place(&update)
    }

    /// As [`Intake::commit`]; after [`CommitError::Missing`] more may be put and the commit tried again.
    pub fn commit_in_place(&self, update: &RefUpdate) -> Result<Committed, CommitError> {
        let refs = &self.vault.0.refs;
        let root = ObjectId::from(update.new);
        let missing = self.missing(root, baton_protocol::message::MAX_IDS)?;
        if !missing.is_empty() {
            return Err(CommitError::Missing(missing));
        }
        let snapshot =
            Snapshot::decode(&self.require(&root)?).map_err(|_| StoreError::DamagedObject(root))?;
        if snapshot.workspace != update.workspace
            || snapshot.device != update.device
            || snapshot.sequence != update.sequence
        {
            return Err(CommitError::Foreign);
        }
        let records = self.settle()?;
        let commits = &self.vault.0.commits;
        let gate = commits.gate.read().unwrap_or_else(PoisonError::into_inner);
        let reservation = match refs.begin(*update) {
            Begun::Replayed(head) => return Ok(Committed { head, replayed: true }),
            Begun::Moved(head) => return Err(CommitError::HeadMoved { head }),
            Begun::Reserved(reservation) => reservation,
        };
        self.append(Some(*update), records)?;
        self.finish()?;
        let head = reservation.apply();
        drop(gate);
        Ok(Committed { head, replayed: false })
    }

    /// Makes what was put durable without moving a ref, and remembers that everything below these
    /// roots is here.
    pub fn keep(self, roots: &[ObjectId]) -> Result<(), CommitError> {
        for &root in roots {
            let missing = self.missing(root, baton_protocol::message::MAX_IDS)?;
            if !missing.is_empty() {
                return Err(CommitError::Missing(missing));
            }
        }
        let records = self.settle()?;
        let commits = &self.vault.0.commits;
        let _gate = commits.gate.read().unwrap_or_else(PoisonError::into_inner);
        if !records.is_empty() {
            self.append(None, records)?;
        }
        Ok(self.finish()?)
    }

    /// Makes what went to segments durable and indexed. What is still in memory stays there.
    pub fn flush(&self) -> Result<(), StoreError> {
        for class in Class::ALL {
            for slot in self.slots(class) {
                let full = std::mem::take(&mut *lock(slot));
                self.append_built(class, &full)?;
            }
        }
        let rows = std::mem::take(&mut *lock(&self.appended));
        if rows.is_empty() {
            return Ok(());
        }
        self.vault.sync_segments()?;
        let ids: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
        self.vault.insert_rows(rows)?;
        let mut staged = self.staged.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            staged.remove(&id);
        }
        Ok(())
    }

    /// Puts an object on its way into a segment, whatever its size.
    pub(super) fn store_in_segment(&self, id: ObjectId, bytes: &[u8]) -> Result<(), StoreError> {
        let class = if id.kind.is_metadata() { Class::Metadata } else { Class::Data };
        let slots = self.slots(class);
        let first = self.hasher.hash_one(std::thread::current().id()) as usize % SLOTS;
        let order = (0..SLOTS).map(|step| (first + step) % SLOTS);
        let free = order.clone().find_map(|at| Some((at, slots.get(at)?.try_lock().ok()?)));
        let full = {
            let (at, mut builder) = match free {
                Some(free) => free,
                None => (first, lock(slots.get(first).unwrap_or(&slots[0]))),
            };
            builder.push(id, bytes);
            self.stage(id, Place::Building(class, at));
            if !builder.is_full() {
                return Ok(());
            }
            std::mem::take(&mut *builder)
        };
        self.append_built(class, &full)?;
        if lock(&self.appended).len() >= FLUSH_AT {
            self.flush()?;
        }
        Ok(())
    }

    fn append_built(&self, class: Class, builder: &RecordBuilder) -> Result<(), StoreError> {
        if builder.is_empty() {
            return Ok(());
        }
        let record = builder.encode(class).map_err(StoreError::Compress)?;
        let entries = builder.entries();
        let (segment, offset, record_len) = self.vault.append_record(class, &record, entries)?;
        let mut appended = lock(&self.appended);
        for entry in entries {
            let at = super::segments::place(segment, offset, record_len, entry);
            self.stage(entry.id, Place::Segment(at));
            appended.push((entry.id, at));
        }
        Ok(())
    }

    /// What the journal has to hold: the records of a small intake, or nothing once all is in
    /// segments.
    fn settle(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let small = lock(&self.small);
        if small.spilled {
            drop(small);
            self.flush()?;
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        for class in Class::ALL {
            let mut builder = RecordBuilder::default();
            for (id, bytes) in &small.objects {
                if id.kind.is_metadata() != (class == Class::Metadata) {
                    continue;
                }
                builder.push(*id, bytes);
                if builder.is_full() {
                    records.push(builder.encode(class).map_err(StoreError::Compress)?);
                    builder = RecordBuilder::default();
                }
            }
            if !builder.is_empty() {
                records.push(builder.encode(class).map_err(StoreError::Compress)?);
            }
        }
        Ok(records)
    }

    fn append(&self, update: Option<RefUpdate>, records: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let commits = &self.vault.0.commits;
        let entry = Entry::Commit(Commit { vault: self.vault.id(), update, records });
        commits.journal.append(&entry, &commits.poison)?;
        if commits.journal.len() > FOLD_AT {
            // A full channel means that the fold is on its way.
            let _already = commits.fold.try_send(());
        }
        Ok(())
    }

    /// The journal holds the commit: makes its objects readable and closes what was walked.
    fn finish(&self) -> Result<(), StoreError> {
        let walked: Vec<_> = lock(&self.walk).walked.drain().collect();
        let mut small = lock(&self.small);
        let objects = std::mem::take(&mut small.objects);
        small.bytes = 0;
        let journal = self.vault.0.commits.journal.number();
        let indexed: Vec<_> = {
            let mut pending = self.vault.pending_mut();
            for (id, bytes) in objects {
                let closed = id.kind == ObjectKind::Chunk || walked.contains(&id);
                pending.insert(id, PendingObject { bytes, journal, closed });
            }
            pending.close(&walked);
            walked.into_iter().filter(|id| pending.get(id).is_none()).collect()
        };
        self.vault.0.index.close(&indexed)
    }

    fn slots(&self, class: Class) -> &[Mutex<RecordBuilder>; SLOTS] {
        match class {
            Class::Data => &self.data,
            Class::Metadata => &self.metadata,
        }
    }

    fn stage(&self, id: ObjectId, place: Place) {
        self.staged.write().unwrap_or_else(PoisonError::into_inner).insert(id, place);
    }

    fn staged(&self, id: &ObjectId) -> Option<Place> {
        self.staged.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        // Records of an intake that was given up are dead bytes: nothing has to find them, and a disk
        // that they have filled is not to stay full.
        let appended = std::mem::take(&mut *lock(&self.appended));
        self.vault.give_back(&appended);
    }
}

impl ObjectSource for Intake {
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            match self.staged(id) {
                Some(Place::Memory(bytes)) => return Ok(Some(bytes.to_vec())),
                Some(Place::Segment(at)) => return self.vault.read_at(id, &at).map(Some),
                Some(Place::Building(class, at)) => {
                    let slot = self.slots(class).get(at);
                    let found = slot.and_then(|slot| lock(slot).find(id).map(<[u8]>::to_vec));
                    if found.is_some() {
                        return Ok(found);
                    }
                    // Another thread is compressing that record this moment.
                    std::thread::yield_now();
                }
                None => return self.vault.read(id),
            }
        }
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        if self.staged.read().unwrap_or_else(PoisonError::into_inner).contains_key(id) {
            return Ok(true);
        }
        self.vault.contains(id)
    }

    fn position(&self, id: &ObjectId) -> Result<Option<u64>, StoreError> {
        self.vault.position(id)
    }
}

impl ObjectSink for Intake {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        let id = ObjectId::of(kind, bytes);
        self.put_hashed(id, bytes)?;
        Ok(id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! What an intake has taken so far: records under construction, and what became of the rest.
//!
//! Objects come from several threads: each builds a record of its own, and compression happens outside
//! every lock. A thread of the intake's own takes full records as fast as it can, so that one large file keeps
//! two cores busy; what it cannot take at once is compressed where it was filled.
//!
//! - [`packing`]: that thread
//!
//! **Invariant:** after a failure nothing that was staged counts as written; the intake can only be
//! given up.

mod packing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use baton_protocol::id::{ObjectId, ObjectKind};

use packing::{Job, Packing};

use super::Vault;
use crate::error::StoreError;
use crate::index::Location;
use crate::layout::Class;
use crate::objects::{AppendObserver, ObjectSource};
use crate::segment::{Record, RecordBuilder, RecordDecoder, RecordEntry, RecordPacker};

/// Records under construction for each class: as many threads can put at once.
const SLOTS: usize = 4;

/// Objects and bytes after which appended records are synced and indexed, so that an interrupted
/// push goes on from there, memory stays bounded, and little is left to do at the end.
const FLUSH_AT: usize = 50_000;
const FLUSH_BYTES: u64 = 64 * 1024 * 1024;

/// Where an object is.
#[derive(Clone, Debug)]
enum Place {
    Memory(Arc<[u8]>),
    Building(Class, usize),
    /// In a record that is on its way into the log.
    UnderWay,
    Segment(Location),
}

thread_local! {
    /// A number for each thread that puts: threads that come one after the other have slots of their own,
    /// and what one of them reads in a row stays together.
    static THREAD: usize = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    };
}

/// Where a record is compressed, with the memory for the next one of its slot.
#[derive(Debug)]
struct Workbench {
    packer: RecordPacker,
    /// Empty while the bench is not in use.
    builder: RecordBuilder,
}

/// Appended records without rows.
#[derive(Debug, Default)]
struct Appended {
    rows: Vec<(ObjectId, Location)>,
    bytes: u64,
}

/// The objects of one intake.
#[derive(Debug)]
pub(super) struct Staging {
    log: Arc<Log>,
    data: [Mutex<RecordBuilder>; SLOTS],
    metadata: [Mutex<RecordBuilder>; SLOTS],
    packing: Packing,
}

/// Records on their way into the log, and where each object is.
#[derive(Debug, Default)]
struct Log {
    places: RwLock<HashMap<ObjectId, Place>>,
    appended: Mutex<Appended>,
    /// Those that are not in use: as many as threads ever compressed at once.
    benches: Mutex<Vec<Workbench>>,
    /// The same for taking records apart.
    openers: Mutex<Vec<Proved>>,
    failed: OnceLock<Failure>,
    /// Who hears of records of file data.
    observer: OnceLock<Arc<dyn AppendObserver>>,
}

/// Why nothing more is taken.
#[derive(Clone, Debug)]
enum Failure {
    /// Something that was put did not get into the log.
    Lost { first: String, is_full: bool },
    /// A record said of this object that it is what it is not.
    Forged(ObjectId),
}

/// A record whose objects have the hashes that it says, with the memory for the next one.
#[derive(Debug, Default)]
pub(super) struct Proved {
    decoder: RecordDecoder,
    pub(super) record: Record,
}

impl Staging {
    pub(super) fn new() -> Self {
        Self {
            log: Arc::default(),
            data: Default::default(),
            metadata: Default::default(),
            packing: Packing::default(),
        }
    }

    /// Tells somebody of each record of file data; the first one who asks for that.
    pub(super) fn tell(&self, observer: Arc<dyn AppendObserver>) {
        self.log.observer.get_or_init(|| observer);
    }

    /// Refuses where something that was put has been lost on its way.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        self.log.check()
    }

    /// Notes an object that stays in memory.
    pub(super) fn remember(&self, id: ObjectId, bytes: Arc<[u8]>) {
        self.log.place(id, Place::Memory(bytes));
    }

    /// Puts an object on its way into a segment.
    pub(super) fn store(
        &self,
        vault: &Vault,
        id: ObjectId,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        self.check()?;
        let class = if id.kind.is_metadata() { Class::Metadata } else { Class::Data };
        let slots = self.slots(class);
        let first = THREAD.with(|thread| *thread) % SLOTS;
        let mut order = (0..SLOTS).map(|step| (first + step) % SLOTS);
        let free = order.find_map(|at| Some((at, slots.get(at)?.try_lock().ok()?)));
        let bench = {
            let (at, mut builder) = match free {
                Some(free) => free,
                None => (first, lock(slots.get(first).unwrap_or(&slots[0]))),
            };
            builder.push(id, bytes);
            self.log.place(id, Place::Building(class, at));
            if !builder.is_full(class) {
                return Ok(());
            }
            let mut bench = self.log.bench()?;
            std::mem::swap(&mut *builder, &mut bench.builder);
            bench
        };
        self.do_or_offer(vault, Job::Pack(class, bench))
    }

    fn do_or_offer(&self, vault: &Vault, job: Job) -> Result<(), StoreError> {
        match self.packing.offer(&self.log, vault, job) {
            None => Ok(()),
            Some(job) => {
                let _under_way = self.packing.count(&self.log);
                self.log.work(vault, job)
            }
        }
    }

    /// Takes a whole record of file data as it is, with none of its objects here; they are proved on the way.
    pub(super) fn store_record(
        &self,
        vault: &Vault,
        record: Vec<u8>,
        entries: &[RecordEntry],
    ) -> Result<(), StoreError> {
        self.check()?;
        for entry in entries {
            self.log.place(entry.id, Place::UnderWay);
        }
        self.do_or_offer(vault, Job::Keep(record))
    }

    /// Takes a record apart and computes the hash of every object.
    pub(super) fn prove(&self, record: &[u8]) -> Result<Proved, StoreError> {
        self.check()?;
        self.log.prove(record)
    }

    /// Takes the memory of a record back.
    pub(super) fn recycle(&self, proved: Proved) {
        lock(&self.log.openers).push(proved);
    }

    /// Returns once every full record is in the log.
    pub(super) fn wait(&self) -> Result<(), StoreError> {
        self.packing.wait(&self.log);
        self.check()
    }

    /// Makes what went to segments durable and indexed. What is still in memory stays there.
    pub(super) fn flush(&self, vault: &Vault) -> Result<(), StoreError> {
        self.check()?;
        for class in Class::ALL {
            for slot in self.slots(class) {
                let mut bench = self.log.bench()?;
                std::mem::swap(&mut *lock(slot), &mut bench.builder);
                self.log.append(vault, class, bench)?;
            }
        }
        self.wait()?;
        self.log.flush_appended(vault)
    }

    /// Whether an object was put here.
    pub(super) fn contains(&self, id: &ObjectId) -> bool {
        self.log.find(id).is_some()
    }

    /// The length of an object, here or in the vault.
    pub(super) fn length(&self, vault: &Vault, id: &ObjectId) -> Result<Option<u64>, StoreError> {
        match self.log.find(id) {
            Some(Place::Memory(bytes)) => Ok(Some(bytes.len() as u64)),
            Some(Place::Segment(at)) => Ok(Some(at.len.into())),
            Some(Place::Building(..) | Place::UnderWay) => {
                Ok(self.read(vault, id)?.map(|bytes| bytes.len() as u64))
            }
            None => vault.length(id),
        }
    }

    /// Reads an object from here or from the vault.
    pub(super) fn read(&self, vault: &Vault, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            match self.log.find(id) {
                Some(Place::Memory(bytes)) => return Ok(Some(bytes.to_vec())),
                Some(Place::Segment(at)) => return vault.read_at(id, &at).map(Some),
                Some(Place::Building(class, at)) => {
                    let slot = self.slots(class).get(at);
                    let found = slot.and_then(|slot| lock(slot).find(id).map(<[u8]>::to_vec));
                    if found.is_some() {
                        return Ok(found);
                    }
                    // Another thread is compressing that record this moment, or has failed to.
                    self.check()?;
                    std::thread::yield_now();
                }
                Some(Place::UnderWay) => self.wait()?,
                None => return vault.read(id),
            }
        }
    }

    /// Records of an intake that was given up are dead bytes: nothing has to find them.
    pub(super) fn give_up(&mut self, vault: &Vault) {
        self.packing.end();
        let mut dead: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
        for (_, at) in std::mem::take(&mut *lock(&self.log.appended)).rows {
            dead.entry(at.segment).or_default().insert(at.offset);
        }
        for (segment, offsets) in dead {
            vault.0.unindexed.done(segment, &offsets);
        }
    }

    fn slots(&self, class: Class) -> &[Mutex<RecordBuilder>; SLOTS] {
        match class {
            Class::Data => &self.data,
            Class::Metadata => &self.metadata,
        }
    }
}

impl Log {
    fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            None => Ok(()),
            Some(Failure::Lost { first, is_full }) => {
                Err(StoreError::Incomplete { first: first.clone(), is_full: *is_full })
            }
            Some(&Failure::Forged(id)) => Err(StoreError::Forged(id)),
        }
    }

    /// Brings a full record into the log.
    fn work(&self, vault: &Vault, job: Job) -> Result<(), StoreError> {
        match job {
            Job::Pack(class, bench) => self.append(vault, class, bench)?,
            Job::Keep(bytes) => {
                let proved = self.prove(&bytes)?;
                let entries = &proved.record.entries;
                let appended = self.note(vault.append_record(Class::Data, &bytes, entries))?;
                self.note_appended(Class::Data, appended, entries);
                lock(&self.openers).push(proved);
            }
        }
        self.flush_if_due(vault)
    }

    fn prove(&self, bytes: &[u8]) -> Result<Proved, StoreError> {
        let mut proved = lock(&self.openers).pop().unwrap_or_default();
        let Proved { decoder, record } = &mut proved;
        let lie = match decoder.decode(bytes, record) {
            Some(_) => record.find_lie(),
            None => Some(
                record
                    .entries
                    .first()
                    .map_or(ObjectId::of(ObjectKind::Chunk, b""), |entry| entry.id),
            ),
        };
        match lie {
            None => Ok(proved),
            Some(id) => {
                self.failed.get_or_init(|| Failure::Forged(id));
                Err(StoreError::Forged(id))
            }
        }
    }

    fn flush_if_due(&self, vault: &Vault) -> Result<(), StoreError> {
        let due = {
            let appended = lock(&self.appended);
            appended.rows.len() >= FLUSH_AT || appended.bytes >= FLUSH_BYTES
        };
        if due { self.flush_appended(vault) } else { Ok(()) }
    }

    fn flush_appended(&self, vault: &Vault) -> Result<(), StoreError> {
        let rows = std::mem::take(&mut *lock(&self.appended)).rows;
        if rows.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = rows.iter().map(|(id, _)| *id).collect();
        self.note(vault.sync_segments().and_then(|()| vault.insert_rows(rows)))?;
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        for id in ids {
            places.remove(&id);
        }
        Ok(())
    }

    fn bench(&self) -> Result<Workbench, StoreError> {
        if let Some(bench) = lock(&self.benches).pop() {
            return Ok(bench);
        }
        let packer = self.note(RecordPacker::new().map_err(StoreError::Compress))?;
        Ok(Workbench { packer, builder: RecordBuilder::default() })
    }

    /// Appends the record of a bench, and clears it for the next.
    fn append(&self, vault: &Vault, class: Class, bench: Workbench) -> Result<(), StoreError> {
        let Workbench { mut packer, mut builder } = bench;
        if !builder.is_empty() {
            let encoded = packer.pack(&builder, class).map_err(StoreError::Compress);
            let entries = builder.entries();
            let appended = encoded.and_then(|record| vault.append_record(class, record, entries));
            self.note_appended(class, self.note(appended)?, entries);
            builder.clear();
        }
        lock(&self.benches).push(Workbench { packer, builder });
        Ok(())
    }

    fn note_appended(
        &self,
        class: Class,
        (segment, offset, record_len): (u32, u64, u32),
        entries: &[RecordEntry],
    ) {
        let at = |entry| super::segments::place(segment, offset, record_len, entry);
        let observer = self.observer.get().filter(|_| class == Class::Data);
        if let (Some(observer), Some(first)) = (observer, entries.first()) {
            observer.appended(at(first), entries);
        }
        let mut appended = lock(&self.appended);
        appended.bytes += u64::from(record_len);
        for entry in entries {
            let at = at(entry);
            self.place(entry.id, Place::Segment(at));
            appended.rows.push((entry.id, at));
        }
    }

    /// Remembers a failure.
    fn note<T>(&self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        outcome.inspect_err(|error| self.fail(error.to_string(), error.is_disk_full()))
    }

    fn fail(&self, first: String, is_full: bool) {
        self.failed.get_or_init(|| Failure::Lost { first, is_full });
    }

    fn find(&self, id: &ObjectId) -> Option<Place> {
        self.places.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    fn place(&self, id: ObjectId, place: Place) {
        self.places.write().unwrap_or_else(PoisonError::into_inner).insert(id, place);
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

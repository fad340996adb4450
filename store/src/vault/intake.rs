//! One snapshot, push or fetch on its way into a vault.
//!
//! Up to [`SMALL`] bytes stay in memory and go into the journal with the ref; more goes to segments as
//! it comes. Objects may be put from several threads.
//!
//! **Invariant:** a ref moves only after everything below its snapshot is durable and was walked.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::message::Head;
use baton_protocol::object::Snapshot;

use super::Vault;
use super::closure::Walk;
use super::leases::Lease;
use super::pending::{OVERHEAD, PendingObject};
use super::refs::Begun;
use super::staging::{Staging, lock};
use crate::error::StoreError;
use crate::journal::{Commit, Entry, RefUpdate};
use crate::layout::Class;
use crate::objects::{AppendObserver, ObjectSink, ObjectSource};
use crate::segment::{RecordBuilder, RecordEntry, RecordHead};

/// Bytes of memory up to which a commit goes into the journal.
const SMALL: usize = 1024 * 1024;

/// Bytes of objects up to which a commit goes into the journal as it is: compressing them takes longer than
/// the disk needs for the difference.
const RAW_BELOW: usize = 128 * 1024;

/// Bytes of objects from which on a record of another log is kept as it is. Smaller ones would leave many
/// small records, and what is small altogether belongs in the journal.
const AS_IT_IS: usize = 64 * 1024;

/// Length of the journal at which it is folded into segments.
pub(super) const FOLD_AT: u64 = 8 * 1024 * 1024;

/// Bytes of memory that the objects of the journal take at which it is folded: what compresses
/// well takes far more than its place in the journal.
pub(super) const FOLD_MEMORY: u64 = 4 * FOLD_AT;

/// Bytes of memory above which small commits go to segments too, because folding does not keep up.
const MAX_MEMORY: u64 = 16 * FOLD_AT;

/// How often what a commit relies on may be condemned meanwhile, before it keeps a collection from that.
const MOST_WALKS: usize = 2;

/// Missing objects that a commit names at once.
const MOST_MISSING: usize = 256 * 1024;

#[derive(Debug, Default)]
struct Small {
    objects: Vec<(ObjectId, Arc<[u8]>)>,
    size: usize,
    spilled: bool,
}

/// Something on its way into a vault.
#[derive(Debug)]
pub struct Intake {
    vault: Vault,
    small: Mutex<Small>,
    staging: Staging,
    walk: Mutex<Walk>,
    /// Held shared while an object is put, and exclusively while a commit is made: what comes during
    /// a commit is not of it.
    settling: RwLock<()>,
    /// What it was told is here stays until it is committed. Goes last.
    _lease: Lease,
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
    /// The snapshot does not come after the one that the ref points to.
    #[error("the snapshot has number {sequence}, and the one before it {head}")]
    Backwards {
        /// The sequence number that the ref has.
        head: u64,
        /// The one it would get.
        sequence: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Intake {
    pub(super) fn new(vault: Vault) -> Self {
        Self {
            _lease: vault.lease(),
            vault,
            small: Mutex::default(),
            staging: Staging::new(),
            walk: Mutex::default(),
            settling: RwLock::default(),
        }
    }

    /// The vault it goes into.
    pub const fn vault(&self) -> &Vault {
        &self.vault
    }

    /// Tells somebody of each record of file data that what is put makes, as soon as it stands in the log.
    pub fn tell(&self, observer: Arc<dyn AppendObserver>) {
        self.staging.tell(observer);
    }

    /// Whether all that was put is in memory, to go into the journal as one entry.
    pub fn is_small(&self) -> bool {
        !lock(&self.small).spilled
    }

    /// Takes an object whose id was computed from these very bytes. After an error what was put
    /// before may be lost, and the intake takes and commits nothing more.
    pub fn put_hashed(&self, id: ObjectId, bytes: &[u8]) -> Result<(), StoreError> {
        let _putting = self.settling.read().unwrap_or_else(PoisonError::into_inner);
        self.vault.0.commits.reserve.check()?;
        if self.contains(&id)? {
            return Ok(());
        }
        let spilled = {
            let mut small = lock(&self.small);
            let size = bytes.len() + OVERHEAD;
            if !small.spilled && small.size + size <= SMALL {
                let shared: Arc<[u8]> = bytes.into();
                small.size += size;
                small.objects.push((id, shared.clone()));
                self.staging.remember(id, shared);
                return Ok(());
            }
            small.spill()
        };
        self.store(&spilled)?;
        self.store_in_segment(id, bytes)
    }

    /// Takes a record of another log, of which [`decode_table`](crate::segment::decode_table) said this. It is kept as it
    /// is where that can be.
    ///
    /// Nothing of it is believed: the hashes are computed here, mostly beside the caller. Where one is another,
    /// whoever puts more or commits hears [`StoreError::Forged`], and nothing of that record is kept.
    pub fn put_record(
        &self,
        record: Vec<u8>,
        head: RecordHead,
        entries: &[RecordEntry],
    ) -> Result<(), StoreError> {
        let putting = self.settling.read().unwrap_or_else(PoisonError::into_inner);
        self.vault.0.commits.reserve.check()?;
        // Directories are read one at a time: their records stay as small as they are made here.
        let mut fits = head.class == Class::Data && head.raw_len() >= AS_IT_IS;
        for entry in entries {
            fits = fits && !entry.id.kind.is_metadata() && !self.contains(&entry.id)?;
        }
        if fits {
            let spilled = lock(&self.small).spill();
            self.store(&spilled)?;
            return self.staging.store_record(&self.vault, record, entries);
        }
        drop(putting);
        let proved = self.staging.prove(&record)?;
        let mut entries = proved.record.entries.iter();
        entries.try_for_each(|entry| self.put_hashed(entry.id, proved.record.bytes(entry)))?;
        self.staging.recycle(proved);
        Ok(())
    }

    /// Objects that are missing below `root`, at most `limit`; none where all of it is here.
    pub fn missing(&self, root: ObjectId, limit: usize) -> Result<Vec<ObjectId>, StoreError> {
        self.staging.wait()?;
        lock(&self.walk).advance(&self.vault, &self.staging, (root, None), limit)
    }

    /// Makes what was put durable and moves a ref to it, as one step.
    pub fn commit(self, update: RefUpdate) -> Result<Committed, CommitError> {
        self.commit_in_place(&update)
    }

    /// As [`Intake::commit`]; after [`CommitError::Missing`] more may be put and the commit tried again.
    pub fn commit_in_place(&self, update: &RefUpdate) -> Result<Committed, CommitError> {
        let _alone = self.settling.write().unwrap_or_else(PoisonError::into_inner);
        self.staging.check()?;
        let root = ObjectId::from(update.new);
        let before = update.expected.map(Into::into);
        self.settled((&[root], before), |records, proved| {
            let snapshot = Snapshot::decode(&self.require(&root)?)
                .map_err(|_| StoreError::DamagedObject(root))?;
            if snapshot.workspace != update.workspace
                || snapshot.device != update.device
                || snapshot.sequence != update.sequence
            {
                return Err(CommitError::Foreign);
            }
            let reservation = match self.vault.0.refs.begin(*update) {
                Begun::Replayed(head) => return Ok(Committed { head, replayed: true }),
                Begun::Moved(head) => return Err(CommitError::HeadMoved { head }),
                Begun::Backwards(head) => {
                    return Err(CommitError::Backwards { head, sequence: update.sequence });
                }
                Begun::Reserved(reservation) => reservation,
            };
            self.append(Some(*update), records)?;
            self.finish(proved);
            let head = reservation.apply();
            Ok(Committed { head, replayed: false })
        })
    }

    /// Makes what was put durable without moving a ref, and remembers that everything below these
    /// roots is here.
    pub fn keep(self, roots: &[ObjectId]) -> Result<(), CommitError> {
        let _alone = self.settling.write().unwrap_or_else(PoisonError::into_inner);
        self.staging.check()?;
        self.settled((roots, None), |records, proved| {
            if !records.is_empty() {
                self.append(None, records)?;
            }
            self.finish(proved);
            Ok(())
        })
    }

    /// Does something under the gate with what has to go into the journal, and with what of that and of the vault the walks
    /// from `roots` have proved. What they have seen is there until it is done.
    fn settled<T>(
        &self,
        (roots, before): (&[ObjectId], Option<ObjectId>),
        done: impl FnOnce(Vec<Vec<u8>>, &HashSet<ObjectId>) -> Result<T, CommitError>,
    ) -> Result<T, CommitError> {
        let mut walks = 0;
        loop {
            let _off = (walks >= MOST_WALKS).then(|| self.vault.hold_off());
            let generation = self.vault.generation();
            let mut proved = HashSet::new();
            for &root in roots {
                proved.extend(self.prove(root, before)?);
            }
            let records = self.settle()?;
            #[cfg(test)]
            self.vault.0.collecting.meanwhile.happens();
            let gate = self.vault.0.commits.gate.read().unwrap_or_else(PoisonError::into_inner);
            if self.vault.generation() != generation {
                // Something that was walked past may have been condemned.
                drop(gate);
                *lock(&self.walk) = Walk::default();
                walks += 1;
                continue;
            }
            let done = done(records, &proved)?;
            self.vault.note_reachable(roots);
            drop(gate);
            self.wake_fold();
            return Ok(done);
        }
    }

    /// Makes what went to segments durable and indexed. What is still in memory stays there.
    pub fn flush(&self) -> Result<(), StoreError> {
        self.staging.flush(&self.vault)
    }

    /// The same with what is still in memory.
    pub fn flush_all(&self) -> Result<(), StoreError> {
        let spilled = lock(&self.small).spill();
        self.store(&spilled)?;
        self.flush()
    }

    /// Puts an object on its way into a segment, whatever its size.
    pub(super) fn store_in_segment(&self, id: ObjectId, bytes: &[u8]) -> Result<(), StoreError> {
        self.staging.store(&self.vault, id, bytes)
    }

    fn store(&self, objects: &[(ObjectId, Arc<[u8]>)]) -> Result<(), StoreError> {
        objects.iter().try_for_each(|(id, bytes)| self.store_in_segment(*id, bytes))
    }

    /// Walks what is below `root`; returns the metadata that the walk has proved whole.
    /// `before` is an older form of the root, or nothing.
    fn prove(
        &self,
        root: ObjectId,
        before: Option<ObjectId>,
    ) -> Result<HashSet<ObjectId>, CommitError> {
        self.staging.wait()?;
        let mut walk = lock(&self.walk);
        let missing = walk.advance(&self.vault, &self.staging, (root, before), MOST_MISSING)?;
        if !missing.is_empty() {
            return Err(CommitError::Missing(missing));
        }
        // Only a walk that came to its end proves anything, and only once: what another one has
        // half seen must not be taken for proved.
        Ok(std::mem::take(&mut *walk).take_walked())
    }

    /// What the journal has to hold: the records of a small intake, or nothing once all is in
    /// segments.
    fn settle(&self) -> Result<Vec<Vec<u8>>, StoreError> {
        let mut small = lock(&self.small);
        if self.vault.0.commits.memory.load(Ordering::Relaxed) > MAX_MEMORY {
            self.store(&small.spill())?;
        }
        if small.spilled {
            drop(small);
            self.flush()?;
            return Ok(Vec::new());
        }
        // Folding compresses what the journal holds; until then a small commit is not worth the wait.
        let is_tiny =
            small.size <= RAW_BELOW && !small.objects.iter().any(|(_, bytes)| has_zeros(bytes));
        let encode = |builder: &RecordBuilder, class| {
            if is_tiny {
                return Ok(builder.encode_raw(class));
            }
            builder.encode(class).map_err(StoreError::Compress)
        };
        let mut records = Vec::new();
        for class in Class::ALL {
            let mut builder = RecordBuilder::default();
            for (id, bytes) in &small.objects {
                if id.kind.is_metadata() != (class == Class::Metadata) {
                    continue;
                }
                builder.push(*id, bytes);
                if builder.is_full(class) {
                    records.push(encode(&builder, class)?);
                    builder = RecordBuilder::default();
                }
            }
            if !builder.is_empty() {
                records.push(encode(&builder, class)?);
            }
        }
        Ok(records)
    }

    fn append(&self, update: Option<RefUpdate>, records: Vec<Vec<u8>>) -> Result<(), StoreError> {
        let commits = &self.vault.0.commits;
        let entry = Entry::Commit(Commit { vault: self.vault.id(), update, records });
        commits.journal.append(&entry, &commits.poison)
    }

    fn wake_fold(&self) {
        let commits = &self.vault.0.commits;
        let journal = &commits.journal;
        if commits.has_to_fold() || journal.is_short_of_room() || journal.is_newly_unmarked() {
            // A full channel means that the fold is on its way.
            let _already = commits.fold.try_send(());
        }
    }

    /// The journal holds the commit: makes its objects readable and closes what was proved.
    fn finish(&self, proved: &HashSet<ObjectId>) {
        let mut small = lock(&self.small);
        let objects = std::mem::take(&mut small.objects);
        small.size = 0;
        let journal = self.vault.0.commits.journal.number();
        let indexed: Vec<_> = self.vault.change_pending(|pending| {
            for (id, bytes) in objects {
                let closed = id.kind == ObjectKind::Chunk || proved.contains(&id);
                pending.insert(id, PendingObject { bytes, journal, closed });
            }
            pending.close(proved.iter());
            proved.iter().copied().filter(|id| pending.get(id).is_none()).collect()
        });
        if let Err(error) = self.vault.0.index.close(&indexed) {
            // The commit stands; the next one walks what this one has walked.
            tracing::warn!(error = &error as &dyn std::error::Error, "proofs were not noted");
        }
    }
}

/// Whether there may be so many zeros in a row that a sector of the journal would hold nothing else: it is
/// taken for one that was never written.
fn has_zeros(bytes: &[u8]) -> bool {
    bytes.chunks_exact(128).any(|block| block.iter().all(|&byte| byte == 0))
}

impl Small {
    /// From now on everything goes to segments; returns what was to stay in memory.
    fn spill(&mut self) -> Vec<(ObjectId, Arc<[u8]>)> {
        self.spilled = true;
        self.size = 0;
        std::mem::take(&mut self.objects)
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        self.staging.give_up(&self.vault);
    }
}

impl ObjectSource for Intake {
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        self.staging.read(&self.vault, id)
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        if self.staging.contains(id) {
            return Ok(true);
        }
        self.vault.has(id)
    }
}

impl ObjectSink for Intake {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        let id = ObjectId::of(kind, bytes);
        self.put_hashed(id, bytes)?;
        Ok(id)
    }
}

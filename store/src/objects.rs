//! Where objects come from and go to, as the code that walks trees sees it.
//!
//! A vault is a source; an intake of a vault is both. Tests put a map in their place.

use baton_protocol::id::{ObjectId, ObjectKind};

use crate::error::StoreError;
use crate::segment::{Record, RecordDecoder, RecordEntry};

/// Where an object is on the disk. Ascending is the order in which many are read best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The segment, by its number in the index of its vault.
    pub segment: u32,
    /// Where its record starts.
    pub offset: u64,
    /// Length of its record.
    pub record_len: u32,
    /// Where its bytes start in the raw payload.
    pub inner: u32,
    /// How many there are.
    pub len: u32,
}

impl Location {
    /// What is the same for the objects of one record, which are read together.
    pub const fn record(&self) -> (u32, u64) {
        (self.segment, self.offset)
    }
}

/// The record that a thread has read last, in buffers that serve for the next one: objects that stand
/// together are read and decompressed once, and nothing is allocated for each.
#[derive(Debug, Default)]
pub struct OpenRecord {
    /// Which; nothing where the buffers hold no whole one.
    pub(crate) at: Option<(u32, u64)>,
    /// Its bytes on the disk.
    pub(crate) packed: Vec<u8>,
    pub(crate) record: Record,
    pub(crate) decoder: RecordDecoder,
    /// An object that was read by its id.
    pub(crate) alone: Vec<u8>,
}

impl OpenRecord {
    /// The bytes at a place in the record.
    pub(crate) fn bytes(&self, at: &Location) -> Option<&[u8]> {
        let start = at.inner as usize;
        self.record.raw.get(start..start + at.len as usize)
    }
}

/// A record as it stands in the log.
#[derive(Clone, Copy, Debug)]
pub struct PackedRecord<'a> {
    /// What it says that it holds.
    pub entries: &'a [RecordEntry],
    /// All of it.
    pub bytes: &'a [u8],
}

/// Hears of records of file data as they come into a log, long before there is a snapshot of them.
pub trait AppendObserver: std::fmt::Debug + Send + Sync {
    /// The record at this place holds these objects. It can be read, and is not durable yet.
    fn appended(&self, at: Location, entries: &[RecordEntry]);
}

/// Objects by id.
pub trait ObjectSource: Sync {
    /// The bytes of an object, checked against its hash; nothing where it is not here.
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Whether it is here. Cheaper than reading it.
    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError>;

    /// Where each of these is on the disk; nothing for one that is absent, or somewhere else.
    fn locations(&self, ids: &[ObjectId]) -> Result<Vec<Option<Location>>, StoreError> {
        Ok(vec![None; ids.len()])
    }

    /// The bytes of an object that must be here, checked against its hash. Cheap where the one that was
    /// read before through `open` stands in the same record.
    fn read_from<'a>(
        &self,
        open: &'a mut OpenRecord,
        id: &ObjectId,
        _at: Option<&Location>,
    ) -> Result<&'a [u8], StoreError> {
        open.alone = self.require(id)?;
        Ok(&open.alone)
    }

    /// The record that stands there, as it stands in the log and intact by its checksums; nothing where it is
    /// not to be had. Whoever takes it apart checks the hashes.
    fn packed_record<'a>(
        &self,
        _open: &'a mut OpenRecord,
        _at: &Location,
    ) -> Result<Option<PackedRecord<'a>>, StoreError> {
        Ok(None)
    }

    /// The bytes of an object that must be here.
    fn require(&self, id: &ObjectId) -> Result<Vec<u8>, StoreError> {
        self.read(id)?.ok_or(StoreError::Absent(*id))
    }
}

/// Takes objects; called from several threads at once.
pub trait ObjectSink: Sync {
    /// Takes an object that its maker has just encoded. Does nothing where it is here already.
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError>;
}

#[cfg(test)]
pub(crate) mod memory {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;

    /// Objects in a map.
    #[derive(Debug, Default)]
    pub(crate) struct MemoryObjects(pub(crate) Mutex<HashMap<ObjectId, Vec<u8>>>);

    impl ObjectSource for MemoryObjects {
        fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(self.0.lock().unwrap().get(id).cloned())
        }

        fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
            Ok(self.0.lock().unwrap().contains_key(id))
        }
    }

    impl ObjectSink for MemoryObjects {
        fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
            let id = ObjectId::of(kind, bytes);
            self.0.lock().unwrap().insert(id, bytes.to_vec());
            Ok(id)
        }
    }
}

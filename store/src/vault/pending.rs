//! Objects that only the journal has: kept in memory until they are folded into segments.

use std::collections::BTreeMap;
use std::sync::Arc;

use baton_protocol::id::{ObjectId, ObjectKind};

/// What an object takes in memory beside its bytes.
pub(super) const OVERHEAD: usize = 128;

/// An object that only the journal has.
#[derive(Clone, Debug)]
pub(crate) struct PendingObject {
    /// Its bytes.
    pub(crate) bytes: Arc<[u8]>,
    /// The journal file it stands in.
    pub(crate) journal: u64,
    /// Whether a commit proved that everything below it is here.
    pub(crate) closed: bool,
}

impl PendingObject {
    fn size(&self) -> u64 {
        (self.bytes.len() + OVERHEAD) as u64
    }
}

/// Stands for the number of a journal file where an object is in a segment, without a row, of a store that is only read.
pub(super) const IN_A_SEGMENT: u64 = 0;

/// The pending objects of a vault. The journal is folded at a few MiB, which bounds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    objects: BTreeMap<ObjectId, PendingObject>,
    size: u64,
}

impl Pending {
    pub(crate) fn get(&self, id: &ObjectId) -> Option<&PendingObject> {
        self.objects.get(id)
    }

    pub(crate) fn insert(&mut self, id: ObjectId, object: PendingObject) {
        self.size += object.size();
        if let Some(old) = self.objects.insert(id, object) {
            self.size -= old.size();
        }
    }

    /// Notes that everything below these is here; those that are not pending are left alone.
    pub(super) fn close<'a>(&mut self, ids: impl Iterator<Item = &'a ObjectId>) {
        for id in ids {
            if let Some(object) = self.objects.get_mut(id) {
                object.closed = true;
            }
        }
    }

    /// Takes back that these are whole which `is_reached` does not know.
    pub(super) fn unclose(&mut self, is_reached: impl Fn(&ObjectId) -> bool) {
        for (id, object) in &mut self.objects {
            object.closed &= !id.kind.is_metadata() || is_reached(id);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// Bytes of memory that they take.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Takes every proof back: something that a proof relied on was lost.
    pub(crate) fn reopen(&mut self) {
        for (id, object) in &mut self.objects {
            object.closed = !id.kind.is_metadata();
        }
    }

    /// What journal files up to `last` hold.
    pub(super) fn through(&self, last: u64) -> Vec<(ObjectId, PendingObject)> {
        let old = self.objects.iter().filter(|(_, object)| object.journal <= last);
        old.map(|(id, object)| (*id, object.clone())).collect()
    }

    pub(super) fn remove_through(&mut self, last: u64) {
        self.objects.retain(|_, object| object.journal > last);
        self.size = self.objects.values().map(PendingObject::size).sum();
    }

    /// The ids of those that the journal has.
    pub(super) fn ids(&self) -> Vec<ObjectId> {
        let journalled = self.objects.iter().filter(|(_, object)| object.journal != IN_A_SEGMENT);
        journalled.map(|(id, _)| *id).collect()
    }

    pub(super) fn find_prefix(&self, kind: Option<ObjectKind>, prefix: &[u8]) -> Vec<ObjectId> {
        let bound = |filler: u8| {
            let mut hash = [filler; 32];
            for (to, from) in hash.iter_mut().zip(prefix) {
                *to = *from;
            }
            hash
        };
        let kinds = (0..=u8::MAX).map_while(|at| ObjectKind::from_number(at + 1));
        let kinds = kinds.filter(|&found| kind.is_none_or(|kind| kind == found));
        let range = |kind| ObjectId { kind, hash: bound(0) }..=ObjectId { kind, hash: bound(0xff) };
        kinds.flat_map(|kind| self.objects.range(range(kind))).take(16).map(|(id, _)| *id).collect()
    }
}

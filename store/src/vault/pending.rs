//! Objects that only the journal has: kept in memory until they are folded into segments.

use std::collections::HashMap;
use std::sync::Arc;

use baton_protocol::id::{ObjectId, ObjectKind};

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

/// The pending objects of a vault. The journal is folded at a few MiB, which bounds them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    objects: HashMap<ObjectId, PendingObject>,
}

impl Pending {
    pub(crate) fn get(&self, id: &ObjectId) -> Option<&PendingObject> {
        self.objects.get(id)
    }

    pub(crate) fn insert(&mut self, id: ObjectId, object: PendingObject) {
        self.objects.insert(id, object);
    }

    /// Notes that everything below these is here; those that are not pending are left alone.
    pub(super) fn close<'a>(&mut self, ids: impl Iterator<Item = &'a ObjectId>) {
        for id in ids {
            if let Some(object) = self.objects.get_mut(id) {
                object.closed = true;
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.objects.is_empty()
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
        let mut old: Vec<_> = old.map(|(id, object)| (*id, object.clone())).collect();
        old.sort_unstable_by_key(|(id, _)| *id);
        old
    }

    pub(super) fn remove_through(&mut self, last: u64) {
        self.objects.retain(|_, object| object.journal > last);
    }

    pub(super) fn find_prefix(&self, kind: Option<ObjectKind>, prefix: &[u8]) -> Vec<ObjectId> {
        let fits =
            |id: &&ObjectId| id.hash.starts_with(prefix) && kind.is_none_or(|kind| kind == id.kind);
        self.objects.keys().filter(fits).take(16).copied().collect()
    }
}

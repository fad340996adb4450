//! Where objects come from and go to, as the code that walks trees sees it.
//!
//! A vault is a source; an intake of a vault is both. Tests put a map in their place.

use baton_protocol::id::{ObjectId, ObjectKind};

use crate::error::StoreError;

/// Objects by id.
pub trait ObjectSource: Sync {
    /// The bytes of an object, checked against its hash; nothing where it is not here.
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError>;

    /// Whether it is here. Cheaper than reading it.
    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError>;

    /// A number that grows with the place of the object on the disk, so that many reads can be put
    /// in a good order. Objects with the same number are read together.
    fn position(&self, id: &ObjectId) -> Result<Option<u64>, StoreError>;

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

        fn position(&self, _: &ObjectId) -> Result<Option<u64>, StoreError> {
            Ok(None)
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

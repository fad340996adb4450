//! How much of a vault something needs.

use std::collections::HashMap;

use baton_protocol::id::ObjectId;

use super::marks::{Marks, Wanted};
use crate::error::StoreError;
use crate::vault::Vault;

/// Bytes of the objects of a record: of all that has a row, and of those that are asked for.
#[derive(Clone, Copy, Debug, Default)]
struct Share {
    all: u64,
    asked: u64,
    record: u64,
}

impl Vault {
    /// Bytes that all below these roots takes on the disk; of a record that has other objects, too, its part. Reads all
    /// metadata below them.
    pub fn bytes_of(&self, roots: impl IntoIterator<Item = ObjectId>) -> Result<u64, StoreError> {
        let mut marks = Marks::list(self)?;
        marks.mark(self, roots, Wanted::Some)?;
        let mut records: HashMap<(u32, u64), Share> = HashMap::new();
        self.index().for_each(|id, at| {
            let share = records.entry(at.record()).or_default();
            let len = u64::from(at.len).max(1);
            share.record = u64::from(at.record_len);
            share.all += len;
            if marks.has(&id) {
                share.asked += len;
            }
        })?;
        let of_record = |share: &Share| {
            let part = u128::from(share.record) * u128::from(share.asked) / u128::from(share.all);
            u64::try_from(part).unwrap_or(share.record)
        };
        let in_segments: u64 = records.values().map(of_record).sum();
        Ok(in_segments + marks.bytes_in_journal(self))
    }
}

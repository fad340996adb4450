//! Records that were read lately: objects that are read together stand together.

use std::collections::HashMap;
use std::sync::Arc;

use crate::segment::{Record, RecordEntry};

/// Bytes of memory that the records of a vault may take.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Records that were read lately, oldest out first.
#[derive(Debug, Default)]
pub(super) struct RecordCache {
    records: HashMap<(u32, u64), (u64, Arc<Record>)>,
    bytes: usize,
    tick: u64,
}

impl RecordCache {
    pub(super) fn find(&mut self, key: (u32, u64)) -> Option<Arc<Record>> {
        self.tick += 1;
        let (used, record) = self.records.get_mut(&key)?;
        *used = self.tick;
        Some(record.clone())
    }

    pub(super) fn insert(&mut self, key: (u32, u64), record: Arc<Record>) {
        self.tick += 1;
        self.bytes += size(&record);
        if let Some((_, old)) = self.records.insert(key, (self.tick, record)) {
            self.bytes -= size(&old);
        }
        if self.bytes > CACHE_BYTES {
            // Half goes at once, so that the sort is paid rarely.
            let mut used: Vec<u64> = self.records.values().map(|(used, _)| *used).collect();
            used.sort_unstable();
            let keep = used.get(used.len() / 2).copied().unwrap_or_default();
            self.records.retain(|_, (used, _)| *used >= keep);
            self.bytes = self.records.values().map(|(_, record)| size(record)).sum();
        }
    }
}

/// Memory of a record: the table of one with many small objects is larger than their bytes.
fn size(record: &Record) -> usize {
    record.raw.len() + record.entries.len() * size_of::<RecordEntry>()
}

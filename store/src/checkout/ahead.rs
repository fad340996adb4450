//! Directories read before they are asked for: many at a time, in the order of the log.
//!
//! One that is asked for twice, to be measured and to be made, is kept in between.
//!
//! **Invariant:** what is kept is bounded; what is not there is read the usual way, and what is not in the
//! store is left to whoever asks for it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{ObjectId, TreeId};

use crate::error::StoreError;
use crate::objects::{ObjectSource, OpenRecord};

/// Bytes of directories that are kept: those of a tree of 200,000 files.
const KEPT: usize = 16 << 20;

/// Bytes that are read ahead beside them.
const AHEAD: usize = 8 << 20;

/// Directories that are worth one look into the index: a transaction costs as much as five rows.
pub(super) const BATCH: usize = 128;

/// A source of directories.
#[derive(Debug)]
pub(super) struct Ahead<'a, S: ?Sized> {
    source: &'a S,
    nodes: Mutex<Nodes>,
}

#[derive(Debug, Default)]
struct Nodes {
    /// Their bytes, and how often they will be asked for.
    by_id: HashMap<ObjectId, (Vec<u8>, u32)>,
    bytes: usize,
}

impl<'a, S: ?Sized> Ahead<'a, S> {
    pub(super) fn new(source: &'a S) -> Self {
        Self { source, nodes: Mutex::default() }
    }

    fn nodes(&self) -> MutexGuard<'_, Nodes> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: ObjectSource + ?Sized> Ahead<'_, S> {
    /// Reads directories that will be asked for `times` times, and soon for the first time. Where there is no
    /// room for all of them, they are read when they are asked for.
    pub(super) fn read_ahead(
        &self,
        trees: &[TreeId],
        times: u32,
        open: &mut OpenRecord,
    ) -> Result<(), StoreError> {
        let mut ids: Vec<ObjectId> = trees.iter().map(|&tree| tree.into()).collect();
        ids.sort_unstable();
        ids.dedup();
        {
            let nodes = self.nodes();
            ids.retain(|id| !nodes.by_id.contains_key(id));
        }
        let mut found: Vec<_> = self.source.locations(&ids)?.into_iter().zip(ids).collect();
        found.sort_unstable();
        for (at, id) in found {
            let Some(at) = at else { continue };
            if self.nodes().bytes + at.len as usize > KEPT + AHEAD {
                break;
            }
            let bytes = self.source.read_from(open, &id, Some(&at))?;
            let mut nodes = self.nodes();
            let times = if nodes.bytes + bytes.len() <= KEPT { times } else { 1 };
            nodes.bytes += bytes.len();
            if let Some((before, _)) = nodes.by_id.insert(id, (bytes.to_vec(), times)) {
                nodes.bytes -= before.len();
            }
        }
        Ok(())
    }
}

impl<S: ObjectSource + ?Sized> ObjectSource for Ahead<'_, S> {
    fn read(&self, id: &ObjectId) -> Result<Option<Vec<u8>>, StoreError> {
        {
            let mut nodes = self.nodes();
            if let Some((bytes, times)) = nodes.by_id.get_mut(id) {
                if *times > 1 {
                    *times -= 1;
                    return Ok(Some(bytes.clone()));
                }
                let bytes = std::mem::take(bytes);
                nodes.by_id.remove(id);
                nodes.bytes -= bytes.len();
                return Ok(Some(bytes));
            }
        }
        self.source.read(id)
    }

    fn contains(&self, id: &ObjectId) -> Result<bool, StoreError> {
        self.source.contains(id)
    }
}

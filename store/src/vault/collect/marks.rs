//! What roots reach: a bit for each row of the index.
//!
//! Rows are known by the first 16 bytes of their hashes, which stand sorted in one array: 16 bytes and a bit a row,
//! where a set of ids takes 50. To make two objects that are alike in those takes 2^64 attempts; with eight bytes it would take
//! 2^32, and what lies below one of the two could be lost.
//!
//! **Invariant:** whatever is marked has all below it marked that is here, unless damage was found.

use std::collections::HashSet;

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::object::Object;

use super::Damage;
use crate::error::StoreError;
use crate::objects::ObjectSource;
use crate::vault::Vault;

/// Damage that is named; one is enough to stop.
const MOST_DAMAGE: usize = 20;

/// What was reached so far.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// The beginnings of the hashes of all rows that were listed, ascending.
    listed: Vec<u128>,
    /// One bit for each of them.
    bits: Vec<u64>,
    /// What was reached and is not listed: it came later, or only the journal has it.
    others: HashSet<ObjectId>,
    /// What was reached and cannot be read, or should be here and is not.
    pub(super) damage: Vec<Damage>,
}

/// How complete a root has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// What there is of it.
    Some,
}

impl Marks {
    /// Lists the rows of a vault.
    pub(super) fn list(vault: &Vault) -> Result<Self, StoreError> {
        let mut marks = Self::default();
        vault.index().for_each(|id, _| marks.listed.push(start_of(&id)))?;
        marks.listed.shrink_to_fit();
        marks.bits = vec![0; marks.listed.len().div_ceil(64)];
        Ok(marks)
    }

    /// How many rows were listed.
    pub(super) const fn len(&self) -> usize {
        self.listed.len()
    }

    /// Whether a row was there when they were listed.
    pub(super) fn is_listed(&self, id: &ObjectId) -> bool {
        self.place(id).is_some()
    }

    /// Whether an object was reached.
    pub(super) fn has(&self, id: &ObjectId) -> bool {
        match self.place(id) {
            Some(at) => self.bits.get(at / 64).is_some_and(|bits| bits >> (at % 64) & 1 == 1),
            None => self.others.contains(id),
        }
    }

    /// Marks roots and all below them.
    pub(super) fn mark(
        &mut self,
        vault: &Vault,
        roots: impl IntoIterator<Item = ObjectId>,
        wanted: Wanted,
    ) -> Result<(), StoreError> {
        let mut open: Vec<_> = roots.into_iter().collect();
        while let Some(id) = open.pop() {
            if !self.set(&id) || id.kind == ObjectKind::Chunk {
                continue;
            }
            let object = match vault.read(&id) {
                Ok(Some(bytes)) => Object::decode(id.kind, &bytes).ok(),
                Ok(None) => {
                    if wanted == Wanted::Whole {
                        self.found(id, "is missing");
                    }
                    continue;
                }
                Err(error) if error.is_corruption() => None,
                Err(error) => return Err(error),
            };
            match object {
                Some(object) => {
                    for child in object.children() {
                        // Chunks lead nowhere, and are most of all.
                        if child.kind == ObjectKind::Chunk {
                            self.set(&child);
                        } else {
                            open.push(child);
                        }
                    }
                }
                None => self.found(id, "is damaged"),
            }
        }
        Ok(())
    }

    /// Bytes of what was reached and only the journal has.
    pub(super) fn bytes_in_journal(&self, vault: &Vault) -> u64 {
        let pending = vault.pending();
        let others = self.others.iter().filter_map(|id| pending.get(id));
        others.map(|object| object.bytes.len() as u64).sum()
    }

    fn found(&mut self, id: ObjectId, what: &'static str) {
        if self.damage.len() < MOST_DAMAGE {
            self.damage.push(Damage { id, what });
        }
    }

    /// Marks one; whether it was not.
    fn set(&mut self, id: &ObjectId) -> bool {
        let Some(at) = self.place(id) else { return self.others.insert(*id) };
        let Some(bits) = self.bits.get_mut(at / 64) else { return false };
        let was = *bits;
        *bits |= 1 << (at % 64);
        *bits != was
    }

    fn place(&self, id: &ObjectId) -> Option<usize> {
        self.listed.binary_search(&start_of(id)).ok()
    }
}

fn start_of(id: &ObjectId) -> u128 {
    id.hash.iter().take(16).fold(0, |start, &byte| start << 8 | u128::from(byte))
}

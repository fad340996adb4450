//! The receiving side of a push.
//!
//! **Invariant:** an object that is handed on is canonical and one that a peer may send; what is not restored
//! is asked for.

use std::collections::VecDeque;

use crate::batch::Parcel;
use crate::encode::DecodeError;
use crate::frame::FrameError;
use crate::id::{ObjectId, ObjectKind};
use crate::message::{MAX_ITEMS, PushReply};
use crate::object::Object;

/// Numbers the items of a stream, and remembers which could not be restored.
#[derive(Debug, Default)]
pub struct PushReceiver {
    items: u32,
    unresolved: VecDeque<u32>,
}

impl PushReceiver {
    /// Starts with the first item of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that an object which came whole is canonical and one that a peer may send, and computes its
    /// id. One that is refused ends the push.
    pub fn accept(&mut self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, DecodeError> {
        Object::decode(kind, bytes)?.check_received()?;
        self.items = self.items.saturating_add(1);
        Ok(ObjectId::of(kind, bytes))
    }

    /// Takes a batch whose bases were supplied; returns its objects, each checked to be canonical and one
    /// that a peer may send.
    ///
    /// A refused object ends the push where the batch leans on nothing. Where it does, a base may have
    /// been another one (eight bytes of a hash name it), or is not here: then nothing comes out, and
    /// all of it is asked for again.
    pub fn accept_batch(&mut self, parcel: Parcel) -> Result<Vec<(ObjectId, Vec<u8>)>, FrameError> {
        let (count, leans) = (parcel.len() as u32, parcel.leans());
        let first = self.items;
        let objects = match parcel.restore() {
            Err(_) if leans => {
                self.unresolved.extend(first..first.saturating_add(count));
                Vec::new()
            }
            restored => restored?,
        };
        self.items = first.saturating_add(count);
        Ok(objects)
    }

    /// Counts an item that needs no check but that of its hash, which the caller makes: a chunk.
    pub const fn accept_chunk(&mut self) {
        self.items = self.items.saturating_add(1);
    }

    /// Items that were not restored and not asked for again, for the driver's limit.
    pub fn unresolved(&self) -> usize {
        self.unresolved.len()
    }

    /// What to ask for before the closure is worth checking: at most [`MAX_ITEMS`], the others at
    /// the next commit.
    pub fn need_full(&mut self) -> Option<PushReply> {
        let count = self.unresolved.len().min(MAX_ITEMS);
        let items: Vec<_> = self.unresolved.drain(..count).collect();
        (!items.is_empty()).then_some(PushReply::NeedFull { items })
    }
}

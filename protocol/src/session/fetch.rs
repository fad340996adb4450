//! A fetch: what is missing of a snapshot, asked for from the top down.
//!
//! The driver tells which objects it wants; the session packs wants into requests, keeps a few of them
//! under way, and checks that what comes is what was asked for. Requests are large, and the node answers
//! one in the order of its disk, so that what stands together there comes together.
//!
//! **Invariant:** an object leaves [`FetchSession::accept`] only if its hash is one that was asked for and
//! its bytes are canonical; all bytes are a canonical chunk.

use std::collections::{HashSet, VecDeque};

use crate::encode::DecodeError;
use crate::id::{ObjectId, ObjectKind};
use crate::message::{FetchReply, FetchRequest, MAX_IDS};
use crate::object::Object;

/// Ids of one request.
const PER_REQUEST: usize = MAX_IDS;

/// Requests under way at most.
const IN_FLIGHT: usize = 4;

/// A fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The node sent something else than it was asked for.
    #[error("the node sent {0}, which it was not asked for")]
    Unasked(ObjectId),
    /// The node sent an object, or an end, that nothing asked for.
    #[error("the node sent more than it was asked for")]
    OutOfTurn,
    /// The node does not have all of it.
    #[error("the node does not have {0}")]
    Absent(ObjectId),
    /// The bytes have the right hash and are not an object that a peer may send; whoever made them
    /// was at fault.
    #[error("{id} is malformed")]
    Malformed {
        /// Which.
        id: ObjectId,
        /// How.
        source: DecodeError,
    },
}

/// The fetching side.
#[derive(Debug, Default)]
pub struct FetchSession {
    seen: HashSet<ObjectId>,
    queue: VecDeque<ObjectId>,
    requests: VecDeque<Asked>,
    received: u64,
}

/// A request under way.
#[derive(Debug)]
struct Asked {
    count: usize,
    /// Which of them have not come.
    left: HashSet<ObjectId>,
}

impl FetchSession {
    /// A session that wants nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants an object, once however often it is named.
    ///
    /// Metadata goes first: it leads to more wants.
    pub fn want(&mut self, id: ObjectId) {
        if self.seen.insert(id) {
            if id.kind == ObjectKind::Chunk {
                self.queue.push_back(id);
            } else {
                self.queue.push_front(id);
            }
        }
    }

    /// The next request to send, where one is due.
    pub fn request(&mut self) -> Option<FetchRequest> {
        if self.requests.len() >= IN_FLIGHT || self.queue.is_empty() {
            return None;
        }
        let ids: Vec<_> = self.queue.drain(..self.queue.len().min(PER_REQUEST)).collect();
        self.requests.push_back(Asked { count: ids.len(), left: ids.iter().copied().collect() });
        Some(FetchRequest::Want(ids.into_iter().map(Into::into).collect()))
    }

    /// Whether nothing is wanted and nothing is under way.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty() && self.requests.is_empty()
    }

    /// Objects received so far.
    pub const fn received(&self) -> u64 {
        self.received
    }

    /// Objects known to be wanted and not yet received.
    pub fn outstanding(&self) -> u64 {
        let under_way: usize = self.requests.iter().map(|asked| asked.left.len()).sum();
        (self.queue.len() + under_way) as u64
    }

    /// Takes the next object; returns its id and the objects that it needs in turn.
    pub fn accept(
        &mut self,
        kind: ObjectKind,
        bytes: &[u8],
    ) -> Result<(ObjectId, Vec<ObjectId>), FetchError> {
        let request = self
            .requests
            .front_mut()
            .filter(|asked| !asked.left.is_empty())
            .ok_or(FetchError::OutOfTurn)?;
        let id = ObjectId::of(kind, bytes);
        if !request.left.remove(&id) {
            return Err(FetchError::Unasked(id));
        }
        let malformed = |source| FetchError::Malformed { id, source };
        let object = Object::decode(kind, bytes).map_err(malformed)?;
        object.check_received().map_err(malformed)?;
        self.received += 1;
        Ok((id, object.children()))
    }

    /// Takes the next object, a chunk, by its id: the caller computes its hash, and ends the fetch where it is
    /// another one.
    pub fn accept_chunk(&mut self, id: ObjectId) -> Result<(), FetchError> {
        let request = self.requests.front_mut().ok_or(FetchError::OutOfTurn)?;
        if id.kind != ObjectKind::Chunk || !request.left.remove(&id) {
            return Err(FetchError::Unasked(id));
        }
        self.received += 1;
        Ok(())
    }

    /// Takes the end of the oldest answer under way: all that its request asked for has come, or
    /// the node says that one of the objects that have not is not there.
    pub fn end(&mut self, reply: &FetchReply) -> Result<(), FetchError> {
        let FetchReply::Done { sent, absent } = *reply;
        let Asked { count, left } = self.requests.pop_front().ok_or(FetchError::OutOfTurn)?;
        if sent as usize != count - left.len() {
            return Err(FetchError::OutOfTurn);
        }
        match absent {
            None if left.is_empty() => Ok(()),
            Some(absent) => match absent.id().filter(|id| left.contains(id)) {
                Some(absent) => Err(FetchError::Absent(absent)),
                None => Err(FetchError::OutOfTurn),
            },
            None => Err(FetchError::OutOfTurn),
        }
    }
}

#[cfg(test)]
mod tests;

//! A push: hello, objects and commit in one flight; whatever the node lacks in the next.
//!
//! The sender believes that the node has everything reachable from the base. Where it is wrong the
//! node says what it needs, and one more trip sends that. Without a base the sender offers the
//! snapshot and its root, and the node asks its way down: what it has already is pruned, subtree
//! by subtree.
//!
//! **Invariant:** a node can make a sender send only objects that the pushed snapshot contains.

use std::collections::{HashSet, VecDeque};

use crate::delta::{self, DeltaError};
use crate::encode::DecodeError;
use crate::frame::{Batch, FrameError, FrameKind, encode_header};
use crate::id::{ObjectId, SnapshotId};
use crate::message::{self, Opening, PushHello, PushReply, PushRequest, Refusal, Reply, Request};
use crate::object::Object;

/// An object to send, and an older form of it that the node should have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Planned {
    /// What to send.
    pub id: ObjectId,
    /// Of the same kind, reachable from the base of the push.
    pub base: Option<ObjectId>,
}

/// What the driver of a sender has to do next.
#[derive(Debug)]
pub enum PushAction {
    /// Load the object, and its base where it is still there, and call [`PushSender::supply`].
    Load(Planned),
    /// Write these bytes to the stream.
    Send(Vec<u8>),
    /// Flush, read one message and call [`PushSender::receive`].
    Receive,
    /// Close the stream.
    Finish(PushOutcome),
}

/// How a push ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushOutcome {
    /// The node has made the snapshot durable.
    Acked {
        /// What the ref points to.
        snapshot: SnapshotId,
        /// Its sequence number.
        sequence: u64,
    },
    /// The ref was not where the sender thought.
    HeadMoved {
        /// Where it is, with its sequence number.
        head: Option<(SnapshotId, u64)>,
    },
}

/// A push failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The node said no.
    #[error(transparent)]
    Refused(Refusal),
    /// The node asked for something that the snapshot does not contain, or twice for the same.
    #[error("the node asked for {0}, which is no open part of this push")]
    NotOffered(ObjectId),
    /// The node answered something else.
    #[error("the node answered out of turn")]
    OutOfTurn,
    /// A frame could not be made.
    #[error("preparing a frame")]
    Frame(#[from] FrameError),
    /// A delta could not be made.
    #[error("preparing a delta")]
    Delta(#[from] DeltaError),
    /// An object of our own is damaged.
    #[error("{id} is damaged")]
    Damaged {
        /// Which.
        id: ObjectId,
        /// How.
        source: DecodeError,
    },
}

/// What a push has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushStats {
    /// Bytes written to the stream.
    pub bytes_sent: u64,
    /// Objects sent, deltas included.
    pub objects_sent: u64,
    /// Times that an answer was awaited.
    pub round_trips: u64,
}

#[derive(Debug)]
enum Phase {
    Opening,
    Sending,
    Committing,
    Waiting,
    Done(PushOutcome),
}

/// The pushing side.
#[derive(Debug)]
pub struct PushSender {
    hello: PushHello,
    phase: Phase,
    queue: VecDeque<Planned>,
    loading: Option<Planned>,
    batch: Batch,
    items: u32,
    /// Item numbers of what went as a delta.
    deltas: Vec<(u32, ObjectId)>,
    /// Hash prefixes of what the node may ask for. A prefix is enough: the set of our own objects
    /// is not the node's to choose.
    offered: HashSet<[u8; 8]>,
    /// Hash prefixes of what was sent.
    sent: HashSet<[u8; 8]>,
    stats: PushStats,
}

impl PushSender {
    /// Starts a push that sends `plan` at once, in that order.
    pub fn new(hello: PushHello, plan: impl IntoIterator<Item = Planned>) -> Self {
        let queue: VecDeque<_> = plan.into_iter().collect();
        let mut offered: HashSet<_> = queue.iter().map(|planned| prefix(&planned.id)).collect();
        offered.insert(prefix(&hello.new.into()));
        Self {
            hello,
            phase: Phase::Opening,
            queue,
            loading: None,
            batch: Batch::new(),
            items: 0,
            deltas: Vec::new(),
            offered,
            sent: HashSet::new(),
            stats: PushStats::default(),
        }
    }

    /// What the push has cost so far.
    pub const fn stats(&self) -> PushStats {
        self.stats
    }

    /// Objects still to be loaded in this flight, for progress.
    pub fn queued(&self) -> usize {
        self.queue.len()
    }

    /// Says what to do next.
    pub fn poll(&mut self) -> Result<PushAction, PushError> {
        match self.phase {
            Phase::Opening => {
                self.phase = Phase::Sending;
                let bytes = message::encode(&Opening::new(Request::Push(self.hello)))?;
                Ok(self.send(bytes))
            }
            Phase::Sending => {
                if !self.batch.is_full()
                    && let Some(planned) = self.next_unsent()
                {
                    self.loading = Some(planned);
                    return Ok(PushAction::Load(planned));
                }
                if !self.batch.is_empty() {
                    let body = self.batch.finish()?;
                    let mut frame = encode_header(FrameKind::Objects, body.len())?.to_vec();
                    frame.extend_from_slice(&body);
                    return Ok(self.send(frame));
                }
                self.phase = Phase::Committing;
                self.poll()
            }
            Phase::Committing => {
                self.phase = Phase::Waiting;
                let bytes = message::encode(&PushRequest::Commit)?;
                Ok(self.send(bytes))
            }
            Phase::Waiting => {
                self.stats.round_trips += 1;
                Ok(PushAction::Receive)
            }
            Phase::Done(outcome) => Ok(PushAction::Finish(outcome)),
        }
    }

    /// Hands over the object that the last [`PushAction::Load`] named.
    pub fn supply(&mut self, object: &[u8], base: Option<&[u8]>) -> Result<(), PushError> {
        let Some(Planned { id, .. }) = self.loading.take() else {
            return Err(PushError::OutOfTurn);
        };
        let children = Object::decode(id.kind, object)
            .map_err(|source| PushError::Damaged { id, source })?
            .children();
        self.offered.extend(children.iter().map(prefix));
        let delta = match base {
            Some(base) => Some((ObjectId::of(id.kind, base), delta::encode_delta(base, object)?)),
            None => None,
        };
        match delta {
            Some((base, delta)) if delta.len() + 8 < object.len() => {
                self.deltas.push((self.items, id));
                self.batch.push_delta(id.kind, prefix(&base), object.len(), &delta);
            }
            _ => self.batch.push_full(id.kind, object),
        }
        self.items += 1;
        self.stats.objects_sent += 1;
        Ok(())
    }

    /// Takes the node's answer.
    pub fn receive(&mut self, reply: Reply) -> Result<(), PushError> {
        if !matches!(self.phase, Phase::Waiting) {
            return Err(PushError::OutOfTurn);
        }
        match reply {
            Reply::Refused(refusal) => return Err(PushError::Refused(refusal)),
            Reply::Push(PushReply::Acked { snapshot, sequence }) if snapshot == self.hello.new => {
                self.phase = Phase::Done(PushOutcome::Acked { snapshot, sequence });
            }
            Reply::Push(PushReply::HeadMoved { head }) => {
                self.phase = Phase::Done(PushOutcome::HeadMoved { head });
            }
            Reply::Push(PushReply::Missing { ids }) => {
                for id in ids {
                    let id = id.id().ok_or(PushError::OutOfTurn)?;
                    if !self.offered.contains(&prefix(&id)) || self.sent.contains(&prefix(&id)) {
                        return Err(PushError::NotOffered(id));
                    }
                    self.queue.push_back(Planned { id, base: None });
                }
                self.again()?;
            }
            Reply::Push(PushReply::NeedFull { items }) => {
                for item in items {
                    let at = self
                        .deltas
                        .binary_search_by_key(&item, |&(item, _)| item)
                        .map_err(|_| PushError::OutOfTurn)?;
                    let (_, id) = self.deltas.remove(at);
                    self.sent.remove(&prefix(&id));
                    self.queue.push_back(Planned { id, base: None });
                }
                self.again()?;
            }
            _ => return Err(PushError::OutOfTurn),
        }
        Ok(())
    }

    /// Another flight, which must bring the node something.
    fn again(&mut self) -> Result<(), PushError> {
        if self.queue.is_empty() {
            return Err(PushError::OutOfTurn);
        }
        self.phase = Phase::Sending;
        Ok(())
    }

    /// The next object of the queue that was not sent yet; marks it as sent.
    fn next_unsent(&mut self) -> Option<Planned> {
        loop {
            let planned = self.queue.pop_front()?;
            if self.sent.insert(prefix(&planned.id)) {
                return Some(planned);
            }
        }
    }

    fn send(&mut self, bytes: Vec<u8>) -> PushAction {
        self.stats.bytes_sent += bytes.len() as u64;
        PushAction::Send(bytes)
    }
}

fn prefix(id: &ObjectId) -> [u8; 8] {
    let [a, b, c, d, e, f, g, h, ..] = id.hash;
    [a, b, c, d, e, f, g, h]
}

/// The receiving side: numbers the items of a stream, checks objects, and remembers which deltas
/// had no base.
#[derive(Debug, Default)]
pub struct PushReceiver {
    items: u32,
    unresolved: Vec<u32>,
}

impl PushReceiver {
    /// Starts with the first item of a stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Checks that an item is a canonical object and computes its id.
    pub fn accept(
        &mut self,
        kind: crate::id::ObjectKind,
        bytes: &[u8],
    ) -> Result<ObjectId, DecodeError> {
        self.items = self.items.saturating_add(1);
        Object::decode(kind, bytes)?;
        Ok(ObjectId::of(kind, bytes))
    }

    /// Notes that the base of the next item is not here.
    pub fn lacks_base(&mut self) {
        self.unresolved.push(self.items);
        self.items = self.items.saturating_add(1);
    }

    /// What to ask for before the closure is worth checking.
    pub fn need_full(&mut self) -> Option<PushReply> {
        if self.unresolved.is_empty() {
            return None;
        }
        Some(PushReply::NeedFull { items: std::mem::take(&mut self.unresolved) })
    }
}

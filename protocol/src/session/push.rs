//! A push: hello, objects and commit in one flight; whatever the node lacks in the next.
//!
//! The sender believes that the node has everything reachable from the base. Where it is wrong the
//! node says what it needs, and one more trip sends that. Without a base the sender offers the
//! snapshot and its root, and the node asks its way down: what it has already is pruned, subtree
//! by subtree. What it has may be incomplete (an earlier push was cut off): then it asks for
//! something below an object that was never loaded here, and the sender looks into its own
//! metadata until it finds that.
//!
//! **Invariant:** a node can make a sender send only objects that the pushed snapshot contains, each
//! at most once in a batch that needs nothing to be restored.

mod receiver;

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};

use crate::batch::Batch;
use crate::encode::DecodeError;
use crate::frame::{FrameError, FrameKind, encode_header};
use crate::id::{ObjectId, SnapshotId};
use crate::message::{
    self, MAX_IDS, Opening, PushHello, PushReply, PushRequest, Refusal, Reply, Request,
};
use crate::object::Object;

pub use receiver::PushReceiver;

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
    /// These are asked for next, one by one. Where whole records hold them, send those as they stand in the log,
    /// each that [`PushSender::take_record`] lets go.
    Gather(Vec<ObjectId>),
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
    /// The node asked for something that the snapshot does not contain, or that went whole before.
    #[error("the node asked for {0}, which is not of this push, or did not arrive as it was sent")]
    NotOffered(ObjectId),
    /// The node answered something else.
    #[error("the node answered out of turn")]
    OutOfTurn,
    /// A frame could not be made.
    #[error("preparing a frame")]
    Frame(#[from] FrameError),
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

/// What became of an object of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// An object that was loaded names it; the node may ask for it.
    Open,
    /// It is sent in this flight.
    Queued,
    /// It went in a batch that leans on bases; the node may ask for it once more, whole.
    Leaning,
    /// It went whole, with nothing but whole ones.
    Whole,
}

/// Chunks from which on it is looked for records that hold them.
const GATHERED: usize = 32;

/// Ids of the node's that may wait to be found in the snapshot.
const MOST_ASKED: usize = 16 * MAX_IDS;

/// Half a hash: enough that nobody can make two objects that are taken for one, at half the memory.
type Key = [u8; 16];

/// The pushing side.
#[derive(Debug)]
pub struct PushSender {
    hello: PushHello,
    phase: Phase,
    /// What is sent in this flight, unless a record had it.
    queue: VecDeque<Planned>,
    /// How many of those are still to be sent.
    queued: usize,
    /// Chunks to send whole, before they join the queue.
    wanted: Vec<ObjectId>,
    loading: Option<Loading>,
    batch: Batch,
    items: u32,
    /// What is in the batch.
    batched: Vec<ObjectId>,
    /// What went in batches that lean on bases, by its item number.
    leaning: HashMap<u32, ObjectId>,
    objects: HashMap<Key, Standing>,
    /// Metadata whose children are not known yet: named by an object and not loaded itself, or sent as the
    /// difference to what the node has.
    unexplored: Vec<ObjectId>,
    /// What the node asked for and no loaded object has named so far.
    asked: BTreeSet<ObjectId>,
    stats: PushStats,
}

#[derive(Clone, Copy, Debug)]
struct Loading {
    planned: Planned,
    /// Whether it is sent, and not only looked into.
    send: bool,
}

impl PushSender {
    /// Starts a push that sends `plan` at once, in that order.
    pub fn new(hello: PushHello, plan: impl IntoIterator<Item = Planned>) -> Self {
        let mut sender = Self {
            hello,
            phase: Phase::Opening,
            queue: VecDeque::new(),
            queued: 0,
            wanted: Vec::new(),
            loading: None,
            batch: Batch::new(),
            items: 0,
            batched: Vec::new(),
            leaning: HashMap::new(),
            objects: HashMap::new(),
            unexplored: Vec::new(),
            asked: BTreeSet::new(),
            stats: PushStats::default(),
        };
        let is_new =
            |planned: &Planned| sender.objects.insert(key(&planned.id), Standing::Queued).is_none();
        let plan: Vec<Planned> = plan.into_iter().filter(is_new).collect();
        if plan.iter().filter(|planned| stands_alone(planned)).count() < GATHERED {
            // What is small altogether goes in the order of the plan, which is the best for deltas.
            sender.queued = plan.len();
            sender.queue = plan.into();
        } else {
            for planned in plan {
                sender.enqueue(planned);
            }
        }
        sender.offer(hello.new.into());
        sender
    }

    /// What the push has cost so far.
    pub const fn stats(&self) -> PushStats {
        self.stats
    }

    /// Objects still to be loaded in this flight, for progress.
    pub const fn queued(&self) -> usize {
        self.queued
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
                if let Some(loading) = self.loading {
                    return Ok(PushAction::Load(loading.planned));
                }
                if !self.batch.is_full()
                    && let Some(loading) = self.next_load()?
                {
                    self.loading = Some(loading);
                    return Ok(PushAction::Load(loading.planned));
                }
                if !self.batch.is_empty() {
                    self.number_batched();
                    let body = self.batch.finish()?;
                    let mut frame = encode_header(FrameKind::Objects, body.len())?.to_vec();
                    frame.extend_from_slice(&body);
                    return Ok(self.send(frame));
                }
                if !self.wanted.is_empty() {
                    return Ok(PushAction::Gather(self.gather()));
                }
                self.phase = Phase::Committing;
                self.poll()
            }
            Phase::Committing => {
                self.phase = Phase::Waiting;
                self.stats.round_trips += 1;
                let bytes = message::encode(&PushRequest::Commit)?;
                Ok(self.send(bytes))
            }
            Phase::Waiting => Ok(PushAction::Receive),
            Phase::Done(outcome) => Ok(PushAction::Finish(outcome)),
        }
    }

    /// Hands over the object that the last [`PushAction::Load`] named.
    pub fn supply(&mut self, object: &[u8], base: Option<&[u8]>) -> Result<(), PushError> {
        let Some(Loading { planned: Planned { id, base: base_id }, send }) = self.loading.take()
        else {
            return Err(PushError::OutOfTurn);
        };
        if !send {
            return self.explore(id, object);
        }
        self.batched.push(id);
        self.note_sent(&id, Standing::Leaning);
        let Some((base_id, base)) = base_id.zip(base) else {
            self.batch.push_full(id.kind, object);
            return self.explore(id, object);
        };
        self.batch
            .push_delta(id, object, base_id, base)
            .map_err(|source| PushError::Damaged { id, source })?;
        // Mostly the node has all that it names and will not ask.
        if id.kind.is_metadata() {
            self.unexplored.push(id);
        }
        Ok(())
    }

    /// Numbers the objects of the batch, which goes next, and notes whether they go without a base.
    fn number_batched(&mut self) {
        let leans = self.batch.leans();
        for id in self.batched.drain(..) {
            if leans {
                self.leaning.insert(self.items, id);
            } else {
                self.objects.insert(key(&id), Standing::Whole);
            }
            self.items += 1;
        }
    }

    /// Whether a record of these objects may be sent as it is, in a frame of so many bytes: it is sent then. All of it
    /// has to belong to the snapshot and to be new to the node, as far as that is known, and half of it to be asked for.
    pub fn take_record<'a>(
        &mut self,
        objects: impl Iterator<Item = (&'a ObjectId, usize)> + Clone,
        frame: usize,
    ) -> bool {
        let (mut all, mut wanted) = (0, 0);
        for (id, len) in objects.clone() {
            all += len;
            match self.objects.get(&key(id)) {
                Some(Standing::Queued) => wanted += len,
                Some(Standing::Open) if !id.kind.is_metadata() => {}
                _ => return false,
            }
        }
        if wanted < all - wanted {
            return false;
        }
        for (id, _) in objects {
            self.note_sent(id, Standing::Whole);
            self.items += 1;
        }
        self.stats.bytes_sent += frame as u64;
        true
    }

    fn note_sent(&mut self, id: &ObjectId, standing: Standing) {
        if self.objects.insert(key(id), standing) == Some(Standing::Queued) {
            self.queued -= 1;
        }
        self.stats.objects_sent += 1;
    }

    /// Notes what an object names.
    fn explore(&mut self, id: ObjectId, object: &[u8]) -> Result<(), PushError> {
        let decoded =
            Object::decode(id.kind, object).map_err(|source| PushError::Damaged { id, source })?;
        decoded.children().into_iter().for_each(|child| self.offer(child));
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
            Reply::Push(PushReply::Missing { ids, more })
                if ids.len() <= MAX_IDS && !(more && ids.is_empty()) =>
            {
                for id in ids {
                    let id = id.id().ok_or(PushError::OutOfTurn)?;
                    match self.objects.get(&key(&id)) {
                        Some(Standing::Open | Standing::Leaning) => self.requeue(id),
                        // Named by an object that the node has and we had no reason to load.
                        None if self.asked.len() < MOST_ASKED && self.asked.insert(id) => {}
                        _ => return Err(PushError::NotOffered(id)),
                    }
                }
                if !more {
                    self.again()?;
                }
            }
            Reply::Push(PushReply::NeedFull { items }) => {
                for item in items {
                    let id = self.leaning.remove(&item).ok_or(PushError::OutOfTurn)?;
                    if self.objects.get(&key(&id)) != Some(&Standing::Leaning) {
                        return Err(PushError::NotOffered(id));
                    }
                    self.requeue(id);
                }
                self.again()?;
            }
            _ => return Err(PushError::OutOfTurn),
        }
        Ok(())
    }

    /// Another flight, which must bring the node something.
    fn again(&mut self) -> Result<(), PushError> {
        if self.queued == 0 && self.asked.is_empty() {
            return Err(PushError::OutOfTurn);
        }
        self.phase = Phase::Sending;
        Ok(())
    }

    /// Notes that the snapshot contains `id`.
    fn offer(&mut self, id: ObjectId) {
        if self.asked.remove(&id) {
            self.requeue(id);
        } else if let Entry::Vacant(entry) = self.objects.entry(key(&id)) {
            entry.insert(Standing::Open);
            if id.kind.is_metadata() {
                self.unexplored.push(id);
            }
        }
    }

    fn requeue(&mut self, id: ObjectId) {
        self.objects.insert(key(&id), Standing::Queued);
        self.enqueue(Planned { id, base: None });
    }

    fn enqueue(&mut self, planned: Planned) {
        self.queued += 1;
        if stands_alone(&planned) {
            self.wanted.push(planned.id);
        } else {
            self.queue.push_back(planned);
        }
    }

    /// Puts the chunks that are wanted into the queue.
    fn gather(&mut self) -> Vec<ObjectId> {
        let wanted = std::mem::take(&mut self.wanted);
        self.queue.extend(wanted.iter().map(|&id| Planned { id, base: None }));
        wanted
    }

    /// The next object to send; where there is none and the node asked for something that is not
    /// known to be in the snapshot, the next one to look into.
    fn next_load(&mut self) -> Result<Option<Loading>, PushError> {
        while let Some(planned) = self.queue.pop_front() {
            if self.objects.get(&key(&planned.id)) == Some(&Standing::Queued) {
                return Ok(Some(Loading { planned, send: true }));
            }
        }
        let Some(&asked) = self.asked.first() else {
            if self.wanted.is_empty() || self.wanted.len() >= GATHERED {
                return Ok(None);
            }
            // What is small altogether goes as one batch.
            self.gather();
            return self.next_load();
        };
        loop {
            let id = self.unexplored.pop().ok_or(PushError::NotOffered(asked))?;
            // What was sent whole meanwhile has been looked into.
            if let Some(Standing::Open | Standing::Leaning) = self.objects.get(&key(&id)) {
                return Ok(Some(Loading { planned: Planned { id, base: None }, send: false }));
            }
        }
    }

    fn send(&mut self, bytes: Vec<u8>) -> PushAction {
        self.stats.bytes_sent += bytes.len() as u64;
        PushAction::Send(bytes)
    }
}

/// Whether it is a chunk that goes whole, which a record may hold.
fn stands_alone(planned: &Planned) -> bool {
    !planned.id.kind.is_metadata() && planned.base.is_none()
}

fn key(id: &ObjectId) -> Key {
    let [key @ .., _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _] = id.hash;
    key
}

#[cfg(test)]
mod tests;

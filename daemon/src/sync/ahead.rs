//! File data on its way while its snapshot is still being made: records are offered as they come into the log
//! here, and those that the node lacks are sent at once.
//!
//! The push that follows finds most of its chunks there already. Nothing depends on this: what is not sent here,
//! for whatever reason, the push sends.
//!
//! **Invariant:** no ref moves, and what the node keeps is what it has hashed itself.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Duration;

use baton_protocol::frame::{FrameKind, HEADER};
use baton_protocol::id::HashPrefix;
use baton_protocol::message::{
    self, AheadReply, AheadRequest, MAX_IDS, Opening, RefusalCode, Reply, Request,
};
use baton_protocol::session::push::PushStats;
use baton_store::objects::{Location, OpenRecord};
use baton_store::vault::Vault;

use super::incoming::{Incoming, Quota, TakeError};
use super::{SyncError, Wire, records};

/// Offers that wait for their answers: at a hundred kilobytes a record and 50 ms away, 100 MB/s.
const UNDER_WAY: usize = 64;

/// How long nothing is said: a node waits for a minute.
const QUIET: Duration = Duration::from_secs(20);

/// A record that stands in the log.
#[derive(Debug)]
pub struct Fresh {
    /// Where.
    pub at: Location,
    /// How the hashes of its chunks begin.
    pub chunks: Vec<HashPrefix>,
}

/// Offers records as they come, and sends those that are wanted, until nobody has more of them; blocks. Returns
/// once the node has made durable what came. `told` hears what that has cost so far, first when the node has answered.
pub fn send(
    wire: &mut Wire,
    vault: &Vault,
    fresh: &Receiver<Fresh>,
    mut told: impl FnMut(PushStats),
) -> Result<(), SyncError> {
    let mut offers = Offers { wire, stats: PushStats::default() };
    let outcome = offers.run(vault, fresh, &mut told);
    told(offers.stats);
    outcome
}

struct Offers<'a> {
    wire: &'a mut Wire,
    stats: PushStats,
}

impl Offers<'_> {
    fn run(
        &mut self,
        vault: &Vault,
        fresh: &Receiver<Fresh>,
        told: &mut impl FnMut(PushStats),
    ) -> Result<(), SyncError> {
        self.say(&message::encode(&Opening::new(Request::Ahead))?)?;
        let mut open = OpenRecord::default();
        let mut offered: VecDeque<Option<(Location, usize)>> = VecDeque::new();
        loop {
            while offered.len() < UNDER_WAY {
                // With nothing under way there is nothing to do but to wait.
                let next = match fresh.try_recv() {
                    Err(TryRecvError::Empty) if offered.is_empty() => fresh.recv_timeout(QUIET),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => Err(RecvTimeoutError::Disconnected),
                    Ok(fresh) => Ok(fresh),
                };
                match next {
                    Ok(Fresh { at, chunks }) if chunks.len() <= MAX_IDS => {
                        offered.push_back(Some((at, chunks.len())));
                        self.say(&message::encode(&AheadRequest::Offer(chunks))?)?;
                    }
                    Ok(_) => {}
                    // Or the node takes us for gone.
                    Err(RecvTimeoutError::Timeout) => {
                        offered.push_back(None);
                        self.say(&message::encode(&AheadRequest::Offer(Vec::new()))?)?;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
            let Some(record) = offered.pop_front() else { break };
            let AheadReply::Wanted(is_wanted) = self.answer()? else {
                return Err(SyncError::OutOfTurn);
            };
            if let Some((at, count)) = record.filter(|_| is_wanted)
                && let Some(record) = records::read(vault, &mut open, &at)?
            {
                super::or_why(self.wire, |wire| wire.write_frame(FrameKind::Record, record.bytes))?;
                self.stats.bytes_sent += (HEADER + record.bytes.len()) as u64;
                self.stats.objects_sent += count as u64;
            }
            told(self.stats);
        }
        self.say(&message::encode(&AheadRequest::End)?)?;
        // The offers were answered while the tree was read; this is what is waited for.
        self.stats.round_trips += 1;
        match self.answer()? {
            AheadReply::Kept => Ok(()),
            AheadReply::Wanted(_) => Err(SyncError::OutOfTurn),
        }
    }

    fn say(&mut self, bytes: &[u8]) -> Result<(), SyncError> {
        super::or_why(self.wire, |wire| Ok(wire.write(bytes)?))?;
        self.stats.bytes_sent += bytes.len() as u64;
        Ok(())
    }

    fn answer(&mut self) -> Result<AheadReply, SyncError> {
        match self.wire.answer()? {
            Reply::Ahead(reply) => Ok(reply),
            Reply::Refused(refusal) => Err(SyncError::Refused(refusal)),
            _ => Err(SyncError::OutOfTurn),
        }
    }
}

/// The node's side; blocks until the device has sent all, or is gone. What came until then is kept.
pub fn receive(wire: &mut Wire, vault: &Vault, quota: Quota) -> Result<(), SyncError> {
    let mut incoming = Incoming::new(vault, quota);
    let outcome = take_offered(wire, vault, &mut incoming);
    if let Err(error) = incoming.keep() {
        tracing::debug!(%error, "what was sent ahead is not kept");
    }
    outcome
}

fn take_offered(wire: &mut Wire, vault: &Vault, incoming: &mut Incoming) -> Result<(), SyncError> {
    loop {
        let Some(frame) = wire.listen()? else { return Ok(()) };
        let request = match frame.kind {
            FrameKind::Record => {
                if let Err(error) = incoming.record(frame.body) {
                    return error.tell(wire);
                }
                continue;
            }
            FrameKind::Message => message::decode(&frame.body).ok(),
            FrameKind::Objects => None,
        };
        match request {
            Some(AheadRequest::Offer(chunks)) if chunks.len() <= MAX_IDS => {
                let is_wanted = is_wanted(vault, &chunks)?;
                wire.send(&Reply::Ahead(AheadReply::Wanted(is_wanted)))?;
            }
            Some(AheadRequest::End) => {
                return match incoming.keep() {
                    Ok(()) => Ok(wire.send(&Reply::Ahead(AheadReply::Kept))?),
                    Err(error) => TakeError::from(error).tell(wire),
                };
            }
            _ => return Ok(wire.refuse(RefusalCode::Malformed, "not an offer of a record")?),
        }
    }
}

/// Whether there are chunks, and at least half of them are not here: the others the push that follows asks for by
/// name.
fn is_wanted(vault: &Vault, chunks: &[HashPrefix]) -> Result<bool, SyncError> {
    let mut here = 0;
    for chunk in chunks {
        here += usize::from(vault.may_hold(chunk)?);
    }
    Ok(!chunks.is_empty() && here * 2 <= chunks.len())
}

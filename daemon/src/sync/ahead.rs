//! File data on its way while its snapshot is still being made: records are offered as they come into the log
//! here, and those that the node lacks are sent at once.
//!
//! The push that follows finds most of its chunks there already. Nothing depends on this: what is not sent here,
//! for whatever reason, the push sends.
//!
//! **Invariant:** no ref moves, and what the node keeps is what it has hashed itself.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, TryRecvError};

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

/// A record that stands in the log.
#[derive(Debug)]
pub struct Fresh {
    /// Where.
    pub at: Location,
    /// How the hashes of its chunks begin.
    pub chunks: Vec<HashPrefix>,
}

/// Offers records as they come, and sends those that are wanted, until nobody has more of them; blocks. Returns
/// once the node has made durable what came. `told` hears what that has cost so far.
pub fn send(
    wire: &mut Wire,
    vault: &Vault,
    fresh: &Receiver<Fresh>,
    mut told: impl FnMut(PushStats),
) -> Result<(), SyncError> {
    let mut stats = PushStats::default();
    let say = |wire: &mut Wire, stats: &mut PushStats, bytes: Vec<u8>| {
        stats.bytes_sent += bytes.len() as u64;
        super::or_why(wire, |wire| Ok(wire.write(&bytes)?))
    };
    say(wire, &mut stats, message::encode(&Opening::new(Request::Ahead))?)?;
    let mut open = OpenRecord::default();
    let mut offered = VecDeque::new();
    loop {
        while offered.len() < UNDER_WAY {
            // With nothing under way there is nothing to do but to wait.
            let next = match fresh.try_recv() {
                Err(TryRecvError::Empty) if offered.is_empty() => fresh.recv().ok(),
                next => next.ok(),
            };
            let Some(Fresh { at, chunks }) = next else { break };
            if wire.is_stopped() {
                return Err(SyncError::Cancelled);
            }
            if chunks.len() <= MAX_IDS {
                offered.push_back((at, chunks.len()));
                say(wire, &mut stats, message::encode(&AheadRequest::Offer(chunks))?)?;
            }
        }
        let Some((at, count)) = offered.pop_front() else { break };
        let AheadReply::Wanted(is_wanted) = answer_of(wire)? else {
            return Err(SyncError::OutOfTurn);
        };
        if wire.is_stopped() {
            return Err(SyncError::Cancelled);
        }
        if is_wanted && let Some(record) = records::read(vault, &mut open, &at)? {
            super::or_why(wire, |wire| wire.write_frame(FrameKind::Record, record.bytes))?;
            stats.bytes_sent += (HEADER + record.bytes.len()) as u64;
            stats.objects_sent += count as u64;
        }
        told(stats);
    }
    say(wire, &mut stats, message::encode(&AheadRequest::End)?)?;
    // The offers were answered while the tree was read; this is what is waited for.
    stats.round_trips += 1;
    told(stats);
    match answer_of(wire)? {
        AheadReply::Kept => Ok(()),
        AheadReply::Wanted(_) => Err(SyncError::OutOfTurn),
    }
}

fn answer_of(wire: &mut Wire) -> Result<AheadReply, SyncError> {
    match wire.answer()? {
        Reply::Ahead(reply) => Ok(reply),
        Reply::Refused(refusal) => Err(SyncError::Refused(refusal)),
        _ => Err(SyncError::OutOfTurn),
    }
}

/// The node's side; blocks until the device has sent all, or is gone. What came until then is kept.
pub fn receive(wire: &mut Wire, vault: &Vault, quota: Quota) -> Result<(), SyncError> {
    let mut incoming = Incoming::new(vault, quota)?;
    loop {
        let frame = match wire.read() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(incoming.keep()?),
            Err(error) => {
                incoming.keep()?;
                return Err(wire.give_up(error));
            }
        };
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

/// Whether at least half of the chunks are not here: the others the push that follows asks for by name.
fn is_wanted(vault: &Vault, chunks: &[HashPrefix]) -> Result<bool, SyncError> {
    let mut here = 0;
    for chunk in chunks {
        here += usize::from(vault.may_hold(chunk)?);
    }
    Ok(here * 2 <= chunks.len())
}

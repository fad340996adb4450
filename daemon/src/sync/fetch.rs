//! A fetch: the asking home, and the answering node.
//!
//! First the metadata, from the top down; then the chunks, in the order of the tree and many at a time,
//! which is about the order in which a scan has stored them. So whole records of the node's log are
//! asked for, and go from that log into ours as they are: taken apart here, to be hashed, and nowhere
//! else.

use std::collections::HashSet;

use baton_protocol::batch::{Batch, Parcel};
use baton_protocol::frame::FrameKind;
use baton_protocol::id::{ObjectId, ObjectKind, SnapshotId};
use baton_protocol::message::{
    FetchReply, FetchRequest, MAX_IDS, RefusalCode, Reply, WireId, decode,
};
use baton_protocol::session::fetch::FetchSession;
use baton_store::objects::{Location, ObjectSource, OpenRecord};
use baton_store::segment::RecordEntry;
use baton_store::vault::{CommitError, Intake, Vault};

use super::records;
use super::{KEEP_AT, MAX_OBJECTS, SyncError, Wire, store_refusal};
use crate::transport::TransportError;
use crate::transport::stream::Frame;

/// Objects that are asked for before it is looked at again what is missing.
const ROUND: usize = 4 * MAX_IDS;

/// Fetches everything of a snapshot that the vault lacks; blocks. `progress` is told the objects and
/// bytes received, and the objects known to be outstanding.
///
/// What came before a failure is kept, so that the next fetch goes on from there. Returns the objects
/// received.
pub fn fetch(
    wire: &mut Wire,
    vault: &Vault,
    snapshot: SnapshotId,
    progress: impl FnMut(u64, u64, u64),
) -> Result<u64, SyncError> {
    fetch_within(wire, vault, snapshot, MAX_OBJECTS, progress)
}

/// As [`fetch`], of at most `limit` objects.
pub(super) fn fetch_within(
    wire: &mut Wire,
    vault: &Vault,
    snapshot: SnapshotId,
    limit: u64,
    mut progress: impl FnMut(u64, u64, u64),
) -> Result<u64, SyncError> {
    let intake = vault.intake();
    let mut session = FetchSession::new();
    let came = receive(wire, &intake, &mut session, snapshot, limit, &mut progress);
    if let Err(error) = came {
        intake.flush()?;
        return Err(error);
    }
    intake.keep(&[snapshot.into()]).map_err(|error| match error {
        CommitError::Store(error) => error.into(),
        other => SyncError::Keep(other),
    })?;
    Ok(session.received())
}

fn receive(
    wire: &mut Wire,
    intake: &Intake,
    session: &mut FetchSession,
    snapshot: SnapshotId,
    limit: u64,
    progress: &mut impl FnMut(u64, u64, u64),
) -> Result<(), SyncError> {
    let (mut bytes, mut kept) = (0, 0);
    let mut entries = Vec::new();
    loop {
        // The walk says what is missing, also below what an earlier fetch has left unfinished.
        let missing = intake.missing(snapshot.into(), ROUND)?;
        if missing.is_empty() {
            return Ok(());
        }
        let before = session.received();
        for id in missing {
            session.want(id);
        }
        while !session.is_done() {
            while let Some(request) = session.request() {
                match wire.send(&request) {
                    // The node has said why, or will not say anything.
                    Err(TransportError::Stopped) => break,
                    sent => sent?,
                }
            }
            let frame = wire.answer_frame()?.ok_or(TransportError::Ended)?;
            bytes += frame.body.len() as u64;
            take(&mut entries, intake, session, frame)?;
            if bytes - kept >= KEEP_AT {
                intake.flush()?;
                kept = bytes;
            }
            if session.received() + session.outstanding() > limit {
                return Err(SyncError::TooMany { limit });
            }
            progress(session.received(), bytes, session.outstanding());
        }
        if session.received() == before {
            // Everything missing was received once already, and yet it is missing.
            return Err(SyncError::OutOfTurn);
        }
    }
}

/// Takes one frame of what was asked for.
fn take(
    entries: &mut Vec<RecordEntry>,
    intake: &Intake,
    session: &mut FetchSession,
    frame: Frame,
) -> Result<(), SyncError> {
    match frame.kind {
        FrameKind::Message => match decode(&frame.body)? {
            Reply::Fetch(reply) => session.end(&reply)?,
            Reply::Refused(refusal) => return Err(SyncError::Refused(refusal)),
            _ => return Err(SyncError::OutOfTurn),
        },
        FrameKind::Objects => {
            let objects = Parcel::decode(&frame.body)?.whole()?.ok_or(SyncError::OutOfTurn)?;
            for (kind, bytes) in objects {
                let id = accept(intake, session, kind, &bytes)?;
                intake.put_hashed(id, &bytes)?;
            }
        }
        FrameKind::Record => {
            let head = records::table(&frame.body, entries).ok_or(SyncError::Record)?;
            entries.iter().try_for_each(|entry| session.accept_chunk(entry.id))?;
            intake.put_record(frame.body, head, entries)?;
        }
    }
    Ok(())
}

/// Checks an object, and wants the metadata that it names. Chunks are wanted when all metadata is here.
fn accept(
    intake: &Intake,
    session: &mut FetchSession,
    kind: ObjectKind,
    bytes: &[u8],
) -> Result<ObjectId, SyncError> {
    let (id, children) = session.accept(kind, bytes)?;
    for child in children {
        if child.kind.is_metadata() && !intake.contains(&child)? {
            session.want(child);
        }
    }
    Ok(id)
}

/// The node's side of a fetch: answers requests until the device ends the stream.
pub fn answer(wire: &mut Wire, vault: &Vault) -> Result<(), SyncError> {
    let mut open = OpenRecord::default();
    loop {
        let Some(frame) = wire.listen()? else { return Ok(()) };
        let request = match frame.kind {
            FrameKind::Message => decode(&frame.body).ok(),
            FrameKind::Objects | FrameKind::Record => None,
        };
        let Some(FetchRequest::Want(ids)) = request else {
            return Ok(wire.refuse(RefusalCode::Malformed, "not a request for objects")?);
        };
        if ids.len() > MAX_IDS {
            return Ok(wire.refuse(RefusalCode::Malformed, "too many objects in one request")?);
        }
        match send(wire, vault, &ids, &mut open) {
            Ok(reply) => wire.send(&Reply::Fetch(reply))?,
            Err(SyncError::Store(error)) => {
                return Ok(wire.send(&Reply::Refused(store_refusal(&error)))?);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Sends the objects of one request that are here, in the order of the disk.
fn send(
    wire: &mut Wire,
    vault: &Vault,
    wanted: &[WireId],
    open: &mut OpenRecord,
) -> Result<FetchReply, SyncError> {
    let ids: Vec<ObjectId> = wanted.iter().filter_map(WireId::id).collect();
    let places = vault.locations(&ids)?;
    let mut elsewhere = Vec::new();
    let mut placed: Vec<(Location, ObjectId)> = Vec::with_capacity(ids.len());
    for (id, at) in ids.into_iter().zip(places) {
        match at {
            Some(at) => placed.push((at, id)),
            None => elsewhere.push(id),
        }
    }
    placed.sort_unstable();
    placed.dedup();
    let mut batch = Batch::new();
    let mut sent = 0;
    for together in placed.chunk_by(|(a, _), (b, _)| a.record() == b.record()) {
        sent += together.len() as u32;
        // Only where all of it was asked for.
        let ids = || together.iter().map(|(_, id)| id);
        if let Some((at, id)) = together.first()
            && !id.kind.is_metadata()
            && let Some(record) = records::read(vault, open, at)?
            && record.entries.iter().map(|entry| &entry.id).eq(ids())
        {
            wire.write_frame(FrameKind::Record, record.bytes)?;
            continue;
        }
        for (at, id) in together {
            batch.push_full(id.kind, vault.read_from(open, id, Some(at))?);
            write_full(wire, &mut batch)?;
        }
    }
    let mut absent = HashSet::new();
    elsewhere.sort_unstable();
    elsewhere.dedup();
    for id in elsewhere {
        match vault.read(&id)? {
            Some(bytes) => {
                sent += 1;
                batch.push_full(id.kind, &bytes);
                write_full(wire, &mut batch)?;
            }
            None => drop(absent.insert(id)),
        }
    }
    if !batch.is_empty() {
        wire.write_frame(FrameKind::Objects, &batch.finish()?)?;
    }
    // One of a kind that does not exist is not here either.
    let is_absent = |wanted: &&WireId| wanted.id().is_none_or(|id| absent.contains(&id));
    Ok(FetchReply::Done { sent, absent: wanted.iter().find(is_absent).copied() })
}

fn write_full(wire: &mut Wire, batch: &mut Batch) -> Result<(), SyncError> {
    if !batch.is_full() {
        return Ok(());
    }
    wire.write_frame(FrameKind::Objects, &batch.finish()?)
}

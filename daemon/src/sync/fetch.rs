//! A fetch: the asking home, and the answering node.

use baton_protocol::frame::{Batch, FrameKind, Item, decode_batch, encode_header};
use baton_protocol::id::SnapshotId;
use baton_protocol::message::{FetchReply, FetchRequest, MAX_IDS, RefusalCode, Reply, decode};
use baton_protocol::session::fetch::FetchSession;
use baton_store::objects::ObjectSource;
use baton_store::vault::{CommitError, Intake, Vault};

use super::{KEEP_AT, MAX_OBJECTS, SyncError, Wire, store_refusal};
use crate::transport::TransportError;

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
    loop {
        // The walk says what is missing, also below what an earlier fetch has left unfinished.
        let missing = intake.missing(snapshot.into(), MAX_IDS)?;
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
            bytes += take(intake, session, frame.kind, &frame.body)?;
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

fn take(
    intake: &Intake,
    session: &mut FetchSession,
    kind: FrameKind,
    body: &[u8],
) -> Result<u64, SyncError> {
    if kind == FrameKind::Message {
        match decode(body)? {
            Reply::Fetch(reply) => session.end(&reply)?,
            Reply::Refused(refusal) => return Err(SyncError::Refused(refusal)),
            _ => return Err(SyncError::OutOfTurn),
        }
        return Ok(0);
    }
    let mut len = 0;
    for item in decode_batch(body)? {
        let Item::Full { kind, bytes } = item else { return Err(SyncError::OutOfTurn) };
        len += bytes.len() as u64;
        let (id, children) = session.accept(kind, &bytes)?;
        intake.put_hashed(id, &bytes)?;
        for child in children {
            if !intake.contains(&child)? {
                session.want(child);
            }
        }
    }
    Ok(len)
}

/// The node's side of a fetch: answers requests until the device ends the stream.
pub fn answer(wire: &mut Wire, vault: &Vault) -> Result<(), SyncError> {
    loop {
        let frame = match wire.read() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(()),
            Err(error) => return Err(wire.give_up(error)),
        };
        let request = match frame.kind {
            FrameKind::Message => decode(&frame.body).ok(),
            FrameKind::Objects => None,
        };
        let Some(FetchRequest::Want(ids)) = request else {
            return Ok(wire.refuse(RefusalCode::Malformed, "not a request for objects")?);
        };
        if ids.len() > MAX_IDS {
            return Ok(wire.refuse(RefusalCode::Malformed, "too many objects in one request")?);
        }
        let mut batch = Batch::new();
        let mut sent = 0;
        let mut absent = None;
        for id in ids {
            let object = match id.id().map(|id| (id, vault.read(&id))) {
                Some((id, Ok(Some(bytes)))) => Some((id, bytes)),
                Some((_, Err(error))) => {
                    return Ok(wire.send(&Reply::Refused(store_refusal(&error)))?);
                }
                Some((_, Ok(None))) | None => None,
            };
            let Some((object, bytes)) = object else {
                absent = Some(id);
                break;
            };
            batch.push_full(object.kind, &bytes);
            sent += 1;
            if batch.is_full() {
                write_batch(wire, &mut batch)?;
            }
        }
        if !batch.is_empty() {
            write_batch(wire, &mut batch)?;
        }
        wire.send(&Reply::Fetch(FetchReply::Done { sent, absent }))?;
    }
}

fn write_batch(wire: &mut Wire, batch: &mut Batch) -> Result<(), SyncError> {
    let body = batch.finish()?;
    wire.write(&encode_header(FrameKind::Objects, body.len())?)?;
    Ok(wire.write(&body)?)
}

//! A fetch: the asking home, and the answering node.

use baton_protocol::frame::{Batch, FrameKind, Item, decode_batch, encode_header};
use baton_protocol::id::SnapshotId;
use baton_protocol::message::{FetchReply, FetchRequest, MAX_IDS, RefusalCode, Reply, decode};
use baton_protocol::session::fetch::FetchSession;
use baton_store::objects::ObjectSource;
use baton_store::vault::{Intake, Vault};

use super::{SyncError, Wire, store_refusal};
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
    mut progress: impl FnMut(u64, u64, u64),
) -> Result<u64, SyncError> {
    let intake = vault.intake();
    let mut session = FetchSession::new();
    let mut bytes = 0u64;
    loop {
        // The walk says what is missing, also below what an earlier fetch has left unfinished.
        let missing = intake.missing(snapshot.into(), MAX_IDS)?;
        if missing.is_empty() {
            break;
        }
        let before = session.received();
        for id in missing {
            session.want(id);
        }
        while !session.is_done() {
            while let Some(request) = session.request() {
                wire.send(&request)?;
            }
            let received = wire.answer_frame().and_then(|frame| frame.ok_or(TransportError::Ended));
            let taken = match received {
                Ok(frame) => take(&intake, &mut session, frame.kind, &frame.body),
                Err(error) => Err(error.into()),
            };
            match taken {
                Ok(more) => bytes += more,
                Err(error) => {
                    intake.flush()?;
                    return Err(error);
                }
            }
            progress(session.received(), bytes, session.outstanding());
        }
        if session.received() == before {
            // Everything missing was received once already, and yet it is missing.
            return Err(SyncError::OutOfTurn);
        }
    }
    intake.keep(&[snapshot.into()]).map_err(SyncError::Keep)?;
    Ok(session.received())
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
    while let Some(frame) = wire.read()? {
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
    Ok(())
}

fn write_batch(wire: &mut Wire, batch: &mut Batch) -> Result<(), SyncError> {
    let body = batch.finish()?;
    wire.write(&encode_header(FrameKind::Objects, body.len())?)?;
    Ok(wire.write(&body)?)
}

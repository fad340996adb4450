//! A push: the sending home, and the receiving node.

use baton_protocol::batch::{Parcel, Wanted};
use baton_protocol::encode::DecodeError;
use baton_protocol::frame::{FrameError, FrameKind, HEADER};
use baton_protocol::id::{DeviceId, ObjectId};
use baton_protocol::message::{
    MAX_IDS, PushHello, PushReply, PushRequest, RefusalCode, Reply, decode,
};
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::{
    Planned, PushAction, PushOutcome, PushReceiver, PushSender, PushStats,
};
use baton_store::error::StoreError;
use baton_store::journal::RefUpdate;
use baton_store::objects::{Location, ObjectSource, OpenRecord};
use baton_store::segment::RecordEntry;
use baton_store::vault::{CommitError, Intake, Vault};

use super::records;
use super::{KEEP_AT, MAX_OBJECTS, SyncError, Wire, store_refusal};
use crate::transport::TransportError;

/// What one push may cost a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Objects.
    pub objects: u64,
    /// Objects that could not be restored and were not asked for again: four bytes of memory each.
    pub unresolved: usize,
    /// Bytes after which what came is made durable and found, so that a push on another connection goes
    /// on from there while this one still waits for a device that is gone.
    pub keep_at: u64,
    /// Bytes of the user's vault, what comes counted as compressed. Nothing: as much as the disk
    /// holds.
    pub vault: Option<u64>,
}

impl Default for Quota {
    fn default() -> Self {
        Self { objects: MAX_OBJECTS, unresolved: 4 << 20, keep_at: KEEP_AT, vault: None }
    }
}

/// Bytes that are gathered before they are written: a small push is one write, and one packet.
const GATHER: usize = 64 * 1024;

/// Pushes a snapshot; blocks. `progress` is told the objects and bytes sent so far.
pub fn send<S: ObjectSource + ?Sized>(
    wire: &mut Wire,
    vault: &S,
    hello: PushHello,
    plan: Vec<Planned>,
    mut progress: impl FnMut(PushStats, usize),
) -> Result<(PushOutcome, PushStats), SyncError> {
    let mut sending = Sending::new(hello, plan);
    sending.begin(wire, vault, &mut progress)?;
    sending.end(wire, vault, &mut progress)
}

/// A push in two steps, for who has something to do while the node works.
#[derive(Debug)]
pub struct Sending(PushSender);

impl Sending {
    /// A push that sends `plan` at once.
    pub fn new(hello: PushHello, plan: Vec<Planned>) -> Self {
        Self(PushSender::new(hello, plan))
    }

    /// Writes all that goes without an answer; does nothing where that was done.
    pub fn begin<S: ObjectSource + ?Sized>(
        &mut self,
        wire: &mut Wire,
        vault: &S,
        progress: &mut impl FnMut(PushStats, usize),
    ) -> Result<(), SyncError> {
        let sender = &mut self.0;
        let mut gathered = Vec::new();
        loop {
            match sender.poll()? {
                PushAction::Load(Planned { id, base }) => {
                    let object = vault.require(&id)?;
                    // Without the old form the object travels whole.
                    let base = match base {
                        Some(base) => vault.read(&base).ok().flatten(),
                        None => None,
                    };
                    sender.supply(&object, base.as_deref())?;
                    continue;
                }
                PushAction::Gather(wanted) => {
                    write(wire, &std::mem::take(&mut gathered))?;
                    send_records(wire, vault, sender, &wanted, progress)?;
                }
                PushAction::Send(bytes) if gathered.is_empty() => gathered = bytes,
                PushAction::Send(bytes) => gathered.extend_from_slice(&bytes),
                PushAction::Receive | PushAction::Finish(_) => {
                    write(wire, &gathered)?;
                    progress(sender.stats(), sender.queued());
                    return Ok(());
                }
            }
            if gathered.len() >= GATHER {
                write(wire, &gathered)?;
                gathered.clear();
                progress(sender.stats(), sender.queued());
            }
        }
    }

    /// Takes the node's answers, and sends what it asks for, until it has moved its ref or will not.
    pub fn end<S: ObjectSource + ?Sized>(
        &mut self,
        wire: &mut Wire,
        vault: &S,
        progress: &mut impl FnMut(PushStats, usize),
    ) -> Result<(PushOutcome, PushStats), SyncError> {
        loop {
            if let PushAction::Finish(outcome) = self.0.poll()? {
                return Ok((outcome, self.0.stats()));
            }
            self.0.receive(wire.answer()?)?;
            self.begin(wire, vault, progress)?;
        }
    }
}

/// Sends the records that hold what is wanted, in the order of the disk.
fn send_records<S: ObjectSource + ?Sized>(
    wire: &mut Wire,
    vault: &S,
    sender: &mut PushSender,
    wanted: &[ObjectId],
    progress: &mut impl FnMut(PushStats, usize),
) -> Result<(), SyncError> {
    let mut places: Vec<Location> = vault.locations(wanted)?.into_iter().flatten().collect();
    places.sort_unstable();
    places.dedup_by_key(|at| at.record());
    let mut open = OpenRecord::default();
    for at in &places {
        let Some(record) = records::read(vault, &mut open, at)? else { continue };
        let objects = record.entries.iter().map(|entry| (&entry.id, entry.len as usize));
        if !sender.take_record(objects, HEADER + record.bytes.len()) {
            continue;
        }
        if wire.is_stopped() {
            return Err(SyncError::Cancelled);
        }
        or_why(wire, |wire| wire.write_frame(FrameKind::Record, record.bytes))?;
        progress(sender.stats(), sender.queued());
    }
    Ok(())
}

fn write(wire: &mut Wire, bytes: &[u8]) -> Result<(), SyncError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // Without what is still to be sent, the commit last, the node moves nothing.
    if wire.is_stopped() {
        return Err(SyncError::Cancelled);
    }
    or_why(wire, |wire| Ok(wire.write(bytes)?))
}

/// Writes; where the node does not listen any more it has said why, or will not say anything.
fn or_why(
    wire: &mut Wire,
    write: impl FnOnce(&mut Wire) -> Result<(), SyncError>,
) -> Result<(), SyncError> {
    match write(wire) {
        Err(SyncError::Transport(TransportError::Stopped)) => match wire.answer()? {
            Reply::Refused(refusal) => Err(SyncError::Refused(refusal)),
            _ => Err(SyncError::OutOfTurn),
        },
        other => other,
    }
}

/// The node's side of a push; blocks until the ref is moved, refused, or the device is gone.
///
/// What a device that went away had sent is kept, so that its next push goes on from there. With a
/// `quota`, a push is refused once the vault and what came would be larger, counted as compressed.
pub fn receive(
    wire: &mut Wire,
    vault: &Vault,
    device: DeviceId,
    hello: &PushHello,
    quota: Quota,
) -> Result<(), SyncError> {
    let used = match quota.vault {
        Some(_) => vault.disk_bytes()?,
        None => 0,
    };
    let mut taken = 0u64;
    let intake = vault.intake();
    let mut receiver = PushReceiver::new();
    let mut entries = Vec::new();
    let mut objects = 0u64;
    let mut unkept = 0u64;
    // How many there were when more was asked for.
    let mut asked_at = None;
    loop {
        let frame = match wire.read() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(intake.flush()?),
            Err(error) => {
                intake.flush()?;
                return Err(wire.give_up(error));
            }
        };
        let reply = match frame.kind {
            kind @ (FrameKind::Objects | FrameKind::Record) => {
                let len = frame.body.len() as u64;
                taken = taken.saturating_add(len);
                if quota.vault.is_some_and(|most| used.saturating_add(taken) > most) {
                    intake.flush()?;
                    let message = "this user's quota on the node is used up";
                    return Ok(wire.refuse(RefusalCode::Limit, message)?);
                }
                let came = match kind {
                    FrameKind::Record => {
                        take_record(&intake, &mut receiver, &mut entries, frame.body)
                    }
                    _ => take_batch(&intake, &mut receiver, &frame.body),
                };
                match came {
                    Ok((count, bytes)) => {
                        objects += count;
                        unkept += bytes;
                    }
                    Err(error) => return error.tell(wire),
                }
                if objects > quota.objects || receiver.unresolved() > quota.unresolved {
                    return Ok(wire.refuse(RefusalCode::Limit, "too many objects in one push")?);
                }
                if unkept >= quota.keep_at {
                    if let Err(error) = intake.flush() {
                        return TakeError::from(error).tell(wire);
                    }
                    unkept = 0;
                }
                continue;
            }
            FrameKind::Message => {
                let Ok(PushRequest::Commit) = decode(&frame.body) else {
                    return Ok(wire.refuse(RefusalCode::Malformed, "not a commit")?);
                };
                if asked_at == Some(objects) {
                    let message = "nothing came of what was asked for";
                    return Ok(wire.refuse(RefusalCode::Malformed, message)?);
                }
                match receiver.need_full() {
                    Some(reply) => reply,
                    None => match commit(&intake, device, hello) {
                        Ok(reply) => reply,
                        Err(CommitError::Missing(ids)) => {
                            ask(wire, &ids)?;
                            asked_at = Some(objects);
                            continue;
                        }
                        Err(CommitError::Store(error))
                            if !matches!(
                                error,
                                StoreError::Contradicted(_) | StoreError::Forged(_)
                            ) =>
                        {
                            return Ok(wire.send(&Reply::Refused(store_refusal(&error)))?);
                        }
                        Err(error) => {
                            return Ok(wire.refuse(RefusalCode::Malformed, error.to_string())?);
                        }
                    },
                }
            }
        };
        let last = matches!(reply, PushReply::Acked { .. } | PushReply::HeadMoved { .. });
        wire.send(&Reply::Push(reply))?;
        if last {
            return Ok(());
        }
        asked_at = Some(objects);
    }
}

enum TakeError {
    Malformed(String),
    Store(StoreError),
}

impl TakeError {
    /// Ends the push with it.
    fn tell(self, wire: &mut Wire) -> Result<(), SyncError> {
        match self {
            Self::Malformed(why) => Ok(wire.refuse(RefusalCode::Malformed, why)?),
            Self::Store(error) => Ok(wire.send(&Reply::Refused(store_refusal(&error)))?),
        }
    }
}

impl From<StoreError> for TakeError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Forged(_) => Self::Malformed(error.to_string()),
            error => Self::Store(error),
        }
    }
}

impl From<FrameError> for TakeError {
    fn from(error: FrameError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<DecodeError> for TakeError {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

/// Stages a record, whose hashes are checked beside; returns how many objects it says that it holds, and its bytes.
fn take_record(
    intake: &Intake,
    receiver: &mut PushReceiver,
    entries: &mut Vec<RecordEntry>,
    body: Vec<u8>,
) -> Result<(u64, u64), TakeError> {
    let len = body.len() as u64;
    let damaged = || TakeError::Malformed("a damaged record".to_owned());
    let head = records::table(&body, entries).ok_or_else(damaged)?;
    for _ in entries.iter() {
        receiver.accept_chunk();
    }
    intake.put_record(body, head, entries)?;
    Ok((entries.len() as u64, len))
}

/// Checks and stages the objects of one batch; returns how many came, and the bytes of those that are whole.
fn take_batch(
    intake: &Intake,
    receiver: &mut PushReceiver,
    body: &[u8],
) -> Result<(u64, u64), TakeError> {
    let mut parcel = Parcel::decode(body)?;
    let count = parcel.len() as u64;
    while let Some(wanted) = parcel.next_base() {
        parcel.supply(find_base(intake, wanted)?);
    }
    let mut taken = 0;
    for (id, bytes) in receiver.accept_batch(parcel)? {
        intake.put_hashed(id, &bytes)?;
        taken += bytes.len() as u64;
    }
    Ok((count, taken))
}

/// Asks for what is missing, in as many messages as that takes.
fn ask(wire: &mut Wire, missing: &[ObjectId]) -> Result<(), SyncError> {
    let last = missing.len().div_ceil(MAX_IDS);
    for (page, ids) in (1..).zip(missing.chunks(MAX_IDS)) {
        let ids = ids.iter().map(|&id| id.into()).collect();
        wire.send(&Reply::Push(PushReply::Missing { ids, more: page < last }))?;
    }
    Ok(())
}

/// The base of a delta, where it is here and whole.
fn find_base(intake: &Intake, wanted: Wanted) -> Result<Option<(ObjectId, Vec<u8>)>, StoreError> {
    let id = match wanted {
        Wanted::Id(id) => id,
        Wanted::Prefix(kind, prefix) => {
            match intake.vault().find_prefix(Some(kind), &prefix)?.as_slice() {
                [id] => *id,
                _ => return Ok(None),
            }
        }
    };
    match intake.read(&id) {
        // As good as none: the whole object comes.
        Err(error) if error.is_corruption() => Ok(None),
        read => Ok(read?.map(|bytes| (id, bytes))),
    }
}

fn commit(intake: &Intake, device: DeviceId, hello: &PushHello) -> Result<PushReply, CommitError> {
    let head = intake.vault().head(hello.workspace, device);
    let at = head.map(|head| head.snapshot);
    if at != hello.base && at != Some(hello.new) {
        let head = head.map(|head| (head.snapshot, head.sequence));
        return Ok(PushReply::HeadMoved { head });
    }
    let root = ObjectId::from(hello.new);
    let Some(bytes) = intake.read(&root)? else {
        return Err(CommitError::Missing(vec![root]));
    };
    let snapshot = Snapshot::decode(&bytes).map_err(|_| StoreError::DamagedObject(root))?;
    let update = RefUpdate {
        workspace: hello.workspace,
        device,
        expected: hello.base,
        new: hello.new,
        sequence: snapshot.sequence,
        key: hello.key,
    };
    match intake.commit_in_place(&update) {
        Ok(committed) => Ok(PushReply::Acked {
            snapshot: committed.head.snapshot,
            sequence: committed.head.sequence,
        }),
        Err(CommitError::HeadMoved { head }) => {
            let head = head.map(|head| (head.snapshot, head.sequence));
            Ok(PushReply::HeadMoved { head })
        }
        Err(error) => Err(error),
    }
}

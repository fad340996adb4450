//! A push: the sending home, and the receiving node.

use baton_protocol::batch::{Parcel, Wanted};
use baton_protocol::frame::{FrameKind, HEADER};
use baton_protocol::id::{DeviceId, ObjectId};
use baton_protocol::message::{
    MAX_IDS, PushHello, PushReply, PushRequest, Refusal, RefusalCode, Reply, decode,
};
use baton_protocol::object::Snapshot;
use baton_protocol::session::push::{
    Planned, PushAction, PushOutcome, PushReceiver, PushSender, PushStats,
};
use baton_store::error::StoreError;
use baton_store::journal::RefUpdate;
use baton_store::objects::{Location, ObjectSource, OpenRecord};
use baton_store::vault::{CommitError, Intake, Vault};

use super::incoming::{Incoming, Quota, TOO_MANY, TakeError};
use super::{SyncError, Wire, records, store_refusal};

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
        super::or_why(wire, |wire| wire.write_frame(FrameKind::Record, record.bytes))?;
        progress(sender.stats(), sender.queued());
    }
    Ok(())
}

fn write(wire: &mut Wire, bytes: &[u8]) -> Result<(), SyncError> {
    if bytes.is_empty() {
        return Ok(());
    }
    // Called off: without what is still to be sent, the commit last, the node moves nothing.
    super::or_why(wire, |wire| Ok(wire.write(bytes)?))
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
) -> Result<bool, SyncError> {
    let most_unresolved = quota.unresolved;
    let mut incoming = Incoming::new(vault, quota);
    let mut receiver = PushReceiver::new();
    // How many objects there were when more was asked for.
    let mut asked_at = None;
    loop {
        let frame = match wire.read() {
            Ok(Some(frame)) => frame,
            Ok(None) => return Ok(incoming.keep().map(|()| false)?),
            Err(error) => {
                incoming.keep()?;
                return Err(wire.give_up(error));
            }
        };
        let came = match frame.kind {
            FrameKind::Record => incoming.record(frame.body).map(|count| {
                (0..count).for_each(|_| receiver.accept_chunk());
            }),
            FrameKind::Objects => take_batch(&mut incoming, &mut receiver, &frame.body),
            FrameKind::Message => {
                let Ok(PushRequest::Commit) = decode(&frame.body) else {
                    wire.refuse(RefusalCode::Malformed, "not a commit")?;
                    return Ok(false);
                };
                if asked_at == Some(incoming.objects()) {
                    let message = "nothing came of what was asked for";
                    wire.refuse(RefusalCode::Malformed, message)?;
                    return Ok(false);
                }
                if let Some(acked) = answer_commit(wire, &incoming, &mut receiver, device, hello)? {
                    return Ok(acked);
                }
                asked_at = Some(incoming.objects());
                continue;
            }
        };
        if let Err(error) = came {
            return error.tell(wire).map(|()| false);
        }
        if receiver.unresolved() > most_unresolved {
            return TakeError::Limit(TOO_MANY.to_owned()).tell(wire).map(|()| false);
        }
    }
}

/// Answers a commit; where that was the last word, with whether it acknowledges.
fn answer_commit(
    wire: &mut Wire,
    incoming: &Incoming,
    receiver: &mut PushReceiver,
    device: DeviceId,
    hello: &PushHello,
) -> Result<Option<bool>, SyncError> {
    if let Some(reply) = receiver.need_full() {
        wire.send(&Reply::Push(reply))?;
        return Ok(None);
    }
    let reply = match commit(incoming.intake(), device, hello) {
        Ok(reply) => Reply::Push(reply),
        Err(CommitError::Missing(ids)) => {
            ask(wire, &ids)?;
            return Ok(None);
        }
        Err(CommitError::Store(error))
            if !matches!(error, StoreError::Contradicted(_) | StoreError::Forged(_)) =>
        {
            Reply::Refused(store_refusal(&error))
        }
        Err(error) => {
            Reply::Refused(Refusal { code: RefusalCode::Malformed, message: error.to_string() })
        }
    };
    let acked = matches!(reply, Reply::Push(PushReply::Acked { .. }));
    wire.send(&reply)?;
    Ok(Some(acked))
}

/// Checks and stages the objects of one batch.
fn take_batch(
    incoming: &mut Incoming,
    receiver: &mut PushReceiver,
    body: &[u8],
) -> Result<(), TakeError> {
    incoming.weigh(body.len())?;
    let mut parcel = Parcel::decode(body)?;
    let count = parcel.len() as u64;
    while let Some(wanted) = parcel.next_base() {
        parcel.supply(find_base(incoming.intake(), wanted)?);
    }
    let mut bytes = 0;
    for (id, object) in receiver.accept_batch(parcel)? {
        incoming.intake().put_hashed(id, &object)?;
        bytes += object.len() as u64;
    }
    incoming.came(count, bytes)
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

//! Sessions whose peer says damaged things: flipped, cut and spliced bytes, and frames that are left out, said twice, or
//! put elsewhere.
//!
//! Either side is the real one, with a real store. What the peer says starts from tapes of sessions that went well.

mod streams;

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, channel};

use baton_protocol::batch::Wanted;
use baton_protocol::id::{HashPrefix, VaultId};
use baton_protocol::message::{AheadReply, AheadRequest, PushReply, PushRequest, WireId, encode};
use baton_protocol::object::Object;
use baton_store::layout::Class;
use baton_store::objects::Location;
use baton_store::segment::{RecordBuilder, decode_record};

use super::ahead::Listener;
use super::ends::{Recital, Tape, Taped, take_frame, taped, wire};
use super::*;
use crate::fuzz::fuzzing::{Random, fuzz, within as bounded};
use crate::fuzz::scratch;
use crate::sync::Quota;
use crate::sync::ahead::{self, Fresh};
use crate::transport::stream::Frame;

/// Whose snapshots they are.
const DEVICE: DeviceId = DeviceId::from_bytes([3; 32]);

/// Inputs for which a store is used: what is not refused stays in it.
const INPUTS: u32 = 200;

/// What a session may hold at its peak, whatever its input: a batch restored, what is staged of it, and a walk.
const HELD: usize = 64 << 20;

/// And for each byte of it: ids of a request, and their places.
const EACH: usize = 64;

/// Some forty small files, one that has several chunks, and an edit.
fn files(edited: bool) -> Files {
    let mut files: Files = (0..40)
        .map(|at| (format!("d{}/f{at}", at % 5), noise(at, 100 + 7 * at as usize)))
        .collect();
    let lines = (0..9000).flat_map(|line| format!("line {} of a log\n", line / 3).into_bytes());
    files.insert("log".into(), lines.collect());
    if edited {
        files.insert("d3/new".into(), b"it was not there before".to_vec());
        files.get_mut("d1/f21").unwrap()[40] ^= 1;
        files.get_mut("log").unwrap()[90_000] ^= 2;
    }
    files
}

/// A store with a vault for each input.
struct Stage {
    store: Store,
    used: u32,
    _folder: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = scratch();
        Self { store: Store::open(folder.path()).unwrap(), used: 0, _folder: folder }
    }

    fn vault(&mut self) -> Vault {
        if self.used >= INPUTS {
            *self = Self::new();
        }
        self.used += 1;
        let mut id = [0; 16];
        id[..4].copy_from_slice(&self.used.to_le_bytes());
        self.store.vault(VaultId::from_bytes(id)).unwrap()
    }
}

/// A home with two snapshots, and all that they need.
struct Scene {
    home: Vault,
    first: SnapshotId,
    second: SnapshotId,
    /// What the first one needs, and both.
    of_first: Vec<(ObjectId, Vec<u8>)>,
    of_both: BTreeMap<ObjectId, Vec<u8>>,
    _stage: Stage,
}

impl Scene {
    fn new() -> Self {
        let mut stage = Stage::new();
        let home = stage.vault();
        let first = keep_files(home.intake(), &files(false), DEVICE, 1);
        let second = keep_files(home.intake(), &files(true), DEVICE, 2);
        let of_first = closure(&home, first);
        let of_both = [of_first.clone(), closure(&home, second)].concat().into_iter().collect();
        Self { home, first, second, of_first, of_both, _stage: stage }
    }

    /// A vault that has the first snapshot, which its ref points to.
    fn based(&self, stage: &mut Stage) -> Vault {
        let vault = stage.vault();
        let intake = vault.intake();
        for (id, bytes) in &self.of_first {
            intake.put_hashed(*id, bytes).unwrap();
        }
        let update = baton_store::journal::RefUpdate {
            workspace: WORKSPACE,
            device: DEVICE,
            expected: None,
            new: self.first,
            sequence: 1,
            key: IdempotencyKey::from_bytes([1; 16]),
        };
        intake.commit(update).unwrap();
        vault
    }

    /// Its snapshots, as what is pushed upon what.
    fn pushes(&self) -> [(Option<SnapshotId>, SnapshotId); 3] {
        [(None, self.first), (Some(self.first), self.second), (None, self.second)]
    }

    /// One of what is said in a session.
    fn frame(&self, random: &mut Random) -> Vec<u8> {
        let mut object = || {
            let at = random.below(self.of_both.len());
            self.of_both.iter().nth(at).map(|(id, bytes)| (*id, bytes.clone())).unwrap()
        };
        let objects: Vec<_> = (0..3).map(|_| object()).collect();
        let ids: Vec<WireId> = objects.iter().map(|(id, _)| (*id).into()).collect();
        let items = vec![random.below(40) as u32, random.below(9) as u32];
        let message = |reply| encode(&reply).unwrap();
        match random.below(12) {
            0 => encode(&PushRequest::Commit).unwrap(),
            1 => encode(&FetchRequest::Want(ids)).unwrap(),
            2 => encode(&AheadRequest::Offer(objects.iter().map(|(id, _)| id.prefix()).collect()))
                .unwrap(),
            3 => encode(&AheadRequest::End).unwrap(),
            4 => message(Reply::Push(PushReply::Missing { ids, more: random.below(3) == 0 })),
            5 => message(Reply::Push(PushReply::NeedFull { items })),
            6 => message(Reply::Push(PushReply::Acked { snapshot: self.second, sequence: 2 })),
            7 => message(Reply::Push(PushReply::HeadMoved { head: Some((self.first, 1)) })),
            8 => message(Reply::Ahead(AheadReply::Wanted(random.below(2) == 0))),
            9 => batch(&pieces(&objects)),
            // Right by its checksums, and in two of three not what it says.
            _ => record(objects.iter().map(|(id, bytes)| {
                let honest = random.below(3) == 0;
                let id = if honest { ObjectId::of(ObjectKind::Chunk, bytes) } else { *id };
                (ObjectId { kind: ObjectKind::Chunk, ..id }, bytes.as_slice())
            })),
        }
    }

    /// The frames of an input, some of them elsewhere; those after which nothing is a frame stay as they are. One in three
    /// times it is one of what goes well that this is done to.
    fn moved(&self, random: &mut Random, input: &[u8], well: &[Vec<u8>]) -> Vec<u8> {
        let input = if random.below(3) == 0 { random.pick(well) } else { input };
        let mut left: VecDeque<u8> = input.iter().copied().collect();
        let mut frames = Vec::new();
        while let Ok(Some(Frame { kind, body })) = take_frame(&mut left) {
            frames.push(frame(kind, &body));
        }
        for _ in 0..random.below(3) {
            let (at, to) = (random.below(frames.len() + 1), random.below(frames.len() + 1));
            match random.below(4) {
                0 if at < frames.len() => drop(frames.remove(at)),
                1 if at < frames.len() && to < frames.len() => frames.swap(at, to),
                2 if at < frames.len() => frames.insert(to, frames[at].clone()),
                _ => frames.insert(to, self.frame(random)),
            }
        }
        let mut bytes = frames.concat();
        bytes.extend(left);
        bytes
    }
}

/// Objects as they go into a batch.
fn pieces(objects: &[(ObjectId, Vec<u8>)]) -> Vec<(ObjectKind, Vec<u8>)> {
    objects.iter().map(|(id, bytes)| (id.kind, bytes.clone())).collect()
}

/// A record as a frame.
fn record<'a>(objects: impl Iterator<Item = (ObjectId, &'a [u8])>) -> Vec<u8> {
    let mut builder = RecordBuilder::default();
    for (id, bytes) in objects {
        builder.push(id, bytes);
    }
    frame(FrameKind::Record, &builder.encode(Class::Data).unwrap())
}

/// All that a snapshot needs; each object is what its id says.
fn closure(vault: &Vault, root: SnapshotId) -> Vec<(ObjectId, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut left = vec![ObjectId::from(root)];
    while let Some(id) = left.pop() {
        if all.contains_key(&id) {
            continue;
        }
        let bytes = vault.require(&id).unwrap();
        assert_eq!(ObjectId::of(id.kind, &bytes), id);
        left.extend(Object::decode(id.kind, &bytes).unwrap().children());
        all.insert(id, bytes);
    }
    all.into_iter().collect()
}

/// What the home and the node say in a session that goes well.
fn tapes<H, N>(
    home: impl FnOnce(&mut Wire) -> H + Send,
    node: impl FnOnce(&mut Wire) -> N + Send,
) -> [Vec<u8>; 2]
where
    H: Send,
    N: Send,
{
    let [(here, said_here), (there, said_there)]: [(Taped, Tape); 2] = taped();
    std::thread::scope(|scope| {
        scope.spawn(move || home(&mut wire(here)));
        scope.spawn(move || node(&mut wire(there)));
    });
    [said_here, said_there].map(|tape| tape.lock().unwrap().clone())
}

/// The opening of a session.
fn opening(wire: &mut Wire) -> Option<Request> {
    let frame = wire.read().ok()??;
    Opening::decode(&frame.body).ok().map(|opening| opening.request)
}

/// The sessions of each push.
fn pushed(scene: &Scene) -> Vec<[Vec<u8>; 2]> {
    let mut stage = Stage::new();
    let of = |(base, new): (Option<SnapshotId>, SnapshotId)| {
        let vault = if base.is_some() { scene.based(&mut stage) } else { stage.vault() };
        tapes(
            |wire| {
                let plan = plan_push(&scene.home, base, new).unwrap();
                push::send(wire, &scene.home, hello(base, new), plan, |_, _| {}).unwrap();
            },
            |wire| {
                let Some(Request::Push(hello)) = opening(wire) else { panic!("no push") };
                let quota = Quota::default();
                assert!(push::receive(wire, &vault, DEVICE, &hello, quota).unwrap());
            },
        )
    };
    scene.pushes().map(of).into()
}

/// A node that a device pushes to: what is acknowledged is whole, and nothing else moves the ref.
#[test]
fn pushes_received() {
    let scene = Scene::new();
    let mut corpus: Vec<_> = pushed(&scene).into_iter().map(|[home, _]| home).collect();
    let opened = encode(&Opening::new(Request::Push(hello(None, scene.first)))).unwrap();
    let whole = batch(&pieces(&scene.of_first));
    let commit = encode(&PushRequest::Commit).unwrap();
    corpus.push([opened, whole, commit].concat());
    let mut stage = Stage::new();
    let well = corpus.clone();
    fuzz(corpus, |random, input| {
        let input = scene.moved(random, input, &well);
        let vault = if random.below(3) == 0 { stage.vault() } else { scene.based(&mut stage) };
        let before = vault.head(WORKSPACE, DEVICE);
        let acked = Arc::new(Mutex::new(None));
        let note = Arc::clone(&acked);
        let hear = move |frame: Frame| {
            assert_eq!(frame.kind, FrameKind::Message);
            let reply: Reply = decode(&frame.body).unwrap();
            if let Reply::Push(PushReply::Acked { snapshot, sequence }) = reply {
                assert!(note.lock().unwrap().replace((snapshot, sequence)).is_none());
            }
        };
        let mut wire = wire(Recital::new(&input, hear));
        let Some(Request::Push(hello)) = opening(&mut wire) else { return false };
        let quota = Quota { keep_at: 20_000, ..Quota::default() };
        let outcome = bounded(&input, EACH, HELD, |_| {
            push::receive(&mut wire, &vault, DEVICE, &hello, quota)
        });
        let after = vault.head(hello.workspace, DEVICE);
        let acked = *acked.lock().unwrap();
        assert_eq!(matches!(outcome, Ok(true)), acked.is_some(), "{outcome:?}");
        if let Some((snapshot, sequence)) = acked {
            let head = after.unwrap();
            assert_eq!((head.snapshot, head.sequence), (snapshot, sequence));
            closure(&vault, snapshot);
        } else if hello.workspace == WORKSPACE {
            assert_eq!(after, before);
        }
        if before.is_some() {
            closure(&vault, scene.first);
        }
        acked.is_some()
    });
}

/// A record that stands in a log, and the chunks in it.
type Standing = (Location, Vec<HashPrefix>);

/// All of them, to be sent ahead.
fn fresh(records: &[Standing]) -> Receiver<Fresh> {
    let (to, fresh) = channel();
    for (at, chunks) in records {
        to.send(Fresh { at: *at, chunks: chunks.clone() }).unwrap();
    }
    fresh
}

/// A vault in which records came into the log, and where they stand.
fn with_records(stage: &mut Stage) -> (Vault, Vec<Standing>) {
    let vault = stage.vault();
    let (to, from) = channel();
    let intake = vault.intake();
    intake.tell(Arc::new(Listener(Mutex::new(to))));
    // Much of it packs well: a tape is to be short.
    let long: Files =
        (0..60).map(|at| (format!("l{}/f{at}", at % 4), noise(at, 700).repeat(90))).collect();
    keep_files(intake, &long, DEVICE, 1);
    (vault, from.iter().map(|Fresh { at, chunks }| (at, chunks)).collect())
}

/// A node that is sent file data ahead: no ref moves, and what is kept is what its hash says.
#[test]
fn aheads_received() {
    let scene = Scene::new();
    let mut stage = Stage::new();
    let (from, records) = with_records(&mut stage);
    assert!(!records.is_empty());
    let to_node = stage.vault();
    let [home, _] = tapes(
        |wire| {
            ahead::send(wire, &from, &fresh(&records), |_| {}).unwrap();
        },
        |wire| {
            assert!(matches!(opening(wire), Some(Request::Ahead)));
            ahead::receive(wire, &to_node, Quota::default()).unwrap();
        },
    );
    let chunks: Vec<(ObjectId, &[u8])> = scene
        .of_both
        .iter()
        .filter(|(id, _)| id.kind == ObjectKind::Chunk)
        .map(|(id, bytes)| (*id, bytes.as_slice()))
        .collect();
    let offer = AheadRequest::Offer(chunks.iter().map(|(id, _)| id.prefix()).collect());
    let opened = encode(&Opening::new(Request::Ahead)).unwrap();
    let (offer, end) = (encode(&offer).unwrap(), encode(&AheadRequest::End).unwrap());
    let short = [opened, offer, record(chunks.iter().copied().take(20)), end].concat();
    let well = vec![home, short.clone(), short];
    fuzz(well.clone(), |random, input| {
        let input = scene.moved(random, input, &well);
        let vault = stage.vault();
        let kept = Arc::new(Mutex::new(false));
        let note = Arc::clone(&kept);
        let hear = move |frame: Frame| {
            let reply: Reply = decode(&frame.body).unwrap();
            if let Reply::Ahead(AheadReply::Kept) = reply {
                *note.lock().unwrap() = true;
            }
        };
        let mut wire = wire(Recital::new(&input, hear));
        let Some(Request::Ahead) = opening(&mut wire) else { return false };
        let quota = Quota { keep_at: 20_000, ..Quota::default() };
        drop(bounded(&input, EACH, HELD, |_| ahead::receive(&mut wire, &vault, quota)));
        assert!(vault.heads().is_empty());
        for (id, _) in &chunks {
            if let Some(bytes) = vault.read(id).unwrap() {
                assert_eq!(ObjectId::of(id.kind, &bytes), *id);
            }
        }
        *kept.lock().unwrap()
    });
}

/// What a node says: a reply, or objects that are known, as they are.
fn expect_known(frame: &Frame, known: &BTreeMap<ObjectId, Vec<u8>>) {
    match frame.kind {
        FrameKind::Message => drop(decode::<Reply>(&frame.body).unwrap()),
        FrameKind::Objects => {
            let objects = Parcel::decode(&frame.body).unwrap().whole().unwrap().unwrap();
            for (kind, bytes) in objects {
                assert_eq!(known[&ObjectId::of(kind, &bytes)], bytes);
            }
        }
        FrameKind::Record => {
            let record = decode_record(&frame.body).unwrap();
            for entry in &record.entries {
                assert_eq!(known[&entry.id], record.bytes(entry));
            }
        }
    }
}

/// A node that is asked for objects: it gives what is in that vault, as it is.
#[test]
fn fetches_answered() {
    let scene = Scene::new();
    let mut stage = Stage::new();
    let node = scene.based(&mut stage);
    let known: Arc<BTreeMap<ObjectId, Vec<u8>>> =
        Arc::new(scene.of_first.iter().cloned().collect());
    let to_home = stage.vault();
    let [home, _] = tapes(
        |wire| fetch::fetch(wire, &to_home, scene.first, |_, _, _| {}).unwrap(),
        |wire| fetch::answer(wire, &node).unwrap(),
    );
    let ids = |of: &mut dyn Iterator<Item = &ObjectId>| of.map(|id| (*id).into()).collect();
    let of_first = encode(&FetchRequest::Want(ids(&mut known.keys()))).unwrap();
    let of_both = encode(&FetchRequest::Want(ids(&mut scene.of_both.keys()))).unwrap();
    let well = vec![home, of_first, of_both];
    fuzz(well.clone(), |random, input| {
        let input = scene.moved(random, &input[..input.len().min(64 * 1024)], &well);
        let known = Arc::clone(&known);
        let count = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&count);
        let hear = move |frame: Frame| {
            *counted.lock().unwrap() += 1;
            expect_known(&frame, &known);
        };
        let mut wire = wire(Recital::new(&input, hear));
        drop(bounded(&input, EACH, HELD, |_| fetch::answer(&mut wire, &node)));
        *count.lock().unwrap() > 1
    });
}

/// A home that pushes to a node: it sends only what the snapshot contains, and believes no other acknowledgement.
#[test]
fn pushes_sent() {
    let scene = Scene::new();
    let mut corpus: Vec<_> = pushed(&scene).into_iter().map(|[_, node]| node).collect();
    let acked = encode(&Reply::Push(PushReply::Acked { snapshot: scene.second, sequence: 2 }));
    let acked = acked.unwrap();
    let need = |items| encode(&Reply::Push(PushReply::NeedFull { items })).unwrap();
    corpus.push([need(vec![0, 1]), need(vec![2]), acked.clone()].concat());
    let ids: Vec<WireId> = scene.of_both.keys().map(|id| (*id).into()).collect();
    for more in [false, true] {
        let ids = ids.iter().copied().take(10).collect();
        let missing = encode(&Reply::Push(PushReply::Missing { ids, more })).unwrap();
        corpus.push([missing, acked.clone()].concat());
    }
    let closures = [scene.first, scene.second].map(|of| {
        let ids = closure(&scene.home, of).into_iter().map(|(id, _)| id);
        Arc::new(ids.collect::<BTreeSet<_>>())
    });
    let well = corpus.clone();
    fuzz(corpus, |random, input| {
        let input = scene.moved(random, &input[..input.len().min(64 * 1024)], &well);
        let (base, new) = scene.pushes()[random.below(3)];
        let may = Arc::clone(&closures[usize::from(new == scene.second)]);
        let from = scene.home.clone();
        let mut opened = false;
        let look = move |frame: Frame| match frame.kind {
            FrameKind::Message if opened => drop(decode::<PushRequest>(&frame.body).unwrap()),
            FrameKind::Message => opened = true,
            FrameKind::Objects => {
                let mut parcel = Parcel::decode(&frame.body).unwrap();
                while let Some(wanted) = parcel.next_base() {
                    let id = match wanted {
                        Wanted::Id(id) => id,
                        Wanted::Prefix(kind, prefix) => {
                            from.find_prefix(Some(kind), &prefix).unwrap()[0]
                        }
                    };
                    parcel.supply(Some((id, from.require(&id).unwrap())));
                }
                for (id, _) in parcel.restore().unwrap() {
                    assert!(may.contains(&id), "{id} is not of the snapshot");
                }
            }
            FrameKind::Record => {
                for entry in &decode_record(&frame.body).unwrap().entries {
                    assert!(may.contains(&entry.id), "{} is not of the snapshot", entry.id);
                }
            }
        };
        let mut wire = wire(Recital::new(&input, look));
        let plan = plan_push(&scene.home, base, new).unwrap();
        let outcome = bounded(&input, EACH, HELD, |_| {
            push::send(&mut wire, &scene.home, hello(base, new), plan, |_, _| {})
        });
        match outcome {
            Ok((PushOutcome::Acked { snapshot, .. }, _)) => {
                assert_eq!(snapshot, new);
                true
            }
            _ => false,
        }
    });
}

/// A home that fetches from a node: what it says is here is here whole, and as it was.
#[test]
fn fetches_made() {
    let scene = Scene::new();
    let mut stage = Stage::new();
    let node = scene.based(&mut stage);
    let to_home = stage.vault();
    let [_, reply] = tapes(
        |wire| fetch::fetch(wire, &to_home, scene.first, |_, _, _| {}).unwrap(),
        |wire| fetch::answer(wire, &node).unwrap(),
    );
    let well = vec![reply];
    fuzz(well.clone(), |random, input| {
        let input = scene.moved(random, input, &well);
        let vault = stage.vault();
        let asked = Arc::new(Mutex::new(BTreeSet::new()));
        let note = Arc::clone(&asked);
        let mut wire = wire(Recital::new(&input, move |frame| {
            let FetchRequest::Want(ids) = decode(&frame.body).unwrap();
            note.lock().unwrap().extend(ids.iter().map(|id| id.id().unwrap()));
        }));
        let outcome = bounded(&input, EACH, HELD, |_| {
            fetch::fetch(&mut wire, &vault, scene.first, |_, _, _| {})
        });
        assert_eq!(outcome.is_ok(), has(&vault, scene.first), "{outcome:?}");
        if outcome.is_ok() {
            assert_eq!(closure(&vault, scene.first), scene.of_first);
        }
        let asked = asked.lock().unwrap();
        for id in scene.of_both.keys().filter(|id| !asked.contains(id)) {
            assert!(!vault.contains(id).unwrap(), "nobody asked for {id}");
        }
        assert!(vault.heads().is_empty());
        outcome.is_ok()
    });
}

/// A home that sends ahead: what it sends stands in its log, whatever the node answers.
#[test]
fn aheads_sent() {
    let scene = Scene::new();
    let mut stage = Stage::new();
    let (from, records) = with_records(&mut stage);
    let said = |reply| encode(&Reply::Ahead(reply)).unwrap();
    let wanted = |all: &[bool]| all.iter().flat_map(|is| said(AheadReply::Wanted(*is))).collect();
    let answers: Vec<u8> = wanted(&vec![true; records.len()]);
    let some: Vec<u8> = wanted(&(0..records.len()).map(|at| at % 2 == 0).collect::<Vec<_>>());
    let kept = said(AheadReply::Kept);
    let corpus = vec![[answers, kept.clone()].concat(), [some, kept].concat()];
    let offered: usize = records.iter().map(|(_, chunks)| chunks.len()).sum();
    let well = corpus.clone();
    fuzz(corpus, |random, input| {
        let input = scene.moved(random, &input[..input.len().min(64 * 1024)], &well);
        let sent = Arc::new(Mutex::new(0));
        let (note, from_log) = (Arc::clone(&sent), from.clone());
        let hear = move |frame: Frame| match frame.kind {
            FrameKind::Message => {}
            FrameKind::Objects => panic!("nobody asked for it"),
            FrameKind::Record => {
                let record = decode_record(&frame.body).unwrap();
                *note.lock().unwrap() += record.entries.len();
                for entry in &record.entries {
                    assert!(from_log.contains(&entry.id).unwrap());
                }
            }
        };
        let fresh = fresh(&records);
        let mut wire = wire(Recital::new(&input, hear));
        let outcome =
            bounded(&input, EACH, HELD, |_| ahead::send(&mut wire, &from, &fresh, |_| {}));
        assert!(*sent.lock().unwrap() <= offered);
        outcome.is_ok()
    });
}

//! For tests: snapshots in a map, and a node that takes and gives them as a real one does.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::batch::{Parcel, Wanted};
use crate::frame::{FrameKind, HEADER, MAX_FRAME, decode_header};
use crate::id::{
    ChunkId, DeviceId, IdempotencyKey, ObjectId, ObjectKind, SnapshotId, TreeId, WorkspaceId,
};
use crate::message::{self, Opening, PushHello, PushReply, PushRequest, Reply, Request};
use crate::object::{
    Blob, Content, Entry, EntryKind, Extent, MAX_CHUNK, Object, Snapshot, Tree, TreeSums,
    build_manifest, build_tree,
};
use crate::session::push::{
    Planned, PushAction, PushError, PushOutcome, PushReceiver, PushSender, PushStats,
};

/// File contents by path.
pub(crate) type Files = BTreeMap<String, Vec<u8>>;

/// Objects by id.
#[derive(Clone, Default)]
pub(crate) struct Objects(pub(crate) HashMap<ObjectId, Vec<u8>>);

impl Objects {
    pub(crate) fn put(&mut self, kind: ObjectKind, bytes: Vec<u8>) -> ObjectId {
        let id = ObjectId::of(kind, &bytes);
        self.0.insert(id, bytes);
        id
    }

    pub(crate) fn object(&self, id: ObjectId) -> Object {
        Object::decode(id.kind, &self.0[&id]).unwrap()
    }

    /// Everything reachable; panics where something is missing.
    pub(crate) fn closure(&self, root: ObjectId) -> BTreeSet<ObjectId> {
        let mut seen = BTreeSet::from([root]);
        let mut todo = vec![root];
        while let Some(id) = todo.pop() {
            let children = self.object(id).children();
            todo.extend(children.into_iter().filter(|&child| seen.insert(child)));
        }
        seen
    }

    /// What is reachable and not here, looking through what is.
    fn missing(&self, root: ObjectId, limit: usize) -> Vec<ObjectId> {
        let mut seen = BTreeSet::from([root]);
        let mut todo = vec![root];
        let mut missing = Vec::new();
        while let Some(id) = todo.pop() {
            if self.0.contains_key(&id) {
                let children = self.object(id).children();
                todo.extend(children.into_iter().filter(|&child| seen.insert(child)));
            } else if missing.len() < limit {
                missing.push(id);
            }
        }
        missing
    }

    pub(crate) fn snapshot(
        &mut self,
        files: &Files,
        parents: Vec<SnapshotId>,
        sequence: u64,
    ) -> SnapshotId {
        let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
        let (root, _) = self.directory(&files);
        let snapshot = Snapshot {
            workspace: WorkspaceId::from_bytes([1; 16]),
            device: DeviceId::from_bytes([2; 32]),
            sequence,
            parents,
            root,
            root_mode: 0o755,
            omitted: None,
            git: None,
            conversations: Vec::new(),
            created_at: 0,
            message: String::new(),
        };
        SnapshotId::from_bytes(self.put(ObjectKind::Snapshot, snapshot.encode()).hash)
    }

    fn directory(&mut self, files: &[(&str, &[u8])]) -> (TreeId, TreeSums) {
        let mut below: BTreeMap<&str, Vec<(&str, &[u8])>> = BTreeMap::new();
        let mut entries = BTreeMap::new();
        for &(path, bytes) in files {
            if let Some((name, rest)) = path.split_once('/') {
                below.entry(name).or_default().push((rest, bytes));
            } else {
                let blob = self.blob(bytes);
                entries.insert(path, EntryKind::File { mode: 0o644, blob });
            }
        }
        for (name, files) in below {
            let (tree, below) = self.directory(&files);
            entries.insert(name, EntryKind::Directory { mode: 0o755, tree, below });
        }
        let entries = entries
            .into_iter()
            .map(|(name, kind)| Entry { name: name.as_bytes().to_vec(), kind })
            .collect();
        build_tree::<std::convert::Infallible>(entries, |_, _, bytes| {
            self.put(ObjectKind::Tree, bytes);
            Ok(())
        })
        .unwrap()
    }

    fn blob(&mut self, bytes: &[u8]) -> Blob {
        let mut chunk = |bytes: &[u8]| self.put(ObjectKind::Chunk, bytes.to_vec());
        let size = bytes.len() as u64;
        if bytes.len() <= MAX_CHUNK {
            let content = Content::Chunk(ChunkId::from_bytes(chunk(bytes).hash));
            return Blob { size, content };
        }
        let extents = bytes
            .chunks(MAX_CHUNK)
            .map(|bytes| Extent {
                len: bytes.len() as u32,
                chunk: ChunkId::from_bytes(chunk(bytes).hash),
            })
            .collect();
        let content = build_manifest::<std::convert::Infallible>(extents, |_, _, bytes| {
            self.put(ObjectKind::Manifest, bytes);
            Ok(())
        })
        .unwrap();
        Blob { size, content }
    }

    /// What `new` has and `base` has not, each with the object at the same path of the base.
    pub(crate) fn plan(&self, base: SnapshotId, new: SnapshotId) -> Vec<Planned> {
        let (base, new) = (ObjectId::from(base), ObjectId::from(new));
        let known = self.closure(base);
        let mut plan = vec![Planned { id: new, base: Some(base) }];
        self.plan_below(Some(base), new, &known, &mut plan);
        // What names an object comes after it.
        plan.reverse();
        plan
    }

    fn plan_below(
        &self,
        base: Option<ObjectId>,
        new: ObjectId,
        known: &BTreeSet<ObjectId>,
        plan: &mut Vec<Planned>,
    ) {
        let old = base.map(|base| self.named(base)).unwrap_or_default();
        for (name, id) in self.named(new) {
            if !known.contains(&id) {
                let base = old.get(&name).copied().filter(|base| base.kind == id.kind);
                plan.push(Planned { id, base });
                self.plan_below(base, id, known, plan);
            }
        }
    }

    /// The children of an object by what names them there.
    fn named(&self, id: ObjectId) -> BTreeMap<Vec<u8>, ObjectId> {
        match self.object(id) {
            Object::Tree(Tree::Leaf(entries)) => {
                entries.iter().map(|entry| (entry.name.clone(), entry.content())).collect()
            }
            object => object
                .children()
                .into_iter()
                .enumerate()
                .map(|(at, id)| (at.to_be_bytes().to_vec(), id))
                .collect(),
        }
    }
}

/// A node with one ref.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) objects: Objects,
    pub(crate) head: Option<(SnapshotId, u64)>,
    /// Most ids of one `Missing`.
    pub(crate) limit: usize,
    /// Answers what these hold, oldest first, before it does its work.
    pub(crate) lies: Vec<Reply>,
    hello: Option<PushHello>,
    receiver: PushReceiver,
}

impl Node {
    pub(crate) fn new(objects: Objects, head: Option<(SnapshotId, u64)>) -> Self {
        Self { objects, head, limit: 100, ..Self::default() }
    }

    /// Takes one frame; answers a commit.
    pub(crate) fn take(&mut self, frame: &[u8]) -> Option<Reply> {
        assert!(frame.len() <= HEADER + MAX_FRAME);
        let (header, body) = frame.split_first_chunk::<HEADER>().unwrap();
        let (kind, len) = decode_header(*header).unwrap();
        assert_eq!(len, body.len());
        if kind == FrameKind::Objects {
            self.keep(Parcel::decode(body).unwrap());
            return None;
        }
        if self.hello.is_none() {
            let Request::Push(hello) = Opening::decode(body).unwrap().request else {
                panic!("not a push")
            };
            self.hello = Some(hello);
            return None;
        }
        let PushRequest::Commit = message::decode(body).unwrap();
        if !self.lies.is_empty() {
            return Some(self.lies.remove(0));
        }
        Some(Reply::Push(self.commit()))
    }

    fn keep(&mut self, mut parcel: Parcel) {
        while let Some(wanted) = parcel.next_base() {
            let mut known = self.objects.0.iter();
            let base = known.find(|(id, _)| match wanted {
                Wanted::Id(wanted) => **id == wanted,
                Wanted::Prefix(kind, prefix) => id.kind == kind && id.prefix() == prefix,
            });
            parcel.supply(base.map(|(id, bytes)| (*id, bytes.clone())));
        }
        self.objects.0.extend(self.receiver.accept_batch(parcel).unwrap());
    }

    fn commit(&mut self) -> PushReply {
        let hello = self.hello.unwrap();
        if let Some(reply) = self.receiver.need_full() {
            return reply;
        }
        let missing = self.objects.missing(hello.new.into(), self.limit);
        if !missing.is_empty() {
            return PushReply::Missing {
                ids: missing.into_iter().map(Into::into).collect(),
                more: false,
            };
        }
        if self.head.map(|(id, _)| id) != hello.base {
            return PushReply::HeadMoved { head: self.head };
        }
        let Object::Snapshot(snapshot) = self.objects.object(hello.new.into()) else { panic!() };
        self.head = Some((hello.new, snapshot.sequence));
        PushReply::Acked { snapshot: hello.new, sequence: snapshot.sequence }
    }
}

pub(crate) fn hello(base: Option<SnapshotId>, new: SnapshotId) -> PushHello {
    let workspace = WorkspaceId::from_bytes([1; 16]);
    PushHello { workspace, base, new, key: IdempotencyKey::from_bytes([3; 16]) }
}

/// How a push went.
#[derive(Debug)]
pub(crate) struct Pushed {
    pub(crate) outcome: PushOutcome,
    pub(crate) stats: PushStats,
}

/// Runs a push from `client` to `node` to its end.
pub(crate) fn push(
    client: &Objects,
    node: &mut Node,
    base: Option<SnapshotId>,
    new: SnapshotId,
    plan: Vec<Planned>,
) -> Result<Pushed, PushError> {
    (node.hello, node.receiver) = (None, PushReceiver::new());
    let mut sender = PushSender::new(hello(base, new), plan);
    let mut replies = Vec::new();
    let mut sent = 0;
    loop {
        match sender.poll()? {
            PushAction::Load(Planned { id, base }) => {
                let base = base.and_then(|base| client.0.get(&base));
                sender.supply(&client.0[&id], base.map(Vec::as_slice))?;
            }
            // There is no log here that could hold records.
            PushAction::Gather(_) => {}
            PushAction::Send(frame) => {
                sent += frame.len() as u64;
                replies.extend(node.take(&frame));
            }
            PushAction::Receive => {
                assert_eq!(replies.len(), 1, "one answer to a commit");
                sender.receive(replies.pop().unwrap())?;
            }
            PushAction::Finish(outcome) => {
                assert_eq!(sent, sender.stats().bytes_sent);
                return Ok(Pushed { outcome, stats: sender.stats() });
            }
        }
    }
}

//! A device that is enrolled and means harm, against a real node.

use baton_protocol::delta;
use baton_protocol::encode::Writer;
use baton_protocol::frame::{HEADER, MAX_FRAME};
use baton_protocol::id::{ChunkId, ManifestId, RunId, ThreadId};
use baton_protocol::message::{
    MAX_IDS, PushReply, PushRequest, RunSpec, RunState, Terms, WireId, encode,
};
use baton_protocol::object::{Blob, Content, Extent, MAX_CHUNK, MAX_OBJECT, Manifest, Tree};
use baton_store::layout::Class;
use baton_store::segment::RecordBuilder;

use super::*;

/// A stream on which anything can be said.
pub(super) struct Raw(FrameStream);

impl Raw {
    pub(super) async fn open(home: &Home, remote: &Remote, request: Request) -> Self {
        let mut stream = within(home.pool.open(remote)).await.unwrap();
        stream.send(&Opening::new(request)).await.unwrap();
        Self(stream)
    }

    async fn push(home: &Home, remote: &Remote, base: Option<SnapshotId>, new: SnapshotId) -> Self {
        Self::open(home, remote, Request::Push(hello(base, new))).await
    }

    /// Sends what the node may have stopped reading.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        match self.0.write(bytes).await {
            Ok(()) | Err(TransportError::Stopped) => {}
            Err(error) => panic!("{error}"),
        }
    }

    async fn objects(&mut self, objects: &[(ObjectKind, Vec<u8>)]) {
        self.send(&batch(objects)).await;
    }

    async fn commit(&mut self) -> PushReply {
        self.send(&encode(&PushRequest::Commit).unwrap()).await;
        match self.reply().await {
            Reply::Push(reply) => reply,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn reply(&mut self) -> Reply {
        within(self.0.receive()).await.unwrap()
    }

    #[track_caller]
    fn refusal(reply: Reply) -> (RefusalCode, String) {
        match reply {
            Reply::Refused(refusal) => (refusal.code, refusal.message),
            other => panic!("expected a refusal, not {other:?}"),
        }
    }

    /// What it is told, after which the node reads no more.
    pub(super) async fn refused(mut self) -> (RefusalCode, String) {
        let told = Self::refusal(self.reply().await);
        assert!(matches!(within(self.0.read_frame()).await, Ok(None)), "more after a refusal");
        told
    }
}

/// A home that has pushed something, and what its node must keep.
struct Scene {
    cloud: Cloud,
    home: Home,
    first: SnapshotId,
}

impl Scene {
    async fn new(settings: &Settings) -> Self {
        let cloud = Cloud::start(settings);
        let home = cloud.home().await;
        let first = home.snapshot(&project(), 1);
        home.pushed(&cloud.remote(), None, first).await;
        Self { cloud, home, first }
    }

    async fn raw(&self, new: SnapshotId) -> Raw {
        Raw::push(&self.home, &self.cloud.remote(), Some(self.first), new).await
    }

    /// Pushes these objects as a whole snapshot that says `root`; what the node answers.
    async fn offer(&self, root: TreeId, objects: &[(ObjectKind, Vec<u8>)]) -> Reply {
        let snapshot = snapshot_of(root, self.home.device(), 2).encode();
        let mut raw = self.raw(SnapshotId::of(&snapshot)).await;
        raw.objects(&[(ObjectKind::Snapshot, snapshot)]).await;
        raw.objects(objects).await;
        raw.send(&encode(&PushRequest::Commit).unwrap()).await;
        raw.reply().await
    }

    /// The ref stands where it stood, and an honest push goes through.
    async fn unharmed(self) {
        let head = self.cloud.head(&self.home).unwrap();
        assert_eq!((head.snapshot, head.sequence), (self.first, 1));
        let mut files = project();
        files.insert("d1/after".into(), b"all is well".to_vec());
        let next = self.home.snapshot(&files, 2);
        let stats = self.home.pushed(&self.cloud.remote(), Some(self.first), next).await;
        assert_eq!(stats.round_trips, 1);
    }
}

fn chunk_blob(bytes: &[u8]) -> Blob {
    Blob { size: bytes.len() as u64, content: Content::Chunk(ChunkId::of(bytes)) }
}

fn file(blob: Blob) -> EntryKind {
    EntryKind::File { mode: 0o644, blob }
}

fn leaf(entries: &[(&str, EntryKind)]) -> (TreeId, (ObjectKind, Vec<u8>)) {
    let entry = |(name, kind): &(&str, EntryKind)| Entry { name: (*name).into(), kind: *kind };
    let bytes = Tree::Leaf(entries.iter().map(entry).collect()).encode();
    (TreeId::of(&bytes), (ObjectKind::Tree, bytes))
}

fn directory(tree: TreeId, files: u64, bytes: u64) -> EntryKind {
    EntryKind::Directory { mode: 0o755, tree, below: TreeSums { files, bytes } }
}

/// A batch whose parts say what they like.
fn body(items: &[(u8, u64)], text: &[u8]) -> Vec<u8> {
    let mut table = Writer::new();
    table.varint(items.len() as u64);
    for &(kind, len) in items {
        table.byte(kind);
        table.varint(len);
    }
    body_of(&table.finish(), text)
}

fn body_of(table: &[u8], text: &[u8]) -> Vec<u8> {
    let mut to = Writer::new();
    to.varint(table.len() as u64);
    to.bytes(table);
    to.fixed(text);
    to.finish()
}

/// A record of chunks under the ids of other bytes.
fn record(objects: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut builder = RecordBuilder::default();
    for (named, bytes) in objects {
        builder.push(ObjectId::of(ObjectKind::Chunk, named), bytes);
    }
    builder.encode(Class::Data).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_that_are_none_are_refused_and_said_to_be() {
    let scene = Scene::new(&Settings::default()).await;
    let new = SnapshotId::from_bytes([1; 32]);
    let objects = |body: &[u8]| frame(FrameKind::Objects, body);
    let bomb = delta::compress(&vec![0; MAX_OBJECT], 3).unwrap();
    let long = MAX_OBJECT as u64;
    let long_chunk = vec![7; MAX_CHUNK + 1];
    let too_long = u32::try_from(MAX_FRAME + 1).unwrap().to_le_bytes();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("a body of 4 GiB", vec![0xff, 0xff, 0xff, 0xff, 2]),
        ("a body one too long", [&too_long[..], &[2]].concat()),
        ("an unknown frame", vec![1, 0, 0, 0, 9, 0]),
        ("an empty batch body", objects(&[])),
        ("a count without objects", objects(&body_of(&[200], b""))),
        ("more objects than a batch has", objects(&body_of(&[0xff, 0xff, 0x7f], b""))),
        ("a table that is not there", objects(&[5, 5, 1])),
        ("a table too long", objects(&[0xff, 0xff, 0x7f, 1, 0])),
        ("a table that is none", objects(&[9, 3, 1, 2, 3])),
        ("an unknown kind", objects(&body(&[(77, 1)], b"x"))),
        ("a shorter object", objects(&body(&[(1, 2)], b"x"))),
        ("a longer object", objects(&body(&[(1, 1)], b"xy"))),
        ("an object too long", objects(&body(&[(1, long + 1)], b"x"))),
        ("a bomb in a small batch", objects(&body(&[(1, 10)], &bomb))),
        ("many bombs", objects(&body(&[(1, long); 4], &bomb))),
        ("a delta that is not there", objects(&body(&[(0x81, 9)], b""))),
        ("a record that is none", frame(FrameKind::Record, b"BTNR")),
        (
            "a record of a chunk too long",
            frame(FrameKind::Record, &record(&[(&long_chunk, &long_chunk)])),
        ),
        ("a damaged record", frame(FrameKind::Record, &record(&[(b"one", b"one")])[1..])),
        (
            "a record that lies",
            frame(FrameKind::Record, &record(&[(b"one", b"one"), (b"x", b"y")])),
        ),
        ("a message that is none", frame(FrameKind::Message, b"\x63\x00")),
        ("a commit and more", frame(FrameKind::Message, b"\x00\x00")),
    ];
    for (what, bytes) in cases {
        let mut raw = scene.raw(new).await;
        raw.send(&bytes).await;
        let (code, message) = raw.refused().await;
        assert_eq!(code, RefusalCode::Malformed, "{what}: {message}");
    }
    // A stream that ends inside a frame is one that was lost.
    let mut raw = scene.raw(new).await;
    raw.send(&objects(&body(&[(1, 1)], b"x"))[..HEADER + 2]).await;
    raw.0.finish();
    assert!(matches!(within(raw.0.read_frame()).await, Ok(None)));
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn trees_that_lead_elsewhere_are_refused_where_they_arrive() {
    let scene = Scene::new(&Settings::default()).await;
    let empty = leaf(&[]).0;
    let x = file(chunk_blob(b"x"));
    let mut cases: Vec<(String, Vec<u8>)> = Vec::new();
    for name in ["", ".", "..", "a/b", "/etc", "a\0b", ".git", ".GIT ", "git~1", ".g\u{200c}it"] {
        for kind in [x, EntryKind::Symlink { target: chunk_blob(b"/etc") }, directory(empty, 0, 0)]
        {
            cases.push((format!("{name:?}"), leaf(&[(name, kind)]).1.1));
        }
    }
    cases.push(("a name too long".into(), leaf(&[(&"n".repeat(256), x)]).1.1));
    cases.push(("unsorted".into(), leaf(&[("b", x), ("a", x)]).1.1));
    cases.push(("twice".into(), leaf(&[("a", x), ("a", x)]).1.1));
    // A link, and a folder of the same name behind it.
    let link = EntryKind::Symlink { target: chunk_blob(b"/tmp") };
    cases.push((
        "a link in the middle".into(),
        leaf(&[("a", link), ("a", directory(empty, 0, 0))]).1.1,
    ));
    let mut trailing = leaf(&[("a", x)]).1.1;
    trailing.push(0);
    cases.push(("trailing bytes".into(), trailing));
    cases.push(("no tree".into(), b"\xff".to_vec()));
    for (what, tree) in cases {
        let mut raw = scene.raw(SnapshotId::from_bytes([1; 32])).await;
        raw.objects(&[(ObjectKind::Tree, tree)]).await;
        let (code, message) = raw.refused().await;
        assert_eq!(code, RefusalCode::Malformed, "{what}: {message}");
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_that_lie_about_others_move_no_ref() {
    let scene = Scene::new(&Settings::default()).await;
    let x = (ObjectKind::Chunk, b"x".to_vec());
    let (inner, inner_object) = leaf(&[("f", file(chunk_blob(b"x")))]);
    let half = vec![7; 200_000];
    let extents = vec![Extent { len: 200_000, chunk: ChunkId::of(&half) }; 2];
    let list = Manifest::Leaf(extents).encode();
    let content = Content::Manifest(ManifestId::of(&list));
    let list = (ObjectKind::Manifest, list);
    let half = (ObjectKind::Chunk, half);
    let long = |size| file(Blob { size, content });
    let x_of = |size| file(Blob { size, content: chunk_blob(b"x").content });
    let held = load_snapshot(&scene.home.vault, scene.first).unwrap().root;
    let cases = [
        ("files of a folder", vec![("d", directory(inner, 2, 1))]),
        ("bytes of a folder", vec![("d", directory(inner, 1, u64::MAX))]),
        ("a folder that the node has", vec![("d", directory(held, 1, 1))]),
        ("the length of a manifest", vec![("m", long(400_001))]),
        ("a longer chunk", vec![("x", x_of(2))]),
        ("a shorter chunk", vec![("x", x_of(0))]),
    ];
    let objects = [x, inner_object, half, list];
    for (what, entries) in cases {
        let (root, object) = leaf(&entries);
        let all: Vec<_> = objects.iter().cloned().chain([object]).collect();
        let (code, message) = Raw::refusal(scene.offer(root, &all).await);
        assert_eq!(code, RefusalCode::Malformed, "{what}: {message}");
        assert!(message.contains("not what is said of it"), "{message}");
    }
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_belongs_to_its_ref_and_comes_after_the_last() {
    let scene = Scene::new(&Settings::default()).await;
    let root = load_snapshot(&scene.home.vault, scene.first).unwrap().root;
    let good = snapshot_of(root, scene.home.device(), 2);
    let other_device = DeviceId::from_bytes([5; 32]);
    let other_place = WorkspaceId::from_bytes([5; 16]);
    for (what, snapshot) in [
        ("another device", Snapshot { device: other_device, ..good.clone() }),
        ("another workspace", Snapshot { workspace: other_place, ..good.clone() }),
        ("the same number", Snapshot { sequence: 1, message: "again".into(), ..good.clone() }),
    ] {
        let bytes = snapshot.encode();
        let mut raw = scene.raw(SnapshotId::of(&bytes)).await;
        raw.objects(&[(ObjectKind::Snapshot, bytes)]).await;
        raw.send(&encode(&PushRequest::Commit).unwrap()).await;
        let (code, message) = raw.refused().await;
        assert_eq!(code, RefusalCode::Malformed, "{what}: {message}");
    }
    // Number 0 does not exist.
    let bytes = Snapshot { sequence: 0, ..good }.encode();
    let mut raw = scene.raw(SnapshotId::of(&bytes)).await;
    raw.objects(&[(ObjectKind::Snapshot, bytes)]).await;
    assert_eq!(raw.refused().await.0, RefusalCode::Malformed);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delta_with_a_lying_base_brings_nothing_in() {
    let scene = Scene::new(&Settings::default()).await;
    let vault = scene.cloud.vault_of(&scene.home);
    let old = project()["d0/f0.rs"].clone();
    let base = ObjectId::of(ObjectKind::Chunk, &old);
    assert!(vault.contains(&base).unwrap());
    let new = [&old[..], b"and more"].concat();
    let id_of = |bytes: &[u8]| ObjectId::of(ObjectKind::Chunk, bytes);
    let other = project()["d1/f1.rs"].clone();
    let (root, root_object) = leaf(&[("f", file(chunk_blob(&new)))]);
    let snapshot = snapshot_of(root, scene.home.device(), 2).encode();
    let id = SnapshotId::of(&snapshot);
    let delta = |base: ObjectId, bytes: &[u8]| {
        let mut items = Batch::new();
        items.push_delta(id_of(&new), &new, base, bytes).unwrap();
        items.finish().unwrap()
    };
    let mut of_a_tree = Writer::new();
    of_a_tree.varint(1);
    of_a_tree.byte(ObjectKind::Tree as u8 | 0x80);
    of_a_tree.fixed(&base.prefix());
    of_a_tree.varint(0);
    for body in [
        // Nobody has it; another object; made from another one; of another kind; no text at all.
        delta(id_of(b"nobody"), &old),
        delta(id_of(&other), &old),
        delta(base, &other),
        body_of(&of_a_tree.finish(), b""),
        delta(base, &old).split_last().unwrap().1.to_vec(),
    ] {
        let mut raw = scene.raw(id).await;
        raw.send(&frame(FrameKind::Objects, &body)).await;
        raw.objects(&[(ObjectKind::Snapshot, snapshot.clone()), root_object.clone()]).await;
        // Another object may come out of another base: then the right one is missing.
        let asked = raw.commit().await;
        let (full, missing) = (
            PushReply::NeedFull { items: vec![0] },
            PushReply::Missing { ids: vec![id_of(&new).into()], more: false },
        );
        assert!(asked == full || asked == missing, "{asked:?}");
    }
    // Nothing is known of another user's objects, not even that they are there.
    let stranger = scene.cloud.joined(Home::new(), "stranger").await;
    let theirs = snapshot_of(root, stranger.device(), 1).encode();
    let mut raw = Raw::push(&stranger, &scene.cloud.remote(), None, SnapshotId::of(&theirs)).await;
    let mut items = Batch::new();
    items.push_full(ObjectKind::Snapshot, &theirs);
    items.push_full(ObjectKind::Tree, &root_object.1);
    items.push_delta(id_of(&new), &new, base, &old).unwrap();
    raw.send(&frame(FrameKind::Objects, &items.finish().unwrap())).await;
    // With it go those that came beside it.
    assert_eq!(raw.commit().await, PushReply::NeedFull { items: vec![0, 1, 2] });
    // What the owner has is missing there.
    let held = load_snapshot(&scene.home.vault, scene.first).unwrap().root;
    let theirs = snapshot_of(held, stranger.device(), 1).encode();
    let mut raw = Raw::push(&stranger, &scene.cloud.remote(), None, SnapshotId::of(&theirs)).await;
    raw.objects(&[(ObjectKind::Snapshot, theirs)]).await;
    assert_eq!(
        raw.commit().await,
        PushReply::Missing { ids: vec![ObjectId::from(held).into()], more: false }
    );
    assert_eq!(scene.cloud.head(&stranger), None);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_for_ever_ends() {
    let scene = Scene::new(&Settings::default()).await;
    let (root, object) = leaf(&[("f", file(chunk_blob(b"never sent")))]);
    let snapshot = snapshot_of(root, scene.home.device(), 2).encode();
    let mut raw = scene.raw(SnapshotId::of(&snapshot)).await;
    raw.objects(&[(ObjectKind::Snapshot, snapshot), object]).await;
    let missing = ObjectId::of(ObjectKind::Chunk, b"never sent").into();
    assert_eq!(raw.commit().await, PushReply::Missing { ids: vec![missing], more: false });
    // Something else is not nothing.
    raw.objects(&[(ObjectKind::Chunk, b"something else".to_vec())]).await;
    assert_eq!(raw.commit().await, PushReply::Missing { ids: vec![missing], more: false });
    raw.send(&encode(&PushRequest::Commit).unwrap()).await;
    let (code, message) = raw.refused().await;
    assert_eq!(
        (code, message.as_str()),
        (RefusalCode::Malformed, "nothing came of what was asked for")
    );
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_without_end_meet_a_limit() {
    let quota =
        crate::sync::Quota { objects: 100, unresolved: 10, ..crate::sync::Quota::default() };
    let scene = Scene::new(&Settings { quota, ..Settings::default() }).await;
    let new = SnapshotId::from_bytes([1; 32]);
    let mut raw = scene.raw(new).await;
    for at in 0..11u8 {
        let objects: Vec<_> = (0..10u8).map(|i| (ObjectKind::Chunk, vec![at, i])).collect();
        raw.objects(&objects).await;
    }
    assert_eq!(raw.refused().await.0, RefusalCode::Limit);
    let mut items = Batch::new();
    let unknown = ObjectId::of(ObjectKind::Chunk, b"unknown");
    for _ in 0..11 {
        items.push_delta(unknown, b"x", unknown, b"").unwrap();
    }
    let mut raw = scene.raw(new).await;
    raw.send(&frame(FrameKind::Objects, &items.finish().unwrap())).await;
    assert_eq!(raw.refused().await.0, RefusalCode::Limit);
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wants_that_are_none_are_refused() {
    let scene = Scene::new(&Settings::default()).await;
    let remote = scene.cloud.remote();
    let fetch = async || Raw::open(&scene.home, &remote, Request::Fetch).await;
    let id = WireId::from(ObjectId::from(scene.first));
    let mut raw = fetch().await;
    raw.send(&encode(&FetchRequest::Want(vec![id; MAX_IDS + 1])).unwrap()).await;
    assert_eq!(raw.refused().await.0, RefusalCode::Malformed);
    let mut raw = fetch().await;
    raw.send(&batch(&[(ObjectKind::Chunk, b"x".to_vec())])).await;
    assert_eq!(raw.refused().await.0, RefusalCode::Malformed);
    let mut raw = fetch().await;
    raw.send(&[0, 0, 0, 0xf0, 1]).await;
    assert_eq!(raw.refused().await.0, RefusalCode::Malformed);
    // An id of a kind that does not exist is one that is not here.
    let mut raw = fetch().await;
    let unknown: WireId =
        decode(&[&[0x63][..], &[1; 32]].concat()).expect("any number is read as a kind");
    raw.send(&encode(&FetchRequest::Want(vec![id, unknown, id])).unwrap()).await;
    assert_eq!(within(raw.0.read_frame()).await.unwrap().unwrap().kind, FrameKind::Objects);
    let done = baton_protocol::message::FetchReply::Done { sent: 1, absent: Some(unknown) };
    assert_eq!(raw.reply().await, Reply::Fetch(done));
    scene.unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_stalls_is_told_and_makes_way() {
    let limits = Limits { stall: Duration::from_millis(300), ..Limits::default() };
    let scene = Scene::new(&Settings { limits, ..Settings::default() }).await;
    let new = SnapshotId::from_bytes([1; 32]);
    for bytes in [&[][..], &[200, 0], &[200, 0, 0, 0, 2, 1]] {
        let mut raw = scene.raw(new).await;
        raw.send(bytes).await;
        let (code, message) = raw.refused().await;
        assert_eq!(code, RefusalCode::Unavailable, "{message}");
        assert!(message.contains("0.3 s"), "{message}");
    }
    let mut raw = Raw::open(&scene.home, &scene.cloud.remote(), Request::Fetch).await;
    assert_eq!(Raw::refusal(raw.reply().await).0, RefusalCode::Unavailable);
    scene.unharmed().await;
}

/// One that wants no answer and goes on sending must not free the place that its thread holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_held_as_long_as_its_work_goes_on() {
    let limits =
        Limits { stall: Duration::from_millis(400), requests_per_device: 1, ..Limits::default() };
    let scene = Scene::new(&Settings { limits, ..Settings::default() }).await;
    // The place of the first push is free a moment after its answer.
    let mut raw = loop {
        let mut raw = scene.raw(SnapshotId::from_bytes([1; 32])).await;
        raw.send(&encode(&PushRequest::Commit).unwrap()).await;
        if matches!(raw.reply().await, Reply::Push(_)) {
            break raw;
        }
    };
    raw.0.reader.stop();
    // Longer than the node waits for a handler that nobody listens to.
    for at in 0..15u8 {
        raw.objects(&[(ObjectKind::Chunk, vec![at])]).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let asked = scene.home.pool.request(&scene.cloud.remote(), Request::Refs).await;
    let Err(crate::client::ClientError::Refused(refusal)) = asked else { panic!("{asked:?}") };
    assert_eq!(refusal.code, RefusalCode::Unavailable);
    drop(raw);
    let free = async {
        while scene.home.pool.request(&scene.cloud.remote(), Request::Refs).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    within(free).await;
    scene.unharmed().await;
}

/// Trees that pass every check of their own, and what comes of a run that starts from them.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_a_tree_without_end_or_bottom_ends_and_writes_nothing_outside() {
    let scene = Scene::new(&Settings::default()).await;
    let outside = listing(scene.cloud.folder.path());
    let empty = leaf(&[]);
    let mut objects = vec![empty.1];
    let mut tree = empty.0;
    let names: Vec<String> = (0..100).map(|at| format!("{at:02}")).collect();
    for _ in 0..9 {
        let kind = directory(tree, 0, 0);
        let entries: Vec<_> = names.iter().map(|name| (name.as_str(), kind)).collect();
        let (id, object) = leaf(&entries);
        objects.push(object);
        tree = id;
    }
    let Reply::Push(PushReply::Acked { snapshot: laughs, .. }) = scene.offer(tree, &objects).await
    else {
        panic!("it is well-formed")
    };
    let info = run(&scene, laughs, 1).await;
    assert_eq!(info.state, RunState::Failed);
    let reason = info.reason.unwrap();
    assert!(reason.contains("more than a checkout can have"), "{reason}");

    // A git folder in a tree that was stored before such were refused.
    let vault = scene.cloud.vault_of(&scene.home);
    let intake = vault.intake();
    let hooks = leaf(&[("f", file(store_bytes(b"#!/bin/sh\n", &intake).unwrap()))]);
    let (root, object) = leaf(&[(".GIT", directory(hooks.0, 1, 10))]);
    for (kind, bytes) in [hooks.1, object] {
        intake.put(kind, &bytes).unwrap();
    }
    let id = put_snapshot(&intake, &snapshot_of(root, scene.home.device(), 3));
    intake.keep(&[id.into()]).unwrap();
    let info = run(&scene, id, 2).await;
    assert_eq!(info.state, RunState::Failed);
    let reason = info.reason.unwrap();
    assert!(reason.contains("could stand for a .git folder"), "{reason}");

    let written = listing(scene.cloud.folder.path());
    let new: Vec<_> = written
        .iter()
        .filter(|path| !outside.contains(path))
        .filter(|path| !path.contains("/store/") && !path.contains("/catalog.db"))
        .collect();
    let runs = scene.cloud.folder.path().join("runs").display().to_string();
    assert!(new.iter().all(|path| path.starts_with(&runs)), "{new:?}");
    assert!(!new.iter().any(|path| path.to_lowercase().contains(".git") || path.contains("/00")));
    scene.home.pool.request(&scene.cloud.remote(), Request::Hello).await.unwrap();
}

async fn run(
    scene: &Scene,
    snapshot: SnapshotId,
    number: u8,
) -> Box<baton_protocol::message::RunInfo> {
    let spec = RunSpec {
        run: RunId::from_bytes([number; 16]),
        thread: ThreadId::from_bytes([number; 16]),
        workspace: WORKSPACE,
        snapshot,
        agent: "command".into(),
        command: vec![b"true".to_vec()],
        prompt: None,
        parent: None,
        terms: Terms::default(),
    };
    let id = spec.run;
    for request in [Request::CreateRun(spec), Request::WaitRun(id)] {
        let reply = within(scene.home.pool.request(&scene.cloud.remote(), request)).await.unwrap();
        let Reply::Run(info) = reply else { panic!("{reply:?}") };
        if info.state.is_final() {
            return info;
        }
    }
    panic!("it has not ended")
}

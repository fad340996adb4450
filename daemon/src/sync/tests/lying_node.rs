//! A node that was joined and means harm, against a real home.

use baton_protocol::id::ChunkId;
use baton_protocol::message::{
    AheadReply, FetchReply, PushReply, PushRequest, Refusal, RunInfo, WireId, encode,
};
use baton_protocol::object::{Blob, Content, Tree};
use baton_protocol::session::fetch::FetchError;
use baton_protocol::session::push::PushError;
use baton_store::layout::Class;
use baton_store::objects::Location;
use baton_store::segment::RecordBuilder;

use super::ahead::send_from;
use super::*;
use crate::client::ClientError;
use crate::sync::ahead::Fresh;

/// What the node does where an answer is due.
enum Lie {
    /// Sends these bytes and waits for what comes.
    Say(Vec<u8>),
    /// Answers a request for objects as it ought to.
    Honest,
    /// The first half of such an answer, and then the end of the stream.
    Half,
    /// Ends the stream.
    End,
    /// Gives it up.
    Abandon,
    /// Is silent for ever.
    Silence,
}

/// Whether an end is the right one.
type Check<T> = fn(&Result<T, SyncError>) -> bool;

fn reply(reply: &Reply) -> Lie {
    Lie::Say(encode(reply).unwrap())
}

fn pushed(answer: PushReply) -> Lie {
    reply(&Reply::Push(answer))
}

fn missing(ids: &[ObjectId]) -> Lie {
    pushed(PushReply::Missing { ids: ids.iter().map(|&id| id.into()).collect(), more: false })
}

/// Does what it was told, and remembers what it was sent.
#[derive(Default)]
struct Script {
    lies: Mutex<VecDeque<Lie>>,
    /// Where honest answers come from.
    vault: Mutex<Option<Vault>>,
    seen: Mutex<Vec<ObjectId>>,
    /// What is said to requests that have one answer, over and over.
    plain: Mutex<Vec<u8>>,
}

impl Handler for Script {
    fn handle(self: Arc<Self>, mut session: Session, request: Request) -> Handling {
        Box::pin(async move {
            if !matches!(request, Request::Push(_) | Request::Fetch) {
                let said = self.plain.lock().unwrap().clone();
                while session.stream.write(&said).await.is_ok() {}
                return Ok(());
            }
            // What an earlier stream still asks is not answered with the lies of this one.
            let mut lies = std::mem::take(&mut *self.lies.lock().unwrap());
            while let Some(frame) = session.stream.read_frame().await? {
                if frame.kind == FrameKind::Objects {
                    self.note(&frame.body);
                    continue;
                }
                let want = decode::<FetchRequest>(&frame.body).ok();
                assert!(want.is_some() || decode::<PushRequest>(&frame.body).is_ok());
                match lies.pop_front() {
                    Some(Lie::Say(bytes)) => session.stream.write(&bytes).await?,
                    Some(Lie::Honest) => {
                        let FetchRequest::Want(ids) = want.unwrap();
                        session.stream.write(&self.objects(&ids)).await?;
                        session.stream.write(&done(ids.len(), None)).await?;
                    }
                    Some(Lie::Half) => {
                        let FetchRequest::Want(ids) = want.unwrap();
                        session.stream.write(&self.objects(&ids[..ids.len() / 2])).await?;
                        session.stream.finish();
                        session.stream.writer.delivered().await;
                        return Ok(());
                    }
                    Some(Lie::End) => {
                        session.stream.finish();
                        session.stream.writer.delivered().await;
                        return Ok(());
                    }
                    Some(Lie::Abandon) => {
                        session.stream.writer.abandon();
                        return Ok(());
                    }
                    Some(Lie::Silence) | None => std::future::pending().await,
                }
            }
            Ok(())
        })
    }
}

impl Script {
    fn note(&self, body: &[u8]) {
        let mut seen = self.seen.lock().unwrap();
        for (kind, bytes) in Parcel::decode(body).unwrap().whole().unwrap().into_iter().flatten() {
            seen.push(ObjectId::of(kind, &bytes));
        }
    }

    fn objects(&self, ids: &[WireId]) -> Vec<u8> {
        let vault = self.vault.lock().unwrap().clone().unwrap();
        let mut frames = Vec::new();
        for id in ids {
            let id = id.id().unwrap();
            frames.extend(batch(&[(id.kind, vault.require(&id).unwrap())]));
        }
        frames
    }
}

fn done(sent: usize, absent: Option<ObjectId>) -> Vec<u8> {
    let sent = u32::try_from(sent).unwrap();
    let absent = absent.map(WireId::from);
    encode(&Reply::Fetch(FetchReply::Done { sent, absent })).unwrap()
}

/// A home that has joined such a node.
struct Scene {
    _folder: tempfile::TempDir,
    script: Arc<Script>,
    node: Node,
    home: Home,
    remote: Remote,
}

impl Scene {
    async fn new() -> Self {
        Self::with(WITHIN).await
    }

    /// `stall` is how long the home lets a stream stand still.
    async fn with(stall: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&folder.path().join("keys")).unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        let (script, tasks, clock) = (Arc::<Script>::default(), Tasks::new(), Clock::manual(1));
        let handler = Arc::clone(&script) as Arc<dyn Handler>;
        let node = start_node(
            &identity,
            &catalog,
            handler,
            &Settings::default(),
            &tasks,
            &clock,
            Audit::none(),
        );
        let remote = remote(&identity, node.address());
        let home = Home::with(stall);
        join(&home, &catalog, &remote, "owner", &clock).await;
        Self { _folder: folder, script, node, home, remote }
    }

    fn lie(&self, lies: Vec<Lie>) {
        *self.script.lies.lock().unwrap() = lies.into();
        self.script.seen.lock().unwrap().clear();
    }

    async fn push(
        &self,
        base: Option<SnapshotId>,
        new: SnapshotId,
        lies: Vec<Lie>,
    ) -> Result<PushOutcome, SyncError> {
        self.lie(lies);
        self.home.push(&self.remote, base, new).await.map(|(outcome, _)| outcome)
    }

    async fn fetch(&self, snapshot: SnapshotId, lies: Vec<Lie>) -> Result<u64, SyncError> {
        self.lie(lies);
        self.home.fetch(&self.remote, snapshot).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_gives_a_lying_node_nothing_but_the_snapshot() {
    let scene = Scene::new().await;
    let home = &scene.home;
    let (old, new) = (home.snapshot(&bulk(1), 1), home.snapshot(&project(), 2));
    let secret = home.snapshot(&[("secret".into(), b"a private key".to_vec())].into(), 1);
    let secret_root = ObjectId::from(load_snapshot(&home.vault, secret).unwrap().root);
    let secret_bytes = ObjectId::of(ObjectKind::Chunk, b"a private key");
    let root = ObjectId::from(load_snapshot(&home.vault, new).unwrap().root);
    let part = ObjectId::of(ObjectKind::Chunk, &project()["d3/f3.rs"]);
    let other = SnapshotId::from_bytes([3; 32]);
    let unknown = ObjectId { kind: ObjectKind::Chunk, hash: [9; 32] };
    let head = |snapshot| pushed(PushReply::HeadMoved { head: Some((snapshot, 5)) });
    let not_offered: Check<PushOutcome> =
        |r| matches!(r, Err(SyncError::Push(PushError::NotOffered(_))));
    let out_of_turn: Check<PushOutcome> =
        |r| matches!(r, Err(SyncError::Push(PushError::OutOfTurn)));
    let malformed: Check<PushOutcome> =
        |r| matches!(r, Err(SyncError::Transport(TransportError::Malformed(_))));
    let cases: Vec<(&str, Vec<Lie>, Check<PushOutcome>)> = vec![
        ("asks for another snapshot", vec![missing(&[secret.into()])], not_offered),
        ("asks for its root", vec![missing(&[secret_root])], not_offered),
        ("asks for its bytes", vec![missing(&[secret_bytes])], not_offered),
        ("asks for nobody knows what", vec![missing(&[unknown])], not_offered),
        ("asks for them among others", vec![missing(&[part, secret_bytes])], not_offered),
        ("asks twice at once", vec![missing(&[part, part])], not_offered),
        ("asks again", vec![missing(&[part]), missing(&[part])], not_offered),
        ("asks for what it has", vec![missing(&[root])], not_offered),
        ("asks for nothing", vec![missing(&[])], out_of_turn),
        (
            "asks for more ids than a message has",
            vec![missing(&vec![unknown; baton_protocol::message::MAX_IDS + 1])],
            out_of_turn,
        ),
        (
            "asks whole for no delta",
            vec![pushed(PushReply::NeedFull { items: vec![0] })],
            out_of_turn,
        ),
        (
            "asks whole for no item",
            vec![pushed(PushReply::NeedFull { items: vec![u32::MAX] })],
            out_of_turn,
        ),
        (
            "asks whole for nothing",
            vec![pushed(PushReply::NeedFull { items: vec![] })],
            out_of_turn,
        ),
        (
            "has another one",
            vec![pushed(PushReply::Acked { snapshot: other, sequence: 2 })],
            out_of_turn,
        ),
        ("answers a fetch", vec![Lie::Say(done(0, None))], out_of_turn),
        ("lists refs", vec![reply(&Reply::Refs(Vec::new()))], out_of_turn),
        ("sends objects", vec![Lie::Say(batch(&[(ObjectKind::Chunk, b"x".to_vec())]))], |r| {
            matches!(r, Err(SyncError::Transport(TransportError::OutOfTurn)))
        }),
        ("sends no frame", vec![Lie::Say(vec![0xff; 5])], malformed),
        ("sends no message", vec![Lie::Say(frame(FrameKind::Message, b"\x63"))], malformed),
        (
            "sends a message and more",
            vec![Lie::Say(frame(FrameKind::Message, b"\x02\x00\x00"))],
            malformed,
        ),
        (
            "refuses",
            vec![reply(&Reply::Refused(Refusal {
                code: RefusalCode::Limit,
                message: "no".into(),
            }))],
            |r| matches!(r, Err(SyncError::Refused(refusal)) if refusal.code == RefusalCode::Limit),
        ),
        ("ends", vec![Lie::End], |r| matches!(r, Err(error) if error.is_retryable())),
        ("gives up", vec![Lie::Abandon], |r| matches!(r, Err(error) if error.is_retryable())),
        ("names a head that is not", vec![head(other)], |r| {
            matches!(r, Ok(PushOutcome::HeadMoved { head: Some((_, 5)) }))
        }),
    ];
    let closure: Vec<_> = {
        let mut all = vec![ObjectId::from(new)];
        let mut at = 0;
        while let Some(&id) = all.get(at) {
            let bytes = home.vault.require(&id).unwrap();
            let object = baton_protocol::object::Object::decode(id.kind, &bytes).unwrap();
            all.extend(object.children());
            at += 1;
        }
        all
    };
    for (what, lies, check) in cases {
        let outcome = scene.push(None, new, lies).await;
        assert!(check(&outcome), "{what}: {outcome:?}");
        let seen = scene.script.seen.lock().unwrap().clone();
        assert!(seen.iter().all(|id| closure.contains(id)), "{what}");
    }
    // All of it is still here, and nobody else's head.
    assert!(home.has(new) && home.has(old) && home.vault.heads().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_nothing_is_given_up() {
    let stall = Duration::from_millis(300);
    let scene = Scene::with(stall).await;
    let new = scene.home.snapshot(&project(), 1);
    let pushed = scene.push(None, new, vec![Lie::Silence]).await.map(drop);
    let never = SnapshotId::from_bytes([1; 32]);
    let fetched = scene.fetch(never, vec![Lie::Silence]).await.map(drop);
    for outcome in [pushed, fetched] {
        let error = outcome.unwrap_err();
        let timeout = matches!(&error, SyncError::Transport(TransportError::Timeout { after, .. })
            if *after == stall * 10);
        assert!(timeout && error.is_retryable(), "{error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fetch_believes_what_it_can_check() {
    let scene = Scene::new().await;
    let far = Home::new();
    *scene.script.vault.lock().unwrap() = Some(far.vault.clone());
    let id = far.snapshot(&project(), 1);
    let bytes = far.vault.require(&id.into()).unwrap();
    let root = ObjectId::from(load_snapshot(&far.vault, id).unwrap().root);
    let snapshot = || batch(&[(ObjectKind::Snapshot, bytes.clone())]);
    let chunk = || batch(&[(ObjectKind::Chunk, b"x".to_vec())]);
    let say = |parts: &[Vec<u8>]| Lie::Say(parts.concat());
    let delta = {
        let mut items = Batch::new();
        items.push_delta(id.into(), &bytes, id.into(), &bytes).unwrap();
        frame(FrameKind::Objects, &items.finish().unwrap())
    };
    // A record of the snapshot with some other objects, whatever is said of their ids.
    let record = |said: ObjectId, others: &[&[u8]]| {
        let mut builder = RecordBuilder::default();
        builder.push(said, &bytes);
        for &other in others {
            builder.push(ObjectId::of(ObjectKind::Chunk, other), other);
        }
        frame(FrameKind::Record, &builder.encode(Class::Metadata).unwrap())
    };
    let chunks = {
        let mut builder = RecordBuilder::default();
        builder.push(ObjectId::of(ObjectKind::Chunk, b"x"), b"x");
        frame(FrameKind::Record, &builder.encode(Class::Data).unwrap())
    };
    let mut flipped = record(id.into(), &[]);
    *flipped.last_mut().unwrap() ^= 1;
    let unasked: Check<u64> = |r| matches!(r, Err(SyncError::Fetch(FetchError::Unasked(_))));
    let out_of_turn: Check<u64> = |r| matches!(r, Err(SyncError::Fetch(FetchError::OutOfTurn)));
    let no_record: Check<u64> = |r| matches!(r, Err(SyncError::Record));
    let not_due: Check<u64> = |r| matches!(r, Err(SyncError::OutOfTurn));
    let absent: Check<u64> = |r| matches!(r, Err(SyncError::Fetch(FetchError::Absent(_))));
    let unread: Check<u64> = |r| matches!(r, Err(SyncError::Frame(_)));
    let refusal = Refusal { code: RefusalCode::Internal, message: "no".into() };
    let cases: Vec<(&str, Vec<Lie>, Check<u64>)> = vec![
        ("another object", vec![say(&[chunk(), done(1, None)])], unasked),
        (
            "its bytes as another kind",
            vec![say(&[batch(&[(ObjectKind::Chunk, bytes.clone())])])],
            unasked,
        ),
        ("one more", vec![say(&[snapshot(), chunk()])], out_of_turn),
        ("the same again", vec![say(&[snapshot(), snapshot()])], out_of_turn),
        ("an end without it", vec![say(&[done(0, None)])], out_of_turn),
        ("an end that counts more", vec![say(&[snapshot(), done(2, None)])], out_of_turn),
        (
            "two ends",
            vec![say(&[snapshot(), done(1, None), done(0, None), done(0, None)])],
            out_of_turn,
        ),
        ("something else is absent", vec![say(&[done(0, Some(root))])], out_of_turn),
        ("it is absent", vec![say(&[done(0, Some(id.into()))])], absent),
        ("its root is absent", vec![Lie::Honest, say(&[done(0, Some(root))])], absent),
        ("a delta", vec![say(&[delta])], not_due),
        ("a record with more in it", vec![say(&[record(id.into(), &[b"x"])])], no_record),
        ("a record of a directory", vec![say(&[record(id.into(), &[])])], no_record),
        ("a record that nobody asked for", vec![say(&[chunks])], unasked),
        ("a record of something else", vec![say(&[record(root, &[])])], |r| {
            matches!(r, Err(SyncError::Fetch(FetchError::Unasked(_)) | SyncError::Record))
        }),
        (
            "a record that lies about an id",
            vec![say(&[record(ObjectId::of(ObjectKind::Snapshot, b"x"), &[])])],
            no_record,
        ),
        ("a damaged record", vec![say(&[flipped])], no_record),
        ("a record that is none", vec![say(&[frame(FrameKind::Record, b"BTNR")])], no_record),
        ("an answer to a push", vec![pushed(PushReply::HeadMoved { head: None })], not_due),
        ("a batch that is none", vec![say(&[frame(FrameKind::Objects, b"\x01")])], unread),
        ("a message that is none", vec![say(&[frame(FrameKind::Message, b"\x63")])], unread),
        ("no frame", vec![say(&[vec![0xff; 5]])], |r| {
            matches!(r, Err(SyncError::Transport(TransportError::Malformed(_))))
        }),
        ("a refusal", vec![reply(&Reply::Refused(refusal))], |r| {
            matches!(r, Err(SyncError::Refused(_)))
        }),
        ("an end of all", vec![Lie::End], |r| matches!(r, Err(error) if error.is_retryable())),
        (
            "half of it",
            vec![Lie::Honest, Lie::Abandon],
            |r| matches!(r, Err(error) if error.is_retryable()),
        ),
    ];
    for (what, lies, check) in cases {
        let outcome = scene.fetch(id, lies).await;
        assert!(check(&outcome), "{what}: {outcome:?}");
        assert!(!scene.home.has(id), "{what}");
    }
    let honest = || (0..50).map(|_| Lie::Honest).collect();
    let limited = {
        scene.lie(honest());
        scene.home.fetch_within(&scene.remote, id, 20).await
    };
    assert!(matches!(limited, Err(SyncError::TooMany { limit: 20 })), "{limited:?}");
    scene.fetch(id, honest()).await.unwrap();
    assert!(scene.home.has(id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_of_a_fetch_that_was_cut_off_does_not_come_again() {
    let scene = Scene::new().await;
    let far = Home::new();
    *scene.script.vault.lock().unwrap() = Some(far.vault.clone());
    let id = far.snapshot(&bulk(1), 1);
    // The snapshot, its root, its folders; then half of the files.
    let mut lies: Vec<_> = (0..3).map(|_| Lie::Honest).collect();
    lies.push(Lie::Half);
    let cut = scene.fetch(id, lies).await.unwrap_err();
    assert!(cut.is_retryable(), "{cut}");
    assert!(!scene.home.has(id));
    let rest = scene.fetch(id, (0..50).map(|_| Lie::Honest).collect()).await.unwrap();
    assert_eq!(rest, 20);
    assert!(scene.home.has(id));
}

/// Snapshots that are whole by their hashes, made by whoever runs the node.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lies_about_itself_is_not_kept() {
    let scene = Scene::new().await;
    let far = Home::new();
    *scene.script.vault.lock().unwrap() = Some(far.vault.clone());
    let intake = far.vault.intake();
    let tree = |name: &str, kind| {
        let entry = Entry { name: name.into(), kind };
        let bytes = Tree::Leaf(vec![entry]).encode();
        TreeId::from_bytes(intake.put(ObjectKind::Tree, &bytes).unwrap().hash)
    };
    let x = ChunkId::from_bytes(intake.put(ObjectKind::Chunk, b"x").unwrap().hash);
    let file =
        |size| EntryKind::File { mode: 0o644, blob: Blob { size, content: Content::Chunk(x) } };
    let inner = tree("f", file(1));
    let below = TreeSums { files: 1 << 40, bytes: 1 };
    let git = tree(".git", file(1));
    let no_tree = TreeId::from_bytes(intake.put(ObjectKind::Tree, b"\xff").unwrap().hash);
    for (what, root, contradicted) in [
        ("sums", tree("d", EntryKind::Directory { mode: 0o755, tree: inner, below }), true),
        ("a length", tree("f", file(2)), true),
        ("a git folder", git, false),
        ("a tree that is none", no_tree, false),
    ] {
        let id = put_snapshot(&intake, &snapshot_of(root, far.device(), 1));
        // It stays in the intake of the node: nothing checks it there.
        let objects: Vec<ObjectId> = vec![id.into(), root.into(), inner.into(), x.into()];
        let answers = objects.iter().map(|object| {
            let bytes = intake.require(object).unwrap();
            Lie::Say([batch(&[(object.kind, bytes)]), done(1, None)].concat())
        });
        let lies = match what {
            "a length" => {
                answers.enumerate().filter(|(at, _)| *at != 2).map(|(_, lie)| lie).collect()
            }
            _ => answers.collect(),
        };
        let outcome = scene.fetch(id, lies).await;
        match outcome {
            Err(SyncError::Contradicted(_)) => assert!(contradicted, "{what}"),
            Err(SyncError::Fetch(FetchError::Malformed { .. })) => assert!(!contradicted, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert!(
            scene.home.vault.intake().missing(id.into(), 1).map_or(true, |ids| !ids.is_empty())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_answers_end_what_is_sent_ahead() {
    // With the last one the record that is wanted is not there, and the end is answered wrong.
    for answer in [
        Reply::Ahead(AheadReply::Kept),
        Reply::Push(PushReply::HeadMoved { head: None }),
        Reply::Ahead(AheadReply::Wanted(true)),
    ] {
        // On a connection of its own: it says the same for as long as anybody listens.
        let scene = Scene::new().await;
        *scene.script.plain.lock().unwrap() = encode(&answer).unwrap();
        let (to, from) = std::sync::mpsc::channel();
        let at = Location { segment: 9, offset: 0, record_len: 9, inner: 0, len: 1 };
        to.send(Fresh { at, chunks: vec![[1; 8]] }).unwrap();
        drop(to);
        let (outcome, sent) = send_from(&scene.home, &scene.remote, from).await;
        assert!(matches!(outcome, Err(SyncError::OutOfTurn)), "{answer:?}: {outcome:?}");
        assert_eq!(sent.objects_sent, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_without_end_and_other_answers_are_not_taken() {
    let scene = Scene::new().await;
    let say = |frames: Vec<u8>| *scene.script.plain.lock().unwrap() = frames;
    let head = Head {
        workspace: WORKSPACE,
        device: DeviceId::from_bytes([1; 32]),
        snapshot: SnapshotId::from_bytes([1; 32]),
        sequence: 1,
    };
    let ask = async |request| within(scene.home.pool.request(&scene.remote, request)).await;
    say(encode(&Reply::Refs(vec![head; 5000])).unwrap());
    let endless = ask(Request::Refs).await;
    assert!(matches!(endless, Err(ClientError::TooLong { .. })), "{endless:?}");
    // The first is an answer; what has an end is over with it, and no further page is empty.
    say(encode(&Reply::Runs(Vec::<RunInfo>::new())).unwrap());
    for request in [Request::Refs, Request::ListRuns] {
        let other = ask(request).await;
        assert!(matches!(other, Err(ClientError::OutOfTurn)), "{other:?}");
    }
    let mixed = [Reply::Refs(vec![head]), Reply::Runs(Vec::new())];
    say(mixed.iter().flat_map(|reply| encode(reply).unwrap()).collect());
    assert!(matches!(ask(Request::Refs).await, Err(ClientError::OutOfTurn)));
    say(vec![0xff; 5]);
    for request in [Request::Refs, Request::ListRuns] {
        let error = ask(request).await.unwrap_err();
        let malformed = matches!(&error, ClientError::Transport(TransportError::Malformed(_)));
        assert!(malformed && !error.is_retryable(), "{error:?}");
    }
    assert_eq!(scene.node.connected().len(), 1);
}

//! A client of one vault that asks, offers and guesses in every way that the protocol has, to learn what
//! another vault of the node holds: each answer is, byte for byte, the same whatever that is, and costs the node as many
//! operations on its files.

use baton_protocol::id::{HashPrefix, RunId, ThreadId};
use baton_protocol::message::secrets::SecretEntry;
use baton_protocol::message::{AheadRequest, PushRequest, RunSpec, Terms};

use super::*;
use baton_store::fs::simulated::{Disk, Followed};

/// What was asked, what came back, and how many operations on files that took.
type Answer = (&'static str, Vec<u8>, u64);

/// What the prober knows of a snapshot that it was never given.
struct Known {
    snapshot: SnapshotId,
    /// Of every kind, from the top down.
    ids: Vec<ObjectId>,
    /// The bytes of one file, of its chunk and of a directory.
    file: Vec<u8>,
    tree: Vec<u8>,
}

/// Learns everything of a snapshot, as who has its files can.
fn known(files: &Files, device: DeviceId) -> Known {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).unwrap();
    let vault = store.vault(baton_protocol::id::VaultId::from_bytes([3; 16])).unwrap();
    let snapshot = keep_files(vault.intake(), files, device, 1);
    let root = load_snapshot(&vault, snapshot).unwrap().root;
    let mut ids: Vec<ObjectId> = vec![snapshot.into(), root.into()];
    // Each is one chunk.
    ids.extend(files.values().map(|bytes| ObjectId::of(ObjectKind::Chunk, bytes)));
    let file = files.values().next().unwrap().clone();
    let tree = vault.read(&root.into()).unwrap().unwrap();
    Known { snapshot, ids, file, tree }
}

/// Every frame that comes, until the node says no more or waits for us.
async fn heard(stream: &mut FrameStream) -> Vec<u8> {
    let mut all = Vec::new();
    let mut listen = async || -> Result<(), TransportError> {
        while let Some(frame) = stream.read_frame().await? {
            all.extend_from_slice(&encode_header(frame.kind, frame.body.len()).unwrap());
            all.extend_from_slice(&frame.body);
        }
        Ok(())
    };
    // Who waits for us has said what it has to say.
    let quiet = tokio::time::timeout(Duration::from_millis(400), listen()).await;
    if let Ok(Err(error)) = quiet {
        all.extend_from_slice(error.to_string().as_bytes());
    }
    all
}

async fn asked<T: serde::Serialize>(
    home: &Home,
    remote: &Remote,
    request: Request,
    then: &[T],
    bytes: &[u8],
) -> Vec<u8> {
    let mut stream = home.pool.open(remote).await.unwrap();
    stream.send(&Opening::new(request)).await.unwrap();
    for message in then {
        stream.send(message).await.unwrap();
    }
    stream.write(bytes).await.unwrap();
    heard(&mut stream).await
}

/// Asks in every way; the answers in their order.
async fn probed(home: &Home, remote: &Remote, known: &Known, disk: &Followed) -> Vec<Answer> {
    let mut all = Vec::new();
    let mut before = disk.operations();
    let mut note = |what, answer| {
        let now = disk.operations();
        all.push((what, answer, now - std::mem::replace(&mut before, now)));
    };
    let none: [u8; 0] = [];
    let Known { snapshot, ids, file, tree } = known;
    // Read by id: all at once, and each.
    let want = |ids: Vec<ObjectId>| FetchRequest::Want(ids.into_iter().map(Into::into).collect());
    note("want all", asked(home, remote, Request::Fetch, &[want(ids.clone())], &none).await);
    for id in ids.iter().take(4) {
        let one = want(vec![*id]);
        note("want one", asked(home, remote, Request::Fetch, &[one], &none).await);
    }
    // Push what is said to be there already: nothing, with it as the base, and as our own.
    let push = |base, new| Request::Push(hello(base, new));
    let commit = [PushRequest::Commit];
    note("push it", asked(home, remote, push(None, *snapshot), &commit, &none).await);
    note("on it", asked(home, remote, push(Some(*snapshot), *snapshot), &commit, &none).await);
    // A snapshot of ours over a directory of theirs.
    let (root, device) = (ids[1], home.device());
    let mine = snapshot_of(TreeId::from_bytes(root.hash), device, 1).encode();
    let id = SnapshotId::from_bytes(ObjectId::of(ObjectKind::Snapshot, &mine).hash);
    let objects = |mut batch: Batch| {
        let body = batch.finish().unwrap();
        let header = encode_header(FrameKind::Objects, body.len()).unwrap();
        let commit = baton_protocol::message::encode(&PushRequest::Commit).unwrap();
        [&header[..], &body, &commit].concat()
    };
    let mut batch = Batch::new();
    batch.push_full(ObjectKind::Snapshot, &mine);
    let bytes = objects(batch);
    note("our root", asked::<PushRequest>(home, remote, push(None, id), &[], &bytes).await);
    // An object as what differs from one of theirs: restored only where that is there.
    let chunk = ObjectId::of(ObjectKind::Chunk, file);
    for (base, bytes) in [(chunk, file), (root, tree)] {
        let mut batch = Batch::new();
        batch.push_delta(base, bytes, base, bytes).unwrap();
        let bytes = objects(batch);
        note("a delta", asked::<PushRequest>(home, remote, push(None, id), &[], &bytes).await);
    }
    // Offer file data by its hash.
    let offer: Vec<HashPrefix> = ids.iter().map(ObjectId::prefix).collect();
    let offers = [AheadRequest::Offer(offer.clone()), AheadRequest::Offer(offer[..1].to_vec())];
    note("offer", asked(home, remote, Request::Ahead, &offers, &none).await);
    // Start from it, ask for runs of others, and for lists.
    let (run, thread) = (RunId::from_bytes([8; 16]), ThreadId::from_bytes([8; 16]));
    let spec = RunSpec {
        run: RunId::from_bytes([0x55; 16]),
        thread,
        workspace: WORKSPACE,
        snapshot: *snapshot,
        agent: "command".to_owned(),
        command: vec![b"true".to_vec()],
        prompt: None,
        parent: None,
        terms: Terms::default(),
    };
    let entry = SecretEntry { name: "TOKEN".to_owned(), agent: None, push: None };
    for (what, request) in [
        ("run", Request::CreateRun(spec)),
        ("refs", Request::Refs),
        ("runs", Request::ListRuns),
        ("show", Request::ShowRun(run)),
        ("logs", Request::Logs { run, from: 0, follow: false }),
        ("wait", Request::WaitRun(run)),
        ("cancel", Request::CancelRun(run)),
        ("delete", Request::DeleteRun(run)),
        ("keep", Request::KeepRun(run)),
        ("secrets", Request::ListSecrets),
        ("no secret", Request::RemoveSecret(entry)),
    ] {
        note(what, asked::<PushRequest>(home, remote, request, &[], &none).await);
    }
    all
}

/// A node on which somebody else keeps these files, and the prober a project of its own.
async fn world(prober: &Home, theirs: &Files, probe: &Known) -> (Cloud, Followed, Vec<Answer>) {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    // Counts, and has what goes on beside go on in the same order each time.
    let disk = Disk::follow(&folder.path().join("store"), 1);
    let cloud = Cloud::start_in(folder, &Settings::default());
    let remote = cloud.remote();
    let other = cloud.joined(Home::new(), "other").await;
    let kept = other.snapshot(theirs, 1);
    other.pushed(&remote, None, kept).await;
    join(prober, &cloud.catalog, &remote, "prober", &cloud.clock).await;
    let answers = probed(prober, &remote, probe, &disk).await;
    (cloud, disk, answers)
}

fn assert_same(these: &[Answer], those: &[Answer]) {
    assert_eq!(these.len(), those.len());
    for (this, that) in these.iter().zip(those) {
        let lens = (this.1.len(), that.1.len());
        assert!(this.1 == that.1, "{} and {} differ, {lens:?} bytes", this.0, that.0);
        assert_eq!(this.2, that.2, "operations for {}", this.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_vault_holds_changes_no_byte_of_any_answer_and_no_operation() {
    // More than stays in the journal: what is offered is looked up in segments.
    let secret: Files = (0..6).map(|at| (format!("f{at}"), noise(7000 + at, 200_000))).collect();
    let others: Files = (0..6).map(|at| (format!("f{at}"), noise(9000 + at, 200_000))).collect();
    let prober = Home::new();
    let known = known(&secret, prober.device());
    let (_one, _disk, held) = world(&prober, &secret, &known).await;
    let (two, disk, not_held) = world(&prober, &others, &known).await;
    assert_same(&held, &not_held);
    // What is asked for does reach something: of one's own vault the answers are others.
    let own = prober.snapshot(&secret, 1);
    prober.pushed(&two.remote(), None, own).await;
    let mine = probed(&prober, &two.remote(), &known, &disk).await;
    let differ: Vec<_> = mine
        .iter()
        .zip(&held)
        .filter(|(mine, held)| mine != held)
        .map(|(mine, _)| mine.0)
        .collect();
    for what in ["want all", "want one", "push it", "offer", "run", "refs"] {
        assert!(differ.contains(&what), "{what} tells nothing of one's own vault: {differ:?}");
    }
    // What is one's own is read.
    let read = |answers: &[Answer]| answers.iter().find(|it| it.0 == "want one").map(|it| it.2);
    assert_eq!((read(&held), read(&mine)), (Some(0), Some(1)));
}

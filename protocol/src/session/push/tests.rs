//! Pushes to a node that knows much, little, something wrong, or means harm.

use proptest::prelude::*;

use super::*;
use crate::batch::Parcel;
use crate::id::{ObjectKind, TreeId};
use crate::message::{MAX_ITEMS, RefusalCode, VERSION, Welcome, WireId};
use crate::session::model::{Files, Node, Objects, Pushed, hello, push};

fn text(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes());
    hasher.finalize_xof().fill(&mut bytes);
    bytes
}

fn files(count: u64) -> Files {
    (0..count).map(|i| (format!("d{}/e{}/f{i}", i % 3, i % 7), text(i, 2000))).collect()
}

/// Two snapshots, the second with one file edited and one new.
struct Edit {
    client: Objects,
    base: SnapshotId,
    new: SnapshotId,
    before: Objects,
}

fn edit() -> Edit {
    let mut client = Objects::default();
    let mut files = files(60);
    let base = client.snapshot(&files, Vec::new(), 1);
    let before = client.clone();
    files.get_mut("d0/e0/f0").unwrap()[1000] ^= 1;
    files.insert("d1/new".into(), text(1000, 600_000));
    let new = client.snapshot(&files, vec![base], 2);
    Edit { client, base, new, before }
}

fn cold(client: &Objects, new: SnapshotId) -> Vec<Planned> {
    let Object::Snapshot(snapshot) = client.object(new.into()) else { panic!() };
    [new.into(), snapshot.root.into()].map(|id| Planned { id, base: None }).to_vec()
}

fn assert_acked(pushed: &Pushed, node: &Node, client: &Objects, new: SnapshotId) {
    assert!(matches!(pushed.outcome, PushOutcome::Acked { snapshot, .. } if snapshot == new));
    assert_eq!(node.head.map(|(id, _)| id), Some(new));
    assert_eq!(node.objects.closure(new.into()), client.closure(new.into()));
    let same = |id| client.0[id] == node.objects.0[id];
    assert!(node.objects.closure(new.into()).iter().all(same));
}

#[test]
fn a_known_base_takes_one_round_trip_and_what_changed() {
    let Edit { client, base, new, before } = edit();
    let mut node = Node::new(before, Some((base, 1)));
    let plan = client.plan(base, new);
    let pushed = push(&client, &mut node, Some(base), new, plan.clone()).unwrap();
    assert_acked(&pushed, &node, &client, new);
    assert_eq!(pushed.stats.round_trips, 1);
    // A snapshot; the root, d0, e0 and d1; an edited chunk; a manifest of three chunks.
    assert_eq!(pushed.stats.objects_sent, 10);
    assert_eq!(plan.len(), 10);
    assert!(pushed.stats.bytes_sent < 602_500, "{}", pushed.stats.bytes_sent);
}

#[test]
fn an_unknown_base_is_negotiated_from_the_top_down() {
    let Edit { client, new, .. } = edit();
    let mut node = Node::new(Objects::default(), None);
    let pushed = push(&client, &mut node, None, new, cold(&client, new)).unwrap();
    assert_acked(&pushed, &node, &client, new);
    assert_eq!(pushed.stats.objects_sent, client.closure(new.into()).len() as u64);
    // Snapshot and root; d0 to d2; e0 to e6 and a manifest; chunks.
    assert_eq!(pushed.stats.round_trips, 4);
}

#[test]
fn what_the_node_has_is_pruned_subtree_by_subtree() {
    let Edit { client, new, before, .. } = edit();
    let mut node = Node::new(before, None);
    let pushed = push(&client, &mut node, None, new, cold(&client, new)).unwrap();
    assert_acked(&pushed, &node, &client, new);
    assert_eq!(pushed.stats.objects_sent, 10);
}

#[test]
fn few_ids_an_answer_only_cost_trips() {
    let Edit { client, new, .. } = edit();
    let mut node = Node::new(Objects::default(), None);
    node.limit = 7;
    let pushed = push(&client, &mut node, None, new, cold(&client, new)).unwrap();
    assert_acked(&pushed, &node, &client, new);
}

#[test]
fn deltas_without_their_base_are_sent_whole() {
    let Edit { client, base, new, mut before } = edit();
    let lost = client.plan(base, new).into_iter().filter_map(|planned| planned.base);
    for id in lost.filter(|id| id.kind == ObjectKind::Chunk || id.kind == ObjectKind::Tree) {
        before.0.remove(&id);
    }
    let mut node = Node::new(before, Some((base, 1)));
    let pushed = push(&client, &mut node, Some(base), new, client.plan(base, new)).unwrap();
    assert_acked(&pushed, &node, &client, new);
    assert_eq!(pushed.stats.round_trips, 2);
    // All that stand in one batch with them, too; the first chunks of the large file had one of their own.
    assert_eq!(pushed.stats.objects_sent, 10 + 7);
}

#[test]
fn a_delta_that_was_restored_from_another_object_is_sent_whole() {
    let Edit { client, base, new, before } = edit();
    let mut node = Node::new(before, Some((base, 1)));
    // Every base is damaged at the node, as if another object had its prefix.
    for planned in client.plan(base, new) {
        if let Some(base) = planned.base {
            let bytes = node.objects.0.get_mut(&base).unwrap();
            let at = bytes.len() - 5;
            bytes[at] ^= 1;
        }
    }
    let before = node.objects.0.len();
    let pushed = push(&client, &mut node, Some(base), new, client.plan(base, new)).unwrap();
    assert!(matches!(pushed.outcome, PushOutcome::Acked { .. }));
    assert!(pushed.stats.round_trips > 1);
    assert!(node.objects.0.len() > before);
    for id in client.closure(new.into()) {
        assert_eq!(node.objects.0[&id], client.0[&id]);
    }
}

#[test]
fn an_object_without_what_is_below_it_does_not_stop_a_push() {
    let Edit { client, base, new, before } = edit();
    // Below directories that neither side has a reason to send.
    for lost in [ObjectId::of(ObjectKind::Chunk, &text(5, 2000)), {
        let tree = before.0.keys().filter(|id| id.kind == ObjectKind::Tree).copied();
        let is_base = |id| client.plan(base, new).iter().any(|planned| planned.base == Some(id));
        let is_parent = |id| before.object(id).children().len() == 3 && !is_base(id);
        let parents: Vec<_> = tree.filter(|&id| is_parent(id)).collect();
        *parents.first().unwrap()
    }] {
        let mut node = Node::new(before.clone(), Some((base, 1)));
        node.objects.0.remove(&lost).unwrap();
        let pushed = push(&client, &mut node, Some(base), new, client.plan(base, new)).unwrap();
        assert_acked(&pushed, &node, &client, new);
        assert_eq!(pushed.stats.round_trips, 2);
        assert_eq!(pushed.stats.objects_sent, 11);
    }
}

#[test]
fn a_moved_head_ends_the_push() {
    let Edit { client, base, new, before } = edit();
    let other = SnapshotId::of(b"other");
    let mut node = Node::new(before, Some((other, 9)));
    let pushed = push(&client, &mut node, Some(base), new, client.plan(base, new)).unwrap();
    assert_eq!(pushed.outcome, PushOutcome::HeadMoved { head: Some((other, 9)) });
}

#[test]
fn a_large_push_goes_in_batches_of_bounded_size() {
    let mut client = Objects::default();
    let files = (0..30).map(|i| (format!("f{i}"), text(i, 250_000))).collect();
    let new = client.snapshot(&files, Vec::new(), 1);
    let plan = client.closure(new.into()).into_iter().map(|id| Planned { id, base: None });
    let mut node = Node::new(Objects::default(), None);
    let pushed = push(&client, &mut node, None, new, plan.collect()).unwrap();
    assert_acked(&pushed, &node, &client, new);
    assert_eq!(pushed.stats.round_trips, 1);
}

/// Pushes the edit to a node that first answers `lies`.
fn lied_to(lies: Vec<Reply>) -> Result<Pushed, PushError> {
    let Edit { client, base, new, before } = edit();
    let mut node = Node::new(before, Some((base, 1)));
    node.lies = lies;
    push(&client, &mut node, Some(base), new, client.plan(base, new))
}

fn missing(ids: &[ObjectId]) -> Reply {
    Reply::Push(PushReply::Missing { ids: ids.iter().map(|&id| id.into()).collect(), more: false })
}

#[test]
fn a_node_cannot_ask_for_what_the_snapshot_does_not_contain() {
    let Edit { mut client, base, new, before } = edit();
    let secret = client.put(ObjectKind::Chunk, b"of another workspace".to_vec());
    for asked in [secret, base.into(), ObjectId::of(ObjectKind::Chunk, b"nowhere")] {
        let mut node = Node::new(before.clone(), Some((base, 1)));
        node.lies = vec![missing(&[asked])];
        let refused = push(&client, &mut node, Some(base), new, client.plan(base, new));
        assert!(matches!(refused, Err(PushError::NotOffered(id)) if id == asked));
    }
}

#[test]
fn looking_for_what_a_node_asks_loads_metadata_once_and_no_content() {
    let Edit { mut client, base, new, before } = edit();
    let plan = client.plan(base, new);
    let stranger = client.put(ObjectKind::Chunk, b"of another workspace".to_vec());
    let mut sender = PushSender::new(hello(Some(base), new), plan.clone());
    let mut loaded = Vec::new();
    let error = loop {
        match sender.poll() {
            Ok(PushAction::Load(planned)) => {
                loaded.push(planned.id);
                sender.supply(&client.0[&planned.id], None).unwrap();
            }
            Ok(PushAction::Send(_) | PushAction::Gather(_)) => {}
            Ok(PushAction::Receive) => sender.receive(missing(&[stranger])).unwrap(),
            Ok(PushAction::Finish(_)) => panic!("nothing was acknowledged"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, PushError::NotOffered(id) if id == stranger));
    let looked_into: Vec<_> = loaded.split_off(plan.len());
    let metadata = client.closure(new.into()).into_iter().filter(|id| id.kind.is_metadata());
    let sent: BTreeSet<_> = plan.iter().map(|planned| planned.id).collect();
    let expected: BTreeSet<_> = metadata.filter(|id| !sent.contains(id)).collect();
    assert!(!expected.is_empty());
    assert_eq!(looked_into.len(), expected.len());
    assert_eq!(looked_into.into_iter().collect::<BTreeSet<_>>(), expected);
    drop(before);
}

#[test]
fn a_record_goes_once_and_only_with_what_the_snapshot_contains() {
    let mut client = Objects::default();
    let new = client.snapshot(&files(100), Vec::new(), 1);
    let mut chunks: Vec<ObjectId> = client.closure(new.into()).into_iter().collect();
    chunks.retain(|id| !id.kind.is_metadata());
    chunks.sort_unstable();
    let lengths = |ids: &[ObjectId]| -> Vec<(ObjectId, usize)> {
        ids.iter().map(|id| (*id, client.0[id].len())).collect()
    };
    let stranger = (ObjectId::of(ObjectKind::Chunk, b"of another tree"), 15);
    let offer = |sender: &mut PushSender, record: &[(ObjectId, usize)]| {
        sender.take_record(record.iter().map(|(id, len)| (id, *len)), 1000)
    };
    let mut sender = PushSender::new(hello(None, new), cold(&client, new));
    let mut sent = Vec::new();
    let mut node = Node::new(Objects::default(), None);
    node.limit = 1000;
    let mut replies = Vec::new();
    let mut record_bytes = 0;
    let (first, rest) = chunks.split_at(40);
    loop {
        match sender.poll().unwrap() {
            PushAction::Load(Planned { id, .. }) => {
                sent.push(id);
                sender.supply(&client.0[&id], None).unwrap();
            }
            PushAction::Gather(wanted) => {
                assert_eq!(wanted.iter().collect::<BTreeSet<_>>(), chunks.iter().collect());
                assert_eq!(sender.queued(), chunks.len());
                let mut mixed = lengths(first);
                mixed.push(stranger);
                assert!(!offer(&mut sender, &mixed));
                assert!(offer(&mut sender, &lengths(first)));
                assert!(!offer(&mut sender, &lengths(first)));
                record_bytes = 1000;
                for id in first {
                    node.objects.put(ObjectKind::Chunk, client.0[id].clone());
                }
                assert_eq!(sender.queued(), rest.len());
            }
            PushAction::Send(frame) => replies.extend(node.take(&frame)),
            PushAction::Receive => sender.receive(replies.pop().unwrap()).unwrap(),
            PushAction::Finish(_) => break,
        }
    }
    assert!(first.iter().all(|id| !sent.contains(id)) && rest.iter().all(|id| sent.contains(id)));
    assert_eq!(sender.stats().objects_sent, client.closure(new.into()).len() as u64);
    assert!(sender.stats().bytes_sent > record_bytes);
}

#[test]
fn a_node_cannot_ask_twice() {
    let sent = ObjectId::of(ObjectKind::Chunk, &text(1000, 600_000)[..256 * 1024]);
    let asked_again = lied_to(vec![missing(&[sent])]);
    assert!(matches!(asked_again, Err(PushError::NotOffered(id)) if id == sent));
    // Whole, but beside deltas, without which it may not have come out: once more.
    let Edit { client, base, new, .. } = edit();
    let mut plan = client.plan(base, new).into_iter().map(|planned| planned.id);
    let beside = plan.find(|id| id.kind == ObjectKind::Manifest).unwrap();
    assert!(lied_to(vec![missing(&[beside])]).is_ok());
    let asked_again = lied_to(vec![missing(&[beside]), missing(&[beside])]);
    assert!(matches!(asked_again, Err(PushError::NotOffered(id)) if id == beside));
    // Unchanged, so that it may be asked for: once.
    let open = ObjectId::of(ObjectKind::Chunk, &text(7, 2000));
    assert!(lied_to(vec![missing(&[open])]).is_ok());
    for lies in [vec![missing(&[open]), missing(&[open])], vec![missing(&[open, open])]] {
        assert!(matches!(lied_to(lies), Err(PushError::NotOffered(id)) if id == open));
    }
}

#[test]
fn a_delta_may_be_asked_for_once_more_by_either_message() {
    let Edit { client, base, new, .. } = edit();
    let plan = client.plan(base, new);
    let item = plan.iter().position(|planned| planned.base.is_some()).unwrap();
    let id = plan[item].id;
    let need = || Reply::Push(PushReply::NeedFull { items: vec![item as u32] });
    assert!(lied_to(vec![need()]).is_ok());
    assert!(lied_to(vec![missing(&[id])]).is_ok());
    assert!(matches!(lied_to(vec![need(), need()]), Err(PushError::OutOfTurn)));
    for lies in [vec![need(), missing(&[id])], vec![missing(&[id]), need()]] {
        assert!(matches!(lied_to(lies), Err(PushError::NotOffered(asked)) if asked == id));
    }
}

#[test]
fn answers_out_of_turn_are_refused() {
    let other = SnapshotId::of(b"other");
    let welcome = Welcome {
        user: String::new(),
        device: crate::id::DeviceId::from_bytes([0; 32]),
        role: String::new(),
        program: String::new(),
    };
    let many = vec![WireId::from(ObjectId::from(other)); MAX_IDS + 1];
    for lie in [
        missing(&[]),
        Reply::Push(PushReply::Missing { ids: many, more: false }),
        Reply::Push(PushReply::NeedFull { items: Vec::new() }),
        Reply::Push(PushReply::NeedFull { items: vec![9999] }),
        Reply::Push(PushReply::Acked { snapshot: other, sequence: 2 }),
        Reply::Welcome(welcome),
        Reply::Runs(Vec::new()),
    ] {
        let refused = lied_to(vec![lie.clone()]);
        assert!(matches!(refused, Err(PushError::OutOfTurn)), "{lie:?}: {refused:?}");
    }
    let refusal = Refusal { code: RefusalCode::DiskFull, message: "full".into() };
    let refused = lied_to(vec![Reply::Refused(refusal.clone())]);
    assert!(matches!(refused, Err(PushError::Refused(found)) if found == refusal));
}

#[test]
fn a_driver_out_of_step_is_told() {
    let Edit { client, new, .. } = edit();
    let mut sender = PushSender::new(hello(None, new), cold(&client, new));
    assert!(matches!(sender.supply(b"", None), Err(PushError::OutOfTurn)));
    assert!(matches!(sender.receive(missing(&[])), Err(PushError::OutOfTurn)));
    let PushAction::Send(opening) = sender.poll().unwrap() else { panic!() };
    assert_eq!(Opening::decode(&opening[5..]).unwrap().newest, VERSION);
    // Asking again does not skip what was not handed over.
    for _ in 0..2 {
        assert!(matches!(
            sender.poll(),
            Ok(PushAction::Load(planned)) if planned.id == new.into()
        ));
    }
    assert!(matches!(sender.supply(b"damaged", None), Err(PushError::Damaged { .. })));
}

#[test]
fn items_that_lack_a_base_are_asked_for_in_frames_that_fit() {
    let mut receiver = PushReceiver::new();
    let parcel = |kind, bytes: &[u8], base: Option<ObjectId>| {
        let mut batch = Batch::new();
        for _ in 0..if base.is_some() { 100 } else { 1 } {
            match base {
                Some(base) => {
                    batch.push_delta(ObjectId::of(kind, bytes), bytes, base, b"base").unwrap();
                }
                None => batch.push_full(kind, bytes),
            }
        }
        let mut parcel = Parcel::decode(&batch.finish().unwrap()).unwrap();
        while parcel.next_base().is_some() {
            parcel.supply(None);
        }
        parcel
    };
    receiver.accept_batch(parcel(ObjectKind::Chunk, b"", None)).unwrap();
    assert!(receiver.accept_batch(parcel(ObjectKind::Tree, b"no tree", None)).is_err());
    let base = ObjectId::of(ObjectKind::Chunk, b"base");
    let count = MAX_ITEMS.next_multiple_of(100) + 100;
    for _ in 0..count / 100 {
        let taken =
            receiver.accept_batch(parcel(ObjectKind::Chunk, b"object", Some(base))).unwrap();
        assert!(taken.is_empty());
    }
    assert_eq!(receiver.unresolved(), count);
    let mut all = Vec::new();
    while let Some(reply) = receiver.need_full() {
        message::encode(&Reply::Push(reply.clone())).unwrap();
        let PushReply::NeedFull { items } = reply else { panic!() };
        assert!(items.len() <= MAX_ITEMS);
        all.extend(items);
    }
    assert!(all.into_iter().eq(1..=count as u32));
}

#[test]
fn the_largest_messages_fit_a_frame() {
    let ids = vec![WireId::from(ObjectId::of(ObjectKind::Chunk, b"")); MAX_IDS];
    message::encode(&Reply::Push(PushReply::Missing { ids, more: true })).unwrap();
    let items = vec![u32::MAX; MAX_ITEMS];
    message::encode(&Reply::Push(PushReply::NeedFull { items })).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever part of it all the node has lost or kept from another push, and whatever the client
    /// believes: a push ends, and then the node has the snapshot.
    #[test]
    fn every_push_ends_with_the_whole_snapshot_at_the_node(
        old in prop::collection::btree_map("[a-c]/[a-c]/[a-e]|[a-c]/[a-e]|[a-e]{1,2}x", 0..8u64, 0..25),
        changes in prop::collection::btree_map("[a-c]/[a-c]/[a-e]|[a-c]/[a-e]|[a-e]{1,2}x", 0..8u64, 0..9),
        kept in prop::collection::vec(any::<bool>(), 100),
        known in any::<bool>(),
        limit in 1..20usize,
    ) {
        let content = |seed: &u64| text(*seed, 100 * (*seed as usize + 1));
        let mut files: Files =
            old.iter().map(|(path, seed)| (path.clone(), content(seed))).collect();
        // A name is a file or a directory, not both: directories have one letter, files at the top two.
        let mut client = Objects::default();
        let base = client.snapshot(&files, Vec::new(), 1);
        files.extend(changes.iter().map(|(path, seed)| (path.clone(), content(seed))));
        files.retain(|path, _| {
            let below = format!("{path}/");
            !old.keys().chain(changes.keys()).any(|other| other.starts_with(&below))
        });
        let new = client.snapshot(&files, vec![base], 2);
        let here: Vec<_> = client.0.keys().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut node = Node::new(Objects::default(), known.then_some((base, 1)));
        node.limit = limit;
        for (id, _) in here.iter().zip(kept.iter().cycle()).filter(|(_, kept)| **kept) {
            node.objects.0.insert(*id, client.0[id].clone());
        }
        let plan = if known { client.plan(base, new) } else { cold(&client, new) };
        let pushed = push(&client, &mut node, known.then_some(base), new, plan).unwrap();
        assert_acked(&pushed, &node, &client, new);
    }
}

#[test]
fn keys_are_half_a_hash() {
    let id = ObjectId::from(TreeId::of(b"x"));
    assert_eq!(key(&id)[..], id.hash[..16]);
    assert_eq!(id.prefix()[..], id.hash[..8]);
}

#[test]
fn a_tree_that_could_reach_a_git_folder_is_not_taken() {
    use crate::encode::DecodeError;
    use crate::object::{Blob, Content, Entry, EntryKind, Tree};
    use crate::path::NameError;
    let tree = |name: &str| {
        let content = Content::Chunk(crate::id::ChunkId::of(b""));
        let kind = EntryKind::File { mode: 0, blob: Blob { size: 0, content } };
        Tree::Leaf(vec![Entry { name: name.into(), kind }]).encode()
    };
    let mut receiver = PushReceiver::new();
    let mut accept = |bytes: &[u8]| {
        let mut batch = Batch::new();
        batch.push_full(ObjectKind::Tree, bytes);
        receiver.accept_batch(Parcel::decode(&batch.finish().unwrap()).unwrap())
    };
    for name in [".git", ".GIT ", "git~1", ".g\u{200c}it"] {
        let refused = accept(&tree(name));
        let is_named =
            |error| matches!(error, FrameError::Batch(DecodeError::Name(NameError::Git)));
        assert!(refused.is_err_and(is_named), "{name}");
        // It stays readable: a checkout that meets it names the path.
        assert!(Tree::decode(&tree(name)).is_ok());
    }
    accept(&tree(".gitignore")).unwrap();
}

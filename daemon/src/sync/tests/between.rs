//! What a push and a fetch cost and leave where both sides are honest, also when one of them was cut
//! off, forgot something, or was put back.

use std::collections::HashSet;

use baton_store::objects::OpenRecord;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_goes_in_one_round_trip_as_deltas() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let mut files = project();
    let first = home.snapshot(&files, 1);
    let cold = home.pushed(&remote, None, first).await;
    assert!(cold.round_trips > 1 && cold.objects_sent as usize > files.len(), "{cold:?}");
    files.get_mut("d3/f27.rs").unwrap().extend(b"one more line\n");
    let second = home.snapshot(&files, 2);
    let edit = home.pushed(&remote, Some(first), second).await;
    // The snapshot, its root, one folder and one file.
    assert_eq!((edit.round_trips, edit.objects_sent), (1, 4));
    assert!(edit.bytes_sent < 700, "{edit:?}");
    assert_eq!(cloud.head(&home).unwrap().snapshot, second);
    assert!(has(&cloud.vault_of(&home), second) && has(&cloud.vault_of(&home), first));

    // Another home of the same user fetches both, the second one on top of the first.
    let other = cloud.joined(Home::new(), "owner").await;
    let all = other.fetch(&remote, first).await.unwrap();
    assert_eq!(all, cold.objects_sent);
    assert_eq!(other.fetch(&remote, second).await.unwrap(), 4);
    assert_eq!(other.fetch(&remote, second).await.unwrap(), 0);
    assert!(other.has(second));
    // Of another user's vault there is nothing, whatever ids somebody knows.
    let stranger = cloud.joined(Home::new(), "stranger").await;
    let refused = stranger.fetch(&remote, second).await;
    let Err(SyncError::Fetch(baton_protocol::session::fetch::FetchError::Absent(id))) = refused
    else {
        panic!("{refused:?}")
    };
    assert_eq!(id, second.into());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_is_not_here_costs_a_round_trip_and_nothing_else() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let (a, b) = (home.snapshot(&project(), 1), home.snapshot(&bulk(1), 2));
    // The plan takes for granted that the node has the first one.
    let refused = home.push(&remote, Some(a), b).await.unwrap().0;
    assert_eq!(refused, PushOutcome::HeadMoved { head: None });
    assert_eq!(cloud.head(&home), None);
    home.pushed(&remote, None, a).await;

    // The right ref, and deltas against objects that the node has never seen.
    let mut files = project();
    files.insert("d1/new.rs".into(), b"fn new() {}\n".repeat(50));
    let unseen = home.snapshot(&[("x".into(), b"fn new() {}\n".repeat(49))].into(), 9);
    let object = |id: SnapshotId| {
        let root = load_snapshot(&home.vault, id).unwrap().root;
        baton_store::snapshot::find_entry(&home.vault, root, &path("x")).unwrap().unwrap().content()
    };
    let base = object(unseen);
    let b = home.snapshot(&files, 2);
    let mut plan = plan_push(&home.vault, Some(a), b).unwrap();
    plan.first_mut().unwrap().base = Some(base);
    let (outcome, stats) = home.push_plan(&remote, hello(Some(a), b), plan).await.unwrap();
    assert!(matches!(outcome, PushOutcome::Acked { .. }));
    // All that came with it was not restored, either.
    assert_eq!((stats.round_trips, stats.objects_sent), (2, 4 + 4));
    assert!(has(&cloud.vault_of(&home), b));
}

fn path(text: &str) -> baton_protocol::path::RelPath {
    baton_protocol::path::RelPath::new(text.as_bytes()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_that_the_node_has_lost_comes_whole() {
    let settings = Settings::default();
    let cloud = Cloud::start(&settings);
    let home = cloud.home().await;
    let mut files = project();
    files.insert("bulk".into(), noise(5, 200_000));
    let a = home.snapshot(&files, 1);
    home.pushed(&cloud.remote(), None, a).await;
    cloud.store.fold().unwrap();
    let segments = cloud.folder.path().join("store");
    let cloud = cloud.restart(&settings).await;
    // Every byte of file content on the node's disk goes bad.
    let mut spoilt = 0;
    for file in listing(&segments).iter().filter(|path| path.contains("/data/")) {
        let bytes = baton_store::fs::read_if_exists(Path::new(file), 1 << 30).unwrap().unwrap();
        let (head, tail) = bytes.split_at(bytes.len().min(200));
        let spoiled: Vec<u8> =
            head.iter().copied().chain(tail.iter().map(|byte| byte ^ 0x55)).collect();
        baton_store::fs::write_atomic(Path::new(file), &spoiled, 0o600).unwrap();
        spoilt += 1;
    }
    assert!(spoilt > 0, "{:?}", listing(&segments));
    files.get_mut("bulk").unwrap()[7] ^= 1;
    let b = home.snapshot(&files, 2);
    home.pool.forget(cloud.remote().node).await;
    let stats = home.pushed(&cloud.remote(), Some(a), b).await;
    // The file, the root and the snapshot.
    assert_eq!((stats.round_trips, stats.objects_sent), (2, 3 + 3));
    assert!(stats.bytes_sent > 200_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_was_put_back_hears_where_the_ref_is() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let mut files = project();
    let mut next = |sequence| {
        files.insert("d0/n".into(), vec![b'n'; sequence as usize]);
        home.snapshot(&files, sequence)
    };
    let (a, b, c, d) = (next(1), next(2), next(3), next(4));
    home.pushed(&remote, None, a).await;
    home.pushed(&remote, Some(a), b).await;
    // It has forgotten about b.
    let moved = home.push(&remote, Some(a), c).await.unwrap().0;
    assert_eq!(moved, PushOutcome::HeadMoved { head: Some((b, 2)) });
    assert_eq!(cloud.head(&home).unwrap().snapshot, b);
    assert!(matches!(home.push(&remote, None, c).await.unwrap().0, PushOutcome::HeadMoved { .. }));
    home.pushed(&remote, Some(b), d).await;

    // The answer was lost: the same push again, also by a home that has forgotten the key.
    for key in [[1; 16], [2; 16]] {
        let hello = PushHello { key: IdempotencyKey::from_bytes(key), ..hello(Some(b), d) };
        let plan = plan_push(&home.vault, Some(b), d).unwrap();
        let (again, stats) = home.push_plan(&remote, hello, plan).await.unwrap();
        assert_eq!(again, PushOutcome::Acked { snapshot: d, sequence: 4 });
        assert_eq!(stats.round_trips, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_pushes_of_one_ref_one_wins() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let base = home.snapshot(&project(), 1);
    home.pushed(&remote, None, base).await;
    let mut head = base;
    for round in 0..4u64 {
        let mut files = project();
        let mut rivals = Vec::new();
        for rival in 0..2u64 {
            files.insert("d5/rival".into(), format!("{round} {rival}").into_bytes());
            rivals.push(home.snapshot(&files, 2 + round));
        }
        let (one, two) = tokio::join!(
            home.push(&remote, Some(head), rivals[0]),
            home.push(&remote, Some(head), rivals[1])
        );
        let outcomes = [one.unwrap().0, two.unwrap().0];
        let now = cloud.head(&home).unwrap();
        let acked = PushOutcome::Acked { snapshot: now.snapshot, sequence: now.sequence };
        let moved = PushOutcome::HeadMoved { head: Some((now.snapshot, now.sequence)) };
        assert!(outcomes.contains(&acked) && outcomes.contains(&moved), "{outcomes:?}");
        assert!(rivals.contains(&now.snapshot));
        head = now.snapshot;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_restarted_goes_on_where_it_was() {
    let settings = Settings::default();
    let mut cloud = Cloud::start(&settings);
    let home = cloud.home().await;
    let mut files = project();
    let mut before = None;
    for sequence in 1..4u64 {
        files.insert("d2/n".into(), noise(sequence, 500));
        if sequence == 2 {
            files.extend(bulk(3));
        }
        let new = home.snapshot(&files, sequence);
        let stats = home.pushed(&cloud.remote(), before, new).await;
        assert!(sequence == 1 || stats.round_trips == 1, "{stats:?}");
        before = Some(new);
        home.pool.forget(cloud.remote().node).await;
        cloud = cloud.restart(&settings).await;
        assert_eq!(cloud.head(&home).unwrap().snapshot, new);
    }
    let other = cloud.joined(Home::new(), "owner").await;
    other.fetch(&cloud.remote(), before.unwrap()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_push_that_was_cut_off_had_sent_is_not_sent_again() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let files = bulk(1);
    let new = home.snapshot(&files, 1);
    let mut stream = home.pool.open(&remote).await.unwrap();
    stream.send(&Opening::new(Request::Push(hello(None, new)))).await.unwrap();
    let sent: Vec<_> = files.values().take(30).cloned().collect();
    for pair in sent.chunks(4) {
        let objects: Vec<_> = pair.iter().map(|bytes| (ObjectKind::Chunk, bytes.clone())).collect();
        stream.write(&batch(&objects)).await.unwrap();
    }
    // The machine goes to sleep between two frames; what it had sent arrives.
    stream.finish();
    assert!(matches!(stream.read_frame().await, Ok(None)));
    drop(stream);
    let stats = home.pushed(&remote, None, new).await;
    // Ten files, four folders, the root and the snapshot.
    assert_eq!(stats.objects_sent, 16);
    assert!(has(&cloud.vault_of(&home), new));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_asked_for_and_not_found_is_kept_as_if_it_were() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let never = SnapshotId::from_bytes([0xab; 32]);
    for _ in 0..2 {
        let absent = home.fetch(&remote, never).await.unwrap_err();
        assert!(!absent.is_retryable(), "{absent}");
        assert!(!home.has(never));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_longer_than_a_message_comes_whole() {
    use baton_protocol::id::{RunId, ThreadId};
    use baton_protocol::message::{MAX_PROMPT, RunSpec, Terms};
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    assert!(
        matches!(home.pool.request(&remote, Request::ListRuns).await, Ok(Reply::Runs(runs)) if runs.is_empty())
    );
    let vault = cloud.vault_of(&home).id();
    for number in 0..6 {
        let spec = RunSpec {
            run: RunId::from_bytes([number; 16]),
            thread: ThreadId::from_bytes([number; 16]),
            workspace: WORKSPACE,
            snapshot: SnapshotId::from_bytes([1; 32]),
            agent: "command".into(),
            command: Vec::new(),
            prompt: Some("p".repeat(MAX_PROMPT)),
            parent: None,
            terms: Terms::default(),
        };
        let created = cloud.catalog.create_run(&spec, "owner", vault, number.into()).unwrap();
        created.unwrap();
    }
    let listed = within(home.pool.request(&remote, Request::ListRuns)).await.unwrap();
    let Reply::Runs(runs) = listed else { panic!("no list of runs") };
    let times: Vec<_> = runs.iter().map(|info| info.created_at).collect();
    assert_eq!(times, [5, 4, 3, 2, 1, 0]);
    assert!(runs.iter().all(|info| info.spec.prompt.as_ref().unwrap().len() == MAX_PROMPT));
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_records_go_from_log_to_log_as_they_are() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let mut files = bulk(1);
    files.extend((0..3000).map(|at| (format!("s/{at}"), noise(at, 300))));
    let snapshot = home.snapshot(&files, 1);
    home.pushed(&remote, None, snapshot).await;
    // What only the journal has, and what stands in records with others, goes as well.
    let first = files.remove("b0/f0").unwrap();
    files.insert("one more".into(), noise(99_999, 100));
    let second = home.snapshot(&files, 2);
    home.pushed(&remote, Some(snapshot), second).await;

    let other = cloud.joined(Home::new(), "owner").await;
    other.fetch(&remote, second).await.unwrap();
    assert!(other.has(second) && !other.has(snapshot));
    let ids: Vec<ObjectId> =
        files.values().map(|bytes| ObjectId::of(ObjectKind::Chunk, bytes)).collect();
    for id in &ids {
        other.vault.require(id).unwrap();
    }
    assert!(!other.vault.contains(&ObjectId::of(ObjectKind::Chunk, &first)).unwrap());
    // Each record, as its vault has it.
    let records = |vault: &Vault| {
        let places = vault.locations(&ids).unwrap();
        let mut placed: Vec<_> =
            places.into_iter().zip(&ids).filter_map(|(at, id)| Some((at?, *id))).collect();
        placed.sort_unstable();
        let together = placed.chunk_by(|(a, _), (b, _)| a.record() == b.record());
        let mut open = OpenRecord::default();
        let records = together.filter_map(|objects| {
            let record = vault.packed_record(&mut open, &objects[0].0).unwrap()?;
            (record.entries.len() == objects.len()).then(|| record.bytes.to_vec())
        });
        // Small ones are put together anew, and what does not compress may be longer than a frame.
        let most = baton_protocol::frame::MAX_FRAME;
        let fits = |record: &Vec<u8>| (100_000..=most).contains(&record.len());
        records.filter(fits).collect::<HashSet<Vec<u8>>>()
    };
    let logs = [&home.vault, &cloud.vault_of(&home), &other.vault];
    let [pushed, there, here] = logs.map(records);
    assert!(pushed.len() >= 2 && pushed.is_subset(&there), "{} and {}", pushed.len(), there.len());
    assert!(there.is_subset(&here), "{} and {}", there.len(), here.len());
}

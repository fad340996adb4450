//! File data that is sent while its snapshot is being made.

use std::sync::mpsc::{Receiver, Sender, channel};

use baton_protocol::message::{AheadReply, AheadRequest, MAX_IDS, encode};
use baton_store::layout::Class;
use baton_store::objects::{AppendObserver, Location};
use baton_store::segment::{RecordBuilder, RecordEntry};

use super::client::Raw;
use super::*;
use crate::sync::ahead::{self, Fresh};

/// Hands on what an intake tells.
#[derive(Debug)]
pub(super) struct Listener(pub(super) Mutex<Sender<Fresh>>);

impl AppendObserver for Listener {
    fn appended(&self, at: Location, entries: &[RecordEntry]) {
        let chunks = entries.iter().map(|entry| entry.id.prefix()).collect();
        // Nobody listens any more where a test has cut it off.
        drop(self.0.lock().unwrap().send(Fresh { at, chunks }));
    }
}

/// 7.2 MB in 120 files and 15 folders: some fifteen records.
fn tree() -> Files {
    let part =
        |seed: u64| bulk(seed).into_iter().map(move |(path, to)| (format!("{seed}/{path}"), to));
    (1..4).flat_map(part).collect()
}

const CHUNKS: u64 = 120;
/// Directories and the snapshot.
const METADATA: u64 = 1 + 3 + 3 * 4 + 1;

/// Sends what comes; returns what that has cost, too.
pub(super) async fn send_from(
    home: &Home,
    remote: &Remote,
    fresh: Receiver<Fresh>,
) -> (Result<(), SyncError>, PushStats) {
    let mut wire = Wire::new(home.pool.open(remote).await.unwrap());
    let vault = home.vault.clone();
    let work = move || {
        let mut sent = PushStats::default();
        let outcome = ahead::send(&mut wire, &vault, &fresh, |stats| sent = stats);
        wire.into_stream().finish();
        (outcome, sent)
    };
    within(home.tasks.spawn_blocking("ahead", work)).await.unwrap()
}

/// Makes a snapshot, and sends its records while it is made.
async fn make(home: &Home, remote: &Remote, files: &Files) -> (SnapshotId, PushStats) {
    let (to, from) = channel();
    let making = async {
        let intake = home.vault.intake();
        intake.tell(Arc::new(Listener(Mutex::new(to))));
        let (device, files) = (home.device(), files.clone());
        let make = move || keep_files(intake, &files, device, 1);
        home.tasks.spawn_blocking("make", make).await.unwrap()
    };
    let (id, (outcome, sent)) = tokio::join!(making, send_from(home, remote, from));
    outcome.unwrap();
    (id, sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_ahead_the_push_does_not_send_again() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let (id, ahead) = make(&home, &remote, &tree()).await;
    assert_eq!((ahead.objects_sent, ahead.round_trips), (CHUNKS, 1));
    // It moves no ref.
    assert_eq!(cloud.head(&home), None);
    let push = home.pushed(&remote, None, id).await;
    assert_eq!(push.objects_sent, METADATA);
    assert!(has(&cloud.vault_of(&home), id));
    // Each byte once: noise does not compress.
    let all = ahead.bytes_sent + push.bytes_sent;
    assert!((7_200_000..7_230_000).contains(&all), "{all}");

    // Another device of the same user has the same files: there is nothing to send.
    let other = cloud.home().await;
    let (id, ahead) = make(&other, &remote, &tree()).await;
    assert_eq!(ahead.objects_sent, 0);
    assert!(ahead.bytes_sent < 3000, "{ahead:?}");
    other.pushed(&remote, None, id).await;
    assert!(has(&cloud.vault_of(&other), id));
}

/// A record that the node has in part is taken apart there, and what is new in two of them fits its memory.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_in_part_is_kept_too() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let files: Files = bulk(1).into_iter().take(19).collect();
    let known = files.clone().into_iter().enumerate().filter(|(at, _)| [0, 1, 10].contains(at));
    let first = home.snapshot(&known.map(|(_, file)| file).collect(), 1);
    home.pushed(&remote, None, first).await;
    let other = cloud.home().await;
    let (id, ahead) = make(&other, &remote, &files).await;
    assert_eq!(ahead.objects_sent, 19);
    let push = other.pushed(&remote, None, id).await;
    // The snapshot, the root and two directories.
    assert_eq!(push.objects_sent, 4);
    assert!(has(&cloud.vault_of(&other), id));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cut_off_the_push_completes() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let (to, from) = channel();
    let intake = home.vault.intake();
    intake.tell(Arc::new(Listener(Mutex::new(to))));
    let id = keep_files(intake, &tree(), home.device(), 1);
    let fresh: Vec<Fresh> = from.iter().collect();
    assert!(fresh.len() > 8, "{}", fresh.len());
    // A few of them come, one that is not there any more is passed over, and nobody says that this was the end.
    let gone = Location { segment: 999, ..fresh[0].at };
    let mut raw = Raw::open(&home, &remote, Request::Ahead).await;
    raw.send(&encode(&AheadRequest::Offer(fresh[0].chunks.clone())).unwrap()).await;
    assert_eq!(raw.reply().await, Reply::Ahead(AheadReply::Wanted(true)));
    let mut open = baton_store::objects::OpenRecord::default();
    let record = home.vault.packed_record(&mut open, &fresh[0].at).unwrap().unwrap();
    raw.send(&frame(FrameKind::Record, record.bytes)).await;
    drop(raw);
    let (to, from) = channel();
    to.send(Fresh { at: gone, chunks: fresh[1].chunks.clone() }).unwrap();
    for Fresh { at, chunks } in &fresh[2..5] {
        to.send(Fresh { at: *at, chunks: chunks.clone() }).unwrap();
    }
    drop(to);
    let (outcome, sent) = send_from(&home, &remote, from).await;
    outcome.unwrap();
    let came: usize = fresh[2..5].iter().map(|fresh| fresh.chunks.len()).sum();
    assert_eq!(sent.objects_sent, came as u64);
    let push = home.pushed(&remote, None, id).await;
    let rest = CHUNKS - came as u64 - fresh[0].chunks.len() as u64;
    // What the abandoned stream brought may have been kept or not.
    assert!((rest..=CHUNKS - came as u64).contains(&(push.objects_sent - METADATA)), "{push:?}");
    assert!(has(&cloud.vault_of(&home), id));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_takes_no_more_ahead_than_a_push_may_bring() {
    let most = Most { user: Some(2_000_000), device: None };
    let cloud = Cloud::start(&Settings { most, ..Settings::default() });
    let (home, remote) = (cloud.home().await, cloud.remote());
    let (to, from) = channel();
    let intake = home.vault.intake();
    intake.tell(Arc::new(Listener(Mutex::new(to))));
    for (_, bytes) in tree() {
        intake.put(ObjectKind::Chunk, &bytes).unwrap();
    }
    intake.flush().unwrap();
    drop(intake);
    let (outcome, _) = send_from(&home, &remote, from).await;
    let refused = outcome.unwrap_err();
    assert!(
        matches!(&refused, SyncError::Refused(refusal) if refusal.code == RefusalCode::Limit),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_nothing_of_it_kept() {
    let cloud = Cloud::start(&Settings::default());
    let (home, remote) = (cloud.home().await, cloud.remote());
    let mut builder = RecordBuilder::default();
    let bytes = vec![7; 100_000];
    builder.push(ObjectId::of(ObjectKind::Chunk, b"another"), &bytes);
    let forged = builder.encode(Class::Data).unwrap();
    let end = encode(&AheadRequest::End).unwrap();
    for (what, said) in [
        ("too many", encode(&AheadRequest::Offer(vec![[1; 8]; MAX_IDS + 1])).unwrap()),
        ("objects", batch(&[(ObjectKind::Chunk, b"x".to_vec())])),
        ("no record", frame(FrameKind::Record, b"BTNR")),
        ("no offer", frame(FrameKind::Message, &[9])),
        ("a forged record", [frame(FrameKind::Record, &forged), end].concat()),
    ] {
        let mut raw = Raw::open(&home, &remote, Request::Ahead).await;
        raw.send(&said).await;
        assert_eq!(raw.refused().await.0, RefusalCode::Malformed, "{what}");
    }
    let vault = cloud.vault_of(&home);
    assert!(!vault.contains(&ObjectId::of(ObjectKind::Chunk, b"another")).unwrap());
    assert!(!vault.contains(&ObjectId::of(ObjectKind::Chunk, &bytes)).unwrap());
}

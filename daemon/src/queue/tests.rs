//! The queue and its workers, with a node that does what the test says.

use std::collections::HashMap;

use baton_protocol::id::SnapshotId;
use baton_store::catalog::queue::{EntryKind, EntryState, NewEntry};

use super::flight::Cancelled;
use super::*;
use crate::client::pool::Patience;
use crate::identity::Identity;

const NODE: NodeId = NodeId::from_bytes([7; 32]);
const OTHER: NodeId = NodeId::from_bytes([8; 32]);

/// A node, and what reached it.
#[derive(Debug, Default)]
struct FakeNode {
    away: AtomicBool,
    /// What is not simply taken, by the entry.
    fails: Mutex<HashMap<QueueId, Undelivered>>,
    got: Mutex<Vec<QueueId>>,
    tries: watch::Sender<u64>,
    /// While set, what is sent hangs until it is to stop.
    hangs: AtomicBool,
}

impl FakeNode {
    fn got(&self) -> Vec<u8> {
        self.got.lock().unwrap().iter().map(|id| id.as_bytes()[0]).collect()
    }

    fn fail(&self, entry: &NewEntry, how: Undelivered) {
        self.fails.lock().unwrap().insert(entry.id, how);
    }
}

impl Deliver for FakeNode {
    fn connect(self: Arc<Self>, _: NodeId) -> BoxFuture<'static, Result<(), Undelivered>> {
        Box::pin(async move {
            self.tries.send_modify(|tries| *tries += 1);
            if self.away.load(Ordering::SeqCst) {
                return Err(Undelivered::Away("nobody is there".to_owned()));
            }
            Ok(())
        })
    }

    fn deliver(
        self: Arc<Self>,
        entry: Entry,
        flight: Arc<Flight>,
    ) -> BoxFuture<'static, Result<Cost, Undelivered>> {
        Box::pin(async move {
            while self.hangs.load(Ordering::SeqCst) {
                if flight.is_stopped() {
                    return Err(Undelivered::Cancelled);
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            if let Some(failed) = self.fails.lock().unwrap().get(&entry.wanted.id) {
                return Err(failed.clone());
            }
            self.got.lock().unwrap().push(entry.wanted.id);
            Ok(Cost { bytes_sent: 1, objects_sent: 1, round_trips: 1 })
        })
    }
}

struct Scene {
    _folder: tempfile::TempDir,
    catalog: Catalog,
    clock: Clock,
    tasks: Tasks,
    queue: Queue,
    node: Arc<FakeNode>,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        let identity = Identity::load_or_create(&folder.path().join("keys")).unwrap();
        let (tasks, clock) = (Tasks::new(), Clock::manual(1_000_000));
        let pool = Pool::new(identity, tasks.clone(), Patience::default()).unwrap();
        let queue = Queue::new(QueueParts {
            catalog: catalog.clone(),
            pool,
            tasks: tasks.clone(),
            clock: clock.clone(),
        });
        Self { _folder: folder, catalog, clock, tasks, queue, node: Arc::default() }
    }

    /// Puts entries in and wakes the workers.
    fn put(&self, entries: &[NewEntry]) {
        for entry in entries {
            self.catalog.enqueue(entry).unwrap().unwrap();
            self.queue.wake(entry.node, &self.node);
        }
    }

    fn state(&self, entry: &NewEntry) -> EntryState {
        self.catalog.queue_entry(entry.id).unwrap().unwrap().state
    }

    async fn until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let all = async {
            while !is_so() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(30), all).await.is_ok(), "{what}");
    }

    async fn idle(&self) {
        self.until("the end of the workers", || self.tasks.count() == 0).await;
        assert!(!self.queue.is_busy(NODE) && !self.queue.is_busy(OTHER));
    }
}

fn entry(byte: u8, node: NodeId) -> NewEntry {
    NewEntry {
        id: QueueId::from_bytes([byte; 16]),
        kind: EntryKind::Push,
        workspace: WorkspaceId::from_bytes([1; 16]),
        node,
        remote: "box".to_owned(),
        snapshot: SnapshotId::from_bytes([byte; 32]),
        runs: Vec::new(),
        created_at: 1_000_000,
        expires_at: None,
        begun: false,
    }
}

#[tokio::test]
async fn entries_are_sent_in_order_and_nothing_is_left_running() {
    let scene = Scene::new();
    let all: Vec<_> = (0..20).map(|at| entry(at, if at % 5 == 4 { OTHER } else { NODE })).collect();
    scene.put(&all);
    scene.idle().await;
    for node in [NODE, OTHER] {
        let expected: Vec<_> =
            all.iter().filter(|one| one.node == node).map(|one| one.id.as_bytes()[0]).collect();
        let got: Vec<_> =
            scene.node.got().into_iter().filter(|byte| expected.contains(byte)).collect();
        assert_eq!(got, expected);
    }
    let first = scene.catalog.queue_entry(all[0].id).unwrap().unwrap();
    assert_eq!((first.state, first.attempts, first.cost.bytes_sent), (EntryState::Done, 1, 1));
}

#[tokio::test]
async fn what_a_node_refuses_fails_alone_and_is_told_once() {
    let scene = Scene::new();
    let all = [entry(1, NODE), entry(2, NODE), entry(3, NODE)];
    scene.node.fail(&all[1], Undelivered::Refused("the quota is used up".to_owned()));
    scene.queue.take_untold();
    scene.put(&all);
    scene.idle().await;
    assert_eq!(scene.node.got(), [1, 3]);
    let failed = scene.catalog.queue_entry(all[1].id).unwrap().unwrap();
    assert_eq!(failed.state, EntryState::Failed);
    assert_eq!(failed.last_error.as_deref(), Some("the quota is used up"));
    assert!(scene.queue.take_untold());
    assert!(!scene.queue.take_untold());
}

#[tokio::test]
async fn a_node_that_is_away_is_tried_again_and_at_once_where_something_says_so() {
    let scene = Scene::new();
    scene.node.away.store(true, Ordering::SeqCst);
    let all = [entry(1, NODE), entry(2, NODE)];
    scene.put(&all);
    let tries = || *scene.node.tries.borrow();
    scene.until("a few tries", || tries() >= 3).await;
    assert!(scene.queue.is_busy(NODE));
    assert_eq!(scene.node.got(), [0; 0]);
    let waiting = scene.catalog.queue_entry(all[0].id).unwrap().unwrap();
    assert!(waiting.attempts >= 1 && waiting.last_error.is_some(), "{waiting:?}");
    scene.node.away.store(false, Ordering::SeqCst);
    scene.queue.nudge(NODE);
    scene.idle().await;
    assert_eq!(scene.node.got(), [1, 2]);
}

#[tokio::test]
async fn a_node_is_believed_to_be_away_as_long_as_finding_out_is_worth() {
    let scene = Scene::new();
    assert!(!scene.queue.is_away(NODE));
    for (took, believed) in [(10, 40), (500, 2_000), (2_000, 5_000)] {
        scene.queue.note_away(NODE, Duration::from_millis(took));
        scene.clock.advance(Duration::from_millis(believed - 1));
        assert!(scene.queue.is_away(NODE), "{took}");
        scene.clock.advance(Duration::from_millis(1));
        assert!(!scene.queue.is_away(NODE), "{took}");
    }
    scene.queue.note_away(NODE, Duration::from_secs(1));
    scene.queue.nudge(NODE);
    assert!(!scene.queue.is_away(NODE));
    assert_eq!(scene.queue.failures(NODE), 4);
}

#[tokio::test]
async fn what_fails_for_other_reasons_is_tried_again_but_not_for_ever() {
    let scene = Scene::new();
    let all = [entry(1, NODE), entry(2, NODE)];
    scene.node.fail(&all[0], Undelivered::Later("the node failed".to_owned()));
    scene.put(&all);
    let nudges = async {
        while scene.state(&all[0]) == EntryState::Waiting {
            scene.queue.nudge(NODE);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), nudges).await.is_ok());
    scene.idle().await;
    assert_eq!(
        (scene.state(&all[0]), scene.state(&all[1])),
        (EntryState::Failed, EntryState::Done)
    );
}

#[tokio::test]
async fn what_is_too_old_is_not_started() {
    let scene = Scene::new();
    let old = NewEntry { expires_at: Some(1_005_000), ..entry(1, NODE) };
    let young = NewEntry { expires_at: Some(1_005_001), ..entry(2, NODE) };
    scene.clock.advance(Duration::from_secs(5));
    scene.put(&[old.clone(), young.clone()]);
    scene.idle().await;
    assert_eq!(scene.node.got(), [2]);
    assert_eq!((scene.state(&old), scene.state(&young)), (EntryState::Expired, EntryState::Done));
}

#[tokio::test]
async fn what_was_cancelled_is_never_sent_also_while_it_is_being_sent() {
    let scene = Scene::new();
    scene.node.away.store(true, Ordering::SeqCst);
    let all = [entry(1, NODE), entry(2, NODE), entry(3, NODE)];
    scene.put(&all);
    assert_eq!(scene.queue.cancel(all[0].id).await.unwrap(), Cancelled::Yes);
    scene.node.hangs.store(true, Ordering::SeqCst);
    scene.node.away.store(false, Ordering::SeqCst);
    scene.queue.nudge(NODE);
    scene.until("the second under way", || scene.queue.flight(all[1].id).is_some()).await;
    assert_eq!(scene.queue.cancel(all[1].id).await.unwrap(), Cancelled::Yes);
    scene.until("the third under way", || scene.queue.flight(all[2].id).is_some()).await;
    scene.node.hangs.store(false, Ordering::SeqCst);
    scene.idle().await;
    assert_eq!(scene.node.got(), [3]);
    assert_eq!(scene.queue.cancel(all[2].id).await.unwrap(), Cancelled::Sent);
    for cancelled in &all[..2] {
        assert_eq!(scene.state(cancelled), EntryState::Cancelled);
    }
}

#[tokio::test]
async fn a_later_daemon_takes_up_what_waits() {
    let scene = Scene::new();
    let all = [entry(1, NODE), entry(2, OTHER)];
    for entry in &all {
        scene.catalog.enqueue(entry).unwrap().unwrap();
    }
    assert!(!scene.queue.is_busy(NODE));
    scene.queue.start(&scene.node).unwrap();
    scene.idle().await;
    let mut got = scene.node.got();
    got.sort_unstable();
    assert_eq!(got, [1, 2]);
}

#[tokio::test]
async fn a_worker_ends_when_it_is_told_to_and_leaves_what_waits() {
    let scene = Scene::new();
    scene.node.away.store(true, Ordering::SeqCst);
    scene.put(&[entry(1, NODE)]);
    let left = scene.tasks.shut_down(Duration::from_secs(10)).await;
    assert_eq!(left, [""; 0]);
    assert_eq!(scene.state(&entry(1, NODE)), EntryState::Waiting);
}

//! A node and its clients on one machine: joining, refusing, cutting, restarting.

mod roles;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::frame::{FrameKind, encode_header};
use baton_protocol::id::{NodeId, RunId, SnapshotId, ThreadId, WorkspaceId};
use baton_protocol::message::{
    OLDEST, Opening, RefusalCode, Reply, Request, RunSpec, Terms, VERSION,
};
use baton_protocol::ticket::Ticket;
use baton_store::catalog::Catalog;
use baton_store::catalog::devices::Role;
use baton_store::catalog::remotes::Remote;

use super::ClientError;
use super::connection::Dialer;
use super::pool::{Patience, Pool};
use crate::audit::Audit;
use crate::clock::Clock;
use crate::identity::Identity;
use crate::node::join::{TicketWish, issue_ticket};
use crate::node::{Handler, Handling, Node, NodeParts, Session};
use crate::task::Tasks;
use crate::transport::limits::Limits;
use crate::transport::stream::FrameStream;
use crate::transport::testing::identity;
use crate::transport::{CloseCode, TransportError};

const WITHIN: Duration = Duration::from_secs(20);

/// Answers `Refs` with nothing, sends the frames of a `Fetch` back, never answers `WaitRun`, and refuses the rest.
struct TestHandler;

impl Handler for TestHandler {
    fn handle(self: Arc<Self>, mut session: Session, request: Request) -> Handling {
        Box::pin(async move {
            match request {
                Request::Refs => session.reply(&Reply::Refs(Vec::new())).await,
                Request::WaitRun(_) => std::future::pending().await,
                Request::Fetch => {
                    while let Some(frame) = session.stream.read_frame().await? {
                        let header = encode_header(frame.kind, frame.body.len()).unwrap();
                        session.stream.write(&header).await?;
                        session.stream.write(&frame.body).await?;
                    }
                    session.stream.finish();
                    Ok(())
                }
                _ => session.refuse(RefusalCode::NotFound, "not in this test").await,
            }
        })
    }
}

struct TestNode {
    folder: tempfile::TempDir,
    identity: Identity,
    catalog: Catalog,
    clock: Clock,
    node: Node,
    tasks: Tasks,
}

fn parts(identity: &Identity, catalog: &Catalog, clock: &Clock, port: u16) -> NodeParts {
    NodeParts {
        identity: identity.clone(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        catalog: catalog.clone(),
        handler: Arc::new(TestHandler),
        limits: Limits::default(),
        tasks: Tasks::new(),
        clock: clock.clone(),
        audit: Audit::none(),
    }
}

impl TestNode {
    fn start(limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::load_or_create(&folder.path().join("keys")).unwrap();
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        let (clock, tasks) = (Clock::manual(1_000_000), Tasks::new());
        let parts = parts(&identity, &catalog, &clock, 0);
        let node = Node::start(NodeParts { limits, tasks: tasks.clone(), ..parts }).unwrap();
        Self { folder, identity, catalog, clock, node, tasks }
    }

    fn ticket(&self, role: Role) -> Ticket {
        let wish = TicketWish { user: "owner".to_owned(), role, expires_ms: 60_000, uses: 1 };
        let addresses = [self.node.address().to_string()];
        let (node, clock) = (self.identity.node(), &self.clock);
        let issued = issue_ticket(&self.catalog, node, &addresses, &wish, clock).unwrap();
        Ticket::decode(&issued.word).unwrap()
    }

    fn remote(&self) -> Remote {
        remote(self.identity.node(), self.node.address())
    }

    /// A home that has joined.
    async fn home(&self, role: Role) -> Pool {
        let pool = pool();
        pool.join(&self.ticket(role), "laptop").await.unwrap();
        pool
    }
}

fn remote(node: NodeId, address: SocketAddr) -> Remote {
    Remote {
        name: "rack".to_owned(),
        node,
        user: "owner".to_owned(),
        addresses: vec![address.to_string()],
        joined_at: 0,
    }
}

fn pool() -> Pool {
    pool_of(identity())
}

fn pool_of(identity: Identity) -> Pool {
    let patience = Patience { connect: WITHIN, join: WITHIN, ..Patience::default() };
    Pool::new(identity, Tasks::new(), patience).unwrap()
}

#[track_caller]
fn refusal<T: std::fmt::Debug>(result: Result<T, ClientError>) -> (RefusalCode, String) {
    match result {
        Err(ClientError::Refused(refusal)) => (refusal.code, refusal.message),
        other => panic!("expected a refusal, not {other:?}"),
    }
}

/// Waits until something holds; the time limit is that of the test.
async fn until(holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(WITHIN, wait).await.unwrap();
}

#[tokio::test]
async fn a_home_joins_and_is_known_from_then_on() {
    let node = TestNode::start(Limits::default());
    let home = identity();
    let pool = pool_of(home.clone());
    let ticket = node.ticket(Role::Run);
    let joined = pool.join(&ticket, "lap\x1btop").await.unwrap();
    assert_eq!(joined.welcome.user, "owner");
    assert_eq!(joined.welcome.device, home.device());
    assert_eq!(joined.welcome.role, "run");
    assert_eq!(joined.address, node.node.address().to_string());
    // The answer might have been lost: the same home may ask again, another may not.
    pool.join(&ticket, "laptop").await.unwrap();
    let (code, message) = refusal(self::pool().join(&ticket, "thief").await);
    assert_eq!(code, RefusalCode::Ticket);
    assert!(message.contains("used"), "{message}");
    assert_eq!(pool.hello(&node.remote()).await.unwrap().user, "owner");
    assert!(matches!(pool.request(&node.remote(), Request::Refs).await, Ok(Reply::Refs(_))));
    until(|| node.catalog.devices().unwrap()[0].last_seen == Some(1_000_000)).await;
    let devices = node.catalog.devices().unwrap();
    assert_eq!((devices.len(), devices[0].name.as_str()), (1, "laptop"));
    assert_eq!(node.node.connected(), [home.device()]);
}

#[tokio::test]
async fn wrong_and_expired_tickets_let_nobody_in() {
    let node = TestNode::start(Limits::default());
    let mut wrong = node.ticket(Role::Run);
    wrong.secret[0] ^= 1;
    let (code, message) = refusal(pool().join(&wrong, "x").await);
    assert_eq!(code, RefusalCode::Ticket);
    assert!(message.contains("no such ticket"), "{message}");
    let old = node.ticket(Role::Run);
    node.clock.advance(Duration::from_mins(1));
    let (code, message) = refusal(pool().join(&old, "x").await);
    assert_eq!(code, RefusalCode::Ticket);
    assert!(message.contains("expired"), "{message}");
    assert_eq!(node.catalog.devices().unwrap(), Vec::new());
}

#[tokio::test]
async fn another_node_at_the_address_is_not_trusted() {
    let node = TestNode::start(Limits::default());
    let mut ticket = node.ticket(Role::Run);
    ticket.node = identity().node();
    // A dead address first: the wrong key must not hide behind it.
    ticket.addresses.insert(0, "127.0.0.1:1".to_owned());
    let refused = pool().join(&ticket, "x").await.unwrap_err();
    let ClientError::Transport(TransportError::Identity { expected, found, .. }) = refused else {
        panic!("{refused}")
    };
    assert_eq!((expected, found), (ticket.node, node.identity.node()));
}

#[tokio::test]
async fn an_unknown_device_may_only_join() {
    let node = TestNode::start(Limits::default());
    let pool = pool();
    for request in [Request::Hello, Request::Refs, Request::Fetch, Request::ListRuns] {
        let (code, _) = refusal(pool.request(&node.remote(), request).await);
        assert_eq!(code, RefusalCode::UnknownDevice);
    }
    pool.close().await;
    pool.join(&node.ticket(Role::Push), "laptop").await.unwrap();
    pool.hello(&node.remote()).await.unwrap();
}

#[tokio::test]
async fn an_unknown_device_does_not_stay() {
    let stay = Duration::from_millis(200);
    let node = TestNode::start(Limits { unknown_stay: stay, ..Limits::default() });
    let dialer = Dialer::new(identity(), Tasks::new()).unwrap();
    let remote = node.remote();
    let dialled = dialer.dial(remote.node, &remote.addresses, WITHIN).await.unwrap();
    tokio::time::timeout(WITHIN, dialled.connection.closed()).await.unwrap();
    let error = dialled.connection.open().await.unwrap_err();
    assert!(matches!(error, TransportError::Closed { code: CloseCode::UnknownDevice }), "{error}");
    until(|| node.node.connections() == (0, 0)).await;
}

#[tokio::test]
async fn revoking_cuts_what_is_live_and_refuses_what_comes() {
    let node = TestNode::start(Limits::default());
    let pool = node.home(Role::Run).await;
    let remote = node.remote();
    pool.hello(&remote).await.unwrap();
    let waiting = pool.request(&remote, Request::WaitRun(RunId::from_bytes([1; 16])));
    let device = node.catalog.devices().unwrap()[0].id;
    let revoke = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        node.node.revoke(device).unwrap()
    };
    let (waited, revoked) =
        tokio::time::timeout(WITHIN, async { tokio::join!(waiting, revoke) }).await.unwrap();
    assert!(revoked);
    let error = waited.unwrap_err();
    let cut = TransportError::Closed { code: CloseCode::UnknownDevice }.to_string();
    assert_eq!(error.to_string(), cut);
    assert!(!error.is_retryable());
    let (code, _) = refusal(pool.request(&remote, Request::Refs).await);
    assert_eq!(code, RefusalCode::UnknownDevice);
    until(|| node.node.connected().is_empty()).await;
    assert!(!node.node.revoke(device).unwrap());
    // Somebody may let it in again.
    pool.join(&node.ticket(Role::Push), "laptop").await.unwrap();
    assert_eq!(pool.hello(&remote).await.unwrap().role, "push");
}

#[tokio::test]
async fn a_role_decides_what_may_be_asked() {
    let node = TestNode::start(Limits::default());
    let remote = node.remote();
    let spec = RunSpec {
        run: RunId::from_bytes([1; 16]),
        thread: ThreadId::from_bytes([1; 16]),
        workspace: WorkspaceId::from_bytes([1; 16]),
        snapshot: SnapshotId::from_bytes([1; 32]),
        agent: "command".to_owned(),
        command: vec![b"true".to_vec()],
        prompt: None,
        parent: None,
        terms: Terms::default(),
    };
    let pusher = node.home(Role::Push).await;
    let asked = pusher.request(&remote, Request::CreateRun(spec.clone())).await;
    assert_eq!(refusal(asked).0, RefusalCode::Role);
    // The handler of these tests has none, but it was asked.
    let runner = node.home(Role::Run).await;
    let asked = runner.request(&remote, Request::CreateRun(spec.clone())).await;
    assert_eq!(refusal(asked).0, RefusalCode::NotFound);
    let long = RunSpec { agent: "x".repeat(1000), ..spec };
    let asked = runner.request(&remote, Request::CreateRun(long)).await;
    assert_eq!(refusal(asked).0, RefusalCode::Limit);
}

async fn reply_to(stream: &mut FrameStream, bytes: &[u8]) -> (RefusalCode, String) {
    stream.write(bytes).await.unwrap();
    match stream.receive().await.unwrap() {
        Reply::Refused(refusal) => (refusal.code, refusal.message),
        other => panic!("expected a refusal, not {other:?}"),
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_in_words() {
    let node = TestNode::start(Limits::default());
    let pool = node.home(Role::Run).await;
    let open = async || pool.open(&node.remote()).await.unwrap();
    let frame = |body: &[u8]| {
        let header = encode_header(FrameKind::Message, body.len()).unwrap();
        [&header[..], body].concat()
    };

    let (next, after) = (VERSION + 1, VERSION + 2);
    let later = Opening { oldest: next, newest: after, request: Request::Hello };
    let later = baton_protocol::message::encode(&later).unwrap();
    let (code, message) = reply_to(&mut open().await, &later).await;
    assert_eq!(code, RefusalCode::Version);
    let (ours, theirs) = (format!("{OLDEST} to {VERSION}"), format!("{next} to {after}"));
    assert!(message.contains(&ours) && message.contains(&theirs), "{message}");
    // A request that this version does not have, from one that it does not speak.
    let (code, _) = reply_to(&mut open().await, &frame(&[next as u8, after as u8, 99, 1, 2])).await;
    assert_eq!(code, RefusalCode::Version);
    let (code, _) = reply_to(&mut open().await, &frame(&[1, VERSION as u8, 99, 1, 2])).await;
    assert_eq!(code, RefusalCode::Malformed);
    let (code, _) = reply_to(&mut open().await, &frame(&[])).await;
    assert_eq!(code, RefusalCode::Malformed);
    let objects = encode_header(FrameKind::Objects, 0).unwrap();
    let (code, _) = reply_to(&mut open().await, &objects).await;
    assert_eq!(code, RefusalCode::Malformed);
    let (code, _) = reply_to(&mut open().await, &[0xff, 0xff, 0xff, 0xff, 1]).await;
    assert_eq!(code, RefusalCode::Malformed);
    pool.hello(&node.remote()).await.unwrap();
}

#[tokio::test]
async fn more_than_every_window_flows_both_ways() {
    let node = TestNode::start(Limits::default());
    let pool = node.home(Role::Run).await;
    let mut stream = pool.open(&node.remote()).await.unwrap();
    stream.send(&Opening::new(Request::Fetch)).await.unwrap();
    let (frames, body) = (40, vec![7; 1024 * 1024]);
    let FrameStream { mut reader, mut writer } = stream;
    let write = async {
        for _ in 0..frames {
            let header = encode_header(FrameKind::Objects, body.len()).unwrap();
            writer.write(&header).await.unwrap();
            writer.write(&body).await.unwrap();
        }
        writer.finish();
    };
    let read = async {
        let mut count = 0;
        while let Some(frame) = reader.next().await.unwrap() {
            assert!(frame.body == body);
            count += 1;
        }
        count
    };
    let (count, ()) = tokio::join!(read, write);
    assert_eq!(count, frames);
}

#[tokio::test]
async fn a_request_that_never_comes_frees_its_place() {
    let opening = Duration::from_millis(300);
    let node = TestNode::start(Limits { opening, ..Limits::default() });
    let pool = node.home(Role::Run).await;
    let mut stream = pool.open(&node.remote()).await.unwrap();
    stream.write(&[9, 0]).await.unwrap();
    let ended = tokio::time::timeout(WITHIN, stream.read_frame()).await.unwrap();
    assert!(matches!(ended, Ok(None)), "{ended:?}");
    pool.hello(&node.remote()).await.unwrap();
}

#[tokio::test]
async fn a_device_has_so_many_requests_at_work() {
    let node = TestNode::start(Limits { requests_per_device: 2, ..Limits::default() });
    let pool = node.home(Role::Run).await;
    let remote = node.remote();
    let wait = || async {
        let mut stream = pool.open(&remote).await.unwrap();
        let request = Request::WaitRun(RunId::from_bytes([1; 16]));
        stream.send(&Opening::new(request)).await.unwrap();
        stream
    };
    let _held = [wait().await, wait().await];
    let mut third = wait().await;
    let answer = tokio::time::timeout(WITHIN, third.receive()).await.unwrap().unwrap();
    let Reply::Refused(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(
        refused.code,
        RefusalCode::Unavailable,
        "what waits in a queue is to be tried again"
    );
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let node = TestNode::start(Limits { connections: 2, ..Limits::default() });
    let remote = node.remote();
    let dial = async || {
        let dialer = Dialer::new(identity(), Tasks::new()).unwrap();
        dialer.dial(remote.node, &remote.addresses, WITHIN).await.map(|dialled| (dialer, dialled))
    };
    let first = dial().await.unwrap();
    let _second = dial().await.unwrap();
    let refused = dial().await.unwrap_err();
    let TransportError::Unreachable { attempts, .. } = &refused else { panic!("{refused}") };
    assert!(matches!(
        attempts[..],
        [crate::transport::Attempt { error: TransportError::Busy, .. }]
    ));
    assert!(refused.is_retryable());
    drop(first);
    until(|| node.node.connections().0 == 1).await;
    dial().await.unwrap();
}

#[tokio::test]
async fn the_oldest_connections_of_a_device_make_way() {
    let node = TestNode::start(Limits { per_device: 2, ..Limits::default() });
    let home = identity();
    pool_of(home.clone()).join(&node.ticket(Role::Run), "x").await.unwrap();
    until(|| node.node.connections().0 == 0).await;
    let (dialer, remote) = (Dialer::new(home, Tasks::new()).unwrap(), node.remote());
    let dial = async || dialer.dial(remote.node, &remote.addresses, WITHIN).await.unwrap();
    let first = dial().await;
    let _others = [dial().await, dial().await];
    tokio::time::timeout(WITHIN, first.connection.closed()).await.unwrap();
    let error = first.connection.open().await.unwrap_err();
    assert!(matches!(error, TransportError::Closed { code: CloseCode::TooMany }), "{error}");
}

#[tokio::test]
async fn under_load_a_client_shows_its_address_first() {
    let node = TestNode::start(Limits { retry_from: 0, ..Limits::default() });
    node.home(Role::Run).await.hello(&node.remote()).await.unwrap();
}

#[tokio::test]
async fn every_address_is_tried_and_named() {
    let node = TestNode::start(Limits::default());
    let pool = node.home(Role::Run).await;
    let mut remote = node.remote();
    remote.addresses = vec!["127.0.0.1:1".to_owned(), "not an address:x".to_owned()];
    pool.close().await;
    let refused = pool.hello(&remote).await.unwrap_err();
    assert!(refused.is_retryable());
    let text = refused.to_string();
    assert!(text.contains("127.0.0.1:1: nobody listens"), "{text}");
    assert!(text.contains("expected HOST:PORT"), "{text}");
    remote.addresses.push(node.node.address().to_string());
    pool.hello(&remote).await.unwrap();
}

#[tokio::test]
async fn one_connection_serves_many_requests_and_goes_when_it_is_idle() {
    let node = TestNode::start(Limits::default());
    let home = identity();
    let patience = Patience { idle: Duration::from_millis(300), ..Patience::default() };
    let pool = Pool::new(home, Tasks::new(), patience).unwrap();
    pool.join(&node.ticket(Role::Run), "x").await.unwrap();
    let remote = node.remote();
    until(|| node.node.connections().0 == 0).await;
    let requests = (0..8).map(|_| {
        let (pool, remote) = (pool.clone(), remote.clone());
        Box::pin(async move { pool.hello(&remote).await.unwrap() })
    });
    let mut requests: Vec<_> = requests.collect();
    std::future::poll_fn(|context| {
        requests.retain_mut(|request| request.as_mut().poll(context).is_pending());
        if requests.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    assert_eq!(node.node.connections().0, 1);
    // A stream that is open keeps it; without one it goes.
    let held = pool.open(&remote).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(pool.is_connected(remote.node).await);
    drop(held);
    until(|| node.node.connections().0 == 0).await;
    pool.hello(&remote).await.unwrap();
}

#[tokio::test]
async fn a_node_that_shuts_down_says_so_and_is_found_again() {
    let first = TestNode::start(Limits::default());
    let pool = first.home(Role::Run).await;
    let remote = first.remote();
    pool.hello(&remote).await.unwrap();
    let waiting = pool.request(&remote, Request::WaitRun(RunId::from_bytes([1; 16])));
    let shut_down = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        first.node.shut_down(Duration::from_millis(200)).await;
    };
    let (waited, ()) = tokio::join!(waiting, shut_down);
    // It asks again by itself, but there nobody listens any more or nobody takes it.
    assert!(waited.unwrap_err().is_retryable());
    let TestNode { folder: _folder, identity, catalog, clock, node, tasks } = first;
    let port = node.address().port();
    drop(node);
    tasks.shut_down(Duration::from_secs(5)).await;
    let _second = restart(&parts_again(&identity, &catalog, &clock, port)).await;
    pool.hello(&remote).await.unwrap();
}

fn parts_again(
    identity: &Identity,
    catalog: &Catalog,
    clock: &Clock,
    port: u16,
) -> impl Fn() -> NodeParts {
    move || parts(identity, catalog, clock, port)
}

/// Starts a node as soon as its port is free.
async fn restart(parts: &impl Fn() -> NodeParts) -> Node {
    let start = async {
        loop {
            match Node::start(parts()) {
                Ok(node) => return node,
                Err(TransportError::Bind { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    tokio::time::timeout(WITHIN, start).await.unwrap()
}

/// A node on a runtime of its own, killed without a word; then another one at its port with the keys
/// that are in the folder by then. What a request on the kept connection meets.
/// Kills a node and starts it again; what a request has met that was made afterwards, or that had `waited` for its answer since
/// before.
async fn kill_and_restart(waited: bool, between: impl FnOnce(&Path)) -> TransportError {
    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    let load = || Identity::load_or_create(&keys).unwrap();
    let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
    let clock = Clock::manual(1_000_000);
    let machine =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let entered = machine.enter();
    let node = Node::start(parts(&load(), &catalog, &clock, 0)).unwrap();
    drop(entered);
    let address = node.address();
    let pool = pool();
    let wish =
        TicketWish { user: "owner".to_owned(), role: Role::Run, expires_ms: 60_000, uses: 1 };
    let addresses = [address.to_string()];
    let issued = issue_ticket(&catalog, load().node(), &addresses, &wish, &clock).unwrap();
    pool.join(&Ticket::decode(&issued.word).unwrap(), "x").await.unwrap();
    let remote = remote(load().node(), address);
    pool.hello(&remote).await.unwrap();
    let mut waiting = pool.open(&remote).await.unwrap();
    if waited {
        let request = Request::WaitRun(RunId::from_bytes([1; 16]));
        waiting.send(&Opening::new(request)).await.unwrap();
        // All of it is acknowledged: nothing of ours is to be repeated.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    drop(node);
    machine.shutdown_background();
    between(&keys);
    let _second = restart(&parts_again(&load(), &catalog, &clock, address.port())).await;
    let met = async {
        if waited {
            return waiting.receive::<Reply>().await;
        }
        let mut stream = pool.open(&remote).await?;
        stream.send(&Opening::new(Request::Hello)).await?;
        stream.receive::<Reply>().await
    };
    let met = tokio::time::timeout(WITHIN, met).await.unwrap().unwrap_err();
    // Either way the next request goes through.
    pool.hello(&remote).await.unwrap();
    met
}

#[tokio::test]
async fn a_node_that_was_killed_and_restarted_says_so_at_once() {
    let met = kill_and_restart(false, |_| {}).await;
    assert!(matches!(met, TransportError::Restarted), "{met:?}");
    assert!(met.is_retryable());
}

#[tokio::test]
async fn a_node_that_drops_our_packets_is_given_up_long_before_the_idle_limit() {
    for waited in [false, true] {
        let met = kill_and_restart(waited, |keys| {
            for name in ["reset.key", "connection-id.key"] {
                baton_store::fs::remove_file(&keys.join(name)).unwrap();
            }
        })
        .await;
        assert!(matches!(met, TransportError::Stalled), "{met:?}");
        assert!(met.is_retryable());
    }
}

/// The node had acknowledged all that was sent, and owed an answer.
#[tokio::test]
async fn who_waits_for_an_answer_hears_that_the_node_was_restarted() {
    let met = kill_and_restart(true, |_| {}).await;
    assert!(matches!(met, TransportError::Restarted), "{met:?}");
}

/// A node that was restarted, and everybody who was connected at once: who finds no place in time comes again, and
/// soon all are in.
#[tokio::test(flavor = "multi_thread")]
async fn many_that_come_back_at_once_all_get_in() {
    const HOMES: usize = 200;
    let limits = Limits { connections: HOMES + 16, ..Limits::default() };
    let node = TestNode::start(limits.clone());
    let mut homes = Vec::new();
    for _ in 0..HOMES {
        let (pool, remote) = (node.home(Role::Run).await, node.remote());
        pool.hello(&remote).await.unwrap();
        homes.push(pool);
    }
    until(|| node.node.connections() == (HOMES, 0)).await;
    node.node.shut_down(Duration::from_millis(200)).await;
    let TestNode { folder: _folder, identity, catalog, clock, node, tasks } = node;
    let (port, remote) = (node.address().port(), remote(identity.node(), node.address()));
    drop(node);
    tasks.shut_down(Duration::from_secs(5)).await;
    let again = parts_again(&identity, &catalog, &clock, port);
    let second = restart(&|| NodeParts { limits: limits.clone(), ..again() }).await;
    let tasks = Tasks::new();
    let coming = homes.into_iter().enumerate().map(|(at, pool)| {
        let remote = remote.clone();
        tasks.spawn("home", async move {
            let mut tries = 1;
            while let Err(error) = pool.hello(&remote).await {
                assert!(error.is_retryable(), "{error}");
                tries += 1;
                tokio::time::sleep(Duration::from_millis(50 + at as u64)).await;
            }
            (pool, tries)
        })
    });
    let coming: Vec<_> = coming.collect();
    let mut all = Vec::new();
    for home in coming {
        all.push(tokio::time::timeout(WITHIN * 3, home).await.unwrap().unwrap());
    }
    // One that has come by both ways lets one of them go.
    until(|| second.connections() == (HOMES, 0)).await;
}

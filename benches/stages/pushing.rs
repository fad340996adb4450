//! A push over QUIC on loopback, from one store to another, each on its own disk sync.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use baton_daemon::audit::Audit;
use baton_daemon::client::pool::{Patience, Pool};
use baton_daemon::clock::Clock;
use baton_daemon::identity::Identity;
use baton_daemon::node::join::{TicketWish, issue_ticket};
use baton_daemon::node::{Handler, Handling, Node, NodeParts, Session};
use baton_daemon::sync::{Wire, push};
use baton_daemon::task::Tasks;
use baton_daemon::transport::limits::Limits;
use baton_protocol::id::{IdempotencyKey, SnapshotId};
use baton_protocol::message::{PushHello, Request};
use baton_protocol::session::push::PushOutcome;
use baton_protocol::ticket::Ticket;
use baton_store::catalog::Catalog;
use baton_store::catalog::devices::Role;
use baton_store::catalog::remotes::Remote;
use baton_store::plan::plan_push;
use baton_store::store::Store;
use baton_store::vault::Vault;
use criterion::{BatchSize, Criterion, Throughput};
use tokio::runtime::Runtime;

use crate::fixture::{Fixture, Seeded, WORKSPACE, put_snapshot, vault_of};
use crate::storing::small_tree;

/// Takes pushes into whichever vault is set.
struct Receiver {
    vault: Mutex<Vault>,
    tasks: Tasks,
}

impl Handler for Receiver {
    fn handle(self: Arc<Self>, session: Session, request: Request) -> Handling {
        Box::pin(async move {
            let Request::Push(hello) = request else { panic!("{request:?}") };
            let Session { device, stream, .. } = session;
            let (vault, mut wire) = (self.vault.lock().unwrap().clone(), Wire::new(stream));
            let work = move || {
                push::receive(
                    &mut wire,
                    &vault,
                    device.id,
                    &hello,
                    baton_daemon::sync::Quota::default(),
                )
                .unwrap();
                wire
            };
            let wire = self.tasks.spawn_blocking("push", work).await.unwrap();
            let mut stream = wire.into_stream();
            stream.finish();
            stream.writer.delivered().await;
            Ok(())
        })
    }
}

/// A node, and a home that it has let in.
struct Loopback {
    runtime: Runtime,
    receiver: Arc<Receiver>,
    pool: Pool,
    remote: Remote,
    device: Identity,
    _node: Node,
}

impl Loopback {
    fn new(folder: &Path, vault: Vault) -> Self {
        let runtime = Runtime::new().unwrap();
        let tasks = Tasks::new();
        let [identity, device] =
            ["node", "device"].map(|name| Identity::load_or_create(&folder.join(name)).unwrap());
        let catalog = Catalog::open(&folder.join("catalog.db")).unwrap();
        let receiver = Arc::new(Receiver { vault: Mutex::new(vault), tasks: tasks.clone() });
        let clock = Clock::system();
        let entered = runtime.enter();
        let node = Node::start(NodeParts {
            identity: identity.clone(),
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            catalog: catalog.clone(),
            handler: Arc::clone(&receiver) as Arc<dyn Handler>,
            limits: Limits::default(),
            tasks: tasks.clone(),
            clock: clock.clone(),
            audit: Audit::none(),
        })
        .unwrap();
        let addresses = vec![node.address().to_string()];
        let user = "owner".to_owned();
        let wish = TicketWish { user: user.clone(), role: Role::Run, expires_ms: 60_000, uses: 1 };
        let issued = issue_ticket(&catalog, node.id(), &addresses, &wish, &clock).unwrap();
        let ticket = Ticket::decode(&issued.word).unwrap();
        let pool = Pool::new(device.clone(), tasks, Patience::default()).unwrap();
        runtime.block_on(pool.join(&ticket, "bench")).unwrap();
        let (name, joined_at) = ("bench".to_owned(), 0);
        let remote = Remote { name, node: node.id(), user, addresses, joined_at };
        drop(entered);
        Self { runtime, receiver, pool, remote, device, _node: node }
    }

    /// Pushes, and returns after how many round trips the node had it.
    fn push(&self, vault: &Vault, base: Option<SnapshotId>, new: SnapshotId) -> u64 {
        let plan = plan_push(vault, base, new).unwrap();
        let key = IdempotencyKey::from_bytes(new.as_bytes()[..16].try_into().unwrap());
        let hello = PushHello { workspace: WORKSPACE, base, new, key };
        let stream = self.runtime.block_on(self.pool.open(&self.remote)).unwrap();
        let _entered = self.runtime.enter();
        let mut wire = Wire::new(stream);
        let (outcome, stats) = push::send(&mut wire, vault, hello, plan, |_, _| {}).unwrap();
        wire.into_stream().finish();
        assert!(matches!(outcome, PushOutcome::Acked { .. }), "{outcome:?}");
        stats.round_trips
    }
}

/// A tree that the node has nothing of, and then one file after the other.
pub(crate) fn pushes(criterion: &mut Criterion, fixture: &Fixture) {
    let there = || {
        let folder = tempfile::tempdir_in(fixture.folder.path()).unwrap();
        let store = Store::open(folder.path()).unwrap();
        (folder, store)
    };
    let (folder, store) = there();
    let loopback = Loopback::new(folder.path(), vault_of(&store));
    let vault = fixture.vault();
    let device = loopback.device.device();
    let snapshot_of = |root, sequence| {
        let intake = vault.intake();
        let id = put_snapshot(&intake, device, root, sequence);
        intake.keep(&[id.into()]).unwrap();
        id
    };
    let whole = snapshot_of(fixture.root, 1);
    let mut group = criterion.benchmark_group("push");
    group.throughput(Throughput::Bytes(fixture.bytes)).sample_size(10);
    group.bench_function("whole tree", |bencher| {
        bencher.iter_batched(
            || {
                let (folder, store) = there();
                *loopback.receiver.vault.lock().unwrap() = vault_of(&store);
                (folder, store)
            },
            |kept| {
                loopback.push(&vault, None, whole);
                kept
            },
            BatchSize::PerIteration,
        );
    });
    let (_kept, store) = there();
    *loopback.receiver.vault.lock().unwrap() = vault_of(&store);
    let (mut seeded, mut sequence) = (Seeded(5), 1);
    let mut next = || {
        let intake = vault.intake();
        let root = small_tree(&intake, &seeded.source(4_000));
        sequence += 1;
        let id = put_snapshot(&intake, device, root, sequence);
        intake.keep(&[id.into()]).unwrap();
        id
    };
    // Where the node has nothing, it is asked what it lacks.
    let mut head = next();
    loopback.push(&vault, None, head);
    group.throughput(Throughput::Elements(1)).sample_size(50);
    group.bench_function("one file", |bencher| {
        bencher.iter_batched(
            &mut next,
            |new| {
                assert_eq!(loopback.push(&vault, Some(head), new), 1);
                head = new;
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

//! Two homes and a node on one machine: pushes and fetches that go well, that are cut off, and that meet
//! a peer who lies.

mod ahead;
mod between;
mod client;
pub(super) mod ends;
mod fuzz;
mod lying_node;
mod many;
mod network;
mod probing;
mod simulated;
mod ways;

use std::collections::{BTreeMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton_protocol::batch::{Batch, Parcel};
use baton_protocol::frame::{FrameKind, encode_header};
use baton_protocol::id::{
    DeviceId, IdempotencyKey, ObjectId, ObjectKind, SnapshotId, TreeId, WorkspaceId,
};
use baton_protocol::message::{
    FetchRequest, Head, Opening, PushHello, RefusalCode, Reply, Request, decode,
};
use baton_protocol::object::{Entry, EntryKind, Snapshot, TreeSums, build_tree};
use baton_protocol::session::push::{Planned, PushOutcome, PushStats};
use baton_protocol::ticket::Ticket;
use baton_store::catalog::Catalog;
use baton_store::catalog::devices::Role;
use baton_store::catalog::remotes::Remote;
use baton_store::chunk::store_bytes;
use baton_store::objects::{ObjectSink, ObjectSource};
use baton_store::plan::plan_push;
use baton_store::snapshot::load_snapshot;
use baton_store::store::Store;
use baton_store::vault::{Intake, Vault};

use super::{SyncError, Wire, fetch, push};
use crate::audit::Audit;
use crate::client::pool::{Patience, Pool};
use crate::clock::Clock;
use crate::daemon::checkouts::{Captures, NodeCheckouts};
use crate::environments::cache::{CacheLimits, EnvironmentCache};
use crate::environments::setups::Setups;
use crate::identity::Identity;
use crate::node::join::{TicketWish, issue_ticket};
use crate::node::requests::Requests;
use crate::node::usage::{Most, Usage};
use crate::node::{Handler, Handling, Node, NodeParts, Session};
use crate::notices::Notices;
use crate::rooms::{BareRoom, DEFAULT_PATH};
use crate::runs::environment::NodeEnvironment;
use crate::runs::{RunOptions, RunParts, Runs};
use crate::secrets::Secrets;
use crate::task::Tasks;
use crate::transport::TransportError;
use crate::transport::limits::Limits;
use crate::transport::stream::FrameStream;
use crate::transport::testing::identity;

/// Fails a test that hangs.
const WITHIN: Duration = Duration::from_mins(2);

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([7; 16]);

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(WITHIN, work).await.expect("it hangs")
}

/// Bytes that do not compress.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut step = || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes()
    };
    std::iter::repeat_with(&mut step).flatten().take(len).collect()
}

/// File contents by path, of which the last name is a file.
type Files = BTreeMap<String, Vec<u8>>;

/// 30 files in 6 folders.
fn project() -> Files {
    let text =
        |at: usize| format!("{at}: {}\n", "some line of a source file. ".repeat(at)).repeat(4);
    (0..30).map(|at| (format!("d{}/f{at}.rs", at % 6), text(at).into_bytes())).collect()
}

/// 2.4 MB in 40 files: more than what is kept in memory until a commit.
fn bulk(seed: u64) -> Files {
    (0..40).map(|at| (format!("b{}/f{at}", at % 4), noise(seed * 100 + at, 60_000))).collect()
}

fn put_directory(sink: &Intake, files: &[(&str, &[u8])]) -> (TreeId, TreeSums) {
    let mut below: BTreeMap<&str, Vec<(&str, &[u8])>> = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for &(path, bytes) in files {
        if let Some((name, rest)) = path.split_once('/') {
            below.entry(name).or_default().push((rest, bytes));
        } else {
            let blob = store_bytes(bytes, sink).unwrap();
            entries.insert(path, EntryKind::File { mode: 0o644, blob });
        }
    }
    for (name, files) in below {
        let (tree, below) = put_directory(sink, &files);
        entries.insert(name, EntryKind::Directory { mode: 0o755, tree, below });
    }
    let entries = entries.into_iter().map(|(name, kind)| Entry { name: name.into(), kind });
    build_tree(entries.collect(), |_, _, bytes| sink.put(ObjectKind::Tree, &bytes).map(drop))
        .unwrap()
}

/// A snapshot that says nothing but its tree.
fn snapshot_of(root: TreeId, device: DeviceId, sequence: u64) -> Snapshot {
    Snapshot {
        workspace: WORKSPACE,
        device,
        sequence,
        parents: Vec::new(),
        root,
        root_mode: 0o755,
        omitted: None,
        git: None,
        conversations: Vec::new(),
        created_at: 0,
        message: String::new(),
    }
}

fn put_snapshot(sink: &Intake, snapshot: &Snapshot) -> SnapshotId {
    SnapshotId::from_bytes(sink.put(ObjectKind::Snapshot, &snapshot.encode()).unwrap().hash)
}

/// Puts a snapshot of these files, and keeps it.
fn keep_files(intake: Intake, files: &Files, device: DeviceId, sequence: u64) -> SnapshotId {
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), &bytes[..])).collect();
    let (root, _) = put_directory(&intake, &files);
    let id = put_snapshot(&intake, &snapshot_of(root, device, sequence));
    intake.keep(&[id.into()]).unwrap();
    id
}

/// A machine with a store and a key.
struct Home {
    _folder: tempfile::TempDir,
    identity: Identity,
    vault: Vault,
    pool: Pool,
    tasks: Tasks,
    _store: Store,
}

impl Home {
    fn new() -> Self {
        Self::with(Patience::default().stall)
    }

    fn with(stall: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap();
        let (identity, tasks) = (identity(), Tasks::new());
        let long = Duration::from_secs(20);
        let patience = Patience { connect: long, join: long, stall, ..Patience::default() };
        let pool = Pool::new(identity.clone(), tasks.clone(), patience).unwrap();
        let vault = store.vault(baton_protocol::id::VaultId::from_bytes([9; 16])).unwrap();
        Self { _folder: folder, identity, vault, pool, tasks, _store: store }
    }

    fn device(&self) -> DeviceId {
        self.identity.device()
    }

    /// A snapshot of these files; no ref leads to it here.
    fn snapshot(&self, files: &Files, sequence: u64) -> SnapshotId {
        keep_files(self.vault.intake(), files, self.device(), sequence)
    }

    async fn push(
        &self,
        remote: &Remote,
        base: Option<SnapshotId>,
        new: SnapshotId,
    ) -> Result<(PushOutcome, PushStats), SyncError> {
        let plan = plan_push(&self.vault, base, new).unwrap();
        self.push_plan(remote, hello(base, new), plan).await
    }

    async fn push_plan(
        &self,
        remote: &Remote,
        hello: PushHello,
        plan: Vec<Planned>,
    ) -> Result<(PushOutcome, PushStats), SyncError> {
        let mut wire = Wire::new(self.pool.open(remote).await?);
        let vault = self.vault.clone();
        let work = move || {
            let outcome = push::send(&mut wire, &vault, hello, plan, |_, _| {});
            wire.into_stream().finish();
            outcome
        };
        within(self.tasks.spawn_blocking("push", work)).await.unwrap()
    }

    /// A push that must be acknowledged.
    async fn pushed(
        &self,
        remote: &Remote,
        base: Option<SnapshotId>,
        new: SnapshotId,
    ) -> PushStats {
        let (outcome, stats) = self.push(remote, base, new).await.unwrap();
        assert!(matches!(outcome, PushOutcome::Acked { snapshot, .. } if snapshot == new));
        stats
    }

    async fn fetch(&self, remote: &Remote, snapshot: SnapshotId) -> Result<u64, SyncError> {
        self.fetch_within(remote, snapshot, u64::MAX).await
    }

    async fn fetch_within(
        &self,
        remote: &Remote,
        snapshot: SnapshotId,
        limit: u64,
    ) -> Result<u64, SyncError> {
        let mut stream = self.pool.open(remote).await?;
        stream.send(&Opening::new(Request::Fetch)).await?;
        let (mut wire, vault) = (Wire::new(stream), self.vault.clone());
        let work = move || {
            let outcome = fetch::fetch_within(&mut wire, &vault, snapshot, limit, |_, _, _| {});
            wire.into_stream().finish();
            outcome
        };
        within(self.tasks.spawn_blocking("fetch", work)).await.unwrap()
    }

    /// Whether all of a snapshot is here.
    fn has(&self, snapshot: SnapshotId) -> bool {
        has(&self.vault, snapshot)
    }
}

fn has(vault: &Vault, snapshot: SnapshotId) -> bool {
    vault.intake().missing(snapshot.into(), 1).unwrap().is_empty()
}

fn hello(base: Option<SnapshotId>, new: SnapshotId) -> PushHello {
    let key = IdempotencyKey::from_bytes(new.as_bytes()[..16].try_into().unwrap());
    PushHello { workspace: WORKSPACE, base, new, key }
}

/// How a node for a test differs from the usual one.
#[derive(Clone, Default)]
struct Settings {
    limits: Limits,
    quota: super::Quota,
    most: Most,
}

/// A node with real stores and runs.
struct Cloud {
    folder: Arc<tempfile::TempDir>,
    identity: Identity,
    catalog: Catalog,
    store: Store,
    node: Node,
    tasks: Tasks,
    clock: Clock,
}

impl Cloud {
    fn start(settings: &Settings) -> Self {
        Self::start_in(Arc::new(tempfile::tempdir().unwrap()), settings)
    }

    fn start_in(folder: Arc<tempfile::TempDir>, settings: &Settings) -> Self {
        let path = folder.path();
        let identity = Identity::load_or_create(&path.join("keys")).unwrap();
        let catalog = Catalog::open(&path.join("catalog.db")).unwrap();
        let store = Store::open(&path.join("store")).unwrap();
        let (clock, tasks) = (Clock::manual(1_000_000), Tasks::new());
        let variables = NodeEnvironment::new([("PATH".into(), DEFAULT_PATH.into())]);
        let secrets = Secrets::new(path.join("secrets"));
        let checkouts = NodeCheckouts {
            store: store.clone(),
            clock: clock.clone(),
            git: None,
            scratch: path.join("scratch"),
            captures: Captures::default(),
            secrets: secrets.clone(),
            shared: None,
            cloned: None,
            note: None,
            aside: path.join("runs/aside"),
            environments: EnvironmentCache::open(path.join("environments"), CacheLimits::default()),
            setups: Setups::default(),
            system: String::new(),
        };
        let parts = RunParts {
            limits: Arc::new(crate::limits::NoGroups::because("a test".to_owned())),
            catalog: catalog.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            room: Arc::new(BareRoom),
            checkouts: Arc::new(checkouts),
            secrets: secrets.clone(),
            notices: Notices::default(),
        };
        let runs = Runs::new(RunOptions::new(path.join("runs"), variables), parts).unwrap();
        let audit = Audit::open(&path.join("audit.log"), &clock);
        let handler = Requests {
            store: store.clone(),
            catalog: catalog.clone(),
            runs,
            secrets,
            changed: Arc::default(),
            quota: settings.quota.clone(),
            usage: Usage::new(settings.most),
            tasks: tasks.clone(),
        };
        let node =
            start_node(&identity, &catalog, Arc::new(handler), settings, &tasks, &clock, audit);
        Self { folder, identity, catalog, store, node, tasks, clock }
    }

    /// The next node at the same place.
    async fn restart(self, settings: &Settings) -> Self {
        let Self { folder, store, node, tasks, catalog, .. } = self;
        node.shut_down(Duration::from_secs(5)).await;
        tasks.shut_down(Duration::from_secs(5)).await;
        drop((store, node, tasks, catalog));
        Self::start_in(folder, settings)
    }

    fn remote(&self) -> Remote {
        remote(&self.identity, self.node.address())
    }

    /// Lets a home in.
    async fn joined(&self, home: Home, user: &str) -> Home {
        join(&home, &self.catalog, &self.remote(), user, &self.clock).await;
        home
    }

    async fn home(&self) -> Home {
        self.joined(Home::new(), "owner").await
    }

    fn vault_of(&self, home: &Home) -> Vault {
        let device = self.catalog.device(home.device()).unwrap().unwrap();
        self.store.vault(device.vault).unwrap()
    }

    fn head(&self, home: &Home) -> Option<Head> {
        self.vault_of(home).head(WORKSPACE, home.device())
    }
}

fn start_node(
    identity: &Identity,
    catalog: &Catalog,
    handler: Arc<dyn Handler>,
    settings: &Settings,
    tasks: &Tasks,
    clock: &Clock,
    audit: Audit,
) -> Node {
    let parts = NodeParts {
        identity: identity.clone(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        catalog: catalog.clone(),
        handler,
        limits: settings.limits.clone(),
        tasks: tasks.clone(),
        clock: clock.clone(),
        audit,
    };
    Node::start(parts).unwrap()
}

fn remote(identity: &Identity, address: SocketAddr) -> Remote {
    Remote {
        name: "rack".to_owned(),
        node: identity.node(),
        user: "owner".to_owned(),
        addresses: vec![address.to_string()],
        joined_at: 0,
    }
}

async fn join(home: &Home, catalog: &Catalog, remote: &Remote, user: &str, clock: &Clock) {
    let wish = TicketWish { user: user.to_owned(), role: Role::Run, expires_ms: 60_000, uses: 1 };
    let issued = issue_ticket(catalog, remote.node, &remote.addresses, &wish, clock).unwrap();
    home.pool.join(&Ticket::decode(&issued.word).unwrap(), "laptop").await.unwrap();
}

/// All bytes of a folder with their paths, to see that nothing else was written.
fn listing(folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    let mut left = vec![folder.to_owned()];
    while let Some(folder) = left.pop() {
        for name in baton_store::fs::list_dir(&folder).unwrap() {
            let path = folder.join(name);
            names.push(path.display().to_string());
            if std::fs::symlink_metadata(&path).unwrap().is_dir() {
                left.push(path);
            }
        }
    }
    names.sort();
    names
}

/// A batch of whole objects as a frame.
fn batch(objects: &[(ObjectKind, Vec<u8>)]) -> Vec<u8> {
    let mut batch = Batch::new();
    for (kind, bytes) in objects {
        batch.push_full(*kind, bytes);
    }
    frame(FrameKind::Objects, &batch.finish().unwrap())
}

fn frame(kind: FrameKind, body: &[u8]) -> Vec<u8> {
    let mut frame = encode_header(kind, body.len()).unwrap().to_vec();
    frame.extend_from_slice(body);
    frame
}

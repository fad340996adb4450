//! Many homes at one node: tasks of this process with keys of their own, real QUIC and real sessions, each
//! with an edit every second. How long an edit takes until it is acknowledged, what a client costs the node,
//! and whether each gets its turn; in the end every snapshot that was acknowledged must be there, whole.
//!
//! Not here: their own disks. What a home keeps for itself lies in memory where there is such a place, so
//! that the disk that is measured is the node's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use baton_daemon::client::pool::{Patience, Pool};
use baton_daemon::identity::Identity;
use baton_daemon::sync::{SyncError, Wire, push};
use baton_daemon::task::Tasks;
use baton_protocol::id::{IdempotencyKey, ObjectKind, SnapshotId, VaultId, WorkspaceId};
use baton_protocol::message::PushHello;
use baton_protocol::object::{Entry, EntryKind, Snapshot, build_tree};
use baton_protocol::session::push::PushOutcome;
use baton_protocol::ticket::Ticket;
use baton_store::catalog::Catalog;
use baton_store::catalog::remotes::Remote;
use baton_store::chunk::store_bytes;
use baton_store::objects::ObjectSink;
use baton_store::plan::plan_push;
use baton_store::store::Store;
use baton_store::vault::Vault;

use crate::arguments::Arguments;
use crate::homes::{Home, Node};
use crate::processes::{Scratch, memory};
use crate::rng::Rng;
use crate::samples::{bytes, quantile, seconds};

const WORKSPACE: WorkspaceId = WorkspaceId::from_bytes([7; 16]);

/// Files of each workspace, of 2 KiB.
const FILES: u64 = 20;

/// How long a client that was refused a place waits, at most.
const PAUSE_MS: u64 = 2000;

/// One home.
struct Client {
    identity: Identity,
    pool: Pool,
    tasks: Tasks,
    vault: Vault,
    remote: Remote,
    rng: Rng,
    files: BTreeMap<String, Vec<u8>>,
}

/// What became of its pushes.
#[derive(Debug, Default)]
struct Outcome {
    acked: Vec<SnapshotId>,
    seconds: Vec<f64>,
    again: u64,
}

impl Client {
    fn new(at: u64, store: &Store, keys: &Path, ticket: &Ticket, user: &str) -> Self {
        let identity = Identity::load_or_create(&keys.join(at.to_string())).unwrap();
        let tasks = Tasks::new();
        let patience = Patience { connect: Duration::from_secs(10), ..Patience::default() };
        let pool = Pool::new(identity.clone(), tasks.clone(), patience).unwrap();
        let mut id = [0; 16];
        id[..8].copy_from_slice(&at.to_le_bytes());
        let vault = store.vault(VaultId::from_bytes(id)).unwrap();
        let mut rng = Rng::new(at + 1);
        let mut noise = || (0..2048).map(|_| rng.below(256) as u8).collect();
        let files = (0..FILES).map(|file| (format!("file-{file:02}"), noise())).collect();
        let remote = Remote {
            name: "node".to_owned(),
            node: ticket.node,
            user: user.to_owned(),
            addresses: ticket.addresses.clone(),
            joined_at: 0,
        };
        Self { identity, pool, tasks, vault, remote, rng, files }
    }

    fn snapshot(&mut self, sequence: u64) -> SnapshotId {
        let intake = self.vault.intake();
        let edited = format!("file-{:02}", self.rng.below(FILES));
        let byte = self.rng.below(2048) as usize;
        self.files.get_mut(&edited).unwrap()[byte] ^= 0x55;
        let entry = |(name, bytes): (&String, &Vec<u8>)| {
            let blob = store_bytes(bytes, &intake).unwrap();
            Entry { name: name.as_str().into(), kind: EntryKind::File { mode: 0o644, blob } }
        };
        let entries: Vec<_> = self.files.iter().map(entry).collect();
        let (root, _) =
            build_tree(entries, |_, _, bytes| intake.put(ObjectKind::Tree, &bytes).map(drop))
                .unwrap();
        let snapshot = Snapshot {
            workspace: WORKSPACE,
            device: self.identity.device(),
            sequence,
            parents: Vec::new(),
            root,
            root_mode: 0o755,
            omitted: None,
            git: None,
            conversations: Vec::new(),
            created_at: 0,
            message: String::new(),
        };
        let id = intake.put(ObjectKind::Snapshot, &snapshot.encode()).unwrap();
        intake.keep(&[id]).unwrap();
        SnapshotId::from_bytes(id.hash)
    }

    async fn join(&mut self, ticket: &Ticket) {
        loop {
            match self.pool.join(ticket, "client").await {
                Ok(_) => return,
                Err(error) if error.is_retryable() => self.pause().await,
                Err(error) => panic!("joining: {error}"),
            }
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.rng.below(PAUSE_MS))).await;
    }

    async fn push(&self, base: Option<SnapshotId>, new: SnapshotId) -> Result<(), SyncError> {
        let plan = plan_push(&self.vault, base, new).unwrap();
        let key = IdempotencyKey::from_bytes(new.as_bytes()[..16].try_into().unwrap());
        let hello = PushHello { workspace: WORKSPACE, base, new, key };
        let mut wire = Wire::new(self.pool.open(&self.remote).await?);
        let vault = self.vault.clone();
        let work = move || {
            let outcome = push::send(&mut wire, &vault, hello, plan, |_, _| {});
            wire.into_stream().finish();
            outcome
        };
        let (outcome, _) = self.tasks.spawn_blocking("push", work).await.unwrap()?;
        assert!(matches!(outcome, PushOutcome::Acked { snapshot, .. } if snapshot == new));
        Ok(())
    }

    /// Edits once a second until then. An edit that is due while another is under way waits its turn, and
    /// that is counted.
    async fn work(mut self, start: Instant, until: Instant) -> Outcome {
        let mut outcome = Outcome::default();
        let mut base = None;
        let first = start + Duration::from_millis(self.rng.below(1000));
        for sequence in 1.. {
            let due = first + Duration::from_secs(sequence - 1);
            if due >= until {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            let new = self.snapshot(sequence);
            loop {
                match self.push(base, new).await {
                    Ok(()) => break,
                    Err(error) => {
                        assert!(error.is_retryable(), "pushing: {error}");
                        outcome.again += 1;
                        self.pause().await;
                    }
                }
            }
            outcome.seconds.push(due.elapsed().as_secs_f64());
            outcome.acked.push(new);
            base = Some(new);
        }
        self.pool.close().await;
        outcome
    }
}

/// Runs them all, and prints what came of it.
pub(crate) fn run(arguments: &Arguments, scratch: &Scratch) {
    let count = arguments.clients;
    let home = Home::new(scratch, &arguments.baton, "node");
    home.configure(&format!("[serve]\nmax_connections = {}\n", count + 100));
    let node = Node::start(home);
    let alone = memory(node.pid(), "VmRSS");
    // In memory, so that their own syncs are not measured.
    let shm = Path::new("/dev/shm");
    let own = if shm.is_dir() { tempfile::tempdir_in(shm) } else { tempfile::tempdir() }.unwrap();
    let store = Store::open(&own.path().join("store")).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(2048)
        .thread_stack_size(512 * 1024)
        .enable_all()
        .build()
        .unwrap();
    let uses = count.to_string();
    let ticket = node.home.run(&["ticket", "--expires", "1h", "--uses", &uses]);
    let ticket = Ticket::decode(ticket.text("ticket")).unwrap();
    let keys = own.path().join("keys");
    let (tasks, began) = (Tasks::new(), Instant::now());
    let joined: Vec<Client> = runtime.block_on(async {
        let mut joining = Vec::new();
        for at in 0..count {
            let mut client = Client::new(at, &store, &keys, &ticket, "owner");
            let ticket = ticket.clone();
            let join = async move {
                client.join(&ticket).await;
                client
            };
            joining.push(tasks.spawn("joining", join));
        }
        let mut all = Vec::new();
        for client in joining {
            all.push(client.await.unwrap());
        }
        all
    });
    eprintln!("{count} clients joined after {}", seconds(began.elapsed().as_secs_f64()));
    let devices: Vec<_> = joined.iter().map(|client| client.identity.device()).collect();
    let start = Instant::now();
    let until = start + Duration::from_secs(arguments.seconds);
    let (outcomes, peak) = runtime.block_on(async {
        let working: Vec<_> = joined
            .into_iter()
            .map(|client| tasks.spawn("client", client.work(start, until)))
            .collect();
        let mut outcomes = Vec::new();
        let mut peak = 0;
        tokio::time::sleep_until((start + (until - start) / 2).into()).await;
        peak = peak.max(memory(node.pid(), "VmRSS"));
        for client in working {
            outcomes.push(client.await.unwrap());
        }
        (outcomes, peak)
    });
    let took = start.elapsed().as_secs_f64();
    let kept = node.home.folder.join("baton");
    drop(node);
    let lost = lost(&kept, &devices, &outcomes);
    let all: Vec<f64> = outcomes.iter().flat_map(|it| it.seconds.iter().copied()).collect();
    let (least, most) = outcomes
        .iter()
        .map(|it| it.acked.len())
        .fold((usize::MAX, 0), |(a, b), n| (a.min(n), b.max(n)));
    let mut text = String::new();
    let _ = writeln!(
        text,
        "{count} clients, an edit a second for {} s ({took:.1} s until the last):",
        arguments.seconds
    );
    let _ = writeln!(
        text,
        "  acknowledged   {} of {}, {} tried again",
        all.len(),
        count * arguments.seconds,
        outcomes.iter().map(|it| it.again).sum::<u64>()
    );
    let _ = writeln!(
        text,
        "  p50, p99, max  {}, {}, {}",
        seconds(quantile(&all, 0.5)),
        seconds(quantile(&all, 0.99)),
        seconds(quantile(&all, 1.0))
    );
    let _ = writeln!(
        text,
        "  node           {} alone, {} with them: {} for each",
        bytes(alone),
        bytes(peak),
        bytes(peak.saturating_sub(alone) / count.max(1))
    );
    let _ = writeln!(text, "  fairness       {most} / {least} acknowledged");
    let _ = writeln!(text, "  lost           {lost}");
    eprintln!("{text}");
    assert_eq!(lost, 0, "acknowledged and not there");
    drop(store);
    drop(own);
}

/// Of the acknowledged snapshots those that the node does not have whole.
fn lost(kept: &Path, devices: &[baton_protocol::id::DeviceId], outcomes: &[Outcome]) -> usize {
    let (store, catalog) = (
        Store::open(&kept.join("store")).unwrap(),
        Catalog::open(&kept.join("catalog.db")).unwrap(),
    );
    let mut lost = 0;
    for (device, outcome) in devices.iter().zip(outcomes) {
        let row = catalog.device(*device).unwrap().unwrap();
        let vault = store.vault(row.vault).unwrap();
        let intake = vault.intake();
        let is_lost = |id: &&SnapshotId| !intake.missing((**id).into(), 1).unwrap().is_empty();
        lost += outcome.acked.iter().filter(is_lost).count();
        let head = vault.head(WORKSPACE, *device).map(|head| head.snapshot);
        lost += usize::from(head.as_ref() != outcome.acked.last());
    }
    lost
}

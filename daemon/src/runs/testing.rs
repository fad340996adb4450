//! A node with runs, for tests: real catalog, rooms and processes; checkouts are copies of folders.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton_protocol::id::{RunId, SnapshotId, ThreadId, VaultId, WorkspaceId};
use baton_protocol::message::{LogEntry, LogStream, RunInfo, RunSpec, RunState, Terms};
use baton_store::catalog::Catalog;
use baton_store::fs;

use super::checkout::{CheckoutError, Checkouts, Conversed, Place, Prepared};
use super::environment::NodeEnvironment;
use super::follow::RunLog;
use super::{RunOptions, RunParts, Runs};
use crate::clock::Clock;
use crate::limits::{self, Limits};
use crate::notices::Notices;
use crate::rooms::{BareRoom, DEFAULT_PATH, Room, RoomSettings, choose};
use crate::secrets::Secrets;
use crate::task::Tasks;

const SNAPSHOT: SnapshotId = SnapshotId::from_bytes([3; 32]);

/// Fails a test that hangs.
pub(super) async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_mins(1), work).await.expect("it hangs")
}

/// A run of its own: the processes of a machine are told apart by the ids of their runs.
pub(super) fn spec(byte: u8, command: &[&str]) -> RunSpec {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut run = [byte; 16];
    run[1..5].copy_from_slice(&std::process::id().to_le_bytes());
    run[5..13].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    RunSpec {
        run: RunId::from_bytes(run),
        thread: ThreadId::from_bytes([0x7d; 16]),
        workspace: WorkspaceId::from_bytes([2; 16]),
        snapshot: SNAPSHOT,
        agent: "command".to_owned(),
        command: command.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
        prompt: None,
        parent: None,
        terms: Terms::default(),
    }
}

/// What one stream of a log says.
pub(super) fn entries(log: &[LogEntry], stream: LogStream) -> Vec<u8> {
    let of_stream = log.iter().filter(|entry| entry.stream == stream);
    of_stream.flat_map(|entry| entry.text.iter().copied()).collect()
}

/// Snapshots as folders: what a run starts from has one file and one attachment.
pub(super) struct CopyCheckouts {
    folder: PathBuf,
    /// Run, parent and result of each seal.
    pub(super) seals: Mutex<Vec<(RunId, SnapshotId, SnapshotId)>>,
}

fn failed(doing: &'static str) -> impl FnOnce(fs::FsError) -> CheckoutError {
    move |source| CheckoutError { doing, source: Box::new(source) }
}

impl Checkouts for CopyCheckouts {
    fn prepare(&self, place: &Place, snapshot: SnapshotId) -> Result<Prepared, CheckoutError> {
        let Place { checkout, attachments, .. } = place;
        fs::create_dir_all(checkout).map_err(failed("making the checkout"))?;
        if snapshot != SNAPSHOT {
            let source = std::io::Error::from(std::io::ErrorKind::NotFound).into();
            return Err(CheckoutError { doing: "finding the snapshot", source });
        }
        let write = |path: &Path, text: &[u8]| fs::write_atomic(path, text, 0o644);
        write(&checkout.join("given"), b"given\n").map_err(failed("writing a file"))?;
        write(&attachments.join("a.txt"), b"the attachment\n").map_err(failed("attaching"))?;
        let receipt = serde_json::json!({ "snapshot": snapshot.to_string(), "isolated": null });
        Ok(Prepared { files: 1, bytes: 6, receipt, note: None })
    }

    fn converse(
        &self,
        _place: &Place,
        _snapshot: SnapshotId,
        _is_fork: bool,
    ) -> Result<Option<Conversed>, CheckoutError> {
        Ok(None)
    }

    fn keep(&self, place: &Place, _parent: SnapshotId) -> Result<SnapshotId, CheckoutError> {
        self.store(place)
    }

    fn is_there(&self, checkout: &Path, _layer: &Path) -> bool {
        checkout.exists()
    }

    fn sweep(&self, _stop: &AtomicBool) -> Result<(), CheckoutError> {
        Ok(())
    }

    fn release(&self, checkout: &Path, _layer: &Path) -> Result<(), CheckoutError> {
        fs::remove_dir_all(checkout).map_err(failed("removing"))
    }

    fn let_go(&self, _checkout: &Path, _layer: &Path) -> Result<(), CheckoutError> {
        Ok(())
    }

    fn seal(&self, place: &Place, parent: SnapshotId) -> Result<SnapshotId, CheckoutError> {
        let result = self.store(place)?;
        self.seals.lock().unwrap().push((place.run, parent, result));
        Ok(result)
    }
}

impl CopyCheckouts {
    fn store(&self, Place { checkout, .. }: &Place) -> Result<SnapshotId, CheckoutError> {
        let mut all = Vec::new();
        let mut files = Vec::new();
        for name in fs::list_dir(checkout).map_err(failed("listing"))? {
            if name == "unsealable" {
                let source = std::io::Error::from(std::io::ErrorKind::StorageFull).into();
                return Err(CheckoutError { doing: "storing the snapshot", source });
            }
            let read = fs::read_if_exists(&checkout.join(&name), 1 << 30);
            let content = read.map_err(failed("reading"))?.unwrap_or_default();
            all.extend_from_slice(name.as_encoded_bytes());
            all.extend_from_slice(&content);
            files.push((name, content));
        }
        let result = SnapshotId::of(&all);
        let folder = self.folder.join(result.to_string());
        fs::create_dir_all(&folder).map_err(failed("storing"))?;
        for (name, content) in files {
            let written = fs::write_atomic(&folder.join(name), &content, 0o644);
            written.map_err(failed("storing"))?;
        }
        Ok(result)
    }
}

/// A daemon that ends takes its control groups with it; one that is dropped in a test did not die.
impl Drop for Node {
    fn drop(&mut self) {
        self.runs.0.parts.limits.shut_down();
    }
}

/// The home of a node; removed with its last daemon unless another process has made it.
pub(super) struct Folder {
    path: PathBuf,
    _own: Option<tempfile::TempDir>,
}

impl Folder {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn of_another(path: PathBuf) -> Arc<Self> {
        Arc::new(Self { path, _own: None })
    }

    fn new() -> Arc<Self> {
        let own = tempfile::tempdir().unwrap();
        Arc::new(Self { path: own.path().to_owned(), _own: Some(own) })
    }
}

/// A node of one user.
pub(super) struct Node {
    pub(super) folder: Arc<Folder>,
    pub(super) runs: Runs,
    pub(super) catalog: Catalog,
    pub(super) checkouts: Arc<CopyCheckouts>,
    pub(super) vault: VaultId,
}

impl Node {
    pub(super) fn new() -> Self {
        Self::with(|_| {})
    }

    /// Without walls.
    pub(super) fn with(change: impl Fn(&mut RunOptions)) -> Self {
        Self::build(Folder::new(), Arc::new(BareRoom), change)
    }

    /// One without walls and, where this machine can, one with.
    pub(super) async fn in_every_room() -> Vec<Self> {
        Self::in_every_room_with(|_| {}).await
    }

    pub(super) async fn in_every_room_with(change: impl Fn(&mut RunOptions)) -> Vec<Self> {
        let mut nodes = vec![Self::with(&change)];
        let folder = Folder::new();
        if let Some(room) = Self::walls(&folder).await {
            nodes.push(Self::build(folder, room, change));
        }
        nodes
    }

    /// A room with walls, where this machine can make one.
    async fn walls(folder: &Folder) -> Option<Arc<dyn Room>> {
        let (path, hide) = (DEFAULT_PATH.into(), vec![folder.path().to_owned()]);
        let settings = RoomSettings { path, hide, ..RoomSettings::default() };
        let chosen = choose(settings, folder.path()).await;
        if !chosen.room.isolated() {
            eprintln!("only without walls: {}", chosen.detail);
        }
        chosen.room.isolated().then_some(chosen.room)
    }

    /// At work in a home that another process has made.
    pub(super) async fn in_home_of_another(path: PathBuf, walls: bool) -> Option<Self> {
        let folder = Folder::of_another(path);
        let room = if walls { Self::walls(&folder).await? } else { Arc::new(BareRoom) };
        Some(Self::build(folder, room, |_| {}))
    }

    /// One with walls, where this machine can have them, and with the best limits that it has, or those that are said.
    pub(super) async fn walled(
        limits: Option<Arc<dyn Limits>>,
        change: impl Fn(&mut RunOptions),
    ) -> Option<Self> {
        let folder = Folder::new();
        let room = Self::walls(&folder).await?;
        Some(Self::build_with(folder, room, limits, change))
    }

    /// Without walls, and with these limits.
    pub(super) fn bare(limits: Arc<dyn Limits>, change: impl Fn(&mut RunOptions)) -> Self {
        Self::build_with(Folder::new(), Arc::new(BareRoom), Some(limits), change)
    }

    fn build(folder: Arc<Folder>, room: Arc<dyn Room>, change: impl Fn(&mut RunOptions)) -> Self {
        Self::build_with(folder, room, None, change)
    }

    fn build_with(
        folder: Arc<Folder>,
        room: Arc<dyn Room>,
        limits: Option<Arc<dyn Limits>>,
        change: impl Fn(&mut RunOptions),
    ) -> Self {
        let variables = [("PATH", DEFAULT_PATH), ("LANG", "C.UTF-8"), ("SECRET", "s")];
        let variables = variables.map(|(name, value)| (name.into(), value.into()));
        let mut options =
            RunOptions::new(folder.path().join("runs"), NodeEnvironment::new(variables));
        change(&mut options);
        fs::create_dir_all(&options.folder).unwrap();
        let limits = limits.unwrap_or_else(|| limits::choose(&options.folder));
        let catalog = Catalog::open(&folder.path().join("catalog.db")).unwrap();
        let vault = VaultId::from_bytes([1; 16]);
        catalog.ensure_user("ann", vault).unwrap();
        let seals = Mutex::default();
        let checkouts = Arc::new(CopyCheckouts { folder: folder.path().join("sealed"), seals });
        let parts = RunParts {
            catalog: catalog.clone(),
            clock: Clock::system(),
            tasks: Tasks::new(),
            room,
            limits,
            checkouts: Arc::clone(&checkouts) as Arc<dyn Checkouts>,
            secrets: Secrets::new(folder.path().join("secrets")),
            notices: Notices::default(),
        };
        let runs = Runs::new(options, parts).unwrap();
        Self { folder, runs, catalog, checkouts, vault }
    }

    /// The same home, in the next daemon.
    pub(super) fn next_daemon(&self) -> Self {
        Self::build(Arc::clone(&self.folder), Arc::clone(&self.runs.0.parts.room), |_| {})
    }

    /// What its users' runs are given.
    pub(super) fn secrets(&self) -> &Secrets {
        &self.runs.0.parts.secrets
    }

    /// What holds its runs to their limits.
    pub(super) fn limits(&self) -> &Arc<dyn Limits> {
        &self.runs.0.parts.limits
    }

    pub(super) fn isolated(&self) -> bool {
        self.runs.0.parts.room.isolated()
    }

    /// A run to its end.
    pub(super) async fn run(&self, spec: RunSpec) -> RunInfo {
        let run = spec.run;
        within(async {
            let info = self.runs.create("ann", self.vault, spec).await.unwrap();
            assert_eq!(info.state, RunState::Queued);
            self.runs.wait("ann", run).await.unwrap()
        })
        .await
    }

    /// Creates a run and returns when it is prepared, with its log behind what the node says first.
    pub(super) async fn start(&self, spec: RunSpec) -> RunLog {
        let run = spec.run;
        within(async {
            self.runs.create("ann", self.vault, spec).await.unwrap();
            let mut log = self.runs.logs("ann", run, 1, true).await.unwrap();
            let first = log.next().await.unwrap().unwrap();
            assert!(first[0].text.starts_with(b"prepared "), "{first:?}");
            self.runs.logs("ann", run, 2, true).await.unwrap()
        })
        .await
    }

    /// A run once it is as it is waited for.
    pub(super) async fn until(&self, run: RunId, is: impl Fn(&RunInfo) -> bool) -> RunInfo {
        within(async {
            loop {
                let info = self.runs.show("ann", run).await.unwrap();
                if is(&info) {
                    break info;
                }
                assert!(!info.state.is_final(), "{info:?}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    /// The whole log of a run that has ended.
    pub(super) async fn log(&self, run: RunId) -> Vec<LogEntry> {
        let mut log = self.runs.logs("ann", run, 0, false).await.unwrap();
        let mut all = Vec::new();
        while let Some(entries) = within(log.next()).await.unwrap() {
            all.extend(entries);
        }
        all
    }

    /// Standard output and standard error.
    pub(super) async fn output(&self, run: RunId) -> (Vec<u8>, Vec<u8>) {
        let log = self.log(run).await;
        (entries(&log, LogStream::Stdout), entries(&log, LogStream::Stderr))
    }

    /// Where a file of a run's result is.
    pub(super) fn sealed_path(&self, info: &RunInfo, name: &str) -> PathBuf {
        self.checkouts.folder.join(info.result.unwrap().to_string()).join(name)
    }

    pub(super) fn sealed(&self, info: &RunInfo, name: &str) -> Vec<u8> {
        fs::read_if_exists(&self.sealed_path(info, name), 1 << 20).unwrap().unwrap()
    }

    /// The home of the thread of a run.
    pub(super) fn home_of(&self, spec: &RunSpec) -> String {
        let runs = self.folder.path().canonicalize().unwrap().join("runs/homes");
        let thread = runs.join(self.vault.to_string()).join(spec.thread.to_string());
        thread.join("home").to_str().unwrap().to_owned()
    }

    /// The processes of the machine that carry this run in their environment and live.
    pub(super) fn processes_of(run: RunId) -> Vec<i32> {
        super::process::carriers(run)
    }
}

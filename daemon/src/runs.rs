//! Runs of this node: accepted, queued, executed, and kept.
//!
//! - [`checkout`]: the seam to the store
//! - [`environment`]: a run's folders and variables
//! - [`options`]: what holds for all of them
//! - [`log`], [`lines`], [`mask`], [`follow`]: its output
//! - [`refused`]: why a request about runs fails
//! - [`process`], [`execute`], [`hearing`]: its processes, and what they say
//! - [`homes`], [`limits`]: what it keeps for its thread, and what it may take of the machine
//! - [`turns`]: whose is next
//! - [`input`], [`reads`], [`steer`]: what it is told, and whether it waits for that
//! - [`kept`], [`attend`]: what it has done so far, and what goes on beside it
//! - [`git_access`]: what its git has instead of credentials
//! - [`live`]: one that has not ended
//! - [`agent`], [`program`]: what it executes; [`agent_check`]: whether it could
//! - [`life`], [`checked`], [`ended`], [`recover`]: what happens when, then, and after the node died
//! - [`setting_up`]: what it finds installed
//! - [`delete`]: taking one away
//! - [`parent`]: what a run goes on from
//!
//! Not here: who may ask (the connection knows its user), and how the program is kept apart
//! ([`rooms`](crate::rooms)).
//!
//! **Invariant:** a run whose creation was answered is in the catalog. Its program is started at most once:
//! the state `running` is durable before the program is started, and no state leads back.
//!
//! **Invariant:** a run that ended is taken off the live ones only when its end is in the catalog, and both
//! are looked at in that order when a run is created.

pub mod checkout;
pub mod environment;
mod options;
pub mod log;
mod lines;
mod mask;
pub mod follow;
mod refused;
mod turns;
mod input;
mod reads;
mod process;
mod limits;
mod homes;
mod hearing;
mod execute;
mod kept;
mod attend;
mod git_access;
mod agent;
mod agent_known;
mod agent_check;
mod live;
mod program;
mod life;
mod setting_up;
mod checked;
mod ended;
mod recover;
mod parent;
mod steer;
mod delete;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod filling;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_protocol::id::{RunId, VaultId};
use baton_protocol::message::{RunInfo, RunSpec, RunState};
use baton_store::catalog::Catalog;
use baton_store::catalog::runs::{RunConflict, RunRow};
use baton_store::fs::{self, Context, FsError};
use tokio::sync::{Semaphore, watch};

use crate::clock::Clock;
use crate::limits::Limits;
use crate::notices::Notices;
use crate::rooms::Room;
use crate::secrets::Secrets;
use crate::task::{TaskFailed, Tasks};
use agent_known::Known;
use checkout::Checkouts;
use environment::Folders;
use follow::RunLog;
use homes::Homes;
use limits::NodeLimits;
use live::{Live, Stop};
use log::writer::Log;
pub use options::{AgentLimits, AgentProgram, RunOptions};
pub(crate) use recover::kill_leftovers_in;
use refused::check;
pub use refused::{RunsError, SpecError};
use turns::{Asked, Turns};

/// Agents that are only tried at once.
const TRIES: usize = 2;

/// What runs need of their node.
#[derive(Clone)]
pub struct RunParts {
    /// Where they are kept.
    pub catalog: Catalog,
    /// Tells the time.
    pub clock: Clock,
    /// Starts their tasks.
    pub tasks: Tasks,
    /// Wraps their commands.
    pub room: Arc<dyn Room>,
    /// Holds their processes to their limits.
    pub limits: Arc<dyn Limits>,
    /// Makes their checkouts.
    pub checkouts: Arc<dyn Checkouts>,
    /// What they are given, and must not show.
    pub secrets: Secrets,
    /// Told when they have ended.
    pub notices: Notices,
}

/// The runs of a node; clones share them.
#[derive(Clone)]
pub struct Runs(Arc<Inner>);

struct Inner {
    options: RunOptions,
    parts: RunParts,
    limits: NodeLimits,
    homes: Homes,
    /// One for each run that may be at work.
    turns: Turns,
    /// One for each result of an earlier daemon's runs that may be sealed at once.
    slots: Arc<Semaphore>,
    /// Held while a run is looked for and created.
    creating: Mutex<()>,
    /// What agents have said of themselves lately.
    known: Known,
    /// One for each turn of an agent that is only tried.
    tries: Semaphore,
    /// Runs that are being taken away.
    leaving: Mutex<BTreeSet<RunId>>,
    live: Mutex<HashMap<RunId, Arc<Live>>>,
    /// Runs that ended, or were sealed, while this daemon was there, and of which the checkout can be looked at; the
    /// oldest first.
    ended: Mutex<VecDeque<Folders>>,
    count: watch::Sender<usize>,
    /// How often somebody has asked for a sweep since the last one that found nothing more to do.
    sweeps: AtomicU64,
    stopping: AtomicBool,
}

impl Inner {
    fn leaving(&self) -> MutexGuard<'_, BTreeSet<RunId>> {
        self.leaving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A run that was put among the live ones, and its place in the queue.
type New = (Arc<Live>, Asked);

impl Runs {
    /// Prepares to run. Nothing is started before [`Runs::recover`], which must be called first.
    pub fn new(mut options: RunOptions, parts: RunParts) -> Result<Self, FsError> {
        fs::create_dir_all(&options.folder)?;
        // A room shows a checkout at its real path.
        let real = options.folder.canonicalize();
        options.folder = real.context("resolving", &options.folder)?;
        let (groups, folder) = (Arc::clone(&parts.limits), options.folder.clone());
        let at_once = options.max_parallel.max(1);
        let slots = Arc::new(Semaphore::new(at_once));
        let agents = options.agents.clone();
        let turns = Turns::new(at_once, move |agent| {
            let limit = agents.get(agent).and_then(|limits| limits.max_parallel);
            limit.map_or(usize::MAX, |limit| limit.max(1))
        });
        let known = Known::new(parts.clock.clone());
        Ok(Self(Arc::new(Inner {
            limits: NodeLimits::new(groups, options.allowance, folder),
            homes: Homes::new(options.folder.join("homes")),
            options,
            parts,
            turns,
            slots,
            creating: Mutex::default(),
            known,
            tries: Semaphore::new(TRIES),
            leaving: Mutex::default(),
            live: Mutex::default(),
            ended: Mutex::default(),
            count: watch::Sender::new(0),
            sweeps: AtomicU64::new(0),
            stopping: AtomicBool::new(false),
        })))
    }

    /// Accepts a run: when this returns it is in the catalog, and will be started by this daemon or a
    /// later one. The same run again gives the same run as it stands now; it takes effect once even if
    /// the caller goes away meanwhile.
    pub async fn create(
        &self,
        user: &str,
        vault: VaultId,
        spec: RunSpec,
    ) -> Result<RunInfo, RunsError> {
        check(&spec)?;
        self.0.options.check_agent(&spec)?;
        if self.is_without_network(&spec) && !self.0.parts.room.isolated() {
            return Err(SpecError::Network(spec.agent).into());
        }
        let (runs, user) = (self.clone(), user.to_owned());
        self.blocking("run-create", move || runs.create_now(&user, vault, &spec)).await?
    }

    fn create_now(&self, user: &str, vault: VaultId, spec: &RunSpec) -> Result<RunInfo, RunsError> {
        let (info, new) = self.enter_new(user, vault, spec)?;
        // Those that are created at once share a sync, which waits outside of the lock.
        if let Err(error) = self.0.parts.catalog.sync() {
            if let Some((live, _asked)) = new {
                self.leave(&live);
            }
            return Err(error.into());
        }
        if let Some((live, asked)) = new {
            tracing::info!(run = %spec.run, user, snapshot = %spec.snapshot, "run accepted");
            self.begin(live, asked);
        }
        Ok(info)
    }

    /// Notes a run, and puts a new one among the live ones. Nobody is answered before the catalog is synced.
    fn enter_new(
        &self,
        user: &str,
        vault: VaultId,
        spec: &RunSpec,
    ) -> Result<(RunInfo, Option<New>), RunsError> {
        let _one = self.0.creating.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(live) = self.live().get(&spec.run) {
            let same = live.user == user && live.vault == vault && live.spec == *spec;
            let info = live.info.borrow().clone();
            return if same { Ok((info, None)) } else { Err(RunConflict(spec.run).into()) };
        }
        self.check_parent(user, spec)?;
        let catalog = &self.0.parts.catalog;
        let options = &self.0.options;
        let full = self.live().len() >= options.max_queued.saturating_add(options.max_parallel);
        let stopping = self.0.stopping.load(Ordering::SeqCst);
        if (full || stopping) && catalog.run(user, spec.run)?.is_none() {
            let limit = options.max_queued;
            return Err(if stopping {
                RunsError::ShuttingDown
            } else {
                RunsError::QueueFull { limit }
            });
        }
        let mut row = catalog.create_run(spec, user, vault, self.0.parts.clock.now_ms())??;
        if row.info.state == RunState::Queued {
            // Known from the start, for the receipt of who asks; kept once the run has its room.
            row.info.isolated = self.0.parts.room.isolated();
        }
        let info = row.info.clone();
        let is_new = info.state == RunState::Queued && !stopping;
        let new = is_new.then(|| self.enter(row)).map(|live| (Arc::clone(&live), self.ask(&live)));
        Ok((info, new))
    }

    /// In the order in which runs are asked for, which is not that in which tasks begin.
    fn ask(&self, live: &Live) -> Asked {
        self.0.turns.ask(&live.user, &live.spec.agent)
    }

    /// Lets a run take its course.
    fn begin(&self, live: Arc<Live>, asked: Asked) {
        self.0.parts.tasks.spawn("run", life::live(self.clone(), live, asked)).detach();
    }

    fn enter(&self, row: RunRow) -> Arc<Live> {
        let run = row.info.spec.run;
        let folders = Folders::of(&self.0.options.folder, run);
        let log = Arc::new(Log::new(folders.log(), self.0.options.max_log));
        let live = Arc::new(Live::new(row, folders, log));
        let mut all = self.live();
        all.insert(run, Arc::clone(&live));
        self.0.count.send_replace(all.len());
        drop(all);
        // A shutdown marks first and then looks at the live runs: one of us sees the other.
        if self.0.stopping.load(Ordering::SeqCst) {
            live.ask_to_stop(Stop::Interrupted);
        }
        live
    }

    fn leave(&self, live: &Live) {
        live.give_turn_back();
        live.log.end();
        self.0.parts.secrets.take_back(live.run);
        self.0.homes.let_go(live.run);
        let mut all = self.live();
        all.remove(&live.run);
        self.0.count.send_replace(all.len());
        drop(all);
        self.keep_for_looking(live.folders.clone());
    }

    /// Every run of a user, newest first.
    pub async fn list(&self, user: &str) -> Result<Vec<RunInfo>, RunsError> {
        let (catalog, user) = (self.0.parts.catalog.clone(), user.to_owned());
        let owner = user.clone();
        let rows = self.blocking("run-list", move || catalog.runs(&user)).await??;
        let now = |row: RunRow| {
            let live = self.find(&owner, row.info.spec.run);
            live.map_or(row.info, |live| live.info.borrow().clone())
        };
        Ok(rows.into_iter().map(now).collect())
    }

    /// One run of a user.
    pub async fn show(&self, user: &str, run: RunId) -> Result<RunInfo, RunsError> {
        if let Some(live) = self.find(user, run) {
            return Ok(live.info.borrow().clone());
        }
        let (catalog, user) = (self.0.parts.catalog.clone(), user.to_owned());
        let row = self.blocking("run-show", move || catalog.run(&user, run)).await??;
        row.map(|row| row.info).ok_or(RunsError::NotFound(run))
    }

    /// Returns when the run has ended, or fails with [`RunsError::ShuttingDown`] where the node ends
    /// before the run was started.
    pub async fn wait(&self, user: &str, run: RunId) -> Result<RunInfo, RunsError> {
        let Some(live) = self.find(user, run) else { return self.show(user, run).await };
        let mut info = live.info.subscribe();
        drop(live);
        match info.wait_for(|info| info.state.is_final()).await {
            Ok(info) => Ok(info.clone()),
            Err(_) => Err(RunsError::ShuttingDown),
        }
    }

    /// Ends a run and returns when it has ended; one that ended before stays as it is. The program and
    /// all that it started are asked to end, and killed after [`RunOptions::grace`].
    pub async fn cancel(&self, user: &str, run: RunId) -> Result<RunInfo, RunsError> {
        if let Some(live) = self.find(user, run) {
            live.ask_to_stop(Stop::Cancelled);
        }
        self.wait(user, run).await
    }

    /// The output of a run, without its first `from` entries; with `follow` until it has ended.
    pub async fn logs(
        &self,
        user: &str,
        run: RunId,
        from: u64,
        follow: bool,
    ) -> Result<RunLog, RunsError> {
        // First the live ones: a run that ends in between has its whole log in its file.
        let live = self.find(user, run);
        let position = live.filter(|_| follow).map(|live| live.log.subscribe());
        self.show(user, run).await?;
        let path = Folders::of(&self.0.options.folder, run).log();
        Ok(RunLog::new(path, from, position, self.0.parts.tasks.clone()))
    }

    /// How many runs are queued or at work.
    pub fn live_count(&self) -> usize {
        *self.0.count.borrow()
    }

    /// Ends the runs at work as interrupted, with what they have done; queued ones stay queued for the
    /// next daemon. Returns how many were still at work after [`RunOptions::shutdown_limit`]; the next
    /// daemon finds those.
    pub async fn shut_down(&self) -> usize {
        self.0.stopping.store(true, Ordering::SeqCst);
        for live in self.live().values() {
            live.ask_to_stop(Stop::Interrupted);
        }
        let mut count = self.0.count.subscribe();
        let all = count.wait_for(|count| *count == 0);
        let ended = tokio::time::timeout(self.0.options.shutdown_limit, all).await.is_ok();
        self.let_go_of_looked_at().await;
        let runs = self.clone();
        let last = self.blocking("run-limits", move || runs.0.limits.shut_down()).await;
        if let Err(error) = last {
            tracing::warn!(%error, "control groups stay");
        }
        if ended { 0 } else { self.live_count() }
    }

    fn find(&self, user: &str, run: RunId) -> Option<Arc<Live>> {
        self.live().get(&run).filter(|live| live.user == user).cloned()
    }

    fn live(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Live>>> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TaskFailed> {
        self.0.parts.tasks.spawn_blocking(name, work).await
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::message::RefusalCode;

    use super::environment::MAX_STRING;
    use super::testing::{Node, spec, within};
    use super::*;

    #[tokio::test]
    async fn the_longest_prompt_reaches_the_program() {
        let node = Node::new();
        let mut asked = spec(1, &["sh", "-c", "printf %s \"${#BATON_PROMPT}\""]);
        asked.prompt = Some("p".repeat(MAX_STRING - 14));
        let info = node.run(asked).await;
        assert_eq!(info.state, RunState::Succeeded, "{info:?}");
        assert_eq!(node.output(info.spec.run).await.0, (MAX_STRING - 14).to_string().as_bytes());
    }

    #[tokio::test]
    async fn a_run_is_created_once_and_belongs_to_its_user() {
        let node = Node::new();
        let count = "echo x >> ../../count; test -e ../../count";
        let asked = spec(1, &["sh", "-c", count]);
        let many = (0..8).map(|_| node.runs.create("ann", node.vault, asked.clone()));
        let answers: Vec<_> = within(async {
            let mut answers = Vec::new();
            for answer in many {
                answers.push(answer.await.unwrap());
            }
            answers
        })
        .await;
        assert!(answers.iter().all(|info| info.spec == asked));
        let info = within(node.runs.wait("ann", asked.run)).await.unwrap();
        assert_eq!(info.state, RunState::Succeeded);
        let again = node.runs.create("ann", node.vault, asked.clone()).await.unwrap();
        assert_eq!(again, info);
        let counted = node.folder.path().join("runs/count");
        assert_eq!(fs::read_if_exists(&counted, 100).unwrap().unwrap(), b"x\n");

        let mut other = asked.clone();
        other.prompt = Some("another".to_owned());
        let refused = node.runs.create("ann", node.vault, other).await.unwrap_err();
        assert_eq!(refused.refusal().code, RefusalCode::Conflict);
        for refused in [
            node.runs.show("bob", asked.run).await.unwrap_err(),
            node.runs.wait("bob", asked.run).await.unwrap_err(),
            node.runs.cancel("bob", asked.run).await.unwrap_err(),
            node.runs.logs("bob", asked.run, 0, true).await.unwrap_err(),
        ] {
            assert_eq!(refused.refusal().code, RefusalCode::NotFound);
        }
        assert_eq!(node.runs.list("bob").await.unwrap(), Vec::new());
        assert_eq!(node.runs.list("ann").await.unwrap(), [info]);
    }

    #[tokio::test]
    async fn runs_wait_for_their_turn_and_too_many_are_refused() {
        let node = Node::with(|options| {
            options.max_parallel = 1;
            options.max_queued = 1;
        });
        let endless = spec(1, &["sleep", "300"]);
        node.start(endless.clone()).await;
        let waiting = spec(2, &["true"]);
        let info = node.runs.create("ann", node.vault, waiting.clone()).await.unwrap();
        assert_eq!(info.state, RunState::Queued);
        let third = spec(3, &["true"]);
        let refused = node.runs.create("ann", node.vault, third.clone()).await.unwrap_err();
        assert_eq!(refused.refusal().code, RefusalCode::Limit);
        // One that was accepted is answered all the same.
        node.runs.create("ann", node.vault, waiting.clone()).await.unwrap();

        // One that waits is cancelled without having been prepared.
        let cancelled = within(node.runs.cancel("ann", waiting.run)).await.unwrap();
        assert_eq!((cancelled.state, cancelled.started_at), (RunState::Cancelled, None));
        node.runs.create("ann", node.vault, third.clone()).await.unwrap();
        within(node.runs.cancel("ann", endless.run)).await.unwrap();
        let last = within(node.runs.wait("ann", third.run)).await.unwrap();
        assert_eq!(last.state, RunState::Succeeded);
        assert_eq!(node.runs.live_count(), 0);
    }

    #[tokio::test]
    async fn a_shutdown_keeps_what_was_done_and_what_waits() {
        let node = Node::with(|options| options.max_parallel = 1);
        let asked = spec(1, &["sh", "-c", "echo half > done; echo ready; exec sleep 300"]);
        let mut log = node.start(asked.clone()).await;
        within(log.next()).await.unwrap();
        let waiting = spec(2, &["true"]);
        node.runs.create("ann", node.vault, waiting.clone()).await.unwrap();
        assert_eq!(within(node.runs.shut_down()).await, 0);
        let info = node.runs.show("ann", asked.run).await.unwrap();
        assert_eq!(info.state, RunState::Interrupted);
        assert_eq!(node.sealed(&info, "done"), b"half\n");
        let refused = node.runs.create("ann", node.vault, spec(3, &["true"])).await.unwrap_err();
        assert_eq!(refused.refusal().code, RefusalCode::Unavailable);
        let info = node.runs.show("ann", waiting.run).await.unwrap();
        assert_eq!(info.state, RunState::Queued);

        let next = node.next_daemon();
        next.runs.recover().await.unwrap();
        let info = within(next.runs.wait("ann", waiting.run)).await.unwrap();
        assert_eq!(info.state, RunState::Succeeded);
        let info = next.runs.show("ann", asked.run).await.unwrap();
        assert_eq!(info.state, RunState::Interrupted);
    }

    #[tokio::test]
    async fn users_take_turns_and_an_agent_that_has_enough_waits() {
        let node = Node::with(|options| {
            options.max_parallel = 1;
            let few = AgentLimits { max_parallel: Some(1), ..AgentLimits::default() };
            options.agents = std::collections::BTreeMap::from([("command".to_owned(), few)]);
        });
        let bobs = VaultId::from_bytes([9; 16]);
        node.catalog.ensure_user("bob", bobs).unwrap();
        let first = spec(1, &["sleep", "300"]);
        node.start(first.clone()).await;
        let order = node.folder.path().join("order");
        let said = |name: &str| format!("echo {name} >> {}", order.display());
        let mut last = Vec::new();
        for (at, name) in ["ann1", "ann2", "ann3", "bob1", "bob2"].iter().enumerate() {
            let asked = spec(at as u8 + 2, &["sh", "-c", &said(name)]);
            let (user, vault) =
                if name.starts_with("ann") { ("ann", node.vault) } else { ("bob", bobs) };
            let info = node.runs.create(user, vault, asked.clone()).await.unwrap();
            assert_eq!(info.state, RunState::Queued);
            last.push((user, asked.run));
        }
        within(node.runs.cancel("ann", first.run)).await.unwrap();
        for (user, run) in last {
            assert_eq!(within(node.runs.wait(user, run)).await.unwrap().state, RunState::Succeeded);
        }
        let order = fs::read_if_exists(&order, 100).unwrap().unwrap();
        assert_eq!(order, b"ann1\nbob1\nann2\nbob2\nann3\n");
    }
}

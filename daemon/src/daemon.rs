//! The daemon of a home: everything above put together, and what each command does.
//!
//! Not here: terminals, the environment and exit codes; a command line asks over the control socket.
//!
//! - [`failure`], [`report`]: what a command that failed says, and what `--json` prints of the store
//! - [`opening`], [`ending`]: what a home keeps, opened; and how a daemon ends
//! - [`rooming`], [`moving`]: the rooms of runs and their limits, and a namespace of this process
//! - [`checkouts`]: the working folders of runs
//! - [`remotes`]: tickets, devices, and the nodes this home knows
//! - [`transfer`], [`patch`]: between this home and a node; a unified diff
//! - [`guard`]: what the secret scan holds back, and `allow`
//! - [`waiting`]: the queue as people see it
//! - [`parcels`], [`outbox`]: what is sent at once, or put into the queue
//! - [`histories`]: histories that follow later
//! - [`background`]: always-on sync of what is watched
//! - [`swift`]: a small push over a standing connection
//! - [`trees`], [`stopped`]: snapshot, push, log, diff, restore, status; and a snapshot where an agent has stopped
//! - [`conversations`], [`handoffs`]: which conversation travels, and moving work to a node
//! - [`remote_runs`]: the runs of other nodes
//! - [`steering`], [`runs_secrets`]: what those at work are told, and given
//! - [`pulls`], [`applies`]: what a run left, in a folder of its own or into a checkout; and undo
//! - [`collecting`], [`forgetting`]: what is taken away, and when; what somebody wants to be gone
//! - [`health`]: check and doctor
//!
//! **Invariant:** one daemon a home, held by the lock of its store.

pub mod failure;
pub mod report;
pub mod checkouts;
mod opening;
mod ending;
mod rooming;
mod log;
mod moving;
mod remotes;
mod transfer;
mod patch;
mod guard;
mod waiting;
mod ahead;
mod parcels;
mod outbox;
mod histories;
mod background;
mod swift;
mod trees;
mod stopped;
pub mod conversations;
mod handoffs;
mod pulls;
mod remote_runs;
mod steering;
mod follow_ups;
mod runs_secrets;
mod brought;
mod applied;
mod applies;
mod collecting;
mod forgetting;
mod repairing;
mod health;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use baton_protocol::id::WorkspaceId;
use baton_store::catalog::Catalog;
use baton_store::ignore::GitUser;
use baton_store::store::Store;
use tokio::sync::{Notify, watch};

use crate::acks::Acks;
use crate::api::control::{Answer, Command, ServeAnswer};
use crate::api::socket::{Activity, BoxFuture, Commands, ControlSocket, EventSender};
use crate::client::pool::{Patience, Pool};
use crate::clock::Clock;
use crate::config::Config;
use crate::home::Home;
use crate::identity::Identity;
use crate::inhibit::Inhibitor;
use crate::keeper::Watching;
use crate::node::requests::Requests;
use crate::node::usage::{Most, Usage};
use crate::node::{Node, NodeParts};
use crate::notify_socket::{NotifySocket, State};
use crate::queue::{Queue, QueueParts};
use crate::runs::environment::NodeEnvironment;
use crate::runs::{RunParts, Runs};
use crate::secrets::Secrets;
use crate::sync::Quota;
use crate::task::Tasks;
use crate::transport::limits::Limits;
use crate::watch::{WatchOptions, choose};
use crate::workspace::Workspaces;

use failure::{Fail, chain};
pub use moving::{Tried, move_into_namespace, try_namespace};
pub use opening::local_snapshot;
use opening::{identity, load_config, workspaces};

/// How long a stop waits for what is under way.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Workspaces that changed and of which not every task has heard: one that misses some looks anyway.
const CHANGES: usize = 64;

/// Threads that serve the sockets of a node at most; disks and hashing have threads of their own.
const MAX_WORKERS: usize = 8;

/// Threads for what blocks, started when they are needed: pushes and fetches take turns, and what else blocks is short.
const MAX_BLOCKING: usize = 8192;

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it keeps everything.
    pub home: Home,
    /// Whether other machines may connect.
    pub serving: bool,
    /// Where it listens, instead of what the configuration says.
    pub listen: Option<SocketAddr>,
    /// What tickets say, instead of what the configuration says.
    pub advertise: Vec<String>,
    /// What runs inherit of the environment.
    pub environment: NodeEnvironment,
    /// What git knows about the user.
    pub git_user: GitUser,
    /// Where git is.
    pub git: Option<PathBuf>,
    /// The user's own folders, which a room hides from runs.
    pub private: Vec<PathBuf>,
    /// Who wants to know when it is ready, and when it ends.
    pub notify: Option<NotifySocket>,
    /// Whether this process is in a namespace of its own.
    pub namespace: crate::namespace::Namespace,
}

/// The daemon of a home.
pub struct Daemon {
    options: Options,
    config: Config,
    clock: Clock,
    tasks: Tasks,
    identity: Identity,
    catalog: Catalog,
    acks: Acks,
    store: Store,
    workspaces: Workspaces,
    background: background::Background,
    histories: histories::Histories,
    /// Told of each workspace that changes.
    changed: tokio::sync::broadcast::Sender<WorkspaceId>,
    pool: Pool,
    queue: Queue,
    inhibitor: Inhibitor,
    runs: Runs,
    secrets: Secrets,
    rooming: rooming::Rooming,
    usage: Usage,
    /// Told of what may have made the store larger.
    grown: Arc<Notify>,
    /// Of which kind the checkouts of runs are.
    sharing: checkouts::Sharing,
    /// The node of this home: from the start where it serves, else when `local` is first used.
    node: tokio::sync::OnceCell<Node>,
    activity: OnceLock<Activity>,
    stop: watch::Sender<bool>,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").finish_non_exhaustive()
    }
}

/// Runs the daemon of a home in this process until it is told to stop, by a command, SIGTERM or
/// Ctrl-C. `ready` is called once it answers, with what a serving node says.
pub fn run_here<E: From<Fail>>(
    options: Options,
    ready: impl FnOnce(Option<ServeAnswer>) -> Result<(), E>,
) -> Result<(), E> {
    let runtime = runtime(options.serving)
        .enable_all()
        .thread_name("baton")
        .build()
        .map_err(|error| Fail::new("runtime", format!("starting the runtime: {error}")))?;
    runtime.block_on(async {
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
            .map_err(|error| Fail::new("signals", format!("listening to signals: {error}")))?;
        let ended = async move {
            tokio::select! {
                _ = term.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        run(options, ended, ready).await
    })
}

/// What serves sockets: one thread, between which and itself nothing has to be woken. Only a node, which
/// encrypts for many at once, gets more, and leaves half of the processors to what it stores and runs.
fn runtime(serving: bool) -> tokio::runtime::Builder {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let workers = if serving { (processors / 2).min(MAX_WORKERS) } else { 1 };
    let mut runtime = match workers {
        0..2 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(workers.max(1)).max_blocking_threads(MAX_BLOCKING);
    runtime
}

/// Runs the daemon of a home until it is told to stop, or `ended` resolves. `ready` is called once it
/// answers, with what a serving node says.
pub async fn run<E: From<Fail>>(
    options: Options,
    ended: impl Future<Output = ()>,
    ready: impl FnOnce(Option<ServeAnswer>) -> Result<(), E>,
) -> Result<(), E> {
    let socket_path = options.home.socket.clone();
    let notify = options.notify.clone();
    let tell = |state| notify.iter().for_each(|notify| notify.tell(state));
    let (daemon, mut stopping) = Daemon::start(options).await?;
    let socket = match ControlSocket::bind(&socket_path) {
        Ok(socket) => socket,
        Err(error) => {
            daemon.shut_down().await;
            return Err(Fail::new("control-socket", chain(&error)).into());
        }
    };
    // Set once: nothing else sets it.
    let _first = daemon.activity.set(socket.activity());
    let announced = match daemon.announce().await {
        Ok(announced) => ready(announced),
        Err(fail) => Err(fail.into()),
    };
    if announced.is_ok() {
        tell(State::Ready);
        let stop = async {
            tokio::select! {
                () = ended => {}
                // The daemon itself holds the sender.
                _ = stopping.wait_for(|stop| *stop) => {}
            }
            // Whoever waits for the network gives up.
            daemon.stop.send_replace(true);
        };
        socket.serve(Arc::clone(&daemon), stop).await;
    }
    tell(State::Stopping);
    daemon.shut_down().await;
    announced
}

impl Daemon {
    async fn start(options: Options) -> Result<(Arc<Self>, watch::Receiver<bool>), Fail> {
        let config = load_config(&options.home)?;
        options.home.create()?;
        let (home, clock, tasks) = (&options.home, Clock::system(), Tasks::new());
        let store = Store::open(&home.store_dir())?;
        if store.recovery().torn_bytes > 0 {
            tracing::info!(bytes = store.recovery().torn_bytes, "dropped an unacknowledged write");
        }
        let catalog = Catalog::open_beside(store.layout(), &home.catalog())?;
        let identity = identity(home)?;
        let changed = tokio::sync::broadcast::Sender::new(CHANGES);
        let watching = Watching {
            tasks: tasks.clone(),
            changed: changed.clone(),
            options: WatchOptions {
                max_watches: config.sync.max_watches,
                ..WatchOptions::default()
            },
            open: choose::open,
        };
        let workspaces = workspaces(
            &options,
            &config,
            &store,
            &catalog,
            &identity,
            clock.clone(),
            Some(watching),
        )?;
        let pool = Pool::new(identity.clone(), tasks.clone(), Patience::default())?;
        let queue = Queue::new(QueueParts {
            catalog: catalog.clone(),
            pool: pool.clone(),
            tasks: tasks.clone(),
            clock: clock.clone(),
        });
        let inhibitor = Inhibitor::new(tasks.clone());

        let (rooming, room, mut run_options) = rooming::choose(&options, &config).await?;
        opening::limit(&mut run_options, &config);
        let secrets = Secrets::new(home.secrets_dir());
        let notices = opening::notices(home, &options, &config, &tasks);
        let path = run_options.environment.path();
        let (checkouts, sharing) =
            opening::checkouts(&options, &store, &workspaces, &secrets, path);
        let runs = Runs::new(
            run_options,
            RunParts {
                catalog: catalog.clone(),
                clock: clock.clone(),
                tasks: tasks.clone(),
                room,
                limits: Arc::clone(&rooming.limits),
                checkouts: Arc::new(checkouts),
                secrets: secrets.clone(),
                notices,
            },
        )?;
        let (stop, stopping) = watch::channel(false);
        let daemon = Arc::new(Self {
            options,
            usage: Usage::new(Most::of(&config.serve)),
            config,
            clock,
            acks: Acks::new(catalog.clone(), tasks.clone()),
            tasks,
            identity,
            catalog,
            store,
            workspaces,
            background: background::Background::new(),
            histories: histories::Histories::default(),
            changed,
            pool,
            queue,
            inhibitor,
            runs,
            secrets,
            rooming,
            grown: Arc::default(),
            sharing,
            node: tokio::sync::OnceCell::new(),
            activity: OnceLock::new(),
            stop,
        });
        daemon.take_up().await?;
        Ok((daemon, stopping))
    }

    /// Starts the node of a serving home, and says where it is.
    async fn announce(&self) -> Result<Option<ServeAnswer>, Fail> {
        if !self.options.serving {
            return Ok(None);
        }
        // A node takes what others send.
        self.store.layout().check_writable()?;
        let node = self.node().await?;
        let ticket = self.issue_ticket(None, None, 10 * 60 * 1000, 1)?;
        Ok(Some(ServeAnswer {
            listening: node.address().to_string(),
            advertised: self.advertised(node),
            node_id: node.id().to_string(),
            ticket: ticket.ticket,
        }))
    }

    /// The node of this home; a home that does not serve has one on loopback, for itself.
    async fn node(&self) -> Result<&Node, Fail> {
        let start = || async {
            let listen = match (self.options.serving, self.options.listen) {
                (false, _) => (Ipv4Addr::LOCALHOST, 0).into(),
                (true, Some(listen)) => listen,
                (true, None) => self.config.serve.listen,
            };
            Node::start(NodeParts {
                identity: self.identity.clone(),
                listen,
                catalog: self.catalog.clone(),
                handler: Arc::new(Requests {
                    store: self.store.clone(),
                    catalog: self.catalog.clone(),
                    runs: self.runs.clone(),
                    secrets: self.secrets.clone(),
                    quota: Quota::default(),
                    usage: self.usage.clone(),
                    changed: Arc::clone(&self.grown),
                    tasks: self.tasks.clone(),
                }),
                limits: Limits::of(&self.config.serve),
                tasks: self.tasks.clone(),
                clock: self.clock.clone(),
                audit: crate::audit::Audit::open(&self.options.home.audit_log(), &self.clock),
            })
            .map_err(|error| {
                Fail::new("listen", chain(&error)).hint("baton serve --listen ADDR:PORT")
            })
        };
        self.node.get_or_try_init(start).await
    }

    async fn shut_down(&self) {
        let left = self.runs.shut_down().await;
        if left > 0 {
            tracing::warn!(left, "runs did not end in time");
        }
        // Told before the trees are let go of, so that none is taken up again.
        self.tasks.cancel();
        self.workspaces.close();
        if let Some(node) = self.node.get() {
            node.shut_down(STOP_PATIENCE).await;
        }
        // First of all told, so that no worker takes a connection that is closed for one that was lost.
        self.tasks.cancel();
        self.pool.close().await;
        self.tasks.shut_down(STOP_PATIENCE).await;
    }

    /// Runs blocking work where it holds up nothing else.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        name: &'static str,
        work: impl FnOnce(&Self) -> Result<T, Fail> + Send + 'static,
    ) -> Result<T, Fail> {
        let daemon = Arc::clone(self);
        match self.tasks.spawn_blocking(name, move || work(&daemon)).await {
            Ok(outcome) => outcome,
            Err(error) => Err(Fail::new("internal", chain(&error))
                .hint("its log says more: daemon.log in the home")),
        }
    }

    async fn execute(
        self: &Arc<Self>,
        command: Command,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        self.check_writable(&command)?;
        // What they find stays until they are done.
        let _lease = ending::reads(&command).then(|| self.store.lease());
        match command {
            Command::Ping => Ok(Answer::Daemon(self.answer())),
            Command::Stop { if_idle } => self.stop(if_idle),
            Command::Ticket { user, role, expires_ms, uses } => {
                self.ticket(user, role, expires_ms, uses).await
            }
            Command::Join { ticket, name } => self.join(&ticket, name).await,
            Command::RemoteList => self.remote_list().await,
            Command::RemoteDefault { name } => self.remote_default(name).await,
            Command::RemoteRemove { name, force } => self.remote_remove(name, force).await,
            Command::DeviceList => self.device_list().await,
            Command::DeviceRevoke { device } => self.device_revoke(device).await,
            Command::Watch { path, remote } => self.watch(path, remote).await,
            Command::Unwatch { path } => self.unwatch(path).await,
            Command::Allow(call) => self.allow(call).await,
            Command::Status { path } => self.status(path, events).await,
            Command::Snapshot { path, message } => self.snapshot(path, message, events).await,
            Command::Stopped { path, message } => self.stopped(path, message, events).await,
            Command::Push { path, remote, wait } => self.push(path, remote, wait, events).await,
            Command::Log { path } => self.log(path).await,
            Command::Diff { a, b, path, patch } => self.diff(a, b, path, patch, events).await,
            Command::Restore { snapshot, into, remote } => {
                self.restore(snapshot, into, remote, events).await
            }
            Command::Handoff(call) => self.handoff(*call, events).await,
            Command::NodeAgents(call) => self.node_agents(call).await,
            Command::RunList { remote } => self.run_list(remote).await,
            Command::RunShow { run } => self.run_show(&run, events).await,
            Command::RunLogs { run, follow } => self.run_logs(&run, follow, events).await,
            Command::RunWait { run } => self.run_wait(&run, events).await,
            Command::RunCancel { run } => self.run_cancel(&run, events).await,
            Command::Run(call) => self.run_call(call, events).await,
            Command::FollowUp(call) => self.follow_up(*call, events).await,
            Command::SecretSet { secret, remote } => self.secret_set(secret, remote).await,
            Command::SecretList { remote } => self.secret_list(remote).await,
            Command::SecretRemove { name, agent, remote } => {
                self.secret_remove(&name, agent, remote).await
            }
            Command::Pull(call) => self.pull(call, events).await,
            Command::Apply(call) => self.apply(*call, events).await,
            Command::Undo { id, path } => self.undo(id, path).await,
            Command::Queue => self.queue_list().await,
            Command::QueueCancel { id } => self.queue_cancel(&id, events).await,
            Command::Forget(what) => self.forget(what, events).await,
            Command::Gc { dry_run } => self.gc(dry_run, events).await,
            Command::Check { data } => self.check(data, events).await,
            Command::Repair => self.repair(events).await,
            Command::Doctor => self.doctor().await,
        }
    }
}

impl Commands for Daemon {
    fn run(self: Arc<Self>, command: Command, events: EventSender) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match self.execute(command, &events).await {
                Ok(answer) => events.done(answer).await,
                Err(Fail(failure)) => events.failed(failure).await,
            }
        })
    }
}

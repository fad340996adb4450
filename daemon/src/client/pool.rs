//! Kept connections: one to each node, renewed when it is dead.
//!
//! **Invariant:** of a node's callers at most one dials at a time; the others wait for its connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use baton_protocol::id::NodeId;
use baton_protocol::message::{Opening, Reply, Request, Welcome};
use baton_protocol::ticket::Ticket;
use baton_store::catalog::remotes::Remote;
use tokio::sync::watch;

use super::ClientError;
use super::connection::{Dialer, Dialled};
use crate::identity::Identity;
use crate::network;
use crate::task::Tasks;
use crate::transport::connection::{Connection, Way};
use crate::transport::stream::FrameStream;
use crate::transport::{CloseCode, TransportError};

/// Longest list of refs or runs in bytes: a million refs, or some hundred runs with the longest prompts.
const MAX_LIST: u64 = 64 * 1024 * 1024;

/// Between a change of the network and the next try: changes come several at a time.
const SETTLE: Duration = Duration::from_millis(50);

/// How long things may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until a connection stands, all addresses together: what a user waits for to hear "offline".
    pub connect: Duration,
    /// The same when joining, where a person waits and nothing is queued.
    pub join: Duration,
    /// How long a stream may stand still.
    pub stall: Duration,
    /// How long a connection is kept that nobody uses.
    pub idle: Duration,
    /// How long a connection over TCP is used before QUIC is tried again.
    pub quic_again: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            join: Duration::from_secs(10),
            stall: Duration::from_mins(1),
            idle: Duration::from_mins(10),
            quic_again: Duration::from_mins(5),
        }
    }
}

/// A node that has let this home in.
#[derive(Clone, Debug)]
pub struct Joined {
    /// Who we are there.
    pub welcome: Welcome,
    /// The address at which it answered, as the ticket has it.
    pub address: String,
}

/// Connections to nodes; clones share them.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dialer: Dialer,
    patience: Patience,
    tasks: Tasks,
    slots: Mutex<HashMap<NodeId, Slot>>,
    /// Connections made so far.
    connected: watch::Sender<u64>,
}

/// Held while dialling.
type Slot = Arc<tokio::sync::Mutex<Option<Held>>>;

/// A connection that is kept.
#[derive(Clone, Debug)]
struct Held {
    connection: Connection,
    kept: Arc<Kept>,
}

/// What is counted of a connection.
#[derive(Debug, Default)]
struct Kept {
    /// Cloned into every stream.
    busy: Arc<()>,
    /// Streams opened so far.
    opened: AtomicU64,
}

/// A stream, and whether its connection was there before.
struct Opened {
    stream: FrameStream,
    reused: bool,
}

/// Whether it is harmless to ask twice. What is said to a program is read twice.
const fn is_repeatable(request: &Request) -> bool {
    !matches!(request, Request::SayRun { .. } | Request::AnswerRun { .. })
}

impl Pool {
    /// No connections yet. Must be called within a runtime.
    pub fn new(
        identity: Identity,
        tasks: Tasks,
        patience: Patience,
    ) -> Result<Self, TransportError> {
        let dialer = Dialer::new(identity, tasks.clone())?;
        let (slots, connected) = (Mutex::default(), watch::Sender::new(0));
        Ok(Self(Arc::new(Inner { dialer, patience, tasks, slots, connected })))
    }

    /// A new stream to a node.
    ///
    /// Its connection may turn out to be dead when it is first used: on an error that
    /// [is retryable](TransportError::is_retryable) open another one and say the same again.
    pub async fn open(&self, remote: &Remote) -> Result<FrameStream, TransportError> {
        Ok(self.open_one(remote.node, &remote.addresses).await?.stream)
    }

    /// Makes sure of a connection to a node, without saying anything on it.
    pub async fn connect(&self, remote: &Remote) -> Result<(), TransportError> {
        let slot = self.slot(remote.node);
        let mut slot = slot.lock().await;
        if slot.as_ref().is_some_and(Held::is_alive) {
            return Ok(());
        }
        self.dial(&mut slot, remote.node, &remote.addresses).await.map(drop)
    }

    /// Changes whenever a connection is made, to whichever node and for whomever.
    pub fn connections(&self) -> watch::Receiver<u64> {
        self.0.connected.subscribe()
    }

    /// Asks something that has one answer. A refusal is an error.
    ///
    /// Where the kept connection turns out to be dead it asks again on a new one: every request of
    /// the protocol is safe to repeat.
    pub async fn request(&self, remote: &Remote, request: Request) -> Result<Reply, ClientError> {
        let Opened { stream, reused } = self.open_one(remote.node, &remote.addresses).await?;
        match ask(stream, &request).await {
            Err(ClientError::Transport(error))
                if reused && error.is_retryable() && is_repeatable(&request) =>
            {
                tracing::debug!(node = %remote.node.short(), %error, "asking again");
                self.forget(remote.node).await;
                let again = self.open_one(remote.node, &remote.addresses).await?;
                ask(again.stream, &request).await
            }
            other => other,
        }
    }

    /// Asks a node who we are there.
    pub async fn hello(&self, remote: &Remote) -> Result<Welcome, ClientError> {
        match self.request(remote, Request::Hello).await? {
            Reply::Welcome(welcome) => Ok(welcome),
            _ => Err(ClientError::OutOfTurn),
        }
    }

    /// Redeems a ticket: pins the node's key and enrols this home there.
    pub async fn join(&self, ticket: &Ticket, name: &str) -> Result<Joined, ClientError> {
        // A connection of its own: on a kept one a revoked device would be refused.
        let Inner { dialer, patience, .. } = &*self.0;
        let Dialled { connection, address } =
            dialer.dial(ticket.node, &ticket.addresses, patience.join).await?;
        let held = Held::new(connection);
        let request = Request::Join { secret: ticket.secret, name: name.to_owned() };
        let reply = ask(held.stream(patience).await?, &request).await;
        held.connection.close(CloseCode::Done);
        match reply? {
            Reply::Welcome(welcome) => {
                self.forget(ticket.node).await;
                Ok(Joined { welcome, address })
            }
            _ => Err(ClientError::OutOfTurn),
        }
    }

    /// Whether there is a connection to the node that is not known to be dead.
    pub async fn is_connected(&self, node: NodeId) -> bool {
        let slot = self.slot(node);
        let held = slot.lock().await;
        held.as_ref().is_some_and(Held::is_alive)
    }

    /// The same at once: where it is being found out, it is not known to be so.
    pub fn has_connection(&self, node: NodeId) -> bool {
        let slot = self.slot(node);
        slot.try_lock().is_ok_and(|held| held.as_ref().is_some_and(Held::is_alive))
    }

    /// Over what the connection to the node runs, where there is one.
    pub fn way(&self, node: NodeId) -> Option<Way> {
        let slot = self.slot(node);
        let held = slot.try_lock().ok()?;
        held.as_ref().filter(|held| held.is_alive()).map(|held| held.connection.way())
    }

    /// Closes the connection to a node, with what is under way on it.
    pub async fn forget(&self, node: NodeId) {
        let slot = self.slot(node);
        if let Some(held) = slot.lock().await.take() {
            held.connection.close(CloseCode::Done);
        }
    }

    /// Closes every connection, with what is under way.
    pub async fn close(&self) {
        let nodes: Vec<_> = self.slots().keys().copied().collect();
        for node in nodes {
            self.forget(node).await;
        }
    }

    async fn open_one(&self, node: NodeId, addresses: &[String]) -> Result<Opened, TransportError> {
        let patience = &self.0.patience;
        let slot = self.slot(node);
        let mut slot = slot.lock().await;
        if let Some(held) = slot.as_ref().filter(|held| held.is_alive()) {
            let held = held.clone();
            match held.stream(patience).await {
                Ok(stream) => return Ok(Opened { stream, reused: true }),
                Err(error) => tracing::debug!(node = %node.short(), %error, "connecting anew"),
            }
        }
        let held = self.dial(&mut slot, node, addresses).await?;
        Ok(Opened { stream: held.stream(patience).await?, reused: false })
    }

    /// A new connection, in its slot.
    async fn dial(
        &self,
        slot: &mut Option<Held>,
        node: NodeId,
        addresses: &[String],
    ) -> Result<Held, TransportError> {
        let Inner { dialer, patience, .. } = &*self.0;
        *slot = None;
        let Dialled { connection, address } =
            dialer.dial(node, addresses, patience.connect).await?;
        let way = connection.way();
        tracing::debug!(node = %node.short(), %address, way = way.name(), "connected");
        let held = Held::new(connection);
        self.close_when_idle(&held);
        if way == Way::Tcp {
            tracing::info!(node = %node.short(), %address, "UDP does not get through: using TCP");
            self.try_quic_again(node, addresses.to_vec(), &held);
        }
        *slot = Some(held.clone());
        self.0.connected.send_modify(|count| *count += 1);
        Ok(held)
    }

    /// As long as this connection over TCP is used, QUIC is tried now and then, and takes its place for
    /// what comes next. What is under way stays where it is.
    fn try_quic_again(&self, node: NodeId, addresses: Vec<String>, held: &Held) {
        let (pool, held) = (self.clone(), held.clone());
        let work = async move {
            let Inner { dialer, patience, tasks, .. } = &*pool.0;
            let dialled = loop {
                tokio::select! {
                    () = held.connection.closed() => return,
                    () = tasks.cancelled() => return,
                    () = tokio::time::sleep(patience.quic_again) => {}
                    () = network::changed() => tokio::time::sleep(SETTLE).await,
                }
                if let Ok(dialled) = dialer.dial_quic(node, &addresses, patience.connect).await {
                    break dialled;
                }
            };
            let better = Held::new(dialled.connection);
            {
                let slot = pool.slot(node);
                let mut slot = slot.lock().await;
                let is_there = |other: &Held| Arc::ptr_eq(&other.kept, &held.kept);
                if !slot.as_ref().is_some_and(is_there) {
                    return better.connection.close(CloseCode::Done);
                }
                pool.close_when_idle(&better);
                *slot = Some(better);
            }
            tracing::info!(node = %node.short(), "UDP gets through again: using QUIC");
            pool.0.connected.send_modify(|count| *count += 1);
            while held.is_busy() {
                tokio::select! {
                    () = held.connection.closed() => return,
                    () = tasks.cancelled() => return,
                    () = tokio::time::sleep(Duration::from_secs(1)) => {}
                }
            }
            held.connection.close(CloseCode::Done);
        };
        self.0.tasks.spawn("quic again", work).detach();
    }

    /// Without this the pings of a connection that nobody needs would go on for ever.
    fn close_when_idle(&self, held: &Held) {
        let (held, idle, tasks) = (held.clone(), self.0.patience.idle, self.0.tasks.clone());
        let work = async move {
            let opened = || held.kept.opened.load(Ordering::Relaxed);
            loop {
                let before = opened();
                tokio::select! {
                    () = held.connection.closed() => return,
                    () = tasks.cancelled() => return,
                    () = tokio::time::sleep(idle) => {}
                }
                if !held.is_busy() && opened() == before {
                    return held.connection.close(CloseCode::Done);
                }
            }
        };
        self.0.tasks.spawn("idle connection", work).detach();
    }

    fn slot(&self, node: NodeId) -> Slot {
        Arc::clone(self.slots().entry(node).or_default())
    }

    fn slots(&self) -> std::sync::MutexGuard<'_, HashMap<NodeId, Slot>> {
        self.0.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    fn new(connection: Connection) -> Self {
        Self { connection, kept: Arc::default() }
    }

    fn is_alive(&self) -> bool {
        self.connection.is_open()
    }

    /// Whether a stream lives on it.
    fn is_busy(&self) -> bool {
        Arc::strong_count(&self.kept.busy) > 1
    }

    /// A new stream; waits where the node allows no more at once.
    async fn stream(&self, patience: &Patience) -> Result<FrameStream, TransportError> {
        self.kept.opened.fetch_add(1, Ordering::Relaxed);
        let opened = tokio::time::timeout(patience.stall, self.connection.open()).await;
        let late = |_| TransportError::Timeout { doing: "opening a stream", after: patience.stall };
        let streams = opened.map_err(late)??;
        let busy = Arc::clone(&self.kept.busy);
        Ok(FrameStream::dialled(&self.connection, streams, patience.stall, busy))
    }
}

/// One request, one answer.
async fn ask(mut stream: FrameStream, request: &Request) -> Result<Reply, ClientError> {
    match stream.send(&Opening::new(request.clone())).await {
        // The node refused before it had read all of it; its answer says why.
        Ok(()) | Err(TransportError::Stopped) => stream.finish(),
        Err(error) => return Err(error.into()),
    }
    let reply = match request {
        Request::WaitRun(_) | Request::CancelRun(_) => stream.reader.message_at_last().await?,
        Request::Refs | Request::ListRuns => list(&mut stream, request).await?,
        _ => stream.receive().await?,
    };
    match reply {
        Reply::Refused(refusal) => Err(ClientError::Refused(refusal)),
        reply => Ok(reply),
    }
}

/// A list in as many messages as it takes, as one.
async fn list(stream: &mut FrameStream, request: &Request) -> Result<Reply, ClientError> {
    let mut whole: Reply = stream.receive().await?;
    match (request, &whole) {
        (Request::Refs, Reply::Refs(_)) | (Request::ListRuns, Reply::Runs(_)) => {}
        (_, Reply::Refused(_)) => return Ok(whole),
        _ => return Err(ClientError::OutOfTurn),
    }
    while let Some(more) = stream.reader.message_or_end().await? {
        if stream.reader.bytes() > MAX_LIST {
            return Err(ClientError::TooLong { limit: MAX_LIST });
        }
        match (&mut whole, more) {
            (Reply::Refs(all), Reply::Refs(more)) if !more.is_empty() => all.extend(more),
            (Reply::Runs(all), Reply::Runs(more)) if !more.is_empty() => all.extend(more),
            (_, refused @ Reply::Refused(_)) => return Ok(refused),
            _ => return Err(ClientError::OutOfTurn),
        }
    }
    Ok(whole)
}

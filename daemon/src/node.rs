//! The side that is connected to: who may ask what, and who answers.
//!
//! Not here: the answers. A [`Handler`] gives them; joining and greeting are the node's own.
//!
//! - [`roles`]: which role a request needs
//! - [`registry`]: who is connected
//! - [`addresses`]: where a ticket says that the node is
//! - [`join`]: tickets, and how a key becomes a device
//! - [`sessions`]: one request
//! - [`accept`]: one connection, and the loop that takes them
//! - [`usage`]: how much is kept for each device
//!
//! **Invariant:** a handler is called only for an enrolled device whose role allows the request, and
//! what it sees of users and vaults comes from the device's key, never from what a message says.

pub mod roles;
pub mod registry;
pub mod addresses;
pub mod join;
pub mod sessions;
pub mod accept;
mod forget;
pub mod usage;
pub mod requests;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use baton_protocol::id::{DeviceId, NodeId};
use baton_protocol::message::{Refusal, RefusalCode, Reply, Request, encode_list};
use baton_store::catalog::Catalog;
use baton_store::catalog::devices::Device;
use baton_store::error::StoreError;
use tokio::net::TcpListener;

use self::registry::Registry;
use crate::audit::{Audit, Event};
use crate::clock::Clock;
use crate::identity::Identity;
use crate::task::Tasks;
use crate::transport::limits::turns::Turns;
use crate::transport::limits::{Gate, Limits, RequestPlace};
use crate::transport::stream::FrameStream;
use crate::transport::{CloseCode, TransportError, quic, tcp};

/// The version of this program, as nodes and devices tell each other.
pub const PROGRAM: &str = env!("CARGO_PKG_VERSION");

/// Ports that are tried where any will do: another program may have the same one for TCP.
const PORTS: u32 = 16;

/// What a handler returns; its error is about the connection, and only logged.
pub type Handling = Pin<Box<dyn Future<Output = Result<(), TransportError>> + Send>>;

/// Answers what an enrolled device asks.
///
/// A handler answers on the session's stream, at least with a refusal. When nobody wants the answer
/// any more ([`FrameWriter::unwanted`]) it should end; after [`Limits::stall`] it is dropped at its
/// next await. So what must be done to its end, once begun, is one blocking call or a task of its own.
///
/// [`FrameWriter::unwanted`]: crate::transport::stream::FrameWriter::unwanted
pub trait Handler: Send + Sync + 'static {
    /// Answers one request; never `Join` or `Hello`.
    fn handle(self: Arc<Self>, session: Session, request: Request) -> Handling;
}

/// One request of an enrolled device.
#[derive(Debug)]
pub struct Session {
    /// Who asks, for whom, and what it may do.
    pub device: Device,
    /// Where the rest of the request comes from and the answer goes to.
    pub stream: FrameStream,
    /// From where it asks.
    pub address: IpAddr,
    /// Where it is written down what became of it.
    pub audit: Audit,
    /// Counts against the device's limit.
    place: RequestPlace,
    /// Where it gets its turn, if it is to move much.
    turns: Turns,
}

impl Session {
    /// Answers with one message and ends our side.
    pub async fn reply(&mut self, reply: &Reply) -> Result<(), TransportError> {
        self.stream.send(reply).await?;
        self.stream.finish();
        Ok(())
    }

    /// Answers with a list, in as many messages as it takes, and ends our side.
    pub async fn reply_list<T: serde::Serialize>(
        &mut self,
        items: Vec<T>,
        message: impl Fn(Vec<T>) -> Reply,
    ) -> Result<(), TransportError> {
        for frame in encode_list(items, message).map_err(TransportError::Malformed)? {
            self.stream.write(&frame).await?;
        }
        self.stream.finish();
        Ok(())
    }

    /// Says no, and that the rest of the request is not read.
    pub async fn refuse(
        &mut self,
        code: RefusalCode,
        message: impl Into<String>,
    ) -> Result<(), TransportError> {
        let message = message.into();
        sessions::refuse(&mut self.stream, Refusal { code, message }).await
    }

    /// Says that the store failed, without its paths; those go to the log.
    pub async fn refuse_for(&mut self, error: &StoreError) -> Result<(), TransportError> {
        sessions::refuse(&mut self.stream, refusal_for(error)).await
    }
}

/// What a device is told when the store failed; the node's log has the rest.
pub fn refusal_for(error: &StoreError) -> Refusal {
    tracing::error!(error = error as &dyn std::error::Error, "a request failed");
    let (code, message) = if error.is_disk_full() {
        (RefusalCode::DiskFull, "the node's disk is full")
    } else {
        (RefusalCode::Internal, "the node failed; its log has more")
    };
    Refusal { code, message: message.to_owned() }
}

/// What a node is made of.
pub struct NodeParts {
    /// Its keys.
    pub identity: Identity,
    /// Where it listens; port 0 lets the machine choose.
    pub listen: SocketAddr,
    /// Its users and devices.
    pub catalog: Catalog,
    /// What it answers.
    pub handler: Arc<dyn Handler>,
    /// What peers may cost.
    pub limits: Limits,
    /// Where it works.
    pub tasks: Tasks,
    /// What time it is.
    pub clock: Clock,
    /// Where it writes down who did what.
    pub audit: Audit,
}

impl std::fmt::Debug for NodeParts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeParts").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// UDP and TCP at the same port; where any will do, one that both have.
fn both(
    identity: &Identity,
    listen: SocketAddr,
) -> Result<(quinn::Endpoint, TcpListener, SocketAddr), TransportError> {
    let mut tries = if listen.port() == 0 { PORTS } else { 1 };
    loop {
        let endpoint = quic::listen(identity, listen)?;
        let address = endpoint
            .local_addr()
            .map_err(|source| TransportError::Bind { address: listen, source })?;
        tries -= 1;
        match tcp::listen(address) {
            Ok(listener) => return Ok((endpoint, listener, address)),
            Err(error) if tries == 0 => return Err(error),
            Err(_) => {}
        }
    }
}

/// A node that accepts connections; clones are the same one.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    endpoint: quinn::Endpoint,
    address: SocketAddr,
    id: NodeId,
    catalog: Catalog,
    handler: Arc<dyn Handler>,
    gate: Gate,
    registry: Registry,
    tasks: Tasks,
    clock: Clock,
    audit: Audit,
    closing: AtomicBool,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("address", &self.0.address).finish_non_exhaustive()
    }
}

impl Node {
    /// Listens, and accepts from now on. Must be called within a runtime.
    pub fn start(parts: NodeParts) -> Result<Self, TransportError> {
        let NodeParts { identity, listen, catalog, handler, limits, tasks, clock, audit } = parts;
        let (endpoint, listener, address) = both(&identity, listen)?;
        let tls = tcp::server_config(&identity)?;
        let node = Self(Arc::new(Inner {
            endpoint,
            address,
            id: identity.node(),
            catalog,
            handler,
            gate: Gate::new(limits),
            registry: Registry::default(),
            tasks,
            clock,
            audit,
            closing: AtomicBool::new(false),
        }));
        tracing::info!(node = %node.id().short(), %address, "listening");
        node.0.tasks.spawn("accepting", accept::run(node.clone())).detach();
        let over_tcp = accept::run_tcp(node.clone(), listener, tls);
        node.0.tasks.spawn("accepting over TCP", over_tcp).detach();
        Ok(node)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.0.address
    }

    /// Who it is.
    pub fn id(&self) -> NodeId {
        self.0.id
    }

    /// Where it writes down who did what.
    pub fn audit(&self) -> &Audit {
        &self.0.audit
    }

    /// The devices that are connected, each once.
    pub fn connected(&self) -> Vec<DeviceId> {
        self.0.registry.devices()
    }

    /// Connections there are: all, and those of unknown devices.
    pub fn connections(&self) -> (usize, usize) {
        self.0.gate.connections()
    }

    /// How many pushes and fetches are at work.
    pub fn at_work(&self) -> usize {
        self.0.gate.turns().at_work()
    }

    /// Closes every live connection of a device; says how many there were.
    pub fn disconnect(&self, device: DeviceId) -> usize {
        self.0.registry.close(device, CloseCode::UnknownDevice)
    }

    /// Takes a device's right to connect, durably, and cuts its live connections; says whether it
    /// had the right.
    ///
    /// Blocks on the database.
    pub fn revoke(&self, device: DeviceId) -> Result<bool, StoreError> {
        // In this order: a connection that is made in between is registered before it is looked up,
        // so that either the look-up sees the revocation or the cut sees the connection.
        let revoked = self.0.catalog.revoke(device)?;
        let cut = self.disconnect(device);
        if revoked || cut > 0 {
            tracing::info!(device = %device.short(), cut, "revoked a device");
            self.0.audit.note(&Event::Revoked { device, connections: cut });
        }
        Ok(revoked)
    }

    /// Takes no more requests, waits until those at work have ended or `deadline` has passed, and
    /// closes every connection.
    pub async fn shut_down(&self, deadline: Duration) {
        self.0.closing.store(true, Ordering::Relaxed);
        let quiet = self.0.registry.quiet();
        if tokio::time::timeout(deadline, quiet).await.is_err() {
            tracing::warn!("requests were at work when the node shut down");
        }
        let number = quinn::VarInt::from_u32(CloseCode::ShuttingDown.number() as u32);
        self.0.endpoint.close(number, CloseCode::ShuttingDown.reason().as_bytes());
        self.0.registry.close_all(CloseCode::ShuttingDown);
        // So that the peers hear it; they would find out by themselves.
        let _ = tokio::time::timeout(Duration::from_secs(1), self.0.endpoint.wait_idle()).await;
    }

    fn is_closing(&self) -> bool {
        self.0.closing.load(Ordering::Relaxed)
    }

    /// Runs a database call where it holds up nothing else.
    async fn with_catalog<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Catalog) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let catalog = self.0.catalog.clone();
        match self.0.tasks.spawn_blocking("catalog", move || work(&catalog)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(refusal_for(&error)),
            Err(error) => {
                tracing::error!(%error, "a request failed");
                let message = "the node failed; its log has more".to_owned();
                Err(Refusal { code: RefusalCode::Internal, message })
            }
        }
    }
}

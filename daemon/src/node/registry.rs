//! Who is connected now.
//!
//! **Invariant:** a connection is listed before its device is looked up and until it is gone, so that
//! a revocation finds every connection that was let in before it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use baton_protocol::id::DeviceId;
use baton_store::catalog::devices::Device;
use tokio::sync::watch;

use crate::transport::CloseCode;
use crate::transport::connection::Connection;
use crate::transport::limits::memory::{Memory, Window};

/// The live connections of a node.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    live: Mutex<Live>,
    /// Requests at work.
    requests: watch::Sender<usize>,
}

impl Default for Shared {
    fn default() -> Self {
        Self { live: Mutex::default(), requests: watch::Sender::new(0) }
    }
}

#[derive(Debug, Default)]
struct Live {
    next: u64,
    /// In the order in which they came.
    peers: BTreeMap<u64, (DeviceId, Connection)>,
}

impl Registry {
    /// Lists a connection until the returned listing is dropped.
    pub(super) fn enter(&self, device: DeviceId, connection: &Connection) -> (Arc<Peer>, Listing) {
        let mut live = self.lock();
        let number = live.next;
        live.next += 1;
        live.peers.insert(number, (device, connection.clone()));
        let connection = connection.clone();
        let (enrolled, window) = (Mutex::default(), OnceLock::new());
        let peer = Arc::new(Peer { id: device, connection, enrolled, window });
        (peer, Listing { registry: self.clone(), number })
    }

    /// The devices that are connected, each once.
    pub fn devices(&self) -> Vec<DeviceId> {
        let live = self.lock();
        let mut devices: Vec<_> = live.peers.values().map(|(device, _)| *device).collect();
        devices.sort_unstable();
        devices.dedup();
        devices
    }

    /// Closes the connections of a device.
    pub(super) fn close(&self, device: DeviceId, code: CloseCode) -> usize {
        self.close_but(device, 0, code)
    }

    /// Closes the oldest connections of a device until `keep` are left; says how many.
    pub(super) fn close_but(&self, device: DeviceId, keep: usize, code: CloseCode) -> usize {
        let live = self.lock();
        let of_device = || live.peers.values().filter(|(other, _)| *other == device);
        let surplus = of_device().count().saturating_sub(keep);
        for (_, connection) in of_device().take(surplus) {
            connection.close(code);
        }
        surplus
    }

    /// Closes every connection.
    pub(super) fn close_all(&self, code: CloseCode) {
        for (_, connection) in self.lock().peers.values() {
            connection.close(code);
        }
    }

    /// Counts a request until the returned guard is dropped.
    pub(super) fn work(&self) -> Working {
        self.0.requests.send_modify(|count| *count += 1);
        Working(Arc::clone(&self.0))
    }

    /// Resolves when no request is at work.
    pub(super) async fn quiet(&self) {
        let mut requests = self.0.requests.subscribe();
        // The sender lives as long as `self`.
        drop(requests.wait_for(|count| *count == 0).await);
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection; its requests may outlive it.
#[derive(Debug)]
pub(super) struct Peer {
    /// The key that it has proven.
    pub(super) id: DeviceId,
    pub(super) connection: Connection,
    enrolled: Mutex<Option<Device>>,
    /// What it may have under way, once it moves trees.
    window: OnceLock<Window>,
}

impl Peer {
    /// The device's row, where it is enrolled and not revoked.
    pub(super) fn device(&self) -> Option<Device> {
        self.enrolled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes the row; a revoked one counts as none.
    pub(super) fn set_device(&self, device: Option<Device>) {
        *self.enrolled.lock().unwrap_or_else(PoisonError::into_inner) =
            device.filter(|device| !device.revoked);
    }

    /// It is to move much: more may be under way.
    pub(super) fn widen(&self, memory: &Memory) {
        self.window.get_or_init(|| {
            let window = memory.window();
            self.connection.trust(window.bytes());
            window
        });
    }
}

/// The place of a live connection in the list.
#[derive(Debug)]
pub(super) struct Listing {
    registry: Registry,
    number: u64,
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.registry.lock().peers.remove(&self.number);
    }
}

/// A request at work.
#[derive(Debug)]
pub(super) struct Working(Arc<Shared>);

impl Drop for Working {
    fn drop(&mut self) {
        self.0.requests.send_modify(|count| *count -= 1);
    }
}

//! One connection, from its first packet to its end; and the loop that takes them.
//!
//! **Invariant:** a connection whose device is not enrolled is closed after [`Limits::unknown_stay`] at the
//! latest, and works at one request at a time.
//!
//! [`Limits::unknown_stay`]: crate::transport::limits::Limits::unknown_stay

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::time::Instant;

use super::Node;
use super::registry::Peer;
use super::sessions::{self, Outcome};
use crate::transport::connection::Connection;
use crate::transport::limits::{Admission, Place};
use crate::transport::{CloseCode, TransportError, tcp};

/// Requests that a device may try before it is enrolled.
const UNKNOWN_REQUESTS: usize = 4;

/// A device's row is written again only when it was last seen this long ago, in milliseconds: each write
/// costs a sync of the disk.
const SEEN_STEP: u64 = 60_000;

/// Between two tries to accept a connection where the system had none to give.
const PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until the node shuts down.
pub(super) async fn run(node: Node) {
    loop {
        let incoming = tokio::select! {
            incoming = node.0.endpoint.accept() => incoming,
            () = node.0.tasks.cancelled() => None,
        };
        let Some(incoming) = incoming else { return };
        let address = incoming.remote_address().ip();
        if node.is_closing() {
            incoming.refuse();
            continue;
        }
        match node.0.gate.admit(address, incoming.remote_address_validated()) {
            Admission::Wait(entrance) => {
                let (at, address) = (node.clone(), incoming.remote_address());
                let work = async move {
                    let Some(place) = entrance.enter(at.0.gate.limits().entering).await else {
                        tracing::debug!(%address, "refused a connection: no place in time");
                        return incoming.refuse();
                    };
                    let handshake = async { Ok(Connection::Quic(incoming.await?)) };
                    connection(at, address, handshake, place).await;
                };
                node.0.tasks.spawn("connection", work).detach();
            }
            Admission::Validate => {
                // Cannot fail: the address is not validated.
                drop(incoming.retry());
            }
            Admission::Refuse => {
                tracing::debug!(%address, "refused a connection: no place");
                incoming.refuse();
            }
        }
    }
}

/// Takes those that come by TCP.
pub(super) async fn run_tcp(node: Node, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = node.0.tasks.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            // Of this connection, or of all for want of descriptors: then a moment later there may be some.
            Err(error) => {
                tracing::debug!(%error, "accepting a connection");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if node.is_closing() {
            continue;
        }
        // Who has answered our first packet receives at its address.
        match node.0.gate.admit(address.ip(), true) {
            Admission::Wait(entrance) => {
                let (at, tls) = (node.clone(), Arc::clone(&tls));
                let work = async move {
                    let Some(place) = entrance.enter(at.0.gate.limits().entering).await else {
                        return tracing::debug!(%address, "refused a connection: no place in time");
                    };
                    let tasks = at.0.tasks.clone();
                    let handshake =
                        async { tcp::accept(&tasks, &tls, stream).await.map(Connection::Tcp) };
                    connection(at, address, handshake, place).await;
                };
                node.0.tasks.spawn("connection", work).detach();
            }
            Admission::Validate | Admission::Refuse => {
                tracing::debug!(%address, "refused a connection: no place");
            }
        }
    }
}

async fn connection(
    node: Node,
    address: SocketAddr,
    handshake: impl Future<Output = Result<Connection, TransportError>>,
    place: Place,
) {
    let handshake = tokio::time::timeout(node.0.gate.limits().handshake, handshake);
    let connection = match handshake.await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => {
            let error = &error as &dyn std::error::Error;
            return tracing::debug!(%address, error, "a handshake failed");
        }
        Err(_) => return tracing::debug!(%address, "a handshake took too long"),
    };
    let Some(id) = connection.device() else {
        return connection.close(CloseCode::Malformed);
    };
    // Listed first, looked up second: see `Node::revoke`.
    let (peer, _listing) = node.0.registry.enter(id, &connection);
    let found = node.with_catalog(move |catalog| catalog.device(id)).await;
    let revoked = match found {
        Ok(found) => {
            let revoked = found.as_ref().is_some_and(|device| device.revoked);
            peer.set_device(found);
            revoked
        }
        // Logged already; the device may try again.
        Err(_) => return connection.close(CloseCode::ShuttingDown),
    };
    serve(&node, &peer, place, revoked).await;
}

/// Serves the streams of a connection until it is closed.
async fn serve(node: &Node, peer: &Arc<Peer>, mut place: Place, revoked: bool) {
    if peer.device().is_none() && !let_join(node, peer, revoked).await {
        return peer.connection.close(CloseCode::UnknownDevice);
    }
    welcome(node, peer, &mut place);
    while let Ok(streams) = peer.connection.accept().await {
        let (owner, at) = (Arc::clone(peer), node.clone());
        let work = async move {
            sessions::serve(&at, &owner, streams).await;
        };
        node.0.tasks.spawn("request", work).detach();
    }
}

/// Gives a device that is not enrolled the time to redeem a ticket; says whether it did.
async fn let_join(node: &Node, peer: &Peer, revoked: bool) -> bool {
    let until = Instant::now() + node.0.gate.limits().unknown_stay;
    for _ in 0..UNKNOWN_REQUESTS {
        let serve = async {
            match peer.connection.accept().await {
                Ok(streams) => sessions::serve(node, peer, streams).await,
                Err(_) => Outcome::NotEnrolled,
            }
        };
        match tokio::time::timeout_at(until, serve).await {
            Ok(Outcome::Enrolled) => return true,
            // A revoked device is to notice at once.
            Ok(Outcome::NotEnrolled) if revoked => return false,
            Ok(_) if peer.connection.is_open() => {}
            _ => return false,
        }
    }
    false
}

/// The device is enrolled: no longer one of the unknown, and its oldest connections make way where it has too many.
fn welcome(node: &Node, peer: &Peer, place: &mut Place) {
    place.known();
    let keep = node.0.gate.limits().per_device;
    let closed = node.0.registry.close_but(peer.id, keep, CloseCode::TooMany);
    if closed > 0 {
        tracing::debug!(device = %peer.id.short(), closed, "closed the oldest connections");
    }
    let (id, now) = (peer.id, node.0.clock.now_ms());
    let seen = peer.device().and_then(|device| device.last_seen);
    if seen.is_none_or(|seen| seen.saturating_add(SEEN_STEP) <= now) {
        let at = node.clone();
        let work = async move {
            // A failure is logged there, and costs nothing but the date.
            drop(at.with_catalog(move |catalog| catalog.touch(id, now)).await);
        };
        node.0.tasks.spawn("last seen", work).detach();
    }
}

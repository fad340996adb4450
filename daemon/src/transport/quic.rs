//! Endpoints and connections: quinn with our windows, our keys and our sockets.
//!
//! quinn's defaults are not for a public server: its connection window is unlimited, and it draws
//! new reset and connection-id keys at each start, so that after a restart old packets are dropped
//! in silence.
//!
//! **Invariant:** a node that was restarted answers a packet of an old connection with a stateless
//! reset, because both keys come from the home's [`Identity`].

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::{DeviceId, NodeId};
use baton_protocol::mux;
use quinn::congestion::BbrConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, IdleTimeout, TransportConfig, TransportErrorCode, VarInt};
use quinn_proto::HashedConnectionIdGenerator as ConnectionIds;
use ring::hmac;
use rustls::pki_types::CertificateDer;

use super::TransportError;
use super::limits::memory;
use super::tls::{self, Pin};
use crate::identity::Identity;

/// Most unread bytes of one connection: bounds what a device can make a node hold.
pub const RECEIVE_WINDOW: u32 = memory::MOST;

/// The same, and for what is sent, before the device is known: enough for the first flights of a push.
const UNKNOWN_WINDOW: u32 = mux::FIRST_WINDOW;

/// Unread bytes of one stream; half of the above, so that a stalled stream leaves room for others.
const STREAM_WINDOW: u32 = mux::STREAM_WINDOW;

/// Bytes sent and not acknowledged.
const SEND_WINDOW: u64 = memory::MOST as u64;

/// Requests at once on a connection.
const STREAMS: u32 = mux::STREAMS;

/// A connection without a packet ends after this.
pub(super) const IDLE: Duration = Duration::from_secs(150);

/// The client's pings keep it alive. Each wakes the process five times, for its timers and its answer, and an
/// idle daemon should wake six times a minute at most; who is behind a router that forgets sooner speaks first
/// in any case, and QUIC goes on from the new port.
pub(super) const KEEP_ALIVE: Duration = Duration::from_mins(1);

/// Connection attempts that wait for our decision, and bytes kept for them.
const MAX_INCOMING: usize = 1024;
const INCOMING_BUFFER: u64 = 64 * 1024;
const INCOMING_BUFFER_ALL: u64 = 16 * 1024 * 1024;

/// Socket buffers: a burst of one send window's worth of packets at 4 KiB pages. The kernel gives
/// what it allows.
const SOCKET_BUFFER: usize = 4 * 1024 * 1024;

/// TLS's alert for "none of your protocols" (RFC 7301).
const NO_APPLICATION_PROTOCOL: u8 = 120;

/// Listens for devices. Must be called within a runtime.
pub fn listen(identity: &Identity, address: SocketAddr) -> Result<quinn::Endpoint, TransportError> {
    let crypto = QuicServerConfig::try_from(tls::server_config(identity)?)
        .map_err(|_| TransportError::Setup("no cipher suite for the first packets"))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let mut transport = transport_config()?;
    transport
        .receive_window(UNKNOWN_WINDOW.into())
        .send_window(UNKNOWN_WINDOW.into())
        .max_concurrent_bidi_streams(STREAMS.into());
    config
        .transport_config(Arc::new(transport))
        .max_incoming(MAX_INCOMING)
        .incoming_buffer_size(INCOMING_BUFFER)
        .incoming_buffer_size_total(INCOMING_BUFFER_ALL);
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, identity.reset_key());
    let mut endpoint = quinn::EndpointConfig::new(Arc::new(reset_key));
    let key = identity.connection_id_key();
    endpoint.cid_generator(move || Box::new(ConnectionIds::from_key(key)));
    open(endpoint, Some(config), address)
}

/// An endpoint to dial from, on both address families where the machine has both. Must be called
/// within a runtime.
pub fn dialling_endpoint() -> Result<quinn::Endpoint, TransportError> {
    let try_from =
        |address: IpAddr| open(quinn::EndpointConfig::default(), None, SocketAddr::new(address, 0));
    try_from(Ipv6Addr::UNSPECIFIED.into()).or_else(|_| try_from(Ipv4Addr::UNSPECIFIED.into()))
}

/// Connects to the node with this key at this address.
pub async fn connect(
    endpoint: &quinn::Endpoint,
    identity: &Identity,
    node: NodeId,
    address: SocketAddr,
    within: Duration,
) -> Result<quinn::Connection, TransportError> {
    let pin = Pin::new(node);
    let crypto = QuicClientConfig::try_from(tls::client_config(identity, Arc::clone(&pin))?)
        .map_err(|_| TransportError::Setup("no cipher suite for the first packets"))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport_config()?;
    transport
        .receive_window(RECEIVE_WINDOW.into())
        .max_concurrent_bidi_streams(0u32.into())
        .keep_alive_interval(Some(KEEP_ALIVE));
    config.transport_config(Arc::new(transport));
    // The name is not sent and names nobody: the key does.
    let connecting = endpoint
        .connect_with(config, address, "node.baton.invalid")
        .map_err(|source| TransportError::Connect { address, source })?;
    let connected = tokio::select! {
        connected = tokio::time::timeout(within, connecting) => connected,
        source = nobody_there(address) => return Err(TransportError::NobodyThere { address, source }),
    };
    match connected {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(error)) => Err(handshake_error(error, &pin, node, address)),
        Err(_) => Err(TransportError::Timeout { doing: "connecting", after: within }),
    }
}

/// Sends a node something that it has to acknowledge.
///
/// quinn has no ping that one could ask for; a window that is said again is one.
pub(super) fn ask(connection: &quinn::Connection) {
    connection.set_receive_window((RECEIVE_WINDOW - 1).into());
    connection.set_receive_window(RECEIVE_WINDOW.into());
}

fn handshake_error(
    error: ConnectionError,
    pin: &Pin,
    expected: NodeId,
    address: SocketAddr,
) -> TransportError {
    if let Some(found) = pin.found() {
        return TransportError::Identity { address, expected, found };
    }
    let no_protocol = TransportErrorCode::crypto(NO_APPLICATION_PROTOCOL);
    match &error {
        ConnectionError::VersionMismatch => TransportError::Protocol { address },
        ConnectionError::ConnectionClosed(close) if close.error_code == no_protocol => {
            TransportError::Protocol { address }
        }
        ConnectionError::TransportError(error) if error.code == no_protocol => {
            TransportError::Protocol { address }
        }
        _ => error.into(),
    }
}

/// Resolves when the machine itself knows that nobody can be there: no route, or a port that its
/// host calls closed. quinn's socket serves many peers, so the kernel has nobody to tell; a socket
/// of its own is told. The one byte that it sends is no QUIC packet.
async fn nobody_there(address: SocketAddr) -> io::Error {
    let local: IpAddr = match address {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let probe = async {
        let socket = tokio::net::UdpSocket::bind(SocketAddr::new(local, 0)).await?;
        socket.connect(address).await?;
        socket.send(&[0]).await?;
        socket.recv(&mut [0]).await
    };
    match probe.await {
        Err(error) if is_definite(&error) => error,
        _ => std::future::pending().await,
    }
}

pub(super) fn is_definite(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionRefused
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::AddrNotAvailable
    )
}

/// Who is on the other side of a connection to a node.
pub(super) fn device(connection: &quinn::Connection) -> Option<DeviceId> {
    let identity = connection.peer_identity()?;
    let certificates = identity.downcast_ref::<Vec<CertificateDer<'static>>>()?;
    let key = certificates.first().and_then(|der| tls::key_of_spki(der))?;
    Some(DeviceId::from_bytes(key))
}

/// The device is enrolled: it may have more under way, in each direction.
pub(super) fn trust(connection: &quinn::Connection, window: u32) {
    connection.set_receive_window(window.into());
    connection.set_send_window(window.into());
}

/// What both sides have in common.
///
/// A file of noise pushed by whole commands, two cores, MB/s (`docs/benchmarks.md`, *Links*; the network of the last three rows is
/// emulated and takes a core itself):
///
/// | | CUBIC | BBR | BBR, 4 × the windows | BBR, packets of 9,000 bytes | BBR, without GSO |
/// |---|---|---|---|---|---|
/// | loopback | 97 | 144 | 130 | 105 | 47 |
/// | 1 Gbit/s | 97 | 101 | | | |
/// | 50 ms | 19 | 22 | 26 | 29 | 18 |
/// | 50 ms, 1 % lost | 0.4 | 9 | 9 | 9 | 11 |
/// | 10 ms, 1 % lost | 2 | 24 | 23 | 24 | 15 |
///
/// What differs by a third in one run may differ the other way round in the next. What does not: losses, which a radio
/// link has without being full, make CUBIC ten to twenty times slower.
fn transport_config() -> Result<TransportConfig, TransportError> {
    let idle = IdleTimeout::try_from(IDLE)
        .map_err(|_| TransportError::Setup("the idle limit is out of range"))?;
    let mut config = TransportConfig::default();
    config
        .max_idle_timeout(Some(idle))
        .congestion_controller_factory(Arc::new(BbrConfig::default()))
        .stream_receive_window(STREAM_WINDOW.into())
        .send_window(SEND_WINDOW)
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None);
    Ok(config)
}

fn open(
    config: quinn::EndpointConfig,
    server: Option<quinn::ServerConfig>,
    address: SocketAddr,
) -> Result<quinn::Endpoint, TransportError> {
    let bind = || {
        let socket = UdpSocket::bind(address)?;
        for set in [
            rustix::net::sockopt::set_socket_recv_buffer_size,
            rustix::net::sockopt::set_socket_send_buffer_size,
        ] {
            if let Err(error) = set(&socket, SOCKET_BUFFER) {
                tracing::debug!(%error, "the socket keeps its buffer");
            }
        }
        quinn::Endpoint::new(config, server, socket, Arc::new(quinn::TokioRuntime))
    };
    bind().map_err(|source| TransportError::Bind { address, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::testing::identity;

    const WITHIN: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn another_key_than_the_pinned_one_is_named() {
        let (node, other, home) = (identity(), identity(), identity());
        let listening = listen(&node, (Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listening.local_addr().unwrap();
        let serve = async { listening.accept().await.unwrap().await };
        let dialling = dialling_endpoint().unwrap();
        let dial = connect(&dialling, &home, other.node(), address, WITHIN);
        let (served, dialled) = tokio::join!(serve, dial);
        let refused = dialled.unwrap_err();
        assert!(served.is_err());
        let TransportError::Identity { expected, found, .. } = refused else { panic!("{refused}") };
        assert_eq!((expected, found), (other.node(), node.node()));
    }

    #[tokio::test]
    async fn a_closed_port_is_known_at_once() {
        let closed = {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            socket.local_addr().unwrap()
        };
        let dialling = dialling_endpoint().unwrap();
        let key = identity();
        let refused = connect(&dialling, &key, key.node(), closed, WITHIN).await.unwrap_err();
        assert!(matches!(refused, TransportError::NobodyThere { .. }), "{refused}");
    }

    #[tokio::test]
    async fn a_peer_without_our_protocol_is_named() {
        let (node, home) = (identity(), identity());
        let mut tls = tls::server_config(&node).unwrap();
        tls.alpn_protocols = vec![b"other/9".to_vec()];
        let crypto = QuicServerConfig::try_from(tls).unwrap();
        let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let local = (Ipv4Addr::LOCALHOST, 0).into();
        let listening = open(quinn::EndpointConfig::default(), Some(config), local).unwrap();
        let address = listening.local_addr().unwrap();
        let serve = async { listening.accept().await.unwrap().await };
        let dialling = dialling_endpoint().unwrap();
        let dial = connect(&dialling, &home, node.node(), address, WITHIN);
        let (_, dialled) = tokio::join!(serve, dial);
        assert!(matches!(dialled, Err(TransportError::Protocol { .. })), "{dialled:?}");
    }
}

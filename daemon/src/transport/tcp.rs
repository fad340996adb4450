//! The same sessions over TLS on TCP, for networks that let no UDP through.
//!
//! One TCP connection for all streams of a home, the same keys and pins as over QUIC, and the limits
//! of QUIC kept by [`mux`](baton_protocol::mux). What TCP cannot have: streams that do not wait for
//! each other's losses, and another address in the middle.
//!
//! **Invariant:** reading goes on whatever is to be written, so that two full sides never wait for
//! each other; and what is read is bounded by the credit that was given.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::{DeviceId, NodeId};
use baton_protocol::message::ALPN_TCP;
use baton_protocol::mux::{Mux, Side};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::quic::{IDLE, KEEP_ALIVE, RECEIVE_WINDOW, is_definite};
use super::tls::{self, Pin};
use super::{CloseCode, TransportError};
use crate::identity::Identity;
use crate::task::Tasks;

/// Bytes read or written at once: four records of TLS.
const BATCH: usize = 64 * 1024;

/// Between the last word and the end: what the peer still sends is read for so long, because a socket
/// that is closed with unread bytes takes back what it has sent.
const LINGER: Duration = Duration::from_secs(2);

/// After everything was told to end, so long is waited for who closes connections in good order.
const GRACE: Duration = Duration::from_secs(5);

/// Accepted sockets that wait for us in the kernel.
const BACKLOG: u32 = 128;

/// Without an answer to a ping for so long nobody is there. Longer than over QUIC, whose
/// acknowledgements we see: the ping stands behind what the kernel has taken, 160 KiB of which take
/// this long at the least rate that we serve.
const SILENCE: Duration = Duration::from_secs(20);

/// How the connection ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// We closed it.
    Here,
    /// The peer did.
    There(CloseCode),
    /// Nobody did.
    Lost(io::ErrorKind),
}

impl End {
    pub(super) fn error(self) -> TransportError {
        match self {
            Self::There(code) => TransportError::Closed { code },
            Self::Here => TransportError::Broken(io::ErrorKind::NotConnected.into()),
            Self::Lost(kind) => TransportError::Broken(kind.into()),
        }
    }
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) mux: Mux,
    pub(super) end: Option<End>,
    /// When something came last.
    heard: Instant,
    /// When we asked for a sign of life last, where nothing has come since.
    asked: Option<Instant>,
}

/// What the handles and the driver share.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something came or left, or the connection ended.
    changed: Notify,
    /// There is something to send.
    news: Notify,
    peer: [u8; 32],
    address: SocketAddr,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the driver, where there is something to send.
    pub(super) fn nudge(&self, state: &State) {
        if state.mux.has_news() {
            self.news.notify_one();
        }
    }

    /// Waits until `look` finds something, which it does at the latest when the connection ends.
    pub(super) async fn until<T>(&self, mut look: impl FnMut(&mut State) -> Option<T>) -> T {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            {
                let mut state = self.lock();
                let found = look(&mut state);
                self.nudge(&state);
                if let Some(found) = found {
                    return found;
                }
            }
            changed.await;
        }
    }

    fn close(&self, code: CloseCode) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(End::Here);
            state.mux.close(u32::try_from(code.number()).unwrap_or(u32::MAX));
        }
        drop(state);
        self.news.notify_one();
        self.changed.notify_waiters();
    }

    fn lost(&self, error: &io::Error) {
        self.lock().end.get_or_insert(End::Lost(error.kind()));
        self.changed.notify_waiters();
    }
}

/// A connection; clones are the same one. Where the last of them and of its streams goes, it is closed.
#[derive(Clone, Debug)]
pub struct TcpConnection(Arc<Handle>);

#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close(CloseCode::Done);
    }
}

impl TcpConnection {
    fn start<S>(
        tasks: &Tasks,
        stream: S,
        side: Side,
        (peer, address): ([u8; 32], SocketAddr),
        farewell: CloseCode,
    ) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let state = State { mux: Mux::new(side), end: None, heard: Instant::now(), asked: None };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
            news: Notify::new(),
            peer,
            address,
        });
        let (at, until) = (Arc::clone(&shared), tasks.clone());
        let work = async move {
            let driving = drive(&at, stream, side);
            tokio::pin!(driving);
            tokio::select! {
                () = &mut driving => return,
                () = async { until.cancelled().await; tokio::time::sleep(GRACE).await } => at.close(farewell),
            }
            driving.await;
        };
        tasks.spawn("tcp connection", work).detach();
        Self(Arc::new(Handle(shared)))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0.0
    }

    /// The key that the peer has proven.
    pub(super) fn device(&self) -> DeviceId {
        DeviceId::from_bytes(self.shared().peer)
    }

    pub(super) fn peer_address(&self) -> SocketAddr {
        self.shared().address
    }

    pub(super) fn close(&self, code: CloseCode) {
        self.shared().close(code);
    }

    /// Allows the peer as much as over QUIC.
    pub(super) fn trust(&self, window: u32) {
        let mut state = self.shared().lock();
        state.mux.widen(window);
        self.shared().nudge(&state);
    }

    /// Resolves when nobody answers any more; asks while it waits.
    pub(super) async fn silence(&self) {
        let step = Duration::from_secs(1);
        loop {
            tokio::time::sleep(step).await;
            let mut state = self.shared().lock();
            let now = Instant::now();
            match state.asked {
                // Whatever it is that comes.
                Some(at) if state.heard > at => state.asked = None,
                Some(at) if at + SILENCE <= now => return,
                None if state.heard + step <= now => {
                    state.asked = Some(now);
                    state.mux.ping(0);
                    self.shared().nudge(&state);
                }
                _ => {}
            }
        }
    }
}

/// Moves bytes until the connection has ended and the peer knows why.
async fn drive<S: AsyncRead + AsyncWrite>(shared: &Shared, stream: S, side: Side) {
    let (mut from, mut to) = tokio::io::split(stream);
    let reading = read(shared, &mut from);
    let writing = write(shared, &mut to, side);
    tokio::pin!(reading, writing);
    tokio::select! {
        () = &mut reading => {
            // Ours to say is at most why we read no more.
            drop(tokio::time::timeout(LINGER, writing).await);
            return;
        }
        () = &mut writing => {}
    }
    drop(tokio::time::timeout(LINGER, reading).await);
}

async fn read<S: AsyncRead>(shared: &Shared, from: &mut tokio::io::ReadHalf<S>) {
    let mut bytes = vec![0; BATCH];
    loop {
        let count = match tokio::time::timeout(IDLE, from.read(&mut bytes)).await {
            Ok(Ok(0)) => return shared.lost(&io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(count)) => count,
            Ok(Err(error)) => return shared.lost(&error),
            Err(_) => return shared.lost(&io::ErrorKind::TimedOut.into()),
        };
        let mut state = shared.lock();
        state.heard = Instant::now();
        let received = state.mux.receive(bytes.get(..count).unwrap_or_default());
        let over = state.mux.peer_closed();
        if let Some(code) = over {
            state.end.get_or_insert(End::There(CloseCode::from_number(code.into())));
        }
        shared.nudge(&state);
        drop(state);
        shared.changed.notify_waiters();
        if let Err(error) = received {
            tracing::debug!(%error, "a peer broke the protocol");
            return shared.close(CloseCode::Malformed);
        }
        if over.is_some() {
            return;
        }
    }
}

async fn write<S: AsyncWrite>(shared: &Shared, to: &mut tokio::io::WriteHalf<S>, side: Side) {
    let mut bytes = Vec::with_capacity(BATCH);
    loop {
        bytes.clear();
        let (over, nobody) = {
            let mut state = shared.lock();
            state.mux.transmit(&mut bytes, BATCH);
            (state.mux.is_closed(), matches!(state.end, Some(End::There(_) | End::Lost(_))))
        };
        // Whoever waits for room has some now; whoever waits until all has left may hear it.
        shared.changed.notify_waiters();
        let sent = async {
            if !bytes.is_empty() {
                to.write_all(&bytes).await?;
                to.flush().await?;
            }
            if over { to.shutdown().await } else { Ok(()) }
        };
        if let Err(error) = sent.await {
            return shared.lost(&error);
        }
        if over || nobody {
            return;
        }
        if shared.lock().mux.has_news() {
            continue;
        }
        let pinged = tokio::time::timeout(KEEP_ALIVE, shared.news.notified()).await;
        if pinged.is_err() && side == Side::Dialling {
            shared.lock().mux.ping(0);
        }
    }
}

/// Listens where devices cannot come by UDP. Must be called within a runtime.
pub fn listen(address: SocketAddr) -> Result<TcpListener, TransportError> {
    let bind = || {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }?;
        // What is left of an earlier connection keeps nobody from listening.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    bind().map_err(|source| TransportError::Bind { address, source })
}

/// Proves both keys on a socket that was accepted.
pub async fn accept(
    tasks: &Tasks,
    tls: &Arc<rustls::ServerConfig>,
    stream: TcpStream,
) -> Result<TcpConnection, TransportError> {
    let prepare = stream.set_nodelay(true).and_then(|()| stream.peer_addr());
    let address = prepare.map_err(TransportError::Broken)?;
    let stream = TlsAcceptor::from(Arc::clone(tls)).accept(stream).await;
    let stream = stream.map_err(TransportError::Broken)?;
    let (_, session) = stream.get_ref();
    let key = session.peer_certificates().and_then(|all| all.first());
    let key = key.and_then(|der| tls::key_of_spki(der));
    let (Some(key), Some(ALPN_TCP)) = (key, session.alpn_protocol()) else {
        return Err(TransportError::Broken(io::ErrorKind::InvalidData.into()));
    };
    Ok(TcpConnection::start(
        tasks,
        stream,
        Side::Accepting,
        (key, address),
        CloseCode::ShuttingDown,
    ))
}

/// What a node needs to [`accept`].
pub fn server_config(identity: &Identity) -> Result<Arc<rustls::ServerConfig>, TransportError> {
    let mut config = tls::server_config(identity)?;
    config.alpn_protocols = vec![ALPN_TCP.to_vec()];
    Ok(Arc::new(config))
}

/// Connects to the node with this key at this address.
pub async fn connect(
    tasks: &Tasks,
    identity: &Identity,
    node: NodeId,
    address: SocketAddr,
    within: Duration,
) -> Result<TcpConnection, TransportError> {
    let pin = Pin::new(node);
    let mut config = tls::client_config(identity, Arc::clone(&pin))?;
    config.alpn_protocols = vec![ALPN_TCP.to_vec()];
    let handshake = async {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // The name is not sent and names nobody: the key does.
        let name = ServerName::try_from("node.baton.invalid").map_err(io::Error::other)?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    };
    let stream = match tokio::time::timeout(within, handshake).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return Err(handshake_error(error, &pin, node, address)),
        Err(_) => return Err(TransportError::Timeout { doing: "connecting", after: within }),
    };
    if stream.get_ref().1.alpn_protocol() != Some(ALPN_TCP) {
        return Err(TransportError::Protocol { address });
    }
    let farewell = CloseCode::Done;
    let connection =
        TcpConnection::start(tasks, stream, Side::Dialling, (*node.as_bytes(), address), farewell);
    connection.trust(RECEIVE_WINDOW);
    Ok(connection)
}

fn handshake_error(
    source: io::Error,
    pin: &Pin,
    expected: NodeId,
    address: SocketAddr,
) -> TransportError {
    if let Some(found) = pin.found() {
        return TransportError::Identity { address, expected, found };
    }
    if is_definite(&source) {
        return TransportError::NobodyThere { address, source };
    }
    let tls = source.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(
            rustls::Error::InvalidMessage(_)
            | rustls::Error::AlertReceived(rustls::AlertDescription::NoApplicationProtocol),
        ) => TransportError::Protocol { address },
        _ => TransportError::Tcp { address, source },
    }
}

#[cfg(test)]
mod tests;

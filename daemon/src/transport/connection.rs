//! A connection and its streams, over whichever way the network allows.
//!
//! What is above sees no difference but the word that [`Connection::way`] has for it.

use std::net::SocketAddr;
use std::time::Duration;

use baton_protocol::id::DeviceId;
use baton_protocol::mux::{Delivery, Mux, Read, Written};
use tokio::time::Instant;

use super::tcp::TcpConnection;
use super::{CloseCode, TransportError, quic};

/// Probe timeouts without an answer after which a connection is given up (DESIGN, the wire).
const PROBES: u32 = 3;

/// Never sooner than this, however short the round trips: a busy or briefly stopped node answers late.
const LEAST_SILENCE: Duration = Duration::from_secs(3);

/// After so long without a packet a node that owes us an answer is asked for a sign of life, and then again and again.
const ASK_AFTER: Duration = Duration::from_secs(2);

/// Who has waited long asks less often: after this part of the time, and at the latest when any connection is.
const ASK_PART: u32 = 4;

/// How often the counters are looked at while something is awaited.
const SAMPLE: Duration = Duration::from_millis(250);

/// Over what a connection runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// QUIC, which is what all connections begin with.
    Quic,
    /// TLS over TCP, where UDP does not get through.
    Tcp,
}

impl Way {
    /// Its word in answers and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// A connection; clones are the same one.
#[derive(Clone, Debug)]
pub enum Connection {
    /// Over QUIC.
    Quic(quinn::Connection),
    /// Over TCP.
    Tcp(TcpConnection),
}

/// Both directions of a stream.
#[derive(Debug)]
pub struct Streams {
    /// Ours.
    pub(super) sender: Sender,
    /// The peer's.
    pub(super) receiver: Receiver,
}

impl Connection {
    /// Over what it runs.
    pub const fn way(&self) -> Way {
        match self {
            Self::Quic(_) => Way::Quic,
            Self::Tcp(_) => Way::Tcp,
        }
    }

    /// A new stream; waits where the peer allows no more at once.
    pub async fn open(&self) -> Result<Streams, TransportError> {
        match self {
            Self::Quic(connection) => Ok(connection.open_bi().await.map(of_quic)?),
            Self::Tcp(connection) => {
                let open = connection.shared().until(|state| match state.end {
                    Some(end) => Some(Err(end)),
                    None => state.mux.open().map(Ok),
                });
                open.await.map(|id| of_tcp(connection, id)).map_err(super::tcp::End::error)
            }
        }
    }

    /// The next stream that the peer opens.
    pub async fn accept(&self) -> Result<Streams, TransportError> {
        match self {
            Self::Quic(connection) => Ok(connection.accept_bi().await.map(of_quic)?),
            Self::Tcp(connection) => {
                let accept = connection.shared().until(|state| match state.end {
                    Some(end) => Some(Err(end)),
                    None => state.mux.accept().map(Ok),
                });
                accept.await.map(|id| of_tcp(connection, id)).map_err(super::tcp::End::error)
            }
        }
    }

    /// Whether nobody has closed it, as far as is known.
    pub fn is_open(&self) -> bool {
        match self {
            Self::Quic(connection) => connection.close_reason().is_none(),
            Self::Tcp(connection) => connection.shared().lock().end.is_none(),
        }
    }

    /// Resolves when it is closed or lost.
    pub async fn closed(&self) {
        match self {
            Self::Quic(connection) => drop(connection.closed().await),
            Self::Tcp(connection) => {
                connection.shared().until(|state| state.end.map(drop)).await;
            }
        }
    }

    /// Closes it, with what is under way on it.
    pub fn close(&self, code: CloseCode) {
        match self {
            Self::Quic(connection) => {
                let number = quinn::VarInt::from_u64(code.number()).unwrap_or(quinn::VarInt::MAX);
                connection.close(number, code.reason().as_bytes());
            }
            Self::Tcp(connection) => connection.close(code),
        }
    }

    /// The key that the peer has proven.
    pub fn device(&self) -> Option<DeviceId> {
        match self {
            Self::Quic(connection) => quic::device(connection),
            Self::Tcp(connection) => Some(connection.device()),
        }
    }

    /// Where the peer is now.
    pub fn peer_address(&self) -> SocketAddr {
        match self {
            Self::Quic(connection) => connection.remote_address(),
            Self::Tcp(connection) => connection.peer_address(),
        }
    }

    /// The device is enrolled: it may have so many bytes under way, in each direction.
    pub(crate) fn trust(&self, window: u32) {
        match self {
            Self::Quic(connection) => quic::trust(connection, window),
            Self::Tcp(connection) => connection.trust(window),
        }
    }

    /// Resolves when what we send is not answered any more.
    pub(super) async fn silence(&self) {
        match self {
            Self::Quic(connection) => silence(connection).await,
            Self::Tcp(connection) => connection.silence().await,
        }
    }
}

fn of_quic((send, recv): (quinn::SendStream, quinn::RecvStream)) -> Streams {
    Streams { sender: Sender::Quic(send), receiver: Receiver::Quic(recv) }
}

fn of_tcp(connection: &TcpConnection, id: u32) -> Streams {
    let (reader, writer) = (TcpStream::new(connection, id), TcpStream::new(connection, id));
    Streams { sender: Sender::Tcp(TcpSender(writer)), receiver: Receiver::Tcp(TcpReceiver(reader)) }
}

/// One direction of a stream of a TCP connection, which it keeps open.
#[derive(Clone, Debug)]
struct TcpStream {
    connection: TcpConnection,
    id: u32,
}

impl TcpStream {
    fn new(connection: &TcpConnection, id: u32) -> Self {
        Self { connection: connection.clone(), id }
    }

    fn with<T>(&self, work: impl FnOnce(&mut Mux, u32) -> T) -> T {
        let shared = self.connection.shared();
        let mut state = shared.lock();
        let done = work(&mut state.mux, self.id);
        shared.nudge(&state);
        done
    }

    /// Whether all was delivered, or nothing more is wanted; an error where the connection ended.
    async fn stopped(&self) -> Result<Delivery, TransportError> {
        let look = |state: &mut super::tcp::State| match state.mux.delivery(self.id) {
            Delivery::Under => state.end.map(|end| Err(end.error())),
            delivery => Some(Ok(delivery)),
        };
        self.connection.shared().until(look).await
    }
}

/// The direction of a TCP stream in which we send. It ends where this goes.
#[derive(Debug)]
pub(super) struct TcpSender(TcpStream);

impl Drop for TcpSender {
    fn drop(&mut self) {
        self.0.with(Mux::drop_writer);
    }
}

/// The direction of a TCP stream in which the peer sends. It is stopped where this goes.
#[derive(Debug)]
pub(super) struct TcpReceiver(TcpStream);

impl Drop for TcpReceiver {
    fn drop(&mut self) {
        self.0.with(Mux::drop_reader);
    }
}

/// The direction in which we send.
#[derive(Debug)]
pub(super) enum Sender {
    Quic(quinn::SendStream),
    Tcp(TcpSender),
}

impl Sender {
    /// Takes at least one of these bytes, of which there is one.
    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<usize, TransportError> {
        match self {
            Self::Quic(send) => Ok(send.write(bytes).await?),
            Self::Tcp(TcpSender(stream)) => {
                let look = |state: &mut super::tcp::State| match state.end {
                    Some(end) => Some(Err(end.error())),
                    None => match state.mux.write(stream.id, bytes) {
                        Written::Some(count) => Some(Ok(count)),
                        Written::Full => None,
                        Written::Stopped => Some(Err(TransportError::Stopped)),
                    },
                };
                stream.connection.shared().until(look).await
            }
        }
    }

    /// Ends it after what was written.
    pub(super) fn finish(&mut self) {
        match self {
            // Fails only where the stream is over, which is what we want.
            Self::Quic(send) => drop(send.finish()),
            Self::Tcp(TcpSender(stream)) => stream.with(Mux::finish),
        }
    }

    /// Gives it up.
    pub(super) fn reset(&mut self) {
        match self {
            // Fails only where the stream is over.
            Self::Quic(send) => drop(send.reset(quinn::VarInt::from_u32(1))),
            Self::Tcp(TcpSender(stream)) => stream.with(Mux::reset),
        }
    }

    /// Resolves when the peer has everything, or wants no more, or is gone; with whether it does not
    /// want it or is gone.
    pub(super) fn unwanted(&self) -> impl Future<Output = bool> + Send + 'static {
        enum Half {
            Quic(std::pin::Pin<Box<dyn Future<Output = bool> + Send>>),
            Tcp(TcpStream),
        }
        let half = match self {
            Self::Quic(send) => {
                let stopped = send.stopped();
                Half::Quic(Box::pin(async move { !matches!(stopped.await, Ok(None)) }))
            }
            Self::Tcp(TcpSender(stream)) => Half::Tcp(stream.clone()),
        };
        async move {
            match half {
                Half::Quic(stopped) => stopped.await,
                Half::Tcp(stream) => !matches!(stream.stopped().await, Ok(Delivery::Left)),
            }
        }
    }
}

/// The direction in which the peer sends.
#[derive(Debug)]
pub(super) enum Receiver {
    Quic(quinn::RecvStream),
    Tcp(TcpReceiver),
}

impl Receiver {
    /// Appends up to `most` bytes; says how many, or nothing at the end. Safe to drop at an await.
    pub(super) async fn read(
        &mut self,
        most: usize,
        into: &mut Vec<u8>,
    ) -> Result<Option<usize>, TransportError> {
        match self {
            Self::Quic(recv) => {
                let Some(chunk) = recv.read_chunk(most, true).await? else { return Ok(None) };
                into.extend_from_slice(&chunk.bytes);
                Ok(Some(chunk.bytes.len()))
            }
            Self::Tcp(TcpReceiver(stream)) => {
                let look =
                    |state: &mut super::tcp::State| match state.mux.read(stream.id, most, into) {
                        Read::Some(count) => Some(Ok(Some(count))),
                        Read::End => Some(Ok(None)),
                        Read::Abandoned => Some(Err(TransportError::Abandoned)),
                        Read::Waiting => state.end.map(|end| Err(end.error())),
                    };
                stream.connection.shared().until(look).await
            }
        }
    }

    /// Tells the peer that we read no more.
    pub(super) fn stop(&mut self) {
        match self {
            // Fails only where the stream is over, which is what we want.
            Self::Quic(recv) => drop(recv.stop(quinn::VarInt::from_u32(0))),
            Self::Tcp(TcpReceiver(stream)) => stream.with(Mux::stop),
        }
    }
}

/// Resolves when what we send is not answered any more, for [`PROBES`] probe timeouts and at least
/// [`LEAST_SILENCE`].
///
/// Silence alone means nothing: a node may work for minutes on an answer. So it is asked for a sign of life: one that was
/// restarted says at once that it knows nothing of the connection. And QUIC repeats what is not acknowledged: packets that
/// leave again and again, while none comes in, do mean that nobody is there. One packet of ours may be a mere
/// acknowledgement, so three looks must have seen more.
async fn silence(connection: &quinn::Connection) {
    let mut last = connection.stats();
    let mut silent: Option<(Instant, u32)> = None;
    let begun = Instant::now();
    let mut heard_or_asked = begun;
    loop {
        tokio::time::sleep(SAMPLE).await;
        let now = connection.stats();
        let patience = (begun.elapsed() / ASK_PART).clamp(ASK_AFTER, quic::KEEP_ALIVE);
        if now.udp_rx.datagrams == last.udp_rx.datagrams {
            if heard_or_asked.elapsed() >= patience {
                quic::ask(connection);
                heard_or_asked = Instant::now();
            }
            if now.udp_tx.datagrams != last.udp_tx.datagrams {
                silent.get_or_insert_with(|| (Instant::now(), 0)).1 += 1;
            }
        } else {
            heard_or_asked = Instant::now();
            silent = None;
        }
        last = now;
        // RFC 9002, section 6.2.1, with the variance at its initial half of the round trip.
        let probe = now.path.rtt * 3 + Duration::from_millis(25);
        let long_enough = LEAST_SILENCE.max(probe * PROBES);
        if silent.is_some_and(|(since, looks)| looks >= PROBES && since.elapsed() >= long_enough) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::testing::{WAYS, pair};

    #[tokio::test]
    async fn both_sides_know_the_other_by_its_key() {
        for way in WAYS {
            let pair = pair(way).await;
            let [node, home] = &pair.identities;
            assert_eq!((pair.client.way(), pair.server.way()), (way, way));
            assert_eq!(pair.server.device(), Some(home.device()));
            let node_key = pair.client.device().map(|key| *key.as_bytes());
            assert_eq!(node_key, Some(*node.node().as_bytes()));
        }
    }

    #[tokio::test]
    async fn an_unknown_device_cannot_make_a_node_hold_much() {
        for way in WAYS {
            let pair = pair(way).await;
            let mut streams = pair.client.open().await.unwrap();
            // Four windows: what waits to be sent is not at the node.
            let mut left = 4 * 256 * 1024;
            let bytes = vec![0; left];
            let write = async {
                while left > 0 {
                    left -= streams.sender.write(&bytes[..left]).await.unwrap();
                }
            };
            tokio::pin!(write);
            let blocked = tokio::time::timeout(Duration::from_millis(500), &mut write);
            assert!(blocked.await.is_err(), "{way:?}");
            pair.server.trust(quic::RECEIVE_WINDOW);
            let rest = tokio::time::timeout(Duration::from_secs(20), write);
            rest.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_close_says_why_after_what_was_said_before() {
        for way in WAYS {
            let pair = pair(way).await;
            let mut here = pair.client.open().await.unwrap();
            here.sender.write(b"asked").await.unwrap();
            let mut there = pair.server.accept().await.unwrap();
            there.sender.write(b"no").await.unwrap();
            there.sender.finish();
            assert!(
                !tokio::time::timeout(Duration::from_secs(20), there.sender.unwanted())
                    .await
                    .unwrap()
            );
            pair.server.close(CloseCode::UnknownDevice);
            let mut heard = Vec::new();
            while let Ok(Some(_)) = here.receiver.read(1, &mut heard).await {}
            assert_eq!(heard, b"no", "{way:?}");
            pair.client.closed().await;
            assert!(!pair.client.is_open() && !pair.server.is_open());
            let refused = pair.client.open().await.unwrap_err();
            let TransportError::Closed { code } = refused else { panic!("{way:?}: {refused}") };
            assert_eq!(code, CloseCode::UnknownDevice);
            assert!(pair.server.open().await.unwrap_err().is_retryable());
        }
    }

    #[tokio::test]
    async fn a_connection_that_nobody_holds_is_closed() {
        for way in WAYS {
            let mut pair = pair(way).await;
            let mut streams = pair.client.open().await.unwrap();
            streams.sender.write(b"x").await.unwrap();
            let other = crate::transport::testing::pair(way).await;
            drop(std::mem::replace(&mut pair.client, other.client));
            let accepted = pair.server.accept().await.unwrap();
            assert!(pair.server.is_open(), "a stream keeps it open");
            drop((streams, accepted));
            tokio::time::timeout(Duration::from_secs(20), pair.server.closed()).await.unwrap();
        }
    }
}

//! From a node's addresses to a connection with the node that was meant.
//!
//! Every address is tried, the likeliest first and the next a moment later; the first to prove the
//! node's key wins. At each address QUIC comes first, and TCP where it has not answered for a moment; in
//! a network where TCP won lately both begin at once, and QUIC, which needs a round trip less, wins again
//! as soon as the network lets it. An address where another key answers is an error of its own, named above all
//! others: it is no reason to go on in silence.

use std::collections::HashMap;
use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use baton_protocol::id::NodeId;
use tokio::time::Instant;

use crate::config::PORT;
use crate::identity::Identity;
use crate::task::Tasks;
use crate::transport::connection::{Connection, Way};
use crate::transport::{Attempt, TransportError, quic, tcp};

/// How much later the next address is tried: enough for the first one in the same building.
const STAGGER: Duration = Duration::from_millis(100);

/// How long QUIC has the network for itself: what it takes to the other side of the world.
const HEAD_START: Duration = Duration::from_millis(300);

/// For so long it is believed that a network lets no UDP through.
const BELIEVED: Duration = Duration::from_mins(10);

/// Networks that are remembered.
const MAX_NETWORKS: usize = 64;

/// Addresses of one name that are tried.
const MAX_RESOLVED: usize = 8;

/// Makes connections in the name of a home; clones share one socket.
#[derive(Clone, Debug)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    identity: Identity,
    tasks: Tasks,
    without_udp: Arc<Mutex<Networks>>,
}

/// Where TCP won, and when: a node, and our own address on the way to it.
type Networks = HashMap<(NodeId, IpAddr), Instant>;

/// A new connection.
#[derive(Debug)]
pub struct Dialled {
    /// To the node that was meant: its key is proven.
    pub connection: Connection,
    /// The address that worked, as it was given.
    pub address: String,
}

impl Dialer {
    /// Opens the socket. Must be called within a runtime.
    pub fn new(identity: Identity, tasks: Tasks) -> Result<Self, TransportError> {
        let (endpoint, without_udp) = (quic::dialling_endpoint()?, Arc::default());
        Ok(Self { endpoint, identity, tasks, without_udp })
    }

    /// Who dials.
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Connects to a node, at any of its addresses, within this time.
    pub async fn dial(
        &self,
        node: NodeId,
        addresses: &[String],
        within: Duration,
    ) -> Result<Dialled, TransportError> {
        self.dial_over(None, node, addresses, within).await
    }

    /// The same over QUIC or not at all.
    pub async fn dial_quic(
        &self,
        node: NodeId,
        addresses: &[String],
        within: Duration,
    ) -> Result<Dialled, TransportError> {
        self.dial_over(Some(Way::Quic), node, addresses, within).await
    }

    async fn dial_over(
        &self,
        way: Option<Way>,
        node: NodeId,
        addresses: &[String],
        within: Duration,
    ) -> Result<Dialled, TransportError> {
        let attempts = addresses.iter().enumerate().map(|(at, address)| async move {
            tokio::time::sleep(STAGGER * u32::try_from(at).unwrap_or(u32::MAX)).await;
            self.dial_one(way, node, address, within).await
        });
        let failures = match first_ok(attempts, within).await {
            Ok((at, connection)) => {
                let address = addresses.get(at).cloned().unwrap_or_default();
                return Ok(Dialled { connection, address });
            }
            Err(failures) => failures,
        };
        let mut attempts = Vec::with_capacity(failures.len());
        for (address, failure) in addresses.iter().zip(failures) {
            let late = || TransportError::Timeout { doing: "connecting", after: within };
            match failure.unwrap_or_else(late) {
                error @ (TransportError::Identity { .. } | TransportError::Protocol { .. }) => {
                    return Err(error);
                }
                error => attempts.push(Attempt { address: address.clone(), error }),
            }
        }
        Err(TransportError::Unreachable { node, attempts })
    }

    async fn dial_one(
        &self,
        way: Option<Way>,
        node: NodeId,
        address: &str,
        within: Duration,
    ) -> Result<Connection, TransportError> {
        let resolved = resolve(address).await?;
        let attempts = resolved.iter().enumerate().map(|(at, &address)| async move {
            tokio::time::sleep(STAGGER * u32::try_from(at).unwrap_or(u32::MAX)).await;
            self.dial_address(way, node, address, within).await
        });
        match first_ok(attempts, within).await {
            Ok((_, connection)) => Ok(connection),
            // The first failure stands for all; but a wrong key must not hide behind it.
            Err(failures) => {
                let mut failures: Vec<_> = failures.into_iter().flatten().collect();
                failures.sort_by_key(|error| !matches!(error, TransportError::Identity { .. }));
                let late = TransportError::Timeout { doing: "connecting", after: within };
                Err(failures.into_iter().next().unwrap_or(late))
            }
        }
    }

    /// QUIC, and beside it TCP where QUIC does not answer: whichever proves the key first.
    async fn dial_address(
        &self,
        way: Option<Way>,
        node: NodeId,
        address: SocketAddr,
        within: Duration,
    ) -> Result<Connection, TransportError> {
        let quic = quic::connect(&self.endpoint, &self.identity, node, address, within);
        if way == Some(Way::Quic) {
            let connection = quic.await.map(Connection::Quic)?;
            self.remember(node, address, Way::Quic);
            return Ok(connection);
        }
        let mut quic = pin!(quic);
        let mut quic_failed = None;
        tokio::select! {
            biased;
            connected = &mut quic => match connected {
                Ok(connection) => {
                    self.remember(node, address, Way::Quic);
                    return Ok(Connection::Quic(connection));
                }
                Err(error) if is_final(&error) => return Err(error),
                Err(error) => quic_failed = Some(error),
            },
            () = tokio::time::sleep(self.head_start(node, address)) => {}
        }
        let mut tcp = pin!(tcp::connect(&self.tasks, &self.identity, node, address, within));
        let mut tcp_failed = None;
        loop {
            let error = tokio::select! {
                biased;
                connected = &mut quic, if quic_failed.is_none() => match connected {
                    Ok(connection) => {
                        self.remember(node, address, Way::Quic);
                        return Ok(Connection::Quic(connection));
                    }
                    Err(error) => quic_failed.insert(error),
                },
                connected = &mut tcp, if tcp_failed.is_none() => match connected {
                    Ok(connection) => {
                        self.remember(node, address, Way::Tcp);
                        return Ok(Connection::Tcp(connection));
                    }
                    Err(error) => tcp_failed.insert(error),
                },
            };
            let is_final = is_final(error);
            match (quic_failed.take(), tcp_failed.take()) {
                // Another key is no reason to go on, whichever way it was found.
                (_, Some(error @ TransportError::Identity { .. })) => return Err(error),
                // What QUIC says stands for both.
                (Some(error), of_tcp) if is_final || of_tcp.is_some() => return Err(error),
                (of_quic, of_tcp) => (quic_failed, tcp_failed) = (of_quic, of_tcp),
            }
        }
    }

    /// How long TCP waits for QUIC: not at all where it waited in vain lately.
    fn head_start(&self, node: NodeId, towards: SocketAddr) -> Duration {
        let Some(own) = own_address(towards) else { return HEAD_START };
        let networks = self.without_udp.lock().unwrap_or_else(PoisonError::into_inner);
        match networks.get(&(node, own)) {
            Some(at) if at.elapsed() < BELIEVED => Duration::ZERO,
            _ => HEAD_START,
        }
    }

    fn remember(&self, node: NodeId, towards: SocketAddr, won: Way) {
        let Some(own) = own_address(towards) else { return };
        let mut networks = self.without_udp.lock().unwrap_or_else(PoisonError::into_inner);
        match won {
            Way::Quic => drop(networks.remove(&(node, own))),
            Way::Tcp => {
                networks.retain(|_, at| at.elapsed() < BELIEVED);
                if networks.len() < MAX_NETWORKS {
                    networks.insert((node, own), Instant::now());
                }
            }
        }
    }
}

/// Whether the other way is no answer to it: another node is there, another protocol, or no place.
const fn is_final(error: &TransportError) -> bool {
    matches!(
        error,
        TransportError::Identity { .. } | TransportError::Protocol { .. } | TransportError::Busy
    )
}

/// The address from which this machine reaches another one; nothing is sent to learn it.
fn own_address(towards: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match towards {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(towards).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

/// Runs attempts side by side until one succeeds; with its number. Else the failure of each, or
/// nothing for those that were not done in time.
async fn first_ok<T, F>(
    attempts: impl Iterator<Item = F>,
    within: Duration,
) -> Result<(usize, T), Vec<Option<TransportError>>>
where
    F: Future<Output = Result<T, TransportError>>,
{
    let mut running: Vec<Option<Pin<Box<F>>>> =
        attempts.map(|attempt| Some(Box::pin(attempt))).collect();
    let mut failures: Vec<_> = running.iter().map(|_| None).collect();
    let all = poll_fn(|context| {
        for (at, (slot, failure)) in running.iter_mut().zip(&mut failures).enumerate() {
            let Some(attempt) = slot else { continue };
            match attempt.as_mut().poll(context) {
                Poll::Pending => {}
                Poll::Ready(Ok(value)) => return Poll::Ready(Some((at, value))),
                Poll::Ready(Err(error)) => (*slot, *failure) = (None, Some(error)),
            }
        }
        if running.iter().all(Option::is_none) { Poll::Ready(None) } else { Poll::Pending }
    });
    match tokio::time::timeout(within, all).await {
        Ok(Some(found)) => Ok(found),
        Ok(None) | Err(_) => Err(failures),
    }
}

/// The socket addresses of `HOST`, `HOST:PORT`, `[IPV6]:PORT` or an address alone.
async fn resolve(address: &str) -> Result<Vec<SocketAddr>, TransportError> {
    if let Ok(address) = address.parse::<SocketAddr>() {
        return Ok(vec![address]);
    }
    if let Ok(address) = address.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, PORT)]);
    }
    let refused = || TransportError::Address { address: address.to_owned() };
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().map_err(|_| refused())?),
        None => (address, PORT),
    };
    if host.is_empty() || host.contains([':', '[', ']', '/']) {
        return Err(refused());
    }
    let failed = |source| TransportError::Resolve { address: address.to_owned(), source };
    let found: Vec<_> =
        tokio::net::lookup_host((host, port)).await.map_err(failed)?.take(MAX_RESOLVED).collect();
    if found.is_empty() {
        return Err(failed(std::io::Error::other("the name has no address")));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn addresses_have_the_default_port_unless_they_name_one() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:4319"),
            ("127.0.0.1:9", "127.0.0.1:9"),
            ("::1", "[::1]:4319"),
            ("[::1]", "[::1]:4319"),
            ("[::1]:9", "[::1]:9"),
        ] {
            assert_eq!(resolve(text).await.unwrap(), [expected.parse().unwrap()], "{text}");
        }
        let local = resolve("localhost:9").await.unwrap();
        assert!(local.iter().all(|address| address.ip().is_loopback() && address.port() == 9));
        for text in ["", ":9", "host:port", "http://host", "host:1:2", "host:99999"] {
            let refused = resolve(text).await;
            assert!(matches!(refused, Err(TransportError::Address { .. })), "{text}");
        }
    }

    #[tokio::test]
    async fn the_first_success_wins_and_failures_are_kept_in_order() {
        let attempt = |at: u64| async move {
            tokio::time::sleep(Duration::from_millis(at)).await;
            if at == 20 { Ok(at) } else { Err(TransportError::Busy) }
        };
        let won = first_ok([10, 20, 5000].map(attempt).into_iter(), Duration::from_mins(1)).await;
        assert!(matches!(won, Ok((1, 20))));
        let lost =
            first_ok([10, 60_000].map(attempt).into_iter(), Duration::from_millis(100)).await;
        assert!(matches!(lost.unwrap_err()[..], [Some(TransportError::Busy), None]));
    }
}

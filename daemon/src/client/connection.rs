//! From a node's addresses to a connection with the node that was meant.
//!
//! Every address is tried, the likeliest first and the next a moment later; the first to prove the
//! node's key wins. An address where another key answers is an error of its own, named above all
//! others: it is no reason to go on in silence.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use baton_protocol::id::NodeId;

use crate::config::PORT;
use crate::identity::Identity;
use crate::transport::{Attempt, TransportError, quic};

/// How much later the next address is tried: enough for the first one in the same building.
const STAGGER: Duration = Duration::from_millis(100);

/// Addresses of one name that are tried.
const MAX_RESOLVED: usize = 8;

/// Makes connections in the name of a home; clones share one socket.
#[derive(Clone, Debug)]
pub struct Dialer {
    endpoint: quinn::Endpoint,
    identity: Identity,
}

/// A new connection.
#[derive(Debug)]
pub struct Dialled {
    /// To the node that was meant: its key is proven.
    pub connection: quinn::Connection,
    /// The address that worked, as it was given.
    pub address: String,
}

impl Dialer {
    /// Opens the socket. Must be called within a runtime.
    pub fn new(identity: Identity) -> Result<Self, TransportError> {
        Ok(Self { endpoint: quic::dialling_endpoint()?, identity })
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
        let attempts = addresses.iter().enumerate().map(|(at, address)| async move {
            tokio::time::sleep(STAGGER * u32::try_from(at).unwrap_or(u32::MAX)).await;
            self.dial_one(node, address, within).await
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
        node: NodeId,
        address: &str,
        within: Duration,
    ) -> Result<quinn::Connection, TransportError> {
        let resolved = resolve(address).await?;
        let attempts = resolved.iter().enumerate().map(|(at, &address)| async move {
            tokio::time::sleep(STAGGER * u32::try_from(at).unwrap_or(u32::MAX)).await;
            quic::connect(&self.endpoint, &self.identity, node, address, within).await
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

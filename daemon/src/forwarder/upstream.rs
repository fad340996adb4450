//! A git host, as the node reaches it: by TLS, at the address that its name has, and nowhere else.
//!
//! **Invariant:** what opens a host is said to whoever proves to be it, and to nobody else: no redirect is followed, and no
//! proxy of the environment is used.
//!
//! **Invariant:** what is begun for a request ends with it. Only the lookup of a name cannot be ended: few of a run are at
//! work, and few of a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use baton_store::fs::{self, FsError};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use super::body::{Passed, Tied};
use crate::task::Tasks;

/// Until a host is connected to, its name looked up and its key proven.
const CONNECT: Duration = Duration::from_secs(30);

/// From a request until the answer begins, the sending of a pack and what the host checks before it answers included.
const ANSWER: Duration = Duration::from_hours(1);

/// Names that are looked up at once, for a run and for all of a node. A resolver that does not answer holds a thread of those
/// that all of the node shares (512) for its own time, whoever waits for it.
const MAX_LOOKUPS: usize = 4;
const MAX_LOOKUPS_OF_NODE: usize = 64;

/// Longest file of certificates that is read.
const MAX_FILE: u64 = 4 << 20;

/// Most bytes of what stands before an answer.
const MAX_HEAD: usize = 64 * 1024;

/// A host cannot be spoken to.
#[derive(Debug, thiserror::Error)]
pub(super) enum UpstreamError {
    /// A file of certificates cannot be read.
    #[error("reading the certificates of authorities")]
    Authorities(#[source] FsError),
    /// One has none in it.
    #[error("{} has no certificate in PEM", path.display())]
    NoCertificate {
        /// Which.
        path: PathBuf,
    },
    /// There is nobody to believe.
    #[error(
        "this machine has no certificates of authorities, and serve.git_authorities names none"
    )]
    NoAuthorities,
    /// TLS cannot be spoken at all.
    #[error("TLS cannot be set up")]
    Setup(#[source] rustls::Error),
    /// It has no address, or does not answer at it.
    #[error("connecting")]
    Connect(#[source] std::io::Error),
    /// It does not prove that it is the host.
    #[error("proving that it is the host")]
    Tls(#[source] std::io::Error),
    /// It did not answer in time.
    #[error("it did not answer in time")]
    Late,
    /// It broke off, or speaks something else.
    #[error("speaking HTTP")]
    Http(#[source] hyper::Error),
}

/// Whom a node believes that they are a host.
#[derive(Debug)]
pub struct Trust {
    /// Files of certificates beside those of the system.
    files: Vec<PathBuf>,
    config: OnceLock<Arc<ClientConfig>>,
    /// Of all runs.
    lookups: Arc<Semaphore>,
}

/// What blocks at once for one run.
#[derive(Clone, Debug)]
pub(super) struct Lookups(Arc<Semaphore>);

impl Default for Lookups {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LOOKUPS)))
    }
}

impl Lookups {
    async fn place(&self) -> Result<OwnedSemaphorePermit, UpstreamError> {
        Arc::clone(&self.0).acquire_owned().await.map_err(|_| UpstreamError::Late)
    }
}

impl Default for Trust {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Trust {
    /// The authorities of the system, and those in some files of PEM.
    pub fn new(files: Vec<PathBuf>) -> Self {
        let lookups = Arc::new(Semaphore::new(MAX_LOOKUPS_OF_NODE));
        Self { files, config: OnceLock::new(), lookups }
    }

    /// Read once they are needed. What cannot be read is tried again.
    fn config(&self) -> Result<Arc<ClientConfig>, UpstreamError> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::warn!(%error, "some authorities of this machine cannot be read");
        }
        roots.add_parsable_certificates(found.certs);
        for path in &self.files {
            let none = || UpstreamError::NoCertificate { path: path.clone() };
            let text = fs::read_if_exists(path, MAX_FILE).map_err(UpstreamError::Authorities)?;
            let text = text.ok_or_else(none)?;
            let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
            let (added, _) = roots.add_parsable_certificates(all.map_err(|_| none())?);
            if added == 0 {
                return Err(none());
            }
        }
        if roots.is_empty() {
            return Err(UpstreamError::NoAuthorities);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(UpstreamError::Setup)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

/// Sends one request to a host and returns how its answer begins. The connection ends with the answer, and with whoever waits
/// for it.
pub(super) async fn ask(
    trust: &Arc<Trust>,
    lookups: &Lookups,
    tasks: &Tasks,
    host: &str,
    request: Request<Passed>,
) -> Result<Response<Passed>, UpstreamError> {
    let connected = tokio::time::timeout(CONNECT, connect(trust, lookups, tasks, host)).await;
    let (mut sender, tied) = connected.map_err(|_| UpstreamError::Late)??;
    let answer = tokio::time::timeout(ANSWER, sender.send_request(request)).await;
    let answer = answer.map_err(|_| UpstreamError::Late)?.map_err(UpstreamError::Http)?;
    Ok(answer.map(|body| Passed::whole(body, u64::MAX).with(tied)))
}

async fn config(
    trust: &Arc<Trust>,
    lookups: &Lookups,
    tasks: &Tasks,
) -> Result<Arc<ClientConfig>, UpstreamError> {
    if let Some(config) = trust.config.get() {
        return Ok(Arc::clone(config));
    }
    let (place, reading) = (lookups.place().await?, Arc::clone(trust));
    let config = tasks.spawn_blocking("git-authorities", move || {
        let _place = place;
        reading.config()
    });
    config.await.map_err(|_| UpstreamError::NoAuthorities)?
}

/// The addresses of a name. Who asks may go; the places are taken until the system has ended to look.
async fn look_up(
    name: &str,
    port: u16,
    trust: &Trust,
    lookups: &Lookups,
    tasks: &Tasks,
) -> Result<Vec<SocketAddr>, UpstreamError> {
    let own = lookups.place().await?;
    let all = Arc::clone(&trust.lookups).acquire_owned().await.map_err(|_| UpstreamError::Late)?;
    let (asked, ending) = ((name.to_owned(), port), tasks.clone());
    let looked_up = tasks.spawn("git-lookup", async move {
        let _places = (own, all);
        tokio::select! {
            () = ending.cancelled() => None,
            found = lookup_host(asked) => Some(found.map(Vec::from_iter)),
        }
    });
    let found = looked_up.await.ok().flatten().ok_or(UpstreamError::Late)?;
    found.map_err(UpstreamError::Connect)
}

async fn connect(
    trust: &Arc<Trust>,
    lookups: &Lookups,
    tasks: &Tasks,
    host: &str,
) -> Result<(SendRequest<Passed>, Tied), UpstreamError> {
    let config = config(trust, lookups, tasks).await?;
    let (name, port) = match host.split_once(':') {
        Some((name, port)) => (name, port.parse().unwrap_or(443)),
        None => (host, 443),
    };
    let addresses = look_up(name, port, trust, lookups, tasks).await?;
    let stream = TcpStream::connect(&*addresses).await.map_err(UpstreamError::Connect)?;
    // A pack is sent in pieces that need not wait for each other.
    stream.set_nodelay(true).map_err(UpstreamError::Connect)?;
    let server = ServerName::try_from(name.to_owned())
        .map_err(|error| UpstreamError::Tls(std::io::Error::other(error)))?;
    let stream = TlsConnector::from(config).connect(server, stream).await;
    let stream = TokioIo::new(stream.map_err(UpstreamError::Tls)?);
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(MAX_HEAD)
        .handshake(stream)
        .await
        .map_err(UpstreamError::Http)?;
    let connection = tasks.spawn("git-host", async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a git host broke off");
        }
    });
    Ok((sender, Tied(connection)))
}

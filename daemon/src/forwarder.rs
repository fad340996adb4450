//! The way of a run to git hosts: the node speaks to them for it, from outside of its room.
//!
//! A run's git is told to ask this instead of a host ([`settings`]). It listens on loopback, for one run and as long as that
//! has a program at work, and passes on what git asks to fetch and to push ([`target`]), with what is kept for the host
//! added. So the run has the use of a credential, and not the credential: it cannot take it elsewhere, and what it pushes is
//! looked at before it goes ([`commands`]).
//!
//! - [`places`]: who is listened to
//! - [`pkt`]: lines as git sends them
//! - [`commands`]: what a push asks for
//! - [`target`]: what a request is about
//! - [`body`]: what is sent on
//! - [`upstream`]: the host
//! - [`answer`]: what the run is told
//! - [`settings`]: what its git is told
//!
//! Not here: who has which credential ([`secrets`](crate::secrets)).
//!
//! **Invariant:** what is kept for a host goes to that host only, and to nobody in the room: it is in no answer, no error and
//! no log.
//!
//! **Invariant:** whatever a run sends costs this run: a place of its own few, and a bounded piece of memory for each. What a
//! request has begun ends with it. Others on the machine, who have no key, can make a run's git slower and no more.

mod places;
mod pkt;
mod commands;
mod target;
mod body;
mod upstream;
mod answer;
pub mod settings;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::RunId;
use baton_protocol::message::secrets::PushScope;
use data_encoding::HEXLOWER;
use hyper::body::Incoming;
use hyper::header::{
    ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HOST, HeaderMap, HeaderName,
    HeaderValue, USER_AGENT,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use ring::digest::{SHA256, digest};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

use crate::secrets::git::GitHost;
use crate::task::Tasks;
use answer::{chain, meaning, plain, refused, typed};
use body::Passed;
use commands::{Commands, CommandsError, Reading};
use places::{Guest, Places};
use target::{Service, Step, Target};
use upstream::{Lookups, UpstreamError, ask};

pub use upstream::Trust;

/// How long a request may take to say what it is about. Git says it at once.
const HEAD: Duration = Duration::from_secs(5);

/// Most fields before a body, and most bytes of them.
const MAX_FIELDS: usize = 64;
const MAX_HEAD: usize = 64 * 1024;

/// Most bytes of a push. Hosts take 2 GiB and less.
const MAX_PUSH: u64 = 4 << 30;

/// Most bytes in which git says what it wants and has.
const MAX_WANTS: u64 = 256 << 20;

/// After a connection could not be taken.
const PAUSE: Duration = Duration::from_millis(100);

/// Says which versions of its protocol a git speaks.
const GIT_PROTOCOL: HeaderName = HeaderName::from_static("git-protocol");

const NOT_GIT: &str = "this is not what git sends to fetch or to push";

/// Hosts look at what it begins with.
const AGENT: &str = concat!("git/2 (baton/", env!("CARGO_PKG_VERSION"), ")");

/// The branch that is a run's own: `pull` calls what the run left the same.
pub fn branch(run: RunId) -> String {
    format!("handoff/{}", run.short())
}

/// Speaks to git hosts for one run, until it is dropped.
#[derive(Debug)]
pub struct Forwarder {
    address: SocketAddr,
    key: String,
    hosts: Vec<GitHost>,
    _ended: watch::Sender<()>,
}

/// What the connections of a run share.
struct Shared {
    run: RunId,
    /// Of the key, so that what it is compared with tells nothing of it.
    key: [u8; 32],
    hosts: Vec<GitHost>,
    trust: Arc<Trust>,
    lookups: Lookups,
    tasks: Tasks,
}

impl Forwarder {
    /// Listens for a run that may have the use of these.
    pub async fn start(
        run: RunId,
        hosts: Vec<GitHost>,
        trust: Arc<Trust>,
        tasks: &Tasks,
    ) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(std::io::Error::other)?;
        let key = HEXLOWER.encode(&key);
        let (ending, ended) = watch::channel(());
        let shared = Shared {
            run,
            key: hashed(key.as_bytes()),
            hosts: hosts.clone(),
            trust,
            lookups: Lookups::default(),
            tasks: tasks.clone(),
        };
        tasks.spawn("git-forwarder", accept(listener, Arc::new(shared), ended)).detach();
        Ok(Self { address, key, hosts, _ended: ending })
    }

    /// What the git of the run is told, so that it comes here.
    pub fn settings(&self) -> Vec<(String, String)> {
        let hosts = self.hosts.iter().map(GitHost::host);
        settings::of(&format!("http://{}", self.address), &self.key, hosts)
    }

    /// The hosts, as [`settings::HOSTS`] has them.
    pub fn hosts(&self) -> String {
        self.hosts.iter().map(GitHost::host).collect::<Vec<_>>().join(" ")
    }
}

fn hashed(bytes: &[u8]) -> [u8; 32] {
    digest(&SHA256, bytes).as_ref().try_into().unwrap_or_default()
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut ended: watch::Receiver<()>) {
    let places = Places::new();
    loop {
        let next = tokio::select! {
            _ = ended.changed() => return,
            next = listener.accept() => next,
        };
        let Ok((stream, _)) = next else {
            // Out of descriptors: it gets better, or the run ends.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let (guest, sent_away) = places.enter();
        let served = serve(stream, Arc::clone(&shared), ended.clone(), guest, sent_away);
        shared.tasks.spawn("git-request", served).detach();
    }
}

async fn serve(
    stream: TcpStream,
    shared: Arc<Shared>,
    mut ended: watch::Receiver<()>,
    guest: Guest,
    mut sent_away: oneshot::Receiver<()>,
) {
    let guest = Arc::new(guest);
    let service = service_fn(move |request| {
        let (shared, guest) = (Arc::clone(&shared), Arc::clone(&guest));
        async move { Ok::<_, Infallible>(shared.answer(request, &guest).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_headers(MAX_FIELDS)
        .max_buf_size(MAX_HEAD)
        // One request, one place.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = ended.changed() => {}
        Ok(()) = &mut sent_away => {}
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "a run's request to a git host was cut off");
            }
        }
    }
}

impl Shared {
    async fn answer(&self, request: Request<Incoming>, guest: &Guest) -> Response<Passed> {
        let (asked, body) = request.into_parts();
        if !self.has_key(&asked.headers) {
            let text = "this is one run's way to git hosts, and the key of that run is missing";
            return plain(StatusCode::FORBIDDEN, text);
        }
        if guest.seat().await.is_err() {
            let text = "this run asks git hosts for too much at once";
            return plain(StatusCode::SERVICE_UNAVAILABLE, text);
        }
        // Nobody's proxy.
        let path = if asked.uri.authority().is_some() { "" } else { asked.uri.path() };
        let target = match Target::read(asked.method.as_str(), path, asked.uri.query()) {
            Ok(target) => target,
            Err(error) => return plain(StatusCode::FORBIDDEN, &error.to_string()),
        };
        let Some(host) = self.hosts.iter().find(|host| host.host() == target.host) else {
            let (host, run) = (&target.host, self.run.short());
            let text = format!(
                "this run has no credential for {host}; at home: baton secret set git:{host}, or baton pull {run} and \
                 push from there"
            );
            return refused(&target, &text);
        };
        if target.step == Step::Work && !has_types(&target, &asked.headers) {
            return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, NOT_GIT);
        }
        let body = match (target.step, target.service) {
            (Step::Refs, _) => Passed::bytes(Vec::new()),
            (Step::Work, Service::UploadPack) => {
                let is_packed = asked.headers.contains_key(CONTENT_ENCODING);
                match begun(Passed::whole(body, MAX_WANTS), is_packed).await {
                    Some(body) => body,
                    None => return plain(StatusCode::BAD_REQUEST, NOT_GIT),
                }
            }
            (Step::Work, Service::ReceivePack) => {
                let body = Passed::whole(body, MAX_PUSH);
                if host.push() == PushScope::Any {
                    body
                } else {
                    match self.judged(&target, body).await {
                        Ok(body) => body,
                        Err(answer) => return *answer,
                    }
                }
            }
        };
        match forwarded(&target, host, &asked.headers, body) {
            Some(request) => self.pass_on(&target, request).await,
            None => plain(StatusCode::BAD_REQUEST, "this cannot be passed on"),
        }
    }

    fn has_key(&self, headers: &HeaderMap) -> bool {
        // Settings of a repository may add one of their own, which goes nowhere.
        let mut shown = headers.get_all(AUTHORIZATION).iter().map(HeaderValue::as_bytes);
        shown.any(|shown| {
            shown.strip_prefix(b"Bearer ").is_some_and(|shown| hashed(shown) == self.key)
        })
    }

    /// A push as it goes to the host, or what the run is told instead.
    async fn judged(
        &self,
        target: &Target,
        mut body: Passed,
    ) -> Result<Passed, Box<Response<Passed>>> {
        let mut reading = Reading::default();
        loop {
            let Some(Ok(piece)) = body.next().await else {
                let text = "the push ended before it said what it is about";
                return Err(Box::new(refused(target, text)));
            };
            match reading.push(&piece) {
                Ok(true) => break,
                Ok(false) => {}
                Err(error) => {
                    // What no git sends is not read any further.
                    if matches!(error, CommandsError::Signed | CommandsError::TooMany) {
                        body.discard().await;
                    }
                    return Err(Box::new(refused(target, &error.to_string())));
                }
            }
        }
        let (commands, rest) = reading.end();
        let first = commands.written();
        if commands.is_empty() {
            return Ok(Passed::bytes(first));
        }
        let branch = format!("refs/heads/{}", branch(self.run));
        let judged = match commands.check() {
            Ok(()) if commands.is_only(branch.as_bytes()) => Ok(()),
            Ok(()) => Err(None),
            Err(error) => Err(Some(error)),
        };
        let Err(error) = judged else {
            tracing::info!(run = %self.run, host = target.host, "a push of a run is passed on");
            return Ok(body.behind([first, rest].concat()));
        };
        tracing::info!(run = %self.run, host = target.host, "a push of a run is refused");
        body.discard().await;
        let answer = self.refusal(target, &commands, branch.as_bytes(), error.as_ref());
        Err(Box::new(typed(StatusCode::OK, &target.answer_type(), Passed::bytes(answer))))
    }

    fn refusal(
        &self,
        target: &Target,
        commands: &Commands,
        branch: &[u8],
        error: Option<&CommandsError>,
    ) -> Vec<u8> {
        let (own, run, host) = (branch, self.run.short(), &target.host);
        let own = String::from_utf8_lossy(own);
        let (allowed, reason) = match error {
            Some(error) => (None, error.to_string()),
            None => (Some(branch), "not the branch of this run".to_owned()),
        };
        let said = format!(
            "baton: this run pushes to its own branch:  git push REMOTE HEAD:{own}\n\
             baton: to let runs push to every branch, at home:  baton secret set git:{host} --push any\n\
             baton: or take the work home, and push from there:  baton pull {run}\n"
        );
        commands.refused(allowed, &reason, &said)
    }

    async fn pass_on(&self, target: &Target, request: Request<Passed>) -> Response<Passed> {
        let (back, unsent) = oneshot::channel();
        let request = request.map(|body| body.handed_back(back));
        match self.asked(target, request).await {
            Ok(answer) => answer,
            Err(text) => {
                // Who sends first and reads then is not cut off before it reads why.
                if let Ok(unsent) = unsent.await {
                    Passed::whole(unsent, MAX_PUSH).discard().await;
                }
                refused(target, &text)
            }
        }
    }

    /// What a host answers, or why there is nothing to pass on.
    async fn asked(
        &self,
        target: &Target,
        request: Request<Passed>,
    ) -> Result<Response<Passed>, String> {
        let host = &target.host;
        let answer = ask(&self.trust, &self.lookups, &self.tasks, host, request).await;
        let answer = answer.map_err(|error| {
            let why = chain(&error);
            tracing::warn!(run = %self.run, host, error = why, "a git host was not reached");
            match error {
                // Paths of the node stay in its log.
                UpstreamError::Authorities(_) | UpstreamError::NoCertificate { .. } => {
                    "the node cannot read its certificates of authorities; its log has more"
                        .to_owned()
                }
                UpstreamError::Tls(_) => format!(
                    "{host} does not prove to the node that it is {host}: {why}. Where an authority of your own \
                     vouches for it, its certificate belongs into serve.git_authorities of the node"
                ),
                _ => format!("the node cannot speak to {host}: {why}"),
            }
        })?;
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            return Err(meaning(target, head.status, &head.headers));
        }
        let kind = target.answer_type();
        if type_of(&head.headers) != Some(kind.as_bytes()) {
            return Err(format!("{host} did not answer as a git host does"));
        }
        Ok(typed(StatusCode::OK, &kind, body))
    }
}

/// The same body, where it begins as git's do. What is packed begins as gzip.
async fn begun(mut body: Passed, is_packed: bool) -> Option<Passed> {
    let mut first = Vec::new();
    // A delimiter or a whole line; two bytes tell gzip.
    while first.len() < 4 {
        first.extend_from_slice(&body.next().await?.ok()?);
    }
    let fits =
        if is_packed { first.starts_with(&[0x1f, 0x8b]) } else { pkt::first(&first).is_ok() };
    fits.then(|| body.behind(first))
}

/// A request as a host gets it: written anew, with nothing of the run's but what is known here.
fn forwarded(
    target: &Target,
    host: &GitHost,
    asked: &HeaderMap,
    body: Passed,
) -> Option<Request<Passed>> {
    let mut authorization = HeaderValue::from_str(host.authorization()).ok()?;
    authorization.set_sensitive(true);
    let mut request = Request::builder()
        .uri(target.at_host())
        .header(HOST, host.host())
        .header(USER_AGENT, AGENT)
        .header(AUTHORIZATION, authorization);
    request = match target.step {
        Step::Refs => request.method("GET").header(ACCEPT, "*/*"),
        Step::Work => request
            .method("POST")
            .header(CONTENT_TYPE, target.asked_type())
            .header(ACCEPT, target.answer_type()),
    };
    if target.step == Step::Work && asked.contains_key(CONTENT_ENCODING) {
        request = request.header(CONTENT_ENCODING, "gzip");
    }
    let version = asked.get(&GIT_PROTOCOL).map(HeaderValue::as_bytes);
    for known in ["version=1", "version=2"] {
        if version == Some(known.as_bytes()) {
            request = request.header(GIT_PROTOCOL, known);
        }
    }
    request.body(body).ok()
}

/// Whether a body is what git sends, and in a form that can be judged.
fn has_types(target: &Target, headers: &HeaderMap) -> bool {
    let encoding = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    let is_readable = match target.service {
        Service::UploadPack => matches!(encoding, None | Some(b"gzip")),
        Service::ReceivePack => encoding.is_none(),
    };
    let single = headers.get_all(CONTENT_ENCODING).iter().count() <= 1;
    is_readable && single && type_of(headers) == Some(target.asked_type().as_bytes())
}

fn type_of(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes)
}

#[cfg(test)]
mod tests;

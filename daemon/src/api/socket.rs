//! The control socket: how calls get into a daemon and events out of it.
//!
//! Not here: what a command does. That is behind [`Commands`]; this file knows who may call, how long
//! a call may be, which version speaks, and what happens when the caller goes away.
//!
//! **Invariant:** only the user who runs the daemon is answered: the socket is 0600 and the kernel
//! says who connects.
//!
//! **Invariant:** a caller that goes away, or reads slowly, never cancels work. What it asked for
//! runs to its end; only whoever follows a live run looks at [`EventSender::gone`].
//!
//! **Invariant:** each call that was understood ends with exactly one `done` or `failed`, also where
//! the command panicked.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use baton_store::fs::{self, FsError};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tracing::{debug, warn};

use crate::api::control::{Answer, Command, Event, Failure, Progress};

mod client;

pub use client::{CallError, ConnectError, ControlClient, Events};

/// The version that calls and daemons compare.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Code of the failure that a caller of another version gets.
pub const OTHER_VERSION: &str = "daemon-version";

/// Longest call in bytes with its line end.
pub const MAX_CALL: usize = 1024 * 1024;

/// How long a caller may take to say what it wants.
const CALL_PATIENCE: Duration = Duration::from_secs(10);

/// How long running commands may take to end once the daemon was asked to stop.
const STOP_PATIENCE: Duration = Duration::from_secs(10);

/// Most calls at a time; followers of live runs are among them.
const MAX_CALLERS: usize = 256;

/// Events that wait for a slow reader before the sender waits too.
const EVENTS: usize = 256;

/// Events that are written at a time.
const BATCH: usize = 64;

/// Added to the socket's name until its mode is right.
const NEW: &str = ".new";

/// A future that can be sent to another thread.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What answers calls.
pub trait Commands: Send + Sync + 'static {
    /// Does what was asked, and sends `done` or `failed` last. Runs to its end also when the caller
    /// goes away; may be called any number of times at once.
    fn run(self: Arc<Self>, command: Command, events: EventSender) -> BoxFuture<'static, ()>;
}

/// The way of events to one caller.
#[derive(Clone, Debug)]
pub struct EventSender(mpsc::Sender<Event>);

impl EventSender {
    /// A sender whose events end where the test of a command can read them.
    pub fn channel() -> (Self, mpsc::Receiver<Event>) {
        let (to, from) = mpsc::channel(EVENTS);
        (Self(to), from)
    }

    /// Sends; waits while a slow reader has [`EVENTS`] before it, and does nothing once it is gone.
    pub async fn send(&self, event: Event) {
        if self.0.send(event).await.is_err() {
            debug!("the caller is gone");
        }
    }

    /// The same from a thread that may block.
    pub fn blocking_send(&self, event: Event) {
        if self.0.blocking_send(event).is_err() {
            debug!("the caller is gone");
        }
    }

    /// Says how far it is; left out where the reader is slow. Never waits, so any thread may call it.
    pub fn progress(&self, progress: Progress) {
        drop(self.0.try_send(Event::Progress(progress)));
    }

    /// Sends what the user should read on stderr.
    pub async fn note(&self, message: impl Into<String>) {
        self.send(Event::Note { message: message.into() }).await;
    }

    /// Sends the last event: it is done.
    pub async fn done(&self, answer: Answer) {
        self.send(Event::Done(Box::new(answer))).await;
    }

    /// Sends the last event: it failed.
    pub async fn failed(&self, failure: Failure) {
        self.send(Event::Failed(failure)).await;
    }

    /// Returns when nobody reads any more.
    pub async fn gone(&self) {
        self.0.closed().await;
    }

    /// Whether nobody reads any more.
    pub fn is_gone(&self) -> bool {
        self.0.is_closed()
    }
}

/// How many commands run.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<AtomicUsize>);

impl Activity {
    /// Commands that run now, among them the one that asks.
    pub fn running(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn enter(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }
}

/// Counts one command for as long as it lives.
struct Busy(Activity);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The control socket could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// A daemon answers there.
    #[error("a daemon answers at {} already", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something else has the name; it is left alone.
    #[error("{} is no socket", path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The system refused.
    #[error("listening at {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Its folder or name could not be made.
    #[error(transparent)]
    Fs(#[from] FsError),
}

/// A bound control socket.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    activity: Activity,
    version: &'static str,
}

impl ControlSocket {
    /// Binds, in a folder that is made for the owner only where it is missing. A socket that nobody
    /// answers is replaced. Needs a tokio runtime.
    ///
    /// The caller holds the lock of the home: two that bind at the same moment would both find the
    /// old socket dead.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        match std::fs::symlink_metadata(path) {
            Err(_) => {}
            Ok(found) if !found.file_type().is_socket() => {
                return Err(BindError::NotASocket { path: path.to_owned() });
            }
            Ok(_) if BlockingStream::connect(path).is_ok() => {
                return Err(BindError::InUse { path: path.to_owned() });
            }
            Ok(_) => debug!(path = %path.display(), "replacing a socket that nobody answers"),
        }
        // Under its final name it is never reachable with another mode than 0600.
        let mut new = path.as_os_str().to_owned();
        new.push(NEW);
        let new = PathBuf::from(new);
        fs::remove_file(&new)?;
        let listen = |source| BindError::Listen { path: path.to_owned(), source };
        let listener = UnixListener::bind(&new).map_err(listen)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).map_err(listen)?;
        fs::rename(&new, path)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            activity: Activity::default(),
            version: VERSION,
        })
    }

    /// Pretends to be another version.
    #[must_use]
    pub fn with_version(self, version: &'static str) -> Self {
        Self { version, ..self }
    }

    /// Counts the commands that run, for a stop that must not interrupt any.
    pub fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Answers calls until `stop`. Then the socket is taken away, running commands get
    /// [`STOP_PATIENCE`] to end, and what is left is dropped.
    pub async fn serve<C: Commands>(self, commands: Arc<C>, stop: impl Future<Output = ()>) {
        let places = Arc::new(Semaphore::new(MAX_CALLERS));
        let mut callers = JoinSet::new();
        tokio::pin!(stop);
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (self.listener.accept().await, place)
            };
            let (accepted, place) = tokio::select! {
                () = &mut stop => break,
                next = next => next,
                Some(_) = callers.join_next() => continue,
            };
            match accepted {
                Ok((stream, _)) => {
                    let (commands, activity) = (Arc::clone(&commands), self.activity.clone());
                    let version = self.version;
                    callers.spawn(async move {
                        answer(stream, commands, activity, version).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the next caller may be luckier.
                    warn!(%error, "accepting a caller failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        if let Err(error) = fs::remove_file(&self.path) {
            warn!(%error, "the control socket stays behind");
        }
        let drain = async { while callers.join_next().await.is_some() {} };
        if tokio::time::timeout(STOP_PATIENCE, drain).await.is_err() {
            warn!(left = callers.len(), "commands were cut off by the stop");
        }
    }
}

/// Answers one caller from its first byte to the last event.
async fn answer<C: Commands>(
    stream: UnixStream,
    commands: Arc<C>,
    activity: Activity,
    version: &str,
) {
    let ours = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if may_call(peer.uid(), ours) => {}
        Ok(peer) => return warn!(uid = peer.uid(), "a call of another user was refused"),
        Err(error) => return warn!(%error, "a call of nobody knows whom was refused"),
    }
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::new(from);
    let call = match tokio::time::timeout(CALL_PATIENCE, read_call(&mut from)).await {
        Err(_) | Ok(Ok(None)) => return debug!("a caller said nothing"),
        Ok(Ok(Some(line))) => understand(&line, version),
        Ok(Err(failure)) => Err(failure),
    };
    let command = match call {
        Ok(command) => command,
        Err(failure) => {
            return drop(write(&mut to, &[Event::Failed(failure)]).await);
        }
    };
    let (events, received) = EventSender::channel();
    // A set of its own contains a panic, and takes the work with it if the daemon gives up on it.
    let mut work = JoinSet::new();
    work.spawn(async move {
        let _busy = activity.enter();
        commands.run(command, events).await;
    });
    deliver(received, &mut from, to).await;
    while let Some(ended) = work.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a command died");
        }
    }
}

/// Root is no exception: its calls would make files in this home that its owner cannot remove.
const fn may_call(peer: u32, ours: u32) -> bool {
    peer == ours
}

/// The first line; nothing where the caller only looked whether somebody answers.
async fn read_call(from: &mut (impl AsyncBufReadExt + Unpin)) -> Result<Option<Vec<u8>>, Failure> {
    let mut line = Vec::new();
    let mut bounded = from.take(MAX_CALL as u64);
    match bounded.read_until(b'\n', &mut line).await {
        Ok(_) if line.is_empty() => Ok(None),
        Ok(_) if line.ends_with(b"\n") => Ok(Some(line)),
        Ok(_) if line.len() >= MAX_CALL => {
            Err(refused("call-too-long", format!("a call has at most {MAX_CALL} bytes")))
        }
        Ok(_) => Err(refused("bad-call", "the call was cut off".into())),
        Err(error) => Err(refused("bad-call", format!("reading the call failed: {error}"))),
    }
}

/// Reads a call. One of another version gets only what it needs to end this daemon.
fn understand(line: &[u8], version: &str) -> Result<Command, Failure> {
    #[derive(Deserialize)]
    struct Outline<'a> {
        version: String,
        #[serde(borrow)]
        command: &'a serde_json::value::RawValue,
    }
    let bad = |error: serde_json::Error| refused("bad-call", format!("not a call: {error}"));
    let call: Outline<'_> = serde_json::from_slice(line).map_err(bad)?;
    let command = serde_json::from_str::<Command>(call.command.get());
    match command {
        Ok(command @ (Command::Ping | Command::Stop { .. })) => Ok(command),
        _ if call.version != version => Err(refused(
            OTHER_VERSION,
            format!("the daemon is version {version}, the command line {}", call.version),
        )),
        command => command.map_err(bad),
    }
}

fn refused(code: &str, message: String) -> Failure {
    Failure { code: code.into(), message, hint: None, exit: 1 }
}

/// Writes events until the last one, or until the caller is gone; then nobody receives any more,
/// which the senders notice.
async fn deliver(
    mut events: mpsc::Receiver<Event>,
    from: &mut (impl AsyncRead + Unpin),
    mut to: OwnedWriteHalf,
) {
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            count = events.recv_many(&mut batch, BATCH) => {
                if count == 0 {
                    let message = "the daemon failed at this; its log has more".to_owned();
                    batch.push(Event::Failed(refused("internal", message)));
                }
            }
            () = hung_up(from) => return,
        }
        let last =
            batch.iter().position(|event| matches!(event, Event::Done(_) | Event::Failed(_)));
        if let Some(last) = last {
            batch.truncate(last + 1);
        }
        if write(&mut to, &batch).await.is_err() || last.is_some() {
            return;
        }
        batch.clear();
    }
}

/// Returns when the caller has closed; what it says after its call is not listened to.
async fn hung_up(from: &mut (impl AsyncRead + Unpin)) {
    let mut ignored = [0; 256];
    while matches!(from.read(&mut ignored).await, Ok(count) if count > 0) {}
}

async fn write(to: &mut OwnedWriteHalf, events: &[Event]) -> std::io::Result<()> {
    let mut lines = Vec::new();
    for event in events {
        serde_json::to_writer(&mut lines, event)?;
        lines.push(b'\n');
    }
    to.write_all(&lines).await
}

#[cfg(test)]
mod tests;

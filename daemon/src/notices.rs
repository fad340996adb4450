//! Tells a program or a URL of the user's choice how a run stands: `[notify]`.
//!
//! What is told has ids, a state and a time, and nothing of what a run is about: no names of files, no prompt, no output.
//! Each target has a queue and a task of its own, so that one that does not answer holds up neither runs nor the other.
//!
//! Not here: when there is something to tell ([`runs`](crate::runs)).
//!
//! **Invariant:** telling never waits, and what waits is bounded. What cannot be told is dropped, and the log says so:
//! the state of a run is in the catalog, where whoever was not told finds it.

mod post;
mod program;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use baton_protocol::id::{RunId, ThreadId, WorkspaceId};
use baton_protocol::message::RunState;
use serde::Serialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::clock::rfc3339;
use crate::config::notify::NotifyConfig;
use crate::task::Tasks;

/// How a run stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The run.
    pub run: RunId,
    /// Its thread.
    pub thread: ThreadId,
    /// What it worked on.
    pub workspace: WorkspaceId,
    /// Whose it is.
    pub user: String,
    /// How it stands.
    pub state: RunState,
    /// Since when, in milliseconds since 1970.
    pub time: u64,
}

/// A notice as it is told.
#[derive(Serialize)]
struct Told<'a> {
    run: String,
    thread: String,
    workspace: String,
    user: &'a str,
    state: &'a str,
    time: String,
}

impl Notice {
    /// One line of JSON.
    fn json(&self) -> Vec<u8> {
        let told = Told {
            run: self.run.to_string(),
            thread: self.thread.to_string(),
            workspace: self.workspace.to_string(),
            user: &self.user,
            state: self.state.name(),
            time: rfc3339(self.time),
        };
        // Strings only: that cannot fail.
        let mut line = serde_json::to_vec(&told).unwrap_or_default();
        line.push(b'\n');
        line
    }
}

/// How notices are told.
#[derive(Clone, Debug)]
pub struct NoticeOptions {
    /// The whole environment of a program.
    pub environment: Vec<(OsString, OsString)>,
    /// Where it works.
    pub folder: PathBuf,
    /// How long one attempt may take.
    pub limit: Duration,
    /// How long is waited before each further attempt.
    pub waits: Vec<Duration>,
    /// Notices that wait for one target; further ones are dropped.
    pub max_waiting: usize,
}

impl NoticeOptions {
    /// The usual limits: five attempts within some three minutes.
    pub fn new(environment: Vec<(OsString, OsString)>, folder: PathBuf) -> Self {
        Self {
            environment,
            folder,
            limit: Duration::from_secs(10),
            waits: [1, 5, 30, 120].map(Duration::from_secs).to_vec(),
            max_waiting: 256,
        }
    }
}

/// A notice could not be told.
#[derive(Debug, thiserror::Error)]
enum NoticeError {
    /// The program could not be started.
    #[error("it could not be started")]
    Start(#[source] std::io::Error),
    /// It was lost sight of.
    #[error("waiting for it failed")]
    Wait(#[source] std::io::Error),
    /// It failed.
    #[error("it ended with {0}")]
    Program(std::process::ExitStatus),
    /// It took too long.
    #[error("it did not end in time")]
    TooSlow,
    /// The request failed.
    #[error("the request failed")]
    Request(#[source] Box<ureq::Error>),
    /// The other side said no.
    #[error("the other side answered with status {0}")]
    Status(u16),
    /// A part of this process ended where it must not.
    #[error(transparent)]
    Task(#[from] crate::task::TaskFailed),
}

/// Who is told.
#[derive(Clone, Debug)]
enum Target {
    Program(Arc<program::Program>),
    Url(Arc<post::Post>),
}

impl Target {
    const fn name(&self) -> &'static str {
        match self {
            Self::Program(_) => "notify.command",
            Self::Url(_) => "notify.url",
        }
    }

    async fn tell(&self, json: Vec<u8>, tasks: &Tasks) -> Result<(), NoticeError> {
        match self {
            Self::Program(program) => program.run(&json).await,
            Self::Url(post) => {
                let post = Arc::clone(post);
                tasks.spawn_blocking("notify-post", move || post.send(&json)).await?
            }
        }
    }
}

/// The way to everybody who is told; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Notices(Arc<[(&'static str, Sender<Notice>)]>);

impl Notices {
    /// Begins to tell. Must be called within a runtime.
    pub fn start(config: &NotifyConfig, options: &NoticeOptions, tasks: &Tasks) -> Self {
        let program = program::Program::new(&config.command, options);
        let post = config.url.as_ref().map(|url| post::Post::new(url, options.limit));
        let targets = [
            program.map(|program| Target::Program(Arc::new(program))),
            post.map(|post| Target::Url(Arc::new(post))),
        ];
        let start = |target: Target| {
            let (to, waiting) = channel(options.max_waiting.max(1));
            let name = target.name();
            let worker = Worker { target, waits: options.waits.clone(), tasks: tasks.clone() };
            tasks.spawn("notify", worker.run(waiting)).detach();
            (name, to)
        };
        Self(targets.into_iter().flatten().map(start).collect())
    }

    /// Tells everybody, sooner or later; returns at once.
    pub fn tell(&self, notice: &Notice) {
        for (target, to) in self.0.iter() {
            if let Err(TrySendError::Full(notice) | TrySendError::Closed(notice)) =
                to.try_send(notice.clone())
            {
                tracing::warn!(run = %notice.run, target, "too much waits to be told; this is not");
            }
        }
    }
}

/// Tells one target, one notice after the other.
struct Worker {
    target: Target,
    waits: Vec<Duration>,
    tasks: Tasks,
}

impl Worker {
    async fn run(self, mut waiting: Receiver<Notice>) {
        loop {
            let notice = tokio::select! {
                biased;
                notice = waiting.recv() => notice,
                () = self.tasks.cancelled() => None,
            };
            match notice {
                Some(notice) => self.deliver(&notice).await,
                None => break,
            }
        }
    }

    /// Tries until it is told, a few times; once where the node is about to end.
    async fn deliver(&self, notice: &Notice) {
        let target = self.target.name();
        let mut waits = self.waits.iter();
        loop {
            let error = match self.target.tell(notice.json(), &self.tasks).await {
                Ok(()) => return tracing::debug!(run = %notice.run, target, "told"),
                Err(error) => error,
            };
            let next = waits.next().filter(|_| !self.tasks.is_cancelled());
            failed(notice, target, &error, next.is_some());
            let Some(&wait) = next else { return };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.tasks.cancelled() => {}
            }
        }
    }
}

fn failed(notice: &Notice, target: &str, error: &NoticeError, again: bool) {
    let (run, error) = (notice.run, error as &dyn std::error::Error);
    if again {
        tracing::info!(%run, target, error, "telling again later");
    } else {
        tracing::warn!(%run, target, error, "the state of a run is not told");
    }
}

#[cfg(test)]
mod tests;

//! The first snapshot of a workspace for a node: its file data is sent while the tree is still being read, so that
//! the disk, the processor and the wire take their time together.
//!
//! Not here: what is said on the wire ([`sync::ahead`](crate::sync::ahead)), and the push that follows, which
//! names the snapshot and sends whatever is not there yet. A later snapshot goes as the difference to the one before,
//! which is less than its new records: nothing of it is sent ahead.
//!
//! **Invariant:** nothing fails because this does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::WorkspaceId;
use baton_protocol::session::push::PushStats;
use baton_store::catalog::remotes::Remote;
use baton_store::objects::{AppendObserver, Location};
use baton_store::segment::RecordEntry;
use baton_store::vault::Intake;
use tokio::sync::watch;

use super::Daemon;
use super::remotes::Target;
use crate::api::control::Progress;
use crate::api::socket::EventSender;
use crate::clock::decimal_ms;
use crate::sync::ahead::{Fresh, send};
use crate::sync::{SyncError, Wire};
use crate::workspace::Beside;

/// Records that are waited for before the node is asked anything: what is less goes with the push, in fewer trips.
const LEAST: usize = 32;

/// Records that wait to be sent, at most; others are left to the push. Their names take some 5 MB.
const MOST: usize = 16 * 1024;

/// How long the end waits for a node of which nothing is heard.
const PATIENCE: u32 = 10;
const TICK: Duration = Duration::from_secs(1);

/// File data on its way to a node. Ends with it where it is dropped.
pub(super) struct Ahead(Option<Arc<Records>>);

/// The records of a snapshot that is being made.
struct Records {
    daemon: Arc<Daemon>,
    remote: Remote,
    runtime: tokio::runtime::Handle,
    /// Where the thread that sends finds them, once there is one.
    state: Mutex<State>,
    stop: Arc<AtomicBool>,
    /// Set by others, to whom this gives way.
    give_way: Option<Arc<AtomicBool>>,
    progress: watch::Sender<Sent>,
}

enum State {
    Gathering(Vec<Fresh>),
    Sending(SyncSender<Fresh>),
    /// All of them are known, or nobody wants them any more.
    Ended,
}

/// How far it is.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    stats: PushStats,
    /// Whether the node has answered.
    is_heard: bool,
    is_over: bool,
}

/// What has been sent ahead of a push.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct SentAhead {
    pub(super) stats: PushStats,
    /// How long was waited for it.
    pub(super) wait_ms: f64,
}

impl Daemon {
    /// Prepares to send a snapshot ahead; nothing is, where the node has an earlier one. To be called on the runtime.
    pub(super) fn ahead(
        self: &Arc<Self>,
        workspace: WorkspaceId,
        target: &Target,
        give_way: Option<Arc<AtomicBool>>,
    ) -> Ahead {
        let remote = &target.remote;
        let is_here = target.embedded || remote.node == self.identity.node();
        // Where that cannot be read, the push says so.
        let is_first = matches!(self.acks.get(workspace, remote.node), Ok(None));
        let records = || Records {
            daemon: Arc::clone(self),
            remote: remote.clone(),
            runtime: tokio::runtime::Handle::current(),
            state: Mutex::new(State::Gathering(Vec::new())),
            stop: Arc::default(),
            give_way,
            progress: watch::Sender::default(),
        };
        Ahead(
            (is_first && !is_here && !self.queue.is_busy(remote.node)).then(|| Arc::new(records())),
        )
    }
}

impl Ahead {
    /// Waits until the node has all that was to be sent, as long as something is heard of it, and returns what that
    /// has cost.
    pub(super) async fn end(mut self, events: &EventSender) -> SentAhead {
        let Some(records) = self.0.take() else { return SentAhead::default() };
        let clock = &records.daemon.clock;
        let started = clock.instant();
        let mut progress = records.progress.subscribe();
        records.close();
        let mut silence = 0;
        loop {
            let Sent { stats, is_heard, is_over } = *progress.borrow_and_update();
            let gives_way =
                records.give_way.as_ref().is_some_and(|flag| flag.load(Ordering::SeqCst));
            if is_over || !is_heard || gives_way || silence >= PATIENCE {
                records.stop.store(true, Ordering::SeqCst);
                return SentAhead { stats, wait_ms: decimal_ms(clock.since(started)) };
            }
            events.progress(Progress {
                stage: "send".to_owned(),
                done: stats.objects_sent,
                total: None,
                bytes: stats.bytes_sent,
            });
            // The sender lives as long as the records.
            match tokio::time::timeout(TICK, progress.changed()).await {
                Ok(_) => silence = 0,
                Err(_) => silence += 1,
            }
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        if let Some(records) = self.0.take() {
            records.stop.store(true, Ordering::SeqCst);
            records.close();
        }
    }
}

impl Beside for Ahead {
    fn start(&mut self, intake: &Intake) {
        if let Some(records) = &self.0 {
            intake.tell(Arc::new(Listener(Arc::clone(records))));
        }
    }
}

/// What an intake tells of its records.
struct Listener(Arc<Records>);

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Listener").finish_non_exhaustive()
    }
}

impl AppendObserver for Listener {
    fn appended(&self, at: Location, entries: &[RecordEntry]) {
        let fresh = Fresh { at, chunks: entries.iter().map(|entry| entry.id.prefix()).collect() };
        let mut state = self.0.state();
        match &mut *state {
            State::Gathering(gathered) => {
                gathered.push(fresh);
                if gathered.len() >= LEAST {
                    let gathered = std::mem::take(gathered);
                    *state = begin(&self.0, gathered);
                }
            }
            State::Sending(to) => {
                if let Err(TrySendError::Disconnected(_)) = to.try_send(fresh) {
                    *state = State::Ended;
                }
            }
            State::Ended => {}
        }
    }
}

/// Starts the thread that sends.
fn begin(records: &Arc<Records>, gathered: Vec<Fresh>) -> State {
    let (to, from) = sync_channel(MOST);
    let (records, tasks) = (Arc::clone(records), records.daemon.tasks.clone());
    let work = move || {
        let over = Over(records);
        if let Err(error) = over.0.send(&from) {
            tracing::debug!(%error, "the push sends what was to be sent ahead of it");
        }
    };
    if let Err(error) = tasks.spawn_thread("send-ahead", work) {
        tracing::warn!(%error, "nothing is sent ahead");
        return State::Ended;
    }
    // Fails where that thread has ended already: the next record finds that out.
    gathered.into_iter().try_for_each(|fresh| to.try_send(fresh)).ok();
    State::Sending(to)
}

/// Tells who waits that nothing more is sent, however it ended.
struct Over(Arc<Records>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.progress.send_modify(|sent| sent.is_over = true);
    }
}

impl Records {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There are no more.
    fn close(&self) {
        *self.state() = State::Ended;
    }

    fn send(&self, fresh: &Receiver<Fresh>) -> Result<(), SyncError> {
        let _runtime = self.runtime.enter();
        let stream = self.runtime.block_on(self.daemon.pool.open(&self.remote))?;
        let mut wire = Wire::new(stream).stopped_by(Arc::clone(&self.stop));
        if let Some(give_way) = &self.give_way {
            wire = wire.stopped_by(Arc::clone(give_way));
        }
        let vault = &self.daemon.workspaces.vault;
        let told = |stats| {
            self.progress.send_modify(|sent| (sent.stats, sent.is_heard) = (stats, true));
        };
        let outcome = send(&mut wire, vault, fresh, told);
        wire.into_stream().finish();
        outcome
    }
}

//! The one place where work is started beside the caller: named, counted, and waited for.
//!
//! Tasks are told to end, not torn down: [`Tasks::cancelled`] resolves, and each ends at a point of
//! its choice. Only what is left when the deadline of [`Tasks::shut_down`] passes is aborted.
//!
//! **Invariant:** no task outlives its `Tasks` unnoticed, and a panic in one is logged as an error.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};

/// The niceness of tasks that give way.
const LOW: i32 = 10;

/// A task ended without its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task {name} {}", if *panicked { "panicked" } else { "was cancelled" })]
pub struct TaskFailed {
    /// Which.
    pub name: &'static str,
    /// Whether it panicked; the panic is in the log.
    pub panicked: bool,
}

/// Starts tasks; clones share them.
#[derive(Clone, Debug)]
pub struct Tasks(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    running: Mutex<Running>,
    /// How many run, for who waits.
    count: watch::Sender<usize>,
    cancelled: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Running {
    next: u64,
    tasks: BTreeMap<u64, (&'static str, Option<AbortHandle>)>,
}

/// A started task; dropping it lets the task run on.
#[derive(Debug)]
#[must_use = "a task that nobody awaits should be detached in so many words"]
pub struct Task<T> {
    name: &'static str,
    handle: JoinHandle<T>,
}

impl Default for Tasks {
    fn default() -> Self {
        Self::new()
    }
}

impl Tasks {
    /// No tasks yet.
    pub fn new() -> Self {
        Self(Arc::new(Shared {
            running: Mutex::default(),
            count: watch::Sender::new(0),
            cancelled: watch::Sender::new(false),
        }))
    }

    /// Starts a task on the current runtime.
    #[expect(clippy::disallowed_methods, reason = "this is the seam for tasks")]
    pub fn spawn<F>(&self, name: &'static str, work: F) -> Task<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let entry = self.enter(name);
        let id = entry.id;
        let handle = tokio::spawn(async move {
            let _entry = entry;
            work.await
        });
        if let Some((_, abort)) = self.0.lock().tasks.get_mut(&id) {
            *abort = Some(handle.abort_handle());
        }
        Task { name, handle }
    }

    /// Runs what blocks (disk, database, hashing) where it holds up nothing else.
    ///
    /// It cannot be aborted: keep it short, or let it look at something that tells it to end.
    #[expect(clippy::disallowed_methods, reason = "this is the seam for tasks")]
    pub fn spawn_blocking<T, F>(&self, name: &'static str, work: F) -> Task<T>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let entry = self.enter(name);
        let handle = tokio::task::spawn_blocking(move || {
            let _entry = entry;
            work()
        });
        Task { name, handle }
    }

    /// Runs what blocks for long, or for as long as something lives, on a thread of its own. Needs no
    /// runtime.
    pub fn spawn_thread(
        &self,
        name: &'static str,
        work: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        let entry = self.enter(name);
        let counted = move || {
            let _entry = entry;
            work();
        };
        std::thread::Builder::new().name(name.to_owned()).spawn(counted).map(drop)
    }

    /// Runs what blocks on a thread that gives way to all others, where the system lets it. Nothing
    /// comes back where it panicked, or the system has no more threads.
    pub async fn run_low<T: Send + 'static>(
        &self,
        name: &'static str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, TaskFailed> {
        let (done, outcome) = tokio::sync::oneshot::channel();
        let low = move || {
            // On Linux that is the thread and those that it starts, and not the process.
            if cfg!(target_os = "linux")
                && let Err(error) = rustix::process::setpriority_process(None, LOW)
            {
                tracing::debug!(%error, "a task does not give way");
            }
            // Who waits may be gone.
            drop(done.send(work()));
        };
        if let Err(error) = self.spawn_thread(name, low) {
            tracing::warn!(%error, task = name, "a thread was not started");
        }
        outcome.await.map_err(|_| TaskFailed { name, panicked: true })
    }

    /// Tells every task to end.
    pub fn cancel(&self) {
        self.0.cancelled.send_replace(true);
    }

    /// Whether the tasks were told to end.
    pub fn is_cancelled(&self) -> bool {
        *self.0.cancelled.borrow()
    }

    /// Resolves when the tasks are told to end.
    pub async fn cancelled(&self) {
        let mut cancelled = self.0.cancelled.subscribe();
        // The sender lives as long as `self`, so that waiting cannot fail.
        drop(cancelled.wait_for(|cancelled| *cancelled).await);
    }

    /// How many tasks run.
    pub fn count(&self) -> usize {
        *self.0.count.borrow()
    }

    /// Tells every task to end and waits for all of them; aborts those that still run after
    /// `deadline` and returns their names.
    pub async fn shut_down(&self, deadline: Duration) -> Vec<&'static str> {
        self.cancel();
        let mut count = self.0.count.subscribe();
        let all = count.wait_for(|count| *count == 0);
        if tokio::time::timeout(deadline, all).await.is_ok() {
            return Vec::new();
        }
        let running = self.0.lock();
        let late: Vec<_> = running.tasks.values().map(|(name, _)| *name).collect();
        for abort in running.tasks.values().filter_map(|(_, abort)| abort.as_ref()) {
            abort.abort();
        }
        tracing::warn!(tasks = ?late, "tasks did not end in time and were aborted");
        late
    }

    fn enter(&self, name: &'static str) -> Entry {
        let mut running = self.0.lock();
        let id = running.next;
        running.next += 1;
        running.tasks.insert(id, (name, None));
        self.0.count.send_replace(running.tasks.len());
        Entry { shared: Arc::clone(&self.0), id, name }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its task off the list however that ends.
struct Entry {
    shared: Arc<Shared>,
    id: u64,
    name: &'static str,
}

impl Drop for Entry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!(task = self.name, "a task panicked");
        }
        let mut running = self.shared.lock();
        running.tasks.remove(&self.id);
        self.shared.count.send_replace(running.tasks.len());
    }
}

impl<T> Task<T> {
    /// Lets the task run on its own; it stays counted.
    pub fn detach(self) {}

    /// Ends the task at its next await.
    pub fn abort(&self) {
        self.handle.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, TaskFailed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let name = self.name;
        Pin::new(&mut self.handle)
            .poll(context)
            .map_err(|error| TaskFailed { name, panicked: error.is_panic() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn values_come_back_from_both_kinds() {
        let tasks = Tasks::new();
        assert_eq!(tasks.spawn("one", async { 1 }).await, Ok(1));
        assert_eq!(tasks.spawn_blocking("two", || 2).await, Ok(2));
        assert_eq!(tasks.shut_down(Duration::from_secs(10)).await, Vec::<&str>::new());
        assert_eq!(tasks.count(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_reported_and_the_task_is_gone() {
        let tasks = Tasks::new();
        let failed = tasks.spawn("faulty", async { panic!("on purpose") }).await;
        assert_eq!(failed, Err::<(), _>(TaskFailed { name: "faulty", panicked: true }));
        assert_eq!(tasks.count(), 0);
    }

    #[tokio::test]
    async fn tasks_are_told_waited_for_and_then_aborted() {
        let tasks = Tasks::new();
        let (ended, told) = tokio::sync::oneshot::channel();
        let own = tasks.clone();
        tasks
            .spawn("polite", async move {
                own.cancelled().await;
                ended.send(()).unwrap();
            })
            .detach();
        let stubborn = tasks.spawn("stubborn", std::future::pending::<()>());
        assert!(!tasks.is_cancelled());
        assert_eq!(tasks.shut_down(Duration::from_millis(200)).await, ["stubborn"]);
        told.await.unwrap();
        assert_eq!(stubborn.await, Err(TaskFailed { name: "stubborn", panicked: false }));
    }
}

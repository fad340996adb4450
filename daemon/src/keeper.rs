//! One workspace whose tree is known: how it was at the last seal, and what may have changed since.
//!
//! Not here: when to seal, and what becomes of it.
//!
//! Without a watch every look is at everything; what the stat cache knows is then believed, and nothing
//! is kept in memory that grows with the tree.
//!
//! **Invariant:** what was written before [`Keeper::look`] is in what it finds.
//!
//! **Invariant:** after anything that failed, nothing is believed to be known: the next look is at
//! everything.

mod known;
mod signs;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::WorkspaceId;
use baton_store::objects::{ObjectSink, ObjectSource};
use baton_store::scan::dirty::{Depth, Dirty, split};
use baton_store::scan::{Progress, ScanError, ScanOptions, Scanned, scan, seal};
use baton_store::stat_cache::StatCache;

use crate::clock::Clock;
use crate::task::Tasks;
use crate::watch::{Coverage, Waiter, Watch, WatchError, WatchOptions, Woken};

pub use known::Known;
use signs::Signs;

/// How long what becomes dirty is gathered before it is read again, so that many small changes do not
/// wake the daemon each. Far below what fills the queue of the system: 5,461 new files.
const GATHER: Duration = Duration::from_millis(10);

/// Dirty directories, and the share of all of them, from which on everything is looked at: of a directory as it
/// was that costs a sixth of listing it, because its tree is not made again. So it is after a first look, when
/// nobody has watched yet.
const MANY: u64 = 64;
const SHARE: u64 = 6;

/// How often directories are looked at in which so much happens that not every change is told.
const HOT: Duration = Duration::from_secs(1);

/// How the trees of a home are watched.
#[derive(Clone, Debug)]
pub struct Watching {
    /// Where the threads that wait are counted.
    pub tasks: Tasks,
    /// What is told that a workspace has changed.
    pub changed: tokio::sync::broadcast::Sender<WorkspaceId>,
    /// How each is watched.
    pub options: WatchOptions,
    /// What opens a watch: [`crate::watch::choose::open`], or for a test a backend of its own.
    pub open: OpenWatch,
}

/// Opens a watch of a root.
pub type OpenWatch = fn(&Path, &WatchOptions) -> Result<Box<dyn Watch>, WatchError>;

/// One workspace whose tree is known.
#[derive(Debug)]
pub struct Keeper {
    workspace: WorkspaceId,
    root: PathBuf,
    cache: StatCache,
    sealed: Option<Scanned>,
    repository: Option<Known>,
    inner: Option<Vec<PathBuf>>,
    watched: Arc<Watched>,
    watching: Option<Watching>,
}

/// What the thread that waits for changes shares with who looks.
#[derive(Debug, Default)]
pub struct Watched {
    state: Mutex<State>,
    /// Watches beside that of the tree, as of the last look.
    beside: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    watch: Option<Box<dyn Watch>>,
    dirty: Dirty,
    signs: Signs,
    /// Who is told of what happens.
    told: Option<(tokio::sync::broadcast::Sender<WorkspaceId>, WorkspaceId)>,
    /// Why there is no watch.
    error: Option<String>,
}

/// What `status` says of a watch.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What is covered; nothing where nothing is watched.
    pub coverage: Option<Coverage>,
    /// Names and directories to be looked at; nothing where everything is.
    pub pending: Option<u64>,
    /// Whether git did something.
    pub git: bool,
    /// Why nothing is watched that should be.
    pub error: Option<String>,
}

/// What a look found, and how long it waited for what was written before.
#[derive(Debug)]
pub struct Look {
    /// The tree.
    pub scanned: Scanned,
    /// How long the barrier took.
    pub barrier: Duration,
}

impl Keeper {
    /// Opens a workspace of which nothing is known but what its stat cache says.
    pub fn open(
        workspace: WorkspaceId,
        root: &Path,
        cache: &Path,
        watching: Option<Watching>,
    ) -> Self {
        let cache = StatCache::open(cache);
        Self {
            workspace,
            root: root.to_owned(),
            repository: cache.repository().and_then(|bytes| Known::decode(&bytes)),
            cache,
            sealed: None,
            inner: None,
            watched: Arc::default(),
            watching,
        }
    }

    /// What the thread that waits shares with this.
    pub fn watched(&self) -> Arc<Watched> {
        Arc::clone(&self.watched)
    }

    /// The root of the tree.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What is known of its repository.
    pub const fn repository(&self) -> Option<&Known> {
        self.repository.as_ref()
    }

    /// The worktrees inside the tree, relative to it; nothing before the first look.
    pub fn inner(&self) -> Option<&[PathBuf]> {
        self.inner.as_deref()
    }

    /// The worktrees inside the tree are these.
    pub fn set_inner(&mut self, inner: Vec<PathBuf>) {
        if self.inner.as_ref() != Some(&inner) {
            self.watched.lock().signs.set_stale();
        }
        self.inner = Some(inner);
    }

    /// Whether git was at work when its repository was last looked at: what ends that is then told.
    pub fn set_busy(&self, busy: bool) {
        self.watched.lock().signs.is_busy = busy;
    }

    /// This is known of the repository, once what was found last is [kept](Keeper::keep).
    pub fn remember(&mut self, repository: Option<Known>) {
        if self.repository != repository {
            self.cache.set_repository(repository.as_ref().map(Known::encode).as_deref());
            self.repository = repository;
        }
    }

    /// Looks at what may have changed, and puts it into `sink`. What is found has to be
    /// [kept](Keeper::keep) once it is durable; otherwise the next look is at everything.
    pub fn look<S: ObjectSource + ObjectSink>(
        &mut self,
        sink: &S,
        options: &ScanOptions,
        progress: &Progress,
        clock: &Clock,
    ) -> Result<Look, ScanError> {
        let started = clock.instant();
        let mut dirty = self.barrier();
        let barrier = clock.since(started);
        if self.is_most(&dirty) {
            dirty.set_everything();
        }
        let scanned = if let Some(before) = self.sealed.take() {
            seal(&self.root, before, &dirty, &self.cache, sink, options, progress)
        } else {
            dirty.set_everything();
            scan(&self.root, &self.cache, sink, options, progress)
        };
        if scanned.is_err() {
            self.watched.lock().dirty.set_everything();
        }
        Ok(Look { scanned: scanned?, barrier })
    }

    /// What a look found is durable: the next one goes on from there.
    pub fn keep(&mut self, mut scanned: Scanned) {
        self.cache.end_scan();
        let directories = std::mem::take(&mut scanned.directories);
        self.sealed = Some(scanned);
        let mut state = self.watched.lock();
        let State { watch: Some(watch), dirty, signs, .. } = &mut *state else { return };
        let inner = self.inner.as_deref().unwrap_or_default();
        let added = watch.add(&mut directories.iter().map(Vec::as_slice)).and_then(|new| {
            // What was made in them before they were watched, nobody has told of.
            for directory in new {
                dirty.list(&directory);
            }
            let Some(watching) = &self.watching else { return Ok(()) };
            let waiters = signs.follow(&self.root, inner, watch.as_mut(), watching)?;
            self.watched.beside.store(signs.count_elsewhere(), Ordering::Relaxed);
            for waiter in waiters {
                self.wait(waiter, watching);
            }
            Ok(())
        });
        if let Err(error) = added {
            state.fail(&error);
        }
        if state.is_dirty() {
            drop(state);
            self.tell();
        }
    }

    /// Forgets everything that is known of files: every one is read again.
    pub fn forget(&mut self) {
        self.cache.clear();
        self.sealed = None;
        self.repository = None;
        self.watched.lock().dirty.set_everything();
    }

    /// Looks at these files again, whatever is known of them.
    pub fn doubt(&self, paths: impl Iterator<Item = Vec<u8>>) {
        let mut state = self.watched.lock();
        for path in paths {
            let (directory, name) = split(&path);
            state.dirty.name(directory, name, Depth::Read);
        }
        drop(state);
        self.tell();
    }

    /// What was found and not kept.
    pub fn held(&self) -> Vec<Vec<u8>> {
        self.sealed.iter().flat_map(|sealed| sealed.held.keys().cloned()).collect()
    }

    /// Whether so many directories have to be listed that a look at everything costs less.
    fn is_most(&self, dirty: &Dirty) -> bool {
        let count = dirty.directories().len() as u64;
        let state = self.watched.lock();
        let all = state.watch.as_ref().map_or(0, |watch| watch.coverage().watched);
        count >= MANY && count.saturating_mul(SHARE) >= all
    }

    /// Everything that became dirty up to now.
    fn barrier(&mut self) -> Dirty {
        let mut state = self.watched.lock();
        if let Some(watch) = &state.watch
            && let Err(error) = watch.check_root()
        {
            state.fail(&error);
        }
        if state.watch.is_none() {
            self.sealed = None;
            if let Some(watching) = &self.watching {
                self.arm(&mut state, watching);
            }
            return Dirty::everything();
        }
        state.take_in();
        if state.watch.is_none() {
            self.sealed = None;
            return Dirty::everything();
        }
        state.signs.begin_look();
        std::mem::take(&mut state.dirty)
    }

    /// Begins to watch: first the directories that were there last time, so that a look at everything
    /// that comes after misses nothing in them.
    fn arm(&self, state: &mut State, watching: &Watching) {
        let known = self.cache.directories();
        let opened = (watching.open)(&self.root, &watching.options).and_then(|mut watch| {
            watch.add(&mut known.iter().map(Vec::as_slice))?;
            Ok(watch)
        });
        match opened {
            Ok(watch) => {
                self.wait(watch.waiter(), watching);
                let told = Some((watching.changed.clone(), self.workspace));
                *state =
                    State { watch: Some(watch), signs: Signs::new(), told, ..State::default() };
            }
            Err(error) => state.fail(&error),
        }
    }

    /// Gathers what becomes dirty, so that the system's queue stays short, and tells of it.
    fn wait(&self, mut waiter: Box<dyn Waiter>, watching: &Watching) {
        let shared = Arc::downgrade(&self.watched);
        let gather = move || {
            let mut patience = None;
            while waiter.wait(patience) != Woken::Closed {
                let Some(watched) = shared.upgrade() else { return };
                let mut state = watched.lock();
                // A write to a file that stays open tells of nothing where very much happens.
                let hot = state.watch.as_ref().map_or(0, |watch| watch.coverage().hot);
                patience = (hot > 0).then_some(HOT);
                state.drain();
                let is_over = state.watch.is_none();
                drop(state);
                if is_over {
                    return;
                }
                drop(watched);
                std::thread::sleep(GATHER);
            }
        };
        if let Err(error) = watching.tasks.spawn_thread("watch", gather) {
            tracing::warn!(%error, "changes are noticed only when something is asked for");
        }
    }

    fn tell(&self) {
        if let Some(watching) = &self.watching {
            drop(watching.changed.send(self.workspace));
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // The thread that waits ends with the watch.
        self.watched.close();
    }
}

impl Watched {
    /// What is watched, and what is to be looked at.
    pub fn seen(&self) -> Seen {
        let mut state = self.lock();
        state.drain();
        let names = |dirty: &Dirty| {
            dirty.directories().values().map(|marks| marks.names.len().max(1) as u64).sum()
        };
        Seen {
            coverage: state.watch.as_ref().map(|watch| watch.coverage()),
            pending: (!state.dirty.is_everything()).then(|| names(&state.dirty)),
            git: state.signs.is_changed(),
            error: state.error.clone().or_else(|| state.signs.note.clone()),
        }
    }

    /// Whether there is something to look at.
    pub fn is_dirty(&self) -> bool {
        let mut state = self.lock();
        state.drain();
        state.is_dirty()
    }

    /// How many watches there are for it, at most.
    pub fn watches(&self) -> usize {
        1 + self.beside.load(Ordering::Relaxed)
    }

    /// Ends the watch, and with it the threads that wait.
    pub fn close(&self) {
        self.lock().end();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes in what happened, and tells of it: whoever comes first, for there is nothing left to wait for then.
    fn drain(&mut self) {
        let was_empty = self.dirty.is_empty();
        // Of git each is told, so that what it does at a stretch is looked at once.
        let by_git = self.take_in();
        if by_git || (was_empty && !self.dirty.is_empty()) {
            self.tell();
        }
    }

    fn tell(&self) {
        if let Some((changed, workspace)) = &self.told {
            // Nobody may be listening.
            drop(changed.send(*workspace));
        }
    }

    /// Takes in what happened. Whether git did something.
    fn take_in(&mut self) -> bool {
        let Some(watch) = &mut self.watch else { return false };
        match watch.drain() {
            Ok(mut more) => {
                let inside = self.signs.take(&mut more);
                self.dirty.merge(more);
                self.signs.drain() || inside
            }
            Err(error) => {
                self.fail(&error);
                false
            }
        }
    }

    fn is_dirty(&self) -> bool {
        self.watch.is_none() || !self.dirty.is_empty() || self.signs.is_dirty()
    }

    fn end(&mut self) {
        self.watch = None;
        self.signs = Signs::new();
    }

    fn fail(&mut self, error: &WatchError) {
        tracing::warn!(
            error = error as &dyn std::error::Error,
            "a workspace is not watched any more"
        );
        let source = std::error::Error::source(error);
        let why = source.map(|source| format!("{error}: {source}"));
        self.error = Some(why.unwrap_or_else(|| error.to_string()));
        self.end();
        self.dirty.set_everything();
    }
}

#[cfg(test)]
mod tests;

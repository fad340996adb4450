//! The stack of what a walk has to do, and the threads that take from it.
//!
//! **Invariant:** the walk ends when nothing is on the stack or under way, or something has failed; also where
//! a thread panics.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::fs::FileType;

use super::ScanError;
use super::directory::Held;
use super::under_way::Directory;
use crate::ignore::{Scope, Verdict};

/// A directory that was seen and not yet opened.
pub(super) struct Place {
    pub(super) above: Option<Arc<Directory>>,
    pub(super) name: Vec<u8>,
    pub(super) path: Vec<u8>,
    pub(super) verdict: Verdict,
}

/// What one thread does without asking anybody.
pub(super) enum Task {
    /// Open and list a directory; `held` is the one above, `scope` its rules.
    Directory { place: Place, held: Option<Arc<Held>>, scope: Scope },
    /// Take files of a directory that is listed.
    Files { directory: Arc<Directory>, held: Option<Arc<Held>>, files: Vec<(Vec<u8>, FileType)> },
}

/// What is to be done, last in first out.
pub(super) struct Tasks {
    work: Mutex<Work>,
    wake: Condvar,
    /// Threads without a task, also those that are about to start.
    idle: AtomicUsize,
}

struct Work {
    stack: Vec<Task>,
    /// Tasks on the stack or under way.
    open: usize,
    failure: Option<ScanError>,
}

/// A task that a thread has taken; ends with it.
pub(super) struct UnderWay<'a>(&'a Tasks);

impl UnderWay<'_> {
    /// Ends it; a failure ends the walk.
    pub(super) fn end(self, done: Result<(), ScanError>) {
        if let Err(error) = done {
            self.0.lock().failure.get_or_insert(error);
        }
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.idle.fetch_add(1, Ordering::Relaxed);
        let mut work = self.0.lock();
        work.open -= 1;
        if std::thread::panicking() {
            work.failure.get_or_insert(ScanError::Cancelled);
        }
        if work.open == 0 || work.failure.is_some() {
            self.0.wake.notify_all();
        }
    }
}

impl Tasks {
    /// The first task, for so many threads.
    pub(super) fn new(first: Task, threads: usize) -> Self {
        Self {
            work: Mutex::new(Work { stack: vec![first], open: 1, failure: None }),
            wake: Condvar::new(),
            idle: AtomicUsize::new(threads),
        }
    }

    /// The next task, once there is one; nothing at the end.
    pub(super) fn next(&self) -> Option<(Task, UnderWay<'_>)> {
        let mut work = self.lock();
        loop {
            if work.failure.is_some() || work.open == 0 {
                return None;
            }
            if let Some(task) = work.stack.pop() {
                self.idle.fetch_sub(1, Ordering::Relaxed);
                return Some((task, UnderWay(self)));
            }
            work = self.wake.wait(work).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Adds tasks.
    pub(super) fn push(&self, tasks: impl Iterator<Item = Task>) {
        let mut work = self.lock();
        let before = work.stack.len();
        work.stack.extend(tasks);
        let added = work.stack.len() - before;
        work.open += added;
        drop(work);
        match added {
            0 => {}
            1 => self.wake.notify_one(),
            _ => self.wake.notify_all(),
        }
    }

    /// Whether somebody has nothing to do, and nothing is on its way to them.
    pub(super) fn is_somebody_idle(&self) -> bool {
        self.idle.load(Ordering::Relaxed) > 0 && self.lock().stack.is_empty()
    }

    /// What ended the walk before its end.
    pub(super) fn failure(&self) -> Option<ScanError> {
        self.lock().failure.take()
    }

    fn lock(&self) -> MutexGuard<'_, Work> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

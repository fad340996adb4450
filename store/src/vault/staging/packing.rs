//! A thread that compresses full records, proves those of another log, and appends them, beside those who bring
//! them.
//!
//! It is started with the first record of file data, and ends with the intake. With one core there
//! is none.
//!
//! **Invariant:** what was taken and has not been appended is counted, and who waits for it also hears of a failure.

use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

use super::{Log, Workbench, lock};
use crate::layout::Class;
use crate::vault::Vault;

/// A full record.
#[derive(Debug)]
pub(super) enum Job {
    /// Of this class, to be compressed.
    Pack(Class, Workbench),
    /// Of another log, all of it chunks that are new, to be proved and kept as it is.
    Keep(Vec<u8>),
}

/// The thread, once there is one.
#[derive(Debug, Default)]
pub(super) struct Packing {
    thread: OnceLock<Option<Thread>>,
    taken: Arc<Taken>,
}

#[derive(Debug)]
struct Thread {
    jobs: SyncSender<Job>,
    handle: JoinHandle<()>,
}

/// Records that were taken and are not appended.
#[derive(Debug, Default)]
struct Taken {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// One of them, until it is appended or lost.
#[derive(Debug)]
pub(super) struct UnderWay<'a> {
    taken: &'a Taken,
    log: &'a Log,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.fail("the thread that packs records has failed".to_owned(), false);
        }
        self.taken.fewer();
    }
}

impl Taken {
    fn fewer(&self) {
        *lock(&self.count) -= 1;
        self.fewer.notify_all();
    }
}

impl Packing {
    /// Hands a full record over; gives it back where it is better done at once.
    pub(super) fn offer(&self, log: &Arc<Log>, vault: &Vault, job: Job) -> Option<Job> {
        // Metadata is little, and waited for by who reads it back.
        if matches!(job, Job::Pack(Class::Metadata, _)) {
            return Some(job);
        }
        let Some(thread) = self.thread.get_or_init(|| self.start(log, vault)) else {
            return Some(job);
        };
        *lock(&self.taken.count) += 1;
        match thread.jobs.try_send(job) {
            Ok(()) => None,
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => {
                self.taken.fewer();
                Some(job)
            }
        }
    }

    /// Counts a record that its bringer brings into the log.
    pub(super) fn count<'a>(&'a self, log: &'a Log) -> UnderWay<'a> {
        *lock(&self.taken.count) += 1;
        UnderWay { taken: &self.taken, log }
    }

    /// Returns once everything that was handed over is appended, or something was lost.
    pub(super) fn wait(&self, log: &Log) {
        let mut count = lock(&self.taken.count);
        while *count > 0 && log.check().is_ok() {
            count = self.taken.fewer.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends the thread once it has appended what it was given.
    pub(super) fn end(&mut self) {
        if let Some(Some(Thread { jobs, handle })) = self.thread.take() {
            drop(jobs);
            drop(handle.join());
        }
    }

    fn start(&self, log: &Arc<Log>, vault: &Vault) -> Option<Thread> {
        let has_one_core = std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2);
        if has_one_core || crate::fs::is_simulated(vault.layout().root()) {
            return None;
        }
        let (jobs, offered) = sync_channel::<Job>(1);
        let (log, vault, taken) = (Arc::clone(log), vault.clone(), Arc::clone(&self.taken));
        let pack = move || {
            for job in offered {
                let _under_way = UnderWay { taken: &taken, log: &log };
                // A failure is noted in the log, where the next who puts something meets it.
                let _noted = log.work(&vault, job);
            }
        };
        match std::thread::Builder::new().name("pack".to_owned()).spawn(pack) {
            Ok(handle) => Some(Thread { jobs, handle }),
            Err(error) => {
                tracing::warn!(%error, "packing records without a thread of its own");
                None
            }
        }
    }
}

//! A thread that compresses and appends full records, beside those who fill them.
//!
//! It is started with the first record of file data that is full, and ends with the intake. With one core there
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
type Full = (Class, Workbench);

/// The thread, once there is one.
#[derive(Debug, Default)]
pub(super) struct Packing {
    thread: OnceLock<Option<Thread>>,
    taken: Arc<Taken>,
}

#[derive(Debug)]
struct Thread {
    full: SyncSender<Full>,
    handle: JoinHandle<()>,
}

/// Records that were taken and are not appended.
#[derive(Debug, Default)]
struct Taken {
    count: Mutex<usize>,
    fewer: Condvar,
}

/// One of them, until it is appended or lost.
struct UnderWay<'a> {
    taken: &'a Taken,
    log: &'a Log,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.log.fail("the thread that packs records has failed".to_owned());
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
    /// Hands a full record over; gives it back where it is better packed at once.
    pub(super) fn offer(&self, log: &Arc<Log>, vault: &Vault, full: Full) -> Option<Full> {
        // Metadata is little, and waited for by who reads it back.
        if full.0 != Class::Data {
            return Some(full);
        }
        let Some(thread) = self.thread.get_or_init(|| self.start(log, vault)) else {
            return Some(full);
        };
        *lock(&self.taken.count) += 1;
        match thread.full.try_send(full) {
            Ok(()) => None,
            Err(TrySendError::Full(full) | TrySendError::Disconnected(full)) => {
                self.taken.fewer();
                Some(full)
            }
        }
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
        if let Some(Some(Thread { full, handle })) = self.thread.take() {
            drop(full);
            drop(handle.join());
        }
    }

    fn start(&self, log: &Arc<Log>, vault: &Vault) -> Option<Thread> {
        if std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2) {
            return None;
        }
        let (full, records) = sync_channel::<Full>(1);
        let (log, vault, taken) = (Arc::clone(log), vault.clone(), Arc::clone(&self.taken));
        let pack = move || {
            for (class, bench) in records {
                let _under_way = UnderWay { taken: &taken, log: &log };
                // A failure is noted in the log, where the next who puts something meets it.
                let _noted =
                    log.append(&vault, class, bench).and_then(|()| log.flush_if_due(&vault));
            }
        };
        match std::thread::Builder::new().name("pack".to_owned()).spawn(pack) {
            Ok(handle) => Some(Thread { full, handle }),
            Err(error) => {
                tracing::warn!(%error, "packing records without a thread of its own");
                None
            }
        }
    }
}

//! Who mounts: the thread that asks, or the one that alone may.
//!
//! A process that has a namespace of its own may do anything to what it mounted there, and needs that for nothing else.
//! So one thread keeps the right, and does nothing but mount and unmount; all others have none, as any program of a user.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::io::Errno;

type Job = Box<dyn FnOnce() + Send>;

static MOUNTER: OnceLock<Mutex<Sender<Job>>> = OnceLock::new();

/// Starts the thread that mounts for this process from now on, with the rights that the caller has now. Once a process.
pub fn keep_mounter() -> std::io::Result<()> {
    let (sender, jobs) = channel::<Job>();
    std::thread::Builder::new().name("mounter".to_owned()).spawn(move || {
        for job in jobs {
            job();
        }
    })?;
    MOUNTER.set(Mutex::new(sender)).map_err(|_| std::io::ErrorKind::AlreadyExists.into())
}

/// Does something where it may be done.
pub(super) fn as_mounter(
    work: impl FnOnce() -> Result<(), Errno> + Send + 'static,
) -> Result<(), Errno> {
    let Some(mounter) = MOUNTER.get() else { return work() };
    let (answer, answered) = channel();
    let job = move || {
        // Who asked waits for it.
        let _answered = answer.send(work());
    };
    let sent = mounter.lock().unwrap_or_else(PoisonError::into_inner).send(Box::new(job));
    // A mounter that panicked is there no more.
    sent.map_err(|_| Errno::PERM)?;
    answered.recv().map_err(|_| Errno::PERM)?
}

//! Waiting on the descriptor itself.

use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::fd::OwnedFd;
use rustix::io::Errno;

use super::super::{Waiter, Woken};

/// Says that a watch was dropped, to all that wait for it.
#[derive(Debug)]
pub(super) struct Closing(Arc<OwnedFd>);

impl Closing {
    pub(super) fn new() -> Result<Self, Errno> {
        Ok(Self(Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)))
    }

    pub(super) fn waiter(&self, events: &Arc<OwnedFd>) -> EventWaiter {
        EventWaiter { events: Arc::clone(events), closing: Arc::clone(&self.0) }
    }
}

impl Drop for Closing {
    fn drop(&mut self) {
        // Nobody reads it: it stays readable for whoever comes to wait. It cannot be full.
        let _full = rustix::io::write(&*self.0, &1u64.to_ne_bytes());
    }
}

/// Waits until there are events to read.
#[derive(Debug)]
pub(super) struct EventWaiter {
    events: Arc<OwnedFd>,
    closing: Arc<OwnedFd>,
}

impl Waiter for EventWaiter {
    fn wait(&mut self, patience: Option<Duration>) -> Woken {
        // Longer than the system can count is for ever.
        let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
        let readable = |fd: &PollFd<'_>| !fd.revents().is_empty();
        let mut both =
            [PollFd::new(&*self.closing, PollFlags::IN), PollFd::new(&*self.events, PollFlags::IN)];
        loop {
            match poll(&mut both, patience.as_ref()) {
                // A signal starts the patience anew: it is for being late, not for being exact.
                Err(Errno::INTR) => {}
                // Not to be waited on, for want of memory: let the drain say what is wrong.
                Err(_) => return Woken::Changed,
                Ok(_) => break,
            }
        }
        let [closing, events] = &both;
        match (readable(closing), readable(events)) {
            (true, _) => Woken::Closed,
            (false, true) => Woken::Changed,
            (false, false) => Woken::Late,
        }
    }
}

//! Waiting for another thread, for backends that have no descriptor to wait on.
//!
//! Not here: what it is rung for.
//!
//! **Invariant:** a bell that rang stays rung until it is [quiet](Bell::hush): nothing is missed between
//! a drain and a wait.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Waiter, Woken};

/// Rung by who has news; clones are the same bell.
#[derive(Clone, Debug, Default)]
pub(super) struct Bell(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    rung: bool,
    closed: bool,
}

impl Bell {
    /// There is something to drain.
    pub(super) fn ring(&self) {
        self.lock().rung = true;
        self.0.changed.notify_all();
    }

    /// It is being drained.
    pub(super) fn hush(&self) {
        self.lock().rung = false;
    }

    /// Nobody will drain.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.0.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiter for Bell {
    fn wait(&mut self, patience: Option<Duration>) -> Woken {
        let still = |state: &mut State| !state.rung && !state.closed;
        let lock = self.lock();
        let state = match patience {
            None => *self.0.changed.wait_while(lock, still).unwrap_or_else(PoisonError::into_inner),
            Some(patience) => {
                let waited = self.0.changed.wait_timeout_while(lock, patience, still);
                *waited.unwrap_or_else(PoisonError::into_inner).0
            }
        };
        match state {
            State { closed: true, .. } => Woken::Closed,
            State { rung: true, .. } => Woken::Changed,
            State { .. } => Woken::Late,
        }
    }
}

//! What is being done about one workspace that is kept in step, and what can be asked of that.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use baton_store::scan;
use tokio::sync::Notify;

use crate::api::control::Progress;

/// A workspace that is kept in step.
#[derive(Debug, Default)]
pub(in crate::daemon) struct Step {
    state: Mutex<State>,
    /// Something other than a change of the tree asks for a look.
    pub(super) again: Notify,
    /// The push under way is to stop.
    pub(super) give_way: Arc<AtomicBool>,
    pub(super) ended: AtomicBool,
    pub(super) end: Notify,
}

#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) doing: Doing,
    pub(super) error: Option<String>,
    /// Whether the node cannot be reached.
    pub(super) away: bool,
}

/// What is being done about a workspace.
#[derive(Clone, Debug, Default)]
pub(in crate::daemon) enum Doing {
    /// Nothing, or waiting for a quiet moment.
    #[default]
    Resting,
    /// Looking at the tree.
    Sealing(Arc<scan::Progress>, Instant),
    /// Sending; nothing is known before the first batch.
    Sending(Option<Progress>, Instant),
}

impl Step {
    /// What is being done, why it failed last, and whether the node is away.
    pub(in crate::daemon) fn report(&self) -> (Doing, Option<String>, bool) {
        let state = self.lock();
        (state.doing.clone(), state.error.clone(), state.away)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set(&self, doing: Doing) {
        self.lock().doing = doing;
    }

    pub(super) fn stop(&self) {
        self.ended.store(true, Ordering::Relaxed);
        self.give_way.store(true, Ordering::Relaxed);
        self.end.notify_one();
    }
}

//! Several threads at one piece of work.
//!
//! **Invariant:** the first failure is the one that is told, and the others stop soon after it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use super::RestoreError;

/// What the threads share beside their work.
#[derive(Debug, Default)]
pub(super) struct Crew {
    stop: AtomicBool,
    failure: Mutex<Option<RestoreError>>,
}

impl Crew {
    /// Lets `threads` do the same, this one among them, and waits for all. Each takes from what is left until
    /// nothing is, or until the crew [is stopped](Crew::is_stopped).
    pub(super) fn run(
        threads: usize,
        work: impl Fn(&Self) -> Result<(), RestoreError> + Sync,
    ) -> Result<(), RestoreError> {
        let crew = Self::default();
        std::thread::scope(|scope| {
            for _ in 1..threads {
                // Without a further thread this one does the work.
                let spawned = std::thread::Builder::new()
                    .name("restore".to_owned())
                    .spawn_scoped(scope, || crew.note(work(&crew)));
                if let Err(error) = spawned {
                    tracing::warn!(%error, "restoring with fewer threads");
                }
            }
            crew.note(work(&crew));
        });
        let failure = crew.failure.into_inner().unwrap_or_else(PoisonError::into_inner);
        failure.map_or(Ok(()), Err)
    }

    /// Whether one of them has failed.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note(&self, done: Result<(), RestoreError>) {
        if let Err(error) = done {
            self.stop.store(true, Ordering::Relaxed);
            self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
        }
    }
}

//! For tests: file operations that fail on purpose.
//!
//! An operation that is struck was carried out and reports a failure all the same: that is what a full
//! disk half-way through a write and a failed sync look like from here.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

static PLANS: Mutex<Vec<Arc<Plan>>> = Mutex::new(Vec::new());

/// Which operations fail.
#[derive(Debug)]
struct Plan {
    below: PathBuf,
    action: Option<&'static str>,
    from: u64,
    times: u64,
    seen: AtomicU64,
    kind: io::ErrorKind,
}

/// Operations fail until this is dropped.
#[derive(Debug)]
pub struct Armed(Arc<Plan>);

/// Lets operations on paths below `below`, of one kind or of any, fail: after `from` of them the next
/// `times`.
pub fn arm(
    below: &Path,
    action: Option<&'static str>,
    from: u64,
    times: u64,
    kind: io::ErrorKind,
) -> Armed {
    let below = below.to_owned();
    let plan = Arc::new(Plan { below, action, from, times, seen: AtomicU64::new(0), kind });
    plans().push(plan.clone());
    Armed(plan)
}

impl Armed {
    /// How many operations fitted so far, struck or not.
    pub fn seen(&self) -> u64 {
        self.0.seen.load(Ordering::SeqCst)
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        plans().retain(|plan| !Arc::ptr_eq(plan, &self.0));
    }
}

/// The outcome of an operation, or the failure that is planned for it.
pub(super) fn strike<T>(outcome: io::Result<T>, action: &str, path: &Path) -> io::Result<T> {
    if action.starts_with("starting") {
        // A thread that was started cannot be said not to have been.
        return outcome;
    }
    for plan in &*plans() {
        if path.starts_with(&plan.below) && plan.action.is_none_or(|planned| planned == action) {
            let at = plan.seen.fetch_add(1, Ordering::SeqCst);
            if at >= plan.from && at - plan.from < plan.times {
                // As the system says it.
                return Err(match plan.kind {
                    io::ErrorKind::StorageFull => rustix::io::Errno::NOSPC.into(),
                    io::ErrorKind::Other => rustix::io::Errno::IO.into(),
                    kind => kind.into(),
                });
            }
        }
    }
    outcome
}

fn plans() -> std::sync::MutexGuard<'static, Vec<Arc<Plan>>> {
    PLANS.lock().unwrap_or_else(PoisonError::into_inner)
}

//! How many watches the system has for us.
//!
//! Not here: who gets them.
//!
//! What other programs of the user hold is not counted: the kernel tells it only by listing each watch
//! of each program. Half of what the system allows, less what this process holds by itself, leaves them
//! room, and where that is not enough the kernel refuses and says so.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_store::fs::read_if_exists;

/// The setting that people raise.
pub(super) const SETTING: &str = "fs.inotify.max_user_watches";

/// Watches that all of this process hold: the limit is one for all.
static HELD: AtomicU64 = AtomicU64::new(0);

/// Half of the watches that the system allows and this process does not hold yet.
pub(super) fn free_watches() -> u64 {
    // Without the file: what the kernel allowed before it looked at the memory of the machine.
    let allowed = setting("max_user_watches").unwrap_or(8192);
    allowed.saturating_sub(HELD.load(Ordering::Relaxed)) / 2
}

/// How many events the kernel keeps before it drops some.
pub(super) fn queue_length() -> usize {
    setting("max_queued_events").and_then(|limit| limit.try_into().ok()).unwrap_or(16_384)
}

/// Watches were made, or given back.
pub(super) fn hold(more: u64) {
    HELD.fetch_add(more, Ordering::Relaxed);
}

pub(super) fn release(fewer: u64) {
    HELD.fetch_sub(fewer, Ordering::Relaxed);
}

fn setting(name: &str) -> Option<u64> {
    let path = Path::new("/proc/sys/fs/inotify").join(name);
    let text = read_if_exists(&path, 64).ok()??;
    str::from_utf8(&text).ok()?.trim().parse().ok()
}

//! What the machine has.

use std::path::Path;

use baton_store::fs;

/// Bytes of memory; nothing on a system that does not say.
pub fn memory() -> Option<u64> {
    let text = fs::read_if_exists(Path::new("/proc/meminfo"), 64 * 1024).ok().flatten()?;
    let text = String::from_utf8(text).ok()?;
    let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kilobytes: u64 = total.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kilobytes.saturating_mul(1024))
}

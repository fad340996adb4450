//! Whether a process waits for what comes out of a pipe.
//!
//! What it is in the middle of is asked of the system: `/proc/PID/task/*/syscall`. A read of the pipe is one; and so is
//! waiting for events, without a limit of time, where the pipe is among what is waited for and no socket is: that is how
//! Node.js reads its input.
//!
//! **Invariant:** where the system does not tell, a process waits for nothing.

use std::path::{Path, PathBuf};

use baton_store::fs;

/// Longest file of `/proc` that is looked at here.
const MAX_FILE: u64 = 64 * 1024;

/// Threads of a process, and descriptors that it waits for, that are looked at.
const MAX_LOOKED_AT: usize = 256;

#[cfg(target_arch = "x86_64")]
mod calls {
    /// `read`, `readv`.
    pub(super) const READ: &[u64] = &[0, 19];
    /// `epoll_wait`, `epoll_pwait`.
    pub(super) const EVENTS: &[u64] = &[232, 281];
}

#[cfg(target_arch = "aarch64")]
mod calls {
    /// `read`, `readv`.
    pub(super) const READ: &[u64] = &[63, 65];
    /// `epoll_pwait`.
    pub(super) const EVENTS: &[u64] = &[22];
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls {
    pub(super) const READ: &[u64] = &[];
    pub(super) const EVENTS: &[u64] = &[];
}

/// Whether one of its threads is in a read of the pipe of this name, as `/proc` has it: `pipe:[123]`.
pub(super) fn reads(pid: i32, pipe: &str) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let threads = fs::list_dir(&process.join("task")).unwrap_or_default();
    threads.iter().take(MAX_LOOKED_AT).any(|thread| {
        let call = text(&process.join("task").join(thread).join("syscall"));
        let mut words = call.split_ascii_whitespace();
        let Some(Ok(number)) = words.next().map(str::parse::<u64>) else { return false };
        let arguments: Vec<u64> = words.map_while(hex).collect();
        let Some(&first) = arguments.first() else { return false };
        if calls::READ.contains(&number) {
            return is(&process, first, |name| name == pipe);
        }
        // An `int` of -1: without a limit.
        let endless = arguments.get(3).is_some_and(|&limit| limit & 0xffff_ffff == 0xffff_ffff);
        calls::EVENTS.contains(&number) && endless && waits(&process, first, pipe)
    })
}

/// Whether the pipe is among what is waited for with this descriptor, and nothing that may come from elsewhere.
fn waits(process: &Path, descriptor: u64, pipe: &str) -> bool {
    const READABLE: u64 = 1;
    let known = text(&process.join("fdinfo").join(descriptor.to_string()));
    let mut found = false;
    for line in known.lines().take(MAX_LOOKED_AT) {
        // `tfd:        0 events:       19 data:  …`
        let mut words = line.split_ascii_whitespace();
        if words.next() != Some("tfd:") {
            continue;
        }
        let of = words.next().and_then(|word| word.parse().ok());
        let events = words.nth(1).and_then(hex);
        let (Some(of), Some(events)) = (of, events) else { return false };
        if is(process, of, |name| name.starts_with("socket:")) {
            return false;
        }
        found |= events & READABLE != 0 && is(process, of, |name| name == pipe);
    }
    found
}

fn is(process: &Path, descriptor: u64, what: impl FnOnce(&str) -> bool) -> bool {
    let link = process.join("fd").join(descriptor.to_string()).read_link();
    link.is_ok_and(|name| name.to_str().is_some_and(what))
}

fn text(path: &Path) -> String {
    let bytes = fs::read_if_exists(path, MAX_FILE).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

fn hex(word: &str) -> Option<u64> {
    u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
}

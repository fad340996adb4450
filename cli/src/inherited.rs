//! Descriptors that a process was given by whoever started it, and that nobody told it of.
//!
//! A program that starts a command may hold locks, pipes and connections; what stays when the command has ended would hold
//! them on. Standard streams are told of.
//!
//! **Invariant:** called before anything of this process has a descriptor of its own.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use baton_store::fs;

/// Where a process sees its own.
const OWN: [&str; 2] = ["/proc/self/fd", "/dev/fd"];

/// The last of the standard streams.
const LAST_STANDARD: RawFd = 2;

/// Closes all of them. What cannot be listed stays open.
#[expect(
    unsafe_code,
    reason = "a descriptor that is only known by its number has no owner in safe code"
)]
pub(crate) fn close() {
    let listed = OWN.into_iter().find_map(|folder| fs::list_dir(Path::new(folder)).ok());
    let numbers = listed.into_iter().flatten().filter_map(|name| name.to_str()?.parse().ok());
    for number in numbers.filter(|number: &RawFd| *number > LAST_STANDARD) {
        // SAFETY: it is looked at only; a number that is none any more, as that of the listing, is an error.
        let is_open = rustix::io::fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).is_ok();
        if is_open {
            // SAFETY: nothing in this process knows of it, as nothing has opened anything yet.
            drop(unsafe { OwnedFd::from_raw_fd(number) });
        }
    }
}

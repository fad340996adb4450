//! How many files a tree has, before they are read: so that it can be said how long a first look takes.
//!
//! Directories are listed and nothing else is looked at, which takes a hundredth of reading what is in them.
//! What cannot be listed counts nothing; the walk that follows says why.

use std::os::fd::{AsFd, BorrowedFd};

use baton_protocol::path::{MAX_PATH, is_git_name};
use rustix::fs::FileType;

use super::Progress;
use super::directory::{self, Listing, join};
use super::ground::scope_of;
use crate::ignore::{Rules, Scope, Verdict};

/// Counts the files below a root, and tells them as the total.
pub(super) fn count(root: BorrowedFd<'_>, rules: &Rules, progress: &Progress) {
    let mut listing = Listing::default();
    let mut open = vec![(Vec::new(), Verdict::Keep, Scope::default())];
    let mut files = 0;
    while let Some((path, verdict, above)) = open.pop() {
        if progress.is_cancelled() {
            return;
        }
        let Ok(fd) = directory::open_below(root, &path) else { continue };
        if listing.read(fd.as_fd()).is_err() {
            continue;
        }
        let scope = scope_of(rules, &above, (&path, verdict), &fd, &listing);
        for (name, kind) in listing.iter().filter(|(name, _)| !is_git_name(name)) {
            let at = join(&path, name);
            let is_directory = kind == FileType::Directory;
            match rules.verdict(&scope, &at, is_directory) {
                Verdict::Skip => {}
                _ if at.len() > MAX_PATH => {}
                verdict if is_directory => open.push((at, verdict, scope.clone())),
                _ => files += 1,
            }
        }
    }
    progress.set_total(files);
}

//! What a walk and a seal stand on: the tree, its rules, what is known of it, and where it goes.

use std::os::fd::{BorrowedFd, OwnedFd};

use baton_protocol::id::TreeId;
use baton_protocol::object::{Omission, TreeSums};
use rustix::fs::{FileType, Mode, OFlags};

use super::directory::Listing;
use super::entry::Linked;
use super::{Progress, ScanOptions};
use crate::ignore::{MAX_RULES, Rules, Scope, Verdict};
use crate::secrets::Finding;
use crate::stat_cache::StatCache;

/// Where a walk begins.
pub(super) struct Start {
    /// Below the root of the tree.
    pub(super) path: Vec<u8>,
    pub(super) verdict: Verdict,
    /// The rules of the directory above.
    pub(super) above: Scope,
}

/// What a walk works with.
pub(super) struct Ground<'a, S> {
    /// The root of the tree.
    pub(super) fd: BorrowedFd<'a>,
    pub(super) cache: &'a StatCache,
    pub(super) sink: &'a S,
    pub(super) progress: &'a Progress,
    pub(super) options: &'a ScanOptions,
    pub(super) rules: &'a Rules,
    /// Whether the content that the cache names is kept for sure.
    pub(super) trusted: bool,
}

impl<S> Ground<'_, S> {
    /// Why a file is held back, if it is: what git tracks never is.
    pub(super) fn inspect(&self, scope: &Scope, path: &[u8], bytes: &[u8]) -> Option<Finding> {
        let guard = self.options.guard.as_ref()?;
        // Most files hold nothing, so that the index is asked of the others only.
        guard.find(path, bytes).filter(|_| !scope.tracks(path))
    }
}

/// What a walk found.
#[derive(Debug, Default)]
pub(super) struct Walked {
    /// The directory; nothing where it could not be read, which is omitted.
    pub(super) found: Option<Found>,
    pub(super) omitted: Vec<Omission>,
    /// Every directory that was listed, each after the one above it.
    pub(super) directories: Vec<Vec<u8>>,
    /// Whether the cache may know directories that are not there any more.
    pub(super) may_know_more: bool,
    pub(super) links: Vec<(Linked, Vec<u8>, Vec<u8>)>,
    pub(super) held: Vec<(Vec<u8>, Finding)>,
    pub(super) hashed_files: u64,
    pub(super) hashed_bytes: u64,
}

/// A directory in the sink.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) tree: TreeId,
    pub(super) sums: TreeSums,
    pub(super) mode: u16,
}

/// The rules in a directory that was listed.
pub(super) fn scope_of(
    rules: &Rules,
    above: &Scope,
    (path, verdict): (&[u8], Verdict),
    directory: &OwnedFd,
    listing: &Listing,
) -> Scope {
    let mut scope = rules.enter(above, path, verdict, listing.has(b".git"));
    if listing.has(b".gitignore") {
        read_git_ignore(&mut scope, directory, path);
    }
    scope
}

/// Adds the `.gitignore` of a directory to its rules.
pub(super) fn read_git_ignore(scope: &mut Scope, directory: &OwnedFd, path: &[u8]) {
    if Rules::wants_git_ignore(scope)
        && let Some(bytes) = read_rules(directory, b".gitignore")
    {
        Rules::add_git_ignore(scope, path, &bytes);
    }
}

/// A file of ignore patterns in this directory; a link is none, as for git.
pub(crate) fn read_rules(directory: &OwnedFd, name: &[u8]) -> Option<Vec<u8>> {
    use std::io::Read;
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat(directory, name, flags, Mode::empty()).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return None;
    }
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MAX_RULES + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_RULES).then_some(bytes)
}

//! From a directory on the disk to a tree of objects.
//!
//! Not here: when to look, and what the tree is part of. A scan reads everything that changed since
//! the [`StatCache`] was made, puts it into a sink, and says what it could not carry.
//!
//! - [`dirty`]: what may have changed since the last look
//! - [`walk`]: the work and who does it
//! - [`entry`]: one file, link or special file
//! - [`read`]: a file that may change while it is read
//! - [`directory`]: directories by descriptor, however deep
//!
//! **Invariant:** nothing is opened by more than one name below a descriptor, nothing through a
//! symbolic link, and nothing but regular files and directories. Whatever stands in the tree and
//! not in the result is named in [`Scanned::omitted`], unless the rules of [`crate::ignore`] left
//! it out.

pub mod dirty;
pub(crate) mod directory;
mod read;
mod entry;
mod walk;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use baton_protocol::id::TreeId;
use baton_protocol::object::{Omission, TreeSums};

use crate::error::StoreError;
use crate::ignore::GitUser;
use crate::objects::{ObjectSink, ObjectSource};
use crate::stat_cache::StatCache;

/// How a scan goes.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Threads that walk and read; at least one.
    pub threads: usize,
    /// When the scan began, in nanoseconds since 1970: files that changed about then, or later, are
    /// read again by the next scan. The caller must have read the clock *before* it calls.
    pub started_at_ns: i64,
    /// What git knows about the user from outside the repository.
    pub git_user: GitUser,
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self { threads: 2, started_at_ns: 0, git_user: GitUser::default() }
    }
}

/// How far a scan, or a restore, has come; read it from another thread at any time.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    cancelled: AtomicBool,
}

impl Progress {
    /// Files done.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Bytes of the files done.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Asks the work to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// What a scan found.
#[derive(Debug)]
pub struct Scanned {
    /// The tree, in the sink.
    pub root: TreeId,
    /// Permission bits of the root directory.
    pub root_mode: u16,
    /// Files and bytes in the tree.
    pub sums: TreeSums,
    /// What was left out, or not carried whole; ascending, no two alike.
    pub omitted: Vec<Omission>,
    /// For the next scan of the same tree.
    pub cache: StatCache,
    /// Files that had to be read.
    pub hashed_files: u64,
    /// Bytes that had to be read.
    pub hashed_bytes: u64,
    /// What people should know, such as a git repository whose rules could not be followed.
    pub notes: Vec<String>,
}

/// A scan failed. Files that cannot be read do not make it fail.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The root of the tree could not be opened.
    #[error("opening {}", path.display())]
    Root {
        /// The root.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The system has no more descriptors or memory for us.
    #[error("reading the tree in {}", path.display())]
    Exhausted {
        /// The root.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The sink did not take an object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller asked to stop.
    #[error("the scan was cancelled")]
    Cancelled,
}

/// Puts the tree at `root` into `sink`.
///
/// What `cache` says of a file that is unchanged is believed only if `sink` still has its content.
pub fn scan<S: ObjectSource + ObjectSink>(
    root: &Path,
    cache: &StatCache,
    sink: &S,
    options: &ScanOptions,
    progress: &Progress,
) -> Result<Scanned, ScanError> {
    walk::walk(root, cache, sink, options, progress)
}

#[cfg(test)]
mod git_tests;
#[cfg(test)]
mod tests;

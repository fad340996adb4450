//! Learning what changed in a tree, without looking at it.
//!
//! Not here: looking at what is dirty, which is a seal; and which directories belong to a tree: the
//! seal says so, and they are [added](Watch::add).
//!
//! - [`root`]: the folder that is watched, and whether it still is that one
//! - [`bell`]: waiting for another thread
//! - [`sweep`]: nothing is told, everything is looked at
//! - [`inotify`]: on Linux
//! - [`notify`]: everywhere else, and on Linux to compare with
//! - [`choose`]: which of them
//!
//! **Invariant:** the barrier. What was written before [`Watch::drain`] was called, by whomever, in a
//! directory that was added before that, is in what it returns, in what an earlier call returned, or
//! that is [everything](Dirty::everything).
//!
//! **Invariant:** a directory that is newly watched has to be listed once more after [`Watch::add`]
//! returned: what was made in it before is not told.
//!
//! **Invariant:** nothing runs while nothing changes: who waits, waits without a timeout.

pub mod root;
pub mod bell;
pub mod sweep;
#[cfg(target_os = "linux")]
pub mod inotify;
pub mod notify;
pub mod choose;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use baton_store::scan::dirty::Dirty;

/// Watching failed.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The root is gone, or another directory, or another file system, stands in its place.
    #[error("{} is not the folder any more that was watched", root.display())]
    RootChanged {
        /// The root.
        root: PathBuf,
    },
    /// The system refused.
    #[error("watching {}", root.display())]
    System {
        /// The root.
        root: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

/// What a watch covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// How: `inotify`, `notify`, `sweep`.
    pub backend: &'static str,
    /// Directories that are watched.
    pub watched: u64,
    /// Directories that are not, because the system or the cap allows no more: each seal lists them.
    pub swept: u64,
    /// Directories in which so much happens that only their listing is dirty, not each name. A write to
    /// an open file in one of them wakes nobody.
    pub hot: u64,
    /// Why not everything is watched, and what to do about it, for people.
    pub note: Option<String>,
}

/// How a root is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchOptions {
    /// Directories that are watched at most; without, half of what the system has left.
    pub max_watches: Option<u64>,
    /// For tests: events of a drain after which the others are lost, as if the queue of the system had
    /// been full.
    pub cut_queue: Option<usize>,
    /// Where cookie files are made, relative to the root: a directory that is there and stays. Without,
    /// `.git` where there is one, else the root.
    pub cookies: Option<PathBuf>,
}

/// Learns what changes below a root.
pub trait Watch: Send + std::fmt::Debug {
    /// Watches these directories too, paths relative to the root (empty: the root itself), each after
    /// the one above it. Returns those that were not watched before: they have to be listed again.
    /// One that is gone, or no directory any more, is left out in silence: the one above tells of it.
    ///
    /// Whatever directory of the tree somebody comes upon has to be added, however it was found: below
    /// a swept one nothing tells of it later. What is added already costs a few look-ups.
    ///
    /// After [everything](Dirty::everything) all that belong to the tree have to be added again: what
    /// is known of where they stand may be wrong.
    fn add(
        &mut self,
        directories: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<Vec<Vec<u8>>, WatchError>;

    /// Lets go of a directory and of all below it: they do not belong to the tree any more.
    fn remove(&mut self, directory: &[u8]);

    /// Says that something was found to have changed in a directory that is swept: it is worth a watch
    /// more than one in which nothing happens.
    fn prefer(&mut self, directory: &[u8]) -> Result<(), WatchError> {
        let _: &[u8] = directory;
        Ok(())
    }

    /// The barrier: what became dirty since the last call.
    fn drain(&mut self) -> Result<Dirty, WatchError>;

    /// Fails if the path of the root leads elsewhere than when the watch was made. One look at the
    /// disk: a directory above the root that was renamed tells nobody.
    fn check_root(&self) -> Result<(), WatchError>;

    /// What waits for changes on another thread, for as long as the watch lives.
    fn waiter(&self) -> Box<dyn Waiter>;

    /// What is covered.
    fn coverage(&self) -> Coverage;
}

/// Waits until there may be something to drain.
pub trait Waiter: Send + std::fmt::Debug {
    /// Blocks until [`Watch::drain`] may have something to say, `patience` is over, or the watch was
    /// dropped; says which. Without `patience` there is no timer. What is not drained says so again.
    fn wait(&mut self, patience: Option<Duration>) -> Woken;
}

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// There may be something to drain.
    Changed,
    /// The patience is over.
    Late,
    /// The watch is gone: nobody will drain.
    Closed,
}

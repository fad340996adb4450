//! Learning what changed in a tree, without looking at it.
//!
//! Not here: looking at what is dirty, which is a seal; and which directories belong to a tree: the
//! seal says so, and they are [added](Watch::add).
//!
//! **Invariant:** the barrier. What was written before [`Watch::drain`] was called, by whomever, in a
//! directory that was added before that, is in what it returns, in what an earlier call returned, or
//! that is [everything](Dirty::everything).
//!
//! **Invariant:** a directory that is newly watched has to be listed once more after [`Watch::add`]
//! returned: what was made in it before is not told.
//!
//! **Invariant:** nothing runs while nothing changes: who waits, waits without a timeout.

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
    /// Directories in which so much happens that only their listing is dirty, not each name.
    pub hot: u64,
    /// Why not everything is watched, and what to do about it, for people.
    pub note: Option<String>,
}

/// Learns what changes below a root.
pub trait Watch: Send + std::fmt::Debug {
    /// Watches these directories too, paths relative to the root (empty: the root itself), each after
    /// the one above it. Returns those that were not watched before: they have to be listed again.
    /// One that is gone, or no directory any more, is left out in silence: the one above tells of it.
    fn add(
        &mut self,
        directories: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<Vec<Vec<u8>>, WatchError>;

    /// Lets go of a directory and of all below it: they do not belong to the tree any more.
    fn remove(&mut self, directory: &[u8]);

    /// The barrier: what became dirty since the last call.
    fn drain(&mut self) -> Result<Dirty, WatchError>;

    /// What waits for changes on another thread, for as long as the watch lives.
    fn waiter(&self) -> Box<dyn Waiter>;

    /// What is covered.
    fn coverage(&self) -> Coverage;
}

/// Waits until there may be something to drain.
pub trait Waiter: Send + std::fmt::Debug {
    /// Blocks until [`Watch::drain`] may have something to say, `patience` is over, or the watch was
    /// dropped; says which. Without `patience` there is no timer.
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

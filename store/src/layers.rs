//! Checkouts that cost nothing: directories that many share, seen through one another.
//!
//! Of each workspace there is a *base*, all of a snapshot on the disk with its repository, and over it *layers*, each with
//! what another snapshot has otherwise. A checkout is both, and over them a writable layer of its own, in which is
//! what was changed.
//!
//! - [`mounter`]: the thread that mounts
//! - [`overlay`]: the file system that shows them together
//! - [`changes`]: what differs between two trees, as a layer holds it
//! - [`record`]: what is known of a layer
//! - [`known`]: the layers that are there
//! - [`making`]: one more
//! - [`stack`]: finding them again, and letting go of them
//! - [`writable`]: what a writable layer changed
//! - [`cloning`], [`clones`]: where there are no overlays and files can share bytes: copies of one checkout
//!
//! **Invariant:** a base or a layer never changes once it is there, and is there whole or not at all.

mod mounter;
pub mod overlay;
mod changes;
mod record;
mod known;
mod making;
mod stack;
mod writable;
pub(crate) mod cloning;
mod clones;
#[cfg(test)]
mod tests;

use crate::checkout::RestoreError;
use crate::error::StoreError;
use crate::fs::FsError;
use crate::git::GitError;

pub use clones::{Cloned, Clones};
pub use known::{LayerId, Stack};
pub use making::LayerOptions;
pub use mounter::keep_mounter;
pub use stack::Layers;
pub(crate) use writable::hides;
pub use writable::{changed, has_moved, left_out};

/// A layer could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The store failed, or a tree in it.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// Its files could not be written.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// Its repository could not be made.
    #[error("making the repository again")]
    Git(#[from] GitError),
}

impl LayerError {
    /// Whether what it was to be made of could not be had: no other way of making it would help.
    pub fn is_of_the_store(&self) -> bool {
        let disk_full = |error: &FsError| error.is_disk_full();
        match self {
            // What an older one had is collected once nothing but it leads there. What is missing of this one is met again.
            Self::Store(StoreError::Absent(_))
            | Self::Restore(RestoreError::Store(StoreError::Absent(_)))
            | Self::Git(GitError::Store(StoreError::Absent(_))) => false,
            Self::Store(_) | Self::Restore(RestoreError::Store(_) | RestoreError::Cancelled) => {
                true
            }
            Self::Fs(error)
            | Self::Restore(RestoreError::Fs(error))
            | Self::Git(GitError::Fs(error)) => disk_full(error),
            Self::Git(error) => matches!(error, GitError::Store(_)),
            Self::Restore(_) => false,
        }
    }
}

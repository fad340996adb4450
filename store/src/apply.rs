//! Bringing what was done elsewhere into a checkout that has moved on, without losing anything.
//!
//! Not here: which checkout is meant, where trees come from, and what becomes of entries of git's index and of refs.
//!
//! - [`crash`]: where tests cut it off
//! - [`form`], [`outcome`]: what stands at a path, and what becomes of it
//! - [`text`]: merging text in three ways
//! - [`ground`]: the checkout; [`ignored`]: what its rules leave out
//! - [`differences`], [`resolve`], [`renames`], [`plan`](mod@plan): what will be done, found from trees
//! - [`record`], [`journal`]: what is known of each apply, on the disk
//! - [`git`]: git beside it, and its lock
//! - [`look`]: what stands in the checkout
//! - [`moves`], [`shelf`]: what goes in and what comes out
//! - [`preflight`]: what is looked at before the first write
//! - [`writing`]: the writes; [`repository`]: those to git's index and refs
//! - [`applies`]: all of it together, and going on with it
//! - [`sweep`]: objects that nobody waits for
//! - [`undo`]: putting it back
//!
//! **Invariant:** every byte that was in the checkout is in it still, on the shelf of the apply for a week, or
//! in the snapshot that was taken before. An error before the first write leaves everything as it was; after
//! it, the apply is gone on with by [`Applies::resume`].
//!
//! **Invariant:** in git's own folder nothing is written before the first write but what goes again: its lock of the index,
//! which is held meanwhile, and objects that no ref names. Refs are changed by git itself.

mod crash;
mod form;
mod outcome;
mod text;
mod ground;
mod ignored;
mod differences;
mod resolve;
mod renames;
mod plan;
mod record;
mod journal;
mod git;
mod look;
mod moves;
mod shelf;
mod preflight;
mod writing;
mod repository;
mod applies;
mod sweep;
mod undo;
#[cfg(test)]
pub(crate) mod testing;

use std::path::PathBuf;

use baton_protocol::id::ApplyId;
use baton_protocol::path::{PathError, RelPath};

use crate::checkout::RestoreError;
use crate::error::StoreError;
use crate::fs::FsError;
use crate::git::GitError;

pub use applies::{Applied, Applies, ApplyLock, Known, Request};
pub use form::Form;
pub use ignored::CheckoutRules;
pub use journal::{Done, Record, Stage};
pub use outcome::{Clash, Kept, Outcome};
pub use plan::{Action, Plan, PlanOptions, Root, Step, Trees, plan};
pub use repository::{RepositoryDone, touches};
pub use text::{MAX_TEXT, merge_entry};
pub use undo::Undone;

/// How long what came out of a checkout is kept, in milliseconds from the end of what took it out.
pub const KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// An apply, or putting one back, failed.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The store or a tree in it failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// What is new could not be written beside the checkout.
    #[error(transparent)]
    Stage(#[from] RestoreError),
    /// A tree has a name that could reach git's own folder. No scan makes such a tree.
    #[error("the tree names {}, which could stand for a .git folder", path.display())]
    GitName {
        /// Within the tree.
        path: RelPath,
    },
    /// A path is none.
    #[error("a path of the plan")]
    Path(#[source] PathError),
    /// The repository of the checkout cannot be brought together with that of what is applied.
    #[error(transparent)]
    Git(#[from] GitError),
    /// Git changed something between the plan and the first write.
    #[error("git changed {what} of this checkout meanwhile")]
    GitMoved {
        /// A ref, or `the index`.
        what: String,
    },
    /// Git is at work in the checkout.
    #[error("{what} in this checkout ({})", path.display())]
    GitBusy {
        /// What git does.
        what: &'static str,
        /// What tells it.
        path: PathBuf,
    },
    /// Another apply to this workspace is under way.
    #[error("another apply to this workspace is under way")]
    Locked,
    /// One to this workspace was cut off, and must be gone on with first.
    #[error("apply {} to this workspace was cut off and is not finished", .0.short())]
    Unfinished(ApplyId),
    /// There is no apply of this id.
    #[error("there is no apply {0}")]
    Unknown(ApplyId),
    /// Another folder is where the checkout was.
    #[error("{} is not the folder that apply {} was made to: is a disk not mounted?", root.display(), id.short())]
    OtherCheckout {
        /// Which apply.
        id: ApplyId,
        /// Where the checkout was.
        root: PathBuf,
    },
    /// The folder with what came out of the checkout is gone.
    #[error("{}, in which an apply keeps what came out of the checkout, is gone", .0.display())]
    NoShelf(PathBuf),
    /// It was put back already.
    #[error("apply {0} was put back already")]
    Undone(ApplyId),
    /// It stopped after the first write.
    #[error("the change of the checkout stopped on its way")]
    Interrupted {
        /// By which it is gone on with, or put back.
        id: ApplyId,
        /// Why.
        source: Box<ApplyError>,
    },
    /// The caller asked to stop, before the first write.
    #[error("the apply was cancelled")]
    Cancelled,
}

impl ApplyError {
    /// The same of an apply that was begun: something may have been changed by then.
    fn on_its_way(self, id: ApplyId) -> Self {
        match self {
            Self::Interrupted { .. } | Self::OtherCheckout { .. } | Self::NoShelf(_) => self,
            error => Self::Interrupted { id, source: Box::new(error) },
        }
    }

    /// Whether a disk is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Store(error)
            | Self::Stage(RestoreError::Store(error))
            | Self::Git(GitError::Store(error)) => error.is_disk_full(),
            Self::Fs(error)
            | Self::Stage(RestoreError::Fs(error))
            | Self::Git(GitError::Fs(error)) => error.is_disk_full(),
            Self::Git(GitError::Git { said, .. }) => said.contains("No space left on device"),
            Self::Interrupted { source, .. } => source.is_disk_full(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;

//! Why a snapshot was not taken.

use std::path::PathBuf;

use baton_store::error::StoreError;
use baton_store::scan::ScanError;
use baton_store::snapshot::SnapshotError;
use baton_store::vault::CommitError;

use crate::agents::findings::Found;
use crate::agents::session::AgentError;

/// A snapshot could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum TakeError {
    /// The tree could not be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The snapshot cannot be represented.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The ref could not be moved.
    #[error("making the snapshot durable")]
    Commit(#[from] CommitError),
    /// A node claims a head that no history of this home can have led to.
    #[error("the node has number {theirs} of this workspace and this home {own}, which cannot be")]
    Ahead {
        /// What the node says.
        theirs: u64,
        /// This home's own number.
        own: u64,
    },
    /// A file to attach could not be read.
    #[error("attaching {}", path.display())]
    Attach {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// History that was cut could not be made whole.
    #[error("making the history of the repository whole")]
    History(#[source] baton_store::git::GitError),
    /// The conversation of an agent could not be read.
    #[error("reading the conversation")]
    Conversation(#[source] AgentError),
    /// Something in the conversation looks like a secret that nobody allowed.
    #[error(
        "the conversation {id} of {agent} holds what looks like a secret, so that nothing was sent"
    )]
    Secrets {
        /// The agent.
        agent: &'static str,
        /// The conversation.
        id: String,
        /// What was found.
        found: Vec<Found>,
    },
    /// Two files to attach have one name.
    #[error("two files to attach are called {}", name.display())]
    SameName {
        /// The name.
        name: PathBuf,
    },
}

//! How a run gets its files and what is installed beside them, and how they are kept when it has ended.
//!
//! Not here: doing it. This is the seam to the store.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use baton_protocol::id::{RunId, SnapshotId, VaultId, WorkspaceId};

use crate::environments::cache::{Kept, Record, SetupPlace};
use crate::environments::key::{Key, Wanted};
use crate::environments::setups::Setups;

/// A run, and the folders that its checkout has.
#[derive(Clone, Debug)]
pub struct Place {
    /// The run.
    pub run: RunId,
    /// Whose objects it has.
    pub vault: VaultId,
    /// What it works on.
    pub workspace: WorkspaceId,
    /// Where its files are seen.
    pub checkout: PathBuf,
    /// Where its attachments are.
    pub attachments: PathBuf,
    /// What a checkout needs beside it.
    pub layer: PathBuf,
    /// What does the work in it.
    pub agent: String,
    /// The home of what does.
    pub home: Option<PathBuf>,
    /// The agent's id of its conversation, once that is known.
    pub conversation: Option<String>,
}

/// Makes checkouts, and snapshots of them. Its methods block, for minutes where a tree is large.
pub trait Checkouts: Send + Sync {
    /// Makes a snapshot's tree stand at `checkout`, which is not there yet, and its attachments in
    /// `attachments`, which is an empty folder.
    ///
    /// A crash in the middle leaves something that no program has run in, and that is never sealed.
    fn prepare(&self, place: &Place, snapshot: SnapshotId) -> Result<Prepared, CheckoutError>;

    /// Writes the conversation of a snapshot, if it has one of the run's agent, into the home of the run, where the agent
    /// finds it and goes on: as the same one, or as a fork of it. The checkout is prepared, and nothing has run in it.
    fn converse(
        &self,
        place: &Place,
        snapshot: SnapshotId,
        is_fork: bool,
    ) -> Result<Option<Conversed>, CheckoutError>;

    /// Makes a durable snapshot of a run's checkout, whose parent is the one that the run started from, and
    /// moves the ref of the run's device to it. Nothing changes the checkout meanwhile.
    ///
    /// Must be safe to repeat: a crash after it returned makes the node ask again.
    fn seal(&self, place: &Place, parent: SnapshotId) -> Result<SnapshotId, CheckoutError>;

    /// As [`Checkouts::seal`], of a checkout in which a program is at work: what changes while it is read is in it as last
    /// seen. The same answer where nothing has changed since the last time.
    fn keep(&self, place: &Place, parent: SnapshotId) -> Result<SnapshotId, CheckoutError>;

    /// Whether anything of a checkout is left.
    fn is_there(&self, checkout: &Path, layer: &Path) -> bool;

    /// Puts a checkout aside in which nothing has run.
    fn release(&self, checkout: &Path, layer: &Path) -> Result<(), CheckoutError>;

    /// Lets go of the checkout of a run that has ended: of what it holds of the machine, and what is kept elsewhere. What
    /// could not be sealed stays where it can be seen.
    fn let_go(&self, checkout: &Path, layer: &Path) -> Result<(), CheckoutError>;

    /// What checkouts are furnished with; nothing where that is not supported.
    fn environments(&self) -> Option<&dyn Environments> {
        None
    }

    /// Takes away what was put aside, and what no checkout needs any more, until it is told to `stop`. Nobody waits for
    /// it; one at a time.
    fn sweep(&self, stop: &AtomicBool) -> Result<(), CheckoutError>;
}

/// Sets up what a tree wants to find installed, and gives it to runs. Its methods block.
pub trait Environments: Send + Sync {
    /// What the tree of a snapshot asks for.
    fn wanted(&self, place: &Place, snapshot: SnapshotId) -> Result<Wanted, CheckoutError>;

    /// Puts an environment that is kept into a checkout, which is prepared and in which nothing has run, and into a home.
    /// What is there stays; nothing is done where the environment is not kept. It is never a part of what the run leaves.
    fn furnish(
        &self,
        place: &Place,
        home: &Path,
        snapshot: SnapshotId,
        key: Key,
    ) -> Result<Option<Kept>, CheckoutError>;

    /// Makes a checkout of a snapshot in which an environment is set up. Whoever asks has the turn.
    fn begin(
        &self,
        place: &Place,
        snapshot: SnapshotId,
        key: Key,
    ) -> Result<SetupPlace, CheckoutError>;

    /// Keeps what was set up. A crash in the middle leaves nothing that is used.
    fn keep(&self, place: &Place, snapshot: SnapshotId, key: Key) -> Result<Record, CheckoutError>;

    /// Lets go of a setup from which nothing is kept.
    fn leave_off(&self, place: &Place, key: Key) -> Result<(), CheckoutError>;

    /// Who sets up what.
    fn setups(&self) -> &Setups;
}

/// What [`Checkouts::prepare`] has made.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    /// Files written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// The receipt for the run, a [`Receipt`](crate::api::control::Receipt) as JSON; `isolated` is filled in by the
    /// node.
    pub receipt: serde_json::Value,
    /// What the run is told of the kind of its checkout.
    pub note: Option<String>,
}

/// A conversation that an agent goes on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversed {
    /// Its id in the home of the run.
    pub id: String,
    /// Where it was held before.
    pub from: Option<PathBuf>,
    /// What of it was not written, for people.
    pub left_out: Vec<String>,
    /// Files in the home that the agent's program is to take in before it goes on with it.
    pub imports: Vec<PathBuf>,
}

/// A checkout cannot be made or kept.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed")]
pub struct CheckoutError {
    /// What was done, as a participle: `restoring the snapshot`.
    pub doing: &'static str,
    /// Why it failed.
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

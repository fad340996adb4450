//! What a `repair` found, mended and left.

use serde::{Deserialize, Serialize};

use super::receipt::Problem;

/// `repair`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RepairAnswer {
    /// What is still wrong: what was lost and nobody had, and what could not be done now.
    pub problems: Vec<Unrepaired>,
    /// What was wrong.
    pub found: Vec<Problem>,
    /// What was done about it.
    pub repaired: Vec<Problem>,
    /// Snapshots that were made whole by what a node had.
    pub fetched: Vec<String>,
    /// Where damaged files are kept.
    pub quarantine: String,
}

/// What `repair` leaves.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Unrepaired {
    /// Which vault, segment, snapshot or path.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
    /// The snapshot that is not whole.
    pub snapshot: Option<String>,
    /// How much of it is known to be gone.
    pub objects: u64,
    /// What to do.
    pub next: String,
}

//! Objects in a repository that nobody waits for any more.
//!
//! **Invariant:** what a record of this home knows stays, and so does what may be of another home's apply under way.

use std::path::Path;

use super::ApplyError;
use super::applies::Applies;
use super::repository::Repository;
use crate::fs;

/// After what time objects that nobody knows of are taken away, in milliseconds.
const LEFT_MS: u64 = 24 * 60 * 60 * 1000;

impl Applies {
    /// Takes objects away that an apply has left in the repository of a checkout, which was cut off before there was
    /// a record of it. Those of the last day stay: another home may have an apply under way there.
    ///
    /// The caller has the [lock](Self::lock) of the workspace.
    pub fn sweep_repository(&self, root: &Path, now_ms: u64) -> Result<(), ApplyError> {
        let Some(tools) = &self.tools else { return Ok(()) };
        if root.join(".git").symlink_metadata().is_err() {
            return Ok(());
        }
        let known: Vec<String> = fs::list_dir(&self.folder)?
            .into_iter()
            .filter_map(|it| it.into_string().ok())
            .collect();
        let is_known = |name: &str| known.iter().any(|it| it == name);
        Repository::sweep(tools, root, now_ms.saturating_sub(LEFT_MS), is_known)
    }
}

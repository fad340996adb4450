//! A repository that stood in the place of the one that is made: what both have is not made again.
//!
//! **Invariant:** what is taken over is what would be made: objects of packs that both have in this order, and what is
//! remembered of files.

use std::path::PathBuf;

use baton_protocol::id::GitStateId;
use baton_protocol::object::{GitPack, GitSettings, GitState};

use super::Plan;
use crate::git::GitError;
use crate::git::index::{self, Index};
use crate::objects::ObjectSource;

/// A repository that was rebuilt from a state, and stands aside: what the next one has in common with it is taken from
/// it.
#[derive(Clone, Debug)]
pub struct Former {
    /// Its folder, which loses its objects.
    pub git_dir: PathBuf,
    /// What it was rebuilt from.
    pub state: GitStateId,
}

/// The same, read.
pub(super) struct Known {
    pub(super) git_dir: PathBuf,
    pub(super) packs: Vec<GitPack>,
    pub(super) index: Option<Index>,
}

impl<S: ObjectSource + ?Sized> Plan<'_, S> {
    /// Reads a repository that stands aside; nothing where the state has nothing in common with it.
    pub(super) fn take_over(&self, it: Former, id: GitStateId) -> Result<Option<Known>, GitError> {
        let (before, now) = (self.load_state(it.state)?, self.load_state(id)?);
        let is_partial = |state: &GitState| -> Result<bool, GitError> {
            let settings = GitSettings::decode(&self.list(state.settings)?)?.0;
            Ok(settings.iter().any(|it| it.section == "remote" && it.key == "promisor"))
        };
        // Each pack builds on those before it.
        if before.hash != now.hash
            || !now.packs.starts_with(&before.packs)
            || is_partial(&before)?
            || is_partial(&now)?
        {
            return Ok(None);
        }
        let index = index::read(&it.git_dir, now.hash)?;
        Ok(Some(Known { git_dir: it.git_dir, packs: before.packs, index }))
    }
}

//! The state of a repository against its older form.

use baton_protocol::id::{GitStateId, ObjectId};
use baton_protocol::object::{GitState, GitUnit};

use super::Plan;
use crate::error::StoreError;
use crate::objects::ObjectSource;
use crate::snapshot::load_git_state;

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// Bytes of a pack from which on the node is left to ask for it: it may have it by another way, as a rest that came
/// before. A trip or two more cost less than to send it again.
const LARGE_PACK: u64 = 8 << 20;

impl<S: ObjectSource + ?Sized> Plan<'_, S> {
    /// Plans a state, and those inside it. Packs do not change: each is there whole or not at all.
    pub(super) fn repository(
        &mut self,
        old: Option<GitStateId>,
        new: GitStateId,
        depth: usize,
    ) -> Result<(), StoreError> {
        if old == Some(new) {
            self.has.insert(new.into());
            return Ok(());
        }
        if depth > MAX_DEPTH {
            return Err(StoreError::DamagedObject(new.into()));
        }
        if !self.emit(new.into(), old.map(ObjectId::from)) {
            return Ok(());
        }
        let after = load_git_state(self.source, new)?;
        let before = old.map(|old| load_git_state(self.source, old)).transpose()?;
        let before = before.as_ref();
        for pack in before.iter().flat_map(|before| &before.packs) {
            self.has.extend([pack.blob, pack.tips].map(|blob| blob.content.id()));
        }
        for pack in &after.packs {
            if pack.blob.size < LARGE_PACK {
                self.blob(None, pack.blob)?;
            }
            self.blob(None, pack.tips)?;
        }
        self.blob(before.map(|before| before.refs), after.refs)?;
        self.blob(before.map(|before| before.settings), after.settings)?;
        let lists = |state: &GitState| [state.index, state.files, state.omitted, state.later];
        let old = before.map(lists).unwrap_or_default();
        for (old, new) in old.into_iter().zip(lists(&after)) {
            if let Some(new) = new {
                self.blob(old, new)?;
            }
        }
        for unit in &after.units {
            let same = |old: &&GitUnit| old.path == unit.path;
            let old = before.and_then(|before| before.units.iter().find(same));
            self.repository(old.map(|old| old.state), unit.state, depth + 1)?;
        }
        Ok(())
    }
}

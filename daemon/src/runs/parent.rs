//! What a run goes on from.
//!
//! **Invariant:** in its thread a run has one follow-up, however many are asked for at once: whoever creates a run holds the
//! lock meanwhile.

use baton_protocol::message::RunSpec;

use super::{Runs, RunsError};

impl Runs {
    /// Whether what a run follows up has ended, and in the thread of that it is the only one that does.
    pub(super) fn check_parent(&self, user: &str, spec: &RunSpec) -> Result<(), RunsError> {
        let Some(parent) = spec.parent else { return Ok(()) };
        let catalog = &self.0.parts.catalog;
        let next = catalog.next_of(parent, spec.thread)?.filter(|next| *next != spec.run);
        let Some(row) = catalog.run(user, parent)? else {
            // On another node, or taken away: what it left came with who goes on from it.
            return next.map_or(Ok(()), |next| Err(RunsError::FollowedUp { parent, next }));
        };
        let known = row.info;
        if self.0.leaving().contains(&parent) {
            return Err(RunsError::NotFound(parent));
        }
        if self.live().contains_key(&parent) || !known.state.is_final() {
            return Err(RunsError::NotEnded(parent));
        }
        let same_thread = known.spec.thread == spec.thread;
        match next {
            Some(next) if same_thread => Err(RunsError::FollowedUp { parent, next }),
            _ => Ok(()),
        }
    }
}

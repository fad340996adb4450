//! Whether everything below an object is here: a walk that stops at what was proved before.
//!
//! The walk goes on where it stopped, so that a push which brings what was missing pays for that and
//! not for the whole again.

use std::collections::HashSet;

use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::object::Object;

use super::intake::Intake;
use crate::error::StoreError;
use crate::objects::ObjectSource;

/// A walk from one root.
#[derive(Debug, Default)]
pub(super) struct Walk {
    root: Option<ObjectId>,
    /// Still to be looked at; what was missing last time is among them.
    open: Vec<ObjectId>,
    /// Metadata that was walked through: it is closed once nothing is open.
    pub(super) walked: HashSet<ObjectId>,
}

impl Walk {
    /// Goes on until nothing is open or `limit` objects are missing, which are returned.
    pub(super) fn advance(
        &mut self,
        intake: &Intake,
        root: ObjectId,
        limit: usize,
    ) -> Result<Vec<ObjectId>, StoreError> {
        if self.root != Some(root) {
            *self = Self { root: Some(root), open: vec![root], walked: HashSet::new() };
        }
        let mut missing = Vec::new();
        let mut asked = HashSet::new();
        while missing.len() < limit
            && let Some(id) = self.open.pop()
        {
            if id.kind == ObjectKind::Chunk {
                if !intake.contains(&id)? && asked.insert(id) {
                    missing.push(id);
                }
                continue;
            }
            if self.walked.contains(&id) || intake.vault().closed(&id)? == Some(true) {
                continue;
            }
            let Some(bytes) = intake.read(&id)? else {
                if asked.insert(id) {
                    missing.push(id);
                }
                continue;
            };
            let object =
                Object::decode(id.kind, &bytes).map_err(|_| StoreError::DamagedObject(id))?;
            self.walked.insert(id);
            self.open.extend(object.children());
        }
        self.open.extend(&missing);
        Ok(missing)
    }
}

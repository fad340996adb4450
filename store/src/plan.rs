//! What to send when a node has one snapshot and is to have another.
//!
//! Not here: sending, and what happens where the guess was wrong; a push asks again for what is
//! missing.
//!
//! - [`directories`]: nodes of directories
//! - [`content`]: manifests and chunks
//! - [`repository`]: the state of a repository
//!
//! **Invariant:** children come before what names them, so that the receiver knows how that changes, and
//! nothing comes twice. What is left out is reachable from the base.

mod content;
mod directories;
mod repository;

use std::collections::{HashMap, HashSet};

use baton_protocol::id::{ConversationId, ObjectId, SnapshotId, TreeId};
use baton_protocol::object::{Blob, Conversation, Entry, Part, Snapshot};
use baton_protocol::session::push::Planned;

use directories::Compared;

use crate::error::StoreError;
use crate::objects::ObjectSource;
use crate::snapshot::{load_conversation, load_snapshot};

/// Snapshots that are looked through for an older form of a conversation.
const MAX_BACK: usize = 256;

/// Says what to send of `new` to a node that has `base`, and against what.
///
/// Without a base, or where the base is not here any more, it is the snapshot and its root: the node
/// asks its way down. It asks for large new packs in any case, for most of them may have been sent ahead.
pub fn plan_push<S: ObjectSource + ?Sized>(
    source: &S,
    base: Option<SnapshotId>,
    new: SnapshotId,
) -> Result<Vec<Planned>, StoreError> {
    let snapshot = load_snapshot(source, new)?;
    if let Some(base) = base {
        match against(source, base, new, &snapshot) {
            Ok(mut plan) => {
                plan.reverse();
                return Ok(plan);
            }
            Err(error) if error.is_corruption() => {
                tracing::warn!(%error, %base, "planning a push without its base");
            }
            Err(error) => return Err(error),
        }
    }
    let planned = |id| Planned { id, base: None };
    Ok(vec![planned(new.into()), planned(snapshot.root.into())])
}

fn against<S: ObjectSource + ?Sized>(
    source: &S,
    base: SnapshotId,
    new: SnapshotId,
    snapshot: &Snapshot,
) -> Result<Vec<Planned>, StoreError> {
    let old = load_snapshot(source, base)?;
    let mut plan = Plan::new(source);
    if base == new {
        return Ok(plan.planned);
    }
    plan.has.insert(base.into());
    plan.emit(new.into(), Some(base.into()));
    plan.directories(old.root, snapshot.root)?;
    if let Some(omitted) = snapshot.omitted {
        plan.blob(old.omitted, omitted)?;
    }
    if let Some(git) = snapshot.git {
        plan.repository(old.git, git, 0)?;
    }
    let new: Vec<_> =
        snapshot.conversations.iter().filter(|id| !old.conversations.contains(id)).collect();
    if !new.is_empty() {
        let conversations = conversations_before(source, &old)?;
        for &id in new {
            plan.conversation(&conversations, id)?;
        }
    }
    Ok(plan.planned)
}

/// The conversations of a snapshot and of those before it, the newest form of each first: background snapshots between
/// two handoffs have none.
fn conversations_before<S: ObjectSource + ?Sized>(
    source: &S,
    base: &Snapshot,
) -> Result<Vec<(ConversationId, Conversation)>, StoreError> {
    let mut found: Vec<(ConversationId, Conversation)> = Vec::new();
    let mut at = base.clone();
    for _ in 0..MAX_BACK {
        for &id in &at.conversations {
            found.push((id, load_conversation(source, id)?));
        }
        let Some(&parent) = at.parents.first() else { break };
        if !source.contains(&parent.into())? {
            break;
        }
        at = load_snapshot(source, parent)?;
    }
    Ok(found)
}

/// A plan under way.
struct Plan<'a, S: ?Sized> {
    source: &'a S,
    planned: Vec<Planned>,
    /// What the node has, as far as it was met, and what is planned.
    has: HashSet<ObjectId>,
    /// What the old side has where the new one has nothing of that name.
    gone: Vec<Entry>,
    /// Pairs of directories that were compared and are still to be planned.
    kept: HashMap<(TreeId, TreeId), Compared>,
}

impl<'a, S: ObjectSource + ?Sized> Plan<'a, S> {
    fn new(source: &'a S) -> Self {
        Self {
            source,
            planned: Vec::new(),
            has: HashSet::new(),
            gone: Vec::new(),
            kept: HashMap::new(),
        }
    }

    /// Plans an object; says whether that is new.
    fn emit(&mut self, id: ObjectId, base: Option<ObjectId>) -> bool {
        let is_new = self.has.insert(id);
        if is_new {
            // Only an object of the same kind is a base.
            let base = base.filter(|base| base.kind == id.kind);
            self.planned.push(Planned { id, base });
        }
        is_new
    }

    /// Plans a conversation against an older form of the same session.
    fn conversation(
        &mut self,
        old: &[(ConversationId, Conversation)],
        id: ConversationId,
    ) -> Result<(), StoreError> {
        let new = load_conversation(self.source, id)?;
        let same = |(_, old): &&(ConversationId, Conversation)| {
            old.agent == new.agent && old.session == new.session
        };
        let old = old.iter().find(same);
        if !self.emit(id.into(), old.map(|&(id, _)| id.into())) {
            return Ok(());
        }
        let parts = |of: fn(&Conversation) -> &Vec<Part>| {
            let before = old.map(|(_, old)| of(old).as_slice()).unwrap_or_default();
            (before, of(&new).as_slice())
        };
        for (before, after) in [parts(|c| &c.transcript), parts(|c| &c.attachments)] {
            for part in after {
                let old: Option<Blob> =
                    before.iter().find(|old| old.path == part.path).map(|old| old.blob);
                self.blob(old, part.blob)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

//! The conversations of agents in runs: out of a vault into the home of a run, and back into it.
//!
//! **Invariant:** a home is what its runs have made of it: nothing is read or written there through a link.

use std::path::Path;

use baton_protocol::id::{ConversationId, SnapshotId};
use baton_protocol::object::{Conversation, Omission, OmitReason, Snapshot};
use baton_protocol::path::RelPath;
use baton_store::folder::Folder;
use baton_store::secrets::known::KnownValues;
use baton_store::snapshot::{load_conversation, load_snapshot};
use baton_store::vault::{Intake, Vault};

use super::{Doing, NodeCheckouts};
use crate::agents;
use crate::agents::adapter::Agent;
use crate::agents::capture::{Source, capture, find, look, sessions};
use crate::agents::departed::take_out;
use crate::agents::findings::Looking;
use crate::agents::restore::{Destination, Form, is_on_its_way, restore};
use crate::agents::session::{AgentError, Session};
use crate::runs::checkout::{CheckoutError, Conversed, Place};

const CONVERSING: &str = "writing the conversation";

/// The agent's folder in the home of a run.
fn folder_in(
    agent: &dyn Agent,
    home: &Path,
    scratch: &Path,
    create: bool,
) -> Result<Option<Folder>, AgentError> {
    let name = RelPath::new(agent.default_folder().as_bytes()).unwrap_or_default();
    let folder = Folder::open_in(home, &name, create)?;
    Ok(folder.map(|folder| folder.with_scratch(scratch)))
}

/// The conversation of this agent in a snapshot.
fn conversation_of(
    agent: &dyn Agent,
    vault: &Vault,
    snapshot: &Snapshot,
) -> Result<Option<Conversation>, AgentError> {
    for &id in &snapshot.conversations {
        let conversation = load_conversation(vault, id)?;
        if conversation.agent == agent.name() && !conversation.transcript.is_empty() {
            return Ok(Some(conversation));
        }
    }
    Ok(None)
}

impl NodeCheckouts {
    pub(super) fn write_conversation(
        &self,
        place: &Place,
        snapshot: SnapshotId,
        is_fork: bool,
    ) -> Result<Option<Conversed>, CheckoutError> {
        let (Some(agent), Some(home)) = (agents::named(&place.agent), &place.home) else {
            return Ok(None);
        };
        let vault = self.store.vault(place.vault).doing(CONVERSING)?;
        let loaded = load_snapshot(&vault, snapshot).doing(CONVERSING)?;
        let Some(conversation) = conversation_of(agent, &vault, &loaded).doing(CONVERSING)? else {
            return Ok(None);
        };
        let folder = folder_in(agent, home, &self.scratch, true).doing(CONVERSING)?;
        let missing = || AgentError::NoFolder { path: home.clone() };
        let folder = folder.ok_or_else(missing).doing(CONVERSING)?;
        let form = if is_fork { Form::ForkAtHandoff } else { Form::Same };
        if !is_fork {
            // The run before has left it there, at another path.
            take_out(agent, &vault, &conversation, &folder).doing(CONVERSING)?;
        }
        let destination = Destination {
            folder: &folder,
            seen_as: None,
            root: &place.checkout,
            home: Some(home.as_path()),
        };
        let restored = restore(agent, &vault, &conversation, &destination, form);
        let restored = match restored {
            // It asked for the handoff in its first turn: there is nothing to go on from.
            Err(AgentError::NothingBefore) => return Ok(None),
            restored => restored.doing(CONVERSING)?,
        };
        let left =
            |left: &agents::session::LeftOut| format!("{} ({})", left.path, left.reason.name());
        Ok(Some(Conversed {
            id: restored.id,
            from: Some(restored.from),
            left_out: restored.left_out.iter().map(left).collect(),
            imports: restored.imports,
        }))
    }

    /// The conversations of what a run leaves: that of its agent as it is now, and the others that it came with. Where it
    /// cannot be kept, or what the run was given stands in it, it is as it was, and named.
    pub(super) fn conversations(
        &self,
        place: &Place,
        before: &Snapshot,
        intake: &Intake,
        vault: &Vault,
    ) -> (Vec<ConversationId>, Option<Omission>) {
        let as_it_was = || before.conversations.clone();
        let Some(agent) = agents::named(&place.agent) else { return (as_it_was(), None) };
        let known = self.secrets.to_hold(place.vault, place.run);
        let captured = match capture_here(agent, place, &self.scratch, known.as_deref(), intake) {
            Ok(Kept::Stored(captured)) => captured,
            Ok(Kept::None) => return (as_it_was(), None),
            Ok(Kept::Held(id)) => return (as_it_was(), Some(omission(&id, OmitReason::Secret))),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(run = %place.run, error, "the conversation of a run is left as it was");
                let named = place.conversation.as_deref().unwrap_or(agent.name());
                return (as_it_was(), Some(omission(named, OmitReason::Unreadable)));
            }
        };
        let is_other = |id: &ConversationId| {
            let loaded = load_conversation(vault, *id);
            loaded.is_ok_and(|it| it.agent != agent.name() || it.transcript.is_empty())
        };
        let others = before.conversations.iter().copied().filter(is_other);
        (others.chain([captured]).collect(), None)
    }
}

/// What became of a conversation.
enum Kept {
    /// The agent has none.
    None,
    Stored(ConversationId),
    /// Something stands in it that may not leave.
    Held(String),
}

fn omission(id: &str, reason: OmitReason) -> Omission {
    // Of an id, or a name of ours.
    let path = RelPath::new(format!("conversation/{id}").as_bytes()).unwrap_or_default();
    Omission { path, reason }
}

/// Puts the conversation of a run's agent into a store.
fn capture_here(
    agent: &dyn Agent,
    place: &Place,
    scratch: &Path,
    known: Option<&KnownValues>,
    intake: &Intake,
) -> Result<Kept, AgentError> {
    let Some(home) = &place.home else { return Ok(Kept::None) };
    let Some(folder) = folder_in(agent, home, scratch, false)? else { return Ok(Kept::None) };
    if let Some(id) = &place.conversation
        && is_on_its_way(agent, &folder, id)?
    {
        // What is there may be the beginning of what it came with.
        return Ok(Kept::None);
    }
    let source = Source { folder: &folder, root: &place.checkout, home: Some(home) };
    let Some(session) = session_of(agent, place, &source)? else { return Ok(Kept::None) };
    let looked = look(agent, &source, &session, known.map(Looking::Known), true)?;
    if !looked.found.is_empty() {
        return Ok(Kept::Held(session.id));
    }
    Ok(Kept::Stored(capture(agent, &source, &session, looked, intake)?.id))
}

/// The one that it said is its own; else the one that was written to last.
fn session_of(
    agent: &dyn Agent,
    place: &Place,
    source: &Source<'_>,
) -> Result<Option<Session>, AgentError> {
    if let Some(id) = &place.conversation {
        match find(agent, source, Some(id)) {
            Err(AgentError::NoSession { .. }) => {}
            found => return found,
        }
    }
    Ok(sessions(agent, source)?.into_iter().next())
}

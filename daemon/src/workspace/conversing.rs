//! The conversation that travels with a snapshot: looked at first, and stored when nothing in it holds it back.
//!
//! **Invariant:** nothing of a conversation is where anything is sent from before all of it was looked at, and what is
//! stored is what was looked at.

use std::path::{Path, PathBuf};

use baton_protocol::id::{ConversationId, WorkspaceId};
use baton_protocol::object::{Omission, OmitReason};
use baton_protocol::path::RelPath;
use baton_store::catalog::held::HeldFinding;
use baton_store::folder::Folder;
use baton_store::vault::Intake;

use super::{TakeError, TakeOptions, Workspaces};
use crate::agents;
use crate::agents::adapter::Agent;
use crate::agents::capture::{Captured, Source, capture, look};
use crate::agents::findings::Looking;
use crate::agents::session::{AgentError, LeftOut, Reason, Session};

/// Files that are named one by one.
const SHOWN: usize = 3;

/// Files that a receipt names.
const MOST_NAMED: usize = 100;

/// A conversation that is to travel.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The agent's name.
    pub agent: &'static str,
    /// Which.
    pub session: Session,
    /// The folder of the agent.
    pub folder: PathBuf,
    /// The root of the workspace.
    pub root: PathBuf,
    /// The home of the user.
    pub home: Option<PathBuf>,
    /// Whether somebody asked for it: then it is an error where it cannot be read.
    pub is_asked: bool,
    /// Whether that was by its id: then it travels with what it goes on from, wherever that was held.
    pub is_named: bool,
}

impl Wanted {
    fn open<T>(
        &self,
        scratch: &Path,
        read: impl FnOnce(&'static dyn Agent, &Source<'_>) -> Result<T, AgentError>,
    ) -> Result<T, AgentError> {
        let Self { agent, session, folder: path, root, home, .. } = self;
        let gone = || AgentError::NoSession { agent, id: session.id.clone(), folder: path.clone() };
        let agent = agents::named(agent).ok_or_else(gone)?;
        let folder = Folder::open(path)?.ok_or_else(gone)?.with_scratch(scratch);
        read(agent, &Source { folder: &folder, root, home: home.as_deref() })
    }

    /// What a receipt says of a file of it.
    fn omission(&self, file: Option<&str>, reason: OmitReason) -> Option<Omission> {
        let (agent, id) = (self.agent, &self.session.id);
        let file = file.map(|file| format!("/{file}")).unwrap_or_default();
        let path = RelPath::new(format!("conversation/{agent}/{id}{file}").as_bytes()).ok()?;
        Some(Omission { path, reason })
    }
}

/// What looking at a conversation came to.
#[derive(Debug, Default)]
pub(super) struct LookedAt {
    /// Nothing where none travels.
    travels: Option<(Wanted, Captured)>,
    /// What people should know.
    pub(super) notes: Vec<String>,
    /// What of it stays here.
    pub(super) omitted: Vec<Omission>,
}

impl Workspaces {
    /// Looks at the conversation that is to travel; an error where something in it looks like a secret that nobody
    /// allowed.
    pub(super) fn look_at_conversation(
        &self,
        workspace: WorkspaceId,
        options: &TakeOptions,
    ) -> Result<LookedAt, TakeError> {
        let mut looked_at = LookedAt::default();
        let Some(wanted) = &options.conversation else { return Ok(looked_at) };
        let Session { id, .. } = &wanted.session;
        let allowed = self.catalog.allowed(workspace)?;
        let looking =
            self.secrets.as_deref().map(|rules| Looking::Rules { rules, allowed: &allowed });
        let looked = wanted.open(&self.scratch, |agent, source| {
            look(agent, source, &wanted.session, looking, wanted.is_named)
        });
        let captured = match looked {
            Ok(captured) => captured,
            Err(AgentError::Store(error)) => return Err(error.into()),
            Err(error) if wanted.is_asked => return Err(TakeError::Conversation(error)),
            Err(error) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                looked_at.notes.push(format!("conversation {id} does not travel: {error}{hint}"));
                looked_at.omitted.extend(wanted.omission(None, OmitReason::Unreadable));
                return Ok(looked_at);
            }
        };
        if !captured.found.is_empty() {
            let now = self.clock.now_ms();
            let held =
                captured.found.iter().map(|it| HeldFinding::said(&it.file, &it.finding(), now));
            self.catalog.set_said(workspace, &held.collect::<Vec<_>>())?;
            let (agent, id, found) = (wanted.agent, id.clone(), captured.found);
            return Err(TakeError::Secrets { agent, id, found });
        }
        if self.secrets.is_none() {
            let note = "travels without having been searched for secrets: sync.secrets is off";
            looked_at.notes.push(format!("conversation {id} {note}"));
        }
        looked_at.notes.extend(captured.notes.iter().cloned());
        let left_out = &captured.left_out;
        looked_at.notes.extend(left_note(id, left_out));
        let omission = |left: &LeftOut| wanted.omission(Some(&left.path), reason(left.reason));
        looked_at.omitted.extend(left_out.iter().take(MOST_NAMED).filter_map(omission));
        looked_at.travels = Some((wanted.clone(), captured));
        Ok(looked_at)
    }
}

impl LookedAt {
    /// Stores what was looked at; an error where that is not there any more.
    pub(super) fn store(
        &self,
        intake: &Intake,
        scratch: &Path,
    ) -> Result<Vec<ConversationId>, TakeError> {
        let Some((wanted, looked)) = &self.travels else { return Ok(Vec::new()) };
        let stored = wanted.open(scratch, |agent, source| {
            capture(agent, source, &wanted.session, looked.clone(), intake)
        });
        match stored {
            Ok(captured) => Ok(vec![captured.id]),
            Err(AgentError::Store(error)) => Err(error.into()),
            Err(error) => Err(TakeError::Conversation(error)),
        }
    }
}

fn left_note(id: &str, left_out: &[LeftOut]) -> Option<String> {
    let named: Vec<_> = (left_out.iter().take(SHOWN))
        .map(|it| format!("{} ({})", it.path, it.reason.name()))
        .collect();
    let more = left_out.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = named.join(", ");
    (!left_out.is_empty()).then(|| format!("of conversation {id} stays here: {named}{more}"))
}

const fn reason(reason: Reason) -> OmitReason {
    match reason {
        Reason::Special => OmitReason::Special,
        _ => OmitReason::NotCarried,
    }
}

#[cfg(test)]
mod tests;

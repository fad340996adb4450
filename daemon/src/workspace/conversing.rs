//! The conversation that travels with a snapshot.

use std::path::PathBuf;

use baton_protocol::id::ConversationId;
use baton_store::folder::Folder;
use baton_store::secrets::SecretRules;
use baton_store::vault::Intake;

use super::{TakeError, TakeOptions};
use crate::agents;
use crate::agents::capture::{Captured, Source, capture};
use crate::agents::session::{AgentError, Session};

/// Findings that are named one by one.
const SHOWN: usize = 3;

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
    /// Whether it travels with what looks like a secret in it.
    pub despite: bool,
}

/// Stores the conversation, and says what people should know of it.
pub(super) fn carry(
    intake: &Intake,
    options: &TakeOptions,
    rules: Option<&SecretRules>,
) -> Result<(Vec<ConversationId>, Vec<String>), TakeError> {
    let Some(wanted) = &options.conversation else { return Ok(<_>::default()) };
    match read(intake, wanted, rules) {
        Ok(captured) => Ok(report(wanted, &captured)),
        Err(AgentError::Store(error)) => Err(error.into()),
        Err(error) if wanted.is_asked => Err(TakeError::Conversation(error)),
        Err(error) => {
            let Session { id, .. } = &wanted.session;
            let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
            Ok((Vec::new(), vec![format!("conversation {id} does not travel: {error}{hint}")]))
        }
    }
}

fn read(
    intake: &Intake,
    wanted: &Wanted,
    rules: Option<&SecretRules>,
) -> Result<Captured, AgentError> {
    let Wanted { agent, session, folder: path, root, home, .. } = wanted;
    let gone = || AgentError::NoSession { agent, id: session.id.clone(), folder: path.clone() };
    let agent = agents::named(agent).ok_or_else(gone)?;
    let folder = Folder::open(path)?.ok_or_else(gone)?;
    let source = Source { folder: &folder, root, home: home.as_deref() };
    capture(agent, &source, session, rules, intake)
}

fn report(wanted: &Wanted, captured: &Captured) -> (Vec<ConversationId>, Vec<String>) {
    let Session { id, .. } = &wanted.session;
    let mut notes = Vec::new();
    let found = &captured.found;
    let holds = !found.is_empty() && !wanted.despite;
    if !found.is_empty() {
        let named: Vec<_> = (found.iter().take(SHOWN))
            .map(|it| format!("{} in line {} of {}", it.rule, it.line, it.file))
            .collect();
        let more = found.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        let named = named.join(", ") + &more;
        notes.push(if holds {
            format!(
                "conversation {id} does not travel: something in it looks like a secret ({named}). \
                 To carry it all the same: --conversation {id}; to silence this: --conversation none"
            )
        } else {
            format!("conversation {id} travels with what looks like a secret: {named}")
        });
    }
    if holds {
        return (Vec::new(), notes);
    }
    if !captured.left_out.is_empty() {
        let named: Vec<_> = (captured.left_out.iter().take(SHOWN))
            .map(|it| format!("{} ({})", it.path, it.reason.name()))
            .collect();
        let more = captured.left_out.len().saturating_sub(SHOWN);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        notes.push(format!("of conversation {id} stays here: {}{more}", named.join(", ")));
    }
    (vec![captured.id], notes)
}

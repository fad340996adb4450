//! Which conversation travels with a handoff, and where one goes on that comes home.
//!
//! **Invariant:** a handoff for which nobody asked for a conversation never fails for one; and a pull whose files are
//! there never fails for one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::id::SnapshotId;
use baton_store::folder::Folder;
use baton_store::snapshot::{load_conversation, load_snapshot};

use super::Daemon;
use super::failure::Fail;
use super::report::to_path;
use crate::agents;
use crate::agents::adapter::Agent;
use crate::agents::capture::{Source, find, sessions};
use crate::agents::restore::{Destination, Form, Restored, restore};
use crate::agents::session::{AgentError, Session, is_id};
use crate::api::control::{AgentFolders, Bytes, ConversationChoice, ConversationEntry};
use crate::api::socket::EventSender;
use crate::clock::rfc3339;
use crate::workspace::conversing::Wanted;

/// Conversations that a message lists.
const SHOWN: usize = 8;

/// Folders as they came over the socket.
struct Folders {
    home: Option<PathBuf>,
    all: Vec<(&'static dyn Agent, PathBuf)>,
}

impl Folders {
    fn new(folders: AgentFolders) -> Self {
        let home = folders.home.map(to_path);
        let known = folders
            .folders
            .into_iter()
            .filter_map(|folder| Some((agents::named(&folder.agent)?, to_path(folder.path))));
        Self { home, all: known.collect() }
    }

    /// Those that exist.
    fn open(&self) -> Result<Vec<(&'static dyn Agent, Folder)>, AgentError> {
        let mut found = Vec::new();
        for (agent, path) in &self.all {
            found.extend(Folder::open(path)?.map(|folder| (*agent, folder)));
        }
        Ok(found)
    }
}

impl Daemon {
    /// The conversation that travels with a handoff.
    pub(super) async fn conversation(
        self: &Arc<Self>,
        root: PathBuf,
        choice: ConversationChoice,
        folders: AgentFolders,
        events: &EventSender,
    ) -> Result<Option<Wanted>, Fail> {
        if choice == ConversationChoice::None {
            return Ok(None);
        }
        let is_said = choice != ConversationChoice::Unsaid;
        let chosen = self
            .blocking("conversation", move |_| {
                Ok(choose(&root, &choice, &Folders::new(folders)).map_err(said))
            })
            .await?;
        match chosen {
            Ok(chosen) => Ok(chosen),
            Err(fail) if is_said => Err(fail),
            Err(Fail(failure)) => {
                let hint = failure.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
                let note = format!("no conversation travels: {}{hint}", failure.message);
                events.note(note).await;
                Ok(None)
            }
        }
    }

    /// Writes the conversation of a snapshot so that it goes on in a folder; says how.
    pub(super) async fn go_on(
        self: &Arc<Self>,
        snapshot: SnapshotId,
        root: PathBuf,
        folders: AgentFolders,
        events: &EventSender,
    ) -> Result<Vec<String>, Fail> {
        let written = self
            .blocking("conversation", move |daemon| {
                daemon.write_conversation(snapshot, &root, &Folders::new(folders))
            })
            .await;
        match written {
            Ok(None) => Ok(Vec::new()),
            Ok(Some(restored)) => {
                for left in &restored.left_out {
                    let (path, reason) = (&left.path, left.reason.name());
                    events
                        .note(format!("of the conversation: {path} was not written ({reason})"))
                        .await;
                }
                Ok(restored.resume)
            }
            Err(Fail(failure)) => {
                events.note(format!("the conversation was not written: {}", failure.message)).await;
                Ok(Vec::new())
            }
        }
    }

    fn write_conversation(
        &self,
        snapshot: SnapshotId,
        root: &Path,
        folders: &Folders,
    ) -> Result<Option<Restored>, Fail> {
        let vault = &self.workspaces.vault;
        let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        for id in load_snapshot(vault, snapshot)?.conversations {
            let conversation = load_conversation(vault, id)?;
            let of_it = folders.all.iter().find(|(agent, _)| agent.name() == conversation.agent);
            let Some((agent, path)) = of_it.filter(|_| !conversation.transcript.is_empty()) else {
                continue;
            };
            let folder = Folder::open_or_create(path).map_err(AgentError::from)?;
            let destination = Destination {
                folder: &folder,
                seen_as: None,
                root: &real,
                home: folders.home.as_deref(),
            };
            let restored = restore(*agent, vault, &conversation, &destination, Form::Same)?;
            return Ok(Some(restored));
        }
        Ok(None)
    }
}

fn choose(
    root: &Path,
    choice: &ConversationChoice,
    folders: &Folders,
) -> Result<Option<Wanted>, AgentError> {
    let open = folders.open()?;
    let home = folders.home.as_deref();
    let mut fitting: Vec<(&'static dyn Agent, &Folder, Session)> = Vec::new();
    let mut missing = None;
    for (agent, folder) in &open {
        let source = Source { folder, root, home };
        match choice {
            ConversationChoice::Id(id) if is_id(id) => match find(*agent, &source, Some(id)) {
                Ok(found) => fitting.extend(found.map(|session| (*agent, folder, session))),
                Err(error @ AgentError::NoSession { .. }) => missing = Some(error),
                Err(error) => return Err(error),
            },
            ConversationChoice::Id(begin) => {
                let found = sessions(*agent, &source)?.into_iter();
                let found = found.filter(|session| session.id.starts_with(begin.as_str()));
                fitting.extend(found.map(|session| (*agent, folder, session)));
            }
            _ => fitting.extend(
                sessions(*agent, &source)?.into_iter().map(|session| (*agent, folder, session)),
            ),
        }
    }
    if fitting.len() > 1 {
        let agent = fitting.first().map_or("", |(agent, ..)| agent.title());
        let sessions = fitting.into_iter().map(|(_, _, session)| session).collect();
        return Err(AgentError::Several { agent, sessions });
    }
    let found = fitting.pop().map(|(agent, folder, session)| Wanted {
        agent: agent.name(),
        session,
        folder: folder.path().to_owned(),
        root: root.to_owned(),
        home: folders.home.clone(),
        is_asked: *choice != ConversationChoice::Unsaid,
        despite: matches!(choice, ConversationChoice::Id(_)),
    });
    match (found, choice, missing) {
        (None, ConversationChoice::Id(_), Some(missing)) => Err(missing),
        (None, ConversationChoice::Id(id), None) => {
            let folder = root.to_owned();
            Err(AgentError::NoSession { agent: "this workspace", id: id.clone(), folder })
        }
        (found, ..) => Ok(found),
    }
}

/// With the list of those that fit.
fn said(error: AgentError) -> Fail {
    let mut list = String::new();
    if let AgentError::Several { sessions, .. } = &error {
        for Session { id, modified_ms, title, .. } in sessions.iter().take(SHOWN) {
            let _ = write!(list, "\n  {id}  {}  {title}", rfc3339(*modified_ms));
        }
    }
    let mut fail = Fail::from(error);
    fail.0.message.push_str(&list);
    fail
}

/// What the command line shows of an agent's conversations in a workspace.
pub fn entries(
    agent: &dyn Agent,
    path: &Path,
    root: &Path,
) -> Result<Vec<ConversationEntry>, Fail> {
    let Some(folder) = Folder::open(path).map_err(AgentError::from)? else { return Ok(Vec::new()) };
    let source = Source { folder: &folder, root, home: None };
    let entry = |session: Session| ConversationEntry {
        conversation: session.id,
        cwd: session.cwd.to_string_lossy().into_owned(),
        title: session.title,
        modified_at: rfc3339(session.modified_ms),
    };
    Ok(sessions(agent, &source)?.into_iter().map(entry).collect())
}

/// The path of bytes of a call.
pub fn path_of(bytes: &Bytes) -> PathBuf {
    to_path(bytes.clone())
}

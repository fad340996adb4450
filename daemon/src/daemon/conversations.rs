//! Which conversation travels with a handoff, and where one goes on that comes home.
//!
//! **Invariant:** where nobody asked for a conversation, none that cannot be read fails a handoff; and a pull whose files
//! are there never fails for one.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::id::SnapshotId;
use baton_store::folder::Folder;
use baton_store::snapshot::{load_conversation, load_snapshot};

use super::Daemon;
use super::failure::{Fail, chain};
use super::report::to_path;
use crate::agents;
use crate::agents::adapter::Agent;
use crate::agents::capture::{Source, find, sessions};
use crate::agents::marks::Mark;
use crate::agents::restore::{Destination, Form, Restored, restore};
use crate::agents::session::{AgentError, LeftOut, Reason, Session};
use crate::api::control::{
    AgentFolders, Bytes, ConversationChoice, ConversationEntry, OmittedEntry, ReportPath,
};
use crate::api::socket::EventSender;
use crate::clock::rfc3339;
use crate::workspace::conversing::Wanted;

/// Conversations that a message lists.
const SHOWN: usize = 8;

/// Folders as they came over the socket.
struct Folders {
    home: Option<PathBuf>,
    /// Where something can be put for a moment.
    scratch: PathBuf,
    all: Vec<(&'static dyn Agent, PathBuf)>,
}

impl Folders {
    fn new(folders: AgentFolders, scratch: &Path) -> Self {
        let home = folders.home.map(to_path);
        let known = folders
            .folders
            .into_iter()
            .filter_map(|folder| Some((agents::named(&folder.agent)?, to_path(folder.path))));
        Self { home, scratch: scratch.to_owned(), all: known.collect() }
    }

    /// Those that exist, and what is wrong with others.
    fn open(&self) -> (Vec<(&'static dyn Agent, Folder)>, Vec<AgentError>) {
        let (mut open, mut failed) = (Vec::new(), Vec::new());
        for (agent, path) in &self.all {
            match Folder::open(path) {
                Ok(folder) => {
                    open.extend(folder.map(|folder| (*agent, folder.with_scratch(&self.scratch))));
                }
                Err(error) => failed.push(error.into()),
            }
        }
        (open, failed)
    }
}

/// How a conversation goes on that came home.
#[derive(Debug, Default)]
pub(super) struct GoesOn {
    /// What a person types.
    pub(super) resume: Vec<String>,
    /// What is to be run before, by whoever knows where the program is.
    pub(super) imports: Vec<Vec<String>>,
    /// What was not written.
    pub(super) omitted: Vec<OmittedEntry>,
}

impl Daemon {
    /// The conversation that travels with a handoff. Where nothing was said it does if an agent can go on with it.
    pub(super) async fn conversation(
        self: &Arc<Self>,
        root: PathBuf,
        (choice, speaks): (ConversationChoice, Option<String>),
        is_for_agent: bool,
        folders: AgentFolders,
        events: &EventSender,
    ) -> Result<Option<Wanted>, Fail> {
        if choice == ConversationChoice::None {
            return Ok(None);
        }
        let is_said = choice != ConversationChoice::Unsaid;
        let chosen = self
            .blocking("conversation", move |daemon| {
                let folders = Folders::new(folders, &daemon.workspaces.scratch);
                if !is_said && !is_for_agent {
                    return Ok(Ok((None, stays(&root, &folders))));
                }
                let marks = daemon.options.home.sessions_dir();
                Ok(choose(&root, (&choice, speaks.as_deref()), &folders, &marks)
                    .map(|chosen| (chosen, None)))
            })
            .await?;
        match chosen {
            Ok((chosen, note)) => {
                if let Some(note) = note {
                    events.note(note).await;
                }
                Ok(chosen)
            }
            Err(error) if is_said || matches!(error, AgentError::Several { .. }) => {
                Err(said(error))
            }
            Err(error) => {
                let hint = error.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                events.note(format!("no conversation travels: {}{hint}", chain(&error))).await;
                Ok(None)
            }
        }
    }

    /// Writes the conversation of a snapshot so that it goes on in a folder; says how, and what was not written.
    pub(super) async fn go_on(
        self: &Arc<Self>,
        snapshot: SnapshotId,
        root: PathBuf,
        folders: AgentFolders,
        events: &EventSender,
    ) -> GoesOn {
        let skipped = |path: &str, reason: &str| OmittedEntry {
            path: ReportPath::new(format!("conversation{path}").as_bytes()),
            reason: reason.to_owned(),
        };
        let written = self
            .blocking("conversation", move |daemon| {
                let folders = Folders::new(folders, &daemon.workspaces.scratch);
                daemon.write_conversation(snapshot, &root, &folders)
            })
            .await;
        match written {
            Ok(None) => GoesOn::default(),
            Ok(Some((agent, restored))) => {
                let mut all = Vec::new();
                for left in &restored.left_out {
                    let (path, reason) = (&left.path, left.reason.name());
                    events
                        .note(format!("of the conversation: {path} was not written ({reason})"))
                        .await;
                    all.push(skipped(&format!("/{path}"), reason));
                }
                let import = |file: &PathBuf| {
                    let arguments = agent.kept()?.import(file.to_str()?);
                    Some([vec![agent.program().to_owned()], arguments].concat())
                };
                let imports = restored.imports.iter().filter_map(import).collect();
                GoesOn { resume: restored.resume, imports, omitted: all }
            }
            Err(Fail(failure)) => {
                events.note(format!("the conversation was not written: {}", failure.message)).await;
                let omitted = vec![skipped("", Reason::NotCarried.name())];
                GoesOn { omitted, ..GoesOn::default() }
            }
        }
    }

    fn write_conversation(
        &self,
        snapshot: SnapshotId,
        root: &Path,
        folders: &Folders,
    ) -> Result<Option<(&'static dyn Agent, Restored)>, Fail> {
        let vault = &self.workspaces.vault;
        let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        for id in load_snapshot(vault, snapshot)?.conversations {
            let mut conversation = load_conversation(vault, id)?;
            let of_it = folders.all.iter().find(|(agent, _)| agent.name() == conversation.agent);
            let Some((agent, path)) = of_it.filter(|_| !conversation.transcript.is_empty()) else {
                continue;
            };
            // It comes from a node: nothing of it is to be told to conversations that have nothing to do with it.
            let (standing, own) = std::mem::take(&mut conversation.transcript)
                .into_iter()
                .partition::<Vec<_>, _>(|part| agent.is_standing(&part.path));
            conversation.transcript = own;
            let folder = Folder::open_or_create(path).map_err(AgentError::from)?;
            let folder = folder.with_scratch(&folders.scratch);
            let destination = Destination {
                folder: &folder,
                seen_as: None,
                root: &real,
                home: folders.home.as_deref(),
            };
            let mut restored = restore(*agent, vault, &conversation, &destination, Form::Same)?;
            let left = standing.iter().map(|part| part.path.display().into_owned());
            restored.left_out.extend(left.map(|path| LeftOut { path, reason: Reason::NotTaken }));
            return Ok(Some((*agent, restored)));
        }
        Ok(None)
    }
}

/// What people should know of conversations that a command has no use for.
fn stays(root: &Path, folders: &Folders) -> Option<String> {
    let (open, _) = folders.open();
    let of_each: Vec<_> = (open.iter())
        .filter_map(|(agent, folder)| {
            let source = Source { folder, root, home: None };
            let count = sessions(*agent, &source).map_or(0, |sessions| sessions.len());
            (count > 0).then_some((agent.name(), count))
        })
        .collect();
    let said = |&(agent, count): &(&str, usize)| match count {
        1 => format!("1 conversation of {agent}"),
        count => format!("{count} conversations of {agent}"),
    };
    let all = of_each.iter().map(said).collect::<Vec<_>>().join(" and ");
    match of_each.iter().map(|(_, count)| count).sum::<usize>() {
        0 => None,
        1 => Some(format!("{all} stays here: --conversation auto takes it along")),
        _ => Some(format!("{all} stay here: --conversation ID takes one along")),
    }
}

/// One that fits.
struct Fitting<'a> {
    agent: &'static dyn Agent,
    folder: &'a Folder,
    session: Session,
}

fn choose(
    root: &Path,
    (choice, speaks): (&ConversationChoice, Option<&str>),
    folders: &Folders,
    marks: &Path,
) -> Result<Option<Wanted>, AgentError> {
    let (open, mut failed) = folders.open();
    let mut fitting = Vec::new();
    let mut missing = None;
    for (agent, folder) in &open {
        let source = Source { folder, root, home: folders.home.as_deref() };
        let found = match choice {
            ConversationChoice::Id(id) if agent.is_id(id) => {
                find(*agent, &source, Some(id)).map(|found| found.into_iter().collect())
            }
            ConversationChoice::Id(begin) => sessions(*agent, &source).map(|mut found| {
                found.retain(|session| session.id.starts_with(begin.as_str()));
                found
            }),
            _ => sessions(*agent, &source),
        };
        match found {
            Ok(found) => fitting.extend(found.into_iter().map(|session| Fitting {
                agent: *agent,
                folder,
                session,
            })),
            Err(error @ AgentError::NoSession { .. }) => missing = Some(error),
            // What is wrong with one agent is no reason not to find another one's.
            Err(error) => failed.push(error),
        }
    }
    if fitting.len() > 1
        && !matches!(choice, ConversationChoice::Id(_))
        && let Some(at) = at_work(&fitting, speaks, Mark::read(marks, root))
    {
        fitting = vec![fitting.swap_remove(at)];
    }
    if fitting.len() > 1 {
        let agent = fitting.first().map_or("", |it| it.agent.title());
        let agent = if fitting.iter().all(|it| it.agent.title() == agent) {
            agent
        } else {
            "several agents"
        };
        let sessions = fitting.into_iter().map(|it| it.session).collect();
        return Err(AgentError::Several { agent, sessions });
    }
    let Some(Fitting { agent, folder, session }) = fitting.pop() else {
        return match (failed.into_iter().next(), choice) {
            (Some(error), _) => Err(error),
            (None, ConversationChoice::Id(id)) => {
                Err(missing.unwrap_or_else(|| AgentError::NoSession {
                    agent: "this workspace",
                    id: id.clone(),
                    folder: root.to_owned(),
                }))
            }
            (None, _) => Ok(None),
        };
    };
    Ok(Some(Wanted {
        agent: agent.name(),
        session,
        folder: folder.path().to_owned(),
        root: root.to_owned(),
        home: folders.home.clone(),
        is_asked: *choice != ConversationChoice::Unsaid,
        is_named: matches!(choice, ConversationChoice::Id(_)),
    }))
}

/// The one in which somebody asks, or else the one that a hook named last.
fn at_work(fitting: &[Fitting<'_>], speaks: Option<&str>, mark: Option<Mark>) -> Option<usize> {
    let place = |is_it: &dyn Fn(&Fitting<'_>) -> bool| fitting.iter().position(is_it);
    speaks.and_then(|id| place(&|it| it.session.id == id)).or_else(|| {
        let mark = mark?;
        place(&|it| it.agent.name() == mark.agent && it.session.id == mark.session)
    })
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

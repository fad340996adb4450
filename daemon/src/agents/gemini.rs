//! Gemini CLI: `tmp/PROJECT/chats/session-TIME-ID8.jsonl` in its folder, and what belongs to it beside.
//!
//! - [`project`]: which folder of a project is whose
//! - [`line`]: what a line says, and which values of it are paths
//! - [`talk`]: what the program says
//!
//! Carried are the transcript (`session-TIME-ID.jsonl`, with the whole id), those of its subagents (`subagents/…`), the
//! session's own folder with plans and tasks (`session/…`), and outputs of tools that were too long for a line
//! (`tool-outputs/…`). Not carried is what belongs to the machine, to the user or to the project: settings,
//! credentials, logs, lists of prompts, checkpoints, the memory of the project.
//!
//! A transcript does not say where it was held: the folder that it is in does. The program leaves a second file of the same id and
//! nothing but a first line wherever it resumes: that is none.
//!
//! Formats as 0.61.0 writes them; sessions of versions that kept each as one JSON text are not found.

mod project;
mod line;
mod talk;

use std::path::{Path, PathBuf};

use baton_protocol::message::{Answer, Permissions};
use baton_protocol::path::RelPath;
use baton_store::folder::{Folder, Kind};

use super::adapter::{Agent, Base, Place, Target, Treatment, Wanted};
use super::json::{Keys, Token};
use super::origin::Origin;
use super::session::{AgentError, Files, MAX_LOOKED_AT, Seen, Session, head, is_id, is_in, title};
use super::start::{Invocation, Login, Start, Task, bare_version};
use super::talk::{Heard, Request};
use line::Line;
use project::Project;

/// Lines that are read for what was asked first.
const MOST_LINES: usize = 40;

const BEGIN: &str = "session-";
const END: &str = ".jsonl";

/// Letters of an id that are in the name of a file.
const SHORT: usize = 8;

/// The agent.
#[derive(Clone, Copy, Debug)]
pub struct Gemini;

/// A transcript by its name: when it was begun, to the minute, and its id or the beginning of that.
struct Named<'a> {
    time: &'a str,
    id: &'a str,
}

impl<'a> Named<'a> {
    fn parse(name: &'a [u8]) -> Option<Self> {
        let name = std::str::from_utf8(name).ok()?;
        let rest = name.strip_prefix(BEGIN)?.strip_suffix(END)?;
        let (time, id) = rest.split_at_checked(TIME.len())?;
        Some(Self { time, id: id.strip_prefix('-')? }).filter(|it| is_time(it.time))
    }
}

/// The form of a time in a name.
const TIME: &str = "0000-00-00T00-00";

fn is_time(text: &str) -> bool {
    text.len() == TIME.len()
        && text.bytes().zip(TIME.bytes()).all(|(byte, form)| match form {
            b'0' => byte.is_ascii_digit(),
            form => byte == form,
        })
}

/// A transcript, by where it is; nothing where nothing was said in it.
fn read(folder: &Folder, project: &Project, file: &[u8]) -> Result<Option<Session>, AgentError> {
    let at = project.chats().join(file);
    let (mut id, mut asked, mut lines) = (None, None, 0);
    let modified = head(folder, &at, |bytes| {
        let line = Line::parse(bytes);
        id = id.take().or_else(|| line.as_ref()?.session());
        asked = asked.take().or_else(|| line.as_ref()?.prompt());
        lines += 1;
        id.is_some() && (asked.is_some() || lines >= MOST_LINES)
    })?;
    let (Some(modified_ms), Some(id)) = (modified, id) else { return Ok(None) };
    let short = Named::parse(file).map(|named| named.id).unwrap_or_default();
    if !is_id(&id) || id.get(..SHORT) != Some(short) || (asked.is_none() && lines < MOST_LINES) {
        return Ok(None);
    }
    let cwd = project.cwd.clone();
    let cwd = cwd.ok_or_else(|| AgentError::NoFolder { path: folder.path_of(&at) })?;
    Ok(Some(Session { id, at, cwd, modified_ms, title: title(&asked.unwrap_or_default()) }))
}

/// The names of the transcripts of a project, those last that were begun last.
fn transcripts(folder: &Folder, project: &Project) -> Result<Vec<Vec<u8>>, AgentError> {
    let all = folder.list(&project.chats())?.into_iter();
    let is_one =
        |(name, kind): &(Vec<u8>, Kind)| *kind == Kind::File && Named::parse(name).is_some();
    Ok(all.filter(is_one).map(|(name, _)| name).collect())
}

/// Of sessions that have one id, the one that was written to last; the newest first.
fn newest(mut sessions: Vec<Session>) -> Vec<Session> {
    sessions.sort_by_key(|session| std::cmp::Reverse(session.modified_ms));
    let mut known = std::collections::BTreeSet::new();
    sessions.retain(|session| known.insert(session.id.clone()));
    sessions
}

/// What of a session is in folders of its own: their names in a conversation, and where they are below that of the project.
fn folders(id: &str) -> [(&'static str, String); 3] {
    [
        ("subagents", format!("chats/{id}")),
        ("session", id.to_owned()),
        ("tool-outputs", format!("tool-outputs/session-{id}")),
    ]
}

impl Agent for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn title(&self) -> &'static str {
        "Gemini CLI"
    }

    fn default_folder(&self) -> &'static str {
        ".gemini"
    }

    fn folder_variable(&self) -> &'static str {
        "GEMINI_CLI_HOME"
    }

    fn below_variable(&self) -> &'static str {
        ".gemini"
    }

    fn sessions(&self, folder: &Folder, root: &Path) -> Result<Vec<Session>, AgentError> {
        let mut sessions = Vec::new();
        for project in project::all(folder)? {
            if !project.cwd.as_deref().is_some_and(|cwd| is_in(cwd, root)) {
                continue;
            }
            // One that cannot be read is no reason not to list others.
            let names = transcripts(folder, &project).unwrap_or_default();
            let latest = names.iter().rev().take(MAX_LOOKED_AT);
            sessions.extend(latest.filter_map(|name| read(folder, &project, name).ok().flatten()));
        }
        Ok(newest(sessions))
    }

    fn session(&self, folder: &Folder, id: &str) -> Result<Option<Session>, AgentError> {
        let (mut found, mut failed) = (Vec::new(), None);
        for project in project::all(folder)? {
            for name in transcripts(folder, &project).unwrap_or_default() {
                let is_it = |named: Named<'_>| id.get(..SHORT) == Some(named.id);
                if !Named::parse(&name).is_some_and(is_it) {
                    continue;
                }
                match read(folder, &project, &name) {
                    Ok(session) => found.extend(session.filter(|session| session.id == id)),
                    // There may be another one.
                    Err(error) => failed = Some(error),
                }
            }
        }
        match (newest(found).into_iter().next(), failed) {
            (None, Some(error)) => Err(error),
            (found, _) => Ok(found),
        }
    }

    fn main_name(&self, session: &Session) -> Vec<u8> {
        let (_, file) = session.at.split_last().unwrap_or_default();
        let time = Named::parse(file).map(|named| named.time).unwrap_or_default();
        format!("{BEGIN}{time}-{}{END}", session.id).into_bytes()
    }

    fn see(&self, seen: &mut Seen, at: u64, line: &[u8]) {
        line::see(seen, at, line);
    }

    fn others(
        &self,
        folder: &Folder,
        session: &Session,
        _seen: &Seen,
        wanted: &Wanted<'_>,
    ) -> Result<Files, AgentError> {
        let mut files = Files::default();
        let Some(project) = Project::of_transcript(session.at.as_bytes()) else { return Ok(files) };
        for (name, at) in folders(&session.id) {
            // Of the program's own making: an id, and fixed names.
            let at = at.split('/').fold(project.clone(), |path, part| path.join(part.as_bytes()));
            files.add_below(folder, &at, name.as_bytes(), wanted.most)?;
        }
        Ok(files)
    }

    fn id_of(&self, name: &RelPath, _origin: &Origin) -> Option<String> {
        let named = Named::parse(name.as_bytes())?;
        is_id(named.id).then(|| named.id.to_owned())
    }

    fn base(&self, _first_line: &[u8]) -> Option<Base> {
        None
    }

    fn place(&self, name: &RelPath, to: &Target) -> Option<Place> {
        let text = std::str::from_utf8(name.as_bytes()).ok()?;
        let below = if let Some((folder, rest)) = text.split_once('/') {
            let all = folders(&to.id);
            let (_, at) = all.iter().find(|(name, _)| *name == folder)?;
            format!("{at}/{rest}")
        } else {
            let Named { time, id } = Named::parse(name.as_bytes()).filter(|it| is_id(it.id))?;
            // No other one comes along.
            let short = to.id.get(..SHORT).filter(|_| to.id(id) == to.id)?;
            format!("chats/{BEGIN}{time}-{short}{END}")
        };
        let at = format!("{}/{}/{below}", project::TOP, to.project);
        Some(Place { at: RelPath::new(at.as_bytes()).ok()?, is_shared: false })
    }

    fn project(&self, folder: &Folder, cwd: &Path) -> Result<String, AgentError> {
        project::of(folder, cwd)
    }

    fn signs(&self, to: &Target) -> Vec<(RelPath, Vec<u8>)> {
        project::sign(&to.project, &to.cwd).into_iter().collect()
    }

    fn paths(&self, origin: &Origin, to: &Target) -> Vec<(PathBuf, PathBuf)> {
        let new = to.folder.join(project::TOP).join(&to.project);
        let mut pairs = Vec::new();
        if let Some(old) = Project::of_transcript(origin.at.as_bytes()) {
            let old = origin.folder.join(String::from_utf8_lossy(old.as_bytes()).as_ref());
            let id = Named::parse(origin.main.as_bytes()).map(|named| named.id).unwrap_or_default();
            let of_session = folders(id).into_iter().zip(folders(&to.id));
            pairs.extend(of_session.map(|((_, from), (_, to))| (old.join(from), new.join(to))));
            pairs.push((old, new));
        }
        pairs.push((origin.folder.clone(), to.folder.clone()));
        pairs
    }

    fn treatment(&self, keys: &Keys<'_>, token: Token, text: &[u8]) -> Treatment {
        if token != Token::Plain && line::has_paths(keys, text) {
            Treatment::Paths
        } else {
            Treatment::Leave
        }
    }

    fn program(&self) -> &'static str {
        "gemini"
    }

    fn start(&self, start: &Start<'_>, task: &Task<'_>) -> Invocation {
        let mode = match task.approval {
            Permissions::Ask => "default",
            Permissions::Edits => "auto_edit",
            Permissions::All => "yolo",
        };
        let mut arguments = vec!["--output-format", "stream-json", "--approval-mode", mode];
        if let Some(model) = task.model {
            arguments.extend(["--model", model]);
        }
        match start {
            Start::New { id: Some(id) } => arguments.extend(["--session-id", id]),
            Start::New { id: None } => {}
            Start::Resume { id } => arguments.extend(["--resume", id]),
        }
        // Without a terminal it does not work in a folder that nobody has said to trust; who starts it has.
        let environment = [("GEMINI_CLI_TRUST_WORKSPACE", "true")];
        // What is asked comes on the standard input.
        Invocation::new(self.program(), &arguments, &environment, &task.words())
    }

    fn hear(&self, line: &[u8]) -> Option<Vec<Heard>> {
        talk::hear(line)
    }

    fn say(&self, _text: &str) -> Option<Vec<u8>> {
        // It reads its prompt to the end, and nothing more.
        None
    }

    fn answer(&self, _asked: &Request, _answer: &Answer) -> Option<Vec<u8>> {
        None
    }

    fn resume_command(&self, id: &str) -> Vec<String> {
        ["gemini", "--resume", id].map(str::to_owned).to_vec()
    }

    fn version(&self, output: &str) -> Option<String> {
        bare_version(output)
    }

    fn login_arguments(&self) -> &'static [&'static str] {
        // It has no words for it.
        &[]
    }

    fn login(&self, _success: bool, _output: &str) -> Login {
        Login::Unknown
    }
}

#[cfg(test)]
mod tests;

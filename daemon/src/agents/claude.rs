//! Claude Code: `projects/SLUG/ID.jsonl` in its folder, and what belongs to it elsewhere.
//!
//! - [`slug`]: the folder of a project
//! - [`line`]: what a line says, and which values of it are paths
//! - [`talk`]: what the program says and is told
//!
//! Carried are the transcript (`session.jsonl`), the session's own folder with its subagents and large tool results
//! (`session/…`), todos, tasks, plans, the history of edited files, pasted images, and the memory of the project. Not
//! carried is what belongs to the machine or to the user: settings, credentials, hooks, the environment of sessions,
//! the list of prompts.
//!
//! Formats as 2.1.197 and 2.1.330 write them.

mod line;
mod slug;
mod talk;

use std::path::{Path, PathBuf};

use baton_protocol::message::{Answer, Permissions};
use baton_protocol::path::RelPath;
use baton_store::folder::{Folder, FolderError, Kind};
use serde_json::json;

use super::adapter::{Agent, Base, Place, Target, Treatment, Wanted};
use super::json::{Keys, Token};
use super::origin::Origin;
use super::session::{AgentError, Files, MAX_LOOKED_AT, Seen, Session, head, is_id, is_in, title};
use super::start::{Invocation, Login, Start, Task, Trial};
use super::talk::{Heard, Request};
use line::Line;
use slug::{could_be_in, slug};

/// The name of the transcript among the files.
const MAIN: &str = "session.jsonl";

/// Lines that are read for what was asked first, once it is known where.
const MOST_LINES: usize = 60;

/// Folders of a session beside its own, and the names of their files in a conversation.
const OF_SESSION: [&str; 3] = ["tasks", "file-history", "image-cache"];

/// The agent.
#[derive(Clone, Copy, Debug)]
pub struct Claude;

/// Settings by which what it is to know is told when it starts.
fn settings(file: &Path) -> String {
    let file = file.to_string_lossy().replace('\'', r"'\''");
    let hook = json!({"type": "command", "command": format!("cat '{file}'")});
    json!({"hooks": {"SessionStart": [{"hooks": [hook]}]}}).to_string()
}

fn rel(path: &str) -> RelPath {
    // Made of names that were checked.
    RelPath::new(path.as_bytes()).unwrap_or_default()
}

/// The session of a transcript; nothing where it does not say where it was held.
fn read(folder: &Folder, project: &RelPath, id: &str) -> Result<Option<Session>, AgentError> {
    let at = project.join(format!("{id}.jsonl").as_bytes());
    let (mut cwd, mut asked, mut lines) = (None, None, 0);
    let modified = head(folder, &at, |bytes| {
        let line = Line::parse(bytes);
        cwd = cwd.take().or_else(|| line.as_ref()?.cwd.as_deref().map(PathBuf::from));
        asked = asked.take().or_else(|| line.as_ref()?.prompt());
        lines += 1;
        cwd.is_some() && (asked.is_some() || lines >= MOST_LINES)
    })?;
    let (Some(modified_ms), Some(cwd)) = (modified, cwd) else { return Ok(None) };
    Ok(Some(Session {
        id: id.to_owned(),
        at,
        cwd,
        modified_ms,
        title: title(&asked.unwrap_or_default()),
    }))
}

/// The ids of the transcripts in the folder of a project.
fn ids(folder: &Folder, project: &RelPath) -> Result<Vec<String>, FolderError> {
    let files = folder.list(project)?.into_iter().filter(|(_, kind)| *kind == Kind::File);
    let id =
        |name: Vec<u8>| String::from_utf8(name).ok()?.strip_suffix(".jsonl").map(str::to_owned);
    Ok(files.filter_map(|(name, _)| id(name)).filter(|id| is_id(id)).collect())
}

/// The same, the `most` that were written to last; nothing where they cannot be listed.
fn newest(folder: &Folder, project: &RelPath, most: usize) -> Vec<String> {
    let mut ids = ids(folder, project).unwrap_or_default();
    if ids.len() > most {
        let modified = |id: &String| {
            let file = folder.file(&project.join(format!("{id}.jsonl").as_bytes())).ok()??;
            file.metadata().and_then(|found| found.modified()).ok()
        };
        ids.sort_by_cached_key(|id| std::cmp::Reverse(modified(id)));
        ids.truncate(most);
    }
    ids
}

fn projects(folder: &Folder) -> Result<Vec<RelPath>, FolderError> {
    let top = rel("projects");
    let folders = folder.list(&top)?.into_iter().filter(|(_, kind)| *kind == Kind::Directory);
    Ok(folders.map(|(name, _)| top.join(&name)).collect())
}

fn project_of(cwd: &Path) -> String {
    format!("projects/{}", slug(&cwd.to_string_lossy()))
}

impl Agent for Claude {
    fn name(&self) -> &'static str {
        "claude"
    }

    fn title(&self) -> &'static str {
        "Claude Code"
    }

    fn default_folder(&self) -> &'static str {
        ".claude"
    }

    fn folder_variable(&self) -> &'static str {
        "CLAUDE_CONFIG_DIR"
    }

    fn sessions(&self, folder: &Folder, root: &Path) -> Result<Vec<Session>, AgentError> {
        let of_root = slug(&root.to_string_lossy());
        let mut sessions = Vec::new();
        for project in projects(folder)? {
            let name = project.split_last().map(|(_, name)| name).unwrap_or_default();
            if !could_be_in(name, &of_root) {
                continue;
            }
            for id in newest(folder, &project, MAX_LOOKED_AT) {
                // A slug is the same for several folders; and one that cannot be read is no reason not to list others.
                let found = read(folder, &project, &id).ok().flatten();
                sessions.extend(found.filter(|found| is_in(&found.cwd, root)));
            }
        }
        sessions.sort_by_key(|session| std::cmp::Reverse(session.modified_ms));
        Ok(sessions)
    }

    fn session(&self, folder: &Folder, id: &str) -> Result<Option<Session>, AgentError> {
        let name = format!("{id}.jsonl");
        let mut failed = None;
        for project in projects(folder)? {
            match folder.file(&project.join(name.as_bytes())) {
                Ok(None) => continue,
                Ok(Some(_)) => {}
                // It may be in another one.
                Err(error) => {
                    failed = Some(error);
                    continue;
                }
            }
            let path = folder.path_of(&project.join(name.as_bytes()));
            let found = read(folder, &project, id)?;
            return found.map(Some).ok_or(AgentError::NoFolder { path });
        }
        failed.map_or(Ok(None), |error| Err(error.into()))
    }

    fn main_name(&self, _session: &Session) -> Vec<u8> {
        MAIN.as_bytes().to_vec()
    }

    fn see(&self, seen: &mut Seen, at: u64, line: &[u8]) {
        line::see(seen, at, line);
    }

    fn others(
        &self,
        folder: &Folder,
        session: &Session,
        seen: &Seen,
        wanted: &Wanted<'_>,
    ) -> Result<Files, AgentError> {
        let most = wanted.most;
        let mut files = Files::default();
        let id = session.id.as_bytes();
        let project =
            RelPath::new(session.at.split_last().map(|(above, _)| above).unwrap_or_default())
                .unwrap_or_default();
        files.add_below(folder, &project.join(id), b"session", most)?;
        let begin = [id, b"-"].concat();
        for (name, kind) in folder.list(&rel("todos"))? {
            if let Some(rest) = name.strip_prefix(begin.as_slice())
                && kind == Kind::File
                && files.files.len() < most
            {
                files.push(&[b"todos/", rest].concat(), rel("todos").join(&name));
            }
        }
        for plan in &seen.plans {
            let at = rel("plans").join(format!("{plan}.md").as_bytes());
            match folder.file(&at) {
                Ok(Some(_)) => files.push(format!("plans/{plan}.md").as_bytes(), at),
                Ok(None) => {}
                Err(_) => files.leave_out(&at, super::session::Reason::Special),
            }
        }
        files.add_below(folder, &project.join(b"memory"), b"memory", most)?;
        for name in OF_SESSION {
            files.add_below(folder, &rel(name).join(id), name.as_bytes(), most)?;
        }
        Ok(files)
    }

    fn id_of(&self, name: &RelPath, origin: &Origin) -> Option<String> {
        let file = origin.at.rsplit('/').next()?.strip_suffix(".jsonl")?;
        (name.as_bytes() == MAIN.as_bytes() && is_id(file)).then(|| file.to_owned())
    }

    fn base(&self, _first_line: &[u8]) -> Option<Base> {
        None
    }

    fn place(&self, name: &RelPath, to: &Target) -> Option<Place> {
        let text = std::str::from_utf8(name.as_bytes()).ok()?;
        let project = project_of(&to.cwd);
        let id = &to.id;
        let (at, is_shared) = match text.split_once('/') {
            None if text == MAIN => (format!("{project}/{id}.jsonl"), false),
            Some(("session", rest)) => (format!("{project}/{id}/{rest}"), false),
            Some(("memory", rest)) => (format!("{project}/memory/{rest}"), true),
            Some(("plans", file)) if line::is_plan(file.strip_suffix(".md")?) => {
                (format!("plans/{file}"), true)
            }
            Some(("todos", file)) if !file.contains('/') => {
                let renamed =
                    to.ids.iter().fold(file.to_owned(), |it, (old, new)| it.replace(old, new));
                (format!("todos/{id}-{renamed}"), false)
            }
            Some((folder, rest)) if OF_SESSION.contains(&folder) => {
                (format!("{folder}/{id}/{rest}"), false)
            }
            _ => return None,
        };
        Some(Place { at: RelPath::new(at.as_bytes()).ok()?, is_shared })
    }

    fn is_standing(&self, name: &RelPath) -> bool {
        name.as_bytes().starts_with(b"memory/")
    }

    fn paths(&self, origin: &Origin, to: &Target) -> Vec<(PathBuf, PathBuf)> {
        let Some((old_project, file)) = origin.at.rsplit_once('/') else { return Vec::new() };
        let old_project = origin.folder.join(old_project);
        let new_project = to.folder.join(project_of(&to.cwd));
        let old_id = file.strip_suffix(".jsonl").unwrap_or(file);
        vec![
            (old_project.join(old_id), new_project.join(&to.id)),
            (old_project, new_project),
            (origin.folder.clone(), to.folder.clone()),
        ]
    }

    fn treatment(&self, keys: &Keys<'_>, token: Token, _text: &[u8]) -> Treatment {
        if token != Token::Plain && line::has_paths(keys) {
            Treatment::Paths
        } else {
            Treatment::Leave
        }
    }

    fn program(&self) -> &'static str {
        "claude"
    }

    fn start(&self, start: &Start<'_>, task: &Task<'_>) -> Invocation {
        let mut arguments = vec!["-p", "--output-format", "stream-json", "--verbose"];
        let mode = match task.approval {
            Permissions::Ask => "default",
            Permissions::Edits => "acceptEdits",
            Permissions::All => "bypassPermissions",
        };
        arguments.extend(["--permission-mode", mode]);
        if let Some(model) = task.model {
            arguments.extend(["--model", model]);
        }
        match start {
            Start::New { id: Some(id) } => arguments.extend(["--session-id", id]),
            Start::New { id: None } => {}
            Start::Resume { id } => arguments.extend(["--resume", id]),
        }
        let mut environment = vec![("DISABLE_AUTOUPDATER", "1")];
        if task.approval == Permissions::All && task.is_isolated {
            // Without it, root may not leave out the questions.
            environment.push(("IS_SANDBOX", "1"));
        }
        let settings = task.told.map(|told| settings(told.file));
        if let Some(settings) = &settings {
            arguments.extend(["--settings", settings]);
        }
        if !task.is_heard {
            // What is asked comes on the standard input, so that nothing in it is taken for an option.
            return Invocation::new(self.program(), &arguments, &environment, task.prompt);
        }
        arguments.extend(["--input-format", "stream-json", "--permission-prompt-tool", "stdio"]);
        let input = talk::say(task.prompt);
        let mut invocation = Invocation::new(self.program(), &arguments, &environment, "");
        (invocation.input, invocation.stays_open) = (input, true);
        invocation
    }

    fn trial(&self) -> Trial {
        Trial {
            arguments: &["--no-session-persistence"],
            // It would try for minutes where it is refused.
            environment: &[("CLAUDE_CODE_MAX_RETRIES", "1")],
        }
    }

    fn hear(&self, line: &[u8]) -> Option<Vec<Heard>> {
        talk::hear(line)
    }

    fn say(&self, text: &str) -> Option<Vec<u8>> {
        Some(talk::say(text))
    }

    fn answer(&self, asked: &Request, answer: &Answer) -> Option<Vec<u8>> {
        Some(talk::answer(asked, answer))
    }

    fn resume_command(&self, id: &str) -> Vec<String> {
        ["claude", "--resume", id].map(str::to_owned).to_vec()
    }

    fn version(&self, output: &str) -> Option<String> {
        // `2.1.330 (Claude Code)`
        let (version, rest) = output.trim().split_once(' ')?;
        let is_version = version.starts_with(|c: char| c.is_ascii_digit());
        (is_version && rest == "(Claude Code)").then(|| version.to_owned())
    }

    fn login_arguments(&self) -> &'static [&'static str] {
        &["auth", "status"]
    }

    fn login(&self, success: bool, output: &str) -> Login {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Status {
            logged_in: bool,
            auth_method: Option<String>,
        }
        match serde_json::from_str::<Status>(output.trim()) {
            Ok(Status { logged_in: true, auth_method }) if success => {
                Login::Yes(auth_method.unwrap_or_else(|| "logged in".to_owned()))
            }
            Ok(_) => Login::No("run: claude auth login, or set ANTHROPIC_API_KEY".to_owned()),
            // Versions before it could be asked.
            Err(_) => Login::Unknown,
        }
    }
}

#[cfg(test)]
mod tests;

//! OpenCode: a SQLite database, `opencode.db` in its folder, and its own `import` for what is to come into that.
//!
//! - [`outputs`]: what was too long for a line
//! - [`read`]: a session as lines
//! - [`line`]: what a line says, and which values of it are paths
//! - [`document`]: lines as what the program imports
//! - [`talk`]: what the program says
//!
//! Carried are the transcript (`ID.jsonl`: what does not change of a session, and a line for each message with its
//! parts), what does change of it (`ID.state.jsonl`), the same of sessions that it has started (`subagents/…`), and
//! outputs of tools that were too long, which are files beside the database (`tool-output/…`).
//! Not carried are lists of what is to be done, which the program does not import; what undoes a change, which is in a
//! repository of the program's own; and the address under which a session was shared.
//!
//! The names in an object are put into order: the program itself gives them another order whenever it takes a
//! conversation in. Values stay as they are, to the byte.
//!
//! Forms as 1.18.33 writes them.

mod outputs;
mod read;
mod line;
mod document;
mod talk;

use std::io::Write;
use std::path::{Path, PathBuf};

use baton_protocol::message::{Answer, Permissions};
use baton_protocol::path::RelPath;
use baton_store::error::StoreError;
use baton_store::folder::Folder;

use super::adapter::{Agent, Base, Kept, Place, Target, Treatment, Wanted};
use super::json::{Keys, Token};
use super::origin::Origin;
use super::session::{AgentError, Files, Seen, Session, is_in};
use super::start::{Invocation, Login, Start, Task, bare_version};
use super::talk::{Heard, Request};

/// What the program calls a session, a message and a part of one: this, and letters and digits.
const SESSION: &str = "ses_";
const MESSAGE: &str = "msg_";
const PART: &str = "prt_";

/// Letters and digits of an id at least and at most. The program's own have 26.
const LEAST: usize = 16;
const MOST: usize = 48;

/// Letters of an id, behind its first four, that say when it was made; what is listed by its ids stays in that order.
const TIME: usize = 12;

const END: &str = ".jsonl";
const STATE: &str = ".state.jsonl";
const SUBAGENTS: &str = "subagents";

/// What it may do where it asks for everything that changes something; nobody is there to answer, and so it may not. What it
/// asks people is for a terminal.
const ASKS: &str = r#"{"edit":"ask","bash":"ask","webfetch":"ask","websearch":"ask","external_directory":"ask","question":"deny","plan_enter":"deny","plan_exit":"deny"}"#;
const EDITS: &str = r#"{"edit":"allow","bash":"ask","webfetch":"ask","websearch":"ask","external_directory":"ask","question":"deny","plan_enter":"deny","plan_exit":"deny"}"#;
const ALL: &str = r#"{"question":"deny","plan_enter":"deny","plan_exit":"deny"}"#;

/// Takes in the documents between the program and `--`, and becomes the program with the rest. Nothing that anybody says stands
/// in it.
const IMPORTS_FIRST: &str = r#"program=$1
shift
while [ "$1" != -- ]; do
    said=$("$program" import "$1" </dev/null 2>&1)
    case $said in
    *"Imported session"*) rm -f "$1" ;;
    *)
        printf 'the conversation could not be taken in: %s\n' "$said" >&2
        exit 1
        ;;
    esac
    shift
done
shift
exec "$program" "$@"
"#;

/// The agent.
#[derive(Clone, Copy, Debug)]
pub struct OpenCode;

/// Whether it is an id of this kind.
fn is_id_of(kind: &str, text: &str) -> bool {
    text.strip_prefix(kind).is_some_and(|rest| {
        (LEAST..=MOST).contains(&rest.len()) && rest.bytes().all(|it| it.is_ascii_alphanumeric())
    })
}

/// The id of the transcript that has this name in a conversation, and whether it is that of a session that another one
/// has started.
fn named(name: &RelPath) -> Option<(&str, bool)> {
    let text = std::str::from_utf8(name.as_bytes()).ok()?;
    let (text, is_child) = match text.split_once('/') {
        Some((SUBAGENTS, rest)) => (rest, true),
        Some(_) => return None,
        None => (text, false),
    };
    let id = text.strip_suffix(STATE).or_else(|| text.strip_suffix(END))?;
    is_id_of(SESSION, id).then_some((id, is_child))
}

fn is_state(name: &RelPath) -> bool {
    name.as_bytes().ends_with(STATE.as_bytes())
}

/// Where a file of a session is among the files of a conversation.
fn place_of(id: &str, is_child: bool, end: &str) -> RelPath {
    let folder = if is_child { format!("{SUBAGENTS}/") } else { String::new() };
    // An id has letters and digits.
    RelPath::new(format!("{folder}{id}{end}").as_bytes()).unwrap_or_default()
}

impl Agent for OpenCode {
    fn name(&self) -> &'static str {
        "opencode"
    }

    fn title(&self) -> &'static str {
        "OpenCode"
    }

    fn default_folder(&self) -> &'static str {
        ".local/share/opencode"
    }

    fn folder_variable(&self) -> &'static str {
        "XDG_DATA_HOME"
    }

    fn below_variable(&self) -> &'static str {
        "opencode"
    }

    fn kept(&self) -> Option<&dyn Kept> {
        Some(self)
    }

    fn is_id(&self, text: &str) -> bool {
        is_id_of(SESSION, text)
    }

    fn fresh_id(&self, of: &str) -> Result<String, StoreError> {
        let mut random = [0; 7];
        getrandom::fill(&mut random).map_err(|_| StoreError::Random)?;
        let time = of.get(..SESSION.len() + TIME).unwrap_or(SESSION);
        Ok(format!("{time}{}", data_encoding::HEXLOWER.encode(&random)))
    }

    fn sessions(&self, folder: &Folder, root: &Path) -> Result<Vec<Session>, AgentError> {
        let mut sessions = read::sessions(folder, None)?;
        sessions.retain(|session| is_in(&session.cwd, root));
        Ok(sessions)
    }

    fn session(&self, folder: &Folder, id: &str) -> Result<Option<Session>, AgentError> {
        Ok(read::sessions(folder, Some(id))?.pop())
    }

    fn main_name(&self, session: &Session) -> Vec<u8> {
        session.at.as_bytes().to_vec()
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
        let state = place_of(&session.id, false, STATE);
        files.push(state.as_bytes(), state.clone());
        let children = RelPath::new(SUBAGENTS.as_bytes()).unwrap_or_default();
        files.add_below(folder, &children, SUBAGENTS.as_bytes(), wanted.most)?;
        let outputs = RelPath::new(outputs::FOLDER.as_bytes()).unwrap_or_default();
        files.add_below(folder, &outputs, outputs::FOLDER.as_bytes(), wanted.most)?;
        Ok(files)
    }

    fn id_of(&self, name: &RelPath, _origin: &Origin) -> Option<String> {
        let (id, _) = named(name).filter(|_| !is_state(name))?;
        Some(id.to_owned())
    }

    fn base(&self, _first_line: &[u8]) -> Option<Base> {
        None
    }

    fn place(&self, name: &RelPath, to: &Target) -> Option<Place> {
        if outputs::is_one(name) {
            return Some(Place { at: name.clone(), is_shared: true });
        }
        let (id, is_child) = named(name)?;
        let new = to.id(id);
        // No other one comes along, but those that it has started.
        ((new == to.id) != is_child).then(|| {
            let end = if is_state(name) { STATE } else { END };
            Place { at: place_of(new, is_child, end), is_shared: false }
        })
    }

    fn paths(&self, origin: &Origin, to: &Target) -> Vec<(PathBuf, PathBuf)> {
        vec![(origin.folder.clone(), to.folder.clone())]
    }

    fn treatment(&self, keys: &Keys<'_>, token: Token, text: &[u8]) -> Treatment {
        if token != Token::Plain && line::has_paths(keys, text) {
            Treatment::Paths
        } else {
            Treatment::Leave
        }
    }

    fn renamed(&self, keys: &Keys<'_>, text: &str, to: &Target) -> Option<String> {
        line::renamed(keys, text, to)
    }

    fn program(&self) -> &'static str {
        "opencode"
    }

    fn start(&self, start: &Start<'_>, task: &Task<'_>) -> Invocation {
        let mut arguments = vec!["run", "--format", "json"];
        let may = match task.approval {
            Permissions::Ask => ASKS,
            Permissions::Edits => EDITS,
            Permissions::All => ALL,
        };
        if task.approval == Permissions::All {
            arguments.push("--auto");
        }
        if let Some(model) = task.model {
            arguments.extend(["--model", model]);
        }
        match start {
            // It gives ids itself.
            Start::New { .. } => {}
            Start::Resume { id } => arguments.extend(["--session", id]),
        }
        let environment = [("OPENCODE_DISABLE_AUTOUPDATE", "1"), ("OPENCODE_PERMISSION", may)];
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
        ["opencode", "--session", id].map(str::to_owned).to_vec()
    }

    fn version(&self, output: &str) -> Option<String> {
        bare_version(output)
    }

    fn login_arguments(&self) -> &'static [&'static str] {
        &["auth", "list"]
    }

    fn login(&self, success: bool, output: &str) -> Login {
        talk::login(success, output)
    }
}

impl Kept for OpenCode {
    fn write_out(&self, folder: &Folder, id: &str, into: &Path) -> Result<Files, AgentError> {
        read::write_out(folder, id, into)
    }

    fn write_there(
        &self,
        folder: &Folder,
        names: &[RelPath],
        into: &Path,
    ) -> Result<(), AgentError> {
        read::write_there(folder, names, into)
    }

    fn document(
        &self,
        folder: &Folder,
        mirror: &Folder,
        transcript: &RelPath,
        to: &Target,
        out: &mut dyn Write,
    ) -> Result<bool, AgentError> {
        document::write(folder, mirror, transcript, to, out)
    }

    fn is_beside(&self, name: &RelPath) -> bool {
        outputs::is_one(name)
    }

    fn ids(&self, folder: &Folder) -> Result<Vec<String>, AgentError> {
        read::ids(folder)
    }

    fn files(&self) -> &'static [&'static str] {
        &["opencode.db-wal", "opencode.db-shm", "opencode.db"]
    }

    fn import(&self, file: &str) -> Vec<String> {
        ["import", file].map(str::to_owned).to_vec()
    }

    fn has_imported(&self, output: &str) -> bool {
        // Versions have said with an exit code of success that they have found no file.
        output.contains("Imported session")
    }

    fn imports_first(&self, documents: &[String], words: Vec<String>) -> Vec<String> {
        let shell = ["/bin/sh", "-c", IMPORTS_FIRST, "sh"].map(str::to_owned);
        let (program, rest) = words.split_at(words.len().min(1));
        let end = ["--".to_owned()];
        [&shell, program, documents, &end, rest].concat()
    }
}

#[cfg(test)]
mod tests;

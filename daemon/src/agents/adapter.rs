//! What differs from agent to agent: where its files lie, what its lines say, and how its program is started.
//!
//! Not here: reading and writing the files, which is the same for all of them ([`super::capture`],
//! [`super::restore`]).
//!
//! **Invariant:** an adapter names places and reads single lines; it opens nothing to be written.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Write;
use std::path::{Path, PathBuf};

use baton_protocol::message::Answer;
use baton_protocol::path::RelPath;
use baton_store::error::StoreError;
use baton_store::folder::Folder;

pub use super::json::{Keys, Token};
use super::origin::Origin;
use super::session::{AgentError, Files, Seen, Session, fresh_id, is_id};
use super::start::{Invocation, Login, Start, Task, Trial};
use super::talk::{Heard, Request};

/// What is done with a value of a line that arrives on another machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    /// It stays as it is.
    Leave,
    /// Paths in it become those of this machine.
    Paths,
    /// It is a place in the file that the transcript goes on from, in bytes.
    Offset,
}

/// Where a file of a conversation belongs in the agent's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Below the folder.
    pub at: RelPath,
    /// Whether other conversations use it, too: one that is there stays.
    pub is_shared: bool,
}

/// Where a conversation arrives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its id there.
    pub id: String,
    /// Ids that are others there.
    pub ids: BTreeMap<String, String>,
    /// Where the agent will be started.
    pub cwd: PathBuf,
    /// The folder of the agent, under the name by which its program will know it.
    pub folder: PathBuf,
    /// What the agent calls the folder of `cwd` in its own ([`Agent::project`]).
    pub project: String,
}

impl Target {
    /// An id as it is there.
    pub(super) fn id<'a>(&'a self, id: &'a str) -> &'a str {
        self.ids.get(id).map_or(id, String::as_str)
    }
}

/// What a transcript goes on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The id of the other one.
    pub id: String,
    /// Bytes of it that belong to this one.
    pub offset: u64,
}

/// Which files of a session are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The root of the workspace, without links.
    pub root: &'a Path,
    /// How many at most.
    pub most: usize,
    /// Whether somebody named this session: then it travels with what it goes on from, wherever that was held.
    pub is_named: bool,
}

/// How an agent keeps conversations that are in no files of their own: written out as files where they are read, and taken in
/// by its program where they arrive.
pub trait Kept {
    /// Writes a session, and those that it has started, as files into an empty folder, under their names in a
    /// conversation; says what of it is left out. Nothing is written where there is no such session.
    fn write_out(&self, folder: &Folder, id: &str, into: &Path) -> Result<Files, AgentError>;

    /// Writes what is there of the transcripts at these places, and nothing else of their sessions.
    fn write_there(
        &self,
        folder: &Folder,
        places: &[RelPath],
        into: &Path,
    ) -> Result<(), AgentError>;

    /// Writes the document that the program is to take in for a transcript at a place in the mirror. False, and then it is
    /// not whole, where something in it has an id that something else has in `folder`.
    fn document(
        &self,
        folder: &Folder,
        mirror: &Folder,
        transcript: &RelPath,
        to: &Target,
        out: &mut dyn Write,
    ) -> Result<bool, AgentError>;

    /// Whether a file of a conversation is none of the database's, and comes to its place in the folder as it is.
    fn is_beside(&self, name: &RelPath) -> bool;

    /// The ids of all sessions that are there.
    fn ids(&self, folder: &Folder) -> Result<Vec<String>, AgentError>;

    /// The files that they are in, by name; the one that says that there are any comes last.
    fn files(&self) -> &'static [&'static str];

    /// Arguments with which the program takes a document in, in the folder where the conversation goes on.
    fn import(&self, file: &str) -> Vec<String>;

    /// Whether it has, by what it said.
    fn has_imported(&self, output: &str) -> bool;

    /// Words that have the program take in documents, and then are what these words say, in the same process. Each document is
    /// removed when it has been taken in; where one is not, the program is not started.
    fn imports_first(&self, documents: &[String], words: Vec<String>) -> Vec<String>;
}

/// A coding agent.
pub trait Agent: Send + Sync + Debug {
    /// The name in messages, in the configuration and on the command line.
    fn name(&self) -> &'static str;

    /// What its makers call it.
    fn title(&self) -> &'static str;

    /// The folder below the user's home in which it keeps everything, unless a variable names another one.
    fn default_folder(&self) -> &'static str;

    /// That variable.
    fn folder_variable(&self) -> &'static str;

    /// Where the folder is below what the variable names.
    fn below_variable(&self) -> &'static str {
        ""
    }

    /// How it keeps its conversations, where they are in no files of their own.
    fn kept(&self) -> Option<&dyn Kept> {
        None
    }

    /// Whether it is an id as the agent makes them; nothing else ever becomes a part of a path.
    fn is_id(&self, text: &str) -> bool {
        is_id(text)
    }

    /// A new id, for what goes on from another conversation.
    fn fresh_id(&self, _of: &str) -> Result<String, StoreError> {
        fresh_id()
    }

    /// The sessions that were held in a workspace, the newest first. `root` is without links.
    fn sessions(&self, folder: &Folder, root: &Path) -> Result<Vec<Session>, AgentError>;

    /// The session with this id, wherever it was held.
    fn session(&self, folder: &Folder, id: &str) -> Result<Option<Session>, AgentError>;

    /// The name of the transcript among the files of the conversation.
    fn main_name(&self, session: &Session) -> Vec<u8>;

    /// Learns from a line of the transcript, which begins at a place in it. Everything may be in the line.
    fn see(&self, seen: &mut Seen, at: u64, line: &[u8]);

    /// The other files of a session; those that matter most first.
    fn others(
        &self,
        folder: &Folder,
        session: &Session,
        seen: &Seen,
        wanted: &Wanted<'_>,
    ) -> Result<Files, AgentError>;

    /// The id of the transcript that a file of a conversation is, by its name.
    fn id_of(&self, name: &RelPath, origin: &Origin) -> Option<String>;

    /// What a transcript goes on from, by its first line.
    fn base(&self, first_line: &[u8]) -> Option<Base>;

    /// Where a file belongs; nothing for one that is none of this agent's. Names come from anybody.
    fn place(&self, name: &RelPath, to: &Target) -> Option<Place>;

    /// What the agent calls the folder in which it keeps what belongs to a working folder, where that follows from what is
    /// there, and not from the path alone.
    fn project(&self, _folder: &Folder, _cwd: &Path) -> Result<String, AgentError> {
        Ok(String::new())
    }

    /// Files that say whose that folder is. They come to be where they are missing.
    fn signs(&self, _to: &Target) -> Vec<(RelPath, Vec<u8>)> {
        Vec::new()
    }

    /// Whether a file is given to every later conversation about the workspace: what comes from elsewhere is not to become
    /// a standing instruction here.
    fn is_standing(&self, _name: &RelPath) -> bool {
        false
    }

    /// Which paths become which, beside those of the workspace and of the home.
    fn paths(&self, origin: &Origin, to: &Target) -> Vec<(PathBuf, PathBuf)>;

    /// What is done with a value.
    fn treatment(&self, keys: &Keys<'_>, token: Token, text: &[u8]) -> Treatment;

    /// A text with what has another name there, beside ids that stand alone.
    fn renamed(&self, _keys: &Keys<'_>, _text: &str, _to: &Target) -> Option<String> {
        None
    }

    /// The program, unless the configuration names another one.
    fn program(&self) -> &'static str;

    /// How it is started without a terminal.
    fn start(&self, start: &Start<'_>, task: &Task<'_>) -> Invocation;

    /// How a turn of it is tried.
    fn trial(&self) -> Trial {
        Trial::default()
    }

    /// What a line of its output says, where it was started so; nothing where that is none of its words.
    fn hear(&self, line: &[u8]) -> Option<Vec<Heard>>;

    /// How it is told what somebody says to it; nothing where it cannot be told.
    fn say(&self, text: &str) -> Option<Vec<u8>>;

    /// How it is told what somebody answers; nothing where it never asks.
    fn answer(&self, asked: &Request, answer: &Answer) -> Option<Vec<u8>>;

    /// What a person types to go on with a conversation: always by its id, for an agent's own list of the latest ones
    /// may not have it.
    fn resume_command(&self, id: &str) -> Vec<String>;

    /// The version that the output of `--version` names.
    fn version(&self, output: &str) -> Option<String>;

    /// Arguments with which it says whether somebody is logged in; none where it cannot say.
    fn login_arguments(&self) -> &'static [&'static str];

    /// What it has said to them.
    fn login(&self, success: bool, output: &str) -> Login;
}

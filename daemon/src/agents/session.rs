//! What is known of a session of an agent, and which files it has.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use baton_protocol::path::RelPath;
use baton_store::error::StoreError;
use baton_store::folder::database::DatabaseError;
use baton_store::folder::{Folder, FolderError, Kind};

use super::lines::{Lines, Piece};

/// Bytes at the beginning of a transcript in which it must have said where it was held.
const HEAD: u64 = 8 * 1024 * 1024;

/// Characters of what was asked first that a list shows.
const TITLE: usize = 60;

/// Folders in one another at most, of those that belong to one session.
const MAX_LEVELS: usize = 8;

/// Files of a session beside its transcript.
pub(super) const MOST_FILES: usize = 1000;

/// Bytes of all files of a conversation.
pub(super) const MAX_CONVERSATION: u64 = 4 << 30;

/// Sessions of an agent that are looked at for those of one workspace, the newest first.
pub(super) const MAX_LOOKED_AT: usize = 5000;

/// A conversation could not be found, read or written.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// A file of the agent's folder could not be read or made.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// A database of the agent could not be read.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// A file could not be read to its end.
    #[error("reading {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("writing into {}", path.display())]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No conversation has this id.
    #[error("{agent} has no conversation {id} in {}", folder.display())]
    NoSession {
        /// The agent.
        agent: &'static str,
        /// What was asked for.
        id: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// What was given is no id.
    #[error("{id:?} is no id of a conversation of {agent}")]
    NoId {
        /// The agent.
        agent: &'static str,
        /// What was given.
        id: String,
    },
    /// A conversation was held in another workspace.
    #[error("conversation {id} was held in {}, which is not in {}", cwd.display(), root.display())]
    Elsewhere {
        /// Which.
        id: String,
        /// Where it was held.
        cwd: PathBuf,
        /// The workspace.
        root: PathBuf,
    },
    /// Several conversations fit.
    #[error("{} conversations of {agent} fit", sessions.len())]
    Several {
        /// The agent.
        agent: &'static str,
        /// The newest first.
        sessions: Vec<Session>,
    },
    /// A transcript that this version cannot read.
    #[error("{} is compressed, which this version does not read", path.display())]
    Compressed {
        /// Which.
        path: PathBuf,
    },
    /// A transcript does not say where it was held.
    #[error("{} does not say in which folder the conversation was held", path.display())]
    NoFolder {
        /// Which.
        path: PathBuf,
    },
    /// A part of the history is missing.
    #[error("conversation {id} goes on from {base}, which is not in {}", folder.display())]
    NoBase {
        /// Which.
        id: String,
        /// What it goes on from.
        base: String,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// The history belongs to another workspace.
    #[error(
        "conversation {id} goes on from {base}, which was held in {}, which is not in {}",
        cwd.display(), root.display()
    )]
    BaseElsewhere {
        /// Which.
        id: String,
        /// What it goes on from.
        base: String,
        /// Where that was held.
        cwd: PathBuf,
        /// The workspace.
        root: PathBuf,
    },
    /// It was changed whenever it was looked at.
    #[error("conversation {id} changes while it is being read")]
    Unsteady {
        /// Which.
        id: String,
    },
    /// A file is larger than what travels.
    #[error("{} is larger than {limit} bytes", path.display())]
    TooLarge {
        /// Which.
        path: PathBuf,
        /// How large it may be.
        limit: u64,
    },
    /// A path cannot stand in a transcript.
    #[error("{} is not UTF-8 text, which transcripts are", path.display())]
    NotText {
        /// Which.
        path: PathBuf,
    },
    /// What is stored is no conversation of this agent, or of a form that this version does not know.
    #[error("what was stored is no conversation of {agent} that this version knows: {why}")]
    Unknown {
        /// The agent.
        agent: &'static str,
        /// What is wrong.
        why: &'static str,
    },
    /// The turn that asked for a handoff is the first one.
    #[error("there is nothing before the turn that the fork is to end before")]
    NothingBefore,
    /// Files of the agent came to be while others were written.
    #[error("the conversation was changed in {} while it was being written", folder.display())]
    Changed {
        /// Where.
        folder: PathBuf,
    },
}

impl AgentError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Several { .. } | Self::NoId { .. } => {
                "name one with --conversation ID; baton agent list shows them"
            }
            Self::NoSession { .. } | Self::Elsewhere { .. } => {
                "baton agent list shows those of a workspace; --conversation none takes none"
            }
            Self::BaseElsewhere { .. } => {
                "to take along what it goes on from: --conversation ID; --conversation none takes none"
            }
            Self::Unsteady { .. } | Self::Database(DatabaseError::Unsteady { .. }) => {
                "try again when its agent rests"
            }
            Self::Compressed { .. }
            | Self::NoFolder { .. }
            | Self::NoBase { .. }
            | Self::Database(_)
            | Self::TooLarge { .. } => "--conversation none hands over everything else",
            Self::Folder(FolderError::NotDirectory { .. } | FolderError::NotRegular { .. }) => {
                "put a folder or file of its own there, or use --conversation none"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

/// A session of an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The agent's own id.
    pub id: String,
    /// Its transcript.
    pub at: RelPath,
    /// Where the agent was started.
    pub cwd: PathBuf,
    /// When it was written to, in milliseconds since 1970.
    pub modified_ms: u64,
    /// The beginning of what was asked first, on one line.
    pub title: String,
}

/// A file of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionFile {
    /// Its name in the conversation, the same on every machine.
    pub name: RelPath,
    /// Where it lies in the folder.
    pub at: RelPath,
    /// Bytes of it that belong to the session, where that is not all.
    pub most: u64,
}

/// What does not travel of a conversation, and why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftOut {
    /// Where it lies, below the folder, or its name in the conversation.
    pub path: String,
    /// Why.
    pub reason: Reason,
}

/// Why a file does not travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A link, a device, or something else that is not opened.
    Special,
    /// There are more files than a conversation may have.
    TooMany,
    /// It is too large, too deep, or has a name that cannot stand in a conversation.
    NotCarried,
    /// Another one of that name is there, and stays.
    Kept,
    /// It is nothing that this version knows.
    Unknown,
    /// It would be told to every later conversation, and comes from elsewhere.
    NotTaken,
}

impl Reason {
    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Special => "special",
            Self::TooMany => "too-many",
            Self::NotCarried => "not-carried",
            Self::Kept => "kept",
            Self::Unknown => "unknown",
            Self::NotTaken => "not-taken",
        }
    }
}

/// Files of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Files {
    /// Those that travel.
    pub files: Vec<SessionFile>,
    /// Those that do not.
    pub left_out: Vec<LeftOut>,
    /// What people should know.
    pub notes: Vec<String>,
}

impl Files {
    /// Adds a file.
    pub(super) fn push(&mut self, name: &[u8], at: RelPath) {
        self.push_part(name, at, u64::MAX);
    }

    /// Adds the first bytes of a file.
    pub(super) fn push_part(&mut self, name: &[u8], at: RelPath, most: u64) {
        match RelPath::new(name) {
            Ok(name) => self.files.push(SessionFile { name, at, most }),
            Err(_) => self.leave_out(&at, Reason::NotCarried),
        }
    }

    pub(super) fn leave_out(&mut self, at: &RelPath, reason: Reason) {
        self.left_out.push(LeftOut { path: at.display().into_owned(), reason });
    }

    /// Adds all that is below a directory, under names that begin with `prefix`.
    pub(super) fn add_below(
        &mut self,
        folder: &Folder,
        directory: &RelPath,
        prefix: &[u8],
        most: usize,
    ) -> Result<(), FolderError> {
        self.below(folder, directory, prefix, most, 0)
    }

    fn below(
        &mut self,
        folder: &Folder,
        directory: &RelPath,
        prefix: &[u8],
        most: usize,
        level: usize,
    ) -> Result<(), FolderError> {
        let listed = match folder.list(directory) {
            Err(FolderError::NotDirectory { .. }) => {
                self.leave_out(directory, Reason::Special);
                return Ok(());
            }
            listed => listed?,
        };
        for (name, kind) in listed {
            let at = directory.join(&name);
            let inner = [prefix, b"/", &name].concat();
            match kind {
                // Of a program that is at work, and nothing to another one.
                Kind::File if name.ends_with(b".lock") => {}
                _ if self.files.len() >= most => self.leave_out(&at, Reason::TooMany),
                Kind::File => self.push(&inner, at),
                Kind::Directory if level < MAX_LEVELS => {
                    self.below(folder, &at, &inner, most, level + 1)?;
                }
                Kind::Directory => self.leave_out(&at, Reason::NotCarried),
                Kind::Other => self.leave_out(&at, Reason::Special),
            }
        }
        Ok(())
    }
}

/// What the lines of a transcript have said so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Messages of the user and of the agent.
    pub messages: u64,
    /// The version of the program that wrote last.
    pub version: Option<String>,
    /// Names of plans.
    pub plans: BTreeSet<String>,
    /// Where the last turn begins.
    pub last_turn: Option<u64>,
    /// Where lines begin that belong to a turn that is about to begin.
    pub(super) before_turn: Option<u64>,
    /// How many turns there are.
    turns: u64,
    /// Calls of the last turn that ask for a handoff and were not answered.
    asking: BTreeSet<String>,
    /// Lines that are no JSON, such as one that was cut off at the end, or too long to be looked into.
    pub odd_lines: u64,
}

/// Calls that wait for an answer at once, at most.
pub(super) const MOST_CALLS: usize = 64;

impl Seen {
    /// A turn begins.
    pub(super) fn turn(&mut self, at: u64) {
        self.last_turn = Some(at);
        self.turns += 1;
        self.asking.clear();
    }

    /// Tools were called that hand over, and calls were answered.
    pub(super) fn calls(&mut self, asking: Vec<String>, answered: &[String]) {
        let free = MOST_CALLS.saturating_sub(self.asking.len());
        self.asking.extend(asking.into_iter().take(free));
        self.asking.retain(|call| !answered.contains(call));
    }

    /// The last turn has ended.
    pub(super) fn end_turn(&mut self) {
        self.asking.clear();
    }

    /// Where the turn begins that asks for the handoff: the last one, where its call still waits for an answer, and
    /// there is something before it.
    pub fn handoff(&self) -> Option<u64> {
        self.last_turn.filter(|_| !self.asking.is_empty() && self.turns > 1)
    }
}

/// Whether a call of a tool asks for a handoff.
pub(super) fn is_handoff(name: Option<&str>, input: Option<&str>) -> bool {
    [name, input].into_iter().flatten().any(|it| it.contains("baton") && it.contains("handoff"))
}

/// Whether it is an id as most agents make them (RFC 9562).
pub(super) fn is_id(text: &str) -> bool {
    let groups: Vec<_> = text.split('-').collect();
    groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12])
        && groups.iter().all(|group| group.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// A new id.
pub(super) fn fresh_id() -> Result<String, StoreError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Random)?;
    // Version 4, variant 1 (RFC 9562).
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = data_encoding::HEXLOWER.encode(&bytes);
    let cuts = [0..8, 8..12, 12..16, 16..20, 20..32];
    let groups: Vec<_> = cuts.into_iter().filter_map(|cut| hex.get(cut)).collect();
    Ok(groups.join("-"))
}

/// Visits the lines at the beginning of a transcript until one says enough.
pub(super) fn head(
    folder: &Folder,
    at: &RelPath,
    mut enough: impl FnMut(&[u8]) -> bool,
) -> Result<Option<u64>, AgentError> {
    let path = folder.path_of(at);
    let Some(file) = folder.file(at)? else { return Ok(None) };
    let failed = |source| AgentError::Read { path: path.clone(), source };
    let modified = file.metadata().and_then(|found| found.modified()).map_err(failed)?;
    let since = modified.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut from = file.take(HEAD);
    let mut buffer = vec![0; 64 * 1024];
    let mut lines = Lines::default();
    let mut visit = |piece: Piece<'_>| match piece {
        Piece::Line(line) if enough(line) => Err(()),
        _ => Ok(()),
    };
    loop {
        let read = from.read(&mut buffer).map_err(failed)?;
        if read == 0 {
            let _stopped = lines.end(&mut visit);
            break;
        }
        if lines.feed(buffer.get(..read).unwrap_or_default(), &mut visit).is_err() {
            break;
        }
    }
    Ok(Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// A text as it stands in a list.
pub(super) fn title(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().take(TITLE).collect();
    let line: String = words.join(" ").chars().filter(|c| !c.is_control()).collect();
    match line.char_indices().nth(TITLE) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}

/// Whether a folder is the root of a workspace, or in it.
pub(super) fn is_in(cwd: &Path, root: &Path) -> bool {
    let plain = cwd.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    plain && cwd.starts_with(root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_never_a_path() {
        let id = fresh_id().unwrap();
        assert!(is_id(&id), "{id}");
        assert_ne!(id, fresh_id().unwrap());
        assert!(is_id("BA3C7300-18d6-46dd-b4a5-8c4c697a97c0"));
        for not in [
            "",
            "..",
            "../../x",
            "/etc/passwd",
            "ba3c7300-18d6-46dd-b4a5-8c4c697a97c",
            "ba3c7300-18d6-46dd-b4a5-8c4c697a97c0/x",
            "ba3c7300-18d6-46dd-b4a5-8c4c697a97/0",
            "ba3c7300/18d6/46dd/b4a5/8c4c697a97c0",
            "ba3c7300-18d6-46dd-b4a5-8c4c697a97c0\n",
        ] {
            assert!(!is_id(not), "{not}");
        }
    }

    #[test]
    fn a_title_is_one_short_line() {
        assert_eq!(title(" fix\n\tthe \u{1b}[31mbug "), "fix the [31mbug");
        assert_eq!(title(&"ü".repeat(100)).chars().count(), TITLE + 1);
        assert_eq!(title(""), "");
    }

    #[test]
    fn a_folder_is_in_a_workspace_by_its_names() {
        let is_in = |cwd, root| is_in(Path::new(cwd), Path::new(root));
        assert!(is_in("/a/b", "/a/b") && is_in("/a/b/c", "/a/b"));
        assert!(!is_in("/a/bc", "/a/b") && !is_in("/a", "/a/b") && !is_in("/a/b/../c", "/a/b"));
    }
}

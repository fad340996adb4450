//! From an agent's folder into a store: which conversation, and all of its files as they are.
//!
//! Files may be written to while they are read: of each, as many bytes are taken as it had when it was opened. A last
//! line that is not whole yet travels as it is; agents pass over it.
//!
//! **Invariant:** memory is bounded by the buffer of the chunker and by one line, however long a transcript is.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use baton_protocol::id::{ConversationId, ObjectKind};
use baton_protocol::object::{Blob, Conversation, MAX_OBJECT, Part};
use baton_protocol::path::RelPath;
use baton_store::chunk::{ChunkError, Chunker, store_bytes};
use baton_store::folder::{Folder, FolderError};
use baton_store::objects::ObjectSink;
use baton_store::secrets::SecretRules;

use super::adapter::Agent;
use super::findings::{Found, MOST, Search};
use super::lines::{Lines, Piece};
use super::origin::{NAME, Origin};
use super::session::{AgentError, Files, LeftOut, Reason, Seen, Session, check_id, is_in};

/// Files of a session beside its transcript.
const MOST_FILES: usize = 1000;

/// Longest file that travels.
const MAX_FILE: u64 = 1 << 30;

/// Where a conversation is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    /// The agent's folder.
    pub folder: &'a Folder,
    /// The root of the workspace.
    pub root: &'a Path,
    /// The home of the user.
    pub home: Option<&'a Path>,
}

/// A conversation that is in a store.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Its id in the store.
    pub id: ConversationId,
    /// What it is.
    pub conversation: Conversation,
    /// What its transcript says.
    pub seen: Seen,
    /// What does not travel.
    pub left_out: Vec<LeftOut>,
    /// What looks like a secret in it, where that was asked for.
    pub found: Vec<Found>,
}

/// The sessions of a workspace, the newest first.
pub fn sessions(agent: &dyn Agent, source: &Source<'_>) -> Result<Vec<Session>, AgentError> {
    agent.sessions(source.folder, &real(source.root))
}

/// The session with this id, or the only one of the workspace: nothing where it has none.
pub fn find(
    agent: &dyn Agent,
    source: &Source<'_>,
    id: Option<&str>,
) -> Result<Option<Session>, AgentError> {
    let Some(id) = id else {
        let mut sessions = sessions(agent, source)?;
        if sessions.len() > 1 {
            return Err(AgentError::Several { agent: agent.title(), sessions });
        }
        return Ok(sessions.pop());
    };
    check_id(id)?;
    let session = agent.session(source.folder, id)?.ok_or_else(|| AgentError::NoSession {
        agent: agent.title(),
        id: id.to_owned(),
        folder: source.folder.path().to_owned(),
    })?;
    let root = real(source.root);
    if !is_in(&session.cwd, &root) {
        return Err(AgentError::Elsewhere { id: session.id, cwd: session.cwd, root });
    }
    Ok(Some(session))
}

/// Puts a session and everything that belongs to it into a store. With rules, it says what in it looks like a secret.
pub fn capture<S: ObjectSink + ?Sized>(
    agent: &dyn Agent,
    source: &Source<'_>,
    session: &Session,
    rules: Option<&SecretRules>,
    sink: &S,
) -> Result<Captured, AgentError> {
    let mut reading =
        Reading { agent, source, rules, sink, chunker: Chunker::new(), found: Vec::new() };
    let main = rel_of(agent, session)?;
    let mut seen = Seen::default();
    let no_session = || AgentError::NoSession {
        agent: agent.title(),
        id: session.id.clone(),
        folder: source.folder.path().to_owned(),
    };
    let blob = reading.store(&main, &session.at, Some(&mut seen))?.ok_or_else(no_session)?;
    let Files { files, mut left_out } = agent.others(source.folder, session, &seen, MOST_FILES)?;
    let mut names: Vec<(RelPath, Blob)> = vec![(main.clone(), blob)];
    for (at, file) in files.into_iter().enumerate() {
        if at >= MOST_FILES {
            left_out.push(LeftOut { path: shown(&file.at), reason: Reason::TooMany });
            continue;
        }
        match reading.store(&file.name, &file.at, None) {
            Ok(blob) => names.extend(blob.map(|blob| (file.name, blob))),
            Err(AgentError::Folder(FolderError::Fs(error))) => {
                return Err(FolderError::Fs(error).into());
            }
            Err(AgentError::Folder(_)) => {
                left_out.push(LeftOut { path: shown(&file.at), reason: Reason::Special });
            }
            Err(AgentError::TooLarge { .. }) => {
                left_out.push(LeftOut { path: shown(&file.at), reason: Reason::NotCarried });
            }
            Err(error) => return Err(error),
        }
    }
    let origin = reading.origin(session, &main, &seen)?;
    names.insert(0, (RelPath::new(NAME.as_bytes()).unwrap_or_default(), origin));
    let found = reading.found;
    let mut conversation = Conversation {
        agent: agent.name().to_owned(),
        session: session.id.clone(),
        messages: seen.messages,
        transcript: parts(&names),
        attachments: Vec::new(),
    };
    // Names may be long.
    while conversation.encode().len() > MAX_OBJECT && names.len() > 2 {
        let keep = names.len() / 2;
        for (name, _) in names.drain(keep.max(2)..) {
            left_out.push(LeftOut { path: shown(&name), reason: Reason::TooMany });
        }
        conversation.transcript = parts(&names);
    }
    let id = sink.put(ObjectKind::Conversation, &conversation.encode())?;
    let id = ConversationId::from_bytes(id.hash);
    Ok(Captured { id, conversation, seen, left_out, found })
}

/// The path without links, which is the one that agents write down.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn shown(path: &RelPath) -> String {
    path.display().into_owned()
}

fn rel_of(agent: &dyn Agent, session: &Session) -> Result<RelPath, AgentError> {
    RelPath::new(&agent.main_name(session)).map_err(|_| AgentError::NoId { id: session.id.clone() })
}

fn parts(names: &[(RelPath, Blob)]) -> Vec<Part> {
    let sorted: BTreeMap<_, _> = names.iter().map(|(name, blob)| (name.clone(), *blob)).collect();
    sorted.into_iter().map(|(path, blob)| Part { path, blob }).collect()
}

struct Reading<'a, S: ?Sized> {
    agent: &'a dyn Agent,
    source: &'a Source<'a>,
    rules: Option<&'a SecretRules>,
    sink: &'a S,
    chunker: Chunker,
    found: Vec<Found>,
}

impl<S: ObjectSink + ?Sized> Reading<'_, S> {
    /// Puts a file, and looks at its lines as they pass; nothing where it is gone.
    fn store(
        &mut self,
        name: &RelPath,
        at: &RelPath,
        seen: Option<&mut Seen>,
    ) -> Result<Option<Blob>, AgentError> {
        let Some(file) = self.source.folder.file(at)? else { return Ok(None) };
        let path = || self.source.folder.path_of(at);
        let failed = |source| AgentError::Read { path: path(), source };
        let length = file.metadata().map_err(failed)?.len();
        if length > MAX_FILE {
            return Err(AgentError::TooLarge { path: path(), limit: MAX_FILE });
        }
        let search = self.rules.filter(|_| self.found.len() < MOST);
        let mut passing = Passing {
            from: file.take(length),
            lines: Some(Lines::default()),
            eyes: Eyes {
                agent: self.agent,
                at: 0,
                seen,
                search: search.map(|rules| Search::new(rules, shown(name))),
            },
        };
        let blob = self.chunker.store(&mut passing, self.sink).map_err(|error| match error {
            ChunkError::Store(error) => error.into(),
            ChunkError::Read(source) => failed(source),
        })?;
        self.found.extend(passing.eyes.search.into_iter().flat_map(Search::end));
        self.found.truncate(MOST);
        Ok(Some(blob))
    }

    fn origin(&self, session: &Session, main: &RelPath, seen: &Seen) -> Result<Blob, AgentError> {
        let root = real(self.source.root);
        // As it was given: that is the name by which the program knows it.
        let folder = self.source.folder.path().to_owned();
        let paths = [&root, &session.cwd, &folder];
        let home = self.source.home.map(Path::to_owned).filter(|home| home.to_str().is_some());
        if let Some(path) = paths.into_iter().find(|path| path.to_str().is_none()) {
            return Err(AgentError::NotText { path: path.clone() });
        }
        let origin = Origin::new(
            seen.version.clone(),
            root,
            session.cwd.clone(),
            folder,
            home,
            shown(main),
            shown(&session.at),
            seen.last_turn,
        );
        Ok(store_bytes(&origin.encode(), self.sink)?)
    }
}

/// A file whose lines are looked at while it is read.
struct Passing<'a, R> {
    from: R,
    /// Nothing once they have ended.
    lines: Option<Lines>,
    eyes: Eyes<'a>,
}

struct Eyes<'a> {
    agent: &'a dyn Agent,
    at: u64,
    seen: Option<&'a mut Seen>,
    search: Option<Search<'a>>,
}

impl Eyes<'_> {
    fn look(&mut self, piece: Piece<'_>) {
        let (Piece::Line(bytes) | Piece::Part(bytes)) = piece;
        if let Some(seen) = self.seen.as_deref_mut() {
            match piece {
                Piece::Line(line) if line.trim_ascii().is_empty() => {}
                Piece::Line(line) => self.agent.see(seen, self.at, line),
                Piece::Part(part) => seen.odd_lines += u64::from(part.ends_with(b"\n")),
            }
        }
        if let Some(search) = &mut self.search {
            search.piece(piece);
        }
        self.at += bytes.len() as u64;
    }
}

impl<R: Read> Read for Passing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        let Self { lines, eyes, .. } = self;
        let mut visit = |piece: Piece<'_>| {
            eyes.look(piece);
            Ok::<_, std::convert::Infallible>(())
        };
        let Ok(()) = match (read, lines.as_mut()) {
            (0, _) => lines.take().map_or(Ok(()), |lines| lines.end(&mut visit)),
            (_, Some(lines)) => lines.feed(buffer.get(..read).unwrap_or_default(), &mut visit),
            (_, None) => Ok(()),
        };
        Ok(read)
    }
}

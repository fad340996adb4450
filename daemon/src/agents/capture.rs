//! From an agent's folder into a store: which conversation, and all of its files as they are.
//!
//! Files may be written to while they are read: of each, as many bytes are taken as it had when it was opened. A last
//! line that is not whole yet travels as it is; agents pass over it.
//!
//! A conversation that is to leave is read twice: [`look`] stores nothing and says what is in it and how long its files
//! were, and [`capture`] then stores the very same. What has grown meanwhile is cut to that; what else has changed has
//! another id, and is not what was looked at.
//!
//! **Invariant:** memory is bounded by the buffer of the chunker and by one line, however long a transcript is.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use baton_protocol::id::{ConversationId, ObjectId, ObjectKind};
use baton_protocol::object::{Blob, Conversation, MAX_OBJECT, Part};
use baton_protocol::path::RelPath;
use baton_store::chunk::{ChunkError, Chunker, store_bytes};
use baton_store::error::StoreError;
use baton_store::folder::{Folder, FolderError};
use baton_store::objects::ObjectSink;

use super::adapter::{Agent, Wanted};
use super::findings::{Found, Looking, MOST, Search};
use super::lines::{Lines, Piece};
use super::mirror::Mirror;
use super::origin::{NAME, Origin};
use super::session::{
    AgentError, Files, LeftOut, MAX_CONVERSATION, MOST_FILES, Reason, Seen, Session, SessionFile,
    is_in,
};

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
    /// What people should know of it.
    pub notes: Vec<String>,
    /// What looks like a secret in it, where that was asked for.
    pub found: Vec<Found>,
    /// What was read: the transcript first, and of each file so many bytes.
    files: Vec<SessionFile>,
    /// Where they are, unless they are the agent's own.
    mirror: Option<Arc<Mirror>>,
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
    if !agent.is_id(id) {
        return Err(AgentError::NoId { agent: agent.title(), id: id.to_owned() });
    }
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

/// Says what a session is and what looks like a secret in it, and stores nothing.
pub fn look(
    agent: &dyn Agent,
    source: &Source<'_>,
    session: &Session,
    looking: Option<Looking<'_>>,
    is_named: bool,
) -> Result<Captured, AgentError> {
    let main = main_file(agent, session)?;
    let mirror = agent.kept().map(|kept| Mirror::of(kept, source.folder, session)).transpose()?;
    let folder = mirror.as_ref().map_or(source.folder, Mirror::folder);
    let mut reading = Reading::new(agent, source, folder, looking, &Nowhere);
    let mut seen = Seen::default();
    let (blob, length) =
        reading.store(&main, Some(&mut seen))?.ok_or_else(|| gone(agent, source, session))?;
    let mut read = vec![(SessionFile { most: length, ..main }, blob)];
    let wanted = Wanted { root: &real(source.root), most: MOST_FILES, is_named };
    let Files { files, mut left_out, notes } = agent.others(folder, session, &seen, &wanted)?;
    left_out.extend(mirror.iter().flat_map(Mirror::left_out).cloned());
    let mut total = length;
    for file in files {
        let found = reading.found.len();
        let stored = if read.len() > MOST_FILES { Ok(None) } else { reading.store(&file, None) };
        let reason = match stored {
            Ok(None) if read.len() > MOST_FILES => Reason::TooMany,
            Ok(None) => continue,
            Ok(Some((blob, length))) if total.saturating_add(length) <= MAX_CONVERSATION => {
                total += length;
                read.push((SessionFile { most: length, ..file }, blob));
                continue;
            }
            Ok(Some(_)) | Err(AgentError::TooLarge { .. }) => Reason::NotCarried,
            Err(AgentError::Folder(FolderError::Fs(error))) => {
                return Err(FolderError::Fs(error).into());
            }
            Err(AgentError::Folder(_)) => Reason::Special,
            Err(error) => return Err(error),
        };
        // It stays here, and so does what is in it.
        reading.found.truncate(found);
        left_out.push(LeftOut { path: shown(&file.at), reason });
    }
    let looked = reading.conversation(session, seen, read, left_out, notes)?;
    Ok(Captured { mirror: mirror.map(Arc::new), ..looked })
}

/// Puts what was looked at into a store, and nothing else; an error where it has changed since in another way than by
/// growing, and then what was stored is nothing that may leave.
pub fn capture<S: ObjectSink + ?Sized>(
    agent: &dyn Agent,
    source: &Source<'_>,
    session: &Session,
    looked: Captured,
    sink: &S,
) -> Result<Captured, AgentError> {
    let folder = looked.mirror.as_deref().map_or(source.folder, Mirror::folder);
    let mut reading = Reading::new(agent, source, folder, None, sink);
    let mut seen = Seen::default();
    let mut read = Vec::new();
    let changed = || AgentError::Unsteady { id: session.id.clone() };
    for file in looked.files {
        let seen = read.is_empty().then_some(&mut seen);
        let (blob, _) = reading.store(&file, seen)?.ok_or_else(changed)?;
        read.push((file, blob));
    }
    let captured = reading.conversation(session, seen, read, looked.left_out, looked.notes)?;
    if captured.id != looked.id {
        return Err(changed());
    }
    Ok(Captured { found: looked.found, mirror: None, ..captured })
}

fn gone(agent: &dyn Agent, source: &Source<'_>, session: &Session) -> AgentError {
    AgentError::NoSession {
        agent: agent.title(),
        id: session.id.clone(),
        folder: source.folder.path().to_owned(),
    }
}

fn main_file(agent: &dyn Agent, session: &Session) -> Result<SessionFile, AgentError> {
    let name = RelPath::new(&agent.main_name(session));
    let no_id = |_| AgentError::NoId { agent: agent.title(), id: session.id.clone() };
    let name = name.map_err(no_id)?;
    Ok(SessionFile { name, at: session.at.clone(), most: u64::MAX })
}

/// Where what is only looked at goes.
struct Nowhere;

impl ObjectSink for Nowhere {
    fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
        Ok(ObjectId::of(kind, bytes))
    }
}

/// The path without links, which is the one that agents write down.
fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn shown(path: &RelPath) -> String {
    path.display().into_owned()
}

fn parts(origin: Blob, read: &[(SessionFile, Blob)]) -> Vec<Part> {
    let origin = (RelPath::new(NAME.as_bytes()).unwrap_or_default(), origin);
    let named = read.iter().map(|(file, blob)| (file.name.clone(), *blob));
    let sorted: BTreeMap<_, _> = std::iter::once(origin).chain(named).collect();
    sorted.into_iter().map(|(path, blob)| Part { path, blob }).collect()
}

struct Reading<'a, S: ?Sized> {
    agent: &'a dyn Agent,
    source: &'a Source<'a>,
    /// Where its files are.
    folder: &'a Folder,
    looking: Option<Looking<'a>>,
    sink: &'a S,
    chunker: Chunker,
    found: Vec<Found>,
}

impl<'a, S: ObjectSink + ?Sized> Reading<'a, S> {
    fn new(
        agent: &'a dyn Agent,
        source: &'a Source<'a>,
        folder: &'a Folder,
        looking: Option<Looking<'a>>,
        sink: &'a S,
    ) -> Self {
        Self { agent, source, folder, looking, sink, chunker: Chunker::new(), found: Vec::new() }
    }

    /// Puts a file, and looks at its lines as they pass; says how long it was, and nothing where it is gone.
    fn store(
        &mut self,
        file: &SessionFile,
        seen: Option<&mut Seen>,
    ) -> Result<Option<(Blob, u64)>, AgentError> {
        let SessionFile { name, at, most } = file;
        let Some(opened) = self.folder.file(at)? else { return Ok(None) };
        let path = || self.folder.path_of(at);
        let failed = |source| AgentError::Read { path: path(), source };
        let length = opened.metadata().map_err(failed)?.len().min(*most);
        if length > MAX_FILE {
            return Err(AgentError::TooLarge { path: path(), limit: MAX_FILE });
        }
        let looking = self.looking.filter(|_| self.found.len() < MOST);
        let mut passing = Passing {
            from: opened.take(length),
            lines: Some(Lines::default()),
            eyes: Eyes {
                agent: self.agent,
                at: 0,
                seen,
                search: looking.map(|looking| Search::new(looking, shown(name))),
            },
        };
        let blob = self.chunker.store(&mut passing, self.sink).map_err(|error| match error {
            ChunkError::Store(error) => error.into(),
            ChunkError::Read(source) => failed(source),
        })?;
        for found in passing.eyes.search.into_iter().flat_map(Search::end) {
            let known = self.found.iter().any(|it| it.fingerprint == found.fingerprint);
            if !known && self.found.len() < MOST {
                self.found.push(found);
            }
        }
        Ok(Some((blob, blob.size)))
    }

    /// Puts what all of them are together.
    fn conversation(
        self,
        session: &Session,
        seen: Seen,
        mut read: Vec<(SessionFile, Blob)>,
        mut left_out: Vec<LeftOut>,
        notes: Vec<String>,
    ) -> Result<Captured, AgentError> {
        let main = read.first().map(|(main, _)| main.name.clone()).unwrap_or_default();
        let origin = self.origin(session, &main, &seen)?;
        let mut conversation = Conversation {
            agent: self.agent.name().to_owned(),
            session: session.id.clone(),
            messages: seen.messages,
            transcript: parts(origin, &read),
            attachments: Vec::new(),
        };
        // Names may be long.
        while conversation.encode().len() > MAX_OBJECT && read.len() > 1 {
            let keep = (read.len() / 2).max(1);
            for (file, _) in read.drain(keep..) {
                left_out.push(LeftOut { path: shown(&file.name), reason: Reason::TooMany });
            }
            conversation.transcript = parts(origin, &read);
        }
        let id = self.sink.put(ObjectKind::Conversation, &conversation.encode())?;
        let id = ConversationId::from_bytes(id.hash);
        let files = read.into_iter().map(|(file, _)| file).collect();
        let found = self.found;
        Ok(Captured { id, conversation, seen, left_out, notes, found, files, mirror: None })
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
            seen.handoff(),
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

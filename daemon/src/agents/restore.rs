//! From a store into the folder of an agent, on any machine: every file to its place, with the paths of that machine.
//!
//! - [`rewrite`]: one file as it passes
//! - [`compare`]: what is there against what would be
//!
//! What is there and is the same conversation, or an older form of it, goes on under its id. A different one of that id
//! stays, and what arrives gets new ids: both are kept.
//!
//! **Invariant:** the transcript comes to its place last, when everything that belongs to it is there; where anything
//! fails the folder is as it was. A conversation comes from anybody: names that are none of the agent's are passed
//! over, and nothing that is named in one decides about a place.

mod compare;
mod rewrite;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};

use baton_protocol::object::{Conversation, Part};
use baton_protocol::path::RelPath;
use baton_store::chunk::for_each_piece;
use baton_store::folder::{Folder, FolderError, Placed, Seen, Stage};
use baton_store::objects::ObjectSource;

use super::adapter::{Agent, Place, Target};
use super::lines::{Lines, Piece};
use super::mirror::{Mirror, is_waiting};
use super::origin::{MAX_LEN, NAME, Origin};
use super::paths::PathMap;
use super::session::{AgentError, LeftOut, MAX_CONVERSATION, MOST_FILES, Reason};
use compare::{Relation, relation};
use rewrite::{Bases, Rewrite, first_line};

/// Longest file of a conversation that is written.
const MAX_FILE: u64 = 1 << 30;

/// Under which id a conversation arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Its own, unless a different one has that there.
    Same,
    /// A new one: what comes from now on is another conversation.
    Fork {
        /// Without the last turn, which is the one that asked for it.
        before_last_turn: bool,
    },
    /// A new one that goes on elsewhere: without the turn that asked for the handoff, where that had not ended.
    ForkAtHandoff,
}

/// Where a conversation is written.
#[derive(Clone, Copy, Debug)]
pub struct Destination<'a> {
    /// The agent's folder.
    pub folder: &'a Folder,
    /// The name by which the agent will know the folder, where that is another one.
    pub seen_as: Option<&'a Path>,
    /// The root of the workspace, by the name without links by which the agent will know it.
    pub root: &'a Path,
    /// The home of the user.
    pub home: Option<&'a Path>,
}

/// A conversation that an agent can go on with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// Its id there.
    pub id: String,
    /// Whether that is another one than where it comes from.
    pub is_new_id: bool,
    /// Where the agent is to be started.
    pub cwd: PathBuf,
    /// Where it was started before.
    pub from: PathBuf,
    /// Files of it that were written, below the folder.
    pub written: Vec<String>,
    /// What was not.
    pub left_out: Vec<LeftOut>,
    /// What a person types to go on with it, in `cwd`.
    pub resume: Vec<String>,
    /// Files that the agent's program is to take in first, by the name by which it will know each, in this order. Whoever
    /// has it do that removes them.
    pub imports: Vec<PathBuf>,
}

/// Writes a conversation.
pub fn restore<S: ObjectSource + ?Sized>(
    agent: &dyn Agent,
    source: &S,
    conversation: &Conversation,
    destination: &Destination<'_>,
    form: Form,
) -> Result<Restored, AgentError> {
    let unknown = |why| AgentError::Unknown { agent: agent.title(), why };
    if conversation.agent != agent.name() {
        return Err(unknown("it is of another agent"));
    }
    if !agent.is_id(&conversation.session) {
        return Err(unknown("its id is none"));
    }
    // The transcript, and what is kept of the machine that it comes from.
    if conversation.transcript.len() > MOST_FILES + 2 {
        return Err(unknown("it has more files than any"));
    }
    let size =
        conversation.transcript.iter().try_fold(0u64, |sum, it| sum.checked_add(it.blob.size));
    if size.is_none_or(|size| size > MAX_CONVERSATION + MAX_LEN) {
        return Err(unknown("its files are longer than any"));
    }
    let origin = read_origin(source, conversation)
        .and_then(|found| found.ok_or_else(|| unknown("it does not say where it comes from")))?;
    let parts: Vec<&Part> = (conversation.transcript.iter())
        .filter(|part| part.path.as_bytes() != NAME.as_bytes())
        .collect();
    let main = parts.iter().find(|part| part.path.as_bytes() == origin.main.as_bytes());
    let main = main.ok_or_else(|| unknown("its transcript is missing"))?.path.clone();
    if agent.id_of(&main, &origin).as_deref() != Some(conversation.session.as_str()) {
        return Err(unknown("its transcript has another id"));
    }
    // Where the agent has no files, what is there is written out, and what comes is written beside it.
    let there = |kept| {
        let names = parts.iter().map(|part| part.path.clone()).collect::<Vec<_>>();
        Mirror::of_those(kept, destination.folder, &names)
    };
    let mirror = agent.kept().map(there).transpose()?;
    let folder = mirror.as_ref().map_or(destination.folder, Mirror::folder);
    let seen_as = destination.seen_as.unwrap_or_else(|| destination.folder.path());
    let inner = Destination { folder, seen_as: Some(seen_as), ..*destination };
    let mut writing = Writing {
        agent,
        source,
        destination: &inner,
        origin,
        parts,
        main,
        form,
        bases: Bases::default(),
    };
    writing.find_bases()?;
    let ancestors = writing.bases.ancestors(&conversation.session);
    let all = writing.transcripts();
    let id = &conversation.session;
    let mint = |keep: &BTreeSet<String>| -> Result<BTreeMap<String, String>, AgentError> {
        let minted = all.iter().filter(|id| !keep.contains(*id));
        minted.map(|id| Ok((id.clone(), agent.fresh_id(id)?))).collect()
    };
    let first = match form {
        Form::Same => BTreeMap::new(),
        Form::Fork { .. } | Form::ForkAtHandoff => mint(&ancestors)?,
    };
    // What is there under its id and differs stays, and everything gets ids of its own.
    for ids in [first, mint(&BTreeSet::new())?] {
        let to = writing.target(id, ids)?;
        let Some(mut restored) = writing.write(&to)? else { continue };
        let (Some(mirror), Some(kept)) = (&mirror, agent.kept()) else { return Ok(restored) };
        let written = restored.written.iter().filter_map(|at| RelPath::new(at.as_bytes()).ok());
        let (beside, written): (Vec<_>, Vec<_>) = written.partition(|at| kept.is_beside(at));
        let is_one = |at: &RelPath| agent.id_of(at, &writing.origin).is_some();
        let transcripts: Vec<_> = written.into_iter().filter(is_one).collect();
        let files = (transcripts.as_slice(), beside.as_slice());
        let documents = mirror.documents(kept, destination.folder, &to, files)?;
        let Some(documents) = documents else { continue };
        restored.written = transcripts.iter().map(|at| at.display().into_owned()).collect();
        restored.imports = documents;
        return Ok(restored);
    }
    Err(AgentError::Changed { folder: destination.folder.path().to_owned() })
}

/// Whether a conversation of this id was written that the agent's program has not taken in to its end.
pub fn is_on_its_way(agent: &dyn Agent, folder: &Folder, id: &str) -> Result<bool, AgentError> {
    if agent.kept().is_none() { Ok(false) } else { is_waiting(folder, id) }
}

/// Nothing where there is none, or none that is understood.
pub(super) fn read_origin<S: ObjectSource + ?Sized>(
    source: &S,
    conversation: &Conversation,
) -> Result<Option<Origin>, AgentError> {
    let part = conversation.transcript.iter().find(|it| it.path.as_bytes() == NAME.as_bytes());
    let Some(part) = part.filter(|part| part.blob.size <= MAX_LEN) else { return Ok(None) };
    let mut bytes = Vec::new();
    for_each_piece(source, part.blob, |piece| {
        bytes.extend_from_slice(piece);
        Ok::<_, AgentError>(())
    })?;
    Ok(Origin::decode(&bytes))
}

struct Writing<'a, S: ?Sized> {
    agent: &'a dyn Agent,
    source: &'a S,
    destination: &'a Destination<'a>,
    origin: Origin,
    parts: Vec<&'a Part>,
    main: RelPath,
    form: Form,
    bases: Bases,
}

/// A file that is ready.
struct Ready {
    number: usize,
    at: RelPath,
    /// What it replaces.
    over: Option<Seen>,
}

impl<S: ObjectSource + ?Sized> Writing<'_, S> {
    /// The ids of all transcripts.
    fn transcripts(&self) -> BTreeSet<String> {
        let id = |part: &&Part| self.agent.id_of(&part.path, &self.origin);
        self.parts.iter().filter_map(id).collect()
    }

    /// Learns what goes on from what.
    fn find_bases(&mut self) -> Result<(), AgentError> {
        for part in &self.parts {
            let Some(id) = self.agent.id_of(&part.path, &self.origin) else { continue };
            let line = first_line(self.source, part.blob)?;
            self.bases.note(id, line.and_then(|line| self.agent.base(&line)));
        }
        Ok(())
    }

    fn target(&self, id: &str, ids: BTreeMap<String, String>) -> Result<Target, AgentError> {
        let Destination { folder, seen_as, root, .. } = *self.destination;
        let workspace = PathMap::new([(self.origin.root.as_path(), root)]);
        let inside = self.origin.cwd.starts_with(&self.origin.root)
            && !self.origin.cwd.components().any(|it| it == std::path::Component::ParentDir);
        let cwd = if inside { workspace.path(&self.origin.cwd) } else { root.to_owned() };
        Ok(Target {
            id: ids.get(id).map_or(id, String::as_str).to_owned(),
            ids,
            project: self.agent.project(folder, &cwd)?,
            cwd,
            folder: seen_as.unwrap_or_else(|| folder.path()).to_owned(),
        })
    }

    /// Writes everything under these ids; nothing where one of them is another conversation's.
    fn write(&mut self, to: &Target) -> Result<Option<Restored>, AgentError> {
        let Destination { folder, root, home, .. } = *self.destination;
        let place = |part: &Part| self.agent.place(&part.path, to);
        if let Some(there) = self.other_place(to)? {
            tracing::info!(id = to.id, at = %there.display(), "the conversation is there elsewhere");
            return Ok(None);
        }
        let mut pairs = self.agent.paths(&self.origin, to);
        pairs.push((self.origin.root.clone(), root.to_owned()));
        if let (Some(old), Some(new)) = (&self.origin.home, home) {
            pairs.push((old.clone(), new.to_owned()));
        }
        let map = PathMap::new(pairs.iter().map(|(old, new)| (old.as_path(), new.as_path())));
        let mut left_out = Vec::new();
        let mut places: Vec<(&Part, Place)> = Vec::new();
        for part in &self.parts {
            let known = place(part).filter(|place| places.iter().all(|(_, it)| it.at != place.at));
            match known {
                Some(place) if part.blob.size <= MAX_FILE => places.push((part, place)),
                Some(_) => left_out.push(left(part, Reason::NotCarried)),
                None => left_out.push(left(part, Reason::Unknown)),
            }
        }
        // What others go on from is written before them, and the transcript is placed last.
        let id = |part: &Part| self.agent.id_of(&part.path, &self.origin);
        places.sort_by_key(|(part, _)| {
            let depth = id(part).map(|id| self.bases.depth(&id)).unwrap_or_default();
            (depth, part.path == self.main)
        });
        let mut stage = folder.stage()?;
        let (mut ready, mut last) = (Vec::new(), None);
        let mut bases = std::mem::take(&mut self.bases);
        bases.forget_places();
        for (part, place) in places {
            let is_main = part.path == self.main;
            let (number, mut file) = stage.create()?;
            let length = self.fill((part, is_main), to, &map, &mut bases, &mut file);
            let length = match length {
                Ok(length) => length,
                Err(error) => {
                    self.bases = bases;
                    return Err(error);
                }
            };
            if is_main && length == 0 && self.cut(is_main, to).is_some() {
                self.bases = bases;
                return Err(AgentError::NothingBefore);
            }
            let over = match self.look(&mut file, length, &place)? {
                Looked::Take(over) => over,
                Looked::There => continue,
                Looked::Kept => {
                    left_out.push(left(part, Reason::Kept));
                    continue;
                }
                Looked::Other => {
                    self.bases = bases;
                    return Ok(None);
                }
            };
            let one = Ready { number, at: place.at, over };
            if is_main { last = Some(one) } else { ready.push(one) }
        }
        self.bases = bases;
        ready.extend(last);
        if !self.place_signs(&mut stage, to)? {
            return Ok(None);
        }
        let mut written = Vec::new();
        for Ready { number, at, over } in &ready {
            let placed = match over {
                Some(seen) => stage.replace(*number, at, *seen)?,
                None => stage.place(*number, at)?,
            };
            if placed == Placed::Occupied {
                // It came to be, or has grown, since it was looked at.
                return Ok(None);
            }
            written.push(at.display().into_owned());
        }
        finish(stage)?;
        Ok(Some(Restored {
            id: to.id.clone(),
            is_new_id: !to.ids.is_empty(),
            cwd: to.cwd.clone(),
            from: self.origin.cwd.clone(),
            written,
            left_out,
            resume: self.agent.resume_command(&to.id),
            imports: Vec::new(),
        }))
    }

    /// Has what says whose a folder is there; false where somebody else has just said it.
    fn place_signs(&self, stage: &mut Stage<'_>, to: &Target) -> Result<bool, AgentError> {
        let folder = self.destination.folder;
        let failed = |source| AgentError::Write { path: folder.path().to_owned(), source };
        for (at, bytes) in self.agent.signs(to) {
            if folder.file(&at)?.is_some() {
                continue;
            }
            let (number, mut file) = stage.create()?;
            file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
            if stage.place(number, &at)? == Placed::Occupied {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Where a conversation of this id is, if that is not the place to which it would come: an agent would find either
    /// of two.
    fn other_place(&self, to: &Target) -> Result<Option<PathBuf>, AgentError> {
        let folder = self.destination.folder;
        let Some(place) = self.agent.place(&self.main, to) else { return Ok(None) };
        let there = match self.agent.session(folder, &to.id) {
            Ok(Some(session)) if session.at != place.at => Some(folder.path_of(&session.at)),
            Ok(_) => None,
            // It is there, whatever it is.
            Err(AgentError::Compressed { path } | AgentError::NoFolder { path }) => {
                Some(path).filter(|path| *path != folder.path_of(&place.at))
            }
            Err(error) => return Err(error),
        };
        Ok(there)
    }

    /// Where the transcript is to end.
    fn cut(&self, is_main: bool, to: &Target) -> Option<u64> {
        match self.form {
            _ if !is_main => None,
            Form::Fork { before_last_turn: true } => {
                Some(self.origin.last_turn.unwrap_or_default())
            }
            Form::Fork { before_last_turn: false } => None,
            Form::Same if to.ids.is_empty() => None,
            // A new one goes on from where nobody waits for the answer of a call.
            Form::Same | Form::ForkAtHandoff => self.origin.handoff,
        }
    }

    /// Writes the bytes of a part as they are to be here. Says how many.
    fn fill(
        &self,
        (part, is_main): (&Part, bool),
        to: &Target,
        map: &PathMap,
        bases: &mut Bases,
        file: &mut File,
    ) -> Result<u64, AgentError> {
        let path = || self.destination.folder.path().to_owned();
        let failed = |source: io::Error| AgentError::Write { path: path(), source };
        let id = self.agent.id_of(&part.path, &self.origin);
        let mut out = BufWriter::with_capacity(256 * 1024, file);
        let mut length = 0u64;
        if part.path.as_bytes().ends_with(b".jsonl") {
            let cut = self.cut(is_main, to);
            let mut rewrite = Rewrite::new(self.agent, map, to, bases, id.as_deref(), cut);
            let mut lines = Lines::default();
            let mut visit = |piece: Piece<'_>| {
                let bytes = rewrite.piece(piece);
                length += bytes.len() as u64;
                out.write_all(bytes).map_err(failed)
            };
            for_each_piece(self.source, part.blob, |bytes| lines.feed(bytes, &mut visit))?;
            lines.end(&mut visit)?;
            rewrite.end();
        } else {
            for_each_piece(self.source, part.blob, |bytes| {
                length += bytes.len() as u64;
                out.write_all(bytes).map_err(failed)
            })?;
        }
        out.flush().map_err(failed)?;
        let file = out.into_inner().map_err(|error| failed(error.into_error()))?;
        file.sync_all().map_err(failed)?;
        Ok(length)
    }

    /// What is to be done with a file that is ready, by what is there.
    fn look(&self, file: &mut File, length: u64, place: &Place) -> Result<Looked, AgentError> {
        let folder = self.destination.folder;
        let there = match folder.file(&place.at) {
            Err(FolderError::NotRegular { .. }) if place.is_shared => return Ok(Looked::Kept),
            there => there?,
        };
        let Some(mut there) = there else { return Ok(Looked::Take(None)) };
        let path = folder.path_of(&place.at);
        let failed = |source| AgentError::Read { path: path.clone(), source };
        file.rewind().map_err(failed)?;
        let old = there.metadata().map_err(failed)?.len();
        let looked = match relation(file, length, &mut there, old).map_err(failed)? {
            Relation::Same => Looked::There,
            _ if place.is_shared => Looked::Kept,
            // The one that is there has everything of this one, and has gone on.
            Relation::Shorter => Looked::There,
            Relation::Longer => Looked::Take(Some(Seen::new(&there, old).map_err(failed)?)),
            Relation::Differs => Looked::Other,
        };
        Ok(looked)
    }
}

enum Looked {
    /// It goes there, over a shorter one where there is one.
    Take(Option<Seen>),
    /// It is there.
    There,
    /// Another one is there, and stays.
    Kept,
    /// Another conversation is there.
    Other,
}

fn left(part: &Part, reason: Reason) -> LeftOut {
    LeftOut { path: part.path.display().into_owned(), reason }
}

fn finish(stage: Stage<'_>) -> Result<(), AgentError> {
    Ok(stage.finish()?)
}

//! The conversations of an agent that keeps them in a database, as files in a folder of ours: there they are read, compared
//! and rewritten as those of any other agent.
//!
//! Nothing is ever written into the database: what arrives becomes a document in the agent's folder, and the agent's own
//! program takes that in.
//!
//! **Invariant:** a mirror is there as long as what is done with it, and for its owner only.

use std::path::PathBuf;

use baton_protocol::path::RelPath;
use baton_store::folder::{Folder, Placed, Scratch};

use super::adapter::{Kept, Target};
use super::session::{AgentError, LeftOut, Session};

/// The folder, in the agent's own, in which documents wait for its program.
const WAITING: &str = "baton";

/// Whether a document of this conversation still waits: until the program has taken it in, what is there may be a part of it.
pub(super) fn is_waiting(folder: &Folder, id: &str) -> Result<bool, AgentError> {
    let waiting = RelPath::new(WAITING.as_bytes()).unwrap_or_default();
    let all = folder.list(&waiting)?;
    Ok(all.iter().any(|(name, _)| name.starts_with(format!("{id}-").as_bytes())))
}

/// A folder of ours with the files of a conversation.
#[derive(Debug)]
pub(super) struct Mirror {
    folder: Folder,
    left_out: Vec<LeftOut>,
    /// Goes last.
    _scratch: Scratch,
}

impl Mirror {
    /// The files of a session.
    pub(super) fn of(
        kept: &dyn Kept,
        folder: &Folder,
        session: &Session,
    ) -> Result<Self, AgentError> {
        let mut mirror = Self::new(folder)?;
        let files = kept.write_out(folder, &session.id, mirror.folder.path())?;
        mirror.left_out = files.left_out;
        Ok(mirror)
    }

    /// What is there of the transcripts with these names.
    pub(super) fn of_those(
        kept: &dyn Kept,
        folder: &Folder,
        names: &[RelPath],
    ) -> Result<Self, AgentError> {
        let mirror = Self::new(folder)?;
        kept.write_there(folder, names, mirror.folder.path())?;
        Ok(mirror)
    }

    fn new(of: &Folder) -> Result<Self, AgentError> {
        let scratch = of.scratch()?;
        let folder = Folder::open_or_create(scratch.path())?;
        Ok(Self { folder, left_out: Vec::new(), _scratch: scratch })
    }

    /// Where they are.
    pub(super) const fn folder(&self) -> &Folder {
        &self.folder
    }

    /// What of the session is not among them.
    pub(super) fn left_out(&self) -> &[LeftOut] {
        &self.left_out
    }

    /// Has a document for each of these transcripts in the agent's folder, in their order, and what lies beside the database at
    /// its place there; all of it or nothing. Says where the documents are; nothing where something in one has an id that
    /// something else has there.
    pub(super) fn documents(
        &self,
        kept: &dyn Kept,
        folder: &Folder,
        to: &Target,
        (transcripts, beside): (&[RelPath], &[RelPath]),
    ) -> Result<Option<Vec<PathBuf>>, AgentError> {
        let mut stage = folder.stage()?;
        let failed = |source| AgentError::Write { path: folder.path().to_owned(), source };
        let mut documents = Vec::new();
        for transcript in transcripts {
            let (number, mut file) = stage.create()?;
            if !kept.document(folder, &self.folder, transcript, to, &mut file)? {
                return Ok(None);
            }
            file.sync_all().map_err(failed)?;
            let (_, name) = transcript.split_last().unwrap_or_default();
            let name = String::from_utf8_lossy(name).replace(".jsonl", "");
            documents.push((number, name));
        }
        let mut placed = Vec::new();
        // Another one of the same name may wait there.
        let own = self.folder.path().file_name().unwrap_or_default().to_string_lossy().into_owned();
        for (number, name) in documents {
            let at = format!("{WAITING}/{name}-{own}.json");
            let at = RelPath::new(at.as_bytes()).unwrap_or_default();
            if stage.place(number, &at)? == Placed::Occupied {
                return Ok(None);
            }
            placed.push(to.folder.join(at.display().as_ref()));
        }
        for at in beside {
            let Some(mut from) = self.folder.file(at)? else { continue };
            let (number, mut file) = stage.create()?;
            std::io::copy(&mut from, &mut file).and_then(|_| file.sync_all()).map_err(failed)?;
            // One that is there stays.
            stage.place(number, at)?;
        }
        stage.finish()?;
        Ok(Some(placed))
    }
}

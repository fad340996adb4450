//! Taking out of an agent's folder what a conversation has there already, to the byte: then it can come to another place
//! of the folder, or with other paths, and keep its id.
//!
//! **Invariant:** what is taken out is in the store: a file that differs from what is stored there stays.

use std::io::Read;

use baton_protocol::object::{Blob, Conversation};
use baton_protocol::path::RelPath;
use baton_store::chunk::for_each_piece;
use baton_store::folder::Folder;
use baton_store::objects::ObjectSource;

use super::adapter::{Agent, Kept};
use super::mirror::Mirror;
use super::origin::Origin;
use super::restore::read_origin;
use super::session::AgentError;

/// Takes out the transcripts of a conversation that are there as they are stored. Says whether none of other content is
/// left under its id.
pub fn take_out<S: ObjectSource + ?Sized>(
    agent: &dyn Agent,
    source: &S,
    conversation: &Conversation,
    folder: &Folder,
) -> Result<bool, AgentError> {
    let Some(origin) = read_origin(source, conversation)? else { return Ok(true) };
    if let Some(kept) = agent.kept() {
        return take_database(agent, kept, source, (conversation, &origin), folder);
    }
    let mut is_free = true;
    for part in &conversation.transcript {
        let Some(id) = agent.id_of(&part.path, &origin) else { continue };
        let Some(session) = agent.session(folder, &id)? else { continue };
        let Some(mut file) = folder.file(&session.at)? else { continue };
        let path = folder.path_of(&session.at);
        let same = has(&mut file, source, part.blob).map_err(|error| error.into_agent(path))?;
        is_free &= same && folder.remove(&session.at, &file)?;
    }
    Ok(is_free)
}

/// Takes out a whole database, where everything in it is stored: it is not for us to take a part out of one.
fn take_database<S: ObjectSource + ?Sized>(
    agent: &dyn Agent,
    kept: &dyn Kept,
    source: &S,
    (conversation, origin): (&Conversation, &Origin),
    folder: &Folder,
) -> Result<bool, AgentError> {
    let all = kept.ids(folder)?;
    if all.is_empty() {
        return Ok(true);
    }
    let stored: Vec<_> = (conversation.transcript.iter())
        .filter_map(|part| Some((part, agent.id_of(&part.path, origin)?)))
        .collect();
    let none_is_there = !all.iter().any(|id| stored.iter().any(|(_, known)| known == id));
    if none_is_there {
        return Ok(true);
    }
    if all.iter().any(|id| !stored.iter().any(|(_, known)| known == id)) {
        return Ok(false);
    }
    let names: Vec<_> = stored.iter().map(|(part, _)| part.path.clone()).collect();
    let mirror = Mirror::of_those(kept, folder, &names)?;
    for (part, _) in stored {
        let Some(mut file) = mirror.folder().file(&part.path)? else { continue };
        let path = mirror.folder().path_of(&part.path);
        if !has(&mut file, source, part.blob).map_err(|error| error.into_agent(path))? {
            return Ok(false);
        }
    }
    let mut is_free = true;
    for name in kept.files() {
        let at = RelPath::new(name.as_bytes()).unwrap_or_default();
        if let Some(file) = folder.file(&at)? {
            is_free &= folder.remove(&at, &file)?;
        }
    }
    Ok(is_free)
}

enum Unread {
    File(std::io::Error),
    Store(baton_store::error::StoreError),
    Other,
}

impl Unread {
    fn into_agent(self, path: std::path::PathBuf) -> AgentError {
        match self {
            Self::File(source) => AgentError::Read { path, source },
            Self::Store(error) => error.into(),
            // Never returned.
            Self::Other => AgentError::Changed { folder: path },
        }
    }
}

impl From<baton_store::error::StoreError> for Unread {
    fn from(error: baton_store::error::StoreError) -> Self {
        Self::Store(error)
    }
}

/// Whether a file has just these bytes.
fn has<S: ObjectSource + ?Sized>(
    file: &mut std::fs::File,
    source: &S,
    blob: Blob,
) -> Result<bool, Unread> {
    let length = file.metadata().map_err(Unread::File)?.len();
    if length != blob.size {
        return Ok(false);
    }
    let mut own = Vec::new();
    let compared = for_each_piece(source, blob, |piece| {
        own.resize(piece.len(), 0);
        file.read_exact(&mut own).map_err(Unread::File)?;
        if own == piece { Ok(()) } else { Err(Unread::Other) }
    });
    match compared {
        Ok(()) => Ok(true),
        Err(Unread::Other) => Ok(false),
        Err(error) => Err(error),
    }
}

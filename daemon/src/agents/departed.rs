//! Taking out of an agent's folder what a conversation has there already, to the byte: then it can come to another place
//! of the folder, or with other paths, and keep its id.
//!
//! **Invariant:** what is taken out is in the store: a file that differs from what is stored there stays.

use std::io::Read;

use baton_protocol::object::{Blob, Conversation};
use baton_store::chunk::for_each_piece;
use baton_store::folder::Folder;
use baton_store::objects::ObjectSource;

use super::adapter::Agent;
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

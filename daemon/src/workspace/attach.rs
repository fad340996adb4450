//! Files to attach, as a conversation.

use std::os::unix::ffi::OsStrExt;

use baton_protocol::id::{ConversationId, ObjectKind};
use baton_protocol::object::{Conversation, Part};
use baton_protocol::path::RelPath;
use baton_store::chunk::{ChunkError, Chunker};
use baton_store::objects::ObjectSink;
use baton_store::vault::Intake;

use super::{TakeError, TakeOptions};

/// Stores files to attach as the attachments of a conversation without a transcript.
pub(super) fn attach(
    intake: &Intake,
    options: &TakeOptions,
) -> Result<Vec<ConversationId>, TakeError> {
    if options.attachments.is_empty() {
        return Ok(Vec::new());
    }
    let mut chunker = Chunker::new();
    let mut attachments = Vec::new();
    for path in &options.attachments {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| TakeError::Attach {
            path: path.clone(),
            source,
        };
        let mut file = baton_store::fs::open(path).map_err(|error| failed(error.into()))?;
        let metadata = file.metadata().map_err(|error| failed(error.into()))?;
        if !metadata.is_file() {
            return Err(failed("it is no regular file".into()));
        }
        let name = path.file_name().unwrap_or_default();
        let blob = chunker.store(&mut file, intake).map_err(|error| match error {
            ChunkError::Store(error) => TakeError::Store(error),
            other @ ChunkError::Read(_) => failed(other.into()),
        })?;
        let rel = RelPath::new(name.as_bytes()).map_err(|error| failed(error.into()))?;
        attachments.push(Part { path: rel, blob });
    }
    attachments.sort_by(|a, b| a.path.cmp(&b.path));
    let same = attachments.windows(2).find_map(|pair| match pair {
        [a, b] if a.path == b.path => Some(a.path.display().into_owned()),
        _ => None,
    });
    if let Some(name) = same {
        return Err(TakeError::SameName { name: name.into() });
    }
    let conversation = Conversation {
        agent: "command".into(),
        session: options.session.clone(),
        messages: 0,
        transcript: Vec::new(),
        attachments,
    };
    let id = intake.put(ObjectKind::Conversation, &conversation.encode())?;
    Ok(vec![ConversationId::from_bytes(id.hash)])
}

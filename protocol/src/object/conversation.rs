//! One agent session: its transcript files and the files attached to it.
//!
//! Not here: what the files mean. An adapter reads and writes them; the format keeps them byte for
//! byte under the names that the adapter gave.

use super::{Blob, MAX_OBJECT};
use crate::encode::{DecodeError, Reader, Writer};
use crate::id::ObjectId;
use crate::path::{MAX_PATH, RelPath};

const VERSION: u64 = 1;

/// Longest agent name and session id in bytes.
const MAX_LABEL: usize = 255;

/// Most transcript files, and most attachments, of one session.
const MAX_PARTS: usize = 1024;

/// A named byte string of a conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// A relative path, unique and ascending within its list.
    pub path: RelPath,
    /// Its bytes.
    pub blob: Blob,
}

/// One agent session and its attachments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversation {
    /// The adapter that reads it; `command` has attachments only.
    pub agent: String,
    /// The agent's own id of the session.
    pub session: String,
    /// Messages in it, for the receipt.
    pub messages: u64,
    /// Files of the session.
    pub transcript: Vec<Part>,
    /// Files attached by the user.
    pub attachments: Vec<Part>,
}

impl Conversation {
    /// The canonical bytes. Parts must be ascending by path, and whoever makes a conversation decodes
    /// what comes out before it is stored: many parts with long paths can exceed [`MAX_OBJECT`].
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.varint(VERSION);
        to.bytes(self.agent.as_bytes());
        to.bytes(self.session.as_bytes());
        to.varint(self.messages);
        write_parts(&mut to, &self.transcript);
        write_parts(&mut to, &self.attachments);
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        if bytes.len() > MAX_OBJECT {
            let (value, limit) = (bytes.len() as u64, MAX_OBJECT as u64);
            return Err(DecodeError::Limit { what: "conversation length", value, limit });
        }
        let mut from = Reader::new(bytes);
        let version = from.varint()?;
        if version != VERSION {
            return Err(DecodeError::Unknown { what: "conversation version", value: version });
        }
        let conversation = Self {
            agent: from.text("agent", MAX_LABEL)?.to_owned(),
            session: from.text("session", MAX_LABEL)?.to_owned(),
            messages: from.varint()?,
            transcript: read_parts(&mut from)?,
            attachments: read_parts(&mut from)?,
        };
        from.finish()?;
        Ok(conversation)
    }

    /// The objects it names.
    pub fn children(&self) -> Vec<ObjectId> {
        let parts = self.transcript.iter().chain(&self.attachments);
        parts.map(|part| part.blob.content.id()).collect()
    }
}

fn write_parts(to: &mut Writer, parts: &[Part]) {
    to.varint(parts.len() as u64);
    for part in parts {
        to.bytes(part.path.as_bytes());
        part.blob.write(to);
    }
}

fn read_parts(from: &mut Reader<'_>) -> Result<Vec<Part>, DecodeError> {
    let count = from.count("parts", MAX_PARTS, 2 + Blob::LEAST)?;
    let mut parts: Vec<Part> = Vec::with_capacity(count);
    for _ in 0..count {
        let bytes = from.bytes("part path", MAX_PATH)?;
        let path = RelPath::new(bytes)
            .ok()
            .filter(|path| !path.is_root())
            .ok_or(DecodeError::Inconsistent { what: "part path" })?;
        if parts.last().is_some_and(|last| last.path >= path) {
            return Err(DecodeError::Order { what: "parts" });
        }
        parts.push(Part { path, blob: Blob::read(from)? });
    }
    Ok(parts)
}

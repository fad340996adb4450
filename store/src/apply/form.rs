//! What stands at a path: a file, a link or a directory, with all that an apply tells apart.
//!
//! **Invariant:** two directories are the same form where their modes are: what is in them is at other
//! paths.

use baton_protocol::encode::{DecodeError, Reader, Writer};
use baton_protocol::id::{ChunkId, ManifestId, ObjectId, TreeId};
use baton_protocol::object::{Blob, Content, EntryKind, MAX_CHUNK, TreeSums};

const FILE: u8 = 0;
const LINK: u8 = 1;
const DIRECTORY: u8 = 2;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A regular file.
    File {
        /// Permission bits.
        mode: u16,
        /// Its content.
        blob: Blob,
    },
    /// A symbolic link.
    Link {
        /// What it says.
        target: Blob,
    },
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u16,
    },
}

impl Form {
    /// Whether it is a directory.
    pub const fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// The content of a file or link.
    pub const fn blob(&self) -> Option<Blob> {
        match *self {
            Self::File { blob, .. } | Self::Link { target: blob } => Some(blob),
            Self::Directory { .. } => None,
        }
    }

    /// The object with its content; nothing for a directory.
    pub fn content(&self) -> Option<ObjectId> {
        self.blob().map(|blob| blob.content.id())
    }

    /// The entry of a tree that it would be.
    pub(super) const fn entry(self) -> EntryKind {
        match self {
            Self::File { mode, blob } => EntryKind::File { mode, blob },
            Self::Link { target } => EntryKind::Symlink { target },
            Self::Directory { mode } => EntryKind::Directory {
                mode,
                tree: TreeId::from_bytes([0; TreeId::LEN]),
                below: TreeSums { files: 0, bytes: 0 },
            },
        }
    }

    pub(super) fn write(form: Option<&Self>, to: &mut Writer) {
        let blob = |to: &mut Writer, blob: &Blob| {
            to.varint(blob.size);
            to.fixed(&blob.content.id().hash);
        };
        match form {
            None => to.byte(0),
            Some(Self::File { mode, blob: content }) => {
                to.byte(1 + FILE);
                to.varint(u64::from(*mode));
                blob(to, content);
            }
            Some(Self::Link { target }) => {
                to.byte(1 + LINK);
                blob(to, target);
            }
            Some(Self::Directory { mode }) => {
                to.byte(1 + DIRECTORY);
                to.varint(u64::from(*mode));
            }
        }
    }

    pub(super) fn read(from: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        fn mode(from: &mut Reader<'_>) -> Result<u16, DecodeError> {
            Ok(from.bounded("mode", 0o777)? as u16)
        }
        fn blob(from: &mut Reader<'_>) -> Result<Blob, DecodeError> {
            let (size, hash) = (from.varint()?, from.array()?);
            let content = if size <= MAX_CHUNK as u64 {
                Content::Chunk(ChunkId::from_bytes(hash))
            } else {
                Content::Manifest(ManifestId::from_bytes(hash))
            };
            Ok(Blob { size, content })
        }
        let number = from.byte()?;
        Ok(match number.checked_sub(1) {
            None => None,
            Some(FILE) => Some(Self::File { mode: mode(from)?, blob: blob(from)? }),
            Some(LINK) => Some(Self::Link { target: blob(from)? }),
            Some(DIRECTORY) => Some(Self::Directory { mode: mode(from)? }),
            Some(_) => {
                return Err(DecodeError::Unknown { what: "form", value: number.into() });
            }
        })
    }
}

impl From<EntryKind> for Form {
    fn from(kind: EntryKind) -> Self {
        match kind {
            EntryKind::File { mode, blob } => Self::File { mode, blob },
            EntryKind::Symlink { target } => Self::Link { target },
            EntryKind::Directory { mode, .. } => Self::Directory { mode },
        }
    }
}

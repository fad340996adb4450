//! Files of a repository's folder that say what it is in the middle of, whole.

use crate::encode::{DecodeError, Reader, Writer};
use crate::path::{MAX_PATH, RelPath};

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitFile {
    /// Relative to the folder of the repository.
    pub path: RelPath,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// Files, ascending by path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitFiles(pub Vec<GitFile>);

impl GitFiles {
    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut to = Writer::new();
        to.varint(self.0.len() as u64);
        for file in &self.0 {
            to.bytes(file.path.as_bytes());
            to.bytes(&file.bytes);
        }
        to.finish()
    }

    /// Reads canonical bytes and refuses all others.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Reader::new(bytes);
        let count = from.count("files", bytes.len(), 3)?;
        let mut files: Vec<GitFile> = Vec::with_capacity(count);
        for _ in 0..count {
            let path = RelPath::new(from.bytes("file path", MAX_PATH)?)
                .ok()
                .filter(|path| !path.is_root())
                .ok_or(DecodeError::Inconsistent { what: "file path" })?;
            if files.last().is_some_and(|last| last.path >= path) {
                return Err(DecodeError::Order { what: "files" });
            }
            let bytes = from.bytes("file", bytes.len())?.to_vec();
            files.push(GitFile { path, bytes });
        }
        from.finish()?;
        Ok(Self(files))
    }

    /// The bytes of the file at a path.
    pub fn find(&self, path: &[u8]) -> Option<&[u8]> {
        let at = self.0.binary_search_by(|file| file.path.as_bytes().cmp(path)).ok()?;
        self.0.get(at).map(|file| file.bytes.as_slice())
    }
}

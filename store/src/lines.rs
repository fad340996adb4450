//! Small files of a store that are lines of text: read with a bound, written as a whole.
//!
//! Not here: what the lines say. Who reads them makes do with what can be understood of them.

use std::path::Path;

use crate::fs::{self, FsError};

/// The text of a file; nothing where there is none. A file that is too long, or no text, has lines that say nothing.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Option<String>, FsError> {
    let read = match fs::read_if_exists(path, limit) {
        Err(error) if error.is_too_large() => Some(Vec::new()),
        read => read?,
    };
    Ok(read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
}

/// Replaces the file, durably.
pub(crate) fn write(path: &Path, lines: impl IntoIterator<Item = String>) -> Result<(), FsError> {
    let mut text = String::new();
    for line in lines {
        text.push_str(&line);
        text.push('\n');
    }
    fs::write_atomic(path, text.as_bytes(), 0o600)
}

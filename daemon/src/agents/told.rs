//! What an agent is to be told of a pull when it goes on in a folder: kept by whoever pulled, given once.
//!
//! Not here: the words.
//!
//! **Invariant:** what is kept is bounded, and given to one who asks for it only.

use std::path::Path;

use baton_store::fs::{self, FsError};

use super::marks::{file, real};

/// Bytes that are kept. The agent that takes least cuts what is longer than 10,000 characters.
pub const MAX_TOLD: usize = 8 * 1024;

/// Keeps what the agent in a folder is to be told; what was kept there before is forgotten.
pub fn keep(folder: &Path, root: &Path, text: &str) -> Result<(), FsError> {
    fs::create_dir_all(folder)?;
    let end = (0..=MAX_TOLD.min(text.len())).rev().find(|&at| text.is_char_boundary(at));
    let text = text.get(..end.unwrap_or_default()).unwrap_or_default();
    fs::write_atomic(&place(folder, root), text.as_bytes(), 0o600)
}

/// Gives what was kept for a folder, and forgets it.
pub fn take(folder: &Path, root: &Path) -> Result<Option<String>, FsError> {
    let place = place(folder, root);
    let read = match fs::read_if_exists(&place, MAX_TOLD as u64) {
        // Nobody has kept so much: it goes as well, or it would be in the way for good.
        Err(error) if error.is_too_large() => Some(Vec::new()),
        read => read?,
    };
    let Some(bytes) = read else { return Ok(None) };
    fs::remove_file(&place)?;
    Ok(String::from_utf8(bytes).ok().filter(|text| !text.is_empty()))
}

fn place(folder: &Path, root: &Path) -> std::path::PathBuf {
    file(folder, &real(root)).with_extension("told")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_given_once_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, root) = (dir.path().join("sessions"), dir.path().join("app"));
        assert_eq!(take(&folder, &root).unwrap(), None);
        keep(&folder, &root, "old").unwrap();
        keep(&folder, &root, &"é".repeat(MAX_TOLD)).unwrap();
        let text = take(&folder, &root).unwrap().unwrap();
        assert_eq!(text.len(), MAX_TOLD);
        assert_eq!(take(&folder, &root).unwrap(), None);
        keep(&folder, &root, "of it").unwrap();
        assert_eq!(take(&folder, dir.path()).unwrap(), None);
    }
    #[test]
    fn what_is_too_long_is_forgotten_and_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let (folder, root) = (dir.path().join("sessions"), dir.path().join("app"));
        keep(&folder, &root, "short").unwrap();
        fs::write_whole(&place(&folder, &root), &[b'x'; MAX_TOLD + 1], 0o600).unwrap();
        assert_eq!(take(&folder, &root).unwrap(), None);
        keep(&folder, &root, "short").unwrap();
        assert_eq!(take(&folder, &root).unwrap().as_deref(), Some("short"));
    }
}

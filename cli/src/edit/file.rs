//! A file of another program: as it was found, and how it is replaced.
//!
//! A link is followed, so that whoever keeps such files elsewhere finds the change there; the link stays.
//!
//! **Invariant:** a file is replaced as one step, keeps its mode, and only if it still is what was read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use baton_store::fs::{self, Context, FsError};

/// Bytes of a file that is read. Those of people have a thousand, and one that a program keeps for itself some millions.
const MAX_FILE: u64 = 32 * 1024 * 1024;

/// Links that lead to one another.
const MAX_LINKS: usize = 16;

/// Added to the name of what was there before the first change.
const BACKUP: &str = ".before-baton";

/// Whoever may write it.
const OWNER_WRITES: u32 = 0o200;

/// A file cannot be changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error("{} is no regular file", path.display())]
    NotRegular { path: PathBuf },
    #[error("{} is not UTF-8 text", path.display())]
    NotText { path: PathBuf },
    #[error("{} may not be written, by its mode", path.display())]
    ReadOnly { path: PathBuf },
    #[error("{} has changed meanwhile", path.display())]
    Changed { path: PathBuf },
}

/// A file as it was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Under the name by which its program knows it.
    pub path: PathBuf,
    /// Without links.
    target: PathBuf,
    /// What is in it; nothing where there is none.
    pub text: Option<String>,
    mode: u32,
}

impl Found {
    /// Reads a file that may be missing; `mode` is for one that is made.
    pub(crate) fn read(path: &Path, mode: u32) -> Result<Self, FileError> {
        let target = follow(path)?;
        let (text, mode) = match target.metadata().context("looking at", &target) {
            Err(error) if error.is_not_found() => (None, mode),
            Err(error) => return Err(error.into()),
            Ok(found) if !found.is_file() => {
                return Err(FileError::NotRegular { path: path.to_owned() });
            }
            Ok(found) => {
                let bytes = fs::read_if_exists(&target, MAX_FILE)?.unwrap_or_default();
                let text = String::from_utf8(bytes)
                    .map_err(|_| FileError::NotText { path: path.to_owned() })?;
                (Some(text), found.permissions().mode() & 0o7777)
            }
        };
        Ok(Self { path: path.to_owned(), target, text, mode })
    }

    /// The same file as it was before the first change, if that was kept.
    pub(crate) fn before(&self) -> Result<Option<String>, FileError> {
        let bytes = fs::read_if_exists(&self.backup(), MAX_FILE)?;
        Ok(bytes.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// Keeps what is there beside it, unless that was done once.
    pub(crate) fn back_up(&self) -> Result<(), FileError> {
        let backup = self.backup();
        match &self.text {
            Some(text) if backup.symlink_metadata().is_err() => {
                fs::write_atomic(&backup, text.as_bytes(), self.mode)?;
                Ok(fs::set_mode(&backup, self.mode)?)
            }
            _ => Ok(()),
        }
    }

    /// Forgets what was kept, where the file is that again.
    pub(crate) fn drop_backup(&self) -> Result<(), FileError> {
        let backup = self.backup();
        if backup.symlink_metadata().is_ok() {
            fs::remove_file(&backup)?;
        }
        Ok(())
    }

    /// Beside the name by which its program knows it: where a link leads to may be a place that others see.
    fn backup(&self) -> PathBuf {
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(BACKUP);
        self.path.with_file_name(name)
    }

    /// Refuses what could not be written.
    pub(crate) fn may_be_written(&self) -> Result<(), FileError> {
        if self.text.is_some() && self.mode & OWNER_WRITES == 0 {
            return Err(FileError::ReadOnly { path: self.path.clone() });
        }
        Ok(())
    }

    /// Gives the file another text; makes it and the folders above it where they are missing.
    pub(crate) fn write(&self, text: &str) -> Result<(), FileError> {
        self.is_as_read()?;
        if let Some(folder) = self.target.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write_atomic(&self.target, text.as_bytes(), self.mode)?;
        Ok(fs::set_mode(&self.target, self.mode)?)
    }

    /// Takes the file away, and the link that led to it.
    pub(crate) fn remove(&self) -> Result<(), FileError> {
        self.is_as_read()?;
        fs::remove_file(&self.target)?;
        if self.target != self.path && self.path.is_symlink() {
            fs::remove_file(&self.path)?;
        }
        Ok(())
    }

    fn is_as_read(&self) -> Result<(), FileError> {
        let now = fs::read_if_exists(&self.target, MAX_FILE)?;
        if now.as_deref() == self.text.as_ref().map(String::as_bytes) {
            return Ok(());
        }
        Err(FileError::Changed { path: self.path.clone() })
    }
}

/// Where links lead to; what is there need not exist yet.
fn follow(path: &Path) -> Result<PathBuf, FileError> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        if !path.is_symlink() {
            return Ok(path);
        }
        let to = path.read_link().context("reading", &path)?;
        path = path.parent().unwrap_or(Path::new("/")).join(to);
    }
    Err(FileError::NotRegular { path })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_link_is_written_through_and_modes_stay() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        let (link, real) = (base.join("agent/settings.json"), base.join("dotfiles/claude.json"));
        for path in [&link, &real] {
            fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        symlink("../dotfiles/claude.json", &link).unwrap();
        // One that leads nowhere is written through, too.
        Found::read(&link, 0o640).unwrap().write("{}").unwrap();
        assert_eq!(
            (fs::read_if_exists(&real, 10).unwrap(), mode(&real)),
            (Some(b"{}".to_vec()), 0o640)
        );
        fs::set_mode(&real, 0o664).unwrap();
        let found = Found::read(&link, 0o600).unwrap();
        found.back_up().unwrap();
        found.write("{\"a\": 1}").unwrap();
        assert!(link.is_symlink() && mode(&real) == 0o664);
        let kept = base.join("agent/settings.json.before-baton");
        assert_eq!(
            (fs::read_if_exists(&kept, 10).unwrap(), mode(&kept)),
            (Some(b"{}".to_vec()), 0o664)
        );
        // Once.
        let found = Found::read(&link, 0o600).unwrap();
        found.back_up().unwrap();
        assert_eq!(found.before().unwrap().as_deref(), Some("{}"));
    }

    #[test]
    fn what_has_changed_meanwhile_and_what_is_no_file_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        let found = Found::read(&path, 0o600).unwrap();
        fs::write_atomic(&path, b"theirs", 0o600).unwrap();
        assert!(matches!(found.write("ours"), Err(FileError::Changed { .. })));
        assert_eq!(fs::read_if_exists(&path, 10).unwrap(), Some(b"theirs".to_vec()));
        assert!(matches!(Found::read(folder.path(), 0o600), Err(FileError::NotRegular { .. })));
        symlink("loop", folder.path().join("loop")).unwrap();
        assert!(Found::read(&folder.path().join("loop"), 0o600).is_err());
        fs::write_atomic(&path, b"\xff", 0o600).unwrap();
        assert!(matches!(Found::read(&path, 0o600), Err(FileError::NotText { .. })));
        fs::write_atomic(&path, b"x", 0o444).unwrap();
        let found = Found::read(&path, 0o600).unwrap();
        assert!(matches!(found.may_be_written(), Err(FileError::ReadOnly { .. })));
    }
}

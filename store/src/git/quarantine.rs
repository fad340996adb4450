//! Objects that came and are not yet among those of a repository: git sees them beside the others, and they go again
//! unless they are let in.
//!
//! **Invariant:** a pack is let in before its index, and so is seen whole or not at all.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use super::GitError;
use super::program::Run;
use crate::fs;

/// What the name of such a folder begins with: one that a crash has left, git takes away in time.
const NAME: &str = "tmp_objdir-baton-";

/// Such a folder. It goes with its value.
#[derive(Debug)]
pub(super) struct Quarantine {
    folder: PathBuf,
    objects: PathBuf,
}

/// Where the objects of a repository wait that came under this name.
pub(super) fn folder_in(objects: &Path, name: &str) -> PathBuf {
    objects.join(format!("{NAME}{name}"))
}

impl Quarantine {
    /// Makes one at `folder`, which must not be there, for the objects of a repository.
    pub(super) fn make(folder: PathBuf, objects: &Path) -> Result<Self, GitError> {
        // One of the same name is of a process that was cut off.
        fs::remove_dir_all(&folder)?;
        for name in ["pack", "info"] {
            fs::create_dir_all(&folder.join(name))?;
        }
        Ok(Self { folder, objects: objects.to_owned() })
    }

    /// Lets git see the objects in it, and write new ones there.
    pub(super) fn shown_to<'a>(&self, run: Run<'a>) -> Run<'a> {
        run.env("GIT_OBJECT_DIRECTORY", &self.folder)
            .env("GIT_ALTERNATE_OBJECT_DIRECTORIES", quoted(&self.objects))
    }

    /// Lets the objects in.
    pub(super) fn let_in(self) -> Result<(), GitError> {
        let_in(&self.folder, &self.objects)
    }

    /// Leaves the folder to whoever knows its name.
    pub(super) fn leave(mut self) {
        self.folder = PathBuf::new();
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        if !self.folder.as_os_str().is_empty()
            && let Err(error) = fs::remove_dir_all(&self.folder)
        {
            tracing::warn!(%error, "objects that are not wanted are left behind");
        }
    }
}

/// Where objects wait, and under which names.
pub(super) fn waiting(objects: &Path) -> Result<Vec<(String, PathBuf)>, GitError> {
    let names = fs::list_dir(objects)?.into_iter();
    let of = |name: OsString| {
        let own = name.to_str()?.strip_prefix(NAME)?.to_owned();
        Some((own, objects.join(name)))
    };
    Ok(names.filter_map(of).collect())
}

/// Lets the objects of a folder in, as far as they are not; nothing where there is no such folder.
pub(super) fn let_in(folder: &Path, objects: &Path) -> Result<(), GitError> {
    for name in fs::list_dir(folder)? {
        let is_loose = name.len() == 2 && name.as_bytes().iter().all(u8::is_ascii_hexdigit);
        if is_loose {
            move_all(&folder.join(&name), &objects.join(&name))?;
        }
    }
    move_all(&folder.join("pack"), &objects.join("pack"))?;
    Ok(fs::remove_dir_all(folder)?)
}

fn move_all(from: &Path, to: &Path) -> Result<(), GitError> {
    let mut names = fs::list_dir(from)?;
    if names.is_empty() {
        return Ok(());
    }
    // Whoever sees an index looks for its pack.
    names.sort_by_key(|name| Path::new(name).extension() == Some(OsStr::new("idx")));
    if !to.is_dir() {
        // It has the permissions that git gave it.
        fs::rename_unsynced(from, to)?;
        fs::sync_dir(to)?;
        return Ok(to.parent().map_or(Ok(()), fs::sync_dir)?);
    }
    for name in names {
        let (old, new) = (from.join(&name), to.join(&name));
        if new.symlink_metadata().is_ok() {
            // An object, or a pack, is named after what is in it.
            fs::remove_file(&old)?;
        } else {
            fs::rename_unsynced(&old, &new)?;
        }
    }
    Ok(fs::sync_dir(to)?)
}

/// A path as git reads it in a list of paths.
fn quoted(path: &Path) -> OsString {
    let bytes = path.as_os_str().as_bytes();
    if !bytes.contains(&b':') && !bytes.starts_with(b"\"") {
        return path.as_os_str().to_owned();
    }
    let mut text = vec![b'"'];
    for &byte in bytes {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(byte);
    }
    text.push(b'"');
    OsString::from_vec(text)
}

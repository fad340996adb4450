//! Which folder a PATH argument means.
//!
//! **Invariant:** one tree has one name. Two ways to type the same folder give the same bytes,
//! because a workspace is found again by its root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use baton_daemon::api::control::Bytes;

use crate::error::{CliError, chain};

/// The root of the workspace at `path`, or at the current folder: inside a git worktree its root.
pub(crate) fn root(path: Option<&Path>, cwd: &Path) -> Result<PathBuf, CliError> {
    let typed = path.map_or_else(|| cwd.to_owned(), |path| cwd.join(path));
    // Resolved, so that a link to a folder and the folder are one workspace.
    let path = typed.canonicalize().map_err(|error| {
        CliError::new("no-such-folder", format!("{}: {}", typed.display(), chain(&error)))
            .hint("name a folder that exists, or cd to it")
    })?;
    if !path.is_dir() {
        return Err(CliError::new("not-a-folder", format!("{} is not a folder", path.display()))
            .hint("name the folder that it is in"));
    }
    let root = path.ancestors().find(|folder| is_git_worktree(folder)).unwrap_or(&path);
    Ok(root.to_owned())
}

/// Whether git would take this folder for the root of a worktree. An empty `.git` is none.
fn is_git_worktree(folder: &Path) -> bool {
    let git = folder.join(".git");
    git.is_file() || git.join("HEAD").symlink_metadata().is_ok()
}

/// An absolute path for something that need not exist yet. Links stay what they are; `..` is
/// resolved only as far as the folder above exists, because it may lead through a link.
pub(crate) fn absolute(path: &Path, cwd: &Path) -> PathBuf {
    let joined = cwd.join(path);
    if !joined.components().any(|part| part == Component::ParentDir) {
        return joined.components().collect();
    }
    if let Ok(resolved) = joined.canonicalize() {
        return resolved;
    }
    match (joined.parent().map(Path::canonicalize), joined.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => joined,
    }
}

/// The raw bytes of a path or an argument.
pub(crate) fn bytes(text: impl AsRef<OsStr>) -> Bytes {
    Bytes(text.as_ref().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_store::fs;

    #[test]
    fn a_git_worktree_is_found_from_inside_and_an_empty_git_folder_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        let inside = base.join("repo/a/b");
        fs::create_dir_all(&inside).unwrap();
        assert_eq!(root(None, &inside).unwrap(), inside);
        fs::create_dir_all(&base.join("repo/.git")).unwrap();
        assert_eq!(root(None, &inside).unwrap(), inside);
        fs::write_atomic(&base.join("repo/.git/HEAD"), b"ref: refs/heads/main\n", 0o600).unwrap();
        assert_eq!(root(None, &inside).unwrap(), base.join("repo"));
        assert_eq!(root(Some(Path::new("..")), &inside).unwrap(), base.join("repo"));
        fs::write_atomic(&base.join("repo/a/.git"), b"gitdir: elsewhere\n", 0o600).unwrap();
        assert_eq!(root(None, &inside).unwrap(), base.join("repo/a"));
    }

    #[test]
    fn every_way_to_type_a_folder_gives_the_same_root() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        fs::create_dir_all(&base.join("x/y")).unwrap();
        std::os::unix::fs::symlink("x", base.join("link")).unwrap();
        for typed in ["x", "./x/", "link", "x/y/..", "link/y/../../x"] {
            assert_eq!(root(Some(Path::new(typed)), &base).unwrap(), base.join("x"), "{typed}");
        }
        assert!(root(Some(Path::new("gone")), &base).unwrap_err().is("no-such-folder"));
        fs::write_atomic(&base.join("file"), b"", 0o600).unwrap();
        assert!(root(Some(Path::new("file")), &base).unwrap_err().is("not-a-folder"));
    }

    #[test]
    fn targets_that_do_not_exist_are_absolute_too() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().canonicalize().unwrap();
        fs::create_dir_all(&base.join("x")).unwrap();
        let at = |typed| absolute(Path::new(typed), &base.join("x"));
        assert_eq!(at("new"), base.join("x/new"));
        assert_eq!(at("./new/"), base.join("x/new"));
        assert_eq!(at("../new"), base.join("new"));
        assert_eq!(at("/new"), Path::new("/new"));
    }
}

//! Where repositories inside one another are, and how they find each other.
//!
//! **Invariant:** none lies in the folder of another one, and no link leads to where one is put.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use baton_protocol::object::{GitPlace, GitUnit};
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::fs::Context;
use crate::git::{GitError, as_path, shown};

/// Where a repository will be once all of them are in place.
#[derive(Clone)]
pub(super) struct Home {
    /// Its folder, relative to the worktree of the outermost one.
    git_dir: Vec<u8>,
    /// Its worktree, likewise; the outermost one's own is empty.
    worktree: Vec<u8>,
}

impl Home {
    pub(super) fn outermost() -> Self {
        Self { git_dir: b".git".to_vec(), worktree: Vec::new() }
    }

    pub(super) fn module(&self, path: &[u8], name: &[u8]) -> Self {
        let worktree = match self.worktree.as_slice() {
            [] => path.to_vec(),
            outer => [outer, path].join(&b'/'),
        };
        Self { git_dir: [&self.git_dir[..], b"modules", name].join(&b'/'), worktree }
    }

    /// What the configuration says of the worktree.
    pub(super) fn location(&self) -> Option<String> {
        let path = [up_from(&self.git_dir).as_bytes(), &self.worktree].concat();
        (!self.worktree.is_empty()).then(|| String::from_utf8_lossy(&path).into_owned())
    }

    /// What the `.git` of the worktree says.
    pub(super) fn link(&self) -> Vec<u8> {
        [b"gitdir: ", up_from(&self.worktree).as_bytes(), &self.git_dir, b"\n"].concat()
    }
}

/// The way from a folder to the one that its path starts at.
pub(super) fn up_from(path: &[u8]) -> String {
    "../".repeat(path.split(|&byte| byte == b'/').count())
}

/// Refuses two modules of which one would lie in the folder of the other.
pub(super) fn check_units(units: &[GitUnit]) -> Result<(), GitError> {
    let names = units.iter().filter_map(|unit| match &unit.place {
        GitPlace::Module(name) => Some(name.to_ascii_lowercase()),
        GitPlace::Embedded => None,
    });
    let mut known = BTreeSet::new();
    for name in names {
        if !known.insert(name.clone()) {
            return Err(GitError::refused(
                format!("the submodule {}", shown(&name)),
                "there are two",
            ));
        }
    }
    for name in &known {
        let mut slashes = name.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        if slashes.any(|(at, _)| name.get(..at).is_some_and(|outer| known.contains(outer))) {
            let what = format!("the submodule {}", shown(name));
            return Err(GitError::refused(what, "it would lie inside another one"));
        }
    }
    let utf8 = |unit: &&GitUnit| std::str::from_utf8(unit.path.as_bytes()).is_err();
    match units.iter().find(utf8) {
        Some(unit) if unit.place != GitPlace::Embedded => {
            let what = format!("the submodule in {}", shown(unit.path.as_bytes()));
            Err(GitError::refused(what, "its path is no text"))
        }
        _ => Ok(()),
    }
}

/// Opens a worktree.
pub(super) fn open_top(worktree: &Path) -> Result<OwnedFd, GitError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(worktree, flags, Mode::empty()).context("opening", worktree)?)
}

/// Opens a folder below a worktree, through no link.
pub(super) fn open_folder(worktree: &Path, path: &[u8]) -> Result<OwnedFd, GitError> {
    let full = worktree.join(as_path(path));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut at = open_top(worktree)?;
    for name in path.split(|&byte| byte == b'/') {
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).context("opening", &full)?;
    }
    Ok(at)
}

/// The `.git` of a submodule, which names its folder.
pub(super) struct Link(pub(super) Vec<u8>);

impl Link {
    /// Writes it into a worktree of which `path` is told, if nothing is there, through no link.
    pub(super) fn write(&self, folder: &OwnedFd, path: &Path) -> Result<(), GitError> {
        let path = path.join(".git");
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let file = match rustix::fs::openat(folder, ".git", flags, mode) {
            Err(Errno::EXIST) => {
                return Err(GitError::refused(path.display().to_string(), "it is there already"));
            }
            opened => opened.context("creating", &path)?,
        };
        let written = std::fs::File::from(file).write_all(&self.0).context("writing", &path);
        Ok(written.inspect_err(|_| {
            // The failure that is reported is the first one.
            let _gone = rustix::fs::unlinkat(folder, ".git", AtFlags::empty());
        })?)
    }
}

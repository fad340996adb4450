//! A folder through which git sees the objects and tables of a repository, and nothing else of it.
//!
//! **Invariant:** its configuration is written here. That of the repository is not in it.

use std::path::{Path, PathBuf};

use baton_protocol::object::{GitHash, RefStorage};

use super::GitError;
use super::place::Repository;
use super::program::{GitProgram, Run};
use super::quarantine::Quarantine;
use crate::error::StoreError;
use crate::fs::{self, Context};

/// Such a folder. It goes with its value.
#[derive(Debug)]
pub(super) struct View<'a> {
    program: &'a GitProgram,
    folder: PathBuf,
    objects: PathBuf,
    /// Commits that are seen as if they had no parents, if it is there.
    shallow: PathBuf,
    quarantine: Option<Quarantine>,
}

impl<'a> View<'a> {
    /// Makes one in the folder `scratch`.
    pub(super) fn new(
        program: &'a GitProgram,
        scratch: &Path,
        repo: &Repository,
    ) -> Result<Self, GitError> {
        let folder = scratch.join(format!("git-{}", random_name()?));
        let this = Self {
            program,
            folder,
            objects: repo.common_dir.join("objects"),
            shallow: repo.common_dir.join("shallow"),
            quarantine: None,
        };
        write_skeleton(&this.git_dir(), repo.hash, repo.storage)?;
        if repo.storage == RefStorage::Reftable {
            link(&repo.git_dir.join("reftable"), &this.git_dir().join("reftable"))?;
        }
        if repo.storage == RefStorage::Reftable && repo.git_dir != repo.common_dir {
            // Tables of a worktree's own, and those that it shares.
            let common = this.folder.join("common");
            write_skeleton(&common, repo.hash, repo.storage)?;
            link(&repo.common_dir.join("reftable"), &common.join("reftable"))?;
            write(&this.git_dir().join("commondir"), b"../common\n")?;
        }
        Ok(this)
    }

    /// From here on these commits are seen as if they had no parents, and no others.
    pub(super) fn cut(&mut self, shallow: &[u8]) -> Result<(), GitError> {
        self.shallow = self.folder.join("cut");
        if shallow.is_empty() {
            return Ok(fs::remove_file(&self.shallow)?);
        }
        Ok(fs::write_atomic(&self.shallow, shallow, 0o600)?)
    }

    /// The folder itself, for files that git is to read; its own is one in it.
    pub(super) fn beside(&self) -> &Path {
        &self.folder
    }

    fn git_dir(&self) -> PathBuf {
        self.folder.join("git")
    }

    /// Keeps objects that come apart from those of the repository, in a folder.
    pub(super) fn keep_apart(&mut self, folder: PathBuf) -> Result<(), GitError> {
        self.quarantine = Some(Quarantine::make(folder, &self.objects)?);
        Ok(())
    }

    /// Lets the objects that were kept apart into the repository.
    pub(super) fn let_in(&mut self) -> Result<(), GitError> {
        self.quarantine.take().map_or(Ok(()), Quarantine::let_in)
    }

    /// Leaves the objects that were kept apart to whoever knows where they are.
    pub(super) fn leave_apart(&mut self) {
        if let Some(quarantine) = self.quarantine.take() {
            quarantine.leave();
        }
    }

    /// A run in a folder of git, which sees the objects that are kept apart, too.
    pub(super) fn git_at(&self, git_dir: &Path) -> Run<'a> {
        let run = self.program.at(git_dir);
        match &self.quarantine {
            Some(quarantine) => quarantine.shown_to(run),
            None => run,
        }
    }

    /// A run of git on the objects of the repository.
    pub(super) fn git(&self) -> Run<'a> {
        let run = self.program.at(&self.git_dir());
        let run = match &self.quarantine {
            Some(quarantine) => quarantine.shown_to(run),
            None => run.env("GIT_OBJECT_DIRECTORY", &self.objects),
        };
        if self.shallow.is_file() { run.env("GIT_SHALLOW_FILE", &self.shallow) } else { run }
    }
}

impl Drop for View<'_> {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(%error, "a folder of git is left behind");
        }
    }
}

/// What every repository has, and a configuration that says how it is to be read.
pub(super) fn write_skeleton(
    git_dir: &Path,
    hash: GitHash,
    storage: RefStorage,
) -> Result<(), GitError> {
    for folder in ["refs", "objects/pack", "objects/info", "info"] {
        fs::create_dir_all(&git_dir.join(folder))?;
    }
    let head: &[u8] = match storage {
        RefStorage::Files => {
            fs::create_dir_all(&git_dir.join("refs/heads"))?;
            fs::create_dir_all(&git_dir.join("refs/tags"))?;
            b"ref: refs/heads/main\n"
        }
        RefStorage::Reftable => {
            let text = b"this repository uses the reftable format\n";
            write(&git_dir.join("refs/heads"), text)?;
            b"ref: refs/heads/.invalid\n"
        }
    };
    write(&git_dir.join("HEAD"), head)?;
    write(&git_dir.join("config"), format_config(hash, storage, None).as_bytes())?;
    Ok(())
}

/// The part of a configuration that says how a repository is to be read, and where its worktree is if
/// that is not the folder around it.
pub(super) fn format_config(hash: GitHash, storage: RefStorage, worktree: Option<&str>) -> String {
    let plain = hash == GitHash::Sha1 && storage == RefStorage::Files;
    let mut text = format!("[core]\n\trepositoryformatversion = {}\n", u8::from(!plain));
    text.push_str("\tbare = false\n");
    if let Some(worktree) = worktree {
        text.push_str("\tworktree = \"");
        for c in worktree.chars() {
            if matches!(c, '"' | '\\') {
                text.push('\\');
            }
            text.push(c);
        }
        text.push_str("\"\n");
    }
    if !plain {
        text.push_str("[extensions]\n");
    }
    if hash != GitHash::Sha1 {
        text.push_str("\tobjectformat = ");
        text.push_str(hash.name());
        text.push('\n');
    }
    if storage == RefStorage::Reftable {
        text.push_str("\trefstorage = reftable\n");
    }
    text
}

/// Writes a file that must not be there, durably.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), GitError> {
    Ok(write(path, bytes)?.sync_all().context("syncing", path)?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<std::fs::File, GitError> {
    use std::io::Write;
    let mut file = fs::create_new(path)?;
    file.write_all(bytes).context("writing", path)?;
    Ok(file)
}

/// A name that nobody guesses.
pub(super) fn random_name() -> Result<String, GitError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|_| StoreError::Random)?;
    Ok(format!("{:016x}", u64::from_le_bytes(bytes)))
}

fn link(target: &Path, at: &Path) -> Result<(), GitError> {
    Ok(rustix::fs::symlink(target, at).context("linking", at)?)
}

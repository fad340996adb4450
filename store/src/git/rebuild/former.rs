//! A repository that stood in the place of the one that is made: what both have is not made again.
//!
//! **Invariant:** what is taken over is what would be made: objects of packs that both have in this order, and what is
//! remembered of files.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{GitPack, GitSettings, GitState};

use super::Plan;
use crate::fs;
use crate::git::GitError;
use crate::git::index::{self, Files, Index, Stat};
use crate::git::view::write_new;
use crate::objects::ObjectSource;

/// In the objects of a repository: where git finds more of them.
const LENT: &str = "info/alternates";

/// A repository that was rebuilt from a state, and stands aside: what the next one has in common with it is taken from
/// it.
#[derive(Clone, Debug)]
pub struct Former {
    /// Its folder.
    pub git_dir: PathBuf,
    /// Whether its objects stay where they are: the caller sees to it that the new one has them. Otherwise they move.
    pub lends: bool,
    /// What it was rebuilt from.
    pub state: GitStateId,
    /// Where it is the copy of a repository: the worktree of that, whose files are those of the new one byte by byte.
    /// Nobody writes in it meanwhile.
    pub copied: Option<PathBuf>,
}

/// The same, read.
pub(super) struct Known {
    pub(super) git_dir: PathBuf,
    pub(super) lends: bool,
    pub(super) packs: Vec<GitPack>,
    pub(super) index: Option<Index>,
}

impl<S: ObjectSource + ?Sized> Plan<'_, S> {
    /// Reads a repository that stands aside; nothing where the state has nothing in common with it.
    pub(super) fn take_over(
        &self,
        it: Former,
        id: GitStateId,
        worktree: &Path,
    ) -> Result<Option<Known>, GitError> {
        let (before, now) = (self.load_state(it.state)?, self.load_state(id)?);
        let is_partial = |state: &GitState| -> Result<bool, GitError> {
            let settings = GitSettings::decode(&self.list(state.settings)?)?.0;
            Ok(settings.iter().any(|it| it.section == "remote" && it.key == "promisor"))
        };
        // Each pack builds on those before it.
        if before.hash != now.hash
            || !now.packs.starts_with(&before.packs)
            || is_partial(&before)?
            || is_partial(&now)?
        {
            return Ok(None);
        }
        let mut index = index::read(&it.git_dir, now.hash)?;
        if let (Some(from), Some(index)) = (&it.copied, &mut index) {
            follow(index, from, worktree)?;
        }
        Ok(Some(Known { git_dir: it.git_dir, lends: it.lends, packs: before.packs, index }))
    }
}

/// Makes an index remember the copies of the files that it remembers, of those that are as it knows them.
fn follow(index: &mut Index, from: &Path, to: &Path) -> Result<(), GitError> {
    let (mut before, mut now) = (Files::below(from)?, Files::below(to)?);
    for (entry, stat) in index.meaning.entries.iter().zip(&mut index.stats) {
        if *stat == Stat::default() {
            continue;
        }
        let (known, copy) = (before.look(&entry.path), now.look(&entry.path));
        let is_known = known.is_some_and(|known| Stat { dev: stat.dev, ..known.stat } == *stat);
        let copy = copy.filter(|copy| {
            is_known && (copy.stat.mtime, copy.stat.size) == (stat.mtime, stat.size)
        });
        *stat = copy.map(|copy| copy.stat).unwrap_or_default();
    }
    Ok(())
}

impl Known {
    /// Gives a repository that is being built the objects of this one.
    pub(super) fn give(&self, git_dir: &Path) -> Result<(), GitError> {
        let (own, given) = (git_dir.join("objects"), self.git_dir.join("objects"));
        if !self.lends {
            fs::remove_dir_all(&own)?;
            return Ok(fs::rename_unsynced(&given, &own)?);
        }
        let line = [given.as_os_str().as_bytes(), b"\n"].concat();
        write_new(&own.join(LENT), &line)
    }

    /// Leaves nothing that leads to what was lent.
    pub(super) fn part(&self, git_dir: &Path) -> Result<(), GitError> {
        if self.lends {
            fs::remove_file(&git_dir.join("objects").join(LENT))?;
        }
        Ok(())
    }
}

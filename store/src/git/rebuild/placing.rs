//! Repositories that were built elsewhere, put into their places together, or none of them.
//!
//! **Invariant:** a place is found by descriptors from the outermost worktree down, through no link, when something is put
//! there and when it is taken back: what lies behind a link that came meanwhile is not touched.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, RenameFlags};
use rustix::io::Errno;

use super::home::{Link, open_folder, open_top};
use crate::fs::{self, Context};
use crate::git::{GitError, as_path};

/// The worktree of a repository, by its way from the outermost one.
#[derive(Clone, Debug)]
pub(super) struct Spot {
    top: PathBuf,
    path: Vec<u8>,
}

impl Spot {
    pub(super) fn outermost(top: &Path) -> Self {
        Self { top: top.to_owned(), path: Vec::new() }
    }

    /// Of a repository inside this one.
    pub(super) fn inner(&self, path: &[u8]) -> Self {
        let path = match self.path.as_slice() {
            [] => path.to_vec(),
            outer => [outer, path].join(&b'/'),
        };
        Self { top: self.top.clone(), path }
    }

    pub(super) const fn is_outermost(&self) -> bool {
        self.path.is_empty()
    }

    /// The outermost worktree.
    pub(super) fn top(&self) -> &Path {
        &self.top
    }

    /// For people, and for git, which reads only what it says of attributes.
    pub(super) fn full(&self) -> PathBuf {
        if self.path.is_empty() { self.top.clone() } else { self.top.join(as_path(&self.path)) }
    }

    /// Opens it, through no link below the outermost one.
    pub(super) fn open(&self) -> Result<OwnedFd, GitError> {
        if self.path.is_empty() { open_top(&self.top) } else { open_folder(&self.top, &self.path) }
    }
}

/// A folder that goes unless it is kept.
pub(super) struct Building(pub(super) Option<PathBuf>);

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(folder) = &self.0
            && let Err(error) = fs::remove_dir_all(folder)
        {
            tracing::warn!(%error, "a repository that was not finished is left behind");
        }
    }
}

/// What is built and has to be put in its place, the outermost repository last.
#[derive(Default)]
pub(super) struct Placing {
    pub(super) built: Vec<(Building, Spot)>,
    pub(super) links: Vec<(Link, Spot)>,
}

/// Something that stands in its place.
enum Placed {
    Link {
        at: OwnedFd,
    },
    /// The folder in which it was built, to which it goes back.
    Repository {
        at: OwnedFd,
        from: PathBuf,
    },
}

impl Placing {
    /// Puts everything in its place; where that fails, nothing.
    pub(super) fn finish(self) -> Result<(), GitError> {
        let mut done = Vec::new();
        self.put(&mut done).inspect_err(|_| {
            for placed in done.into_iter().rev() {
                if let Err(error) = take_back(placed) {
                    tracing::warn!(%error, "a repository is left behind");
                }
            }
        })
    }

    fn put(self, done: &mut Vec<Placed>) -> Result<(), GitError> {
        for (link, spot) in &self.links {
            let at = spot.open()?;
            link.write(&at, &spot.full())?;
            done.push(Placed::Link { at });
        }
        for (mut building, spot) in self.built {
            let at = spot.open()?;
            let path = spot.full().join(".git");
            let Some(from) = building.0.take() else { continue };
            if let Err(error) = move_new(&from, &at) {
                building.0 = Some(from);
                return Err(match error {
                    Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR => {
                        GitError::refused(path.display().to_string(), "it is there already")
                    }
                    error => Err(error).context("renaming to", &path)?,
                });
            }
            let sync = rustix::fs::fsync(&at).context("syncing", &path);
            done.push(Placed::Repository { at, from });
            sync?;
        }
        Ok(())
    }
}

/// Moves a folder to the name `.git` in another one, where nothing has that name.
fn move_new(from: &Path, to: &OwnedFd) -> Result<(), Errno> {
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    match rustix::fs::renameat_with(CWD, from, to, ".git", RenameFlags::NOREPLACE) {
        // Not on this file system.
        Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => {}
        moved => return moved,
    }
    match rustix::fs::statat(to, ".git", AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => Err(Errno::EXIST),
        Err(_) => rustix::fs::renameat(CWD, from, to, ".git"),
    }
}

fn take_back(placed: Placed) -> Result<(), GitError> {
    match placed {
        Placed::Link { at } => {
            let gone = rustix::fs::unlinkat(&at, ".git", AtFlags::empty());
            Ok(gone.context("removing", Path::new(".git"))?)
        }
        Placed::Repository { at, from } => {
            rustix::fs::renameat(&at, ".git", CWD, &from).context("renaming to", &from)?;
            drop(Building(Some(from)));
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, text: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_atomic(path, text.as_bytes(), 0o600).unwrap();
    }

    fn building(dir: &Path, name: &str) -> Building {
        write(&dir.join(name).join("HEAD"), name);
        Building(Some(dir.join(name)))
    }

    /// A folder becomes a link between the check, the placing and the taking back.
    #[test]
    fn nothing_is_put_or_taken_behind_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let (top, other) = (dir.path().join("top"), dir.path().join("other"));
        write(&other.join(".git/HEAD"), "of the user");
        for name in ["a", "b"] {
            fs::create_dir_all(&top.join(name)).unwrap();
        }
        let spot = Spot::outermost(&top).inner(b"a");
        let swap = || {
            fs::rename(&top.join("a"), &top.join("moved")).unwrap();
            std::os::unix::fs::symlink(&other, top.join("a")).unwrap();
        };
        let link = Spot::outermost(&top).inner(b"b");
        let placing = Placing {
            built: vec![(building(dir.path(), "one"), spot.clone())],
            links: vec![(Link(b"gitdir: x\n".to_vec()), link)],
        };
        let mut done = Vec::new();
        placing.put(&mut done).unwrap();
        assert!(top.join("a/.git/HEAD").exists() && top.join("b/.git").exists());
        swap();
        for placed in done {
            take_back(placed).unwrap();
        }
        assert!(!top.join("moved/.git").exists() && !top.join("b/.git").exists());
        assert!(!dir.path().join("one").exists());

        let placing =
            Placing { built: vec![(building(dir.path(), "two"), spot)], links: Vec::new() };
        assert!(placing.finish().is_err());
        let kept = fs::read_if_exists(&other.join(".git/HEAD"), 99).unwrap().unwrap();
        assert_eq!(kept, b"of the user");
        assert!(!dir.path().join("two").exists());
    }

    #[test]
    fn an_empty_folder_of_that_name_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("top");
        fs::create_dir_all(&top.join(".git")).unwrap();
        let built = vec![(building(dir.path(), "one"), Spot::outermost(&top))];
        let refused = Placing { built, links: Vec::new() }.finish();
        assert!(matches!(refused, Err(GitError::Refused { .. })));
        assert!(!top.join(".git/HEAD").exists());
    }
}

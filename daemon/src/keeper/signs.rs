//! What git does in the repository of a tree, and in those inside it: whether it changed anything that a snapshot has.
//!
//! Not here: what is a sign of that.
//!
//! The folders of git are watched with the tree, and their marks are taken out of what is dirty in it: nothing in them
//! belongs to the tree. A folder that lies elsewhere, as that of a linked worktree does, has a watch of its own.
//!
//! **Invariant:** nothing that a snapshot has depends on it. It says when to look; a look finds what there is.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::path::is_git_name;
use baton_store::git::{has_signs, is_sign, sign_folders, sign_places};
use baton_store::scan::dirty::{Depth, Dirty, DirtyDirectory};

use super::Watching;
use crate::watch::{Waiter, Watch, WatchError};

/// Folders of git that are watched at most, of one tree.
const MAX_PLACES: usize = 2000;

/// Watches of folders that lie elsewhere. One is what a linked worktree needs.
const MAX_ELSEWHERE: usize = 4;

/// What is watched of git, and whether it did something.
#[derive(Debug, Default)]
pub(super) struct Signs {
    /// Folders of repositories below the root, relative to it.
    inside: BTreeSet<Vec<u8>>,
    elsewhere: Vec<Elsewhere>,
    /// What there was since the last look.
    news: News,
    /// There may be other folders than are watched.
    stale: bool,
    /// Git was at work when it was last looked at: what ends that is a sign, too.
    pub(super) is_busy: bool,
    /// Why not everything is watched, for people.
    pub(super) note: Option<String>,
}

/// What there is to look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum News {
    #[default]
    Nothing,
    /// What is watched now was not before: nobody has told of what was done in it.
    Place,
    /// Git did something.
    Sign,
}

/// The folder of a repository outside of the tree.
#[derive(Debug)]
struct Elsewhere {
    path: PathBuf,
    watch: Box<dyn Watch>,
    /// Folders of repositories in it, relative to it.
    tops: BTreeSet<Vec<u8>>,
}

impl Signs {
    /// Nothing is watched yet.
    pub(super) fn new() -> Self {
        Self { stale: true, ..Self::default() }
    }

    /// Whether git did something since the last look.
    pub(super) fn is_changed(&self) -> bool {
        self.news == News::Sign
    }

    /// What git did from here on is not in the look that begins now.
    pub(super) fn begin_look(&mut self) {
        self.news = News::Nothing;
    }

    /// Whether there is something to look at.
    pub(super) fn is_dirty(&self) -> bool {
        self.news > News::Nothing
    }

    /// There may be other repositories now.
    pub(super) fn set_stale(&mut self) {
        self.stale = true;
    }

    /// Watches of folders that lie elsewhere.
    pub(super) fn count_elsewhere(&self) -> usize {
        self.elsewhere.len()
    }

    /// Takes out of what is dirty what is git's. Whether there was a sign.
    pub(super) fn take(&mut self, dirty: &mut Dirty) -> bool {
        if dirty.is_everything() {
            (self.news, self.stale) = (News::Sign, true);
            return true;
        }
        // One that comes, goes, or is exchanged.
        let may_have = |marks: &DirtyDirectory| {
            marks.names.contains_key(&b".git"[..]) || marks.is_full() || marks.walk
        };
        self.stale |= dirty.directories().values().any(may_have);
        let of_git = dirty.split_off(|path| path.split(|&byte| byte == b'/').any(is_git_name));
        let inside = std::mem::take(&mut self.inside);
        let seen = self.read(&of_git, &inside);
        self.inside = inside;
        seen
    }

    /// Takes in what happened elsewhere. Whether there was a sign.
    pub(super) fn drain(&mut self) -> bool {
        let mut seen = false;
        for mut it in std::mem::take(&mut self.elsewhere) {
            match it.watch.drain() {
                Ok(dirty) if dirty.is_everything() => {
                    (self.news, self.stale, seen) = (News::Sign, true, true);
                    self.elsewhere.push(it);
                }
                Ok(dirty) => {
                    seen |= self.read(&dirty, &it.tops);
                    self.elsewhere.push(it);
                }
                // It is gone, or another: the next look says so.
                Err(_) => (self.news, self.stale, seen) = (News::Sign, true, true),
            }
        }
        seen
    }

    fn read(&mut self, dirty: &Dirty, tops: &BTreeSet<Vec<u8>>) -> bool {
        let mut seen = false;
        for (directory, marks) in dirty.directories() {
            let Some(place) = place_in(directory, tops) else { continue };
            // Not every name is told.
            if (marks.is_full() || marks.walk) && has_signs(place) {
                (seen, self.stale) = (true, true);
            }
            for (name, depth) in &marks.names {
                if is_sign(place, name, self.is_busy) {
                    seen = true;
                    self.stale |= *depth == Depth::Walk;
                }
            }
        }
        if seen {
            self.news = News::Sign;
        }
        seen
    }

    /// Watches the folders that there are now, if there may be others than before. Returns who waits for those that
    /// lie elsewhere and were not watched before.
    pub(super) fn follow(
        &mut self,
        root: &Path,
        inner: &[PathBuf],
        watch: &mut dyn Watch,
        watching: &Watching,
    ) -> Result<Vec<Box<dyn Waiter>>, WatchError> {
        if !std::mem::take(&mut self.stale) {
            return Ok(Vec::new());
        }
        self.note = None;
        let real = root.canonicalize().unwrap_or_else(|_| root.to_owned());
        let mut outside: BTreeSet<PathBuf> = BTreeSet::new();
        let mut inside: BTreeSet<Vec<u8>> = BTreeSet::new();
        for folder in sign_folders(root, inner) {
            match folder.strip_prefix(&real) {
                // One with a plain name is a folder of the tree, and watched as such.
                Ok(path) => drop(inside.insert(path.as_os_str().as_bytes().to_vec())),
                Err(_) => drop(outside.insert(folder)),
            }
        }
        let mut left = MAX_PLACES;
        let places = places(&real, &inside, &mut left);
        let new = watch.add(&mut places.iter().map(Vec::as_slice))?;
        // What was done in them before they were watched, nobody has told of.
        self.came(!new.is_empty());
        self.inside = inside;
        let waiters = self.follow_elsewhere(outside, &mut left, watching);
        if left == 0 {
            let most = format!(
                "only {MAX_PLACES} folders of git are watched: what it does in others is noticed with the next file that changes"
            );
            self.note.get_or_insert(most);
        }
        Ok(waiters)
    }

    fn follow_elsewhere(
        &mut self,
        folders: BTreeSet<PathBuf>,
        left: &mut usize,
        watching: &Watching,
    ) -> Vec<Box<dyn Waiter>> {
        // Those inside another one have the watch of that one.
        let mut roots: BTreeMap<PathBuf, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for folder in folders {
            let root = roots.keys().find(|root| folder.starts_with(root)).unwrap_or(&folder);
            let top = folder.strip_prefix(root).unwrap_or(Path::new(""));
            let (root, top) = (root.clone(), top.as_os_str().as_bytes().to_vec());
            roots.entry(root).or_default().insert(top);
        }
        self.elsewhere.retain(|it| roots.contains_key(&it.path) && it.watch.check_root().is_ok());
        let mut waiters = Vec::new();
        for (path, tops) in roots {
            let places = places(&path, &tops, left);
            let known = self.elsewhere.iter_mut().find(|it| it.path == path);
            let followed = if let Some(it) = known {
                it.tops = tops;
                it.watch.add(&mut places.iter().map(Vec::as_slice)).map(|new| !new.is_empty())
            } else if self.elsewhere.len() >= MAX_ELSEWHERE {
                self.cannot(&path, "there are too many such");
                continue;
            } else {
                self.open(&path, tops, &places, watching).map(|waiter| {
                    waiters.extend(waiter);
                    true
                })
            };
            match followed {
                Ok(is_new) => self.came(is_new),
                Err(error) => {
                    self.elsewhere.retain(|it| it.path != path);
                    self.cannot(&path, &error.to_string());
                }
            }
        }
        waiters
    }

    fn open(
        &mut self,
        path: &Path,
        tops: BTreeSet<Vec<u8>>,
        places: &BTreeSet<Vec<u8>>,
        watching: &Watching,
    ) -> Result<Option<Box<dyn Waiter>>, WatchError> {
        let mut watch = (watching.open)(path, &watching.options)?;
        watch.add(&mut places.iter().map(Vec::as_slice))?;
        let coverage = watch.coverage();
        if coverage.watched == 0 {
            // It would say of every look that there is something to look at.
            self.cannot(path, coverage.note.as_deref().unwrap_or("the system does not"));
            return Ok(None);
        }
        let waiter = watch.waiter();
        self.elsewhere.push(Elsewhere { path: path.to_owned(), watch, tops });
        Ok(Some(waiter))
    }

    fn came(&mut self, is_new: bool) {
        if is_new {
            self.news = self.news.max(News::Place);
        }
    }

    fn cannot(&mut self, path: &Path, why: &str) {
        let path = path.display();
        self.note = Some(format!(
            "the repository in {path} is not watched ({why}): what git does there is noticed with the next file that changes"
        ));
    }
}

/// The place of a directory in the innermost folder of a repository that it is in.
fn place_in<'a>(directory: &'a [u8], tops: &BTreeSet<Vec<u8>>) -> Option<&'a [u8]> {
    let mut end = directory.len();
    loop {
        if tops.contains(directory.get(..end)?) {
            let rest = directory.get(end..)?;
            return Some(rest.strip_prefix(b"/").unwrap_or(rest));
        }
        if end == 0 {
            return None;
        }
        end = directory.get(..end)?.iter().rposition(|&byte| byte == b'/').unwrap_or(0);
    }
}

/// What is watched of these folders below `root`: each after the one above it.
fn places(root: &Path, tops: &BTreeSet<Vec<u8>>, left: &mut usize) -> BTreeSet<Vec<u8>> {
    let mut all = BTreeSet::new();
    for top in tops {
        let folder = root.join(std::ffi::OsStr::from_bytes(top));
        for place in sign_places(&folder, *left) {
            *left = left.saturating_sub(1);
            let path = match (top.as_slice(), place.as_slice()) {
                ([], place) => place.to_vec(),
                (top, []) => top.to_vec(),
                (top, place) => [top, b"/", place].concat(),
            };
            // The way to it: in an order of bytes each comes after what it is in.
            let ends = (0..path.len()).filter(|&at| path.get(at) == Some(&b'/'));
            all.extend(ends.filter_map(|end| path.get(..end)).map(<[u8]>::to_vec));
            all.insert(path);
        }
    }
    all
}

#[cfg(test)]
mod tests;

//! Watching by way of the `notify` crate, where we do not own the system's queue.
//!
//! Not here: what a seal does with what it learns.
//!
//! The barrier is a cookie: a file is made, and when the system tells of it, it has told of all before.
//! That is sure where there is one queue (Linux), and as sure as the system makes it elsewhere; if the
//! cookie does not come back, everything is dirty. Several watches may make theirs in one folder, as those of a tree and
//! of the repository in it do: each knows its own by a number.
//!
//! On Linux each directory is watched by itself, when it is added: the crate's own way down tells of a
//! new directory before it is watched, and would go into what does not belong to the tree. Elsewhere
//! the root is watched with all below it, and what is not added is left out.
//!
//! **Invariant:** where the crate says less than there is to know, the mark is wider: a name that came
//! from elsewhere is walked, whatever it is.
//!
//! **Invariant:** a directory that was moved, deleted or replaced is not watched any more until it is
//! added again, and all below it likewise.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_store::ignore::COOKIE;
use baton_store::scan::dirty::{Depth, Dirty, split};
use notify::event::{AccessKind, AccessMode, CreateKind, MetadataKind, ModifyKind, RemoveKind};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};

use super::bell::Bell;
use super::root::{Root, remove_below};
use super::{Coverage, Waiter, Watch, WatchError, WatchOptions};

/// How long a cookie may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// Watches that this process has opened.
static OPENED: AtomicU64 = AtomicU64::new(0);

/// Whether a watch on a directory is one on all below it.
const RECURSIVE: bool = !cfg!(target_os = "linux");

/// Watches by way of the `notify` crate.
#[derive(Debug)]
pub struct NotifyWatch {
    root: Root,
    watcher: RecommendedWatcher,
    shared: Arc<Shared>,
    bell: Bell,
    /// Where cookies are made, in full.
    cookies: PathBuf,
    made: u64,
    swept: BTreeSet<Vec<u8>>,
    cap: u64,
}

#[derive(Debug)]
struct Shared {
    /// As the system names it, which may be another path than ours.
    root: PathBuf,
    /// What the names of our cookies begin with.
    cookie: String,
    state: Mutex<State>,
    returned: Condvar,
    bell: Bell,
    cut_queue: Option<usize>,
}

#[derive(Debug, Default)]
struct State {
    dirty: Dirty,
    directories: BTreeSet<Vec<u8>>,
    /// The last cookie that was told.
    cookie: u64,
    events: usize,
    root_touched: bool,
}

impl NotifyWatch {
    /// Opens a root; nothing is watched before it is [added](Watch::add).
    pub fn open(root: &Path, options: &WatchOptions) -> Result<Self, WatchError> {
        let root = Root::open(root)?;
        let full = root.path().canonicalize().map_err(|error| root.failed(error))?;
        let inside = match &options.cookies {
            Some(folder) => full.join(folder),
            None => full.join(".git"),
        };
        let is_directory = inside.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        let cookies = if is_directory { inside } else { full.clone() };
        let bell = Bell::default();
        let shared = Arc::new(Shared {
            root: full.clone(),
            cookie: cookie(OPENED.fetch_add(1, Ordering::Relaxed)),
            state: Mutex::default(),
            returned: Condvar::new(),
            bell: bell.clone(),
            cut_queue: options.cut_queue,
        });
        let handler = Arc::clone(&shared);
        let config = Config::default().with_follow_symlinks(false);
        let watcher = RecommendedWatcher::new(move |event| handler.take(event), config);
        let mut watcher = watcher.map_err(|error| root.failed(system(error)))?;
        let mode = if RECURSIVE { RecursiveMode::Recursive } else { RecursiveMode::NonRecursive };
        for path in [&full, &cookies] {
            watcher.watch(path, mode).map_err(|error| root.failed(system(error)))?;
            if RECURSIVE || cookies == full {
                break;
            }
        }
        let cap = options.max_watches.unwrap_or(u64::MAX);
        Ok(Self { root, watcher, shared, bell, cookies, made: 0, swept: BTreeSet::new(), cap })
    }

    /// Watches one directory; false if there is none.
    fn watch(&mut self, directory: &[u8]) -> Result<bool, WatchError> {
        let path = self.shared.full(directory);
        // By path: the crate knows no other way. What is behind a link by the time is told twice.
        let is_directory = || path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
        if RECURSIVE || !is_directory() {
            return Ok(is_directory());
        }
        match self.watcher.watch(&path, RecursiveMode::NonRecursive) {
            Ok(()) => Ok(is_directory()),
            Err(error) => match error.kind {
                notify::ErrorKind::MaxFilesWatch => {
                    self.cap = self.shared.lock().directories.len() as u64;
                    Ok(true)
                }
                _ if !is_directory() => Ok(false),
                _ => Err(self.root.failed(system(error))),
            },
        }
    }

    /// Makes a cookie and waits until the system tells of it; whether it did.
    fn wait_for_cookie(&mut self) -> bool {
        self.made += 1;
        let path = self.cookies.join(format!("{}{}", self.shared.cookie, self.made));
        if baton_store::fs::create_new(&path).is_err() {
            return false;
        }
        let missing = |state: &mut State| state.cookie < self.made;
        let waited = self.shared.returned.wait_timeout_while(self.shared.lock(), PATIENCE, missing);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        let returned = state.cookie >= self.made;
        drop(state);
        // What is left behind is no part of the tree.
        drop(baton_store::fs::remove_file(&path));
        returned
    }
}

impl Watch for NotifyWatch {
    fn add(
        &mut self,
        directories: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<Vec<Vec<u8>>, WatchError> {
        let mut added = Vec::new();
        for directory in directories {
            let above = split(directory).0;
            let (known, count) = {
                let state = self.shared.lock();
                let is_placed = directory.is_empty()
                    || state.directories.contains(above)
                    || self.swept.contains(above);
                if !is_placed {
                    continue;
                }
                (state.directories.contains(directory), state.directories.len() as u64)
            };
            if known || self.swept.contains(directory) {
                continue;
            }
            if self.swept.contains(above) || count >= self.cap {
                self.swept.insert(directory.to_vec());
                added.push(directory.to_vec());
                continue;
            }
            // First in the list, so that what the watch tells from its first moment on is taken.
            self.shared.lock().directories.insert(directory.to_vec());
            if self.watch(directory)? {
                if self.shared.lock().directories.len() as u64 > self.cap {
                    self.shared.lock().directories.remove(directory);
                    self.swept.insert(directory.to_vec());
                }
                added.push(directory.to_vec());
            } else {
                self.shared.lock().directories.remove(directory);
            }
        }
        Ok(added)
    }

    fn remove(&mut self, directory: &[u8]) {
        remove_below(&mut self.swept, directory);
        let before = self.shared.lock().directories.clone();
        remove_below(&mut self.shared.lock().directories, directory);
        if RECURSIVE {
            return;
        }
        let gone = before.difference(&self.shared.lock().directories).cloned().collect::<Vec<_>>();
        for directory in gone {
            let path = self.shared.full(&directory);
            if path != self.cookies {
                // It is no error if the crate let go of it before.
                drop(self.watcher.unwatch(&path));
            }
        }
    }

    fn drain(&mut self) -> Result<Dirty, WatchError> {
        self.bell.hush();
        let returned = self.wait_for_cookie();
        let mut state = self.shared.lock();
        state.events = 0;
        let mut dirty = std::mem::take(&mut state.dirty);
        let touched = std::mem::take(&mut state.root_touched);
        drop(state);
        if !returned {
            dirty.set_everything();
        }
        for directory in &self.swept {
            dirty.list(directory);
        }
        if touched || !returned {
            self.root.check()?;
        }
        if dirty.is_everything() {
            // Where each stands is not known until it is added again; those that are watched already
            // are so by their paths, which the crate does not check.
            let watched = std::mem::take(&mut self.shared.lock().directories);
            for directory in watched.iter().filter(|_| !RECURSIVE) {
                let path = self.shared.full(directory);
                if path != self.cookies {
                    drop(self.watcher.unwatch(&path));
                }
            }
        }
        Ok(dirty)
    }

    fn check_root(&self) -> Result<(), WatchError> {
        self.root.check()
    }

    fn waiter(&self) -> Box<dyn Waiter> {
        Box::new(self.bell.clone())
    }

    fn coverage(&self) -> Coverage {
        let watched = self.shared.lock().directories.len() as u64;
        let swept = self.swept.len() as u64;
        let note = (swept > 0).then(|| {
            format!("the system watches no more directories: {swept} are listed at every snapshot")
        });
        Coverage { backend: "notify", watched, swept, hot: 0, note }
    }
}

impl Drop for NotifyWatch {
    fn drop(&mut self) {
        self.bell.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn full(&self, directory: &[u8]) -> PathBuf {
        if directory.is_empty() {
            self.root.clone()
        } else {
            self.root.join(OsStr::from_bytes(directory))
        }
    }

    /// Takes an event in, on a thread of the crate.
    fn take(&self, event: notify::Result<Event>) {
        let mut state = self.lock();
        let Ok(event) = event else {
            state.dirty.set_everything();
            self.bell.ring();
            return;
        };
        if event.need_rescan() {
            state.dirty.set_everything();
            self.bell.ring();
        }
        for path in &event.paths {
            let Some(relative) = self.relative(path) else { continue };
            let (directory, name) = split(&relative);
            if name.starts_with(COOKIE.as_bytes()) {
                // One of another watch is no news, and not what is waited for.
                let Some(cookie) = self.number_of(name) else { continue };
                state.cookie = state.cookie.max(cookie);
                self.returned.notify_all();
            } else if let Some(news) = news_of(event.kind) {
                state.events += 1;
                if self.cut_queue.is_some_and(|cut| state.events > cut) {
                    state.dirty.set_everything();
                } else if !mark(&mut state, &relative, directory, name, news) {
                    continue;
                }
                self.bell.ring();
            }
        }
    }

    /// The number of a cookie of ours.
    fn number_of(&self, name: &[u8]) -> Option<u64> {
        str::from_utf8(name.strip_prefix(self.cookie.as_bytes())?).ok()?.parse().ok()
    }

    fn relative(&self, path: &Path) -> Option<Vec<u8>> {
        let below = path.strip_prefix(&self.root).ok()?;
        let is_plain = below.components().all(|part| matches!(part, Component::Normal(_)));
        is_plain.then(|| below.as_os_str().as_bytes().to_vec())
    }
}

/// What an event says of its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The file there changed.
    Changed(Depth),
    /// Something else may stand there.
    Replaced(Depth),
}

fn news_of(kind: EventKind) -> Option<News> {
    Some(match kind {
        // Looking is no news.
        EventKind::Access(AccessKind::Close(AccessMode::Write))
        | EventKind::Modify(ModifyKind::Data(_)) => News::Changed(Depth::Read),
        EventKind::Access(_)
        | EventKind::Modify(ModifyKind::Metadata(MetadataKind::AccessTime)) => return None,
        // Where the order is lost, what is told of a file may be of what stood there before.
        EventKind::Modify(ModifyKind::Metadata(_)) if RECURSIVE => News::Changed(Depth::Read),
        EventKind::Modify(ModifyKind::Metadata(_)) => News::Changed(Depth::Look),
        EventKind::Create(CreateKind::File) | EventKind::Remove(RemoveKind::File) if !RECURSIVE => {
            News::Changed(Depth::Look)
        }
        EventKind::Remove(_) => News::Replaced(Depth::Look),
        _ => News::Replaced(Depth::Walk),
    })
}

/// Marks what is news; false if it does not belong to the tree.
fn mark(state: &mut State, path: &[u8], directory: &[u8], name: &[u8], news: News) -> bool {
    if path.is_empty() {
        state.root_touched = true;
        state.dirty.list(b"");
        return true;
    }
    if let News::Replaced(_) = news {
        remove_below(&mut state.directories, path);
    }
    if !state.directories.contains(directory) {
        return false;
    }
    let (News::Changed(depth) | News::Replaced(depth)) = news;
    state.dirty.name(directory, name, depth);
    true
}

/// What the names of the cookies of a watch begin with.
fn cookie(watch: u64) -> String {
    format!("{COOKIE}{}-{watch}-", std::process::id())
}

fn system(error: notify::Error) -> std::io::Error {
    match error.kind {
        notify::ErrorKind::Io(source) => source,
        _ => std::io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_of_another_watch_in_the_same_folder_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let git = folder.path().join(".git");
        baton_store::fs::create_dir_all(&git).unwrap();
        let options = WatchOptions::default();
        let mut tree = NotifyWatch::open(folder.path(), &options).unwrap();
        let mut repository = NotifyWatch::open(&git, &options).unwrap();
        assert_eq!(tree.cookies, repository.cookies);
        for _ in 0..20 {
            assert!(!repository.drain().unwrap().is_everything());
        }
        // The system tells both of both.
        assert!(!tree.drain().unwrap().is_everything());
        assert_eq!((tree.shared.lock().cookie, tree.made), (1, 1));
        assert_eq!((repository.shared.lock().cookie, repository.made), (20, 20));
        assert!(
            tree.shared.number_of(format!("{}7", repository.shared.cookie).as_bytes()).is_none()
        );
    }
}

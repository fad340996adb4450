//! The work of a scan: directories and batches of files on one stack, taken by a few threads.
//!
//! The stack makes the walk go deep first, so that it holds the entries of the directories on the
//! way and of their neighbours, not of the whole tree. Whoever finishes the last part of a directory
//! encodes it and hands it to the one above.
//!
//! **Invariant:** a directory is encoded after everything below it is in the sink.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use baton_protocol::object::{Entry, EntryKind, Omission, OmitReason};
use baton_protocol::path::{MAX_PATH, RelPath, is_git_name};
use rustix::fs::FileType;

use super::ScanError;
use super::directory::{self, Budget, Held, Listing, join};
use super::entry::{Known, Linked, Taker, dropped_bits, exhausted, look, permissions, reason};
use super::ground::{Found, Ground, Start, Walked, scope_of};
use super::read::FileReader;
use super::tasks::{Place, Task, Tasks};
use super::unchanged::find_unchanged;
use super::under_way::{Before, Directory, Parts};
use crate::ignore::{Scope, Verdict};
use crate::objects::{ObjectSink, ObjectSource};
use crate::secrets::Finding;
use crate::stat_cache::{CachedFile, Inode, PackedDirectory};

/// Files that one thread takes at a time: a directory of 10,000 keeps every thread busy.
const BATCH: usize = 512;

/// Files of a directory above which several threads look at them, also where nothing has changed.
const MAX_ALONE: usize = 16 * BATCH;

/// Walks everything below a directory.
pub(super) fn walk<S: ObjectSource + ObjectSink>(
    ground: &Ground<'_, S>,
    start: Start,
) -> Result<Walked, ScanError> {
    let name = start.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
    let first = Task::Directory {
        place: Place { above: None, name, path: start.path, verdict: start.verdict },
        held: None,
        scope: start.above,
    };
    let walk = Walk {
        ground,
        budget: Budget::default(),
        tasks: Tasks::new(first, ground.options.threads.max(1)),
        noted: Mutex::default(),
        result: Mutex::new(None),
        may_know_more: AtomicBool::new(false),
        hashed_files: AtomicU64::new(0),
        hashed_bytes: AtomicU64::new(0),
    };
    std::thread::scope(|threads| {
        for _ in 1..ground.options.threads.max(1) {
            // Without a further thread this one does the work.
            let spawned = std::thread::Builder::new()
                .name("scan".to_owned())
                .spawn_scoped(threads, || walk.run());
            if let Err(error) = spawned {
                tracing::warn!(%error, "scanning with fewer threads");
            }
        }
        walk.run();
    });
    if let Some(error) = walk.tasks.failure() {
        return Err(error);
    }
    let Noted { omitted, mut directories, links, held } = std::mem::take(&mut *lock(&walk.noted));
    directories.sort_unstable();
    let found = lock(&walk.result).take();
    Ok(Walked {
        found,
        omitted,
        directories,
        links,
        held,
        may_know_more: walk.may_know_more.into_inner(),
        hashed_files: walk.hashed_files.into_inner(),
        hashed_bytes: walk.hashed_bytes.into_inner(),
    })
}

/// What the threads share.
struct Walk<'a, S> {
    ground: &'a Ground<'a, S>,
    budget: Budget,
    tasks: Tasks,
    noted: Mutex<Noted>,
    result: Mutex<Option<Found>>,
    may_know_more: AtomicBool,
    hashed_files: AtomicU64,
    hashed_bytes: AtomicU64,
}

/// What is to be told beside the tree.
#[derive(Default)]
struct Noted {
    omitted: Vec<Omission>,
    directories: Vec<Vec<u8>>,
    links: Vec<(Linked, Vec<u8>, Vec<u8>)>,
    held: Vec<(Vec<u8>, Finding)>,
}

/// A listing parted into directories, each with its path, and the rest by its place.
struct Sorted {
    directories: Vec<(Vec<u8>, Vec<u8>, Verdict)>,
    files: Vec<(usize, FileType)>,
    flawed: bool,
}

impl Sorted {
    fn names<'a>(&self, listing: &'a Listing) -> impl Iterator<Item = &'a [u8]> {
        self.files.iter().map(|&(at, _)| listing.name(at))
    }
}

/// What a thread keeps from one task to the next.
struct Worker<'a, S> {
    taker: Taker<'a, S>,
    listing: Listing,
}

impl<S: ObjectSource + ObjectSink> Walk<'_, S> {
    fn run(&self) {
        let taker = Taker {
            sink: self.ground.sink,
            progress: self.ground.progress,
            reader: FileReader::default(),
        };
        let mut worker = Worker { taker, listing: Listing::default() };
        while let Some((task, under_way)) = self.tasks.next() {
            let done = match task {
                _ if self.ground.progress.is_cancelled() => Err(ScanError::Cancelled),
                Task::Directory { place, held, scope } => {
                    self.directory(&mut worker, place, held, &scope)
                }
                Task::Files { directory, held, files } => {
                    self.files(&mut worker.taker, &directory, held.as_ref(), &files)
                }
            };
            under_way.end(done);
        }
    }

    /// Opens and lists a directory, and takes its first files.
    fn directory(
        &self,
        Worker { taker, listing }: &mut Worker<'_, S>,
        place: Place,
        held: Option<Arc<Held>>,
        above: &Scope,
    ) -> Result<(), ScanError> {
        let opened = match (&held, &place.above) {
            (Some(held), _) => directory::open_in(held.as_fd(), &place.name),
            (None, _) => directory::open_below(self.ground.fd, &place.path),
        };
        drop(held);
        let listed = opened.and_then(|fd| {
            let stat = rustix::fs::fstat(&fd)?;
            listing.read(fd.as_fd())?;
            Ok((fd, stat))
        });
        let (fd, stat) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                self.omit(&place.path, reason(error).map_err(exhausted)?);
                let Some(above) = place.above else { return Ok(()) };
                lock(&above.parts).flawed = true;
                return self.finish_part(above);
            }
        };
        if let Some(reason) = dropped_bits(&stat) {
            self.omit(&place.path, reason);
        }
        let at = (&*place.path, place.verdict);
        let scope = scope_of(self.ground.rules, above, at, &fd, listing);
        lock(&self.noted).directories.push(place.path.clone());
        let sorted = self.sort(&fd, &place, &scope, listing)?;
        let known = self.ground.cache.directory_on_a_walk(&place.path);
        let is_same = !sorted.flawed
            && sorted.files.len() <= MAX_ALONE
            && self.is_same(&fd, &place.path, &known, sorted.names(listing));
        let Sorted { directories, files, flawed } = sorted;
        let before = if is_same { Before::Same(known) } else { Before::Other(known.unpack()) };
        let directory = Arc::new(Directory {
            above: place.above,
            name: place.name,
            path: place.path,
            mode: permissions(&stat),
            inode: Inode::new(&stat),
            scope: scope.clone(),
            before,
            parts: Mutex::new(Parts { flawed, ..Parts::default() }),
        });
        let owned = |&(at, kind): &(usize, FileType)| (listing.name(at).to_vec(), kind);
        let mut files: Vec<_> = files.iter().filter(|_| !is_same).map(owned).collect();
        let first: Vec<_> = files.drain(..files.len().min(BATCH)).collect();
        let mut batches = Vec::new();
        while !files.is_empty() {
            batches.push(files.split_off(files.len().saturating_sub(BATCH)));
        }
        lock(&directory.parts).open = directories.len() + batches.len() + 1;
        let held = self.budget.hold(fd);
        let directories = directories.into_iter().map(|(name, path, verdict)| Task::Directory {
            place: Place { above: Some(Arc::clone(&directory)), name, path, verdict },
            held: held.clone(),
            scope: scope.clone(),
        });
        let batches = batches.into_iter().map(|files| Task::Files {
            directory: Arc::clone(&directory),
            held: held.clone(),
            files,
        });
        self.tasks.push(directories.rev().chain(batches));
        self.files(taker, &directory, held.as_ref(), &first)
    }

    /// Parts a listing into directories and the rest, without what does not belong to the tree.
    fn sort(
        &self,
        fd: &OwnedFd,
        place: &Place,
        scope: &Scope,
        listing: &Listing,
    ) -> Result<Sorted, ScanError> {
        let mut sorted = Sorted { directories: Vec::new(), files: Vec::new(), flawed: false };
        let mut path = place.path.clone();
        for (at, (name, mut kind)) in listing.iter().enumerate() {
            path.truncate(place.path.len());
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            if is_git_name(name) {
                self.omit(&path, OmitReason::GitMetadata);
                sorted.flawed = true;
                continue;
            }
            if path.len() > MAX_PATH {
                // Its own path cannot be written down.
                self.omit(&place.path, OmitReason::NotCarried);
                sorted.flawed = true;
                continue;
            }
            if kind == FileType::Unknown {
                kind = match look(fd.as_fd(), name) {
                    Ok(stat) => FileType::from_raw_mode(stat.st_mode),
                    Err(error) => {
                        self.omit(&path, reason(error).map_err(exhausted)?);
                        sorted.flawed = true;
                        continue;
                    }
                };
            }
            let is_directory = kind == FileType::Directory;
            match self.ground.rules.verdict(scope, &path, is_directory) {
                Verdict::Skip => {}
                verdict if is_directory => {
                    sorted.directories.push((name.to_vec(), path.clone(), verdict));
                }
                _ => sorted.files.push((at, kind)),
            }
        }
        Ok(sorted)
    }

    /// Whether the files and links of a directory are those of its tree. Those of several names are
    /// noted, and the directories below it are still to be compared.
    fn is_same<'n>(
        &self,
        fd: &OwnedFd,
        path: &[u8],
        known: &PackedDirectory,
        names: impl Iterator<Item = &'n [u8]>,
    ) -> bool {
        if !self.ground.trusted || known.tree.is_none() {
            return false;
        }
        let Some(unchanged) = find_unchanged(fd.as_fd(), known, names) else { return false };
        self.ground.progress.add(unchanged.files, unchanged.bytes);
        if !unchanged.linked.is_empty() {
            let links = unchanged.linked.into_iter();
            let links = links.map(|(linked, name)| (linked, path.to_vec(), name));
            lock(&self.noted).links.extend(links);
        }
        true
    }

    /// Takes one batch of a directory.
    fn files(
        &self,
        taker: &mut Taker<'_, S>,
        directory: &Arc<Directory>,
        held: Option<&Arc<Held>>,
        files: &[(Vec<u8>, FileType)],
    ) -> Result<(), ScanError> {
        let opened = match held {
            Some(held) => {
                self.take(taker, directory, (held.as_fd(), Some(held)), files)?;
                return self.finish_part(Arc::clone(directory));
            }
            None => directory::open_below(self.ground.fd, &directory.path),
        };
        match opened {
            Ok(fd) => self.take(taker, directory, (fd.as_fd(), None), files)?,
            Err(error) => {
                let reason = reason(error).map_err(exhausted)?;
                for (name, _) in files {
                    self.omit(&join(&directory.path, name), reason);
                }
                lock(&directory.parts).flawed = true;
            }
        }
        self.finish_part(Arc::clone(directory))
    }

    /// Takes files; gives half of what is left to whoever has nothing to do: how long one takes shows when it is read.
    fn take(
        &self,
        taker: &mut Taker<'_, S>,
        directory: &Arc<Directory>,
        (fd, held): (BorrowedFd<'_>, Option<&Arc<Held>>),
        mut files: &[(Vec<u8>, FileType)],
    ) -> Result<(), ScanError> {
        if files.is_empty() {
            return Ok(());
        }
        let mut entries = Vec::with_capacity(files.len());
        let (mut records, mut links, mut flawed) = (Vec::new(), Vec::new(), false);
        let known = match &directory.before {
            Before::Other(known) => Some(known),
            Before::Same(_) => None,
        };
        while let [(name, kind), rest @ ..] = files {
            files = rest;
            if self.ground.progress.is_cancelled() {
                return Err(ScanError::Cancelled);
            }
            if !rest.is_empty() && self.tasks.is_somebody_idle() {
                let (mine, theirs) = rest.split_at(rest.len() / 2);
                files = mine;
                lock(&directory.parts).open += 1;
                let (directory, held) = (Arc::clone(directory), held.cloned());
                let theirs = Task::Files { directory, held, files: theirs.to_vec() };
                self.tasks.push(std::iter::once(theirs));
            }
            let inspect = |bytes: &[u8]| {
                self.ground.inspect(&directory.scope, &join(&directory.path, name), bytes)
            };
            let known = Known {
                file: known.and_then(|known| known.file(name)),
                kept: self.ground.trusted,
                inspect: self.ground.options.guard.is_some().then_some(&inspect),
            };
            let taken = taker.take(fd, name, *kind, known)?;
            if let Some(reason) = taken.omitted {
                self.omit(&join(&directory.path, name), reason);
                flawed = true;
            }
            if let Some(finding) = taken.held {
                lock(&self.noted).held.push((join(&directory.path, name), finding));
            }
            let Some(entry) = taken.entry else { continue };
            if let EntryKind::File { blob, .. } | EntryKind::Symlink { target: blob } = entry.kind {
                if taken.read {
                    self.hashed_files.fetch_add(1, Ordering::Relaxed);
                    self.hashed_bytes.fetch_add(blob.size, Ordering::Relaxed);
                }
                let started = self.ground.options.started_at_ns;
                records.extend(taken.stat.map(|stat| CachedFile::seen(name, stat, &blob, started)));
                links
                    .extend(taken.links.map(|links| (links, directory.path.clone(), name.clone())));
            }
            entries.push(entry);
        }
        if !links.is_empty() {
            lock(&self.noted).links.append(&mut links);
        }
        let mut parts = lock(&directory.parts);
        parts.entries.append(&mut entries);
        parts.records.append(&mut records);
        parts.flawed |= flawed;
        Ok(())
    }

    /// Ends one part of a directory; with the last one it is encoded, and is a part of the one
    /// above.
    fn finish_part(&self, mut directory: Arc<Directory>) -> Result<(), ScanError> {
        loop {
            let parts = {
                let mut parts = lock(&directory.parts);
                parts.open -= 1;
                if parts.open > 0 {
                    return Ok(());
                }
                std::mem::take(&mut *parts)
            };
            let (tree, below, may_know_more) = directory.encode(self.ground, parts)?;
            self.may_know_more.fetch_or(may_know_more, Ordering::Relaxed);
            let Some(above) = directory.above.clone() else {
                let found = Found { tree, sums: below, mode: directory.mode };
                *lock(&self.result) = Some(found);
                return Ok(());
            };
            let kind = EntryKind::Directory { mode: directory.mode, tree, below };
            lock(&above.parts).entries.push(Entry { name: directory.name.clone(), kind });
            directory = above;
        }
    }

    /// Names an entry; one whose path is too long to be written down by what is above it.
    fn omit(&self, path: &[u8], reason: OmitReason) {
        if let Ok(path) = RelPath::new(path) {
            lock(&self.noted).omitted.push(Omission { path, reason });
            return;
        }
        let above = path.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
        self.omit(path.get(..above).unwrap_or_default(), OmitReason::NotCarried);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

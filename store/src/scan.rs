//! From a directory on the disk to a tree of objects.
//!
//! Not here: when to look, and what the tree is part of. A scan reads everything that changed since
//! the [`StatCache`] was made, puts it into a sink, and says what it could not carry.
//!
//! - [`dirty`]: what may have changed since the last look
//! - [`directory`]: directories by descriptor, however deep
//! - [`read`]: a file that may change while it is read
//! - [`entry`]: one file, link or special file
//! - [`links`]: files of several names
//! - [`unchanged`]: whether a directory holds what it held
//! - [`ground`]: what a walk and a seal stand on
//! - [`under_way`]: directories until everything in them is there
//! - [`count`]: how much there is
//! - [`tasks`]: what several threads have to do
//! - [`walk`]: everything below a directory, by several threads
//! - [`seal`]: what is dirty, at a cost that follows it
//!
//! **Invariant:** nothing is opened by more than one name below a descriptor, nothing through a
//! symbolic link, and nothing but regular files and directories. Whatever stands in the tree and
//! not in the result is named in [`Scanned::omitted`], unless the rules of [`crate::ignore`] left
//! it out.

pub mod dirty;
pub(crate) mod directory;
mod read;
mod entry;
mod links;
mod unchanged;
pub(crate) mod ground;
mod count;
mod under_way;
mod tasks;
mod walk;
mod seal;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use baton_protocol::id::TreeId;
use baton_protocol::object::{Omission, OmitReason, TreeSums};
use baton_protocol::path::RelPath;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::catalog::held::Allowed;
use crate::error::StoreError;
use crate::ignore::{BATON_IGNORE, GitUser, RuleChange, Rules, Scope, Verdict, WORKTREE_INCLUDE};
use crate::objects::{ObjectSink, ObjectSource};
use crate::secrets::known::KnownValues;
use crate::secrets::{Finding, SecretRules};
use crate::stat_cache::{Inode, StatCache};
use crate::trees;

use dirty::{Depth, Dirty};
use ground::{Ground, Start, read_rules};
use links::Links;
use seal::Unruled;
use walk::walk;

/// How a scan goes.
#[derive(Clone, Debug)]
pub struct ScanOptions {
    /// Threads that walk and read; at least one.
    pub threads: usize,
    /// When the scan began, in nanoseconds since 1970: files that changed about then, or later, are
    /// read again by the next scan. The caller must have read the clock *before* it calls.
    pub started_at_ns: i64,
    /// What git knows about the user from outside the repository.
    pub git_user: GitUser,
    /// What is left out, in the syntax of `.gitignore`: as if it stood at the top of `.batonignore`.
    pub exclude: Vec<u8>,
    /// What files that git does not track are searched for before they are taken; nothing is held back
    /// without.
    pub guard: Option<Guard>,
}

/// What holds files back.
#[derive(Clone, Debug)]
pub enum Guard {
    /// What looks like a secret.
    Rules {
        /// What is looked for.
        rules: Arc<SecretRules>,
        /// What is let through all the same.
        allowed: Allowed,
    },
    /// What is known to be one.
    Known(Arc<KnownValues>),
}

impl Guard {
    /// Why a file is held back, if it is.
    pub(crate) fn find(&self, path: &[u8], bytes: &[u8]) -> Option<Finding> {
        match self {
            Self::Rules { allowed, .. } if allowed.permits_path(path) => None,
            Self::Rules { rules, allowed } => {
                rules.scan_unless(path, bytes, |finding| allowed.permits(path, finding))
            }
            Self::Known(values) => values.finding(bytes),
        }
    }
}

impl Default for ScanOptions {
    fn default() -> Self {
        Self {
            threads: 2,
            started_at_ns: 0,
            git_user: GitUser::default(),
            exclude: Vec::new(),
            guard: None,
        }
    }
}

/// How far a scan, or a restore, has come; read it from another thread at any time.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    bytes: AtomicU64,
    /// Nothing is known of it while it is zero.
    total: AtomicU64,
    wants_total: bool,
    cancelled: AtomicBool,
}

impl Progress {
    /// One that is told how many files there are before they are read.
    pub fn with_total() -> Self {
        Self { wants_total: true, ..Self::default() }
    }

    /// Whether somebody should say how many files there are.
    pub fn wants_total(&self) -> bool {
        self.wants_total && self.total().is_none()
    }

    /// Files to be done, where that is known.
    pub fn total(&self) -> Option<u64> {
        Some(self.total.load(Ordering::Relaxed)).filter(|&total| total > 0)
    }

    /// Says how many files there are.
    pub fn set_total(&self, files: u64) {
        self.total.store(files, Ordering::Relaxed);
    }

    /// Files done.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Bytes of the files done.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Asks the work to stop soon.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// A tree as it was when it was last looked at.
#[derive(Debug)]
pub struct Scanned {
    /// The tree, in the sink.
    pub root: TreeId,
    /// Permission bits of the root directory.
    pub root_mode: u16,
    /// Files and bytes in the tree.
    pub sums: TreeSums,
    /// What was left out, or not carried whole; ascending, no two alike.
    pub omitted: Vec<Omission>,
    /// Files that are held back, by path; each is among those left out.
    pub held: BTreeMap<Vec<u8>, Finding>,
    /// Directories of the tree that were listed whole, each after the one above it: who watches the tree
    /// has to watch them.
    pub directories: Vec<Vec<u8>>,
    /// Files that had to be read.
    pub hashed_files: u64,
    /// Bytes that had to be read.
    pub hashed_bytes: u64,
    /// What people should know, such as a git repository whose rules could not be followed.
    pub notes: Vec<String>,
    rules: Rules,
    links: Links,
}

/// A scan failed. Files that cannot be read do not make it fail.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// The root of the tree could not be opened.
    #[error("opening {}", path.display())]
    Root {
        /// The root.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The system has no more descriptors or memory for us.
    #[error("reading the tree in {}", path.display())]
    Exhausted {
        /// The root.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The sink did not take an object.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The caller asked to stop.
    #[error("the scan was cancelled")]
    Cancelled,
}

/// Puts the tree at `root` into `sink`: all of it is looked at.
///
/// What `cache` says of a file that is unchanged is believed, and where the cache is not known to
/// fit the sink only if `sink` still has its content. From here to [`StatCache::end_scan`], which the
/// caller calls once the tree is durable, it is known not to fit.
pub fn scan<S: ObjectSource + ObjectSink>(
    root: &Path,
    cache: &StatCache,
    sink: &S,
    options: &ScanOptions,
    progress: &Progress,
) -> Result<Scanned, ScanError> {
    let fd = open_root(root)?;
    let rules = read_root_rules(root, &fd, options);
    let trusted = cache.is_trusted();
    cache.begin_scan();
    let fd = fd.as_fd();
    if progress.wants_total() {
        count::count(fd, &rules, progress);
    }
    let ground = Ground { fd, cache, sink, progress, options, rules: &rules, trusted };
    let start = Start { path: Vec::new(), verdict: Verdict::Keep, above: Scope::default() };
    let walked = walk(&ground, start).map_err(|error| at_root(root, error))?;
    if walked.may_know_more || !trusted {
        cache.retain_below(b"", &walked.directories);
    }
    let Some(found) = walked.found else { return Err(root_failed(root, Errno::NOENT)) };
    let mut omitted = walked.omitted;
    omitted.sort_unstable();
    omitted.dedup();
    Ok(Scanned {
        root: found.tree,
        root_mode: found.mode,
        sums: found.sums,
        omitted,
        held: walked.held.into_iter().collect(),
        directories: walked.directories,
        hashed_files: walked.hashed_files,
        hashed_bytes: walked.hashed_bytes,
        notes: rules.notes(),
        links: Links::of(walked.links),
        rules,
    })
}

/// Puts the tree at `root` into `sink`, given how it was and what may have changed since. Costs what
/// is dirty, with the directories on the way to it.
///
/// `before` must be what the last call gave, and be in `sink`. Other than after [`scan`], what the cache
/// says is for the caller to [flush](StatCache::flush) once the tree is durable.
pub fn seal<S: ObjectSource + ObjectSink>(
    root: &Path,
    before: Scanned,
    dirty: &Dirty,
    cache: &StatCache,
    sink: &S,
    options: &ScanOptions,
    progress: &Progress,
) -> Result<Scanned, ScanError> {
    if dirty.is_everything() {
        dirty.moves().iter().for_each(|(from, to)| cache.rename(from, to));
        return scan(root, cache, sink, options, progress);
    }
    let fd = open_root(root)?;
    let ground = Unruled { fd: fd.as_fd(), cache, sink, progress, options };
    match seal::seal(&ground, before, dirty).map_err(|error| at_root(root, error))? {
        Some(scanned) => Ok(scanned),
        None => scan(root, cache, sink, options, progress),
    }
}

/// A tree that was made from a snapshot, and may have been changed since.
#[derive(Clone, Debug)]
pub struct Made<'a> {
    /// The tree of the snapshot, in the sink.
    pub root: TreeId,
    /// What the snapshot leaves out.
    pub omitted: Vec<Omission>,
    /// A folder whose `.git` is as it was made; nothing where none was.
    pub repository: Option<&'a Path>,
    /// What may have changed since.
    pub dirty: Dirty,
}

/// Puts a tree into `sink` of which nothing is known but from what it was made and what changed since.
pub fn seal_made<S: ObjectSource + ObjectSink>(
    root: &Path,
    made: Made<'_>,
    sink: &S,
    options: &ScanOptions,
    progress: &Progress,
) -> Result<Scanned, ScanError> {
    let Made { root: tree, omitted, repository, mut dirty } = made;
    let fd = open_root(root)?;
    let rules = read_root_rules(root, &fd, options);
    for change in repository.map(|before| rules.changes_since(before)).unwrap_or_default() {
        match change {
            RuleChange::Below(path) => dirty.walk(&path),
            RuleChange::Paths(paths) => dirty.look_at(&paths),
        }
    }
    let cache = StatCache::default();
    if dirty.is_everything() {
        return scan(root, &cache, sink, options, progress);
    }
    let meet = |path: &[u8]| cache.met_directory(path, inode_of(&fd, path));
    dirty.for_each_way(meet);
    for (path, marks) in dirty.directories() {
        // One that is only named is the one that it was, too.
        let named = marks.names.iter().filter(|(_, depth)| **depth == Depth::Look);
        named.for_each(|(name, _)| meet(&directory::join(path, name)));
        if marks.list {
            let listed =
                directory::open_below(fd.as_fd(), path).and_then(|it| directory::list(it.as_fd()));
            let inner = listed.unwrap_or_default().into_iter();
            let inner = inner.filter(|(_, kind)| *kind == FileType::Directory);
            inner.for_each(|(name, _)| meet(&directory::join(path, &name)));
        }
    }
    let stat = rustix::fs::fstat(&fd).map_err(|error| root_failed(root, error))?;
    // Repositories inside stand where they stood; what else was left out was left where it was.
    let stands = |path: &RelPath| {
        rustix::fs::statat(&fd, path.as_bytes(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
    };
    let omitted =
        omitted.into_iter().filter(|it| it.reason == OmitReason::GitMetadata && stands(&it.path));
    let before = Scanned {
        root: tree,
        root_mode: entry::permissions(&stat),
        sums: trees::sums_of(sink, tree)?,
        omitted: omitted.collect(),
        held: BTreeMap::new(),
        directories: Vec::new(),
        hashed_files: 0,
        hashed_bytes: 0,
        notes: Vec::new(),
        links: Links::default(),
        rules,
    };
    seal(root, before, &dirty, &cache, sink, options, progress)
}

fn inode_of(root: &OwnedFd, path: &[u8]) -> Option<Inode> {
    let found = rustix::fs::statat(root, path, AtFlags::SYMLINK_NOFOLLOW).ok()?;
    let is_directory = FileType::from_raw_mode(found.st_mode) == FileType::Directory;
    is_directory.then(|| Inode::new(&found))
}

fn open_root(root: &Path) -> Result<OwnedFd, ScanError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(root, flags, Mode::empty()).and_then(|fd| {
        // A root that cannot be listed is an error; any other directory is an omission.
        rustix::fs::Dir::read_from(&fd).and_then(|mut entries| entries.next().transpose())?;
        Ok(fd)
    });
    opened.map_err(|error| root_failed(root, error))
}

fn root_failed(root: &Path, error: Errno) -> ScanError {
    ScanError::Root { path: root.to_owned(), source: error.into() }
}

/// Gives an error the path that only the caller knows.
fn at_root(root: &Path, error: ScanError) -> ScanError {
    match error {
        ScanError::Exhausted { source, .. } => {
            ScanError::Exhausted { path: root.to_owned(), source }
        }
        error => error,
    }
}

fn read_root_rules(root: &Path, fd: &OwnedFd, options: &ScanOptions) -> Rules {
    let mut removed = options.exclude.clone();
    removed.push(b'\n');
    removed.extend(read_rules(fd, BATON_IGNORE).unwrap_or_default());
    let included = read_rules(fd, WORKTREE_INCLUDE).unwrap_or_default();
    Rules::new(root, &options.git_user, &removed, &included)
}

#[cfg(test)]
impl Scanned {
    /// One that found this.
    pub(crate) fn of(root: TreeId, omitted: Vec<Omission>) -> Self {
        Self {
            root,
            root_mode: 0o755,
            sums: TreeSums::default(),
            omitted,
            held: BTreeMap::new(),
            directories: Vec::new(),
            hashed_files: 0,
            hashed_bytes: 0,
            notes: Vec::new(),
            rules: Rules::new(Path::new(""), &GitUser::default(), b"", b""),
            links: Links::default(),
        }
    }
}

#[cfg(test)]
mod git_tests;
#[cfg(test)]
mod rules_tests;
#[cfg(test)]
mod seal_tests;
#[cfg(test)]
mod tests;

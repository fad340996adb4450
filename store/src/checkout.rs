//! From a tree of objects to a new directory on the disk.
//!
//! Not here: changing a directory that has content. A restore makes a new one, in a folder of its
//! own beside the target, and puts it in place with one rename.
//!
//! - [`staging`]: where it is built, and how it is put in place or taken away
//! - [`ahead`]: reading directories many at a time
//! - [`crew`]: the threads that share the work
//! - [`measure`]: how large it will be
//! - [`layout`]: directories first, and the list of what goes into them
//! - [`write`]: what is one chunk, in the order in which the store can read it
//! - [`large`]: files of several chunks, in parts
//! - [`repository`]: the repository beside its files
//! - [`remove`]: taking away what a restore has made
//!
//! **Invariant:** nothing is written outside the target, whatever the tree says: every name was
//! checked by the decoder, every path is walked by descriptor without following links, and links
//! are made after everything else. An owner is never restored.

mod ahead;
mod crew;
mod measure;
mod layout;
mod write;
mod large;
pub(crate) mod remove;
mod staging;
mod repository;

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use baton_protocol::id::TreeId;
use baton_protocol::object::{EntryKind, Omission, OmitReason};
use baton_protocol::path::{MAX_PATH, RelPath};
use rustix::fs::Mode;
use rustix::io::Errno;

use layout::Layout;

use crate::error::StoreError;
use crate::fs::{Context, FsError};
use crate::git::GitError;
use crate::objects::ObjectSource;
use crate::scan::Progress;

pub use remove::{put_aside, remove_made, sweep};
pub use repository::{RepositoryOptions, RestoredRepository, restore_linked, restore_snapshot};

/// How a restore goes.
#[derive(Clone, Copy, Debug)]
pub struct RestoreOptions {
    /// Threads that read and write; at least one.
    pub threads: usize,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self { threads: 2 }
    }
}

/// What a restore did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Files and links made.
    pub files: u64,
    /// Bytes of the files made.
    pub bytes: u64,
    /// What the file system of the target cannot hold; ascending.
    pub not_carried: Vec<Omission>,
}

/// A restore failed. The target is what it was before.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The target has content.
    #[error("{} is not empty", path.display())]
    NotEmpty {
        /// The target.
        path: PathBuf,
    },
    /// The target is something else than a directory.
    #[error("{} is not a directory", path.display())]
    NotDirectory {
        /// The target.
        path: PathBuf,
    },
    /// The tree has a name that could reach git's own folder. No scan makes such a tree.
    #[error("the tree names {}, which could stand for a .git folder", path.display())]
    GitName {
        /// Within the tree.
        path: RelPath,
    },
    /// Written out the tree is larger than any checkout may be: few objects can name each other so that they
    /// stand for more than any disk holds.
    #[error(
        "the tree would have {entries} files and folders and {bytes} bytes, more than a checkout can have"
    )]
    TooLarge {
        /// Files, links and directories.
        entries: u64,
        /// Bytes of the files.
        bytes: u64,
    },
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// An object could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The repository of a checkout could not take it.
    #[error("making a linked worktree")]
    Link(#[from] GitError),
    /// The caller asked to stop.
    #[error("the restore was cancelled")]
    Cancelled,
}

/// Makes the tree at `into`, which must be absent or an empty directory; the directory above it must
/// be there.
///
/// Modes are exact, whatever the umask. Runs of zeros are holes. Files are verified against their
/// hashes as they are read.
///
/// The system writes it to the disk in its own time, as after any copy: what a power cut soon after takes
/// away is in the store.
pub fn restore<S: ObjectSource + ?Sized>(
    source: &S,
    root: TreeId,
    root_mode: u16,
    into: &Path,
    options: &RestoreOptions,
    progress: &Progress,
) -> Result<Restored, RestoreError> {
    restore_with(source, (root, root_mode), into, *options, progress, |_| Ok(())).map(|done| done.0)
}

/// The same with what `complete` makes in the folder before it is put in its place.
fn restore_with<S: ObjectSource + ?Sized, T>(
    source: &S,
    (root, root_mode): (TreeId, u16),
    into: &Path,
    options: RestoreOptions,
    progress: &Progress,
    complete: impl Fn(&staging::Staging) -> Result<T, RestoreError>,
) -> Result<(Restored, T), RestoreError> {
    let mut staging = staging::Staging::open(into, false)?;
    let trees = ahead::Ahead::new(source);
    let threads = options.threads.max(1);
    measure::check(&trees, root, threads)?;
    loop {
        let build = Build::new(source, &trees, staging.directory(), into, threads, progress);
        let restored = build.run(root, root_mode)?;
        let completed = complete(&staging)?;
        if staging.commit()? {
            return Ok((restored, completed));
        }
        // A mount point cannot be renamed over: what was built is taken away, and built inside.
        drop(staging);
        staging = staging::Staging::open(into, true)?;
    }
}

/// Writes files and links, each under a name of its own, into an empty folder that nobody else knows.
///
/// Modes are exact, and what is read is verified, as in a [restore](restore()).
pub(crate) fn fill<S: ObjectSource + ?Sized>(
    source: &S,
    entries: impl IntoIterator<Item = (Vec<u8>, EntryKind)>,
    (folder, path): (BorrowedFd<'_>, &Path),
    threads: usize,
    progress: &Progress,
) -> Result<Restored, RestoreError> {
    let mut layout = Layout::default();
    for (name, kind) in entries {
        layout.add(0, &name, kind)?;
    }
    let trees = ahead::Ahead::new(source);
    Build::new(source, &trees, folder, path, threads.max(1), progress).fill(layout)
}

/// A restore under way.
struct Build<'a, S: ?Sized> {
    source: &'a S,
    trees: &'a ahead::Ahead<'a, S>,
    /// The directory that becomes the root of the tree.
    root: BorrowedFd<'a>,
    into: &'a Path,
    threads: usize,
    progress: &'a Progress,
    files: AtomicU64,
    bytes: AtomicU64,
    not_carried: Mutex<Vec<Omission>>,
}

impl<'a, S: ObjectSource + ?Sized> Build<'a, S> {
    fn new(
        source: &'a S,
        trees: &'a ahead::Ahead<'a, S>,
        root: BorrowedFd<'a>,
        into: &'a Path,
        threads: usize,
        progress: &'a Progress,
    ) -> Self {
        Self {
            source,
            trees,
            root,
            into,
            threads,
            progress,
            files: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            not_carried: Mutex::default(),
        }
    }

    fn run(self, root: TreeId, root_mode: u16) -> Result<Restored, RestoreError> {
        let layout = self.lay_out(root)?;
        let (root, into) = (self.root, self.into);
        let restored = self.fill(layout)?;
        rustix::fs::fchmod(root, Mode::from_raw_mode(root_mode.into()))
            .context("setting the mode of", into)?;
        Ok(restored)
    }

    /// Makes what goes into the directories.
    fn fill(self, mut layout: Layout) -> Result<Restored, RestoreError> {
        let files = std::mem::take(&mut layout.files);
        self.write_files(&layout, files)?;
        let mut links = std::mem::take(&mut layout.links);
        self.write_pieces(&layout, &mut links)?;
        self.set_modes(&layout)?;
        let mut not_carried =
            self.not_carried.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        not_carried.sort_unstable();
        not_carried.dedup();
        Ok(Restored { files: self.files.into_inner(), bytes: self.bytes.into_inner(), not_carried })
    }

    /// Counts what was made.
    fn add(&self, files: u64, bytes: u64) {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.progress.add(files, bytes);
    }

    /// Names what the target cannot hold; a path too long to be written down by what is above it.
    fn omit(&self, path: &[u8]) {
        let mut path = path;
        while path.len() > MAX_PATH {
            let above = path.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
            path = path.get(..above).unwrap_or_default();
        }
        if let Ok(path) = RelPath::new(path) {
            let mut list =
                self.not_carried.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            list.push(Omission { path, reason: OmitReason::NotCarried });
        }
    }

    /// An error with the path it happened at, or nothing where the target cannot hold such a name.
    fn refused(&self, action: &'static str, path: &[u8], error: Errno) -> Result<(), RestoreError> {
        match error {
            // Longer than the file system allows, bytes that it does not take, or a name that it
            // does not tell from another one.
            Errno::NAMETOOLONG | Errno::ILSEQ | Errno::INVAL | Errno::EXIST => {
                self.omit(path);
                Ok(())
            }
            error => Err(self.failed(action, path, error)),
        }
    }

    fn failed(&self, action: &'static str, path: &[u8], error: Errno) -> RestoreError {
        use std::os::unix::ffi::OsStrExt;
        let path = self.into.join(std::ffi::OsStr::from_bytes(path));
        FsError { action, path, source: error.into() }.into()
    }
}

/// Opens a directory below another one, beneath it and through no link.
#[cfg(target_os = "linux")]
pub(crate) fn open_directory(
    root: BorrowedFd<'_>,
    path: &[u8],
) -> Result<std::os::fd::OwnedFd, Errno> {
    use rustix::fs::{OFlags, ResolveFlags};
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let path = if path.is_empty() { b"." } else { path };
    match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
        // Not in this kernel, or not in this sandbox.
        Err(Errno::NOSYS | Errno::PERM) => crate::scan::directory::open_below(root, path),
        opened => opened,
    }
}

/// Opens a directory below another one, beneath it and through no link.
#[cfg(not(target_os = "linux"))]
pub(crate) fn open_directory(
    root: BorrowedFd<'_>,
    path: &[u8],
) -> Result<std::os::fd::OwnedFd, Errno> {
    crate::scan::directory::open_below(root, path)
}

#[cfg(test)]
mod tests;

//! The one place where whole files are opened, written, renamed and synced by path.
//!
//! Not here: walking a user's tree. Scan and checkout go by directory descriptor, because a path
//! there is the user's to change under us.
//!
//! **Invariant:** every error carries what was done and the path it was done to.

#[cfg(any(test, feature = "simulation"))]
pub mod fault;
#[cfg(any(test, feature = "simulation"))]
pub mod simulated;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A file operation failed.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct FsError {
    /// What was done, as a participle: `reading`, `syncing`.
    pub action: &'static str,
    /// To what.
    pub path: PathBuf,
    /// Why it failed.
    pub source: io::Error,
}

impl FsError {
    /// Whether the disk, a quota or the inodes ran out.
    pub fn is_disk_full(&self) -> bool {
        matches!(
            self.source.kind(),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
        )
    }

    /// Whether a file is larger than it may be.
    pub fn is_too_large(&self) -> bool {
        self.source.kind() == io::ErrorKind::FileTooLarge
    }

    /// Whether there is no such file.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == io::ErrorKind::NotFound
    }
}

/// Asks the system to begin writing a part of a file that it holds in memory, and waits for nothing.
/// Makes nothing durable, and does nothing where the system cannot be asked.
pub(crate) fn begin_writing(file: &File, from: u64, len: u64) {
    // What is dirty cannot be dropped: Linux writes it instead (`mm/fadvise.c`).
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::fs::fadvise(
        file,
        from,
        std::num::NonZeroU64::new(len),
        rustix::fs::Advice::DontNeed,
    ) {
        tracing::debug!(%error, "not written before its sync");
    }
    #[cfg(not(target_os = "linux"))]
    let _unused = (file, from, len);
}

/// Gives an I/O error its action and path.
pub trait Context<T> {
    /// Names what was done to which path.
    fn context(self, action: &'static str, path: &Path) -> Result<T, FsError>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, FsError> {
        #[cfg(any(test, feature = "simulation"))]
        let this = fault::strike(self, action, path).inspect(|_| simulated::note(action, path));
        #[cfg(not(any(test, feature = "simulation")))]
        let this = self;
        this.map_err(|source| FsError { action, path: path.to_owned(), source })
    }
}

impl<T> Context<T> for Result<T, rustix::io::Errno> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, FsError> {
        self.map_err(io::Error::from).context(action, path)
    }
}

/// Whether tests follow what happens below a folder: then it happens on the thread that asks for it, and in the same order
/// each time.
#[cfg(any(test, feature = "simulation"))]
pub(crate) fn is_simulated(path: &Path) -> bool {
    simulated::is_followed(path)
}

/// Whether tests follow what happens below a folder: not in the program.
#[cfg(not(any(test, feature = "simulation")))]
pub(crate) const fn is_simulated(_path: &Path) -> bool {
    false
}

/// Fills an id that nothing else has, for something below a folder.
#[cfg_attr(
    not(any(test, feature = "simulation")),
    expect(unused_variables, reason = "where it is for is of interest in a simulation only")
)]
pub(crate) fn fresh_id(path: &Path, id: &mut [u8]) -> Result<(), getrandom::Error> {
    #[cfg(any(test, feature = "simulation"))]
    if simulated::fill(path, id) {
        return Ok(());
    }
    getrandom::fill(id)
}

/// Opens for reading.
#[expect(clippy::disallowed_methods, reason = "this is the file system seam")]
pub fn open(path: &Path) -> Result<File, FsError> {
    File::open(path).context("opening", path)
}

/// Creates a file that must not exist, readable by its owner only.
pub fn create_new(path: &Path) -> Result<File, FsError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).context("creating", path)
}

/// Opens an existing file for reading and writing.
pub fn open_writable(path: &Path) -> Result<File, FsError> {
    OpenOptions::new().read(true).write(true).open(path).context("opening", path)
}

/// Opens a file for appending, and creates it, readable by its owner only, where it is missing.
pub fn open_append(path: &Path) -> Result<File, FsError> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path).context("opening", path)
}

/// Reads a whole file of at most `limit` bytes; nothing where there is no such file.
pub fn read_if_exists(path: &Path, limit: u64) -> Result<Option<Vec<u8>>, FsError> {
    let file = match open(path) {
        Ok(file) => file,
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).context("reading", path)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge)).context("reading", path);
    }
    Ok(Some(bytes))
}

/// Replaces a file as one step that survives a crash: temporary file, sync, rename, sync of the
/// directory. The file has exactly this mode.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    replace(path, bytes, mode, true)
}

/// Replaces a file as one step for whoever looks at it, also where the process is killed. It is synced by nobody: for
/// what means nothing after the next start of the machine.
pub fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FsError> {
    replace(path, bytes, mode, false)
}

fn replace(path: &Path, bytes: &[u8], mode: u32, is_durable: bool) -> Result<(), FsError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(mode)
            .open(&temporary)
            .context("creating", &temporary)?;
        file.write_all(bytes).context("writing", &temporary)?;
        if !is_durable {
            return rename_unsynced(&temporary, path);
        }
        file.sync_all().context("syncing", &temporary)?;
        rename(&temporary, path)
    };
    write().inspect_err(|_| {
        // The failure that is reported is the first one; a temporary file left behind is harmless.
        drop(remove_file(&temporary));
    })
}

/// Renames within a file system, and syncs the directory of the new name.
pub fn rename(from: &Path, to: &Path) -> Result<(), FsError> {
    rename_unsynced(from, to)?;
    sync_dir(to.parent().unwrap_or(Path::new("/")))
}

/// Renames within a file system; the caller syncs the directory of the new name.
#[expect(clippy::disallowed_methods, reason = "this is the file system seam")]
pub fn rename_unsynced(from: &Path, to: &Path) -> Result<(), FsError> {
    std::fs::rename(from, to).context("renaming to", to)
}

/// Creates a directory and those above it, each for its owner only.
///
/// Their names are not durable before the directories above them were synced.
pub fn create_dir_all(path: &Path) -> Result<(), FsError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).context("creating", path)
}

/// Makes the entries of a directory durable.
pub fn sync_dir(path: &Path) -> Result<(), FsError> {
    open(path)?.sync_all().context("syncing", path)
}

/// Makes all of the file system durable that has this folder: for many files at once.
pub fn sync_file_system(path: &Path) -> Result<(), FsError> {
    #[cfg(target_os = "linux")]
    {
        rustix::fs::syncfs(open(path)?).context("syncing", path)
    }
    #[cfg(not(target_os = "linux"))]
    {
        let opened = open(path)?;
        rustix::fs::sync();
        // Says whether something before it has failed, as far as the system can tell.
        opened.sync_all().context("syncing", path)
    }
}

/// When a file was written last, in milliseconds since 1970; nothing where there is none.
pub fn modified_ms(path: &Path) -> Result<Option<u64>, FsError> {
    let modified = match path.symlink_metadata().and_then(|found| found.modified()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        modified => modified.context("looking at", path)?,
    };
    let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    Ok(Some(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)))
}

/// Removes a file; no error where it is gone already.
#[expect(clippy::disallowed_methods, reason = "this is the file system seam")]
pub fn remove_file(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .context("removing", path)
}

/// Fewer free inodes than this are none: a start takes some, and so does what is set aside.
pub(crate) const FEW_INODES: u64 = 24;

/// What a file system has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    /// Bytes that it holds.
    pub(crate) size: u64,
    /// Bytes that are free for who is not root.
    pub(crate) free: u64,
    /// Inodes that are; of a file system that counts none, as many as can be.
    pub(crate) free_inodes: u64,
}

/// The room of the file system that something is on; nothing where it does not say.
pub(crate) fn room(path: &Path) -> Option<Room> {
    let found = rustix::fs::statvfs(path).ok()?;
    Some(Room {
        size: found.f_blocks.saturating_mul(found.f_frsize),
        free: found.f_bavail.saturating_mul(found.f_frsize),
        free_inodes: if found.f_files > 0 { found.f_favail } else { u64::MAX },
    })
}

/// The length of a file, where there is one.
pub(crate) fn len(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().filter(std::fs::Metadata::is_file).map(|found| found.len())
}

/// Makes a file of so many bytes, for which the disk has room from then on.
pub(crate) fn set_aside(path: &Path, len: u64) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path)?;
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, len) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        allocated => return Ok(allocated?),
    }
    io::copy(&mut io::repeat(0).take(len), &mut file).map(drop)
}

/// Removes a directory and everything below it; no error where it is gone already.
///
/// Only for folders that Baton made and owns.
#[expect(clippy::disallowed_methods, reason = "this is the file system seam")]
pub fn remove_dir_all(path: &Path) -> Result<(), FsError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
    .context("removing", path)
}

/// Sets the permissions of a file or folder, whatever the umask.
pub fn set_mode(path: &Path, mode: u32) -> Result<(), FsError> {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        .context("setting the mode of", path)
}

/// The names in a directory, sorted; nothing where it is missing.
pub fn list_dir(path: &Path) -> Result<Vec<std::ffi::OsString>, FsError> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.context("listing", path)?,
    };
    let mut names = entries
        .map(|entry| entry.map(|entry| entry.file_name()))
        .collect::<io::Result<Vec<_>>>()
        .context("listing", path)?;
    names.sort();
    Ok(names)
}

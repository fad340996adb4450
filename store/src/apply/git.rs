//! Git beside an apply: whether it is at work in the checkout, and its lock of the index, which is held
//! meanwhile.
//!
//! The lock is a file in git's folder, whose name git itself takes before it writes the index. It says whose it is,
//! so that one that a crash has left is known again; and it gets that name with all that it says in it.
//!
//! **Invariant:** a lock that does not say that it is of this apply is never taken away. Nothing else in git's
//! folder is written here.

use std::io::{Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use baton_protocol::id::ApplyId;
use baton_protocol::path::MAX_PATH;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::journal::Folder;
use super::{ApplyError, crash};
use crate::fs::{self, Context};

const LOCK: &str = "index.lock";

/// What stands in git's folder while it is at work, and what it is then.
const AT_WORK: [(&str, &str); 8] = [
    ("MERGE_HEAD", "a merge is under way"),
    ("rebase-merge", "a rebase is under way"),
    ("rebase-apply", "a rebase, or git am, is under way"),
    ("CHERRY_PICK_HEAD", "a cherry-pick is under way"),
    ("REVERT_HEAD", "a revert is under way"),
    ("sequencer", "a cherry-pick or revert is under way"),
    ("BISECT_LOG", "a bisect is under way"),
    ("HEAD.lock", "another git command is at work"),
];

/// Git's index, which nobody else writes until this is let go of. It stays where the process ends before.
#[derive(Debug)]
#[must_use]
pub(super) struct GitLock {
    /// The folder in which it is noted; nothing where there is no repository.
    noted: Option<Folder>,
    id: ApplyId,
}

impl GitLock {
    /// Takes the lock of a checkout for an apply, and refuses while git is at work there. It is noted in the folder
    /// of the apply before.
    pub(super) fn hold(root: &Path, folder: &Folder, id: ApplyId) -> Result<Self, ApplyError> {
        let Some(git) = git_folder(root)? else { return Ok(Self { noted: None, id }) };
        let path = git.join(LOCK);
        folder.note_lock(&path)?;
        crash::point();
        if !is_ours(&path, id) {
            take(&git, &path, id)?;
            crash::point();
        }
        let lock = Self { noted: Some(folder.clone()), id };
        match check_others(&git) {
            Ok(()) => Ok(lock),
            Err(error) => lock.during(|| Err(error)),
        }
    }

    /// Does something while it is held, and lets go of it, whatever became of that.
    pub(super) fn during<T>(
        self,
        work: impl FnOnce() -> Result<T, ApplyError>,
    ) -> Result<T, ApplyError> {
        let done = work();
        crash::point();
        let let_go = self.noted.map_or(Ok(()), |folder| let_go_of_noted(&folder, self.id));
        if let (Err(_), Err(error)) = (&done, &let_go) {
            // The failure that is told is the first one.
            tracing::warn!(%error, "git's lock of the index stays");
        }
        let done = done?;
        let_go?;
        crash::point();
        Ok(done)
    }
}

/// Lets go of what an apply has noted that it holds, where it holds it still.
pub(super) fn let_go_of_noted(folder: &Folder, id: ApplyId) -> Result<(), ApplyError> {
    let Some(path) = folder.lock()? else { return Ok(()) };
    if let Some(git) = path.parent().filter(|git| git.is_dir()) {
        fs::remove_file(&own(git, id))?;
    }
    if is_ours(&path, id) {
        fs::remove_file(&path)?;
    }
    crash::point();
    folder.forget_lock()
}

/// Refuses while git is at work in a checkout.
pub(super) fn check_git(root: &Path, id: ApplyId) -> Result<(), ApplyError> {
    let Some(git) = git_folder(root)? else { return Ok(()) };
    let path = git.join(LOCK);
    if path.symlink_metadata().is_ok() && !is_ours(&path, id) {
        return Err(busy(path));
    }
    check_others(&git)
}

fn check_others(git: &Path) -> Result<(), ApplyError> {
    for (name, what) in AT_WORK {
        let path = git.join(name);
        if path.symlink_metadata().is_ok() {
            return Err(ApplyError::GitBusy { what, path });
        }
    }
    Ok(())
}

fn busy(path: PathBuf) -> ApplyError {
    ApplyError::GitBusy { what: "another git command is at work", path }
}

/// The line by which a lock is known.
fn line(id: ApplyId) -> String {
    format!("baton apply {id}\n")
}

/// The name that a lock has while it is written.
fn own(git: &Path, id: ApplyId) -> PathBuf {
    git.join(format!("baton-apply-{id}.lock"))
}

/// Whether a lock is of this apply. What cannot be read is not.
fn is_ours(path: &Path, id: ApplyId) -> bool {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(path, flags, Mode::empty()) else { return false };
    let line = line(id);
    let mut begins = Vec::new();
    let read = std::fs::File::from(file).take(line.len() as u64).read_to_end(&mut begins);
    read.is_ok() && begins == line.as_bytes()
}

fn take(git: &Path, path: &Path, id: ApplyId) -> Result<(), ApplyError> {
    let own = own(git, id);
    // A crash may have left it.
    fs::remove_file(&own)?;
    let mut file = fs::create_new(&own)?;
    let why = "A result is being merged into this checkout. Where that was cut off, the next baton \
               command goes on with it, and baton undo puts it back.\n";
    let text = [line(id).as_bytes(), why.as_bytes()].concat();
    file.write_all(&text).context("writing", &own)?;
    file.sync_all().context("syncing", &own)?;
    drop(file);
    crash::point();
    let taken = rename_to_free(&own, path);
    if taken.is_err() {
        // A second name may be what it has.
        drop(fs::remove_file(&own));
    }
    match taken {
        Ok(()) => Ok(fs::sync_dir(git)?),
        Err(Errno::EXIST) => Err(busy(path.to_owned())),
        Err(error) => Ok(Err(error).context("creating", path)?),
    }
}

/// Gives a file a name that nothing has.
fn rename_to_free(from: &Path, to: &Path) -> Result<(), Errno> {
    #[cfg(target_os = "linux")]
    {
        let flags = rustix::fs::RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(CWD, from, CWD, to, flags) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {}
            done => return done,
        }
    }
    rustix::fs::linkat(CWD, from, CWD, to, rustix::fs::AtFlags::empty())?;
    rustix::fs::unlinkat(CWD, from, rustix::fs::AtFlags::empty())
}

/// Where git keeps the state of a checkout; a linked worktree says it in a file.
fn git_folder(root: &Path) -> Result<Option<PathBuf>, ApplyError> {
    let git = root.join(".git");
    match git.symlink_metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => Err(error).context("looking at", &git)?,
        Ok(found) if !found.is_file() => return Ok(git.is_dir().then_some(git)),
        Ok(_) => {}
    }
    let text = fs::read_if_exists(&git, MAX_PATH as u64 + 64)?.unwrap_or_default();
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let path = line.strip_prefix(b"gitdir: ").map(|path| path.strip_suffix(b"\r").unwrap_or(path));
    let git = path.map(|path| root.join(std::ffi::OsString::from_vec(path.to_vec())));
    Ok(git.filter(|git| git.is_dir()))
}

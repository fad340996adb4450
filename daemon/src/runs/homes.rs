//! The homes of threads: a run has the home that the one before it in its thread has left.
//!
//! ```text
//! homes/VAULT/THREAD/home    what `HOME` says
//! ```
//!
//! A fork begins with a copy. It is made in a room, so that whatever the run before has left there, nothing but that is
//! read. A home stays until [`Runs::forget_home`]: caches of package managers and logins of tools are in it.
//!
//! **Invariant:** a home is that of one user's thread, and of one live run. Another one that claims the same thread has a
//! home of its own.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use baton_protocol::id::{RunId, ThreadId, VaultId};
use baton_store::checkout::{put_aside, remove_made};
use baton_store::fs::{self, FsError};

use super::refused::chain;
use super::{Live, Runs};
use crate::limits::disk::{Free, Reserve, used};
use crate::rooms::{DEFAULT_PATH, Job, Room, RoomError, Wrapped};

/// Most of what `cp` says that is kept, in characters, and that is read for it, in bytes.
const MAX_SAID: usize = 300;
const MAX_READ: u64 = 4096;

/// A home that takes longer to copy is not worth it.
const COPY_LIMIT: Duration = Duration::from_mins(1);

/// How often a copy is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// The homes of a node.
#[derive(Debug)]
pub(super) struct Homes {
    folder: PathBuf,
    claimed: Mutex<HashMap<(VaultId, ThreadId), RunId>>,
}

/// A copy of a home could not be made whole.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Fs(#[from] FsError),
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error("starting cp failed")]
    Start(#[source] std::io::Error),
    #[error("waiting for cp failed")]
    Wait(#[source] std::io::Error),
    #[error("cp failed: {0}")]
    Failed(String),
    #[error("a run of its thread is at work in it")]
    AtWork,
    #[error("there is no room for it on the disk")]
    NoRoom,
    #[error("it took longer than {} s", COPY_LIMIT.as_secs())]
    TooSlow,
    #[error("the run was stopped")]
    Stopped,
}

impl CopyError {
    /// Whether what was copied by then is no use.
    const fn leaves_nothing(&self) -> bool {
        matches!(self, Self::AtWork | Self::NoRoom | Self::TooSlow | Self::Stopped)
    }
}

impl Homes {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder, claimed: Mutex::default() }
    }

    fn of(&self, vault: VaultId, thread: ThreadId) -> PathBuf {
        self.folder.join(vault.to_string()).join(thread.to_string())
    }

    fn claimed(&self) -> MutexGuard<'_, HashMap<(VaultId, ThreadId), RunId>> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether the home of the thread is that run's now, and nobody else's.
    fn claim(&self, run: RunId, vault: VaultId, thread: ThreadId) -> bool {
        *self.claimed().entry((vault, thread)).or_insert(run) == run
    }

    /// Whether a live run has this home.
    fn is_at_work(&self, home: &Path) -> bool {
        self.claimed().keys().any(|&(vault, thread)| home.starts_with(self.of(vault, thread)))
    }

    /// Lets go of what a run has claimed.
    pub(super) fn let_go(&self, run: RunId) {
        self.claimed().retain(|_, claimed| *claimed != run);
    }
}

impl Runs {
    /// Makes the home of a run, or finds that of its thread. Blocks. Says what is to be told of it.
    pub(super) fn make_home(&self, live: &Live) -> Result<Option<String>, FsError> {
        let (homes, vault, thread) = (&self.0.homes, live.vault, live.spec.thread);
        if !homes.claim(live.run, vault, thread) {
            fs::create_dir_all(&live.folders.own_home())?;
            live.has_home_at(live.folders.own_home());
            let why = "another run of the thread is at work in its home: this one has an empty one";
            return Ok(Some(why.to_owned()));
        }
        let folder = homes.of(vault, thread);
        let home = folder.join("home");
        let mut told = None;
        if self.is_too_large(live, &home) {
            let aside = homes.folder.join("aside");
            fs::create_dir_all(&aside)?;
            put_aside(&folder, &aside, "")?;
            told = Some(
                "the home of the thread was larger than the disk quota of a run: this one begins with an empty one"
                    .to_owned(),
            );
            self.sweep_soon();
            fs::create_dir_all(&home)?;
        }
        if home.symlink_metadata().is_err() {
            let half = folder.join("half");
            remove_made(&half)?;
            fs::create_dir_all(&half)?;
            match self.forked_from(live).map(|source| self.copy(live, &source, &half)) {
                None | Some(Ok(())) => {}
                Some(Err(CopyError::Stopped)) => {
                    remove_made(&half)?;
                    fs::create_dir_all(&live.folders.own_home())?;
                    live.has_home_at(live.folders.own_home());
                    return Ok(told);
                }
                Some(Err(error)) => {
                    let text = chain(&error);
                    if error.leaves_nothing() {
                        remove_made(&half)?;
                        fs::create_dir_all(&half)?;
                        told =
                            Some(format!("the home that it goes on from was not copied: {text}"));
                    } else {
                        told = Some(format!(
                            "not all of the home that it goes on from was copied: {text}"
                        ));
                    }
                }
            }
            fs::rename(&half, &home)?;
        }
        live.has_home_at(home);
        Ok(told)
    }

    /// The home that a run was given by an earlier daemon.
    pub(super) fn home_of(&self, live: &Live) -> PathBuf {
        let own = live.folders.own_home();
        if own.is_dir() {
            return own;
        }
        self.0.homes.of(live.vault, live.spec.thread).join("home")
    }

    /// Whether a home alone is beyond what somebody has set for all that a run writes: what it grows by is bounded, and
    /// so is what it may become.
    fn is_too_large(&self, live: &Live, home: &Path) -> bool {
        let Some(limit) = self.0.options.allowance.disk else { return false };
        let go_on = || live.stop.borrow().is_none();
        used(&[home.to_owned()], limit, &go_on).bytes > limit
    }

    /// The home of the thread that a fork goes on from.
    fn forked_from(&self, live: &Live) -> Option<PathBuf> {
        let parent = live.spec.parent?;
        let row = self.0.parts.catalog.run(&live.user, parent).ok().flatten()?;
        let thread = row.info.spec.thread;
        let home = self.0.homes.of(row.vault, thread).join("home");
        let is_other = thread != live.spec.thread && row.vault == live.vault;
        (is_other && home.is_dir()).then_some(home)
    }

    /// Copies a home, as long as the run is not stopped and there is room for it.
    fn copy(&self, live: &Live, from: &Path, to: &Path) -> Result<(), CopyError> {
        let clock = &self.0.parts.clock;
        let begun = clock.instant();
        let is_stopped = || live.stop.borrow().is_some();
        if self.0.homes.is_at_work(from) {
            return Err(CopyError::AtWork);
        }
        let free = Free::at(to);
        let reserve = free.and_then(|free| Some(Reserve::at(to)?.for_one_that_begins(&free)));
        let is_short = || match (Free::at(to), reserve) {
            (Some(free), Some(reserve)) => free.is_short_of(&reserve),
            _ => false,
        };
        let most = self.0.options.allowance.disk_of(free.map_or(u64::MAX, |free| free.bytes));
        let go_on = || !is_stopped() && clock.since(begun) < COPY_LIMIT;
        if used(&[from.to_owned()], most, &go_on).bytes > most {
            return Err(CopyError::NoRoom);
        }
        let mut source = from.as_os_str().to_owned();
        source.push("/.");
        let arguments: [OsString; 5] =
            ["-a".into(), "--reflink=auto".into(), "--".into(), source, to.into()];
        let environment = [
            (OsString::from("BATON_RUN"), OsString::from(live.run.to_string())),
            (OsString::from("PATH"), OsString::from(DEFAULT_PATH)),
            (OsString::from("LC_ALL"), OsString::from("C")),
        ];
        let job = Job {
            program: OsStr::new("cp"),
            arguments: &arguments,
            checkout: to,
            home: to,
            temporary: None,
            readable: &[from],
            seen_at: None,
            environment: &environment,
            network: true,
            entrances: &[],
        };
        let room: &Arc<dyn Room> = &self.0.parts.room;
        let Wrapped { mut command, arguments: _arguments } = room.command(&job)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(CopyError::Start)?;
        let said = child.stderr.take();
        let read = std::thread::Builder::new().name("run-home".to_owned()).spawn(move || {
            let mut first = Vec::new();
            if let Some(mut said) = said {
                // What cannot be read is not said.
                drop(said.by_ref().take(MAX_READ).read_to_end(&mut first));
                drop(std::io::copy(&mut said, &mut std::io::sink()));
            }
            first
        });
        let ended = loop {
            let why = match child.try_wait() {
                Ok(Some(status)) => break Ok(status),
                Err(error) => CopyError::Wait(error),
                Ok(None) if is_stopped() => CopyError::Stopped,
                Ok(None) if is_short() => CopyError::NoRoom,
                Ok(None) if clock.since(begun) >= COPY_LIMIT => CopyError::TooSlow,
                Ok(None) => {
                    std::thread::sleep(LOOK);
                    continue;
                }
            };
            // It may have ended by itself in this moment.
            drop(child.kill());
            drop(child.wait());
            break Err(why);
        };
        let said = read.map(|read| read.join().unwrap_or_default()).unwrap_or_default();
        if ended?.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&said);
        let first = said.lines().next().unwrap_or_default();
        Err(CopyError::Failed(first.chars().take(MAX_SAID).collect()))
    }

    /// Takes away the home of a thread of a user, with all that is in it. Says whether it did: not while a run of the
    /// thread is at work. What is in it is gone at once; that it takes no place any more is up to the next sweep.
    pub(super) fn forget_home(&self, vault: VaultId, thread: ThreadId) -> Result<bool, FsError> {
        let homes = &self.0.homes;
        let claimed = homes.claimed();
        if claimed.contains_key(&(vault, thread)) {
            return Ok(false);
        }
        let aside = homes.folder.join("aside");
        fs::create_dir_all(&aside)?;
        put_aside(&homes.of(vault, thread), &aside, "")?;
        drop(claimed);
        Ok(true)
    }

    /// Removes what was put aside.
    pub(super) fn sweep_homes(&self) {
        let aside = self.0.homes.folder.join("aside");
        if !aside.is_dir() {
            return;
        }
        if let Err(error) = baton_store::checkout::sweep(&aside, "", &self.0.stopping) {
            tracing::warn!(%error, "a home that was forgotten stays");
        }
    }
}

/// Makes the folders that a run has as `/tmp` and `/var/tmp`, empty.
pub(super) fn make_temporary(folders: &super::environment::Folders) -> Result<(), FsError> {
    remove_made(&folders.temporary())?;
    for folder in folders.temporaries() {
        fs::create_dir_all(&folder)?;
        fs::set_mode(&folder, 0o1777)?;
    }
    Ok(())
}

/// Removes what a run had as `/tmp`, and the home that it alone had. Blocks.
pub(super) fn remove_temporary(folders: &super::environment::Folders) {
    for folder in [folders.temporary(), folders.own_home()] {
        if folder.symlink_metadata().is_ok()
            && let Err(error) = remove_made(&folder)
        {
            tracing::warn!(%error, "what a run had for itself stays");
        }
    }
}

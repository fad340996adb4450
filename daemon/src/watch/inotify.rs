//! Watching with inotify, on a descriptor of our own.
//!
//! Not here: what a seal does with what it learns.
//!
//! - [`tree`]: the directories that are known, and their watch descriptors
//! - [`limits`]: how many there may be
//! - [`chain`]: going down to a directory without following anything
//! - [`watched`]: which directories are watched, which only swept
//! - [`moves`]: directories on their way
//! - [`events`]: from events to marks
//! - [`waiter`]: waiting for the first one
//!
//! The kernel queues an event before the call returns that is its cause: what is in the queue when a
//! drain finds it empty is all that was done before. That is the barrier; no cookie is needed (measured
//! on two file systems, across processes, without a miss).
//!
//! **Invariant:** a drain reads until the queue is empty, or as much as it held when the drain began.
//!
//! **Limits.** A store through a mapping is told when the file is unmapped, not before; a write through
//! a hard link outside of the tree is not told; in a swept directory a store through a mapping that
//! leaves the times alone is not found.

mod tree;
mod limits;
mod chain;
mod watched;
mod moves;
mod events;
mod waiter;

use std::mem::MaybeUninit;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use baton_store::ignore::COOKIE;
use baton_store::scan::dirty::Dirty;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fd::OwnedFd;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use rustix::io::Errno;

use super::root::Root;
use super::{Coverage, Waiter, Watch, WatchError, WatchOptions};
use chain::Chain;
use events::Reading;
use moves::Moves;
use waiter::Closing;
use watched::Watched;

/// Bytes of one read: a few thousand events.
const BUFFER: usize = 256 * 1024;

/// How long a directory that left its place is waited for: the two halves of a rename come from one
/// call, microseconds apart. One that comes later is taken for a new one.
const ARRIVAL: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };

/// Watches with inotify.
pub struct InotifyWatch {
    root: Root,
    events: Arc<OwnedFd>,
    buffer: Box<[MaybeUninit<u8>]>,
    watched: Watched,
    moves: Moves,
    closing: Closing,
    /// Events that the kernel keeps at most.
    queue: usize,
    cut_queue: Option<usize>,
    /// A drain failed, and what it had read is lost.
    lost: bool,
    /// The root has to be checked before anything else is said.
    root_touched: bool,
    root_gone: bool,
    /// Events read so far.
    read: u64,
}

impl InotifyWatch {
    /// Opens a root; nothing is watched before it is [added](Watch::add).
    pub fn open(root: &Path, options: &WatchOptions) -> Result<Self, WatchError> {
        let root = Root::open(root)?;
        let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC);
        let events = Arc::new(events.map_err(|errno| root.failed(errno))?);
        let closing = Closing::new().map_err(|errno| root.failed(errno))?;
        let cap = options.max_watches.unwrap_or_else(limits::free_watches);
        Ok(Self {
            root,
            watched: Watched::new(Arc::clone(&events), cap),
            events,
            buffer: vec![MaybeUninit::uninit(); BUFFER].into(),
            moves: Moves::default(),
            closing,
            queue: limits::queue_length(),
            cut_queue: options.cut_queue,
            lost: false,
            root_touched: false,
            root_gone: false,
            read: 0,
        })
    }

    /// How many events were read so far.
    pub const fn events_read(&self) -> u64 {
        self.read
    }

    fn read_queue(&mut self) -> Result<Dirty, Errno> {
        let events = Arc::clone(&self.events);
        self.watched.begin();
        let mut reading = Reading::new(&self.root, &mut self.watched, &mut self.moves);
        reading.lost = std::mem::take(&mut self.lost);
        let mut queue = Queue { events: &events, count: 0, limit: self.queue, cut: self.cut_queue };
        let mut result = queue.read(&mut self.buffer, &mut reading);
        if reading.has_moves() && result.is_ok() {
            // The other half is under way, or there is none.
            let _late = poll(&mut [PollFd::new(&*events, PollFlags::IN)], Some(&ARRIVAL));
            result = queue.read(&mut self.buffer, &mut reading);
        }
        reading.left();
        self.read += queue.count as u64;
        self.root_touched |= reading.root_touched;
        self.root_gone |= reading.root_gone;
        if result.is_err() {
            self.lost = true;
            return result.map(|()| Dirty::everything());
        }
        if reading.lost {
            reading.dirty.set_everything();
            reading.watched().distrust();
        }
        let mut dirty = reading.dirty;
        let finished = self.watched.finish(&self.root, &mut dirty);
        self.lost = finished.is_err();
        finished.map(|()| dirty)
    }
}

/// The events of one drain.
#[derive(Debug)]
struct Queue<'a> {
    events: &'a OwnedFd,
    count: usize,
    /// What it held at most when the drain began.
    limit: usize,
    cut: Option<usize>,
}

impl Queue<'_> {
    fn read(
        &mut self,
        buffer: &mut [MaybeUninit<u8>],
        reading: &mut Reading<'_>,
    ) -> Result<(), Errno> {
        let mut reader = Reader::new(self.events, buffer);
        let mut result = Ok(());
        loop {
            // What was read has to be taken in to its end.
            if reader.is_buffer_empty() && (self.count > self.limit || result.is_err()) {
                return result;
            }
            match reader.next() {
                Ok(event) => {
                    self.count += 1;
                    if self.cut.is_some_and(|cut| self.count > cut) {
                        reading.lost = true;
                    } else if let Err(errno) = reading.event(&event) {
                        result = Err(errno);
                    }
                }
                Err(Errno::AGAIN) => {
                    reading.watched().queue_ended();
                    return result;
                }
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
    }
}

impl Watch for InotifyWatch {
    fn add(
        &mut self,
        directories: &mut dyn Iterator<Item = &[u8]>,
    ) -> Result<Vec<Vec<u8>>, WatchError> {
        let mut added = Vec::new();
        let directory = self.root.directory()?;
        let mut chain = Chain::new(&directory);
        for path in directories {
            let result = self.watched.add(&mut chain, path, &mut added);
            result.map_err(|errno| self.root.failed(errno))?;
        }
        Ok(added)
    }

    fn remove(&mut self, directory: &[u8]) {
        if let Some(id) = self.watched.tree.find(directory) {
            self.watched.forget(id);
        }
    }

    fn prefer(&mut self, path: &[u8]) -> Result<(), WatchError> {
        let directory = self.root.directory()?;
        let mut chain = Chain::new(&directory);
        let result = self.watched.prefer(&mut chain, path);
        result.map_err(|errno| self.root.failed(errno))
    }

    fn drain(&mut self) -> Result<Dirty, WatchError> {
        let dirty = self.read_queue().map_err(|errno| self.root.failed(errno));
        if self.root_gone {
            return Err(WatchError::RootChanged { root: self.root.path().to_owned() });
        }
        if self.root_touched {
            // What was read is not handed out: if there is a next time, it knows nothing.
            self.root.check().inspect_err(|_| self.lost = true)?;
            self.root_touched = false;
        }
        dirty
    }

    fn check_root(&self) -> Result<(), WatchError> {
        self.root.check()
    }

    fn waiter(&self) -> Box<dyn Waiter> {
        Box::new(self.closing.waiter(&self.events))
    }

    fn coverage(&self) -> Coverage {
        let (watched, swept) = (self.watched.count(), self.watched.swept());
        let note = (swept > 0).then(|| {
            let setting = limits::SETTING;
            format!(
                "{swept} of {} directories are listed at every snapshot instead of watched; to watch \
                 more, raise {setting} (sysctl -w {setting}=1048576)",
                watched + swept
            )
        });
        Coverage { backend: "inotify", watched, swept, hot: self.watched.hot(), note }
    }
}

impl std::fmt::Debug for InotifyWatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { root, watched, .. } = self;
        f.debug_struct("InotifyWatch")
            .field("root", &root.path())
            .field("watched", &watched.count())
            .finish_non_exhaustive()
    }
}

/// Whether inotify tells of a file that is made below a root. True also where none can be made: nobody
/// writes there, then.
pub(super) fn is_told(root: &Path, options: &WatchOptions) -> Result<bool, std::io::Error> {
    let folder = options.cookies.as_deref().unwrap_or(Path::new(".git"));
    let folder = root.join(folder);
    let is_directory = folder.symlink_metadata().is_ok_and(|metadata| metadata.is_dir());
    let folder = if is_directory { folder } else { root.to_owned() };
    let events = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    inotify::add_watch(&events, &folder, WatchFlags::CREATE | WatchFlags::ONLYDIR)?;
    let cookie = folder.join(format!("{COOKIE}{}-health", std::process::id()));
    let made = baton_store::fs::create_new(&cookie);
    let removed = baton_store::fs::remove_file(&cookie);
    if made.is_err() || removed.is_err() {
        return Ok(true);
    }
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let name = cookie.file_name().unwrap_or_default().as_bytes();
    let mut reader = Reader::new(&events, &mut buffer);
    loop {
        match reader.next() {
            Ok(event) if event.file_name().is_some_and(|told| told.to_bytes() == name) => {
                return Ok(true);
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        }
    }
}

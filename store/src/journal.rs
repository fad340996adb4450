//! The journal: what was acknowledged, in order, for all vaults of a node.
//!
//! One thread appends; everything that waits when it wakes goes into one write and one `fdatasync`.
//! A new file begins with a checkpoint of every ref, twice, so that older files can go once their
//! objects are in segments.
//!
//! **Invariant:** when [`Journal::append`] returns, the entry survives a power cut. After a failed write or
//! sync nothing more is taken: what reached the disk is unknown.

mod entry;
mod replay;

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::thread::JoinHandle;

pub use entry::{Commit, Entry, RefState, RefUpdate};
pub use replay::{Replayed, examine, replay};

use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::layout::Layout;

/// Most waiting entries that share one sync, and bytes after which no further one joins.
const MAX_GROUP: usize = 1024;
const MAX_GROUP_BYTES: usize = 4 * 1024 * 1024;

/// The first failure of this store, after which it takes nothing more.
#[derive(Debug, Default)]
pub struct Poison(OnceLock<String>);

impl Poison {
    /// Refuses where something failed before.
    pub fn check(&self) -> Result<(), StoreError> {
        match self.0.get() {
            None => Ok(()),
            Some(first) => Err(StoreError::Poisoned { first: first.clone() }),
        }
    }

    /// Remembers a failure whose extent is unknown, and hands it back.
    pub fn set(&self, error: StoreError) -> StoreError {
        tracing::error!(error = &error as &dyn std::error::Error, "the store takes nothing more");
        // Only the first failure matters.
        let _first = self.0.set(error.to_string());
        error
    }
}

/// Why an entry is not durable.
#[derive(Clone, Debug)]
enum AppendError {
    /// The disk is full; the file is as it was before.
    Full,
    /// What reached the disk is unknown.
    Broken(String),
}

/// Why there is no next file.
#[derive(Debug)]
enum RotateError {
    /// The file before goes on.
    Unchanged(StoreError),
    /// Which of the two files a power cut leaves is unknown.
    Broken(StoreError),
}

enum Job {
    Append { bytes: Vec<u8>, done: mpsc::SyncSender<Result<(), AppendError>> },
    Rotate { number: u64, first: Vec<u8>, done: mpsc::SyncSender<Result<(), RotateError>> },
}

/// Appends to the newest journal file.
#[derive(Debug)]
pub struct Journal {
    jobs: Mutex<Option<mpsc::Sender<Job>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
    len: std::sync::Arc<AtomicU64>,
    number: AtomicU64,
    layout: Layout,
}

impl Journal {
    /// Goes on with file `number`, whose intact part is `len` bytes, or starts it with a checkpoint.
    pub fn open(layout: &Layout, number: u64, len: u64) -> Result<Self, StoreError> {
        let path = layout.journal_file(number);
        // Open all the time: a rotation must not fail for want of a descriptor.
        let folder = fs::open(&layout.journal())?;
        let file = if len == 0 {
            let first = Entry::Checkpoint(Vec::new()).encode();
            start_file(&path, &first).map_err(RotateError::into_inner)?
        } else {
            let file = fs::open_writable(&path)?;
            file.set_len(len).context("cutting", &path)?;
            file.sync_all().context("syncing", &path)?;
            file
        };
        // Whoever made the file may have been killed before its name was durable.
        folder.sync_all().context("syncing", &layout.journal())?;
        let at = file.metadata().context("reading", &path)?.len();
        let shared_len = std::sync::Arc::new(AtomicU64::new(at));
        let (jobs, queue) = mpsc::channel();
        let appender = Appender { file, folder, path: path.clone(), at, len: shared_len.clone() };
        let thread = std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || appender.run(&queue))
            .context("starting the thread of", &path)?;
        Ok(Self {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
            len: shared_len,
            number: AtomicU64::new(number),
            layout: layout.clone(),
        })
    }

    /// Bytes in the newest file.
    pub fn len(&self) -> u64 {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether nothing but its checkpoint is in the newest file.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of the newest file.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Makes an entry durable.
    pub fn append(&self, entry: &Entry, poison: &Poison) -> Result<(), StoreError> {
        poison.check()?;
        let (done, answer) = mpsc::sync_channel(1);
        self.submit(Job::Append { bytes: entry.encode(), done });
        match answer.recv() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(AppendError::Full)) => {
                let path = self.layout.journal_file(self.number());
                Err(std::io::Error::from(std::io::ErrorKind::StorageFull))
                    .context("writing", &path)?
            }
            Ok(Err(AppendError::Broken(first))) => Err(poison.set(StoreError::Poisoned { first })),
            Err(_) => Err(StoreError::Poisoned { first: "the journal is closed".into() }),
        }
    }

    /// Starts the next file with a checkpoint of `states`, which must hold every ref of the store.
    /// The caller keeps commits away meanwhile. Returns the number of the file before.
    pub fn rotate(&self, states: Vec<RefState>, poison: &Poison) -> Result<u64, StoreError> {
        poison.check()?;
        let before = self.number();
        let mut first = entry::encode_checkpoint(states);
        // Twice: once the files before are gone, nothing else says where the refs are.
        first.extend_from_within(..);
        let (done, answer) = mpsc::sync_channel(1);
        self.submit(Job::Rotate { number: before + 1, first, done });
        match answer.recv() {
            Ok(Ok(())) => {
                self.number.store(before + 1, Ordering::Release);
                Ok(before)
            }
            Ok(Err(RotateError::Unchanged(error))) => Err(error),
            Ok(Err(RotateError::Broken(error))) => Err(poison.set(error)),
            Err(_) => Err(StoreError::Poisoned { first: "the journal is closed".into() }),
        }
    }

    /// Removes the files up to `last`, whose objects are all in synced segments.
    pub fn remove_through(&self, last: u64) -> Result<(), StoreError> {
        for number in replay::numbers(&self.layout)?.into_iter().filter(|&n| n <= last) {
            fs::remove_file(&self.layout.journal_file(number))?;
        }
        Ok(fs::sync_dir(&self.layout.journal())?)
    }

    fn submit(&self, job: Job) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*jobs {
            // A thread that is gone shows in the answer channel, which is dropped with the job.
            let _gone = jobs.send(job);
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        *self.jobs.lock().unwrap_or_else(PoisonError::into_inner) = None;
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            // A panic of the thread was reported where it happened.
            let _panicked = thread.join();
        }
    }
}

impl RotateError {
    fn into_inner(self) -> StoreError {
        match self {
            Self::Unchanged(error) | Self::Broken(error) => error,
        }
    }
}

/// Makes a journal file that is whole as soon as it has its name: a checkpoint that stood beside a file
/// which goes on growing would take back what comes after it. The name is durable once the folder
/// is synced.
fn start_file(path: &std::path::Path, first: &[u8]) -> Result<File, RotateError> {
    let temporary = path.with_extension("new");
    let write = || -> Result<File, StoreError> {
        fs::remove_file(&temporary)?;
        let mut file = fs::create_new(&temporary)?;
        file.write_all(first).context("writing", &temporary)?;
        file.sync_all().context("syncing", &temporary)?;
        Ok(file)
    };
    let file = write().map_err(RotateError::Unchanged)?;
    fs::rename_unsynced(&temporary, path).map_err(|error| RotateError::Broken(error.into()))?;
    Ok(file)
}

struct Appender {
    file: File,
    folder: File,
    path: PathBuf,
    at: u64,
    len: std::sync::Arc<AtomicU64>,
}

impl Appender {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut broken: Option<AppendError> = None;
        let mut held = None;
        while let Some(job) = held.take().or_else(|| queue.recv().ok()) {
            match job {
                Job::Rotate { number, first, done } => {
                    let rotated = self.rotate(number, &first);
                    if let Err(RotateError::Broken(error)) = &rotated {
                        broken.get_or_insert(AppendError::Broken(error.to_string()));
                    }
                    // The asker may have given up.
                    let _gone = done.send(rotated);
                }
                Job::Append { bytes, done } => {
                    let mut group = bytes;
                    let mut waiting = vec![done];
                    while waiting.len() < MAX_GROUP && group.len() < MAX_GROUP_BYTES {
                        match queue.try_recv() {
                            Ok(Job::Append { bytes, done }) => {
                                group.extend_from_slice(&bytes);
                                waiting.push(done);
                            }
                            Ok(other) => {
                                held = Some(other);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    let written = match &broken {
                        Some(error) => Err(error.clone()),
                        None => self.write(&group),
                    };
                    if let Err(error @ AppendError::Broken(_)) = &written {
                        broken = Some(error.clone());
                    }
                    for done in waiting {
                        let _gone = done.send(written.clone());
                    }
                }
            }
        }
    }

    fn write(&mut self, group: &[u8]) -> Result<(), AppendError> {
        if let Err(error) = self.file.write_all_at(group, self.at).context("writing", &self.path) {
            // Nothing was synced, so cutting the part that was written takes it back.
            return Err(match self.file.set_len(self.at) {
                Ok(()) if error.is_disk_full() => AppendError::Full,
                _ => AppendError::Broken(error.to_string()),
            });
        }
        let synced = self.file.sync_data().context("syncing", &self.path);
        synced.map_err(|error| AppendError::Broken(error.to_string()))?;
        self.at += group.len() as u64;
        self.len.store(self.at, Ordering::Relaxed);
        Ok(())
    }

    fn rotate(&mut self, number: u64, first: &[u8]) -> Result<(), RotateError> {
        let path = self.path.with_file_name(format!("{number:016x}"));
        let file = start_file(&path, first)?;
        let synced = self.folder.sync_all().context("syncing", &path);
        synced.map_err(|error| RotateError::Broken(error.into()))?;
        self.file = file;
        self.path = path;
        self.at = first.len() as u64;
        self.len.store(self.at, Ordering::Relaxed);
        Ok(())
    }
}

#[cfg(test)]
mod tests;

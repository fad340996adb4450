//! Holding runs to what they may take: the kernel keeps what it can, and the rest is watched.
//!
//! A thread a run looks at what its group met, at the disk, and, where the kernel keeps no limit, at what its processes
//! take. A run that goes beyond a limit is killed, and ends with that reason. One that was refused further processes is
//! not: it is told so, and in the end, if it fails.
//!
//! **Invariant:** counting what runs wrote takes a twentieth of one processor at most, whatever they wrote.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use baton_protocol::id::RunId;

use super::process::Processes;
use super::{Live, Runs};
use crate::limits::disk::{Free, used};
use crate::limits::{Allowance, Exceeded, Group, LimitError, Limits};

/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often at least its processes and files are counted, and how much longer than counting took the pause is.
const COUNT: Duration = Duration::from_secs(1);
const PAUSE: u32 = 20;

/// A run that has written less is not ended for a full disk: somebody else has filled it.
const LITTLE: u64 = 64 << 20;

/// What holds all runs of a node.
#[derive(Debug)]
pub(super) struct NodeLimits {
    limits: Arc<dyn Limits>,
    allowance: Allowance,
    /// A folder of the file system that runs write to.
    folder: PathBuf,
    /// What each run that is watched has written, as it was counted last.
    written: Mutex<HashMap<RunId, u64>>,
    /// One counts at a time.
    counting: Mutex<()>,
}

impl NodeLimits {
    pub(super) fn new(limits: Arc<dyn Limits>, allowance: Allowance, folder: PathBuf) -> Self {
        let (written, counting) = (Mutex::default(), Mutex::default());
        Self { limits, allowance: allowance.or_of_machine(), folder, written, counting }
    }

    pub(super) fn shut_down(&self) {
        self.limits.shut_down();
    }

    /// Notes what a run has written. Says whether no other one has written as much.
    fn is_largest(&self, run: RunId, bytes: u64) -> bool {
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(run, bytes);
        written.iter().all(|(&other, &others)| other == run || others < bytes)
    }

    fn forget(&self, run: RunId) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
    }
}

/// One run that is held to its limits.
pub(super) struct Held {
    runs: Runs,
    live: Arc<Live>,
    pub(super) group: Arc<dyn Group>,
    /// What it writes to.
    folders: Vec<PathBuf>,
    /// What was in them before it began.
    before: u64,
    disk: u64,
    exceeded: Mutex<Option<Exceeded>>,
    refused: AtomicBool,
    ended: Mutex<bool>,
    end: Condvar,
}

impl Held {
    /// Makes the group of a run of which everything else is prepared. Blocks.
    /// What is in `written` counts as written by the run, too.
    pub(super) fn open(
        runs: &Runs,
        live: &Arc<Live>,
        written: Vec<PathBuf>,
    ) -> Result<Self, LimitError> {
        let node = &runs.0.limits;
        let group = node.limits.open(&live.run.to_string(), &node.allowance)?;
        let free = Free::at(&node.folder);
        let disk = node.allowance.disk_of(free.map_or(u64::MAX, |free| free.bytes));
        let (layer, checkout) = (live.folders.layer(), live.folders.checkout());
        let all = || true;
        // A checkout that shares nothing has been written by the node, and what an earlier run of the thread left counts
        // where somebody has said how much there may be.
        let mut counted = Vec::new();
        let mut before = 0u64;
        if layer.is_dir() {
            counted.push(layer);
        } else {
            before = used(std::slice::from_ref(&checkout), u64::MAX, &all);
            counted.push(checkout);
        }
        let home = live.home();
        if node.allowance.disk.is_none() {
            before = before.saturating_add(used(std::slice::from_ref(&home), u64::MAX, &all));
        }
        before = before.saturating_add(used(&written, u64::MAX, &all));
        counted.extend(written);
        counted.extend([home, live.folders.temporary()]);
        Ok(Self {
            runs: runs.clone(),
            live: Arc::clone(live),
            group,
            folders: counted,
            before,
            disk,
            exceeded: Mutex::default(),
            refused: AtomicBool::new(false),
            ended: Mutex::default(),
            end: Condvar::new(),
        })
    }

    /// Watches the run until [`Self::finish`].
    pub(super) fn watch(self: &Arc<Self>, processes: &Arc<Processes>) {
        let (held, processes) = (Arc::clone(self), Arc::clone(processes));
        let watch = move || held.run(&processes);
        if let Err(error) = self.runs.0.parts.tasks.spawn_thread("run-limits", watch) {
            tracing::error!(run = %self.live.run, %error, "a run is not watched");
        }
    }

    /// Ends the watching of a run of which everything has ended, and takes its group away. Says which limit it went
    /// beyond.
    pub(super) fn finish(&self) -> Option<Exceeded> {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.end.notify_all();
        self.look_at_group();
        self.runs.0.limits.forget(self.live.run);
        if let Err(error) = self.group.close() {
            tracing::error!(run = %self.live.run, %error, "the control group of a run stays");
        }
        self.exceeded()
    }

    /// What to say of a program that failed, if it was refused processes.
    pub(super) fn refused(&self) -> Option<String> {
        let limit = self.runs.0.limits.allowance.processes?;
        let refused = self.refused.load(Ordering::SeqCst);
        refused.then(|| format!("it had met its limit of {limit} processes"))
    }

    fn exceeded(&self) -> Option<Exceeded> {
        *self.exceeded.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, processes: &Arc<Processes>) {
        let clock = &self.runs.0.parts.clock;
        let mut counts = [clock.instant(); 2];
        let [mut next_processes, mut next_files] = [Duration::ZERO; 2];
        let due = |since: &mut Instant, pause: &mut Duration| {
            let is_due = clock.since(*since) >= *pause;
            if is_due {
                *since = clock.instant();
            }
            is_due
        };
        let [processes_at, files_at] = &mut counts;
        let paused = |since: Instant| (clock.since(since) * PAUSE).max(COUNT);
        while self.waits() {
            let mut exceeded = self.look_at_group();
            if exceeded.is_none() && due(processes_at, &mut next_processes) {
                exceeded = self.look_at_processes(processes);
                next_processes = paused(*processes_at);
            }
            if exceeded.is_none() && due(files_at, &mut next_files) {
                exceeded = self.look_at_files();
                next_files = paused(*files_at);
            }
            if let Some(exceeded) = exceeded {
                self.exceeded
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .get_or_insert(exceeded);
                tracing::info!(run = %self.live.run, %exceeded, "a run went beyond a limit");
                processes.kill();
                return;
            }
        }
    }

    /// Says whether the run goes on, after a while.
    fn waits(&self) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.end.wait_timeout_while(ended, LOOK, |ended| !*ended);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// What the kernel had to do.
    fn look_at_group(&self) -> Option<Exceeded> {
        let met = self.group.met();
        let allowance = &self.runs.0.limits.allowance;
        if met.refused_processes > 0
            && !self.refused.swap(true, Ordering::SeqCst)
            && let Some(limit) = allowance.processes
        {
            let text = format!("met its limit of {limit} processes: some were not started");
            self.runs.note(&self.live, &text);
        }
        let exceeded = allowance.memory.filter(|_| met.memory_kills > 0).map(Exceeded::Memory)?;
        let mut known = self.exceeded.lock().unwrap_or_else(PoisonError::into_inner);
        Some(*known.get_or_insert(exceeded))
    }

    /// Where the kernel keeps no limit.
    fn look_at_processes(&self, processes: &Processes) -> Option<Exceeded> {
        let node = &self.runs.0.limits;
        let force = node.limits.in_force();
        let memory = node.allowance.memory.filter(|_| !force.memory);
        let most = node.allowance.processes.filter(|_| !force.processes);
        if memory.is_none() && most.is_none() {
            return None;
        }
        let taken = processes.taken(memory.unwrap_or(u64::MAX));
        let too_many = most.filter(|&most| taken.threads > most).map(Exceeded::Processes);
        let too_much = memory.filter(|&memory| taken.memory > memory).map(Exceeded::Memory);
        too_many.or(too_much)
    }

    fn look_at_files(&self) -> Option<Exceeded> {
        let node = &self.runs.0.limits;
        let _one = match node.counting.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let ended = || *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = self.before.saturating_add(self.disk);
        let written = used(&self.folders, limit, &|| !ended()).saturating_sub(self.before);
        let is_largest = node.is_largest(self.live.run, written);
        if written > self.disk {
            return Some(Exceeded::Disk(self.disk));
        }
        let free = Free::at(&node.folder).filter(Free::is_short)?;
        (is_largest && written >= LITTLE).then_some(Exceeded::Reserve(free.reserve))
    }
}

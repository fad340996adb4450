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
use crate::limits::disk::{Counted, Free, Reserve, used};
use crate::limits::{Allowance, Exceeded, Group, LimitError, Limits};

/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(200);

/// How often at least its processes and files are counted, and how much longer than counting took the pause is.
const COUNT: Duration = Duration::from_secs(1);
const PAUSE: u32 = 20;

/// A run that has written less is not ended for a full disk: somebody else has filled it.
const LITTLE: u64 = 64 << 20;

/// A count that took longer is not begun again while the disk fills up: what the disk lost meanwhile is added to it.
const LONG: Duration = Duration::from_secs(1);

/// After a run was ended for the disk, no other one is for so long, and none for longer unless less is free than then.
const SETTLE: Duration = Duration::from_secs(2);
const HELPS: Duration = Duration::from_mins(1);

/// What a run has written, as far as is known. The greatest is the one to be ended.
type Rank = (bool, u64, RunId);

/// What holds all runs of a node.
#[derive(Debug)]
pub(super) struct NodeLimits {
    limits: Arc<dyn Limits>,
    allowance: Allowance,
    /// A folder of the file system that runs write to.
    folder: PathBuf,
    /// What each run that is watched has written, as it was counted last.
    written: Mutex<HashMap<RunId, Counted>>,
    /// When a run was ended for the disk, and what was free then.
    eased: Mutex<Option<(Instant, Free)>>,
    /// One counts at a time.
    counting: Mutex<()>,
}

impl NodeLimits {
    pub(super) fn new(limits: Arc<dyn Limits>, allowance: Allowance, folder: PathBuf) -> Self {
        let (written, eased, counting) = (Mutex::default(), Mutex::default(), Mutex::default());
        Self { limits, allowance: allowance.or_of_machine(), folder, written, eased, counting }
    }

    pub(super) fn shut_down(&self) {
        self.limits.shut_down();
    }

    /// Notes what a run has written.
    fn note(&self, run: RunId, counted: Counted) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).insert(run, counted);
    }

    /// Whether no other run comes before one in an order.
    fn is_first(&self, run: RunId, rank: impl Fn(RunId, &Counted) -> Rank) -> bool {
        let written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        let first = written.iter().map(|(&run, counted)| rank(run, counted)).max();
        first.is_some_and(|(_, _, first)| first == run)
    }

    /// Whether a run may be ended for the disk, which another one may have been a moment ago: what that had open is free
    /// soon. Where it may, it is.
    fn takes_turn(&self, now: Instant, since: impl Fn(Instant) -> Duration, free: Free) -> bool {
        let mut eased = self.eased.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = eased.is_some_and(|(at, then)| {
            since(at) < SETTLE || (since(at) < HELPS && !free.is_less_than(&then))
        });
        if !waits {
            *eased = Some((now, free));
        }
        !waits
    }

    fn forget(&self, run: RunId) {
        self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(&run);
    }
}

/// A run cannot be counted while another one is.
struct AnotherCounts;

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
    /// What must stay free, as it was set when the run began.
    reserve: Reserve,
    /// What was counted last, what was free then, and how long counting took.
    last: Mutex<(Counted, Option<Free>, Duration)>,
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
        let reserve =
            free.and_then(|free| Some(Reserve::at(&node.folder)?.for_one_that_begins(&free)));
        // A checkout that shares nothing has been written by the node, and its home by earlier runs of the thread.
        let mut counted = Vec::new();
        let mut before = 0u64;
        if layer.is_dir() {
            counted.push(layer);
        } else {
            before = used(std::slice::from_ref(&checkout), u64::MAX, &all).bytes;
            counted.push(checkout);
        }
        let home = live.home();
        let kept = used(std::slice::from_ref(&home), u64::MAX, &all).bytes;
        before = before.saturating_add(kept);
        before = before.saturating_add(used(&written, u64::MAX, &all).bytes);
        counted.extend(written);
        node.note(live.run, Counted::default());
        counted.extend([home, live.folders.temporary()]);
        Ok(Self {
            runs: runs.clone(),
            live: Arc::clone(live),
            group,
            folders: counted,
            before,
            disk,
            reserve: reserve.unwrap_or(Reserve { bytes: 0, inodes: 0 }),
            last: Mutex::new((Counted::default(), free, Duration::ZERO)),
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
            let free = Free::at(&self.runs.0.limits.folder);
            let is_short = free.is_some_and(|free| free.is_short_of(&self.reserve));
            if is_short {
                next_files = next_files.min(COUNT);
            }
            if exceeded.is_none() && due(files_at, &mut next_files) {
                next_files = Duration::ZERO;
                if let Ok(counted) = self.look_at_files(processes, is_short, free) {
                    exceeded = counted;
                    next_files = paused(*files_at);
                }
            }
            if exceeded.is_none() {
                exceeded = free.and_then(|free| self.look_at_disk(free));
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

    /// Counts what the run has written.
    fn look_at_files(
        &self,
        processes: &Processes,
        is_short: bool,
        free: Option<Free>,
    ) -> Result<Option<Exceeded>, AnotherCounts> {
        let node = &self.runs.0.limits;
        let clock = &self.runs.0.parts.clock;
        let (last, last_free, took) = *self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = |now: Option<Free>| match (last_free, now) {
            (Some(then), Some(now)) => then.bytes.saturating_sub(now.bytes),
            _ => 0,
        };
        let estimated = |now| Counted { bytes: last.bytes.saturating_add(lost(now)), ..last };
        if is_short && took > LONG {
            self.note(estimated(free));
            return Ok(None);
        }
        let _one = match node.counting.try_lock() {
            Ok(one) => one,
            Err(TryLockError::Poisoned(one)) => one.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(AnotherCounts),
        };
        let begun = clock.instant();
        let looked = std::cell::Cell::new(begun);
        let filled = std::cell::Cell::new(false);
        let go_on = || {
            if is_short {
                filled.set(clock.since(begun) > LONG);
            } else if clock.since(looked.get()) >= LOOK {
                looked.set(clock.instant());
                let free = Free::at(&node.folder);
                filled.set(free.is_some_and(|free| free.is_short_of(&self.reserve)));
            }
            !filled.get() && !self.has_ended()
        };
        let limit = self.before.saturating_add(self.disk);
        let mut counted = used(&self.folders, limit, &go_on);
        counted.bytes = counted.bytes.saturating_sub(self.before);
        let mut folders = self.folders.clone();
        folders.push(self.live.folders.checkout());
        counted.bytes = counted.bytes.saturating_add(processes.unlinked(&folders));
        let exceeded = (counted.bytes > self.disk).then_some(Exceeded::Disk(self.disk));
        let now = if filled.get() { Free::at(&node.folder) } else { free };
        if filled.get() {
            // The disk fills up: there is no time for the rest.
            counted.bytes = counted.bytes.max(estimated(now).bytes);
        }
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) =
            (counted, now, clock.since(begun));
        self.note(counted);
        Ok(exceeded)
    }

    /// Notes what was counted, unless the run has ended.
    fn note(&self, counted: Counted) {
        let node = &self.runs.0.limits;
        node.note(self.live.run, counted);
        if self.has_ended() {
            // Who ended it may have forgotten it before.
            node.forget(self.live.run);
        }
    }

    fn has_ended(&self) -> bool {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the disk is so full that this run has to go.
    fn look_at_disk(&self, free: Free) -> Option<Exceeded> {
        let node = &self.runs.0.limits;
        if !free.is_short_of(&self.reserve) {
            return None;
        }
        let written = node.written.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes = written.get(&self.live.run).map_or(0, |counted| counted.bytes);
        drop(written);
        let by_bytes = |run, counted: &Counted| (false, counted.bytes, run);
        let by_unknown = |run, counted: &Counted| (counted.is_partial, counted.bytes, run);
        let exceeded = if bytes >= LITTLE && node.is_first(self.live.run, by_bytes) {
            if free.bytes < self.reserve.bytes {
                Exceeded::Reserve(self.reserve.bytes)
            } else {
                Exceeded::Inodes(self.reserve.inodes)
            }
        } else if free.is_short_of(&self.reserve.half()) && node.is_first(self.live.run, by_unknown)
        {
            Exceeded::Unknown(self.reserve.bytes)
        } else {
            return None;
        };
        let clock = &self.runs.0.parts.clock;
        let takes = node.takes_turn(clock.instant(), |at| clock.since(at), free);
        takes.then_some(exceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::NoGroups;

    #[test]
    fn of_all_runs_one_is_ended_for_the_disk_and_the_next_one_only_if_that_was_of_no_use() {
        let limits = Arc::new(NoGroups::because("a test".to_owned()));
        let node = NodeLimits::new(limits, Allowance::default(), PathBuf::from("/"));
        let run = |byte| RunId::from_bytes([byte; 16]);
        let counted = |bytes, is_partial| Counted { bytes, is_partial };
        for (byte, bytes, is_partial) in [(1, 9, false), (2, 9, false), (3, 1, true)] {
            node.note(run(byte), counted(bytes, is_partial));
        }
        let first = |by: fn(RunId, &Counted) -> Rank| -> Vec<u8> {
            (1..=3).filter(|&byte| node.is_first(run(byte), by)).collect()
        };
        let by_bytes = |run, counted: &Counted| (false, counted.bytes, run);
        // Of two that have written as much it is one.
        assert_eq!(first(by_bytes), [2]);
        assert_eq!(first(|run, counted| (counted.is_partial, counted.bytes, run)), [3]);
        node.forget(run(2));
        assert_eq!(first(by_bytes), [1]);

        let now = crate::clock::Clock::system().instant();
        let turn =
            |passed, bytes| node.takes_turn(now, |_| passed, Free { bytes, inodes: u64::MAX });
        assert!(turn(Duration::ZERO, 10));
        assert!(!turn(SETTLE / 2, 1), "it has just been ended");
        assert!(!turn(SETTLE, 10), "it does not get worse");
        assert!(turn(SETTLE, 9));
        assert!(turn(HELPS, 9));
    }
}

//! Groups whose limits the kernel keeps, of either version of control groups.
//!
//! ```text
//! OWN/baton.KEY          the runs of one daemon; OWN is where this process stands
//! OWN/baton.KEY/RUN      has the limits
//! OWN/baton.KEY/RUN/in   has the processes
//! ```
//!
//! Two folders a run, because a process may see its own group as the top of a hierarchy of its own, and could raise
//! limits that it found there. Where the daemon is root, the folders belong to nobody: a run has the number of its user
//! and none of its rights.
//!
//! **Invariant:** what is killed and taken away is in a folder of ours, which has the name that only this daemon gives.

mod places;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use baton_store::fs::{self, Context, FsError};
use rustix::fs::{Gid, Mode, Uid};
use rustix::process::{Pid, Signal};

use super::{Allowance, Group, InForce, LimitError, Limits, Met};
use places::{Place, Record};

/// The user to whom the folders of a daemon belong that is root: `nobody`.
const NOBODY: u32 = 65534;

/// How often the processes of a group are looked for again while they are being killed, and how long one may need.
const ROUNDS: u32 = 500;
const ROUND: Duration = Duration::from_millis(10);

/// Groups that a run may make in its own, where the kernel counts them.
const MAX_INNER: &str = "256";
const MAX_DEPTH: &str = "8";

/// Longest file of a group that is read: each process has a line.
const MAX_FILE: u64 = 4 * 1024 * 1024;

/// Of processors, microseconds in which a share is counted: what the kernel has by default.
const PERIOD: u64 = 100_000;

/// The groups of one daemon.
#[derive(Debug)]
pub(super) struct CgroupLimits {
    places: Vec<Place>,
    record: Record,
    detail: String,
}

impl CgroupLimits {
    /// The groups of the runs in a folder, or why there are none.
    pub(super) fn choose(runs: &Path) -> Result<Self, String> {
        let record = Record::of(runs);
        // Also where none can be made any more: an earlier daemon may have been started by somebody who could.
        record.take_away_leftovers();
        if !cfg!(target_os = "linux") {
            return Err("this system has no control groups".to_owned());
        }
        let (places, refused) = places::find(record.key());
        let limits = Self { detail: detail(&places, &refused), places, record };
        let force = limits.in_force();
        if !(force.memory || force.processes) {
            limits.shut_down();
            return Err(limits.detail);
        }
        if let Err(error) = limits.record.note(&limits.places) {
            limits.shut_down();
            return Err(format!("what groups there are could not be written down: {error}"));
        }
        Ok(limits)
    }
}

/// What is in force, and what is not and why.
fn detail(places: &[Place], refused: &[String]) -> String {
    let keeps = |name: &str| places.iter().any(|place| place.keeps(name));
    let names = [("memory", "memory"), ("pids", "processes"), ("cpu", "processors")];
    let (kept, missing): (Vec<_>, Vec<_>) = names.into_iter().partition(|(name, _)| keeps(name));
    let list =
        |all: &[(&str, &str)]| all.iter().map(|&(_, shown)| shown).collect::<Vec<_>>().join(", ");
    let version = if places.iter().any(|place| place.unified && !place.controllers.is_empty()) {
        "version 2"
    } else {
        "version 1"
    };
    let mut detail = if kept.is_empty() {
        "no control group can be made".to_owned()
    } else {
        format!("{} by control groups of {version}", list(&kept))
    };
    if !kept.is_empty() && !missing.is_empty() {
        detail = format!("{detail}, but not {}", list(&missing));
    }
    if !missing.is_empty() && !refused.is_empty() {
        detail = format!("{detail} ({})", refused.join("; "));
    }
    detail
}

impl Limits for CgroupLimits {
    fn in_force(&self) -> InForce {
        let keeps = |name: &str| self.places.iter().any(|place| place.keeps(name));
        InForce { memory: keeps("memory"), processes: keeps("pids"), cpus: keeps("cpu") }
    }

    fn detail(&self) -> &str {
        &self.detail
    }

    fn open(&self, run: &str, allowance: &Allowance) -> Result<Arc<dyn Group>, LimitError> {
        let member = |place: &Place| Folder { unified: place.unified, top: place.base.join(run) };
        let folders: Vec<_> = self.places.iter().map(member).collect();
        let group = RunGroup {
            entrances: folders.iter().map(|folder| folder.inner().join("cgroup.procs")).collect(),
            folders,
        };
        group.close()?;
        let made = self.places.iter().zip(&group.folders).try_for_each(|(place, folder)| {
            folder.make()?;
            set_limits(place, &folder.top, allowance)
        });
        if let Err(error) = made {
            drop(group.close());
            return Err(error.into());
        }
        Ok(Arc::new(group))
    }

    fn shut_down(&self) {
        for place in &self.places {
            place.take_away();
        }
        self.record.forget_what_is_gone(&self.places);
    }
}

/// Writes the limits of a run that a hierarchy can keep.
fn set_limits(place: &Place, folder: &Path, allowance: &Allowance) -> Result<(), FsError> {
    let set = |name: &str, value: String| write(&folder.join(name), &value);
    if let Some(memory) = allowance.memory.filter(|_| place.keeps("memory")) {
        if place.unified {
            set("memory.max", memory.to_string())?;
            // One that was half killed would not know; and what is on the disk is not memory, but slow.
            set("memory.oom.group", "1".to_owned())?;
            set_if_there(&folder.join("memory.swap.max"), "0")?;
        } else {
            set("memory.limit_in_bytes", memory.to_string())?;
            set_if_there(&folder.join("memory.memsw.limit_in_bytes"), &memory.to_string())?;
        }
    }
    if let Some(processes) = allowance.processes.filter(|_| place.keeps("pids")) {
        set("pids.max", processes.to_string())?;
    }
    if let Some(milli_cpus) = allowance.milli_cpus.filter(|_| place.keeps("cpu")) {
        // The kernel takes no less than a millisecond.
        let quota = (milli_cpus.saturating_mul(PERIOD) / 1000).max(1000);
        if place.unified {
            set("cpu.max", format!("{quota} {PERIOD}"))?;
        } else {
            set("cpu.cfs_period_us", PERIOD.to_string())?;
            set("cpu.cfs_quota_us", quota.to_string())?;
        }
    }
    if place.unified {
        set_if_there(&folder.join("cgroup.max.descendants"), MAX_INNER)?;
        set_if_there(&folder.join("cgroup.max.depth"), MAX_DEPTH)?;
    }
    Ok(())
}

/// The folder of a run in one hierarchy.
#[derive(Debug)]
struct Folder {
    unified: bool,
    top: PathBuf,
}

impl Folder {
    fn inner(&self) -> PathBuf {
        self.top.join("in")
    }

    fn make(&self) -> Result<(), FsError> {
        for folder in [&self.top, &self.inner()] {
            make_folder(folder)?;
            if rustix::process::geteuid().is_root() {
                disown(folder)?;
            }
        }
        Ok(())
    }

    fn number(&self, name: &str, key: &str) -> u64 {
        // Of version 1, what is counted stands where the process was.
        let of = |folder: &Path| {
            let text = read(&folder.join(name)).unwrap_or_default();
            let value = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            value.unwrap_or(0u64)
        };
        of(&self.top).saturating_add(if self.unified { 0 } else { of(&self.inner()) })
    }
}

/// The group of one run: a folder in each hierarchy.
#[derive(Debug)]
struct RunGroup {
    folders: Vec<Folder>,
    entrances: Vec<PathBuf>,
}

impl Group for RunGroup {
    fn entrances(&self) -> &[PathBuf] {
        &self.entrances
    }

    fn add(&self, pid: i32) -> Result<(), LimitError> {
        for entrance in &self.entrances {
            write(entrance, &pid.to_string())?;
        }
        Ok(())
    }

    fn processes(&self) -> Vec<i32> {
        let mut all = BTreeSet::new();
        for folder in &self.folders {
            processes_below(&folder.top, &mut all);
        }
        all.into_iter().collect()
    }

    fn met(&self) -> Met {
        let sum = |name: &str, key: &str| {
            let counted = self.folders.iter().map(|folder| folder.number(name, key));
            counted.fold(0, u64::saturating_add)
        };
        Met {
            memory_kills: sum("memory.events", "oom_kill ")
                + sum("memory.oom_control", "oom_kill "),
            refused_processes: sum("pids.events", "max "),
        }
    }

    fn kill(&self) -> bool {
        kill_below(&self.folders.iter().map(|folder| folder.top.as_path()).collect::<Vec<_>>())
    }

    fn close(&self) -> Result<(), LimitError> {
        let there = self.folders.iter().find(|folder| folder.top.is_dir());
        let Some(there) = there else { return Ok(()) };
        if !self.kill() {
            return Err(LimitError::Stuck { group: there.top.clone() });
        }
        for folder in &self.folders {
            remove(&folder.top)?;
        }
        Ok(())
    }
}

/// Kills all that is in these folders and those below. Nothing new is started in them from then on. Returns whether
/// nothing is left.
fn kill_below(tops: &[&Path]) -> bool {
    for top in tops {
        // Where it cannot be written, there is no such controller, or no such file yet: then the rounds below do it.
        drop(write(&top.join("pids.max"), "0"));
        drop(write(&top.join("cgroup.kill"), "1"));
    }
    for round in 0..ROUNDS {
        let mut all = BTreeSet::new();
        for top in tops {
            processes_below(top, &mut all);
        }
        // Those of another namespace, which cannot be seen from here, are told as 0.
        all.remove(&0);
        if all.is_empty() {
            return true;
        }
        if round > 0 {
            std::thread::sleep(ROUND);
        }
        for pid in all {
            kill(pid, tops);
        }
    }
    false
}

/// Kills a process, if it still is in one of these folders when its number can be nobody else's any more.
fn kill(pid: i32, tops: &[&Path]) {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
        let Some(number) = Pid::from_raw(pid) else { return };
        let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { return };
        let is_there = |top: &&Path| {
            let mut all = BTreeSet::new();
            processes_below(top, &mut all);
            all.contains(&pid)
        };
        if tops.iter().any(is_there) {
            // It may have ended in this moment.
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (pid, tops, Signal::KILL, Pid::INIT);
}

/// The processes of a group and of those below it.
fn processes_below(top: &Path, into: &mut BTreeSet<i32>) {
    for folder in folders_below(top) {
        let text = read(&folder.join("cgroup.procs")).unwrap_or_default();
        into.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    }
}

/// A group and those below it, each before those below.
fn folders_below(top: &Path) -> Vec<PathBuf> {
    let mut all = vec![top.to_owned()];
    let mut at = 0;
    while let Some(folder) = all.get(at).cloned() {
        at += 1;
        let names = fs::list_dir(&folder).unwrap_or_default();
        let inner = names.into_iter().map(|name| folder.join(name));
        all.extend(inner.filter(|path| path.symlink_metadata().is_ok_and(|it| it.is_dir())));
    }
    all
}

/// Takes a group away with those below it, in which nothing lives any more.
fn remove(top: &Path) -> Result<(), FsError> {
    if !top.is_dir() {
        return Ok(());
    }
    for folder in folders_below(top).into_iter().rev() {
        let mut removed = rustix::fs::rmdir(&folder);
        for _ in 0..ROUNDS {
            // What was killed is not gone at once.
            if removed != Err(rustix::io::Errno::BUSY) {
                break;
            }
            std::thread::sleep(ROUND);
            removed = rustix::fs::rmdir(&folder);
        }
        if removed != Err(rustix::io::Errno::NOENT) {
            removed.context("removing", &folder)?;
        }
    }
    Ok(())
}

fn make_folder(folder: &Path) -> Result<(), FsError> {
    match rustix::fs::mkdir(folder, Mode::from_raw_mode(0o755)) {
        Err(rustix::io::Errno::EXIST) => Ok(()),
        made => made.context("creating", folder),
    }
}

/// Gives a group to nobody, with all of its files.
fn disown(folder: &Path) -> Result<(), FsError> {
    let (user, group) = (Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)));
    let files = fs::list_dir(folder)?.into_iter().map(|name| folder.join(name));
    for path in files.filter(|path| path.is_file()).chain([folder.to_owned()]) {
        rustix::fs::chown(&path, user, group).context("giving away", &path)?;
    }
    Ok(())
}

/// Writes a file of a group, which takes or refuses a value as a whole.
fn write(path: &Path, value: &str) -> Result<(), FsError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let flags = rustix::fs::OFlags::NOFOLLOW.bits();
    let opened = options.write(true).custom_flags(flags.cast_signed()).open(path);
    opened.context("opening", path)?.write_all(value.as_bytes()).context("writing", path)
}

/// The same where a kernel may have no such file.
fn set_if_there(path: &Path, value: &str) -> Result<(), FsError> {
    if path.exists() { write(path, value) } else { Ok(()) }
}

fn read(path: &Path) -> Option<String> {
    let bytes = fs::read_if_exists(path, MAX_FILE).ok().flatten()?;
    String::from_utf8(bytes).ok()
}

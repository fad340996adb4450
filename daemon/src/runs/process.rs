//! Which processes belong to a run, and how they are made to end.
//!
//! A run's processes are its leader, whatever descends from it, whatever is in its group or session, and
//! whatever carries its `BATON_RUN` in its environment: a daemon that a build left behind has a session
//! and a parent of its own, and still the environment. Where the machine has control groups for us, whatever is in the
//! run's is the run's, too.
//!
//! Not here: starting the leader and reading its output ([`execute`](super::execute)).
//!
//! **Invariant:** nothing is signalled that is not known to be the run's. A process is known by its number
//! *and* its start time, because numbers are used again.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::RunId;
use baton_store::fs::{self, FsError};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::limits::Group;

/// Most bytes of an environment that are looked through; the system's own limit is 6 MiB for arguments
/// and environment together, unless the stack is unlimited.
const MAX_ENVIRONMENT: u64 = 8 * 1024 * 1024;

/// How often the processes of a run are looked for again while they are being killed.
const ROUNDS: u32 = 200;

/// What a killed process needs to be gone.
const ROUND: std::time::Duration = std::time::Duration::from_millis(10);

/// Descriptors of a process that are looked at.
const MAX_OPEN: usize = 65_536;

/// How long a process without an environment may be in the middle of an `exec`, on a busy machine.
const EXEC: std::time::Duration = std::time::Duration::from_millis(5);

/// The leader of a run's processes, as written beside its log while it lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessRecord {
    /// Its number, which is also that of its group.
    pub(super) pid: i32,
    /// When it was started, in ticks since the boot.
    pub(super) started: u64,
    /// Which boot: start times begin anew with each.
    pub(super) boot: String,
}

impl ProcessRecord {
    pub(super) fn write(&self, path: &Path) -> Result<(), FsError> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        fs::write_whole(path, &json, 0o600)
    }

    /// Nothing where there is none, or none that can be read: then only the environment tells.
    pub(super) fn read(path: &Path) -> Option<Self> {
        let json = fs::read_if_exists(path, 4096).ok().flatten()?;
        serde_json::from_slice(&json).ok()
    }
}

/// One process of the machine.
#[derive(Clone, Copy, Debug)]
struct Seen {
    pid: i32,
    parent: i32,
    group: i32,
    session: i32,
    started: u64,
    threads: u64,
    gone: bool,
}

/// What processes take of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Taken {
    /// Processes and threads.
    pub(super) threads: u64,
    /// Bytes of memory.
    pub(super) memory: u64,
}

impl Seen {
    fn read(pid: i32) -> Option<Self> {
        let path = format!("/proc/{pid}/stat");
        let stat = fs::read_if_exists(Path::new(&path), 4096).ok().flatten()?;
        // The name of the program is in parentheses and may contain some itself.
        let end = stat.iter().rposition(|&byte| byte == b')')?;
        let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let field = |index: usize| fields.get(index).copied();
        Some(Self {
            pid,
            parent: field(1)?.parse().ok()?,
            group: field(2)?.parse().ok()?,
            session: field(3)?.parse().ok()?,
            started: field(19)?.parse().ok()?,
            threads: field(17)?.parse().ok()?,
            gone: matches!(field(0)?, "Z" | "X"),
        })
    }

    fn all() -> Vec<Self> {
        let names = fs::list_dir(Path::new("/proc")).unwrap_or_default();
        let pids = names.iter().filter_map(|name| name.to_str()?.parse().ok());
        pids.filter_map(Self::read).collect()
    }

    /// Whether it has such a variable in its environment; nothing where it has none at all, which is also
    /// what a process shows in the middle of an `exec`.
    fn carries(&self, marks: impl Fn(&[u8]) -> bool) -> Option<bool> {
        let path = format!("/proc/{}/environ", self.pid);
        let environment = fs::read_if_exists(Path::new(&path), MAX_ENVIRONMENT);
        let environment = environment.ok().flatten()?;
        let mut variables = environment.split(|&byte| byte == 0);
        (!environment.is_empty()).then(|| variables.any(marks))
    }

    /// All the memory that it uses.
    fn memory(&self) -> Option<u64> {
        self.said_of_memory("status", "VmRSS:")
    }

    /// Its part of the memory that it shares with others, and all of what it does not.
    fn share_of_memory(&self) -> Option<u64> {
        self.said_of_memory("smaps_rollup", "Pss:")
    }

    fn said_of_memory(&self, file: &str, key: &str) -> Option<u64> {
        let path = format!("/proc/{}/{file}", self.pid);
        let text = fs::read_if_exists(Path::new(&path), 64 * 1024).ok().flatten()?;
        let text = String::from_utf8_lossy(&text);
        let said = text.lines().find_map(|line| line.strip_prefix(key))?;
        let kilobytes: u64 = said.trim().strip_suffix(" kB")?.trim().parse().ok()?;
        Some(kilobytes.saturating_mul(1024))
    }

    /// Threads of the kernel have no environment and never will.
    fn of_kernel(&self) -> bool {
        const KTHREADD: i32 = 2;
        self.pid == KTHREADD || self.parent == KTHREADD
    }

    /// Signals this very process, and none that has its number now.
    #[cfg(target_os = "linux")]
    fn signal(&self, signal: Signal) {
        use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
        let Some(pid) = Pid::from_raw(self.pid) else { return };
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else { return };
        if Self::read(self.pid).is_some_and(|now| now.started == self.started) {
            // It may have ended in this moment.
            let _ = pidfd_send_signal(process, signal);
        }
    }

    /// Without descriptors of processes there is no `/proc` either, so that nothing was seen.
    #[cfg(not(target_os = "linux"))]
    fn signal(&self, _signal: Signal) {}
}

/// A process, and whatever is in its group or session.
fn around(leader: i32, all: &[Seen]) -> impl Iterator<Item = i32> {
    let led = move |seen: &&Seen| [seen.pid, seen.group, seen.session].contains(&leader);
    all.iter().filter(led).map(|seen| seen.pid)
}

fn add_descendants(pids: &mut HashSet<i32>, all: &[Seen]) {
    loop {
        let children = all.iter().filter(|seen| pids.contains(&seen.parent)).map(|seen| seen.pid);
        let children: Vec<_> = children.filter(|pid| !pids.contains(pid)).collect();
        if children.is_empty() {
            break;
        }
        pids.extend(children);
    }
}

/// The living processes of a run. `leader` is trusted to be the run's, and so is what is in its group.
fn members(leader: Option<i32>, grouped: &[i32], marker: &[u8]) -> Vec<Seen> {
    members_of(leader.as_slice(), grouped, |variable| variable == marker)
}

/// The same of all runs whose mark is one of these.
fn members_of(leaders: &[i32], grouped: &[i32], marks: impl Fn(&[u8]) -> bool) -> Vec<Seen> {
    let myself = rustix::process::getpid().as_raw_pid();
    let all = Seen::all();
    let mut pids: HashSet<i32> = grouped.iter().copied().collect();
    for &leader in leaders {
        pids.extend(around(leader, &all));
    }
    let mut unsaid: Vec<&Seen> = Vec::new();
    for seen in all.iter().filter(|seen| !seen.gone && !seen.of_kernel()) {
        match seen.carries(&marks) {
            Some(true) => drop(pids.insert(seen.pid)),
            Some(false) => {}
            None if pids.contains(&seen.pid) => {}
            None => unsaid.push(seen),
        }
    }
    if !unsaid.is_empty() {
        std::thread::sleep(EXEC);
        let late = unsaid.iter().filter(|seen| seen.carries(&marks) == Some(true));
        pids.extend(late.map(|seen| seen.pid));
    }
    add_descendants(&mut pids, &all);
    let lives = |seen: &Seen| !seen.gone && seen.pid != myself && pids.contains(&seen.pid);
    all.into_iter().filter(lives).collect()
}

/// The living processes that carry a run in their environment.
#[cfg(test)]
pub(super) fn carriers(run: RunId) -> Vec<i32> {
    members(None, &[], &marker(run)).iter().map(|seen| seen.pid).collect()
}

fn marker(run: RunId) -> Vec<u8> {
    format!("BATON_RUN={run}").into_bytes()
}

fn boot() -> String {
    let id = fs::read_if_exists(Path::new("/proc/sys/kernel/random/boot_id"), 4096);
    String::from_utf8_lossy(&id.ok().flatten().unwrap_or_default()).trim().to_owned()
}

/// Kills what an earlier daemon left of a run. Returns how many processes were found at first, and whether
/// all are gone.
pub(super) fn kill_leftovers(run: RunId, record: Option<&ProcessRecord>) -> (usize, bool) {
    kill_leftovers_of(&[(run, record.cloned())])
}

/// The same of several runs.
pub(super) fn kill_leftovers_of(runs: &[(RunId, Option<ProcessRecord>)]) -> (usize, bool) {
    let boot = boot();
    let is_leader = |record: &&ProcessRecord| {
        record.boot == boot
            && Seen::read(record.pid).is_some_and(|seen| seen.started == record.started)
    };
    let leaders = runs.iter().filter_map(|(_, record)| record.as_ref().filter(is_leader));
    let leaders: Vec<_> = leaders.map(|record| record.pid).collect();
    let markers: HashSet<_> = runs.iter().map(|&(run, _)| marker(run)).collect();
    kill_all(|| members_of(&leaders, &[], |variable| markers.contains(variable)))
}

fn kill_all(members: impl Fn() -> Vec<Seen>) -> (usize, bool) {
    let mut found = 0;
    for round in 0..ROUNDS {
        let members = members();
        if members.is_empty() {
            return (found, true);
        }
        if round == 0 {
            found = members.len();
        }
        for member in members {
            member.signal(Signal::KILL);
        }
        std::thread::sleep(ROUND);
    }
    (found, false)
}

/// The processes of a live run.
#[derive(Debug)]
pub(super) struct Processes {
    leader: Pid,
    layers: usize,
    group: Arc<dyn Group>,
    marker: Vec<u8>,
    /// Once the leader was waited for, its number may be another's.
    reaped: Mutex<bool>,
}

impl Processes {
    /// Of a leader that was just started and leads a group. `layers` as in
    /// [`Room::layers`](crate::rooms::Room::layers).
    pub(super) fn new(run: RunId, leader: Pid, layers: usize, group: Arc<dyn Group>) -> Self {
        Self { leader, layers, group, marker: marker(run), reaped: Mutex::new(false) }
    }

    /// Puts the run's processes into its group, where the room has not done so.
    pub(super) fn enter(&self) {
        if self.group.entrances().is_empty() {
            return;
        }
        let leader = self.leader.as_raw_pid();
        if let Err(error) = self.group.add(leader) {
            tracing::warn!(%error, "a program is not held to its limits");
            return;
        }
        // What it has started by then; what those start from then on is in the group with them.
        for _ in 0..ROUNDS {
            let grouped: HashSet<i32> = self.group.processes().into_iter().collect();
            let members = members(Some(leader), &[], &self.marker);
            let outside = members.iter().filter(|member| !grouped.contains(&member.pid));
            if outside.filter(|member| self.group.add(member.pid).is_ok()).count() == 0 {
                return;
            }
        }
    }

    /// What the run's processes take. Memory that several share counts once, where that decides whether it is more than
    /// `memory`.
    pub(super) fn taken(&self, memory: u64) -> Taken {
        let members = self.members();
        let threads = members.iter().map(|member| member.threads).sum();
        let all = |of: fn(&Seen) -> Option<u64>| {
            members.iter().filter_map(of).fold(0, u64::saturating_add)
        };
        let most = all(Seen::memory);
        if most <= memory {
            return Taken { threads, memory: most };
        }
        Taken {
            threads,
            memory: all(|member| member.share_of_memory().or_else(|| member.memory())),
        }
    }

    /// Bytes of files without a name that the run's processes hold open, on the file systems of some folders.
    #[cfg(target_os = "linux")]
    pub(super) fn unlinked(&self, folders: &[std::path::PathBuf]) -> u64 {
        use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
        // A file system of the run's own is not waited for.
        let stat =
            |path: &Path| statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::BASIC_STATS).ok();
        let devices: HashSet<_> = folders
            .iter()
            .filter_map(|folder| stat(folder))
            .map(|stat| (stat.stx_dev_major, stat.stx_dev_minor))
            .collect();
        let mut counted = HashSet::new();
        let mut sum = 0u64;
        for member in self.members() {
            let folder = std::path::PathBuf::from(format!("/proc/{}/fd", member.pid));
            for name in fs::list_dir(&folder).unwrap_or_default().into_iter().take(MAX_OPEN) {
                let Some(stat) = stat(&folder.join(name)).filter(|stat| stat.stx_nlink == 0) else {
                    continue;
                };
                let device = (stat.stx_dev_major, stat.stx_dev_minor);
                if devices.contains(&device) && counted.insert((device, stat.stx_ino)) {
                    sum = sum.saturating_add(stat.stx_blocks.saturating_mul(512));
                }
            }
        }
        sum
    }

    /// Nothing tells what a process has open.
    #[cfg(not(target_os = "linux"))]
    pub(super) fn unlinked(&self, _folders: &[std::path::PathBuf]) -> u64 {
        0
    }

    fn members(&self) -> Vec<Seen> {
        members(Some(self.leader.as_raw_pid()), &self.group.processes(), &self.marker)
    }

    pub(super) fn record(&self) -> ProcessRecord {
        let pid = self.leader.as_raw_pid();
        let started = Seen::read(pid).map_or(0, |seen| seen.started);
        ProcessRecord { pid, started, boot: boot() }
    }

    /// The processes that descend from the leader, or are in its group or session. Cheaper than all that are the run's:
    /// no environment is read.
    pub(super) fn led(&self) -> Vec<i32> {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if *reaped {
            return Vec::new();
        }
        let all = Seen::all();
        let mut led: HashSet<i32> = around(self.leader.as_raw_pid(), &all).collect();
        add_descendants(&mut led, &all);
        led.into_iter().collect()
    }

    /// Asks the run's processes to end. The room itself is left alone, or it would take them with it.
    pub(super) fn terminate(&self) {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if *reaped {
            return;
        }
        let leader = self.leader.as_raw_pid();
        let members = self.members();
        let mut room: HashSet<i32> = HashSet::new();
        if self.layers > 0 {
            room.insert(leader);
        }
        for _ in 1..self.layers {
            let above = members.iter().filter(|member| room.contains(&member.parent));
            let above: Vec<_> = above.map(|member| member.pid).collect();
            room.extend(above);
        }
        let asked: Vec<_> = members.iter().filter(|member| !room.contains(&member.pid)).collect();
        if asked.is_empty() {
            self.signal_group(Signal::TERM);
        }
        for member in asked {
            member.signal(Signal::TERM);
        }
    }

    /// Ends every process of the run. Returns whether all are gone.
    pub(super) fn kill(&self) -> bool {
        let reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        if !*reaped {
            self.signal_group(Signal::KILL);
        }
        let leader = (!*reaped).then_some(self.leader.as_raw_pid());
        let grouped_gone = self.group.kill();
        let (_, gone) = kill_all(|| members(leader, &[], &self.marker));
        gone && grouped_gone
    }

    /// Waits for the leader with `wait`; from then on its number is never signalled.
    pub(super) fn reap<T>(&self, wait: impl FnOnce() -> T) -> T {
        let mut reaped = self.reaped.lock().unwrap_or_else(PoisonError::into_inner);
        *reaped = true;
        wait()
    }

    fn signal_group(&self, signal: Signal) {
        // An empty group is what we want in the end.
        let _ = rustix::process::kill_process_group(self.leader, signal);
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    use super::*;
    use crate::limits::NoGroups;

    fn no_group() -> Arc<dyn Group> {
        Arc::new(NoGroups::because(String::new()))
    }

    fn start(run: RunId, script: &str) -> (Child, String) {
        let mut child = Command::new("sh")
            .args(["-c", script])
            .env("BATON_RUN", run.to_string())
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        (child, line.trim().to_owned())
    }

    #[test]
    fn descendants_orphans_and_strangers_are_told_apart() {
        let run = RunId::from_bytes([7; 16]);
        // A grandchild in a session of its own whose parent has ended.
        let script = "(setsid sleep 300 & echo $!); sleep 300";
        let (mut child, orphan) = start(run, script);
        let (mut stranger, _) = start(RunId::from_bytes([8; 16]), "echo; exec sleep 300");
        let orphan: i32 = orphan.parse().unwrap();
        let leader = Pid::from_child(&child);
        let processes = Processes::new(run, leader, 0, no_group());

        let found: Vec<_> = processes.members().iter().map(|seen| seen.pid).collect();
        assert!(found.contains(&orphan) && found.contains(&leader.as_raw_pid()), "{found:?}");

        assert!(processes.kill());
        assert!(Seen::read(orphan).is_none_or(|seen| seen.gone));
        processes.reap(|| child.wait()).unwrap();
        assert!(stranger.try_wait().unwrap().is_none(), "a stranger was killed");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }

    #[test]
    fn a_number_that_is_used_again_protects_its_new_owner() {
        let (mut child, _) = start(RunId::from_bytes([9; 16]), "echo; exec env -i sleep 300");
        let leader = Pid::from_child(&child);
        let run = RunId::from_bytes([10; 16]);
        let mut record = Processes::new(run, leader, 0, no_group()).record();
        record.started += 1;
        assert_eq!(kill_leftovers(run, Some(&record)), (0, true));
        record.started -= 1;
        let other_boot = ProcessRecord { boot: "another".to_owned(), ..record.clone() };
        assert_eq!(kill_leftovers(run, Some(&other_boot)), (0, true));
        assert!(child.try_wait().unwrap().is_none());

        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("process");
        record.write(&file).unwrap();
        let (found, gone) = kill_leftovers(run, ProcessRecord::read(&file).as_ref());
        assert!(found >= 1 && gone);
        assert!(!child.wait().unwrap().success());
        assert_eq!(ProcessRecord::read(&folder.path().join("none")), None);
    }

    #[test]
    fn process_records() {
        use crate::fuzz::fuzzing::{fuzz_with, texts, within};

        let folder = crate::fuzz::scratch();
        let path = folder.path().join("process");
        let now = boot();
        // A living process that is nobody's run: whatever a record says, only the one with its start time is meant.
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let started = Seen::read(pid).unwrap().started;
        let (other, earlier) = (started ^ 1, format!("{now}-"));
        let corpus = texts(&[
            &format!(r#"{{"pid":{pid},"started":{other},"boot":"{now}"}}"#),
            &format!(r#"{{"pid":{pid},"started":{started},"boot":"{earlier}"}}"#),
            r#"{"pid":-1,"started":0,"boot":""}"#,
        ]);
        fuzz_with(1000, corpus, |random, input| {
            fs::write_whole(&path, input, 0o600).unwrap();
            let read = within(input, 16, 65_536, |_| ProcessRecord::read(&path));
            let Some(record) = read else { return false };
            let is_it = record.pid == pid && record.started == started && record.boot == now;
            // It looks at all processes of the machine, and others are looked for by number alone.
            if record.pid == pid && !is_it && random.below(100) == 0 {
                let run = RunId::from_bytes([0x5c; 16]);
                assert_eq!(kill_leftovers(run, Some(&record)), (0, true));
                assert!(child.try_wait().unwrap().is_none());
            }
            record.write(&path).unwrap();
            assert_eq!(ProcessRecord::read(&path), Some(record));
            true
        });
        // It has read to the end of its input, which is ours.
        child.wait().unwrap();
    }
}

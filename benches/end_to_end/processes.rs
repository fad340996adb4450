//! What runs, what it cost, and that nothing stays behind.
//!
//! What a program writes goes to files: a daemon that it starts may inherit them, and the end of a pipe
//! would never come.
//!
//! **Invariant:** every process that is started names the scratch folder in its arguments or its
//! environment, and that folder is like no other; so those that are left are found, and nobody else's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use wait4::Wait4 as _;

/// Names the scratch folder in the environment of what is started.
const MARK: &str = "BATON_BENCH";

/// Held to start a process, and for good by whoever ends all of them.
static SPAWNING: RwLock<()> = RwLock::new(());

/// A folder for one run of the benchmark. Ends what it started and is taken away when it is dropped.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(work: &Path) -> Self {
        let folder = work.join(format!("bench-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        std::fs::create_dir(folder.join("io")).unwrap();
        let mut signals = signal_hook::iterator::Signals::new([1, 2, 15]).unwrap();
        let at_end = folder.clone();
        std::thread::spawn(move || {
            if signals.forever().next().is_some() {
                // Nothing is started any more.
                let _held = SPAWNING.write();
                end_all(&at_end);
                eprintln!("interrupted; {} is left to be deleted", at_end.display());
                std::process::exit(130);
            }
        });
        Self(folder)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Prepares a program to be started.
    pub(crate) fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &self.0).stdin(Stdio::null());
        command
    }

    /// Runs a program to its end.
    pub(crate) fn run(&self, command: &mut Command) -> Ran {
        let [stdout, stderr] = ["stdout", "stderr"].map(|name| self.path("io").join(name));
        command.stdout(File::create(&stdout).unwrap()).stderr(File::create(&stderr).unwrap());
        let started = Instant::now();
        let child = start(command);
        let used = child.wait4().unwrap();
        let wall = started.elapsed();
        let [stdout, stderr] = [stdout, stderr].map(|path| std::fs::read(path).unwrap());
        let cpu = used.rusage.utime + used.rusage.stime;
        Ran { status: used.status, wall, cpu, peak: used.rusage.maxrss, stdout, stderr }
    }

    /// The same for one that must succeed.
    pub(crate) fn must(&self, command: &mut Command) -> Ran {
        let ran = self.run(command);
        assert!(
            ran.status.success(),
            "{command:?} ended with {}\n{}{}",
            ran.status,
            String::from_utf8_lossy(&ran.stdout),
            String::from_utf8_lossy(&ran.stderr)
        );
        ran
    }

    /// Takes a file or folder away that was made here.
    pub(crate) fn remove(&self, path: &Path) {
        assert!(path.starts_with(&self.0), "{} is not ours", path.display());
        match std::fs::symlink_metadata(path) {
            Ok(meta) if meta.is_dir() => {
                // Files of a tree may be in folders that cannot be written to.
                self.run(self.command("chmod").args(["-R", "u+rwX"]).arg(path));
                std::fs::remove_dir_all(path).unwrap();
            }
            Ok(_) => std::fs::remove_file(path).unwrap(),
            Err(_) => {}
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        end_all(&self.0);
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            eprintln!("{} is left to be deleted: {error}", self.0.display());
        }
    }
}

/// Starts a program.
pub(crate) fn start(command: &mut Command) -> Child {
    let _held = SPAWNING.read();
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a program did and cost.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) wall: Duration,
    /// Of the program and what it waited for.
    pub(crate) cpu: Duration,
    /// Bytes of the largest of them.
    pub(crate) peak: u64,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
}

/// A figure of a living process from `/proc`, in bytes: `VmHWM` is its peak, `VmRSS` what it has now.
pub(crate) fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Lets the peak of a living process begin anew.
pub(crate) fn reset_peak(pid: u32) {
    // Not everywhere allowed; the peak is then that of all steps before.
    drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
}

/// Processor time of a living process so far, all threads, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let Some((_, fields)) = stat.rsplit_once(") ") else { return 0.0 };
    let ticks: u64 =
        fields.split(' ').skip(11).take(2).filter_map(|it| it.parse::<u64>().ok()).sum();
    // A hundred a second on every Linux, whatever its kernel counts in.
    ticks as f64 / 100.0
}

/// Asks a process to end, and waits until it has.
pub(crate) fn end(pid: u32) {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let _ = kill_process(pid, Signal::TERM);
    let patience = Instant::now() + Duration::from_secs(20);
    while is_alive(pid) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(5));
    }
    let _ = kill_process(pid, Signal::KILL);
}

fn is_alive(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit(") ").next().unwrap_or_default().starts_with(['Z', 'X']))
}

/// Kills what names this folder, until nothing does.
fn end_all(folder: &Path) {
    let patience = Instant::now() + Duration::from_secs(20);
    loop {
        let left = naming(folder);
        if left.is_empty() || Instant::now() > patience {
            return;
        }
        for pid in left {
            let _ = kill_process(pid, Signal::KILL);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn naming(folder: &Path) -> Vec<Pid> {
    let folder = folder.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
        let Some(pid) = Pid::from_raw(pid) else { continue };
        // Our own arguments have no such folder.
        let names = ["environ", "cmdline"].iter().any(|file| {
            let text = std::fs::read(entry.path().join(file)).unwrap_or_default();
            text.windows(folder.len()).any(|window| window == folder)
        });
        if names && is_alive(pid) && pid != rustix::process::getpid() {
            found.push(pid);
        }
    }
    found
}

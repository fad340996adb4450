//! A room made by bubblewrap: namespaces and a file system of its own.
//!
//! A run sees the system's programs and settings read-only, its own `/proc`, `/dev` and `/tmp`, its
//! checkout and its home at their real paths, and what the node exposes. It shares the network, unless it is to have none.
//!
//! Bubblewrap is started by a shell, which takes no time: only a process itself can be in a control group before it has
//! started others, and only so does it get a descriptor that no other child of the daemon could inherit.
//!
//! **Invariant:** nothing of the node's home can be seen but what the [`Job`] names; nothing in `/etc`
//! that is not readable by everyone can be read, also when the node runs as root.
//!
//! **Invariant:** bubblewrap itself is told in no argument and no variable where folders are and what the run is given.

use std::ffi::{OsStr, OsString};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use baton_store::fs::{self, FsError};

use super::programs::Shown;
use super::{DEFAULT_PATH, Job, Room, RoomError, RoomSettings, Wrapped, check_program};

/// Shown read-only as they are: a folder as a folder, a link as a link. Programs of every
/// distribution are here; `/nix/store` is those of one, and readable by everyone by design.
const SYSTEM: [&str; 10] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/nix/store",
    "/run/current-system",
];

/// Settings in which secrets of the machine stand beside what everyone needs.
const SETTINGS: [&str; 2] = ["/etc", "/usr/local/etc"];

/// Lets the kernel end a run before anything else of the machine where memory is short, which needs no right, opens what
/// bubblewrap is told, for it to read, and enters groups (a process that writes `0` there means itself). Its standard
/// streams are those of the program.
const ENTER: &str = "{ echo 500 > /proc/self/oom_score_adj; } 2> /dev/null
exec 3< \"$1\" || exit 126; shift
while [ \"$1\" != -- ]; do echo 0 > \"$1\" || exit 126; shift; done; shift; exec \"$@\"";

const SHELL: &str = "/bin/sh";

/// Bytes of what a run may keep in `/dev/shm`, which is memory.
const SHARED_MEMORY: u64 = 1 << 30;

/// Of the variables of a run, the one that the processes above it have, too: they are told apart by it.
const MARK: &str = "BATON_RUN";

/// A machine on which an empty room takes longer than this is not one to run rooms on.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

/// Wraps commands in `bwrap`.
#[derive(Clone, Debug)]
pub struct BubblewrapRoom {
    program: PathBuf,
    settings: RoomSettings,
    /// Whether this `bwrap` can bound a file system in memory; those before 0.7 cannot.
    bounds: bool,
}

/// `bwrap` is there and does not work.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Its folders could not be made.
    #[error("the trial run could not be prepared")]
    Fs(#[from] FsError),
    /// There is nothing to try it with.
    #[error("the trial run could not be prepared")]
    Room(#[from] RoomError),
    /// It could not be started.
    #[error("starting it failed")]
    Start(#[source] std::io::Error),
    /// It did not end.
    #[error("the trial run did not end within {} s", PROBE_LIMIT.as_secs())]
    TooSlow,
    /// It failed; what it said.
    #[error("{said}")]
    Failed {
        /// The start of its error output.
        said: String,
    },
}

impl BubblewrapRoom {
    /// With this `bwrap`.
    pub const fn new(program: PathBuf, settings: RoomSettings) -> Self {
        Self { program, settings, bounds: false }
    }

    /// The `bwrap` in use.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// Runs `true` in a room like those of real runs, and finds out what this `bwrap` can do.
    pub async fn probe(&mut self, scratch: &Path) -> Result<(), ProbeError> {
        let mut help = tokio::process::Command::new(&self.program);
        help.arg("--help").env_clear().stdin(Stdio::null()).kill_on_drop(true);
        let help = limited(help.output()).await?;
        let said = [help.stdout, help.stderr].concat();
        self.bounds = String::from_utf8_lossy(&said).contains("--size ");
        let folder = scratch.join(format!("probe-{}", std::process::id()));
        let (checkout, home) = (folder.join("checkout"), folder.join("home"));
        fs::create_dir_all(&checkout)?;
        fs::create_dir_all(&home)?;
        let answer = self.try_room(&checkout, &home).await;
        fs::remove_dir_all(&folder)?;
        answer
    }

    async fn try_room(&self, checkout: &Path, home: &Path) -> Result<(), ProbeError> {
        let job = Job {
            program: OsStr::new("true"),
            arguments: &[],
            checkout,
            home,
            temporary: None,
            readable: &[],
            seen_at: None,
            environment: &[(OsString::from("PATH"), OsString::from(DEFAULT_PATH))],
            network: true,
            entrances: &[],
        };
        let Wrapped { command, arguments: _arguments } = self.command(&job)?;
        let mut command = tokio::process::Command::from(command);
        command.stdin(Stdio::null()).kill_on_drop(true);
        let output = limited(command.output()).await?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(ProbeError::Failed { said: said.trim().chars().take(200).collect() })
    }

    /// Whether a path outside of the job's own folders can be seen: the nearest folder above it that is
    /// shown or hidden decides.
    fn sees(&self, path: &Path) -> bool {
        let nearest = |roots: &mut dyn Iterator<Item = &Path>| {
            let above = roots.filter(|root| path.starts_with(root));
            above.map(|root| root.components().count()).max().unwrap_or(0)
        };
        let expose = self.settings.expose.iter().map(PathBuf::as_path);
        let shown = nearest(&mut SYSTEM.iter().map(Path::new).chain(expose));
        shown > nearest(&mut self.settings.hide.iter().map(PathBuf::as_path))
    }

    /// Programs of agents that are where nothing is shown.
    fn programs(&self) -> Shown {
        let RoomSettings { programs, search, hide, never, .. } = &self.settings;
        let hides = |path: &Path| {
            hide.iter().any(|hidden| hidden == path)
                || never.iter().any(|never| path.starts_with(never) || never.starts_with(path))
        };
        Shown::find(programs, search, |path| self.sees(path), hides)
    }

    /// What the node shows and hides beside the system's folders, those above before those below.
    fn own_view(&self, mounts: &mut Arguments) {
        let expose = self.settings.expose.iter().map(|path| (path, true));
        let mut all: Vec<_> =
            expose.chain(self.settings.hide.iter().map(|path| (path, false))).collect();
        all.sort_by_key(|(path, shown)| (path.components().count(), !shown));
        let all_shown = &self.settings.expose;
        for (path, shown) in all {
            if shown {
                // Beyond a link in a folder that is shown, it is shown where that leads.
                if path.parent().is_some_and(|parent| is_real(parent, all_shown)) {
                    mounts.read_only(path);
                }
            } else if path
                .parent()
                .is_some_and(|parent| self.sees(parent) && is_real(parent, all_shown))
            {
                match path.symlink_metadata() {
                    Ok(found) if found.is_dir() => mounts.closed(path),
                    // What a link leads to is hidden where that is.
                    Ok(found) if !found.is_symlink() => mounts.nothing(path),
                    _ => {}
                }
            }
        }
    }
}

impl Room for BubblewrapRoom {
    fn isolated(&self) -> bool {
        true
    }

    fn layers(&self) -> usize {
        // The one that we start, which waits, and the first process of the new pid namespace.
        2
    }

    fn enters(&self) -> bool {
        true
    }

    fn command(&self, job: &Job<'_>) -> Result<Wrapped, RoomError> {
        let own = |path: &Path| path.starts_with(job.checkout) || path.starts_with(job.home);
        let programs = self.programs();
        check_program(job, |path| own(path) || self.sees(path) || programs.shows(path))?;

        let mut mounts = Arguments::default();
        mounts.system();
        mounts.own_system_folders(self.bounds, job.temporary);
        mounts.hide_private_settings();
        self.own_view(&mut mounts);
        for path in &programs.paths {
            mounts.read_only(path);
        }
        for (at, to) in &programs.links {
            mounts.add([OsStr::new("--symlink"), to.as_os_str(), at.as_os_str()]);
        }
        if let Some((checkout, home)) = job.seen_at {
            mounts.writable(job.checkout, checkout);
            mounts.writable(job.home, home);
        }
        mounts.writable(job.checkout, job.checkout);
        mounts.writable(job.home, job.home);
        for path in job.readable {
            mounts.read_only(path);
        }
        mounts.close();
        // What is written outside of the mounts above would be gone with the room: better refused.
        mounts.add(["--remount-ro", "/"]);
        // With a user namespace where there can be one: as root, bubblewrap works without, too.
        mounts.add(["--unshare-user-try", "--unshare-pid", "--unshare-ipc", "--unshare-uts"]);
        if !job.network {
            mounts.add(["--unshare-net"]);
        }
        // As root, bubblewrap leaves every capability to the program unless told otherwise.
        mounts.add(["--cap-drop", "ALL"]);
        mounts.add(["--die-with-parent", "--new-session"]);
        mounts.add([OsStr::new("--chdir"), job.checkout.as_os_str()]);
        // Some shells hand on variables of their own.
        for name in ["_", "SHLVL", "OLDPWD", MARK] {
            mounts.add(["--unsetenv", name]);
        }
        let pwd = (OsString::from("PWD"), job.checkout.as_os_str().to_owned());
        for (name, value) in job.environment.iter().chain([&pwd]) {
            mounts.add([OsStr::new("--setenv"), name, value]);
        }

        let told = mounts.into_file().map_err(RoomError::Prepare)?;
        let mut command = Command::new(SHELL);
        let mark = job.environment.iter().filter(|(name, _)| name == MARK);
        command
            .args(["-c", ENTER, "sh"])
            // By a path, because a descriptor goes only to who is started as a standard stream.
            .arg(format!("/proc/{}/fd/{}", std::process::id(), told.as_raw_fd()))
            .args(job.entrances)
            .arg("--")
            .arg(&self.program)
            .args(["--args", "3", "--"])
            .arg(job.program)
            .args(job.arguments)
            .env_clear()
            .envs(mark.map(|(name, value)| (name, value)));
        Ok(Wrapped { command, arguments: Some(told) })
    }
}

/// Whether no link is between a path and the shown folder that it lies in: nothing can be mounted beyond one.
fn is_real(path: &Path, shown: &[PathBuf]) -> bool {
    let above = shown.iter().filter(|above| path.starts_with(above));
    let Some(above) = above.max_by_key(|above| above.components().count()) else { return true };
    let Ok(below) = path.strip_prefix(above) else { return true };
    match (above.canonicalize(), path.canonicalize()) {
        (Ok(above), Ok(path)) if !below.as_os_str().is_empty() => above.join(below) == path,
        _ => true,
    }
}

/// The output of a program that must end soon.
async fn limited(
    output: impl Future<Output = std::io::Result<std::process::Output>>,
) -> Result<std::process::Output, ProbeError> {
    let output = tokio::time::timeout(PROBE_LIMIT, output).await;
    output.map_err(|_| ProbeError::TooSlow)?.map_err(ProbeError::Start)
}

/// What bubblewrap is told, each word with a NUL behind it. Mounts in their order: a later one covers an earlier one.
#[derive(Default)]
struct Arguments {
    words: Vec<u8>,
    /// Empty folders over hidden ones.
    closed: Vec<PathBuf>,
}

impl Arguments {
    fn add<S: AsRef<OsStr>>(&mut self, words: impl IntoIterator<Item = S>) {
        for word in words {
            self.words.extend_from_slice(word.as_ref().as_bytes());
            self.words.push(0);
        }
    }

    fn read_only(&mut self, path: &Path) {
        self.add([OsStr::new("--ro-bind-try"), path.as_os_str(), path.as_os_str()]);
    }

    fn writable(&mut self, path: &Path, at: &Path) {
        self.add([OsStr::new("--bind"), path.as_os_str(), at.as_os_str()]);
    }

    fn empty(&mut self, path: &Path) {
        self.add([OsStr::new("--tmpfs"), path.as_os_str()]);
    }

    /// An empty folder over a hidden one. [`Self::close`] comes when all that is shown in it is there.
    fn closed(&mut self, path: &Path) {
        self.empty(path);
        self.closed.push(path.to_owned());
    }

    /// Nothing is written where something is hidden: that would be memory without a bound.
    fn close(&mut self) {
        for path in std::mem::take(&mut self.closed) {
            self.add([OsStr::new("--remount-ro"), path.as_os_str()]);
        }
    }

    /// An empty device over a file.
    fn nothing(&mut self, path: &Path) {
        self.add([OsStr::new("--ro-bind"), OsStr::new("/dev/null"), path.as_os_str()]);
    }

    /// In memory, and nowhere on a disk.
    #[cfg(target_os = "linux")]
    fn into_file(self) -> std::io::Result<std::fs::File> {
        use std::io::{Seek as _, Write as _};
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let mut file = std::fs::File::from(rustix::fs::memfd_create("room", flags)?);
        file.write_all(&self.words)?;
        file.rewind()?;
        Ok(file)
    }

    /// Bubblewrap is for Linux.
    #[cfg(not(target_os = "linux"))]
    fn into_file(self) -> std::io::Result<std::fs::File> {
        drop(self);
        Err(std::io::ErrorKind::Unsupported.into())
    }

    fn system(&mut self) {
        for path in SYSTEM.map(Path::new) {
            match path.read_link() {
                Ok(target) => {
                    self.add([OsStr::new("--symlink"), target.as_os_str(), path.as_os_str()]);
                }
                Err(_) => self.read_only(path),
            }
        }
        // Often a link into /run, where nothing else is shown.
        let resolver = Path::new("/etc/resolv.conf").canonicalize();
        if let Some(file) = resolver.ok().filter(|file| !file.starts_with("/etc")) {
            self.read_only(&file);
        }
    }

    /// `/dev/null` over files and an empty folder over folders that not everyone may read: keys,
    /// password hashes. A node that runs as root could read them, and so could its runs.
    fn hide_private_settings(&mut self) {
        let mut folders: Vec<PathBuf> = SETTINGS.iter().map(PathBuf::from).collect();
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(&folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                let Ok(metadata) = entry.metadata() else { continue };
                let mode = metadata.permissions().mode();
                if metadata.is_dir() && mode & 0o005 == 0o005 {
                    folders.push(path);
                } else if metadata.is_dir() {
                    self.closed(&path);
                } else if !metadata.is_symlink() && mode & 0o004 == 0 {
                    self.nothing(&path);
                }
            }
        }
    }

    fn own_system_folders(&mut self, bounds: bool, temporary: Option<[&Path; 2]>) {
        self.add(["--proc", "/proc"]);
        // Bubblewrap covers /proc/sys only where it looks writable; to root without capabilities it
        // does not, and yet the files in it are: kernel/core_pattern alone would be the way out.
        self.add(["--ro-bind", "/proc/sys", "/proc/sys"]);
        self.add(["--dev", "/dev"]);
        if bounds {
            self.add(["--size", &SHARED_MEMORY.to_string()]);
        }
        self.empty(Path::new("/dev/shm"));
        // It is in memory, and has no bound of its own.
        self.add(["--remount-ro", "/dev"]);
        for (at, path) in ["/tmp", "/var/tmp"].map(Path::new).into_iter().enumerate() {
            match temporary.and_then(|all| all.get(at).copied()) {
                Some(folder) => self.writable(folder, path),
                None => self.empty(path),
            }
        }
        self.add(["--dir", "/run"]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_folder_decides_what_is_seen() {
        let settings = RoomSettings {
            expose: vec!["/home/ann/.cargo/bin".into()],
            hide: vec!["/home/ann".into(), "/usr/local/baton".into()],
            ..RoomSettings::default()
        };
        let room = BubblewrapRoom::new("/usr/bin/bwrap".into(), settings);
        for seen in ["/usr/bin/sh", "/etc/passwd", "/home/ann/.cargo/bin/cargo", "/usr/local/bin/x"]
        {
            assert!(room.sees(Path::new(seen)), "{seen}");
        }
        for hidden in ["/home/ann/.ssh", "/home/bob", "/usr/local/baton/keys", "/var/lib", "/"] {
            assert!(!room.sees(Path::new(hidden)), "{hidden}");
        }
    }

    #[tokio::test]
    async fn what_is_exposed_is_shown_read_only_and_what_is_hidden_in_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (tools, checkout, home) =
            (root.join("tools"), root.join("checkout"), root.join("home"));
        for path in [&tools.join("bin"), &tools.join("keys/public"), &checkout, &home] {
            fs::create_dir_all(path).unwrap();
        }
        let script = b"#!/bin/sh\ncd \"${0%/bin/*}\"; echo *; echo keys/*; (echo > new) 2> /dev/null || echo kept;
            (echo > keys/new) 2> /dev/null || echo kept; cat /proc/self/oom_score_adj";
        fs::write_atomic(&tools.join("bin/tool"), script, 0o755).unwrap();
        for name in ["keys/secret", "keys/public/key"] {
            fs::write_atomic(&tools.join(name), b"x", 0o644).unwrap();
        }
        let settings = RoomSettings {
            path: DEFAULT_PATH.into(),
            expose: vec![tools.join("keys/public"), tools.clone()],
            hide: vec![root.clone(), tools.join("keys")],
            ..RoomSettings::default()
        };
        let chosen = super::super::choose(settings, &root).await;
        if !chosen.room.isolated() {
            eprintln!("not tested: {}", chosen.detail);
            return;
        }
        let mut path = tools.join("bin").into_os_string();
        path.push(":/usr/bin:/bin");
        let job = Job {
            program: OsStr::new("tool"),
            arguments: &[],
            checkout: &checkout,
            home: &home,
            temporary: None,
            readable: &[],
            seen_at: None,
            environment: &[("PATH".into(), path)],
            network: true,
            entrances: &[],
        };
        let Wrapped { command, arguments: _arguments } = chosen.room.command(&job).unwrap();
        let output = tokio::process::Command::from(command).output();
        let output = tokio::time::timeout(PROBE_LIMIT, output).await.unwrap().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "bin keys\nkeys/public\nkept\nkept\n500\n", "{:?}", output.stderr);
    }
}

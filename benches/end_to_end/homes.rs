//! Homes and nodes of the program that is measured: nothing of the user's own home is read or written.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use baton_protocol::ticket::Ticket;
use serde_json::Value;

use crate::processes::{Ran, Scratch, cpu_seconds, end, memory, reset_peak, start};

/// A node that is not ready after this has failed.
const READY: Duration = Duration::from_mins(1);

/// A home below the scratch folder.
pub(crate) struct Home<'a> {
    scratch: &'a Scratch,
    program: PathBuf,
    pub(crate) folder: PathBuf,
}

/// What a command answered, and what it cost.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Value,
    pub(crate) ran: Ran,
}

impl Answered {
    pub(crate) fn text(&self, field: &str) -> &str {
        self.answer[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.answer))
    }

    pub(crate) fn count(&self, field: &str) -> u64 {
        self.answer[field].as_u64().unwrap_or_else(|| panic!("no {field} in {}", self.answer))
    }

    /// Milliseconds inside the daemon.
    pub(crate) fn inside_ms(&self) -> f64 {
        self.answer["timing_ms"]["total"].as_f64().unwrap_or_default()
    }
}

impl<'a> Home<'a> {
    /// A home that nothing has used.
    pub(crate) fn new(scratch: &'a Scratch, program: &Path, name: &str) -> Self {
        let folder = scratch.path(name);
        for name in ["user", "run"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        Self { scratch, program: program.to_owned(), folder }
    }

    fn command(&self) -> Command {
        let mut command = self.scratch.command(&self.program);
        let user = self.folder.join("user");
        command
            .env("HOME", &user)
            .env("XDG_CONFIG_HOME", user.join(".config"))
            .env("XDG_DATA_HOME", user.join(".local/share"))
            .env("XDG_STATE_HOME", user.join(".local/state"))
            .env("XDG_CACHE_HOME", user.join(".cache"))
            .env("XDG_RUNTIME_DIR", self.folder.join("run"))
            .env("CLAUDE_CONFIG_DIR", user.join(".claude"))
            .env("CODEX_HOME", user.join(".codex"))
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", user.join(".gitconfig"))
            .current_dir(&self.folder)
            .args(["--json", "--home"])
            .arg(self.baton());
        command
    }

    fn baton(&self) -> PathBuf {
        self.folder.join("baton")
    }

    /// Runs a command that must succeed.
    pub(crate) fn run(&self, args: &[&str]) -> Answered {
        let ran = self.scratch.must(self.command().args(args));
        let answer = serde_json::from_slice(&ran.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&ran.stdout)));
        Answered { answer, ran }
    }

    /// The same for one that answers line by line.
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<Value> {
        let ran = self.scratch.must(self.command().args(args));
        let text = String::from_utf8_lossy(&ran.stdout);
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Writes its configuration.
    pub(crate) fn configure(&self, text: &str) {
        let file = self.baton().join("config.toml");
        std::fs::create_dir_all(self.baton()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    /// Where a node keeps the folders of its runs.
    pub(crate) fn runs(&self) -> PathBuf {
        self.baton().join("runs")
    }

    /// Bytes of all that it keeps.
    pub(crate) fn stored(&self) -> u64 {
        crate::ground::size(&self.baton())
    }

    /// The process that keeps it, if there is one.
    pub(crate) fn daemon(&self) -> Option<u32> {
        let ran = self.scratch.run(self.command().args(["daemon", "status"]));
        let answer: Value = serde_json::from_slice(&ran.stdout).ok()?;
        u32::try_from(answer["pid"].as_u64()?).ok()
    }

    /// Ends its daemon, if there is one.
    pub(crate) fn stop(&self) {
        self.scratch.run(self.command().args(["daemon", "stop"]));
    }

    /// Trusts a node, at these addresses if there are any, else at its own.
    pub(crate) fn join(&self, node: &Node<'_>, at: Option<SocketAddr>) {
        let ticket = node.home.run(&["ticket"]);
        let mut ticket = Ticket::decode(ticket.text("ticket")).unwrap();
        if let Some(at) = at {
            ticket.addresses = vec![at.to_string()];
        }
        self.run(&["join", &ticket.encode()]);
    }

    /// Ends its daemon and deletes it.
    pub(crate) fn remove(self) {
        self.stop();
        self.scratch.remove(&self.folder);
    }
}

/// A node in the foreground, on loopback; ends when it is dropped.
pub(crate) struct Node<'a> {
    pub(crate) home: Home<'a>,
    child: Child,
    pub(crate) address: SocketAddr,
}

impl<'a> Node<'a> {
    /// Starts one, and waits until it is ready.
    pub(crate) fn start(home: Home<'a>) -> Self {
        // Free a moment ago, which is as much as one can know.
        let address = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let stdout = home.folder.join("serve.json");
        let mut command = home.command();
        command
            .args(["serve", "--listen", &address.to_string()])
            .stdout(File::create(&stdout).unwrap())
            .stderr(File::create(home.folder.join("serve.log")).unwrap());
        let child = start(&mut command);
        let mut node = Self { home, child, address };
        let patience = Instant::now() + READY;
        while !std::fs::read(&stdout).unwrap().ends_with(b"\n") {
            let ended = node.child.try_wait().unwrap();
            assert!(ended.is_none(), "the node ended: {ended:?}");
            assert!(Instant::now() < patience, "the node did not get ready");
            std::thread::sleep(Duration::from_millis(5));
        }
        node
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and deletes what it kept.
    pub(crate) fn remove(self) {
        let (scratch, folder) = (self.home.scratch, self.home.folder.clone());
        drop(self);
        scratch.remove(&folder);
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        end(self.child.id());
        drop(self.child.wait());
    }
}

/// What living processes cost from here on.
#[derive(Debug)]
pub(crate) struct Meter(Vec<(u32, f64)>);

impl Meter {
    pub(crate) fn start(pids: impl IntoIterator<Item = u32>) -> Self {
        let pids = pids.into_iter();
        Self(
            pids.map(|pid| {
                reset_peak(pid);
                (pid, cpu_seconds(pid))
            })
            .collect(),
        )
    }

    /// Seconds of processor time of all of them.
    pub(crate) fn cpu(&self) -> f64 {
        self.0.iter().map(|(pid, before)| cpu_seconds(*pid) - before).sum()
    }

    /// The peak of each, in bytes.
    pub(crate) fn peaks(&self) -> Vec<u64> {
        self.0.iter().map(|(pid, _)| memory(*pid, "VmHWM")).collect()
    }
}

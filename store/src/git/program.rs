//! Git itself, for what no library does: packing, unpacking, and refs in tables.
//!
//! **Invariant:** it runs in a folder that was made for it, with no environment but the one below, so that no
//! configuration, hook, filter or helper of a user or of a repository is read. It never reaches a
//! network, never asks, never fetches what is missing.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::GitError;

/// Most that is kept of what git says went wrong, in bytes.
const MAX_SAID: u64 = 64 * 1024;

/// Settings that hold whatever a folder says.
const SETTINGS: [&str; 10] = [
    "core.fsmonitor=false",
    "core.hooksPath=/dev/null",
    "core.attributesFile=/dev/null",
    "core.excludesFile=/dev/null",
    "core.pager=cat",
    "protocol.allow=never",
    "submodule.recurse=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "safe.bareRepository=all",
];

/// What makes a run durable: without it git syncs packs alone.
pub(super) const DURABLE: [&str; 2] = ["-c", "core.fsync=all"];

/// Environment that holds for every run.
const ENVIRONMENT: [(&str, &str); 13] = [
    ("LC_ALL", "C"),
    ("HOME", "/dev/null"),
    ("XDG_CONFIG_HOME", "/dev/null"),
    ("GIT_CONFIG_NOSYSTEM", "1"),
    ("GIT_CONFIG_GLOBAL", "/dev/null"),
    ("GIT_ATTR_NOSYSTEM", "1"),
    ("GIT_TERMINAL_PROMPT", "0"),
    ("GIT_OPTIONAL_LOCKS", "0"),
    ("GIT_NO_LAZY_FETCH", "1"),
    ("GIT_NO_REPLACE_OBJECTS", "1"),
    ("GIT_ALLOW_PROTOCOL", "none"),
    ("GIT_FLUSH", "0"),
    ("GIT_ADVICE", "0"),
];

/// The program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GitProgram(PathBuf);

impl GitProgram {
    /// Git at an absolute path.
    pub const fn new(program: PathBuf) -> Self {
        Self(program)
    }

    /// A run in the folder `git_dir`.
    pub(super) fn at(&self, git_dir: &Path) -> Run<'_> {
        let mut command = Command::new(&self.0);
        command.env_clear().current_dir(git_dir).env("GIT_DIR", git_dir);
        if let Some(folder) = self.0.parent() {
            command.env("PATH", folder);
        }
        command.envs(ENVIRONMENT);
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        Run { program: &self.0, command, memory: None }
    }
}

/// One run of git.
#[derive(Debug)]
pub(super) struct Run<'a> {
    program: &'a Path,
    command: Command,
    memory: Option<u64>,
}

/// What git left.
#[derive(Debug)]
pub(super) struct Ended<T> {
    /// What was made of its output.
    pub(super) value: T,
    /// What it complained of.
    pub(super) said: Vec<u8>,
    /// Whether it did what it was to do.
    pub(super) success: bool,
    /// With which number it ended; nothing where it was stopped.
    pub(super) code: Option<i32>,
}

impl<T> Ended<T> {
    /// The value, or what git said.
    pub(super) fn checked(self, doing: &'static str) -> Result<T, GitError> {
        if self.success {
            return Ok(self.value);
        }
        // It may quote names that somebody made up.
        let said = String::from_utf8_lossy(&self.said);
        let plain = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
        let said = said.trim().chars().take(500).map(plain).collect();
        Err(GitError::Git { doing, said })
    }
}

impl Run<'_> {
    pub(super) fn args<S: AsRef<std::ffi::OsStr>>(
        mut self,
        args: impl IntoIterator<Item = S>,
    ) -> Self {
        self.command.args(args);
        self
    }

    pub(super) fn env(mut self, name: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Limits its memory, in bytes, before it is given anything to read. Only Linux can.
    pub(super) fn memory(mut self, limit: u64) -> Self {
        self.memory = Some(limit);
        self
    }

    /// Runs it, writes its input on one thread and reads its output on this one.
    pub(super) fn run<T>(
        mut self,
        doing: &'static str,
        input: impl FnOnce(ChildStdin) -> std::io::Result<()> + Send,
        output: impl FnOnce(&mut ChildStdout) -> Result<T, GitError>,
    ) -> Result<Ended<T>, GitError> {
        let program = self.program.to_owned();
        let failed = |source| GitError::Run { program: program.clone(), doing, source };
        self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().map_err(failed)?;
        if let Some(limit) = self.memory
            && let Err(source) = limit_memory(&child, limit)
        {
            stop(&mut child);
            drop(child.wait());
            return Err(failed(source.into()));
        }
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(stdin), Some(mut stdout), Some(stderr)) = (stdin, stdout, stderr) else {
            return Err(failed(std::io::ErrorKind::BrokenPipe.into()));
        };
        let (value, said) = std::thread::scope(|scope| {
            // Git may end before it has read everything; its exit code says whether that is right.
            let writing = scope.spawn(move || drop(input(stdin)));
            let reading = scope.spawn(move || read_said(stderr));
            let value = output(&mut stdout);
            // If not all was read, git must not wait for it.
            drop(stdout);
            if value.is_err() {
                stop(&mut child);
            }
            drop(writing.join());
            (value, reading.join().unwrap_or_default())
        });
        let status = child.wait().map_err(failed)?;
        Ok(Ended { value: value?, said, success: status.success(), code: status.code() })
    }

    /// Runs it with this input, and gives its output of at most `limit` bytes.
    pub(super) fn bytes(
        self,
        doing: &'static str,
        input: &[u8],
        limit: u64,
    ) -> Result<Ended<Vec<u8>>, GitError> {
        let program = self.program.to_owned();
        self.run(
            doing,
            |mut stdin| stdin.write_all(input),
            |stdout| {
                let mut bytes = Vec::new();
                stdout.take(limit + 1).read_to_end(&mut bytes).map_err(|source| GitError::Run {
                    program,
                    doing,
                    source,
                })?;
                if bytes.len() as u64 > limit {
                    return Err(GitError::refused("what git says", "it is too long"));
                }
                Ok(bytes)
            },
        )
    }
}

#[cfg(target_os = "linux")]
fn limit_memory(child: &Child, limit: u64) -> Result<(), rustix::io::Errno> {
    use rustix::process::{Pid, Resource, Rlimit, prlimit};
    let limit = Rlimit { current: Some(limit), maximum: Some(limit) };
    prlimit(Some(Pid::from_child(child)), Resource::Data, limit).map(|_| ())
}

#[cfg(not(target_os = "linux"))]
fn limit_memory(_child: &Child, _limit: u64) -> Result<(), rustix::io::Errno> {
    Ok(())
}

fn stop(child: &mut Child) {
    // It may have ended by itself.
    drop(child.kill());
}

/// Reads to the end, and keeps the beginning.
fn read_said(mut from: impl Read) -> Vec<u8> {
    let mut said = Vec::new();
    drop(from.by_ref().take(MAX_SAID).read_to_end(&mut said));
    drop(std::io::copy(&mut from, &mut std::io::sink()));
    said
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_says_cannot_act_on_a_terminal() {
        let said = b"fatal: \x1b]0;evil\x07\nrest".to_vec();
        let error =
            Ended { value: (), said, success: false, code: Some(1) }.checked("x").unwrap_err();
        assert!(
            !error.to_string().contains(['\u{1b}', '\u{7}']) && error.to_string().contains("rest")
        );
    }
}

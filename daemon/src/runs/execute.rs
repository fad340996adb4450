//! One program, from its start to the end of everything that it started.
//!
//! Blocking, on a thread of its own: a process in a room dies with the *thread* that started it, so that
//! this must not be one that a runtime may end.
//!
//! Not here: what the program is, and when it is asked to end ([`life`](super::life)).
//!
//! **Invariant:** when [`execute`] returns, the leader was waited for, and every other process of the run
//! was killed.

use std::io::{self, PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStderr, ChildStdout, ExitStatus, Stdio};
use std::sync::Arc;

use baton_protocol::id::RunId;
use baton_protocol::message::LogStream;
use baton_store::fs::{self, FsError};
use baton_store::secrets::known::KnownValues;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::sync::watch;

use super::hearing::Hearing;
use super::limits::Held;
use super::log::writer::Log;
use super::mask::MaskedLines;
use super::process::Processes;
use crate::clock::Clock;
use crate::rooms::Wrapped;

/// Read at once; what a pipe holds by default.
const BUFFER: usize = 64 * 1024;

/// After so long without output a line that has begun is shown: it may be a question.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };

/// How long a pipe may stay open and silent once every process of the run is gone.
const DRAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Most reads then: a pipe holds at most 1 MiB, and whoever still writes is not the run's.
const MAX_DRAIN: u32 = 64;

/// A program did not run to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExecuteError {
    /// It could not be started.
    #[error("the program could not be started")]
    Start(#[source] io::Error),
    /// Its process could not be written down, so that a later daemon would not find it.
    #[error("the program was ended at once, because its process could not be recorded")]
    Record(#[source] FsError),
    /// It was lost sight of.
    #[error("waiting for the program failed")]
    Wait(#[source] io::Error),
}

/// What is to be executed. Its command has values in its environment, so that it is not shown.
pub(super) struct Execution {
    pub(super) run: RunId,
    pub(super) wrapped: Wrapped,
    /// Its standard input.
    pub(super) input: Stdio,
    /// As in [`Room::layers`](crate::rooms::Room::layers).
    pub(super) layers: usize,
    /// As in [`Room::enters`](crate::rooms::Room::enters).
    pub(super) enters: bool,
    /// Its limits.
    pub(super) held: Arc<Held>,
    pub(super) log: Arc<Log>,
    /// What must not be in the log.
    pub(super) known: Option<Arc<KnownValues>>,
    /// Who understands what it says on its standard output.
    pub(super) hearing: Option<Hearing>,
    pub(super) clock: Clock,
    /// Gets the processes once they are there.
    pub(super) started: watch::Sender<Option<Arc<Processes>>>,
}

/// Starts a program, records its output until it ends, and ends what it leaves behind. Returns its exit
/// code: its own, or 128 and the signal.
pub(super) fn execute(execution: Execution, record: &Path) -> Result<i32, ExecuteError> {
    let Execution { run, wrapped, input, layers, enters, held, log, known, .. } = execution;
    let (hearing, clock, started) = (execution.hearing, execution.clock, execution.started);
    // What it is told is read when it has started.
    let Wrapped { mut command, arguments: _arguments } = wrapped;
    let (exited, exit) = io::pipe().map_err(ExecuteError::Start)?;
    let mut child = command
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(ExecuteError::Start)?;
    // With it goes our end of its input, so that we notice when nobody reads it any more.
    drop(command);
    let leader = Pid::from_child(&child);
    let processes = Arc::new(Processes::new(run, leader, layers, Arc::clone(&held.group)));
    if !enters {
        processes.enter();
    }
    let mut output = Output {
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
        lines: [(); 2].map(|()| MaskedLines::new(known.as_ref())),
        hearing,
        log,
        clock,
    };
    let recorded = processes.record().write(record);
    let watched = recorded.is_ok().then(|| {
        held.watch(&processes);
        // Nobody may wait for it: then the run goes on all the same.
        started.send_replace(Some(Arc::clone(&processes)));
        let wait = move || {
            wait_for_exit(leader);
            drop(exit);
        };
        std::thread::Builder::new().name("run-wait".to_owned()).spawn(wait)
    });
    if let Some(Ok(_)) = watched {
        output.record_until(&exited);
    }
    if !processes.kill() {
        tracing::warn!(%run, "some processes of a run cannot be killed");
    }
    output.drain();
    let status = processes.reap(|| child.wait());
    if let Some(waiter) = watched {
        // It panics nowhere; joined so that none is left when we return.
        drop(waiter.map_err(ExecuteError::Start)?.join());
    }
    recorded.map_err(ExecuteError::Record)?;
    if let Err(error) = fs::remove_file(record) {
        tracing::warn!(%run, %error, "the record of a process stays behind");
    }
    Ok(exit_code(status.map_err(ExecuteError::Wait)?))
}

/// Returns when the process has ended, and leaves it to be waited for: until then its number, and that of
/// its group, are nobody else's.
fn wait_for_exit(leader: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(leader), options), Err(rustix::io::Errno::INTR)) {}
}

fn exit_code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// Both streams of a program on their way to its log.
struct Output {
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    lines: [MaskedLines; 2],
    hearing: Option<Hearing>,
    log: Arc<Log>,
    clock: Clock,
}

impl Output {
    /// Reads until the other end of `exited` is closed.
    fn record_until(&mut self, exited: &PipeReader) {
        let mut buffer = vec![0; BUFFER];
        loop {
            let begun = self.lines.iter().any(MaskedLines::has_begun);
            let (stdout, stderr, done) = self.wait(Some(exited), begun.then_some(&PATIENCE));
            if !(stdout || stderr || done) {
                self.idle();
            }
            self.read(stdout, stderr, &mut buffer);
            if done {
                return;
            }
        }
    }

    /// Reads what is left in the pipes.
    fn drain(&mut self) {
        let mut buffer = vec![0; BUFFER];
        for _ in 0..MAX_DRAIN {
            if self.stdout.is_none() && self.stderr.is_none() {
                break;
            }
            let (stdout, stderr, _) = self.wait(None, Some(&DRAIN));
            if !(stdout || stderr) {
                break;
            }
            self.read(stdout, stderr, &mut buffer);
        }
        self.stdout = None;
        self.stderr = None;
        self.end();
    }

    /// Which of standard output, standard error and `exited` have something; none of them after `limit`.
    fn wait(&self, exited: Option<&PipeReader>, limit: Option<&Timespec>) -> (bool, bool, bool) {
        let sources = [
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
            exited.map(AsFd::as_fd),
        ];
        let mut polled: Vec<_> =
            sources.iter().flatten().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        while poll(&mut polled, limit) == Err(rustix::io::Errno::INTR) {}
        let mut ready = polled.iter().map(|fd| !fd.revents().is_empty());
        let [stdout, stderr, exited] =
            sources.map(|source| source.is_some() && ready.next().unwrap_or(false));
        (stdout, stderr, exited)
    }

    fn read(&mut self, stdout: bool, stderr: bool, buffer: &mut [u8]) {
        let [out, err] = &mut self.lines;
        let (log, clock) = (&self.log, &self.clock);
        let out = (out, self.hearing.as_mut());
        if stdout && !read_one(&mut self.stdout, out, LogStream::Stdout, log, clock, buffer) {
            self.stdout = None;
        }
        let err = (err, None);
        if stderr && !read_one(&mut self.stderr, err, LogStream::Stderr, log, clock, buffer) {
            self.stderr = None;
        }
    }

    /// Shows the lines that have begun.
    fn idle(&mut self) {
        let [out, err] = &mut self.lines;
        self.log.append(self.clock.now_ms(), |add| {
            out.idle(|piece| add(LogStream::Stdout, piece));
            err.idle(|piece| add(LogStream::Stderr, piece));
        });
    }

    /// Shows what is left of both streams.
    fn end(&mut self) {
        let [out, err] = &mut self.lines;
        let (log, clock) = (&self.log, &self.clock);
        if let Some(mut hearing) = self.hearing.take() {
            hearing.end(|text| show(text, out, LogStream::Stdout, log, clock));
        }
        self.log.append(self.clock.now_ms(), |add| {
            out.end(|piece| add(LogStream::Stdout, piece));
            err.end(|piece| add(LogStream::Stderr, piece));
        });
    }
}

/// Writes output to the log.
fn show(bytes: &[u8], lines: &mut MaskedLines, stream: LogStream, log: &Log, clock: &Clock) {
    log.append(clock.now_ms(), |add| lines.push(bytes, |piece| add(stream, piece)));
}

/// Returns whether more may come.
fn read_one(
    from: &mut Option<impl Read>,
    (lines, hearing): (&mut MaskedLines, Option<&mut Hearing>),
    stream: LogStream,
    log: &Log,
    clock: &Clock,
    buffer: &mut [u8],
) -> bool {
    let Some(source) = from else { return false };
    match source.read(buffer) {
        Ok(0) => {
            log.append(clock.now_ms(), |add| lines.end(|piece| add(stream, piece)));
            false
        }
        Ok(length) => {
            let bytes = buffer.get(..length).unwrap_or_default();
            match hearing {
                Some(hearing) => hearing.push(bytes, |text| show(text, lines, stream, log, clock)),
                None => show(bytes, lines, stream, log, clock),
            }
            true
        }
        Err(error) => error.kind() == io::ErrorKind::Interrupted,
    }
}

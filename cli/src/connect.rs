//! Finds the daemon of a home, starts one where there is none, and replaces one of another version.
//!
//! Not here: what is asked of it.
//!
//! **Invariant:** a daemon that serves others, or has a run going, is never stopped on the side: the
//! command fails and says what to do.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::Duration;

use baton_daemon::api::control::{Answer, Command, DaemonAnswer, Event};
use baton_daemon::api::socket::{CallError, ConnectError, ControlClient, OTHER_VERSION, VERSION};
use baton_store::fs::{self, Context};

use crate::env::Env;
use crate::error::{CONFLICT, CliError, chain};

/// How long a daemon may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a daemon may take to say that it is there.
const PING: Duration = Duration::from_secs(5);

/// The first look after the start; each next one waits half as long again, up to [`SLOWEST`].
const FIRST: Duration = Duration::from_millis(2);
const SLOWEST: Duration = Duration::from_millis(50);

/// What makes the C library of Linux give memory back that a daemon needed for a first sync, and not for
/// what comes after; measured on a million files: 115 MB instead of 165.
pub(crate) const GIVE_BACK: [(&str, &str); 2] =
    [("MALLOC_ARENA_MAX", "2"), ("MALLOC_TRIM_THRESHOLD_", "262144")];

/// A daemon log is set aside at the next start when it is larger.
const LARGE_LOG: u64 = 8 * 1024 * 1024;

/// Of a daemon that failed to start, the end of its log is shown.
const TAIL: u64 = 2048;
const TAIL_LINES: usize = 8;

/// Connects, and starts a daemon where none answers.
pub(crate) fn open(env: &Env) -> Result<ControlClient, CliError> {
    match running(env)? {
        Some(client) => Ok(client),
        None => start(env),
    }
}

/// Connects if a daemon answers.
pub(crate) fn running(env: &Env) -> Result<Option<ControlClient>, CliError> {
    match ControlClient::connect(&env.home.socket) {
        Ok(client) => Ok(Some(client)),
        Err(ConnectError::Nobody { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Who answers, if anybody does.
pub(crate) fn ping(env: &Env) -> Result<Option<DaemonAnswer>, CliError> {
    let Some(client) = running(env)? else { return Ok(None) };
    client.set_patience(Some(PING))?;
    match last(client, &Command::Ping) {
        Ok(Answer::Daemon(answer)) => Ok(Some(answer)),
        Ok(_) => Err(CliError::unexpected()),
        // It was killed, and its socket is about to close.
        Err(error) if error.is("daemon-gone") => Ok(None),
        Err(error) => Err(error),
    }
}

/// Stops a daemon and waits until it has let go of its home; nothing where none answers.
pub(crate) fn stop(env: &Env, if_idle: bool) -> Result<Option<DaemonAnswer>, CliError> {
    let Some(client) = running(env)? else { return Ok(None) };
    let Answer::Stopped(answer) = last(client, &Command::Stop { if_idle })? else {
        return Err(CliError::unexpected());
    };
    let gone = || {
        let answers = matches!(running(env), Ok(Some(_)));
        !answers && !answer.pid.is_some_and(is_alive)
    };
    if !poll(|| gone().then_some(())).is_some_and(|()| true) {
        return Err(CliError::new("daemon-stuck", "the daemon was asked to stop and still runs")
            .hint("baton daemon status"));
    }
    Ok(Some(answer))
}

/// Stops a daemon of another version, so that the next call starts one of this version.
pub(crate) fn replace(env: &Env) -> Result<(), CliError> {
    let refused = |what: &str, hint: &str| {
        CliError::new(OTHER_VERSION, format!("{what}; this command line is version {VERSION}"))
            .hint(hint)
    };
    if let Ok(Some(daemon)) = ping(env)
        && daemon.serving
    {
        let version = daemon.version.unwrap_or_default();
        let what = format!("the cloud node of this home runs version {version}");
        return Err(refused(&what, "end that `baton serve` and start it again"));
    }
    match stop(env, true) {
        Ok(_) => Ok(()),
        Err(CliError::Failed(report)) if report.code != "daemon-stuck" => {
            let what = format!(
                "the daemon of this home is of another version and busy ({})",
                report.message
            );
            Err(refused(&what, "wait for its runs (baton runs), or baton daemon stop"))
        }
        Err(error) => Err(error),
    }
}

/// The last event of a call, for calls that have only one.
fn last(client: ControlClient, command: &Command) -> Result<Answer, CliError> {
    for event in client.call(command)? {
        match event? {
            Event::Done(answer) => return Ok(*answer),
            Event::Failed(failure) => return Err(failure.into()),
            Event::Progress(_) | Event::Accepted { .. } | Event::Note { .. } | Event::Line(_) => {}
        }
    }
    Err(CallError::Ended.into())
}

/// Starts a daemon of this program in the background and connects to it.
fn start(env: &Env) -> Result<ControlClient, CliError> {
    let log = env.home.daemon_log();
    let failed = |why: String| {
        CliError::new("daemon-start", format!("the daemon did not start: {why}"))
            .hint("baton daemon run -v")
    };
    let mut before = prepare_log(&log).map_err(|error| failed(chain(&error)))?;
    let mut child = spawn(env, &log)?;
    let mut outcome = None;
    let connected = poll(|| {
        match running(env) {
            Ok(Some(client)) => return Some(Ok(client)),
            Ok(None) => {}
            Err(error) => return Some(Err(error)),
        }
        match child.try_wait() {
            Ok(None) => None,
            // Another one has the home: it is starting, and will answer, or stopping, and the next
            // one can have it.
            Ok(Some(status)) if status.code() == Some(CONFLICT.into()) => {
                before = log_length(&log);
                match spawn(env, &log) {
                    Ok(next) => child = next,
                    Err(error) => return Some(Err(error)),
                }
                None
            }
            Ok(Some(status)) => {
                outcome = Some(status);
                Some(Err(CliError::unexpected()))
            }
            Err(error) => Some(Err(failed(error.to_string()))),
        }
    });
    match (connected, outcome) {
        (Some(_), Some(status)) => Err(failed(format!("{status}{}", tail(&log, before)))),
        (Some(connected), None) => connected,
        (None, _) => Err(failed(format!(
            "it does not answer at {} after {} s{}",
            env.home.socket.display(),
            PATIENCE.as_secs(),
            tail(&log, before)
        ))),
    }
}

fn spawn(env: &Env, log: &Path) -> Result<Child, CliError> {
    let failed = |error: &dyn std::error::Error| {
        CliError::caused("daemon-start", "the daemon cannot be started", error)
            .hint("baton daemon run -v")
    };
    let program = std::env::current_exe().map_err(|error| failed(&error))?;
    let mut process = Process::new(program);
    if let Some(dir) = &env.home_dir {
        process.arg("--home").arg(dir);
    }
    process
        .args(["daemon", "run", "--detached"])
        // What is true for the command that happens to come first is not for the daemon.
        .env_remove("BATON_HOME")
        .env_remove("BATON_RUN")
        .envs(GIVE_BACK)
        .env_remove("NOTIFY_SOCKET")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::open_append(log).map_err(|error| failed(&error))?);
    process.spawn().map_err(|error| failed(&error))
}

/// Makes room for the log, and says how long it is.
fn prepare_log(log: &Path) -> Result<u64, fs::FsError> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder)?;
    }
    if log_length(log) > LARGE_LOG {
        fs::rename(log, &log.with_extension("log.old"))?;
    }
    Ok(log_length(log))
}

fn log_length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |found| found.len())
}

/// What was logged after `from`, its last lines, each on a line of its own.
fn tail(log: &Path, from: u64) -> String {
    let read = || {
        let mut file = fs::open(log)?;
        let start = from.max(log_length(log).saturating_sub(TAIL));
        file.seek(SeekFrom::Start(start)).context("reading", log)?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes).context("reading", log)?;
        Ok::<_, fs::FsError>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let shown = lines.get(lines.len().saturating_sub(TAIL_LINES)..).unwrap_or_default();
    if shown.is_empty() {
        return format!("; its log is {}", log.display());
    }
    format!("; its log ({}) ends with\n  {}", log.display(), shown.join("\n  "))
}

/// Looks until there is something to return, or [`PATIENCE`] is over.
fn poll<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let (mut waited, mut pause) = (Duration::ZERO, FIRST);
    loop {
        if let found @ Some(_) = look() {
            return found;
        }
        if waited >= PATIENCE {
            return None;
        }
        std::thread::sleep(pause);
        waited += pause;
        pause = (pause * 3 / 2).min(SLOWEST);
    }
}

/// Whether a process still has its files open. One that only waits for its parent has not.
fn is_alive(pid: u32) -> bool {
    if cfg!(target_os = "linux") {
        let stat = fs::read_if_exists(Path::new(&format!("/proc/{pid}/stat")), 4096);
        let Ok(Some(stat)) = stat else { return false };
        let stat = String::from_utf8_lossy(&stat);
        let state = stat.rsplit(')').next().and_then(|rest| rest.trim_start().chars().next());
        return !matches!(state, Some('Z' | 'X') | None);
    }
    i32::try_from(pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw)
        .is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_shows_only_what_this_start_logged() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("sub/daemon.log");
        assert_eq!(prepare_log(&log).unwrap(), 0);
        assert!(tail(&log, 0).contains("its log is"));
        fs::write_atomic(&log, b"old\n", 0o600).unwrap();
        let before = prepare_log(&log).unwrap();
        let new: String =
            (0..20).fold("old\n".to_owned(), |text, at| text + &format!("line {at}\n"));
        fs::write_atomic(&log, new.as_bytes(), 0o600).unwrap();
        let text = tail(&log, before);
        assert!(text.ends_with("line 19") && text.contains("line 12\n"), "{text}");
        assert!(!text.contains("old") && !text.contains("line 11\n"), "{text}");
    }

    #[test]
    fn a_large_log_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("daemon.log");
        fs::create_new(&log).unwrap().set_len(LARGE_LOG + 1).unwrap();
        assert_eq!(prepare_log(&log).unwrap(), 0);
        assert!(folder.path().join("daemon.log.old").exists());
    }

    #[test]
    fn a_process_that_waits_for_its_parent_is_not_alive() {
        assert!(is_alive(std::process::id()));
        let mut child = Process::new("true").spawn().unwrap();
        let pid = child.id();
        assert!(poll(|| (!is_alive(pid)).then_some(())).is_some());
        child.wait().unwrap();
        assert!(!is_alive(pid));
    }
}

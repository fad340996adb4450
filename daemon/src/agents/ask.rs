//! Asking an agent's program which one it is, whether somebody is logged in, and whether a model answers it.
//!
//! Not here: the words, which are the adapter's; how a command is made, which whoever asks says: plainly, or in a room.
//!
//! **Invariant:** a program that is asked ends when its time is up, and what it started ends with it; no more than [`MAX_OUTPUT`]
//! of what it says is kept.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::adapter::Agent;
use super::start::{Invocation, Login};
use super::talk::Heard;

/// How long a program may take to say who it is. The slowest that was seen takes two seconds the first time.
const LIMIT: Duration = Duration::from_secs(20);

/// How long a turn may take. Models that think first were seen to take half a minute.
const TURN_LIMIT: Duration = Duration::from_secs(90);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Bytes of what it says that are read, of either stream.
pub(super) const MAX_OUTPUT: u64 = 64 * 1024;

/// The same of a turn, in which what the program says of itself stands before the answer.
const MAX_TURN: u64 = 1024 * 1024;

/// What it is asked in a turn: something that needs no tool, and few words.
pub const QUESTION: &str = "Answer with the single word: ready";

/// A command that is to be started, and what it reads when it has started.
#[derive(Debug)]
pub struct Made {
    /// The command. Its streams and its group are set here.
    pub command: std::process::Command,
    /// To be kept until it has ended.
    pub kept: Option<std::fs::File>,
}

/// Why no command could be made.
pub type MakeError = Box<dyn std::error::Error + Send + Sync>;

/// How the command of a program is made from its arguments and the variables that it is to have beside others.
pub trait Make: Fn(&[OsString], &[(String, String)]) -> Result<Made, MakeError> {}

impl<T: Fn(&[OsString], &[(String, String)]) -> Result<Made, MakeError>> Make for T {}

/// Where a program is asked that is started plainly.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The program.
    pub program: PathBuf,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working folder.
    pub folder: PathBuf,
}

impl Asking {
    /// How its command is made.
    pub fn make(&self) -> impl Make + '_ {
        |arguments: &[OsString], variables: &[(String, String)]| {
            let mut command = std::process::Command::new(&self.program);
            command
                .args(arguments)
                .env_clear()
                .envs(self.environment.iter().map(|(name, value)| (name, value)))
                .envs(variables.iter().map(|(name, value)| (name, value)))
                .current_dir(&self.folder);
            Ok(Made { command, kept: None })
        }
    }
}

/// What a program said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its version; nothing where what it said is not what the agent says.
    pub version: Option<String>,
    /// The first line of what it said instead.
    pub other: String,
    /// Whether somebody is logged in.
    pub login: Login,
}

/// A program could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// There is no command to start it.
    #[error(transparent)]
    Make(MakeError),
    /// It could not be started.
    #[error("it could not be started")]
    Start(#[source] std::io::Error),
    /// It did not end in time.
    #[error("it did not answer within {} s", limit.as_secs())]
    TooSlow {
        /// How long it was waited for.
        limit: Duration,
    },
}

/// The first program of this name in the absolute folders of a `PATH`, or the one at a path.
pub fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|file| file.is_absolute() && is_program(file));
    }
    let folders = std::env::split_paths(path).filter(|folder| folder.is_absolute());
    folders.map(|folder| folder.join(name)).find(|file| !name.is_empty() && is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    let found = file.metadata();
    found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Asks a program for its version, and, where it has one, whether somebody is logged in.
pub async fn ask(agent: &dyn Agent, make: &impl Make) -> Result<Told, AskError> {
    let said = output(made(make, &["--version"])?, &[], LIMIT, MAX_OUTPUT).await?;
    let version = agent.version(said.words());
    let other = said.words().lines().next().unwrap_or_default().chars().take(200).collect();
    let arguments = agent.login_arguments();
    if arguments.is_empty() || version.is_none() {
        return Ok(Told { version, other, login: Login::Unknown });
    }
    let login = match output(made(make, arguments)?, &[], LIMIT, MAX_OUTPUT).await {
        Ok(said) => agent.login(said.success, said.words()),
        Err(error) => {
            tracing::debug!(%error, "nobody knows whether somebody is logged in");
            Login::Unknown
        }
    };
    Ok(Told { version, other, login })
}

/// Has a program do one turn, which asks its model and needs no tool: nothing where it was answered, or else why not, in the
/// program's own words.
pub async fn turn(
    agent: &dyn Agent,
    invocation: &Invocation,
    make: &impl Make,
) -> Result<Result<(), String>, AskError> {
    let arguments = invocation.arguments.iter().map(OsString::from);
    let made = make(&arguments.collect::<Vec<_>>(), &invocation.environment);
    let made = made.map_err(AskError::Make)?;
    let said = output(made, &invocation.input, TURN_LIMIT, MAX_TURN).await?;
    let heard = said.out.lines().filter_map(|line| agent.hear(line.as_bytes())).flatten();
    let (mut text, mut failed, mut ended) = (String::new(), None, false);
    for heard in heard {
        match heard {
            Heard::Text(more) => text = more,
            Heard::TurnEnded(how) => {
                ended = true;
                failed = how.err().or(failed);
            }
            Heard::Session(_) | Heard::Asks(_) | Heard::Unasks(_) => {}
        }
    }
    if ended && failed.is_none() && said.success {
        return Ok(Ok(()));
    }
    // What it says last is why; without words of its own what stands on the other stream.
    let last =
        |text: &str| text.lines().rev().map(str::trim).find(|it| !it.is_empty()).map(str::to_owned);
    let why = failed.filter(|why| !why.trim().is_empty()).or_else(|| last(&text));
    let why = why.or_else(|| last(&said.err)).or_else(|| last(&said.out));
    Ok(Err(why.unwrap_or_else(|| "it said nothing".to_owned())))
}

/// What to do where a turn came to nothing, by the program's own words: what they are about, as far as they tell. `keys` says
/// how it is given a key.
pub fn remedy(agent: &dyn Agent, why: &str, keys: &str) -> String {
    let why = why.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| why.contains(word));
    if has(&[
        "401",
        "403",
        "unauthorized",
        "api key",
        "api_key",
        "apikey",
        "log in",
        "login",
        "authenticat",
    ]) {
        return keys.to_owned();
    }
    if has(&[
        "429",
        "quota",
        "rate limit",
        "rate_limit",
        "credit",
        "billing",
        "overloaded",
        "529",
        "503",
    ]) {
        return "wait, or look at what the account may use; then type the command again".to_owned();
    }
    if has(&[
        "connect",
        "network",
        "enotfound",
        "eai_again",
        "getaddrinfo",
        "dns",
        "resolve",
        "fetch failed",
        "proxy",
        "error sending request",
        "tls",
        "certificate",
        "offline",
    ]) {
        let name = agent.name();
        return format!(
            "see that it reaches its provider: [agents.{name}] network, and a proxy in its env (HTTPS_PROXY)"
        );
    }
    if has(&["model", "404", "not found", "not_found"]) {
        let name = agent.name();
        return format!("name another model: baton handoff --model M, or args of [agents.{name}]");
    }
    format!("try it there: {} -p hello, or as it is started without a terminal", agent.program())
}

/// The same as [`ask`], where nothing else runs.
pub fn ask_here(agent: &dyn Agent, make: &impl Make) -> Result<Told, AskError> {
    here(ask(agent, make))
}

/// The same as [`turn`], where nothing else runs.
pub fn turn_here(
    agent: &dyn Agent,
    invocation: &Invocation,
    make: &impl Make,
) -> Result<Result<(), String>, AskError> {
    here(turn(agent, invocation, make))
}

fn here<T>(work: impl Future<Output = Result<T, AskError>>) -> Result<T, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(AskError::Start)?.block_on(work)
}

fn made(make: &impl Make, arguments: &[&str]) -> Result<Made, AskError> {
    let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
    make(&arguments, &[]).map_err(AskError::Make)
}

/// How a program ended, and what it said.
#[derive(Debug)]
pub(super) struct Said {
    /// Whether it did what it was to do, as far as its exit code says.
    pub(super) success: bool,
    pub(super) out: String,
    pub(super) err: String,
}

impl Said {
    /// One of the streams may be none of its words but a warning.
    fn words(&self) -> &str {
        if self.out.is_empty() { &self.err } else { &self.out }
    }
}

/// Runs a program to its end; what it started ends with it.
pub(super) async fn output(
    made: Made,
    input: &[u8],
    limit: Duration,
    most: u64,
) -> Result<Said, AskError> {
    let mut child = Command::from(made.command)
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(AskError::Start)?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (stdin, out, err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut stdin) = stdin {
            // One that does not want it says so in its own way.
            drop(stdin.write_all(input).await);
        }
    };
    let ended = async {
        wait(group).await;
        kill(group);
    };
    let all = async { tokio::join!(write, ended, first(out, most), first(err, most)) };
    let said = tokio::time::timeout(limit, all).await;
    // Its number is its own until it is waited for.
    kill(group);
    let status = child.wait().await.map_err(AskError::Start)?;
    let ((), (), out, err) = said.map_err(|_| AskError::TooSlow { limit })?;
    drop(made.kept);
    Ok(Said { success: status.success(), out, err })
}

/// Ends it with what it started, which may have gone already.
fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        let _ = kill_process_group(group, Signal::KILL);
    }
}

/// Resolves when it has ended, and leaves it to be waited for.
async fn wait(child: Option<Pid>) {
    let Some(child) = child else { return };
    let how = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    while let Ok(None) = waitid(WaitId::Pid(child), how) {
        tokio::time::sleep(LOOK).await;
    }
}

/// The beginning of what comes. Then the stream is closed: whoever goes on talking is told so.
async fn first(from: Option<impl AsyncRead + Unpin>, most: u64) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from
        && let Err(error) = from.take(most).read_to_end(&mut bytes).await
    {
        tracing::debug!(%error, "what a program said was not read to its end");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use baton_protocol::message::Permissions;

    use super::super::claude::Claude;
    use super::super::start::{Start, Task};
    use super::*;

    /// Written by another process: whoever is started meanwhile would hold the file open as one that is being written.
    fn program(folder: &Path, script: &str) -> Asking {
        let program = folder.join("claude");
        let text = format!("#!/bin/sh\n{script}\n");
        let write =
            r#"printf %s "$1" > claude.new && chmod 755 claude.new && mv claude.new claude"#;
        let mut shell = std::process::Command::new("sh");
        let written = shell.args(["-c", write, "sh", &text]).current_dir(folder).status();
        assert!(written.unwrap().success());
        Asking {
            program,
            environment: vec![("PATH".into(), "/usr/bin:/bin".into())],
            folder: folder.to_owned(),
        }
    }

    #[tokio::test]
    async fn a_program_is_asked_with_the_environment_it_is_given() {
        let folder = tempfile::tempdir().unwrap();
        let script = r#"test -n "$HOME" && exit 9
case "$*" in
    --version) echo "2.1.330 (Claude Code)" ;;
    "auth status") echo '{"loggedIn": true, "authMethod": "api_key"}'; yes | head -c 30000 >&2 ;;
esac"#;
        let told = ask(&Claude, &program(folder.path(), script).make()).await.unwrap();
        assert_eq!(told.version.as_deref(), Some("2.1.330"));
        assert_eq!(told.login, Login::Yes("api_key".to_owned()));

        let told =
            ask(&Claude, &program(folder.path(), "echo other 1.0; exit 3").make()).await.unwrap();
        let other = "other 1.0".to_owned();
        assert_eq!(told, Told { version: None, other, login: Login::Unknown });
        // One that never stops talking.
        let told = ask(&Claude, &program(folder.path(), "exec yes").make()).await.unwrap();
        assert_eq!(told.version, None);
        let mut none = program(folder.path(), "");
        none.program = folder.path().join("none");
        assert!(matches!(ask(&Claude, &none.make()).await, Err(AskError::Start(_))));
    }

    #[tokio::test]
    async fn one_that_leaves_something_behind_is_not_waited_for_and_that_ends() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join("left");
        let script =
            format!("sleep 1000 & echo $! > {}; echo '2.1.330 (Claude Code)'", left.display());
        let told = ask(&Claude, &program(folder.path(), &script).make()).await.unwrap();
        assert_eq!(told.version.as_deref(), Some("2.1.330"));
        let pid: i32 = std::fs::read_to_string(left).unwrap().trim().parse().unwrap();
        // It was killed; the kernel may need a moment for that.
        let stat = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_gone = || stat().is_empty() || stat().contains(") Z ");
        let ends = async {
            while !is_gone() {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::time::timeout(LIMIT, ends).await.unwrap();
    }

    #[tokio::test]
    async fn a_turn_is_answered_or_says_why_not_and_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let task = Task {
            prompt: QUESTION,
            model: None,
            approval: Permissions::Ask,
            is_isolated: true,
            is_heard: false,
            told: None,
        };
        let mut invocation = Claude.start(&Start::New { id: None }, &task);
        Claude.trial().apply(&mut invocation, &["--more".to_owned()]);
        let said = async |script: &str| {
            let asking = program(folder.path(), script);
            turn(&Claude, &invocation, &asking.make()).await.unwrap()
        };
        let good = r#"read -r asked; test "$asked" = "Answer with the single word: ready" || exit 1
case "$* $CLAUDE_CODE_MAX_RETRIES" in *"--more --no-session-persistence 1") ;; *) exit 1 ;; esac
echo '{"type":"assistant","message":{"content":[{"type":"text","text":"ready"}]}}'
echo '{"type":"result","subtype":"success","is_error":false,"result":"ready"}'"#;
        assert_eq!(said(good).await, Ok(()));
        // It ends well and says nothing; it fails and says why, in either way.
        assert_eq!(said("cat > /dev/null").await, Err("it said nothing".to_owned()));
        let failed = r#"echo '{"type":"result","subtype":"success","is_error":true,"result":"API Error: 401 invalid x-api-key"}'; exit 1"#;
        let why = said(failed).await.unwrap_err();
        assert!(why.contains("401"), "{why}");
        assert_eq!(remedy(&Claude, &why, "set a key"), "set a key");
        let why = said("echo warning >&2; echo 'getaddrinfo ENOTFOUND api' >&2; exit 1").await;
        let why = why.unwrap_err();
        assert_eq!(why, "getaddrinfo ENOTFOUND api");
        assert!(remedy(&Claude, &why, "").contains("HTTPS_PROXY"));
        assert!(remedy(&Claude, "model: claude-x not_found_error", "").contains("--model"));
        assert!(remedy(&Claude, "429 rate_limit_error", "").contains("wait"));
        assert!(remedy(&Claude, "?", "").contains("claude"));
    }

    #[test]
    fn a_program_is_looked_up_in_absolute_folders_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = program(folder.path(), "").program;
        let path = format!("relative::{}:/usr/bin", folder.path().display());
        let find = |name: &str| find_program(name, path.as_ref());
        assert_eq!(find("claude"), Some(file.clone()));
        assert_eq!(find(file.to_str().unwrap()), Some(file));
        for not in ["", ".", "none", "./claude", "../claude"] {
            assert_eq!(find(not), None, "{not}");
        }
    }
}

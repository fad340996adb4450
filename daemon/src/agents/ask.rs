//! Asking an agent's program which one it is, and whether somebody is logged in.
//!
//! Not here: the words, which are the adapter's; rooms and runs, which start programs for a user's work.
//!
//! **Invariant:** a program that is asked has the environment it is given here and no other; it ends when its time is up,
//! and so does what it started.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::adapter::Agent;
use super::start::Login;

/// How long a program may take to say who it is. The slowest that was seen takes two seconds the first time.
const LIMIT: Duration = Duration::from_secs(20);

/// Bytes of what it says that are read.
const MAX_OUTPUT: u64 = 64 * 1024;

/// Where a program is asked.
#[derive(Clone, Debug)]
pub struct Asking {
    /// The program.
    pub program: PathBuf,
    /// Its whole environment.
    pub environment: Vec<(OsString, OsString)>,
    /// Its working folder.
    pub folder: PathBuf,
}

/// What a program said of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its version; nothing where what it said is not what the agent says.
    pub version: Option<String>,
    /// Whether somebody is logged in.
    pub login: Login,
}

/// A program could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It could not be started.
    #[error("{} could not be started", program.display())]
    Start {
        /// Which.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// It did not end in time.
    #[error("{} did not say its version within {} seconds", program.display(), LIMIT.as_secs())]
    TooSlow {
        /// Which.
        program: PathBuf,
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

/// Asks a program for its version, and whether somebody is logged in.
pub async fn ask(agent: &dyn Agent, asking: &Asking) -> Result<Told, AskError> {
    let (_, said) = output(asking, &["--version"]).await?;
    let version = agent.version(&said);
    let arguments = agent.login_arguments();
    if arguments.is_empty() {
        return Ok(Told { version, login: Login::Unknown });
    }
    let login = match output(asking, arguments).await {
        Ok((success, said)) => agent.login(success, &said),
        Err(error) => {
            tracing::debug!(%error, "nobody knows whether somebody is logged in");
            Login::Unknown
        }
    };
    Ok(Told { version, login })
}

/// The same, where nothing else runs.
pub fn ask_here(agent: &dyn Agent, asking: &Asking) -> Result<Told, AskError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |source| AskError::Start { program: asking.program.clone(), source };
    runtime.map_err(failed)?.block_on(ask(agent, asking))
}

async fn output(asking: &Asking, arguments: &[&str]) -> Result<(bool, String), AskError> {
    let program = || asking.program.clone();
    match run(asking, arguments, LIMIT).await {
        Ok(Some(said)) => Ok((said.success, said.words().to_owned())),
        Ok(None) => Err(AskError::TooSlow { program: program() }),
        Err(source) => Err(AskError::Start { program: program(), source }),
    }
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
    /// What it says on either stream; one of them may be none of its words but a warning.
    fn words(&self) -> &str {
        if self.out.is_empty() { &self.err } else { &self.out }
    }
}

/// Runs a program to its end; nothing where it takes longer than this.
pub(super) async fn run(
    asking: &Asking,
    arguments: &[impl AsRef<OsStr>],
    limit: Duration,
) -> std::io::Result<Option<Said>> {
    let mut child = Command::new(&asking.program)
        .args(arguments)
        .env_clear()
        .envs(asking.environment.iter().map(|(name, value)| (name, value)))
        .current_dir(&asking.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let ended = tokio::time::timeout(limit, async {
        let (out, err) = tokio::join!(first(out), first(err));
        child.wait().await.map(|status| Said { success: status.success(), out, err })
    });
    if let Ok(ended) = ended.await {
        return ended.map(Some);
    }
    // Its number is its own until it was waited for.
    if let Some(group) = group {
        // The group may be gone already.
        let _ = kill_process_group(group, Signal::KILL);
    }
    drop(child.wait().await);
    Ok(None)
}

/// The beginning of what comes. Then the stream is closed: whoever goes on talking is told so.
async fn first(from: Option<impl AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(from) = from
        && let Err(error) = from.take(MAX_OUTPUT).read_to_end(&mut bytes).await
    {
        tracing::debug!(%error, "what a program said was not read to its end");
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::claude::Claude;
    use super::*;

    fn program(folder: &Path, script: &str) -> Asking {
        let program = folder.join("claude");
        let text = format!("#!/bin/sh\n{script}\n");
        baton_store::fs::write_atomic(&program, text.as_bytes(), 0o755).unwrap();
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
        let told = ask(&Claude, &program(folder.path(), script)).await.unwrap();
        assert_eq!(told.version.as_deref(), Some("2.1.330"));
        assert_eq!(told.login, Login::Yes("api_key".to_owned()));

        let told = ask(&Claude, &program(folder.path(), "echo other 1.0; exit 3")).await.unwrap();
        assert_eq!(told, Told { version: None, login: Login::Unknown });
        // One that never stops talking.
        let told = ask(&Claude, &program(folder.path(), "exec yes")).await.unwrap();
        assert_eq!(told.version, None);
        let mut none = program(folder.path(), "");
        none.program = folder.path().join("none");
        assert!(matches!(ask(&Claude, &none).await, Err(AskError::Start { .. })));
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

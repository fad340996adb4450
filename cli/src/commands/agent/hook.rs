//! `baton agent hook A`: what an agent calls when a conversation begins, a turn ends, and so on.
//!
//! **Invariant:** an agent is never held up and never broken: what takes time is done by a process that nobody waits for, and
//! what fails is said on standard error, with exit code 0.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use baton_daemon::agents::marks::Mark;
use baton_daemon::agents::told;
use baton_daemon::api::control::Command;
use baton_daemon::clock::Clock;
use serde::Deserialize;

use super::targets::NAMES;
use crate::error::CliError;
use crate::inherited;
use crate::report::figures;
use crate::session::Session;
use crate::workspace;

/// Bytes of what an agent says that are read. What it says at a stop has its last answer in it.
const MAX_SAID: u64 = 4 * 1024 * 1024;

/// Longest id of a conversation.
const MAX_ID: usize = 128;

/// Longest path.
const MAX_PATH: usize = 4096;

/// This one does not say when a conversation goes on: it is told together with what its user asks.
const TOLD_WITH_PROMPT: &str = "opencode";

/// Digits of an id that stand in a message.
const DIGITS: usize = 8;

/// What an agent passes on. Anybody may have written it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Which agent calls.
    agent: String,
    /// Take the snapshot itself, of this workspace.
    #[arg(long, value_name = "PATH")]
    stopped: Option<PathBuf>,
    /// The conversation that stopped.
    #[arg(long, value_name = "ID")]
    session: Option<String>,
}

/// What an agent says on standard input; there is more in it.
#[derive(Debug, Deserialize)]
struct Said {
    hook_event_name: String,
    session_id: String,
    cwd: Option<PathBuf>,
    transcript_path: Option<PathBuf>,
    source: Option<String>,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    Begins,
    IsAsked,
    Stops,
    Ends,
}

impl Event {
    fn named(name: &str) -> Option<Self> {
        match name {
            "SessionStart" => Some(Self::Begins),
            "UserPromptSubmit" | "BeforeAgent" => Some(Self::IsAsked),
            "Stop" | "AfterAgent" => Some(Self::Stops),
            "SessionEnd" => Some(Self::Ends),
            _ => None,
        }
    }
}

pub(super) fn run(session: &Session, args: &Args) {
    let done = match &args.stopped {
        Some(root) => {
            // The agent is not waited for, and does not wait.
            inherited::close();
            stopped(session, args, root)
        }
        None => heard(session, args),
    };
    if let Err(CliError::Failed(report)) = done {
        session.report.note(&format!("baton: {}", report.message));
    }
}

fn heard(session: &Session, args: &Args) -> Result<(), CliError> {
    // In a run there is nobody who would ask for what is kept here.
    if session.env.run.is_some() {
        return Ok(());
    }
    let wrong = |what: &str| CliError::new("hook", what.to_owned());
    let agent = args.agent.as_str();
    if !NAMES.contains(&agent) {
        return Err(wrong("no agent of this name has hooks"));
    }
    let said = read(std::io::stdin().lock())?;
    // What newer agents tell is not for this version.
    let Some(event) = Event::named(&said.hook_event_name) else { return Ok(()) };
    let Said { session_id, transcript_path, .. } = said;
    let cwd = said.cwd.unwrap_or_else(|| session.env.cwd.clone());
    let root = workspace::root(None, &cwd)?;
    let folder = session.env.home.sessions_dir();
    let failed = |error| CliError::caused("hook", "keeping which conversation is open", &error);
    // Who stops while its user speaks to another one does not become the one at work.
    let is_others = || {
        let mark = Mark::read(&folder, &root);
        mark.is_some_and(|mark| (mark.agent.as_str(), &mark.session) != (agent, &session_id))
    };
    match event {
        Event::Stops if is_others() => {}
        Event::Begins | Event::IsAsked | Event::Stops => {
            let mark = Mark {
                agent: agent.to_owned(),
                session: session_id.clone(),
                transcript_path,
                cwd,
                at: Clock::system().now_ms(),
            };
            mark.write(&folder, &root).map_err(failed)?;
        }
        Event::Ends => Mark::forget(&folder, &root, agent, &session_id).map_err(failed)?,
    }
    match event {
        Event::Begins if said.source.as_deref() == Some("resume") => {
            tell(session, &folder, &root, &said.hook_event_name)
        }
        Event::IsAsked if agent == TOLD_WITH_PROMPT => {
            tell(session, &folder, &root, &said.hook_event_name)
        }
        Event::Stops => leave(session, agent, &session_id, &root),
        _ => Ok(()),
    }
}

fn read(from: impl Read) -> Result<Said, CliError> {
    let wrong = |what: &str| CliError::new("hook", what.to_owned());
    let mut bytes = Vec::new();
    from.take(MAX_SAID + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| CliError::caused("hook", "reading what the agent says", &error))?;
    if bytes.len() as u64 > MAX_SAID {
        return Err(wrong("the agent says more than is read"));
    }
    // Not why: what it says is the user's.
    let said: Said = serde_json::from_slice(&bytes)
        .map_err(|_| wrong("what the agent says is not what hooks are told"))?;
    let is_of_id = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if !(1..=MAX_ID).contains(&said.session_id.len()) || !said.session_id.bytes().all(is_of_id) {
        return Err(wrong("what the agent calls its conversation is no id"));
    }
    let is_path = |path: &PathBuf| path.is_absolute() && path.as_os_str().len() <= MAX_PATH;
    if !said.cwd.iter().chain(&said.transcript_path).all(is_path) {
        return Err(wrong("a path that the agent names is none"));
    }
    Ok(said)
}

/// Gives the agent what a pull left for it to know.
fn tell(session: &Session, folder: &Path, root: &Path, event: &str) -> Result<(), CliError> {
    let told = told::take(folder, root)
        .map_err(|error| CliError::caused("hook", "reading what a pull left to say", &error))?;
    match told {
        None => Ok(()),
        Some(text) => session.report.object(&serde_json::json!({
            "hookSpecificOutput": {"hookEventName": event, "additionalContext": text},
        })),
    }
}

/// Leaves the snapshot to a process of its own: the daemon may have to be started for it.
fn leave(session: &Session, agent: &str, id: &str, root: &Path) -> Result<(), CliError> {
    use std::os::unix::process::CommandExt;
    let failed = |error: std::io::Error| CliError::caused("hook", "starting a snapshot", &error);
    let mut process = Process::new(std::env::current_exe().map_err(failed)?);
    if let Some(home) = &session.env.home_dir {
        process.arg("--home").arg(home);
    }
    process
        .args(["agent", "hook", agent, "--session", id, "--stopped"])
        .arg(root)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // Whoever ends the agent with all that it started does not end this.
        .process_group(0);
    drop(process.spawn().map_err(failed)?);
    Ok(())
}

fn stopped(session: &Session, args: &Args, root: &Path) -> Result<(), CliError> {
    let id = args.session.as_deref().unwrap_or_default();
    let id: String = id.chars().take(DIGITS).collect();
    let message =
        format!("{} stopped ({})", figures::one_line(&args.agent), figures::one_line(&id));
    session.call(&Command::Stopped { path: workspace::bytes(root), message })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> Result<Said, CliError> {
        read(text.as_bytes())
    }

    #[test]
    fn what_an_agent_says_is_bounded_and_looked_at() {
        let good = r#"{"session_id":"01a2-b","transcript_path":"/t/x.jsonl","cwd":"/w","hook_event_name":"Stop","more":[{}]}"#;
        let read = said(good).unwrap();
        assert_eq!(
            (read.session_id.as_str(), Event::named(&read.hook_event_name)),
            ("01a2-b", Some(Event::Stops))
        );
        for bad in [
            "",
            "[]",
            "null",
            &good.replace("01a2-b", ""),
            &good.replace("01a2-b", "../../x"),
            &good.replace("01a2-b", &"a".repeat(129)),
            &good.replace("/w", "w"),
            &good.replace("/t/x.jsonl", "x"),
            &good.replace("\"/w\"", "7"),
            &good.replace("/w", &"/w".repeat(4096)),
            &"[".repeat(100_000),
            &good.replace("/t/x", &"x".repeat(5 * 1024 * 1024)),
        ] {
            assert!(said(bad).is_err(), "{}", &bad[..bad.len().min(200)]);
        }
        assert_eq!(Event::named("PreToolUse"), None);
    }
}

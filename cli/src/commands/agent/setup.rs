//! `baton agent setup` and `remove`: what lets a user stay inside their agent, and how it goes again.
//!
//! - [`targets`](super::targets): what goes where
//! - [`plan`](super::plan): what changes in which file
//!
//! **Invariant:** either all files can be changed or none is: what cannot be read is found before the first is written.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_daemon::agents::ask::find_program;
use baton_daemon::api::control::SetupEntry;
use baton_store::fs;
use serde::Serialize;

use super::plan::{Plan, PlanError, Whose};
use super::targets::{Kind, NAMES, Target};
use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::Session;

/// How often a lock that somebody holds is looked at, and how long after.
const LOOKS: u32 = 30;
const PAUSE: Duration = Duration::from_millis(100);

/// A lock that nobody has touched for so long is nobody's: its holder does every five seconds.
const STALE_MS: u64 = 20_000;

/// The answer of `agent setup` and `agent remove`.
#[derive(Debug, Serialize)]
struct SetupAnswer {
    agents: Vec<AgentSetup>,
}

#[derive(Debug, Serialize)]
struct AgentSetup {
    agent: &'static str,
    title: &'static str,
    folder: String,
    setup: SetupEntry,
}

/// What is in the folder of an agent; nothing where it has none.
pub(super) fn state(session: &Session, agent: &str) -> Option<SetupEntry> {
    Target::new(agent, &session.env).map(|target| found(&target))
}

/// Puts everything in.
pub(super) fn setup(session: &Session, agent: &str) -> Result<u8, CliError> {
    let target = target(session, agent)?;
    let lock = target.shared.as_deref().map(Lock::take).transpose()?;
    let (mut plan, mut notes) = (Plan::default(), Vec::new());
    for part in &target.parts {
        if plan.put(part).map_err(|error| failed(&target, &error))? == Whose::Theirs {
            let what = match part.kind() {
                Kind::Mcp => "a server of this name is there that setup did not write",
                _ => "it is there and not as setup wrote it",
            };
            notes.push(format!("{} is left as it is: {what}", part.file().display()));
        }
    }
    let changed = plan.write().map_err(|error| failed(&target, &error))?;
    drop(lock);
    if find_program(target.program, &session.env.path).is_none() {
        notes.push(format!("{} itself is not installed", target.title));
    }
    answer(session, &target, &changed, notes, "set up")
}

/// Takes exactly that out again.
pub(super) fn remove(session: &Session, agent: &str) -> Result<u8, CliError> {
    let target = target(session, agent)?;
    let lock = target.shared.as_deref().map(Lock::take).transpose()?;
    let mut plan = Plan::default();
    for part in &target.parts {
        plan.take(part).map_err(|error| failed(&target, &error))?;
    }
    plan.as_before(&target.parts).map_err(|error| failed(&target, &error))?;
    let changed = plan.write().map_err(|error| failed(&target, &error))?;
    drop(lock);
    answer(session, &target, &changed, Vec::new(), "removed")
}

/// What of Baton would be taken out of an agent.
pub(crate) struct Taken {
    target: Target,
    plan: Plan,
    /// Held until it is written.
    _lock: Option<Lock>,
}

impl Taken {
    /// Takes it out; names the files.
    pub(crate) fn write(&self) -> Result<Vec<String>, CliError> {
        let changed = self.plan.write().map_err(|error| failed(&self.target, &error))?;
        Ok(changed.iter().map(|path| path.to_string_lossy().into_owned()).collect())
    }
}

/// Finds what of Baton is in which agent, and changes nothing yet.
pub(super) fn taking_out(session: &Session) -> Result<Vec<(&'static str, Taken)>, CliError> {
    let mut all = Vec::new();
    for name in NAMES {
        let Some(target) = Target::new(name, &session.env) else { continue };
        let mut plan = Plan::default();
        let mut is_there = false;
        for part in &target.parts {
            is_there |= plan.take(part).map_err(|error| failed(&target, &error))?;
        }
        if !is_there {
            continue;
        }
        // Read again under the lock of who writes it, too.
        let lock = target.shared.as_deref().map(Lock::take).transpose()?;
        plan = Plan::default();
        for part in &target.parts {
            plan.take(part).map_err(|error| failed(&target, &error))?;
        }
        plan.as_before(&target.parts).map_err(|error| failed(&target, &error))?;
        all.push((name, Taken { target, plan, _lock: lock }));
    }
    Ok(all)
}

fn target(session: &Session, agent: &str) -> Result<Target, CliError> {
    if !NAMES.contains(&agent) {
        let what = format!("{} is no agent that Baton can be put into", figures::one_line(agent));
        return Err(CliError::usage(what).hint(format!("one of: {}", NAMES.join(", "))));
    }
    Target::new(agent, &session.env).ok_or_else(|| {
        CliError::new("no-home", "HOME is not set, so nobody knows where the agent's folder is")
            .hint("set HOME")
    })
}

fn failed(target: &Target, error: &PlanError) -> CliError {
    let doing = format!("{} was not changed", target.title);
    CliError::caused("agent-settings", &doing, error)
        .hint("correct that file, then type the command again")
}

/// What is there now, part by part.
fn found(target: &Target) -> SetupEntry {
    let mut entry = SetupEntry::default();
    let mut is_other = false;
    for kind in [Kind::Hooks, Kind::Commands, Kind::Mcp] {
        let mut of_kind = target.parts.iter().filter(|part| part.kind() == kind);
        let is_there = of_kind.all(|part| match Plan::default().take(part) {
            Ok(is_there) => {
                // One of another program or home is renewed by another setup.
                let mut plan = Plan::default();
                is_other |= is_there && plan.put(part).is_ok() && !plan.is_empty();
                is_there
            }
            Err(error) => {
                entry.notes.push(crate::error::chain(&error));
                false
            }
        });
        match kind {
            Kind::Hooks => entry.hooks = is_there,
            Kind::Commands => entry.commands = is_there,
            Kind::Mcp => entry.mcp = is_there,
        }
    }
    if is_other {
        let name = target.name;
        entry.notes.push(format!("it is of another version or home: baton agent setup {name}"));
    }
    if entry.hooks {
        entry.notes.extend(target.first.map(str::to_owned));
    }
    entry
}

fn answer(
    session: &Session,
    target: &Target,
    changed: &[PathBuf],
    notes: Vec<String>,
    word: &str,
) -> Result<u8, CliError> {
    let mut setup = found(target);
    setup.changed = changed.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    setup.notes.splice(0..0, notes);
    let agent = AgentSetup {
        agent: target.name,
        title: target.title,
        folder: target.folder.to_string_lossy().into_owned(),
        setup,
    };
    let answer = SetupAnswer { agents: vec![agent] };
    session.report.answer(&answer, |text| {
        for agent in &answer.agents {
            let name = session.report.paint(Style::Name, agent.agent);
            let word = if agent.setup.changed.is_empty() {
                format!("{word} already, nothing was changed")
            } else {
                word.to_owned()
            };
            let _ = writeln!(text, "{name}  {}, {word}", agent.title);
            for path in &agent.setup.changed {
                let _ = writeln!(text, "  {}", figures::one_line(path));
            }
            show(&session.report, text, &agent.setup);
        }
    })?;
    Ok(0)
}

/// What is there, and what is left to do.
pub(super) fn show(report: &Report, text: &mut String, setup: &SetupEntry) {
    let words = [("hooks", setup.hooks), ("commands", setup.commands), ("tools", setup.mcp)];
    let there: Vec<_> = words.iter().filter(|(_, is)| *is).map(|(word, _)| *word).collect();
    if !there.is_empty() {
        let _ = writeln!(text, "  has Baton's {}", there.join(", "));
    }
    for note in &setup.notes {
        let word = report.paint(Style::Warn, "note:");
        let _ = writeln!(text, "  {word} {}", figures::one_line(note));
    }
}

/// The lock that a program takes for a file which it writes all the time: a folder beside it.
struct Lock(PathBuf);

impl Lock {
    fn take(file: &Path) -> Result<Self, CliError> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".lock");
        let lock = file.with_file_name(name);
        let refused = |what: &str| {
            CliError::new("agent-busy", format!("{} {what}", lock.display()))
                .hint("wait until the agent has written its settings, or remove it")
        };
        let folder = lock.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(folder).map_err(|error| refused(&crate::error::chain(&error)))?;
        for _ in 0..LOOKS {
            match std::fs::create_dir(&lock) {
                Ok(()) => return Ok(Self(lock)),
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    let now = baton_daemon::clock::Clock::system().now_ms();
                    let touched = fs::modified_ms(&lock).ok().flatten();
                    if touched.is_some_and(|touched| touched + STALE_MS < now) {
                        // Whoever comes first has it.
                        drop(std::fs::remove_dir(&lock));
                    } else {
                        std::thread::sleep(PAUSE);
                    }
                }
                Err(error) => return Err(refused(&format!("cannot be made: {error}"))),
            }
        }
        Err(refused("is held"))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        drop(std::fs::remove_dir(&self.0));
    }
}

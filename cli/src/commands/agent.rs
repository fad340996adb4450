//! `baton agent`: the coding agents of this machine, and their conversations.
//!
//! Answered here and not by the daemon: programs, folders and keys of agents are those of whoever asks.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use baton_daemon::agents::adapter::Agent;
use baton_daemon::agents::ask::{Asking, ask_here, find_program};
use baton_daemon::agents::start::Login;
use baton_daemon::agents::{ALL, named};
use baton_daemon::api::control::{
    AgentEntry, AgentsAnswer, Command, ConversationEntry, NodeAgent, NodeAgentsCall,
};
use baton_daemon::daemon::conversations::{entries, path_of};
use baton_daemon::daemon::failure::Fail;
use baton_protocol::message::Permissions;

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};
use crate::workspace;

mod texts;
mod targets;
mod plan;
mod setup;
mod hook;
mod turn;

/// Conversations of an agent that are shown.
const SHOWN: usize = 10;

/// Coding agents, and their conversations about a workspace.
///
/// A conversation travels with `baton handoff`: the only one of the workspace or the one that is at work by itself, where
/// no command runs, and of several the one that `--conversation` names.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists the agents that are installed, and their conversations about a workspace.
    List {
        /// The workspace [default: the current folder].
        path: Option<PathBuf>,
    },
    /// Has an agent do one real turn: on the node, in a room as a run has, and here, where it is installed.
    ///
    /// Its program is asked for its version and whether somebody is logged in, and then its model for one word, which its
    /// provider may charge for: some thousand tokens each, most of them what the program tells its model by itself. What is
    /// wrong is an error that says what to do. Nothing of it is kept.
    Check {
        /// `claude`, `codex`, `gemini` or `opencode`.
        agent: String,
        /// Ask the programs only, and no model.
        #[arg(long)]
        no_turn: bool,
    },
    /// Puts Baton into an agent: hooks, `/handoff` and `/continue-locally`, and tools.
    ///
    /// Hooks name the conversation that is open and take a snapshot at each stop. What is in the agent's files already
    /// stays as it is; a copy of each is kept once beside it. A second time changes nothing.
    Setup {
        /// `claude`, `codex`, `gemini` or `opencode`.
        agent: String,
    },
    /// Takes out of an agent what `setup` put in.
    Remove {
        /// `claude`, `codex`, `gemini` or `opencode`.
        agent: String,
    },
    /// What an agent calls; what it has to say is on stdin.
    #[command(hide = true)]
    Hook(hook::Args),
}

/// Finds what of Baton is in which agent.
pub(super) fn taking_out(session: &Session) -> Result<Vec<(&'static str, setup::Taken)>, CliError> {
    setup::taking_out(session)
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("agent")?;
    match &args.what {
        What::List { path } => {
            let root = workspace::root(path.as_deref(), &session.env.cwd)?;
            let mut agents = Vec::new();
            for agent in ALL {
                let mut entry = looked_at(session, agent);
                match conversations(session, agent, &root) {
                    Ok(found) => entry.conversations = found,
                    // Others are listed all the same.
                    Err(Fail(failure)) => {
                        session.report.note(&format!("{}: {}", agent.title(), failure.message));
                        let how = entry.detail.take().map(|how| format!("{how}; "));
                        entry.detail = Some(how.unwrap_or_default() + &failure.message);
                    }
                }
                agents.push(entry);
            }
            let answer = AgentsAnswer { agents };
            session.report.answer(&answer, |text| {
                answer.agents.iter().for_each(|entry| show(&session.report, text, entry));
            })?;
            Ok(0)
        }
        What::Check { agent, no_turn } => check(session, agent, !no_turn),
        What::Setup { agent } => setup::setup(session, agent),
        What::Remove { agent } => setup::remove(session, agent),
        What::Hook(args) => {
            hook::run(session, args);
            Ok(0)
        }
    }
}

fn check(session: &Session, name: &str, turn: bool) -> Result<u8, CliError> {
    let agent = named(name).ok_or_else(|| {
        let names: Vec<_> = ALL.iter().map(|agent| agent.name()).collect();
        CliError::usage(format!("{} is no agent that Baton knows", figures::one_line(name)))
            .hint(format!("one of: {}", names.join(", ")))
    })?;
    let (agents, remote) = (vec![name.to_owned()], session.remote.clone());
    let asked = Command::NodeAgents(NodeAgentsCall { agents, remote, turn });
    let there = expect_answer!(session.call(&asked)?, NodeAgents).into_iter().next();
    let mut entry = AgentEntry { there, ..looked_at(session, agent) };
    let failed = |what: &str, hint: &str| -> Result<u8, CliError> {
        Err(CliError::new("agent", format!("{}: {what}", agent.title())).hint(hint.to_owned()))
    };
    if let Some((there, problem)) = problem_of(entry.there.as_ref()) {
        let hint = there.fix.as_deref().unwrap_or("see the log of the node");
        return failed(&format!("on {}: {problem}", figures::one_line(&there.remote)), hint);
    }
    // Who only hands work over needs none here.
    if entry.program.is_some() && entry.version.is_none() {
        let hint = format!("{} --version", agent.program());
        return failed("its program here does not say its version", &hint);
    }
    if turn && let Some(program) = &entry.program {
        match turn::take(session, agent, Path::new(program))? {
            Ok(took) => entry.turn_ms = Some(took),
            Err((problem, fix)) => {
                let login = entry.detail.as_deref().filter(|_| entry.logged_in == Some(false));
                return failed(&problem, login.unwrap_or(&fix));
            }
        }
    } else if entry.logged_in == Some(false) {
        let hint = entry.detail.as_deref().unwrap_or("log in");
        return failed("nobody is logged in here", hint);
    }
    let answer = AgentsAnswer { agents: vec![entry] };
    session.report.answer(&answer, |text| {
        answer.agents.iter().for_each(|entry| show(&session.report, text, entry));
    })?;
    Ok(0)
}

fn problem_of(there: Option<&NodeAgent>) -> Option<(&NodeAgent, String)> {
    let there = there?;
    Some((there, figures::one_line(there.problem.as_deref()?)))
}

/// Those of an agent about a workspace, the newest first.
pub(super) fn conversations(
    session: &Session,
    agent: &dyn Agent,
    root: &Path,
) -> Result<Vec<ConversationEntry>, Fail> {
    folder(session, agent).map_or_else(|| Ok(Vec::new()), |folder| entries(agent, &folder, root))
}

fn folder(session: &Session, agent: &dyn Agent) -> Option<PathBuf> {
    let folders = session.env.agents.folders.iter();
    folders.filter(|it| it.agent == agent.name()).map(|it| path_of(&it.path)).next()
}

/// What is known of an agent without its conversations.
fn looked_at(session: &Session, agent: &dyn Agent) -> AgentEntry {
    let env = &session.env;
    let program = find_program(agent.program(), &env.path);
    let (mut version, mut logged_in, mut detail) = (None, None, None);
    if let Some(program) = &program {
        let asking = Asking {
            program: program.clone(),
            environment: env.variables.0.clone(),
            folder: env.cwd.clone(),
        };
        match ask_here(agent, &asking.make()) {
            Ok(told) => {
                version = told.version;
                (logged_in, detail) = match told.login {
                    Login::Yes(how) => (Some(true), Some(how)),
                    Login::No(what) => (Some(false), Some(what)),
                    Login::Unknown => (None, None),
                };
            }
            Err(error) => detail = Some(crate::error::chain(&error)),
        }
    }
    AgentEntry {
        there: None,
        turn_ms: None,
        agent: agent.name().to_owned(),
        title: agent.title().to_owned(),
        program: program.map(|path| path.to_string_lossy().into_owned()),
        version,
        logged_in,
        detail,
        folder: folder(session, agent).map(|path| path.to_string_lossy().into_owned()),
        conversations: Vec::new(),
        setup: setup::state(session, agent.name()),
    }
}

fn show(report: &Report, to: &mut String, entry: &AgentEntry) {
    let name = report.paint(Style::Name, &figures::one_line(&entry.agent));
    let version = match (&entry.program, &entry.version) {
        (None, _) => "not installed".to_owned(),
        (Some(_), None) => "of an unknown version".to_owned(),
        (Some(_), Some(version)) => figures::one_line(version),
    };
    let _ = write!(to, "{name}  {}, {version}", figures::one_line(&entry.title));
    if entry.program.is_some() {
        let word = match entry.logged_in {
            Some(true) => "logged in",
            Some(false) => "not logged in",
            None => "whether somebody is logged in is not known",
        };
        let _ = write!(to, ", {word}");
    }
    to.push('\n');
    if let Some(detail) = entry.detail.as_deref().filter(|_| entry.logged_in != Some(true)) {
        let _ = writeln!(to, "  {}", figures::one_line(detail));
    }
    if let Some(there) = &entry.there {
        let version = there.version.as_deref().unwrap_or("there");
        let login = there.login.as_deref().map(|how| format!(", {how}")).unwrap_or_default();
        let may = match there.permissions {
            Permissions::Ask => "asks before it changes anything",
            Permissions::Edits => "may edit files unasked",
            Permissions::All => "may do everything in its room",
        };
        let turn =
            there.turn_ms.map(|took| format!("; its model answered in {}", figures::span(took)));
        let line =
            format!("on {}: {version}{login}; {may}{}", there.remote, turn.unwrap_or_default());
        let _ = writeln!(to, "  {}", figures::one_line(&line));
    }
    if let Some(took) = entry.turn_ms {
        let _ = writeln!(to, "  here its model answered in {}", figures::span(took));
    }
    if let Some(setup) = &entry.setup {
        setup::show(report, to, setup);
    }
    for it in entry.conversations.iter().take(SHOWN) {
        let (id, title) = (figures::one_line(&it.conversation), figures::one_line(&it.title));
        let _ = writeln!(to, "  {id}  {}  {title}", it.modified_at);
    }
    if let Some(more) = entry.conversations.len().checked_sub(SHOWN + 1) {
        let _ = writeln!(to, "  and {}", figures::plural(more as u64 + 1, "older one"));
    }
}

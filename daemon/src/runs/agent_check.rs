//! Whether runs could have an agent: its program is asked in a room such as theirs, with what a run would be given.
//!
//! **Invariant:** nothing of it stays, and it ends: a program that does not answer is killed with what it started.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use baton_protocol::id::{RunId, VaultId};
use baton_protocol::message::AgentReport;
use baton_store::checkout::remove_made;
use baton_store::fs;
use rustix::process::{Pid, Signal, kill_process_group};

use super::environment::{Variables, set_where_free};
use super::refused::{PLAIN_AGENT, chain};
use super::{AgentProgram, Runs, RunsError};
use crate::agents;
use crate::agents::adapter::Agent;
use crate::agents::start::Login;
use crate::rooms::{Job, RoomError};
use crate::workspace::random;

/// How long a program may take to say who it is. The slowest that was seen takes two seconds the first time.
const LIMIT: Duration = Duration::from_secs(20);

/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Bytes of what it says that are read.
const MAX_SAID: u64 = 64 * 1024;

/// Where a program is asked.
struct Asking<'a> {
    runs: &'a Runs,
    program: &'a str,
    variables: &'a Variables,
    network: bool,
    folder: &'a Path,
    /// Whether anybody has given it anything that could be a key.
    has_keys: bool,
}

impl Runs {
    /// How agents stand on this node, for runs of a user.
    pub async fn check_agents(
        &self,
        vault: VaultId,
        names: Vec<String>,
    ) -> Result<Vec<AgentReport>, RunsError> {
        let runs = self.clone();
        let check = move || names.iter().map(|name| runs.check_one(vault, name)).collect();
        Ok(self.blocking("agent-check", check).await?)
    }

    fn check_one(&self, vault: VaultId, name: &str) -> AgentReport {
        let set_up = self.0.options.agent(name).program;
        let isolated = self.0.parts.room.isolated();
        let mut report = AgentReport {
            agent: name.to_owned(),
            version: None,
            login: None,
            permissions: set_up.may(None, isolated),
            problem: None,
            fix: None,
        };
        if name == PLAIN_AGENT {
            return report;
        }
        if self.0.options.without_network.contains(name) && !isolated {
            report.problem =
                Some("its runs are to have no network, and runs are not isolated".to_owned());
            report.fix = Some("install bubblewrap on the node".to_owned());
            return report;
        }
        let agent = agents::named(name);
        let Some(program) = program_of(agent, &set_up) else {
            report.problem = Some(format!("there is no agent {name}"));
            report.fix =
                Some(format!("on the node, set [agents.{name}] program in its config.toml"));
            return report;
        };
        if let Err((problem, fix)) = self.ask_program(vault, agent, &program, &set_up, &mut report)
        {
            (report.problem, report.fix) = (Some(problem), Some(fix));
        }
        report
    }

    fn ask_program(
        &self,
        vault: VaultId,
        agent: Option<&'static dyn Agent>,
        program: &str,
        set_up: &AgentProgram,
        report: &mut AgentReport,
    ) -> Result<(), (String, String)> {
        let failed = |error: &dyn std::error::Error| {
            (format!("it could not be asked: {}", chain(error)), "see the node's log".to_owned())
        };
        let number = random::<{ RunId::LEN }>().map_err(|error| failed(&error))?;
        // Not one that is known; what it is given is taken back.
        let run = RunId::from_bytes(number);
        let folder = self.0.options.folder.join("checks").join(run.to_string());
        let made = ["checkout", "home"].map(|name| fs::create_dir_all(&folder.join(name)));
        let asked = made
            .into_iter()
            .collect::<Result<Vec<()>, _>>()
            .map_err(|error| failed(&error))
            .and_then(|_| {
                let given = self.0.parts.secrets.give(vault, run, &report.agent);
                let given = given.map_err(|error| failed(&error))?;
                let node = &self.0.options.environment;
                let mut variables: Variables = node.variables().to_vec();
                variables.push(("HOME".into(), folder.join("home").into()));
                variables.extend(given.variables.iter().cloned());
                let mut others = set_up.variables.clone();
                others
                    .retain(|(name, _)| agent.is_none_or(|agent| name != agent.folder_variable()));
                set_where_free(&mut variables, others);
                let network = !self.0.options.without_network.contains(&report.agent);
                let has_keys = !given.variables.is_empty()
                    || !set_up.variables.is_empty()
                    || !set_up.arguments.is_empty();
                let asking = Asking {
                    runs: self,
                    program,
                    variables: &variables,
                    network,
                    folder: &folder,
                    has_keys,
                };
                asking.ask(agent, report)
            });
        self.0.parts.secrets.take_back(run);
        if let Err(error) = remove_made(&folder) {
            tracing::warn!(%error, "what an agent was asked in stays behind");
        }
        asked
    }
}

/// The program of an agent, if this node knows one.
fn program_of(agent: Option<&'static dyn Agent>, set_up: &AgentProgram) -> Option<String> {
    set_up.name.clone().or_else(|| agent.map(|agent| agent.program().to_owned()))
}

impl Asking<'_> {
    fn ask(
        &self,
        agent: Option<&'static dyn Agent>,
        report: &mut AgentReport,
    ) -> Result<(), (String, String)> {
        let Some(agent) = agent else {
            // What its program understands is up to its owner: that it is there is all that is known.
            return self.wrap(&[]).map(drop).map_err(|error| self.not_there(&error));
        };
        let (_, said) = self.output(&["--version"])?;
        report.version = agent.version(&said);
        if report.version.is_none() {
            let said = said.lines().next().unwrap_or_default();
            let problem = format!("{} is not {}: it says {said:?}", self.program, agent.title());
            return Err((problem, format!("install {} on the node", agent.title())));
        }
        let arguments = agent.login_arguments();
        if arguments.is_empty() {
            return Ok(());
        }
        let (success, said) = self.output(arguments)?;
        match agent.login(success, &said) {
            Login::Yes(how) => report.login = Some(how),
            // Whoever has set up a provider of another kind for it may need none, and its program says the same then.
            Login::No(_) if self.has_keys => {}
            Login::No(fix) => {
                let name = &report.agent;
                let problem = format!("{} is not logged in there", agent.title());
                return Err((problem, format!("{}, for its runs: {fix}", keys(name))));
            }
            Login::Unknown => {}
        }
        Ok(())
    }

    fn not_there(&self, error: &RoomError) -> (String, String) {
        let fix = match error {
            RoomError::Hidden { program } => {
                let folder = program.parent().unwrap_or(program);
                format!("on the node, add {} to expose under [serve]", folder.display())
            }
            _ => format!("install {} on the node, in its PATH", self.program),
        };
        (chain(error), fix)
    }

    fn wrap(&self, arguments: &[OsString]) -> Result<crate::rooms::Wrapped, RoomError> {
        let (checkout, home) = (self.folder.join("checkout"), self.folder.join("home"));
        self.runs.0.parts.room.command(&Job {
            program: OsStr::new(self.program),
            arguments,
            checkout: &checkout,
            home: &home,
            temporary: None,
            readable: &[],
            seen_at: None,
            environment: self.variables,
            network: self.network,
            entrances: &[] as &[PathBuf],
        })
    }

    /// Whether it ended well, and what it said; on the other stream may be warnings.
    fn output(&self, arguments: &[&str]) -> Result<(bool, String), (String, String)> {
        let arguments: Vec<_> = arguments.iter().map(OsString::from).collect();
        let mut wrapped = self.wrap(&arguments).map_err(|error| self.not_there(&error))?;
        let failed = |error: std::io::Error| {
            let problem = format!("{} could not be started: {error}", self.program);
            (problem, "see the node's log".to_owned())
        };
        let (said, to) = self.file("said").map_err(failed)?;
        let (warned, errors) = self.file("warned").map_err(failed)?;
        let command = wrapped.command.stdin(Stdio::null()).stdout(to).stderr(errors);
        let mut child = command.process_group(0).spawn().map_err(failed)?;
        let clock = &self.runs.0.parts.clock;
        let begun = clock.instant();
        let status = loop {
            match child.try_wait().map_err(failed)? {
                Some(status) => break Some(status),
                None if clock.since(begun) > LIMIT => break None,
                None => std::thread::sleep(LOOK),
            }
        };
        // What it started goes with it.
        let _ = kill_process_group(Pid::from_child(&child), Signal::KILL);
        drop(child.wait());
        let Some(status) = status else {
            let problem = format!("{} did not answer within {} s", self.program, LIMIT.as_secs());
            return Err((problem, format!("try it on the node: {} --version", self.program)));
        };
        let said = beginning(said).map_err(failed)?;
        let said = if said.is_empty() { beginning(warned).map_err(failed)? } else { said };
        Ok((status.success(), String::from_utf8_lossy(&said).into_owned()))
    }

    fn file(&self, name: &str) -> std::io::Result<(File, File)> {
        let path = self.folder.join(name);
        drop(fs::remove_file(&path));
        let file = fs::create_new(&path).map_err(std::io::Error::other)?;
        Ok((file.try_clone()?, file))
    }
}

/// The beginning of what was written into a file.
fn beginning(mut file: File) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.rewind()?;
    file.take(MAX_SAID).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// How a run of it gets a key.
fn keys(agent: &str) -> String {
    format!("baton secret set NAME --agent {agent}")
}

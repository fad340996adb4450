//! Whether runs could have an agent: its program is asked in a room such as theirs, with what a run would be given; and, where
//! somebody wants to know, its model with it.
//!
//! Not here: how a program is asked ([`agents::ask`]), and which good answers are kept ([`known`](super::agent_known)).
//!
//! **Invariant:** nothing of it stays, and it ends: a program that does not answer is killed with what it started.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use baton_protocol::id::{RunId, VaultId};
use baton_protocol::message::{AgentReport, Permissions};
use baton_store::checkout::remove_made;
use baton_store::fs;

use super::agent_known::{Answer, Identity};
use super::environment::{Variables, set_where_free};
use super::refused::{PLAIN_AGENT, chain};
use super::{AgentProgram, Runs, RunsError};
use crate::agents;
use crate::agents::adapter::Agent;
use crate::agents::ask::{AskError, Made, Make, QUESTION, ask_here, remedy, turn_here};
use crate::agents::start::{Login, Start, Task};
use crate::rooms::{Job, RoomError, Wrapped};
use crate::workspace::random;

/// Longest text of what an agent says is wrong.
const MAX_WHY: usize = 300;

/// Shortest value of a variable that is looked for in it.
const LEAST_VALUE: usize = 6;

/// What is to be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Depth {
    /// Whether it is there and somebody is logged in, as far as is known.
    Known,
    /// The same, and a turn, now.
    Turn,
}

/// What is wrong, and what to do about it.
type Problem = (String, String);

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
        let check =
            move || names.iter().map(|name| runs.check_one(vault, name, Depth::Known)).collect();
        Ok(self.blocking("agent-check", check).await?)
    }

    /// The same of one, looked at now, with a turn of it: its model is asked for one word.
    pub async fn try_agent(&self, vault: VaultId, name: String) -> Result<AgentReport, RunsError> {
        // Who waits holds nothing; it is never closed.
        let _turn = self.0.tries.acquire().await;
        let runs = self.clone();
        let check = move || runs.check_one(vault, &name, Depth::Turn);
        Ok(self.blocking("agent-try", check).await?)
    }

    fn check_one(&self, vault: VaultId, name: &str, depth: Depth) -> AgentReport {
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
        let asked = self.ask_program(vault, (agent, depth), &program, &set_up, &mut report);
        if let Err((problem, fix)) = asked {
            (report.problem, report.fix) = (Some(problem), Some(fix));
        }
        report
    }

    fn ask_program(
        &self,
        vault: VaultId,
        (agent, depth): (Option<&'static dyn Agent>, Depth),
        program: &str,
        set_up: &AgentProgram,
        report: &mut AgentReport,
    ) -> Result<(), Problem> {
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
                let identity = Identity::of(program, &variables, set_up);
                let known = &self.0.known;
                if depth == Depth::Known
                    && let Some(answer) = known.get(vault, &report.agent, identity.as_ref())
                {
                    (report.version, report.login) = (answer.version, answer.login);
                    return Ok(());
                }
                known.forget(&report.agent);
                asking.ask(agent, report)?;
                if let (Depth::Turn, Some(agent)) = (depth, agent) {
                    asking.turn(agent, &set_up.arguments)?;
                }
                if let Some(identity) = identity.filter(|_| agent.is_some()) {
                    let (version, login) = (report.version.clone(), report.login.clone());
                    known.keep(vault, &report.agent, identity, Answer { version, login });
                }
                Ok(())
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
    ) -> Result<(), Problem> {
        self.wrap(&[], self.variables).map_err(|error| self.not_there(&error))?;
        // What the program of another one understands is up to its owner: that it is there is all that is known.
        let Some(agent) = agent else { return Ok(()) };
        let told = ask_here(agent, &self.make()).map_err(|error| self.failed(&error))?;
        report.version = told.version;
        if report.version.is_none() {
            let problem =
                format!("{} is not {}: it says {:?}", self.program, agent.title(), told.other);
            return Err((problem, format!("install {} on the node", agent.title())));
        }
        match told.login {
            Login::Yes(how) => report.login = Some(how),
            // Whoever has set up a provider of another kind for it may need none, and its program says the same then.
            Login::No(_) if self.has_keys => {}
            Login::No(fix) => {
                let problem = format!("{} is not logged in there", agent.title());
                return Err((problem, format!("{}, for its runs: {fix}", keys(agent.name()))));
            }
            Login::Unknown => {}
        }
        Ok(())
    }

    /// A turn, as a run would have it, of which nothing stays.
    fn turn(&self, agent: &'static dyn Agent, arguments: &[String]) -> Result<(), Problem> {
        let task = Task {
            prompt: QUESTION,
            model: None,
            approval: Permissions::Ask,
            is_isolated: self.runs.0.parts.room.isolated(),
            is_heard: false,
            told: None,
        };
        let mut invocation = agent.start(&Start::New { id: None }, &task);
        agent.trial().apply(&mut invocation, arguments);
        let turned = turn_here(agent, &invocation, &self.make());
        turned.map_err(|error| self.failed(&error))?.map_err(|why| {
            let fix = remedy(agent, &why, &keys(agent.name()));
            (format!("its model did not answer: {}", self.shown(&why)), fix)
        })
    }

    /// Words of the program, of a sane length and without what it was given.
    fn shown(&self, why: &str) -> String {
        let line = why.split_whitespace().collect::<Vec<_>>().join(" ");
        let given = self.variables.iter().filter_map(|(_, value)| value.to_str());
        let secret = given.filter(|value| value.len() >= LEAST_VALUE && !value.starts_with('/'));
        let masked = secret.fold(line, |line, value| line.replace(value, "***"));
        masked.chars().take(MAX_WHY).collect()
    }

    fn failed(&self, error: &AskError) -> Problem {
        let fix = match error {
            AskError::TooSlow { .. } => format!("try it on the node: {} --version", self.program),
            AskError::Make(_) | AskError::Start(_) => "see the node's log".to_owned(),
        };
        (format!("{}: {}", self.program, chain(error)), fix)
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

    fn make(&self) -> impl Make + '_ {
        |arguments: &[OsString], more: &[(String, String)]| {
            let more = more.iter().map(|(name, value)| (name.into(), value.into()));
            let variables: Variables = self.variables.iter().cloned().chain(more).collect();
            let Wrapped { command, arguments } = self.wrap(arguments, &variables)?;
            Ok(Made { command, kept: arguments })
        }
    }

    fn wrap(
        &self,
        arguments: &[OsString],
        environment: &[(OsString, OsString)],
    ) -> Result<Wrapped, RoomError> {
        let (checkout, home) = (self.folder.join("checkout"), self.folder.join("home"));
        self.runs.0.parts.room.command(&Job {
            program: OsStr::new(self.program),
            arguments,
            checkout: &checkout,
            home: &home,
            temporary: None,
            readable: &[],
            seen_at: None,
            environment,
            network: self.network,
            entrances: &[] as &[PathBuf],
        })
    }
}

/// How a run of it gets a key.
fn keys(agent: &str) -> String {
    format!("baton secret set NAME --agent {agent}")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use baton_protocol::message::secrets::{SecretValue, SetSecret};
    use baton_protocol::message::{RunSpec, RunState};

    use super::super::environment::NodeEnvironment;
    use super::super::testing::{Node, spec};
    use super::*;

    const ANSWERS: &str = r#"case "$*" in
*--version*) echo '9.9.9 (Claude Code)' ;;
'auth status') echo '{"loggedIn": LOGGED, "authMethod": "x"}' ;;
*) read -r asked; TURN ;;
esac"#;

    /// Written by another process: whoever is started meanwhile would hold the file open as one that is being written.
    fn program(folder: &Path, logged: &str, turn: &str) {
        let count = folder.join("count");
        let text = ANSWERS.replace("LOGGED", logged).replace("TURN", turn);
        let text = format!("#!/bin/sh\necho \"$*\" >> {}\n{text}\n", count.display());
        let write =
            r#"printf %s "$1" > claude.new && chmod 755 claude.new && mv claude.new claude"#;
        let mut shell = Command::new("sh");
        let written = shell.args(["-c", write, "sh", &text]).current_dir(folder).status();
        assert!(written.unwrap().success());
    }

    fn started(folder: &Path) -> Vec<String> {
        let text = fs::read_if_exists(&folder.join("count"), 1 << 20).unwrap().unwrap_or_default();
        drop(fs::remove_file(&folder.join("count")));
        String::from_utf8(text).unwrap().lines().map(str::to_owned).collect()
    }

    fn secret(value: &str) -> SetSecret {
        let value = SecretValue::new(value.as_bytes().to_vec());
        SetSecret { name: "KEY".to_owned(), agent: Some("claude".to_owned()), value, push: None }
    }

    fn node(folder: &Path) -> Node {
        let path = format!("{}:/usr/bin:/bin", folder.display());
        Node::with(|options| {
            options.environment = NodeEnvironment::new([("PATH".into(), path.clone().into())]);
        })
    }

    #[tokio::test]
    async fn a_good_answer_is_kept_until_a_key_or_the_program_changes_or_a_run_fails() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        program(folder, "true", "exit 1");
        let node = node(folder);
        let check = async || {
            let names = vec!["claude".to_owned()];
            let report = node.runs.check_agents(node.vault, names).await.unwrap().remove(0);
            (report.version, report.problem, started(folder).len())
        };
        let good = |starts| (Some("9.9.9".to_owned()), None, starts);
        assert_eq!(check().await, good(2));
        assert_eq!(check().await, good(0));
        node.secrets().set(node.vault, &secret("a")).unwrap();
        assert_eq!(check().await, good(2));
        assert_eq!(check().await, good(0));
        // A run that fails is no proof that it still holds.
        let run =
            RunSpec { agent: "claude".to_owned(), prompt: Some("x".to_owned()), ..spec(1, &[]) };
        assert_eq!(node.run(run).await.state, RunState::Failed);
        assert_eq!(started(folder).len(), 1);
        assert_eq!(check().await, good(2));
        // A bad answer is none to be kept.
        node.secrets().remove(node.vault, &secret("a").entry()).unwrap();
        program(folder, "false", "exit 1");
        for _ in 0..2 {
            let (_, problem, starts) = check().await;
            assert!(problem.unwrap().contains("not logged in"));
            assert_eq!(starts, 2);
        }
        program(folder, "true", "exit 1");
        assert_eq!(check().await, good(2));
        assert_eq!(check().await, good(0));
    }

    #[tokio::test]
    async fn one_that_is_tried_does_a_turn_and_what_it_says_is_wrong_has_no_key_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let answer =
            r#"echo '{"type":"result","subtype":"success","is_error":false,"result":"ready"}'"#;
        program(folder, "true", answer);
        let node = node(folder);
        let attempt = async || node.runs.try_agent(node.vault, "claude".to_owned()).await.unwrap();
        for _ in 0..2 {
            assert_eq!(attempt().await.problem, None);
            let started = started(folder);
            assert_eq!(started.len(), 3, "{started:?}");
            assert!(started[2].contains("--no-session-persistence"), "{started:?}");
        }
        node.secrets().set(node.vault, &secret("sk-hidden-value")).unwrap();
        let refuse = r#"echo "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":true,\"result\":\"401 invalid key $KEY\"}"; exit 1"#;
        program(folder, "true", refuse);
        let report = attempt().await;
        let problem = report.problem.unwrap();
        assert!(
            problem.contains("401 invalid key ***") && !problem.contains("hidden"),
            "{problem}"
        );
        assert!(report.fix.unwrap().contains("baton secret set"));
        let report = node.runs.try_agent(node.vault, "nobody".to_owned()).await.unwrap();
        assert!(report.problem.unwrap().contains("no agent"));
        // Nothing of it stays.
        let checks = node.runs.0.options.folder.join("checks");
        assert_eq!(fs::list_dir(&checks).unwrap_or_default(), Vec::<OsString>::new());
    }
}

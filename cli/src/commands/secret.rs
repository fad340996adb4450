//! `baton secret`: what this user's runs on a node are given, and what nobody else is shown.
//!
//! **Invariant:** a value comes from standard input or a terminal that does not show it; there is no argument for it, so
//! that it is in no history and in no list of processes.

mod typed;

use std::fmt::Write as _;
use std::io::Read;

use baton_daemon::api::control::{Command, SecretAnswer, SecretsAnswer};
use baton_protocol::message::secrets::{
    MAX_VALUE, PushScope, SecretError, SecretValue, SetSecret, check_agent, check_name, git_host,
};
use baton_store::secrets::known::LEAST_VALUE;

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};

/// What your runs on a node are given, in their environment, and nobody is shown.
///
/// As git:HOST it is given to no run: the node itself speaks to that host for them, so that their git can fetch there, and
/// push to the branch handoff/RUN. Its value is TOKEN or USER:TOKEN.
///
/// Kept on the node, for your own runs only. A value of 8 bytes or more is masked where it stands in the output of a run,
/// and a file of its result that git does not track and that has one of 16 bytes or more in it is held back. What a run
/// stages, commits, or writes into a tracked file is in its result.
#[derive(Debug, clap::Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  baton secret set NPM_TOKEN                 asks for it, and does not show it\n  \
                  pass show npm | baton secret set NPM_TOKEN\n  \
                  baton secret set API_KEY --agent claude < key.txt\n  \
                  baton secret set git:github.com           a token for fetching and pushing there\n  \
                  baton secret set git:git.example.org:8443 --push any < token.txt\n  \
                  baton --remote box secret list"
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Keeps a secret: its value comes from stdin, or is asked for.
    Set {
        /// The variable that runs find it in; or git:HOST, for which the node speaks to a git host.
        name: String,
        /// Only for runs of this agent; `command` is that of plain commands [default: for all].
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
        /// Of git:HOST: to which branches runs may push [default: run, which is handoff/RUN only].
        #[arg(long, value_name = "run|any", value_parser = scope)]
        push: Option<PushScope>,
    },
    /// Lists the names of those that are kept.
    List,
    /// Forgets a secret; what runs at work have stays theirs.
    Rm {
        /// The variable.
        name: String,
        /// Only the one for this agent [default: for whichever it is].
        #[arg(long, value_name = "AGENT")]
        agent: Option<String>,
    },
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    let remote = session.remote.clone();
    match args.what {
        What::Set { name, agent, push } => set(session, (name, agent, push), remote),
        What::List => {
            let command = Command::SecretList { remote };
            let answer = expect_answer!(session.call(&command)?, Secrets);
            session.report.answer(&answer, |text| list(&session.report, text, &answer))?;
            Ok(0)
        }
        What::Rm { name, agent } => {
            check(&name, agent.as_deref())?;
            let command = Command::SecretRemove { name: name.clone(), agent, remote };
            let answer = expect_answer!(session.call(&command)?, Secrets);
            session.report.answer(&answer, |text| {
                let word = session.report.paint(Style::Good, "forgot");
                let _ = writeln!(text, "{word} {name} on {}", figures::one_line(&answer.remote));
            })?;
            Ok(0)
        }
    }
}

fn set(
    session: &Session,
    (name, agent, push): (String, Option<String>, Option<PushScope>),
    remote: Option<String>,
) -> Result<u8, CliError> {
    // Before a value is asked for.
    check(&name, agent.as_deref())?;
    if push.is_some() && git_host(&name).is_none() {
        return Err(CliError::usage(format!("--push is of git:HOST, and {name} is a variable"))
            .hint("baton secret set git:HOST --push any"));
    }
    let value = if session.env.terminal_in { typed::read(&name)? } else { piped()? };
    let secret = SetSecret { name: name.clone(), agent, value: SecretValue::new(value), push };
    secret.check().map_err(|error| {
        CliError::caused("secret", "this cannot be kept", &error)
            .hint(format!("baton secret set {name} < FILE, with the value in the file"))
    })?;
    if secret.value.reveal().len() < LEAST_VALUE {
        let note = format!(
            "fewer than {LEAST_VALUE} bytes are not masked in logs, and not found in results"
        );
        session.report.note(&note);
    }
    let kept = secret.entry();
    let entry = SecretAnswer {
        name: kept.name,
        agent: kept.agent,
        push: kept.push.map(|scope| scope.name().to_owned()),
    };
    let secret = Box::new(secret);
    let answer = expect_answer!(session.call(&Command::SecretSet { secret, remote })?, Secrets);
    session.report.answer(&answer, |text| {
        let word = session.report.paint(Style::Good, "kept");
        let (remote, runs) = (figures::one_line(&answer.remote), whose(&entry));
        let _ =
            writeln!(text, "{word} {} on {remote}, for {runs} that start from now on", entry.name);
    })?;
    Ok(0)
}

fn scope(typed: &str) -> Result<PushScope, String> {
    let known = [PushScope::Run, PushScope::Any];
    let found = known.into_iter().find(|scope| scope.name() == typed);
    found.ok_or_else(|| "run, for the branch handoff/RUN only, or any".to_owned())
}

fn check(name: &str, agent: Option<&str>) -> Result<(), CliError> {
    check_name(name).and_then(|()| check_agent(agent)).map_err(|error| {
        let hint = match &error {
            SecretError::Agent { .. } => "baton secret set NAME --agent command",
            SecretError::Host { .. } => "baton secret set git:HOST, such as git:github.com",
            _ => "baton secret set NAME, such as NPM_TOKEN",
        };
        CliError::usage(error.to_string()).hint(hint)
    })
}

/// A value from standard input; one line end after it is not part of it.
fn piped() -> Result<Vec<u8>, CliError> {
    let mut value = Vec::new();
    std::io::stdin()
        .lock()
        // With a line end, and one more: what is too long is not cut, but refused.
        .take(MAX_VALUE as u64 + 3)
        .read_to_end(&mut value)
        .map_err(|error| CliError::caused("input", "reading the value from stdin", &error))?;
    if value.pop_if(|last| *last == b'\n').is_some() {
        value.pop_if(|last| *last == b'\r');
    }
    Ok(value)
}

fn list(report: &Report, to: &mut String, answer: &SecretsAnswer) {
    if answer.secrets.is_empty() {
        let remote = figures::one_line(&answer.remote);
        let _ = writeln!(to, "{remote} keeps no secret of yours; baton secret set NAME");
    }
    let row = |secret: &SecretAnswer| {
        vec![report.paint(Style::Name, &figures::one_line(&secret.name)), whose(secret)]
    };
    let rows: Vec<_> = answer.secrets.iter().map(row).collect();
    figures::table(to, &rows);
}

fn whose(secret: &SecretAnswer) -> String {
    let runs = match &secret.agent {
        Some(agent) => format!("runs of {}", figures::one_line(agent)),
        None => "runs of every agent".to_owned(),
    };
    match secret.push.as_deref() {
        Some("run") => format!("{runs}, which push to handoff/RUN"),
        Some(_) => format!("{runs}, which push anywhere"),
        None => runs,
    }
}

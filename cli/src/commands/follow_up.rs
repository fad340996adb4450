//! `baton follow-up`: going on with a run where it ended.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_daemon::api::control::{Command, FollowUpAnswer, FollowUpCall};

use super::{handoff, run};
use crate::error::{CliError, QUEUED};
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer, id};
use crate::workspace;

const EXAMPLES: &str = "\
Examples:
  baton follow-up 9c1d2e3f -- make test             on what the run left, on its node
  baton follow-up 9c1d2e3f -p 'now the docs'        its program again, with another prompt
  baton --remote big follow-up 9c1d2e3f -- make     on another node, which gets what the run left
  baton follow-up 9c1d2e3f --fork -- ./other.sh     beside another follow-up of the same run";

/// Goes on with a run that has ended, in what it left: on its node, or with --remote on another one.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The run, or its thread, which means its newest run: the id, or the first 8 digits or more.
    run: String,
    /// What to do; the program finds it in BATON_PROMPT. `-` reads it from stdin.
    #[arg(short, long, value_name = "PROMPT", allow_hyphen_values = true)]
    prompt: Option<String>,
    /// The same from a file.
    #[arg(long, value_name = "F", conflicts_with = "prompt")]
    prompt_file: Option<PathBuf>,
    /// A file to take along, into the folder BATON_ATTACHMENTS; may be given more than once.
    #[arg(long, value_name = "FILE")]
    attach: Vec<PathBuf>,
    /// In a thread of its own: a run has one follow-up in its thread.
    #[arg(long)]
    fork: bool,
    /// How long it may wait for the network; later it is not started, but reported [default: 7days].
    #[arg(long, value_name = "D", value_parser = handoff::duration)]
    expires: Option<Duration>,
    #[command(flatten)]
    terms: handoff::TermsArgs,
    /// The program and its arguments, never through a shell [default: those of the run].
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let asks = args.prompt.is_some() || args.prompt_file.is_some();
    if !asks && args.command.is_empty() {
        return Err(CliError::usage("there is nothing to do")
            .hint("baton follow-up RUN -- COMMAND…, or -p PROMPT for the program of the run"));
    }
    handoff::check_command(&args.command)?;
    let file: Option<&Path> = args.prompt_file.as_deref();
    let prompt = asks.then(|| handoff::prompt(args.prompt.as_deref(), file)).transpose()?;
    let call = FollowUpCall {
        run: id(&args.run),
        prompt,
        command: args.command.iter().map(workspace::bytes).collect(),
        expires_ms: args.expires.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        fork: args.fork,
        remote: session.remote.clone(),
        attachments: handoff::attachments(session, &args.attach)?,
        terms: args.terms.terms(),
    };
    let answer = session.call(&Command::FollowUp(Box::new(call)))?;
    let started = expect_answer!(answer, FollowUp);
    session.report.answer(&started, |text| show(&session.report, text, &started))?;
    Ok(if started.queue.is_some() { QUEUED } else { 0 })
}

fn show(report: &Report, to: &mut String, started: &FollowUpAnswer) {
    let short = figures::short(&started.run);
    let run = report.paint(Style::Name, short);
    let state = run::state(report, &started.state);
    let next = match &started.queue {
        Some(_) => "starts when the node can be reached".to_owned(),
        None => format!("follow it with: baton logs {short} -f"),
    };
    let _ = writeln!(to, "run {run}  {state}, {next}");
}

//! `baton run`, `baton runs`, `baton logs`: runs on all nodes.

use std::fmt::Write as _;

use baton_daemon::api::control::{Command, RunEntry, RunsAnswer};
use serde::Serialize;

use super::{diff, later};
use crate::detach::Detach;
use crate::error::{CliError, FAILED};
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer, id};

/// Runs on all nodes.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    List(ListArgs),
    /// Shows one run.
    Show(OneArgs),
    Logs(LogsArgs),
    /// Waits until a run has ended, and exits with its code.
    Wait(OneArgs),
    /// Ends a run.
    Cancel(OneArgs),
    Diff(DiffArgs),
    /// Steers a run (not in this version).
    #[command(hide = true)]
    Say(later::Rest),
    /// Answers what a run waits for (not in this version).
    #[command(hide = true)]
    Answer(later::Rest),
    /// Takes a run away (not in this version).
    #[command(hide = true)]
    Delete(later::Rest),
}

/// Lists runs, newest first.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct ListArgs {}

/// The output of a run.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton logs 9c1d2e3f -f\n  baton logs 9c1d2e3f --json | jq -r .text"
)]
pub(crate) struct LogsArgs {
    /// The run, or its thread: the id, or the first 8 digits or more.
    run: String,
    /// Go on until the run has ended.
    #[arg(short, long)]
    follow: bool,
}

#[derive(Debug, clap::Args)]
struct OneArgs {
    /// The run, or its thread: the id, or the first 8 digits or more.
    run: String,
}

/// What a run changed; or how what another one left differs from that.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton run diff 9c1d2e3f\n  baton run diff 9c1d2e3f 77b01d2e --patch   two variants"
)]
struct DiffArgs {
    /// The run, or its thread: the id, or the first 8 digits or more.
    run: String,
    /// Another one that is compared with it [default: what the run started from].
    other: Option<String>,
    /// Show the lines.
    #[arg(long)]
    patch: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    match args.what {
        What::List(args) => list(session, args),
        What::Show(args) => show(session, &args),
        What::Logs(args) => logs(session, &args),
        What::Wait(args) => wait(session, &args),
        What::Cancel(args) => cancel(session, &args),
        What::Diff(args) => diff(session, &args),
        What::Say(_) => {
            Err(later::not_yet("`baton run say`", "baton run cancel RUN, then baton handoff again"))
        }
        What::Answer(_) => Err(later::not_yet(
            "`baton run answer`",
            "a command is never asked; baton run show RUN",
        )),
        What::Delete(_) => Err(later::not_yet("`baton run delete`", "runs stay; baton run list")),
    }
}

pub(crate) fn list(session: &Session, ListArgs {}: ListArgs) -> Result<u8, CliError> {
    let command = Command::RunList { remote: session.remote.clone() };
    let runs = expect_answer!(session.call(&command)?, Runs);
    session.report.answer(&runs, |text| table(&session.report, text, &runs))?;
    Ok(0)
}

fn show(session: &Session, args: &OneArgs) -> Result<u8, CliError> {
    let run = expect_answer!(session.call(&Command::RunShow { run: id(&args.run) })?, Run);
    session.report.answer(&One::new(&run), |text| details(&session.report, text, &run))?;
    Ok(0)
}

pub(crate) fn logs(session: &Session, args: &LogsArgs) -> Result<u8, CliError> {
    let (run, follow) = (id(&args.run), args.follow);
    let _detach = follow.then(|| Detach::new(goes_on(&run)));
    session.call(&Command::RunLogs { run, follow })?;
    Ok(0)
}

/// What who stops following a run is told.
pub(crate) fn goes_on(run: &str) -> String {
    format!("the run goes on; follow it again with: baton logs {} -f", figures::short(run))
}

fn wait(session: &Session, args: &OneArgs) -> Result<u8, CliError> {
    let run = id(&args.run);
    let _detach = Detach::new(format!("the run goes on; wait again with: baton run wait {run}"));
    let run = expect_answer!(session.call(&Command::RunWait { run })?, Run);
    session.report.answer(&One::new(&run), |text| {
        *text = ended(&session.report, &run);
    })?;
    Ok(exit_code(&run))
}

fn cancel(session: &Session, args: &OneArgs) -> Result<u8, CliError> {
    let cancelled =
        expect_answer!(session.call(&Command::RunCancel { run: id(&args.run) })?, Cancel);
    session.report.answer(&cancelled, |text| {
        let run = session.report.paint(Style::Name, figures::short(&cancelled.run));
        let _ = writeln!(text, "run {run}  {}", state(&session.report, &cancelled.state));
    })?;
    Ok(0)
}

fn diff(session: &Session, args: &DiffArgs) -> Result<u8, CliError> {
    let (run, other) = (id(&args.run), args.other.as_deref().map(id));
    let command = Command::RunDiff { run, other, patch: args.patch };
    let found = expect_answer!(session.call(&command)?, RunDiff);
    session.report.answer(&found, |text| match &found.patch {
        Some(patch) => diff::colour(&session.report, text, patch),
        None => {
            for change in &found.changes {
                diff::line(&session.report, text, &change.change);
                if let (Some(added), Some(removed)) = (change.added, change.removed) {
                    let _ = write!(text, "  +{added} -{removed}");
                }
                text.push('\n');
            }
        }
    })?;
    Ok(0)
}

/// The code of the program; 1 where a run ended without one.
fn exit_code(run: &RunEntry) -> u8 {
    match (run.exit_code, run.state.as_str()) {
        (Some(code), _) => u8::try_from(code).unwrap_or(FAILED),
        (None, "succeeded") => 0,
        (None, _) => FAILED,
    }
}

/// One run as `--json` prints it: in the list that the contract names, and its fields beside it.
#[derive(Serialize)]
struct One<'a> {
    runs: [&'a RunEntry; 1],
    #[serde(flatten)]
    run: &'a RunEntry,
}

impl<'a> One<'a> {
    const fn new(run: &'a RunEntry) -> Self {
        Self { runs: [run], run }
    }
}

/// `run 9c1d2e3f  failed (exit 3): reason`.
pub(crate) fn ended(report: &Report, run: &RunEntry) -> String {
    let mut text = format!(
        "run {}  {}",
        report.paint(Style::Name, figures::short(&run.run)),
        state(report, &run.state)
    );
    if let Some(code) = run.exit_code {
        let _ = write!(text, " (exit {code})");
    }
    if let Some(reason) = &run.reason {
        let _ = write!(text, ": {}", figures::printable(reason));
    }
    text.push('\n');
    text
}

/// A state in its colour.
pub(crate) fn state(report: &Report, state: &str) -> String {
    let style = match state {
        "succeeded" => Style::Good,
        "failed" | "interrupted" => Style::Bad,
        _ => Style::Warn,
    };
    report.paint(style, state)
}

fn table(report: &Report, to: &mut String, answer: &RunsAnswer) {
    if let Some(as_of) = &answer.as_of {
        let _ = writeln!(to, "as of {} UTC; a node cannot be reached", figures::time(as_of));
    }
    if answer.runs.is_empty() {
        to.push_str("no runs; baton handoff -- COMMAND starts one\n");
    }
    let rows: Vec<_> = answer
        .runs
        .iter()
        .map(|run| {
            let code = run.exit_code.map(|code| format!(" (exit {code})")).unwrap_or_default();
            vec![
                report.paint(Style::Name, figures::short(&run.run)),
                format!("{}{code}", state(report, &run.state)),
                figures::one_line(&run.remote),
                run.started_at.as_deref().map(figures::time).unwrap_or_default(),
                task(run),
            ]
        })
        .collect();
    figures::table(to, &rows);
}

/// What a run does, cut to a line.
fn task(run: &RunEntry) -> String {
    const WIDTH: usize = 60;
    let text = run.prompt.clone().unwrap_or_else(|| run.command.join(" "));
    let text = figures::one_line(&text);
    match text.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

fn details(report: &Report, to: &mut String, run: &RunEntry) {
    to.push_str(&ended(report, run));
    let time = |at: &Option<String>| at.as_deref().map(|at| format!("{} UTC", figures::time(at)));
    let isolated = if run.isolated { "yes" } else { "no" };
    let facts = [
        ("thread", Some(run.thread.clone())),
        ("remote", Some(run.remote.clone())),
        ("agent", Some(run.agent.clone())),
        ("command", (!run.command.is_empty()).then(|| run.command.join(" "))),
        ("prompt", run.prompt.clone()),
        ("follows", run.parent.clone()),
        ("from", Some(run.snapshot.clone())),
        ("result", run.result.clone()),
        ("waits for", run.waiting.clone()),
        ("isolated", Some(isolated.to_owned())),
        ("checkout", run.checkout.clone()),
        ("started", time(&run.started_at)),
        ("ended", time(&run.ended_at)),
    ];
    for (name, value) in facts {
        if let Some(value) = value {
            let _ = writeln!(to, "  {name:<9}  {}", figures::one_line(&value));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn entry() -> RunEntry {
        RunEntry {
            run: "9c1d2e3f".repeat(4),
            thread: "aa".repeat(16),
            remote: "box".into(),
            workspace: "bb".repeat(16),
            state: "failed".into(),
            reason: None,
            agent: "command".into(),
            command: vec!["make".into(), "test".into()],
            prompt: None,
            parent: None,
            snapshot: "cc".repeat(32),
            result: None,
            exit_code: Some(3),
            waiting: None,
            isolated: true,
            checkout: None,
            started_at: Some("2026-01-02T03:04:05.678Z".into()),
            ended_at: None,
        }
    }

    #[test]
    fn waiting_exits_with_the_code_of_the_program() {
        let code = |code, state: &str| {
            exit_code(&RunEntry { exit_code: code, state: state.into(), ..entry() })
        };
        assert_eq!(code(Some(0), "succeeded"), 0);
        assert_eq!(code(Some(3), "failed"), 3);
        assert_eq!(code(Some(137), "cancelled"), 137);
        assert_eq!(code(None, "interrupted"), 1);
        assert_eq!(code(None, "failed"), 1);
        assert_eq!(code(Some(-1), "failed"), 1);
    }

    #[test]
    fn one_run_is_a_list_and_an_object() {
        let run = entry();
        let json = serde_json::to_value(One::new(&run)).unwrap();
        assert_eq!(json["runs"][0]["state"], "failed");
        assert_eq!(json["state"], "failed");
        assert!(json["result"].is_null());
    }

    #[test]
    fn a_list_is_a_line_each() {
        let long = RunEntry { prompt: Some("x\n".repeat(50)), exit_code: None, ..entry() };
        let answer = RunsAnswer { runs: vec![entry(), long], as_of: None };
        let mut text = String::new();
        table(&Report::new(false, None), &mut text, &answer);
        let mut lines = text.lines();
        let first = "9c1d2e3f  failed (exit 3)  box  2026-01-02 03:04:05  make test";
        assert_eq!(lines.next(), Some(first));
        assert!(lines.next().is_some_and(|line| line.ends_with('…')), "{text}");
        assert_eq!(lines.next(), None);
    }
}

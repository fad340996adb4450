//! `baton run`, `baton runs`, `baton logs`: runs on all nodes.

use std::fmt::Write as _;
use std::io::Read as _;
use std::time::Duration;

use baton_daemon::api::control::{Command, RunCall, RunEntry, RunsAnswer};
use baton_protocol::message::{Answer, MAX_SAY};
use serde::Serialize;

use super::diff;
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
    Say(SayArgs),
    Answer(AnswerArgs),
    /// Takes a run away that has ended: its output, its checkout, its home. What it left stays a snapshot.
    Delete(OneArgs),
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

/// Says a line to the program of a run, on its standard input.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    baton say 9c1d2e3f also fix the docs\n  \
    baton say 9c1d2e3f - < notes.txt\n  \
    baton run say --end 9c1d2e3f               its input ends: it waits no more")]
pub(crate) struct SayArgs {
    /// The run, or its thread: the id, or the first 8 digits or more.
    run: String,
    /// What to say; `-` reads it from stdin.
    #[arg(required_unless_present = "end", num_args = 1..)]
    text: Vec<String>,
    /// Nothing more will be said: the program reads the end of its input.
    #[arg(long)]
    end: bool,
}

/// Answers what a run waits for.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    baton run answer 9c1d2e3f yes\n  \
    baton run answer 9c1d2e3f 2 'the second one'    question 2, and no other\n\n\
    baton run show RUN says what it waits for.")]
struct AnswerArgs {
    /// The run, or its thread: the id, or the first 8 digits or more.
    run: String,
    /// The question's id, where only that one is to be answered; then `allow`, `deny` or a text.
    #[arg(required = true, num_args = 1..=2, value_names = ["ID] [ANSWER"])]
    answer: Vec<String>,
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
        What::Say(args) => say(session, &args),
        What::Answer(args) => answer(session, args),
        What::Delete(args) => delete(session, &args),
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

pub(crate) fn say(session: &Session, args: &SayArgs) -> Result<u8, CliError> {
    let text = match args.text.as_slice() {
        [] => None,
        [dash] if dash == "-" => Some(from_stdin()?),
        words => Some(words.join(" ")),
    };
    if text.as_ref().is_some_and(|text| text.len() > MAX_SAY) {
        return Err(CliError::usage(format!("the text is longer than {MAX_SAY} bytes"))
            .hint("say it in several parts, or put it into a file of the workspace"));
    }
    said(session, RunCall::Say { run: id(&args.run), text, end: args.end })
}

fn from_stdin() -> Result<String, CliError> {
    let mut bytes = Vec::new();
    // One byte more than may be said tells that it is too much.
    let read = std::io::stdin().lock().take(MAX_SAY as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| CliError::caused("input", "reading what to say", &error))?;
    String::from_utf8(bytes).map_err(|_| CliError::usage("what to say is not UTF-8 text"))
}

fn answer(session: &Session, args: AnswerArgs) -> Result<u8, CliError> {
    let (question, answer) = match <[String; 2]>::try_from(args.answer) {
        Ok([question, answer]) => (Some(question), answer),
        Err(one) => (None, one.concat()),
    };
    let answer = match answer.as_str() {
        "allow" => Answer::Allow,
        "deny" => Answer::Deny,
        _ => Answer::Text(answer),
    };
    said(session, RunCall::Answer { run: id(&args.run), question, answer })
}

fn said(session: &Session, call: RunCall) -> Result<u8, CliError> {
    let said = expect_answer!(session.call(&Command::Run(call))?, Said);
    session.report.answer(&said, |text| {
        let run = session.report.paint(Style::Name, figures::short(&said.run));
        let _ = writeln!(text, "run {run}  {}", state(&session.report, &said.state));
    })?;
    Ok(0)
}

fn delete(session: &Session, args: &OneArgs) -> Result<u8, CliError> {
    let call = RunCall::Delete { run: id(&args.run) };
    let deleted = expect_answer!(session.call(&Command::Run(call))?, Cancel);
    session.report.answer(&deleted, |text| {
        let run = session.report.paint(Style::Name, figures::short(&deleted.run));
        let _ = writeln!(text, "run {run}  {}", deleted.state);
    })?;
    Ok(0)
}

fn diff(session: &Session, args: &DiffArgs) -> Result<u8, CliError> {
    let (run, other) = (id(&args.run), args.other.as_deref().map(id));
    let command = Command::Run(RunCall::Diff { run, other, patch: args.patch });
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
                format!("{}{code}{}", state(report, &run.state), check(report, run)),
                figures::one_line(&run.remote),
                run.started_at.as_deref().map(figures::time).unwrap_or_default(),
                task(run),
            ]
        })
        .collect();
    figures::table(to, &rows);
    answer.runs.iter().for_each(|run| waiting(report, to, run));
}

/// `, check passed`.
fn check(report: &Report, run: &RunEntry) -> String {
    let Some(check) = &run.check else { return String::new() };
    let style = match check.state.as_str() {
        "passed" => Style::Good,
        "failed" => Style::Bad,
        _ => Style::Dim,
    };
    format!(", check {}", report.paint(style, &check.state))
}

/// What a run waits for, and the next command to type.
fn waiting(report: &Report, to: &mut String, run: &RunEntry) {
    let Some(waiting) = &run.waiting else { return };
    let short = figures::short(&run.run);
    let asks = figures::one_line(&waiting.text);
    let _ = writeln!(to, "run {} waits: {asks}", report.paint(Style::Name, short));
    let _ = writeln!(to, "  answer it with: baton run answer {short} TEXT");
    if waiting.kind == "input" {
        let _ = writeln!(to, "  or end its input: baton run say --end {short}");
    }
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
        ("waits for", run.waiting.as_ref().map(|waiting| waiting.text.clone())),
        ("check", checked(run)),
        (
            "timeout",
            run.timeout_ms
                .map(|limit| humantime::format_duration(Duration::from_millis(limit)).to_string()),
        ),
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
    if let Some(check) = run.check.as_ref().filter(|check| !check.output.is_empty()) {
        for line in check.output.lines() {
            let _ = writeln!(to, "  | {}", figures::one_line(line));
        }
    }
    waiting(report, to, run);
}

/// `failed (exit 2): make test`.
fn checked(run: &RunEntry) -> Option<String> {
    let check = run.check.as_ref()?;
    let code = check.exit_code.map(|code| format!(" (exit {code})")).unwrap_or_default();
    Some(format!("{}{code}: {}", check.state, check.command))
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
            check: None,
            timeout_ms: None,
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

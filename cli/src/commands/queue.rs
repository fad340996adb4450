//! `baton queue`: what waits for the network, and taking it back.

use std::fmt::Write as _;

use baton_daemon::api::control::{Command, QueueAnswer, QueueEntry};

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer, id};

/// What waits for the network.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton queue\n  baton queue cancel 9c1d2e3f")]
pub(crate) struct Args {
    /// What to do; without it the queue is listed.
    #[command(subcommand)]
    what: Option<What>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Takes an entry back, or off the list where it was not sent.
    Cancel {
        /// The entry: its id, or the first 8 digits or more.
        id: String,
    },
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    match args.what {
        None => list(session),
        Some(What::Cancel { id }) => cancel(session, &id),
    }
}

fn list(session: &Session) -> Result<u8, CliError> {
    let answer = expect_answer!(session.call(&Command::Queue)?, Queue);
    session.report.answer(&answer, |text| show(&session.report, text, &answer))?;
    Ok(0)
}

fn cancel(session: &Session, typed: &str) -> Result<u8, CliError> {
    let command = Command::QueueCancel { id: id(typed) };
    let answer = expect_answer!(session.call(&command)?, QueueCancelled);
    session.report.answer(&answer, |text| {
        for id in &answer.cancelled {
            let id = session.report.paint(Style::Name, figures::short(id));
            let _ = writeln!(text, "cancelled {id}");
        }
    })?;
    Ok(0)
}

fn show(report: &Report, to: &mut String, answer: &QueueAnswer) {
    if answer.queue.is_empty() {
        to.push_str("nothing waits\n");
    }
    let rows: Vec<_> = answer.queue.iter().map(|entry| row(report, entry)).collect();
    figures::table(to, &rows);
    for entry in &answer.queue {
        if let Some(error) = &entry.last_error {
            let id = report.paint(Style::Name, figures::short(&entry.id));
            let _ = writeln!(to, "{id}  {}", figures::printable(error));
        }
    }
}

fn row(report: &Report, entry: &QueueEntry) -> Vec<String> {
    let style = match entry.state.as_str() {
        "failed" | "expired" => Style::Bad,
        "sending" => Style::Good,
        _ => Style::Warn,
    };
    let run = entry.run.as_deref().map(|run| format!("run {}", figures::short(run)));
    vec![
        report.paint(Style::Name, figures::short(&entry.id)),
        report.paint(style, &entry.state),
        entry.kind.clone(),
        format!("{} to {}", figures::short(&entry.snapshot), figures::one_line(&entry.remote)),
        figures::time(&entry.created_at),
        figures::plural(entry.attempts, "attempt"),
        run.unwrap_or_default(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_line_and_says_why_it_waits() {
        let entry = QueueEntry {
            id: "9c1d2e3f".repeat(4),
            kind: "handoff".into(),
            state: "waiting".into(),
            remote: "box".into(),
            workspace: "aa".repeat(16),
            snapshot: "3f2a91c0".repeat(8),
            run: Some("12345678".repeat(4)),
            created_at: "2026-01-02T03:04:05.678Z".into(),
            expires_at: None,
            attempts: 2,
            last_error: Some("box is away\u{1b}".into()),
        };
        let mut text = String::new();
        let report = Report::new(false, None);
        show(&report, &mut text, &QueueAnswer { queue: vec![entry] });
        let expected = "9c1d2e3f  waiting  handoff  3f2a91c0 to box  2026-01-02 03:04:05  2 attempts  \
                        run 12345678\n9c1d2e3f  box is away\\u{1b}\n";
        assert_eq!(text, expected);
        text.clear();
        show(&report, &mut text, &QueueAnswer { queue: Vec::new() });
        assert_eq!(text, "nothing waits\n");
    }
}

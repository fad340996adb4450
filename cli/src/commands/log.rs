//! `baton log`: the snapshots of a workspace.

use std::fmt::Write as _;
use std::path::PathBuf;

use baton_daemon::api::control::{Command, LogAnswer, LogSnapshot, Problem};
use baton_daemon::api::receipt::ConversationReceipt;

use super::run;
use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};

/// Follow-ups of follow-ups that are shown below each other.
const MOST_DEEP: usize = 20;

/// Snapshots, newest first, and below each the runs that went on from it.
///
/// Where a conversation came along its id and length are shown. A run goes on in one of its own: where somebody goes on here, too, there are two,
/// and the snapshot above the run is what they have in common.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The workspace [default: the current folder, inside a git worktree its root].
    path: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let path = session.workspace(args.path.as_deref())?;
    let log = expect_answer!(session.call(&Command::Log { path })?, Log);
    session.report.answer(&log, |text| show(&session.report, text, &log))?;
    Ok(0)
}

fn show(report: &Report, to: &mut String, log: &LogAnswer) {
    if log.snapshots.is_empty() && log.damaged.is_empty() {
        to.push_str("no snapshot yet; baton snapshot makes one\n");
    }
    let has_conversations = log.snapshots.iter().any(|it| it.conversation.is_some());
    let row = |snapshot: &LogSnapshot| {
        let state =
            if snapshot.acked { report.paint(Style::Good, "acked") } else { "local".to_owned() };
        let mut row = vec![
            report.paint(Style::Name, figures::short(&snapshot.snapshot)),
            format!("#{}", snapshot.sequence),
            figures::time(&snapshot.created_at),
            state,
        ];
        row.extend(has_conversations.then(|| conversation(snapshot.conversation.as_ref())));
        row.push(figures::one_line(&snapshot.message));
        row
    };
    let rows: Vec<_> = log.snapshots.iter().map(row).collect();
    let mut table = String::new();
    figures::table(&mut table, &rows);
    for (line, snapshot) in table.lines().zip(&log.snapshots) {
        let _ = writeln!(to, "{line}");
        went_on(report, to, log, &snapshot.snapshot, 1);
    }
    for Problem { what, detail } in &log.damaged {
        let word = report.paint(Style::Bad, "damaged");
        let (what, detail) = (figures::one_line(figures::short(what)), figures::one_line(detail));
        let _ = writeln!(
            to,
            "{word} {what}: {detail}; what came before it is listed where it is known"
        );
    }
    if !log.damaged.is_empty() {
        let _ = writeln!(to, "{} baton check", report.paint(Style::Name, "fix:"));
    }
}

/// The runs that went on from a snapshot, each with those that went on from what it left.
fn went_on(report: &Report, to: &mut String, log: &LogAnswer, from: &str, depth: usize) {
    // A node may say of its runs what it likes.
    if depth > MOST_DEEP {
        return;
    }
    for run in log.runs.iter().filter(|run| run.snapshot == from) {
        let name = report.paint(Style::Name, figures::short(&run.run));
        let state = run::state(report, &run.state);
        let said = conversation(run.conversation.as_ref());
        let line = format!("{:indent$}run {name}  {state}  {said}", "", indent = depth * 2);
        let _ = writeln!(to, "{}", line.trim_end());
        if let Some(result) = run.result.as_deref().filter(|&result| result != from) {
            went_on(report, to, log, result, depth + 1);
        }
    }
}

fn conversation(of: Option<&ConversationReceipt>) -> String {
    let Some(ConversationReceipt { agent, id, messages }) = of else { return String::new() };
    let (agent, id) = (figures::one_line(agent), figures::one_line(figures::short(id)));
    format!("{agent} {id}, {}", figures::plural(*messages, "message"))
}

#[cfg(test)]
mod tests {
    use baton_daemon::api::control::LogRun;

    use super::*;

    #[test]
    fn a_damaged_snapshot_is_named_below_the_others() {
        let good = LogSnapshot {
            snapshot: "3f2a91c0".repeat(8),
            sequence: 4,
            parents: Vec::new(),
            device: "aa".repeat(32),
            created_at: "2026-01-02T03:04:05.678Z".into(),
            message: "before\nit".into(),
            acked: true,
            conversation: None,
        };
        let damaged = Problem { what: "77b01d2e".repeat(8), detail: "it is damaged".into() };
        let mut text = String::new();
        let log = LogAnswer { snapshots: vec![good], runs: Vec::new(), damaged: vec![damaged] };
        show(&Report::new(false, None), &mut text, &log);
        let expected = "3f2a91c0  #4  2026-01-02 03:04:05  acked  before\\nit\n\
            damaged 77b01d2e: it is damaged; what came before it is listed where it is known\n\
            fix: baton check\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn runs_stand_below_what_they_went_on_from() {
        let said = |id: &str, messages| {
            let (agent, id) = ("claude".to_owned(), id.repeat(8));
            Some(ConversationReceipt { agent, id, messages })
        };
        let snapshot = |id: &str, sequence, conversation| LogSnapshot {
            snapshot: id.repeat(8),
            sequence,
            parents: Vec::new(),
            device: "aa".repeat(32),
            created_at: "2026-01-02T03:04:05.678Z".into(),
            message: "edit".into(),
            acked: false,
            conversation,
        };
        let run = |id: &str, from: &str, result: Option<&str>, conversation| LogRun {
            run: id.repeat(8),
            thread: "77".repeat(16),
            state: "succeeded".into(),
            snapshot: from.repeat(8),
            result: result.map(|id| id.repeat(8)),
            parent: None,
            conversation,
        };
        let log = LogAnswer {
            snapshots: vec![
                snapshot("aaaa5555", 5, said("cccc1111", 25)),
                snapshot("aaaa4444", 4, said("cccc1111", 20)),
                snapshot("aaaa3333", 3, None),
            ],
            runs: vec![
                run("bbbb2222", "dddd1111", Some("bbbb2222"), None),
                run("bbbb1111", "aaaa4444", Some("dddd1111"), said("cccc2222", 31)),
            ],
            damaged: Vec::new(),
        };
        let mut text = String::new();
        show(&Report::new(false, None), &mut text, &log);
        let expected = "\
            aaaa5555  #5  2026-01-02 03:04:05  local  claude cccc1111, 25 messages  edit\n\
            aaaa4444  #4  2026-01-02 03:04:05  local  claude cccc1111, 20 messages  edit\n\
            \x20 run bbbb1111  succeeded  claude cccc2222, 31 messages\n\
            \x20   run bbbb2222  succeeded\n\
            aaaa3333  #3  2026-01-02 03:04:05  local                                edit\n";
        assert_eq!(text, expected);
    }
}

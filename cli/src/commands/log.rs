//! `baton log`: the snapshots of a workspace.

use std::fmt::Write as _;
use std::path::PathBuf;

use baton_daemon::api::control::{Command, LogAnswer, Problem};

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};

/// Snapshots, newest first.
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
    let rows: Vec<_> = log
        .snapshots
        .iter()
        .map(|snapshot| {
            vec![
                report.paint(Style::Name, figures::short(&snapshot.snapshot)),
                format!("#{}", snapshot.sequence),
                figures::time(&snapshot.created_at),
                if snapshot.acked {
                    report.paint(Style::Good, "acked")
                } else {
                    "local".to_owned()
                },
                figures::one_line(&snapshot.message),
            ]
        })
        .collect();
    figures::table(to, &rows);
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

#[cfg(test)]
mod tests {
    use baton_daemon::api::control::LogSnapshot;

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
        };
        let damaged = Problem { what: "77b01d2e".repeat(8), detail: "it is damaged".into() };
        let mut text = String::new();
        let log = LogAnswer { snapshots: vec![good], damaged: vec![damaged] };
        show(&Report::new(false, None), &mut text, &log);
        let expected = "3f2a91c0  #4  2026-01-02 03:04:05  acked  before\\nit\n\
            damaged 77b01d2e: it is damaged; what came before it is listed where it is known\n\
            fix: baton check\n";
        assert_eq!(text, expected);
    }
}

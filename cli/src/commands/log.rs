//! `baton log`: the snapshots of a workspace.

use std::path::PathBuf;

use baton_daemon::api::control::{Command, LogAnswer};

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
    if log.snapshots.is_empty() {
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
}

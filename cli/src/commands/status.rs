//! `baton status`: what is kept, where it stands, and what is wrong.

use std::fmt::Write as _;
use std::path::PathBuf;

use baton_daemon::api::control::{Command, RemotesAnswer, StatusAnswer, WorkspaceEntry};

use super::remote;
use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};

/// Workspaces, remotes and health.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this workspace [default: all of them].
    path: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let path = args.path.as_deref().map(|path| session.workspace(Some(path))).transpose()?;
    let status = expect_answer!(session.call(&Command::Status { path })?, Status);
    session.report.answer(&status, |text| show(&session.report, text, status.clone()))?;
    Ok(0)
}

fn show(report: &Report, to: &mut String, status: StatusAnswer) {
    if status.workspaces.is_empty() {
        to.push_str("no workspace is kept yet; baton snapshot starts one\n");
    }
    let rows: Vec<_> = status.workspaces.iter().map(|entry| row(report, entry)).collect();
    figures::table(to, &rows);
    for entry in &status.workspaces {
        if let Some(error) = &entry.last_error {
            let word = report.paint(Style::Bad, "failed");
            let root = figures::one_line(&entry.root);
            let _ = writeln!(to, "{word} {root}: {}", figures::printable(error));
        }
    }
    to.push('\n');
    remote::list(report, to, &RemotesAnswer { remotes: status.remotes });
    let what = if status.daemon.serving { "serving" } else { "daemon" };
    let version = status.daemon.version.unwrap_or_default();
    let pid = status.daemon.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
    let _ =
        writeln!(to, "\n{what} {version}{pid}, home {}", figures::one_line(&status.daemon.home));
}

fn row(report: &Report, entry: &WorkspaceEntry) -> Vec<String> {
    let style = match entry.state.as_str() {
        "synced" => Style::Good,
        "error" => Style::Bad,
        _ => Style::Warn,
    };
    let head = match &entry.head {
        Some(head) => figures::short(head),
        None => "no snapshot",
    };
    let mut notes = Vec::new();
    if entry.pending_files > 0 {
        notes.push(format!("{} pending", figures::plural(entry.pending_files, "file")));
    }
    if entry.queued > 0 {
        notes.push(format!("{} queued", figures::count(entry.queued)));
    }
    vec![
        figures::one_line(&entry.root),
        report.paint(style, &entry.state),
        head.to_owned(),
        entry
            .remote
            .as_deref()
            .map(|name| format!("on {}", figures::one_line(name)))
            .unwrap_or_default(),
        notes.join(", "),
    ]
}

//! `baton diff`: two snapshots, or one and the tree.

use std::fmt::Write as _;

use baton_daemon::api::control::{ChangeEntry, Command};

use crate::error::CliError;
use crate::report::{Report, Style, omitted};
use crate::session::{Session, expect_answer, id};

/// What changed between two snapshots, or between one and the tree.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton diff 3f2a91c0                   since that snapshot\n  baton diff 3f2a91c0 77b01d2e --patch"
)]
pub(crate) struct Args {
    /// The older snapshot.
    a: String,
    /// The newer one [default: the tree at the current folder].
    b: Option<String>,
    /// Show the lines.
    #[arg(long)]
    patch: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let path = session.workspace(None)?;
    let (a, b) = (id(&args.a), args.b.as_deref().map(id));
    let command = Command::Diff { a, b, path, patch: args.patch };
    let diff = expect_answer!(session.call(&command)?, Diff);
    session.report.answer(&diff, |text| match &diff.patch {
        Some(patch) => colour(&session.report, text, patch),
        None => list(&session.report, text, &diff.changes),
    })?;
    Ok(0)
}

fn list(report: &Report, to: &mut String, changes: &[ChangeEntry]) {
    for change in changes {
        line(report, to, change);
        to.push('\n');
    }
}

/// What changed and where, without the end of the line.
pub(super) fn line(report: &Report, to: &mut String, change: &ChangeEntry) {
    let style = match change.kind.as_str() {
        "added" => Style::Good,
        "removed" => Style::Bad,
        _ => Style::Warn,
    };
    let kind = report.paint(style, &format!("{:<8}", change.kind));
    let _ = write!(to, "{kind}  {}", omitted::path(&change.path));
}

/// A patch is data, for `git apply` too: only its lines are painted.
pub(super) fn colour(report: &Report, to: &mut String, patch: &str) {
    for line in patch.split_inclusive('\n') {
        let (text, end) = line.strip_suffix('\n').map_or((line, ""), |text| (text, "\n"));
        match line.as_bytes().first() {
            Some(b'+') => to.push_str(&report.paint(Style::Good, text)),
            Some(b'-') => to.push_str(&report.paint(Style::Bad, text)),
            Some(b'@') => to.push_str(&report.paint(Style::Name, text)),
            _ => to.push_str(text),
        }
        to.push_str(end);
    }
}

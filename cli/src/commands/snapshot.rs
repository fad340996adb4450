//! `baton snapshot`: a durable local snapshot. What `push` shows of a snapshot is here too.

use std::fmt::Write as _;
use std::path::PathBuf;

use baton_daemon::api::control::{Command, SnapshotAnswer};

use crate::error::CliError;
use crate::node;
use crate::report::{Report, Style, figures, omitted};
use crate::session::{Session, expect_answer};
use crate::workspace;

/// A durable local snapshot; the existing one if nothing changed.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton snapshot\n  baton snapshot ~/src/app -m 'before the migration'"
)]
pub(crate) struct Args {
    /// The workspace [default: the current folder, inside a git worktree its root].
    path: Option<PathBuf>,
    /// What to remember it by.
    #[arg(short, long, value_name = "MSG", allow_hyphen_values = true)]
    message: Option<String>,
    /// Work on the store directly; no daemon is started.
    #[arg(long)]
    no_daemon: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    let snapshot = if args.no_daemon {
        let root = workspace::root(args.path.as_deref(), &session.env.cwd)?;
        node::local_snapshot(session, &root, args.message.as_deref())?
    } else {
        let path = session.workspace(args.path.as_deref())?;
        let command = Command::Snapshot { path, message: args.message };
        expect_answer!(session.call(&command)?, Snapshot)
    };
    session.report.answer(&snapshot, |text| show(&session.report, text, &snapshot))?;
    Ok(0)
}

/// `snapshot 3f2a91c0  78,579 files, 1.30 GB (2 changed) in 0.41 s`, and what was left out.
pub(crate) fn show(report: &Report, to: &mut String, answer: &SnapshotAnswer) {
    let word = match &answer.push {
        None => "snapshot",
        Some(push) if push.state == "queued" => "queued",
        Some(_) => "pushed",
    };
    let changed = match answer.files_changed {
        0 => "nothing changed".to_owned(),
        count => format!("{} changed", figures::count(count)),
    };
    let _ = write!(
        to,
        "{} {}  {}, {} ({changed})",
        report.paint(Style::Good, word),
        report.paint(Style::Name, figures::short(&answer.snapshot)),
        figures::plural(answer.files, "file"),
        figures::size(answer.bytes),
    );
    if let Some(push) = answer.push.as_ref().filter(|push| push.state == "queued") {
        let _ = write!(to, ", for {},", figures::one_line(&push.remote));
    } else if let Some(push) = &answer.push {
        let trips = figures::plural(push.round_trips, "round trip");
        let sent = figures::size(push.bytes_sent);
        let _ = write!(to, ", {sent} to {} in {trips},", figures::one_line(&push.remote));
    }
    let _ = writeln!(to, " in {}", figures::span(answer.timing_ms.total));
    omitted::omitted(to, &answer.omitted);
    omitted::torn(to, &answer.torn);
}

#[cfg(test)]
mod tests {
    use super::*;
    use baton_daemon::api::control::{PushFields, TimingMs};

    #[test]
    fn a_snapshot_is_one_line_where_all_went_well() {
        let mut answer = SnapshotAnswer {
            snapshot: "3f2a91c0".repeat(8),
            sequence: 4,
            files: 78_579,
            bytes: 1_300_000_000,
            files_changed: 2,
            omitted: Vec::new(),
            torn: Vec::new(),
            timing_ms: TimingMs { total: 412.0, ..TimingMs::default() },
            push: None,
        };
        let text = |answer: &SnapshotAnswer| {
            let mut text = String::new();
            show(&Report::new(false, None), &mut text, answer);
            text
        };
        let expected = "snapshot 3f2a91c0  78,579 files, 1.30 GB (2 changed) in 0.41 s\n";
        assert_eq!(text(&answer), expected);
        answer.files_changed = 0;
        answer.push = Some(PushFields {
            state: "acked".into(),
            remote: "box".into(),
            bytes_sent: 1234,
            objects_sent: 3,
            round_trips: 1,
            queue: None,
        });
        let expected = "pushed 3f2a91c0  78,579 files, 1.30 GB (nothing changed), \
                        1.23 kB to box in 1 round trip, in 0.41 s\n";
        assert_eq!(text(&answer), expected);
    }
}

//! `baton push`: snapshot, and durable on the remote when it returns.

use std::path::PathBuf;

use baton_daemon::api::control::Command;

use super::snapshot;
use crate::detach::Detach;
use crate::error::{CliError, QUEUED};
use crate::report::figures;
use crate::session::{Session, expect_answer};

/// A snapshot that is durable on the remote when this returns; offline it is queued (exit 3).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton push\n  baton push ~/src/app --remote box")]
pub(crate) struct Args {
    /// The workspace [default: the current folder, inside a git worktree its root].
    path: Option<PathBuf>,
    /// Where the remote cannot be reached, wait until it can, instead of leaving it to the queue.
    #[arg(long)]
    wait: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let path = session.workspace(args.path.as_deref())?;
    let command = Command::Push { path, remote: session.remote.clone(), wait: args.wait };
    let detach = Detach::later("the push goes on in the daemon; see it with: baton status");
    let answer =
        session.call_for(&command, Some(&detach), |queue| detach.say(goes_on("push", queue)))?;
    let pushed = expect_answer!(answer, Snapshot);
    session.report.answer(&pushed, |text| snapshot::show(&session.report, text, &pushed))?;
    let state = pushed.push.as_ref().map(|push| push.state.as_str());
    if state == Some("acked") {
        closable(session, pushed.timing_ms.total);
    }
    Ok(if state == Some("queued") { QUEUED } else { 0 })
}

/// What who stops waiting for it is told.
pub(crate) fn goes_on(what: &str, queue: &str) -> String {
    let id = figures::short(queue);
    format!(
        "the {what} goes on in the daemon; see it with: baton queue, stop it with: baton queue cancel {id}"
    )
}

/// Says on a terminal that nothing of it is left on this machine alone, where that took so long that
/// somebody may have waited to leave.
pub(crate) fn closable(session: &Session, took_ms: f64) {
    const NOTICED_MS: f64 = 1000.0;
    if session.env.terminal_err && took_ms >= NOTICED_MS {
        session.report.note("all of it is there; the lid may be closed now");
    }
}

//! `baton push`: snapshot, and durable on the remote when it returns.

use std::path::PathBuf;
use std::time::Duration;

use baton_daemon::api::control::{Answer, Command};

use super::snapshot;
use crate::detach::Detach;
use crate::error::{CliError, QUEUED};
use crate::session::{Session, expect_answer};

/// Between two tries of `--wait`.
const RETRY: Duration = Duration::from_secs(5);

/// A snapshot that is durable on the remote when this returns.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton push\n  baton push ~/src/app --remote box")]
pub(crate) struct Args {
    /// The workspace [default: the current folder, inside a git worktree its root].
    path: Option<PathBuf>,
    /// Where the remote cannot be reached, try until it can.
    #[arg(long)]
    wait: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let path = session.workspace(args.path.as_deref())?;
    let command = Command::Push { path, remote: session.remote.clone() };
    let _detach = Detach::new("the push goes on in the daemon; see it with: baton status");
    let answer = ask(session, &command, args.wait)?;
    let pushed = expect_answer!(answer, Snapshot);
    session.report.answer(&pushed, |text| snapshot::show(&session.report, text, &pushed))?;
    let queued = pushed.push.is_some_and(|push| push.state == "queued");
    Ok(if queued { QUEUED } else { 0 })
}

/// Asks once, or with `--wait` as often as it takes. Each try snapshots again, so that what arrives is
/// the tree of that moment; an unchanged tree is the same snapshot.
fn ask(session: &Session, command: &Command, wait: bool) -> Result<Answer, CliError> {
    let mut said = false;
    loop {
        match session.call(command) {
            Err(error) if wait && (error.is("remote-unreachable") || error.code() == QUEUED) => {
                if !said && let CliError::Failed(report) = &error {
                    let seconds = RETRY.as_secs();
                    session.report.note(&format!("{}; trying every {seconds} s", report.message));
                }
                said = true;
                std::thread::sleep(RETRY);
            }
            answer => return answer,
        }
    }
}

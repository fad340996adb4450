//! `baton watch` and `baton unwatch`: always-on sync of a workspace, in the background.

use std::fmt::Write as _;
use std::path::PathBuf;

use baton_daemon::api::control::{Command, WatchAnswer};

use crate::error::CliError;
use crate::report::figures;
use crate::session::{Session, expect_answer};

/// Keeps a workspace in step with a node, in the background, from now on.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton watch\n  baton watch ~/src/app --remote box\n  baton status"
)]
pub(crate) struct Args {
    /// The workspace [default: the current folder, inside a git worktree its root].
    path: Option<PathBuf>,
}

/// Ends `watch`; what was kept stays.
#[derive(Debug, clap::Args)]
pub(crate) struct UnwatchArgs {
    /// The workspace [default: the current folder, inside a git worktree its root].
    path: Option<PathBuf>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let path = session.workspace(args.path.as_deref())?;
    let command = Command::Watch { path, remote: session.remote.clone() };
    let answer = expect_answer!(session.call(&command)?, Watch);
    session.report.answer(&answer, |text| {
        let _ = writeln!(text, "watching {}; see how it is with: baton status", root(&answer));
    })?;
    Ok(0)
}

pub(crate) fn unwatch(session: &Session, args: &UnwatchArgs) -> Result<u8, CliError> {
    session.refuse_remote("unwatch")?;
    let path = session.workspace_or_gone(args.path.as_deref())?;
    let answer = expect_answer!(session.call(&Command::Unwatch { path })?, Watch);
    session.report.answer(&answer, |text| {
        let _ = writeln!(text, "{} is not watched any more; what was kept stays", root(&answer));
    })?;
    Ok(0)
}

fn root(answer: &WatchAnswer) -> String {
    figures::one_line(&answer.root)
}

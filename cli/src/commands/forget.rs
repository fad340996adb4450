//! `baton forget`: takes a snapshot, a run or a workspace away, here and on every node.

use std::fmt::Write as _;
use std::path::Path;

use baton_daemon::api::control::{Command, ForgetCall};

use crate::error::{CliError, QUEUED};
use crate::session::{Session, expect_answer};

/// Takes a snapshot, a run or a workspace away, here and on every node; real after `baton gc` there.
#[derive(Debug, clap::Args)]
#[command(
    group = clap::ArgGroup::new("what").required(true),
    after_help = "Examples:\n  baton forget 3f2a91c0          a snapshot, with a password that was sent by mistake\n  \
                  baton forget --run 8c1d22e0    a run that has ended, and what it left\n  \
                  baton forget --workspace .     all that is kept of this folder; not the folder"
)]
pub(crate) struct Args {
    /// The snapshot, or the beginning of its id.
    #[arg(group = "what")]
    snapshot: Option<String>,
    /// A run that has ended, or the beginning of its id.
    #[arg(long, value_name = "RUN", group = "what")]
    run: Option<String>,
    /// A workspace: its folder, its id, or the beginning of that.
    #[arg(long, value_name = "W", group = "what")]
    workspace: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("forget")?;
    let call = match (&args.snapshot, &args.run, &args.workspace) {
        (Some(snapshot), _, _) => ForgetCall::Snapshot(snapshot.clone()),
        (_, Some(run), _) => ForgetCall::Run(run.clone()),
        (_, _, Some(workspace)) if is_id(workspace) && !Path::new(workspace).is_dir() => {
            ForgetCall::Workspace(workspace.clone())
        }
        (_, _, workspace) => {
            ForgetCall::Folder(session.workspace(workspace.as_deref().map(Path::new))?)
        }
    };
    let done = expect_answer!(session.call(&Command::Forget(call))?, Forget);
    session.report.answer(&done, |text| {
        for id in &done.forgotten {
            let _ = writeln!(text, "forgotten {id}");
        }
    })?;
    Ok(if done.queued.is_empty() { 0 } else { QUEUED })
}

fn is_id(text: &str) -> bool {
    text.len() >= baton_protocol::id::MIN_PREFIX
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

//! `baton undo`: a checkout as it was before an apply.

use std::fmt::Write as _;

use baton_daemon::api::control::Command;

use crate::detach::Detach;
use crate::error::{CONFLICT, CliError};
use crate::report::{Style, figures, omitted};
use crate::session::{Session, expect_answer, id};

/// Puts back what `baton pull --apply` changed in a checkout.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton undo\n  baton undo 4be81f02\n\n\
    What was edited since is left and listed, and the command ends with 4.")]
pub(crate) struct Args {
    /// Which apply: its id, or the first 8 digits or more; the last one to this checkout unless said.
    id: Option<String>,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("undo")?;
    let path = session.workspace(None)?;
    let command = Command::Undo { id: args.id.as_deref().map(id), path };
    let _detach = Detach::new("the daemon goes on and finishes the checkout");
    let undone = expect_answer!(session.call(&command)?, Undone);
    session.report.answer(&undone, |text| {
        let _ = writeln!(
            text,
            "{} {}  {} as before in {}",
            session.report.paint(Style::Good, "undone"),
            figures::short(&undone.undo),
            figures::plural(undone.restored.len() as u64, "path"),
            figures::one_line(&undone.root)
        );
        omitted::kept(text, &undone.kept);
        let is_kept = undone.index.as_deref() == Some("kept");
        if is_kept {
            let _ = writeln!(text, "  kept      git's index (changed)");
        }
        for one in &undone.refs_kept {
            let _ = writeln!(text, "  kept      {} ({})", figures::one_line(&one.name), one.reason);
        }
    })?;
    let is_left = !undone.kept.is_empty()
        || !undone.refs_kept.is_empty()
        || undone.index.as_deref() == Some("kept");
    Ok(if is_left { CONFLICT } else { 0 })
}

//! `baton pull`: what a run left, in a folder here.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::PathBuf;

use baton_daemon::api::control::Command;

use super::{later, restore};
use crate::detach::Detach;
use crate::error::CliError;
use crate::report::{Style, figures};
use crate::session::{Session, expect_answer, id};
use crate::workspace;

/// Fetches what a run left into a new or empty folder.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton pull 9c1d2e3f --into ../result")]
pub(crate) struct Args {
    /// The run, or its thread: the id, or the first 8 digits or more.
    run: String,
    /// A folder that is empty or does not exist yet.
    #[arg(long, value_name = "DIR")]
    into: Option<PathBuf>,
    /// Merge it into the checkout (not in this version).
    #[arg(long, value_name = "PATH", num_args = 0..=1, default_missing_value = ".", hide = true)]
    apply: Option<PathBuf>,
    /// Only these paths (not in this version).
    #[arg(long, value_name = "PATH", hide = true)]
    only: Vec<OsString>,
    /// How conflicts are written (not in this version).
    #[arg(long, value_name = "HOW", hide = true)]
    conflicts: Option<OsString>,
    /// Say what would be done (not in this version).
    #[arg(long, hide = true)]
    dry_run: bool,
    /// Go on with the conversation here (not in this version).
    #[arg(long, hide = true)]
    exec: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let into = target(args)?;
    let into = workspace::bytes(session.absolute(into));
    let _detach = Detach::new("the daemon goes on and finishes the folder");
    let pulled = expect_answer!(session.call(&Command::Pull { run: id(&args.run), into })?, Pull);
    session.report.answer(&pulled, |text| {
        let _ = writeln!(
            text,
            "{} {}  {}, {} into {}",
            session.report.paint(Style::Good, "pulled"),
            figures::short(&pulled.snapshot),
            figures::plural(pulled.files, "file"),
            figures::size(pulled.bytes),
            figures::one_line(&pulled.root)
        );
        restore::receipt(&session.report, text, &pulled.receipt);
    })?;
    Ok(0)
}

/// The one way to pull that this version has.
fn target(args: &Args) -> Result<&PathBuf, CliError> {
    let instead = format!("baton pull {} --into DIR", id(&args.run));
    let others = [
        ("--apply", args.apply.is_some()),
        ("--only", !args.only.is_empty()),
        ("--conflicts", args.conflicts.is_some()),
        ("--dry-run", args.dry_run),
        ("--exec", args.exec),
    ];
    if let Some((flag, _)) = others.into_iter().find(|(_, given)| *given) {
        return Err(later::not_yet(&format!("`baton pull {flag}`"), &instead));
    }
    args.into.as_ref().ok_or_else(|| later::not_yet("`baton pull` without --into", &instead))
}

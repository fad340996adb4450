//! `baton gc`: takes away what is no longer needed, of every store of this home.

use std::fmt::Write as _;

use baton_daemon::api::control::Command;

use crate::error::{CliError, DAMAGE};
use crate::report::{Style, figures};
use crate::session::{Session, expect_answer};

/// Takes away what nothing needs any more, of every store of this home; nobody is stopped meanwhile.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Only say how much that would be, about.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    session.refuse_remote("gc")?;
    let done = expect_answer!(session.call(&Command::Gc { dry_run: args.dry_run })?, Gc);
    session.report.answer(&done, |text| {
        for problem in &done.problems {
            let word = session.report.paint(Style::Bad, "problem");
            let (what, detail) =
                (figures::one_line(&problem.what), figures::printable(&problem.detail));
            let _ = writeln!(text, "{word} {what}: {detail}");
        }
        let word = if done.dry_run { "would free about" } else { "freed" };
        let objects = figures::plural(done.objects, "object");
        let _ = writeln!(text, "{word} {} in {objects}", figures::size(done.freed_bytes));
        if !done.problems.is_empty() {
            text.push_str("baton check says what is damaged\n");
        }
    })?;
    Ok(if done.problems.is_empty() { 0 } else { DAMAGE })
}

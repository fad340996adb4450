//! `baton check`: verifies every store of this home.

use std::fmt::Write as _;

use baton_daemon::api::control::Command;

use crate::error::{CliError, DAMAGE};
use crate::report::{Style, figures};
use crate::session::{Session, expect_answer};

/// Verifies every store of this home; exit 5 where something is damaged.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Also read and hash all file data.
    #[arg(long)]
    data: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    session.refuse_remote("check")?;
    let checked = expect_answer!(session.call(&Command::Check { data: args.data })?, Check);
    session.report.answer(&checked, |text| {
        for problem in &checked.problems {
            let word = session.report.paint(Style::Bad, "damaged");
            let (what, detail) =
                (figures::one_line(&problem.what), figures::printable(&problem.detail));
            let _ = writeln!(text, "{word} {what}: {detail}");
        }
        let (word, style) = match checked.problems.len() {
            0 => ("no problems".to_owned(), Style::Good),
            count => (figures::plural(count as u64, "problem"), Style::Bad),
        };
        let _ = write!(
            text,
            "{} in {} and {}",
            session.report.paint(style, &word),
            figures::plural(checked.snapshots, "snapshot"),
            figures::plural(checked.objects, "object")
        );
        if args.data {
            let _ = write!(text, ", {} read", figures::size(checked.bytes_read));
        }
        text.push('\n');
        if !checked.problems.is_empty() {
            text.push_str("next: baton repair\n");
        }
    })?;
    Ok(if checked.problems.is_empty() { 0 } else { DAMAGE })
}

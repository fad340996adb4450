//! `baton repair`: heals every store of this home.

use std::fmt::Write as _;

use baton_daemon::api::control::Command;

use crate::error::{CliError, DAMAGE};
use crate::report::{Style, figures};
use crate::session::{Session, expect_answer};

/// Heals every store of this home: keeps what is intact, sets what is damaged aside, asks nodes for what is lost. Nothing is
/// deleted, and it can be ended at any moment and begun again. Exit 5 where something is still lost.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(session: &Session, _args: Args) -> Result<u8, CliError> {
    session.refuse_remote("repair")?;
    let done = expect_answer!(session.call(&Command::Repair)?, Repair);
    session.report.answer(&done, |text| {
        let line = |text: &mut String, style, word: &str, what: &str, detail: &str| {
            let word = session.report.paint(style, word);
            let (what, detail) = (figures::one_line(what), figures::printable(detail));
            let _ = writeln!(text, "{word} {what}: {detail}");
        };
        for found in &done.found {
            line(text, Style::Bad, "damaged", &found.what, &found.detail);
        }
        for repaired in &done.repaired {
            line(text, Style::Good, "repaired", &repaired.what, &repaired.detail);
        }
        for snapshot in &done.fetched {
            line(text, Style::Good, "fetched", snapshot, "whole again, from a node");
        }
        for left in &done.problems {
            line(text, Style::Bad, "not repaired", &left.what, &left.detail);
            let _ = writeln!(text, "next: {}", left.next);
        }
        if done.found.is_empty() && done.problems.is_empty() {
            let _ = writeln!(text, "{}", session.report.paint(Style::Good, "nothing to repair"));
        } else {
            let _ =
                writeln!(text, "damaged files are kept in {}", figures::one_line(&done.quarantine));
        }
    })?;
    Ok(if done.problems.is_empty() { 0 } else { DAMAGE })
}

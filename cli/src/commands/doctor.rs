//! `baton doctor`: what is wrong around Baton, and what to do about it.

use std::fmt::Write as _;

use baton_daemon::api::control::{Command, DoctorAnswer, DoctorCheck};

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer};

/// Clock, disk, network, keys, versions and isolation.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(session: &Session, Args {}: Args) -> Result<u8, CliError> {
    session.refuse_remote("doctor")?;
    let answer = match session.call(&Command::Doctor) {
        Ok(answer) => expect_answer!(answer, Doctor),
        Err(error @ CliError::BrokenPipe) => return Err(error),
        // A patient who cannot speak is a finding, not a reason to send the doctor away.
        Err(CliError::Failed(report)) => DoctorAnswer {
            checks: vec![DoctorCheck {
                name: "daemon".into(),
                ok: false,
                detail: report.message,
                fix: report.hint,
            }],
        },
    };
    session.report.answer(&answer, |text| show(&session.report, text, &answer))?;
    Ok(0)
}

fn show(report: &Report, to: &mut String, answer: &DoctorAnswer) {
    for check in &answer.checks {
        let word = if check.ok {
            report.paint(Style::Good, "ok  ")
        } else {
            report.paint(Style::Bad, "fail")
        };
        let (name, detail) = (figures::one_line(&check.name), figures::printable(&check.detail));
        let _ = writeln!(to, "{word}  {name}: {detail}");
        if let Some(fix) = check.fix.as_deref().filter(|_| !check.ok) {
            let _ = writeln!(to, "      fix: {}", figures::printable(fix));
        }
    }
}

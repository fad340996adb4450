//! `baton allow`: lets through what the secret scan holds back.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use baton_daemon::api::control::{AllowCall, AllowedAnswer, AllowedEntry, Command};
use baton_store::catalog::held::is_id;

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer, id};
use crate::workspace;

/// Lets a file through that the secret scan holds back.
///
/// A file stays allowed, whatever it holds later, until it is taken back with --revoke. A finding is
/// allowed wherever it stands in its workspace: that secret, and no other.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton allow config/test.env       this file, whatever it holds\n  \
                        baton allow 3f2a91c0              this secret, in whatever file\n  \
                        baton allow --revoke test.env     hold it back again"
)]
pub(crate) struct Args {
    /// A file, or the id of a finding as `baton status` shows it.
    #[arg(value_name = "PATH|FINDING")]
    what: OsString,
    /// Hold it back again.
    #[arg(long)]
    revoke: bool,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("allow")?;
    let command = Command::Allow(call(session, args));
    let answer = expect_answer!(session.call(&command)?, Allowed);
    session.report.answer(&answer, |text| show(&session.report, text, &answer))?;
    Ok(0)
}

fn call(session: &Session, args: &Args) -> AllowCall {
    let path = in_resolved_folder(&session.absolute(Path::new(&args.what)));
    // A file of that name is meant before a finding is.
    let is_there = path.symlink_metadata().is_ok();
    let finding = args.what.to_str().map(id).filter(|id| is_id(id) && !is_there);
    AllowCall {
        path: workspace::bytes(&path),
        finding,
        folder: workspace::bytes(&session.env.cwd),
        revoke: args.revoke,
    }
}

/// The path with the links above it resolved, as the roots of workspaces are; a link itself is what is
/// held back, not what it points to.
fn in_resolved_folder(path: &Path) -> std::path::PathBuf {
    match (path.parent().map(Path::canonicalize), path.file_name()) {
        (Some(Ok(folder)), Some(name)) => folder.join(name),
        _ => path.to_owned(),
    }
}

fn show(report: &Report, to: &mut String, answer: &AllowedAnswer) {
    for entry in &answer.allowed {
        let word = report.paint(Style::Good, "allowed");
        let _ = writeln!(to, "{word} {}", what(entry, "it travels with the next snapshot"));
    }
    for entry in &answer.revoked {
        let word = report.paint(Style::Warn, "revoked");
        let _ = writeln!(to, "{word} {}", what(entry, "what was sent already stays there"));
    }
}

fn what(entry: &AllowedEntry, then: &str) -> String {
    let root = figures::one_line(&entry.root);
    let rule = entry.rule.as_deref().map(|rule| format!(" ({})", figures::one_line(rule)));
    let rule = rule.unwrap_or_default();
    match (&entry.path, &entry.finding) {
        (Some(path), _) => format!("{}{rule} in {root}; {then}", figures::one_line(path)),
        (None, Some(finding)) => {
            format!("finding {}{rule} in every file of {root}; {then}", figures::short(finding))
        }
        (None, None) => root,
    }
}

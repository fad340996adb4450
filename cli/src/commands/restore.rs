//! `baton restore`: an exact copy of a snapshot in a new or empty folder.

use std::fmt::Write as _;
use std::path::PathBuf;

use baton_daemon::api::control::{Command, GitReceipt, Receipt};

use crate::detach::Detach;
use crate::error::CliError;
use crate::report::{Report, Style, figures, omitted};
use crate::session::{Session, expect_answer, id};
use crate::workspace;

/// An exact copy of a snapshot in a new or empty folder, fetched where needed.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton restore 3f2a91c0 --into ../before")]
pub(crate) struct Args {
    /// Its id, or the first 8 digits or more.
    snapshot: String,
    /// A folder that is empty or does not exist yet.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let into = workspace::bytes(session.absolute(&args.into));
    let snapshot = id(&args.snapshot);
    let command = Command::Restore { snapshot, into, remote: session.remote.clone() };
    let _detach = Detach::new("the daemon goes on and finishes the folder");
    let restored = expect_answer!(session.call(&command)?, Restore);
    session.report.answer(&restored, |text| {
        let _ = writeln!(
            text,
            "{} {}  {}, {} into {}",
            session.report.paint(Style::Good, "restored"),
            figures::short(&restored.receipt.snapshot),
            figures::plural(restored.files, "file"),
            figures::size(restored.bytes),
            figures::one_line(&restored.root)
        );
        receipt(&session.report, text, &restored.receipt);
    })?;
    Ok(0)
}

/// What of a repository was left out that is named before the rest is only counted.
const SHOWN: usize = 8;

/// A repository in a line.
fn repository(git: &GitReceipt) -> String {
    let branch = git.branch.as_deref().unwrap_or("no branch");
    let mut text = match &git.head {
        Some(head) => format!("{branch} at {}", head.get(..12).unwrap_or(head)),
        None => format!("{branch}, without a commit"),
    };
    if git.stashes > 0 {
        let _ = write!(text, ", {} stashed", figures::count(git.stashes));
    }
    if let Some(operation) = &git.operation {
        let _ = write!(text, ", in the middle of a {operation}");
    }
    if git.shallow {
        text.push_str(", without its older history");
    }
    // Every repository has reflogs of its branches: of those only the receipt speaks.
    let unusual = git.omitted.iter().filter(|it| !it.what.starts_with("logs/refs/"));
    let named: Vec<_> =
        unusual.map(|it| figures::one_line(&format!("{} ({})", it.what, it.reason))).collect();
    if let Some(first) = named.get(..named.len().min(SHOWN)).filter(|first| !first.is_empty()) {
        let _ = write!(text, "; left out: {}", first.join(", "));
    }
    if named.len() > SHOWN {
        let _ = write!(text, " and {} more", named.len() - SHOWN);
    }
    text
}

/// What of a receipt needs to be seen.
pub(crate) fn receipt(report: &Report, to: &mut String, receipt: &Receipt) {
    if !receipt.verified {
        let word = report.paint(Style::Warn, "not verified");
        let _ = writeln!(to, "{word}: not every byte was checked against its hash");
    }
    if let Some(git) = &receipt.git {
        let _ = writeln!(to, "  git: {}", repository(git));
    }
    if let Some(conversation) = &receipt.conversation {
        let (agent, id) =
            (figures::one_line(&conversation.agent), figures::one_line(&conversation.id));
        let messages = figures::plural(conversation.messages, "message");
        let _ = writeln!(to, "  conversation: {agent} {id}, {messages}");
    }
    omitted::omitted(to, &receipt.omitted);
}

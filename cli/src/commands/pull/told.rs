//! What a pull leaves for the agent to know that goes on in the folder: what was carried, merged and left, and why.
//!
//! Not here: how it reaches the agent, which is when its hook asks.

use std::fmt::Write as _;
use std::path::Path;

use baton_daemon::agents::told;
use baton_daemon::api::apply::ApplyAnswer;
use baton_daemon::api::control::{OmittedEntry, PullAnswer, Receipt};

use crate::report::{figures, omitted};
use crate::session::Session;

/// Paths of a kind that are named before the rest is only counted.
const SHOWN: usize = 40;

/// Keeps what a pull into a folder of its own did.
pub(super) fn pulled(session: &Session, pulled: &PullAnswer) {
    keep(session, &pulled.root, &of_pull(pulled));
}

/// Keeps what a merge into a checkout did.
pub(super) fn applied(session: &Session, applied: &ApplyAnswer) {
    if applied.state != "dry-run" && applied.state != "unchanged" {
        keep(session, &applied.root, &of_apply(applied));
    }
}

fn keep(session: &Session, root: &str, text: &str) {
    let folder = session.env.home.sessions_dir();
    if let Err(error) = told::keep(&folder, Path::new(root), text) {
        let why = crate::error::chain(&error);
        session.report.note(&format!("an agent that goes on there is not told of this: {why}"));
    }
}

fn of_pull(pulled: &PullAnswer) -> String {
    let PullAnswer { root, files, .. } = pulled;
    let root = figures::one_line(root);
    let mut text = format!(
        "Baton has brought the work of a run into {root}: {}, as the run left them. Paths of earlier turns may be those of another \
         machine; this folder is where the work is now.\n",
        figures::plural(*files, "file")
    );
    if let Some(branch) = &pulled.branch {
        let _ = writeln!(text, "It is a git worktree on branch {}.", figures::one_line(branch));
    }
    if pulled.live {
        text.push_str("The run is still at work; this is what it had done so far.\n");
    }
    left(&mut text, "Not written here", &pulled.skipped);
    receipt(&mut text, &pulled.receipt);
    text
}

fn of_apply(applied: &ApplyAnswer) -> String {
    let root = figures::one_line(&applied.root);
    let run = figures::one_line(figures::short(&applied.run));
    let mut text =
        format!("Baton has merged the work of run {run} into {root}, which had moved on.\n");
    paths(&mut text, "Taken from the run", applied.applied.iter().map(omitted::path));
    paths(&mut text, "Merged from both sides", applied.merged.iter().map(omitted::path));
    let conflicts = applied.conflicts.iter().map(|it| omitted::path(&it.path));
    paths(&mut text, "In conflict, to be resolved", conflicts);
    left(&mut text, "Changed by the run and left as it is here", &applied.skipped);
    if let Some(undo) = &applied.undo {
        let _ = writeln!(text, "Put back with: baton undo {}", figures::short(undo));
    }
    receipt(&mut text, &applied.receipt);
    text
}

fn receipt(text: &mut String, receipt: &Receipt) {
    left(text, "Did not travel to the run", &receipt.omitted);
    let files = receipt.attachments.iter().map(|name| figures::one_line(name));
    paths(text, "Attachments", files);
}

fn left(text: &mut String, what: &str, entries: &[OmittedEntry]) {
    let reason = |it: &OmittedEntry| figures::one_line(&it.reason);
    paths(
        text,
        what,
        entries.iter().map(|it| format!("{} ({})", omitted::path(&it.path), reason(it))),
    );
}

fn paths(text: &mut String, what: &str, paths: impl ExactSizeIterator<Item = String>) {
    let count = paths.len();
    if count == 0 {
        return;
    }
    let shown: Vec<_> = paths.take(SHOWN).collect();
    let _ = write!(text, "{what}: {}", shown.join(", "));
    if let Some(more) = count.checked_sub(SHOWN).filter(|&more| more > 0) {
        let _ = write!(text, " and {} more", figures::count(more as u64));
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use baton_daemon::api::control::ReportPath;

    use super::*;

    fn entry(path: &str, reason: &str) -> OmittedEntry {
        OmittedEntry { path: ReportPath::new(path.as_bytes()), reason: reason.into() }
    }

    #[test]
    fn what_was_left_is_named_with_its_reason_and_bounded() {
        let mut text = String::new();
        left(&mut text, "Left", &[entry("a\nb", "special"), entry(".env", "secret")]);
        assert_eq!(text, "Left: a\\nb (special), .env (secret)\n");
        let mut text = String::new();
        let many: Vec<_> = (0..50).map(|at| entry(&at.to_string(), "vanished")).collect();
        left(&mut text, "Left", &many);
        assert!(text.ends_with("39 (vanished) and 10 more\n"), "{text}");
        left(&mut text, "None", &[]);
        assert!(!text.contains("None"));
    }
}

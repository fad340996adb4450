//! `baton uninstall`: takes Baton off this machine, first what others see of it, then its data.
//!
//! - [`unsent`]: what would be lost, or not be sent any more
//! - [`data`]: the files of a home
//!
//! **Invariant:** what nobody else has is named before anything is changed, and nothing is changed then
//! unless the user insists.
//!
//! **Invariant:** what Baton did not write stays: entries of a home are taken away by their names, settings
//! of agents entry by entry, and files only where they are as Baton writes them.

mod unsent;
mod data;

use std::fmt::Write as _;

use baton_store::fs;
use serde::Serialize;

use super::{agent, service};
use crate::connect;
use crate::error::{CONFLICT, CliError};
use crate::report::{Style, figures};
use crate::session::Session;

/// Takes Baton off this machine: hooks of agents, the service, completions; with `--purge` the data.
///
/// What was not sent anywhere is listed first, and then nothing is changed without `--force`. The program
/// itself stays where it was put.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton uninstall\n  baton uninstall --purge")]
pub(crate) struct Args {
    /// Also everything that is kept: snapshots, keys, and where this is a node what others sent here.
    #[arg(long)]
    purge: bool,
    /// Although something is here that is nowhere else.
    #[arg(long)]
    force: bool,
}

#[derive(Debug, Default, Serialize)]
struct Answer {
    /// What was taken away, or out of which file.
    removed: Vec<String>,
    /// What is here and nowhere else. Where there is some, and nobody insisted, nothing was changed.
    unsent: Vec<unsent::Unsent>,
    /// What stays, and why.
    left: Vec<Left>,
}

#[derive(Debug, Serialize)]
struct Left {
    path: String,
    why: String,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("uninstall")?;
    if session.env.run.is_some() {
        return Err(CliError::new("in-a-run", "a run does not uninstall the node that runs it")
            .hint("type it in a terminal of that machine"));
    }
    let mut answer = Answer::default();
    if data::is_there(&session.env.home) {
        answer.unsent = unsent::look(session, args.purge)?;
    }
    if !answer.unsent.is_empty() && !args.force {
        show(session, &answer)?;
        session.report.note(if args.purge {
            "nothing was changed; baton push sends it, baton uninstall --purge --force gives it up"
        } else {
            "nothing was changed; baton push sends it, baton uninstall --force leaves it here unsent"
        });
        return Ok(CONFLICT);
    }
    // All settings that would be changed are read before the first is.
    let agents = agent::taking_out(session)?;
    // One that is at work is a conflict, with nothing changed either.
    connect::stop(&session.env, !args.force)?;
    for (agent, taken) in agents {
        match taken.write() {
            Ok(changed) => answer.removed.extend(changed),
            Err(error) => return Err(error.hint(format!("baton agent remove {agent}"))),
        }
    }
    match service::take_away(session) {
        Ok(removed) => answer.removed.extend(removed),
        // Of another home, or written by hand.
        Err(CliError::Failed(report)) if report.code == "service-exists" => {
            answer.left.push(Left { path: "service".to_owned(), why: report.message });
        }
        // Without a place for it there is none.
        Err(CliError::Failed(report)) if report.code == "no-home" => {}
        Err(error) => return Err(error),
    }
    completions(session, &mut answer)?;
    // The service may have started it anew.
    connect::stop(&session.env, !args.force)?;
    if args.purge {
        let (removed, left) = data::remove(&session.env.home)?;
        answer.removed.extend(removed);
        answer.left.extend(left.into_iter().map(|(path, why)| Left { path, why }));
    }
    show(session, &answer)?;
    Ok(0)
}

/// Completions are written by the shell of the user; those at their usual places go where they are what
/// this version says.
fn completions(session: &Session, answer: &mut Answer) -> Result<(), CliError> {
    use clap_complete::Shell::{Bash, Fish, Zsh};
    let Some(home) = &session.env.git_user.home else { return Ok(()) };
    for (shell, place) in [
        (Bash, ".local/share/bash-completion/completions/baton"),
        (Zsh, ".zfunc/_baton"),
        (Fish, ".config/fish/completions/baton.fish"),
    ] {
        let path = home.join(place);
        let read = fs::read_if_exists(&path, 1 << 22);
        let failed = |error| CliError::caused("completions", "looking for completions", &error);
        let Some(found) = read.map_err(failed)? else { continue };
        let mut ours = Vec::new();
        clap_complete::generate(shell, &mut (session.definition)(), "baton", &mut ours);
        let name = path.to_string_lossy().into_owned();
        if found == ours {
            fs::remove_file(&path).map_err(failed)?;
            answer.removed.push(name);
        } else {
            let why = "it is not what this version of Baton writes".to_owned();
            answer.left.push(Left { path: name, why });
        }
    }
    Ok(())
}

fn show(session: &Session, answer: &Answer) -> Result<(), CliError> {
    let report = &session.report;
    report.answer(answer, |text| {
        for one in &answer.unsent {
            let word = report.paint(Style::Warn, "only here:");
            let _ = writeln!(text, "{word} {}", figures::one_line(&one.say()));
        }
        for path in &answer.removed {
            let _ = writeln!(
                text,
                "{} {}",
                report.paint(Style::Good, "removed"),
                figures::one_line(path)
            );
        }
        for Left { path, why } in &answer.left {
            let _ = writeln!(text, "left {}: {}", figures::one_line(path), figures::one_line(why));
        }
        if answer.removed.is_empty() && answer.unsent.is_empty() {
            text.push_str("nothing of Baton is set up here\n");
        }
    })
}

//! `baton pull`: what a run left, in a folder of its own or merged into a checkout.

use std::fmt::Write as _;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use baton_daemon::api::apply::{
    ActionEntry, ApplyAnswer, ApplyCall, OnlyPath, RepositoryAnswer, Shortfall,
};
use baton_daemon::api::control::{Command, PullAnswer, PullCall};

use super::{later, restore};
use crate::detach::Detach;
use crate::error::{CONFLICT, CliError, FAILED, Report as Failed};
use crate::report::{Report, Style, figures, omitted};
use crate::session::{Session, expect_answer, id};
use crate::workspace;

mod imports;
mod told;

/// Paths of one kind that are named before the rest is only counted.
const SHOWN: usize = 20;

/// Brings home what a run left: into a new folder, or merged into the checkout it came from.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    baton pull 9c1d2e3f\n  \
    baton pull 9c1d2e3f --into ../result\n  \
    baton pull 9c1d2e3f --apply --dry-run\n  \
    baton pull 9c1d2e3f --apply --only src\n\n\
    A conflict leaves the file as it is here. Where it, or anything else, was left and the rest applied, the\n\
    command ends with 1; where nothing was changed at all, with 4. baton undo puts back what an apply changed.")]
pub(crate) struct Args {
    /// The run, or its thread: the id, or the first 8 digits or more.
    run: String,
    /// A folder that is empty or does not exist yet, instead of a new worktree beside the checkout.
    #[arg(long, value_name = "DIR", conflicts_with = "apply")]
    into: Option<PathBuf>,
    /// Merge it into the checkout; PATH where that is not where it was.
    #[arg(long, value_name = "PATH", num_args = 0..=1)]
    #[expect(clippy::option_option, reason = "how clap says that a value may be left out")]
    apply: Option<Option<PathBuf>>,
    /// Only these paths of the checkout.
    #[arg(long, value_name = "PATH")]
    only: Vec<PathBuf>,
    /// Write `markers` into texts that both changed, instead of leaving them as they are here.
    #[arg(long, value_name = "HOW")]
    conflicts: Option<Conflicts>,
    /// Say what would be done, and change nothing.
    #[arg(long)]
    dry_run: bool,
    /// Start the agent there, with the conversation that came.
    #[arg(long)]
    exec: bool,
}

/// How conflicts are written.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum Conflicts {
    /// Both versions, between lines that mark them.
    Markers,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    let instead = format!("baton pull {} --into DIR", id(&args.run));
    if args.exec && args.apply.is_some() {
        return Err(CliError::usage("no conversation comes with --apply, so nothing could go on")
            .hint(format!("{instead} --exec")));
    }
    if let Some(path) = &args.apply {
        return apply(session, args, path.as_deref());
    }
    let others = [
        ("--only", !args.only.is_empty()),
        ("--conflicts", args.conflicts.is_some()),
        ("--dry-run", args.dry_run),
    ];
    let apply = format!("baton pull {} --apply", id(&args.run));
    if let Some((flag, _)) = others.into_iter().find(|(_, given)| *given) {
        let hint = format!("{apply} {flag}, or {instead}");
        return Err(later::not_yet(&format!("`baton pull {flag}` without --apply"), &hint));
    }
    let call = PullCall {
        run: id(&args.run),
        into: args.into.as_ref().map(|into| workspace::bytes(session.absolute(into))),
        here: session.workspace(None).ok(),
        agents: session.env.agents.clone(),
    };
    let _detach = Detach::new("the daemon goes on and finishes the folder");
    let mut pulled = expect_answer!(session.call(&Command::Pull(call))?, Pull);
    imports::take_in(session, &mut pulled);
    told::pulled(session, &pulled);
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
        if pulled.live {
            text.push_str("  of a run that is at work: what it had done by then\n");
        }
        if let Some(branch) = &pulled.branch {
            let _ = writeln!(text, "  a worktree of its own, on branch {branch}");
            for name in pulled.refs.iter().take(SHOWN) {
                let _ = writeln!(text, "  {}", figures::one_line(name));
            }
            if pulled.refs.len() > SHOWN {
                let more = (pulled.refs.len() - SHOWN) as u64;
                let _ = writeln!(text, "  and {} more", figures::plural(more, "ref"));
            }
        }
        restore::receipt(&session.report, text, &pulled.receipt);
        if !pulled.resume_command.is_empty() {
            let words: Vec<_> =
                pulled.resume_command.iter().map(|it| figures::one_line(it)).collect();
            let _ = writeln!(text, "  go on there with: {}", words.join(" "));
        }
    })?;
    if args.exec { go_on(&pulled) } else { Ok(0) }
}

/// Becomes the agent, in the folder that was pulled into.
fn go_on(pulled: &PullAnswer) -> Result<u8, CliError> {
    let Some((program, words)) = pulled.resume_command.split_first() else {
        return Err(CliError::new("no-conversation", "no conversation came with the run")
            .hint(format!("the files are in {}", figures::one_line(&pulled.root))));
    };
    let mut command = std::process::Command::new(program);
    // It returns only where it cannot be started.
    let error = command.args(words).current_dir(&pulled.root).exec();
    let what = format!("{} cannot be started", figures::one_line(program));
    Err(CliError::caused("agent", &what, &error).hint(format!(
        "install it, then run the command above in {}",
        figures::one_line(&pulled.root)
    )))
}

fn apply(session: &Session, args: &Args, path: Option<&Path>) -> Result<u8, CliError> {
    let path = path.map(|path| session.workspace(Some(path))).transpose()?;
    let only = args.only.iter().map(|path| OnlyPath {
        typed: workspace::bytes(path),
        absolute: workspace::bytes(session.absolute(path)),
    });
    let call = ApplyCall {
        run: id(&args.run),
        path,
        only: only.collect(),
        markers: args.conflicts.is_some(),
        dry_run: args.dry_run,
    };
    let _detach = Detach::new("the daemon goes on and finishes the checkout");
    let mut applied = expect_answer!(session.call(&Command::Apply(Box::new(call)))?, Applied);
    told::applied(session, &applied);
    let report = &session.report;
    if let Some(Shortfall { code, message, hint }) = applied.shortfall.take() {
        let error = Failed { code: code.into(), message, hint: Some(hint), exit: FAILED };
        return report.answer_in_part(&applied, &error, |text| tell(report, text, &applied));
    }
    report.answer(&applied, |text| tell(report, text, &applied))?;
    Ok(if applied.is_left { CONFLICT } else { 0 })
}

fn tell(report: &Report, text: &mut String, applied: &ApplyAnswer) {
    let is_dry = applied.state == "dry-run";
    let word = match applied.state.as_str() {
        "dry-run" => report.paint(Style::Name, "would apply"),
        "unchanged" => report.paint(Style::Dim, "nothing was changed:"),
        "interrupted" => report.paint(Style::Bad, "interrupted"),
        _ => report.paint(Style::Good, "applied"),
    };
    let _ = writeln!(
        text,
        "{word} {} to {}  {} taken, {} merged, {}, {} left",
        figures::short(&applied.snapshot),
        figures::one_line(&applied.root),
        figures::count(applied.applied.len() as u64),
        figures::count(applied.merged.len() as u64),
        figures::plural(applied.conflicts.len() as u64, "conflict"),
        figures::count(applied.skipped.len() as u64),
    );
    let kinds = ["taken", "removed", "restored", "merged", "kept", "conflict"];
    for kind in kinds {
        let of_kind: Vec<_> =
            applied.actions.iter().filter(|action| action.action == kind).collect();
        for action in of_kind.iter().take(SHOWN) {
            line(report, text, action);
        }
        if let Some(more) = of_kind.len().checked_sub(SHOWN).filter(|&more| more > 0) {
            let _ =
                writeln!(text, "  {kind:<9} and {} more, see --json", figures::count(more as u64));
        }
    }
    if let Some(git) = &applied.git {
        repository(report, text, git);
    }
    if !applied.conflicts.is_empty() {
        let _ = writeln!(text, "see the versions with: {}", applied.show_command.join(" "));
    }
    if is_dry {
        return;
    }
    let safety = figures::short(&applied.safety);
    let _ = writeln!(text, "the checkout as it was before is snapshot {safety}");
    if let Some(displaced) = &applied.displaced {
        let _ = writeln!(
            text,
            "what was replaced stays for 7 days in {}",
            figures::one_line(displaced)
        );
    }
    if let Some(undo) = &applied.undo {
        let _ = writeln!(text, "put it back with: baton undo {}", figures::short(undo));
    }
    restore::receipt(report, text, &applied.receipt);
}

/// What becomes of the repository.
fn repository(report: &Report, text: &mut String, git: &RepositoryAnswer) {
    let count = |action: &str| git.index.iter().filter(|one| one.action == action).count() as u64;
    if !git.index.is_empty() {
        let taken = count("taken") + count("removed") + count("restored");
        let _ = writeln!(
            text,
            "git's index: {} taken, {} merged, {}, {} left",
            figures::count(taken),
            figures::count(count("merged")),
            figures::plural(count("conflict"), "conflict"),
            figures::count(count("kept")),
        );
    }
    for one in git.refs.iter().take(SHOWN) {
        let style = if one.action == "kept" { Style::Warn } else { Style::Dim };
        let word = report.paint(style, &format!("{:<9}", one.action));
        let mut more = String::new();
        if let Some(here) = one.here.as_ref().filter(|here| **here != one.name) {
            let _ = write!(more, " as {}", figures::one_line(here));
        }
        if let Some(reason) = &one.reason {
            let _ = write!(more, " ({reason})");
        }
        let _ = writeln!(text, "  {word} {}{more}", figures::one_line(&one.name));
    }
    if let Some(more) = git.refs.len().checked_sub(SHOWN).filter(|&more| more > 0) {
        let _ = writeln!(text, "  and {}, see --json", figures::plural(more as u64, "more ref"));
    }
}

fn line(report: &Report, text: &mut String, action: &ActionEntry) {
    let style = match action.action.as_str() {
        "conflict" => Style::Bad,
        "kept" => Style::Warn,
        _ => Style::Dim,
    };
    let word = report.paint(style, &format!("{:<9}", action.action));
    let mut more = String::new();
    if let Some(reason) = &action.reason {
        let _ = write!(more, " ({reason})");
    }
    if let Some(from) = &action.moved_from {
        let _ = write!(more, " (from {})", omitted::path(from));
    }
    let _ = writeln!(text, "  {word} {}{more}", omitted::path(&action.path));
}

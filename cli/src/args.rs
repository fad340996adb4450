//! The command line as typed: what holds for all commands. The commands and their own arguments
//! are in [`commands`](crate::commands).

use std::path::PathBuf;

use clap::Parser;
use clap::builder::styling::{AnsiColor, Styles};

use crate::commands::Verb;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default())
    .placeholder(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  baton serve                           on a machine you own: a cloud node, prints a ticket
  baton join TICKET                     here: trust that node
  baton handoff -- make test            the tree and a run go there
  baton logs RUN -f                     follow it
  baton pull RUN --into ../result       fetch what it left

Exit codes:
  0 done · 1 failed · 2 wrong usage, or not in this version · 3 accepted and queued: it goes out by
  itself · 4 conflict, nothing was changed · 5 `check` found damage,
  or `repair` could not undo all of it";

/// Hands half-done work from one machine to another: the tree, attachments, and a run on them.
#[derive(Debug, Parser)]
#[command(
    name = "baton",
    version,
    after_help = EXAMPLES,
    styles = STYLES,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Cli {
    /// One folder for everything Baton keeps [env: BATON_HOME] [default: the XDG folders].
    #[arg(long, global = true, value_name = "DIR", help_heading = "Everywhere")]
    pub home: Option<PathBuf>,
    /// Print one JSON object, or one a line where it streams.
    #[arg(long, global = true, help_heading = "Everywhere")]
    pub json: bool,
    /// Which joined node [default: the last joined, or the configured one].
    #[arg(long, global = true, value_name = "NAME", help_heading = "Everywhere")]
    pub remote: Option<String>,
    /// Log to stderr; twice for more [env: BATON_LOG].
    #[arg(short, long, global = true, action = clap::ArgAction::Count, help_heading = "Everywhere")]
    pub verbose: u8,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_flag_has_a_help_text() {
        fn walk(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                let name = argument.get_id();
                assert!(argument.get_help().is_some(), "{} {name}", command.get_name());
            }
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }
}

//! Commands of the contract that this version does not have. They exist so that nobody takes them
//! for a typing error, and so that their names stay free.

use std::ffi::OsString;

use crate::error::{CliError, USAGE};

/// Whatever was typed after it.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Rest {
    /// Not looked at.
    #[arg(hide = true, trailing_var_arg = true, allow_hyphen_values = true, num_args = 0..)]
    rest: Vec<OsString>,
}

/// Commands that this version does not have.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Heals the stores of this home (not in this version).
    #[command(hide = true)]
    Repair(Rest),
}

/// Says so, and what can be done instead.
pub(crate) fn refuse(verb: &Verb) -> CliError {
    let (name, instead) = match verb {
        Verb::Repair(_) => ("repair", "baton check says what is damaged"),
    };
    not_yet(&format!("`baton {name}`"), instead)
}

/// The refusal of something that this version does not have.
pub(crate) fn not_yet(what: &str, instead: &str) -> CliError {
    CliError::new("not-in-this-version", format!("{what} is not in this version"))
        .hint(instead)
        .exit(USAGE)
}

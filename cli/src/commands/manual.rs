//! `baton completions` and `baton man`: what describes the command line, made from its definition.

use baton_daemon::api::socket::VERSION;

use crate::error::CliError;
use crate::session::Session;

/// Completions for a shell, on stdout.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton completions bash > ~/.local/share/bash-completion/completions/baton\n  baton completions zsh > ~/.zfunc/_baton"
)]
pub(crate) struct CompletionsArgs {
    /// Which shell.
    shell: clap_complete::Shell,
}

/// The manual page, or that of one command, on stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  baton man | man -l -\n  baton man run logs | man -l -")]
pub(crate) struct ManArgs {
    /// Of which command.
    command: Vec<String>,
}

pub(crate) fn completions(session: &Session, args: &CompletionsArgs) -> Result<u8, CliError> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut (session.definition)(), "baton", &mut text);
    session.report.raw(&text)?;
    session.report.flush().map(|()| 0)
}

pub(crate) fn man(session: &Session, args: &ManArgs) -> Result<u8, CliError> {
    let mut command = (session.definition)();
    command.build();
    let mut page = &command;
    for name in &args.command {
        page = page.find_subcommand(name).ok_or_else(|| {
            CliError::usage(format!("there is no command `{}`", args.command.join(" ")))
                .hint("baton --help")
        })?;
    }
    let page = clap_mangen::Man::new(page.clone()).source(format!("baton {VERSION}"));
    let mut text = Vec::new();
    page.render(&mut text)
        .map_err(|error| CliError::caused("internal", "writing the page", &error))?;
    session.report.raw(&text)?;
    session.report.flush().map(|()| 0)
}

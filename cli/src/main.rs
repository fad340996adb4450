//! Baton's one binary: reads the command line, asks a daemon, prints the answer.
//!
//! The only crate with a terminal, the environment and exit codes. Modules stand in the order in
//! which data passes through them, and a module uses only those above it.

use std::process::ExitCode;

use baton_protocol::message;
use clap::{CommandFactory, Parser};

mod error;
mod workspace;
mod edit;
mod env;
mod report;
mod progress;
mod detach;
mod inherited;
mod connect;
mod session;
mod node;
mod commands;
mod args;

use crate::args::Cli;
use crate::env::Env;
use crate::error::{CliError, USAGE};
use crate::report::Report;
use crate::session::Session;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(message) => {
            // Help and version are no error; whether their reader is still there does not matter.
            drop(message.print());
            return if message.use_stderr() { ExitCode::from(USAGE) } else { ExitCode::SUCCESS };
        }
    };
    let json = cli.json;
    let env = match Env::read(cli.home.as_deref()) {
        Ok(env) => env,
        Err(error) => {
            Report::new(json, None).error(&error);
            return error.code().into();
        }
    };
    log_to_stderr(&env, &cli);
    let report = Report::new(json, Some(&env));
    if let Err(error) = speak_as_told(&env) {
        report.error(&error);
        return error.code().into();
    }
    let session = Session { env, report, remote: cli.remote, definition: Cli::command };
    let code = match commands::dispatch(&session, cli.verb) {
        Ok(code) => code,
        Err(error) => {
            session.report.error(&error);
            error.code()
        }
    };
    match session.report.flush() {
        Err(CliError::Failed(_)) if code == 0 => ExitCode::FAILURE,
        _ => code.into(),
    }
}

/// Speaks an older version of the messages where the environment says so.
fn speak_as_told(env: &Env) -> Result<(), CliError> {
    let Some(version) = &env.messages else { return Ok(()) };
    if version.parse().is_ok_and(message::speak_at_most) {
        return Ok(());
    }
    let what = format!("BATON_MESSAGES is {version}, and no version that this program speaks");
    let known = format!("unset it, or set it to {} to {}", message::OLDEST, message::VERSION);
    Err(CliError::new("usage", what).hint(known).exit(USAGE))
}

/// A node logs; a command only where it is asked to.
fn log_to_stderr(env: &Env, cli: &Cli) {
    let level = match (cli.verbose, commands::is_node(&cli.verb)) {
        (0, false) => None,
        (0, true) | (1, _) => Some("info"),
        (2, _) => Some("debug"),
        (_, _) => Some("trace"),
    };
    // Of other crates only what matters.
    let own = |level: &str| format!("warn,baton={level},baton_daemon={level},baton_store={level}");
    let Some(filter) = env.log.clone().or_else(|| level.map(own)) else { return };
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(env.colour_err);
    subscriber.init();
}

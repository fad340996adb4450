//! `baton join`: enrols this home at a node and pins the node's key.

use std::fmt::Write as _;
use std::io::{BufRead, Read, Write};

use baton_daemon::api::control::Command;
use baton_protocol::ticket::Ticket;

use crate::error::CliError;
use crate::report::{Style, figures};
use crate::session::{Session, expect_answer};

/// No ticket is longer.
const MAX_TICKET: u64 = 16 * 1024;

/// Enrols this home at the node that gave the ticket.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton join baton1mfzwi…\n  ssh box baton ticket --json | jq -r .ticket | baton join -\n  baton join --name box                 asks for the ticket, which then is in no history"
)]
pub(crate) struct Args {
    /// The ticket; `-` reads it from stdin; without it a terminal is asked.
    ticket: Option<String>,
    /// Your name for that node [default: chosen from its address].
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    session.refuse_remote("join")?;
    let ticket = match args.ticket.as_deref() {
        Some("-") => read(std::io::stdin().lock().take(MAX_TICKET))?,
        Some(ticket) => ticket.trim().to_owned(),
        None if session.env.terminal_in => ask()?,
        None => {
            return Err(CliError::usage("no ticket was given and there is no terminal to ask at")
                .hint("baton join TICKET, or baton join - with the ticket on stdin"));
        }
    };
    // Checked here too, so that a damaged word is noticed before a daemon is started for it.
    Ticket::decode(&ticket).map_err(|error| {
        CliError::caused("ticket", "the ticket cannot be used", &error)
            .hint("copy the whole word that `baton serve` or `baton ticket` printed")
    })?;
    let joined = expect_answer!(session.call(&Command::Join { ticket, name: args.name })?, Join);
    session.report.answer(&joined, |text| {
        let word = session.report.paint(Style::Good, "joined");
        let name = figures::one_line(&joined.remote);
        let _ = writeln!(
            text,
            "{word} {name} as {}  node {}, this device {}",
            figures::one_line(&joined.user),
            figures::short(&joined.node_id),
            figures::short(&joined.device_id)
        );
    })?;
    Ok(0)
}

fn ask() -> Result<String, CliError> {
    let mut prompt = std::io::stderr().lock();
    drop(prompt.write_all(b"ticket: ").and_then(|()| prompt.flush()));
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_TICKET)
        .read_line(&mut line)
        .map_err(|error| CliError::caused("input", "reading the ticket", &error))?;
    Ok(line.trim().to_owned())
}

fn read(mut from: impl Read) -> Result<String, CliError> {
    let mut text = String::new();
    from.read_to_string(&mut text)
        .map_err(|error| CliError::caused("input", "reading the ticket from stdin", &error))?;
    Ok(text.trim().to_owned())
}

//! `baton ticket`: lets a further device, or another person, in.

use std::fmt::Write as _;
use std::time::Duration;

use baton_daemon::api::control::Command;

use crate::error::CliError;
use crate::report::{Style, figures};
use crate::session::{Session, expect_answer};

/// A one-time ticket for this machine's node.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton ticket                              a further device of yours\n  baton ticket --user ada --role push       another person, with a vault of their own\n  baton ticket --expires 1h --uses 3"
)]
pub(crate) struct Args {
    /// Whom it is for; another person gets a vault of their own [default: owner].
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// What the device may do.
    #[arg(long, value_enum)]
    role: Option<Role>,
    /// How long it can be used.
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration)]
    expires: Duration,
    /// How many devices may use it.
    #[arg(long, value_name = "COUNT", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    uses: u32,
}

/// What a device may do.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Role {
    /// Keep snapshots.
    Push,
    /// Also start runs.
    Run,
    /// In this version the same as `run`.
    Admin,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    session.refuse_remote("ticket")?;
    let role = args.role.map(|role| match role {
        Role::Push => "push".to_owned(),
        Role::Run => "run".to_owned(),
        Role::Admin => "admin".to_owned(),
    });
    let expires_ms = u64::try_from(args.expires.as_millis()).unwrap_or(u64::MAX);
    let command = Command::Ticket { user: args.user, role, expires_ms, uses: args.uses };
    let ticket = expect_answer!(session.call(&command)?, Ticket);
    session.report.answer(&ticket, |text| {
        let uses = figures::plural(ticket.uses.into(), "device");
        let join = session.report.paint(Style::Name, &format!("baton join {}", ticket.ticket));
        let _ = writeln!(
            text,
            "{join}\nlets {uses} in as {} with role {}, until {} UTC",
            figures::one_line(&ticket.user),
            ticket.role,
            figures::time(&ticket.expires_at)
        );
    })?;
    Ok(0)
}

fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(duration) if duration.is_zero() => Err("a ticket must be usable for some time".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(format!("{error}; expected such as 10m, 2h or 1day")),
    }
}

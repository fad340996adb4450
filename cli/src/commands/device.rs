//! `baton device`: who may connect to this machine's node.

use baton_daemon::api::control::{Command, DevicesAnswer};

use crate::error::CliError;
use crate::report::{Report, Style, figures};
use crate::session::{Session, expect_answer, id};

/// Who may connect to this machine's node.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Lists the enrolled devices of all users.
    List,
    /// Shuts a device out, and cuts its connections.
    Revoke {
        /// Its id, or the first 8 digits or more.
        id: String,
    },
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    session.refuse_remote("device")?;
    let command = match args.what {
        What::List => Command::DeviceList,
        What::Revoke { id: device } => Command::DeviceRevoke { device: id(&device) },
    };
    let devices = expect_answer!(session.call(&command)?, Devices);
    session.report.answer(&devices, |text| list(&session.report, text, &devices))?;
    Ok(0)
}

fn list(report: &Report, to: &mut String, answer: &DevicesAnswer) {
    if answer.devices.is_empty() {
        to.push_str("no device is enrolled; baton ticket lets one in\n");
    }
    let rows: Vec<_> = answer
        .devices
        .iter()
        .map(|device| {
            let seen = match (&device.last_seen, device.revoked) {
                (_, true) => report.paint(Style::Bad, "revoked"),
                (Some(seen), false) => format!("seen {} UTC", figures::time(seen)),
                (None, false) => "never seen".to_owned(),
            };
            vec![
                report.paint(Style::Name, figures::short(&device.device_id)),
                figures::one_line(&device.user),
                device.role.clone(),
                figures::one_line(&device.name),
                seen,
            ]
        })
        .collect();
    figures::table(to, &rows);
}

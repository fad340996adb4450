//! `baton daemon`: by hand, what commands do on demand.

use std::fmt::Write as _;

use baton_daemon::api::control::DaemonAnswer;

use crate::connect;
use crate::error::{CONFLICT, CliError};
use crate::inherited;
use crate::node::{self, NodeOptions};
use crate::report::{Style, figures};
use crate::session::Session;

/// The daemon of this home, by hand.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum What {
    /// Runs it in the foreground.
    Run {
        /// Leave the session of the terminal; used by commands that start a daemon.
        #[arg(long, hide = true)]
        detached: bool,
    },
    /// Whether it runs; starts none.
    Status,
    /// Ends it. Runs on this machine end with it.
    Stop,
}

pub(crate) fn run(session: &Session, args: &Args) -> Result<u8, CliError> {
    session.refuse_remote("daemon")?;
    match args.what {
        What::Run { detached } => start(session, detached),
        What::Status => {
            let daemon = connect::ping(&session.env)?;
            show(session, &daemon.unwrap_or_else(|| absent(session)))
        }
        What::Stop => {
            let stopped = connect::stop(&session.env, false)?;
            let stopped = stopped.unwrap_or_else(|| absent(session));
            show(session, &DaemonAnswer { running: false, ..stopped })
        }
    }
}

fn start(session: &Session, detached: bool) -> Result<u8, CliError> {
    if detached {
        inherited::close();
        // Fails only for the leader of a group, who is then free of the terminal's signals already.
        let _ = rustix::process::setsid();
    }
    let options = NodeOptions { serving: false, listen: None, advertise: Vec::new() };
    match node::run(session, options, &mut |_| Ok(())) {
        // Whoever started this one looks for the exit code: a command waits for the other daemon, a
        // service manager does not try again.
        Err(error) if error.is("home-in-use") && (detached || session.env.notify.is_some()) => {
            Err(error.exit(CONFLICT))
        }
        ended => ended.map(|()| 0),
    }
}

fn absent(session: &Session) -> DaemonAnswer {
    DaemonAnswer {
        running: false,
        pid: None,
        version: None,
        home: session.env.home.root_display.to_string_lossy().into_owned(),
        serving: false,
    }
}

fn show(session: &Session, daemon: &DaemonAnswer) -> Result<u8, CliError> {
    session.report.answer(daemon, |text| {
        let home = figures::one_line(&daemon.home);
        if daemon.running {
            let word = session.report.paint(Style::Good, "running");
            let version = daemon.version.as_deref().unwrap_or_default();
            let pid = daemon.pid.map(|pid| format!(", process {pid}")).unwrap_or_default();
            let serving = if daemon.serving { ", serving" } else { "" };
            let _ = writeln!(text, "{word}  version {version}{pid}{serving}, home {home}");
        } else {
            let _ = writeln!(text, "not running, home {home}");
        }
    })?;
    Ok(0)
}

//! `baton serve`: this process becomes a cloud node in the foreground.

use std::fmt::Write as _;
use std::net::{SocketAddr, ToSocketAddrs};

use baton_daemon::config::PORT;

use crate::connect;
use crate::error::{CONFLICT, CliError};
use crate::node::{self, NodeOptions};
use crate::report::Style;
use crate::session::Session;

/// A cloud node in the foreground; prints one line with a ticket when it is ready.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  baton serve\n  baton serve --listen 0.0.0.0:4319 --advertise box.example.org\n  baton --home /srv/baton serve --listen 127.0.0.1:0 --json"
)]
pub(crate) struct Args {
    /// The UDP address to listen on; port 4319 unless said.
    #[arg(long, value_name = "ADDR", value_parser = listen_address)]
    listen: Option<SocketAddr>,
    /// An address to put into tickets; may be given more than once.
    #[arg(long, value_name = "HOST[:PORT]")]
    advertise: Vec<String>,
    /// What another `serve` asks before it goes where there is no way back from.
    #[arg(long, hide = true)]
    try_namespace: bool,
}

pub(crate) fn run(session: &Session, args: Args) -> Result<u8, CliError> {
    session.refuse_remote("serve")?;
    if args.try_namespace {
        return session.report.object(&node::try_namespace(session)?).map(|()| 0);
    }
    // A service manager does not try again where the home has a node.
    let managed = |error: CliError| {
        let in_use = session.env.notify.is_some() && error.is("home-in-use");
        if in_use { error.exit(CONFLICT) } else { error }
    };
    make_room(session).map_err(managed)?;
    let options = NodeOptions { serving: true, listen: args.listen, advertise: args.advertise };
    node::run(session, options, &mut |ready| {
        let Some(ready) = ready else { return Ok(()) };
        session.report.answer(&ready, |text| {
            let addresses = match ready.advertised.as_slice() {
                [] => ready.listening.clone(),
                advertised => advertised.join(", "),
            };
            let word = session.report.paint(Style::Good, "ready");
            let join = session.report.paint(Style::Name, &format!("baton join {}", ready.ticket));
            let _ = writeln!(text, "{word} at {addresses}; on the other machine: {join}");
        })
    })
    .map(|()| 0)
    .map_err(managed)
}

/// A `serve` is the daemon of its home: one that only runs in the background gives way.
fn make_room(session: &Session) -> Result<(), CliError> {
    let Some(daemon) = connect::ping(&session.env)? else { return Ok(()) };
    if daemon.serving {
        let pid = daemon.pid.map(|pid| format!(" (process {pid})")).unwrap_or_default();
        return Err(CliError::new("home-in-use", format!("a cloud node of this home runs{pid}"))
            .hint("baton ticket gives a ticket for it; baton daemon stop ends it"));
    }
    connect::stop(&session.env, true).map(drop)
}

/// `HOST:PORT` or `HOST`.
fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let with_port = || (text.trim_matches(['[', ']']), PORT).to_socket_addrs();
    text.parse()
        .ok()
        .or_else(|| text.to_socket_addrs().or_else(|_| with_port()).ok()?.next())
        .ok_or_else(|| "expected an address such as 0.0.0.0:4319 or [::1]".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_may_be_left_out() {
        let cases = [
            ("127.0.0.1:7", "127.0.0.1:7"),
            ("127.0.0.1", "127.0.0.1:4319"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:4319"),
            ("::1", "[::1]:4319"),
            ("0.0.0.0:0", "0.0.0.0:0"),
        ];
        for (typed, address) in cases {
            assert_eq!(listen_address(typed), Ok(address.parse().unwrap()), "{typed}");
        }
        assert!(listen_address("127.0.0.1:99999").is_err());
    }
}

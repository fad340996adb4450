//! Where this process itself becomes a node, or works on the store without a daemon.
//!
//! Everything else in this crate only asks a daemon over its socket.

use std::net::SocketAddr;
use std::path::Path;

use baton_daemon::api::control::{ServeAnswer, SnapshotAnswer};
use baton_daemon::daemon::{self, Options};

use crate::error::CliError;
use crate::session::Session;

/// What kind of node.
pub(crate) struct NodeOptions {
    /// Whether it accepts other machines: `serve`.
    pub serving: bool,
    /// `--listen`.
    pub listen: Option<SocketAddr>,
    /// `--advertise`: `HOST` or `HOST:PORT`.
    pub advertise: Vec<String>,
}

/// Runs the daemon of this home until it is told to stop. `ready` is called once it answers, with
/// what a serving node says.
pub(crate) fn run(
    session: &Session,
    node: NodeOptions,
    ready: &mut dyn FnMut(Option<ServeAnswer>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let NodeOptions { serving, listen, advertise } = node;
    daemon::run_here(Options { serving, listen, advertise, ..options(session) }, ready)
}

/// Takes a snapshot in this process.
pub(crate) fn local_snapshot(
    session: &Session,
    root: &Path,
    message: Option<&str>,
) -> Result<SnapshotAnswer, CliError> {
    Ok(daemon::local_snapshot(&options(session), root, message.map(str::to_owned))?)
}

fn options(session: &Session) -> Options {
    let env = &session.env;
    Options {
        home: env.home.clone(),
        serving: false,
        listen: None,
        advertise: Vec::new(),
        environment: env.inherited.clone(),
        git_user: env.git_user.clone(),
        git: env.git.clone(),
        private: env.private.clone(),
        notify: env.notify.clone(),
    }
}

//! Where this process itself becomes a node, or works on the store without a daemon.
//!
//! Everything else in this crate only asks a daemon over its socket.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use baton_daemon::api::control::{ServeAnswer, SnapshotAnswer};
use baton_daemon::daemon::{self, Options, Tried};
use baton_daemon::namespace::Namespace;

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
    let namespace = if serving { move_into_namespace(session)? } else { Namespace::Outside };
    daemon::run_here(Options { serving, listen, advertise, namespace, ..options(session) }, ready)
}

/// Moves a node that is not root's to where it may mount, as long as this process has one thread.
fn move_into_namespace(session: &Session) -> Result<Namespace, CliError> {
    let program = match std::env::current_exe() {
        Ok(program) => program,
        Err(error) => return Ok(Namespace::Refused(format!("finding this program: {error}"))),
    };
    let mut trial = Command::new(&program);
    if let Some(home) = &session.env.home_dir {
        trial.arg("--home").arg(home);
    }
    trial.args(["--json", "serve", "--try-namespace"]).env_remove("NOTIFY_SOCKET");
    Ok(daemon::move_into_namespace(&options(session), trial)?)
}

/// Goes into a namespace, and tries what a node of this home could do there.
pub(crate) fn try_namespace(session: &Session) -> Result<Tried, CliError> {
    Ok(daemon::try_namespace(&options(session))?)
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
        namespace: Namespace::Outside,
    }
}

//! Where this process itself becomes a node, or works on the store without a daemon.
//!
//! Everything else in this crate only asks a daemon over its socket.

use std::net::SocketAddr;
use std::path::Path;

use baton_daemon::api::control::{ServeAnswer, SnapshotAnswer};
use baton_daemon::config::Config;

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
    _options: NodeOptions,
    _ready: &mut dyn FnMut(Option<ServeAnswer>) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let _config = Config::load(&session.env.home.config_file)?;
    Err(CliError::new("not-built", "the daemon is not part of this build"))
}

/// Takes a snapshot in this process.
pub(crate) fn local_snapshot(
    _session: &Session,
    _root: &Path,
    _message: Option<&str>,
) -> Result<SnapshotAnswer, CliError> {
    Err(CliError::new("not-built", "the store is not part of this build"))
}

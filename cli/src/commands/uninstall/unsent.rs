//! What is on this machine and nowhere else.

use std::path::Path;
use std::time::Duration;

use baton_daemon::api::control::{Command, StatusAnswer, WorkspaceEntry};
use serde::Serialize;

use crate::error::CliError;
use crate::report::figures;
use crate::session::{Session, expect_answer};

/// How often workspaces that are being sent are looked at, and how long after.
const LOOKS: u32 = 40;
const PAUSE: Duration = Duration::from_millis(250);

/// One thing that would not be sent any more, or be lost.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Unsent {
    /// Accepted, and waiting for its node.
    Queued { id: String, what: String, remote: String },
    /// Edits or snapshots that no other machine has.
    Workspace { root: String, pending_files: u64, head: Option<String>, acked: Option<String> },
    /// Another machine that keeps its snapshots here.
    Device { device_id: String, user: String, name: String },
}

impl Unsent {
    pub(super) fn say(&self) -> String {
        match self {
            Self::Queued { id, what, remote } => {
                format!("{what} {} waits for {remote}", figures::short(id))
            }
            Self::Workspace { root, pending_files: 0, .. } => {
                format!("the latest snapshot of {root}")
            }
            Self::Workspace { root, pending_files, .. } => {
                format!("{} in {root}", figures::plural(*pending_files, "edited file"))
            }
            Self::Device { device_id, user, name } => {
                let id = figures::short(device_id);
                format!("what {name} ({id}) of {user} keeps on this node")
            }
        }
    }
}

/// Asks the daemon; `purge` is whether the data of this home goes as well.
pub(super) fn look(session: &Session, purge: bool) -> Result<Vec<Unsent>, CliError> {
    let mut all = Vec::new();
    for entry in expect_answer!(session.call(&Command::Queue)?, Queue).queue {
        if matches!(entry.state.as_str(), "waiting" | "sending") {
            let (id, what, remote) = (entry.id, entry.kind, entry.remote);
            all.push(Unsent::Queued { id, what, remote });
        }
    }
    let status = settled(session)?;
    let embedded = status.remotes.iter().find(|remote| remote.embedded);
    let embedded = embedded.map(|remote| remote.name.as_str());
    for entry in status.workspaces {
        // What only the node inside this daemon has goes with the home, and stays with it.
        let is_only_here = entry.remote.as_deref() == embedded;
        if if is_only_here { purge && entry.head.is_some() } else { is_unsent(session, &entry) } {
            let WorkspaceEntry { root, pending_files, head, acked, .. } = entry;
            all.push(Unsent::Workspace { root, pending_files, head, acked });
        }
    }
    if purge {
        let own = own_device(&status.remotes);
        for device in expect_answer!(session.call(&Command::DeviceList)?, Devices).devices {
            if !device.revoked && Some(&device.device_id) != own {
                let (device_id, user, name) = (device.device_id, device.user, device.name);
                all.push(Unsent::Device { device_id, user, name });
            }
        }
    }
    Ok(all)
}

/// How things stand once what was written a moment ago has been looked at, or after a while.
fn settled(session: &Session) -> Result<StatusAnswer, CliError> {
    let mut looks = 0;
    loop {
        let status = expect_answer!(session.call(&Command::Status { path: None })?, Status);
        looks += 1;
        if looks == LOOKS || !status.workspaces.iter().any(|entry| entry.state == "syncing") {
            return Ok(status);
        }
        std::thread::sleep(PAUSE);
    }
}

/// A home has one key, as a node and as a device.
fn own_device(remotes: &[baton_daemon::api::control::RemoteEntry]) -> Option<&String> {
    remotes.iter().find(|remote| remote.embedded).map(|remote| &remote.node_id)
}

/// Files that may have been edited are looked at: what was written just before it was sent is not known
/// to be what was sent. A tree that cannot be looked at counts as edited.
fn is_unsent(session: &Session, entry: &WorkspaceEntry) -> bool {
    if entry.head != entry.acked || entry.pending_files == 0 {
        return entry.head != entry.acked;
    }
    let taken = session.workspace(Some(Path::new(&entry.root))).and_then(|path| {
        let command = Command::Snapshot { path, message: None };
        Ok(expect_answer!(session.call(&command)?, Snapshot).snapshot)
    });
    taken.map_or(true, |snapshot| Some(&snapshot) != entry.acked.as_ref())
}

//! An agent has ended a turn: a snapshot of where it worked.
//!
//! **Invariant:** nothing is kept that nobody asked for: in a folder outside of git only where it is a workspace already, and
//! never of a folder that has this home in it.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use super::Daemon;
use super::failure::Fail;
use super::report::{self, to_path};
use crate::api::control::{Answer, Bytes};
use crate::api::socket::EventSender;
use crate::workspace::TakeOptions;

impl Daemon {
    /// Seals the workspace; as one of those that are taken by themselves, it is thinned out as it ages.
    pub(super) async fn stopped(
        self: &Arc<Self>,
        path: Bytes,
        message: String,
        events: &EventSender,
    ) -> Result<Answer, Fail> {
        let root = to_path(path);
        let asked = root.clone();
        let is_kept = self.blocking("stopped", move |daemon| daemon.is_kept(&asked)).await?;
        if !is_kept {
            let what = format!("{} is no workspace yet, and not in git", root.display());
            return Err(Fail::new("not-kept", what).hint("baton snapshot starts keeping it"));
        }
        let options = TakeOptions { message: Some(message), ..TakeOptions::default() };
        let taken = self.take(root, options, events).await?;
        let sequence = taken.snapshot.sequence;
        let answer = report::snapshot(&taken, taken.id, sequence, report::timing(&taken), None);
        Ok(Answer::Snapshot(answer))
    }

    fn is_kept(&self, root: &Path) -> Result<bool, Fail> {
        if self.options.home.state_dir.starts_with(root) {
            return Ok(false);
        }
        if root.join(".git").symlink_metadata().is_ok() {
            return Ok(true);
        }
        let root = root.as_os_str().as_bytes();
        Ok(self.catalog.workspaces()?.iter().any(|workspace| workspace.root == root))
    }
}

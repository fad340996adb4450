//! What was kept of a workspace, and which runs went on from it.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use baton_protocol::id::SnapshotId;
use baton_protocol::message::RunInfo;
use baton_protocol::object::Snapshot;
use baton_store::error::StoreError;
use baton_store::snapshot::load_snapshot;
use baton_store::vault::Vault;

use super::failure::{Fail, chain};
use super::report::to_path;
use super::{Daemon, report};
use crate::api::control::{Answer, Bytes, LogAnswer, LogRun, LogSnapshot, Problem};
use crate::clock::rfc3339;
use crate::thinning::{Walked, walk};

impl Daemon {
    pub(super) async fn log(self: &Arc<Self>, path: Bytes) -> Result<Answer, Fail> {
        self.blocking("log", move |daemon| daemon.log_answer(&to_path(path))).await.map(Answer::Log)
    }

    fn log_answer(&self, root: &Path) -> Result<LogAnswer, Fail> {
        let Some(workspace) = self.workspaces.find(root)? else {
            return Err(Fail::new(
                "no-workspace",
                format!("nothing of {} was kept yet", root.display()),
            )
            .hint("baton snapshot"));
        };
        let mut acked = HashSet::new();
        for remote in self.catalog.remotes()?.iter().map(|remote| remote.node) {
            acked.extend(self.acks.get(workspace.id, remote)?);
        }
        acked.extend(self.acks.get(workspace.id, self.identity.node())?);
        let vault = &self.workspaces.vault;
        let history = self.catalog.history(workspace.id)?;
        let known = history.iter().map(|row| row.snapshot).collect();
        let head = self.workspaces.head(workspace.id).map(|head| head.snapshot);
        // What came since the last thinning, and then what stayed at it.
        let Walked { mut snapshots, mut damaged } = walk(vault, head, &known)?;
        snapshots.sort_by_key(|(id, snapshot)| Reverse((snapshot.sequence, *id)));
        // What a node acknowledged, it has with everything that came before.
        let mut durable = acked;
        for (id, snapshot) in &snapshots {
            if durable.contains(id) {
                durable.extend(&snapshot.parents);
            }
        }
        let acked_to = history.iter().filter(|row| durable.contains(&row.snapshot));
        let acked_to = acked_to.map(|row| row.sequence).max().unwrap_or(0);
        for row in &history {
            match load_snapshot(vault, row.snapshot) {
                Ok(snapshot) => snapshots.push((row.snapshot, snapshot)),
                Err(error) if error.is_corruption() => damaged.push((row.snapshot, error)),
                Err(error) => return Err(error.into()),
            }
            if row.sequence <= acked_to {
                durable.insert(row.snapshot);
            }
        }
        snapshots.sort_by_key(|(id, snapshot)| Reverse((snapshot.sequence, *id)));
        let entry = |(id, snapshot): (SnapshotId, Snapshot)| LogSnapshot {
            conversation: report::conversation(vault, &snapshot),
            snapshot: id.to_string(),
            sequence: snapshot.sequence,
            parents: snapshot.parents.iter().map(ToString::to_string).collect(),
            device: snapshot.device.to_string(),
            created_at: rfc3339(snapshot.created_at),
            acked: durable.contains(&id),
            message: snapshot.message,
        };
        let problem = |(id, error): (SnapshotId, StoreError)| Problem {
            what: id.to_string(),
            detail: chain(&error),
        };
        let runs = self.catalog.remembered_runs()?.into_iter();
        let runs = runs.filter(|(_, info, _)| info.spec.workspace == workspace.id);
        Ok(LogAnswer {
            runs: runs.map(|(_, info, _)| of_run(vault, &info)).collect(),
            snapshots: snapshots.into_iter().map(entry).collect(),
            damaged: damaged.into_iter().map(problem).collect(),
        })
    }
}

fn of_run(vault: &Vault, info: &RunInfo) -> LogRun {
    // One that was never pulled is on its node only.
    let result = info.result.and_then(|id| load_snapshot(vault, id).ok());
    LogRun {
        run: info.spec.run.to_string(),
        thread: info.spec.thread.to_string(),
        state: info.state.name().to_owned(),
        snapshot: info.spec.snapshot.to_string(),
        result: info.result.map(|id| id.to_string()),
        parent: info.spec.parent.map(|id| id.to_string()),
        conversation: result.and_then(|snapshot| report::conversation(vault, &snapshot)),
    }
}

//! Applies, whole: random trees in memory and on the disk, cut off anywhere, with others at work beside.

#![expect(clippy::disallowed_methods, reason = "a test has the file system itself")]

mod planned;
mod written;
mod disturbed;
mod git_beside;
mod repository;
mod head;
mod stuck;
mod indexes;

use std::path::Path;

use baton_protocol::id::{ApplyId, SnapshotId, WorkspaceId};

use super::testing::{Model, Rng};
use super::*;
use crate::checkout::RestoreOptions;
use crate::objects::memory::MemoryObjects;
use crate::scan::Progress;

/// Three trees: as it was, as it is here, and as it is there.
struct Case {
    base: Model,
    here: Model,
    there: Model,
}

impl Case {
    fn random(rng: &mut Rng) -> Self {
        let base = Model::random(rng);
        let here = base.changed(rng);
        // Now and then both sides did the same first.
        let from = if rng.below(5) == 0 { &here } else { &base };
        let there = from.changed(rng);
        Self { base, here, there }
    }

    fn plan(&self, objects: &MemoryObjects) -> Plan {
        let [base, here, there] =
            [&self.base, &self.here, &self.there].map(|model| model.store(objects));
        let trees = Trees { base, here, there };
        plan(objects, &trees, &PlanOptions::default(), &Progress::default()).unwrap()
    }
}

fn workspace() -> WorkspaceId {
    WorkspaceId::from_bytes([7; 16])
}

fn request(root: &Path, number: u8) -> Request {
    Request {
        id: ApplyId::from_bytes([number; 16]),
        workspace: workspace(),
        root: root.to_owned(),
        safety: SnapshotId::from_bytes([1; 32]),
        there: SnapshotId::from_bytes([2; 32]),
        now_ms: 1_000,
    }
}

fn options() -> RestoreOptions {
    RestoreOptions { threads: 1 }
}

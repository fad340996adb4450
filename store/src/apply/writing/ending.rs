//! What is left when all steps are done: what was written to late, and making all of it durable.
//!
//! **Invariant:** the names are durable before permissions change, since a directory may be closed to us then.

use std::collections::BTreeSet;

use baton_protocol::path::RelPath;
use rustix::io::Errno;

use super::{Writing, split};
use crate::apply::ApplyError;
use crate::apply::ground::Ground;
use crate::apply::look::stat;
use crate::apply::shelf::{SYNCED_ALONE, sync_all};
use crate::stat_cache::FileStat;

impl Writing<'_> {
    /// What was written to after it had come out, by whoever had it open.
    pub(super) fn changed_late(&self) -> Vec<RelPath> {
        let is_late = |(number, before): &&(usize, FileStat)| {
            let name = number.to_string();
            let now = stat(self.shelf.out_folder(), name.as_bytes());
            let now = now.ok().flatten().map(|now| FileStat::new(&now));
            now.is_none_or(|now| FileStat { ctime: before.ctime, ..now } != *before)
        };
        let late = self.out.iter().filter(is_late);
        late.filter_map(|(number, _)| Some(self.steps.get(*number)?.path.clone())).collect()
    }

    /// Makes the names durable that changed.
    pub(super) fn sync(&mut self) -> Result<(), ApplyError> {
        let made = self.steps.iter().zip(&self.done).filter(|(_, done)| done.is_so());
        let above: BTreeSet<&[u8]> = made.map(|(step, _)| split(&step.path).0).collect();
        if above.is_empty() {
            return Ok(());
        }
        let synced = |ground: &Ground, error| Err(ground.failed("syncing", b"", error));
        if above.len() > SYNCED_ALONE {
            match sync_all(self.ground.root()) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => return synced(self.ground, error),
            }
        }
        for path in above {
            match self.ground.directory(path).and_then(rustix::fs::fsync) {
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => {}
                Err(error) => return synced(self.ground, error),
            }
        }
        match rustix::fs::fsync(self.shelf.out_folder()) {
            Ok(()) => Ok(()),
            Err(error) => synced(self.ground, error),
        }
    }

    /// Makes the permissions durable that changed, where there are too many for each by itself.
    pub(super) fn sync_modes(&self) -> Result<(), ApplyError> {
        if self.syncs_alone {
            return Ok(());
        }
        let synced = sync_all(self.ground.root());
        synced.map(drop).map_err(|error| self.ground.failed("syncing", b"", error))
    }
}

//! Snapshots of what a run has done: while it works, and the last one.
//!
//! **Invariant:** one at a time, and none after the last one, which is made when nothing changes the checkout any more.

use std::error::Error;
use std::sync::Arc;

use baton_protocol::id::SnapshotId;

use super::{Live, Runs};

impl Runs {
    /// Makes a snapshot of what a run has done so far, or what it was at `last`. Returns the one that it has then.
    pub(super) async fn keep_now(
        &self,
        live: &Arc<Live>,
        last: bool,
    ) -> Result<Option<SnapshotId>, Box<dyn Error + Send + Sync>> {
        // Held by the thread: it goes on where nobody waits for it any more.
        let mut sealed = Arc::clone(&live.sealed).lock_owned().await;
        if *sealed {
            return Ok(live.info.borrow().result);
        }
        let (parts, work) = (self.0.parts.clone(), Arc::clone(live));
        let keep = move || -> Result<SnapshotId, Box<dyn Error + Send + Sync>> {
            let (place, from) = (work.place(), work.spec.snapshot);
            let kept = if last {
                parts.checkouts.seal(&place, from)?
            } else {
                parts.checkouts.keep(&place, from)?
            };
            *sealed = last;
            if work.info.borrow().result != Some(kept) {
                // A last one is noted with the end of the run.
                if !last && let Err(error) = parts.catalog.set_result(work.run, kept) {
                    let error = &error as &dyn Error;
                    tracing::warn!(run = %work.run, error, "the snapshot of a run is not noted");
                }
                work.info.send_modify(|info| info.result = Some(kept));
            }
            Ok(kept)
        };
        self.blocking("run-keep", keep).await?.map(Some)
    }
}

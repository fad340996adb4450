//! What each stage of a handoff costs, in the order in which the data passes through them, on one seeded
//! tree of 5,000 files.
//!
//! Not here: whole commands (`benches/end_to_end/`).
//!
//! Run it, with nothing else at work on the machine, and compare with a run of before:
//!
//! ```text
//! cargo bench -p baton --bench stages                              # all of it, about two minutes
//! cargo bench -p baton --bench stages -- scan                      # one stage
//! cargo bench -p baton --bench stages -- --save-baseline before    # then: --baseline before
//! ```
//!
//! - [`fixture`]: the tree, and its snapshots
//! - [`reading`]: scan, chunk, hash, compress, directories
//! - [`storing`]: append, commit, index, plan, checkout
//! - [`pushing`]: to a node on loopback
//!
//! Files are in the folder for temporary ones (`TMPDIR`): where that is memory, syncs cost nothing and
//! `commit` says little. A commit about speed quotes the lines of before and after, and the machine.

#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a benchmark: fails by panicking, and makes the files it measures"
)]

mod fixture;
mod reading;
mod storing;
mod pushing;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

use fixture::Fixture;

/// In the order in which the data passes through them.
fn stages(criterion: &mut Criterion) {
    let fixture = Fixture::new();
    reading::scans(criterion, &fixture);
    reading::chunks(criterion);
    reading::hashes(criterion);
    reading::compressions(criterion);
    storing::appends(criterion, &fixture);
    storing::commits(criterion, &fixture);
    storing::probes(criterion, &fixture);
    reading::trees(criterion, &fixture);
    storing::plans(criterion, &fixture);
    pushing::pushes(criterion, &fixture);
    storing::checkouts(criterion, &fixture);
}

criterion_group! {
    name = all;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = stages
}
criterion_main!(all);

//! Which snapshots are kept, and which were thinned out.

/// Its tables.
pub(super) const STEP_2: &str = "";

//! What waits for the network.

/// Its tables.
pub(super) const STEP_2: &str = "";

//! What the secret scan holds back, and what was allowed.

/// Its tables.
pub(super) const STEP_2: &str = "";

//! `[store]`: how large what is kept may become before it is collected, and how often it is read.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::size::Bytes;

/// Growth below which nobody collects: it takes reading what tells of all files.
const LEAST_GROWTH: u64 = 1 << 30;

/// `[store]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Whether what is no longer needed is taken away by itself. True.
    pub collect: bool,
    /// Bytes of all stores of this home above which that is looked for sooner. Nothing: when they have grown by half, and
    /// by 1 GiB at least, since it was looked for last.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<Bytes>,
    /// Bytes a day that are read to see whether they are still what was written. 8 GiB; 0: none.
    pub scrub: Bytes,
    /// After which time a segment is read again. 30 days.
    #[serde(with = "super::duration")]
    pub scrub_every: Duration,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self {
            collect: true,
            budget: None,
            scrub: Bytes(8 << 30),
            scrub_every: Duration::from_hours(30 * 24),
        }
    }
}

impl StoreConfig {
    /// Whether to collect by itself, where so many bytes were left the last time and so many are there now.
    pub fn is_due(&self, left: u64, now: u64) -> bool {
        let grown = now.saturating_sub(left);
        let over = |budget: &Bytes| now > budget.0 && grown >= budget.0 / 20;
        self.collect
            && (grown >= LEAST_GROWTH.max(left / 2) || self.budget.as_ref().is_some_and(over))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_collected_when_it_has_grown_and_over_its_budget_sooner() {
        let gib = 1 << 30;
        let usual = StoreConfig::default();
        assert!(!usual.is_due(0, gib - 1) && usual.is_due(0, gib));
        assert!(!usual.is_due(10 * gib, 15 * gib - 1) && usual.is_due(10 * gib, 15 * gib));
        let small = StoreConfig { budget: Some(Bytes(100)), ..StoreConfig::default() };
        assert!(!small.is_due(0, 100) && small.is_due(0, 101));
        // What could not be taken away is not looked for again and again.
        assert!(!small.is_due(200, 204) && small.is_due(200, 205));
        assert!(!StoreConfig { collect: false, ..small }.is_due(0, 10 * gib));
    }
}

//! What connections may hold together of bytes that nobody has read or acknowledged yet.
//!
//! A connection begins with a small window, and gets a share of what is free when its device first moves a tree. So a few
//! are as fast as the line is, and a thousand go on with less each.
//!
//! **Invariant:** beyond the small windows, no more is given than the budget.

use std::sync::{Arc, Mutex};

use baton_protocol::mux::FIRST_WINDOW;

use super::lock;

/// The largest window of a connection in each direction: 80 ms at 200 MB/s.
pub const MOST: u32 = 16 * 1024 * 1024;

/// Of what is free, one connection gets this part.
const SHARE: u64 = 8;

/// Bytes for windows; clones share them.
#[derive(Clone, Debug)]
pub struct Memory {
    budget: u64,
    given: Arc<Mutex<u64>>,
}

impl Memory {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, given: Arc::default() }
    }

    /// A window in each direction, as large as there is room for.
    pub fn window(&self) -> Window {
        let mut given = lock(&self.given);
        // It is used twice, for what comes and for what goes.
        let share = (self.budget - *given) / SHARE / 2;
        let bytes = share.min(MOST.into());
        let bytes = if bytes > FIRST_WINDOW.into() { bytes as u32 } else { 0 };
        *given += 2 * u64::from(bytes);
        Window { memory: self.clone(), bytes }
    }
}

/// A window; dropping it gives it back.
#[derive(Debug)]
pub struct Window {
    memory: Memory,
    bytes: u32,
}

impl Window {
    /// In each direction.
    pub fn bytes(&self) -> u32 {
        self.bytes.max(FIRST_WINDOW)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        *lock(&self.memory.given) -= 2 * u64::from(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_have_all_they_can_use_and_many_share() {
        let memory = Memory::new(1 << 30);
        let few: Vec<_> = (0..4).map(|_| memory.window()).collect();
        assert!(few.iter().all(|window| window.bytes() == MOST), "{few:?}");
        let many: Vec<_> = (0..1000).map(|_| memory.window()).collect();
        let given: u64 = few.iter().chain(&many).map(|window| 2 * u64::from(window.bytes)).sum();
        assert!(given <= 1 << 30, "{given}");
        assert!(many.iter().all(|window| window.bytes() >= FIRST_WINDOW));
        drop((few, many));
        assert_eq!(memory.window().bytes(), MOST);
    }
}

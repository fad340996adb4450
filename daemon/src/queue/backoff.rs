//! How long to wait before a node that is away is tried again.
//!
//! The wait is drawn anew each time between nothing and a limit that doubles ("full jitter"), so that
//! many homes whose node comes back do not all ask at the same moment.

use std::time::Duration;

/// The first limit.
const FIRST: Duration = Duration::from_secs(1);

/// The last one: a node that came back is found within a minute, without a network change.
const LAST: Duration = Duration::from_mins(1);

/// Waits between tries.
#[derive(Debug)]
pub struct Backoff {
    limit: Duration,
    state: u64,
}

impl Backoff {
    /// Starts from the first limit. The same seed gives the same waits.
    pub const fn new(seed: u64) -> Self {
        Self { limit: FIRST, state: seed }
    }

    /// A wait below the limit.
    pub fn wait(&mut self) -> Duration {
        let nanos = u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.draw() % nanos.max(1))
    }

    /// A wait has passed to its end: the next ones may be longer. One that something cut short says
    /// nothing about how long the node will be away.
    pub fn grow(&mut self) {
        self.limit = (self.limit * 2).min(LAST);
    }

    /// The node was reached, or the network is another one: from the start again.
    pub fn reset(&mut self) {
        self.limit = FIRST;
    }

    /// SplitMix64: spreads any seed, also one that counts.
    fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(seed: u64, count: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(seed);
        let wait = |_| {
            let wait = backoff.wait();
            backoff.grow();
            wait
        };
        (0..count).map(wait).collect()
    }

    #[test]
    fn waits_grow_to_a_limit_and_are_spread_below_it() {
        let mut sums = [Duration::ZERO; 10];
        for seed in 0..200 {
            for (at, wait) in waits(seed, 10).into_iter().enumerate() {
                assert!(wait <= (FIRST * (1 << at)).min(LAST), "{at}: {wait:?}");
                sums[at] += wait;
            }
        }
        // In the mean half of the limit.
        let [first, .., last] = sums.map(|sum| sum.as_secs_f64() / 200.0);
        assert!((0.4..0.6).contains(&first), "{first}");
        assert!((25.0..35.0).contains(&last), "{last}");
    }

    #[test]
    fn a_seed_gives_the_same_waits_and_another_gives_others() {
        assert_eq!(waits(7, 5), waits(7, 5));
        assert_ne!(waits(7, 5), waits(8, 5));
        let mut backoff = Backoff::new(1);
        (0..20).for_each(|_| backoff.grow());
        assert!((0..20).any(|_| backoff.wait() > FIRST));
        backoff.reset();
        assert!(backoff.wait() <= FIRST);
    }
}

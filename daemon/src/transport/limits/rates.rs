//! How often somebody may do something: a bucket of tokens for each of them, which fills by itself.
//!
//! **Invariant:** there are at most [`MAX_BUCKETS`], however many somebodies there are. A full bucket is
//! the same as none and goes first; those for whom none is left share one.

use std::collections::HashMap;
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Buckets at once: some 400 KiB.
const MAX_BUCKETS: usize = 4096;

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// As many at once.
    pub burst: u32,
    /// And one more each such time.
    pub each: Duration,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    /// When it will be full, if nothing is taken.
    full_at: Instant,
}

/// Buckets of one rate.
#[derive(Debug)]
pub(super) struct Buckets<K> {
    rate: Rate,
    of: HashMap<K, Bucket>,
    shared: Option<Bucket>,
}

impl<K: Hash + Eq> Buckets<K> {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, of: HashMap::new(), shared: None }
    }

    /// Takes a token, or says in how long there will be one.
    pub(super) fn take(&mut self, key: K, now: Instant) -> Result<(), Duration> {
        let Rate { burst, each } = self.rate;
        if self.of.len() >= MAX_BUCKETS && !self.of.contains_key(&key) {
            self.of.retain(|_, bucket| bucket.full_at > now);
        }
        let is_known = self.of.contains_key(&key);
        let bucket = if is_known || self.of.len() < MAX_BUCKETS {
            self.of.entry(key).or_insert(Bucket { full_at: now })
        } else {
            self.shared.get_or_insert(Bucket { full_at: now })
        };
        let full_at = bucket.full_at.max(now) + each;
        // Full in the time that a whole bucket takes: it is empty now.
        match full_at.duration_since(now).checked_sub(each * burst) {
            None | Some(Duration::ZERO) => {
                bucket.full_at = full_at;
                Ok(())
            }
            Some(wait) => Err(wait),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, each: Duration::from_secs(1) };

    #[test]
    fn a_burst_and_then_one_at_a_time() {
        let mut buckets = Buckets::new(RATE);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(buckets.take("a", start), Ok(()));
        }
        assert_eq!(buckets.take("a", start), Err(Duration::from_secs(1)));
        assert_eq!(buckets.take("b", start), Ok(()), "of somebody else");
        let later = start + Duration::from_millis(1500);
        assert_eq!(buckets.take("a", later), Ok(()));
        assert_eq!(buckets.take("a", later), Err(Duration::from_millis(500)));
        // A long rest fills it, and not more than that.
        let rested = start + Duration::from_mins(1);
        for _ in 0..3 {
            assert_eq!(buckets.take("a", rested), Ok(()));
        }
        assert!(buckets.take("a", rested).is_err());
    }

    #[test]
    fn however_many_come_the_buckets_are_few() {
        let mut buckets = Buckets::new(RATE);
        let start = Instant::now();
        let mut refused = 0;
        for key in 0..3 * MAX_BUCKETS {
            refused += usize::from(buckets.take(key, start).is_err());
            assert!(buckets.of.len() <= MAX_BUCKETS);
        }
        // The rest had one bucket together.
        assert_eq!(refused, 2 * MAX_BUCKETS - 3);
        // Once theirs are full again the others have their own.
        let later = start + Duration::from_secs(2);
        assert_eq!(buckets.take(usize::MAX, later), Ok(()));
        assert_eq!(buckets.of.len(), 1);
    }
}

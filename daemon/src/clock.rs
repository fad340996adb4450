//! The one place where the time is read.
//!
//! Not here: timers. A timeout is tokio's and measures how long something takes; what is kept or
//! compared later comes from here, so that a test can set it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The last millisecond of the year 9999: RFC 3339 has no later one.
const LATEST: u64 = 253_402_300_799_999;

/// Tells the time; clones tell the same.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    Manual(Arc<Manual>),
}

#[derive(Debug)]
struct Manual {
    start: Instant,
    start_ms: u64,
    passed: Mutex<Duration>,
}

impl Clock {
    /// The clock of the machine.
    pub const fn system() -> Self {
        Self(Source::System)
    }

    /// A clock that stands at `now_ms` until [`Clock::advance`] moves it.
    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    pub fn manual(now_ms: u64) -> Self {
        let passed = Mutex::default();
        Self(Source::Manual(Arc::new(Manual { start: Instant::now(), start_ms: now_ms, passed })))
    }

    /// Moves a manual clock; the clock of the machine is not ours to move.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            *manual.passed.lock().unwrap_or_else(PoisonError::into_inner) += by;
        }
    }

    /// Milliseconds since 1970, for people and for rows; never to order snapshots.
    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    pub fn now_ms(&self) -> u64 {
        match &self.0 {
            Source::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                millis(since)
            }
            Source::Manual(manual) => manual.start_ms.saturating_add(millis(manual.passed())),
        }
    }

    /// A point in time that only moves forward, to measure how long something took.
    #[expect(clippy::disallowed_methods, reason = "this is the clock seam")]
    pub fn instant(&self) -> Instant {
        match &self.0 {
            Source::System => Instant::now(),
            Source::Manual(manual) => manual.start + manual.passed(),
        }
    }

    /// How long ago `then` was.
    pub fn since(&self, then: Instant) -> Duration {
        self.instant().saturating_duration_since(then)
    }
}

impl Manual {
    fn passed(&self) -> Duration {
        *self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Milliseconds since 1970 as RFC 3339 in UTC, to the millisecond.
pub fn rfc3339(ms: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(ms.min(LATEST));
    humantime::format_rfc3339_millis(time).to_string()
}

/// A duration in milliseconds with decimals, as reports carry it.
pub fn decimal_ms(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_clock_moves_when_it_is_told_and_for_every_clone() {
        let clock = Clock::manual(1_000);
        let (clone, start) = (clock.clone(), clock.instant());
        assert_eq!(clone.now_ms(), 1_000);
        clock.advance(Duration::from_secs(2));
        assert_eq!(clone.now_ms(), 3_000);
        assert_eq!(clone.since(start), Duration::from_secs(2));
    }

    #[test]
    fn times_are_utc_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_700_000_000_123), "2023-11-14T22:13:20.123Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }

    #[test]
    fn durations_keep_microseconds() {
        assert!((decimal_ms(Duration::from_nanos(1_234_567)) - 1.235).abs() < 1e-9);
    }
}

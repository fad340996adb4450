//! Which snapshots of a history stay, from when they were made.
//!
//! Time is the clock of the device, which people and their systems set. So a snapshot's age is not `now`
//! less its time, but the sum of the gaps since: a gap backwards counts as nothing, and so does one of
//! more than [`STRANGE_GAP`], which is a clock that was set or a tree that nobody touched for a month. A
//! clock that is years ahead or behind thus thins out nothing that would have stayed without it; and a
//! history that rests does not age.
//!
//! **Invariant:** what stays does not depend on how often it was asked before: thinning what was thinned
//! changes nothing.

use std::time::Duration;

use crate::config::sync::SyncConfig;

/// A gap beyond this is no time that has passed in the history.
const STRANGE_GAP: Duration = Duration::from_hours(30 * 24);

/// How long which automatic snapshots stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Every one, to this age.
    pub all: Duration,
    /// The last of each hour, to this age.
    pub hourly: Duration,
    /// The last of each day, to this age.
    pub daily: Duration,
}

impl Default for Retention {
    /// An hour, a day, a month.
    fn default() -> Self {
        Self::from(&SyncConfig::default())
    }
}

impl From<&SyncConfig> for Retention {
    fn from(config: &SyncConfig) -> Self {
        let SyncConfig { keep_all: all, keep_hourly: hourly, keep_daily: daily, .. } = *config;
        Self { all, hourly, daily }
    }
}

/// A snapshot that is thinned out or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Milliseconds since 1970 by the clock of its device.
    pub created_at: u64,
    /// Whether it stays in any case.
    pub kept: bool,
}

/// Of snapshots in the order of their sequence numbers, which stay. The last one always does.
pub fn plan(snapshots: &[Candidate], now_ms: u64, retention: &Retention) -> Vec<bool> {
    let mut stays = vec![true; snapshots.len()];
    // What is left may have other gaps than before; looked at until nothing changes, the result is one
    // that a second thinning leaves alone.
    loop {
        let left: Vec<usize> =
            (0..snapshots.len()).filter(|&at| stays.get(at) == Some(&true)).collect();
        let gone = once(snapshots, &left, now_ms, retention);
        if gone.is_empty() {
            return stays;
        }
        for at in gone {
            if let Some(stay) = stays.get_mut(at) {
                *stay = false;
            }
        }
    }
}

/// Which of those that are left are thinned out.
fn once(snapshots: &[Candidate], left: &[usize], now_ms: u64, retention: &Retention) -> Vec<usize> {
    let strange = millis(STRANGE_GAP);
    let mut gone = Vec::new();
    let mut age = 0_u64;
    // Counts how often the clock was set: an hour before that is another one than the same hour after.
    let mut era = 0_u64;
    let mut later = now_ms;
    let (mut last_hour, mut last_day) = (None, None);
    for (place, &at) in left.iter().rev().enumerate() {
        let Some(snapshot) = snapshots.get(at) else { continue };
        let Candidate { created_at, kept } = *snapshot;
        match later.checked_sub(created_at) {
            Some(gap) if gap <= strange => age = age.saturating_add(gap),
            // After the newest snapshot there is no other one to be told apart.
            _ if place == 0 => {}
            _ => era += 1,
        }
        later = created_at;
        if kept || place == 0 {
            continue;
        }
        let hour = (era, created_at / millis(Duration::from_hours(1)));
        let day = (era, created_at / millis(Duration::from_hours(24)));
        let stays = if age <= millis(retention.all) {
            true
        } else if age <= millis(retention.hourly) {
            last_hour != Some(hour)
        } else if age <= millis(retention.daily) {
            last_day != Some(day)
        } else {
            false
        };
        if stays {
            (last_hour, last_day) = (Some(hour), Some(day));
        } else {
            gone.push(at);
        }
    }
    gone
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: u64 = 60_000;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    const YEAR: u64 = 365 * DAY;
    /// A Monday at noon, far from both ends.
    const START: u64 = 20_000 * DAY + 12 * HOUR;

    fn automatic(times: impl IntoIterator<Item = u64>) -> Vec<Candidate> {
        times.into_iter().map(|created_at| Candidate { created_at, kept: false }).collect()
    }

    fn left(snapshots: &[Candidate], now: u64) -> Vec<Candidate> {
        let stays = plan(snapshots, now, &Retention::default());
        snapshots.iter().zip(stays).filter(|(_, stays)| *stays).map(|(one, _)| *one).collect()
    }

    #[test]
    fn all_for_an_hour_then_hourly_then_daily_then_none() {
        // One every five minutes for forty days.
        let snapshots = automatic((0..40 * 288).map(|n| START + n * 5 * MINUTE));
        let now = snapshots.last().unwrap().created_at;
        let left = left(&snapshots, now);
        let between = |from: u64, to: u64| {
            left.iter().filter(|one| (from..to).contains(&(now - one.created_at))).count()
        };
        assert_eq!(between(0, HOUR + 1), 13);
        assert!((22..=24).contains(&between(HOUR + 1, DAY + 1)), "{}", between(HOUR + 1, DAY + 1));
        assert!((28..=30).contains(&between(DAY + 1, 30 * DAY + 1)));
        assert_eq!(between(30 * DAY + 1, YEAR), 0);
        // Of an hour and of a day the last one stays.
        assert!(left.iter().any(|one| one.created_at == START + 20 * DAY + 12 * HOUR - 5 * MINUTE));
    }

    #[test]
    fn the_newest_and_what_is_kept_stay_whatever_their_age() {
        let mut snapshots = automatic((0..10).map(|n| START + n * DAY));
        snapshots[2].kept = true;
        // So old that all of it is gone, told by snapshots in between.
        let busy = (10..60).map(|n| Candidate { created_at: START + n * DAY, kept: true });
        let all: Vec<_> = snapshots.iter().copied().chain(busy).collect();
        let left_of = left(&all, START + 60 * DAY);
        assert!(left_of.contains(&snapshots[2]) && !left_of.contains(&snapshots[1]));
        assert_eq!(left_of.len(), 51);
        let alone = automatic([START]);
        assert_eq!(left(&alone, START + 10 * YEAR), alone);
        assert_eq!(left(&[], START), []);
    }

    #[test]
    fn a_clock_that_is_set_thins_out_nothing_that_would_have_stayed() {
        let hour = automatic((0..12).map(|n| START + n * 5 * MINUTE));
        let now = START + HOUR;
        assert_eq!(left(&hour, now), hour);
        for wrong in [now + 5 * YEAR, now - 5 * YEAR, 0, u64::MAX, now + 31 * DAY] {
            assert_eq!(left(&hour, wrong), hour, "{wrong}");
        }
        // Snapshots made while it was wrong, between two stretches where it was right.
        for jump in [5 * YEAR, (5 * YEAR).wrapping_neg()] {
            let wrong = (0..6).map(|n| START.wrapping_add(jump) + n * MINUTE);
            let after = (0..6).map(|n| START + 30 * MINUTE + n * MINUTE);
            let before = (0..6).map(|n| START + n * MINUTE);
            let all = automatic(before.chain(wrong).chain(after));
            assert_eq!(left(&all, START + 36 * MINUTE), all, "{jump}");
        }
        // Set back by two hours: both of them come twice, and are four.
        let twice = (0..48).map(|n| START + (n % 24) * 5 * MINUTE);
        let later = (3..=7).map(|n| START + n * HOUR + 59 * MINUTE);
        let stays = left(&automatic(twice.chain(later)), START + 8 * HOUR);
        assert_eq!(stays.iter().filter(|one| one.created_at < START + 2 * HOUR).count(), 4);
    }

    /// Histories with jumps, ties and gaps of every size, and what must hold of each.
    #[test]
    fn whatever_the_history_thinning_twice_is_thinning_once_and_kept_ones_stay() {
        let mut state = 1_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for round in 0..400 {
            let mut time = START;
            let mut snapshots = Vec::new();
            for _ in 0..next(120) {
                let step = [0, MINUTE, 7 * MINUTE, HOUR, 5 * HOUR, DAY, 29 * DAY, 40 * DAY]
                    [next(8) as usize];
                time = match next(20) {
                    0 => time - (3 * YEAR).min(time),
                    1 => time + 3 * YEAR,
                    2 => time.saturating_sub(step),
                    _ => time + step,
                };
                snapshots.push(Candidate { created_at: time, kept: next(10) == 0 });
            }
            let now = if next(4) == 0 { next(START * 2) } else { time + next(DAY) };
            let once = left(&snapshots, now);
            assert_eq!(left(&once, now), once, "{round}");
            let kept = |list: &[Candidate]| list.iter().filter(|one| one.kept).count();
            assert_eq!(kept(&once), kept(&snapshots), "{round}");
            assert_eq!(once.last(), snapshots.last(), "{round}");
            // To keep one more never costs another.
            if let Some(at) = snapshots.len().checked_sub(1 + next(5) as usize) {
                let mut pinned = snapshots.clone();
                pinned[at].kept = true;
                assert!(left(&pinned, now).len() >= once.len(), "{round}");
            }
        }
    }
}

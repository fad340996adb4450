//! One set of tests for all backends: what a keeper knows, that looks at nothing but what is dirty, is
//! compared with the disk.
//!
//! - [`keeper`]: a keeper in small, and what it knows
//! - [`operations`]: one change at a time
//! - [`random`]: many at once
//! - [`limits`]: too many events, too few watches
//! - [`barrier`]: written before, known after; across processes
//! - [`waiting`]: who waits, and until when

mod keeper;
mod operations;
mod random;
mod limits;
mod barrier;
mod waiting;

use std::path::Path;

use super::notify::NotifyWatch;
use super::sweep::SweepWatch;
use super::{Watch, WatchOptions};

/// A way to watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Backend {
    #[cfg(target_os = "linux")]
    Inotify,
    Notify,
    Sweep,
}

const ALL: &[Backend] = &[
    #[cfg(target_os = "linux")]
    Backend::Inotify,
    Backend::Notify,
    Backend::Sweep,
];

impl Backend {
    fn open(self, root: &Path, options: &WatchOptions) -> Box<dyn Watch> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Inotify => Box::new(super::inotify::InotifyWatch::open(root, options).unwrap()),
            Self::Notify => Box::new(NotifyWatch::open(root, options).unwrap()),
            Self::Sweep => Box::new(SweepWatch::open(root, None).unwrap()),
        }
    }
}

/// A generator of numbers that are the same for the same seed.
#[derive(Clone, Debug)]
struct Seed(u64);

impl Seed {
    fn next(&mut self) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }
}

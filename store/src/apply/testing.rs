//! For tests: random numbers that come again, and whether the heavy suites are asked for.

/// A generator whose numbers follow from its seed (splitmix64, Steele and others 2014).
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a limit.
    pub(crate) const fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// Whether the heavy suites run.
#[expect(clippy::disallowed_methods, reason = "a test has the environment itself")]
pub(crate) fn is_nightly() -> bool {
    std::env::var_os("BATON_NIGHTLY").is_some()
}

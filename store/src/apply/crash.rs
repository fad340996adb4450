//! Where an apply may be cut off, for tests: at every write.
//!
//! **Invariant:** outside tests this is nothing.

#[cfg(test)]
thread_local! {
    static LEFT: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
    static SEEN: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// What a cut panics with.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Cut;

/// Lets this thread be cut off after so many writes; never without a number.
#[cfg(test)]
pub(crate) fn arm(after: Option<u64>) {
    LEFT.set(after);
    SEEN.set(0);
}

/// How many writes this thread has come to since.
#[cfg(test)]
pub(crate) fn seen() -> u64 {
    SEEN.get()
}

/// Before or after a write.
#[cfg(test)]
pub(super) fn point() {
    SEEN.set(SEEN.get() + 1);
    match LEFT.get() {
        None => {}
        Some(0) => {
            LEFT.set(None);
            std::panic::panic_any(Cut);
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}

/// Before or after a write.
#[cfg(not(test))]
#[inline]
pub(super) const fn point() {}

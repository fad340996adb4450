//! Where an apply may be cut off, for tests: at every write.
//!
//! **Invariant:** outside tests this is nothing.

#[cfg(test)]
thread_local! {
    static LEFT: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// What a cut panics with.
#[cfg(test)]
#[derive(Debug)]
pub(crate) struct Cut;

/// Lets this thread be cut off after so many writes; never without a number.
#[cfg(test)]
pub(crate) fn arm(after: Option<u64>) {
    LEFT.set(after);
}

/// Before or after a write.
#[cfg(test)]
pub(super) fn point() {
    match LEFT.get() {
        None => {}
        Some(0) => {
            LEFT.set(None);
            // No message: it is meant.
            std::panic::resume_unwind(Box::new(Cut));
        }
        Some(left) => LEFT.set(Some(left - 1)),
    }
}

/// Before or after a write.
#[cfg(not(test))]
#[inline]
pub(super) const fn point() {}

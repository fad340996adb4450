//! Where an apply may be cut off, for tests: at every write.
//!
//! **Invariant:** outside tests this is nothing.

#[cfg(test)]
thread_local! {
    static LEFT: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// What somebody else does before the next write, once.
#[cfg(test)]
type Meanwhile = Box<dyn FnOnce()>;

#[cfg(test)]
thread_local! {
    static MEANWHILE: std::cell::RefCell<Option<(u64, Meanwhile)>> =
        const { std::cell::RefCell::new(None) };
}

/// Lets somebody do something after so many writes of this thread; false where there were fewer.
#[cfg(test)]
pub(crate) fn meanwhile(after: u64, what: impl FnOnce() + 'static, during: impl FnOnce()) -> bool {
    MEANWHILE.set(Some((after, Box::new(what))));
    during();
    MEANWHILE.take().is_none()
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
    match MEANWHILE.take() {
        Some((0, what)) => what(),
        other => MEANWHILE.set(other.map(|(left, what)| (left - 1, what))),
    }
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

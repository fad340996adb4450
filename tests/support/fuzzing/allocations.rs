//! Counts what the thread of a test allocates. What zstd allocates in C is not among it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Bytes allocated and not freed since the count began, and the most there were.
    static LIVE: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn change(more: usize, less: usize) {
    // Not while the thread ends: nothing is counted there.
    let _ = LIVE.try_with(|live| {
        let (now, peak) = live.get();
        let now = now.saturating_add(more).saturating_sub(less);
        live.set((now, peak.max(now)));
    });
}

#[expect(unsafe_code, reason = "the only way to see what is allocated; hands everything through")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(layout.size(), 0);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        change(layout.size(), 0);
        // SAFETY: as promised by the caller.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        change(0, layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both stand until the copy is done.
        change(size, 0);
        change(0, layout.size());
        // SAFETY: as promised by the caller.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What a function returns, and the most bytes that it held at once.
pub(super) fn peak<T>(work: impl FnOnce() -> T) -> (T, usize) {
    LIVE.set((0, 0));
    let value = work();
    (value, LIVE.get().1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_what_was_held_at_once() {
        let (_, peak) = peak(|| {
            for _ in 0..10 {
                drop(Vec::<u8>::with_capacity(100_000));
            }
            Vec::<u8>::with_capacity(50_000)
        });
        assert_eq!(peak, 100_000);
    }
}

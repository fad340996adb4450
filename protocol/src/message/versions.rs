//! Which versions of the messages are spoken.
//!
//! A request is asked in every version that has it, so that programs of two versions talk of all that both know. A new
//! version appends to enumerations and changes nothing that was there; so the bytes of the one before stay what they were.

use std::sync::atomic::{AtomicU16, Ordering};

/// The newest version of these messages that this program knows.
pub const VERSION: u16 = 5;

/// The oldest one that it speaks. It is that of every request that was in it.
pub const OLDEST: u16 = 4;

/// One for the whole process: a program has one version.
static NEWEST: AtomicU16 = AtomicU16::new(VERSION);

/// The newest version that this program speaks: [`VERSION`], unless it was told to speak an older one.
pub fn newest() -> u16 {
    NEWEST.load(Ordering::Relaxed)
}

/// Speaks no newer version than this one from here on, as an older program would. Says whether this one can be spoken.
pub fn speak_at_most(version: u16) -> bool {
    let is_known = (OLDEST..=VERSION).contains(&version);
    if is_known {
        NEWEST.store(version, Ordering::Relaxed);
    }
    is_known
}

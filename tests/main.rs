//! Whole-program tests: one file per promise.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
mod cli;
mod roundtrip;
mod handoff;
mod enrolment;
mod damage;
mod full_disk;
mod crash;
mod tidy;

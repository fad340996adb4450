//! Whole-program tests: one file per promise.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;
mod ahead;
mod always_on;
mod apply;
mod cli;
mod crash;
mod damage;
mod docs;
mod enrolment;
mod full_disk;
mod git;
mod guard;
mod handoff;
mod offline;
mod roundtrip;
mod service;
mod tidy;

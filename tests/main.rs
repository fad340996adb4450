//! Whole-program tests: one file per promise.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

// What the states of repositories are made with stands there; see `fidelity`.
use baton_store::fs;

mod support;
mod all_or_nothing;
mod always_on;
mod apply;
mod cli;
mod crash;
mod damage;
mod docs;
mod enrolment;
mod fidelity;
mod full_disk;
mod git;
mod guard;
mod handoff;
mod offline;
mod roundtrip;
mod service;
mod tidy;

//! Whole-program tests: one file per promise.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test fails by panicking")]

mod support;
mod agents;
mod ahead;
mod always_on;
mod apply;
mod blocked;
mod cli;
mod collecting;
mod crash;
mod damage;
mod docs;
mod enrolment;
mod environments;
mod full_disk;
mod git;
mod git_access;
mod guard;
mod fidelity;
mod fixtures;
mod handoff;
mod harmed;
mod kinds;
mod live;
mod mcp;
mod notices;
mod offline;
mod power_cut;
mod pressure;
mod quotas;
mod real_agents;
mod real_inside;
mod real_runs;
mod rooms;
mod restarts;
mod roundtrip;
mod scrub;
mod secrets;
mod service;
mod setup;
mod steer;
mod strace;
mod tidy;
mod uninstall;
mod upgrades;

// Of the labs in which the tests of the store make repositories; see `fidelity`.
use baton_store::{fs, ignore};

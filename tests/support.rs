//! What the tests of whole programs stand on: awkward trees, an independent look at them, a bad
//! network, and homes of their own.
//!
//! Nothing here uses the code under test: a mistake there must not hide itself here.

#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support: fails by panicking, and has the file system, clock and environment itself"
)]
#![allow(dead_code, reason = "each promise uses the part it needs")]

pub(crate) mod rng;
pub(crate) mod simulations;
pub(crate) mod walker;
pub(crate) mod awkward;
pub(crate) mod udp_proxy;
pub(crate) mod home;
pub(crate) mod cloud;
pub(crate) mod nobody;
pub(crate) mod git;
pub(crate) mod authority;
pub(crate) mod git_host;
pub(crate) mod interloper;
pub(crate) mod models;
pub(crate) mod programs;
pub(crate) mod desk;

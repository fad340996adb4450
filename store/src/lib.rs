//! Where it is kept: journal, segments, index, catalog; scan and checkout.
//!
//! Synchronous; knows no network and no clock. Modules stand in the order in which data passes
//! through them, and a module uses only those above it.
//!
//! - [`fs`], [`error`]: files, and what can go wrong
//! - [`features`], [`layout`]: which programs may read and write a store, and where everything is
//! - [`lines`], [`noted`]: small files of text; damage that was found
//! - [`segment`]: the bytes of objects on the disk
//! - [`objects`]: where objects come from and go to
//! - [`journal`], [`index`]: what is durable first, and where everything is
//! - [`vault`], [`store`]: objects and refs of one user; all of them on one node
//! - [`secrets`]: what must not leave by itself
//! - [`catalog`]: what is not content
//! - [`chunk`], [`trees`], [`stat_cache`], [`ignore`], [`scan`], [`snapshot`]: from a tree to a snapshot
//! - [`git`]: a repository captured and made again
//! - [`diff`], [`plan`]: what differs, and what has to travel
//! - [`checkout`]: from a snapshot to a tree
//! - [`layers`]: checkouts that many share
//! - [`additions`]: what programs made beside the files of a snapshot
//! - [`apply`]: what was done elsewhere, into a checkout that has moved on
//! - [`folder`]: files of other programs, read and made in a folder of theirs
//! - [`check`], [`repair`], [`scrub`]: whether all of it is whole, what is done where it is not, and a look now and then

pub mod fs;
pub mod error;
mod features;
pub mod layout;
pub mod reserve;
mod lines;
pub mod noted;
pub mod segment;
pub mod objects;
pub mod journal;
pub mod index;
pub mod vault;
pub mod store;
pub mod secrets;
pub mod catalog;
pub mod chunk;
pub mod trees;
pub mod stat_cache;
pub mod ignore;
pub mod scan;
pub mod snapshot;
pub mod git;
pub mod diff;
pub mod plan;
pub mod checkout;
pub mod layers;
pub mod additions;
pub mod apply;
pub mod folder;
pub mod check;
pub mod repair;
pub mod scrub;

#[cfg(test)]
mod fuzz;

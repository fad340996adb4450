//! The environments of workspaces: what runs find installed beside the files of their tree.
//!
//! - [`glob`]: patterns for paths
//! - [`file`]: what a tree asks for, in `.baton/environment.toml`
//! - [`system`]: what it depends on beside that
//! - [`key`]: which environment that is
//! - [`cache`]: those that are kept
//! - [`setups`]: one at a time of each
//!
//! Not here: running the scripts ([`runs`](crate::runs)), and showing runs what is kept ([`daemon`](crate::daemon)).
//!
//! **Invariant:** the file comes with a tree and may say anything: it is bounded before it is read, and what it says has
//! an effect inside a room only.

pub mod glob;
pub mod file;
pub mod system;
pub mod key;
pub mod cache;
pub mod setups;

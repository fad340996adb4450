//! The output of a run, as a file that can be read while it grows.
//!
//! - [`format`]: the bytes of an entry, and what ends a file
//! - [`writer`]: appends, with a limit
//! - [`reader`]: reads batches from any entry on
//!
//! Not here: cutting output into entries ([`lines`](super::lines)), and following a log until its run has
//! ended ([`follow`](super::follow)).
//!
//! **Invariant:** neither writing nor reading holds more than a batch in memory, however long a log is.

pub(super) mod format;
pub(super) mod reader;
pub(super) mod writer;

use std::path::PathBuf;

use baton_store::fs::FsError;

/// A log cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A file operation failed.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// The file does not begin as a log does.
    #[error("{} is not the log of a run", path.display())]
    NotALog {
        /// Which file.
        path: PathBuf,
    },
}

//! Files of other programs, changed in place: what is theirs stays byte for byte, with its order and its comments.
//!
//! - [`file`]: a file as it was found, and how it is replaced
//! - [`jsonc`]: JSON, with comments or without
//! - [`tables`]: tables of TOML
//! - [`whole`]: files that are ours alone
//!
//! Not here: what is put into them, and whose they are.
//!
//! **Invariant:** a change is made only where the text then means what it meant before and the change, which is looked
//! at by reading it again; else nothing is written.

pub(crate) mod file;
pub(crate) mod jsonc;
pub(crate) mod tables;
pub(crate) mod whole;

/// Why a text is not changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EditError {
    /// It cannot be read.
    #[error("line {line}: {what}")]
    Syntax {
        /// Where, counted from 1.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// Something else stands where a change belongs.
    #[error("{at} is not {expected}")]
    Other {
        /// The names on the way to it.
        at: String,
        /// What it would have to be.
        expected: &'static str,
    },
    /// It is written in a way that cannot be changed here and mean the same.
    #[error("{at} is written in a way that is not changed by a program")]
    Unusual {
        /// The names on the way to it.
        at: String,
    },
}

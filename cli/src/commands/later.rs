//! What of the contract this version does not have, so that nobody takes it for a typing error.

use crate::error::{CliError, USAGE};

/// The refusal of something that this version does not have.
pub(crate) fn not_yet(what: &str, instead: &str) -> CliError {
    CliError::new("not-in-this-version", format!("{what} is not in this version"))
        .hint(instead)
        .exit(USAGE)
}

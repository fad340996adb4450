//! The index of a repository: read into its meaning, and written again.
//!
//! - [`parse`]: the file, of every version that git writes, split ones with the file that they share
//! - [`look`]: which files of a worktree git knows to be as the index has them
//! - [`proof`]: which of them are, by what is in them
//! - [`trees`]: directories that are known to be as a tree object has them
//! - [`write`](mod@write): the file
//!
//! **Invariant:** what git remembers of files is written only for a file that was read here, and whose time cannot be
//! that of a change that is still to come.

mod bitmap;
mod parse;
mod look;
mod proof;
mod trees;
mod write;

use baton_protocol::object::{GitHash, GitOid};

use super::GitError;

pub(super) use look::{Files, has_file, mark_clean};
pub(super) use parse::{Index, Stat, read, read_with_bytes};
pub(super) use proof::{Remembered, prove};
pub(super) use trees::build_trees;
pub(super) use write::write;

/// Hashes as git does.
fn hash_of(hash: GitHash, bytes: &[u8]) -> Result<gix::ObjectId, GitError> {
    let mut hasher = gix::hash::hasher(kind(hash));
    hasher.update(bytes);
    hasher.try_finalize().map_err(|_| GitError::refused("the bytes of an object", "they collide"))
}

/// The name of a blob.
pub(super) fn name_of_blob(hash: GitHash, content: &[u8]) -> Result<GitOid, GitError> {
    let header = format!("blob {}\0", content.len()).into_bytes();
    let sum = hash_of(hash, &[&header, content].concat())?;
    GitOid::new(hash, sum.as_slice())
        .ok_or_else(|| GitError::refused("the name of a blob", "it has another length"))
}

const fn kind(hash: GitHash) -> gix::hash::Kind {
    match hash {
        GitHash::Sha1 => gix::hash::Kind::Sha1,
        GitHash::Sha256 => gix::hash::Kind::Sha256,
    }
}

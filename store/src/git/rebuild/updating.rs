//! Refs of a repository that is there, changed by git itself: in files or tables, with locks and reflogs.
//!
//! **Invariant:** no ref is changed that is not what the caller last saw.

use std::path::Path;

use baton_protocol::object::GitOid;

use crate::git::GitError;
use crate::git::program::{DURABLE, GitProgram, Run};

/// Longest answer of a git that changes refs.
const MAX_ANSWER: u64 = 1 << 20;

/// What `git update-ref` is told.
#[derive(Debug, Default)]
pub(super) struct Lines(Vec<u8>);

impl Lines {
    pub(super) fn add(&mut self, what: &str, name: &[u8], oid: GitOid) {
        let oid = oid.to_string();
        self.0.extend([what.as_bytes(), b" ", name, b" ", oid.as_bytes(), b"\n"].concat());
    }

    /// Adds a change of a ref from what it is expected to be; nothing where it is not there.
    pub(super) fn change(&mut self, name: &[u8], old: Option<GitOid>, new: Option<GitOid>) {
        match (old, new) {
            (Some(old), Some(new)) => {
                let oids = format!(" {new} {old}\n");
                self.0.extend([b"update ", name, oids.as_bytes()].concat());
            }
            (None, Some(new)) => self.add("create", name, new),
            (Some(old), None) => self.add("delete", name, old),
            (None, None) => {}
        }
    }
}

/// Changes refs of the repository of a worktree, all or none. The message is for their reflogs.
pub(super) fn update_refs(
    git: &GitProgram,
    git_dir: &Path,
    message: &str,
    Lines(lines): &Lines,
) -> Result<(), GitError> {
    const DOING: &str = "make refs";
    if lines.is_empty() {
        return Ok(());
    }
    git.at(git_dir)
        .env("GIT_COMMITTER_NAME", "baton")
        .env("GIT_COMMITTER_EMAIL", "baton@localhost")
        .args(DURABLE)
        .args(["update-ref", "--no-deref", "-m", message, "--stdin"])
        .bytes(DOING, lines, MAX_ANSWER)?
        .checked(DOING)
        .map(drop)
}

/// Has git say whether it would do all of this; nothing is changed.
pub(super) fn rehearse_refs(git: Run<'_>, Lines(lines): &Lines) -> Result<(), GitError> {
    const DOING: &str = "make refs";
    if lines.is_empty() {
        return Ok(());
    }
    let input = [b"start\n", &lines[..], b"prepare\nabort\n"].concat();
    git.env("GIT_COMMITTER_NAME", "baton")
        .env("GIT_COMMITTER_EMAIL", "baton@localhost")
        .args(["update-ref", "--no-deref", "--stdin"])
        .bytes(DOING, &input, MAX_ANSWER)?
        .checked(DOING)
        .map(drop)
}

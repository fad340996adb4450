//! Where a worktree that comes stands, and what its branch is called here.
//!
//! **Invariant:** a name that is found free is that of no ref that is there, and none is its folder.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::{GitFile, GitHead, GitOid, GitRef, GitRefName, GitState, GitTarget};

use crate::git::GitError;

/// Names that are tried for a branch.
const MAX_NAMES: usize = 1000;

/// What a worktree stands on.
pub(super) struct Stands {
    /// The branch that it is on, or goes back to.
    pub(super) name: Option<Vec<u8>>,
    /// Where that is.
    pub(super) tip: Option<GitOid>,
    /// Where `HEAD` is, if not on the branch.
    pub(super) detached: Option<GitOid>,
}

pub(super) fn stands_on(state: &GitState, refs: &[GitRef], files: &[GitFile]) -> Stands {
    let find = |name: &[u8]| {
        refs.iter().find(|it| it.name.as_bytes() == name).and_then(|it| match it.target {
            GitTarget::Object(oid) => Some(oid),
            GitTarget::Symbolic(_) => None,
        })
    };
    let oid = match &state.head {
        GitHead::Symbolic(name) => {
            let name = name.as_bytes();
            return Stands { name: Some(name.to_vec()), tip: find(name), detached: None };
        }
        GitHead::Detached(oid) => *oid,
    };
    let goes_back_to = files.iter().find_map(|file| {
        let text = file.bytes.trim_ascii_end();
        match file.path.as_bytes() {
            b"rebase-merge/head-name" | b"rebase-apply/head-name" => {
                Some(text.to_vec()).filter(|name| name.starts_with(b"refs/heads/"))
            }
            b"BISECT_START" => Some([b"refs/heads/", text].concat()),
            _ => None,
        }
    });
    let back = goes_back_to.and_then(|name| Some((find(&name)?, name)));
    match back {
        Some((tip, name)) => Stands { name: Some(name), tip: Some(tip), detached: Some(oid) },
        // A bisect of a detached HEAD goes back to a commit.
        None if files.iter().any(|file| file.path.as_bytes() == b"BISECT_START") => {
            Stands { name: None, tip: Some(oid), detached: Some(oid) }
        }
        None => Stands { name: None, tip: Some(oid), detached: None },
    }
}

/// A name of a branch that no ref has, and no ref is in the way of.
pub(super) fn free_name(
    here: &BTreeMap<GitRefName, GitTarget>,
    name: &str,
) -> Result<String, GitError> {
    let names: BTreeSet<&[u8]> = here.keys().map(GitRefName::as_bytes).collect();
    let separator = if names.contains(&b"refs/heads/handoff"[..]) { '-' } else { '/' };
    let is_free = |start: &str, branch: &str| {
        let full = format!("{start}{branch}");
        let below = format!("{full}/");
        !names.iter().any(|it| *it == full.as_bytes() || it.starts_with(below.as_bytes()))
    };
    let numbered = (2..MAX_NAMES).map(|number| format!("handoff{separator}{name}-{number}"));
    let free = std::iter::once(format!("handoff{separator}{name}"))
        .chain(numbered)
        .find(|branch| is_free("refs/heads/", branch) && is_free("refs/", branch));
    free.ok_or_else(|| {
        GitError::refused(format!("the branch handoff/{name}"), "there are too many")
    })
}

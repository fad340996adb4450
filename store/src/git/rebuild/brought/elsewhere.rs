//! Branches that other worktrees of a repository have: on which they are, or which they move when git goes on there.

use std::collections::BTreeSet;
use std::path::Path;

use baton_protocol::object::GitHead;

use crate::fs;
use crate::git::GitError;
use crate::git::place::{Repository, read_file};
use crate::git::program::GitProgram;

/// Longest answer on which worktrees there are.
const MAX_ANSWER: u64 = 64 << 20;

/// Longest file that names branches.
const MAX_FILE: u64 = 1 << 20;

/// Finds them, for a worktree whose `HEAD` is this.
pub(super) fn branches_elsewhere(
    git: &GitProgram,
    repo: &Repository,
    head: &GitHead,
) -> Result<BTreeSet<Vec<u8>>, GitError> {
    const DOING: &str = "list worktrees";
    let args = ["worktree", "list", "--porcelain"];
    let list = |how: Option<&str>| {
        git.at(&repo.common_dir).args(args).args(how).bytes(DOING, b"", MAX_ANSWER)
    };
    let ended = list(Some("-z"))?;
    // Git before 2.36 has no other ends of lines; a path with one in it only names more branches.
    let (listed, end) =
        if ended.success { (ended.value, 0) } else { (list(None)?.checked(DOING)?, b'\n') };
    let lines = listed.split(|&byte| byte == end);
    let mut branches: Vec<Vec<u8>> =
        lines.filter_map(|line| line.strip_prefix(b"branch ")).map(<[u8]>::to_vec).collect();
    if let GitHead::Symbolic(own) = head
        && let Some(at) = branches.iter().position(|branch| branch == own.as_bytes())
    {
        branches.swap_remove(at);
    }
    let mut found: BTreeSet<_> = branches.into_iter().collect();
    let mut folders = vec![repo.common_dir.clone()];
    let worktrees = repo.common_dir.join("worktrees");
    folders.extend(fs::list_dir(&worktrees)?.into_iter().map(|name| worktrees.join(name)));
    for folder in
        folders.iter().filter(|folder| folder.canonicalize().ok().as_ref() != Some(&repo.git_dir))
    {
        found.extend(under_way(folder));
    }
    Ok(found)
}

/// Branches that git moves, or goes back to, when it goes on in a worktree.
fn under_way(folder: &Path) -> BTreeSet<Vec<u8>> {
    let read = |name: &str| read_file(&folder.join(name), MAX_FILE).ok().flatten();
    let mut found = BTreeSet::new();
    for name in ["rebase-merge/head-name", "rebase-apply/head-name", "rebase-merge/update-refs"] {
        let text = read(name).unwrap_or_default();
        let lines = text.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii_end);
        found.extend(lines.filter(|line| line.starts_with(b"refs/heads/")).map(<[u8]>::to_vec));
    }
    if let Some(start) = read("BISECT_START") {
        found.insert([b"refs/heads/", start.trim_ascii_end()].concat());
    }
    found
}

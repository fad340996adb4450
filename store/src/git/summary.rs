//! What a state says, for people: where `HEAD` is, and what git is in the middle of.

use std::collections::BTreeSet;

use baton_protocol::id::GitStateId;
use baton_protocol::object::{
    GitFile, GitFiles, GitHead, GitIndex, GitRef, GitRefs, GitState, GitTarget,
};

use super::capture::{any_state, load_state};
use super::{GitError, MAX_LIST, files};
use crate::objects::ObjectSource;
use crate::snapshot::{load_blob, load_first_chunk};

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// Most repositories that are gone through.
const MAX_WORKTREES: usize = 10_000;

/// What git leaves in its folder while it is in the middle of something, and what that is called; the first that is
/// there counts.
const OPERATIONS: [(&str, &str); 9] = [
    ("rebase-merge/", "rebase"),
    ("rebase-apply/applying", "am"),
    ("rebase-apply/", "rebase"),
    ("sequencer/", "sequence"),
    ("CHERRY_PICK_HEAD", "cherry-pick"),
    ("REVERT_HEAD", "revert"),
    ("MERGE_HEAD", "merge"),
    ("BISECT_LOG", "bisect"),
    ("BISECT_START", "bisect"),
];

/// The gist of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The commit that `HEAD` leads to; nothing on a branch that is not born yet.
    pub head: Option<String>,
    /// The branch that `HEAD` stands for, without `refs/heads/`; nothing where it is detached.
    pub branch: Option<String>,
    /// Entries of the index.
    pub index_entries: u64,
    /// Stashes.
    pub stashes: u64,
    /// Commits in the packs of the state.
    pub commits_carried: u64,
    /// What git is in the middle of: `rebase`, `am`, `sequence`, `cherry-pick`, `revert`, `merge` or `bisect`.
    pub operation: Option<&'static str>,
    /// Whether history ends before its beginning.
    pub shallow: bool,
}

/// What git is in the middle of, by the files and refs of a state.
pub(super) fn operation(files: &[GitFile], refs: &[GitRef]) -> Option<&'static str> {
    let is_there = |(name, _): &&(&str, &str)| {
        let is_file = files.iter().any(|file| {
            let path = file.path.as_bytes();
            path == name.as_bytes() || (name.ends_with('/') && path.starts_with(name.as_bytes()))
        });
        is_file || refs.iter().any(|it| it.name.as_bytes() == name.as_bytes())
    };
    OPERATIONS.iter().find(is_there).map(|it| it.1)
}

/// Sums up a state.
pub fn summarize<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
) -> Result<Summary, GitError> {
    let state = load_state(source, id)?;
    let refs = GitRefs::decode(&load_blob(source, state.refs, MAX_LIST)?)?.refs;
    let files = load_files(source, &state)?;
    let index_entries = match state.index {
        // Not all of a long list, only to say how long it is.
        Some(blob) => GitIndex::count_entries(&load_first_chunk(source, blob)?, blob.size)?,
        None => 0,
    };
    let target = |name: &[u8]| {
        refs.iter().find(|it| it.name.as_bytes() == name).and_then(|it| match it.target {
            GitTarget::Object(oid) => Some(oid.to_string()),
            GitTarget::Symbolic(_) => None,
        })
    };
    let (head, branch) = match &state.head {
        GitHead::Detached(oid) => (Some(oid.to_string()), None),
        GitHead::Symbolic(name) => {
            let short = name.as_bytes().strip_prefix(b"refs/heads/").unwrap_or(name.as_bytes());
            (target(name.as_bytes()), Some(String::from_utf8_lossy(short).into_owned()))
        }
    };
    let stash_log = files.find(b"logs/refs/stash").unwrap_or_default();
    let lines = stash_log.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).count();
    let has_stash = target(b"refs/stash").is_some();
    let operation = operation(&files.0, &refs);
    Ok(Summary {
        head,
        branch,
        index_entries,
        stashes: if has_stash { (lines as u64).max(1) } else { 0 },
        commits_carried: state.packs.iter().map(|pack| pack.commits).sum(),
        operation,
        shallow: is_shallow(source, id)?,
    })
}

/// Whether history of a repository, or of one inside it, ends before its beginning.
pub(super) fn is_shallow<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
) -> Result<bool, GitError> {
    any_state(source, id, |state| Ok(load_files(source, state)?.find(b"shallow").is_some()))
}

/// The worktrees of a state and of those inside it, relative to the outermost, which is the empty path.
pub fn worktrees<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
) -> Result<BTreeSet<Vec<u8>>, GitError> {
    let mut found = BTreeSet::new();
    let mut left = vec![(Vec::new(), id, 0)];
    while let Some((path, id, depth)) = left.pop() {
        for unit in load_state(source, id)?.units {
            let mut inner = path.clone();
            if !inner.is_empty() {
                inner.push(b'/');
            }
            inner.extend_from_slice(unit.path.as_bytes());
            left.push((inner, unit.state, depth + 1));
        }
        found.insert(path);
        if depth > MAX_DEPTH || found.len() > MAX_WORKTREES {
            return Err(GitError::refused("the state", "its repositories are too many"));
        }
    }
    Ok(found)
}

/// The lines that git would run when a state, or one inside it, goes on with what it is in the middle of.
pub fn commands<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
) -> Result<BTreeSet<String>, GitError> {
    let mut found = BTreeSet::new();
    let mut left = vec![id];
    let mut seen = 0;
    while let Some(id) = left.pop() {
        seen += 1;
        if seen > MAX_WORKTREES {
            return Err(GitError::refused("the state", "its repositories are too many"));
        }
        let state = load_state(source, id)?;
        found.extend(files::commands(&load_files(source, &state)?.0));
        left.extend(state.units.iter().map(|unit| unit.state));
    }
    Ok(found)
}

fn load_files<S: ObjectSource + ?Sized>(
    source: &S,
    state: &GitState,
) -> Result<GitFiles, GitError> {
    Ok(match state.files {
        Some(blob) => GitFiles::decode(&load_blob(source, blob, MAX_LIST)?)?,
        None => GitFiles::default(),
    })
}

/// Whether a repository made from one state is as good as the one made from another, with files that may be others: at most it
/// remembers of some that they are clean which are not any more. Git looks again at those that it does not find as it
/// remembers them.
pub fn is_alike<S: ObjectSource + ?Sized>(
    source: &S,
    a: GitStateId,
    b: GitStateId,
) -> Result<bool, GitError> {
    let (mut left, mut seen) = (vec![(a, b)], BTreeSet::new());
    while let Some((a, b)) = left.pop() {
        // A state may stand in many places.
        if !seen.insert((a, b)) {
            continue;
        }
        if seen.len() > MAX_WORKTREES {
            return Ok(false);
        }
        let (a, b) = (load_state(source, a)?, load_state(source, b)?);
        if !is_alike_but_for_units(source, &a, &b)? {
            return Ok(false);
        }
        left.extend(a.units.iter().zip(&b.units).map(|(a, b)| (a.state, b.state)));
    }
    Ok(true)
}

fn is_alike_but_for_units<S: ObjectSource + ?Sized>(
    source: &S,
    a: &GitState,
    b: &GitState,
) -> Result<bool, GitError> {
    let bare = |state: &GitState| GitState {
        busy: false,
        index: None,
        units: Vec::new(),
        omitted: None,
        ..state.clone()
    };
    let of_units = |state: &GitState| {
        let units = state.units.iter();
        units.map(|unit| (unit.path.clone(), unit.place.clone())).collect::<Vec<_>>()
    };
    if bare(a) != bare(b) || of_units(a) != of_units(b) {
        return Ok(false);
    }
    // What is kept of a resolution was checked against the files that were there then.
    if load_files(source, a)?.0.iter().any(|file| file.path.as_bytes() == b"MERGE_RR") {
        return Ok(false);
    }
    if a.index == b.index {
        return Ok(true);
    }
    let index = |state: &GitState| -> Result<Option<GitIndex>, GitError> {
        let Some(blob) = state.index else { return Ok(None) };
        Ok(Some(GitIndex::decode(&load_blob(source, blob, MAX_LIST)?)?))
    };
    let (Some(mut known), Some(now)) = (index(a)?, index(b)?) else { return Ok(false) };
    if known.entries.len() != now.entries.len() {
        return Ok(false);
    }
    for (known, now) in known.entries.iter_mut().zip(&now.entries) {
        // That a file is not clean is found by looking; that it is clean may be seen by nobody without its filter.
        if now.clean.is_none() {
            known.clean = None;
        }
    }
    Ok(known == now)
}

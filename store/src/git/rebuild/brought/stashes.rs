//! Stashes that a run made.
//!
//! **Invariant:** one that comes is a commit, and whole with what is here.

use std::collections::BTreeSet;

use baton_protocol::object::{GitOid, GitOmitReason, GitRef};

use crate::git::files::parse_log_line;
use crate::git::rebuild::Loaded;
use crate::git::rebuild::taking::targets;
use crate::git::refs::Refs;
use crate::git::view::View;
use crate::git::{GitError, Told, objects};

/// Most stashes that come.
const MAX_STASHES: usize = 1000;

/// Stashes that a run made, the newest first: those that neither it was given nor the checkout has.
pub(super) fn new_stashes(
    base: &Loaded,
    there: &Loaded,
    refs: &[GitRef],
    here: &Refs,
) -> Vec<GitOid> {
    let hash = there.state.hash;
    let logged = |loaded: &Loaded| -> Vec<GitOid> {
        let log = loaded.files.iter().find(|file| file.path.as_bytes() == b"logs/refs/stash");
        let lines = log.iter().flat_map(|log| log.bytes.split(|&byte| byte == b'\n'));
        lines.filter_map(|line| Some(parse_log_line(line, hash)?.new)).collect()
    };
    let mut known: BTreeSet<GitOid> = logged(base).into_iter().collect();
    known.extend(targets(here.refs.values()));
    if !refs.iter().any(|it| it.name.as_bytes() == b"refs/stash") {
        return Vec::new();
    }
    let new = logged(there).into_iter().rev();
    new.filter(|oid| !oid.is_null() && known.insert(*oid)).collect()
}

/// Those of stashes that are commits, and whole with what is here. No ref of the state vouches for them.
pub(super) fn whole_stashes(
    view: &View<'_>,
    mut stashes: Vec<GitOid>,
    here: &Refs,
    is_partial: bool,
    told: &mut Told,
) -> Result<Vec<GitOid>, GitError> {
    let count = stashes.len();
    stashes.truncate(MAX_STASHES);
    if count > MAX_STASHES {
        told.note(GitOmitReason::NotCarried, format!("{} of {count} stashes", count - MAX_STASHES));
    }
    let mut whole = objects::commits(view, &stashes.iter().copied().collect())?;
    // In a partial clone much is missing by intention.
    let had = targets(here.refs.values());
    if !is_partial && !whole.is_empty() && !objects::is_connected(view, &whole, &had)? {
        let mut each = BTreeSet::new();
        for oid in whole {
            if objects::is_connected(view, &BTreeSet::from([oid]), &had)? {
                each.insert(oid);
            }
        }
        whole = each;
    }
    let before = stashes.len();
    stashes.retain(|oid| whole.contains(oid));
    if stashes.len() < before {
        let what = format!("{} stashes, of which objects are missing", before - stashes.len());
        told.note(GitOmitReason::Missing, what);
    }
    Ok(stashes)
}

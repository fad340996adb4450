//! What a cut left out, and a state made whole with it.
//!
//! The rest is a state of its own, which nobody rebuilds: it has a pack of all that is behind a cut, and names the
//! commits at which history was cut. It can travel while everything else goes on; once it is there, the state that is
//! the latest by then gets the pack as its first one. Where the history of the repository itself ends, a rest has refs
//! to say so.
//!
//! **Invariant:** a pack of the rest is whole: all that is reachable from the parents of the commits at which history
//! was cut. So a state with it in front of its own packs needs no cut.

use std::collections::BTreeSet;
use std::path::Path;

use baton_protocol::id::{GitStateId, ObjectKind};
use baton_protocol::object::{
    GitFiles, GitHead, GitOid, GitOmissions, GitOmitReason, GitRef, GitRefName, GitRefs,
    GitSettings, GitState, GitTarget, GitUnit, MAX_GIT_PACKS,
};

use super::cut::{SHALLOW, commits_of, files_of, later, set_commits};
use super::{CaptureOptions, load_state, put_unless_empty};
use crate::chunk::store_bytes;
use crate::git::place::{Repository, read_below};
use crate::git::view::View;
use crate::git::{GitError, MAX_LIST, as_path, objects};
use crate::objects::{ObjectSink, ObjectSource};
use crate::snapshot::load_blob;

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// Longest list of commits at which the history of a repository ends.
const MAX_SHALLOW: u64 = 64 << 20;

/// Packs what the cuts of a state, and of those inside it, left out. Nothing where nothing is cut.
pub fn make_rest<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    state: GitStateId,
    sink: &S,
    options: &CaptureOptions,
) -> Result<Option<GitStateId>, GitError> {
    rest_of(worktree, state, 0, sink, options)
}

fn rest_of<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    id: GitStateId,
    depth: usize,
    sink: &S,
    options: &CaptureOptions,
) -> Result<Option<GitStateId>, GitError> {
    if depth > MAX_DEPTH {
        return Err(GitError::refused("the state", "its repositories nest too deeply"));
    }
    let state = load_state(sink, id)?;
    let mut units = Vec::new();
    for unit in &state.units {
        let inner = worktree.join(as_path(unit.path.as_bytes()));
        // One that has gone is not cut any more, either.
        if inner.join(".git").symlink_metadata().is_err() {
            continue;
        }
        if let Some(state) = rest_of(&inner, unit.state, depth + 1, sink, options)? {
            units.push(GitUnit { state, ..unit.clone() });
        }
    }
    let (mut files, mut refs) = (Vec::new(), Vec::new());
    let mut packs = Vec::new();
    if !later(&state, sink)?.is_empty() {
        let repo = Repository::open(worktree, options.within.as_deref())?;
        let own = own_cut(&repo)?;
        let ours: BTreeSet<GitOid> =
            commits_of(&files_of(&state, sink)?, state.hash).difference(&own).copied().collect();
        let view = View::new(&options.git, &options.scratch, &repo)?;
        let behind = objects::parents(&view, state.hash, &ours)?;
        set_commits(&mut files, &ours);
        refs = ends(&own);
        if !behind.is_empty() {
            packs.push(objects::pack_all(&view, state.hash, &behind, sink)?);
        }
    }
    if files.is_empty() && units.is_empty() {
        return Ok(None);
    }
    let none = |what| GitError::refused(what, "it is no name");
    let main = GitRefName::new(b"refs/heads/main").ok_or_else(|| none("a branch"))?;
    let put = |bytes: Vec<u8>| store_bytes(&bytes, sink);
    let hash = state.hash;
    let rest = GitState {
        hash,
        storage: state.storage,
        busy: false,
        head: GitHead::Symbolic(main),
        refs: put(GitRefs { hash, refs }.encode())?,
        index: None,
        settings: put(GitSettings(Vec::new()).encode())?,
        files: put_unless_empty(&files, || GitFiles(files.clone()).encode(), sink)?,
        packs,
        units,
        omitted: None,
    };
    put_state(&rest, sink).map(Some)
}

/// A state with its rest. Nothing where that is not the rest of this one: it was cut elsewhere, or is not cut.
pub fn deepen<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    state: GitStateId,
    rest: GitStateId,
    sink: &S,
) -> Result<Option<GitStateId>, GitError> {
    deepen_unit(worktree, state, Some(rest), 0, sink)
}

fn deepen_unit<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    id: GitStateId,
    rest: Option<GitStateId>,
    depth: usize,
    sink: &S,
) -> Result<Option<GitStateId>, GitError> {
    if depth > MAX_DEPTH {
        return Err(GitError::refused("the state", "its repositories nest too deeply"));
    }
    let mut state = load_state(sink, id)?;
    let rest = rest.map(|rest| load_state(sink, rest)).transpose()?;
    for unit in &mut state.units {
        let known = rest.iter().flat_map(|rest| &rest.units).find(|it| it.path == unit.path);
        let inner = worktree.join(as_path(unit.path.as_bytes()));
        let known = known.map(|known| known.state);
        match deepen_unit(&inner, unit.state, known, depth + 1, sink)? {
            Some(deeper) => unit.state = deeper,
            None => return Ok(None),
        }
    }
    if later(&state, sink)?.is_empty() {
        return put_state(&state, sink).map(Some);
    }
    let Some(rest) = rest.filter(|rest| rest.hash == state.hash) else { return Ok(None) };
    let ours = commits_of(&files_of(&rest, sink)?, rest.hash);
    let mut files = files_of(&state, sink)?;
    let cut = commits_of(&files, state.hash);
    let own = own_cut(&Repository::open(worktree, None)?)?;
    let known = GitRefs::decode(&load_blob(sink, rest.refs, MAX_LIST)?)?.refs;
    let is_all = cut.difference(&ours).all(|oid| own.contains(oid));
    if !ours.is_subset(&cut) || !is_all || known != ends(&own) {
        return Ok(None);
    }
    set_commits(&mut files, &own);
    state.files = put_unless_empty(&files, || GitFiles(files.clone()).encode(), sink)?;
    if state.packs.len() + rest.packs.len() > MAX_GIT_PACKS {
        return Ok(None);
    }
    state.packs.splice(0..0, rest.packs);
    // Refs that only the rest has come with the next capture.
    let omitted = match state.omitted {
        Some(blob) => GitOmissions::decode(&load_blob(sink, blob, MAX_LIST)?)?.0,
        None => Vec::new(),
    };
    let (mut omitted, later): (Vec<_>, Vec<_>) =
        omitted.into_iter().partition(|it| it.reason != GitOmitReason::Later);
    let refs = later.into_iter().filter(|it| it.what.starts_with("refs/"));
    omitted.extend(refs.map(|mut it| {
        it.reason = GitOmitReason::NotCarried;
        it
    }));
    omitted.sort();
    omitted.dedup();
    state.omitted = put_unless_empty(&omitted, || GitOmissions(omitted.clone()).encode(), sink)?;
    put_state(&state, sink).map(Some)
}

/// Commits at which history ends, as refs.
fn ends(own: &BTreeSet<GitOid>) -> Vec<GitRef> {
    let end = |oid: &GitOid| {
        let name = GitRefName::new(format!("refs/shallow/{oid}").as_bytes())?;
        Some(GitRef { name, target: GitTarget::Object(*oid) })
    };
    own.iter().filter_map(end).collect()
}

/// Where the history of a repository itself ends.
fn own_cut(repo: &Repository) -> Result<BTreeSet<GitOid>, GitError> {
    let path = repo.common_dir.join(as_path(SHALLOW));
    let bytes = read_below(&path, MAX_SHALLOW)?.unwrap_or_default();
    let lines = bytes.split(|&byte| byte == b'\n');
    Ok(lines.filter_map(|line| GitOid::from_hex(repo.hash, line)).collect())
}

fn put_state<S: ObjectSink + ?Sized>(state: &GitState, sink: &S) -> Result<GitStateId, GitError> {
    let bytes = state.encode();
    // The encoder writes what it is given; the decoder knows the limits.
    GitState::decode(&bytes)?;
    Ok(GitStateId::from_bytes(sink.put(ObjectKind::GitState, &bytes)?.hash))
}

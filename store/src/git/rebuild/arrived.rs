//! What a state names beside what came with it, and its files as they are here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::Path;

use baton_protocol::object::{
    GitFile, GitHead, GitIndex, GitMode, GitOid, GitOmitReason, GitRef, GitState, GitTarget,
};

use crate::fs::{self, Context};
use crate::git::index::{build_trees, remember};
use crate::git::view::View;
use crate::git::{GitError, Told, files, index, objects, shown};

/// Refuses refs to objects that did not come.
pub(super) fn check_targets(
    view: &View<'_>,
    state: &GitState,
    refs: &[GitRef],
) -> Result<(), GitError> {
    let mut named: BTreeMap<GitOid, String> = BTreeMap::new();
    for GitRef { name, target } in refs {
        if let GitTarget::Object(oid) = target {
            named.insert(*oid, name.to_string());
        }
    }
    if let GitHead::Detached(oid) = &state.head {
        named.insert(*oid, "HEAD".into());
    }
    let there = objects::present(view, state.hash, &named.keys().copied().collect())?;
    match named.iter().find(|(oid, _)| !there.contains(oid)) {
        Some((_, name)) => Err(GitError::refused(name.clone(), "its object is not in the state")),
        None => Ok(()),
    }
}

/// Drops lines of reflogs that name objects that did not come.
pub(super) fn check_logs(
    view: &View<'_>,
    state: &GitState,
    files: &mut [GitFile],
    told: &mut Told,
) -> Result<(), GitError> {
    let named = files.iter().flat_map(|file| files::logged(file, state.hash)).collect();
    let there = objects::present(view, state.hash, &named)?;
    for file in files {
        let before = file.bytes.len();
        files::drop_lines(file, state.hash, &there);
        if file.bytes.len() < before {
            told.note(GitOmitReason::Missing, format!("lines of {}", shown(file.path.as_bytes())));
        }
    }
    Ok(())
}

/// The file of an index, with what the files look like here.
pub(super) fn index_bytes(
    index: &GitIndex,
    worktree: &Path,
    git_dir: &Path,
    trusts_mode: bool,
    view: &View<'_>,
    told: &mut Told,
) -> Result<Vec<u8>, GitError> {
    let trees = build_trees(&index.entries, index.hash)?;
    let mut wanted = trees.oids();
    let entries = index.entries.iter().filter(|it| it.mode != GitMode::Submodule);
    wanted.extend(entries.clone().map(|entry| entry.oid));
    let there: HashSet<_> = objects::present(view, index.hash, &wanted)?.into_iter().collect();
    let missing: BTreeSet<_> =
        entries.map(|entry| entry.oid).filter(|oid| !there.contains(oid)).collect();
    if !missing.is_empty() {
        let what = format!("{} objects that the index names", missing.len());
        told.note(GitOmitReason::Missing, what);
    }
    let stats = remember(&index.entries, worktree, trusts_mode, tick(git_dir)?)?;
    index::write(index, &stats, &trees, &there)
}

/// What the file system says of the time.
pub(super) fn tick(git_dir: &Path) -> Result<(i64, i64), GitError> {
    use std::os::unix::fs::MetadataExt;
    let path = git_dir.join("tick");
    let file = fs::create_new(&path)?;
    let metadata = file.metadata().context("looking at", &path)?;
    fs::remove_file(&path)?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

//! Which objects the other side needs: all that refs, reflogs, the index and operations name.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::{
    GitFile, GitFiles, GitHead, GitMode, GitOid, GitOmitReason, GitPack, GitRefName, GitState,
    GitTarget,
};

use super::Parts;
use crate::git::files::{self, drop_lines, is_log, logged};
use crate::git::index::{Index, build_trees};
use crate::git::view::View;
use crate::git::{GitError, MAX_LIST, Told, objects, shown};
use crate::objects::{ObjectSink, ObjectSource};
use crate::snapshot::load_blob;

/// Lines of the reflog of `HEAD` that travel, the last ones.
pub(super) const MAX_HEAD_LOG: usize = 200;

/// Objects that are told one by one where they are missing.
const MAX_MISSING: usize = 20;

/// Whether packs of an earlier state serve for a later one. Where history was cut, what is reachable is not what it
/// will be when the cut is elsewhere.
pub(super) fn goes_on<S: ObjectSource + ?Sized>(
    base: &GitState,
    parts: &Parts,
    source: &S,
) -> Result<bool, GitError> {
    let before = match base.files {
        Some(blob) => GitFiles::decode(&load_blob(source, blob, MAX_LIST)?)?,
        None => GitFiles::default(),
    };
    let now = parts.files.iter().find(|file| file.path.as_bytes() == b"shallow");
    let same_cut = before.find(b"shallow") == now.map(|file| file.bytes.as_slice());
    Ok(base.hash == parts.repo.hash && same_cut)
}

/// Packs what the other side lacks, and takes out of the parts what the repository itself lacks.
pub(super) fn pack<S: ObjectSink + ObjectSource + ?Sized>(
    view: &View<'_>,
    parts: &mut Parts,
    before: Option<&GitState>,
    sink: &S,
) -> Result<Vec<GitPack>, GitError> {
    let hash = parts.repo.hash;
    let Parts { repo, refs, index, files, told } = parts;
    let mut wanted: BTreeMap<GitOid, String> = BTreeMap::new();
    for (name, target) in &refs.refs {
        if let GitTarget::Object(oid) = target {
            wanted.entry(*oid).or_insert_with(|| name.to_string());
        }
    }
    if let GitHead::Detached(oid) = &refs.head {
        wanted.insert(*oid, "HEAD".into());
    }
    for file in files.iter_mut() {
        trim_log(file, told);
        for oid in logged(file, hash) {
            wanted.entry(oid).or_insert_with(|| shown(file.path.as_bytes()));
        }
    }
    let mentioned: Vec<_> = files::mentions(files, hash).into_iter().collect();
    let mentioned: BTreeSet<_> =
        objects::find(view, hash, &mentioned)?.into_iter().flatten().collect();
    if let Some(index) = index {
        for (oid, path) in staged(view, &refs.head, &refs.refs, index, repo.is_partial)? {
            wanted.entry(oid).or_insert_with(|| format!("the entry {} of the index", shown(&path)));
        }
    }
    let mut tips = objects::present(view, hash, &wanted.keys().copied().collect())?;
    let missing: Vec<_> = wanted.iter().filter(|(oid, _)| !tips.contains(oid)).collect();
    for (_, name) in missing.iter().take(MAX_MISSING) {
        told.note(GitOmitReason::Missing, format!("an object of {name}"));
    }
    if missing.len() > MAX_MISSING {
        told.note(GitOmitReason::Missing, format!("{} objects in all", missing.len()));
    }
    let head = match &refs.head {
        GitHead::Detached(oid) => Some(*oid),
        GitHead::Symbolic(name) => object_of(name, &refs.refs),
    };
    // Without it the other side would have a branch that is not born yet.
    if head.is_some_and(|oid| !tips.contains(&oid)) {
        let path = repo.git_dir.join("HEAD");
        return Err(GitError::Damaged { path, why: "its commit is not there" });
    }
    refs.refs.retain(|_, target| match target {
        GitTarget::Object(oid) => tips.contains(oid),
        GitTarget::Symbolic(_) => true,
    });
    for file in files.iter_mut() {
        drop_lines(file, hash, &tips);
    }
    files.retain(|file| !(is_log(file) && file.bytes.is_empty()));
    tips.extend(mentioned);
    let before = before.map_or(&[][..], |state| &state.packs);
    if tips.is_empty() {
        return Ok(Vec::new());
    }
    let packed = objects::pack(view, hash, &tips, before, repo.is_partial, sink);
    let Err(GitError::Git { .. }) = &packed else { return packed };
    // Git lives with history that is not whole as long as only its memory of `HEAD` needs it.
    let forgotten =
        |oid: &GitOid| wanted.get(oid).is_some_and(|by| by == "logs/HEAD" || by == "ORIG_HEAD");
    let rest: BTreeSet<_> = tips.iter().copied().filter(|oid| !forgotten(oid)).collect();
    if rest.len() == tips.len() || rest.is_empty() {
        return packed;
    }
    let Ok(repacked) = objects::pack(view, hash, &rest, before, repo.is_partial, sink) else {
        return packed;
    };
    for file in files.iter_mut().filter(|file| file.path.as_bytes() == b"logs/HEAD") {
        drop_lines(file, hash, &rest);
    }
    files.retain(|file| !(is_log(file) && file.bytes.is_empty()));
    refs.refs.retain(|_, target| match target {
        GitTarget::Object(oid) => rest.contains(oid),
        GitTarget::Symbolic(_) => true,
    });
    told.note(GitOmitReason::Missing, "history that only logs/HEAD or ORIG_HEAD names");
    Ok(repacked)
}

/// What a ref points to, if that is an object.
fn object_of(name: &GitRefName, refs: &BTreeMap<GitRefName, GitTarget>) -> Option<GitOid> {
    match refs.get(name) {
        Some(GitTarget::Object(oid)) => Some(*oid),
        _ => None,
    }
}

/// Keeps the end of the reflog of `HEAD`. That of the stash is the list of stashes, and stays whole.
fn trim_log(file: &mut GitFile, told: &mut Told) {
    if file.path.as_bytes() == b"logs/HEAD" {
        let lines: Vec<&[u8]> = file.bytes.split_inclusive(|&byte| byte == b'\n').collect();
        let before = lines.len().saturating_sub(MAX_HEAD_LOG);
        if before > 0 {
            let what = format!("logs/HEAD before its last {MAX_HEAD_LOG} lines");
            told.note(GitOmitReason::NotCarried, what);
        }
        file.bytes = lines.split_at(before).1.concat();
    }
}

/// The objects that an index names and that are not in the tree of `HEAD`, each with a path. In a partial clone all of
/// them: one that comes later was reachable before, and not there.
fn staged(
    view: &View<'_>,
    head: &GitHead,
    refs: &BTreeMap<GitRefName, GitTarget>,
    index: &Index,
    is_partial: bool,
) -> Result<BTreeMap<GitOid, Vec<u8>>, GitError> {
    let hash = index.meaning.hash;
    let mut named = BTreeMap::new();
    for entry in index.meaning.entries.iter().filter(|it| it.mode != GitMode::Submodule) {
        named.entry(entry.oid).or_insert_with(|| entry.path.clone());
    }
    for undo in &index.meaning.undo {
        for (_, oid) in undo.stages.iter().flatten().filter(|(mode, _)| *mode != GitMode::Submodule)
        {
            named.entry(*oid).or_insert_with(|| undo.path.clone());
        }
    }
    let commit = match head {
        GitHead::Detached(oid) => Some(*oid),
        GitHead::Symbolic(name) => object_of(name, refs),
    };
    let Some(commit) = commit.filter(|_| !is_partial) else { return Ok(named) };
    let tree = objects::find(view, hash, &[format!("{commit}^{{tree}}").into_bytes()])?;
    let tree = tree.into_iter().next().flatten();
    let trees = build_trees(&index.meaning.entries, hash)?;
    if tree.is_some() && trees.root() == tree && index.meaning.undo.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known = objects::objects_of_tree(view, hash, commit)?;
    named.retain(|oid, _| !known.contains(oid));
    Ok(named)
}

//! Which objects the other side needs: all that refs, reflogs, the index and operations name.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::{
    GitFile, GitFiles, GitHash, GitHead, GitMode, GitOid, GitOmitReason, GitPack, GitRefName,
    GitSetting, GitState, GitTarget,
};

use super::Parts;
use super::cut::{self, Chosen, Cut, Later, Named, Wanted};
use crate::git::files::{self, drop_lines, is_log, logged};
use crate::git::index::{Index, build_trees};
use crate::git::place::Repository;
use crate::git::refs::{Refs, is_private};
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
    let hash = parts.repo.hash;
    // Git writes them in the order in which they came.
    let same_cut = cut::commits_of(&before.0, hash) == cut::commits_of(&parts.files, hash);
    Ok(base.hash == hash && same_cut)
}

/// Packs what the other side lacks, and takes out of the parts what the repository itself lacks. Where the other side
/// has nothing, and there is more than `most`, or where an earlier cut still holds, history is cut.
pub(super) fn pack<S: ObjectSink + ObjectSource + ?Sized>(
    view: &mut View<'_>,
    parts: &mut Parts,
    (before, cut): (Option<&GitState>, Option<&Cut>),
    most: u64,
    sink: &S,
) -> Result<Vec<GitPack>, GitError> {
    let hash = parts.repo.hash;
    let packs_before = before.map_or(&[][..], |state| &state.packs);
    let mut had = BTreeSet::new();
    for pack in packs_before {
        had.extend(objects::tips_of(pack, hash, sink)?);
    }
    let Parts { repo, refs, index, files, told, later } = parts;
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
    let before = packs_before;
    if !repo.is_partial && !tips.is_empty() {
        let sorted = Sorted::new(repo, refs, files, (&tips, &mentioned));
        let ends = cut::commits_of(files, hash);
        if let Some(cutting) = sorted.cutting(view, (&had, cut, &ends), hash, most)? {
            if let Some(cut) = &cutting.cut {
                cut::set_commits(files, cut);
            }
            if let Some(words) = cutting.words(&ends) {
                told.note(GitOmitReason::Later, words);
            }
            *later = sorted.left_out(tips.difference(&cutting.stays), told);
            tips.retain(|oid| cutting.stays.contains(oid));
        }
    }
    refs.refs.retain(|_, target| match target {
        GitTarget::Object(oid) => tips.contains(oid),
        GitTarget::Symbolic(_) => true,
    });
    leave_out_what_points_there(&mut refs.refs, later, told);
    for file in files.iter_mut() {
        drop_lines(file, hash, &tips);
    }
    files.retain(|file| !(is_log(file) && file.bytes.is_empty()));
    tips.extend(mentioned);
    if tips.is_empty() {
        return Ok(Vec::new());
    }
    let view = &*view;
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

/// Leaves out refs that point to ones which were left out.
fn leave_out_what_points_there(
    refs: &mut BTreeMap<GitRefName, GitTarget>,
    later: &mut BTreeMap<GitRefName, GitTarget>,
    told: &mut Told,
) {
    loop {
        let points = |target: &GitTarget| match target {
            GitTarget::Symbolic(target) => later.contains_key(target),
            GitTarget::Object(_) => false,
        };
        let found: Vec<_> = refs
            .iter()
            .filter(|(_, target)| points(target))
            .map(|(name, _)| name.clone())
            .collect();
        if found.is_empty() {
            return;
        }
        for name in found {
            if let Some(target) = refs.remove(&name) {
                told.note(GitOmitReason::Later, shown(name.as_bytes()));
                later.insert(name, target);
            }
        }
    }
}

/// What is wanted, by whether it may stay out.
struct Sorted {
    must: BTreeSet<GitOid>,
    /// What symbolic refs point to, and the branch that is compared with that of `HEAD`.
    near: BTreeSet<GitOid>,
    branches: BTreeSet<GitOid>,
    may: BTreeSet<GitOid>,
    /// The names of what may.
    names: BTreeMap<GitOid, BTreeSet<Named>>,
}

/// How history is cut.
struct Cutting {
    /// Where, if that is new.
    cut: Option<BTreeSet<GitOid>>,
    /// What is packed.
    stays: BTreeSet<GitOid>,
    /// How deep, if that is new.
    depth: Option<usize>,
    said: BTreeSet<String>,
}

impl Cutting {
    /// What is said of history; of a cut that holds, what was said of it. Nothing where only refs are left out.
    fn words(&self, ends: &BTreeSet<GitOid>) -> Option<String> {
        match (&self.cut, self.depth) {
            (Some(cut), Some(depth)) if !cut.is_subset(ends) => {
                Some(format!("{HISTORY}the last {depth} commits of each way"))
            }
            _ => self.said.iter().find(|it| it.starts_with(HISTORY)).cloned(),
        }
    }
}

/// What is said of history that follows.
const HISTORY: &str = "history beyond ";

impl Sorted {
    fn new(
        repo: &Repository,
        refs: &Refs,
        files: &[GitFile],
        (tips, mentioned): (&BTreeSet<GitOid>, &BTreeSet<GitOid>),
    ) -> Self {
        let hash = repo.hash;
        let (mut branches, mut may) = (BTreeSet::new(), BTreeSet::new());
        let mut needed = BTreeSet::new();
        let mut names: BTreeMap<GitOid, BTreeSet<Named>> = BTreeMap::new();
        let pointed_to = refs.refs.values().filter_map(|target| match target {
            GitTarget::Symbolic(name) => object_of(name, &refs.refs),
            GitTarget::Object(_) => None,
        });
        let upstream = upstream(repo, &refs.head);
        let upstream = upstream.and_then(|name| object_of(&name, &refs.refs));
        let mut near: BTreeSet<_> = pointed_to.chain(upstream).collect();
        for (name, target) in &refs.refs {
            let GitTarget::Object(oid) = target else { continue };
            let bytes = name.as_bytes();
            let is_head = matches!(&refs.head, GitHead::Symbolic(head) if head == name);
            if is_head || name.is_root() || is_private(bytes) || bytes == b"refs/stash" {
                needed.insert(*oid);
                continue;
            }
            names.entry(*oid).or_default().insert(Named::Ref(name.clone()));
            may.insert(*oid);
            if bytes.starts_with(b"refs/heads/") {
                branches.insert(*oid);
            }
        }
        let logged_in = |path: &'static [u8]| {
            let of = files.iter().filter(move |file| file.path.as_bytes() == path);
            of.flat_map(|file| logged(file, hash)).collect::<Vec<_>>()
        };
        for oid in logged_in(b"logs/HEAD") {
            names.entry(oid).or_default().insert(Named::Log);
            may.insert(oid);
        }
        needed.extend(logged_in(b"logs/refs/stash"));
        if let GitHead::Detached(oid) = refs.head {
            needed.insert(oid);
        }
        may.retain(|oid| tips.contains(oid) && !needed.contains(oid));
        near.retain(|oid| may.contains(oid));
        branches.retain(|oid| may.contains(oid));
        branches.extend(&near);
        let must = tips.iter().filter(|oid| !may.contains(oid)).chain(mentioned).copied().collect();
        Self { must, near, branches, may, names }
    }

    /// The refs by which objects that stay out are known; and tells of each of their names.
    fn left_out<'a>(
        &self,
        oids: impl Iterator<Item = &'a GitOid>,
        told: &mut Told,
    ) -> BTreeMap<GitRefName, GitTarget> {
        let mut refs = BTreeMap::new();
        for oid in oids {
            for name in self.names.get(oid).into_iter().flatten() {
                match name {
                    // There are few: of them all are told.
                    Named::Log => told.note(GitOmitReason::Later, name.with(oid)),
                    Named::Ref(name) => drop(refs.insert(name.clone(), GitTarget::Object(*oid))),
                }
            }
        }
        for (name, target) in &refs {
            if let GitTarget::Object(oid) = target {
                told.note(GitOmitReason::Later, Named::Ref(name.clone()).with(oid));
            }
        }
        refs
    }

    /// Whether and how history is cut. `ends` is where it ends now: by the cut that holds, or by the user's own.
    fn cutting(
        &self,
        view: &mut View<'_>,
        (had, cut, ends): (&BTreeSet<GitOid>, Option<&Cut>, &BTreeSet<GitOid>),
        hash: GitHash,
        most: u64,
    ) -> Result<Option<Cutting>, GitError> {
        let all: BTreeSet<_> = self.must.union(&self.may).copied().collect();
        let said = cut.map(|cut| cut.later.said.clone()).unwrap_or_default();
        if let Some(cut) = cut {
            // What was left out stays out as it was then, until the rest is there; what is new is not left out.
            let was_out = |oid: &GitOid| {
                let names = self.names.get(oid).filter(|_| !had.contains(oid));
                names.is_some_and(|names| names.iter().all(|name| cut.later.has(name, oid)))
            };
            let stay = |oid: &&GitOid| self.must.contains(oid) || !was_out(oid);
            let mut stays: BTreeSet<_> = all.iter().filter(stay).copied().collect();
            let new = |of: &BTreeSet<GitOid>| of.difference(had).next().is_some();
            let fits = |tips: &BTreeSet<GitOid>, view: &View<'_>| {
                Ok::<_, GitError>(!new(tips) || objects::disk_usage(view, hash, tips, had)? <= most)
            };
            if !fits(&stays, view)? {
                stays = self.must.iter().chain(all.intersection(had)).copied().collect();
            }
            if fits(&stays, view)? {
                return Ok(Some(Cutting { cut: None, stays, depth: None, said }));
            }
        } else if !had.is_empty() || !cut::is_too_much(view, hash, &all, most)? {
            return Ok(None);
        }
        let before = Cut { commits: ends.clone(), later: Later::default() };
        let Self { must, near, branches, may, .. } = self;
        let wanted = Wanted { hash, must, near, branches, may, had, before: &before, most };
        let Chosen { cut: chosen, kept, depth } = wanted.choose(view)?;
        if cut.is_none() && chosen.commits.is_subset(ends) && kept == self.may {
            // All of it is reached before the limit.
            before.show(view)?;
            return Ok(None);
        }
        let stays = must.union(&kept).copied().collect();
        Ok(Some(Cutting { cut: Some(chosen.commits), stays, depth: Some(depth), said }))
    }
}

/// The ref with which git compares the branch of `HEAD`, where remotes are kept in the usual way.
fn upstream(repo: &Repository, head: &GitHead) -> Option<GitRefName> {
    let GitHead::Symbolic(head) = head else { return None };
    let branch = head.as_bytes().strip_prefix(b"refs/heads/")?;
    let of = |key: &str| {
        let is_it = |it: &&GitSetting| {
            it.section == "branch" && it.key == key && it.subsection.as_deref() == Some(branch)
        };
        repo.config.iter().rev().find(is_it).map(|it| it.value.as_slice())
    };
    let (remote, merge) = (of("remote")?, of("merge")?);
    let name = match (remote, merge.strip_prefix(b"refs/heads/")) {
        (b".", _) => merge.to_vec(),
        (_, Some(name)) => [b"refs/remotes/", remote, b"/", name].concat(),
        (_, None) => return None,
    };
    GitRefName::new(&name)
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

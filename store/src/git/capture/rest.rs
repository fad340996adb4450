//! What a cut left out, and a state made whole with it.
//!
//! The rest is a state of its own, which nobody rebuilds: it has packs of all that is behind a cut and of all that was
//! left out by name, and says at which commits history was cut. It can travel while everything else goes on; once it is
//! there, a state with that cut gets its packs in front of its own, its refs come back as they were when it was made, and
//! history ends nowhere but where the repository itself ends: of that a rest has refs. Nothing is read for that but the
//! two states. Of its own packs it keeps those that the rest has not in it: a repository that was packed whole once and is
//! cut for somebody who has nothing of it gets the packs of before as its rest.
//!
//! **Invariant:** the packs of a rest are whole: all that is reachable from the parents of the commits at which history
//! was cut, and from what was left out by name. So a state with them in front of its own needs no cut.

use std::collections::BTreeSet;
use std::path::Path;

use baton_protocol::id::{GitStateId, ObjectKind};
use baton_protocol::object::{
    GitFiles, GitHead, GitOid, GitOmission, GitOmissions, GitOmitReason, GitPack, GitRef,
    GitRefName, GitRefs, GitSettings, GitState, GitTarget, GitUnit, MAX_GIT_PACKS,
};

use super::cut::{Later, SHALLOW, commits_of, files_of, later, set_commits};
use super::{CaptureOptions, load_state, put_unless_empty};
use crate::chunk::store_bytes;
use crate::git::place::{Repository, read_below};
use crate::git::view::View;
use crate::git::{GitError, MAX_LIST, as_path, objects, shown};
use crate::objects::{ObjectSink, ObjectSource};
use crate::snapshot::load_blob;

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// Longest list of commits at which the history of a repository ends.
const MAX_SHALLOW: u64 = 64 << 20;

/// What refs begin with that say where the history of a repository itself ends.
const ENDS: &str = "refs/shallow/";

/// What was packed before a rest is made. Its packs are whole.
#[derive(Clone, Copy, Debug)]
pub enum Packed {
    /// A rest.
    Rest(GitStateId),
    /// A state that is not cut.
    Whole(GitStateId),
}

impl Packed {
    const fn id(self) -> GitStateId {
        match self {
            Self::Rest(id) | Self::Whole(id) => id,
        }
    }

    /// The same of a repository inside.
    const fn inside(self, id: GitStateId) -> Self {
        match self {
            Self::Rest(_) => Self::Rest(id),
            Self::Whole(_) => Self::Whole(id),
        }
    }

    /// The commits at which the repository itself ended.
    fn ends<S: ObjectSource + ?Sized>(
        self,
        state: &GitState,
        source: &S,
    ) -> Result<BTreeSet<GitOid>, GitError> {
        match self {
            Self::Rest(_) => ends_of(state, source),
            Self::Whole(_) => Ok(commits_of(&files_of(state, source)?, state.hash)),
        }
    }
}

/// Packs what the cuts of a state, and of those inside it, left out; what was packed before is not packed again.
/// Nothing where nothing is cut, or where all that is has gone.
///
/// An error where the repository does not have that any more: no rest has a hole. And where it has more of it than
/// there is [room](CaptureOptions::room).
pub fn make_rest<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    state: GitStateId,
    before: Option<Packed>,
    sink: &S,
    options: &CaptureOptions,
) -> Result<Option<GitStateId>, GitError> {
    rest_of(worktree, (state, before), 0, sink, options)
}

fn rest_of<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    (id, before): (GitStateId, Option<Packed>),
    depth: usize,
    sink: &S,
    options: &CaptureOptions,
) -> Result<Option<GitStateId>, GitError> {
    if depth > MAX_DEPTH {
        return Err(GitError::refused("the state", "its repositories nest too deeply"));
    }
    let state = load_state(sink, id)?;
    let before = before.map(|packed| Ok::<_, GitError>((packed, load_state(sink, packed.id())?)));
    let before = before.transpose()?;
    let mut units = Vec::new();
    for unit in &state.units {
        let inner = worktree.join(as_path(unit.path.as_bytes()));
        // One that has gone stays cut; the next snapshot has it no more.
        if inner.join(".git").symlink_metadata().is_err() {
            continue;
        }
        let known = before.as_ref().and_then(|(packed, state)| {
            let known = state.units.iter().find(|it| it.path == unit.path)?;
            Some(packed.inside(known.state))
        });
        let states = (unit.state, known);
        if let Some(state) = rest_of(&inner, states, depth + 1, sink, options)? {
            units.push(GitUnit { state, ..unit.clone() });
        }
    }
    let later = later(&state, sink)?;
    if later.is_empty() && units.is_empty() {
        return Ok(None);
    }
    let own = if later.is_empty() {
        Own::default()
    } else {
        Own::read(worktree, (&state, &later, before.as_ref()), sink, options)?
    };
    let none = |what| GitError::refused(what, "it is no name");
    let main = GitRefName::new(b"refs/heads/main").ok_or_else(|| none("a branch"))?;
    let put = |bytes: Vec<u8>| store_bytes(&bytes, sink);
    let hash = state.hash;
    let mut files = Vec::new();
    set_commits(&mut files, &own.cut);
    let missing =
        |oid: &GitOid| GitOmission { what: oid.to_string(), reason: GitOmitReason::Missing };
    let omitted: Vec<_> = own.missing.iter().map(missing).collect();
    let rest = GitState {
        hash,
        storage: state.storage,
        busy: false,
        head: GitHead::Symbolic(main),
        refs: put(GitRefs { hash, refs: ends(&own.ends) }.encode())?,
        index: None,
        settings: put(GitSettings(Vec::new()).encode())?,
        files: put_unless_empty(&files, || GitFiles(files.clone()).encode(), sink)?,
        packs: own.packs,
        units,
        omitted: put_unless_empty(&omitted, || GitOmissions(omitted.clone()).encode(), sink)?,
        later: None,
    };
    put_state(&rest, sink).map(Some)
}

/// What a rest has of one repository.
#[derive(Default)]
struct Own {
    cut: BTreeSet<GitOid>,
    ends: BTreeSet<GitOid>,
    /// What was left out by name, and has gone.
    missing: BTreeSet<GitOid>,
    packs: Vec<GitPack>,
}

impl Own {
    fn read<S: ObjectSink + ObjectSource + ?Sized>(
        worktree: &Path,
        (state, later, before): (&GitState, &Later, Option<&(Packed, GitState)>),
        sink: &S,
        options: &CaptureOptions,
    ) -> Result<Self, GitError> {
        let hash = state.hash;
        let repo = Repository::open(worktree, options.within.as_deref())?;
        let path = repo.common_dir.join(as_path(SHALLOW));
        let bytes = read_below(&path, MAX_SHALLOW)?.unwrap_or_default();
        let lines = bytes.split(|&byte| byte == b'\n');
        let ends: BTreeSet<_> = lines.filter_map(|line| GitOid::from_hex(hash, line)).collect();
        let cut: BTreeSet<_> =
            commits_of(&files_of(state, sink)?, hash).difference(&ends).copied().collect();
        let view = View::new(&options.git, &options.scratch, &repo)?;
        if repo.hash != hash || objects::present(&view, hash, &cut)?.len() < cut.len() {
            let why = "commits at which it was cut have gone; the next snapshot is cut anew";
            return Err(GitError::refused("older history", why));
        }
        let named = later.objects(hash);
        let there = objects::present(&view, hash, &named)?;
        let missing = named.difference(&there).copied().collect();
        let mut tips = objects::parents(&view, hash, &cut)?;
        tips.extend(there);
        let packed = match before {
            // They are whole whatever is cut now, as long as the repository itself ends where it ended.
            Some((packed, before)) if before.hash == hash && packed.ends(before, sink)? == ends => {
                &before.packs[..]
            }
            _ => &[],
        };
        let mut had = BTreeSet::new();
        for pack in packed {
            had.extend(objects::tips_of(pack, hash, sink)?);
        }
        let had = objects::present(&view, hash, &had)?;
        let bytes = objects::disk_usage(&view, hash, &tips, &had)?;
        if bytes > options.room {
            return Err(GitError::NoRoom { bytes, room: options.room });
        }
        let packs = objects::pack(&view, hash, &tips, packed, false, sink)?;
        Ok(Self { cut, ends, missing, packs })
    }
}

/// A state with its rest, and so those inside it. One of which that is not the rest, because it was cut elsewhere or has
/// left out something else, or that is not cut, stays as it is.
pub fn deepen<S: ObjectSink + ObjectSource + ?Sized>(
    state: GitStateId,
    rest: GitStateId,
    sink: &S,
) -> Result<GitStateId, GitError> {
    deepen_unit(state, rest, 0, sink)
}

fn deepen_unit<S: ObjectSink + ObjectSource + ?Sized>(
    id: GitStateId,
    rest: GitStateId,
    depth: usize,
    sink: &S,
) -> Result<GitStateId, GitError> {
    if depth > MAX_DEPTH {
        return Err(GitError::refused("the state", "its repositories nest too deeply"));
    }
    let mut state = load_state(sink, id)?;
    let rest = load_state(sink, rest)?;
    for unit in &mut state.units {
        if let Some(known) = rest.units.iter().find(|it| it.path == unit.path) {
            unit.state = deepen_unit(unit.state, known.state, depth + 1, sink)?;
        }
    }
    deepen_own(&mut state, &rest, sink)?;
    put_state(&state, sink)
}

fn deepen_own<S: ObjectSink + ObjectSource + ?Sized>(
    state: &mut GitState,
    rest: &GitState,
    sink: &S,
) -> Result<(), GitError> {
    let hash = state.hash;
    let later = later(state, sink)?;
    let too_many = state.packs.len() + rest.packs.len() > MAX_GIT_PACKS;
    if later.is_empty() || rest.hash != hash || too_many {
        return Ok(());
    }
    let mut files = files_of(state, sink)?;
    let (now, cut) = (commits_of(&files, hash), commits_of(&files_of(rest, sink)?, hash));
    let ends = ends_of(rest, sink)?;
    if !cut.is_subset(&now) || !now.difference(&cut).all(|oid| ends.contains(oid)) {
        return Ok(());
    }
    let mut has = BTreeSet::new();
    for pack in &rest.packs {
        has.extend(objects::tips_of(pack, hash, sink)?);
    }
    let gone: BTreeSet<_> = match rest.omitted {
        Some(blob) => {
            let omitted = GitOmissions::decode(&load_blob(sink, blob, MAX_LIST)?)?.0;
            omitted.iter().filter_map(|it| GitOid::from_hex(hash, it.what.as_bytes())).collect()
        }
        None => BTreeSet::new(),
    };
    let mut refs = GitRefs::decode(&load_blob(sink, state.refs, MAX_LIST)?)?;
    let mut names: BTreeSet<_> = refs.refs.iter().map(|it| it.name.clone()).collect();
    let mut omitted = match state.omitted {
        Some(blob) => GitOmissions::decode(&load_blob(sink, blob, MAX_LIST)?)?.0,
        None => Vec::new(),
    };
    omitted.retain(|it| it.reason != GitOmitReason::Later);
    for (name, target) in &later.refs {
        match target {
            GitTarget::Object(oid) if gone.contains(oid) => {
                let what = format!("an object of {}", shown(name.as_bytes()));
                omitted.push(GitOmission { what, reason: GitOmitReason::Missing });
                continue;
            }
            // Left out since: the rest of this one has to be made anew.
            GitTarget::Object(oid) if !has.contains(oid) => return Ok(()),
            GitTarget::Object(_) | GitTarget::Symbolic(_) => {}
        }
        if names.insert(name.clone()) {
            refs.refs.push(GitRef { name: name.clone(), target: target.clone() });
        }
    }
    // What points to one that has gone has nothing to point to.
    let is_there = |it: &GitRef| match &it.target {
        GitTarget::Symbolic(target) => !later.refs.contains_key(target) || names.contains(target),
        GitTarget::Object(_) => true,
    };
    refs.refs.retain(is_there);
    if !later.logged(hash).is_empty() {
        omitted.push(GitOmission {
            what: "lines of logs/HEAD".to_owned(),
            reason: GitOmitReason::NotCarried,
        });
    }
    refs.refs.sort_by(|a, b| a.name.cmp(&b.name));
    omitted.sort();
    omitted.dedup();
    set_commits(&mut files, &ends);
    state.refs = store_bytes(&refs.encode(), sink)?;
    state.files = put_unless_empty(&files, || GitFiles(files.clone()).encode(), sink)?;
    state.omitted = put_unless_empty(&omitted, || GitOmissions(omitted.clone()).encode(), sink)?;
    state.later = None;
    let mut packs = rest.packs.clone();
    for pack in &state.packs {
        // All of it is reachable from there.
        let tips = objects::tips_of(pack, hash, sink)?;
        if tips.is_empty() || !tips.iter().all(|tip| has.contains(tip)) {
            packs.push(*pack);
        }
    }
    state.packs = packs;
    Ok(())
}

/// Commits at which history ends, as refs.
fn ends(own: &BTreeSet<GitOid>) -> Vec<GitRef> {
    let end = |oid: &GitOid| {
        let name = GitRefName::new(format!("{ENDS}{oid}").as_bytes())?;
        Some(GitRef { name, target: GitTarget::Object(*oid) })
    };
    own.iter().filter_map(end).collect()
}

fn ends_of<S: ObjectSource + ?Sized>(
    rest: &GitState,
    source: &S,
) -> Result<BTreeSet<GitOid>, GitError> {
    let refs = GitRefs::decode(&load_blob(source, rest.refs, MAX_LIST)?)?.refs;
    let end = |it: GitRef| match it.target {
        GitTarget::Object(oid) => Some(oid),
        GitTarget::Symbolic(_) => None,
    };
    Ok(refs.into_iter().filter_map(end).collect())
}

fn put_state<S: ObjectSink + ?Sized>(state: &GitState, sink: &S) -> Result<GitStateId, GitError> {
    let bytes = state.encode();
    // The encoder writes what it is given; the decoder knows the limits.
    GitState::decode(&bytes)?;
    Ok(GitStateId::from_bytes(sink.put(ObjectKind::GitState, &bytes)?.hash))
}

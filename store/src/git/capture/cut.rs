//! History that is too long for a first time: which commits are seen as if they had no parents.
//!
//! Not here: packing what is left, and what follows later.
//!
//! What a repository stands on travels whole in any case: the commit of `HEAD`, the index, stashes, what git is in the
//! middle of. From there history goes back to a depth, the same on every way: where one way were cut near and another
//! one far, a merge near the top could lose all that is behind it. The depth is as large as bytes allow. Branches, tags
//! and what remotes have come along where that costs no more, or little; the others are named.
//!
//! A cut holds until the rest is there, so that what is packed after it goes on from what was packed before.
//!
//! **Invariant:** what has less than the limit is never cut.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{
    GitFile, GitFiles, GitHash, GitOid, GitOmission, GitOmissions, GitOmitReason, GitRefName,
    GitRefs, GitState, GitTarget,
};
use baton_protocol::path::RelPath;

use super::{Parts, any_state};
use crate::git::view::View;
use crate::git::{GitError, MAX_LIST, objects, shown};
use crate::objects::ObjectSource;
use crate::snapshot::load_blob;

/// The file in which git keeps it.
pub(super) const SHALLOW: &[u8] = b"shallow";

/// Most commits that are looked at: each takes some 100 bytes.
const MAX_COMMITS: usize = 20_000_000;

/// Times more that is stored than may travel, above which what is reachable of it is not measured exactly.
const MUCH: u64 = 4;

/// Measures of how deep is deep enough, after the first that is too deep.
const MEASURES: u32 = 4;

/// The commits at which history ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cut {
    /// All of them, the user's own, too.
    pub(super) commits: BTreeSet<GitOid>,
    /// What was said to follow.
    pub(super) later: Later,
}

/// What follows of a state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Later {
    /// What is said of history, and of each thing that was left out by name.
    pub(super) said: BTreeSet<String>,
    /// Refs that were left out. Only that very pair of name and object stays out.
    pub(super) refs: BTreeMap<GitRefName, GitTarget>,
}

impl Later {
    /// Whether nothing follows.
    pub(super) fn is_empty(&self) -> bool {
        self.said.is_empty() && self.refs.is_empty()
    }

    /// Whether an object was left out under this name of it.
    pub(super) fn has(&self, name: &Named, oid: &GitOid) -> bool {
        match name {
            Named::Log => self.said.contains(&name.with(oid)),
            Named::Ref(name) => self.refs.get(name) == Some(&GitTarget::Object(*oid)),
        }
    }

    /// What the memory of `HEAD` named, and was left out.
    pub(super) fn logged(&self, hash: GitHash) -> BTreeSet<GitOid> {
        let oid = |said: &String| {
            let oid = said.strip_prefix(LOG)?.strip_prefix(' ')?;
            GitOid::from_hex(hash, oid.as_bytes())
        };
        self.said.iter().filter_map(oid).collect()
    }

    /// The objects that were left out by name.
    pub(super) fn objects(&self, hash: GitHash) -> BTreeSet<GitOid> {
        let of_ref = |target: &GitTarget| match target {
            GitTarget::Object(oid) => Some(*oid),
            GitTarget::Symbolic(_) => None,
        };
        let mut oids = self.logged(hash);
        oids.extend(self.refs.values().filter_map(of_ref));
        oids
    }
}

/// A name by which an object is known that may stay out.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Named {
    /// The memory of `HEAD`.
    Log,
    /// A ref.
    Ref(GitRefName),
}

const LOG: &str = "logs/HEAD";

impl Named {
    /// What is said of an object that was left out by this name of it.
    pub(super) fn with(&self, oid: &GitOid) -> String {
        match self {
            Self::Log => format!("{LOG} {oid}"),
            Self::Ref(name) => format!("{} {oid}", shown(name.as_bytes())),
        }
    }
}

/// What a cut leaves of what was wanted.
pub(super) struct Chosen {
    pub(super) cut: Cut,
    /// Of the objects that may stay out, those that do not.
    pub(super) kept: BTreeSet<GitOid>,
    /// Commits on the longest way that is left.
    pub(super) depth: usize,
}

impl Cut {
    /// The cut of an earlier state, if the repository is not cut further by now and still has what was cut: otherwise
    /// its rest can never come.
    pub(super) fn of<S: ObjectSource + ?Sized>(
        base: &GitState,
        parts: &Parts,
        view: &View<'_>,
        source: &S,
    ) -> Result<Option<Self>, GitError> {
        let later = later(base, source)?;
        // Of a repository that gets its objects from elsewhere nothing is cut.
        if later.is_empty() || base.hash != parts.repo.hash || parts.repo.is_partial {
            return Ok(None);
        }
        let commits = commits_of(&files_of(base, source)?, base.hash);
        let own = commits_of(&parts.files, base.hash);
        let cut: BTreeSet<_> = commits.difference(&own).copied().collect();
        let holds =
            own.is_subset(&commits) && objects::present(view, base.hash, &cut)?.len() == cut.len();
        Ok(holds.then_some(Self { commits, later }))
    }

    /// Shows git nothing behind it, and writes it down in the place of the user's own.
    pub(super) fn hold(&self, view: &mut View<'_>, parts: &mut Parts) -> Result<(), GitError> {
        self.show(view)?;
        set_commits(&mut parts.files, &self.commits);
        Ok(())
    }

    /// Shows git nothing behind it.
    pub(super) fn show(&self, view: &mut View<'_>) -> Result<(), GitError> {
        view.cut(&lines(&self.commits))
    }
}

/// What of a state is still to follow.
pub(super) fn later<S: ObjectSource + ?Sized>(
    state: &GitState,
    source: &S,
) -> Result<Later, GitError> {
    let omitted = match state.omitted {
        Some(blob) => GitOmissions::decode(&load_blob(source, blob, MAX_LIST)?)?.0,
        None => Vec::new(),
    };
    let refs = match state.later {
        Some(blob) => GitRefs::decode(&load_blob(source, blob, MAX_LIST)?)?.refs,
        None => Vec::new(),
    };
    Ok(Later {
        said: omitted.into_iter().filter(is_later).map(|it| it.what).collect(),
        refs: refs.into_iter().map(|it| (it.name, it.target)).collect(),
    })
}

fn is_later(omission: &GitOmission) -> bool {
    omission.reason == GitOmitReason::Later
}

/// Whether history of a state, or of one inside it, is still to follow.
pub fn is_cut<S: ObjectSource + ?Sized>(source: &S, id: GitStateId) -> Result<bool, GitError> {
    any_state(source, id, |state| Ok(!later(state, source)?.is_empty()))
}

/// Whether a state, or one inside it, has more bytes of packs than these.
pub fn is_longer<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
    most: u64,
) -> Result<bool, GitError> {
    let bytes = |state: &GitState| {
        state.packs.iter().map(|pack| pack.blob.size).fold(0, u64::saturating_add)
    };
    any_state(source, id, |state| Ok(bytes(state) > most))
}

/// The files of a state.
pub(super) fn files_of<S: ObjectSource + ?Sized>(
    state: &GitState,
    source: &S,
) -> Result<Vec<GitFile>, GitError> {
    match state.files {
        Some(blob) => Ok(GitFiles::decode(&load_blob(source, blob, MAX_LIST)?)?.0),
        None => Ok(Vec::new()),
    }
}

/// The commits at which history ends, by what these files say.
pub(super) fn commits_of(files: &[GitFile], hash: GitHash) -> BTreeSet<GitOid> {
    let shallow = files.iter().find(|file| file.path.as_bytes() == SHALLOW);
    let bytes = shallow.map(|file| file.bytes.as_slice()).unwrap_or_default();
    bytes.split(|&byte| byte == b'\n').filter_map(|line| GitOid::from_hex(hash, line)).collect()
}

fn lines(commits: &BTreeSet<GitOid>) -> Vec<u8> {
    commits.iter().flat_map(|oid| format!("{oid}\n").into_bytes()).collect()
}

/// Writes down where history ends; no file, where that is nowhere.
pub(super) fn set_commits(files: &mut Vec<GitFile>, commits: &BTreeSet<GitOid>) {
    let bytes = lines(commits);
    files.retain(|file| file.path.as_bytes() != SHALLOW);
    if !bytes.is_empty()
        && let Ok(path) = RelPath::new(SHALLOW)
    {
        files.push(GitFile { path, bytes });
        files.sort_by(|a, b| a.path.cmp(&b.path));
    }
}

/// Whether more would travel than may. `tips` are all that is wanted, of which the other side has nothing.
pub(super) fn is_too_much(
    view: &View<'_>,
    hash: GitHash,
    tips: &BTreeSet<GitOid>,
    most: u64,
) -> Result<bool, GitError> {
    if most == u64::MAX {
        return Ok(false);
    }
    match objects::stored(view)? {
        Some(stored) if stored <= most => Ok(false),
        Some(stored) if stored > most.saturating_mul(MUCH) => Ok(true),
        // Much of it may be garbage, or stand elsewhere.
        _ => Ok(objects::disk_usage(view, hash, tips, &BTreeSet::new())? > most),
    }
}

/// What is wanted of a repository.
pub(super) struct Wanted<'a> {
    pub(super) hash: GitHash,
    /// Must be there.
    pub(super) must: &'a BTreeSet<GitOid>,
    /// Those without which something that must be there points to nothing, or has nothing to be compared with.
    pub(super) near: &'a BTreeSet<GitOid>,
    /// Local branches, and those.
    pub(super) branches: &'a BTreeSet<GitOid>,
    /// All that may stay out; the branches, too.
    pub(super) may: &'a BTreeSet<GitOid>,
    /// What the other side has with all that is before it.
    pub(super) had: &'a BTreeSet<GitOid>,
    /// The cut that holds already, or the user's own.
    pub(super) before: &'a Cut,
    pub(super) most: u64,
}

impl Wanted<'_> {
    /// Cuts history so that about `most` bytes are left, or what must be there.
    pub(super) fn choose(&self, view: &mut View<'_>) -> Result<Chosen, GitError> {
        let all: BTreeSet<_> = self.must.union(self.may).copied().collect();
        let peeled = peel(view, self.hash, &all)?;
        let commits = |of: &BTreeSet<GitOid>| -> BTreeSet<GitOid> {
            of.iter().filter_map(|oid| peeled.get(oid)).copied().collect()
        };
        let history = History::read(view, self.hash, &commits(&all), self.had)?;
        // Room for what may come along.
        let budget = self.most / 4 * 3;
        let (sources, mut tips) = (commits(self.must), self.must.clone());
        let depth = self.deepest(view, &history, (&sources, &tips), budget)?;
        let mut levels = history.levels(&sources);
        for more in [self.may, self.branches, self.near] {
            let more_sources: BTreeSet<_> = sources.union(&commits(more)).copied().collect();
            let more_tips: BTreeSet<_> = tips.union(more).copied().collect();
            let more_levels = history.levels(&more_sources);
            let cut = self.cut(&history, &more_levels, depth);
            view.cut(&lines(&cut))?;
            if objects::disk_usage(view, self.hash, &more_tips, self.had)? <= self.most {
                (tips, levels) = (more_tips, more_levels);
                break;
            }
        }
        // What is on the way is there.
        let is_there = |oid: &GitOid| history.at(oid).is_none_or(|at| levels.is_above(at, depth));
        let on_way = |oid: &&GitOid| peeled.get(oid).is_some_and(is_there);
        let kept = self.may.iter().filter(|oid| tips.contains(oid) || on_way(oid));
        let kept = kept.copied().collect();
        let commits = self.cut(&history, &levels, depth);
        view.cut(&lines(&commits))?;
        let cut = Cut { commits, later: Later::default() };
        Ok(Chosen { cut, kept, depth })
    }

    /// How deep history may be so that it has at most `budget` bytes; 1 where even the least has more.
    fn deepest(
        &self,
        view: &mut View<'_>,
        history: &History,
        (sources, tips): (&BTreeSet<GitOid>, &BTreeSet<GitOid>),
        budget: u64,
    ) -> Result<usize, GitError> {
        let levels = history.levels(sources);
        let mut measure = |depth: usize| {
            view.cut(&lines(&self.cut(history, &levels, depth)))?;
            objects::disk_usage(view, self.hash, tips, self.had)
        };
        let end = levels.depth();
        let (mut fits, mut bytes) = (1, 0);
        let mut too_deep = None;
        while too_deep.is_none() && fits < end {
            let next = (fits * 2).min(end);
            let measured = measure(next)?;
            if measured > budget {
                too_deep = Some(next);
            } else {
                (fits, bytes) = (next, measured);
            }
        }
        let Some(mut too_deep) = too_deep else { return Ok(fits) };
        for _ in 0..MEASURES {
            if too_deep - fits <= 1 || bytes >= budget / 2 {
                break;
            }
            let middle = usize::midpoint(fits, too_deep);
            let measured = measure(middle)?;
            if measured > budget {
                too_deep = middle;
            } else {
                (fits, bytes) = (middle, measured);
            }
        }
        Ok(fits)
    }

    /// Where history ends at this depth: behind those of its last level that have more.
    fn cut(&self, history: &History, levels: &Levels, depth: usize) -> BTreeSet<GitOid> {
        let mut cut: BTreeSet<_> = history.last_of(levels, depth).collect();
        // Where one ended before is no news, also where that is not reached: so it is seen that nothing has changed.
        cut.extend(&self.before.commits);
        cut
    }
}

/// The commit that each of these is, or stands for.
fn peel(
    view: &View<'_>,
    hash: GitHash,
    oids: &BTreeSet<GitOid>,
) -> Result<HashMap<GitOid, GitOid>, GitError> {
    let names: Vec<_> = oids.iter().map(|oid| format!("{oid}^{{commit}}").into_bytes()).collect();
    let found = objects::find(view, hash, &names)?;
    Ok(oids.iter().zip(found).filter_map(|(&oid, commit)| Some((oid, commit?))).collect())
}

/// Commits and their parents.
#[derive(Debug, Default)]
struct History {
    numbers: HashMap<GitOid, u32>,
    names: Vec<GitOid>,
    /// Where the parents of each begin among all.
    begins: Vec<usize>,
    parents: Vec<GitOid>,
}

impl History {
    fn read(
        view: &View<'_>,
        hash: GitHash,
        tips: &BTreeSet<GitOid>,
        had: &BTreeSet<GitOid>,
    ) -> Result<Self, GitError> {
        let mut this = Self::default();
        objects::for_each_commit(view, hash, (tips, had), |line| {
            let [commit, parents @ ..] = line else { return Ok(()) };
            let number = u32::try_from(this.names.len()).ok();
            let Some(number) = number.filter(|_| this.names.len() < MAX_COMMITS) else {
                return Err(GitError::refused("the repository", "it has too many commits"));
            };
            this.numbers.insert(*commit, number);
            this.names.push(*commit);
            this.begins.push(this.parents.len());
            this.parents.extend(parents);
            Ok(())
        })?;
        Ok(this)
    }

    fn at(&self, oid: &GitOid) -> Option<usize> {
        self.numbers.get(oid).map(|&number| number as usize)
    }

    fn parents_of(&self, at: usize) -> &[GitOid] {
        let begin = self.begins.get(at).copied().unwrap_or_default();
        let end = self.begins.get(at + 1).copied().unwrap_or(self.parents.len());
        self.parents.get(begin..end).unwrap_or_default()
    }

    /// How far each commit is from the nearest of these.
    fn levels(&self, sources: &BTreeSet<GitOid>) -> Levels {
        let mut levels = Levels(vec![u32::MAX; self.names.len()]);
        let mut row: Vec<usize> = sources.iter().filter_map(|oid| self.at(oid)).collect();
        let mut level = 0;
        while !row.is_empty() {
            let mut next = Vec::new();
            for at in row {
                let Some(known) = levels.0.get_mut(at).filter(|known| **known == u32::MAX) else {
                    continue;
                };
                *known = level;
                next.extend(self.parents_of(at).iter().filter_map(|oid| self.at(oid)));
            }
            (row, level) = (next, level + 1);
        }
        levels
    }

    /// Commits of the last level of this depth with a parent that is deeper.
    fn last_of<'a>(
        &'a self,
        levels: &'a Levels,
        depth: usize,
    ) -> impl Iterator<Item = GitOid> + 'a {
        let last =
            levels.0.iter().enumerate().filter(move |(_, level)| **level as usize + 1 == depth);
        let cut = last.filter(move |(at, _)| {
            let mut parents = self.parents_of(*at).iter().filter_map(|oid| self.at(oid));
            parents.any(|parent| !levels.is_above(parent, depth))
        });
        cut.filter_map(|(at, _)| self.names.get(at).copied())
    }
}

/// How far commits are from where one begins.
#[derive(Debug)]
struct Levels(Vec<u32>);

impl Levels {
    /// Levels there are.
    fn depth(&self) -> usize {
        let reached = self.0.iter().filter(|level| **level != u32::MAX);
        reached.max().map_or(1, |&level| level as usize + 1)
    }

    /// Whether a commit is in one of the first `depth` levels.
    fn is_above(&self, at: usize, depth: usize) -> bool {
        self.0.get(at).is_some_and(|&level| (level as usize) < depth)
    }
}

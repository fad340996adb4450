//! A repository captured: everything read while it held still, its objects packed, one object that names all.
//!
//! **Invariant:** what a state names is in the sink before the state is.
//!
//! **Invariant:** capturing changes nothing: no file of the repository is written, and git takes no lock of it.

mod cut;
#[cfg(test)]
mod damaged;
mod needed;
mod units;
mod rest;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use baton_protocol::id::{GitStateId, ObjectId, ObjectKind};
use baton_protocol::object::{
    Blob, GitFile, GitFiles, GitHead, GitOmission, GitOmissions, GitOmitReason, GitRef, GitRefName,
    GitRefs, GitSetting, GitSettings, GitState, GitTarget, MAX_GIT_UNITS, RefStorage,
};
use baton_protocol::path::RelPath;

use super::index::{Index, mark_clean};
use super::place::{Repository, read_file, read_user_config};
use super::program::GitProgram;
use super::refs::Refs;
use super::stamp::{LOOKS, PAUSE, Stamp};
use super::view::View;
use super::{GitError, Told, as_path, files, index, refs, settings};
use crate::chunk::store_bytes;
use crate::error::StoreError;
use crate::ignore::GitUser;
use crate::objects::{ObjectSink, ObjectSource};
use cut::Cut;
use needed::{MAX_HEAD_LOG, goes_on, pack};
use units::InnerUnits;

pub use cut::{is_cut, is_longer};
pub use rest::{Packed, deepen, make_rest};

/// How a repository is captured.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Git.
    pub git: GitProgram,
    /// A folder for what git needs for a moment.
    pub scratch: PathBuf,
    /// The folder that nothing of the repository may reach out of: where someone made it who may not read what
    /// this process may. Whoever names one has stopped who writes there, for git reads the objects by path. Nothing
    /// for a user's own, which may borrow objects and be a linked worktree.
    pub within: Option<PathBuf>,
    /// What the other side has already: one that this home captured itself, or made from one that it checked by a
    /// rebuild, for what it says of its packs is believed.
    pub base: Option<GitStateId>,
    /// Where the user's name stands if the repository does not say it.
    pub user: GitUser,
    /// Repositories inside the worktree that are no submodules, relative to it.
    pub nested: Vec<RelPath>,
    /// What the clock says, to tell an abandoned lock.
    pub now: SystemTime,
    /// Bytes of objects, as they are on the disk, above which the history of a repository is cut of which the other
    /// side has nothing: what is left out follows as a [rest](make_rest). With `u64::MAX` nothing is ever left out.
    pub most_history: u64,
    /// Most bytes that a rest may have.
    pub room: u64,
}

/// A captured repository.
#[derive(Clone, Debug)]
pub struct Captured {
    /// The state, in the sink.
    pub id: GitStateId,
    /// The same.
    pub state: GitState,
    /// What of it did not travel, and of the repositories inside it with their paths before it.
    pub omitted: Vec<GitOmission>,
    /// Whether a filter may have made files of the worktree, other than that of Git LFS: whether such a file is clean
    /// nobody can tell who has no filter.
    pub filters: bool,
}

/// Captures the repository of a worktree, and those inside it.
pub fn capture<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    sink: &S,
    options: &CaptureOptions,
) -> Result<Captured, GitError> {
    let nested: BTreeSet<RelPath> = options.nested.iter().cloned().collect();
    capture_unit(worktree, &nested, options.base, 0, sink, options)
}

/// What was read of a repository while it held still.
struct Parts {
    repo: Repository,
    refs: Refs,
    index: Option<Index>,
    files: Vec<GitFile>,
    told: Told,
    /// Refs that were left out, and follow.
    later: BTreeMap<GitRefName, GitTarget>,
}

impl Parts {
    /// Bytes of the index, about.
    fn index_len(&self) -> u64 {
        self.index.as_ref().map_or(0, |index| 100 * index.meaning.entries.len() as u64)
    }
}

fn capture_unit<S: ObjectSink + ObjectSource + ?Sized>(
    worktree: &Path,
    nested: &BTreeSet<RelPath>,
    base: Option<GitStateId>,
    depth: usize,
    sink: &S,
    options: &CaptureOptions,
) -> Result<Captured, GitError> {
    let (mut parts, busy) = read_still(worktree, options)?;
    let base = match base.map(|id| load_state(sink, id)).transpose() {
        // Without it everything is packed anew.
        Err(GitError::Store(StoreError::Absent(_))) => None,
        base => base?,
    };
    let mut view = View::new(&options.git, &options.scratch, &parts.repo)?;
    let cut = match &base {
        // Where all travels, history ends where the repository itself says so.
        Some(base) if options.most_history < u64::MAX => Cut::of(base, &parts, &view, sink)?,
        _ => None,
    };
    if let Some(cut) = &cut {
        cut.hold(&mut view, &mut parts)?;
    }
    if let Some(index) = &mut parts.index {
        mark_clean(index, worktree)?;
    }
    let before = match &base {
        Some(base) if goes_on(base, &parts, sink)? => Some(base),
        _ => None,
    };
    let packs = pack(&mut view, &mut parts, (before, cut.as_ref()), options.most_history, sink)?;
    let inner = InnerUnits { nested, base: base.as_ref(), depth };
    let (units, inner_omitted) = inner.capture(&mut parts, sink, options)?;

    let Parts { repo, refs, index, files, mut told, later } = parts;
    let selected = settings::select(
        &with_user(&repo, &refs.head, &options.user),
        worktree,
        worktree,
        &mut told,
    );
    if repo.is_of_another_worktree() {
        told.note(GitOmitReason::Outside, "core.worktree");
    }
    if repo.untold > 0 {
        told.note(GitOmitReason::Broken, format!("{} lines of the configuration", repo.untold));
    }
    let of_user = user_settings(&repo, &refs.head, &options.user);
    let filters = repo.config.iter().cloned().chain(of_user).any(|it| is_filter(&it))
        || has_odd_attributes(&repo, index.as_ref());
    let hash = repo.hash;
    let list = |refs: BTreeMap<GitRefName, GitTarget>| -> Vec<GitRef> {
        refs.into_iter().map(|(name, target)| GitRef { name, target }).collect()
    };
    let later = list(later);
    let omitted = told.into_list();
    let put = |bytes: Vec<u8>| store_bytes(&bytes, sink);
    let state = GitState {
        hash: repo.hash,
        storage: repo.storage,
        busy,
        head: refs.head,
        refs: put(GitRefs { hash, refs: list(refs.refs) }.encode())?,
        index: index.map(|index| put(index.meaning.encode())).transpose()?,
        settings: put(GitSettings(selected).encode())?,
        files: put_unless_empty(&files, || GitFiles(files.clone()).encode(), sink)?,
        packs,
        units,
        omitted: put_unless_empty(&omitted, || GitOmissions(omitted.clone()).encode(), sink)?,
        later: put_unless_empty(&later, || GitRefs { hash, refs: later.clone() }.encode(), sink)?,
    };
    let bytes = state.encode();
    // The encoder writes what it is given; the decoder knows the limits.
    GitState::decode(&bytes)?;
    let id = GitStateId::from_bytes(sink.put(ObjectKind::GitState, &bytes)?.hash);
    let omitted = omitted.into_iter().chain(inner_omitted).collect();
    Ok(Captured { id, state, omitted, filters })
}

fn put_unless_empty<T, S: ObjectSink + ?Sized>(
    list: &[T],
    encode: impl FnOnce() -> Vec<u8>,
    sink: &S,
) -> Result<Option<Blob>, GitError> {
    if list.is_empty() { Ok(None) } else { Ok(Some(store_bytes(&encode(), sink)?)) }
}

pub(super) fn load_state<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
) -> Result<GitState, GitError> {
    Ok(GitState::decode(&source.require(&ObjectId::from(id))?)?)
}

/// Whether something is so of a state, or of one inside it.
pub(super) fn any_state<S: ObjectSource + ?Sized>(
    source: &S,
    id: GitStateId,
    mut is_so: impl FnMut(&GitState) -> Result<bool, GitError>,
) -> Result<bool, GitError> {
    let mut left = vec![id];
    let mut seen = 0;
    while let Some(id) = left.pop() {
        let state = load_state(source, id)?;
        if is_so(&state)? {
            return Ok(true);
        }
        seen += 1;
        if seen > MAX_GIT_UNITS {
            return Err(GitError::refused("the state", "its repositories are too many"));
        }
        left.extend(state.units.iter().map(|unit| unit.state));
    }
    Ok(false)
}

/// Length of an index from which on reading it takes longer than all looks should.
const LARGE_INDEX: u64 = 4 << 20;

/// Times that a repository with such an index is read.
const LARGE_READS: usize = 2;

/// Reads a repository until nothing moved meanwhile; after several looks as it is. Says whether git was at work.
fn read_still(worktree: &Path, options: &CaptureOptions) -> Result<(Parts, bool), GitError> {
    let mut looks = 1;
    let mut reads = 0;
    loop {
        let last = looks >= LOOKS || reads + 1 >= LARGE_READS;
        let (parts, moved) = read_once(worktree, options, last)?;
        match parts {
            Some(Ok(mut parts)) if !moved || last => {
                if moved {
                    parts.told.note(GitOmitReason::Moving, "the repository");
                }
                return Ok((parts, moved));
            }
            Some(Err(error)) if !moved || last => return Err(error),
            Some(Ok(parts)) if parts.index_len() > LARGE_INDEX => reads += 1,
            _ => {}
        }
        looks += 1;
        std::thread::sleep(PAUSE);
    }
}

/// Reads everything once, and says whether it moved. What git holds locked it is about to replace, and that is read
/// only if it is the last look.
fn read_once(
    worktree: &Path,
    options: &CaptureOptions,
    last: bool,
) -> Result<(Option<Result<Parts, GitError>>, bool), GitError> {
    let repo = Repository::open(worktree, options.within.as_deref())?;
    let before = Stamp::take(&repo)?;
    if !last && !before.locks(options.now).0.is_empty() {
        return Ok((None, true));
    }
    let parts = read_parts(worktree, options);
    let after = Stamp::take(&repo)?;
    let (young, old) = after.locks(options.now);
    let moved = before != after || !young.is_empty();
    let parts = parts.map(|mut parts| {
        for lock in old.into_iter().chain(young) {
            let name =
                lock.strip_prefix(&repo.git_dir).or_else(|_| lock.strip_prefix(&repo.common_dir));
            parts.told.note(GitOmitReason::Locked, name.unwrap_or(lock).display().to_string());
        }
        parts
    });
    Ok((Some(parts), moved))
}

fn read_parts(worktree: &Path, options: &CaptureOptions) -> Result<Parts, GitError> {
    let repo = Repository::open(worktree, options.within.as_deref())?;
    let view = match repo.storage {
        RefStorage::Files => None,
        RefStorage::Reftable => Some(View::new(&options.git, &options.scratch, &repo)?),
    };
    let mut told = Told::default();
    let refs = refs::read(&repo, view.as_ref(), &mut told)?;
    let index = index::read(&repo.git_dir, repo.hash)?;
    let mut files = files::read(&repo, &mut told)?;
    if let Some(view) = &view {
        files.retain(|file| !file.path.as_bytes().starts_with(b"logs/"));
        for (name, most) in [("HEAD", Some(MAX_HEAD_LOG + 1)), ("refs/stash", None)] {
            let bytes = refs::read_table_logs(&repo, view, name, most, &mut told)?;
            let (bytes, had_password) = files::without_passwords(bytes);
            if had_password {
                told.note(GitOmitReason::Credential, format!("logs/{name}"));
            }
            if let Ok(path) = RelPath::new(format!("logs/{name}").as_bytes())
                && !bytes.is_empty()
            {
                files.push(GitFile { path, bytes });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        told.note(GitOmitReason::NotCarried, "reflogs of branches");
    }
    for line in files::commands(&files) {
        told.note(GitOmitReason::Runs, line);
    }
    Ok(Parts { repo, refs, index, files, told, later: BTreeMap::new() })
}

/// The user's own configuration.
fn user_settings(
    repo: &Repository,
    head: &GitHead,
    user: &GitUser,
) -> impl Iterator<Item = GitSetting> {
    let home = user.home.as_deref();
    user.config_files.iter().flat_map(move |path| read_user_config(path, home, &repo.git_dir, head))
}

/// Whether a setting makes git pass files through a program; that of Git LFS can be proven without.
fn is_filter(setting: &GitSetting) -> bool {
    let by = ["clean", "smudge", "process"].contains(&setting.key.as_str());
    setting.section == "filter" && by && setting.subsection.as_deref() != Some(b"lfs")
}

/// Most that is read of a file of attributes.
const MAX_ATTRIBUTES: u64 = 4 << 20;

/// Whether attributes make files of objects, though no configuration says how.
fn has_odd_attributes(repo: &Repository, index: Option<&Index>) -> bool {
    const ODD: [&[u8]; 2] = [b"ident", b"working-tree-encoding"];
    let entries = index.iter().flat_map(|index| &index.meaning.entries);
    let in_index = entries.map(|entry| entry.path.as_slice());
    let files = in_index.filter(|path| path.ends_with(b".gitattributes"));
    let files = files.chain([&b".gitattributes"[..]]).map(|path| repo.worktree.join(as_path(path)));
    let mut files = files.chain([repo.common_dir.join("info/attributes")]);
    files.any(|path| {
        let bytes = read_file(&path, MAX_ATTRIBUTES).ok().flatten().unwrap_or_default();
        ODD.iter().any(|odd| bytes.windows(odd.len()).any(|part| part == *odd))
    })
}

/// The configuration of the repository, and before it what the user's own says of the user and of line ends.
fn with_user(repo: &Repository, head: &GitHead, user: &GitUser) -> Vec<GitSetting> {
    const OF_USER: [(&str, &str); 6] = [
        ("user", "name"),
        ("user", "email"),
        ("core", "autocrlf"),
        ("core", "eol"),
        ("core", "quotepath"),
        ("core", "commentchar"),
    ];
    let all: Vec<_> = user_settings(repo, head, user)
        .filter(|it| {
            it.subsection.is_none() && OF_USER.contains(&(it.section.as_str(), it.key.as_str()))
        })
        .collect();
    // The last one wins, and one is enough.
    let mut known = BTreeSet::new();
    let mut last: Vec<_> = all
        .into_iter()
        .rev()
        .filter(|it| {
            repo.value((&it.section, &it.key)).is_none()
                && known.insert((it.section.clone(), it.key.clone()))
        })
        .collect();
    last.reverse();
    last.extend(repo.config.iter().cloned());
    last
}

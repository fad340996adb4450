//! A repository captured: everything read while it held still, its objects packed, one object that names all.
//!
//! **Invariant:** what a state names is in the sink before the state is.
//!
//! **Invariant:** capturing changes nothing: no file of the repository is written, and git takes no lock of it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use baton_protocol::id::{GitStateId, ObjectId, ObjectKind};
use baton_protocol::object::{
    Blob, GitFile, GitFiles, GitHash, GitHead, GitMode, GitOid, GitOmission, GitOmissions,
    GitOmitReason, GitPack, GitPlace, GitRef, GitRefs, GitSettings, GitState, GitTarget, GitUnit,
    MAX_GIT_UNITS, RefStorage, is_module_name, unit_path,
};
use baton_protocol::path::RelPath;

use super::files::parse_log_line;
use super::index::{Index, build_trees, mark_clean};
use super::place::{Repository, parse_config, read_file};
use super::program::GitProgram;
use super::refs::Refs;
use super::stamp::{LOOKS, PAUSE, Stamp};
use super::view::View;
use super::{GitError, Told, as_path, files, index, objects, refs, settings, shown};
use crate::chunk::store_bytes;
use crate::ignore::GitUser;
use crate::objects::{ObjectSink, ObjectSource};

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// Lines of the reflog of `HEAD` that travel, the last ones.
const MAX_HEAD_LOG: usize = 200;

/// Longest configuration of a user.
const MAX_CONFIG: u64 = 4 << 20;

/// Objects that are told one by one where they are missing.
const MAX_MISSING: usize = 20;

/// How a repository is captured.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// Git.
    pub git: GitProgram,
    /// A folder for what git needs for a moment.
    pub scratch: PathBuf,
    /// The folder that nothing of the repository may reach out of: where someone made it who may not read what
    /// this process may. Nothing for a user's own, which may borrow objects and be a linked worktree.
    pub within: Option<PathBuf>,
    /// What the other side has already.
    pub base: Option<GitStateId>,
    /// Where the user's name stands if the repository does not say it.
    pub user: GitUser,
    /// Repositories inside the worktree that are no submodules, relative to it.
    pub nested: Vec<RelPath>,
    /// What the clock says, to tell an abandoned lock.
    pub now: SystemTime,
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
    let base = base.map(|id| load_state(sink, id)).transpose()?;
    let repo = &parts.repo;
    let view = View::new(&options.git, &options.scratch, repo)?;
    if let Some(index) = &mut parts.index {
        mark_clean(index, worktree)?;
    }
    let before = base.as_ref().filter(|base| base.hash == repo.hash);
    let packs = pack(&view, &mut parts, before, sink)?;
    let inner = InnerUnits { nested, base: base.as_ref(), depth };
    let (units, inner_omitted) = inner.capture(&mut parts, sink, options)?;

    let Parts { repo, refs, index, files, mut told } = parts;
    let selected = settings::select(&with_user(&repo, &options.user), &mut told);
    if repo.untold > 0 {
        told.note(GitOmitReason::Broken, format!("{} lines of the configuration", repo.untold));
    }
    let list = refs.refs.into_iter().map(|(name, target)| GitRef { name, target }).collect();
    let omitted = told.into_list();
    let put = |bytes: Vec<u8>| store_bytes(&bytes, sink);
    let state = GitState {
        hash: repo.hash,
        storage: repo.storage,
        busy,
        head: refs.head,
        refs: put(GitRefs { hash: repo.hash, refs: list }.encode())?,
        index: index.map(|index| put(index.index.encode())).transpose()?,
        settings: put(GitSettings(selected).encode())?,
        files: put_unless_empty(&files, || GitFiles(files.clone()).encode(), sink)?,
        packs,
        units,
        omitted: put_unless_empty(&omitted, || GitOmissions(omitted.clone()).encode(), sink)?,
    };
    let bytes = state.encode();
    // The encoder writes what it is given; the decoder knows the limits.
    GitState::decode(&bytes)?;
    let id = GitStateId::from_bytes(sink.put(ObjectKind::GitState, &bytes)?.hash);
    Ok(Captured { id, state, omitted: omitted.into_iter().chain(inner_omitted).collect() })
}

fn put_unless_empty<T, S: ObjectSink + ?Sized>(
    list: &[T],
    encode: impl FnOnce() -> Vec<u8>,
    sink: &S,
) -> Result<Option<Blob>, GitError> {
    if list.is_empty() { Ok(None) } else { Ok(Some(store_bytes(&encode(), sink)?)) }
}

fn load_state<S: ObjectSource + ?Sized>(source: &S, id: GitStateId) -> Result<GitState, GitError> {
    Ok(GitState::decode(&source.require(&ObjectId::from(id))?)?)
}

/// Reads a repository until nothing moved meanwhile; after several looks as it is. Says whether git was at work.
fn read_still(worktree: &Path, options: &CaptureOptions) -> Result<(Parts, bool), GitError> {
    let mut looks = 1;
    loop {
        let (parts, moved) = read_once(worktree, options)?;
        let last = looks >= LOOKS;
        match parts {
            Ok(mut parts) if !moved || last => {
                if moved {
                    parts.told.note(GitOmitReason::Moving, "the repository");
                }
                return Ok((parts, moved));
            }
            Err(error) if !moved || last => return Err(error),
            _ => {}
        }
        looks += 1;
        std::thread::sleep(PAUSE);
    }
}

/// Reads everything once, and says whether it moved.
fn read_once(
    worktree: &Path,
    options: &CaptureOptions,
) -> Result<(Result<Parts, GitError>, bool), GitError> {
    let repo = Repository::open(worktree, options.within.as_deref())?;
    let before = Stamp::take(&repo)?;
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
    Ok((parts, moved))
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
        for name in ["HEAD", "refs/stash"] {
            let bytes = refs::read_table_logs(&repo, view, name)?;
            if let Ok(path) = RelPath::new(format!("logs/{name}").as_bytes())
                && !bytes.is_empty()
            {
                files.push(GitFile { path, bytes });
            }
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
    }
    for line in files::commands(&files) {
        told.note(GitOmitReason::Runs, line);
    }
    Ok(Parts { repo, refs, index, files, told })
}

/// The configuration of the repository, and before it what the user's own says of the user and of line ends.
fn with_user(repo: &Repository, user: &GitUser) -> Vec<baton_protocol::object::GitSetting> {
    const OF_USER: [(&str, &str); 6] = [
        ("user", "name"),
        ("user", "email"),
        ("core", "autocrlf"),
        ("core", "eol"),
        ("core", "quotepath"),
        ("core", "commentchar"),
    ];
    let mut all = Vec::new();
    for path in &user.config_files {
        let Ok(Some(bytes)) = read_file(path, MAX_CONFIG) else { continue };
        let Some((settings, _)) = parse_config(&bytes) else { continue };
        let wanted = settings.into_iter().filter(|it| {
            it.subsection.is_none() && OF_USER.contains(&(it.section.as_str(), it.key.as_str()))
        });
        all.extend(wanted);
    }
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

/// Packs what the other side lacks, and takes out of the parts what the repository itself lacks.
fn pack<S: ObjectSink + ObjectSource + ?Sized>(
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
        trim_log(file);
        for oid in logged(file, hash) {
            wanted.entry(oid).or_insert_with(|| shown(file.path.as_bytes()));
        }
    }
    let mentioned: Vec<_> = files::mentions(files, hash).into_iter().collect();
    let mentioned: BTreeSet<_> =
        objects::find(view, hash, &mentioned)?.into_iter().flatten().collect();
    if let Some(index) = index {
        for (oid, path) in staged(view, &refs.head, &refs.refs, index)? {
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
    if let GitHead::Detached(oid) = &refs.head
        && !tips.contains(oid)
    {
        let path = repo.git_dir.join("HEAD");
        return Err(GitError::Damaged { path, why: "its commit is not there" });
    }
    refs.refs.retain(|_, target| match target {
        GitTarget::Object(oid) => tips.contains(oid),
        GitTarget::Symbolic(_) => true,
    });
    files.iter_mut().for_each(|file| drop_lines(file, hash, &tips));
    files.retain(|file| !(is_log(file) && file.bytes.is_empty()));
    tips.extend(mentioned);
    let before = before.map_or(&[][..], |state| &state.packs);
    if tips.is_empty() {
        return Ok(Vec::new());
    }
    objects::pack(view, hash, &tips, before, repo.is_partial, sink)
}

fn is_log(file: &GitFile) -> bool {
    file.path.as_bytes().starts_with(b"logs/")
}

/// Keeps the end of the reflog of `HEAD`. That of the stash is the list of stashes, and stays whole.
fn trim_log(file: &mut GitFile) {
    if file.path.as_bytes() == b"logs/HEAD" {
        let lines: Vec<&[u8]> = file.bytes.split_inclusive(|&byte| byte == b'\n').collect();
        file.bytes = lines.split_at(lines.len().saturating_sub(MAX_HEAD_LOG)).1.concat();
    }
}

/// The objects that a reflog names.
fn logged(file: &GitFile, hash: GitHash) -> Vec<GitOid> {
    if !is_log(file) {
        return Vec::new();
    }
    let lines = file.bytes.split(|&byte| byte == b'\n').filter_map(|it| parse_log_line(it, hash));
    lines.flat_map(|line| [line.old, line.new]).filter(|oid| !oid.is_null()).collect()
}

/// Drops lines of a reflog that name objects that are not there: git would call them broken.
fn drop_lines(file: &mut GitFile, hash: GitHash, there: &BTreeSet<GitOid>) {
    if !is_log(file) {
        return;
    }
    let known = |oid: GitOid| oid.is_null() || there.contains(&oid);
    let lines = file.bytes.split_inclusive(|&byte| byte == b'\n').filter(|line| {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        parse_log_line(line, hash).is_some_and(|line| known(line.old) && known(line.new))
    });
    file.bytes = lines.collect::<Vec<_>>().concat();
}

/// The objects that an index names and that are not in the tree of `HEAD`, each with a path.
fn staged(
    view: &View<'_>,
    head: &GitHead,
    refs: &BTreeMap<baton_protocol::object::GitRefName, GitTarget>,
    index: &Index,
) -> Result<BTreeMap<GitOid, Vec<u8>>, GitError> {
    let hash = index.index.hash;
    let mut named = BTreeMap::new();
    for entry in index.index.entries.iter().filter(|it| it.mode != GitMode::Submodule) {
        named.entry(entry.oid).or_insert_with(|| entry.path.clone());
    }
    for undo in &index.index.undo {
        for (_, oid) in undo.stages.iter().flatten().filter(|(mode, _)| *mode != GitMode::Submodule)
        {
            named.entry(*oid).or_insert_with(|| undo.path.clone());
        }
    }
    let commit = match head {
        GitHead::Detached(oid) => Some(*oid),
        GitHead::Symbolic(name) => match refs.get(name) {
            Some(GitTarget::Object(oid)) => Some(*oid),
            _ => None,
        },
    };
    let Some(commit) = commit else { return Ok(named) };
    let tree = objects::find(view, hash, &[format!("{commit}^{{tree}}").into_bytes()])?;
    let tree = tree.into_iter().next().flatten();
    let trees = build_trees(&index.index.entries, hash)?;
    if tree.is_some() && trees.root() == tree && index.index.undo.is_empty() {
        return Ok(BTreeMap::new());
    }
    let known = objects::objects_of_tree(view, hash, commit)?;
    named.retain(|oid, _| !known.contains(oid));
    Ok(named)
}

/// What is needed to capture the repositories inside one.
struct InnerUnits<'a> {
    nested: &'a BTreeSet<RelPath>,
    base: Option<&'a GitState>,
    depth: usize,
}

impl InnerUnits<'_> {
    fn capture<S: ObjectSink + ObjectSource + ?Sized>(
        &self,
        parts: &mut Parts,
        sink: &S,
        options: &CaptureOptions,
    ) -> Result<(Vec<GitUnit>, Vec<GitOmission>), GitError> {
        let Parts { repo, index, told, .. } = parts;
        let mut paths: BTreeSet<Vec<u8>> =
            self.nested.iter().map(|path| path.as_bytes().to_vec()).collect();
        let entries = index.iter().flat_map(|index| &index.index.entries);
        let links = entries.filter(|entry| entry.mode == GitMode::Submodule);
        paths.extend(links.map(|entry| entry.path.clone()));
        let mut units = Vec::new();
        let mut omitted = Vec::new();
        for path in paths {
            let worktree = repo.worktree.join(as_path(&path));
            if worktree.join(".git").symlink_metadata().is_err() || !is_plain_folder(repo, &path) {
                continue;
            }
            // One inside another of them is a unit of that one.
            let inside = |unit: &GitUnit| {
                path.strip_prefix(unit.path.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
            };
            if units.iter().any(inside) {
                continue;
            }
            let what = format!("the repository in {}", shown(&path));
            let (Some(unit), true) = (unit_path(&path), units.len() < MAX_GIT_UNITS) else {
                told.note(GitOmitReason::Broken, what);
                continue;
            };
            if self.depth >= MAX_DEPTH {
                told.note(GitOmitReason::NotCarried, what);
                continue;
            }
            let base = self.base.and_then(|base| base.units.iter().find(|it| it.path == unit));
            let nested = self.nested.iter().filter_map(|inner| {
                let rest = inner.as_bytes().strip_prefix(&path[..])?.strip_prefix(b"/")?;
                RelPath::new(rest).ok()
            });
            let captured = capture_unit(
                &worktree,
                &nested.collect(),
                base.map(|base| base.state),
                self.depth + 1,
                sink,
                options,
            );
            let captured = match captured {
                Ok(captured) => captured,
                Err(GitError::Store(error)) => return Err(error.into()),
                Err(error) => {
                    told.note(GitOmitReason::Broken, format!("{what}: {error}"));
                    continue;
                }
            };
            let Some(place) = place_of(repo, &worktree, options) else {
                told.note(GitOmitReason::Broken, what);
                continue;
            };
            omitted.extend(captured.omitted.into_iter().map(|it| GitOmission {
                what: format!("{}: {}", shown(&path), it.what),
                reason: it.reason,
            }));
            units.push(GitUnit { path: unit, place, state: captured.id });
        }
        Ok((units, omitted))
    }
}

/// Whether a path leads to a folder through folders only: through a link it would be another one.
fn is_plain_folder(repo: &Repository, path: &[u8]) -> bool {
    let mut at = repo.worktree.clone();
    path.split(|&byte| byte == b'/').all(|name| {
        at.push(as_path(name));
        at.symlink_metadata().is_ok_and(|metadata| metadata.is_dir())
    })
}

/// Where an inner repository keeps its own; nothing where its name is none that git takes.
fn place_of(outer: &Repository, worktree: &Path, options: &CaptureOptions) -> Option<GitPlace> {
    use std::os::unix::ffi::OsStrExt;
    let inner = Repository::open(worktree, options.within.as_deref()).ok()?;
    for folder in [&outer.common_dir, &outer.git_dir] {
        if let Ok(name) = inner.git_dir.strip_prefix(folder.join("modules")) {
            let name = name.as_os_str().as_bytes();
            return is_module_name(name).then(|| GitPlace::Module(name.to_vec()));
        }
    }
    Some(GitPlace::Embedded)
}

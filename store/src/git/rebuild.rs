//! A repository made again beside the files of its worktree.
//!
//! A state may come from anyone who may write into the vault: all that it says is checked here, and what
//! git would take from it without a question is worked out anew.
//!
//! **Invariant:** until everything is there and checked, the worktree has no `.git`. What is built before stands
//! under a name beside it, and goes if the rebuild fails.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use baton_protocol::id::{GitStateId, ObjectId};
use baton_protocol::object::{
    Blob, GitFile, GitFiles, GitHead, GitIndex, GitMode, GitOid, GitOmission, GitOmitReason,
    GitPlace, GitRef, GitRefs, GitSettings, GitState, GitTarget, GitUnit, RefStorage,
};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::index::{build_trees, remember};
use super::place::{Repository, is_yes, parse_config};
use super::program::GitProgram;
use super::view::{View, format_config, random_name, write_new, write_skeleton};
use super::{GitError, MAX_LIST, Told, as_path, files, index, objects, refs, settings, shown};
use crate::chunk::{for_each_extent, read_chunk};
use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::objects::ObjectSource;
use crate::snapshot::load_blob;

/// What stands in a worktree while its repository is built. One of a rebuild that died is taken away.
const BUILDING: &str = ".git.baton-";

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// Waits until the time at which files were written is over, at most this often.
const WAITS: usize = 5;

/// How long each time: longer than the clock of any file system takes to go on.
const WAIT: Duration = Duration::from_millis(12);

/// What git refuses only because very old programs wrote it: history is full of it, and it does no harm.
const HARMLESS: [&str; 16] = [
    "badDate",
    "badDateOverflow",
    "badEmail",
    "badFilemode",
    "badName",
    "badTagName",
    "badTimezone",
    "extraHeaderEntry",
    "missingEmail",
    "missingNameBeforeEmail",
    "missingSpaceBeforeDate",
    "missingSpaceBeforeEmail",
    "missingTaggerEntry",
    "multipleAuthors",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// What may run when git goes on with what it is in the middle of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Whatever the state has: it comes from who will run it.
    All,
    /// These lines and no other, such as those that went there: it comes from where an agent was at work.
    Only(BTreeSet<String>),
}

/// How a repository is rebuilt.
#[derive(Clone, Debug)]
pub struct RebuildOptions {
    /// Git.
    pub git: GitProgram,
    /// A folder for what git needs for a moment.
    pub scratch: PathBuf,
    /// What may run later.
    pub commands: Commands,
}

/// A rebuilt repository.
#[derive(Clone, Debug, Default)]
pub struct Rebuilt {
    /// Its folder.
    pub git_dir: PathBuf,
    /// What was not taken, and what to look at, of the repositories inside it with their paths before it.
    pub omitted: Vec<GitOmission>,
}

/// Makes the repository of a worktree whose files are there, and those inside it.
pub fn rebuild<S: ObjectSource + ?Sized>(
    source: &S,
    state: GitStateId,
    worktree: &Path,
    options: &RebuildOptions,
) -> Result<Rebuilt, GitError> {
    let plan = Plan { source, options };
    plan.check(state, 0)?;
    let dot_git = worktree.join(".git");
    if !worktree.is_dir() {
        return Err(GitError::refused(worktree.display().to_string(), "it is no folder"));
    }
    if dot_git.symlink_metadata().is_ok() {
        return Err(GitError::refused(dot_git.display().to_string(), "it is there already"));
    }
    let mut told = Told::default();
    plan.place(state, worktree, &dot_git, &mut told)?;
    Ok(Rebuilt { git_dir: dot_git, omitted: told.into_list() })
}

/// A state and its lists.
struct Loaded {
    state: GitState,
    refs: Vec<GitRef>,
    index: Option<GitIndex>,
    settings: GitSettings,
    files: Vec<GitFile>,
}

/// Where a repository will be once all of them are in place.
#[derive(Clone)]
struct Home {
    /// Its folder, relative to the worktree of the outermost one.
    git_dir: Vec<u8>,
    /// Its worktree, likewise; the outermost one's own is empty.
    worktree: Vec<u8>,
}

impl Home {
    fn outermost() -> Self {
        Self { git_dir: b".git".to_vec(), worktree: Vec::new() }
    }

    fn module(&self, path: &[u8], name: &[u8]) -> Self {
        let worktree = match self.worktree.as_slice() {
            [] => path.to_vec(),
            outer => [outer, path].join(&b'/'),
        };
        Self { git_dir: [&self.git_dir[..], b"modules", name].join(&b'/'), worktree }
    }

    /// What the configuration says of the worktree.
    fn location(&self) -> Option<String> {
        let path = [up_from(&self.git_dir).as_bytes(), &self.worktree].concat();
        (!self.worktree.is_empty()).then(|| String::from_utf8_lossy(&path).into_owned())
    }

    /// What the `.git` of the worktree says.
    fn link(&self) -> Vec<u8> {
        [b"gitdir: ", up_from(&self.worktree).as_bytes(), &self.git_dir, b"\n"].concat()
    }
}

/// The way from a folder to the one that its path starts at.
fn up_from(path: &[u8]) -> String {
    "../".repeat(path.split(|&byte| byte == b'/').count())
}

struct Plan<'a, S: ?Sized> {
    source: &'a S,
    options: &'a RebuildOptions,
}

/// A folder that goes unless it is kept.
struct Building(Option<PathBuf>);

impl Drop for Building {
    fn drop(&mut self) {
        if let Some(folder) = &self.0
            && let Err(error) = fs::remove_dir_all(folder)
        {
            tracing::warn!(%error, "a repository that was not finished is left behind");
        }
    }
}

impl<S: ObjectSource + ?Sized> Plan<'_, S> {
    /// Checks a state and those inside it before anything is written.
    fn check(&self, id: GitStateId, depth: usize) -> Result<(), GitError> {
        if depth > MAX_DEPTH {
            return Err(GitError::refused("the state", "its repositories nest too deeply"));
        }
        let loaded = self.load(id)?;
        check_units(&loaded.state.units)?;
        loaded.state.units.iter().try_for_each(|unit| self.check(unit.state, depth + 1))
    }

    fn load(&self, id: GitStateId) -> Result<Loaded, GitError> {
        let state = GitState::decode(&self.source.require(&ObjectId::from(id))?)?;
        let refs = GitRefs::decode(&self.list(state.refs)?)?;
        let index = match state.index {
            Some(blob) => Some(GitIndex::decode(&self.list(blob)?)?),
            None => None,
        };
        let files = match state.files {
            Some(blob) => GitFiles::decode(&self.list(blob)?)?.0,
            None => Vec::new(),
        };
        let settings = GitSettings::decode(&self.list(state.settings)?)?;
        if refs.hash != state.hash || index.as_ref().is_some_and(|it| it.hash != state.hash) {
            return Err(GitError::refused("the state", "it names objects in two ways"));
        }
        refs::check_folders(&refs.refs)?;
        files.iter().try_for_each(|file| files::check_received(file, state.hash))?;
        let lines = files::commands(&files);
        if let Commands::Only(known) = &self.options.commands {
            let lines: Vec<_> = lines.into_iter().filter(|line| !known.contains(line)).collect();
            if !lines.is_empty() {
                return Err(GitError::Commands { lines });
            }
        }
        Ok(Loaded { state, refs: refs.refs, index, settings, files })
    }

    fn list(&self, blob: Blob) -> Result<Vec<u8>, GitError> {
        Ok(load_blob(self.source, blob, MAX_LIST)?)
    }

    /// Builds a repository beside the `.git` of its worktree, and puts it there.
    fn place(
        &self,
        id: GitStateId,
        worktree: &Path,
        dot_git: &Path,
        told: &mut Told,
    ) -> Result<(), GitError> {
        for name in fs::list_dir(worktree)? {
            if name.to_string_lossy().starts_with(BUILDING) {
                fs::remove_dir_all(&worktree.join(name))?;
            }
        }
        let folder = worktree.join(format!("{BUILDING}{}", random_name()?));
        let mut building = Building(Some(folder.clone()));
        self.build(id, worktree, &folder, &Home::outermost(), told)?;
        fs::rename(&folder, dot_git)?;
        building.0 = None;
        Ok(())
    }

    /// Builds a repository in a folder.
    fn build(
        &self,
        id: GitStateId,
        worktree: &Path,
        git_dir: &Path,
        home: &Home,
        told: &mut Told,
    ) -> Result<(), GitError> {
        let Loaded { state, refs, index, settings, files } = self.load(id)?;
        write_skeleton(git_dir, state.hash, state.storage)?;
        // Before the packs: what stands in it has no parents.
        if let Some(shallow) = files.iter().find(|file| file.path.as_bytes() == b"shallow") {
            write_new(&git_dir.join("shallow"), &shallow.bytes)?;
        }
        let kept = settings::select(&settings.0, told);
        let is_partial = kept.iter().any(|it| it.section == "remote" && it.key == "promisor");
        for pack in &state.packs {
            self.unpack(git_dir, pack.blob, is_partial)?;
        }
        let repo = repository(worktree, git_dir, &state);
        let view = View::new(&self.options.git, &self.options.scratch, &repo)?;
        check_targets(&view, &state, &refs)?;
        self.write_refs(git_dir, &state, &refs, &files)?;
        for file in &files {
            write_file(git_dir, file, &state)?;
        }
        if let Some(index) = &index {
            let trusts_mode = repo_trusts_mode(&kept);
            let bytes = index_bytes(index, worktree, git_dir, trusts_mode, &view, told)?;
            write_new(&git_dir.join("index"), &bytes)?;
        }
        drop(view);
        for line in files::commands(&files) {
            told.note(GitOmitReason::Runs, line);
        }
        self.build_units(&state, worktree, git_dir, home, told)?;
        let location = home.location();
        let format = format_config(state.hash, state.storage, location.as_deref());
        let config = [format.as_bytes(), &settings::write(&kept)].concat();
        if parse_config(&config).is_none() {
            return Err(GitError::refused("the settings", "git could not read them"));
        }
        Ok(fs::write_atomic(&git_dir.join("config"), &config, 0o600)?)
    }

    /// Gives a pack to git, which checks every object in it and that what they name is there.
    fn unpack(&self, git_dir: &Path, blob: Blob, is_partial: bool) -> Result<(), GitError> {
        const DOING: &str = "take in a pack";
        // In a partial clone what objects name need not be there.
        let check = if is_partial { "--fsck-objects" } else { "--strict" };
        let harmless: Vec<_> = HARMLESS.iter().map(|it| format!("{it}=ignore")).collect();
        let check = format!("{check}={}", harmless.join(","));
        let mut failed: Option<StoreError> = None;
        let ended = self
            .options
            .git
            .at(git_dir)
            .args(["index-pack", "--stdin", "--fix-thin", &check])
            .args(is_partial.then_some("--promisor"))
            .run(
                DOING,
                |mut stdin| {
                    for_each_extent(self.source, blob, |_, extent| {
                        let bytes = read_chunk(self.source, extent)?;
                        stdin.write_all(&bytes).map_err(|source| Unpacking::Write(source))
                    })
                    .map_err(|error| match error {
                        Unpacking::Write(error) => error,
                        Unpacking::Store(error) => {
                            failed = Some(error);
                            std::io::ErrorKind::InvalidData.into()
                        }
                    })
                },
                |stdout| {
                    std::io::copy(stdout, &mut std::io::sink())
                        .map_err(|_| GitError::refused("a pack", "git stopped reading it"))
                },
            )?;
        match failed {
            Some(error) => Err(error.into()),
            None => ended.checked(DOING).map(|_| ()),
        }
    }

    fn write_refs(
        &self,
        git_dir: &Path,
        state: &GitState,
        refs: &[GitRef],
        files: &[GitFile],
    ) -> Result<(), GitError> {
        match state.storage {
            RefStorage::Files => refs::write_files(git_dir, &state.head, refs),
            RefStorage::Reftable => {
                fs::create_dir_all(&git_dir.join("reftable"))?;
                write_new(&git_dir.join("reftable/tables.list"), b"")?;
                let logs = [&b"logs/HEAD"[..], b"logs/refs/stash"].map(|path| {
                    let log = files.iter().find(|file| file.path.as_bytes() == path);
                    log.map_or(&b""[..], |file| &file.bytes)
                });
                let git = || self.options.git.at(git_dir);
                refs::write_tables(git, state.hash, &state.head, refs, logs)
            }
        }
    }

    fn build_units(
        &self,
        state: &GitState,
        worktree: &Path,
        git_dir: &Path,
        home: &Home,
        told: &mut Told,
    ) -> Result<(), GitError> {
        for unit in &state.units {
            let path = unit.path.as_bytes();
            let inner = worktree.join(as_path(path));
            let mut inner_told = Told::default();
            match &unit.place {
                GitPlace::Embedded => {
                    let dot_git = inner.join(".git");
                    // Another rebuild of the same may have come so far.
                    if open_folder(worktree, path).is_err() {
                        told.note(GitOmitReason::Missing, format!("the folder {}", shown(path)));
                    } else if dot_git.symlink_metadata().is_ok() {
                        return Err(GitError::refused(
                            dot_git.display().to_string(),
                            "it is there already",
                        ));
                    } else {
                        self.place(unit.state, &inner, &dot_git, &mut inner_told)?;
                    }
                }
                GitPlace::Module(name) => {
                    let folder = git_dir.join("modules").join(as_path(name));
                    fs::create_dir_all(&folder)?;
                    let home = home.module(path, name);
                    self.build(unit.state, &inner, &folder, &home, &mut inner_told)?;
                    match open_folder(worktree, path) {
                        Ok(folder) => write_link(&folder, &inner, &home.link())?,
                        Err(_) => {
                            told.note(
                                GitOmitReason::Missing,
                                format!("the folder {}", shown(path)),
                            );
                        }
                    }
                }
            }
            for it in inner_told.into_list() {
                told.note(it.reason, format!("{}: {}", shown(path), it.what));
            }
        }
        Ok(())
    }
}

enum Unpacking {
    Write(std::io::Error),
    Store(StoreError),
}

impl From<StoreError> for Unpacking {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Refuses two modules of which one would lie in the folder of the other.
fn check_units(units: &[GitUnit]) -> Result<(), GitError> {
    let names = units.iter().filter_map(|unit| match &unit.place {
        GitPlace::Module(name) => Some(name.to_ascii_lowercase()),
        GitPlace::Embedded => None,
    });
    let mut known = BTreeSet::new();
    for name in names {
        if !known.insert(name.clone()) {
            return Err(GitError::refused(
                format!("the submodule {}", shown(&name)),
                "there are two",
            ));
        }
    }
    for name in &known {
        let mut slashes = name.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        if slashes.any(|(at, _)| name.get(..at).is_some_and(|outer| known.contains(outer))) {
            let what = format!("the submodule {}", shown(name));
            return Err(GitError::refused(what, "it would lie inside another one"));
        }
    }
    let utf8 = |unit: &&GitUnit| std::str::from_utf8(unit.path.as_bytes()).is_err();
    match units.iter().find(utf8) {
        Some(unit) if unit.place != GitPlace::Embedded => {
            let what = format!("the submodule in {}", shown(unit.path.as_bytes()));
            Err(GitError::refused(what, "its path is no text"))
        }
        _ => Ok(()),
    }
}

fn repository(worktree: &Path, git_dir: &Path, state: &GitState) -> Repository {
    Repository {
        worktree: worktree.to_owned(),
        git_dir: git_dir.to_owned(),
        common_dir: git_dir.to_owned(),
        hash: state.hash,
        storage: state.storage,
        config: Vec::new(),
        untold: 0,
        is_partial: false,
    }
}

/// Refuses refs to objects that did not come.
fn check_targets(view: &View<'_>, state: &GitState, refs: &[GitRef]) -> Result<(), GitError> {
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

fn write_file(git_dir: &Path, file: &GitFile, state: &GitState) -> Result<(), GitError> {
    let path = file.path.as_bytes();
    // Written before, or through git.
    let in_tables = state.storage == RefStorage::Reftable && path.starts_with(b"logs/");
    if path == b"shallow" || in_tables {
        return Ok(());
    }
    let full = git_dir.join(as_path(path));
    if let Some(folder) = full.parent() {
        fs::create_dir_all(folder)?;
    }
    write_new(&full, &file.bytes)
}

fn repo_trusts_mode(settings: &[baton_protocol::object::GitSetting]) -> bool {
    let found = settings.iter().rfind(|it| it.section == "core" && it.key == "filemode");
    found.is_none_or(|it| is_yes(&it.value))
}

/// The file of an index, with what the files look like here.
fn index_bytes(
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
    let clean = index.entries.iter().filter(|entry| entry.clean.is_some()).count();
    let mut waits = 0;
    let stats = loop {
        let tick = tick(git_dir)?;
        let stats = remember(&index.entries, worktree, trusts_mode, tick)?;
        // Files that were written in this very moment may be written again in it, so it has to pass.
        if stats.known.len() == clean || !stats.has_young || waits == WAITS {
            break stats.known;
        }
        waits += 1;
        std::thread::sleep(WAIT);
    };
    index::write(index, &stats, &trees, &there)
}

/// What the file system says of the time.
fn tick(git_dir: &Path) -> Result<(i64, i64), GitError> {
    use std::os::unix::fs::MetadataExt;
    let path = git_dir.join("tick");
    let file = fs::create_new(&path)?;
    let metadata = file.metadata().context("looking at", &path)?;
    fs::remove_file(&path)?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

/// Opens a folder below a worktree, through no link.
fn open_folder(worktree: &Path, path: &[u8]) -> Result<std::os::fd::OwnedFd, GitError> {
    let full = worktree.join(as_path(path));
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = rustix::fs::open(worktree, top, Mode::empty()).context("opening", worktree)?;
    for name in path.split(|&byte| byte == b'/') {
        at = rustix::fs::openat(&at, name, flags, Mode::empty()).context("opening", &full)?;
    }
    Ok(at)
}

/// Writes the `.git` of a submodule, which names its folder.
fn write_link(folder: &std::os::fd::OwnedFd, inner: &Path, text: &[u8]) -> Result<(), GitError> {
    let dot_git = inner.join(".git");
    if rustix::fs::statat(folder, ".git", AtFlags::SYMLINK_NOFOLLOW).is_ok() {
        return Err(GitError::refused(dot_git.display().to_string(), "it is there already"));
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let file = rustix::fs::openat(folder, ".git", flags, mode).context("creating", &dot_git)?;
    Ok(std::fs::File::from(file).write_all(text).context("writing", &dot_git)?)
}

//! A repository made again beside the files of its worktree.
//!
//! A state may come from anyone who may write into the vault: all that it says is checked here, and what
//! git would take from it without a question is worked out anew.
//!
//! **Invariant:** until everything is there and checked, a worktree has no `.git`. What is built before stands in
//! another folder, and goes if the rebuild fails.

mod home;
mod placing;
mod arrived;
mod taking;
mod former;
mod updating;
mod linked;
mod brought;

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{
    Blob, GitFile, GitFiles, GitIndex, GitOid, GitOids, GitOmission, GitOmitReason, GitPack,
    GitPlace, GitRef, GitRefs, GitSetting, GitSettings, GitState, MAX_GIT_UNITS, RefStorage,
};

use super::capture::load_state;
use super::place::{Repository, is_yes, parse_config};
use super::program::{GitProgram, Run};
use super::refs::MAX_HEAD_LINES;
use super::view::{View, format_config, random_name, write_new, write_skeleton};
use super::{GitError, MAX_LIST, Told, as_path, files, refs, settings, shown};
use crate::chunk::{for_each_extent, read_chunk};
use crate::error::StoreError;
use crate::fs;
use crate::objects::ObjectSource;
use crate::snapshot::load_blob;
use arrived::{Worktree, check_logs, check_resolutions, check_targets, index_bytes};
pub use brought::{
    Arrival, ArrivalOptions, BringOptions, Brought, EntryAction, EntryClash, EntryOutcome,
    FilesBrought, RefAction, RefOutcome, TextMerge, arrive,
};
pub(crate) use brought::{
    CheckoutRepository, EntryChange, Placed, RefStep, Standing, Still, When, new_objects, three_way,
};
pub use former::Former;
use former::Known;
use home::{Home, Link, check_units};
pub use linked::{LinkPlace, Linked, is_related, link};
use placing::{Building, Placing, Spot};

/// Deepest nesting of repositories.
const MAX_DEPTH: usize = 16;

/// Most repositories of one rebuild, all nesting counted. One state may stand in many places, so that a few states
/// can unfold to any number of repositories.
const MAX_REPOSITORIES: usize = MAX_GIT_UNITS;

/// Bytes of the lists of all of them.
const MAX_LISTS: u64 = 2 * MAX_LIST;

/// Memory in which git may take in a pack, in bytes, and more by each byte of it: a few bytes of a pack can say that
/// they are an object of any size. The smallest objects take about 20 bytes of a pack, and git some 200 for each.
const MEMORY: u64 = 4 << 30;
const MEMORY_BY_PACK: u64 = 16;

/// What git refuses only because very old programs wrote it: history is full of it, and it does no harm.
const HARMLESS: [&str; 18] = [
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
    "nullSha1",
    "nulInCommit",
    "zeroPaddedDate",
    "zeroPaddedFilemode",
];

/// What may run when git goes on with what it is in the middle of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Commands {
    /// Whatever the state has: it comes from who will run it. That a file is as the index has it is then
    /// believed also where a filter made it, which nobody can prove without the filter.
    All,
    /// These lines and no other, such as those that went there: it comes from where an agent was at work.
    /// Files that a filter made are then looked at by git.
    Only(BTreeSet<String>),
}

/// How a repository is rebuilt.
#[derive(Clone, Debug)]
pub struct RebuildOptions {
    /// Git.
    pub git: GitProgram,
    /// A folder for what git needs for a moment.
    pub scratch: PathBuf,
    /// A folder of the same file system as the worktree, in which the repository is built.
    pub beside: PathBuf,
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
    /// Whether it was made out of a former one.
    pub took_over: bool,
}

/// Makes the repository of a worktree whose files are there, and those inside it. Files that are said to be as the index
/// has them are read, and of those the ones that were written in this very second are dated a second back.
pub fn rebuild<S: ObjectSource + ?Sized>(
    source: &S,
    state: GitStateId,
    worktree: &Path,
    options: &RebuildOptions,
) -> Result<Rebuilt, GitError> {
    rebuild_over(source, state, worktree, options, None)
}

/// The same in the place of a repository that stood there. Inner ones are made anew.
pub fn rebuild_over<S: ObjectSource + ?Sized>(
    source: &S,
    state: GitStateId,
    worktree: &Path,
    options: &RebuildOptions,
    former: Option<Former>,
) -> Result<Rebuilt, GitError> {
    let mut plan = Plan { source, options, former: None };
    plan.check(state, 0, &mut Budget { repositories: MAX_REPOSITORIES, bytes: MAX_LISTS })?;
    let dot_git = worktree.join(".git");
    if !worktree.is_dir() {
        return Err(GitError::refused(worktree.display().to_string(), "it is no folder"));
    }
    if dot_git.symlink_metadata().is_ok() {
        return Err(GitError::refused(dot_git.display().to_string(), "it is there already"));
    }
    if let Some(former) = former {
        plan.former = plan.take_over(former, state, worktree)?;
    }
    let mut told = Told::default();
    let mut placing = Placing::default();
    plan.place(state, &Spot::outermost(worktree), &mut placing, &mut told)?;
    placing.finish()?;
    let took_over = plan.former.is_some();
    Ok(Rebuilt { git_dir: dot_git, omitted: told.into_list(), took_over })
}

/// What is left for the repositories of a rebuild.
struct Budget {
    repositories: usize,
    bytes: u64,
}

impl Budget {
    fn take(&mut self, state: &GitState) -> Result<(), GitError> {
        let lists = [Some(state.refs), state.index, Some(state.settings), state.files];
        let bytes = lists.into_iter().flatten().map(|blob| blob.size).fold(0, u64::saturating_add);
        let left = self.repositories.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        let too_much = || GitError::refused("the state", "it unfolds to more than any project has");
        (self.repositories, self.bytes) = left.ok_or_else(too_much)?;
        Ok(())
    }
}

/// A state and its lists.
struct Loaded {
    state: GitState,
    refs: Vec<GitRef>,
    index: Option<GitIndex>,
    settings: GitSettings,
    files: Vec<GitFile>,
}

struct Plan<'a, S: ?Sized> {
    source: &'a S,
    options: &'a RebuildOptions,
    /// What the outermost repository takes over.
    former: Option<Known>,
}

impl<S: ObjectSource + ?Sized> Plan<'_, S> {
    /// Checks a state and those inside it before anything is written. What is read of one is let go before the next.
    fn check(&self, id: GitStateId, depth: usize, budget: &mut Budget) -> Result<(), GitError> {
        if depth > MAX_DEPTH {
            return Err(GitError::refused("the state", "its repositories nest too deeply"));
        }
        let state = self.load_state(id)?;
        budget.take(&state)?;
        check_units(&state.units)?;
        drop(self.load(id)?);
        state.units.iter().try_for_each(|unit| self.check(unit.state, depth + 1, budget))
    }

    fn load_state(&self, id: GitStateId) -> Result<GitState, GitError> {
        load_state(self.source, id)
    }

    fn load(&self, id: GitStateId) -> Result<Loaded, GitError> {
        let state = self.load_state(id)?;
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

    /// What a pack was made for.
    fn tips(&self, pack: &GitPack) -> Result<BTreeSet<GitOid>, GitError> {
        Ok(GitOids::decode(&self.list(pack.tips)?)?.oids.into_iter().collect())
    }

    /// Builds a repository elsewhere, to be put in the place of its `.git`.
    fn place(
        &self,
        id: GitStateId,
        spot: &Spot,
        placing: &mut Placing,
        told: &mut Told,
    ) -> Result<(), GitError> {
        let folder = self.options.beside.join(format!("git-{}", random_name()?));
        let building = Building(Some(folder.clone()));
        self.build(id, spot, &folder, &Home::outermost(), placing, told)?;
        placing.built.push((building, spot.clone()));
        Ok(())
    }

    /// Builds a repository in a folder.
    fn build(
        &self,
        id: GitStateId,
        spot: &Spot,
        git_dir: &Path,
        home: &Home,
        placing: &mut Placing,
        told: &mut Told,
    ) -> Result<(), GitError> {
        let Loaded { state, refs, index, settings, mut files } = self.load(id)?;
        write_skeleton(git_dir, state.hash, state.storage)?;
        // Before the packs: what stands in it has no parents.
        if let Some(shallow) = files.iter().find(|file| file.path.as_bytes() == b"shallow") {
            write_new(&git_dir.join("shallow"), &shallow.bytes)?;
        }
        let former = self.former.as_ref().filter(|_| spot.is_outermost());
        if let Some(former) = former {
            former.give(git_dir)?;
        }
        let worktree = spot.full();
        let kept = settings::select(&settings.0, &worktree, spot.top(), told);
        let is_partial = kept.iter().any(|it| it.section == "remote" && it.key == "promisor");
        let there = former.map_or(0, |former| former.packs.len());
        for pack in state.packs.iter().skip(there) {
            self.unpack(self.options.git.at(git_dir), pack.blob, is_partial)?;
        }
        let repo = repository(&worktree, git_dir, &state);
        let view = View::new(&self.options.git, &self.options.scratch, &repo)?;
        check_targets(&view, &state, &refs)?;
        check_logs(&view, &state, &mut files, told)?;
        check_resolutions(spot.open().ok().as_ref(), &mut files, told);
        self.write_refs(git_dir, &state, &refs, &files, told)?;
        for file in &files {
            write_file(git_dir, file, &state)?;
        }
        if let Some(index) = &index {
            let trusts_mode = repo_trusts_mode(&kept);
            let files = self.files_of(spot, &worktree);
            let known = former.and_then(|former| former.index.as_ref());
            let bytes =
                index_bytes(index, files.as_ref(), known, git_dir, trusts_mode, &view, told)?;
            write_new(&git_dir.join("index"), &bytes)?;
        }
        drop(view);
        for line in files::commands(&files) {
            told.note(GitOmitReason::Runs, line);
        }
        if let Some(former) = former {
            former.part(git_dir)?;
        }
        self.build_units(&state, spot, git_dir, home, placing, told)?;
        let location = home.location();
        let format = format_config(state.hash, state.storage, location.as_deref());
        let config = [format.as_bytes(), &settings::write(&kept)].concat();
        if parse_config(&config).is_none() {
            return Err(GitError::refused("the settings", "git could not read them"));
        }
        Ok(fs::write_atomic(&git_dir.join("config"), &config, 0o600)?)
    }

    /// The files of a worktree; nothing where there is none, and through no link.
    fn files_of<'w>(&'w self, spot: &Spot, path: &'w Path) -> Option<Worktree<'w>> {
        let folder = spot.open().ok()?;
        // What only a filter could show is believed of who will run what the state has.
        let believes = self.options.commands == Commands::All;
        let filters_by = believes.then_some(&self.options.git);
        Some(Worktree { folder, path, filters_by })
    }

    /// Gives a pack to git, which checks every object in it and that what they name is there.
    fn unpack(&self, git: Run<'_>, blob: Blob, is_partial: bool) -> Result<(), GitError> {
        const DOING: &str = "take in a pack";
        // In a partial clone what objects name need not be there.
        let check = if is_partial { "--fsck-objects" } else { "--strict" };
        let harmless: Vec<_> = HARMLESS.iter().map(|it| format!("{it}=ignore")).collect();
        let check = format!("{check}={}", harmless.join(","));
        let mut failed: Option<StoreError> = None;
        let ended = git
            .args(["index-pack", "--stdin", "--fix-thin", &check])
            .args(is_partial.then_some("--promisor"))
            .memory(MEMORY.saturating_add(blob.size.saturating_mul(MEMORY_BY_PACK)))
            .run(
                DOING,
                |mut stdin| {
                    for_each_extent(self.source, blob, |_, extent| {
                        let bytes = read_chunk(self.source, extent)?;
                        stdin.write_all(&bytes).map_err(Unpacking::Write)
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
        told: &mut Told,
    ) -> Result<(), GitError> {
        match state.storage {
            RefStorage::Files => refs::write_files(git_dir, &state.head, refs),
            RefStorage::Reftable => {
                fs::create_dir_all(&git_dir.join("reftable"))?;
                write_new(&git_dir.join("reftable/tables.list"), b"")?;
                let logs @ [head, _] = [&b"logs/HEAD"[..], b"logs/refs/stash"].map(|path| {
                    let log = files.iter().find(|file| file.path.as_bytes() == path);
                    log.map_or(&b""[..], |file| &file.bytes)
                });
                if head.split(|&byte| byte == b'\n').count() > MAX_HEAD_LINES + 1 {
                    let what = format!("logs/HEAD before its last {MAX_HEAD_LINES} lines");
                    told.note(GitOmitReason::NotCarried, what);
                }
                let git = || self.options.git.at(git_dir);
                refs::write_tables(git, state.hash, &state.head, refs, logs)
            }
        }
    }

    fn build_units(
        &self,
        state: &GitState,
        spot: &Spot,
        git_dir: &Path,
        home: &Home,
        placing: &mut Placing,
        told: &mut Told,
    ) -> Result<(), GitError> {
        for unit in &state.units {
            let path = unit.path.as_bytes();
            let inner = spot.inner(path);
            let mut inner_told = Told::default();
            let is_there = inner.open().is_ok();
            if !is_there {
                told.note(GitOmitReason::Missing, format!("the folder {}", shown(path)));
            }
            match &unit.place {
                GitPlace::Embedded if is_there => {
                    self.place(unit.state, &inner, placing, &mut inner_told)?;
                }
                GitPlace::Embedded => {}
                GitPlace::Module(name) => {
                    let folder = git_dir.join("modules").join(as_path(name));
                    fs::create_dir_all(&folder)?;
                    let home = home.module(path, name);
                    if is_there {
                        placing.links.push((Link(home.link()), inner.clone()));
                    }
                    self.build(unit.state, &inner, &folder, &home, placing, &mut inner_told)?;
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

fn repo_trusts_mode(settings: &[GitSetting]) -> bool {
    let found = settings.iter().rfind(|it| it.section == "core" && it.key == "filemode");
    found.is_none_or(|it| is_yes(&it.value))
}

//! A state made a linked worktree of a repository that is there: its objects and refs beside those that are there, its
//! index and what git is in the middle of in the folder of the new worktree.
//!
//! **Invariant:** no ref of the repository moves, and none that git would move when it goes on with what it is in the
//! middle of is one that was there: what came has refs of its own.
//!
//! **Invariant:** until [`Linked::keep`] all of it can go again, and does.

mod stands;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{
    GitFile, GitHash, GitOid, GitOmission, GitOmitReason, GitRef, GitRefName, GitTarget, RefStorage,
};

use super::arrived::{Worktree, check_logs, check_targets, index_bytes};
use super::placing::{Placing, Spot};
use super::taking::{take_in, targets};
use super::updating::{Lines, update_refs};
use super::{
    Budget, Commands, Loaded, MAX_LISTS, MAX_REPOSITORIES, Plan, RebuildOptions, repo_trusts_mode,
};
use crate::fs;
use crate::git::place::{Repository, read_file};
use crate::git::program::GitProgram;
use crate::git::refs::{self, is_private};
use crate::git::view::{View, random_name, write_new};
use crate::git::{
    GitError, Told, as_path, files as git_files, objects, quarantine, shown, summary,
};
use crate::objects::ObjectSource;
use stands::{Stands, free_name, stands_on};

/// Most refs that come, beside the branch: a run can make any number.
const MAX_REFS: usize = 1000;

/// Longest file that names a folder.
const MAX_LINK: u64 = 8 * 1024;

/// What reflogs say of refs that come.
const PULLED: &str = "baton pull";

/// Longest answer of a git that changes something.
const MAX_ANSWER: u64 = 1 << 20;

/// Where a linked worktree is made, and what its branch is called after.
#[derive(Clone, Copy, Debug)]
pub struct LinkPlace<'a> {
    /// A worktree of the repository.
    pub checkout: &'a Path,
    /// Where the files will be.
    pub place: &'a Path,
    /// The branch is `handoff/` and this, or like it where that is taken.
    pub name: &'a str,
}

/// A linked worktree. It goes again, but for objects that were let in, unless it is [kept](Linked::keep).
#[derive(Debug)]
pub struct Linked {
    git: GitProgram,
    common_dir: PathBuf,
    /// The folder of the worktree in the repository.
    git_dir: Option<PathBuf>,
    /// Refs that were made, but for the branch.
    refs: Vec<(Vec<u8>, GitOid)>,
    /// The branch, without `refs/heads/`.
    branch: String,
    tip: Option<GitOid>,
    /// Whether refs are in tables.
    in_tables: bool,
    omitted: Vec<GitOmission>,
    is_shallow: bool,
    is_kept: bool,
}

impl Linked {
    /// Makes it stay; from here on git may take it away where its files are gone.
    pub fn keep(&mut self) {
        self.is_kept = true;
        if let Some(folder) = &self.git_dir
            && let Err(error) = fs::remove_file(&folder.join("locked"))
        {
            tracing::warn!(%error, "a worktree stays locked");
        }
    }

    /// The branch, without `refs/heads/`.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// Other refs that came.
    pub fn refs(&self) -> impl Iterator<Item = &[u8]> {
        self.refs.iter().map(|(name, _)| name.as_slice())
    }

    /// Whether its history, or that of a repository inside it, ends before its beginning.
    pub const fn is_shallow(&self) -> bool {
        self.is_shallow
    }

    /// What was not taken, and what is to be looked at.
    pub fn omitted(&self) -> &[GitOmission] {
        &self.omitted
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        if self.is_kept {
            return;
        }
        if let Some(folder) = &self.git_dir
            && let Err(error) = fs::remove_dir_all(folder)
        {
            tracing::warn!(%error, "a worktree that was not finished is left behind");
        }
        let branch = self.tip.map(|tip| (self.full_name(), tip));
        let mut lines = Lines::default();
        for (name, oid) in self.refs.iter().chain(&branch) {
            lines.add("delete", name, *oid);
        }
        if update_refs(&self.git, &self.common_dir, PULLED, &lines).is_ok() {
            return;
        }
        // One that was moved meanwhile stays, and keeps no other one.
        let each = self.refs.iter().chain(&branch).map(|(name, oid)| {
            let mut line = Lines::default();
            line.add("delete", name, *oid);
            update_refs(&self.git, &self.common_dir, PULLED, &line)
        });
        for error in each.filter_map(Result::err) {
            tracing::warn!(%error, "refs of a worktree that was not finished are left behind");
        }
    }
}

/// Makes a state a linked worktree of the repository of a checkout; its files are at `files_at` until they are put in their place.
pub fn link<S: ObjectSource + ?Sized>(
    source: &S,
    state: GitStateId,
    files_at: &Path,
    at: LinkPlace<'_>,
    options: &RebuildOptions,
) -> Result<Linked, GitError> {
    let plan = Plan { source, options, former: None };
    plan.check(state, 0, &mut Budget { repositories: MAX_REPOSITORIES, bytes: MAX_LISTS })?;
    let Loaded { state, refs, index, mut files, .. } = plan.load(state)?;
    let repo = Repository::open(at.checkout, None)?;
    if repo.hash != state.hash {
        let what = at.checkout.display().to_string();
        return Err(GitError::refused(what, "its repository names objects in another way"));
    }
    let mut told = Told::default();
    let mut view = View::new(&options.git, &options.scratch, &repo)?;
    view.keep_apart(quarantine::folder_in(&repo.common_dir.join("objects"), &random_name()?))?;
    let here = refs::read(
        &repo,
        (repo.storage == RefStorage::Reftable).then_some(&view),
        &mut Told::default(),
    )?;
    let taken = take_in(&plan, (&state, &refs), &here.refs, &view, repo.is_partial);
    // What the state ends at has more behind it where it comes from, and so is to have here.
    if files.iter().any(|file| file.path.as_bytes() == b"shallow")
        && matches!(taken, Err(GitError::Git { .. } | GitError::Refused { .. }))
    {
        let what = match &taken {
            Err(error) => format!("the repository of the checkout ({error})"),
            Ok(()) => "the repository of the checkout".to_owned(),
        };
        let why = "it may lack history that this builds on: git fetch --unshallow, or take it into a folder of its own";
        return Err(GitError::refused(what, why));
    }
    taken?;
    check_targets(&view, &state, &refs)?;
    check_logs(&view, &state, &mut files, &mut told)?;

    let stands = stands_on(&state, &refs, &files);
    let mut inner_is_shallow = false;
    for unit in &state.units {
        inner_is_shallow |= summary::is_shallow(source, unit.state)?;
    }
    let branch = free_name(&here.refs, at.name)?;
    let mut linked = Linked {
        git: options.git.clone(),
        common_dir: repo.common_dir.clone(),
        git_dir: None,
        refs: Vec::new(),
        branch,
        tip: None,
        in_tables: repo.storage == RefStorage::Reftable,
        omitted: Vec::new(),
        // A repository inside is made as it came.
        is_shallow: repo.common_dir.join("shallow").is_file() || inner_is_shallow,
        is_kept: false,
    };
    // From here on refs name them.
    view.let_in()?;
    linked.make_refs(&here.refs, &refs, &files, (&stands, state.hash), &mut told)?;
    let git_dir = linked.add_worktree(&stands, (files_at, at.place), options)?;
    linked.write_own(&git_dir, &refs, &files, &mut told)?;
    let spot = Spot::outermost(files_at);
    if let Some(index) = &index {
        let folder = spot.open()?;
        let worktree = Worktree { folder, path: files_at, filters_by: None };
        let trusts = repo_trusts_mode(&repo.config);
        let bytes = index_bytes(index, Some(&worktree), None, &git_dir, trusts, &view, &mut told)?;
        fs::write_atomic(&git_dir.join("index"), &bytes, 0o644)?;
    }
    drop(view);
    // Each gets a folder of its own: those of submodules are where their own worktree is.
    let mut placing = Placing::default();
    for unit in &state.units {
        let path = unit.path.as_bytes();
        let inner = spot.inner(path);
        let mut of_unit = Told::default();
        if inner.open().is_ok() {
            match plan.place(unit.state, &inner, &mut placing, &mut of_unit) {
                Err(GitError::Fs(error)) => {
                    let what = format!("the repository in {}: {error}", shown(path));
                    told.note(GitOmitReason::NotCarried, what);
                }
                placed => placed?,
            }
        } else {
            told.note(GitOmitReason::Missing, format!("the folder {}", shown(path)));
        }
        for it in of_unit.into_list() {
            told.note(it.reason, format!("{}: {}", shown(path), it.what));
        }
    }
    if let Err(error) = placing.finish() {
        told.note(GitOmitReason::NotCarried, format!("repositories inside: {error}"));
    }
    linked.omitted = told.into_list();
    Ok(linked)
}

/// Whether the repository of a checkout has a commit that a state knows: then their histories are one. Nothing where the
/// state knows none.
pub fn is_related<S: ObjectSource + ?Sized>(
    source: &S,
    state: GitStateId,
    checkout: &Path,
    git: &GitProgram,
    scratch: &Path,
) -> Result<Option<bool>, GitError> {
    let options = RebuildOptions {
        git: git.clone(),
        scratch: scratch.to_owned(),
        beside: scratch.to_owned(),
        commands: Commands::All,
    };
    let Loaded { state, refs, files, .. } =
        Plan { source, options: &options, former: None }.load(state)?;
    let repo = Repository::open(checkout, None)?;
    if repo.hash != state.hash {
        return Ok(Some(false));
    }
    let mut known = targets(refs.iter().map(|it| &it.target));
    known.extend(files.iter().flat_map(|file| git_files::logged(file, state.hash)));
    if known.is_empty() {
        return Ok(None);
    }
    let view = View::new(git, scratch, &repo)?;
    Ok(Some(!objects::present(&view, state.hash, &known)?.is_empty()))
}

impl Linked {
    fn full_name(&self) -> Vec<u8> {
        [b"refs/heads/", self.branch.as_bytes()].concat()
    }

    /// Makes the branch, and refs of its own for what else is not here.
    fn make_refs(
        &mut self,
        here: &BTreeMap<GitRefName, GitTarget>,
        there: &[GitRef],
        files: &[GitFile],
        (stands, hash): (&Stands, GitHash),
        told: &mut Told,
    ) -> Result<(), GitError> {
        let folder = format!("refs/{}", self.branch);
        let mut made = Vec::new();
        for GitRef { name, target } in there {
            let bytes = name.as_bytes();
            let is_own = stands.name.as_deref() == Some(bytes) || bytes == b"refs/stash";
            let GitTarget::Object(oid) = target else { continue };
            // What an origin has, the repository gets from there.
            let is_remote = bytes.starts_with(b"refs/remotes/");
            if is_own || is_remote || is_private(bytes) || here.get(name) == Some(target) {
                continue;
            }
            let Some(rest) = bytes.strip_prefix(b"refs/") else { continue };
            made.push(([folder.as_bytes(), b"/", rest].concat(), *oid));
        }
        // The list of stashes is one for all worktrees: each that came gets a ref.
        let known: BTreeSet<GitOid> = targets(here.values());
        let log = files.iter().find(|file| file.path.as_bytes() == b"logs/refs/stash");
        let lines = log.iter().flat_map(|log| log.bytes.split(|&byte| byte == b'\n'));
        let stashes: Vec<_> = lines.filter_map(|it| git_files::parse_log_line(it, hash)).collect();
        let stashes = stashes.into_iter().rev().map(|line| line.new);
        let new = stashes.filter(|oid| !oid.is_null() && !known.contains(oid));
        made.extend(
            new.enumerate().map(|(at, oid)| (format!("{folder}/stash/{at}").into_bytes(), oid)),
        );
        if made.len() > MAX_REFS {
            let what = format!("{} of {} refs", made.len() - MAX_REFS, made.len());
            told.note(GitOmitReason::NotCarried, what);
            made.truncate(MAX_REFS);
        }
        let mut lines = Lines::default();
        for (name, oid) in &made {
            lines.add("create", name, *oid);
        }
        if let Some(tip) = stands.tip {
            lines.add("create", &self.full_name(), tip);
        }
        update_refs(&self.git, &self.common_dir, PULLED, &lines)?;
        (self.refs, self.tip) = (made, stands.tip);
        Ok(())
    }

    /// Has git make the folder of the worktree, and ties it to where the files will be.
    fn add_worktree(
        &mut self,
        stands: &Stands,
        (files, place): (&Path, &Path),
        options: &RebuildOptions,
    ) -> Result<PathBuf, GitError> {
        const DOING: &str = "add a worktree";
        let aside = options.scratch.join(format!("worktree-{}", random_name()?));
        fs::create_dir_all(&aside)?;
        let name = place.file_name().unwrap_or(std::ffi::OsStr::new("handoff"));
        let for_now = aside.join(name);
        let run = self.git.at(&self.common_dir).args([
            "-c",
            "worktree.useRelativePaths=false",
            "worktree",
            "add",
            "-q",
            // Until its files are there nobody is to prune it.
            "--lock",
        ]);
        let run = match (stands.tip, stands.detached) {
            (_, Some(oid)) => run
                .args(["--no-checkout", "--detach"])
                .args([for_now.as_os_str(), oid.to_string().as_ref()]),
            (Some(_), None) => {
                run.args(["--no-checkout"]).args([for_now.as_os_str(), self.branch.as_ref()])
            }
            (None, None) => run.args(["--orphan", "-b", &self.branch]).args([for_now.as_os_str()]),
        };
        let added = run.bytes(DOING, b"", MAX_ANSWER).and_then(|ended| ended.checked(DOING));
        let link = read_file(&for_now.join(".git"), MAX_LINK).ok().flatten().unwrap_or_default();
        let git_dir = link.strip_prefix(b"gitdir: ").map(<[u8]>::trim_ascii_end);
        self.git_dir = git_dir.map(|path| as_path(path).to_owned());
        fs::remove_dir_all(&aside)?;
        added?;
        let unread = || GitError::Git { doing: DOING, said: "it made no worktree".into() };
        let git_dir = self.git_dir.clone().ok_or_else(unread)?;
        self.forget_sparse(&git_dir)?;
        let mut link_back = place.join(".git").as_os_str().as_bytes().to_vec();
        link_back.push(b'\n');
        fs::write_atomic(&git_dir.join("gitdir"), &link_back, 0o644)?;
        let link = [b"gitdir: ", git_dir.as_os_str().as_bytes(), b"\n"].concat();
        write_new(&files.join(".git"), &link)?;
        Ok(git_dir)
    }

    /// Takes back that git gives a new worktree what the other one says of files that are not wanted: all are here.
    fn forget_sparse(&self, git_dir: &Path) -> Result<(), GitError> {
        const DOING: &str = "set up a worktree";
        fs::remove_file(&git_dir.join("info/sparse-checkout"))?;
        let config = git_dir.join("config.worktree");
        if !config.exists() {
            return Ok(());
        }
        for key in ["core.sparseCheckout", "core.sparseCheckoutCone", "index.sparse"] {
            let run = self.git.at(git_dir).args(["config", "--file"]);
            let run = run.args([config.as_os_str(), key.as_ref(), "false".as_ref()]);
            run.bytes(DOING, b"", MAX_ANSWER)?.checked(DOING)?;
        }
        Ok(())
    }

    /// Writes what is the worktree's own: refs, and files of what git is in the middle of.
    fn write_own(
        &self,
        git_dir: &Path,
        refs: &[GitRef],
        files: &[GitFile],
        told: &mut Told,
    ) -> Result<(), GitError> {
        let full = [&self.full_name()[..], b"\n"].concat();
        let mut lines = Lines::default();
        for GitRef { name, target } in refs {
            if let GitTarget::Object(oid) = target
                && (name.is_root() || is_private(name.as_bytes()))
            {
                lines.add("update", name.as_bytes(), *oid);
            }
        }
        update_refs(&self.git, git_dir, PULLED, &lines)?;
        for file in files {
            let path = file.path.as_bytes();
            let bytes: &[u8] = match path {
                b"shallow" | b"info/exclude" | b"info/attributes" | b"logs/refs/stash" => continue,
                // What is resolved is in a folder that all worktrees share.
                b"MERGE_RR" | b"info/sparse-checkout" => {
                    told.note(GitOmitReason::NotCarried, shown(path));
                    continue;
                }
                _ if path.starts_with(b"rr-cache/") => continue,
                // Where refs are in tables, their logs are, too.
                b"logs/HEAD" if self.in_tables => {
                    told.note(GitOmitReason::NotCarried, shown(path));
                    continue;
                }
                // Branches that a rebase moves with its own.
                b"rebase-merge/update-refs" => {
                    told.note(GitOmitReason::Elsewhere, shown(path));
                    continue;
                }
                b"rebase-merge/head-name" | b"rebase-apply/head-name"
                    if file.bytes.starts_with(b"refs/heads/") =>
                {
                    &full
                }
                b"BISECT_START" if self.tip.is_some() => {
                    full.strip_prefix(b"refs/heads/").unwrap_or(&full)
                }
                _ => &file.bytes,
            };
            let to = git_dir.join(as_path(path));
            if let Some(folder) = to.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write_atomic(&to, bytes, 0o644)?;
        }
        Ok(())
    }
}

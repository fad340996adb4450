//! What a run left in its repository, brought into that of a checkout that has moved on.
//!
//! - [`entries`]: three indexes brought together; [`blobs`]: texts of both; [`sparse`]: folders that are folded
//! - [`elsewhere`], [`moves`]: what becomes of refs
//! - [`checkout`]: the repository of a checkout while it is changed
//! - [`stashes`]: those that the run made
//! - [`ahead`]: whether the branch that is checked out may move
//!
//! Not here: in which order it is written, and what a crash leaves.
//!
//! **Invariant:** nothing of the repository is changed by a plan: what came is kept apart until it is let in.
//!
//! **Invariant:** what the result names is there, or the plan fails.

mod entries;
mod blobs;
mod sparse;
mod elsewhere;
mod moves;
mod checkout;
mod ahead;
mod stashes;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use baton_protocol::id::GitStateId;
use baton_protocol::object::{
    GitEntry, GitHash, GitIndex, GitMode, GitOid, GitOmission, GitOmitReason, GitRef, RefStorage,
};
use baton_protocol::path::RelPath;

use super::arrived::check_targets;
use super::taking::{take_in, targets};
use super::{Budget, Commands, MAX_LISTS, MAX_REPOSITORIES, Plan, RebuildOptions};
use crate::git::index::{self, Index};
use crate::git::place::Repository;
use crate::git::program::GitProgram;
use crate::git::refs::{self, Refs};
use crate::git::view::{View, random_name};
use crate::git::{GitError, Told, objects, quarantine, shown, summary};
use crate::objects::ObjectSource;
use ahead::{Lists, takes_back};
use blobs::Merging;
use entries::{Wishes, bring_together};
use moves::{History, Sides};
use stashes::{new_stashes, whole_stashes};

pub(crate) use checkout::{CheckoutRepository, Placed, Standing};
pub use entries::{EntryAction, EntryClash, EntryOutcome};
pub(crate) use entries::{EntryChange, new_objects, three_way};
pub use moves::{RefAction, RefOutcome};
pub(crate) use moves::{RefStep, When};

/// Which states are brought together, and where.
#[derive(Clone, Copy, Debug)]
pub struct ArrivalOptions<'a> {
    /// Git.
    pub git: &'a GitProgram,
    /// A folder for what git needs for a moment.
    pub scratch: &'a Path,
    /// What the run was given.
    pub base: Option<GitStateId>,
    /// What it left.
    pub there: Option<GitStateId>,
    /// The checkout.
    pub checkout: &'a Path,
    /// After which names are made.
    pub run: &'a str,
    /// The name under which objects wait in the repository; nothing where none will be let in.
    pub aside: Option<&'a str>,
}

/// How indexes and refs are brought together.
#[derive(Clone, Debug, Default)]
pub struct BringOptions {
    /// Only what is at these paths or below them, and no branch; everything where there are none.
    pub only: Vec<RelPath>,
    /// Whether conflicts of the index are written as such.
    pub markers: bool,
    /// Paths whose files stay as they are here, because of a conflict; and so does all below them.
    pub left: Vec<RelPath>,
    /// Whether a file is in a conflict, also one that is marked.
    pub conflicts: bool,
    /// What becomes of files.
    pub files: FilesBrought,
}

/// What becomes of files, as far as the index has to follow it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FilesBrought {
    /// Those that become what they are there.
    pub taken: BTreeSet<RelPath>,
    /// Those in which both changes are.
    pub merged: BTreeSet<RelPath>,
}

/// What two edits of a text came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextMerge {
    /// Both.
    Clean(Vec<u8>),
    /// They meet.
    Conflict,
    /// It is no text, or a very long one.
    Binary,
}

/// What will be done.
#[derive(Debug)]
pub struct Brought {
    /// What becomes of the entries of each path, where that is to be told.
    pub entries: Vec<EntryAction>,
    /// What becomes of each ref, where that is to be told.
    pub refs: Vec<RefAction>,
    /// What does not come.
    pub omitted: Vec<GitOmission>,
    /// Whether something stays that should have changed, as far as that is known before.
    pub(crate) is_left: bool,
    pub(crate) hash: GitHash,
    pub(crate) run: String,
    /// What of the index changes.
    pub(crate) changes: Vec<EntryChange>,
    pub(crate) steps: Vec<RefStep>,
}

impl Brought {
    /// Whether the branch that is checked out stays, because something else does.
    pub const fn is_left(&self) -> bool {
        self.is_left
    }

    /// Whether there is nothing to do.
    pub const fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.steps.is_empty()
    }
}

/// What came, and the repository to which it came.
#[derive(Debug)]
pub struct Arrival<'a> {
    pub(crate) checkout: CheckoutRepository,
    view: View<'a>,
    run: String,
    base: (Refs, Option<GitIndex>),
    there: (Refs, Option<GitIndex>),
    here: Refs,
    index: Option<Index>,
    /// Stashes that the run made, the newest first.
    stashes: Vec<GitOid>,
    omitted: Vec<GitOmission>,
}

/// Takes in what a run left, apart from what is there. Nothing where there is nothing to bring together; then it may be
/// that something does not come.
pub fn arrive<'a, S: ObjectSource + ?Sized>(
    source: &S,
    options: ArrivalOptions<'a>,
) -> Result<(Option<Arrival<'a>>, Vec<GitOmission>), GitError> {
    let ArrivalOptions { git, scratch, base, there, checkout, run, aside } = options;
    let Some(there) = there.filter(|_| base != there) else { return Ok((None, Vec::new())) };
    let stays = |what: &str| {
        let what = format!("the repository of the run: {what}");
        Ok((None, vec![GitOmission { what, reason: GitOmitReason::NotCarried }]))
    };
    if checkout.join(".git").symlink_metadata().is_err() {
        return stays("the checkout has none");
    }
    let Some(base) = base else { return stays("the run was given none") };
    let rebuilding = RebuildOptions {
        git: git.clone(),
        scratch: scratch.to_owned(),
        beside: scratch.to_owned(),
        // What git is in the middle of there is refused.
        commands: Commands::All,
    };
    let plan = Plan { source, options: &rebuilding, former: None };
    let mut budget = Budget { repositories: 2 * MAX_REPOSITORIES, bytes: 2 * MAX_LISTS };
    plan.check(base, 0, &mut budget)?;
    plan.check(there, 0, &mut budget)?;
    let (base, mut loaded) = (plan.load(base)?, plan.load(there)?);
    if let Some(operation) = summary::operation(&loaded.files, &loaded.refs) {
        return Err(GitError::UnderWay { operation });
    }
    let repo = Repository::open(checkout, None)?;
    if repo.hash != loaded.state.hash || repo.hash != base.state.hash {
        return stays("it names objects in another way than that of the checkout");
    }
    let mut told = Told::default();
    let mut view = View::new(git, scratch, &repo)?;
    let apart = match aside {
        Some(name) => quarantine::folder_in(&repo.common_dir.join("objects"), name),
        None => scratch.join(format!("objects-{}", random_name()?)),
    };
    view.keep_apart(apart)?;
    let in_tables = (repo.storage == RefStorage::Reftable).then_some(&view);
    let here = refs::read(&repo, in_tables, &mut Told::default())?;
    check_at_work(&here)?;
    let of_run = std::mem::take(&mut loaded.refs);
    take_in(&plan, (&loaded.state, &of_run), &here.refs, &view, repo.is_partial)?;
    check_targets(&view, &loaded.state, &of_run)?;
    let index = index::read(&repo.git_dir, repo.hash)?;
    let stashes = new_stashes(&base, &loaded, &of_run, &here);
    let stashes = whole_stashes(&view, stashes, &here, repo.is_partial, &mut told)?;
    for unit in &loaded.state.units {
        let same = base.state.units.iter().any(|it| it == unit);
        if !same {
            let path = shown(unit.path.as_bytes());
            let what = format!(
                "the commits of the repository in {path}: baton pull {run} makes a worktree that has them"
            );
            told.note(GitOmitReason::NotCarried, what);
        }
    }
    let is_partial = repo.is_partial;
    let base_refs = refs_of(base.state.head, base.refs);
    let arrival = Arrival {
        checkout: CheckoutRepository::new(git.clone(), scratch.to_owned(), repo),
        view,
        run: run.to_owned(),
        base: (base_refs, base.index),
        there: (refs_of(loaded.state.head, of_run), loaded.index),
        here,
        index,
        stashes,
        omitted: told.into_list(),
    };
    if !is_partial {
        arrival.check_entries()?;
    }
    Ok((Some(arrival), Vec::new()))
}

fn refs_of(head: baton_protocol::object::GitHead, refs: Vec<GitRef>) -> Refs {
    Refs { head, refs: refs.into_iter().map(|it| (it.name, it.target)).collect() }
}

/// Refs that git has while it is in the middle of something; where refs are in tables no file tells it.
const AT_WORK: [(&str, &str); 3] = [
    ("CHERRY_PICK_HEAD", "a cherry-pick is under way"),
    ("REVERT_HEAD", "a revert is under way"),
    ("MERGE_HEAD", "a merge is under way"),
];

/// Refuses while git is in the middle of something in a checkout.
fn check_at_work(here: &Refs) -> Result<(), GitError> {
    let is_there = |name: &str| here.refs.keys().any(|it| it.as_bytes() == name.as_bytes());
    match AT_WORK.iter().find(|(name, _)| is_there(name)) {
        Some(&(_, what)) => Err(GitError::AtWork { what }),
        None => Ok(()),
    }
}

impl Arrival<'_> {
    /// Paths that the run has in its index and was not given: they belong to its work, whatever rules say.
    pub fn tracked(&self) -> Vec<RelPath> {
        let paths = |index: &Option<GitIndex>| -> BTreeSet<Vec<u8>> {
            let entries = index.iter().flat_map(|index| &index.entries);
            entries.map(|entry| entry.path.clone()).collect()
        };
        let given = paths(&self.base.1);
        let new = paths(&self.there.1).into_iter().filter(|path| !given.contains(path));
        new.filter_map(|path| RelPath::new(&path).ok()).collect()
    }

    /// Refuses entries whose objects did not come.
    fn check_entries(&self) -> Result<(), GitError> {
        let Some(there) = &self.there.1 else { return Ok(()) };
        let given: BTreeSet<GitOid> = entries_of(self.base.1.as_ref()).map(|it| it.oid).collect();
        let is_new =
            |entry: &&GitEntry| entry.mode != GitMode::Submodule && !given.contains(&entry.oid);
        let new: BTreeMap<GitOid, &[u8]> =
            there.entries.iter().filter(is_new).map(|it| (it.oid, it.path.as_slice())).collect();
        let present = objects::present(&self.view, there.hash, &new.keys().copied().collect())?;
        match new.iter().find(|(oid, _)| !present.contains(oid)) {
            Some((_, path)) => {
                let what = format!("the entry {} of the index", shown(path));
                Err(GitError::refused(what, "its object is not in the state"))
            }
            None => Ok(()),
        }
    }

    /// Refuses changes of the index after which it would name what is not there.
    fn check_changes(&self, changes: &[EntryChange]) -> Result<(), GitError> {
        let new = entries::new_objects(changes);
        if self.checkout.is_partial() || new.is_empty() {
            return Ok(());
        }
        let there = objects::present(&self.view, self.checkout.hash(), &new)?;
        let is_missing = |it: &&GitEntry| new.contains(&it.oid) && !there.contains(&it.oid);
        match changes.iter().flat_map(|change| &change.to).find(is_missing) {
            Some(entry) => {
                let what = format!("the entry {} of the index", shown(&entry.path));
                Err(GitError::refused(what, "its object is neither in the state nor here"))
            }
            None => Ok(()),
        }
    }

    /// Finds out what has to be done; `merge` is asked for what two edits of a text come to.
    pub fn plan(
        &self,
        options: &BringOptions,
        max_text: u64,
        merge: impl FnMut(&[u8], &[u8], &[u8]) -> TextMerge,
    ) -> Result<Brought, GitError> {
        let hash = self.checkout.hash();
        let mut told = Told::default();
        let lists = [
            entries_of(self.base.1.as_ref()).cloned().collect(),
            entries_of(self.index.as_ref().map(|it| &it.meaning)).cloned().collect(),
            entries_of(self.there.1.as_ref()).cloned().collect(),
        ];
        let [base, here, there] = sparse::unfold(&self.view, hash, lists)?;
        let wishes = Wishes {
            takes: &|path| options.only.is_empty() || is_in(path, &options.only),
            is_left: &|path| is_in(path, &options.left),
            markers: options.markers,
        };
        let merging = Merging { view: &self.view, hash, max_text, merge };
        let (result, entries) = merging.during(|merged| {
            bring_together([&base, &here, &there], &wishes, |b, o, t| merged([b, o, t]))
        })?;
        let before = self.index.as_ref().map_or(&[][..], |index| &index.meaning.entries);
        // Folders that had to be unfolded only to be compared stay as they are.
        let is_changed = !entries::is_same(&here, &result);
        let changes = if is_changed { entries::changes(before, &result) } else { Vec::new() };
        self.check_changes(&changes)?;
        let sides = Sides {
            base: &self.base.0,
            here: &self.here,
            there: &self.there.0,
            elsewhere: &self.checkout.elsewhere(&self.here.head)?,
            stashes: &self.stashes,
        };
        let wishes = moves::Wishes { run: &self.run, is_part: !options.only.is_empty() };
        let mut not_carried = Vec::new();
        let (refs, steps) = moves::plan(&sides, &wishes, self, &mut not_carried)?;
        for what in not_carried {
            told.note(GitOmitReason::NotCarried, what);
        }
        let is_conflict = |it: &EntryAction| matches!(it.outcome, EntryOutcome::Conflict(_));
        let is_left = !options.left.is_empty()
            || options.conflicts
            || entries.iter().any(|it| is_conflict(it) || it.outcome == EntryOutcome::FileLeft);
        let head = steps.iter().find(|step| step.when == When::Whole);
        let is_left = is_left
            || match head.and_then(|step| Some((step.old?, step.new))) {
                Some(way) => {
                    let lists = Lists { base: &base, here: &here, there: &there, result: &result };
                    let worktree = self.checkout.worktree(self.index.as_ref());
                    takes_back(&self.view, way, &lists, &worktree, &options.files)?
                }
                None => false,
            };
        let mut omitted = self.omitted.clone();
        omitted.extend(told.into_list());
        let run = self.run.clone();
        Ok(Brought { entries, refs, omitted, is_left, hash, run, changes, steps })
    }

    /// Leaves the objects that came where they wait: whoever knows under which name lets them in.
    pub(crate) fn leave(mut self) -> CheckoutRepository {
        self.view.leave_apart();
        self.checkout
    }

    /// Looks once more at what the plan was made for, before the first write.
    pub(crate) fn still(&self, brought: &Brought) -> Result<Still, GitError> {
        let placed = self.checkout.index()?;
        let then = self.index.as_ref().map_or(&[][..], |index| &index.meaning.entries);
        let now = placed.as_ref().map_or(&[][..], |placed| &placed.index.meaning.entries);
        if !entries::is_same(then, now) {
            return Ok(Still::Moved("the index".into()));
        }
        let refs = self.checkout.refs()?;
        check_at_work(&refs)?;
        if refs.head != self.here.head {
            return Ok(Still::Moved("HEAD".into()));
        }
        let elsewhere = self.checkout.elsewhere(&refs.head)?;
        for step in &brought.steps {
            let is_same = checkout::target(&refs, &step.name) == step.old;
            if !is_same || elsewhere.contains(&step.name) {
                return Ok(Still::Moved(shown(&step.name)));
            }
        }
        if let Some(lock) = self.checkout.lock_of(&brought.steps) {
            return Ok(Still::Locked(lock));
        }
        // What git refuses it refuses now.
        self.checkout.rehearse(&self.view, &brought.steps)?;
        Ok(Still::Same(placed))
    }
}

/// Whether a repository still is what a plan was made for.
#[derive(Debug)]
pub(crate) enum Still {
    /// It is. This is its index.
    Same(Option<Placed>),
    /// This is another one.
    Moved(String),
    /// Git is about to change something, by this lock.
    Locked(PathBuf),
}

fn entries_of(index: Option<&GitIndex>) -> impl Iterator<Item = &GitEntry> {
    index.into_iter().flat_map(|index| &index.entries)
}

/// Whether a path is one of these, or below one.
fn is_in(path: &[u8], list: &[RelPath]) -> bool {
    list.iter().any(|above| {
        above.is_root()
            || path
                .strip_prefix(above.as_bytes())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
    })
}

impl History for Arrival<'_> {
    fn leads_to(&self, old: GitOid, new: GitOid) -> Result<bool, GitError> {
        const DOING: &str = "follow commits";
        let (old, new) = (old.to_string(), new.to_string());
        let args = ["merge-base", "--is-ancestor", &old, &new];
        let ended = self.view.git().args(args).bytes(DOING, b"", 1024)?;
        if ended.code == Some(1) {
            return Ok(false);
        }
        ended.checked(DOING).map(|_| true)
    }

    fn is_had(&self, oid: GitOid) -> Result<bool, GitError> {
        let mut input = format!("{oid}\n").into_bytes();
        for had in targets(self.here.refs.values()) {
            input.extend_from_slice(format!("^{had}\n").as_bytes());
        }
        if let baton_protocol::object::GitHead::Detached(head) = self.here.head {
            input.extend_from_slice(format!("^{head}\n").as_bytes());
        }
        let args = ["rev-list", "--max-count=1", "--ignore-missing", "--stdin"];
        let listed = self.view.git().args(args).bytes("follow commits", &input, 1024)?;
        Ok(listed.success && listed.value.is_empty())
    }
}

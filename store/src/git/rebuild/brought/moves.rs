//! What becomes of refs: which branches move forward, and what else comes gets a name of its own.
//!
//! **Invariant:** a branch is moved only from where it stood before the run, or to what comes after where it is; never
//! back, and never while another worktree has it. The one that is checked out here moves only where the run is on it,
//! for files and index come from there. Nothing that is here is deleted.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::{GitHead, GitOid, GitRefName, GitTarget};

use crate::git::refs::{Refs, is_private};
use crate::git::{GitError, shown};

/// Most refs that come: a run can make any number.
const MAX_REFS: usize = 1000;

/// Longest name of a ref, and longest part of one, in bytes: git makes files of them, whose paths it makes longer.
const MAX_NAME: usize = 1000;
const MAX_PART: usize = 200;

/// Names that are tried.
const MAX_NAMES: usize = 1000;

/// Names that stand for other names, on the way to a branch: as many as git follows.
const MAX_LINKS: usize = 5;

const HEADS: &[u8] = b"refs/heads/";

/// When a ref is changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum When {
    Always = 0,
    /// Only if no file and no entry was left that should have changed.
    Whole = 1,
    /// Only if one was.
    Left = 2,
}

/// One ref that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefStep {
    pub(crate) name: Vec<u8>,
    /// What it is expected to be; nothing where it is new.
    pub(crate) old: Option<GitOid>,
    pub(crate) new: GitOid,
    pub(crate) when: When,
}

/// What becomes of a ref of the run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefAction {
    /// Its name there; `HEAD` where that is on no branch.
    pub name: Vec<u8>,
    /// What it is there; nothing where it is gone.
    pub target: Option<GitOid>,
    /// What is done.
    pub outcome: RefOutcome,
}

/// What is done with a ref.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RefOutcome {
    /// The branch moves. Where files or entries are left, though, what came gets the other name.
    Moved {
        /// From where.
        from: GitOid,
        /// Which step.
        step: usize,
        /// Whether it is the one that is checked out.
        is_checked_out: bool,
        /// The other name, and which step makes it.
        instead: Option<(Vec<u8>, usize)>,
    },
    /// It gets a name of its own.
    Made {
        /// That name.
        name: Vec<u8>,
        /// Which step; nothing where the name is there already.
        step: Option<usize>,
        /// Why it is not what it is called there.
        why: &'static str,
    },
    /// It stays as it is here.
    Kept(&'static str),
}

/// What is known of refs.
pub(super) struct Sides<'a> {
    pub(super) base: &'a Refs,
    pub(super) here: &'a Refs,
    pub(super) there: &'a Refs,
    /// Branches that other worktrees have.
    pub(super) elsewhere: &'a BTreeSet<Vec<u8>>,
    /// Stashes that the run made, the newest first.
    pub(super) stashes: &'a [GitOid],
}

/// How refs are brought together.
pub(super) struct Wishes<'a> {
    /// After which names are made.
    pub(super) run: &'a str,
    /// Whether only some paths were asked for.
    pub(super) is_part: bool,
}

/// What is asked of the repository.
pub(super) trait History {
    /// Whether the first commit is the second one, or comes before it.
    fn leads_to(&self, old: GitOid, new: GitOid) -> Result<bool, GitError>;
    /// Whether some ref of the repository has a commit.
    fn is_had(&self, oid: GitOid) -> Result<bool, GitError>;
}

/// A name that is wanted below that of the run.
struct Wanted {
    /// Nothing for the branch itself.
    below: Option<Vec<u8>>,
    target: GitOid,
    action: usize,
    when: When,
    why: &'static str,
}

/// Finds out what becomes of each ref, and tells what does not come.
pub(super) fn plan(
    sides: &Sides<'_>,
    wishes: &Wishes<'_>,
    history: &impl History,
    not_carried: &mut Vec<String>,
) -> Result<(Vec<RefAction>, Vec<RefStep>), GitError> {
    let mut plan = Planning::default();
    let head = Tip::of(sides.there);
    plan.head(sides, wishes, history, &head)?;
    if !wishes.is_part {
        plan.others(sides, history, &head, not_carried)?;
        for (at, &oid) in sides.stashes.iter().enumerate() {
            let name = format!("refs/stash@{{{at}}}").into_bytes();
            plan.want(name, format!("stash/{at}").into_bytes(), oid, "stash");
        }
    }
    if plan.dropped > 0 {
        not_carried.push(format!("{} of {} refs", plan.dropped, plan.dropped + MAX_REFS));
    }
    plan.name(sides.here, wishes.run)?;
    Ok((plan.actions, plan.steps))
}

/// Where `HEAD` is.
struct Tip<'a> {
    branch: Option<&'a GitRefName>,
    oid: Option<GitOid>,
}

impl<'a> Tip<'a> {
    fn of(refs: &'a Refs) -> Self {
        match &refs.head {
            GitHead::Detached(oid) => Self { branch: None, oid: Some(*oid) },
            GitHead::Symbolic(name) => Self { branch: Some(name), oid: object(&refs.refs, name) },
        }
    }
}

fn object(refs: &BTreeMap<GitRefName, GitTarget>, name: &GitRefName) -> Option<GitOid> {
    match refs.get(name) {
        Some(GitTarget::Object(oid)) => Some(*oid),
        _ => None,
    }
}

#[derive(Default)]
struct Planning {
    actions: Vec<RefAction>,
    steps: Vec<RefStep>,
    wanted: Vec<Wanted>,
    /// Refs beyond the limit.
    dropped: usize,
}

impl Planning {
    /// Why a branch cannot move to where it is there; `Ok` with where it is here, if it can.
    fn may_move(
        sides: &Sides<'_>,
        history: &impl History,
        (name, new): (&GitRefName, GitOid),
    ) -> Result<Result<GitOid, &'static str>, GitError> {
        let (base, here) = (object(&sides.base.refs, name), object(&sides.here.refs, name));
        let (Some(base), Some(here)) = (base, here) else {
            return Ok(Err(if base.is_none() { "new" } else { "deleted-here" }));
        };
        if sides.elsewhere.contains(name.as_bytes()) {
            return Ok(Err("checked-out-elsewhere"));
        }
        if history.leads_to(here, new)? || (here == base && !history.leads_to(new, here)?) {
            return Ok(Ok(here));
        }
        Ok(Err("diverged"))
    }

    /// What `HEAD` leads to there.
    fn head(
        &mut self,
        sides: &Sides<'_>,
        wishes: &Wishes<'_>,
        history: &impl History,
        head: &Tip<'_>,
    ) -> Result<(), GitError> {
        let Some(new) = head.oid else { return Ok(()) };
        let Some(name) = head.branch.filter(|name| name.as_bytes().starts_with(HEADS)) else {
            if Tip::of(sides.base).oid != Some(new) && !history.is_had(new)? {
                self.want_branch(b"HEAD".to_vec(), new, "detached");
            }
            return Ok(());
        };
        let (base, here) = (object(&sides.base.refs, name), object(&sides.here.refs, name));
        if base == Some(new) || here == Some(new) {
            return Ok(());
        }
        let name_there = name.as_bytes().to_vec();
        if wishes.is_part {
            if !history.is_had(new)? {
                self.want_branch(name_there, new, "a-part");
            }
            return Ok(());
        }
        match Self::may_move(sides, history, (name, new))? {
            Ok(from) => self.move_to(sides.here, name, from, new),
            Err(_) if here.is_some_and(|here| history.leads_to(new, here).unwrap_or(false)) => {
                self.keep(name_there, Some(new), "behind");
            }
            Err(why) => {
                if !history.is_had(new)? {
                    self.want_branch(name_there, new, why);
                }
            }
        }
        Ok(())
    }

    /// A branch that moves; the one that is checked out here only where all else came.
    fn move_to(&mut self, here: &Refs, name: &GitRefName, from: GitOid, new: GitOid) {
        let is_checked_out = is_checked_out(here, name);
        let when = if is_checked_out { When::Whole } else { When::Always };
        let step = self.steps.len();
        let full = name.as_bytes().to_vec();
        self.steps.push(RefStep { name: full.clone(), old: Some(from), new, when });
        let action = self.actions.len();
        let outcome = RefOutcome::Moved { from, step, is_checked_out, instead: None };
        self.actions.push(RefAction { name: full, target: Some(new), outcome });
        if is_checked_out {
            let (below, when, why) = (None, When::Left, "left");
            self.wanted.push(Wanted { below, target: new, action, when, why });
        }
    }

    fn others(
        &mut self,
        sides: &Sides<'_>,
        history: &impl History,
        head: &Tip<'_>,
        not_carried: &mut Vec<String>,
    ) -> Result<(), GitError> {
        for (name, target) in &sides.there.refs {
            let bytes = name.as_bytes();
            let is_branch = bytes.starts_with(HEADS);
            let is_changed = sides.base.refs.get(name) != Some(target)
                && sides.here.refs.get(name) != Some(target);
            if !is_changed || !travels(bytes) || (is_branch && head.branch == Some(name)) {
                continue;
            }
            let GitTarget::Object(new) = *target else {
                not_carried.push(shown(bytes));
                continue;
            };
            let why = if is_branch && is_checked_out(sides.here, name) {
                // Files and index follow the branch on which the run is, which is another one.
                "checked-out-here"
            } else if is_branch {
                match Self::may_move(sides, history, (name, new))? {
                    Ok(from) => {
                        self.move_to(sides.here, name, from, new);
                        continue;
                    }
                    Err(why) => why,
                }
            } else if sides.here.refs.contains_key(name) {
                "differs"
            } else {
                "new"
            };
            let here = object(&sides.here.refs, name).filter(|_| is_branch);
            if let Some(here) = here
                && history.leads_to(new, here)?
            {
                self.keep(bytes.to_vec(), Some(new), "behind");
                continue;
            }
            let below = bytes.strip_prefix(b"refs/").unwrap_or(bytes).to_vec();
            self.want(bytes.to_vec(), below, new, why);
        }
        for name in sides.base.refs.keys() {
            let is_gone = !sides.there.refs.contains_key(name);
            if is_gone && travels(name.as_bytes()) && sides.here.refs.contains_key(name) {
                self.keep(name.as_bytes().to_vec(), None, "deleted-there");
            }
        }
        Ok(())
    }

    fn keep(&mut self, name: Vec<u8>, target: Option<GitOid>, why: &'static str) {
        self.actions.push(RefAction { name, target, outcome: RefOutcome::Kept(why) });
    }

    fn want(&mut self, name: Vec<u8>, below: Vec<u8>, target: GitOid, why: &'static str) {
        if self.wanted.len() >= MAX_REFS {
            self.dropped += 1;
            return;
        }
        let when = When::Always;
        let (action, below) = (self.actions.len(), Some(below));
        self.wanted.push(Wanted { below, target, action, when, why });
        let outcome = RefOutcome::Made { name: Vec::new(), step: None, why };
        self.actions.push(RefAction { name, target: Some(target), outcome });
    }

    fn want_branch(&mut self, name: Vec<u8>, target: GitOid, why: &'static str) {
        self.want(name, Vec::new(), target, why);
        if let Some(wanted) = self.wanted.last_mut() {
            wanted.below = None;
        }
    }

    /// Gives what is wanted names that are free, or are the same already.
    fn name(&mut self, here: &Refs, run: &str) -> Result<(), GitError> {
        if self.wanted.is_empty() {
            return Ok(());
        }
        let separator = if here.refs.keys().any(|it| it.as_bytes() == b"refs/heads/handoff") {
            '-'
        } else {
            '/'
        };
        let full = |wanted: &Wanted, own: &str| match &wanted.below {
            None => format!("refs/heads/{own}").into_bytes(),
            Some(below) => [format!("refs/{own}/").as_bytes(), below].concat(),
        };
        let numbered = (2..MAX_NAMES).map(|number| format!("handoff{separator}{run}-{number}"));
        let own = std::iter::once(format!("handoff{separator}{run}")).chain(numbered).find(|own| {
            self.wanted.iter().all(|wanted| is_free(here, &full(wanted, own), wanted.target))
        });
        let own = own.ok_or_else(|| {
            GitError::refused(format!("the branch handoff/{run}"), "there are too many")
        })?;
        for wanted in std::mem::take(&mut self.wanted) {
            let name = full(&wanted, &own);
            if !may_be_named(&name) {
                if let Some(action) = self.actions.get_mut(wanted.action) {
                    action.outcome = RefOutcome::Kept("name-too-long");
                }
                continue;
            }
            let is_there = here.refs.keys().any(|it| it.as_bytes() == name);
            let step = (!is_there).then_some(self.steps.len());
            if step.is_some() {
                let (old, new, when) = (None, wanted.target, wanted.when);
                self.steps.push(RefStep { name: name.clone(), old, new, when });
            }
            let Some(action) = self.actions.get_mut(wanted.action) else { continue };
            match &mut action.outcome {
                RefOutcome::Moved { instead, .. } => *instead = step.map(|step| (name, step)),
                outcome => *outcome = RefOutcome::Made { name, step, why: wanted.why },
            }
        }
        Ok(())
    }
}

/// Whether git, and a file system, can keep a ref of this name.
fn may_be_named(name: &[u8]) -> bool {
    let mut parts = name.split(|&byte| byte == b'/');
    name.len() <= MAX_NAME
        && parts.all(|part| part.len() <= MAX_PART)
        && GitRefName::new(name).is_some()
}

/// Whether a ref may have this name: none has it, or it is the same, and none is its folder or in it.
fn is_free(here: &Refs, name: &[u8], target: GitOid) -> bool {
    let below = [name, b"/"].concat();
    here.refs.iter().all(|(other, is)| {
        let other = other.as_bytes();
        if other == name {
            return *is == GitTarget::Object(target);
        }
        let is_folder = name.strip_prefix(other).is_some_and(|rest| rest.starts_with(b"/"));
        !is_folder && !other.starts_with(&below)
    })
}

/// Whether `HEAD` leads to a branch, be it by way of another name.
fn is_checked_out(here: &Refs, name: &GitRefName) -> bool {
    let GitHead::Symbolic(mut at) = here.head.clone() else { return false };
    for _ in 0..MAX_LINKS {
        match here.refs.get(&at) {
            _ if at == *name => return true,
            Some(GitTarget::Symbolic(next)) => at = next.clone(),
            _ => return false,
        }
    }
    false
}

/// Whether a ref is one that a run hands over: what an origin has comes from there, and some are a worktree's own.
fn travels(name: &[u8]) -> bool {
    name.starts_with(b"refs/")
        && !name.starts_with(b"refs/remotes/")
        && name != b"refs/stash"
        && !is_private(name)
}

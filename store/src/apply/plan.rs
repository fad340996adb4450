//! What an apply will do, found from three trees. Of the checkout nothing is looked at but its ignore rules.
//!
//! **Invariant:** the same trees and rules make the same plan, at a cost that follows in what they differ.
//! Nothing is written but merged texts, to the sink.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::id::{ObjectId, TreeId};
use baton_protocol::object::{Blob, Omission, OmitReason};
use baton_protocol::path::RelPath;

use super::ApplyError;
use super::differences::{Difference, differences};
use super::form::Form;
use super::ignored::{CheckoutRules, Ignored};
use super::outcome::{Clash, Kept, Outcome};
use super::renames::follow_renames;
use super::resolve::{Edits, Key, Paths, Three, is_below, key_of, path_of, resolve};
use super::text::{MAX_TEXT, Merged, merge_text};
use crate::chunk::store_bytes;
use crate::git::BringOptions;
use crate::ignore::MAX_RULES;
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::Progress;
use crate::snapshot::{BlobError, load_blob};

/// A tree, and the permission bits of its root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Root {
    /// The tree.
    pub tree: TreeId,
    /// Permission bits.
    pub mode: u16,
}

/// The trees that an apply brings together.
#[derive(Clone, Copy, Debug)]
pub struct Trees {
    /// From which the other two come.
    pub base: Root,
    /// The checkout, as it was sealed just now.
    pub here: Root,
    /// What is applied to it.
    pub there: Root,
}

/// How a plan is made.
#[derive(Clone, Debug, Default)]
pub struct PlanOptions {
    /// Only what is at these paths or below them; everything where there are none.
    pub only: Vec<RelPath>,
    /// What conflicts are marked with in texts, ours and theirs; without, such a text stays as it is.
    pub markers: Option<(String, String)>,
    /// What stands in the checkout and not in the tree of it.
    pub not_sealed: Vec<Omission>,
    /// What was there and is not in the tree of it: that it is missing there says nothing.
    pub not_carried: Vec<Omission>,
    /// The rules by which what is new there is left out.
    pub rules: Option<CheckoutRules>,
    /// What is new in git's index there: no rule leaves that out.
    pub tracked: Vec<RelPath>,
}

/// What will be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What becomes of each path that people have to know of; ascending.
    pub actions: Vec<Action>,
    /// What changes in the checkout: each path once, a directory before what is in it.
    pub steps: Vec<Step>,
    /// Merged texts, in the sink; they have to be made durable there before the plan is carried out.
    pub made: Vec<ObjectId>,
    /// Paths that were asked for and at which nothing differs.
    pub unmatched: Vec<RelPath>,
}

impl Plan {
    /// How the repository is brought together, given what becomes of the files: where one stays as it is because of a
    /// conflict, so does what git's index has of it.
    pub fn bring_options(&self, only: &[RelPath], markers: bool) -> BringOptions {
        let mut options = BringOptions { only: only.to_vec(), markers, ..BringOptions::default() };
        for action in &self.actions {
            let Outcome::Conflict(clash) = action.outcome else { continue };
            options.conflicts = true;
            // The root stands for its permissions alone.
            if clash != Clash::Marked && !action.path.is_root() {
                options.left.push(action.path.clone());
            }
        }
        let is_written = |step: &&Step| {
            let content = |form: Option<Form>| form.and_then(|form| form.content());
            step.to.is_some_and(|to| !to.is_directory()) && content(step.from) != content(step.to)
        };
        options.files.taken =
            self.steps.iter().filter(is_written).map(|step| step.path.clone()).collect();
        for action in self.actions.iter().filter(|action| action.outcome == Outcome::Merged) {
            options.files.taken.remove(&action.path);
            options.files.merged.insert(action.path.clone());
        }
        options
    }
}

/// What becomes of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// Where.
    pub path: RelPath,
    /// What is done.
    pub outcome: Outcome,
    /// As it was.
    pub base: Option<Form>,
    /// As it is here.
    pub ours: Option<Form>,
    /// As it is there.
    pub theirs: Option<Form>,
    /// Where the file was that went there, where one side moved it and the other one edited it.
    pub moved_from: Option<RelPath>,
}

/// One path of a checkout that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Where.
    pub path: RelPath,
    /// What is expected there.
    pub from: Option<Form>,
    /// What will be there.
    pub to: Option<Form>,
    /// A path that must have become what it should before this one is taken away.
    pub needs: Option<RelPath>,
}

/// Finds out what has to be done.
pub fn plan<S: ObjectSource + ObjectSink>(
    objects: &S,
    trees: &Trees,
    options: &PlanOptions,
    progress: &Progress,
) -> Result<Plan, ApplyError> {
    let Trees { base, here, there } = *trees;
    let mut theirs = differences(objects, base.tree, there.tree, progress)?;
    theirs.extend(of_root(base, there));
    if theirs.is_empty() {
        let unmatched = options.only.clone();
        return Ok(Plan { unmatched, ..Plan::default() });
    }
    let mut ours = differences(objects, base.tree, here.tree, progress)?;
    ours.extend(of_root(base, here));
    let mut plan = Plan::default();
    let only = Only::new(&options.only);
    let mut paths = Paths::new();
    let mut not_asked = BTreeMap::new();
    for Difference { path, old, new } in theirs {
        let key = key_of(path.as_bytes());
        if only.takes(&key, old, new) {
            let three = Three { base: old, ours: old, theirs: new, ..Three::default() };
            paths.insert(key, three);
        } else {
            let outcome = Outcome::Kept(Kept::NotAsked);
            let (base, theirs, moved_from) = (old, new, None);
            let action = Action { path, outcome, base, ours: old, theirs, moved_from };
            not_asked.insert(key, action);
        }
    }
    plan.unmatched = only.unmatched(&paths);
    for Difference { path, old, new } in ours {
        let key = key_of(path.as_bytes());
        if let Some(action) = not_asked.get_mut(&key) {
            action.ours = new;
        }
        let three = Three { base: old, theirs: old, ..Three::default() };
        paths.entry(key).or_insert(three).ours = new;
    }
    plan.actions.extend(not_asked.into_values());
    plan.actions.extend(keep_what_was_left_out(&mut paths, &options.not_carried)?);
    if let Some(rules) = &options.rules {
        let wanted = Wanted { only: &only, tracked: &options.tracked };
        plan.actions.extend(leave_out(objects, &mut paths, rules, &wanted)?);
    }
    hide(&mut paths, &options.not_sealed);
    let mut following = follow_renames(&mut paths);
    let mut made = Vec::new();
    let decided = loop {
        let decided = resolve(&paths, |_, base, ours, theirs| {
            if progress.is_cancelled() {
                return Err(ApplyError::Cancelled);
            }
            let edits = merge(objects, base, (ours, theirs), options)?;
            if let Edits::Merged(blob) | Edits::Marked(blob) = edits {
                made.push(blob.content.id());
            }
            Ok(edits)
        })?;
        // A file whose edit cannot follow it stays, and what that means for the folders around it is found anew.
        let result = |key: &Key| decided.get(key).and_then(|resolved| resolved.result);
        let (arrive, stay): (Vec<_>, Vec<_>) =
            following.into_iter().partition(|follow| follow.arrives(&paths, result));
        if stay.is_empty() {
            break decided;
        }
        for follow in stay {
            follow.take_back(&mut paths);
        }
        following = arrive;
    };
    made.sort_unstable();
    made.dedup();
    plan.made = made;
    for (key, resolved) in decided {
        let Some(three) = paths.remove(&key) else { continue };
        let path = path_at(&key)?;
        if let Some(outcome) = resolved.outcome {
            let moved_from = three.followed.as_deref().map(path_at).transpose()?;
            let Three { base, ours, theirs, .. } = three;
            let path = path.clone();
            plan.actions.push(Action { path, outcome, base, ours, theirs, moved_from });
        }
        if resolved.result != three.ours {
            let needs = three.needs.as_deref().map(path_at).transpose()?;
            plan.steps.push(Step { path, from: three.ours, to: resolved.result, needs });
        }
    }
    plan.actions.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(plan)
}

/// What comes though a rule leaves it out.
struct Wanted<'a> {
    only: &'a Only,
    tracked: &'a [RelPath],
}

/// Takes away what is new there and is left out here; of a directory only it is told.
fn leave_out<S: ObjectSource>(
    objects: &S,
    paths: &mut Paths,
    rules: &CheckoutRules,
    wanted: &Wanted<'_>,
) -> Result<Vec<Action>, ApplyError> {
    let mut ignored = Ignored::open(rules)?;
    let changed = |folder: &[u8]| {
        let name = if folder.is_empty() { &b".gitignore"[..] } else { b"/.gitignore" };
        let three = paths.get(&key_of(&[folder, name].concat()))?;
        let Some(Form::File { blob, .. }) = three.theirs.filter(|_| three.theirs != three.base)
        else {
            return None;
        };
        load_blob(objects, blob, MAX_RULES).ok()
    };
    let mut is_ignored = |key: &Key, theirs: Form| {
        ignored.leaves_out(&path_of(key), theirs.is_directory(), &changed)
    };
    // Who names such a path wants it.
    let named: Vec<&Key> = wanted
        .only
        .0
        .iter()
        .map(|(_, key)| key)
        .filter(|key| {
            let theirs = paths.get(*key).and_then(|three| three.theirs);
            theirs.is_some_and(|theirs| is_ignored(key, theirs))
        })
        .collect();
    let tracked: BTreeSet<Key> =
        wanted.tracked.iter().map(|path| key_of(path.as_bytes())).collect();
    let is_tracked = |key: &Key| {
        let next = tracked.range(key.clone()..).next();
        next.is_some_and(|next| is_at_or_below(next, key))
    };
    let mut left_out: Vec<Key> = Vec::new();
    let mut told = Vec::new();
    for (key, three) in &*paths {
        if left_out.last().is_some_and(|above| is_below(key, above)) {
            continue;
        }
        let Three { base: None, ours: None, theirs: Some(theirs), .. } = *three else { continue };
        // So does who names something below it.
        let is_named = named.iter().any(|named| {
            is_at_or_below(key, named) || (theirs.is_directory() && is_below(named, key))
        });
        if !is_named && !is_tracked(key) && is_ignored(key, theirs) {
            left_out.push(key.clone());
            told.push(Action {
                path: path_at(key)?,
                outcome: Outcome::Kept(Kept::Ignored),
                base: None,
                ours: None,
                theirs: Some(theirs),
                moved_from: None,
            });
        }
    }
    let mut above = left_out.into_iter().peekable();
    let mut last: Option<Key> = None;
    paths.retain(|key, _| {
        if above.peek() == Some(key) {
            last = above.next();
            return false;
        }
        !last.as_ref().is_some_and(|last| is_below(key, last))
    });
    Ok(told)
}

/// The permissions of the root, where they differ.
fn of_root(old: Root, new: Root) -> Option<Difference> {
    let form = |root: Root| Some(Form::Directory { mode: root.mode });
    let path = RelPath::root();
    (old.mode != new.mode).then(|| Difference { path, old: form(old), new: form(new) })
}

fn path_at(key: &[u8]) -> Result<RelPath, ApplyError> {
    // A key was made of a path.
    RelPath::new(&path_of(key)).map_err(ApplyError::Path)
}

/// Paths that a snapshot does not have though something is there.
struct LeftOut(BTreeSet<Key>);

impl LeftOut {
    fn new(omissions: &[Omission]) -> Self {
        // What changed while it was read is there all the same.
        let left_out = omissions.iter().filter(|omission| omission.reason != OmitReason::Torn);
        Self(left_out.map(|omission| key_of(omission.path.as_bytes())).collect())
    }

    /// Whether a path is one of them, or below one.
    fn covers(&self, key: &Key) -> bool {
        let ends = key.iter().enumerate().filter(|&(_, &byte)| byte == 0).map(|(at, _)| at);
        !self.0.is_empty()
            && ends
                .chain([key.len()])
                .any(|end| key.get(..end).is_some_and(|above| self.0.contains(above)))
    }
}

/// Marks what must not be touched, because what is here is in no safety copy.
fn hide(paths: &mut Paths, not_sealed: &[Omission]) {
    let hidden = LeftOut::new(not_sealed);
    for (key, three) in paths.iter_mut() {
        three.is_hidden = hidden.covers(key);
    }
}

/// Takes what is missing there, because it was left out, for what it was before.
fn keep_what_was_left_out(
    paths: &mut Paths,
    not_carried: &[Omission],
) -> Result<Vec<Action>, ApplyError> {
    let left_out = LeftOut::new(not_carried);
    let mut told = Vec::new();
    for (key, three) in paths.iter_mut() {
        if three.base.is_some() && three.theirs.is_none() && left_out.covers(key) {
            three.theirs = three.base;
            told.push(Action {
                path: path_at(key)?,
                outcome: Outcome::Kept(Kept::NotCarried),
                base: three.base,
                ours: three.ours,
                theirs: None,
                moved_from: None,
            });
        }
    }
    Ok(told)
}

/// Merges two edits of a file.
fn merge<S: ObjectSource + ObjectSink>(
    objects: &S,
    base: Blob,
    (ours, theirs): (Blob, Blob),
    options: &PlanOptions,
) -> Result<Edits, ApplyError> {
    let mut texts = Vec::with_capacity(3);
    for blob in [base, ours, theirs] {
        match load_blob(objects, blob, MAX_TEXT) {
            Ok(text) => texts.push(text),
            Err(BlobError::TooLarge { .. }) => return Ok(Edits::Clash(Clash::Binary)),
            Err(BlobError::Store(error)) => return Err(error.into()),
        }
    }
    let [base, ours, theirs] = texts.as_slice() else { return Ok(Edits::Clash(Clash::Binary)) };
    let (ours_is, theirs_is) = options
        .markers
        .as_ref()
        .map_or(("ours", "theirs"), |(ours, theirs)| (ours.as_str(), theirs.as_str()));
    let put = |bytes: &[u8]| store_bytes(bytes, objects);
    Ok(match merge_text(base, (ours, theirs), (ours_is, theirs_is)) {
        Some(Merged::Clean(merged)) => Edits::Merged(put(&merged)?),
        Some(Merged::Conflict(marked)) if options.markers.is_some() => Edits::Marked(put(&marked)?),
        Some(Merged::Conflict(_)) => Edits::Clash(Clash::Content),
        None => Edits::Clash(Clash::Binary),
    })
}

/// The paths that were asked for.
struct Only(Vec<(RelPath, Key)>);

impl Only {
    fn new(paths: &[RelPath]) -> Self {
        Self(paths.iter().map(|path| (path.clone(), key_of(path.as_bytes()))).collect())
    }

    /// Whether a difference is one that was asked for, or a new directory on the way to one.
    fn takes(&self, key: &Key, old: Option<Form>, new: Option<Form>) -> bool {
        let is_directory = |form: Option<Form>| form.is_some_and(|form| form.is_directory());
        let is_way = is_directory(new) && !is_directory(old);
        self.0.is_empty()
            || self
                .0
                .iter()
                .any(|(_, only)| is_at_or_below(key, only) || (is_way && is_at_or_below(only, key)))
    }

    fn unmatched(&self, paths: &Paths) -> Vec<RelPath> {
        let is_matched = |only: &Key| {
            paths.range(only.clone()..).next().is_some_and(|(key, _)| is_at_or_below(key, only))
        };
        self.0.iter().filter(|(_, key)| !is_matched(key)).map(|(path, _)| path.clone()).collect()
    }
}

fn is_at_or_below(key: &[u8], above: &[u8]) -> bool {
    key == above || is_below(key, above)
}

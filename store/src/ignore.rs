//! Which entries of a tree belong to it: git's rules inside a git worktree, everything outside.
//!
//! Not here: reading the tree. The scan lists a directory, hands over what stood in it, and asks.
//!
//! Inside a worktree an entry belongs to the tree if it is tracked, or untracked and not ignored:
//!
//! 1. `.batonignore` in the root removes, also what is tracked.
//! 2. What the index names stays, also inside ignored directories; where case is folded, in whatever letters.
//! 3. The `.gitignore` of the nearest directory with a matching pattern decides, then
//!    `info/exclude`, then `core.excludesFile`; within a file the last matching line.
//! 4. Nothing else inside an ignored directory belongs to the tree, whatever re-includes it.
//! 5. `.worktreeinclude` in the root brings back what is ignored: an entry that it names, unless it
//!    stands inside an ignored directory; there only lines that spell out the way to it count.
//!
//! A repository inside the tree (a submodule, a clone) has rules of its own from there on, as for
//! git. Where the one around it tracks something in there, for which it is no repository but a folder, its rules go on
//! as well: what one of the two would keep is kept. A repository that cannot be read has none: everything is kept, and a note says so.
//!
//! **Invariant:** a rule that cannot be read never removes anything.

mod glob;
mod patterns;
mod worktree;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::ApplyId;
use glob::Case;
use patterns::Patterns;
use worktree::{Stamp, Worktree};

pub(crate) use patterns::MAX_RULES;

/// The file in the root of a workspace that removes entries from it.
pub(crate) const BATON_IGNORE: &[u8] = b".batonignore";

/// The file in the root of a workspace that brings ignored entries back: the agents' convention.
pub(crate) const WORKTREE_INCLUDE: &[u8] = b".worktreeinclude";

/// What the names of files begin with that a watch makes for a moment, to see whether the system tells of
/// them. They belong to no tree.
pub const COOKIE: &str = ".baton-cookie-";

/// What the name of an apply's folder has before its id, where that is in a checkout or beside one. It belongs to no
/// tree either: what is in it was in this one.
pub(crate) const SHELF: &str = ".baton-apply-";

/// Whether a name is one that Baton gives to what it keeps in a tree, or beside one.
pub(crate) fn is_own_name(name: &[u8]) -> bool {
    let is_shelf = || {
        let before = name.len().checked_sub(2 * ApplyId::LEN)?;
        let (before, id) = name.split_at_checked(before)?;
        let is_id = id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        Some(is_id && name.starts_with(b".") && before.ends_with(SHELF.as_bytes()))
    };
    name.starts_with(COOKIE.as_bytes()) || is_shelf().unwrap_or(false)
}

/// Notes kept at most: one a broken repository, of which a hostile tree may have many.
const MAX_NOTES: usize = 100;

/// Repositories whose rules are kept from one seal to the next; more are opened again.
const MAX_OPENED: usize = 256;

/// What git knows about the user from outside the repository. Paths are handed in: nothing here
/// reads the environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GitUser {
    /// What `~` means in `core.excludesFile`.
    pub home: Option<PathBuf>,
    /// The user's git configuration, of which only `core.excludesFile` is read; later ones win.
    pub config_files: Vec<PathBuf>,
    /// The file used where no configuration names one: `$XDG_CONFIG_HOME/git/ignore`.
    pub excludes_file: Option<PathBuf>,
}

/// What is to be done with an entry; of two the first one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// It was brought back: it belongs to the tree with everything below it.
    Whole,
    /// It belongs to the tree.
    Keep,
    /// An ignored directory: only what is tracked, or brought back, below it belongs to the tree.
    NamedOnly,
    /// It does not belong to the tree, nor does anything below it.
    Skip,
}

/// The rules of a tree, kept for as long as what they were read from stays as it was.
#[derive(Debug)]
pub(crate) struct Rules {
    root: PathBuf,
    user: GitUser,
    removed: Patterns,
    included: Patterns,
    opened: Mutex<BTreeMap<Vec<u8>, Opened>>,
}

/// A repository in the tree, by its path.
#[derive(Clone, Debug)]
struct Opened {
    /// The state of the files that were read.
    stamp: Stamp,
    worktree: Found,
    notes: Vec<String>,
}

/// What a `.git` turned out to be.
#[derive(Clone, Debug)]
enum Found {
    /// No repository: the rules around it go on.
    Nothing,
    /// One whose rules are unknown: everything is kept.
    Unknown,
    /// One with rules.
    Rules(Arc<Worktree>),
}

/// What has to be looked at because rules changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RuleChange {
    /// Everything below this directory.
    Below(Vec<u8>),
    /// These paths, which are tracked now, or not any more.
    Paths(Vec<Vec<u8>>),
}

/// The rules that hold in one directory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scope {
    worktree: Option<Arc<Worktree>>,
    level: Option<Arc<Level>>,
    named_only: bool,
    /// Those of the repository around this one, where it tracks something in here.
    outer: Option<Arc<Scope>>,
}

/// The `.gitignore` of one directory, and those above it.
#[derive(Debug)]
struct Level {
    above: Option<Arc<Level>>,
    patterns: Patterns,
}

impl Rules {
    /// Rules for the tree at `root`, given what stands in its `.batonignore` and `.worktreeinclude`.
    pub(crate) fn new(root: &Path, user: &GitUser, removed: &[u8], included: &[u8]) -> Self {
        Self {
            root: root.to_owned(),
            user: user.clone(),
            removed: Patterns::parse(removed, 0),
            included: Patterns::parse(included, 0),
            opened: Mutex::default(),
        }
    }

    /// What could not be done as git does it, in words for people.
    pub(crate) fn notes(&self) -> Vec<String> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let mut notes: Vec<_> =
            opened.values().flat_map(|opened| opened.notes.clone()).take(MAX_NOTES).collect();
        notes.sort();
        notes.dedup();
        notes
    }

    /// Reads again what changed since it was read; says what has to be looked at for that.
    pub(crate) fn refresh(&self) -> Vec<RuleChange> {
        let mut all = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changes = Vec::new();
        let mut gone = Vec::new();
        for (path, opened) in all.iter_mut() {
            let holds = match &opened.worktree {
                Found::Rules(worktree) => worktree.holds(),
                Found::Nothing | Found::Unknown => true,
            };
            if holds && opened.stamp.holds() {
                continue;
            }
            let new = self.open(path);
            match (&opened.worktree, &new.worktree) {
                (Found::Rules(old), Found::Rules(new)) if old.has_patterns_of(new) => {
                    let paths = old.tracked_otherwise(new);
                    if !paths.is_empty() {
                        changes.push(RuleChange::Paths(paths));
                    }
                }
                (Found::Unknown, Found::Unknown) => {}
                _ => changes.push(RuleChange::Below(path.clone())),
            }
            if matches!(new.worktree, Found::Nothing) {
                gone.push(path.clone());
            }
            *opened = new;
        }
        for path in gone {
            all.remove(&path);
        }
        changes
    }

    /// What has to be looked at because the repository of the whole tree is not as it is below `before`.
    pub(crate) fn changes_since(&self, before: &Path) -> Vec<RuleChange> {
        let before = Self::new(before, &self.user, b"", b"").open(b"");
        match (before.worktree, self.open(b"").worktree) {
            (Found::Rules(old), Found::Rules(new)) if old.has_patterns_of(&new) => {
                vec![RuleChange::Paths(old.tracked_otherwise(&new))]
            }
            (Found::Unknown, Found::Unknown) | (Found::Nothing, Found::Nothing) => Vec::new(),
            _ => vec![RuleChange::Below(Vec::new())],
        }
    }

    fn open(&self, path: &[u8]) -> Opened {
        // Before anything is read, so that what changes meanwhile is seen.
        let stamp = Stamp::take(&self.root, path, &self.user);
        match Worktree::open(&self.root, path, &self.user) {
            Ok((worktree, notes)) => {
                let worktree =
                    worktree.map_or(Found::Unknown, |worktree| Found::Rules(Arc::new(worktree)));
                Opened { stamp, worktree, notes }
            }
            Err(note) => Opened { stamp, worktree: Found::Nothing, notes: vec![note] },
        }
    }

    /// The scope of the directory at `path`, given that of the directory above it. `verdict` is
    /// what was said about the directory, `is_repository` whether `.git` stands in it.
    pub(crate) fn enter(
        &self,
        above: &Scope,
        path: &[u8],
        verdict: Verdict,
        is_repository: bool,
    ) -> Scope {
        if is_repository && verdict == Verdict::Keep {
            let known = {
                let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
                opened.get(path).map(|opened| opened.worktree.clone())
            };
            let worktree = known.unwrap_or_else(|| {
                let new = self.open(path);
                let worktree = new.worktree.clone();
                let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
                if opened.len() < MAX_OPENED {
                    opened.insert(path.to_vec(), new);
                }
                worktree
            });
            let worktree = match worktree {
                Found::Nothing => None,
                Found::Unknown => Some(None),
                Found::Rules(worktree) => Some(Some(worktree)),
            };
            if let Some(worktree) = worktree {
                let outer = above
                    .tracks_below(path)
                    .then(|| Arc::new(self.enter(above, path, verdict, false)));
                return Scope { worktree, level: None, named_only: false, outer };
            }
        }
        match (verdict, &above.outer) {
            (Verdict::Whole, _) => Scope::default(),
            (_, None) => Scope { named_only: verdict != Verdict::Keep, ..above.clone() },
            (_, Some(outer)) => {
                let named_only = self.verdict_in(above, path, true) != Verdict::Keep;
                let of_outer = self.verdict_with_outer(outer, path, true);
                let outer = Some(Arc::new(self.enter(outer, path, of_outer, false)));
                Scope { named_only, outer, ..above.clone() }
            }
        }
    }

    /// A directory is looked at as if for the first time: repositories in it are opened again.
    pub(crate) fn forget_below(&self, path: &[u8]) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|at, _| {
            let below = at.strip_prefix(path);
            !below.is_some_and(|rest| rest.is_empty() || path.is_empty() || rest.starts_with(b"/"))
        });
    }

    /// Adds the `.gitignore` of the directory at `path` to its scope.
    pub(crate) fn add_git_ignore(scope: &mut Scope, path: &[u8], bytes: &[u8]) {
        if let Some(outer) = scope.outer.take() {
            let mut outer = Scope::clone(&outer);
            Self::add_git_ignore(&mut outer, path, bytes);
            scope.outer = Some(Arc::new(outer));
        }
        // Inside an ignored directory git reads no further rules: nothing there asks for them.
        let Some(worktree) = scope.worktree.as_ref().filter(|_| !scope.named_only) else {
            return;
        };
        let below = worktree.relative(path).len();
        let patterns = Patterns::parse(bytes, if below == 0 { 0 } else { below + 1 });
        if !patterns.is_empty() {
            scope.level = Some(Arc::new(Level { above: scope.level.take(), patterns }));
        }
    }

    /// Whether a `.gitignore` would change anything here.
    pub(crate) fn wants_git_ignore(scope: &Scope) -> bool {
        (scope.worktree.is_some() && !scope.named_only)
            || scope.outer.as_deref().is_some_and(Self::wants_git_ignore)
    }

    /// What is to be done with the entry at `path`, which stands in the directory of `scope`.
    pub(crate) fn verdict(&self, scope: &Scope, path: &[u8], is_directory: bool) -> Verdict {
        let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
        if is_own_name(name) {
            return Verdict::Skip;
        }
        if self.removed.decide(path, is_directory, Case::Sensitive) == Some(true) {
            return Verdict::Skip;
        }
        self.verdict_with_outer(scope, path, is_directory)
    }

    /// What the repositories say whose rules hold here.
    fn verdict_with_outer(&self, scope: &Scope, path: &[u8], is_directory: bool) -> Verdict {
        let verdict = self.verdict_in(scope, path, is_directory);
        match &scope.outer {
            Some(outer) if verdict > Verdict::Keep => {
                verdict.min(self.verdict_with_outer(outer, path, is_directory))
            }
            _ => verdict,
        }
    }

    /// What the innermost of them says.
    fn verdict_in(&self, scope: &Scope, path: &[u8], is_directory: bool) -> Verdict {
        let Some(worktree) = &scope.worktree else { return Verdict::Keep };
        let inside = worktree.relative(path);
        // The index first: it is searched faster than the patterns, and has most files.
        if worktree.tracks(inside) {
            return Verdict::Keep;
        }
        if !scope.named_only && !scope.ignores(worktree, inside, is_directory) {
            return Verdict::Keep;
        }
        if self.included.decide(path, is_directory, Case::Sensitive) == Some(true) {
            return Verdict::Whole;
        }
        let tracked =
            || worktree.tracks_below(inside) || worktree.tracks_in_other_case(inside, is_directory);
        match is_directory {
            true if tracked() || self.included.may_match_below(path) => Verdict::NamedOnly,
            false if worktree.tracks_in_other_case(inside, false) => Verdict::Keep,
            _ => Verdict::Skip,
        }
    }
}

impl Scope {
    /// Whether git tracks this file.
    pub(crate) fn tracks(&self, path: &[u8]) -> bool {
        self.worktree.as_ref().is_some_and(|worktree| worktree.tracks(worktree.relative(path)))
            || self.outer.as_ref().is_some_and(|outer| outer.tracks(path))
    }

    /// Whether a repository whose rules hold here tracks something below this directory.
    fn tracks_below(&self, path: &[u8]) -> bool {
        let tracks = |worktree: &Arc<Worktree>| {
            let inside = worktree.relative(path);
            worktree.tracks_below(inside) || worktree.tracks_in_other_case(inside, true)
        };
        self.worktree.as_ref().is_some_and(tracks)
            || self.outer.as_ref().is_some_and(|outer| outer.tracks_below(path))
    }

    fn ignores(&self, worktree: &Worktree, path: &[u8], is_directory: bool) -> bool {
        let mut level = self.level.as_deref();
        while let Some(Level { above, patterns }) = level {
            if let Some(ignored) = patterns.decide(path, is_directory, worktree.case()) {
                return ignored;
            }
            level = above.as_deref();
        }
        worktree.ignores(path, is_directory)
    }
}

/// What the repository of a whole tree tracks.
pub(crate) struct Tracked(Option<Worktree>);

impl Tracked {
    /// That of the repository in a folder; nothing where it has none that can be read.
    pub(crate) fn by_repository_of(root: &Path) -> Self {
        let opened = Worktree::open(root, b"", &GitUser::default());
        Self(opened.ok().and_then(|(worktree, _)| worktree))
    }

    /// Whether it tracks the file at `path`.
    pub(crate) fn has(&self, path: &[u8]) -> bool {
        self.0.as_ref().is_some_and(|worktree| worktree.tracks(worktree.relative(path)))
    }

    /// Whether it tracks any file for which this holds.
    pub(crate) fn any(&self, is: impl Fn(&[u8]) -> bool) -> bool {
        self.0.as_ref().is_some_and(|worktree| worktree.tracks_any(is))
    }
}

/// For tests: what a file of patterns says of a file.
#[cfg(test)]
pub(crate) fn decides(patterns: &[u8], path: &[u8]) -> Option<bool> {
    Patterns::parse(patterns, 0).decide(path, false, Case::Sensitive)
}

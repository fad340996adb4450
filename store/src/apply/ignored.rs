//! What of that which is new there the rules of the checkout leave out of snapshots here: what a build
//! made, for the most part. Nobody would see it here, and it may be here already.
//!
//! **Invariant:** only what is nowhere but there is left out, and never what git tracks.

use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use super::ApplyError;
use super::ground::Ground;
use crate::ignore::{BATON_IGNORE, GitUser, Rules, Scope, Verdict, WORKTREE_INCLUDE};
use crate::scan::directory::open_below;
use crate::scan::ground::read_rules;

/// Which rules hold in a checkout.
#[derive(Clone, Debug)]
pub struct CheckoutRules {
    /// Its root.
    pub root: PathBuf,
    /// What git knows about the user from outside the repository.
    pub git_user: GitUser,
    /// What every tree leaves out, in the syntax of `.gitignore`.
    pub exclude: Vec<u8>,
}

/// The rules of a checkout, as far as they were looked at.
pub(super) struct Ignored {
    root: OwnedFd,
    rules: Rules,
    scopes: HashMap<Vec<u8>, (Scope, Verdict)>,
}

impl Ignored {
    pub(super) fn open(rules: &CheckoutRules) -> Result<Self, ApplyError> {
        let ground = Ground::open(&rules.root)?;
        let root =
            open_below(ground.root(), b"").map_err(|error| ground.failed("opening", b"", error))?;
        let mut removed = rules.exclude.clone();
        removed.push(b'\n');
        removed.extend(read_rules(&root, BATON_IGNORE).unwrap_or_default());
        let included = read_rules(&root, WORKTREE_INCLUDE).unwrap_or_default();
        let rules = Rules::new(&rules.root, &rules.git_user, &removed, &included);
        Ok(Self { root, rules, scopes: HashMap::new() })
    }

    /// Whether something new is left out. `changed` gives the `.gitignore` of a directory as it is there, where
    /// it was changed there.
    pub(super) fn leaves_out(
        &mut self,
        path: &[u8],
        is_directory: bool,
        changed: &impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> bool {
        let above = path.iter().rposition(|&byte| byte == b'/').unwrap_or_default();
        let above = path.get(..above).unwrap_or_default();
        self.enter(above, changed);
        let Some((scope, verdict)) = self.scopes.get(above) else { return false };
        *verdict == Verdict::Skip || self.rules.verdict(scope, path, is_directory) == Verdict::Skip
    }

    /// Finds out what holds in a directory, and in those above it.
    fn enter(&mut self, path: &[u8], changed: &impl Fn(&[u8]) -> Option<Vec<u8>>) {
        if self.scopes.contains_key(path) {
            return;
        }
        let mut state = (Scope::default(), Verdict::Keep);
        let ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
        let below = ends.chain((!path.is_empty()).then_some(path.len()));
        for end in std::iter::once(0).chain(below) {
            let at = path.get(..end).unwrap_or_default();
            if let Some(known) = self.scopes.get(at) {
                state = known.clone();
                continue;
            }
            let verdict = match state.1 {
                Verdict::Skip => Verdict::Skip,
                _ if at.is_empty() => Verdict::Keep,
                _ => self.rules.verdict(&state.0, at, true),
            };
            let folder = open_below(self.root.as_fd(), at).ok();
            let is_repository = folder.as_ref().is_some_and(|folder| {
                rustix::fs::statat(folder, ".git", rustix::fs::AtFlags::SYMLINK_NOFOLLOW).is_ok()
            });
            let mut scope = self.rules.enter(&state.0, at, verdict, is_repository);
            if Rules::wants_git_ignore(&scope) {
                let here = || folder.as_ref().and_then(|folder| read_rules(folder, b".gitignore"));
                if let Some(bytes) = changed(at).or_else(here) {
                    Rules::add_git_ignore(&mut scope, at, &bytes);
                }
            }
            state = (scope, verdict);
            self.scopes.insert(at.to_vec(), state.clone());
        }
    }
}

//! The objects of a state given to a repository that has some of them.
//!
//! **Invariant:** what is taken in is checked, and whole with what is there.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::{GitHead, GitOid, GitPack, GitRef, GitRefName, GitState, GitTarget};

use super::Plan;
use crate::git::view::View;
use crate::git::{GitError, objects};
use crate::objects::ObjectSource;

/// The objects that refs name.
pub(super) fn targets<'a>(of: impl Iterator<Item = &'a GitTarget>) -> BTreeSet<GitOid> {
    of.filter_map(|target| match target {
        GitTarget::Object(oid) => Some(*oid),
        GitTarget::Symbolic(_) => None,
    })
    .collect()
}

/// Gives the repository what it lacks of the objects of a state.
pub(super) fn take_in<S: ObjectSource + ?Sized>(
    plan: &Plan<'_, S>,
    (state, refs): (&GitState, &[GitRef]),
    here: &BTreeMap<GitRefName, GitTarget>,
    view: &View<'_>,
    is_partial: bool,
) -> Result<(), GitError> {
    let is_whole = || -> Result<bool, GitError> {
        let mut tips = targets(refs.iter().map(|it| &it.target));
        if let GitHead::Detached(oid) = &state.head {
            tips.insert(*oid);
        }
        if objects::present(view, state.hash, &tips)? != tips {
            return Ok(false);
        }
        // In a partial clone much is missing by intention.
        if is_partial {
            return Ok(true);
        }
        objects::is_connected(view, &tips, &targets(here.values()))
    };
    // What went there from here mostly still is here. Each pack builds on those before it.
    let mut left: Vec<&GitPack> = Vec::new();
    for pack in &state.packs {
        let tips = plan.tips(pack)?;
        if objects::present(view, state.hash, &tips)? == tips {
            left.push(pack);
        } else {
            plan.unpack(view.git(), pack.blob, is_partial)?;
        }
    }
    if is_whole()? {
        return Ok(());
    }
    for pack in left {
        plan.unpack(view.git(), pack.blob, is_partial)?;
    }
    if is_whole()? {
        Ok(())
    } else {
        Err(GitError::refused("the state", "objects are missing in it"))
    }
}

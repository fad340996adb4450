//! What becomes of each path that has three states: as it was, as it is here, and as it is there.
//!
//! - What one side alone changed is taken from it; what both made alike is left.
//! - Of a deletion and an edit the edit wins.
//! - Files that both edited are merged where they are text; everything else that both changed is a conflict.
//! - A directory stands as long as something in it does, and gives way to nothing else before.
//!
//! **Invariant:** at a conflict, and below it, the checkout stays as it is; unless markers are asked for,
//! and then only a text that both edited changes.

use std::collections::BTreeMap;

use baton_protocol::object::Blob;

use super::form::Form;
use super::outcome::{Clash, Kept, Outcome};
use crate::git::three_way;

/// A path with a NUL in place of each slash: a directory stands right before all that is in it.
pub(super) type Key = Vec<u8>;

/// Every path at which one of the sides differs from the base.
pub(super) type Paths = BTreeMap<Key, Three>;

/// The states of a path.
#[derive(Clone, Debug, Default)]
pub(super) struct Three {
    pub(super) base: Option<Form>,
    pub(super) ours: Option<Form>,
    pub(super) theirs: Option<Form>,
    /// Whether the safety copy does not have what is here.
    pub(super) is_hidden: bool,
    /// A path that must have been made before this one is taken away: it holds what was edited here.
    pub(super) needs: Option<Key>,
    /// Where the file was whose edit came here.
    pub(super) followed: Option<Key>,
}

/// What two edits of one file came to.
pub(super) enum Edits {
    Merged(Blob),
    Marked(Blob),
    Clash(Clash),
}

/// What becomes of a path.
#[derive(Clone, Debug)]
pub(super) struct Resolved {
    pub(super) result: Option<Form>,
    /// Nothing where nobody has to know.
    pub(super) outcome: Option<Outcome>,
}

/// A path under way.
struct Open<'a> {
    key: &'a Key,
    three: &'a Three,
    above: Option<usize>,
    /// Whether something below it will be there.
    has_below: bool,
    resolved: Resolved,
    is_blocking: bool,
}

/// Decides on every path; `merge` is asked for what two edits of a file come to.
pub(super) fn resolve<E>(
    paths: &Paths,
    mut merge: impl FnMut(&Key, Blob, Blob, Blob) -> Result<Edits, E>,
) -> Result<BTreeMap<Key, Resolved>, E> {
    let mut all: Vec<Open<'_>> = Vec::with_capacity(paths.len());
    let mut stack: Vec<usize> = Vec::new();
    for (key, three) in paths {
        while let Some(above) = stack.last().and_then(|&at| all.get(at))
            && !is_below(key, above.key)
        {
            stack.pop();
        }
        let above = stack.last().copied();
        stack.push(all.len());
        let resolved = Resolved { result: three.ours, outcome: None };
        all.push(Open { key, three, above, has_below: false, resolved, is_blocking: false });
    }
    // What is in a directory is decided before the directory.
    for at in (0..all.len()).rev() {
        let Some(open) = all.get_mut(at) else { continue };
        let (resolved, is_blocking) = decide(open, &mut merge)?;
        let is_there = resolved.result.is_some();
        (open.resolved, open.is_blocking) = (resolved, is_blocking);
        let above = open.above;
        if is_there && let Some(above) = above.and_then(|above| all.get_mut(above)) {
            above.has_below = true;
        }
    }
    let mut decided = BTreeMap::new();
    let mut blocked: Option<&Key> = None;
    for open in all {
        let Open { key, three, mut resolved, is_blocking, .. } = open;
        if let Some(above) = blocked.filter(|above| is_below(key, above)) {
            let differs = three.theirs != three.base && three.theirs != three.ours;
            let outcome = differs.then(|| Outcome::Kept(Kept::BelowConflict(path_of(above))));
            resolved = Resolved { result: three.ours, outcome };
        } else {
            blocked = is_blocking.then_some(key);
        }
        decided.insert(key.clone(), resolved);
    }
    Ok(decided)
}

/// The result at one path, and whether everything below has to stay as it is here.
fn decide<E>(
    open: &Open<'_>,
    merge: &mut impl FnMut(&Key, Blob, Blob, Blob) -> Result<Edits, E>,
) -> Result<(Resolved, bool), E> {
    use Form::{Directory, File};
    let Three { base, ours, theirs, is_hidden, .. } = *open.three;
    let has_below = open.has_below;
    let stay = |outcome| (Resolved { result: ours, outcome }, false);
    let take = |outcome| (Resolved { result: theirs, outcome: Some(outcome) }, false);
    let clash = |clash, is_blocking| {
        (Resolved { result: ours, outcome: Some(Outcome::Conflict(clash)) }, is_blocking)
    };
    let taken = if theirs.is_none() { Outcome::Removed } else { Outcome::Taken };
    if theirs != base && is_hidden && theirs != ours {
        return Ok(clash(Clash::NotSealed, true));
    }
    if theirs == base || theirs == ours {
        return Ok(match ours {
            // Something is edited there that went away here with the directory around it.
            None if has_below && matches!(theirs, Some(Directory { .. })) => take(Outcome::Taken),
            Some(File { .. } | Form::Link { .. }) if has_below => clash(Clash::Kind, true),
            _ => stay(None),
        });
    }
    let (was_directory, is_directory) = (
        ours.is_some_and(|form| form.is_directory()),
        theirs.is_some_and(|form| form.is_directory()),
    );
    if ours == base {
        return Ok(match theirs {
            None if was_directory && has_below => stay(None),
            Some(_) if was_directory && !is_directory && has_below => clash(Clash::Kind, true),
            _ => take(taken),
        });
    }
    let base_is_directory = base.is_some_and(|form| form.is_directory());
    Ok(match (ours, theirs) {
        // Of the directory itself only the mode was changed there.
        (None, Some(Directory { .. })) if base_is_directory => {
            if has_below {
                take(Outcome::Taken)
            } else {
                stay(None)
            }
        }
        (None, _) => take(Outcome::Restored),
        (Some(Directory { .. }), None) if base_is_directory => {
            if has_below {
                stay(None)
            } else {
                take(Outcome::Removed)
            }
        }
        (Some(_), None) => stay(Some(Outcome::Kept(Kept::EditedHere))),
        (Some(Directory { .. }), Some(Directory { .. })) => clash(Clash::Mode, false),
        (Some(File { mode: our_mode, blob: our_blob }), Some(File { mode, blob })) => {
            let (base_mode, base_blob) = match base {
                Some(File { mode, blob }) => (Some(mode), Some(blob)),
                _ => (None, None),
            };
            let Some(mode) = three_way(base_mode, our_mode, mode) else {
                return Ok(clash(Clash::Mode, false));
            };
            if let Some(blob) = three_way(base_blob, our_blob, blob) {
                let result = Some(File { mode, blob });
                let outcome = (result != ours).then_some(if result == theirs {
                    Outcome::Taken
                } else {
                    Outcome::Merged
                });
                return Ok((Resolved { result, outcome }, false));
            }
            let Some(base_blob) = base_blob else { return Ok(clash(Clash::BothAdded, false)) };
            match merge(open.key, base_blob, our_blob, blob)? {
                Edits::Merged(blob) => {
                    let result = Some(File { mode, blob });
                    let outcome = (result != ours).then_some(Outcome::Merged);
                    (Resolved { result, outcome }, false)
                }
                Edits::Marked(blob) => {
                    let outcome = Some(Outcome::Conflict(Clash::Marked));
                    (Resolved { result: Some(File { mode, blob }), outcome }, false)
                }
                Edits::Clash(what) => clash(what, false),
            }
        }
        (Some(Form::Link { .. }), Some(Form::Link { .. })) => clash(Clash::Content, false),
        (Some(_), Some(_)) => clash(Clash::Kind, was_directory || is_directory),
    })
}

/// Whether a path is below another one.
pub(super) fn is_below(key: &[u8], above: &[u8]) -> bool {
    key.strip_prefix(above)
        .is_some_and(|rest| (above.is_empty() && !rest.is_empty()) || rest.first() == Some(&0))
}

/// The key of a path.
pub(super) fn key_of(path: &[u8]) -> Key {
    path.iter().map(|&byte| if byte == b'/' { 0 } else { byte }).collect()
}

/// The path of a key.
pub(super) fn path_of(key: &[u8]) -> Vec<u8> {
    key.iter().map(|&byte| if byte == 0 { b'/' } else { byte }).collect()
}

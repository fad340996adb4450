//! A file that one side moved and the other one edited: the edit goes where the file went.
//!
//! **Invariant:** only where there is no doubt. The content is the very same, was taken away in one place
//! only and came in one place only, and the other side did nothing there.

use std::collections::HashMap;

use baton_protocol::id::ObjectId;

use super::form::Form;
use super::resolve::{Paths, Three};

/// Lets edits follow files.
pub(super) fn follow_renames(paths: &mut Paths) {
    for (from, to) in moved(paths, |three| three.ours) {
        let (Some(old), Some(new)) = (paths.get(&from).cloned(), paths.get(&to).cloned()) else {
            continue;
        };
        let is_edited = old.theirs != old.base && matches!(old.theirs, Some(Form::File { .. }));
        if is_edited && new.theirs.is_none() && !new.is_hidden && !old.is_hidden {
            let (base, theirs) = (old.base, old.theirs);
            paths.insert(from.clone(), Three { theirs: base, ..old });
            paths.insert(to, Three { base, theirs, followed: Some(from), ..new });
        }
    }
    for (from, to) in moved(paths, |three| three.theirs) {
        let (Some(old), Some(new)) = (paths.get(&from).cloned(), paths.get(&to).cloned()) else {
            continue;
        };
        let (Some(Form::File { mode: before, .. }), Some(Form::File { mode, blob })) =
            (old.base, old.ours)
        else {
            continue;
        };
        let Some(Form::File { mode: after, .. }) = new.theirs else { continue };
        let modes_agree = mode == before || after == before || mode == after;
        let is_edited = old.ours != old.base;
        if is_edited && modes_agree && new.ours.is_none() && !new.is_hidden && !old.is_hidden {
            let mode = if mode == before { after } else { mode };
            let theirs = Some(Form::File { mode, blob });
            let needs = Some(to.clone());
            paths.insert(from.clone(), Three { base: old.ours, needs, ..old });
            paths.insert(to, Three { theirs, followed: Some(from), ..new });
        }
    }
}

/// What one side moved: from where, and where to.
fn moved(paths: &Paths, side: impl Fn(&Three) -> Option<Form>) -> Vec<(Vec<u8>, Vec<u8>)> {
    /// Where a content was taken away, and where it came.
    type Places<'a> = (Vec<&'a Vec<u8>>, Vec<&'a Vec<u8>>);
    let mut by_content: HashMap<ObjectId, Places<'_>> = HashMap::new();
    for (path, three) in paths {
        match (three.base, side(three)) {
            (Some(Form::File { blob, .. }), None) if blob.size > 0 => {
                by_content.entry(blob.content.id()).or_default().0.push(path);
            }
            (None, Some(Form::File { blob, .. })) if blob.size > 0 => {
                by_content.entry(blob.content.id()).or_default().1.push(path);
            }
            _ => {}
        }
    }
    let mut moved: Vec<_> = by_content
        .into_values()
        .filter_map(|(from, to)| match (from.as_slice(), to.as_slice()) {
            (&[from], &[to]) => Some((from.clone(), to.clone())),
            _ => None,
        })
        .collect();
    moved.sort_unstable();
    moved
}

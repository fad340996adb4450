//! A file that one side moved and the other one edited: the edit goes where the file went.
//!
//! **Invariant:** only where there is no doubt. The content is the very same, was taken away in one place
//! only and came in one place only, and the other side did nothing there.

use std::collections::HashMap;

use baton_protocol::id::ObjectId;

use super::form::Form;
use super::resolve::{Key, Paths, Three};

/// An edit of ours that follows a file which was moved there; and how the two paths were before that.
#[derive(Debug)]
pub(super) struct Follow {
    from: (Key, Three),
    to: (Key, Three),
}

impl Follow {
    /// Whether the edit will be where the file went.
    pub(super) fn arrives(&self, paths: &Paths, result: impl Fn(&Key) -> Option<Form>) -> bool {
        let wanted = paths.get(&self.to.0).and_then(|three| three.theirs);
        result(&self.to.0) == wanted
    }

    /// Lets it stay where it is.
    pub(super) fn take_back(self, paths: &mut Paths) {
        paths.extend([self.from, self.to]);
    }
}

/// Lets edits follow files. Those of ours are returned, because the file must not go before they arrive.
pub(super) fn follow_renames(paths: &mut Paths) -> Vec<Follow> {
    let mut following = Vec::new();
    for (from, to) in moved(paths, |three| three.ours) {
        let Some((old, new)) = pair(paths, &from, &to) else { continue };
        let (base, theirs) = (old.base, old.theirs);
        if is_file(theirs) && theirs != base && new.theirs.is_none() {
            paths.insert(from.clone(), Three { theirs: base, ..old });
            paths.insert(to, Three { base, theirs, followed: Some(from), ..new });
        } else if theirs.is_none() && is_file(new.theirs) {
            // Both moved it there, and they edited it besides.
            paths.insert(to, Three { base, ..new });
        }
    }
    for (from, to) in moved(paths, |three| three.theirs) {
        let Some((old, new)) = pair(paths, &from, &to) else { continue };
        if old.ours.is_none() && is_file(new.ours) {
            paths.insert(to, Three { base: old.base, ..new });
            continue;
        }
        let (Some(Form::File { mode: before, .. }), Some(Form::File { mode, blob })) =
            (old.base, old.ours)
        else {
            continue;
        };
        let Some(Form::File { mode: after, .. }) = new.theirs else { continue };
        let modes_agree = mode == before || after == before || mode == after;
        if old.ours != old.base && modes_agree && new.ours.is_none() {
            let mode = if mode == before { after } else { mode };
            let theirs = Some(Form::File { mode, blob });
            let needs = Some(to.clone());
            following
                .push(Follow { from: (from.clone(), old.clone()), to: (to.clone(), new.clone()) });
            paths.insert(from.clone(), Three { base: old.ours, needs, ..old });
            paths.insert(to, Three { theirs, followed: Some(from), ..new });
        }
    }
    // An edit that has followed its file before need not do so again.
    for (from, _) in followed(paths) {
        if let Some(three) = paths.get_mut(&from) {
            three.theirs = three.base;
        }
    }
    following
}

fn is_file(form: Option<Form>) -> bool {
    matches!(form, Some(Form::File { .. }))
}

/// Two paths, where all that is here at them is known.
fn pair(paths: &Paths, from: &Key, to: &Key) -> Option<(Three, Three)> {
    let (old, new) = (paths.get(from)?, paths.get(to)?);
    (!old.is_hidden && !new.is_hidden).then(|| (old.clone(), new.clone()))
}

/// Files that went away here and were edited there, whose edited content came in one place here.
fn followed(paths: &Paths) -> Vec<(Key, Key)> {
    let edited = |three: &Three| {
        let is_edited = is_file(three.base) && three.ours.is_none() && three.theirs != three.base;
        three.theirs.filter(|_| is_edited)
    };
    let came = |three: &Three| three.ours.filter(|_| three.base.is_none());
    pairs_by_content(paths, edited, came)
}

/// What one side moved: from where, and where to.
fn moved(paths: &Paths, side: impl Fn(&Three) -> Option<Form>) -> Vec<(Key, Key)> {
    let went = |three: &Three| three.base.filter(|_| side(three).is_none());
    let came = |three: &Three| side(three).filter(|_| three.base.is_none());
    pairs_by_content(paths, went, came)
}

/// The paths at which a content went and came, where each is the only one.
fn pairs_by_content(
    paths: &Paths,
    went: impl Fn(&Three) -> Option<Form>,
    came: impl Fn(&Three) -> Option<Form>,
) -> Vec<(Key, Key)> {
    type Places<'a> = (Vec<&'a Key>, Vec<&'a Key>);
    let mut by_content: HashMap<ObjectId, Places<'_>> = HashMap::new();
    for (path, three) in paths {
        if let Some(Form::File { blob, .. }) = went(three)
            && blob.size > 0
        {
            by_content.entry(blob.content.id()).or_default().0.push(path);
        }
        if let Some(Form::File { blob, .. }) = came(three)
            && blob.size > 0
        {
            by_content.entry(blob.content.id()).or_default().1.push(path);
        }
    }
    let mut found: Vec<_> = by_content
        .into_values()
        .filter_map(|(from, to)| match (from.as_slice(), to.as_slice()) {
            (&[from], &[to]) => Some((from.clone(), to.clone())),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    found
}

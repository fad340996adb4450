//! The paths at which two trees differ, and what each has there.
//!
//! **Invariant:** subtrees that are the same are never read; what is listed is bounded, and a listing can be
//! called off.

use baton_protocol::id::TreeId;
use baton_protocol::object::EntryKind;
use baton_protocol::path::{MAX_PATH, RelPath, is_git_name};

use super::ApplyError;
use super::form::Form;
use crate::diff::pair_entries;
use crate::error::StoreError;
use crate::ignore::is_own_name;
use crate::objects::ObjectSource;
use crate::scan::Progress;
use crate::trees::compare;

/// Entries that are compared at most, and bytes of the paths that differ: a plan is held in memory, at some
/// hundred bytes an entry. Few objects can name each other so that they stand for more entries than
/// anybody can list; and where a million paths differ a new folder is the better place.
const MAX_COMPARED: u64 = 1 << 22;
const MAX_DIFFERENT: u64 = 1 << 20;
const MAX_PATH_BYTES: u64 = 256 << 20;

/// Bytes of the files that differ at most, holes included: what a restore writes at most.
const MAX_BYTES: u64 = 1 << 50;

/// A path at which two trees differ.
#[derive(Clone, Debug)]
pub(super) struct Difference {
    pub(super) path: RelPath,
    pub(super) old: Option<Form>,
    pub(super) new: Option<Form>,
}

/// Lists in what two trees differ, in no order: not two directories of one mode.
pub(super) fn differences<S: ObjectSource + ?Sized>(
    source: &S,
    old: TreeId,
    new: TreeId,
    progress: &Progress,
) -> Result<Vec<Difference>, ApplyError> {
    let mut found = Vec::new();
    let (mut compared, mut path_bytes, mut bytes) = (0u64, 0u64, 0u64);
    let mut pairs = vec![(RelPath::root(), Some(old), Some(new))];
    while let Some((above, old, new)) = pairs.pop() {
        if progress.is_cancelled() {
            return Err(ApplyError::Cancelled);
        }
        let nodes = compare(source, old, new)?;
        for (old, new) in pair_entries(nodes.old, nodes.new) {
            let Some(entry) = new.as_ref().or(old.as_ref()) else { continue };
            // No tree should have one, and where one has, it is not of this checkout.
            if is_own_name(&entry.name) {
                continue;
            }
            let path = above.join(&entry.name);
            if path.as_bytes().len() > MAX_PATH {
                return Err(StoreError::DamagedObject(entry.content()).into());
            }
            if is_git_name(&entry.name) {
                return Err(ApplyError::GitName { path });
            }
            compared += 1;
            if compared > MAX_COMPARED {
                let what = "entries that differ";
                return Err(StoreError::TooMany { what, limit: MAX_COMPARED }.into());
            }
            let (old, new) = (old.map(|entry| entry.kind), new.map(|entry| entry.kind));
            let tree = |kind: Option<EntryKind>| match kind {
                Some(EntryKind::Directory { tree, .. }) => Some(tree),
                _ => None,
            };
            if tree(old) != tree(new) {
                pairs.push((path.clone(), tree(old), tree(new)));
            }
            let (old, new) = (old.map(Form::from), new.map(Form::from));
            if old == new {
                continue;
            }
            let blob = new.and_then(|form| form.blob());
            bytes = bytes.saturating_add(blob.map_or(0, |blob| blob.size));
            if bytes > MAX_BYTES {
                let what = "bytes in files that differ";
                return Err(StoreError::TooMany { what, limit: MAX_BYTES }.into());
            }
            path_bytes += path.as_bytes().len() as u64;
            if found.len() as u64 >= MAX_DIFFERENT || path_bytes > MAX_PATH_BYTES {
                let what = "paths that differ";
                return Err(StoreError::TooMany { what, limit: MAX_DIFFERENT }.into());
            }
            found.push(Difference { path, old, new });
        }
    }
    Ok(found)
}

//! What of a snapshot would not be seen if additions lay over it.
//!
//! Additions were made beside one snapshot and are seen with others, which may have files of the same names.
//!
//! **Invariant:** only folders that both have are read.

use std::os::fd::OwnedFd;
use std::path::Path;

use baton_protocol::id::{ObjectKind, TreeId};
use baton_protocol::object::{Entry, EntryKind, TreeSums, build_tree};
use rustix::fs::{AtFlags, FileType};

use super::{AdditionsError, Failure, borrowed, check_level, entries, of_snapshot, open_top};
use crate::error::StoreError;
use crate::objects::{ObjectSink, ObjectSource};
use crate::scan::directory::open_in;

/// A tree of what has to lie over the additions so that all of a snapshot is seen, put into the same store; nothing where
/// they hide nothing.
pub fn hidden<S: ObjectSource + ObjectSink>(
    objects: &S,
    snapshot: TreeId,
    additions: &Path,
) -> Result<Option<TreeId>, AdditionsError> {
    let top = open_top(additions)?;
    let found = in_directory(objects, snapshot, &top, 0);
    let found = found.map_err(|failure| failure.at("looking through", additions))?;
    Ok(found.map(|(tree, _)| tree))
}

fn in_directory<S: ObjectSource + ObjectSink>(
    objects: &S,
    snapshot: TreeId,
    folder: &OwnedFd,
    level: usize,
) -> Result<Option<(TreeId, TreeSums)>, Failure> {
    check_level(level)?;
    let fd = borrowed(folder);
    let names = entries(fd)?;
    let mut both = of_snapshot(objects, Some(snapshot), &names)?;
    let mut over = Vec::new();
    for (name, kind) in names {
        let Some(known) = both.remove(&name) else { continue };
        let kind = match (known, kind) {
            (EntryKind::Directory { mode, tree, .. }, FileType::Directory) => {
                let stat = rustix::fs::statat(fd, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW)?;
                let inner = in_directory(objects, tree, &open_in(fd, &name)?, level + 1)?;
                if inner.is_none() && (stat.st_mode & 0o777) as u16 == mode {
                    continue;
                }
                let (tree, below) = match inner {
                    Some(inner) => inner,
                    None => build(objects, Vec::new())?,
                };
                EntryKind::Directory { mode, tree, below }
            }
            (known, _) => known,
        };
        over.push(Entry { name, kind });
    }
    if over.is_empty() { Ok(None) } else { Ok(Some(build(objects, over)?)) }
}

fn build<S: ObjectSink>(
    objects: &S,
    entries: Vec<Entry>,
) -> Result<(TreeId, TreeSums), StoreError> {
    build_tree(entries, |_, _, bytes| objects.put(ObjectKind::Tree, &bytes).map(drop))
}

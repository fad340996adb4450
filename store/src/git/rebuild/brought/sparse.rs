//! Folders of sparse indexes, unfolded where the indexes that are brought together do not have the same.
//!
//! **Invariant:** a folder that stays folded is the same one in all of them.

use std::collections::btree_map::Entry as Slot;
use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::{GitEntry, GitHash, GitMode, GitOid, is_index_path};

use crate::git::view::View;
use crate::git::{GitError, MAX_LIST, shown};

/// Unfolds what is not in all indexes alike.
pub(super) fn unfold<const N: usize>(
    view: &View<'_>,
    hash: GitHash,
    mut indexes: [Vec<GitEntry>; N],
) -> Result<[Vec<GitEntry>; N], GitError> {
    let folders = |entries: &[GitEntry]| -> BTreeSet<(Vec<u8>, GitOid)> {
        let folded = entries.iter().filter(|entry| entry.mode == GitMode::Directory);
        folded.map(|entry| (entry.path.clone(), entry.oid)).collect()
    };
    let all: Vec<_> = indexes.iter().map(|entries| folders(entries)).collect();
    let is_common = |entry: &GitEntry| {
        let folder = (entry.path.clone(), entry.oid);
        all.iter().all(|of_one| of_one.contains(&folder))
    };
    let mut known: BTreeMap<GitOid, Vec<GitEntry>> = BTreeMap::new();
    let mut left = MAX_LIST;
    for entries in &mut indexes {
        if entries.iter().all(|entry| entry.mode != GitMode::Directory || is_common(entry)) {
            continue;
        }
        let mut unfolded = Vec::with_capacity(entries.len());
        for entry in std::mem::take(entries) {
            if entry.mode != GitMode::Directory || is_common(&entry) {
                unfolded.push(entry);
                continue;
            }
            let below = match known.entry(entry.oid) {
                Slot::Occupied(known) => known.into_mut(),
                Slot::Vacant(new) => new.insert(list(view, hash, &entry, &mut left)?),
            };
            let size = below.iter().map(|it| (it.path.len() + entry.path.len()) as u64);
            left = left.checked_sub(size.sum()).ok_or_else(|| too_many(&entry))?;
            for inner in &*below {
                let path = [&entry.path[..], &inner.path].concat();
                if !is_index_path(&path) {
                    let what = format!("the entry {} of the index", shown(&path));
                    return Err(GitError::refused(what, "git could not check it out safely"));
                }
                unfolded.push(GitEntry { path, ..inner.clone() });
            }
        }
        unfolded.sort_by(|a, b| (&a.path, a.stage).cmp(&(&b.path, b.stage)));
        *entries = unfolded;
    }
    Ok(indexes)
}

fn too_many(entry: &GitEntry) -> GitError {
    let what = format!("the folder {} of the index", shown(&entry.path));
    GitError::refused(what, "it unfolds to more than any project has")
}

/// What is in a folder, relative to it.
fn list(
    view: &View<'_>,
    hash: GitHash,
    entry: &GitEntry,
    left: &mut u64,
) -> Result<Vec<GitEntry>, GitError> {
    const DOING: &str = "list a folder of the index";
    let oid = entry.oid.to_string();
    let listed = view
        .git()
        .args(["ls-tree", "-r", "-z", "--full-tree", &oid])
        .bytes(DOING, b"", *left)?
        .checked(DOING)?;
    let line = |line: &[u8]| {
        let tab = line.iter().position(|&byte| byte == b'\t')?;
        let (meta, path) = line.split_at(tab);
        let mut words = meta.split(|&byte| byte == b' ');
        let bits = u32::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 8).ok()?;
        let oid = GitOid::from_hex(hash, words.nth(1)?)?;
        Some(GitEntry {
            path: path.get(1..)?.to_vec(),
            stage: 0,
            // Very old versions of git kept more permissions than one.
            mode: GitMode::from_bits(bits).unwrap_or(GitMode::File),
            assume_valid: false,
            skip_worktree: true,
            intent_to_add: false,
            clean: None,
            oid,
        })
    };
    let lines = listed.split(|&byte| byte == 0).filter(|line| !line.is_empty());
    let entries: Option<Vec<_>> = lines.map(line).collect();
    entries.ok_or_else(|| GitError::Git { doing: DOING, said: "a line is no entry".into() })
}

//! Whether the branch that is checked out may move: what it brings must be in index and files, too. Otherwise the next
//! commit here would take it back.
//!
//! Not here: what is in conflict, because of which the branch stays anyway.
//!
//! **Invariant:** where it moves, the index has of each path that the branch changes what the run left there, or what is
//! committed, or both sides' changes since what is committed here; and a file that was as the index had it follows the
//! index.

use std::collections::BTreeMap;

use baton_protocol::object::{GitEntry, GitMode, GitOid};
use baton_protocol::path::RelPath;

use super::FilesBrought;
use super::checkout::Worktree;
use crate::fs::Context;
use crate::git::index::{Files, Remembered, has_file, prove};
use crate::git::view::View;
use crate::git::{GitError, MAX_LIST};

/// Indexes that are brought together, and what they come to; each ascending.
pub(super) struct Lists<'a> {
    pub(super) base: &'a [GitEntry],
    pub(super) here: &'a [GitEntry],
    pub(super) there: &'a [GitEntry],
    pub(super) result: &'a [GitEntry],
}

/// What a commit has at a path.
type Version = Option<(GitMode, GitOid)>;

/// Whether something that a branch brings on its way from one commit to another would be staged, or be edited in a
/// file, to go away again.
pub(super) fn takes_back(
    view: &View<'_>,
    way: (GitOid, GitOid),
    lists: &Lists<'_>,
    worktree: &Worktree<'_>,
    brought: &FilesBrought,
) -> Result<bool, GitError> {
    let mut follow = Vec::new();
    for (path, [old, new]) in changes(view, way)? {
        let result = at(lists.result, &path);
        let there = at(lists.there, &path);
        // A folder that stays folded is the same there.
        if result.is_empty() && there.is_empty() && is_folded(lists.result, &path) {
            continue;
        }
        let base = at(lists.base, &path);
        let is_so =
            is_alike(result, there) || version(result) == Some(new) || version(base) == Some(old);
        if !is_so {
            return Ok(true);
        }
        let here = at(lists.here, &path);
        if let [entry] = result
            && has_file(entry)
            && !is_alike(result, here)
        {
            // In the base the file was as the index had it, and so both come to the same.
            let is_merged = base.first().is_some_and(|it| it.clean.is_some())
                && !is_alike(result, there)
                && is_in(&brought.merged, &path);
            if !is_merged && !is_in(&brought.taken, &path) {
                follow.push((path, here.first()));
            }
        }
    }
    Ok(!follow.is_empty() && is_one_clean(&follow, worktree)?)
}

/// Whether one of these files is as the index has it, or missing as it is there.
fn is_one_clean(
    files: &[(Vec<u8>, Option<&GitEntry>)],
    worktree: &Worktree<'_>,
) -> Result<bool, GitError> {
    let mut look = Files::below(worktree.path)?;
    let known = worktree.index.map_or(&[][..], |index| &index.meaning.entries);
    let mut unsure = Vec::new();
    for (path, entry) in files {
        let (seen, entry) = match (look.look(path), entry) {
            (None, None) => return Ok(true),
            // One that is not wanted in the worktree is missing by intention.
            (None, Some(entry)) if entry.skip_worktree => return Ok(true),
            (None, Some(_)) | (Some(_), None) => continue,
            (Some(seen), Some(entry)) => (seen, *entry),
        };
        let place =
            known.binary_search_by(|it| (&it.path, it.stage).cmp(&(&entry.path, entry.stage)));
        let stat = worktree.index.zip(place.ok()).and_then(|(index, at)| index.stats.get(at));
        if stat == Some(&seen.stat) {
            return Ok(true);
        }
        unsure.push(GitEntry { clean: Some(seen.stat.size), ..entry.clone() });
    }
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open(worktree.path, flags, rustix::fs::Mode::empty())
        .context("opening", worktree.path)?;
    // No file is dated back.
    let nothing = Remembered::default();
    Ok(!prove(&unsure, &root, &nothing, worktree.trusts_mode, (i64::MAX, 0))?.stats.is_empty())
}

fn is_in(list: &std::collections::BTreeSet<RelPath>, path: &[u8]) -> bool {
    RelPath::new(path).is_ok_and(|path| list.contains(&path))
}

/// The entries of a path.
fn at<'a>(entries: &'a [GitEntry], path: &[u8]) -> &'a [GitEntry] {
    let from = entries.partition_point(|entry| entry.path.as_slice() < path);
    let rest = entries.get(from..).unwrap_or_default();
    let len = rest.iter().take_while(|entry| entry.path == path).count();
    rest.get(..len).unwrap_or_default()
}

/// Whether a path is in a folder that is one entry.
fn is_folded(entries: &[GitEntry], path: &[u8]) -> bool {
    let slashes = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
    let mut above = slashes.filter_map(|(slash, _)| path.get(..=slash));
    above.any(|folder| !at(entries, folder).is_empty())
}

/// What would be committed of entries of one path; nothing where that is no single thing.
fn version(entries: &[GitEntry]) -> Option<Version> {
    match entries {
        [] => Some(None),
        [entry] if entry.intent_to_add => Some(None),
        [entry] if entry.stage == 0 => Some(Some((entry.mode, entry.oid))),
        _ => None,
    }
}

fn is_alike(a: &[GitEntry], b: &[GitEntry]) -> bool {
    let key = |it: &GitEntry| (it.stage, it.mode, it.oid, it.intent_to_add);
    a.iter().map(key).eq(b.iter().map(key))
}

/// What differs between two commits: of each path what the old one has, and the new one.
fn changes(
    view: &View<'_>,
    (old, new): (GitOid, GitOid),
) -> Result<BTreeMap<Vec<u8>, [Version; 2]>, GitError> {
    const DOING: &str = "compare commits";
    let commits = [format!("{old}^{{tree}}"), format!("{new}^{{tree}}")];
    let listed = view
        .git()
        .args(["diff-tree", "-r", "-z", "--raw", "--no-renames", "--no-abbrev"])
        .args(&commits)
        .bytes(DOING, b"", MAX_LIST)?
        .checked(DOING)?;
    let version = |mode: &[u8], oid: &[u8]| {
        let bits = u32::from_str_radix(std::str::from_utf8(mode).ok()?, 8).ok()?;
        if bits == 0 {
            return Some(None);
        }
        // Very old versions of git kept more permissions than one.
        let mode = GitMode::from_bits(bits).unwrap_or(GitMode::File);
        Some(Some((mode, GitOid::from_hex(old.hash(), oid)?)))
    };
    let mut found = BTreeMap::new();
    let mut words = listed.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    while let (Some(line), path) = (words.next(), words.next()) {
        let parts: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        let change = match parts.as_slice() {
            [old_mode, new_mode, old_oid, new_oid, _] => {
                let old_mode = old_mode.strip_prefix(b":").unwrap_or(old_mode);
                version(old_mode, old_oid).zip(version(new_mode, new_oid)).zip(path)
            }
            _ => None,
        };
        let unread = || GitError::Git { doing: DOING, said: "a line is no change".into() };
        let ((before, after), path) = change.ok_or_else(unread)?;
        found.insert(path.to_vec(), [before, after]);
    }
    Ok(found)
}

//! What a state names beside what came with it, and its files as they are here.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use baton_protocol::object::{
    GitFile, GitHead, GitIndex, GitMode, GitOid, GitOmitReason, GitRef, GitState, GitTarget,
};

use rustix::fs::{AtFlags, FileType};
use rustix::io::Errno;

use crate::fs::{self, Context};
use crate::git::index::{Index, Remembered, build_trees, prove};
use crate::git::program::GitProgram;
use crate::git::view::View;
use crate::git::{GitError, MAX_LIST, Told, files, index, objects, shown};
use crate::scan::directory::open_in;

/// Where the files of a repository are.
pub(super) struct Worktree<'a> {
    pub(super) folder: OwnedFd,
    pub(super) path: &'a Path,
    /// Asked for attributes where it is believed that a filter made of an object what a file holds, though
    /// nobody can prove it here.
    pub(super) filters_by: Option<&'a GitProgram>,
}

/// Refuses refs to objects that did not come.
pub(super) fn check_targets(
    view: &View<'_>,
    state: &GitState,
    refs: &[GitRef],
) -> Result<(), GitError> {
    let mut named: BTreeMap<GitOid, String> = BTreeMap::new();
    for GitRef { name, target } in refs {
        if let GitTarget::Object(oid) = target {
            named.insert(*oid, name.to_string());
        }
    }
    if let GitHead::Detached(oid) = &state.head {
        named.insert(*oid, "HEAD".into());
    }
    let there = objects::present(view, state.hash, &named.keys().copied().collect())?;
    match named.iter().find(|(oid, _)| !there.contains(oid)) {
        Some((_, name)) => Err(GitError::refused(name.clone(), "its object is not in the state")),
        None => Ok(()),
    }
}

/// Drops lines of reflogs that name objects that did not come.
pub(super) fn check_logs(
    view: &View<'_>,
    state: &GitState,
    files: &mut [GitFile],
    told: &mut Told,
) -> Result<(), GitError> {
    let named = files.iter().flat_map(|file| files::logged(file, state.hash)).collect();
    let there = objects::present(view, state.hash, &named)?;
    for file in files {
        let before = file.bytes.len();
        files::drop_lines(file, state.hash, &there);
        if file.bytes.len() < before {
            told.note(GitOmitReason::Missing, format!("lines of {}", shown(file.path.as_bytes())));
        }
    }
    Ok(())
}

/// Drops records of resolutions of files that are behind a link here: git reads what it finds there, and keeps it
/// among its own files, from where it would travel.
pub(super) fn check_resolutions(
    worktree: Option<&OwnedFd>,
    files: &mut [GitFile],
    told: &mut Told,
) {
    for file in files.iter_mut().filter(|file| file.path.as_bytes() == b"MERGE_RR") {
        file.bytes = files::keep_resolutions(&file.bytes, |path| {
            let stays = worktree.is_some_and(|worktree| !is_behind_link(worktree, path));
            if !stays {
                told.note(GitOmitReason::Outside, format!("the resolution of {}", shown(path)));
            }
            stays
        });
    }
}

fn is_behind_link(worktree: &OwnedFd, path: &[u8]) -> bool {
    let mut names: Vec<&[u8]> = path.split(|&byte| byte == b'/').collect();
    let last = names.pop().unwrap_or_default();
    let mut above: Option<OwnedFd> = None;
    for name in names {
        match open_in(above.as_ref().unwrap_or(worktree).as_fd(), name) {
            Ok(folder) => above = Some(folder),
            Err(error) => return error != Errno::NOENT,
        }
    }
    match rustix::fs::statat(above.as_ref().unwrap_or(worktree), last, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Symlink,
        Err(error) => error != Errno::NOENT,
    }
}

/// The file of an index, with what the files look like here. What is in one that `known` was read from need not be looked
/// for, and what that remembers of a file holds for as long as the file looks so.
pub(super) fn index_bytes(
    index: &GitIndex,
    worktree: Option<&Worktree<'_>>,
    known: Option<&Index>,
    git_dir: &Path,
    trusts_mode: bool,
    view: &View<'_>,
    told: &mut Told,
) -> Result<Vec<u8>, GitError> {
    let trees = build_trees(&index.entries, index.hash)?;
    let mut wanted = trees.oids();
    let entries = index.entries.iter().filter(|it| it.mode != GitMode::Submodule);
    wanted.extend(entries.clone().map(|entry| entry.oid));
    let mut there = HashSet::new();
    if let Some(known) = known {
        // Its own objects were there, and are still; but not the trees that nobody has written yet.
        let files = known.meaning.entries.iter().filter(|it| it.mode != GitMode::Submodule);
        there.extend(files.map(|entry| entry.oid));
        wanted.retain(|oid| !there.contains(oid));
    }
    there.extend(objects::present(view, index.hash, &wanted)?);
    let missing: BTreeSet<_> =
        entries.map(|entry| entry.oid).filter(|oid| !there.contains(oid)).collect();
    if !missing.is_empty() {
        let what = format!("{} objects that the index names", missing.len());
        told.note(GitOmitReason::Missing, what);
    }
    let mut stats = BTreeMap::new();
    if let Some(worktree) = worktree {
        let remembered = known.map(Remembered::of).unwrap_or_default();
        let time = tick(git_dir)?;
        let proven = prove(&index.entries, &worktree.folder, &remembered, trusts_mode, time)?;
        stats.extend(proven.stats);
        let odd = proven.odd.into_iter();
        let odd: Vec<_> =
            odd.filter_map(|(at, stat)| Some((&index.entries.get(at)?.path, at, stat))).collect();
        if let Some(git) = worktree.filters_by.filter(|_| !odd.is_empty()) {
            let names = odd.iter().map(|(path, ..)| path.as_slice());
            let filtered = filtered(git, git_dir, worktree.path, names)?;
            let believed = odd.iter().filter(|(path, ..)| filtered.contains(*path));
            stats.extend(believed.map(|&(_, at, stat)| (at, stat)));
        }
    }
    index::write(index, &stats, &trees, &there)
}

/// The paths of these whose files are not the bytes of their objects by the rules of attributes. Nothing is run for
/// them: rules are only read.
fn filtered<'a>(
    git: &GitProgram,
    git_dir: &Path,
    worktree: &Path,
    paths: impl Iterator<Item = &'a [u8]>,
) -> Result<BTreeSet<Vec<u8>>, GitError> {
    const DOING: &str = "read attributes";
    let input = paths.flat_map(|path| [path, b"\0"]).collect::<Vec<_>>().concat();
    let answer = git
        .at(git_dir)
        .env("GIT_WORK_TREE", worktree)
        .args(["check-attr", "-z", "--stdin", "filter", "ident", "working-tree-encoding"])
        .bytes(DOING, &input, MAX_LIST)?
        .checked(DOING)?;
    let words: Vec<&[u8]> = answer.split(|&byte| byte == 0).collect();
    let applies = |value: &[u8]| !matches!(value, b"unspecified" | b"unset" | b"");
    let found = words.chunks_exact(3).filter_map(|line| match line {
        [path, _, value] if applies(value) => Some(path.to_vec()),
        _ => None,
    });
    Ok(found.collect())
}

/// The name of a file that is there for a moment. Two never look at the time of one folder at once.
pub(super) const TICK: &str = "baton-tick";

/// What the file system says of the time.
pub(super) fn tick(git_dir: &Path) -> Result<(i64, i64), GitError> {
    use std::os::unix::fs::MetadataExt;
    let path = git_dir.join(TICK);
    // Whoever was cut off has left it.
    fs::remove_file(&path)?;
    let file = fs::create_new(&path)?;
    let metadata = file.metadata().context("looking at", &path)?;
    fs::remove_file(&path)?;
    Ok((metadata.mtime(), metadata.mtime_nsec()))
}

//! Where git leaves a sign when something changes that a [capture](super::capture()) reads.
//!
//! Not here: watching for it.
//!
//! Git makes a lock, writes into it and puts it in the place of the file: the sign is the file, and not the lock. So
//! folders are enough, and of those few: objects come before what names them.
//!
//! **Invariant:** whatever makes a [glance](super::Glance) differ is a sign, but for the memory of `HEAD`, which never
//! changes alone.

use std::collections::{BTreeSet, VecDeque};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::as_path;
use super::place::Repository;
use super::stamp::FOLDERS;

/// Where the list of stashes is remembered.
const STASH_FOLDER: &[u8] = b"logs/refs";

/// What git keeps beside that, and nothing of which is read: folders, and what it leaves when it collects.
const OTHERS: [&[u8]; 11] = [
    b"objects",
    b"logs",
    b"hooks",
    b"modules",
    b"worktrees",
    b"branches",
    b"lfs",
    b"gc.pid",
    b"gc.log",
    b"fsmonitor--daemon",
    b"fsmonitor--daemon.ipc",
];

/// The folders of the repository of a worktree, and of those whose worktrees are `inner`, relative to it: what is a
/// worktree's alone, and what it shares. Real paths; what cannot be opened has none.
pub fn sign_folders(worktree: &Path, inner: &[impl AsRef<Path>]) -> BTreeSet<PathBuf> {
    let inner = inner.iter().map(|path| worktree.join(path));
    let all = std::iter::once(worktree.to_owned()).chain(inner);
    let opened = all.filter_map(|worktree| Repository::open(&worktree, None).ok());
    opened.flat_map(|repo| [repo.git_dir, repo.common_dir]).collect()
}

/// What is to be watched of such a folder: paths relative to it, each after the one above, itself first and empty. At
/// most `limit`, and of those the ones nearest to it.
pub fn sign_places(folder: &Path, limit: usize) -> Vec<Vec<u8>> {
    let mut places = vec![Vec::new()];
    let mut left: VecDeque<Vec<u8>> = FOLDERS.iter().map(|name| name.as_bytes().to_vec()).collect();
    left.push_back(STASH_FOLDER.to_vec());
    while let Some(place) = left.pop_front() {
        let path = folder.join(as_path(&place));
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_dir()) {
            continue;
        }
        if place == STASH_FOLDER {
            places.push(b"logs".to_vec());
        } else if let Ok(entries) = std::fs::read_dir(&path) {
            let folders = entries.flatten().filter(|it| it.file_type().is_ok_and(|it| it.is_dir()));
            let folders = folders.take(limit.saturating_sub(left.len()));
            left.extend(folders.map(|it| [&place, &b"/"[..], it.file_name().as_bytes()].concat()));
        }
        places.push(place);
    }
    places.truncate(limit);
    places
}

/// Whether a name is a sign, in a place of such a folder. Where git is at work a lock that comes or goes is one, too.
pub fn is_sign(place: &[u8], name: &[u8], is_busy: bool) -> bool {
    if name.ends_with(b".lock") {
        return is_busy;
    }
    match place {
        // Hidden ones are of editors and of other programs that watch.
        b"" => !OTHERS.contains(&name) && !name.starts_with(b"."),
        b"logs" => name == b"refs",
        STASH_FOLDER => name == b"stash",
        b"reftable" => name == b"tables.list",
        _ => FOLDERS.iter().any(|folder| {
            let rest = place.strip_prefix(folder.as_bytes());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
        }),
    }
}

/// Whether there are signs in a place of such a folder.
pub fn has_signs(place: &[u8]) -> bool {
    [&b"HEAD"[..], b"refs", b"stash", b"tables.list"].iter().any(|name| is_sign(place, name, false))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ignore::COOKIE;

    #[test]
    fn what_is_read_is_a_sign_and_what_git_does_for_itself_is_none() {
        for (place, name) in [
            ("", "index"),
            ("", "HEAD"),
            ("", "packed-refs"),
            ("", "MERGE_HEAD"),
            ("", "rebase-merge"),
            ("", "config"),
            ("", "shallow"),
            ("refs/heads", "main"),
            ("refs/heads/feature", "one"),
            ("refs", "stash"),
            ("logs/refs", "stash"),
            ("rebase-merge", "done"),
            ("info", "exclude"),
            ("reftable", "tables.list"),
        ] {
            assert!(is_sign(place.as_bytes(), name.as_bytes(), false), "{place}/{name}");
        }
        for (place, name) in [
            ("", "objects"),
            ("", "index.lock"),
            ("", "gc.pid"),
            ("", "modules"),
            ("refs/heads", "main.lock"),
            ("logs/refs", "heads"),
            ("reftable", "0x01-0x01-1.ref"),
            ("modules", "one"),
            ("worktrees/other", "HEAD"),
            ("objects/ab", "cd"),
        ] {
            assert!(!is_sign(place.as_bytes(), name.as_bytes(), false), "{place}/{name}");
        }
        assert!(!is_sign(b"", format!("{COOKIE}1-1-1").as_bytes(), false));
        for name in [".watchman-cookie-host-1-2", ".COMMIT_EDITMSG.swp"] {
            assert!(!is_sign(b"", name.as_bytes(), false), "{name}");
        }
        for place in ["", "refs/tags", "logs", "logs/refs", "reftable", "rebase-merge"] {
            assert!(has_signs(place.as_bytes()), "{place}");
        }
        assert!(!has_signs(b"objects/ab") && !has_signs(b"hooks"));
        assert!(is_sign(b"", b"index.lock", true));
    }
}

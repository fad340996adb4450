//! What one git repository says about its worktree: index, `info/exclude`, `core.excludesFile`.
//!
//! **Invariant:** read with isolated permissions: no configuration but the repository's own, no
//! environment, no program. A file that is no regular file is not opened: `.git` may have been made
//! by an agent, and opening a fifo would hang.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use baton_protocol::path::RelPath;
use gix::bstr::{BStr, ByteSlice};
use gix::index::State;
use rustix::fs::{FileType, Mode, OFlags};

use super::GitUser;
use super::glob::Case;
use super::patterns::{MAX_RULES, Patterns};
use crate::stat_cache::FileStat;

/// One worktree, from its root down to the next repository.
pub(super) struct Worktree {
    /// Bytes of a path within the workspace that lead to the worktree's root, its slash included.
    base: usize,
    /// Those bytes.
    prefix: Vec<u8>,
    index: State,
    /// Hashes of what the index names, and of the folders on the way to it with a slash behind them, ascending; all in
    /// small letters. Made where it is asked for.
    folded: OnceLock<Vec<u64>>,
    case: Case,
    /// Ascending by precedence.
    patterns: [Patterns; 2],
    /// Of the bytes that the patterns were read from.
    patterns_sum: blake3::Hash,
    /// The user's file of patterns that the repository names, as it was.
    excludes: Option<(PathBuf, Option<FileStat>)>,
}

impl std::fmt::Debug for Worktree {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worktree").field("base", &self.base).finish_non_exhaustive()
    }
}

/// Files that opening a repository reads.
const READ_BY_OPEN: [&str; 6] =
    ["HEAD", "config", "config.worktree", "commondir", "gitdir", "index"];

impl Worktree {
    /// Opens the repository whose worktree is at `path` below `root`, with notes on what is not as
    /// it should be. No worktree where its rules are unknown, so that everything is kept; an error
    /// where it is no repository, so that the rules around it go on.
    pub(super) fn open(
        root: &Path,
        path: &[u8],
        user: &GitUser,
    ) -> Result<(Option<Self>, Vec<String>), String> {
        let at = root.join(as_path(path));
        let name = match RelPath::new(path) {
            Ok(path) if !path.is_root() => format!("the git repository in {}", path.display()),
            _ => "the git repository".to_owned(),
        };
        let refused = |why: &dyn std::fmt::Display| {
            format!("{name} cannot be read ({why}): its ignore rules do not hold")
        };
        check_readable(&at).map_err(|why| refused(&why))?;
        let options = gix::open::Options::isolated().open_path_as_is(true).strict_config(false);
        let repo = gix::ThreadSafeRepository::open_opts(at.join(".git"), options)
            .map_err(|error| refused(&error))?
            .to_thread_local();
        let mut notes = Vec::new();
        let index = match repo.open_index() {
            Ok(index) => index.into_parts().0,
            Err(_) if is_absent(&repo.index_path()) => State::new(repo.object_hash()),
            Err(error) => {
                notes.push(format!(
                    "the index of {name} cannot be read ({error}): ignored files are kept, too"
                ));
                return Ok((None, notes));
            }
        };
        let config = repo.config_snapshot();
        let case = match config.boolean("core.ignoreCase") {
            Some(true) => Case::Fold,
            _ => Case::Sensitive,
        };
        let named = config
            .string("core.excludesFile")
            .or_else(|| user.config_files.iter().rev().find_map(|file| excludes_file_of(file)));
        let excludes_file = match named {
            Some(value) => interpolate(value.as_bstr(), user, &at),
            None => user.excludes_file.clone(),
        };
        let excludes = excludes_file.clone().map(|file| {
            let state = state_of(&file);
            (file, state)
        });
        let mut sum = blake3::Hasher::new();
        let mut patterns = |file: Option<PathBuf>| match file.as_deref().map(read_rules) {
            None | Some(Ok(None)) => {
                sum.update(&0u64.to_le_bytes());
                Patterns::default()
            }
            Some(Ok(Some(bytes))) => {
                sum.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
                Patterns::parse(&bytes, 0)
            }
            Some(Err(error)) => {
                let file = file.unwrap_or_default();
                notes.push(format!("{} cannot be read ({error}): not used", file.display()));
                Patterns::default()
            }
        };
        let patterns =
            [patterns(excludes_file), patterns(Some(repo.common_dir().join("info/exclude")))];
        let base = if path.is_empty() { 0 } else { path.len() + 1 };
        let patterns_sum = sum.finalize();
        let mut prefix = path.to_vec();
        prefix.extend(path.last().map(|_| b'/'));
        Ok((
            Some(Self {
                base,
                prefix,
                index,
                folded: OnceLock::new(),
                case,
                patterns,
                patterns_sum,
                excludes,
            }),
            notes,
        ))
    }

    /// Whether the file of patterns that the repository names is as it was.
    pub(super) fn holds(&self) -> bool {
        self.excludes.as_ref().is_none_or(|(file, state)| state_of(file) == *state)
    }

    /// Whether only the index can make a difference between the two.
    pub(super) fn has_patterns_of(&self, other: &Self) -> bool {
        self.patterns_sum == other.patterns_sum && self.case == other.case
    }

    /// The paths of the workspace that are tracked in one of the two and not in the other.
    pub(super) fn tracked_otherwise(&self, other: &Self) -> Vec<Vec<u8>> {
        let mut paths = Vec::new();
        let at = |tree: &Self, entry: &gix::index::Entry| entry.path(&tree.index).to_vec();
        let (old, new) = (self.index.entries(), other.index.entries());
        let (mut a, mut b) = (0, 0);
        while let (Some(left), Some(right)) = (old.get(a), new.get(b)) {
            match left.path(&self.index).cmp(right.path(&other.index)) {
                std::cmp::Ordering::Equal => (a, b) = (a + 1, b + 1),
                std::cmp::Ordering::Less => {
                    paths.push(at(self, left));
                    a += 1;
                }
                std::cmp::Ordering::Greater => {
                    paths.push(at(other, right));
                    b += 1;
                }
            }
        }
        paths.extend(old.iter().skip(a).map(|entry| at(self, entry)));
        paths.extend(new.iter().skip(b).map(|entry| at(other, entry)));
        let prefix = |path: Vec<u8>| {
            // A sparse directory ends with a slash.
            let path = path.strip_suffix(b"/").map(<[u8]>::to_vec).unwrap_or(path);
            self.prefix.iter().chain(&path).copied().collect()
        };
        paths.into_iter().map(prefix).collect()
    }

    /// A path of the workspace as the repository sees it.
    pub(super) fn relative<'a>(&self, path: &'a [u8]) -> &'a [u8] {
        path.get(self.base..).unwrap_or_default()
    }

    pub(super) const fn case(&self) -> Case {
        self.case
    }

    /// Whether the index names this file or submodule.
    pub(super) fn tracks(&self, path: &[u8]) -> bool {
        self.index.entry_index_by_path(BStr::new(path)).is_ok()
            || (self.index.is_sparse() && self.in_sparse_directory(path))
    }

    /// Whether the index names a path for which this holds.
    pub(super) fn tracks_any(&self, is: impl Fn(&[u8]) -> bool) -> bool {
        self.index.entries().iter().any(|entry| {
            let path: &[u8] = entry.path(&self.index);
            is(path)
        })
    }

    /// Whether the index names anything below this directory.
    pub(super) fn tracks_below(&self, directory: &[u8]) -> bool {
        let mut prefix = directory.to_vec();
        prefix.push(b'/');
        let entries = self.index.entries();
        let at = entries.partition_point(|entry| {
            let path: &[u8] = entry.path(&self.index);
            path < prefix.as_slice()
        });
        entries.get(at).is_some_and(|entry| entry.path(&self.index).starts_with(&prefix))
    }

    /// Whether the index names this file, submodule or, with a slash behind it, folder in other letters. So it does where
    /// the file system makes no difference between them. May say so of something else: that is kept for nothing.
    pub(super) fn tracks_in_other_case(&self, path: &[u8], is_directory: bool) -> bool {
        if self.case == Case::Sensitive {
            return false;
        }
        let folded = self.folded.get_or_init(|| {
            let mut hashes = Vec::new();
            let mut last: &[u8] = b"";
            for entry in self.index.entries() {
                let path: &[u8] = entry.path(&self.index);
                hashes.push(hash_of(path));
                let same = path.iter().zip(last).take_while(|(a, b)| a == b).count();
                let ways = path.iter().enumerate().skip(same).filter(|&(_, &byte)| byte == b'/');
                hashes.extend(ways.filter_map(|(at, _)| path.get(..=at)).map(hash_of));
                last = path;
            }
            hashes.sort_unstable();
            hashes.dedup();
            hashes
        });
        let has = |path: &[u8]| folded.binary_search(&hash_of(path)).is_ok();
        has(path) || (is_directory && has(&[path, b"/"].concat()))
    }

    /// A sparse index names a directory outside the checkout instead of everything in it.
    fn in_sparse_directory(&self, path: &[u8]) -> bool {
        let mut ends = path.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        ends.any(|(at, _)| {
            path.get(..=at).is_some_and(|directory| {
                self.index.entry_index_by_path(BStr::new(directory)).is_ok()
            })
        })
    }

    /// Whether the repository's global patterns ignore this path.
    pub(super) fn ignores(&self, path: &[u8], is_directory: bool) -> bool {
        let mut lists = self.patterns.iter().rev();
        lists.find_map(|list| list.decide(path, is_directory, self.case)).unwrap_or(false)
    }
}

/// The state of the files that the rules of a repository are read from. A file of ignore patterns in the
/// tree is none of them: whoever sees the tree sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stamp(Vec<(PathBuf, Option<FileStat>)>);

impl Stamp {
    /// Looks at the files of the repository at `path` below `root`.
    pub(super) fn take(root: &Path, path: &[u8], user: &GitUser) -> Self {
        let at = root.join(as_path(path));
        let mut files = vec![at.join(".git")];
        for folder in folders_of(&at).unwrap_or_default() {
            files.extend(READ_BY_OPEN.iter().map(|name| folder.join(name)));
            files.push(folder.join("info/exclude"));
        }
        files.extend(user.config_files.iter().cloned());
        let look = |file: PathBuf| {
            let state = state_of(&file);
            (file, state)
        };
        Self(files.into_iter().map(look).collect())
    }

    /// Whether all of them are as they were.
    pub(super) fn holds(&self) -> bool {
        self.0.iter().all(|(file, state)| state_of(file) == *state)
    }
}

fn hash_of(path: &[u8]) -> u64 {
    let hash = blake3::hash(&path.to_ascii_lowercase());
    hash.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// A folder has no state here: its times change with every file in it.
fn state_of(file: &Path) -> Option<FileStat> {
    let stat = rustix::fs::stat(file).ok()?;
    let state = FileStat::new(&stat);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Some(FileStat { mode: 0, size: 0, mtime: 0, ctime: 0, ..state }),
        _ => Some(state),
    }
}

/// Refuses a repository with a special file where git reads one, in its own folder or in the one
/// that it shares with other worktrees.
fn check_readable(worktree: &Path) -> std::io::Result<()> {
    let folders = folders_of(worktree)?;
    for path in folders.iter().flat_map(|folder| READ_BY_OPEN.map(|name| folder.join(name))) {
        if std::fs::metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(std::io::Error::other("it has special files"));
        }
    }
    Ok(())
}

/// The folder of a worktree's repository, and the one that it shares with other worktrees.
fn folders_of(worktree: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut folder = worktree.join(".git");
    if !std::fs::metadata(&folder)?.is_dir() {
        let link = read_rules(&folder)?.unwrap_or_default();
        let target = link.strip_prefix(b"gitdir: ").ok_or(std::io::ErrorKind::InvalidData)?;
        folder = worktree.join(as_path(target.trim_end()));
    }
    let mut folders = vec![folder.clone()];
    if let Ok(Some(common)) = read_rules(&folder.join("commondir")) {
        folders.push(folder.join(as_path(common.trim_end())));
    }
    Ok(folders)
}

fn is_absent(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound)
}

/// The `core.excludesFile` that a configuration of the user names.
fn excludes_file_of(config: &Path) -> Option<gix::bstr::BString> {
    if !std::fs::metadata(config).ok()?.is_file() {
        return None;
    }
    let config =
        gix::config::File::from_path_no_includes(config.to_owned(), gix::config::Source::User)
            .inspect_err(|error| tracing::warn!(%error, "the user's git configuration is not used"))
            .ok()?;
    config.string("core.excludesFile")
}

/// A path of the configuration: `~/` is the user's home, a relative one starts at the worktree.
fn interpolate(value: &BStr, user: &GitUser, worktree: &Path) -> Option<PathBuf> {
    if value.is_empty() {
        return None;
    }
    match value.strip_prefix(b"~/") {
        Some(rest) => Some(user.home.as_ref()?.join(as_path(rest))),
        None => Some(worktree.join(as_path(value))),
    }
}

/// The bytes of a file of patterns; nothing where there is none.
fn read_rules(path: &Path) -> std::io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => std::fs::File::from(file),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::NOTDIR) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let stat = rustix::fs::fstat(&file)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(MAX_RULES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_RULES {
        return Err(std::io::ErrorKind::FileTooLarge.into());
    }
    Ok(Some(bytes))
}

fn as_path(bytes: &[u8]) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(bytes))
}

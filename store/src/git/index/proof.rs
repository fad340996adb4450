//! What is to be remembered of the files of a worktree: of those that are proven to be as the index has them.
//!
//! That a file is clean was true at another machine and in another moment, or somebody only says so. An edit of the
//! same length would be hidden from every `status` and `diff`, and would be missing from the next commit. So each file
//! is read here: it is the object itself, or the object with other line ends, or what an object of Git LFS points to.
//! What another filter made is told apart, for nobody can prove it without running that filter.
//!
//! **Invariant:** what is remembered of a file is what it looked like before *and* after it was read.

use std::collections::HashMap;
use std::io::{ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use baton_protocol::object::{GitEntry, GitHash, GitMode, GitOid};

use super::look::{Files, MAX_THREADS, Seen, has_file};
use super::parse::{Index, Stat};
use super::{kind, name_of_blob};
use crate::fs::Context;
use crate::git::GitError;

/// Read at once.
const BUFFER: usize = 128 * 1024;

/// What files look like, by the number of their entries.
#[derive(Debug, Default)]
pub(crate) struct Proven {
    /// Of those that are proven.
    pub(crate) stats: Vec<(usize, Stat)>,
    /// Of those that only a filter could have made of their object.
    pub(crate) odd: Vec<(usize, Stat)>,
}

/// What an index remembers of files, by their paths.
#[derive(Debug, Default)]
pub(crate) struct Remembered<'a>(HashMap<&'a [u8], (GitOid, GitMode, Stat)>);

impl<'a> Remembered<'a> {
    /// Of an index that was made by [`prove`], where nobody has written since.
    pub(crate) fn of(index: &'a Index) -> Self {
        let all = index.meaning.entries.iter().zip(&index.stats);
        let known = all.filter(|(entry, stat)| has_file(entry) && **stat != Stat::default());
        Self(known.map(|(it, stat)| (it.path.as_slice(), (it.oid, it.mode, *stat))).collect())
    }

    /// Whether the file of an entry is as it was when it was proven to be what the entry says.
    fn holds(&self, entry: &GitEntry, seen: Stat) -> bool {
        // Layers of one file system may be seen as another device.
        let same = |known: Stat| Stat { dev: seen.dev, ..known } == seen;
        self.0
            .get(entry.path.as_slice())
            .is_some_and(|&(oid, mode, stat)| oid == entry.oid && mode == entry.mode && same(stat))
    }
}

/// Reads the files of entries that are said to be clean, but for those that are `remembered`.
///
/// Git looks again at a file that was last changed in the second in which its index was written, or later, and
/// without the filters of the source it could not tell that one is clean. So what was written in this
/// very second, of which `now` is the time, is dated one second back; a change that is still to come will not be.
pub(crate) fn prove(
    entries: &[GitEntry],
    worktree: &OwnedFd,
    remembered: &Remembered<'_>,
    trusts_mode: bool,
    now: (i64, i64),
) -> Result<Proven, GitError> {
    let threads = std::thread::available_parallelism().map_or(1, |it| it.get().min(MAX_THREADS));
    let share = entries.len().div_ceil(threads).max(1);
    let shares: Vec<Result<Proven, GitError>> = std::thread::scope(|scope| {
        let running: Vec<_> = entries
            .chunks(share)
            .enumerate()
            .map(|(at, entries)| {
                let first = at * share;
                scope.spawn(move || {
                    prove_share(entries, first, worktree, (remembered, trusts_mode), now)
                })
            })
            .collect();
        let gone = || Err(GitError::refused("a worktree", "a thread that read it is gone"));
        running.into_iter().map(|it| it.join().unwrap_or_else(|_| gone())).collect()
    });
    let mut all = Proven::default();
    for share in shares {
        let share = share?;
        all.stats.extend(share.stats);
        all.odd.extend(share.odd);
    }
    Ok(all)
}

fn prove_share(
    entries: &[GitEntry],
    first: usize,
    worktree: &OwnedFd,
    (remembered, trusts_mode): (&Remembered<'_>, bool),
    now: (i64, i64),
) -> Result<Proven, GitError> {
    let mut files = Files::in_folder(worktree.try_clone().context("opening", Path::new("."))?);
    let mut proven = Proven::default();
    let mut buffer = vec![0; BUFFER];
    for (at, entry) in entries.iter().enumerate() {
        let Some(size) = entry.clean.filter(|_| has_file(entry)) else { continue };
        let Some(mut seen) = files.look(&entry.path) else { continue };
        let both_files = entry.mode != GitMode::Symlink && seen.mode != GitMode::Symlink;
        let same_mode = seen.mode == entry.mode || (both_files && !trusts_mode);
        if !same_mode || seen.stat.size != size {
            continue;
        }
        if seen.modified.0 < now.0 && remembered.holds(entry, seen.stat) {
            proven.stats.push((first + at, seen.stat));
            continue;
        }
        if seen.modified.0 >= now.0 {
            files.date(&entry.path, now.0 - 1);
            match files.look(&entry.path) {
                Some(dated) if dated.modified.0 < now.0 => seen = dated,
                _ => continue,
            }
        }
        let is_same = read_as(&files, entry, seen, &mut buffer);
        // Whoever wrote meanwhile, and be it the same length, left a time.
        let still = files.look(&entry.path).is_some_and(|after| after.stat == seen.stat);
        match is_same {
            Some(true) if still => proven.stats.push((first + at, seen.stat)),
            Some(false) if still => proven.odd.push((first + at, seen.stat)),
            _ => {}
        }
    }
    Ok(proven)
}

/// Whether what a file holds is what an entry says; nothing where it cannot be read as what it looked like.
fn read_as(files: &Files, entry: &GitEntry, seen: Seen, buffer: &mut [u8]) -> Option<bool> {
    let hash = entry.oid.hash();
    if seen.mode == GitMode::Symlink {
        return files.read_link(&entry.path).map(|target| is_blob(hash, &target, entry.oid));
    }
    let open = || files.open(&entry.path);
    let mut file = std::fs::File::from(open()?);
    let metadata = file.metadata().ok()?;
    let len = metadata.len();
    let mut plain = Sums::new(hash, len);
    if !each_part(&mut file, len, buffer, |part, _| plain.update(part)) {
        return None;
    }
    if plain.is(entry.oid) {
        return Some(true);
    }
    // Few files come to this, and they are read again.
    let mut line_ends = 0u64;
    let mut pointed = gix::hash::hasher(kind(GitHash::Sha256));
    let read = each_part(&mut open()?.into(), len, buffer, |part, before| {
        line_ends += count_line_ends(part, before);
        pointed.update(part);
    });
    let sum = pointed.try_finalize().ok().filter(|_| read)?;
    if is_blob(hash, &pointer(sum.as_slice(), len), entry.oid) {
        return Some(true);
    }
    if line_ends == 0 {
        return Some(false);
    }
    let mut unix = Sums::new(hash, len.saturating_sub(line_ends));
    let mut held = false;
    let read = each_part(&mut open()?.into(), len, buffer, |part, _| {
        held = feed_without(part, held, &mut unix);
    });
    if held {
        unix.update(b"\r");
    }
    read.then(|| unix.is(entry.oid))
}

/// Gives a file to `take` part by part, each with the byte before it; false where it cannot be read to exactly `len`.
fn each_part(
    file: &mut std::fs::File,
    len: u64,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8], u8),
) -> bool {
    let (mut left, mut before) = (len, 0);
    loop {
        let read = match file.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return false,
        };
        let part = buffer.get(..read).unwrap_or_default();
        let Some(rest) = left.checked_sub(read as u64) else { return false };
        let Some(last) = part.last().copied() else { return left == 0 };
        take(part, before);
        (left, before) = (rest, last);
    }
}

fn count_line_ends(part: &[u8], before: u8) -> u64 {
    let across = before == b'\r' && part.first() == Some(&b'\n');
    let within = part.windows(2).filter(|pair| *pair == b"\r\n").count();
    within as u64 + u64::from(across)
}

/// Feeds bytes without a carriage return before a line feed. One at the end is held, and said to be.
fn feed_without(part: &[u8], held: bool, to: &mut Sums) -> bool {
    let mut rest = part;
    if held && rest.first() != Some(&b'\n') && !rest.is_empty() {
        to.update(b"\r");
    }
    while let Some(at) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let (line, after) = rest.split_at(at);
        to.update(line);
        rest = after.get(1..).unwrap_or_default();
    }
    let kept = rest.strip_suffix(b"\r");
    to.update(kept.unwrap_or(rest));
    kept.is_some()
}

/// What Git LFS keeps in the place of a file, by version 1 of its specification.
fn pointer(sum: &[u8], len: u64) -> Vec<u8> {
    let sum = GitOid::new(GitHash::Sha256, sum).map(|sum| sum.to_string()).unwrap_or_default();
    format!("version https://git-lfs.github.com/spec/v1\noid sha256:{sum}\nsize {len}\n")
        .into_bytes()
}

fn is_blob(hash: GitHash, content: &[u8], oid: GitOid) -> bool {
    name_of_blob(hash, content).is_ok_and(|name| name == oid)
}

/// The name of a blob, as it grows.
struct Sums(gix::hash::Hasher);

impl Sums {
    fn new(hash: GitHash, len: u64) -> Self {
        let mut hasher = gix::hash::hasher(kind(hash));
        hasher.update(format!("blob {len}\0").as_bytes());
        Self(hasher)
    }

    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Bytes that were made to collide are nobody's.
    fn is(self, oid: GitOid) -> bool {
        self.0.try_finalize().is_ok_and(|sum| sum.as_slice() == oid.as_bytes())
    }
}

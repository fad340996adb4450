//! The file of an index, taken apart.
//!
//! **Invariant:** a count is believed only as far as the bytes that follow could hold it, and what an entry cannot be
//! by the rules of [`GitIndex`] is refused by its name.

use std::path::Path;

use baton_protocol::object::{GitEntry, GitHash, GitIndex, GitMode, GitOid, GitUndo};

use super::{bitmap, hash_of};
use crate::git::place::read_below;
use crate::git::{GitError, shown};

/// Largest file of an index.
const MAX_INDEX: u64 = 512 << 20;

/// What git remembers of the file of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) ctime: (u32, u32),
    pub(crate) mtime: (u32, u32),
    pub(crate) dev: u32,
    pub(crate) inode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) size: u32,
}

/// An index and what git remembers of each file, entry by entry.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) meaning: GitIndex,
    pub(crate) stats: Vec<Stat>,
    /// When the file was written, in seconds and nanoseconds.
    pub(crate) written: (i64, i64),
}

/// An entry as it stands in one file; in a split index some have no path.
struct Raw {
    entry: GitEntry,
    stat: Stat,
}

/// One file of the one or two that are an index.
struct Parsed {
    version: u8,
    sparse: bool,
    entries: Vec<Raw>,
    undo: Vec<GitUndo>,
    link: Option<Vec<u8>>,
}

/// Reads the index of a worktree; nothing where there is none.
pub(crate) fn read(git_dir: &Path, hash: GitHash) -> Result<Option<Index>, GitError> {
    Ok(read_with_bytes(&git_dir.join("index"), hash)?.map(|(index, _)| index))
}

/// Reads the file of an index, and gives its bytes, too; nothing where there is none.
pub(crate) fn read_with_bytes(
    path: &Path,
    hash: GitHash,
) -> Result<Option<(Index, Vec<u8>)>, GitError> {
    use std::os::unix::fs::MetadataExt;
    let written = path.symlink_metadata().ok().map(|it| (it.mtime(), it.mtime_nsec()));
    let Some(bytes) = read_below(path, MAX_INDEX)? else { return Ok(None) };
    let mut parsed = parse(path, &bytes, hash)?;
    if let Some(link) = parsed.link.take() {
        dissolve(path, &mut parsed, &link, hash)?;
    }
    let damaged = |why| GitError::Damaged { path: path.to_owned(), why };
    let mut entries = Vec::with_capacity(parsed.entries.len());
    let mut stats = Vec::with_capacity(parsed.entries.len());
    for Raw { entry, stat } in std::mem::take(&mut parsed.entries) {
        if entry.path.is_empty() {
            return Err(damaged("an entry has no path"));
        }
        entries.push(entry);
        stats.push(stat);
    }
    let Parsed { version, sparse, undo, .. } = parsed;
    let meaning = GitIndex { hash, version, sparse, entries, undo };
    check(path, &meaning)?;
    let index = Index { meaning, stats, written: written.unwrap_or_default() };
    Ok(Some((index, bytes)))
}

/// The decoder knows what an index may be.
fn check(path: &Path, index: &GitIndex) -> Result<(), GitError> {
    if GitIndex::decode(&index.encode()).is_ok() {
        return Ok(());
    }
    // Which entry it is, for the message.
    let alone = |entry: &&GitEntry| {
        let GitIndex { hash, version, sparse, .. } = *index;
        let entries = vec![(*entry).clone()];
        let one = GitIndex { hash, version, sparse, entries, undo: Vec::new() };
        GitIndex::decode(&one.encode()).is_err()
    };
    match index.entries.iter().find(alone) {
        Some(entry) => {
            let what = format!("the entry {} of the index", shown(&entry.path));
            Err(GitError::refused(what, "git could not check it out safely"))
        }
        None => {
            Err(GitError::Damaged { path: path.to_owned(), why: "its entries are out of order" })
        }
    }
}

struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes(self.take(2)?.try_into().ok()?))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    /// Up to a byte of this value, which is taken, too.
    fn until(&mut self, end: u8) -> Option<&'a [u8]> {
        let at = self.rest.iter().position(|&byte| byte == end)?;
        let taken = self.take(at)?;
        self.take(1)?;
        Some(taken)
    }

    /// A number as in the offsets of packs.
    fn offset(&mut self) -> Option<usize> {
        let mut byte = *self.take(1)?.first()?;
        let mut value = usize::from(byte & 0x7f);
        while byte & 0x80 != 0 {
            byte = *self.take(1)?.first()?;
            value = (value + 1).checked_mul(128)? + usize::from(byte & 0x7f);
        }
        Some(value)
    }
}

fn parse(path: &Path, all: &[u8], hash: GitHash) -> Result<Parsed, GitError> {
    let damaged = |why| GitError::Damaged { path: path.to_owned(), why };
    let (bytes, sum) = all
        .split_at_checked(all.len().saturating_sub(hash.len()))
        .ok_or_else(|| damaged("it is too short"))?;
    // Where git is told to write no checksum it writes zeros.
    let has_sum = sum.iter().any(|&byte| byte != 0);
    if has_sum && hash_of(hash, bytes)?.as_slice() != sum {
        return Err(damaged("its checksum does not hold"));
    }
    parse_body(bytes, hash).ok_or_else(|| damaged("git does not write it so"))
}

fn parse_body(bytes: &[u8], hash: GitHash) -> Option<Parsed> {
    let mut from = Bytes { rest: bytes };
    if from.take(4)? != b"DIRC" {
        return None;
    }
    let version = u8::try_from(from.u32()?).ok().filter(|version| (2..=4).contains(version))?;
    let count = from.u32()? as usize;
    // The fields of fixed length, and in version 4 two bytes of a path.
    let least = 40 + hash.len() + 2 + 2;
    if count.checked_mul(least)? > from.rest.len() {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    let mut last = Vec::new();
    let mut path_bytes = 0usize;
    for _ in 0..count {
        let raw = parse_entry(&mut from, version, hash, &last)?;
        last.clone_from(&raw.entry.path);
        path_bytes += last.len();
        // Paths that share their beginnings could take more memory than the file.
        if path_bytes as u64 > MAX_INDEX {
            return None;
        }
        entries.push(raw);
    }
    let mut parsed = Parsed { version, sparse: false, entries, undo: Vec::new(), link: None };
    while !from.rest.is_empty() {
        let name = from.take(4)?;
        let len = from.u32()? as usize;
        let body = from.take(len)?;
        match name {
            b"REUC" => parsed.undo = parse_undo(body, hash)?,
            b"link" => parsed.link = Some(body.to_vec()),
            b"sdir" => parsed.sparse = true,
            // What can be left away begins with a capital letter: caches, of which none is carried.
            _ if name.first().is_some_and(u8::is_ascii_uppercase) => {}
            _ => return None,
        }
    }
    Some(parsed)
}

fn parse_entry(from: &mut Bytes<'_>, version: u8, hash: GitHash, last: &[u8]) -> Option<Raw> {
    let start = from.rest.len();
    let mut fields = [0; 10];
    for field in &mut fields {
        *field = from.u32()?;
    }
    let [ctime, ctime_part, mtime, mtime_part, dev, inode, bits, uid, gid, size] = fields;
    let oid = GitOid::new(hash, from.take(hash.len())?)?;
    let flags = from.u16()?;
    let extended = if flags & 0x4000 != 0 { from.u16()? } else { 0 };
    if (version < 3 && flags & 0x4000 != 0) || extended & !0x6000 != 0 {
        return None;
    }
    let path = if version == 4 {
        let kept = last.len().checked_sub(from.offset()?)?;
        let suffix = from.until(0)?;
        [last.get(..kept)?, suffix].concat()
    } else {
        let len = usize::from(flags & 0xfff);
        let path = if len < 0xfff {
            from.take(len)?
        } else {
            let len = from.rest.iter().position(|&byte| byte == 0)?;
            from.take(len)?
        };
        // One to eight zeros, to a multiple of eight.
        let used = start - from.rest.len();
        if from.take(8 - used % 8)?.iter().any(|&byte| byte != 0) {
            return None;
        }
        path.to_vec()
    };
    let stat =
        Stat { ctime: (ctime, ctime_part), mtime: (mtime, mtime_part), dev, inode, uid, gid, size };
    let entry = GitEntry {
        path,
        stage: (flags >> 12 & 3) as u8,
        mode: mode_of(bits)?,
        assume_valid: flags & 0x8000 != 0,
        skip_worktree: extended & 0x4000 != 0,
        intent_to_add: extended & 0x2000 != 0,
        clean: None,
        oid,
    };
    Some(Raw { entry, stat })
}

/// Old versions of git kept more permissions than one.
fn mode_of(bits: u32) -> Option<GitMode> {
    match bits & 0o170_000 {
        0o100_000 if bits & 0o100 != 0 => Some(GitMode::Executable),
        0o100_000 => Some(GitMode::File),
        _ => GitMode::from_bits(bits),
    }
}

fn parse_undo(bytes: &[u8], hash: GitHash) -> Option<Vec<GitUndo>> {
    let mut from = Bytes { rest: bytes };
    let mut undo = Vec::new();
    while !from.rest.is_empty() {
        let path = from.until(0)?.to_vec();
        let mut modes = [0; 3];
        for mode in &mut modes {
            let digits = std::str::from_utf8(from.until(0)?).ok()?;
            *mode = u32::from_str_radix(digits, 8).ok()?;
        }
        let mut stages = [None; 3];
        for (stage, mode) in stages.iter_mut().zip(modes) {
            if mode != 0 {
                *stage = Some((mode_of(mode)?, GitOid::new(hash, from.take(hash.len())?)?));
            }
        }
        if stages.iter().any(Option::is_some) {
            undo.push(GitUndo { path, stages });
        }
    }
    Some(undo)
}

/// Puts a split index over the one that it shares.
fn dissolve(path: &Path, split: &mut Parsed, link: &[u8], hash: GitHash) -> Result<(), GitError> {
    let damaged = |why| GitError::Damaged { path: path.to_owned(), why };
    let no_link = || damaged("what it says of the index that it shares is malformed");
    let (name, bitmaps) = link.split_at_checked(hash.len()).ok_or_else(no_link)?;
    let base = GitOid::new(hash, name).ok_or_else(no_link)?;
    if base.is_null() {
        return Ok(());
    }
    let shared_path = path.with_file_name(format!("sharedindex.{base}"));
    let bytes = read_below(&shared_path, MAX_INDEX)?
        .ok_or_else(|| damaged("the index that it shares is not there"))?;
    // The name is the checksum, and so the first thing that is wrong with another file.
    if bytes.get(bytes.len().saturating_sub(hash.len())..) != Some(name) {
        return Err(damaged("the index that it shares is another one"));
    }
    let mut shared = parse(&shared_path, &bytes, hash)?.entries;
    let (deleted, rest) = match bitmaps {
        [] => (Vec::new(), bitmaps),
        _ => bitmap::read(bitmaps, shared.len()).ok_or_else(no_link)?,
    };
    let (replaced, rest) = match rest {
        [] => (Vec::new(), rest),
        _ => bitmap::read(rest, shared.len()).ok_or_else(no_link)?,
    };
    if !rest.is_empty() {
        return Err(no_link());
    }
    let mut own = std::mem::take(&mut split.entries).into_iter();
    for at in replaced {
        let (Some(old), Some(mut new)) = (shared.get_mut(at), own.next()) else {
            return Err(no_link());
        };
        if !new.entry.path.is_empty() {
            return Err(no_link());
        }
        new.entry.path = std::mem::take(&mut old.entry.path);
        *old = new;
    }
    let mut gone = deleted.into_iter().peekable();
    let mut at = 0;
    shared.retain(|_| {
        let stays = gone.next_if_eq(&at).is_none();
        at += 1;
        stays
    });
    shared.extend(own);
    shared.sort_by(|a, b| (&a.entry.path, a.entry.stage).cmp(&(&b.entry.path, b.entry.stage)));
    split.entries = shared;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashSet};

    use super::super::trees::CacheTree;
    use super::super::write;
    use super::*;
    use crate::fuzz::fuzzing::{Random, fuzz, within};

    fn index(version: u8, hash: GitHash, sparse: bool) -> GitIndex {
        let oid = |byte| GitOid::new(hash, &[byte; 32][..hash.len()]).unwrap();
        let entry = |path: &[u8], stage, mode| GitEntry {
            path: path.to_vec(),
            stage,
            mode,
            assume_valid: stage == 0 && path.ends_with(b"b"),
            skip_worktree: sparse,
            intent_to_add: false,
            clean: None,
            oid: oid(stage + 1),
        };
        let stages = [Some((GitMode::File, oid(7))), None, Some((GitMode::Executable, oid(8)))];
        GitIndex {
            hash,
            version,
            sparse,
            entries: vec![
                entry(b"a/b", 0, GitMode::File),
                entry(b"a/bc", 0, GitMode::Executable),
                entry(b"d", 1, GitMode::Symlink),
                entry(b"d", 2, GitMode::File),
                entry(b"e", 0, GitMode::Submodule),
            ],
            undo: if sparse { Vec::new() } else { vec![GitUndo { path: b"u".to_vec(), stages }] },
        }
    }

    fn written(index: &GitIndex) -> Vec<u8> {
        write(index, &BTreeMap::new(), &CacheTree::default(), &HashSet::new()).unwrap()
    }

    #[test]
    fn git_index_files() {
        let path = Path::new("index");
        let mut corpus = vec![
            written(&index(2, GitHash::Sha1, false)),
            written(&index(3, GitHash::Sha1, true)),
            written(&index(4, GitHash::Sha1, false)),
            written(&index(4, GitHash::Sha256, true)),
        ];
        // As one that shares another has it: a name, and which of its entries go, or are others.
        let mut split = written(&index(2, GitHash::Sha1, false));
        split.truncate(split.len() - 20);
        split.extend_from_slice(b"link\0\0\0\x38");
        split.extend_from_slice(&[9; 20]);
        for _ in 0..2 {
            split.extend_from_slice(&[0, 0, 0, 5, 0, 0, 0, 1]);
            split.extend_from_slice(&[0, 0, 0, 2, 0, 0, 0, 0]);
            split.extend_from_slice(&[0, 0]);
        }
        split.extend_from_slice(&[0; 20]);
        corpus.push(split);
        fuzz(corpus, |_, input| {
            let random = &mut Random::of(input);
            let hash = if random.below(4) > 0 { GitHash::Sha1 } else { GitHash::Sha256 };
            let mut input = input.to_vec();
            if let Some(at) = input.len().checked_sub(hash.len())
                && random.below(4) > 0
            {
                let sum = hash_of(hash, &input[..at]).unwrap();
                input[at..].copy_from_slice(sum.as_slice());
            }
            let parsed = within(&input, 64, 8192, |input| parse(path, input, hash));
            let Ok(Parsed { version, sparse, entries, undo, link }) = parsed else {
                return false;
            };
            if let Some(bits) = link.as_deref().and_then(|link| link.get(hash.len()..)) {
                let shared = random.below(300);
                let read = within(bits, 64, 8192 + 16 * 300, |_| bitmap::read(bits, shared));
                assert!(read.is_none_or(|(set, _)| set.iter().all(|&bit| bit < shared)));
            }
            let stats: BTreeMap<_, _> = entries.iter().map(|raw| raw.stat).enumerate().collect();
            let entries = entries.into_iter().map(|raw| raw.entry).collect();
            let meaning = GitIndex { hash, version, sparse, entries, undo };
            if check(path, &meaning).is_err() {
                return false;
            }
            // What is understood is written so that it is understood as the same.
            let again = write(&meaning, &stats, &CacheTree::default(), &HashSet::new()).unwrap();
            let again = parse(path, &again, hash).unwrap();
            let same: Vec<_> = again.entries.iter().map(|raw| raw.entry.clone()).collect();
            assert_eq!((same, again.undo), (meaning.entries, meaning.undo));
            assert!(again.entries.iter().enumerate().all(|(at, raw)| stats[&at] == raw.stat));
            true
        });
    }
}

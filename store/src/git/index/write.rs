//! The file of an index, put together.

use std::collections::{BTreeMap, HashSet};

use baton_protocol::object::{GitEntry, GitIndex, GitOid};

use super::hash_of;
use super::parse::Stat;
use super::trees::CacheTree;
use crate::git::GitError;

/// The bytes of an index, with what is to be remembered of some files, and the trees that are there.
pub(crate) fn write(
    index: &GitIndex,
    stats: &BTreeMap<usize, Stat>,
    trees: &CacheTree,
    there: &HashSet<GitOid>,
) -> Result<Vec<u8>, GitError> {
    let extended = index.entries.iter().any(is_extended);
    // Versions 2 and 3 are one to git: it writes 3 where it has to.
    let version: u32 = match (index.version, extended) {
        (4, _) => 4,
        (_, true) => 3,
        (_, false) => 2,
    };
    let mut to = b"DIRC".to_vec();
    to.extend_from_slice(&version.to_be_bytes());
    to.extend_from_slice(&(index.entries.len() as u32).to_be_bytes());
    let mut last: &[u8] = b"";
    for (at, entry) in index.entries.iter().enumerate() {
        let start = to.len();
        let stat = stats.get(&at).copied().unwrap_or_default();
        write_fields(&mut to, entry, stat);
        if version == 4 {
            let shared = last.iter().zip(&entry.path).take_while(|(a, b)| a == b).count();
            write_offset(&mut to, last.len() - shared);
            to.extend_from_slice(entry.path.get(shared..).unwrap_or_default());
            to.push(0);
            last = &entry.path;
        } else {
            to.extend_from_slice(&entry.path);
            let used = to.len() - start;
            to.extend(std::iter::repeat_n(0, 8 - used % 8));
        }
    }
    let trees = trees.encode(there);
    // Git knows the tree of nothing without having it, and `fsck` misses it where an index names it.
    if !trees.is_empty() && !index.entries.is_empty() {
        extension(&mut to, *b"TREE", &trees);
    }
    if !index.undo.is_empty() {
        let mut text = Vec::new();
        for undo in &index.undo {
            text.extend_from_slice(&undo.path);
            text.push(0);
            for stage in &undo.stages {
                let bits = stage.map_or(0, |(mode, _)| mode.bits());
                text.extend_from_slice(format!("{bits:o}\0").as_bytes());
            }
            for (_, oid) in undo.stages.iter().flatten() {
                text.extend_from_slice(oid.as_bytes());
            }
        }
        extension(&mut to, *b"REUC", &text);
    }
    if index.sparse {
        extension(&mut to, *b"sdir", b"");
    }
    let sum = hash_of(index.hash, &to)?;
    to.extend_from_slice(sum.as_slice());
    Ok(to)
}

const fn is_extended(entry: &GitEntry) -> bool {
    entry.skip_worktree || entry.intent_to_add
}

fn write_fields(to: &mut Vec<u8>, entry: &GitEntry, stat: Stat) {
    let fields = [
        stat.ctime.0,
        stat.ctime.1,
        stat.mtime.0,
        stat.mtime.1,
        stat.dev,
        stat.inode,
        entry.mode.bits(),
        stat.uid,
        stat.gid,
        stat.size,
    ];
    for field in fields {
        to.extend_from_slice(&field.to_be_bytes());
    }
    to.extend_from_slice(entry.oid.as_bytes());
    let mut flags = entry.path.len().min(0xfff) as u16 | u16::from(entry.stage) << 12;
    if entry.assume_valid {
        flags |= 0x8000;
    }
    if is_extended(entry) {
        flags |= 0x4000;
    }
    to.extend_from_slice(&flags.to_be_bytes());
    if is_extended(entry) {
        let more = u16::from(entry.skip_worktree) << 14 | u16::from(entry.intent_to_add) << 13;
        to.extend_from_slice(&more.to_be_bytes());
    }
}

/// A number as in the offsets of packs.
fn write_offset(to: &mut Vec<u8>, mut value: usize) {
    let mut bytes = vec![(value & 0x7f) as u8];
    loop {
        value >>= 7;
        if value == 0 {
            break;
        }
        value -= 1;
        bytes.push(0x80 | (value & 0x7f) as u8);
    }
    to.extend(bytes.iter().rev());
}

fn extension(to: &mut Vec<u8>, name: [u8; 4], body: &[u8]) {
    to.extend_from_slice(&name);
    to.extend_from_slice(&(body.len() as u32).to_be_bytes());
    to.extend_from_slice(body);
}

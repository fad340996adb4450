//! Objects of git that the other side lacks, in packs.
//!
//! A pack is made for *tips*: all that is reachable from them, but for what is reachable from the tips of the
//! packs before it. So a list of packs is whole if each is, and the list of its tips says what it holds.
//!
//! Packs are few: a new one takes in those before it that are not twice as large as itself.
//!
//! **Invariant:** what the repository itself lacks is told, and nothing is fetched for it.

use std::collections::BTreeSet;
use std::io::{BufRead, Read, Write};

use baton_protocol::object::{Blob, GitHash, GitOid, GitOids, GitPack, MAX_GIT_PACKS};

use super::view::View;
use super::{GitError, MAX_LIST};
use crate::chunk::{ChunkError, Chunker, store_bytes};
use crate::objects::{ObjectSink, ObjectSource};
use crate::snapshot::load_blob;

/// Longest answer on which objects there are, in bytes.
const MAX_ANSWER: u64 = 1 << 30;

/// Bytes of a pack from which on it stays as it is.
const LARGE: u64 = 256 << 20;

/// Longest line of a list of commits: one with some thousand parents.
const MAX_LINE: u64 = 1 << 20;

/// An object by a name that may be cut short.
pub(super) fn find(
    view: &View<'_>,
    hash: GitHash,
    names: &[Vec<u8>],
) -> Result<Vec<Option<GitOid>>, GitError> {
    const DOING: &str = "look for objects";
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let input = names.join(&b'\n');
    let answer = view
        .git()
        .args(["cat-file", "--batch-check=%(objectname)", "--buffer"])
        .bytes(DOING, &[&input[..], b"\n"].concat(), MAX_ANSWER)?
        .checked(DOING)?;
    let mut found = Vec::with_capacity(names.len());
    // `… missing` and `… ambiguous` are no names of objects.
    found.extend(answer.split(|&byte| byte == b'\n').map(|line| GitOid::from_hex(hash, line)));
    found.truncate(names.len());
    if found.len() < names.len() {
        let said = "it did not answer for every object".to_owned();
        return Err(GitError::Git { doing: DOING, said });
    }
    Ok(found)
}

/// Which of these objects are there.
pub(super) fn present(
    view: &View<'_>,
    hash: GitHash,
    oids: &BTreeSet<GitOid>,
) -> Result<BTreeSet<GitOid>, GitError> {
    let names: Vec<_> = oids.iter().map(|oid| oid.to_string().into_bytes()).collect();
    Ok(find(view, hash, &names)?.into_iter().flatten().collect())
}

/// Which of these objects are commits, and there.
pub(super) fn commits(
    view: &View<'_>,
    oids: &BTreeSet<GitOid>,
) -> Result<BTreeSet<GitOid>, GitError> {
    const DOING: &str = "look for commits";
    let input = oids.iter().map(|oid| format!("{oid}\n")).collect::<Vec<_>>().concat();
    let answer = view
        .git()
        .args(["cat-file", "--batch-check=%(objecttype)", "--buffer"])
        .bytes(DOING, input.as_bytes(), MAX_ANSWER)?
        .checked(DOING)?;
    let lines = answer.split(|&byte| byte == b'\n');
    let is_commit = |&(_, line): &(&GitOid, &[u8])| line == b"commit";
    Ok(oids.iter().zip(lines).filter(is_commit).map(|(oid, _)| *oid).collect())
}

/// Whether all that is reachable from `tips` is there, given that it is from `whole`.
pub(super) fn is_connected(
    view: &View<'_>,
    tips: &BTreeSet<GitOid>,
    whole: &BTreeSet<GitOid>,
) -> Result<bool, GitError> {
    let mut input = Vec::new();
    for tip in tips {
        input.extend_from_slice(format!("{tip}\n").as_bytes());
    }
    for oid in whole {
        input.extend_from_slice(format!("^{oid}\n").as_bytes());
    }
    let args = ["rev-list", "--objects", "--quiet", "--ignore-missing", "--stdin"];
    Ok(view.git().args(args).bytes("follow objects", &input, MAX_ANSWER)?.success)
}

/// The objects of the tree of a commit, files and directories; nothing where it cannot be listed.
pub(super) fn objects_of_tree(
    view: &View<'_>,
    hash: GitHash,
    commit: GitOid,
) -> Result<BTreeSet<GitOid>, GitError> {
    let tree = format!("{commit}^{{tree}}");
    let args = ["ls-tree", "-r", "-t", "-z", "--full-tree", "--format=%(objectname)", &tree];
    let listed = view.git().args(args).bytes("list a tree", b"", MAX_ANSWER)?;
    if !listed.success {
        return Ok(BTreeSet::new());
    }
    let names = listed.value.split(|&byte| byte == 0);
    Ok(names.filter_map(|name| GitOid::from_hex(hash, name)).collect())
}

/// The packs that bring all that is reachable from `tips` to a side that has `before`, whose lists of tips are read
/// from `source`. All of the tips must be there.
pub(super) fn pack<S: ObjectSink + ObjectSource + ?Sized>(
    view: &View<'_>,
    hash: GitHash,
    tips: &BTreeSet<GitOid>,
    before: &[GitPack],
    is_partial: bool,
    sink: &S,
) -> Result<Vec<GitPack>, GitError> {
    let mut kept = Vec::new();
    let mut had = BTreeSet::new();
    for pack in before {
        let oids = tips_of(pack, hash, sink)?;
        had.extend(oids.iter().copied());
        kept.push((*pack, oids));
    }
    if tips.iter().all(|tip| had.contains(tip)) {
        return Ok(before.to_vec());
    }
    // What was missing when a pack was made is not in it, though it is reachable from its tips.
    let before = if is_partial { &[] } else { before };
    if is_partial {
        kept.clear();
    }
    let sizes: Vec<_> = before.iter().map(|pack| pack.blob.size).collect();
    let merged = kept.split_off(kept_packs(&sizes));
    let mut packs: Vec<_> = kept.iter().map(|(pack, _)| *pack).collect();
    let had: BTreeSet<_> = kept.into_iter().flat_map(|(_, tips)| tips).collect();
    // What went meanwhile is not missed: all that is needed now is reachable from the tips of now.
    let merged = merged.into_iter().flat_map(|(_, tips)| tips).collect();
    let mut all = present(view, hash, &merged)?;
    all.extend(tips);
    let blob = make(view, hash, &all, &had, is_partial, sink)?;
    let commits = count_commits(view, hash, &all, &had, is_partial)?;
    let oids = all.into_iter().collect();
    let tips = store_bytes(&GitOids { hash, oids }.encode(), sink)?;
    packs.push(GitPack { blob, tips, commits });
    Ok(packs)
}

/// What a pack was made for.
pub(super) fn tips_of<S: ObjectSource + ?Sized>(
    pack: &GitPack,
    hash: GitHash,
    source: &S,
) -> Result<Vec<GitOid>, GitError> {
    let known = GitOids::decode(&load_blob(source, pack.tips, MAX_LIST)?)?;
    if known.hash != hash {
        return Err(GitError::refused("the state before", "it is of another repository"));
    }
    Ok(known.oids)
}

/// How many packs stay as they are when another one is added. The others, from the first that is not twice as
/// large as all after it, go into one with the new one. One that is large stays, with all before it: what it holds is
/// not packed, kept and sent once more for a little that is new.
fn kept_packs(sizes: &[u64]) -> usize {
    let mut after = 0u64;
    let mut keep = sizes.len();
    for (at, &size) in sizes.iter().enumerate().rev() {
        if after > 0 && size < after.saturating_mul(2) {
            keep = at;
        }
        after = after.saturating_add(size);
    }
    let large = sizes.iter().rposition(|&size| size > LARGE).map_or(0, |at| at + 1);
    keep.max(large).min(MAX_GIT_PACKS - 1)
}

/// One pack, from git into the sink without a file between.
fn make<S: ObjectSink + ?Sized>(
    view: &View<'_>,
    hash: GitHash,
    tips: &BTreeSet<GitOid>,
    had: &BTreeSet<GitOid>,
    is_partial: bool,
    sink: &S,
) -> Result<Blob, GitError> {
    const DOING: &str = "pack objects";
    let input = revisions(view, hash, tips, had)?;
    let missing = missing(is_partial);
    let args =
        ["pack-objects", "--revs", "--stdout", "--thin", "--delta-base-offset", "-q", missing];
    view.git()
        .args(args)
        .run(
            DOING,
            |mut stdin| stdin.write_all(&input),
            |stdout| {
                Chunker::new().store(stdout, sink).map_err(|error| match error {
                    ChunkError::Store(error) => error.into(),
                    ChunkError::Read(_) => GitError::refused("a pack", "git stopped writing it"),
                })
            },
        )?
        .checked(DOING)
}

/// Bytes on the disk of all that is reachable from `tips`, but not from `had`.
pub(super) fn disk_usage(
    view: &View<'_>,
    hash: GitHash,
    tips: &BTreeSet<GitOid>,
    had: &BTreeSet<GitOid>,
) -> Result<u64, GitError> {
    const DOING: &str = "measure objects";
    let input = revisions(view, hash, tips, had)?;
    let args = ["rev-list", "--objects", "--disk-usage", "--stdin"];
    let measured = view.git().args(args).bytes(DOING, &input, 64)?.checked(DOING)?;
    number(&measured, DOING)
}

/// Bytes that a repository stores, garbage too; nothing where it borrows objects of another one.
pub(super) fn stored(view: &View<'_>) -> Result<Option<u64>, GitError> {
    const DOING: &str = "count objects";
    let said = view.git().args(["count-objects", "-v"]).bytes(DOING, b"", MAX_LINE)?;
    let said = said.checked(DOING)?;
    let mut stored = 0u64;
    for line in said.split(|&byte| byte == b'\n') {
        if line.starts_with(b"alternate: ") {
            return Ok(None);
        }
        // In units of 1,024 bytes.
        let rest = line.strip_prefix(b"size: ").or_else(|| line.strip_prefix(b"size-pack: "));
        if let Some(rest) = rest {
            stored = stored.saturating_add(number(rest, DOING)?.saturating_mul(1024));
        }
    }
    Ok(Some(stored))
}

/// The parents of these commits, all of which must be there.
pub(super) fn parents(
    view: &View<'_>,
    hash: GitHash,
    commits: &BTreeSet<GitOid>,
) -> Result<BTreeSet<GitOid>, GitError> {
    let mut found = BTreeSet::new();
    if commits.is_empty() {
        return Ok(found);
    }
    let input: Vec<u8> = commits.iter().flat_map(|oid| format!("{oid}\n").into_bytes()).collect();
    let walk = ["rev-list", "--parents", "--no-walk=unsorted", "--stdin"];
    each_line(view, hash, &walk, &input, |line| {
        found.extend(line.get(1..).unwrap_or_default());
        Ok(())
    })?;
    Ok(found)
}

/// The commits that are reachable from `tips` and not from `had`: a line each, its name and those of its parents.
pub(super) fn for_each_commit(
    view: &View<'_>,
    hash: GitHash,
    (tips, had): (&BTreeSet<GitOid>, &BTreeSet<GitOid>),
    take: impl FnMut(&[GitOid]) -> Result<(), GitError>,
) -> Result<(), GitError> {
    if tips.is_empty() {
        return Ok(());
    }
    let input = revisions(view, hash, tips, had)?;
    each_line(view, hash, &["rev-list", "--parents", "--stdin"], &input, take)
}

fn each_line(
    view: &View<'_>,
    hash: GitHash,
    args: &[&str],
    input: &[u8],
    mut take: impl FnMut(&[GitOid]) -> Result<(), GitError>,
) -> Result<(), GitError> {
    const DOING: &str = "list commits";
    view.git()
        .args(args)
        .run(
            DOING,
            |mut stdin| stdin.write_all(input),
            |stdout| {
                // A commit has a few parents; a line that is longer is cut, and then no name.
                let mut from = std::io::BufReader::new(stdout);
                let mut line = Vec::new();
                loop {
                    line.clear();
                    let read = from.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
                    if read.map_err(|_| GitError::refused("a list", "git stopped writing it"))? == 0
                    {
                        return Ok(());
                    }
                    let names = line.trim_ascii_end().split(|&byte| byte == b' ');
                    let oids: Option<Vec<_>> =
                        names.map(|name| GitOid::from_hex(hash, name)).collect();
                    let Some(oids) = oids else {
                        return Err(GitError::refused("a list", "it has what is no commit"));
                    };
                    take(&oids)?;
                }
            },
        )?
        .checked(DOING)
}

/// How many commits such a pack has.
fn count_commits(
    view: &View<'_>,
    hash: GitHash,
    tips: &BTreeSet<GitOid>,
    had: &BTreeSet<GitOid>,
    is_partial: bool,
) -> Result<u64, GitError> {
    const DOING: &str = "count commits";
    let input = revisions(view, hash, tips, had)?;
    let counted = view
        .git()
        .args(["rev-list", "--count", missing(is_partial), "--stdin"])
        .bytes(DOING, &input, 64)?
        .checked(DOING)?;
    number(&counted, DOING)
}

fn number(said: &[u8], doing: &'static str) -> Result<u64, GitError> {
    let text = std::str::from_utf8(said.trim_ascii()).unwrap_or_default();
    text.parse().map_err(|_| GitError::Git { doing, said: format!("{text:?} is no number") })
}

/// What git is told: all that is reachable from `tips`, but not from `had`.
fn revisions(
    view: &View<'_>,
    hash: GitHash,
    tips: &BTreeSet<GitOid>,
    had: &BTreeSet<GitOid>,
) -> Result<Vec<u8>, GitError> {
    let mut input = Vec::new();
    for tip in tips {
        input.extend_from_slice(format!("{tip}\n").as_bytes());
    }
    // What went meanwhile cannot be taken from, and need not be.
    for tip in present(view, hash, had)? {
        input.extend_from_slice(format!("^{tip}\n").as_bytes());
    }
    Ok(input)
}

const fn missing(is_partial: bool) -> &'static str {
    if is_partial { "--missing=allow-any" } else { "--missing=error" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_stay_few_however_many_are_added() {
        assert_eq!(kept_packs(&[]), 0);
        assert_eq!(kept_packs(&[5]), 1);
        assert_eq!(kept_packs(&[100, 10, 5]), 3);
        assert_eq!(kept_packs(&[100, 10, 9, 1]), 1);
        assert_eq!(kept_packs(&[100, 10, 90]), 0);
        assert_eq!(kept_packs(&[LARGE + 1, 2 * LARGE, 10, 90]), 2);
        let mut sizes: Vec<u64> = vec![1_000_000];
        let mut written = 0;
        for _ in 0..10_000 {
            let merged: u64 = sizes.split_off(kept_packs(&sizes)).iter().sum();
            sizes.push(merged + 100);
            written += merged + 100;
            assert!(sizes.len() < 20, "{sizes:?}");
        }
        // Each byte is written again about once for each time that what is there doubles.
        assert!(written < 10_000 * 100 * 20, "{written}");
    }
}

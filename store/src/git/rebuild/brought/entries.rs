//! Three indexes brought together, path by path. What an index says of a path is all of its entries there, with their
//! flags.
//!
//! - What one side alone changed is taken from it; what both made alike is left.
//! - Of a deletion and an edit the edit wins.
//! - Two edits of a file are merged where they are text; all else that both changed is a conflict.
//!
//! **Invariant:** at a conflict the index stays as it is here, unless markers are asked for: then all versions are in
//! it. No entry stands where another one has a folder.

use std::collections::{BTreeMap, BTreeSet};

use baton_protocol::object::{GitEntry, GitMode, GitOid};

/// What becomes of the entries of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryOutcome {
    /// They become what they are there.
    Taken,
    /// They go away, as they did there.
    Removed,
    /// They were taken away here and changed there: they come back.
    Restored,
    /// Both changes are brought together.
    Merged,
    /// They stay, though they were taken away there.
    EditedHere,
    /// They stay, because the file stays as it is here.
    FileLeft,
    /// Both changed them.
    Conflict(EntryClash),
}

/// Why two changes of an entry cannot be brought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryClash {
    /// The same lines, or something else that is no text, or is not merged here.
    Content,
    /// It is no text, or a very long one.
    Binary,
    /// Both made it.
    BothAdded,
    /// Both changed whether it may be executed, or what kind it is.
    Mode,
    /// One stands where the other one has a folder.
    Folder,
    /// The index has all versions now.
    Marked,
}

impl EntryOutcome {
    /// The word used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Taken => "taken",
            Self::Removed => "removed",
            Self::Restored => "restored",
            Self::Merged => "merged",
            Self::EditedHere | Self::FileLeft => "kept",
            Self::Conflict(_) => "conflict",
        }
    }

    /// Why, where that is to be told.
    pub const fn reason(self) -> Option<&'static str> {
        Some(match self {
            Self::EditedHere => "edited-here",
            Self::FileLeft => "file-left",
            Self::Conflict(EntryClash::Content) => "content",
            Self::Conflict(EntryClash::Binary) => "binary",
            Self::Conflict(EntryClash::BothAdded) => "both-added",
            Self::Conflict(EntryClash::Mode) => "mode",
            Self::Conflict(EntryClash::Folder) => "kind",
            Self::Conflict(EntryClash::Marked) => "marked",
            _ => return None,
        })
    }
}

/// What becomes of the entries of a path, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryAction {
    /// The path.
    pub path: Vec<u8>,
    /// What is done.
    pub outcome: EntryOutcome,
    /// As they were, are here and are there; more than one where they are of a conflict.
    pub versions: [Vec<GitEntry>; 3],
}

/// What two edits of a file came to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Edits {
    /// Both are in this blob, of so many bytes.
    Merged(GitOid, u64),
    Clash(EntryClash),
}

/// How indexes are brought together.
pub(super) struct Wishes<'a> {
    /// Whether a path was asked for.
    pub(super) takes: &'a dyn Fn(&[u8]) -> bool,
    /// Whether the file of a path stays as it is here, in a conflict.
    pub(super) is_left: &'a dyn Fn(&[u8]) -> bool,
    /// Whether a conflict is written as one.
    pub(super) markers: bool,
}

/// Entries of one path.
type Side<'a> = &'a [GitEntry];

/// A path under way.
struct Open<'a> {
    sides: [Side<'a>; 3],
    result: Vec<GitEntry>,
    outcome: Option<EntryOutcome>,
}

/// Brings base, here and there together; each ascending by path and stage. Gives the entries, and what to tell.
pub(super) fn bring_together<E>(
    sides: [&[GitEntry]; 3],
    wishes: &Wishes<'_>,
    mut merge: impl FnMut(GitOid, GitOid, GitOid) -> Result<Edits, E>,
) -> Result<(Vec<GitEntry>, Vec<EntryAction>), E> {
    let mut open: BTreeMap<&[u8], Open<'_>> = BTreeMap::new();
    for (which, entries) in sides.into_iter().enumerate() {
        for of_path in entries.chunk_by(|a, b| a.path == b.path) {
            let Some(first) = of_path.first() else { continue };
            let sides: [Side<'_>; 3] = [&[], &[], &[]];
            let none = || Open { sides, result: Vec::new(), outcome: None };
            let open = open.entry(&first.path).or_insert_with(none);
            if let Some(side) = open.sides.get_mut(which) {
                *side = of_path;
            }
        }
    }
    for (path, open) in &mut open {
        (open.result, open.outcome) = decide(path, open.sides, wishes, &mut merge)?;
    }
    while take_back(&mut open) {}
    let mut entries = Vec::with_capacity(sides.map(<[_]>::len).into_iter().max().unwrap_or(0));
    let mut actions = Vec::new();
    for (path, Open { sides, result, outcome }) in open {
        entries.extend(result);
        if let Some(outcome) = outcome {
            let versions = sides.map(<[_]>::to_vec);
            actions.push(EntryAction { path: path.to_vec(), outcome, versions });
        }
    }
    Ok((entries, actions))
}

/// Takes changes back because of which an entry stands where another one has a folder; false where there are none.
fn take_back(open: &mut BTreeMap<&[u8], Open<'_>>) -> bool {
    let is_entry = |path: &[u8]| open.get(path).is_some_and(|open| !open.result.is_empty());
    let mut clashes: Vec<Vec<u8>> = Vec::new();
    for (path, one) in &*open {
        if one.result.is_empty() || is_same(&one.result, one.sides[1]) {
            continue;
        }
        let plain = path.strip_suffix(b"/").unwrap_or(path);
        let slashes = plain.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
        let mut above = slashes.filter_map(|(at, _)| Some((plain.get(..at)?, plain.get(..=at)?)));
        let below = [plain, b"/"].concat();
        let has_below = open
            .range(below.as_slice()..)
            .take_while(|(other, _)| other.starts_with(&below))
            .any(|(other, it)| other != path && !it.result.is_empty());
        if has_below || above.any(|(file, folder)| is_entry(file) || is_entry(folder)) {
            clashes.push(path.to_vec());
        }
    }
    for path in &clashes {
        if let Some(open) = open.get_mut(path.as_slice()) {
            open.result = open.sides[1].to_vec();
            open.outcome = Some(EntryOutcome::Conflict(EntryClash::Folder));
        }
    }
    !clashes.is_empty()
}

/// The entries of one path, and what to tell.
fn decide<E>(
    path: &[u8],
    [base, here, there]: [Side<'_>; 3],
    wishes: &Wishes<'_>,
    merge: &mut impl FnMut(GitOid, GitOid, GitOid) -> Result<Edits, E>,
) -> Result<(Vec<GitEntry>, Option<EntryOutcome>), E> {
    let stay = |outcome| Ok((here.to_vec(), outcome));
    if is_same(there, base) || is_same(there, here) || !(wishes.takes)(path) {
        return stay(None);
    }
    if (wishes.is_left)(path) {
        return stay(Some(EntryOutcome::FileLeft));
    }
    if is_same(here, base) {
        let outcome = if there.is_empty() { EntryOutcome::Removed } else { EntryOutcome::Taken };
        return Ok((there.to_vec(), Some(outcome)));
    }
    if here.is_empty() {
        return Ok((there.to_vec(), Some(EntryOutcome::Restored)));
    }
    if there.is_empty() {
        return stay(Some(EntryOutcome::EditedHere));
    }
    let clash = match (plain(base), plain(here), plain(there)) {
        (base, Some(ours), Some(theirs)) => match both(base, ours, theirs, merge)? {
            Ok(entry) => {
                let is_theirs = is_same(std::slice::from_ref(&entry), there);
                let outcome = if is_theirs { EntryOutcome::Taken } else { EntryOutcome::Merged };
                return Ok((vec![entry], Some(outcome)));
            }
            Err(_) if wishes.markers => {
                let entries = marked(base, ours, theirs);
                return Ok((entries, Some(EntryOutcome::Conflict(EntryClash::Marked))));
            }
            Err(clash) => clash,
        },
        _ => EntryClash::Content,
    };
    stay(Some(EntryOutcome::Conflict(clash)))
}

/// The one entry of a path that is in no conflict, and not only intended.
fn plain(entries: Side<'_>) -> Option<&GitEntry> {
    match entries {
        [entry] if entry.stage == 0 && !entry.intent_to_add && entry.mode != GitMode::Directory => {
            Some(entry)
        }
        _ => None,
    }
}

/// Two changes of one entry.
fn both<E>(
    base: Option<&GitEntry>,
    ours: &GitEntry,
    theirs: &GitEntry,
    merge: &mut impl FnMut(GitOid, GitOid, GitOid) -> Result<Edits, E>,
) -> Result<Result<GitEntry, EntryClash>, E> {
    let Some(mode) = three_way(base.map(|it| it.mode), ours.mode, theirs.mode) else {
        return Ok(Err(EntryClash::Mode));
    };
    let flag = |of: fn(&GitEntry) -> bool| {
        // Of two values one is that of the base.
        three_way(Some(base.is_some_and(of)), of(ours), of(theirs)).unwrap_or(of(ours))
    };
    let assume_valid = flag(|it| it.assume_valid);
    let skip_worktree = flag(|it| it.skip_worktree);
    let with = |oid, clean| GitEntry {
        path: ours.path.clone(),
        stage: 0,
        mode,
        assume_valid,
        skip_worktree,
        intent_to_add: false,
        clean,
        oid,
    };
    if let Some(oid) = three_way(base.map(|it| it.oid), ours.oid, theirs.oid) {
        let clean = if oid == theirs.oid { theirs.clean } else { ours.clean };
        return Ok(Ok(with(oid, clean)));
    }
    let is_file = |entry: &GitEntry| matches!(entry.mode, GitMode::File | GitMode::Executable);
    let Some(base) = base else { return Ok(Err(EntryClash::BothAdded)) };
    if ![base, ours, theirs].into_iter().all(is_file) {
        return Ok(Err(EntryClash::Content));
    }
    Ok(match merge(base.oid, ours.oid, theirs.oid)? {
        Edits::Merged(oid, size) => Ok(with(oid, u32::try_from(size).ok())),
        Edits::Clash(clash) => Err(clash),
    })
}

/// The entries of a conflict, as git has them.
fn marked(base: Option<&GitEntry>, ours: &GitEntry, theirs: &GitEntry) -> Vec<GitEntry> {
    let stages = [(1, base), (2, Some(ours)), (3, Some(theirs))];
    let entries = stages.into_iter().filter_map(|(stage, entry)| Some((stage, entry?)));
    let unmerged = entries.map(|(stage, entry)| GitEntry {
        stage,
        assume_valid: false,
        skip_worktree: false,
        clean: None,
        ..entry.clone()
    });
    unmerged.collect()
}

/// Whether the entries of a path say the same, whatever is known of the file.
pub(super) fn is_same(a: &[GitEntry], b: &[GitEntry]) -> bool {
    let same = |(a, b): (&GitEntry, &GitEntry)| {
        a.path == b.path
            && (a.stage, a.mode, a.oid) == (b.stage, b.mode, b.oid)
            && (a.assume_valid, a.skip_worktree) == (b.assume_valid, b.skip_worktree)
            && a.intent_to_add == b.intent_to_add
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// The value that changed on one side, or on both alike.
pub(crate) fn three_way<T: Copy + PartialEq>(base: Option<T>, ours: T, theirs: T) -> Option<T> {
    if ours == theirs || base == Some(theirs) {
        Some(ours)
    } else if base == Some(ours) {
        Some(theirs)
    } else {
        None
    }
}

/// One path of an index that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EntryChange {
    pub(crate) path: Vec<u8>,
    pub(crate) from: Vec<GitEntry>,
    pub(crate) to: Vec<GitEntry>,
}

/// Objects that files of an index are to have after changes, and none of them has before.
pub(crate) fn new_objects(changes: &[EntryChange]) -> BTreeSet<GitOid> {
    let old: BTreeSet<GitOid> =
        changes.iter().flat_map(|change| &change.from).map(|entry| entry.oid).collect();
    let new = changes.iter().flat_map(|change| &change.to);
    let new = new.filter(|entry| entry.mode != GitMode::Submodule).map(|entry| entry.oid);
    new.filter(|oid| !old.contains(oid)).collect()
}

/// In what two indexes differ; each ascending by path and stage.
pub(super) fn changes(old: &[GitEntry], new: &[GitEntry]) -> Vec<EntryChange> {
    let mut paths: BTreeMap<&[u8], [Side<'_>; 2]> = BTreeMap::new();
    for (which, entries) in [old, new].into_iter().enumerate() {
        for of_path in entries.chunk_by(|a, b| a.path == b.path) {
            let Some(first) = of_path.first() else { continue };
            let sides = paths.entry(&first.path).or_insert([&[], &[]]);
            if let Some(side) = sides.get_mut(which) {
                *side = of_path;
            }
        }
    }
    let differs = paths.into_iter().filter(|(_, [from, to])| !is_same(from, to));
    let change = |(path, [from, to]): (&[u8], [Side<'_>; 2])| EntryChange {
        path: path.to_vec(),
        from: from.to_vec(),
        to: to.to_vec(),
    };
    differs.map(change).collect()
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use baton_protocol::object::GitHash;

    use super::*;
    use crate::apply::testing::{Rng, is_nightly};

    const PATHS: [&str; 7] = ["a", "a-b", "a/x", "b", "c/d", "c/e", "f"];

    fn oid(byte: usize) -> GitOid {
        GitOid::new(GitHash::Sha1, &[byte as u8 + 1; 20]).unwrap()
    }

    fn entry(path: &str, stage: u8, rng: &mut Rng) -> GitEntry {
        const MODES: [GitMode; 5] = [
            GitMode::File,
            GitMode::File,
            GitMode::Executable,
            GitMode::Symlink,
            GitMode::Submodule,
        ];
        GitEntry {
            path: path.into(),
            stage,
            mode: MODES[rng.below(MODES.len())],
            assume_valid: rng.below(6) == 0,
            skip_worktree: rng.below(6) == 0,
            intent_to_add: stage == 0 && rng.below(10) == 0,
            clean: (rng.below(2) == 0).then_some(rng.below(3) as u32),
            oid: oid(rng.below(4)),
        }
    }

    type Index = BTreeMap<String, Vec<GitEntry>>;

    fn add(index: &mut Index, path: &str, rng: &mut Rng) {
        index.retain(|other, _| {
            !other.starts_with(&format!("{path}/")) && !path.starts_with(&format!("{other}/"))
        });
        let entries = match rng.below(8) {
            0 => (1..=3).map(|stage| entry(path, stage, rng)).collect(),
            1 => (2..=3).map(|stage| entry(path, stage, rng)).collect(),
            _ => vec![entry(path, 0, rng)],
        };
        index.insert(path.into(), entries);
    }

    fn changed(index: &Index, rng: &mut Rng) -> Index {
        let mut index = index.clone();
        for _ in 0..rng.below(5) {
            let path = PATHS[rng.below(PATHS.len())];
            match (rng.below(4), index.get_mut(path)) {
                (0, _) => drop(index.remove(path)),
                // One of its values.
                (1, Some(entries)) => entries[0].oid = oid(rng.below(4)),
                (2, Some(entries)) => entries[0].skip_worktree ^= true,
                _ => add(&mut index, path, rng),
            }
        }
        index
    }

    fn list(index: &Index) -> Vec<GitEntry> {
        index.values().flatten().cloned().collect()
    }

    /// Every merge of texts gives this object, or meets.
    fn edits(base: GitOid, ours: GitOid, theirs: GitOid) -> Edits {
        let sum: u32 = [base, ours, theirs].iter().map(|it| u32::from(it.as_bytes()[0])).sum();
        if sum.is_multiple_of(2) {
            Edits::Merged(oid(9), 5)
        } else {
            Edits::Clash(EntryClash::Content)
        }
    }

    fn check(rng: &mut Rng) -> bool {
        let mut base = Index::new();
        for path in PATHS {
            if rng.below(3) > 0 {
                add(&mut base, path, rng);
            }
        }
        let here = changed(&base, rng);
        let there = changed(if rng.below(5) == 0 { &here } else { &base }, rng);
        let markers = rng.below(3) == 0;
        let only = (rng.below(3) == 0).then(|| PATHS[rng.below(PATHS.len())]);
        let left = (rng.below(3) == 0).then(|| PATHS[rng.below(PATHS.len())]);
        let wishes = Wishes {
            takes: &|path| only.is_none_or(|only| only.as_bytes() == path),
            is_left: &|path| left.is_some_and(|left| left.as_bytes() == path),
            markers,
        };
        let lists = [list(&base), list(&here), list(&there)];
        let sides = [&lists[0][..], &lists[1], &lists[2]];
        let (result, actions) =
            bring_together(sides, &wishes, |b, o, t| Ok::<_, Infallible>(edits(b, o, t))).unwrap();
        let what = format!("{base:#?}\n{here:#?}\n{there:#?}\n{markers} {only:?} {left:?}");
        // It is an index: in order, and no entry is the folder of another one.
        let bytes = |entries: &[GitEntry]| {
            let index = baton_protocol::object::GitIndex {
                hash: GitHash::Sha1,
                version: 2,
                sparse: false,
                entries: entries.to_vec(),
                undo: Vec::new(),
            };
            index.encode()
        };
        assert!(baton_protocol::object::GitIndex::decode(&bytes(&result)).is_ok(), "{what}");
        for one in &result {
            let below = [&one.path[..], b"/"].concat();
            assert!(result.iter().all(|other| !other.path.starts_with(&below)), "{what}");
        }
        let of = |entries: &[GitEntry], path: &str| -> Vec<GitEntry> {
            entries.iter().filter(|it| it.path == path.as_bytes()).cloned().collect()
        };
        for path in PATHS {
            let [b, h, t] = [&lists[0], &lists[1], &lists[2]].map(|it| of(it, path));
            let found = of(&result, path);
            let outcome = actions.iter().find(|it| it.path == path.as_bytes()).map(|it| it.outcome);
            let is_asked = only.is_none_or(|only| only == path);
            let is_new = is_asked && !is_same(&t, &b) && !is_same(&t, &h);
            let is_folder = outcome == Some(EntryOutcome::Conflict(EntryClash::Folder));
            if !is_new || left == Some(path) {
                assert!(is_same(&found, &h), "{path} {what}");
                assert_eq!(outcome, is_new.then_some(EntryOutcome::FileLeft), "{path} {what}");
            } else if is_folder {
                assert!(is_same(&found, &h), "{path} {what}");
            } else if is_same(&h, &b) || h.is_empty() {
                assert!(is_same(&found, &t), "{path} {what}");
            } else if t.is_empty() {
                assert!(is_same(&found, &h), "{path} {what}");
                assert_eq!(outcome, Some(EntryOutcome::EditedHere));
            } else {
                // Both changed it: both values are in it, or it is a conflict.
                match outcome {
                    Some(EntryOutcome::Taken) => assert!(is_same(&found, &t), "{path} {what}"),
                    Some(EntryOutcome::Merged) => {
                        let [found, h, t] = [&found[0], &h[0], &t[0]];
                        let is_one = found.oid == h.oid || found.oid == t.oid;
                        assert!(found.stage == 0 && (is_one || found.oid == oid(9)), "{what}");
                        let was = plain(&b);
                        if found.oid == h.oid && h.oid != t.oid {
                            assert_eq!(was.map(|b| b.oid), Some(t.oid), "{path} {what}");
                        }
                        if found.oid == t.oid && h.oid != t.oid {
                            assert_eq!(was.map(|b| b.oid), Some(h.oid), "{path} {what}");
                        }
                    }
                    Some(EntryOutcome::Conflict(EntryClash::Marked)) => {
                        let stages: Vec<_> = found.iter().map(|it| (it.stage, it.oid)).collect();
                        assert!(markers && stages.contains(&(2, h[0].oid)), "{path} {what}");
                        assert!(stages.contains(&(3, t[0].oid)), "{path} {what}");
                        assert_eq!(found.len(), 2 + usize::from(plain(&b).is_some()), "{what}");
                    }
                    Some(EntryOutcome::Conflict(_)) => {
                        assert!(is_same(&found, &h), "{path} {what}");
                    }
                    _ => panic!("{outcome:?} of {path} {what}"),
                }
            }
        }
        // What is kept of the differences makes the one of the other.
        let mut again: BTreeMap<Vec<u8>, Vec<GitEntry>> = BTreeMap::new();
        for one in &lists[1] {
            again.entry(one.path.clone()).or_default().push(one.clone());
        }
        for change in changes(&lists[1], &result) {
            assert!(is_same(&change.from, again.get(&change.path).map_or(&[][..], Vec::as_slice)));
            again.insert(change.path, change.to);
        }
        assert!(is_same(&again.into_values().flatten().collect::<Vec<_>>(), &result), "{what}");
        !is_same(&lists[1], &result)
    }

    #[test]
    fn random_entries_are_brought_together_by_the_rules() {
        let rounds = if is_nightly() { 1_000_000 } else { 10_000 };
        let mut rng = Rng::new(31);
        let busy = (0..rounds).filter(|_| check(&mut rng)).count();
        assert!(busy > rounds / 4, "{busy} of {rounds} changed anything");
    }
}

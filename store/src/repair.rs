//! Repairing a store: what is intact is found again and kept, what is damaged goes to quarantine, and what is lost is named.
//!
//! The store may be in use, and a crash at any moment leaves it no worse. What is lost is absent afterwards, where it was damaged
//! before: who asks a node, or takes a snapshot, brings it again. Twice is once.
//!
//! **Invariant:** no byte is deleted. Files that are damaged are moved, or copied before they go, into `damaged/`.
//!
//! Not here: an index whose own file is damaged. Whoever opens the store next sets it aside and makes it anew.

use std::collections::{BTreeMap, HashSet};

use baton_protocol::id::{ObjectId, ObjectKind, SnapshotId, VaultId};
use baton_protocol::object::Object;

use crate::check::{Checked, Problem, Survey, check_journal, check_vault};
use crate::error::StoreError;
use crate::index::{Location, SegmentRow};
use crate::noted::{noted, replace};
use crate::objects::ObjectSource;
use crate::segment::{SegmentHeader, scan};
use crate::store::{Store, keep_aside};
use crate::vault::Vault;

/// What a repair found and did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Everything that was wrong.
    pub found: Vec<Problem>,
    /// What was done about it.
    pub done: Vec<Problem>,
    /// What could not be done now, and why.
    pub left: Vec<Problem>,
    /// What is gone.
    pub lost: Vec<Lost>,
    /// Whether the store has to be opened again, for an index to be made anew.
    pub is_to_be_reopened: bool,
}

/// A snapshot of which something is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The vault it is in.
    pub vault: VaultId,
    /// Which. What it has in common with others is named once, with the newest.
    pub snapshot: SnapshotId,
    /// What of it is gone; what is below these cannot be seen.
    pub objects: Vec<ObjectId>,
}

/// Repairs every vault of a store; reads every byte. `progress` is told the objects and bytes so far. `more` names
/// snapshots beside the refs of a vault that are looked through.
pub fn repair(
    store: &Store,
    more: impl Fn(&Vault) -> Vec<SnapshotId>,
    mut progress: impl FnMut(u64, u64),
) -> Result<Repaired, StoreError> {
    let mut repaired = Repaired::default();
    store.check_poison()?;
    let mut checked = Checked::default();
    repair_journal(store, &mut checked, &mut repaired)?;
    for id in store.vaults()? {
        let what = format!("vault {id}");
        let vault = match store.vault(id) {
            Ok(vault) => vault,
            Err(error) if error.is_corruption() => {
                checked.found(&what, &error);
                note(&mut repaired.left, what, error);
                continue;
            }
            Err(error) => return Err(error),
        };
        let done = check_vault(&vault, id, true, &mut checked, &mut progress)
            .and_then(|survey| repair_vault(&vault, &survey, &more(&vault), &mut repaired));
        match done {
            Err(error) if error.is_corruption() => {
                checked.found(&what, &error);
                vault.index().doubt();
                repaired.is_to_be_reopened = true;
                note(&mut repaired.left, what, error);
            }
            done => done?,
        }
    }
    // What is not there any more, or was not seen as damage once an index was made anew.
    let noted = noted(store.layout())?;
    checked
        .problems
        .extend(noted.into_iter().filter(|it| !checked.problems.contains(it)).collect::<Vec<_>>());
    repaired.found = checked.problems;
    let lost = repaired.lost.iter().map(|lost| Problem {
        what: format!("snapshot {} of vault {}", lost.snapshot.short(), lost.vault),
        detail: format!("{} objects are gone", lost.objects.len()),
    });
    replace(store.layout(), &repaired.left.iter().cloned().chain(lost).collect::<Vec<_>>())?;
    Ok(repaired)
}

fn note(list: &mut Vec<Problem>, what: impl std::fmt::Display, detail: impl std::fmt::Display) {
    list.push(Problem { what: what.to_string(), detail: detail.to_string() });
}

/// What can be believed of the journal is in memory: it goes to segments, and damaged files to quarantine.
fn repair_journal(
    store: &Store,
    checked: &mut Checked,
    repaired: &mut Repaired,
) -> Result<(), StoreError> {
    for path in store.damaged_at_opening() {
        checked.found(path.display(), "a journal file was damaged before its end");
    }
    let damaged = check_journal(store, checked)?;
    let mut aside = store.damaged_at_opening().to_vec();
    if checked.problems.is_empty() {
        return Ok(());
    }
    for (path, offset) in damaged {
        aside.push(keep_aside(store.layout(), &path, offset)?);
    }
    store.fold()?;
    store.settle();
    aside.sort();
    aside.dedup();
    for path in aside {
        let done = "what could be believed of it went to segments; the file is kept";
        note(&mut repaired.done, path.display(), done);
    }
    Ok(())
}

fn repair_vault(
    vault: &Vault,
    survey: &Survey,
    more: &[SnapshotId],
    repaired: &mut Repaired,
) -> Result<(), StoreError> {
    let id = vault.id();
    let index = format!("index of vault {id}");
    if survey.is_index_damaged {
        vault.index().doubt();
        repaired.is_to_be_reopened = true;
        note(&mut repaired.left, &index, "it is made anew when the store is opened next");
        return Ok(());
    }
    let adopted = adopt(vault, survey)?;
    let forgotten = vault.index().forget_rows(&survey.lost)?;
    if forgotten > 0 {
        vault.reopen()?;
    }
    let bad: HashSet<ObjectId> = survey.lost.iter().map(|(id, _)| *id).collect();
    let mut wanted: HashSet<ObjectId> = bad.clone();
    wanted.extend(missing(vault, more, None)?.into_values().flatten());
    // What is below something that is found again is only seen then.
    let mut found = 0;
    while !wanted.is_empty() {
        let came = find_again(vault, &wanted)?;
        if came == 0 {
            break;
        }
        found += came;
        wanted = missing(vault, more, None)?.into_values().flatten().collect();
    }
    if forgotten > 0 {
        let lost = format!("{forgotten} rows that named no intact bytes are gone");
        note(&mut repaired.done, &index, lost);
    }
    if found > 0 {
        note(&mut repaired.done, &index, format!("{found} objects were found again"));
    }
    // Of an open segment torn records are no damage; lost rows are.
    let torn: HashSet<u32> = survey.lost.iter().map(|(_, at)| at.segment).collect();
    let mut segments = vault.index().segments()?;
    segments.retain(|row| {
        let is_torn = row.name.starts_with("open-") && torn.contains(&row.segment);
        is_torn && survey.segments.iter().all(|other| other.segment != row.segment)
    });
    for row in survey.segments.iter().chain(&adopted).chain(&segments) {
        let what = format!("segment {} of vault {id}", row.name);
        if vault.segment_file(row.segment)?.is_none() {
            vault.index().remove_segment(row.segment)?;
            note(&mut repaired.done, what, "its file is gone; it is not listed any more");
            continue;
        }
        match vault.salvage(row)? {
            Some(aside) => {
                let done = format!("what is intact was copied; the file is {}", aside.display());
                note(&mut repaired.done, what, done);
            }
            None => note(&mut repaired.left, what, "it is in use; try again in a moment"),
        }
    }
    let lost = missing(vault, more, Some(&bad))?;
    repaired.lost.extend(lost.into_iter().map(|(snapshot, objects)| Lost {
        vault: id,
        snapshot,
        objects,
    }));
    Ok(())
}

/// Lists files that the index does not know as segments, so that what is wanted is found in them, and nothing else: whose
/// they are is not known.
fn adopt(vault: &Vault, survey: &Survey) -> Result<Vec<SegmentRow>, StoreError> {
    let adopted = survey.strangers.iter().map(|(class, path)| vault.adopt(*class, path));
    adopted.filter_map(Result::transpose).collect()
}

/// Adds rows for those of these objects that stand intact in some segment. Returns how many do.
fn find_again(vault: &Vault, wanted: &HashSet<ObjectId>) -> Result<usize, StoreError> {
    let mut found = HashSet::new();
    for row in vault.index().segments()? {
        let Some((file, path)) = vault.segment_file(row.segment)? else { continue };
        let mut rows: Vec<(ObjectId, Location)> = Vec::new();
        let start = SegmentHeader::LEN as u64;
        scan(&file, &path, start, true, |offset, record_len, record| {
            // What is behind has its rows from who appended it.
            if offset >= row.indexed {
                return Ok(());
            }
            for entry in &record.entries {
                let (id, segment) = (entry.id, row.segment);
                if wanted.contains(&id)
                    && ObjectId::of(id.kind, record.bytes(entry)) == id
                    && !vault.contains(&id)?
                    && found.insert(id)
                {
                    let (inner, len) = (entry.inner, entry.len);
                    rows.push((id, Location { segment, offset, record_len, inner, len }));
                }
            }
            Ok(())
        })?;
        if !rows.is_empty() {
            vault.index().insert(row.segment, 0, &mut rows, false)?;
        }
    }
    Ok(found.len())
}

/// What is missing below the refs of a vault, below all that came before them, and below `more`; of these two only what is
/// `bad`, where that is given: the rest may never have been here.
fn missing(
    vault: &Vault,
    more: &[SnapshotId],
    bad: Option<&HashSet<ObjectId>>,
) -> Result<BTreeMap<SnapshotId, Vec<ObjectId>>, StoreError> {
    let mut found: BTreeMap<SnapshotId, Vec<ObjectId>> = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut heads: Vec<_> = vault.heads();
    heads.sort_unstable_by_key(|head| std::cmp::Reverse(head.sequence));
    // Those before a ref come after all refs.
    let mut history: std::collections::VecDeque<(SnapshotId, bool)> =
        heads.into_iter().map(|head| (head.snapshot, true)).collect();
    history.extend(more.iter().map(|&snapshot| (snapshot, false)));
    while let Some((snapshot, is_head)) = history.pop_front() {
        let mut open = vec![ObjectId::from(snapshot)];
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let bytes = if id.kind == ObjectKind::Chunk {
                if vault.contains(&id)? {
                    continue;
                }
                None
            } else {
                match vault.read(&id) {
                    Err(StoreError::DamagedObject(_)) => None,
                    read => read?,
                }
            };
            let Some(object) = bytes.and_then(|bytes| Object::decode(id.kind, &bytes).ok()) else {
                if is_head || bad.is_none_or(|bad| bad.contains(&id)) {
                    found.entry(snapshot).or_default().push(id);
                }
                continue;
            };
            if let Object::Snapshot(snapshot) = &object {
                history.extend(snapshot.parents.iter().map(|&parent| (parent, false)));
            }
            open.extend(object.children());
        }
    }
    Ok(found)
}

//! Verifying a store: what its refs reach is whole, and, if asked, every stored byte has its hash.
//!
//! Changes nothing that is stored. What is found is named, and noted until somebody has repaired it.

use std::collections::{HashMap, HashSet};
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use baton_protocol::id::{ObjectId, ObjectKind, VaultId};
use baton_protocol::object::Object;

use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::index::{Location, SegmentRow};
use crate::journal::{Entry, examine};
use crate::layout::Class;
pub use crate::noted::Problem;
use crate::noted::note;
use crate::objects::ObjectSource;
use crate::segment::{SegmentHeader, read_footer, read_header, scan};
use crate::store::{Store, aside_name};
use crate::vault::Vault;

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Snapshots whose whole closure was walked.
    pub snapshots: u64,
    /// Objects that they reach.
    pub objects: u64,
    /// Bytes of segments and of the journal read and hashed.
    pub bytes_read: u64,
}

/// Checks every vault of a store; with `data` reads every byte. `progress` is told the objects and
/// bytes so far.
pub fn check(
    store: &Store,
    data: bool,
    mut progress: impl FnMut(u64, u64),
) -> Result<Checked, StoreError> {
    let mut checked = Checked::default();
    // Files stay where they are, whatever is collected meanwhile.
    let _lease = store.lease();
    for path in store.damaged_at_opening() {
        checked.found(
            path.display(),
            "a journal file was damaged before its end; what could be believed was taken over",
        );
    }
    if data {
        drop(check_journal(store, &mut checked)?);
    }
    for id in store.vaults()? {
        match store.vault(id) {
            Ok(vault) => {
                let before = checked.problems.len();
                match check_vault(&vault, id, data, &mut checked, &mut progress) {
                    Err(error) if error.is_corruption() => {
                        checked.found(format!("vault {id}"), error);
                    }
                    other => drop(other?),
                }
                if checked.problems.len() > before {
                    // Made anew from the bytes it lists what is there, and nothing else.
                    vault.index().doubt();
                }
            }
            Err(error) => checked.found(format!("vault {id}"), error),
        }
    }
    note(store.layout(), &checked.problems);
    Ok(checked)
}

impl Checked {
    pub(crate) fn found(&mut self, what: impl std::fmt::Display, detail: impl std::fmt::Display) {
        self.problems.push(Problem { what: what.to_string(), detail: detail.to_string() });
    }
}

/// Reads every journal file; what is in memory only because the journal has it must be there.
pub(crate) fn check_journal(
    store: &Store,
    checked: &mut Checked,
) -> Result<Vec<(PathBuf, u64)>, StoreError> {
    let mut pending: HashMap<VaultId, HashSet<ObjectId>> = HashMap::new();
    for id in store.vaults()? {
        // A vault that cannot be opened is reported where it is checked.
        if let Ok(vault) = store.vault(id) {
            pending.insert(id, vault.pending_ids().into_iter().collect());
        }
    }
    let (read, damaged) = examine(store.layout(), store.end_of_journal(), |replayed| {
        if let Entry::Commit(commit) = &replayed.entry
            && let Some(pending) = pending.get_mut(&commit.vault)
        {
            for entry in replayed.records.iter().flat_map(|record| &record.entries) {
                pending.remove(&entry.id);
            }
        }
        Ok(())
    })?;
    checked.bytes_read += read;
    for (path, offset) in &damaged {
        let known = store
            .damaged_at_opening()
            .iter()
            .any(|aside| aside.file_name() == Some(aside_name(path, *offset).as_ref()));
        if !known {
            checked.found(path.display(), format!("the entry at byte {offset} is damaged"));
        }
    }
    for (id, left) in pending {
        // What was folded meanwhile is in segments now.
        let still: HashSet<_> = match store.vault(id) {
            Ok(vault) => vault.pending_ids().into_iter().collect(),
            Err(_) => continue,
        };
        let lost = left.intersection(&still).count();
        if lost > 0 {
            checked.found(
                format!("journal of vault {id}"),
                format!("{lost} objects are in memory that no journal file holds intact"),
            );
        }
    }
    Ok(damaged)
}

/// What of a vault is not as it should be, for who repairs it.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// Segments with damage in them.
    pub(crate) segments: Vec<SegmentRow>,
    /// Rows that name no intact bytes.
    pub(crate) lost: Vec<(ObjectId, Location)>,
    /// Files among the segments that the index does not know.
    pub(crate) strangers: Vec<(Class, PathBuf)>,
    /// Whether the file of the index is damaged itself.
    pub(crate) is_index_damaged: bool,
}

pub(crate) fn check_vault(
    vault: &Vault,
    id: VaultId,
    data: bool,
    checked: &mut Checked,
    progress: &mut impl FnMut(u64, u64),
) -> Result<Survey, StoreError> {
    let mut survey = Survey::default();
    if let Some(detail) = vault.index().integrity()? {
        checked.found(format!("index of vault {id}"), detail);
        survey.is_index_damaged = true;
    }
    let mut seen = Walked::default();
    for head in vault.heads() {
        check_history(vault, head.snapshot.into(), &mut seen, checked, progress)?;
    }
    if data {
        check_segments(vault, id, None, (checked, &mut survey), progress)?;
    }
    Ok(survey)
}

/// Objects that were walked to.
#[derive(Default)]
struct Walked {
    /// Below snapshots that were once proved to be whole.
    proved: HashSet<ObjectId>,
    /// Below others.
    rest: HashSet<ObjectId>,
}

impl Walked {
    fn is_new(&mut self, id: ObjectId, is_proved: bool) -> bool {
        if is_proved {
            self.proved.insert(id)
        } else {
            !self.proved.contains(&id) && self.rest.insert(id)
        }
    }
}

/// Walks a snapshot and its parents. Parents may be on another machine, have come in part, with a push that was cut off, or be
/// taken away by a collection: what is absent is damage only below a snapshot that was proved to be whole.
fn check_history(
    vault: &Vault,
    head: ObjectId,
    seen: &mut Walked,
    checked: &mut Checked,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    let mut history = vec![(head, true)];
    while let Some((snapshot, is_head)) = history.pop() {
        let whole = vault.was_whole(&snapshot)?;
        let is_proved = is_head || whole == Some(true);
        if (!is_head && whole.is_none()) || !seen.is_new(snapshot, is_proved) {
            continue;
        }
        checked.snapshots += 1;
        let mut open = vec![snapshot];
        while let Some(id) = open.pop() {
            checked.objects += 1;
            if checked.objects.is_multiple_of(1000) {
                progress(checked.objects, checked.bytes_read);
            }
            if id.kind == ObjectKind::Chunk {
                if is_proved && !vault.contains(&id)? {
                    checked.found(snapshot, format!("{id} is missing"));
                }
                continue;
            }
            let bytes = match vault.read(&id) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    if is_proved {
                        checked.found(snapshot, format!("{id} is missing"));
                    }
                    continue;
                }
                Err(error) if error.is_corruption() => {
                    checked.found(snapshot, error);
                    continue;
                }
                Err(error) => return Err(error),
            };
            match Object::decode(id.kind, &bytes) {
                Ok(object) => {
                    if let Object::Snapshot(snapshot) = &object {
                        let parents = snapshot.parents.iter().map(|&id| (id.into(), false));
                        history.extend(parents);
                    }
                    let children = object.children().into_iter();
                    open.extend(children.filter(|&child| seen.is_new(child, is_proved)));
                }
                Err(error) => checked.found(snapshot, format!("{id} is malformed: {error}")),
            }
        }
    }
    Ok(())
}

/// Reads every record of every segment and hashes every object in it; compares with the index. The
/// store may be in use: what is appended meanwhile is left for the next time.
fn check_segments(
    vault: &Vault,
    id: VaultId,
    only: Option<&HashSet<u32>>,
    (checked, survey): (&mut Checked, &mut Survey),
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    let mut rows = vault.index().segments()?;
    rows.retain(|row| only.is_none_or(|only| only.contains(&row.segment)));
    let mut seen = Seen::default();
    for row in &rows {
        let name = format!("segment {} of vault {id}", row.name);
        let Some((file, path)) = vault.segment_file(row.segment)? else {
            checked.found(name, "the file is gone");
            seen.ends.insert(row.segment, u64::MAX);
            survey.segments.push(row.clone());
            continue;
        };
        // The name that it has by now, where it has been sealed meanwhile.
        let row = vault.index().segment(row.segment)?.unwrap_or_else(|| row.clone());
        let before = checked.problems.len();
        let len = file.metadata().context("reading", &path)?.len();
        if row.indexed > len {
            checked.found(&name, format!("bytes {len} to {} are gone", row.indexed));
        }
        check_segment(
            &Segment { name, row: row.clone(), file: &file, path: &path },
            &mut seen,
            checked,
            progress,
        )?;
        if read_header(&file, &path)?.is_none_or(|header| header.vault != id) {
            checked.found(path.display(), "this is no segment of its vault");
        }
        if checked.problems.len() > before {
            survey.segments.push(row);
        }
    }
    let mut nowhere = Vec::new();
    vault.index().for_each(|id, at| match seen.ends.get(&at.segment) {
        Some(&end) if at.offset < end && !seen.intact.contains(&fingerprint(&id, &at)) => {
            survey.lost.push((id, at));
        }
        None if only.is_none() => nowhere.push((id, at)),
        _ => {}
    })?;
    // A segment may have been begun meanwhile.
    let known: HashSet<u32> =
        vault.index().segments()?.into_iter().map(|row| row.segment).collect();
    survey.lost.extend(nowhere.into_iter().filter(|(_, at)| !known.contains(&at.segment)));
    if !survey.lost.is_empty() {
        let lost = survey.lost.len();
        checked.found(
            format!("index of vault {id}"),
            format!("{lost} objects are listed where no segment holds them intact"),
        );
    }
    if only.is_none() {
        check_strangers(vault, id, checked, survey)?;
    }
    Ok(())
}

/// Reads some segments of a vault, and nothing else.
pub(crate) fn check_some(
    vault: &Vault,
    segments: &HashSet<u32>,
    checked: &mut Checked,
) -> Result<(), StoreError> {
    let mut survey = Survey::default();
    check_segments(vault, vault.id(), Some(segments), (checked, &mut survey), &mut |_, _| {})
}

/// Which objects were found intact at which place, and how far each segment was to be read.
#[derive(Default)]
struct Seen {
    /// Fingerprints: 8 bytes an object, of which two are alike by chance once in 2^64.
    intact: HashSet<u64>,
    ends: HashMap<u32, u64>,
}

/// An object and its place in one number.
fn fingerprint(id: &ObjectId, at: &Location) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    (id, at).hash(&mut hasher);
    hasher.finish()
}

struct Segment<'a> {
    name: String,
    row: SegmentRow,
    file: &'a std::fs::File,
    path: &'a std::path::Path,
}

fn check_segment(
    Segment { name, row, file, path }: &Segment<'_>,
    seen: &mut Seen,
    checked: &mut Checked,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    seen.ends.insert(row.segment, row.indexed);
    let mut lies = Vec::new();
    let mut expected = SegmentHeader::LEN as u64;
    let mut holes = Vec::new();
    let end = scan(file, path, expected, true, |offset, record_len, record| {
        if offset != expected {
            holes.push((expected, offset));
        }
        expected = offset + u64::from(record_len);
        checked.bytes_read += u64::from(record_len);
        match record.find_lie() {
            None => seen.intact.extend(record.entries.iter().map(|entry| {
                let (segment, inner, len) = (row.segment, entry.inner, entry.len);
                fingerprint(&entry.id, &Location { segment, offset, record_len, inner, len })
            })),
            Some(id) => lies.push((offset, id)),
        }
        progress(checked.objects, checked.bytes_read);
        Ok(())
    })?;
    for (offset, id) in lies {
        checked.found(name, format!("{id} in the record at byte {offset} is damaged"));
    }
    if row.name.starts_with("open-") {
        // A power cut leaves torn records that nobody relied on. Where one was relied on its rows say so.
        return Ok(());
    }
    let footer = read_footer(file, path)?;
    let is_record = |from: u64, to: u64| {
        footer.as_ref().is_none_or(|footer| {
            footer.entries.iter().any(|entry| (from..to).contains(&entry.offset))
        })
    };
    for (from, to) in holes.into_iter().filter(|&(from, to)| is_record(from, to)) {
        checked.found(name, format!("bytes {from} to {to} are no intact record"));
    }
    match footer {
        Some(footer) if footer.records_end != end => {
            let told = footer.records_end;
            checked.found(name, format!("records end at byte {end}, not at {told}"));
        }
        Some(footer) => {
            if blake3::Hash::from_bytes(footer.hash).to_hex().as_str() != row.name {
                checked.found(name, "the name is not the hash of the records");
            }
        }
        None => checked.found(name, "the footer is damaged"),
    }
    Ok(())
}

/// Files among the segments that the index does not know.
fn check_strangers(
    vault: &Vault,
    id: VaultId,
    checked: &mut Checked,
    survey: &mut Survey,
) -> Result<(), StoreError> {
    for class in Class::ALL {
        let folder = vault.layout().segments(id, class);
        let names = fs::list_dir(&folder)?;
        let known: HashSet<String> =
            vault.index().segments()?.into_iter().map(|row| row.name).collect();
        for name in names.into_iter().filter_map(|name| name.into_string().ok()) {
            // One that is being made, or was sealed this moment, is known a moment later.
            if !known.contains(&name) && !name.starts_with("open-") && folder.join(&name).exists() {
                let path = folder.join(name);
                checked.found(path.display(), "the index does not know this file");
                survey.strangers.push((class, path));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_store_has_no_problems_and_a_flipped_bit_is_found_by_data() {
        let folder = tempfile::tempdir().unwrap();
        let vault_id = VaultId::from_bytes([5; 16]);
        let chunks: Vec<Vec<u8>> = (0..30u8)
            .map(|at| {
                let mut bytes = vec![0; 100_000];
                blake3::Hasher::new().update(&[at]).finalize_xof().fill(&mut bytes);
                bytes
            })
            .collect();
        {
            use crate::objects::ObjectSink;
            let store = Store::open(folder.path()).unwrap();
            let intake = store.vault(vault_id).unwrap().intake();
            for chunk in &chunks {
                intake.put(ObjectKind::Chunk, chunk).unwrap();
            }
            intake.keep(&[]).unwrap();
            let checked = check(&store, true, |_, _| {}).unwrap();
            assert_eq!(checked.problems, []);
            assert!(checked.bytes_read > 3_000_000);
        }
        let data =
            crate::layout::Layout::open(folder.path()).unwrap().segments(vault_id, Class::Data);
        let segment = data.join(fs::list_dir(&data).unwrap().remove(0));
        let mut bytes = fs::read_if_exists(&segment, 1 << 30).unwrap().unwrap();
        bytes[1_500_000] ^= 1;
        fs::write_atomic(&segment, &bytes, 0o600).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(check(&store, false, |_, _| {}).unwrap().problems, []);
        assert!(!check(&store, true, |_, _| {}).unwrap().problems.is_empty());
    }
}

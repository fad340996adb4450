//! Verifying a store: what its refs reach is whole, and, if asked, every stored byte has its hash.
//!
//! Reads only. What is found is named; nothing is repaired here.

use std::collections::HashSet;

use baton_protocol::id::{ObjectId, ObjectKind, VaultId};
use baton_protocol::object::Object;

use crate::error::StoreError;
use crate::fs;
use crate::index::{Location, SegmentRow};
use crate::layout::{Class, Layout};
use crate::objects::ObjectSource;
use crate::segment::{SegmentWriter, read_footer, read_header, scan};
use crate::store::Store;
use crate::vault::Vault;

/// Damage that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Which vault, segment, snapshot or object.
    pub what: String,
    /// What is wrong with it.
    pub detail: String,
}

/// What was looked at, and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Everything that is wrong.
    pub problems: Vec<Problem>,
    /// Snapshots whose whole closure was walked.
    pub snapshots: u64,
    /// Objects that they reach.
    pub objects: u64,
    /// Bytes of segments read and hashed.
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
    for path in &store.recovery().damaged {
        checked.found(
            path.display(),
            "a journal file was damaged before its end; what could be believed was taken over",
        );
    }
    for id in store.vaults()? {
        match store.vault(id) {
            Ok(vault) => {
                let before = checked.problems.len();
                match check_vault(&vault, id, data, &mut checked, &mut progress) {
                    Err(error) if error.is_corruption() => {
                        checked.found(format!("vault {id}"), error);
                    }
                    other => other?,
                }
                if checked.problems.len() > before {
                    // Made anew from the bytes it lists what is there, and nothing else.
                    vault.index().doubt();
                }
            }
            Err(error) => checked.found(format!("vault {id}"), error),
        }
    }
    Ok(checked)
}

impl Checked {
    fn found(&mut self, what: impl std::fmt::Display, detail: impl std::fmt::Display) {
        self.problems.push(Problem { what: what.to_string(), detail: detail.to_string() });
    }
}

fn check_vault(
    vault: &Vault,
    id: VaultId,
    data: bool,
    checked: &mut Checked,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    if let Some(detail) = vault.index().integrity()? {
        checked.found(format!("index of vault {id}"), detail);
    }
    let mut seen = HashSet::new();
    for head in vault.heads() {
        check_history(vault, head.snapshot.into(), &mut seen, checked, progress)?;
    }
    if data {
        check_segments(vault, id, checked, progress)?;
    }
    Ok(())
}

/// Walks a snapshot and its parents. Parents may be on another machine: an absent one is no damage.
fn check_history(
    vault: &Vault,
    head: ObjectId,
    seen: &mut HashSet<ObjectId>,
    checked: &mut Checked,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    let mut history = vec![(head, true)];
    while let Some((snapshot, is_head)) = history.pop() {
        if seen.contains(&snapshot) || (!is_head && !vault.contains(&snapshot)?) {
            continue;
        }
        checked.snapshots += 1;
        let mut open = vec![snapshot];
        while let Some(id) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            checked.objects += 1;
            if checked.objects.is_multiple_of(1000) {
                progress(checked.objects, checked.bytes_read);
            }
            if id.kind == ObjectKind::Chunk {
                if !vault.contains(&id)? {
                    checked.found(snapshot, format!("{id} is missing"));
                }
                continue;
            }
            let bytes = match vault.read(&id) {
                Ok(Some(bytes)) => bytes,
                Ok(None) => {
                    checked.found(snapshot, format!("{id} is missing"));
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
                    open.extend(object.children());
                }
                Err(error) => checked.found(snapshot, format!("{id} is malformed: {error}")),
            }
        }
    }
    Ok(())
}

/// Reads every record of every segment and hashes every object in it; compares with the index.
fn check_segments(
    vault: &Vault,
    id: VaultId,
    checked: &mut Checked,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    // Before the segments: what is written meanwhile is in neither.
    let mut listed = HashSet::new();
    vault.index().for_each(|object, at| {
        listed.insert((object, at));
    })?;
    let rows = vault.index().segments()?;
    for class in Class::ALL {
        let folder = vault.layout().segments(id, class);
        for name in fs::list_dir(&folder)? {
            let path = folder.join(&name);
            let place = Place { layout: vault.layout(), vault: id, class, path: &path };
            check_segment(&place, &rows, &mut listed, checked, progress)?;
        }
    }
    if !listed.is_empty() {
        checked.found(
            format!("index of vault {id}"),
            format!("{} objects are listed where no segment holds them intact", listed.len()),
        );
    }
    Ok(())
}

/// A segment.
struct Place<'a> {
    layout: &'a Layout,
    vault: VaultId,
    class: Class,
    path: &'a std::path::Path,
}

/// Takes away from `listed` what is there.
fn check_segment(
    place: &Place<'_>,
    rows: &[SegmentRow],
    listed: &mut HashSet<(ObjectId, Location)>,
    checked: &mut Checked,
    progress: &mut impl FnMut(u64, u64),
) -> Result<(), StoreError> {
    let &Place { layout, vault, class, path } = place;
    let name = path.strip_prefix(layout.root()).unwrap_or(path).display().to_string();
    let file = fs::open(path)?;
    let header = read_header(&file, path)?;
    let Some(header) = header.filter(|header| header.class == class && header.vault == vault)
    else {
        checked.found(&name, "this is no segment of its vault");
        return Ok(());
    };
    // It may have been sealed since its row was read.
    let open_name = SegmentWriter::open_name(&header.uid);
    let is_row = |row: &&SegmentRow| name.ends_with(&row.name) || row.name == open_name;
    let segment = rows.iter().find(is_row).map(|row| row.segment);
    let mut lies = Vec::new();
    let mut expected = crate::segment::SegmentHeader::LEN as u64;
    let mut holes = Vec::new();
    let start = expected;
    let end = scan(&file, path, start, true, |offset, record_len, record| {
        if offset != expected {
            holes.push((expected, offset));
        }
        expected = offset + u64::from(record_len);
        checked.bytes_read += u64::from(record_len);
        for entry in &record.entries {
            if ObjectId::of(entry.id.kind, record.bytes(entry)) != entry.id {
                lies.push((offset, entry.id));
            } else if let Some(segment) = segment {
                let (inner, len) = (entry.inner, entry.len);
                let at = Location { segment, offset, record_len, inner, len };
                listed.remove(&(entry.id, at));
            }
        }
        progress(checked.objects, checked.bytes_read);
        Ok(())
    })?;
    for (from, to) in holes {
        checked.found(&name, format!("bytes {from} to {to} are no intact record"));
    }
    for (offset, id) in lies {
        checked.found(&name, format!("{id} in the record at byte {offset} is damaged"));
    }
    let sealed = path.file_name().is_some_and(|name| !name.to_string_lossy().starts_with("open-"));
    if sealed {
        match read_footer(&file, path)? {
            Some(footer) if footer.records_end != end => {
                checked.found(
                    &name,
                    format!("records end at byte {end}, not at {}", footer.records_end),
                );
            }
            Some(footer) => {
                let hash = blake3::Hash::from_bytes(footer.hash).to_hex();
                if !name.ends_with(hash.as_str()) {
                    checked.found(&name, "the name is not the hash of the records");
                }
            }
            None => checked.found(&name, "the footer is damaged"),
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
        let data = Layout::open(folder.path()).unwrap().segments(vault_id, Class::Data);
        let segment = data.join(fs::list_dir(&data).unwrap().remove(0));
        let mut bytes = fs::read_if_exists(&segment, 1 << 30).unwrap().unwrap();
        bytes[1_500_000] ^= 1;
        fs::write_atomic(&segment, &bytes, 0o600).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(check(&store, false, |_, _| {}).unwrap().problems, []);
        assert!(!check(&store, true, |_, _| {}).unwrap().problems.is_empty());
    }
}

//! The segment files of a vault: appending records, sealing, and reading.

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::ObjectId;

use super::{Vault, Writer};
use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::index::Location;
use crate::layout::Class;
use crate::objects::OpenRecord;
use crate::segment::{
    MAX_RECORD, Record, RecordEntry, SealError, SegmentHeader, SegmentWriter, decode_record,
    read_header,
};

/// Open segment files that are kept.
const MAX_FILES: usize = 64;

pub(super) fn place(segment: u32, offset: u64, record_len: u32, entry: &RecordEntry) -> Location {
    Location { segment, offset, record_len, inner: entry.inner, len: entry.len }
}

/// Open segment files by number.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: Mutex<HashMap<u32, Arc<File>>>,
    /// Sealed segments whose new name the index did not take.
    renamed: Mutex<HashMap<u32, String>>,
}

impl Files {
    /// Keeps the file of a segment that is being written.
    fn keep(&self, segment: u32, file: Arc<File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= MAX_FILES
            && let Some(&any) = open.keys().next()
        {
            open.remove(&any);
        }
        open.insert(segment, file);
    }

    fn kept(&self, segment: u32) -> Option<Arc<File>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(&segment).cloned()
    }

    /// Closes the file of a segment that goes.
    pub(super) fn forget(&self, segment: u32) {
        drop(self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment));
    }

    /// Whether a segment was sealed by this name, and the index did not take it.
    pub(super) fn was_renamed_to(&self, name: &str) -> bool {
        self.renamed().values().any(|renamed| renamed == name)
    }

    fn renamed(&self) -> std::sync::MutexGuard<'_, HashMap<u32, String>> {
        self.renamed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Which appended records have no rows yet, so that a segment is never noted as indexed past one of
/// them: rows that a power cut takes back are found again by reading from there.
#[derive(Debug, Default)]
pub(super) struct Unindexed(Mutex<HashMap<u32, Track>>);

#[derive(Debug, Default)]
struct Track {
    offsets: BTreeSet<u64>,
    end: u64,
}

impl Track {
    fn indexed(&self) -> u64 {
        self.offsets.first().copied().unwrap_or(self.end)
    }
}

impl Unindexed {
    fn with<T>(&self, segment: u32, change: impl FnOnce(&mut Track) -> T) -> T {
        change(self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(segment).or_default())
    }

    fn appended(&self, segment: u32, offset: u64, end: u64) {
        self.with(segment, |track| {
            track.offsets.insert(offset);
            track.end = end;
        });
    }

    fn sealed(&self, segment: u32, len: u64) -> u64 {
        self.with(segment, |track| {
            track.end = len;
            track.indexed()
        })
    }

    /// How far the segment is indexed once these records have rows.
    pub(super) fn without(&self, segment: u32, offsets: &BTreeSet<u64>) -> u64 {
        self.with(segment, |track| {
            let left = track.offsets.iter().find(|&offset| !offsets.contains(offset));
            left.copied().unwrap_or(track.end)
        })
    }

    /// Whether records of a segment may still get rows.
    pub(super) fn has_any(&self, segment: u32) -> bool {
        self.with(segment, |track| !track.offsets.is_empty())
    }

    /// Forgets records: they have rows now, or nobody wants them any more.
    pub(super) fn done(&self, segment: u32, offsets: &BTreeSet<u64>) {
        self.with(segment, |track| {
            for offset in offsets {
                track.offsets.remove(offset);
            }
        });
    }
}

impl Vault {
    /// Reads one record; nothing where its bytes are damaged.
    pub(super) fn read_record(&self, at: &Location) -> Result<Option<Record>, StoreError> {
        let mut bytes = Vec::new();
        Ok(if self.read_packed(at, &mut bytes)? { decode_record(&bytes) } else { None })
    }

    /// Makes a record the one that is open; false where its bytes are damaged.
    pub(super) fn open_record(
        &self,
        at: &Location,
        open: &mut OpenRecord,
    ) -> Result<bool, StoreError> {
        if open.at == Some(at.record()) {
            return Ok(true);
        }
        open.at = None;
        if !self.read_packed(at, &mut open.packed)?
            || open.decoder.decode(&open.packed, &mut open.record).is_none()
        {
            return Ok(false);
        }
        open.at = Some(at.record());
        Ok(true)
    }

    /// Reads the bytes of a record; false where they are not there.
    pub(super) fn read_packed(&self, at: &Location, to: &mut Vec<u8>) -> Result<bool, StoreError> {
        let Some((file, path)) = self.segment_file(at.segment)? else { return Ok(false) };
        if at.record_len as usize > MAX_RECORD {
            return Ok(false);
        }
        to.resize(at.record_len as usize, 0);
        match file.read_exact_at(to, at.offset) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
            other => Ok(other.context("reading", &path).map(|()| true)?),
        }
    }

    /// The file of a segment and its path; nothing where it is gone.
    pub(crate) fn segment_file(
        &self,
        segment: u32,
    ) -> Result<Option<(Arc<File>, PathBuf)>, StoreError> {
        if let Some(file) = self.0.files.kept(segment) {
            return Ok(Some((file, self.0.layout.vault(self.0.id))));
        }
        if let Some(found) = self.open_segment(segment)? {
            return Ok(Some(found));
        }
        // It may have been renamed between our looking up its name and opening it: a segment is
        // sealed under the lock of its class.
        let writers = self.0.writers.iter();
        let _sealing: Vec<_> =
            writers.map(|slot| slot.lock().unwrap_or_else(PoisonError::into_inner)).collect();
        self.open_segment(segment)
    }

    fn open_segment(&self, segment: u32) -> Result<Option<(Arc<File>, PathBuf)>, StoreError> {
        let Some(row) = self.0.index.segment(segment)? else { return Ok(None) };
        let Some(class) = Class::from_number(row.class) else { return Ok(None) };
        let name = self.0.files.renamed().get(&segment).cloned().unwrap_or(row.name);
        let path = self.0.layout.segments(self.0.id, class).join(name);
        match fs::open(&path) {
            Ok(file) => {
                let file = Arc::new(file);
                self.0.files.keep(segment, file.clone());
                Ok(Some((file, path)))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Appends an encoded record to the open segment of its class; seals that one when it is full.
    ///
    /// Not durable, and not in the index, before [`Vault::sync_segments`].
    pub(super) fn append_record(
        &self,
        class: Class,
        record: &[u8],
        entries: &[RecordEntry],
    ) -> Result<(u32, u64, u32), StoreError> {
        self.0.commits.poison.check()?;
        let mut slot = self.slot(class).lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|open| open.writer.is_full()) {
            self.seal(&mut slot)?;
        }
        if slot.is_none() {
            *slot = Some(self.open_writer(class)?);
        }
        let Some(Writer { segment, writer }) = slot.as_mut() else {
            return Err(StoreError::Poisoned { first: "no open segment".into() });
        };
        let appended = writer.append(record, entries)?;
        self.0.unindexed.appended(*segment, appended.offset, writer.len());
        Ok((*segment, appended.offset, appended.record_len))
    }

    /// Makes everything that was appended durable.
    pub(super) fn sync_segments(&self) -> Result<(), StoreError> {
        self.0.commits.poison.check()?;
        let poison = |error| self.0.commits.poison.set(error);
        for slot in &self.0.writers {
            let lock = || slot.lock().unwrap_or_else(PoisonError::into_inner);
            // Others append meanwhile; who seals a segment syncs it.
            let (segment, begun) = match lock().as_ref() {
                Some(open) => (open.segment, open.writer.begin_sync().map_err(poison)?),
                None => continue,
            };
            let Some(begun) = begun else { continue };
            // Noted before anybody else can end a sync of the same segment.
            let synced = begun.run().map_err(poison);
            match lock().as_mut().filter(|open| open.segment == segment) {
                Some(open) => open.writer.end_sync(synced)?,
                None => drop(synced?),
            }
        }
        Ok(())
    }

    /// Seals a full segment. Its records may not all be in the index yet: the name changes there,
    /// the number stays.
    fn seal(&self, slot: &mut Option<Writer>) -> Result<(), StoreError> {
        let Some(Writer { segment, writer }) = slot.as_mut() else { return Ok(()) };
        let segment = *segment;
        let sealed = writer.seal().map_err(|error| match error {
            SealError::Unchanged(error) => error,
            SealError::Broken(error) => self.0.commits.poison.set(error),
        })?;
        *slot = None;
        self.0.files.renamed().insert(segment, sealed.name.clone());
        let indexed = self.0.unindexed.sealed(segment, sealed.len);
        match self.0.index.rename_segment(segment, &sealed.name, indexed) {
            Ok(()) => drop(self.0.files.renamed().remove(&segment)),
            // The index learns it when the vault is opened again.
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a segment's name");
            }
        }
        Ok(())
    }

    pub(super) fn slot(&self, class: Class) -> &Mutex<Option<Writer>> {
        let [data, metadata] = &self.0.writers;
        if class == Class::Data { data } else { metadata }
    }

    /// The open segment of a class, where there is one: its number, its length, and the bytes of its objects.
    pub(super) fn open_length(&self, class: Class) -> Result<Option<(u32, u64, u64)>, StoreError> {
        let mut slot = self.slot(class).lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = self.resume_writer(class)?;
        }
        let writer = slot.as_ref();
        Ok(writer.map(|Writer { segment, writer }| (*segment, writer.len(), writer.object_bytes())))
    }

    /// Seals the open segment of a class if `is_wanted` says so of its number and of what was appended to it, in bytes of
    /// objects; a segment that an earlier process left open, too.
    pub(super) fn seal_if(
        &self,
        class: Class,
        is_wanted: impl FnOnce(u32, u64) -> bool,
    ) -> Result<(), StoreError> {
        self.0.commits.poison.check()?;
        let mut slot = self.slot(class).lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            *slot = self.resume_writer(class)?;
        }
        let wanted = slot.as_ref().is_some_and(|Writer { segment, writer }| {
            !writer.is_empty() && is_wanted(*segment, writer.object_bytes())
        });
        if wanted { self.seal(&mut slot) } else { Ok(()) }
    }

    /// For tests: seals what is open.
    #[cfg(test)]
    pub(crate) fn seal_now(&self) -> Result<(), StoreError> {
        Class::ALL.into_iter().try_for_each(|class| self.seal_if(class, |_, _| true))
    }

    /// Adds rows for records that are synced.
    pub(super) fn insert_rows(&self, rows: Vec<(ObjectId, Location)>) -> Result<(), StoreError> {
        let mut by_segment: HashMap<u32, Vec<(ObjectId, Location)>> = HashMap::new();
        for row in rows {
            by_segment.entry(row.1.segment).or_default().push(row);
        }
        for (segment, mut rows) in by_segment {
            let offsets: BTreeSet<u64> = rows.iter().map(|(_, at)| at.offset).collect();
            let indexed = self.0.unindexed.without(segment, &offsets);
            self.0.index.insert(segment, indexed, &mut rows, false)?;
            self.0.unindexed.done(segment, &offsets);
        }
        Ok(())
    }

    /// Goes on with a segment that is open, or starts one.
    fn open_writer(&self, class: Class) -> Result<Writer, StoreError> {
        if let Some(resumed) = self.resume_writer(class)? {
            return Ok(resumed);
        }
        let folder = self.0.layout.segments(self.0.id, class);
        let mut uid = [0; 16];
        fs::fresh_id(&folder, &mut uid).map_err(|_| StoreError::Random)?;
        let header = SegmentHeader { class, vault: self.0.id, uid };
        let writer = SegmentWriter::create(&folder, header)?;
        let name = SegmentWriter::open_name(&uid);
        let segment = self.0.index.add_segment(&name, class as u8).inspect_err(|_| {
            // Or a full disk would fill up with empty segments.
            drop(fs::remove_file(&folder.join(&name)));
        })?;
        self.0.files.keep(segment, writer.file().clone());
        Ok(Writer { segment, writer })
    }

    /// Goes on with a segment that an earlier process left open.
    fn resume_writer(&self, class: Class) -> Result<Option<Writer>, StoreError> {
        let folder = self.0.layout.segments(self.0.id, class);
        for row in self.0.index.segments()? {
            if row.class != class as u8 || !row.name.starts_with("open-") {
                continue;
            }
            let path = folder.join(&row.name);
            let file = match fs::open(&path) {
                Err(error) if error.is_not_found() => continue,
                other => other?,
            };
            let Some(header) = read_header(&file, &path)? else { continue };
            // Nothing that is written there would be found again once the index is made anew.
            if (header.vault, header.class) != (self.0.id, class) {
                continue;
            }
            if let Some(writer) = SegmentWriter::resume(&path, header, row.indexed)? {
                self.0.files.keep(row.segment, writer.file().clone());
                return Ok(Some(Writer { segment: row.segment, writer }));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::id::{ObjectKind, VaultId};

    use super::*;
    use crate::index::Index;
    use crate::objects::{ObjectSink, ObjectSource};
    use crate::store::Store;

    fn put(vault: &Vault, bytes: &[u8]) -> ObjectId {
        let intake = vault.intake();
        let id = intake.put(ObjectKind::Chunk, bytes).unwrap();
        intake.flush_all().unwrap();
        id
    }

    #[test]
    fn nothing_is_written_into_a_segment_of_another_vault() {
        let folder = tempfile::tempdir().unwrap();
        let ids = [VaultId::from_bytes([1; 16]), VaultId::from_bytes([2; 16])];
        let store = Store::open(folder.path()).unwrap();
        let layout = store.layout().clone();
        for id in ids {
            put(&store.vault(id).unwrap(), &[id.as_bytes()[0]; 100]);
        }
        drop(store);
        // The files have changed places.
        let files = ids.map(|id| {
            let folder = layout.segments(id, Class::Data);
            folder.join(fs::list_dir(&folder).unwrap().remove(0))
        });
        let [one, other] =
            [&files[0], &files[1]].map(|path| fs::read_if_exists(path, 1 << 20).unwrap().unwrap());
        fs::write_whole(&files[0], &other, 0o600).unwrap();
        fs::write_whole(&files[1], &one, 0o600).unwrap();

        let store = Store::open(folder.path()).unwrap();
        let new = put(&store.vault(ids[0]).unwrap(), b"new");
        drop(store);
        fs::write_whole(&Index::doubt_file(&layout.index(ids[0])), b"", 0o600).unwrap();
        let store = Store::open(folder.path()).unwrap();
        assert_eq!(store.vault(ids[0]).unwrap().read(&new).unwrap().unwrap(), b"new");
    }
}

//! The segment files of a vault: bringing the index up to them at start, and reading records.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use baton_protocol::id::{ObjectId, VaultId};

use super::{Vault, Writer};
use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::index::{Index, Location, SegmentRow};
use crate::layout::{Class, Layout};
use crate::segment::{
    Footer, MAX_RECORD, Record, RecordEntry, SEAL_AT, SegmentHeader, SegmentWriter, decode_record,
    read_footer, read_header, scan,
};

/// Open segment files that are kept.
const MAX_FILES: usize = 256;

/// Raw bytes of records that are kept after reading.
const CACHE_BYTES: usize = 32 * 1024 * 1024;

/// Opens the index of a vault and brings it up to the segments: an index that is damaged, doubted or
/// gone is made anew, rows without bytes are dropped, records without rows are added.
pub(super) fn open_index(layout: &Layout, vault: VaultId) -> Result<Index, StoreError> {
    for class in Class::ALL {
        fs::create_dir_all(&layout.segments(vault, class))?;
    }
    fs::sync_dir(&layout.vault(vault))?;
    let path = layout.index(vault);
    let doubt = Index::doubt_file(&path);
    if !doubt.exists() {
        let opened = Index::open(&path)
            .and_then(|index| reconcile(layout, vault, &index, Footers::Trusted).map(|()| index));
        match opened {
            Err(error @ StoreError::Database { .. }) if error.is_corruption() => {}
            other => return other,
        }
    }
    tracing::warn!(path = %path.display(), "the index is damaged; it is made anew");
    for suffix in ["", "-wal", "-shm"] {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        fs::remove_file(&PathBuf::from(name))?;
    }
    let index = Index::open(&path)?;
    // Every byte is read: what is listed now is there.
    reconcile(layout, vault, &index, Footers::Ignored)?;
    fs::remove_file(&doubt)?;
    Ok(index)
}

/// Whether what a sealed segment says of its records is believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Footers {
    Trusted,
    Ignored,
}

fn reconcile(
    layout: &Layout,
    vault: VaultId,
    index: &Index,
    footers: Footers,
) -> Result<(), StoreError> {
    let mut known: HashMap<String, SegmentRow> =
        index.segments()?.into_iter().map(|row| (row.name.clone(), row)).collect();
    let mut found = Vec::new();
    for class in Class::ALL {
        let folder = layout.segments(vault, class);
        for name in fs::list_dir(&folder)? {
            let Ok(name) = name.into_string() else { continue };
            let path = folder.join(&name);
            let file = fs::open(&path)?;
            let Some(header) = read_header(&file, &path)?
                .filter(|header| header.class == class && header.vault == vault)
            else {
                // A crash may leave an open segment without its header; nothing was in it.
                if file.metadata().context("reading", &path)?.len() > SegmentHeader::LEN as u64 {
                    tracing::warn!(path = %path.display(), "no segment of this vault; left alone");
                }
                continue;
            };
            // A segment that was sealed just before a crash is known under its open name.
            let row = known
                .remove(&name)
                .or_else(|| known.remove(&SegmentWriter::open_name(&header.uid)));
            found.push((name, path, class, row));
        }
    }
    // First: an object that has a row stays where that says.
    for row in known.into_values() {
        lost(index, &row, 0, &layout.vault(vault).join(&row.name))?;
    }
    for (name, path, class, row) in found {
        let file = fs::open(&path)?;
        let len = file.metadata().context("reading", &path)?.len();
        match row {
            Some(row) if row.name == name && row.indexed >= len => {
                if row.indexed > len {
                    lost(index, &row, len, &path)?;
                }
            }
            Some(row) => {
                let end = add_records(index, row.segment, row.indexed, &file, &path)?;
                let sealed = read_footer(&file, &path)?.is_some();
                index.rename_segment(row.segment, &name, if sealed { len } else { end })?;
            }
            None => {
                let segment = index.add_segment(&name, class as u8)?;
                add_segment(index, segment, &file, &path, footers)?;
            }
        }
    }
    Ok(())
}

/// Drops the rows of bytes that are gone.
fn lost(
    index: &Index,
    row: &SegmentRow,
    len: u64,
    path: &std::path::Path,
) -> Result<(), StoreError> {
    let objects = index.forget_from(row.segment, len)?;
    if objects > 0 {
        tracing::error!(path = %path.display(), objects, "a segment has lost its end; its objects are gone");
    }
    Ok(())
}

/// Adds rows for a segment that the index does not know: from its footer, or record by record.
fn add_segment(
    index: &Index,
    segment: u32,
    file: &File,
    path: &std::path::Path,
    footers: Footers,
) -> Result<(), StoreError> {
    let len = file.metadata().context("reading", path)?.len();
    let entries = match read_footer(file, path)? {
        Some(Footer { entries, .. }) if footers == Footers::Trusted => entries,
        footer => {
            let end = add_records(index, segment, SegmentHeader::LEN as u64, file, path)?;
            let all = if footer.is_some() { len } else { end };
            return index.insert(segment, all, &mut [], false);
        }
    };
    let mut rows: Vec<_> = entries
        .into_iter()
        .map(|entry| {
            let at = Location {
                segment,
                offset: entry.offset,
                record_len: entry.record_len,
                inner: entry.inner,
                len: entry.len,
            };
            (entry.id, at)
        })
        .collect();
    index.insert(segment, len, &mut rows, false)
}

/// Adds rows for the records from `start` on whose objects have their hashes. Returns where the
/// last intact record ends.
fn add_records(
    index: &Index,
    segment: u32,
    start: u64,
    file: &File,
    path: &std::path::Path,
) -> Result<u64, StoreError> {
    const BATCH: usize = 50_000;
    let start = start.max(SegmentHeader::LEN as u64);
    let mut rows = Vec::new();
    let end = scan(file, path, start, true, |offset, record_len, record| {
        for entry in &record.entries {
            if ObjectId::of(entry.id.kind, record.bytes(entry)) == entry.id {
                rows.push((entry.id, place(segment, offset, record_len, entry)));
            }
        }
        if rows.len() >= BATCH {
            index.insert(segment, offset + u64::from(record_len), &mut rows, false)?;
            rows.clear();
        }
        Ok(())
    })?;
    index.insert(segment, end, &mut rows, false)?;
    Ok(end)
}

/// Where the records begin, without a gap, that end at `end`.
fn start_of_end(records: &BTreeMap<u64, u64>, mut end: u64) -> u64 {
    for (&offset, &len) in records.iter().rev() {
        if offset + len != end {
            break;
        }
        end = offset;
    }
    end
}

pub(super) fn place(segment: u32, offset: u64, record_len: u32, entry: &RecordEntry) -> Location {
    Location { segment, offset, record_len, inner: entry.inner, len: entry.len }
}

/// Open segment files by number.
#[derive(Debug, Default)]
pub(super) struct Files {
    open: Mutex<HashMap<u32, Arc<File>>>,
}

impl Files {
    /// Reads one record; nothing where its bytes are damaged.
    pub(super) fn read_record(
        &self,
        vault: &Vault,
        at: &Location,
    ) -> Result<Option<Record>, StoreError> {
        let Some((file, path)) = self.file(vault, at.segment)? else { return Ok(None) };
        if at.record_len as usize > MAX_RECORD {
            return Ok(None);
        }
        let mut bytes = vec![0; at.record_len as usize];
        match file.read_exact_at(&mut bytes, at.offset) {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
            other => other.context("reading", &path)?,
        }
        Ok(decode_record(&bytes))
    }

    fn forget(&self, segment: u32) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(&segment);
    }

    fn file(
        &self,
        vault: &Vault,
        segment: u32,
    ) -> Result<Option<(Arc<File>, PathBuf)>, StoreError> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = vault.0.layout.vault(vault.0.id);
        if let Some(file) = open.get(&segment) {
            return Ok(Some((file.clone(), folder)));
        }
        let rows = vault.0.index.segments()?;
        let Some(row) = rows.into_iter().find(|row| row.segment == segment) else {
            return Ok(None);
        };
        let Some(class) = Class::from_number(row.class) else { return Ok(None) };
        let path = vault.0.layout.segments(vault.0.id, class).join(&row.name);
        let file = match fs::open(&path) {
            Ok(file) => Arc::new(file),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if open.len() >= MAX_FILES {
            open.clear();
        }
        open.insert(segment, file.clone());
        Ok(Some((file, path)))
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

    /// The segment ends here now.
    fn cut(&self, segment: u32, end: u64) {
        self.with(segment, |track| {
            track.offsets.retain(|&offset| offset < end);
            track.end = end;
        });
    }

    /// How far the segment is indexed once these records have rows.
    fn without(&self, segment: u32, offsets: &BTreeSet<u64>) -> u64 {
        self.with(segment, |track| {
            let left = track.offsets.iter().find(|&offset| !offsets.contains(offset));
            left.copied().unwrap_or(track.end)
        })
    }

    /// Forgets records: they have rows now, or nobody wants them any more.
    pub(super) fn done(&self, segment: u32, offsets: &BTreeSet<u64>) {
        self.with(segment, |track| track.offsets.retain(|offset| !offsets.contains(offset)));
    }
}

/// Records that were read lately, oldest out first.
#[derive(Debug, Default)]
pub(super) struct RecordCache {
    records: HashMap<(u32, u64), (u64, Arc<Record>)>,
    bytes: usize,
    tick: u64,
}

impl RecordCache {
    pub(super) fn find(&mut self, key: (u32, u64)) -> Option<Arc<Record>> {
        self.tick += 1;
        let (used, record) = self.records.get_mut(&key)?;
        *used = self.tick;
        Some(record.clone())
    }

    fn forget(&mut self, segment: u32) {
        self.records.retain(|&(at, _), _| at != segment);
        self.bytes = self.records.values().map(|(_, record)| record.raw.len()).sum();
    }

    pub(super) fn insert(&mut self, key: (u32, u64), record: Arc<Record>) {
        self.tick += 1;
        self.bytes += record.raw.len();
        if let Some((_, old)) = self.records.insert(key, (self.tick, record)) {
            self.bytes -= old.raw.len();
        }
        if self.bytes > CACHE_BYTES {
            // Half goes at once, so that the sort is paid rarely.
            let mut used: Vec<u64> = self.records.values().map(|(used, _)| *used).collect();
            used.sort_unstable();
            let keep = used.get(used.len() / 2).copied().unwrap_or_default();
            self.records.retain(|_, (used, _)| *used >= keep);
            self.bytes = self.records.values().map(|(_, record)| record.raw.len()).sum();
        }
    }
}

impl Vault {
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
        let [data, metadata] = &self.0.writers;
        let slot = if class == Class::Data { data } else { metadata };
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.as_ref().is_some_and(|open| open.writer.len() >= SEAL_AT) {
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

    /// Takes records that have no rows, and never will, off the disk where that can be: the end of an
    /// open segment, and sealed ones in which there is nothing else.
    ///
    /// A place that is given back is forgotten before somebody else can have it: what is appended there
    /// next has no rows yet either.
    pub(super) fn give_back(&self, records: &[(ObjectId, Location)]) {
        let mut by_segment: HashMap<u32, BTreeMap<u64, u64>> = HashMap::new();
        for (_, at) in records {
            let own = by_segment.entry(at.segment).or_default();
            own.insert(at.offset, u64::from(at.record_len));
        }
        for slot in &self.0.writers {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(Writer { segment, writer }) = slot.as_mut() else { continue };
            let Some(own) = by_segment.get_mut(segment) else { continue };
            let end = start_of_end(own, writer.len());
            if end == writer.len() {
                continue;
            }
            match writer.cut(end) {
                Ok(()) => {
                    self.forget_records(*segment);
                    self.0.unindexed.cut(*segment, end);
                    own.split_off(&end);
                }
                Err(error) => tracing::warn!(%error, "what was given up stays on the disk"),
            }
        }
        for (segment, own) in by_segment {
            match self.remove_dead(segment, &own) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "what was given up stays on the disk"),
            }
            self.0.unindexed.done(segment, &own.into_keys().collect());
        }
    }

    /// Removes a sealed segment that holds these records and nothing else.
    fn remove_dead(&self, segment: u32, own: &BTreeMap<u64, u64>) -> Result<bool, StoreError> {
        let rows = self.0.index.segments()?;
        let Some(row) = rows.into_iter().find(|row| row.segment == segment) else {
            return Ok(false);
        };
        let Some(class) = Class::from_number(row.class) else { return Ok(false) };
        let path = self.0.layout.segments(self.0.id, class).join(&row.name);
        let Some(footer) = read_footer(&fs::open(&path)?, &path)? else { return Ok(false) };
        if start_of_end(own, footer.records_end) != SegmentHeader::LEN as u64 {
            return Ok(false);
        }
        self.forget_records(segment);
        self.0.unindexed.cut(segment, 0);
        // The row goes before the bytes.
        self.0.index.forget_from(segment, 0)?;
        fs::remove_file(&path)?;
        Ok(true)
    }

    /// What was read of a segment that changed: its places, and its number, are given to others.
    fn forget_records(&self, segment: u32) {
        self.0.files.forget(segment);
        let mut cache = self.0.cache.lock().unwrap_or_else(PoisonError::into_inner);
        cache.forget(segment);
    }

    /// Makes everything that was appended durable.
    pub(super) fn sync_segments(&self) -> Result<(), StoreError> {
        self.0.commits.poison.check()?;
        for slot in &self.0.writers {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(open) = slot.as_mut() {
                open.writer.sync().map_err(|error| self.0.commits.poison.set(error))?;
            }
        }
        Ok(())
    }

    /// Seals a full segment. Its records may not all be in the index yet: the name changes there,
    /// the number stays.
    fn seal(&self, slot: &mut Option<Writer>) -> Result<(), StoreError> {
        let Some(Writer { segment, mut writer }) = slot.take() else { return Ok(()) };
        // Whoever appended to it trusts `sync_segments`, which does not see it any more.
        writer.sync().map_err(|error| self.0.commits.poison.set(error))?;
        let sealed = writer.seal()?;
        let indexed = self.0.unindexed.sealed(segment, sealed.len);
        self.0.index.rename_segment(segment, &sealed.name, indexed)
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
        let folder = self.0.layout.segments(self.0.id, class);
        for row in self.0.index.segments()? {
            if row.class != class as u8 || !row.name.starts_with("open-") {
                continue;
            }
            let path = folder.join(&row.name);
            let file = fs::open(&path)?;
            let Some(header) = read_header(&file, &path)? else { continue };
            if let Some(writer) = SegmentWriter::resume(&path, header, row.indexed)? {
                return Ok(Writer { segment: row.segment, writer });
            }
        }
        let mut uid = [0; 16];
        getrandom::fill(&mut uid).map_err(|_| StoreError::Random)?;
        let header = SegmentHeader { class, vault: self.0.id, uid };
        let writer = SegmentWriter::create(&folder, header)?;
        let segment = self.0.index.add_segment(&SegmentWriter::open_name(&uid), class as u8)?;
        Ok(Writer { segment, writer })
    }
}

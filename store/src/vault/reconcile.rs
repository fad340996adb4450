//! Bringing the index of a vault up to its segments, when the vault is opened.
//!
//! **Invariant:** a row is added only after its bytes, and the name of their file, are durable: a process
//! that was killed may have left both in memory only.

use std::collections::HashMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use baton_protocol::id::{ObjectId, VaultId};

use super::pending::{IN_A_SEGMENT, Pending, PendingObject};
use super::segments::place;
use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::index::{Index, Location, SegmentRow};
use crate::layout::{Class, Layout};
use crate::noted::note_one;
use crate::segment::{Footer, SegmentHeader, SegmentWriter, read_footer, read_header, scan};

/// Bytes of records without rows that are taken into memory, of a file.
const MOST_UNINDEXED: u64 = 32 << 20;

/// Opens the index of a vault and brings it up to the segments: an index that is damaged, doubted or
/// gone is made anew, rows without bytes are dropped, records without rows are added.
///
/// Also returns whether all that was ever indexed is still there, as far as one can see: if not,
/// proofs that something is whole are worth nothing.
pub(super) fn open_index(layout: &Layout, vault: VaultId) -> Result<(Index, bool), StoreError> {
    for class in Class::ALL {
        fs::create_dir_all(&layout.segments(vault, class))?;
        fs::sync_dir(&layout.segments(vault, class))?;
    }
    fs::sync_dir(&layout.vault(vault))?;
    fs::sync_dir(&layout.vaults())?;
    let path = layout.index(vault);
    let doubt = Index::doubt_file(&path);
    if !doubt.exists() {
        let is_new = !path.exists();
        let opened = Index::open(&path).and_then(|index| {
            let whole = reconcile(layout, vault, &index, Footers::Trusted)?;
            Ok((index, whole && !is_new))
        });
        match opened {
            Err(error @ StoreError::Database { .. }) if error.is_corruption() => {}
            other => return other,
        }
    }
    tracing::warn!(path = %path.display(), "the index is damaged; it is made anew");
    if !doubt.exists() {
        // Who doubted it has noted why.
        let what = format!("index of vault {vault}");
        note_one(layout, what, "it was damaged, and was made anew from what is there");
    }
    let of = |suffix: &str| {
        let mut name = path.clone().into_os_string();
        name.push(suffix);
        PathBuf::from(name)
    };
    // The log first: alone it belongs to no file.
    for suffix in ["-wal", ""] {
        if of(suffix).exists() {
            layout.set_aside(&of(suffix), &format!("index-{vault}"))?;
        }
    }
    // Nothing but locks is in it.
    fs::remove_file(&of("-shm"))?;
    let index = Index::open(&path)?;
    // Every byte is read: what is listed now is there.
    reconcile(layout, vault, &index, Footers::Ignored)?;
    fs::remove_file(&doubt)?;
    Ok((index, false))
}

/// Opens the index of a vault that is only read. Records without rows are taken into memory, as those are that only the journal
/// has; where the index would have to be made anew, or they are too much, the vault cannot be read without writing to it.
pub(super) fn open_as_it_is(
    layout: &Layout,
    vault: VaultId,
    pending: &mut Pending,
) -> Result<(Index, bool), StoreError> {
    let path = layout.index(vault);
    let refuse = |path: &Path| layout.check_writable_at(path);
    if !path.exists() || Index::doubt_file(&path).exists() {
        refuse(&path)?;
    }
    let index = Index::open_read_only(&path, refuse)?;
    let known: HashMap<String, SegmentRow> =
        index.segments()?.into_iter().map(|row| (row.name.clone(), row)).collect();
    for class in Class::ALL {
        let folder = layout.segments(vault, class);
        for name in fs::list_dir(&folder)? {
            let path = folder.join(&name);
            let file = fs::open(&path)?;
            let Some(header) = read_header(&file, &path)? else { continue };
            let row = name.to_str().and_then(|name| known.get(name));
            if row.is_none() && known.contains_key(&SegmentWriter::open_name(&header.uid)) {
                // Rows that name a file by the name that it had: nothing would find it.
                refuse(&path)?;
            }
            let len = file.metadata().context("reading", &path)?.len();
            let indexed = row.map_or(SegmentHeader::LEN as u64, |row| row.indexed);
            if indexed >= len || read_footer(&file, &path)?.is_some() && row.is_some() {
                continue;
            }
            if len - indexed > MOST_UNINDEXED {
                refuse(&path)?;
            }
            scan(&file, &path, indexed, true, |_, _, record| {
                for entry in &record.entries {
                    let bytes = record.bytes(entry);
                    if ObjectId::of(entry.id.kind, bytes) == entry.id {
                        let closed = !entry.id.kind.is_metadata();
                        let bytes = bytes.into();
                        let object = PendingObject { bytes, journal: IN_A_SEGMENT, closed };
                        // Of what the journal has more is known.
                        if pending.get(&entry.id).is_none() {
                            pending.insert(entry.id, object);
                        }
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok((index, true))
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
) -> Result<bool, StoreError> {
    let mut whole = true;
    let mut known: HashMap<String, SegmentRow> =
        index.segments()?.into_iter().map(|row| (row.name.clone(), row)).collect();
    let mut found = Vec::new();
    for class in Class::ALL {
        let folder = layout.segments(vault, class);
        for name in fs::list_dir(&folder)? {
            let Ok(name) = name.into_string() else { continue };
            let path = folder.join(&name);
            let file = fs::open(&path)?;
            let header = read_header(&file, &path)?;
            let Some(header) =
                header.filter(|header| header.class == class && header.vault == vault)
            else {
                let len = file.metadata().context("reading", &path)?.len();
                let is_known = known.contains_key(&name);
                if !is_known && name.starts_with("open-") && len <= SegmentHeader::LEN as u64 {
                    // A crash left a segment without its header; nothing was in it.
                    fs::remove_file(&path)?;
                } else {
                    tracing::warn!(path = %path.display(), "no segment of this vault; left alone");
                    note_one(layout, path.display(), "this is no segment of its vault");
                    known.remove(&name);
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
        whole &= !lost(layout, index, &row, 0, &layout.vault(vault).join(&row.name))?;
    }
    for (name, path, class, row) in found {
        let file = fs::open(&path)?;
        let len = file.metadata().context("reading", &path)?.len();
        match row {
            Some(row) if row.indexed > len => {
                whole &= !lost(layout, index, &row, len, &path)?;
                index.rename_segment(row.segment, &name, len)?;
            }
            Some(row) if row.name == name && row.indexed == len => {}
            Some(row) => {
                file.sync_all().context("syncing", &path)?;
                let end = add_records(index, row.segment, row.indexed, &file, &path)?;
                let sealed = read_footer(&file, &path)?.is_some();
                index.rename_segment(row.segment, &name, if sealed { len } else { end })?;
            }
            None => {
                file.sync_all().context("syncing", &path)?;
                let segment = index.add_segment(&name, class as u8)?;
                add_segment(index, segment, &file, &path, footers)?;
            }
        }
    }
    Ok(whole)
}

/// Drops the rows of bytes that are gone; returns whether there were any.
fn lost(
    layout: &Layout,
    index: &Index,
    row: &SegmentRow,
    len: u64,
    path: &Path,
) -> Result<bool, StoreError> {
    let objects = index.forget_from(row.segment, len)?;
    if objects > 0 {
        tracing::error!(path = %path.display(), objects, "a segment has lost its end; its objects are gone");
        let detail = format!("from byte {len} on it is gone, and {objects} objects with that");
        note_one(layout, path.display(), detail);
    }
    Ok(objects > 0)
}

/// Adds rows for a segment that the index does not know: from its footer, or record by record.
fn add_segment(
    index: &Index,
    segment: u32,
    file: &File,
    path: &Path,
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
    path: &Path,
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

//! Bytes that nobody finds any more: segments of which much is dead are copied without it, and removed.
//!
//! Records are copied as they are where all of them is live; else their live objects make a new one. What is copied was hashed.
//!
//! **Invariant:** a file is removed only after no row names it, durably, and after all who may have found a place in it have ended.
//!
//! **Invariant:** of a segment in which an object is not found that a row places there, nothing is removed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use baton_protocol::id::ObjectId;

use super::{AT_ONCE, Collected};
use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::index::{Live, Location, Moved, SegmentRow};
use crate::layout::Class;
use crate::objects::ObjectSource;
use crate::segment::{Record, RecordBuilder, SegmentHeader, read_footer, scan};
use crate::vault::Vault;
use crate::vault::segments::place;

use super::marks::Marks;

/// How much of a segment must be dead before it is rewritten, in percent: at a quarter a store is at most a third larger
/// than what is in it, and what was copied three times as much as what that freed.
const LEAST_DEAD: u64 = 25;

/// The same for this vault: anything where something was forgotten.
pub(super) fn least_dead(vault: &Vault) -> u64 {
    if vault.is_to_be_purged() { 0 } else { LEAST_DEAD }
}

/// A sealed segment.
#[derive(Debug)]
struct Sealed {
    segment: u32,
    class: Class,
    name: String,
    len: u64,
    live: Live,
    /// Bytes of all objects that were ever in it.
    total: u64,
}

impl Sealed {
    fn is_dead(&self) -> bool {
        self.live.objects == 0
    }

    /// Whether more than so many percent of it are dead.
    fn is_mostly_dead(&self, least: u64) -> bool {
        is_mostly_dead(self.live.bytes, self.total, least)
    }
}

fn is_mostly_dead(live: u64, total: u64, least: u64) -> bool {
    let dead = total.saturating_sub(live);
    dead > 0 && dead.saturating_mul(100) >= total.saturating_mul(least)
}

/// What is rewritten, and which files go.
#[derive(Debug)]
pub(super) struct Rewriting {
    /// The deadest last.
    open: Vec<Sealed>,
    /// Files that no row names any more, and how many bytes the copies of what was in them take.
    going: Vec<(Sealed, u64)>,
    /// Those who began before this epoch may still read them.
    epoch: Option<u64>,
    is_purge: bool,
    /// Whether all that was to be rewritten was.
    is_complete: bool,
}

impl Rewriting {
    /// Finds what is to be rewritten: at least so many percent dead.
    pub(super) fn begin(vault: &Vault, least_dead: u64) -> Result<Self, StoreError> {
        let live = live(vault)?;
        for class in Class::ALL {
            vault.seal_if(class, |segment, total| {
                let live = live.get(&segment).copied().unwrap_or_default();
                is_mostly_dead(live.bytes, total, least_dead)
            })?;
        }
        let (mut open, is_complete) = sealed(vault, &live)?;
        open.retain(|sealed| sealed.is_dead() || sealed.is_mostly_dead(least_dead));
        open.sort_by_key(|sealed| sealed.live.bytes * 100 / sealed.total.max(1));
        open.reverse();
        Ok(Self { open, going: Vec::new(), epoch: None, is_purge: least_dead == 0, is_complete })
    }

    /// The epoch before which everybody has to have ended.
    pub(super) const fn waits_for(&self) -> Option<u64> {
        self.epoch
    }

    /// One step; whether it was the last one.
    pub(super) fn go(
        &mut self,
        vault: &Vault,
        collected: &mut Collected,
    ) -> Result<bool, StoreError> {
        if self.epoch.take().is_some() {
            for (gone, copied) in std::mem::take(&mut self.going) {
                remove(vault, &gone)?;
                collected.freed_bytes += gone.len.saturating_sub(copied);
            }
            return Ok(false);
        }
        let Some(next) = self.open.pop() else {
            if self.is_purge && self.is_complete {
                fs::remove_file(&vault.purge_file())?;
            }
            return Ok(true);
        };
        let copied = if next.is_dead() { Some(0) } else { copy(vault, &next)? };
        let Some(copied) = copied else {
            self.is_complete = false;
            collected.doubted.push(next.name);
            return Ok(false);
        };
        self.going.push((next, copied));
        self.epoch = Some(vault.0.commits.leases.advance());
        Ok(false)
    }
}

/// What a collection would free, about, where only what is marked stays.
pub(super) fn survey(
    vault: &Vault,
    marks: &Marks,
    collected: &mut Collected,
) -> Result<(), StoreError> {
    let mut live: HashMap<u32, Live> = HashMap::new();
    vault.index().for_each(|id, at| {
        if marks.has(&id) || !marks.is_listed(&id) {
            let live = live.entry(at.segment).or_default();
            live.objects += 1;
            live.bytes += u64::from(at.len);
        } else {
            collected.objects += 1;
        }
    })?;
    let least = least_dead(vault);
    let mut all = sealed(vault, &live)?.0;
    for class in Class::ALL {
        if let Some((segment, len, total)) = vault.open_length(class)? {
            let live = live.get(&segment).copied().unwrap_or_default();
            all.push(Sealed { segment, class, name: String::new(), len, live, total });
        }
    }
    for sealed in all {
        if sealed.is_dead() {
            collected.freed_bytes += sealed.len;
        } else if sealed.is_mostly_dead(least) {
            let dead = u128::from(sealed.total - sealed.live.bytes) * u128::from(sealed.len);
            let dead = dead / u128::from(sealed.total.max(1));
            collected.freed_bytes += u64::try_from(dead).unwrap_or(u64::MAX);
        }
    }
    Ok(())
}

fn live(vault: &Vault) -> Result<HashMap<u32, Live>, StoreError> {
    Ok(vault.index().live_by_segment()?.into_iter().collect())
}

/// The sealed segments to which no rows are added any more; and whether there are no others that hold anything dead.
fn sealed(vault: &Vault, live: &HashMap<u32, Live>) -> Result<(Vec<Sealed>, bool), StoreError> {
    let (mut found, mut are_all) = (Vec::new(), true);
    for row in vault.index().segments()? {
        let Some(class) = Class::from_number(row.class) else { continue };
        // Whoever appended before it was sealed, and has no rows yet, has them before the next collection.
        let is_open = row.name.starts_with("open-");
        if is_open || vault.0.unindexed.has_any(row.segment) {
            are_all &= is_open;
            continue;
        }
        let path = vault.0.layout.segments(vault.0.id, class).join(&row.name);
        let file = match fs::open(&path) {
            Err(error) if error.is_not_found() => continue,
            file => file?,
        };
        let len = file.metadata().context("reading", &path)?.len();
        // One without a footer is damaged: it stays for who repairs it.
        let Some(footer) = read_footer(&file, &path)? else {
            are_all = false;
            continue;
        };
        let total = footer.entries.iter().map(|entry| u64::from(entry.len)).sum();
        let live = live.get(&row.segment).copied().unwrap_or_default();
        found.push(Sealed { segment: row.segment, class, name: row.name, len, live, total });
    }
    Ok((found, are_all))
}

fn path_of(vault: &Vault, sealed: &Sealed) -> PathBuf {
    vault.0.layout.segments(vault.0.id, sealed.class).join(&sealed.name)
}

impl Vault {
    /// Copies what of a damaged segment has rows to another one, and sets its file aside; says where it is now. Nothing where
    /// somebody writes to it, or a collection is under way: then it is for the next time.
    ///
    /// Rows that name damaged bytes in it are gone before. A crash at any moment leaves every object where its row says.
    pub(crate) fn salvage(&self, row: &SegmentRow) -> Result<Option<PathBuf>, StoreError> {
        let Some(class) = Class::from_number(row.class) else { return Ok(None) };
        // No collection copies, or removes, the same segment.
        let Some(_alone) = self.collect()? else { return Ok(None) };
        let Some(name) = self.stop_writing(row, class)? else { return Ok(None) };
        let segment = row.segment;
        let live = live(self)?.get(&segment).copied().unwrap_or_default();
        let sealed = Sealed { segment, class, name, len: row.indexed, live, total: live.bytes };
        if copy(self, &sealed)?.is_none() {
            return Ok(None);
        }
        self.0.files.forget(segment);
        let aside = self.0.layout.set_aside(&path_of(self, &sealed), class.folder())?;
        self.index().remove_segment(segment)?;
        Ok(Some(aside))
    }

    /// Lists a file that the index does not know, without any rows. Nothing where it has come to know it.
    pub(crate) fn adopt(
        &self,
        class: Class,
        path: &Path,
    ) -> Result<Option<SegmentRow>, StoreError> {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { return Ok(None) };
        // Who seals a segment has this until the index has its name.
        let _none_is_sealed = self.slot(class).lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = self.index().segments()?.iter().any(|row| row.name == name)
            || self.0.files.was_renamed_to(name);
        let file = match fs::open(path) {
            Err(error) if error.is_not_found() => return Ok(None),
            file => file?,
        };
        if is_known {
            return Ok(None);
        }
        let len = file.metadata().context("reading", path)?.len();
        let segment = self.index().add_segment(name, class as u8)?;
        self.index().rename_segment(segment, name, len)?;
        self.index().segment(segment)
    }

    /// Takes care that nothing more is appended to a segment; returns the name that its file has then. Nothing where records
    /// that were appended to it have no rows yet.
    fn stop_writing(&self, row: &SegmentRow, class: Class) -> Result<Option<String>, StoreError> {
        let mut slot = self.slot(class).lock().unwrap_or_else(PoisonError::into_inner);
        if self.0.unindexed.has_any(row.segment) {
            return Ok(None);
        }
        if slot.as_ref().is_some_and(|open| open.segment == row.segment) {
            *slot = None;
        }
        let Some(uid) = row.name.strip_prefix("open-") else { return Ok(Some(row.name.clone())) };
        // By another name nobody goes on with it.
        let name = format!("torn-{uid}");
        let folder = self.0.layout.segments(self.0.id, class);
        fs::rename(&folder.join(&row.name), &folder.join(&name))?;
        self.index().rename_segment(row.segment, &name, row.indexed)?;
        Ok(Some(name))
    }
}

/// Copies what of a segment has rows, durably, and moves these; returns how many bytes the copies have. Nothing where not
/// all of that is there.
fn copy(vault: &Vault, sealed: &Sealed) -> Result<Option<u64>, StoreError> {
    let path = path_of(vault, sealed);
    let file = fs::open(&path)?;
    let mut copying =
        Copying { vault, sealed, moved: Vec::new(), offsets: BTreeMap::new(), bytes: 0 };
    let copied = copying.records(&file, &path).and_then(|()| {
        vault.sync_segments()?;
        // Rows that went meanwhile are no loss, and none are added.
        let copied = copying.moved.len() as u64;
        Ok(copied >= sealed.live.objects || copied >= live_of(vault, sealed)?)
    });
    if !matches!(copied, Ok(true)) {
        copying.let_go();
        return copied.map(|_| None);
    }
    let indexed: Vec<_> = copying
        .offsets
        .iter()
        .map(|(&segment, offsets)| (segment, vault.0.unindexed.without(segment, offsets)))
        .collect();
    for moved in copying.moved.chunks(AT_ONCE) {
        vault.index().relocate(moved, &indexed)?;
    }
    copying.let_go();
    vault.index().sync()?;
    Ok(Some(copying.bytes))
}

fn live_of(vault: &Vault, sealed: &Sealed) -> Result<u64, StoreError> {
    Ok(live(vault)?.get(&sealed.segment).map_or(0, |live| live.objects))
}

/// Removes the file of a segment, and then what the index says of it.
fn remove(vault: &Vault, sealed: &Sealed) -> Result<(), StoreError> {
    let path = path_of(vault, sealed);
    vault.0.files.forget(sealed.segment);
    fs::remove_file(&path)?;
    fs::sync_dir(path.parent().unwrap_or(Path::new(".")))?;
    vault.index().remove_segment(sealed.segment)
}

struct Copying<'a> {
    vault: &'a Vault,
    sealed: &'a Sealed,
    moved: Vec<Moved>,
    /// Of the copies, by segment.
    offsets: BTreeMap<u32, BTreeSet<u64>>,
    bytes: u64,
}

impl Copying<'_> {
    fn records(&mut self, file: &File, path: &Path) -> Result<(), StoreError> {
        let start = SegmentHeader::LEN as u64;
        let mut packed = Vec::new();
        scan(file, path, start, true, |offset, record_len, record| {
            let at = self.live(offset, record_len, &record)?;
            if at.is_empty() {
                return Ok(());
            }
            if at.len() == record.entries.len() {
                use std::os::unix::fs::FileExt;
                packed.resize(record_len as usize, 0);
                file.read_exact_at(&mut packed, offset).context("reading", path)?;
                return self.append(&packed, &record, &at);
            }
            let mut builder = RecordBuilder::default();
            for (id, at) in &at {
                let start = at.inner as usize;
                builder
                    .push(*id, record.raw.get(start..start + at.len as usize).unwrap_or_default());
            }
            let packed = builder.encode(self.sealed.class).map_err(StoreError::Compress)?;
            let entries = builder.entries().to_vec();
            self.append(&packed, &Record { entries, raw: Vec::new() }, &at)
        })
        .map(drop)
    }

    /// The objects of a record whose rows name it, and whose bytes are what they have to be.
    fn live(
        &self,
        offset: u64,
        record_len: u32,
        record: &Record,
    ) -> Result<Vec<(ObjectId, Location)>, StoreError> {
        let ids: Vec<_> = record.entries.iter().map(|entry| entry.id).collect();
        let found = self.vault.locations(&ids)?;
        let here = |entry| place(self.sealed.segment, offset, record_len, entry);
        let entries = record.entries.iter().zip(found);
        let live = entries.filter(|(entry, found)| {
            *found == Some(here(*entry))
                && ObjectId::of(entry.id.kind, record.bytes(entry)) == entry.id
        });
        Ok(live.map(|(entry, _)| (entry.id, here(entry))).collect())
    }

    /// Appends a record that has exactly these objects, in this order.
    fn append(
        &mut self,
        packed: &[u8],
        record: &Record,
        live: &[(ObjectId, Location)],
    ) -> Result<(), StoreError> {
        let class = self.sealed.class;
        let (segment, offset, len) = self.vault.append_record(class, packed, &record.entries)?;
        self.offsets.entry(segment).or_default().insert(offset);
        self.bytes += u64::from(len);
        self.moved.extend(live.iter().zip(&record.entries).map(|(&(id, from), entry)| {
            let to = place(segment, offset, len, entry);
            Moved { id, from, to }
        }));
        Ok(())
    }

    /// The copies have rows now, or are dead bytes.
    fn let_go(&self) {
        for (segment, offsets) in &self.offsets {
            self.vault.0.unindexed.done(*segment, offsets);
        }
    }
}

//! Reading the journal at start.
//!
//! An entry is believed if both checksums match, it decodes, and every object in it has its hash.
//! A last entry that is cut short, or of which a sector was never written, is the torn end of an
//! unacknowledged write; zeros after the last entry are room for the next. Where an entry is all there and
//! bad the file is damaged: those after it are believed too (each stands for itself), the damage is
//! reported, and the file is kept aside. So is one of which something is bad or gone before its watermark, or
//! that ends torn though another file follows: that was synced.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::entry::{Entry, HEAD, MAGIC, decode_head};
use super::watermark::{self, Found, Mark};
use crate::error::StoreError;
use crate::fs::{self, Context};
use crate::layout::Layout;
use crate::segment::{Record, decode_record};

/// What a disk writes whole or not at all.
const SECTOR: u64 = 512;

/// An entry with its objects taken apart.
#[derive(Debug)]
pub struct Replayed {
    /// The entry.
    pub entry: Entry,
    /// The objects of its records.
    pub records: Vec<Record>,
    /// The journal file it stands in.
    pub number: u64,
}

/// What was found.
#[derive(Debug, Default)]
pub struct ReplayEnd {
    /// The newest file, and how long its intact part is; 0 where a file has to be started.
    pub number: u64,
    /// See `number`.
    pub len: u64,
    /// Files with a bad entry that is no torn end, and where the damage begins.
    pub damaged: Vec<(PathBuf, u64)>,
    /// Bytes of unfinished writes that were ignored.
    pub torn: u64,
    /// Whether something in the middle of the newest file is no entry.
    pub(super) has_holes: bool,
    /// What was read of the watermark.
    pub(super) watermark: Found,
}

impl ReplayEnd {
    /// Whether there is a watermark that cannot be read.
    pub const fn is_watermark_damaged(&self) -> bool {
        self.watermark.is_damaged
    }
}

/// What is known of a file before it is read.
#[derive(Clone, Copy)]
struct Known {
    number: u64,
    /// Before this everything was synced.
    synced: u64,
    /// It goes on at least up to here.
    end: u64,
    /// Whether its last entry may be one that nobody was told of.
    may_be_torn: bool,
}

/// The numbers of the journal files, ascending. Names that are no numbers are not ours.
pub(super) fn numbers(layout: &Layout) -> Result<Vec<u64>, StoreError> {
    let names = fs::list_dir(&layout.journal())?;
    let number = |name: std::ffi::OsString| {
        let name = name.into_string().ok().filter(|name| name.len() == 16)?;
        u64::from_str_radix(&name, 16).ok()
    };
    Ok(names.into_iter().filter_map(number).collect())
}

/// Hands every believable entry to `visit`, in order.
pub fn replay(
    layout: &Layout,
    mut visit: impl FnMut(Replayed) -> Result<(), StoreError>,
) -> Result<ReplayEnd, StoreError> {
    let watermark = watermark::read(layout)?;
    let mut end = ReplayEnd { number: 1, watermark, ..ReplayEnd::default() };
    let mut begins = None;
    let all = numbers(layout)?;
    let newest = all.last().copied().unwrap_or_default();
    for &number in &all {
        let path = layout.journal_file(number);
        let file = fs::open(&path)?;
        let len = file.metadata().context("reading", &path)?.len();
        let mut is_first = true;
        let mut visit = |replayed: Replayed| {
            if std::mem::take(&mut is_first) && begins.is_none() {
                begins = Some(matches!(replayed.entry, Entry::Checkpoint(_)));
            }
            visit(replayed)
        };
        let synced = watermark.mark.filter(|mark| mark.number == number).map_or(0, |mark| mark.end);
        let known = Known { number, synced, end: synced, may_be_torn: number == newest };
        end.has_holes = false;
        let intact = replay_file((&file, &path, len), known, &mut end, &mut visit)?;
        // A later file may be torn as a whole; what is before it says where the refs are.
        begins.get_or_insert(false);
        end.number = number;
        end.len = intact;
    }
    if let Some(Mark { number, .. }) = watermark.mark.filter(|mark| mark.number > newest) {
        let path = layout.journal_file(number);
        tracing::error!(path = %path.display(), "a journal file is gone");
        end.damaged.push((path, 0));
    }
    // The first checkpoint is synced before there is a vault, and each before the files that came before it go: without one
    // nothing says where the refs were.
    if begins != Some(true) && !fs::list_dir(&layout.vaults())?.is_empty() {
        let first = all.first().copied().unwrap_or(end.number);
        let path = layout.journal_file(first);
        tracing::error!(path = %path.display(), "the journal does not say where the refs are");
        if end.damaged.iter().all(|(damaged, _)| *damaged != path) {
            end.damaged.push((path, 0));
        }
    }
    Ok(end)
}

/// Hands every believable entry to `visit` while the journal is in use: a file that goes meanwhile was
/// folded, and what follows the `end` of the newest file, as [`Journal::end`](super::Journal::end) says it,
/// is being written. Returns the bytes read, and where there is damage.
pub fn examine(
    layout: &Layout,
    (newest, end_of_newest): (u64, u64),
    mut visit: impl FnMut(Replayed) -> Result<(), StoreError>,
) -> Result<(u64, Vec<(PathBuf, u64)>), StoreError> {
    let mut read = 0;
    let mut damaged = Vec::new();
    for number in numbers(layout)?.into_iter().filter(|&number| number <= newest) {
        let path = layout.journal_file(number);
        let file = match fs::open(&path) {
            Err(error) if error.is_not_found() => continue,
            other => other?,
        };
        let mut end = ReplayEnd::default();
        let len = file.metadata().context("reading", &path)?.len();
        // What a power cut has left in its middle may still be there.
        let known = Known { number, synced: 0, end: 0, may_be_torn: false };
        let (len, known) = if number == newest {
            (len.min(end_of_newest), Known { end: end_of_newest, ..known })
        } else {
            (len, known)
        };
        read += replay_file((&file, &path, len), known, &mut end, &mut visit)?;
        damaged.append(&mut end.damaged);
    }
    Ok((read, damaged))
}

fn replay_file(
    (file, path, len): (&File, &Path, u64),
    known: Known,
    end: &mut ReplayEnd,
    visit: &mut impl FnMut(Replayed) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let mut at = 0;
    let mut intact = 0;
    let mut bad: Option<u64> = None;
    while at < len {
        if let Some((replayed, next)) = read_entry(file, path, known.number, at, len)? {
            if let Some(from) = bad.take() {
                // Of entries that were written together any may have reached the disk.
                end.has_holes = true;
                if from >= known.synced && is_cut_off((file, path, len), from, at)? {
                    end.torn += at - from;
                } else {
                    tracing::warn!(path = %path.display(), from, to = at, "damaged journal entries skipped");
                    end.damaged.push((path.to_owned(), from));
                }
            }
            visit(replayed)?;
            at = next;
            intact = next;
        } else {
            bad.get_or_insert(at);
            at = next_magic(file, path, at + 1, len)?;
        }
    }
    let data_end = match bad {
        Some(from) => end_of_data(file, path, from, len)?,
        None => None,
    };
    let from = bad.unwrap_or(intact);
    match data_end {
        _ if intact < known.end => {
            tracing::warn!(path = %path.display(), from, to = known.end, "synced journal entries are gone");
            end.damaged.push((path.to_owned(), from));
        }
        // Room that was made ahead, and nothing in it.
        None => {}
        Some(last) if known.may_be_torn && is_cut_off((file, path, len), from, last)? => {
            end.torn += last - intact;
        }
        // What is all there and not intact was acknowledged, as far as one can know.
        Some(_) => {
            tracing::warn!(path = %path.display(), from, "the last journal entry is damaged");
            end.damaged.push((path.to_owned(), from));
        }
    }
    Ok(intact)
}

/// Where the last byte after `at` ends that is not zero, if there is one.
fn end_of_data(file: &File, path: &Path, mut at: u64, len: u64) -> Result<Option<u64>, StoreError> {
    let mut window = vec![0; 64 * 1024];
    let mut end = None;
    while at < len {
        let want = (len - at).min(window.len() as u64) as usize;
        let window = window.get_mut(..want).unwrap_or_default();
        file.read_exact_at(window, at).context("reading", path)?;
        if let Some(last) = window.iter().rposition(|&byte| byte != 0) {
            end = Some(at + last as u64 + 1);
        }
        at += want as u64;
    }
    Ok(end)
}

/// Whether the entry at `at`, in a file whose data ends at `data_end`, is one that a power cut left
/// unfinished: it ends too early, or a sector of it is still the zeros of the room that it was written to.
fn is_cut_off(
    (file, path, len): (&File, &Path, u64),
    at: u64,
    data_end: u64,
) -> Result<bool, StoreError> {
    let mut head = [0; HEAD];
    if data_end - at < HEAD as u64 {
        return Ok(true);
    }
    file.read_exact_at(&mut head, at).context("reading", path)?;
    let end = decode_head(&head).map(|(_, body_len)| at + (HEAD + body_len + 4) as u64);
    // The last of its bytes may be zeros that were meant.
    if end.is_some_and(|end| end > len || end > data_end + 3) {
        return Ok(true);
    }
    // Where it says its end, up to there: the last sector may hold nothing but those.
    let end = end.unwrap_or(data_end);
    let (mut sector, mut start) = ([0; SECTOR as usize], at);
    while start < end {
        let next = (start / SECTOR + 1) * SECTOR;
        let part = sector.get_mut(..(next.min(end) - start) as usize).unwrap_or_default();
        file.read_exact_at(part, start).context("reading", path)?;
        if part.iter().all(|&byte| byte == 0) {
            return Ok(true);
        }
        start = next;
    }
    Ok(false)
}

fn read_entry(
    file: &File,
    path: &Path,
    number: u64,
    at: u64,
    len: u64,
) -> Result<Option<(Replayed, u64)>, StoreError> {
    let mut head = [0; HEAD];
    if len - at < HEAD as u64 {
        return Ok(None);
    }
    file.read_exact_at(&mut head, at).context("reading", path)?;
    let Some((kind, body_len)) = decode_head(&head) else { return Ok(None) };
    let next = at + (HEAD + body_len + 4) as u64;
    if next > len {
        return Ok(None);
    }
    let mut body = vec![0; body_len + 4];
    file.read_exact_at(&mut body, at + HEAD as u64).context("reading", path)?;
    let Some((body, sum)) = body.split_last_chunk() else { return Ok(None) };
    if crc32c::crc32c(body) != u32::from_le_bytes(*sum) {
        return Ok(None);
    }
    let Ok(entry) = Entry::decode(kind, body) else { return Ok(None) };
    let records = match &entry {
        Entry::Checkpoint(_) => Some(Vec::new()),
        Entry::Commit(commit) => commit.records.iter().map(|bytes| believe(bytes)).collect(),
    };
    Ok(records.map(|records| (Replayed { entry, records, number }, next)))
}

/// A record whose objects all have their hashes.
fn believe(bytes: &[u8]) -> Option<Record> {
    decode_record(bytes).filter(|record| record.find_lie().is_none())
}

/// The next offset from `at` on where an entry may begin, or the end.
fn next_magic(file: &File, path: &Path, mut at: u64, len: u64) -> Result<u64, StoreError> {
    let mut window = vec![0; 64 * 1024];
    while at + MAGIC.len() as u64 <= len {
        let want = (len - at).min(window.len() as u64) as usize;
        let window = window.get_mut(..want).unwrap_or_default();
        file.read_exact_at(window, at).context("reading", path)?;
        if let Some(found) = window.windows(MAGIC.len()).position(|bytes| bytes == MAGIC) {
            return Ok(at + found as u64);
        }
        at += (want - (MAGIC.len() - 1)) as u64;
    }
    Ok(len)
}

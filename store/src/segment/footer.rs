//! The end of a sealed segment: its ids, sorted, and the hash of everything before.
//!
//! ```text
//! count × { hash 32  kind u8  offset u64  record u32  inner u32  len u32 }
//! count u32  records-end u64  BLAKE3 of bytes 0..records-end  "BTNF"  crc32c of the footer  u32
//! ```
//!
//! The footer makes a rebuild of the index cheap: 53 bytes an object instead of all of them.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use baton_protocol::encode::Reader;
use baton_protocol::id::{ObjectId, ObjectKind};

use crate::error::StoreError;
use crate::fs::Context;

const MAGIC: [u8; 4] = *b"BTNF";
const ROW: usize = 32 + 1 + 8 + 4 + 4 + 4;
const TAIL: usize = 4 + 8 + 32 + 4 + 4;

/// Most objects of a segment: an empty object takes 37 bytes of 64 MiB and a little.
const MAX_COUNT: usize = 4 << 20;

/// Where an object is within a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FooterEntry {
    /// Which.
    pub id: ObjectId,
    /// Where its record starts.
    pub offset: u64,
    /// Length of its record.
    pub record_len: u32,
    /// Where its bytes start in the raw payload.
    pub inner: u32,
    /// How many there are.
    pub len: u32,
}

/// The end of a sealed segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// Its objects, ascending by hash.
    pub entries: Vec<FooterEntry>,
    /// Where its records end.
    pub records_end: u64,
    /// BLAKE3 of everything before that: the name of the file.
    pub hash: [u8; 32],
}

/// Encodes the footer of a segment whose records end at `end`; sorts `entries`.
pub(super) fn encode_footer(entries: &mut [FooterEntry], end: u64, hash: &[u8; 32]) -> Vec<u8> {
    entries.sort_unstable_by_key(|entry| entry.id.hash);
    let mut bytes = Vec::with_capacity(entries.len() * ROW + TAIL);
    for entry in &*entries {
        bytes.extend_from_slice(&entry.id.hash);
        bytes.push(entry.id.kind as u8);
        bytes.extend_from_slice(&entry.offset.to_le_bytes());
        bytes.extend_from_slice(&entry.record_len.to_le_bytes());
        bytes.extend_from_slice(&entry.inner.to_le_bytes());
        bytes.extend_from_slice(&entry.len.to_le_bytes());
    }
    bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&end.to_le_bytes());
    bytes.extend_from_slice(hash);
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    bytes
}

/// Reads the footer of a sealed segment; nothing where there is no intact footer.
pub fn read_footer(file: &File, path: &Path) -> Result<Option<Footer>, StoreError> {
    let len = file.metadata().context("reading", path)?.len();
    let Some(tail_at) = len.checked_sub(TAIL as u64) else { return Ok(None) };
    let mut tail = [0; TAIL];
    file.read_exact_at(&mut tail, tail_at).context("reading", path)?;
    let Some((count, end, hash)) = decode_tail(&tail) else { return Ok(None) };
    if count > MAX_COUNT || end.checked_add((count * ROW) as u64) != Some(tail_at) {
        return Ok(None);
    }
    let mut bytes = vec![0; count * ROW + TAIL];
    file.read_exact_at(&mut bytes, end).context("reading", path)?;
    let Some((covered, sum)) = bytes.split_last_chunk() else { return Ok(None) };
    if crc32c::crc32c(covered) != u32::from_le_bytes(*sum) {
        return Ok(None);
    }
    let rows = covered.get(..count * ROW).unwrap_or_default();
    let entries: Option<Vec<_>> = rows.chunks_exact(ROW).map(decode_row).collect();
    Ok(entries.map(|entries| Footer { entries, records_end: end, hash }))
}

fn decode_tail(tail: &[u8]) -> Option<(usize, u64, [u8; 32])> {
    let mut from = Reader::new(tail);
    let count = u32::from_le_bytes(from.array().ok()?) as usize;
    let end = u64::from_le_bytes(from.array().ok()?);
    let hash = from.array().ok()?;
    (from.array().ok()? == MAGIC).then_some((count, end, hash))
}

fn decode_row(row: &[u8]) -> Option<FooterEntry> {
    let mut from = Reader::new(row);
    let hash = from.array().ok()?;
    let kind = ObjectKind::from_number(from.byte().ok()?)?;
    let offset = u64::from_le_bytes(from.array().ok()?);
    let mut number = || from.array().ok().map(u32::from_le_bytes);
    Some(FooterEntry {
        id: ObjectId { kind, hash },
        offset,
        record_len: number()?,
        inner: number()?,
        len: number()?,
    })
}

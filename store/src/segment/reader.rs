//! Reading a segment without the index: its header, and record after record.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use baton_protocol::encode::Reader;
use baton_protocol::id::VaultId;

use super::record::{Record, RecordHead, decode_record};
use crate::error::StoreError;
use crate::fs::Context;
use crate::layout::Class;

const MAGIC: [u8; 8] = *b"BATONSEG";
const VERSION: u32 = 1;

/// What a segment says of itself in its first 64 bytes.
///
/// ```text
/// "BATONSEG"  version u32  class u8  0 ×3  vault 16  uid 16  0 ×12  crc32c of the above  u32
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// What it holds.
    pub class: Class,
    /// Whose it is.
    pub vault: VaultId,
    /// Its name while it is open; random.
    pub uid: [u8; 16],
}

impl SegmentHeader {
    /// Bytes that it takes.
    pub const LEN: usize = 64;

    /// The bytes.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[self.class as u8, 0, 0, 0]);
        bytes.extend_from_slice(self.vault.as_bytes());
        bytes.extend_from_slice(&self.uid);
        bytes.extend_from_slice(&[0; 12]);
        let sum = crc32c::crc32c(&bytes).to_le_bytes();
        let mut header = [0; Self::LEN];
        for (to, from) in header.iter_mut().zip(bytes.iter().chain(&sum)) {
            *to = *from;
        }
        header
    }
}

/// Reads the header of a segment; nothing where it is not intact.
pub fn read_header(file: &File, path: &Path) -> Result<Option<SegmentHeader>, StoreError> {
    let mut bytes = [0; SegmentHeader::LEN];
    match file.read_exact_at(&mut bytes, 0) {
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        other => other.context("reading", path)?,
    }
    let mut from = Reader::new(&bytes);
    let parse = || {
        let magic: [u8; 8] = from.array().ok()?;
        let version = u32::from_le_bytes(from.array().ok()?);
        let class = from.byte().ok()?;
        let _reserved: [u8; 3] = from.array().ok()?;
        let vault = VaultId::from_bytes(from.array().ok()?);
        let uid = from.array().ok()?;
        let _reserved: [u8; 12] = from.array().ok()?;
        let sum = u32::from_le_bytes(from.array().ok()?);
        let (covered, _) = bytes.split_last_chunk::<4>()?;
        if magic != MAGIC || crc32c::crc32c(covered) != sum {
            return None;
        }
        Some((version, class, vault, uid))
    };
    let mut parse = parse;
    let Some((version, class, vault, uid)) = parse() else { return Ok(None) };
    if version > VERSION {
        return Err(StoreError::Newer {
            path: path.to_owned(),
            found: version,
            supported: VERSION,
        });
    }
    Ok(Class::from_number(class).map(|class| SegmentHeader { class, vault, uid }))
}

/// Walks the records from `start` and hands each one with its offset and length to `visit`.
///
/// Returns where the last intact record ends: the first byte that is no intact record is where a
/// crash cut the file, or where damage begins. With `resync`, goes on at the next intact record.
pub fn scan(
    file: &File,
    path: &Path,
    start: u64,
    resync: bool,
    mut visit: impl FnMut(u64, u32, Record) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    scan_as(file, path, start, resync, decode_record, |at, bytes, record| {
        visit(at, bytes.len() as u32, record)
    })
}

/// As [`scan`], of what `decode` makes of the bytes of a record: nothing where they are not intact.
pub(super) fn scan_as<T>(
    file: &File,
    path: &Path,
    start: u64,
    resync: bool,
    mut decode: impl FnMut(&[u8]) -> Option<T>,
    mut visit: impl FnMut(u64, &[u8], T) -> Result<(), StoreError>,
) -> Result<u64, StoreError> {
    let len = file.metadata().context("reading", path)?.len();
    let mut at = start;
    let mut end = start;
    let mut bytes = Vec::new();
    while at < len {
        let is_read = read_record(file, path, at, len, &mut bytes)?;
        let Some(record) = is_read.then(|| decode(&bytes)).flatten() else {
            if !resync {
                break;
            }
            at = next_magic(file, path, at + 1, len)?;
            continue;
        };
        visit(at, &bytes, record)?;
        at += bytes.len() as u64;
        end = at;
    }
    Ok(end)
}

/// Reads the bytes of the record at `at`; false where none begins there that fits.
fn read_record(
    file: &File,
    path: &Path,
    at: u64,
    len: u64,
    bytes: &mut Vec<u8>,
) -> Result<bool, StoreError> {
    let mut head = [0; RecordHead::LEN];
    if len - at < head.len() as u64 {
        return Ok(false);
    }
    file.read_exact_at(&mut head, at).context("reading", path)?;
    let Some(head) = RecordHead::decode(&head) else { return Ok(false) };
    if len - at < head.record_len() as u64 {
        return Ok(false);
    }
    bytes.resize(head.record_len(), 0);
    file.read_exact_at(bytes, at).context("reading", path)?;
    Ok(true)
}

/// The next offset from `at` on where the bytes of a record's magic stand, or the end.
fn next_magic(file: &File, path: &Path, mut at: u64, len: u64) -> Result<u64, StoreError> {
    let mut window = vec![0; 64 * 1024];
    while at + 4 <= len {
        let want = (len - at).min(window.len() as u64) as usize;
        let window = window.get_mut(..want).unwrap_or_default();
        file.read_exact_at(window, at).context("reading", path)?;
        if let Some(found) = window.windows(4).position(|bytes| bytes == b"BTNR") {
            return Ok(at + found as u64);
        }
        // The magic may lie across two windows.
        at += (want - 3) as u64;
    }
    Ok(len)
}

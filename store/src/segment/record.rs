//! One record: a header, a table of objects, and their bytes, compressed together.
//!
//! ```text
//! "BTNR"  version u8  class u8  codec u8  0 u8  count u32  raw u32  stored u32
//! count × { kind u8  len u32  hash 32 }
//! crc32c of all of the above  u32
//! payload, `stored` bytes: the objects one after the other, raw or as one zstd frame
//! crc32c of the payload  u32
//! ```
//!
//! Integers are little-endian. The checksums tell a torn write from damage cheaply; what is believed
//! in the end is the hash of each object.

use baton_protocol::delta::{self, Decompressor};
use baton_protocol::encode::Reader;
use baton_protocol::id::{ObjectId, ObjectKind};
use baton_protocol::object::MAX_OBJECT;

use crate::layout::Class;

/// Raw bytes after which a record is closed: as many as are decompressed to read one file, which a push of
/// an edit waits for at both ends: 0.35 ms each, where a record of 1 MiB takes 0.7.
///
/// The Linux source (1,297 MB without what is twice), grouped in the order of its directories and compressed at the levels of zstd, in MB:
///
/// | | -1 | -2 | -3 |
/// |---|---|---|---|
/// | 256 KiB | 231.1 | | 212.3 |
/// | 512 KiB | 227.3 | 219.5 | **207.1** |
/// | 1 MiB | 225.3 | | 203.2 |
/// | 2 MiB | 224.4 | | 200.3 |
///
/// Level 1 takes four fifths of the time of level 3 (3.4 s of one core against 4.2 s), and compressing is half of an ingest: it would
/// save a tenth of that and cost a tenth of the disk and of every link. So there is one level, whatever is the
/// bottleneck. Smaller tables at level 3 (15 bits) were no faster than the noise of the measurement.
pub const RECORD_TARGET: usize = 512 * 1024;

/// The same for directories and what else is no file data: hashes hardly compress, so that grouping them
/// gains little, and a seal reads a few at scattered places.
const METADATA_TARGET: usize = 32 * 1024;

/// Most objects of a record.
const MAX_COUNT: usize = 4096;

/// Largest raw payload: a record is closed once it is over its target.
const MAX_RAW: usize = RECORD_TARGET + MAX_OBJECT;

const MAGIC: [u8; 4] = *b"BTNR";
/// Records of version 1 were closed at 256 KiB.
const VERSION: u8 = 2;
const RAW: u8 = 0;
const ZSTD: u8 = 1;

/// Bytes of the header before the table.
const HEAD: usize = 20;

/// Bytes of a table row.
const ROW: usize = 1 + 4 + 32;

/// Largest record in bytes, for buffers.
pub const MAX_RECORD: usize = HEAD + MAX_COUNT * ROW + 4 + MAX_RAW + 4;

/// One object of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordEntry {
    /// Which.
    pub id: ObjectId,
    /// Where its bytes start in the raw payload.
    pub inner: u32,
    /// How many there are.
    pub len: u32,
}

/// A record taken apart.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// Its objects, in order.
    pub entries: Vec<RecordEntry>,
    /// Their bytes, one after the other.
    pub raw: Vec<u8>,
}

impl Record {
    /// The bytes of an entry.
    pub fn bytes(&self, entry: &RecordEntry) -> &[u8] {
        let start = entry.inner as usize;
        self.raw.get(start..start + entry.len as usize).unwrap_or_default()
    }

    /// The first entry whose bytes do not have its hash.
    pub fn find_lie(&self) -> Option<ObjectId> {
        let lies =
            |entry: &&RecordEntry| ObjectId::of(entry.id.kind, self.bytes(entry)) != entry.id;
        self.entries.iter().find(lies).map(|entry| entry.id)
    }
}

/// Collects objects of one class.
#[derive(Debug, Default)]
pub struct RecordBuilder {
    entries: Vec<RecordEntry>,
    raw: Vec<u8>,
}

impl RecordBuilder {
    /// Adds an object of at most [`MAX_OBJECT`] bytes.
    pub fn push(&mut self, id: ObjectId, bytes: &[u8]) {
        debug_assert!(bytes.len() <= MAX_OBJECT);
        let entry = RecordEntry { id, inner: self.raw.len() as u32, len: bytes.len() as u32 };
        self.entries.push(entry);
        self.raw.extend_from_slice(bytes);
    }

    /// Whether it is time to close it.
    pub const fn is_full(&self, class: Class) -> bool {
        let target = match class {
            Class::Data => RECORD_TARGET,
            Class::Metadata => METADATA_TARGET,
        };
        self.raw.len() >= target || self.entries.len() >= MAX_COUNT
    }

    /// Whether nothing was added.
    pub const fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The objects so far.
    pub fn entries(&self) -> &[RecordEntry] {
        &self.entries
    }

    /// The bytes of an object in it.
    pub fn find(&self, id: &ObjectId) -> Option<&[u8]> {
        let entry = self.entries.iter().find(|entry| entry.id == *id)?;
        let start = entry.inner as usize;
        self.raw.get(start..start + entry.len as usize)
    }

    /// Encodes the record as it is: for what is soon written again, and waited for.
    pub fn encode_raw(&self, class: Class) -> Vec<u8> {
        self.encode_as(class, RAW, &self.raw)
    }

    /// Compresses and encodes the record. Kept raw where compression saves less than a sixteenth.
    pub fn encode(&self, class: Class) -> Result<Vec<u8>, delta::DeltaError> {
        let mut packer = RecordPacker::new()?;
        packer.pack(self, class)?;
        Ok(packer.record)
    }

    /// Takes everything out again; the memory stays.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.raw.clear();
    }

    fn encode_as(&self, class: Class, codec: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.encode_to(&mut bytes, class, codec, payload);
        bytes
    }

    /// Encodes the record in place of what `bytes` held.
    fn encode_to(&self, bytes: &mut Vec<u8>, class: Class, codec: u8, payload: &[u8]) {
        bytes.clear();
        bytes.reserve(HEAD + self.entries.len() * ROW + payload.len() + 8);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&[VERSION, class as u8, codec, 0]);
        bytes.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.raw.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        for entry in &self.entries {
            bytes.push(entry.id.kind as u8);
            bytes.extend_from_slice(&entry.len.to_le_bytes());
            bytes.extend_from_slice(&entry.id.hash);
        }
        bytes.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(&crc32c::crc32c(payload).to_le_bytes());
    }
}

/// Compresses and encodes records one after the other, in memory that it keeps.
#[derive(Debug)]
pub struct RecordPacker {
    compressor: delta::Compressor,
    packed: Vec<u8>,
    record: Vec<u8>,
}

impl RecordPacker {
    /// One without buffers yet.
    pub fn new() -> Result<Self, delta::DeltaError> {
        let compressor = delta::Compressor::new(delta::LEVEL)?;
        Ok(Self { compressor, packed: Vec::new(), record: Vec::new() })
    }

    /// The bytes of a record, as [`RecordBuilder::encode`] makes them.
    pub fn pack(
        &mut self,
        builder: &RecordBuilder,
        class: Class,
    ) -> Result<&[u8], delta::DeltaError> {
        // Nobody could read it back.
        if builder.raw.len() > MAX_RAW {
            return Err(delta::DeltaError::Length { expected: MAX_RAW });
        }
        self.compressor.compress(&builder.raw, &mut self.packed)?;
        let (codec, payload) = if self.packed.len() < builder.raw.len() - builder.raw.len() / 16 {
            (ZSTD, &self.packed)
        } else {
            (RAW, &builder.raw)
        };
        builder.encode_to(&mut self.record, class, codec, payload);
        Ok(&self.record)
    }
}

/// What the first bytes of a record say about the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHead {
    /// Which segments it belongs in.
    pub class: Class,
    count: usize,
    raw: usize,
    stored: usize,
    codec: u8,
}

impl RecordHead {
    /// Bytes that [`RecordHead::decode`] needs.
    pub const LEN: usize = HEAD;

    /// Reads the fixed part; nothing where it is not a record that this program reads.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Reader::new(bytes);
        if from.array().ok()? != MAGIC || !(1..=VERSION).contains(&from.byte().ok()?) {
            return None;
        }
        let class = Class::from_number(from.byte().ok()?)?;
        let codec = from.byte().ok()?;
        let reserved = from.byte().ok()?;
        let mut number = || from.array().ok().map(|bytes| u32::from_le_bytes(bytes) as usize);
        let (count, raw, stored) = (number()?, number()?, number()?);
        let sane = codec <= ZSTD
            && reserved == 0
            && (1..=MAX_COUNT).contains(&count)
            && raw <= MAX_RAW
            && stored <= raw
            && (codec == ZSTD || stored == raw);
        sane.then_some(Self { class, count, raw, stored, codec })
    }

    /// Number of its objects.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// Bytes of its objects.
    pub const fn raw_len(&self) -> usize {
        self.raw
    }

    /// Length of the whole record.
    pub const fn record_len(&self) -> usize {
        HEAD + self.count * ROW + 4 + self.stored + 4
    }
}

/// Takes a whole record apart, checking both checksums and every length, but not the hashes.
///
/// Nothing where `bytes` is not exactly one intact record.
pub fn decode_record(bytes: &[u8]) -> Option<Record> {
    let mut record = Record::default();
    RecordDecoder::default().decode(bytes, &mut record)?;
    Some(record)
}

/// Takes records apart one after the other, as [`decode_record`] does, with what that needs kept.
#[derive(Debug, Default)]
pub struct RecordDecoder(Decompressor);

impl RecordDecoder {
    /// Takes one apart into the buffers of another one, which hold nothing of use where it is not
    /// intact.
    pub fn decode(&mut self, bytes: &[u8], to: &mut Record) -> Option<RecordHead> {
        let head = decode_table(bytes, &mut to.entries)?;
        let payload = bytes.get(HEAD + head.count * ROW + 4..)?.get(..head.stored)?;
        if head.codec == ZSTD {
            self.0.restore(payload, head.raw, &mut to.raw).ok()?;
        } else {
            to.raw.clear();
            to.raw.extend_from_slice(payload);
        }
        Some(head)
    }
}

/// Reads what a whole record says of its objects, checking both checksums and every length.
pub fn decode_table(bytes: &[u8], entries: &mut Vec<RecordEntry>) -> Option<RecordHead> {
    let head = RecordHead::decode(bytes)?;
    if bytes.len() != head.record_len() {
        return None;
    }
    let (front, rest) = bytes.split_at_checked(HEAD + head.count * ROW)?;
    let (front_sum, rest) = rest.split_first_chunk()?;
    let (payload, payload_sum) = rest.split_last_chunk()?;
    if crc32c::crc32c(front) != u32::from_le_bytes(*front_sum)
        || crc32c::crc32c(payload) != u32::from_le_bytes(*payload_sum)
    {
        return None;
    }
    entries.clear();
    entries.reserve_exact(head.count);
    let mut inner = 0u32;
    for row in front.get(HEAD..)?.chunks_exact(ROW) {
        let mut from = Reader::new(row);
        let kind = ObjectKind::from_number(from.byte().ok()?)?;
        let len = u32::from_le_bytes(from.array().ok()?);
        let id = ObjectId { kind, hash: from.array().ok()? };
        entries.push(RecordEntry { id, inner, len });
        inner = inner.checked_add(len)?;
    }
    (inner as usize == head.raw).then_some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_and_every_flipped_bit_is_noticed() {
        let mut builder = RecordBuilder::default();
        for text in ["one one one one one one one one one", "", "three"] {
            builder.push(ObjectId::of(ObjectKind::Chunk, text.as_bytes()), text.as_bytes());
        }
        let bytes = builder.encode(Class::Data).unwrap();
        let record = decode_record(&bytes).unwrap();
        assert_eq!(record.find_lie(), None);
        assert_eq!(record.bytes(&record.entries[2]), b"three");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let noticed = decode_record(&flipped).is_none_or(|record| record.find_lie().is_some());
            // The class is not covered by a hash but by the checksum of the header.
            assert!(noticed, "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(decode_record(&bytes[..cut]).is_none());
        }
    }
}

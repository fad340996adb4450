//! What stands on a stream: frames with a length, a type and a body.
//!
//! A frame is one control [`message`](crate::message), a batch of objects, or a record. A batch carries
//! no ids: the receiver hashes what comes out, so a peer cannot lie about a hash, and 32
//! incompressible bytes an object stay at home. Whole objects of a batch share one zstd frame;
//! an object that the receiver knows an older form of travels as a delta and names that form by
//! the first eight bytes of its hash.
//!
//! **Invariant:** a receiver that reads [`HEADER`] bytes, checks the length against [`MAX_FRAME`] and
//! then reads the body has bounded its memory.

use crate::delta::{self, DeltaError};
use crate::encode::{DecodeError, Reader, Writer};
use crate::id::ObjectKind;
use crate::object::MAX_OBJECT;

/// Bytes before a body: its length as a little-endian u32, and the type.
pub const HEADER: usize = 5;

/// Longest body. Two objects of the largest size fit, however badly they compress.
pub const MAX_FRAME: usize = 2 * MAX_OBJECT + 64 * 1024;

/// Raw bytes after which a batch is sent.
pub const BATCH_TARGET: usize = 256 * 1024;

/// Most objects of a batch.
pub const MAX_BATCH: usize = 4096;

/// Bytes restored from the deltas of a batch after which it is sent. A delta of a few bytes can stand
/// for [`MAX_OBJECT`]: without this limit one frame could make its receiver restore 2 GiB.
pub const BATCH_RESTORED: usize = 16 * 1024 * 1024;

/// What a body holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A control message.
    Message,
    /// A batch of objects.
    Objects,
    /// Objects as they stand together in the log of the sender, who need not take them apart: one record
    /// of `docs/format.md`. The receiver does, and believes no id in it.
    Record,
}

/// A frame cannot be what it says.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The body would be longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes, allowed are {MAX_FRAME}")]
    TooLong(usize),
    /// The type is not one of ours.
    #[error("unknown frame type {0}")]
    Kind(u8),
    /// The body's own structure is wrong.
    #[error("malformed batch of objects")]
    Batch(#[from] DecodeError),
    /// The compressed part is damaged.
    #[error("malformed batch of objects")]
    Delta(#[from] DeltaError),
    /// A control message that cannot be read.
    #[error("malformed message")]
    Message(#[source] postcard::Error),
}

/// Writes the header of a frame whose body has `len` bytes.
pub fn encode_header(kind: FrameKind, len: usize) -> Result<[u8; HEADER], FrameError> {
    if len > MAX_FRAME {
        return Err(FrameError::TooLong(len));
    }
    let [a, b, c, d] = (len as u32).to_le_bytes();
    let kind = match kind {
        FrameKind::Message => 1,
        FrameKind::Objects => 2,
        FrameKind::Record => 3,
    };
    Ok([a, b, c, d, kind])
}

/// Reads a header: the type, and the length that the body will have.
pub fn decode_header(header: [u8; HEADER]) -> Result<(FrameKind, usize), FrameError> {
    let [a, b, c, d, kind] = header;
    let len = u32::from_le_bytes([a, b, c, d]) as usize;
    if len > MAX_FRAME {
        return Err(FrameError::TooLong(len));
    }
    match kind {
        1 => Ok((FrameKind::Message, len)),
        2 => Ok((FrameKind::Objects, len)),
        3 => Ok((FrameKind::Record, len)),
        other => Err(FrameError::Kind(other)),
    }
}

/// The first eight bytes of a hash: names the base of a delta within a vault.
pub type HashPrefix = [u8; 8];

/// One object of a batch as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// The whole object.
    Full {
        /// What it is.
        kind: ObjectKind,
        /// Its bytes, not yet checked to be canonical.
        bytes: Vec<u8>,
    },
    /// The difference to an object that the receiver has.
    Delta {
        /// What it is; the base is of the same kind.
        kind: ObjectKind,
        /// The base.
        base: HashPrefix,
        /// Length of the whole object.
        len: usize,
        /// For [`delta::decode_delta`].
        delta: Vec<u8>,
    },
}

/// Collects objects into one batch.
#[derive(Debug, Default)]
pub struct Batch {
    heads: Writer,
    count: usize,
    full: Vec<u8>,
    deltas: Vec<u8>,
    restored: usize,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a whole object.
    pub fn push_full(&mut self, kind: ObjectKind, bytes: &[u8]) {
        self.heads.byte(kind as u8);
        self.heads.varint(bytes.len() as u64);
        self.full.extend_from_slice(bytes);
        self.count += 1;
    }

    /// Adds a difference to `base`, from which an object of `len` bytes comes out.
    pub fn push_delta(&mut self, kind: ObjectKind, base: HashPrefix, len: usize, delta: &[u8]) {
        self.heads.byte(kind as u8 | DELTA);
        self.heads.varint(len as u64);
        self.heads.fixed(&base);
        self.heads.varint(delta.len() as u64);
        self.deltas.extend_from_slice(delta);
        self.restored += len;
        self.count += 1;
    }

    /// Whether it is time to send: one more object of the largest size still fits.
    pub const fn is_full(&self) -> bool {
        self.full.len() + self.deltas.len() >= BATCH_TARGET
            || self.restored >= BATCH_RESTORED
            || self.count >= MAX_BATCH
    }

    /// Whether nothing was added.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The body of the frame; empties the batch.
    pub fn finish(&mut self) -> Result<Vec<u8>, FrameError> {
        let Self { heads, count, full, deltas, .. } = std::mem::take(self);
        let packed = delta::compress(&full, delta::LEVEL)?;
        let mut to = Writer::new();
        to.varint(count as u64);
        to.fixed(&heads.finish());
        let smaller = packed.len() < full.len();
        let stored = if smaller { &packed } else { &full };
        to.byte(u8::from(smaller));
        to.bytes(stored);
        to.fixed(&deltas);
        Ok(to.finish())
    }
}

/// Marks an item as a delta.
const DELTA: u8 = 0x80;

/// Reads the body of a batch.
pub fn decode_batch(body: &[u8]) -> Result<Vec<Item>, FrameError> {
    struct Head {
        kind: ObjectKind,
        len: usize,
        delta: Option<(HashPrefix, usize)>,
    }
    let mut from = Reader::new(body);
    let count = from.count("objects of a batch", MAX_BATCH, 2)?;
    let mut heads = Vec::with_capacity(count);
    let mut full_len = 0usize;
    let mut restored = 0usize;
    for _ in 0..count {
        let number = from.byte()?;
        let kind = ObjectKind::from_number(number & !DELTA)
            .ok_or(DecodeError::Unknown { what: "object kind", value: number.into() })?;
        let len = from.bounded("object length", MAX_OBJECT as u64)? as usize;
        let delta = if number & DELTA == 0 {
            full_len += len;
            None
        } else {
            restored += len;
            Some((from.array()?, from.bounded("delta length", MAX_FRAME as u64)? as usize))
        };
        heads.push(Head { kind, len, delta });
    }
    check_total("batch length", full_len, BATCH_TARGET)?;
    check_total("restored length", restored, BATCH_RESTORED)?;
    let full = match from.byte()? {
        0 => from.bytes("batch length", full_len)?.to_vec(),
        1 => delta::decompress(from.bytes("batch length", MAX_FRAME)?, full_len)?,
        value => return Err(DecodeError::Unknown { what: "codec", value: value.into() }.into()),
    };
    let mut full = Reader::new(&full);
    let mut items = Vec::with_capacity(count);
    for Head { kind, len, delta } in heads {
        items.push(match delta {
            None => Item::Full { kind, bytes: full.fixed(len)?.to_vec() },
            Some((base, stored)) => {
                Item::Delta { kind, base, len, delta: from.fixed(stored)?.to_vec() }
            }
        });
    }
    full.finish()?;
    from.finish()?;
    Ok(items)
}

/// A batch goes over its target with its last object at most.
const fn check_total(what: &'static str, total: usize, target: usize) -> Result<(), DecodeError> {
    if total > target + MAX_OBJECT {
        let (value, limit) = (total as u64, (target + MAX_OBJECT) as u64);
        return Err(DecodeError::Limit { what, value, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::arbitrary::mutated;

    #[test]
    fn batches_round_trip() {
        let mut batch = Batch::new();
        batch.push_full(ObjectKind::Chunk, b"hello hello hello hello hello hello hello");
        batch.push_delta(ObjectKind::Tree, [7; 8], 99, b"delta");
        batch.push_full(ObjectKind::Tree, b"");
        let body = batch.finish().unwrap();
        assert!(batch.is_empty());
        let items = decode_batch(&body).unwrap();
        assert_eq!(
            items,
            [
                Item::Full {
                    kind: ObjectKind::Chunk,
                    bytes: b"hello hello hello hello hello hello hello".to_vec()
                },
                Item::Delta {
                    kind: ObjectKind::Tree,
                    base: [7; 8],
                    len: 99,
                    delta: b"delta".to_vec()
                },
                Item::Full { kind: ObjectKind::Tree, bytes: Vec::new() },
            ]
        );
        for cut in 0..body.len() {
            assert!(decode_batch(&body[..cut]).is_err(), "cut at {cut}");
        }
    }

    #[test]
    fn a_batch_cannot_claim_more_than_a_batch_may_hold() {
        let mut to = Writer::new();
        to.varint(4);
        for _ in 0..4 {
            to.byte(1);
            to.varint(MAX_OBJECT as u64);
        }
        let bomb = delta::compress(&vec![0; 4 * MAX_OBJECT], 3).unwrap();
        to.byte(1);
        to.bytes(&bomb);
        assert!(matches!(
            decode_batch(&to.finish()),
            Err(FrameError::Batch(DecodeError::Limit { what: "batch length", .. }))
        ));
        assert!(decode_header([0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert!(decode_header([0, 0, 0, 0, 9]).is_err());
    }

    #[test]
    fn a_batch_cannot_restore_more_than_a_batch_may() {
        let mut batch = Batch::new();
        while !batch.is_full() {
            batch.push_delta(ObjectKind::Chunk, [0; 8], MAX_OBJECT, b"");
        }
        assert_eq!(batch.count, BATCH_RESTORED / MAX_OBJECT);
        // One more is the last that fits.
        batch.push_delta(ObjectKind::Chunk, [0; 8], MAX_OBJECT, b"");
        assert!(decode_batch(&batch.finish().unwrap()).is_ok());
        for _ in 0..BATCH_RESTORED / MAX_OBJECT + 2 {
            batch.push_delta(ObjectKind::Chunk, [0; 8], MAX_OBJECT, b"");
        }
        assert!(matches!(
            decode_batch(&batch.finish().unwrap()),
            Err(FrameError::Batch(DecodeError::Limit { what: "restored length", .. }))
        ));
    }

    #[test]
    fn a_full_batch_of_the_worst_objects_fits_a_frame() {
        let mut noise = vec![0; MAX_OBJECT];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        let mut batch = Batch::new();
        for _ in 0..MAX_BATCH - 1 {
            batch.push_delta(ObjectKind::Chunk, [0; 8], 1000, &noise[..63]);
        }
        assert!(!batch.is_full());
        batch.push_full(ObjectKind::Chunk, &noise);
        assert!(batch.is_full());
        let body = batch.finish().unwrap();
        assert!(encode_header(FrameKind::Objects, body.len()).is_ok(), "{}", body.len());
        assert_eq!(decode_batch(&body).unwrap().len(), MAX_BATCH);
    }

    fn item() -> impl Strategy<Value = Item> {
        let kind = || proptest::sample::select(ObjectKind::ALL.to_vec());
        let bytes = || {
            prop_oneof![
                vec(any::<u8>(), 0..40),
                (any::<u8>(), 0..4000usize).prop_map(|(byte, len)| vec![byte; len]),
            ]
        };
        prop_oneof![
            (kind(), bytes()).prop_map(|(kind, bytes)| Item::Full { kind, bytes }),
            (kind(), any::<[u8; 8]>(), 0..=MAX_OBJECT, bytes())
                .prop_map(|(kind, base, len, delta)| Item::Delta { kind, base, len, delta }),
        ]
    }

    fn pack(items: &[Item]) -> Vec<u8> {
        let mut batch = Batch::new();
        for item in items {
            match item {
                Item::Full { kind, bytes } => batch.push_full(*kind, bytes),
                Item::Delta { kind, base, len, delta } => {
                    batch.push_delta(*kind, *base, *len, delta);
                }
            }
        }
        batch.finish().unwrap()
    }

    proptest! {
        #[test]
        fn any_items_round_trip(items in vec(item(), 0..30)) {
            prop_assert_eq!(decode_batch(&pack(&items)).unwrap(), items);
        }

        #[test]
        fn changed_batches_are_refused_or_bounded(
            body in mutated(vec(item(), 0..9).prop_map(|items| pack(&items))),
        ) {
            if let Ok(items) = decode_batch(&body) {
                let full = |item: &Item| if let Item::Full { bytes, .. } = item { bytes.len() } else { 0 };
                prop_assert!(items.iter().map(full).sum::<usize>() <= BATCH_TARGET + MAX_OBJECT);
                prop_assert!(items.len() <= MAX_BATCH);
                // Compression may differ; what it means does not.
                prop_assert_eq!(decode_batch(&pack(&items)).unwrap(), items);
            }
        }

        #[test]
        fn headers_round_trip(
            kind in proptest::sample::select(vec![
                FrameKind::Message, FrameKind::Objects, FrameKind::Record,
            ]),
            len in 0..=MAX_FRAME,
        ) {
            let header = encode_header(kind, len).unwrap();
            prop_assert_eq!(decode_header(header).unwrap(), (kind, len));
        }

        #[test]
        fn any_header_is_refused_or_the_only_form(header: [u8; HEADER]) {
            if let Ok((kind, len)) = decode_header(header) {
                prop_assert_eq!(encode_header(kind, len).unwrap(), header);
            }
        }
    }

    #[test]
    fn a_longer_frame_than_the_limit_is_not_made() {
        assert!(matches!(
            encode_header(FrameKind::Message, MAX_FRAME + 1),
            Err(FrameError::TooLong(_))
        ));
    }
}

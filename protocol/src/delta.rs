//! Compression on the wire and at rest: whole groups, and one object against another.
//!
//! A delta is zstd with the old object as its reference prefix: 21 to 51 times smaller than the
//! object compressed whole, measured on the commits of four real repositories. Where only a few bytes in one
//! place differ, as in most directories of an edited file, it is those bytes:
//!
//! ```text
//! 1  bytes before that are the same, varint  bytes after, varint  what stands between
//! ```
//!
//! **Invariant:** output buffers are sized by what the caller allows, never by what a frame claims.

use std::io::{Error, ErrorKind, Write};

use zstd::zstd_safe::{CCtx, CParameter, DCtx};

use crate::encode::{Reader, Writer};
use crate::object::MAX_OBJECT;

/// zstd level for deltas and groups; on source code level 3 costs a quarter more time than 1 for
/// 6 to 10 % less.
pub const LEVEL: i32 = 3;

/// Bytes of base and object together up to which [`SMALL_TABLES`] are enough.
const SMALL: usize = 128 * 1024;

/// log2 of the entries of zstd's two tables for small objects: 192 KiB instead of 768, which are cleared
/// for every object.
const SMALL_TABLES: [u32; 2] = [15, 14];

/// The first byte of a delta that is no zstd frame, whose first byte is 0x28.
const SPLICE: u8 = 1;

/// Longest difference that is sent as it is: above it zstd saves bytes that are worth the tables that it
/// clears first.
const MAX_SPLICE: usize = 160;

/// Bytes that are compared at once.
const BLOCK: usize = 256;

/// log2 of the window: the reference prefix and the object, 512 KiB each, fit in it.
const WINDOW_LOG: u32 = 20;

/// The same for what is small: [`SMALL`] fits in it.
const SMALL_WINDOW_LOG: u32 = 17;

/// A compressed byte string is damaged or larger than allowed.
#[derive(Debug, thiserror::Error)]
pub enum DeltaError {
    /// zstd refused the frame.
    #[error("the compressed bytes are damaged")]
    Damaged(#[source] std::io::Error),
    /// The frame holds another number of bytes than was said.
    #[error("the compressed bytes hold another length than the {expected} bytes said")]
    Length {
        /// What the header said.
        expected: usize,
    },
    /// zstd could not compress; memory is the only known cause.
    #[error("compressing failed")]
    Compress(#[source] std::io::Error),
    /// One of the two is larger than an object may be.
    #[error("{0} bytes are more than an object may have")]
    TooLarge(usize),
}

/// Compresses `object` with `base` as its reference prefix. Both are at most [`MAX_OBJECT`].
pub fn encode_delta(base: &[u8], object: &[u8]) -> Result<Vec<u8>, DeltaError> {
    check_size(base)?;
    check_size(object)?;
    if let Some(delta) = splice(base, object) {
        return Ok(delta);
    }
    let compressed = if base.len() + object.len() <= SMALL {
        encode_small(base, object)
    } else {
        encode_large(base, object)
    };
    compressed.map_err(DeltaError::Compress)
}

/// What differs, where that is little and in one place.
fn splice(base: &[u8], object: &[u8]) -> Option<Vec<u8>> {
    let before = equal_bytes(
        base.iter().zip(object),
        equal_blocks(base.chunks_exact(BLOCK), object.chunks_exact(BLOCK)),
    );
    let (base_rest, rest) = (base.get(before..)?, object.get(before..)?);
    let blocks = equal_blocks(base_rest.rchunks_exact(BLOCK), rest.rchunks_exact(BLOCK));
    let after = equal_bytes(base_rest.iter().rev().zip(rest.iter().rev()), blocks);
    let between = rest.get(..rest.len() - after)?;
    if between.len() > MAX_SPLICE {
        return None;
    }
    let mut delta = Writer::new();
    delta.byte(SPLICE);
    delta.varint(before as u64);
    delta.varint(after as u64);
    delta.fixed(between);
    Some(delta.finish())
}

/// Bytes of the blocks that are the same before the first that is not: compared as blocks that takes a
/// tenth of the time.
fn equal_blocks<'a>(a: impl Iterator<Item = &'a [u8]>, b: impl Iterator<Item = &'a [u8]>) -> usize {
    a.zip(b).take_while(|(a, b)| a == b).count() * BLOCK
}

/// Bytes that are the same before the first that is not, of which so many are known to be.
fn equal_bytes<'a>(pairs: impl Iterator<Item = (&'a u8, &'a u8)>, known: usize) -> usize {
    known + pairs.skip(known).take_while(|(a, b)| a == b).count()
}

/// The object of `len` bytes that a [`splice`] makes of `base`.
fn unsplice(base: &[u8], delta: &[u8], len: usize) -> Option<Vec<u8>> {
    let mut from = Reader::new(delta);
    let before = usize::try_from(from.varint().ok()?).ok()?;
    let after = usize::try_from(from.varint().ok()?).ok()?;
    let between = from.fixed(len.checked_sub(before)?.checked_sub(after)?).ok()?;
    from.finish().ok()?;
    let start = base.get(..before)?;
    let end = base.get(base.len().checked_sub(after)?..)?;
    Some([start, between, end].concat())
}

/// In one piece, with tables of the size that is needed.
fn encode_small(base: &[u8], object: &[u8]) -> Result<Vec<u8>, Error> {
    let mut context = CCtx::try_create().ok_or_else(|| Error::from(ErrorKind::OutOfMemory))?;
    let [hash, chain] = SMALL_TABLES;
    for parameter in [
        CParameter::CompressionLevel(LEVEL),
        CParameter::WindowLog(SMALL_WINDOW_LOG),
        CParameter::HashLog(hash),
        CParameter::ChainLog(chain),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ] {
        context.set_parameter(parameter).map_err(named)?;
    }
    context.ref_prefix(base).map_err(named)?;
    let mut delta = Vec::with_capacity(zstd::zstd_safe::compress_bound(object.len()));
    context.compress2(&mut delta, object).map_err(named)?;
    Ok(delta)
}

/// As a stream: with the size known zstd takes parameters that find less in long noise.
fn encode_large(base: &[u8], object: &[u8]) -> Result<Vec<u8>, Error> {
    let mut to = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), LEVEL, base)?;
    to.window_log(WINDOW_LOG)?;
    to.include_contentsize(false)?;
    to.include_checksum(false)?;
    to.write_all(object)?;
    to.finish()
}

/// Restores the object of exactly `len` bytes from `base` and what [`encode_delta`] wrote.
pub fn decode_delta(base: &[u8], delta: &[u8], len: usize) -> Result<Vec<u8>, DeltaError> {
    check_size(base)?;
    if len > MAX_OBJECT {
        return Err(DeltaError::TooLarge(len));
    }
    if let Some((&SPLICE, rest)) = delta.split_first() {
        return unsplice(base, rest, len).ok_or(DeltaError::Length { expected: len });
    }
    let restore = || {
        let mut context = DCtx::try_create().ok_or_else(|| Error::from(ErrorKind::OutOfMemory))?;
        context.ref_prefix(base).map_err(named)?;
        // Written in one piece: no window is made, whatever the frame asks for.
        let mut object = Vec::with_capacity(len);
        context.decompress(&mut object, delta).map_err(named)?;
        Ok(object)
    };
    let object = restore().map_err(DeltaError::Damaged)?;
    if object.len() != len {
        return Err(DeltaError::Length { expected: len });
    }
    Ok(object)
}

/// What zstd calls an error.
fn named(code: usize) -> Error {
    Error::other(zstd::zstd_safe::get_error_name(code))
}

/// Compresses a group of objects as one frame.
pub fn compress(bytes: &[u8], level: i32) -> Result<Vec<u8>, DeltaError> {
    zstd::bulk::compress(bytes, level).map_err(DeltaError::Compress)
}

/// Compresses groups one after the other and keeps the tables of zstd, a megabyte and more: to make and
/// clear them for each group took a fifth of the time of an ingest.
pub struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    /// One for groups at this level.
    pub fn new(level: i32) -> Result<Self, DeltaError> {
        zstd::bulk::Compressor::new(level).map(Self).map_err(DeltaError::Compress)
    }

    /// Compresses a group as one frame, which replaces what `to` held.
    pub fn compress(&mut self, bytes: &[u8], to: &mut Vec<u8>) -> Result<(), DeltaError> {
        to.clear();
        to.reserve(zstd::zstd_safe::compress_bound(bytes.len()));
        self.0.compress_to_buffer(bytes, to).map(drop).map_err(DeltaError::Compress)
    }
}

impl std::fmt::Debug for Compressor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compressor").finish_non_exhaustive()
    }
}

/// Restores exactly `len` bytes from one frame. The caller has bounded `len`.
pub fn decompress(bytes: &[u8], len: usize) -> Result<Vec<u8>, DeltaError> {
    let restored = zstd::bulk::decompress(bytes, len).map_err(DeltaError::Damaged)?;
    if restored.len() != len {
        return Err(DeltaError::Length { expected: len });
    }
    Ok(restored)
}

/// Restores frames one after the other with one context: making one takes as long as restoring some
/// kilobytes.
#[derive(Default)]
pub struct Decompressor(Option<zstd::bulk::Decompressor<'static>>);

impl Decompressor {
    /// Restores exactly `len` bytes from one frame, in place of what `to` holds. The caller has bounded
    /// `len`.
    pub fn restore(
        &mut self,
        bytes: &[u8],
        len: usize,
        to: &mut Vec<u8>,
    ) -> Result<(), DeltaError> {
        let context = match &mut self.0 {
            Some(context) => context,
            none => none.insert(zstd::bulk::Decompressor::new().map_err(DeltaError::Damaged)?),
        };
        to.clear();
        to.reserve_exact(len);
        context.decompress_to_buffer(bytes, to).map_err(DeltaError::Damaged)?;
        if to.len() == len { Ok(()) } else { Err(DeltaError::Length { expected: len }) }
    }
}

impl std::fmt::Debug for Decompressor {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Decompressor").finish_non_exhaustive()
    }
}

fn check_size(object: &[u8]) -> Result<(), DeltaError> {
    if object.len() > MAX_OBJECT { Err(DeltaError::TooLarge(object.len())) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"noise");
        hasher.finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn an_edit_of_incompressible_bytes_costs_little() {
        let base = noise(MAX_OBJECT);
        let mut object = base.clone();
        object[100_000] ^= 1;
        let delta = encode_delta(&base, &object).unwrap();
        assert!(delta.len() < 200, "{}", delta.len());
        assert_eq!(decode_delta(&base, &delta, object.len()).unwrap(), object);
    }

    #[test]
    fn a_difference_in_one_place_is_that_difference() {
        let base = noise(5000);
        let (mut changed, mut longer, mut shorter) = (base.clone(), base.clone(), base.clone());
        changed[2999] ^= 1;
        longer.splice(700..710, noise(100));
        shorter.drain(300..4000);
        let empty = Vec::new();
        for object in [&base, &changed, &longer, &shorter, &empty] {
            let delta = encode_delta(&base, object).unwrap();
            assert!(delta.len() <= 106, "{}", delta.len());
            assert_eq!(decode_delta(&base, &delta, object.len()).unwrap(), *object);
            assert!(decode_delta(&base, &delta, object.len() + 1).is_err());
            assert!(decode_delta(&base[..10], &delta, object.len()).is_ok() == object.is_empty());
        }
        // Repeated bytes belong to the start or to the end, not to both.
        let (few, many) = (vec![7; 100], vec![7; 150]);
        for (base, object) in [(&few, &many), (&many, &few), (&empty, &few)] {
            let delta = encode_delta(base, object).unwrap();
            assert_eq!(decode_delta(base, &delta, object.len()).unwrap(), *object);
        }
    }

    #[test]
    fn a_wrong_length_or_base_is_refused_or_shows_in_the_hash() {
        let base = noise(10_000);
        let object = noise(12_000);
        let delta = encode_delta(&base, &object).unwrap();
        assert!(decode_delta(&base, &delta, 11_999).is_err());
        assert!(decode_delta(&base, &delta, 12_001).is_err());
        assert!(decode_delta(&base, &delta[..delta.len() / 2], 12_000).is_err());
        assert!(decode_delta(&base, &delta, MAX_OBJECT + 1).is_err());
    }

    #[test]
    fn a_bomb_stops_at_the_length_that_was_allowed() {
        let bomb = compress(&vec![0; 64 << 20], LEVEL).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(decompress(&bomb, 1000).is_err());
        assert!(decode_delta(b"", &bomb, 1000).is_err());
    }

    #[test]
    fn one_context_restores_frame_after_frame_and_outlives_damage() {
        let (long, short) = (noise(50_000), noise(100));
        let mut context = Decompressor::default();
        let mut restored = Vec::new();
        for object in [&long, &short, &long] {
            let frame = compress(object, LEVEL).unwrap();
            context.restore(&frame, object.len(), &mut restored).unwrap();
            assert_eq!(&restored, object);
            for len in [object.len() - 1, object.len() + 1] {
                assert!(context.restore(&frame, len, &mut restored).is_err());
            }
            assert!(context.restore(&frame[1..], object.len(), &mut restored).is_err());
        }
        // The buffer is larger by now than what is allowed.
        let bomb = compress(&vec![0; 64 << 20], LEVEL).unwrap();
        assert!(context.restore(&bomb, 1000, &mut restored).is_err());
        assert!(restored.capacity() < 1 << 20);
    }
}

//! Compression on the wire and at rest: whole groups, and one object against another.
//!
//! An object that the receiver has an older form of is sent as the places where it differs from that
//! ([`hunks`]); the text that stands there, of many objects together, is compressed with what surrounds
//! those places as its reference.
//!
//! **Invariant:** output buffers are sized by what the caller allows, never by what a frame claims.

pub mod hunks;

use std::io::{Error, ErrorKind};

use zstd::zstd_safe::{CCtx, CParameter, DCtx};

/// zstd level for groups; on source code level 3 costs a quarter more time than 1 for 6 to 10 % less.
pub const LEVEL: i32 = 3;

/// The same for the text of deltas. Of 300 edits it makes 10 % less than level 3, for half a millisecond
/// each; level 16 made 1 % less for three times the time.
const TEXT_LEVEL: i32 = 9;

/// The same for long texts: 1 % more than level 9, where level 3 makes 5 % more.
const LONG_TEXT_LEVEL: i32 = 6;

/// Bytes of text above which time begins to count.
const LONG_TEXT: usize = 128 * 1024;

/// Bytes that are not worth the tables that zstd clears first.
const TINY: usize = 160;

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
}

/// Compresses what was inserted, with what stands around it as its reference, which is no part of the same
/// buffer: zstd would not look there. Text that does not get shorter stays as it is.
pub fn compress_text(reference: &[u8], text: &[u8]) -> Result<Vec<u8>, DeltaError> {
    if text.len() <= TINY {
        return Ok(text.to_vec());
    }
    let compressed = encode_text(reference, text).map_err(DeltaError::Compress)?;
    Ok(if compressed.len() < text.len() { compressed } else { text.to_vec() })
}

fn encode_text(reference: &[u8], text: &[u8]) -> Result<Vec<u8>, Error> {
    let mut context = CCtx::try_create().ok_or_else(|| Error::from(ErrorKind::OutOfMemory))?;
    let len = reference.len() + text.len();
    let level = if text.len() > LONG_TEXT { LONG_TEXT_LEVEL } else { TEXT_LEVEL };
    // The reference is of use as far as the window reaches.
    let window = len.next_power_of_two().ilog2().clamp(10, 26);
    for parameter in [
        CParameter::CompressionLevel(level),
        CParameter::WindowLog(window),
        CParameter::ContentSizeFlag(false),
        CParameter::ChecksumFlag(false),
    ] {
        context.set_parameter(parameter).map_err(named)?;
    }
    context.ref_prefix(reference).map_err(named)?;
    let mut compressed = Vec::with_capacity(zstd::zstd_safe::compress_bound(text.len()));
    context.compress2(&mut compressed, text).map_err(named)?;
    Ok(compressed)
}

/// Restores exactly `len` bytes of text from their reference and what [`compress_text`] wrote. The caller
/// has bounded both.
pub fn decompress_text(
    reference: &[u8],
    compressed: &[u8],
    len: usize,
) -> Result<Vec<u8>, DeltaError> {
    if compressed.len() == len {
        return Ok(compressed.to_vec());
    }
    let restore = || {
        let mut context = DCtx::try_create().ok_or_else(|| Error::from(ErrorKind::OutOfMemory))?;
        context.ref_prefix(reference).map_err(named)?;
        // Written in one piece: no window is made, whatever the frame asks for.
        let mut text = Vec::with_capacity(len);
        context.decompress(&mut text, compressed).map_err(named)?;
        Ok(text)
    };
    let text = restore().map_err(DeltaError::Damaged)?;
    if text.len() == len { Ok(text) } else { Err(DeltaError::Length { expected: len }) }
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
    fn text_is_restored_from_its_reference() {
        let reference = noise(100_000);
        for range in [300..90_000, 0..200, 0..TINY, 0..0] {
            let text = reference[range].to_vec();
            let compressed = compress_text(&reference, &text).unwrap();
            assert!(compressed.len() <= TINY, "{}", compressed.len());
            assert_eq!(decompress_text(&reference, &compressed, text.len()).unwrap(), text);
        }
        // Nothing of it stands in the reference.
        let text = noise(5000).split_off(2000);
        let compressed = compress_text(&[], &text).unwrap();
        assert_eq!(compressed, text);
        assert_eq!(decompress_text(&reference, &compressed, text.len()).unwrap(), text);
    }

    #[test]
    fn a_wrong_length_or_reference_is_refused_or_gives_another_text() {
        let reference = noise(10_000);
        let text = reference[1000..8000].to_vec();
        let compressed = compress_text(&reference, &text).unwrap();
        for len in [0, text.len() - 1, text.len() + 1] {
            assert!(decompress_text(&reference, &compressed, len).is_err());
        }
        let cut = &compressed[..compressed.len() / 2];
        assert!(decompress_text(&reference, cut, text.len()).is_err());
        let other = decompress_text(&reference[..9999], &compressed, text.len());
        assert!(other.is_ok_and(|other| other != text));
        assert!(decompress_text(&[], &compressed, text.len()).is_err());
    }

    #[test]
    fn a_bomb_stops_at_the_length_that_was_allowed() {
        let bomb = compress(&vec![0; 64 << 20], LEVEL).unwrap();
        assert!(bomb.len() < 10_000);
        assert!(decompress(&bomb, 1000).is_err());
        assert!(decompress_text(b"", &bomb, 1000).is_err());
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

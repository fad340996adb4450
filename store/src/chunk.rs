//! From file content to a blob: cut into chunks, put into a sink, listed in a manifest.
//!
//! Not here: which files, and whether a file held still while it was read ([`crate::scan`]).
//!
//! - [`cdc`]: where a chunk ends
//! - [`extents`]: the way back, from a blob to its chunks
//!
//! **Invariant:** memory is bounded by one buffer and 36 bytes a chunk, however large the file. A
//! run of zeros is hashed and put once a file.

mod cdc;
mod extents;

use std::io::{self, Read};

use baton_protocol::id::{ChunkId, ObjectKind};
use baton_protocol::object::{Blob, Content, Extent, MAX_CHUNK, build_manifest};

use crate::error::StoreError;
use crate::objects::ObjectSink;

pub use extents::{for_each_extent, for_each_piece};
pub(crate) use extents::{load_manifest, read_chunk};

/// Bytes read at a time: four of the largest chunks, so that little is moved between reads.
const BUFFER: usize = 4 * MAX_CHUNK;

static ZEROS: [u8; MAX_CHUNK] = [0; MAX_CHUNK];

/// Content could not be made a blob.
#[derive(Debug, thiserror::Error)]
pub enum ChunkError {
    /// The content could not be read.
    #[error("reading the content")]
    Read(#[source] io::Error),
    /// The sink did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Whether `bytes`, at most one chunk, are all zero: a hole, or what may become one.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    ZEROS.get(..bytes.len()) == Some(bytes)
}

/// Whether a chunk is all zero, told from its name.
pub(crate) fn is_zero_chunk(extent: Extent) -> bool {
    ZEROS.get(..extent.len as usize).is_some_and(|zeros| ChunkId::of(zeros) == extent.chunk)
}

/// Puts content that is in memory.
pub fn store_bytes<S: ObjectSink + ?Sized>(bytes: &[u8], sink: &S) -> Result<Blob, StoreError> {
    if bytes.len() <= MAX_CHUNK {
        let chunk = ChunkId::from_bytes(sink.put(ObjectKind::Chunk, bytes)?.hash);
        return Ok(Blob { size: bytes.len() as u64, content: Content::Chunk(chunk) });
    }
    Chunker::new().store(bytes, sink).map_err(|error| match error {
        ChunkError::Store(error) => error,
        // A slice does not fail to be read.
        ChunkError::Read(_) => StoreError::Absent(ChunkId::of(b"").into()),
    })
}

/// Cuts content of any length; keeps its buffer from one file to the next.
#[derive(Debug, Default)]
pub struct Chunker {
    buffer: Vec<u8>,
}

impl Chunker {
    /// A chunker without a buffer yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads to the end, and puts chunks and manifest.
    pub fn store<S: ObjectSink + ?Sized>(
        &mut self,
        mut from: impl Read,
        sink: &S,
    ) -> Result<Blob, ChunkError> {
        self.buffer.resize(BUFFER, 0);
        let mut filled = fill(&mut from, &mut self.buffer).map_err(ChunkError::Read)?;
        if let Some(bytes) = self.buffer.get(..filled).filter(|bytes| bytes.len() <= MAX_CHUNK) {
            return Ok(store_bytes(bytes, sink)?);
        }
        let mut extents = Vec::new();
        let mut zero: Option<Extent> = None;
        let mut size = 0u64;
        let mut start = 0;
        // Only a full buffer can have more behind it: `fill` stops at the end otherwise.
        let mut ended = filled < BUFFER;
        loop {
            if filled - start < MAX_CHUNK && !ended {
                self.buffer.copy_within(start..filled, 0);
                let kept = filled - start;
                let rest = self.buffer.get_mut(kept..).unwrap_or_default();
                filled = kept + fill(&mut from, rest).map_err(ChunkError::Read)?;
                ended = filled < BUFFER;
                start = 0;
            }
            if start == filled {
                break;
            }
            let window = self.buffer.get(start..filled).unwrap_or_default();
            let bytes = window.get(..cdc::cut(window)).unwrap_or(window);
            let len = bytes.len() as u32;
            let extent = match zero {
                Some(zero) if zero.len == len && is_zero(bytes) => zero,
                _ => {
                    let chunk = ChunkId::from_bytes(sink.put(ObjectKind::Chunk, bytes)?.hash);
                    let extent = Extent { len, chunk };
                    if is_zero(bytes) {
                        zero = Some(extent);
                    }
                    extent
                }
            };
            extents.push(extent);
            size += u64::from(len);
            start += bytes.len();
        }
        let content = build_manifest(extents, |_, _, bytes| {
            sink.put(ObjectKind::Manifest, &bytes).map(|_| ())
        })?;
        Ok(Blob { size, content })
    }
}

/// Reads until the buffer is full or the content ends.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match from.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use baton_protocol::id::ObjectId;

    use super::*;
    use crate::objects::memory::MemoryObjects;

    /// Counts what is put, and keeps nothing.
    #[derive(Default)]
    struct Counting {
        puts: AtomicU64,
        bytes: AtomicU64,
    }

    impl ObjectSink for Counting {
        fn put(&self, kind: ObjectKind, bytes: &[u8]) -> Result<ObjectId, StoreError> {
            self.puts.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            Ok(ObjectId::of(kind, bytes))
        }
    }

    fn back(objects: &MemoryObjects, blob: Blob) -> Vec<u8> {
        let mut bytes = Vec::new();
        for_each_extent(objects, blob, |offset, extent| {
            assert_eq!(offset, bytes.len() as u64);
            bytes.extend(read_chunk(objects, extent)?);
            Ok::<_, StoreError>(())
        })
        .unwrap();
        bytes
    }

    #[test]
    fn a_stream_is_cut_like_the_whole() {
        let mut bytes = cdc::tests::noise(9 * BUFFER / 4);
        bytes[BUFFER / 2..2 * BUFFER].fill(0);
        for extra in [0, 1, MAX_CHUNK / 2] {
            bytes.resize(bytes.len() + extra, 0);
            let objects = MemoryObjects::default();
            let blob = Chunker::new().store(Trickle(&bytes), &objects).unwrap();
            let mut lengths = Vec::new();
            for_each_extent(&objects, blob, |_, extent| {
                lengths.push(extent.len as usize);
                Ok::<_, StoreError>(())
            })
            .unwrap();
            assert_eq!(lengths, cdc::tests::whole(&bytes));
        }
    }

    /// Gives its bytes in odd pieces.
    struct Trickle<'a>(&'a [u8]);

    impl Read for Trickle<'_> {
        fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
            let len = to.len().min(self.0.len()).min(77_777);
            let (now, later) = self.0.split_at(len);
            to[..len].copy_from_slice(now);
            self.0 = later;
            Ok(len)
        }
    }

    #[test]
    fn content_of_every_size_comes_back_and_has_one_identity() {
        let noise = cdc::tests::noise(5 * BUFFER / 2);
        for size in [0, 1, MAX_CHUNK - 1, MAX_CHUNK, MAX_CHUNK + 1, BUFFER - 1, BUFFER, BUFFER + 1]
            .into_iter()
            .chain([noise.len()])
        {
            let bytes = &noise[..size];
            let objects = MemoryObjects::default();
            let blob = store_bytes(bytes, &objects).unwrap();
            assert_eq!(blob.size, size as u64);
            assert_eq!(blob.content.is_chunk(), size <= MAX_CHUNK);
            assert!(back(&objects, blob) == bytes, "{size}");
            let streamed = Chunker::new().store(Trickle(bytes), &objects).unwrap();
            assert_eq!(streamed, blob, "{size}");
        }
    }

    #[test]
    fn an_edit_in_the_middle_keeps_most_chunks() {
        let mut bytes = cdc::tests::noise(4 << 20);
        let objects = MemoryObjects::default();
        store_bytes(&bytes, &objects).unwrap();
        let before = objects.0.lock().unwrap().len();
        bytes.splice(2_000_000..2_000_000, [1, 2, 3]);
        store_bytes(&bytes, &objects).unwrap();
        let added = objects.0.lock().unwrap().len() - before;
        assert!(added <= 4, "{added} of {before} objects are new");
    }

    #[test]
    fn a_sparse_gigabyte_costs_the_sink_next_to_nothing() {
        let sink = Counting::default();
        let content = io::repeat(0).take(1 << 30).chain(&b"end"[..]);
        let blob = Chunker::new().store(content, &sink).unwrap();
        assert_eq!(blob.size, (1 << 30) + 3);
        let puts = sink.puts.load(Ordering::Relaxed);
        let bytes = sink.bytes.load(Ordering::Relaxed);
        assert!(puts < 100 && bytes < 2 << 20, "{puts} puts of {bytes} bytes");
    }
}

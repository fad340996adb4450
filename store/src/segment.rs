//! Segments: append-only files of records, each of 1..n objects in one zstd frame.
//!
//! A segment grows under the name `open-UID`. At 64 MiB it is sealed: a footer with the sorted ids and
//! the BLAKE3 of everything before it is added, and it is renamed to that hash. A record can be
//! found again by its magic after damage, and says itself which objects it holds, so that the
//! index is never needed to read a segment. `docs/format.md` shows the bytes.

mod record;
mod footer;
mod reader;
mod writer;

pub use footer::{Footer, FooterEntry, read_footer};
pub use reader::{SegmentHeader, read_header, scan};
pub use record::{
    MAX_RECORD, RECORD_TARGET, Record, RecordBuilder, RecordDecoder, RecordEntry, RecordHead,
    RecordPacker, decode_record, decode_table,
};
pub use writer::{Appended, SEAL_AT, SealError, Sealed, SegmentWriter};

//! Whole records of a log on their way into another one: sent as they stand there, taken apart where they
//! arrive only to be hashed, and kept as they came.

use baton_protocol::frame::MAX_FRAME;
use baton_protocol::id::ObjectKind;
use baton_protocol::object::MAX_CHUNK;
use baton_store::objects::{Location, ObjectSource, OpenRecord, PackedRecord};
use baton_store::segment::{RecordEntry, RecordHead, decode_table};

use super::SyncError;

/// Reads the record that stands at a place; nothing where that is damaged, or longer than a frame.
pub(super) fn read<'a, S: ObjectSource + ?Sized>(
    source: &S,
    open: &'a mut OpenRecord,
    at: &Location,
) -> Result<Option<PackedRecord<'a>>, SyncError> {
    Ok(source.packed_record(open, at)?.filter(|record| record.bytes.len() <= MAX_FRAME))
}

/// Takes the table of a record that came, all of it chunks as they may be: nothing else travels so.
pub(super) fn table(body: &[u8], entries: &mut Vec<RecordEntry>) -> Option<RecordHead> {
    let head = decode_table(body, entries)?;
    let is_chunk =
        |entry: &RecordEntry| entry.id.kind == ObjectKind::Chunk && entry.len as usize <= MAX_CHUNK;
    entries.iter().all(is_chunk).then_some(head)
}

//! Whole records of a log on their way into another one: sent as they stand there, taken apart where they
//! arrive only to be hashed, and kept as they came.

use baton_protocol::frame::{FrameKind, MAX_FRAME, encode_header};
use baton_protocol::id::{ObjectId, ObjectKind};
use baton_store::error::StoreError;
use baton_store::objects::{Location, ObjectSource, OpenRecord, PackedRecord};
use baton_store::segment::{Record, RecordDecoder};
use baton_store::vault::Intake;

use super::{SyncError, Wire};

/// Reads the record that stands at a place; nothing where that is damaged, or longer than a frame.
pub(super) fn read<'a, S: ObjectSource + ?Sized>(
    source: &S,
    open: &'a mut OpenRecord,
    at: &Location,
) -> Result<Option<PackedRecord<'a>>, SyncError> {
    Ok(source.packed_record(open, at)?.filter(|record| record.bytes.len() <= MAX_FRAME))
}

/// Sends one.
pub(super) fn send(wire: &mut Wire, record: &[u8]) -> Result<(), SyncError> {
    wire.write(&encode_header(FrameKind::Record, record.len())?)?;
    Ok(wire.write(record)?)
}

/// A record could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecordError {
    /// It is none, or says of its objects what they are not.
    #[error("a damaged record")]
    Damaged,
    /// Our own store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Takes records that come, one after the other, in the same buffers.
#[derive(Debug, Default)]
pub(super) struct Taking {
    decoder: RecordDecoder,
    record: Record,
}

impl Taking {
    /// Takes one; `accept` checks each object and computes its id. Returns how many it held.
    pub(super) fn take<E: From<RecordError>>(
        &mut self,
        intake: &Intake,
        body: &[u8],
        mut accept: impl FnMut(ObjectKind, &[u8]) -> Result<ObjectId, E>,
    ) -> Result<u64, E> {
        let Self { decoder, record } = self;
        decoder.decode(body, record).ok_or(RecordError::Damaged)?;
        for entry in &record.entries {
            // What stands in the table is believed where it is what the bytes say.
            if accept(entry.id.kind, record.bytes(entry))? != entry.id {
                return Err(RecordError::Damaged.into());
            }
        }
        intake.put_record(body, record).map_err(RecordError::from)?;
        Ok(record.entries.len() as u64)
    }
}

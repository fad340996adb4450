//! What stands on a stream: frames with a length, a type and a body.
//!
//! A frame is one control [`message`](crate::message), a [`batch`](crate::batch) of objects, or a record.
//!
//! **Invariant:** a receiver that reads [`HEADER`] bytes, checks the length against [`MAX_FRAME`] and
//! then reads the body has bounded its memory.

use crate::delta::DeltaError;
use crate::encode::DecodeError;
use crate::object::MAX_OBJECT;

/// Bytes before a body: its length as a little-endian u32, and the type.
pub const HEADER: usize = 5;

/// Longest body. Two objects of the largest size fit, however badly they compress.
pub const MAX_FRAME: usize = 2 * MAX_OBJECT + 64 * 1024;

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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
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
    fn headers_that_are_none_are_refused() {
        assert!(decode_header([0xff, 0xff, 0xff, 0xff, 1]).is_err());
        assert!(decode_header([0, 0, 0, 0, 9]).is_err());
    }

    #[test]
    fn a_longer_frame_than_the_limit_is_not_made() {
        assert!(matches!(
            encode_header(FrameKind::Message, MAX_FRAME + 1),
            Err(FrameError::TooLong(_))
        ));
    }
}

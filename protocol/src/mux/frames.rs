//! The frames of the multiplexer: nine bytes, and after those of data the data.
//!
//! **Invariant:** nothing is kept of a frame but its nine bytes: data is handed on as it comes.

/// The peer sent what it must not. The connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MuxError {
    /// A frame of no known kind.
    #[error("unknown kind of frame {0}")]
    Kind(u8),
    /// About a stream that is not there, or not any more.
    #[error("a frame about stream {0}, which there is not")]
    Stream(u32),
    /// More data than there was credit for.
    #[error("more data than was allowed")]
    Credit,
    /// More streams than there may be.
    #[error("more streams than were allowed")]
    Streams,
}

/// Bytes of a frame without its data: the kind, the stream, a value, both little-endian.
const HEADER: usize = 9;

/// What a frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// So many bytes of a stream follow.
    Data,
    /// The direction ends.
    Finish,
    /// The direction is given up.
    Reset,
    /// The other direction is not read any more.
    Stop,
    /// So many bytes more may be sent on the stream; on 0, on all together.
    Credit,
    /// The next stream is there.
    Open,
    /// So many streams may there be in all.
    Allow,
    /// Answer with this value.
    Ping,
    /// The answer.
    Pong,
    /// Nothing follows; the value says why.
    Close,
}

impl Kind {
    pub(super) const ALL: [Self; 10] = [
        Self::Data,
        Self::Finish,
        Self::Reset,
        Self::Stop,
        Self::Credit,
        Self::Open,
        Self::Allow,
        Self::Ping,
        Self::Pong,
        Self::Close,
    ];
}

/// Appends a frame, or the head of one with data.
pub(super) fn put(to: &mut Vec<u8>, kind: Kind, id: u32, value: u32) {
    to.push(kind as u8);
    to.extend_from_slice(&id.to_le_bytes());
    to.extend_from_slice(&value.to_le_bytes());
}

/// What the next bytes are.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Event<'a> {
    /// A frame, or the head of one with data.
    Frame { kind: Kind, id: u32, value: u32 },
    /// Some of the data of a frame.
    Data { id: u32, data: &'a [u8] },
    /// A frame is not complete yet.
    Nothing,
}

/// Takes frames apart.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    head: [u8; HEADER],
    filled: usize,
    /// Data that is still to come, and of which stream.
    rest: (u32, usize),
}

impl Decoder {
    /// What `bytes` begin with, and what is left of them.
    pub(super) fn next<'a>(&mut self, bytes: &'a [u8]) -> Result<(Event<'a>, &'a [u8]), MuxError> {
        let (id, rest) = self.rest;
        if rest > 0 {
            let (data, left) = bytes.split_at(rest.min(bytes.len()));
            self.rest = (id, rest - data.len());
            return Ok((Event::Data { id, data }, left));
        }
        let (more, left) = bytes.split_at((HEADER - self.filled).min(bytes.len()));
        for (to, &from) in self.head.iter_mut().skip(self.filled).zip(more) {
            *to = from;
        }
        self.filled += more.len();
        if self.filled < HEADER {
            return Ok((Event::Nothing, left));
        }
        self.filled = 0;
        let [kind, a, b, c, d, e, f, g, h] = self.head;
        let (id, value) = (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]));
        let kind = *Kind::ALL.get(usize::from(kind)).ok_or(MuxError::Kind(kind))?;
        if kind == Kind::Data {
            self.rest = (id, value as usize);
        }
        Ok((Event::Frame { kind, id, value }, left))
    }
}

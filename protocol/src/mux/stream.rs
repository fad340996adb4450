//! One stream: what came and was not read, what is to be sent, and how each direction ends.

use std::collections::VecDeque;

/// Unread bytes of one stream.
pub const STREAM_WINDOW: u32 = 8 * 1024 * 1024;

/// Longest piece of data in a frame; the streams take turns by it, and a TLS record has as much.
pub(super) const PIECE: usize = 16 * 1024;

/// What reading a stream came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes were appended.
    Some(usize),
    /// Nothing has come yet.
    Waiting,
    /// There is no more.
    End,
    /// The peer gave the stream up.
    Abandoned,
}

/// What writing to a stream came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// So many bytes were taken.
    Some(usize),
    /// There is no room now.
    Full,
    /// The peer wants no more, or we ended the stream.
    Stopped,
}

/// How far what we send on a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Some of it is still here, or it has not been ended.
    Under,
    /// All of it has left, and its end.
    Left,
    /// The peer wants no more.
    Stopped,
}

/// How our direction of a stream ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// It goes on.
    Open,
    /// After what is queued.
    Finish,
    /// At once.
    Reset,
    /// The end has been put among what is sent.
    Leaving,
    /// And is gone.
    Left,
}

/// How the peer's direction of a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Not,
    Finished,
    Reset,
}

#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact about one of two directions")]
pub(super) struct Stream {
    pub(super) unread: VecDeque<u8>,
    /// What the peer may still send.
    pub(super) granted: u32,
    pub(super) ended: Ended,
    /// We read no more.
    pub(super) deaf: bool,
    pub(super) stop_due: bool,
    pub(super) reading: bool,

    pub(super) queued: VecDeque<u8>,
    pub(super) credit: u32,
    pub(super) ending: Ending,
    /// The peer reads no more.
    pub(super) stopped: bool,
    pub(super) writing: bool,
}

impl Stream {
    pub(super) fn new() -> Self {
        Self {
            unread: VecDeque::new(),
            granted: STREAM_WINDOW,
            ended: Ended::Not,
            deaf: false,
            stop_due: false,
            reading: true,
            queued: VecDeque::new(),
            credit: STREAM_WINDOW,
            ending: Ending::Open,
            stopped: false,
            writing: true,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        let sent = matches!(self.ending, Ending::Leaving | Ending::Left);
        sent && self.ended != Ended::Not && !self.reading && !self.writing && !self.stop_due
    }

    /// Credit to give back, once it is worth a frame.
    pub(super) fn owed(&self) -> Option<u32> {
        if self.deaf || self.ended != Ended::Not {
            return None;
        }
        let held = self.granted.saturating_add(self.unread.len() as u32);
        let owed = STREAM_WINDOW.saturating_sub(held);
        (owed >= STREAM_WINDOW / 2).then_some(owed)
    }
}

/// Moves the first `count` bytes, of which there are as many.
pub(super) fn take(from: &mut VecDeque<u8>, count: usize, to: &mut Vec<u8>) {
    let (head, tail) = from.as_slices();
    let first = count.min(head.len());
    to.extend_from_slice(head.get(..first).unwrap_or_default());
    to.extend_from_slice(tail.get(..count - first).unwrap_or_default());
    from.drain(..count);
    if from.is_empty() {
        // What was full once keeps no memory for it.
        from.shrink_to(PIECE);
    }
}

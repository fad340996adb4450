//! Many streams over one ordered connection, for where QUIC does not get through: what QUIC gives a
//! session and TCP does not, and no more.
//!
//! Only the side that dialled opens streams. Each direction of one ends by itself, or is given up; a
//! reader can say that it wants no more while its own answer still arrives; credit bounds what a
//! peer can make us hold, on a stream and on all of them together.
//!
//! A state machine over bytes: [`Mux::receive`] takes what came, [`Mux::transmit`] says what goes.
//! Who reads the socket never waits for who writes it, so two full sides do not wait for each other.
//!
//! **Invariant:** what is kept is bounded by the credit that was given, whatever a peer sends: data
//! lies in one buffer a stream, and all that is still to be said is state, never a queue of answers.
//!
//! - [`frames`]: what stands on the connection
//! - [`stream`]: one stream and its credit
//!
//! Multiplexers that there are have no way to stop a writer and answer it still, no reason for a close
//! that is ours, and windows that are fixed before the peer is known.

mod frames;
mod stream;

use std::collections::{BTreeMap, VecDeque};

pub use self::frames::MuxError;
use self::frames::{Decoder, Event, Kind};
pub use self::stream::{Delivery, Read, STREAM_WINDOW, Written};
use self::stream::{Ended, Ending, PIECE, Stream, take};

/// Unread bytes on a connection to begin with, in either direction.
pub const FIRST_WINDOW: u32 = 256 * 1024;

/// Streams at once.
pub const STREAMS: u32 = 32;

/// Bytes of one stream that wait to be sent.
const SEND_BUFFER: usize = 256 * 1024;

/// Longest piece that a peer may send: as much is not known to be read before it has come.
const MAX_PIECE: u32 = 64 * 1024;

/// Which side of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// It dialled, and opens streams.
    Dialling,
    /// It was dialled, and accepts them.
    Accepting,
}

/// One end of a connection.
#[derive(Debug)]
pub struct Mux {
    side: Side,
    streams: BTreeMap<u32, Stream>,
    /// Streams opened so far: the last one's number.
    opened: u32,
    /// Of those, announced to the peer, or accepted by us.
    announced: u32,
    /// How many there may be in all, as the accepting side has said.
    allowed: u32,
    /// Streams that are over.
    over: u32,
    /// Unread bytes that all streams may have.
    window: u32,
    granted: u32,
    unread: u32,
    credit: u32,
    /// The stream whose turn it was last.
    turn: u32,
    /// Streams whose end is among what leaves.
    leaving: Vec<u32>,
    ping_due: Option<u32>,
    pong_due: Option<u32>,
    /// The number of the last ping that was answered.
    answered: Option<u32>,
    close_due: Option<u32>,
    closed: bool,
    peer_closed: Option<u32>,
    decoder: Decoder,
}

impl Mux {
    /// A connection with no stream.
    pub fn new(side: Side) -> Self {
        Self {
            side,
            streams: BTreeMap::new(),
            opened: 0,
            announced: 0,
            allowed: STREAMS,
            over: 0,
            window: FIRST_WINDOW,
            granted: FIRST_WINDOW,
            unread: 0,
            credit: FIRST_WINDOW,
            turn: 0,
            leaving: Vec::new(),
            ping_due: None,
            pong_due: None,
            answered: None,
            close_due: None,
            closed: false,
            peer_closed: None,
            decoder: Decoder::default(),
        }
    }

    /// Allows the peer more unread bytes; never less than it may have already.
    pub fn widen(&mut self, window: u32) {
        self.window = self.window.max(window);
    }

    /// Opens a stream; nothing where there are as many as there may be.
    pub fn open(&mut self) -> Option<u32> {
        if self.side != Side::Dialling || self.opened >= self.allowed {
            return None;
        }
        self.opened += 1;
        self.streams.insert(self.opened, Stream::new());
        Some(self.opened)
    }

    /// The next stream that the peer opened.
    pub fn accept(&mut self) -> Option<u32> {
        if self.side != Side::Accepting || self.announced == self.opened {
            return None;
        }
        self.announced += 1;
        Some(self.announced)
    }

    /// Appends up to `most` bytes of a stream to `into`.
    pub fn read(&mut self, id: u32, most: usize, into: &mut Vec<u8>) -> Read {
        let Some(stream) = self.streams.get_mut(&id) else { return Read::Abandoned };
        let count = stream.unread.len().min(most);
        if count > 0 {
            take(&mut stream.unread, count, into);
            self.unread -= count as u32;
            return Read::Some(count);
        }
        match stream.ended {
            Ended::Not => Read::Waiting,
            Ended::Finished => Read::End,
            Ended::Reset => Read::Abandoned,
        }
    }

    /// Takes as many bytes as there is room for.
    pub fn write(&mut self, id: u32, bytes: &[u8]) -> Written {
        let Some(stream) = self.streams.get_mut(&id) else { return Written::Stopped };
        if stream.stopped || stream.ending != Ending::Open {
            return Written::Stopped;
        }
        let count = bytes.len().min(SEND_BUFFER - stream.queued.len());
        if count == 0 && !bytes.is_empty() {
            return Written::Full;
        }
        stream.queued.extend(bytes.get(..count).unwrap_or_default());
        Written::Some(count)
    }

    /// Ends our direction of a stream, after what was written.
    pub fn finish(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.ending == Ending::Open
        {
            stream.ending = Ending::Finish;
        }
    }

    /// Gives our direction of a stream up; what was written and has not left does not.
    pub fn reset(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && matches!(stream.ending, Ending::Open | Ending::Finish)
        {
            stream.ending = Ending::Reset;
            stream.queued = VecDeque::new();
        }
    }

    /// Reads no more of a stream, and tells the peer.
    pub fn stop(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.deaf
        {
            stream.deaf = true;
            stream.stop_due = stream.ended == Ended::Not;
            self.unread -= stream.unread.len() as u32;
            stream.unread = VecDeque::new();
        }
    }

    /// Nobody reads the stream any more.
    pub fn drop_reader(&mut self, id: u32) {
        self.stop(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.reading = false;
        }
        self.forget(id);
    }

    /// Nobody writes to the stream any more: it ends, where it has not been ended otherwise.
    pub fn drop_writer(&mut self, id: u32) {
        self.finish(id);
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.writing = false;
        }
        self.forget(id);
    }

    /// How far what was written to a stream has come.
    pub fn delivery(&self, id: u32) -> Delivery {
        match self.streams.get(&id) {
            Some(stream) if stream.stopped => Delivery::Stopped,
            Some(stream) if stream.ending != Ending::Left => Delivery::Under,
            _ => Delivery::Left,
        }
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self, number: u32) {
        self.ping_due = Some(number);
    }

    /// The number of the last ping that was answered.
    pub const fn answered(&self) -> Option<u32> {
        self.answered
    }

    /// Says nothing more but why.
    pub fn close(&mut self, code: u32) {
        if !self.closed {
            self.close_due.get_or_insert(code);
        }
    }

    /// Why the peer closed the connection, where it did.
    pub const fn peer_closed(&self) -> Option<u32> {
        self.peer_closed
    }

    /// Whether everything was said.
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    /// Takes what came, cut anyhow. After a close of the peer's nothing more is taken.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), MuxError> {
        while !bytes.is_empty() && self.peer_closed.is_none() {
            let (event, rest) = self.decoder.next(bytes)?;
            bytes = rest;
            match event {
                Event::Frame { kind, id, value } => self.frame(kind, id, value)?,
                Event::Data { id, data } => self.data(id, data)?,
                Event::Nothing => {}
            }
        }
        Ok(())
    }

    fn frame(&mut self, kind: Kind, id: u32, value: u32) -> Result<(), MuxError> {
        match kind {
            Kind::Open => return self.opened_by_peer(id),
            // Its length is checked before any of it has come.
            Kind::Data => return self.announced_data(id, value),
            Kind::Finish | Kind::Reset => {
                let stream = self.streams.get_mut(&id).filter(|stream| stream.ended == Ended::Not);
                let stream = stream.ok_or(MuxError::Stream(id))?;
                stream.stop_due = false;
                stream.ended = Ended::Finished;
                if kind == Kind::Reset {
                    stream.ended = Ended::Reset;
                    self.unread -= stream.unread.len() as u32;
                    stream.unread = VecDeque::new();
                }
                self.forget(id);
            }
            Kind::Stop => {
                if let Some(stream) = self.live(id)?
                    && matches!(stream.ending, Ending::Open | Ending::Finish)
                {
                    stream.stopped = true;
                    self.reset(id);
                }
            }
            Kind::Credit if id == 0 => {
                self.credit = self.credit.checked_add(value).ok_or(MuxError::Credit)?;
            }
            Kind::Credit => {
                if let Some(stream) = self.live(id)? {
                    stream.credit = stream.credit.checked_add(value).ok_or(MuxError::Credit)?;
                }
            }
            Kind::Allow => {
                if self.side == Side::Accepting {
                    return Err(MuxError::Streams);
                }
                self.allowed = self.allowed.max(value);
            }
            Kind::Ping => self.pong_due = Some(value),
            Kind::Pong => self.answered = Some(value),
            Kind::Close => self.peer_closed = Some(value),
        }
        Ok(())
    }

    /// A stream that is there; nothing where it is over, which the peer may not have known.
    fn live(&mut self, id: u32) -> Result<Option<&mut Stream>, MuxError> {
        if id == 0 || id > self.opened {
            return Err(MuxError::Stream(id));
        }
        Ok(self.streams.get_mut(&id))
    }

    fn opened_by_peer(&mut self, id: u32) -> Result<(), MuxError> {
        if self.side == Side::Dialling || id != self.opened.wrapping_add(1) {
            return Err(MuxError::Stream(id));
        }
        if id > self.allowed {
            return Err(MuxError::Streams);
        }
        self.opened = id;
        self.streams.insert(id, Stream::new());
        Ok(())
    }

    fn announced_data(&mut self, id: u32, len: u32) -> Result<(), MuxError> {
        if len > MAX_PIECE {
            return Err(MuxError::Credit);
        }
        let stream = self.streams.get_mut(&id).filter(|stream| stream.ended == Ended::Not);
        let stream = stream.ok_or(MuxError::Stream(id))?;
        self.granted = self.granted.checked_sub(len).ok_or(MuxError::Credit)?;
        // It counts as unread before it has come, so that no credit is given back for it.
        self.unread += len;
        stream.granted = stream.granted.checked_sub(len).ok_or(MuxError::Credit)?;
        Ok(())
    }

    fn data(&mut self, id: u32, data: &[u8]) -> Result<(), MuxError> {
        match self.streams.get_mut(&id) {
            Some(stream) if !stream.deaf => stream.unread.extend(data),
            // Nobody reads it.
            Some(_) => self.unread -= data.len() as u32,
            None => return Err(MuxError::Stream(id)),
        }
        Ok(())
    }

    /// Drops a stream that is over, and lets the peer open another one.
    fn forget(&mut self, id: u32) {
        if self.streams.get(&id).is_some_and(Stream::is_over) {
            self.streams.remove(&id);
            self.over += 1;
        }
    }

    /// Whether there is something to send.
    pub fn has_news(&self) -> bool {
        !self.leaving.is_empty() || self.has_control() || self.next_sender().is_some()
    }

    fn has_control(&self) -> bool {
        if self.closed {
            return false;
        }
        self.close_due.is_some()
            || self.ping_due.is_some()
            || self.pong_due.is_some()
            || (self.side == Side::Dialling && self.announced < self.opened)
            || self.allowance().is_some()
            || self.owed().is_some()
            || self.streams.values().any(|stream| {
                stream.stop_due || stream.owed().is_some() || stream.ending == Ending::Reset
            })
    }

    /// Appends to `to` what is to be sent now, about `most` bytes of it. What was given before has
    /// left by now.
    pub fn transmit(&mut self, to: &mut Vec<u8>, most: usize) {
        for id in std::mem::take(&mut self.leaving) {
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.ending = Ending::Left;
            }
        }
        if self.closed {
            return;
        }
        if let Some(code) = self.close_due.take() {
            frames::put(to, Kind::Close, 0, code);
            self.closed = true;
            return;
        }
        self.control(to);
        while to.len() < most
            && let Some(id) = self.next_sender()
        {
            self.turn = id;
            self.piece(id, to);
        }
    }

    fn control(&mut self, to: &mut Vec<u8>) {
        if self.side == Side::Dialling {
            for id in self.announced + 1..=self.opened {
                frames::put(to, Kind::Open, id, 0);
            }
            self.announced = self.opened;
        }
        if let Some(number) = self.pong_due.take() {
            frames::put(to, Kind::Pong, 0, number);
        }
        if let Some(number) = self.ping_due.take() {
            frames::put(to, Kind::Ping, 0, number);
        }
        if let Some(allowed) = self.allowance() {
            self.allowed = allowed;
            frames::put(to, Kind::Allow, 0, allowed);
        }
        if let Some(owed) = self.owed() {
            self.granted += owed;
            frames::put(to, Kind::Credit, 0, owed);
        }
        let mut ended = Vec::new();
        for (&id, stream) in &mut self.streams {
            if let Some(owed) = stream.owed() {
                stream.granted += owed;
                frames::put(to, Kind::Credit, id, owed);
            }
            if std::mem::take(&mut stream.stop_due) {
                frames::put(to, Kind::Stop, id, 0);
            }
            if stream.ending == Ending::Reset {
                frames::put(to, Kind::Reset, id, 0);
                stream.ending = Ending::Leaving;
                ended.push(id);
            }
        }
        for id in ended {
            self.leaving.push(id);
            self.forget(id);
        }
    }

    /// The number of streams to allow in all, where that is more than was said.
    fn allowance(&self) -> Option<u32> {
        let allowed = STREAMS.saturating_add(self.over);
        (self.side == Side::Accepting && allowed > self.allowed).then_some(allowed)
    }

    fn owed(&self) -> Option<u32> {
        let owed = self.window.saturating_sub(self.granted).saturating_sub(self.unread);
        (owed >= self.window / 2).then_some(owed)
    }

    /// The stream whose turn it is among those that can send.
    fn next_sender(&self) -> Option<u32> {
        let can_send = |stream: &Stream| match stream.ending {
            Ending::Finish if stream.queued.is_empty() => true,
            Ending::Open | Ending::Finish => {
                !stream.queued.is_empty() && stream.credit > 0 && self.credit > 0
            }
            _ => false,
        };
        if self.closed {
            return None;
        }
        let after = self.streams.range(self.turn.saturating_add(1)..);
        let mut all = after.chain(self.streams.range(..=self.turn));
        all.find(|(_, stream)| can_send(stream)).map(|(&id, _)| id)
    }

    fn piece(&mut self, id: u32, to: &mut Vec<u8>) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let credit = stream.credit.min(self.credit) as usize;
        let count = stream.queued.len().min(PIECE).min(credit);
        if count > 0 {
            frames::put(to, Kind::Data, id, count as u32);
            take(&mut stream.queued, count, to);
            stream.credit -= count as u32;
            self.credit -= count as u32;
        }
        if stream.queued.is_empty() && stream.ending == Ending::Finish {
            frames::put(to, Kind::Finish, id, 0);
            stream.ending = Ending::Leaving;
            self.leaving.push(id);
            self.forget(id);
        }
    }
}

#[cfg(test)]
mod tests;

//! What stands in for a stream: the end of a wire that a test holds in its hands.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use baton_protocol::frame::{HEADER, decode_header};

use super::super::{Ends, Wire};
use crate::transport::TransportError;
use crate::transport::stream::Frame;

/// One side of a wire.
pub(in crate::sync) trait End: std::fmt::Debug + Send {
    /// The next frame; nothing where the peer has ended.
    fn read(&mut self) -> Result<Option<Frame>, TransportError>;

    /// Says these bytes.
    fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError>;
}

/// A wire that ends there.
pub(super) fn wire(end: impl End + 'static) -> Wire {
    Wire { ends: Ends::Acted(Box::new(end)), stop: Vec::new() }
}

/// Takes the first frame of what came; nothing where that is not all of one.
pub(super) fn take_frame(arrived: &mut VecDeque<u8>) -> Result<Option<Frame>, TransportError> {
    let mut header = [0; HEADER];
    if arrived.len() < HEADER {
        return Ok(None);
    }
    for (to, from) in header.iter_mut().zip(arrived.iter()) {
        *to = *from;
    }
    let (kind, len) = decode_header(header).map_err(TransportError::Malformed)?;
    if arrived.len() < HEADER + len {
        return Ok(None);
    }
    arrived.drain(..HEADER);
    Ok(Some(Frame { kind, body: arrived.drain(..len).collect() }))
}

/// A peer that says what it was going to say, whatever it hears.
pub(super) struct Recital {
    left: VecDeque<u8>,
    half: VecDeque<u8>,
    hear: Box<dyn FnMut(Frame) + Send>,
}

impl Recital {
    /// `hear` is given each frame that is said to it.
    pub(super) fn new(bytes: &[u8], hear: impl FnMut(Frame) + Send + 'static) -> Self {
        Self { left: bytes.iter().copied().collect(), half: VecDeque::new(), hear: Box::new(hear) }
    }
}

impl std::fmt::Debug for Recital {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recital").field("left", &self.left.len()).finish_non_exhaustive()
    }
}

impl End for Recital {
    fn read(&mut self) -> Result<Option<Frame>, TransportError> {
        let frame = take_frame(&mut self.left)?;
        if frame.is_none() && !self.left.is_empty() {
            return Err(TransportError::Ended);
        }
        Ok(frame)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.half.extend(bytes);
        while let Some(frame) = take_frame(&mut self.half).expect("we say frames") {
            (self.hear)(frame);
        }
        Ok(())
    }
}

/// All that one side has said.
pub(super) type Tape = Arc<Mutex<Vec<u8>>>;

/// Two ends of one wire, for two threads, and what each of them says.
pub(super) fn taped() -> [(Taped, Tape); 2] {
    let ((to_b, from_a), (to_a, from_b)) = (channel(), channel());
    [(to_b, from_b), (to_a, from_a)].map(|(to, from)| {
        let tape = Tape::default();
        let end = Taped { to, from, arrived: VecDeque::new(), said: Arc::clone(&tape) };
        (end, tape)
    })
}

/// One of them.
#[derive(Debug)]
pub(super) struct Taped {
    to: Sender<Vec<u8>>,
    from: Receiver<Vec<u8>>,
    arrived: VecDeque<u8>,
    said: Tape,
}

impl End for Taped {
    fn read(&mut self) -> Result<Option<Frame>, TransportError> {
        loop {
            if let Some(frame) = take_frame(&mut self.arrived)? {
                return Ok(Some(frame));
            }
            match self.from.recv() {
                Ok(bytes) => self.arrived.extend(bytes),
                Err(_) if self.arrived.is_empty() => return Ok(None),
                Err(_) => return Err(TransportError::Ended),
            }
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.said.lock().unwrap().extend_from_slice(bytes);
        self.to.send(bytes.to_vec()).map_err(|_| TransportError::Stopped)
    }
}

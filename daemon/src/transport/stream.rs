//! Frames and messages on one stream, with bounded memory and bounded patience.
//!
//! Two limits guard against a peer that does not go on. *Patience*: a frame that has begun must be
//! complete within the stall time and what its length takes at 64 kbit/s; so neither silence nor a
//! drip of bytes holds a place for ever. *Progress*, on the dialling side: while we wait, what we
//! have sent must be acknowledged (three probe timeouts), and after two seconds of silence we send something for that; so a
//! node that vanished or was restarted is noticed in seconds, not at the idle limit of 150 s.
//!
//! **Invariant:** memory grows with the bytes that have arrived, never with the length that a header
//! claims; and a header that claims more than a frame may have is refused before the body is read.

use std::sync::Arc;
use std::time::Duration;

use baton_protocol::frame::{FrameError, FrameKind, HEADER, MAX_FRAME, decode_header};
use baton_protocol::message;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::connection::{Connection, Receiver, Sender, Streams};
use super::{CloseCode, TransportError};

/// Slower than any link that can carry a tree: 64 kbit/s.
const LEAST_RATE: u64 = 8 * 1024;

/// Stall times that a peer has to begin an answer for which it must read its disk: with the usual one
/// ten minutes. A node that checks a push of a million files needs a few seconds.
const WORK: u32 = 10;

/// A whole frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What the body holds.
    pub kind: FrameKind,
    /// At most [`MAX_FRAME`] bytes.
    pub body: Vec<u8>,
}

/// Both directions of one request.
#[derive(Debug)]
pub struct FrameStream {
    /// What the peer sends.
    pub reader: FrameReader,
    /// What we send.
    pub writer: FrameWriter,
}

impl FrameStream {
    /// A stream that we opened; `stall` is the patience for each frame and each write. `busy` is
    /// held as long as either half lives.
    pub fn dialled(
        connection: &Connection,
        streams: Streams,
        stall: Duration,
        busy: Arc<()>,
    ) -> Self {
        let link = Link { connection: connection.clone(), watched: true, busy: Some(busy) };
        Self::new(link, streams, stall)
    }

    /// A stream that the peer opened.
    pub fn accepted(connection: &Connection, streams: Streams, stall: Duration) -> Self {
        let link = Link { connection: connection.clone(), watched: false, busy: None };
        Self::new(link, streams, stall)
    }

    fn new(link: Link, streams: Streams, stall: Duration) -> Self {
        let Streams { sender: send, receiver: recv } = streams;
        let reader = FrameReader {
            recv,
            link: link.clone(),
            stall,
            header: Vec::new(),
            body: Vec::new(),
            bytes: 0,
        };
        Self { reader, writer: FrameWriter { send, link, stall, bytes: 0 } }
    }

    /// [`FrameReader::next`].
    pub async fn read_frame(&mut self) -> Result<Option<Frame>, TransportError> {
        self.reader.next().await
    }

    /// [`FrameReader::message`].
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<T, TransportError> {
        self.reader.message().await
    }

    /// [`FrameWriter::write`].
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.writer.write(bytes).await
    }

    /// [`FrameWriter::message`].
    pub async fn send<T: Serialize>(&mut self, message: &T) -> Result<(), TransportError> {
        self.writer.message(message).await
    }

    /// [`FrameWriter::finish`].
    pub fn finish(&mut self) {
        self.writer.finish();
    }
}

/// What the peer sends on a stream.
#[derive(Debug)]
pub struct FrameReader {
    recv: Receiver,
    link: Link,
    stall: Duration,
    /// What has come of the next frame.
    header: Vec<u8>,
    body: Vec<u8>,
    bytes: u64,
}

impl FrameReader {
    /// The next frame; nothing where the peer has ended the stream between frames.
    ///
    /// Safe to drop at an await: what has come of the frame is kept for the next call.
    pub async fn next(&mut self) -> Result<Option<Frame>, TransportError> {
        self.frame(Some(self.stall), self.stall, MAX_FRAME).await
    }

    /// The next frame, however long it takes until it begins: for answers that wait on a run. A
    /// peer that is gone is still noticed by the connection.
    pub async fn next_at_last(&mut self) -> Result<Option<Frame>, TransportError> {
        self.frame(None, self.stall, MAX_FRAME).await
    }

    /// The next frame, where the peer may have to work before it begins: for that it has
    /// [`WORK`] stall times.
    pub async fn next_after_work(&mut self) -> Result<Option<Frame>, TransportError> {
        self.frame(Some(self.stall * WORK), self.stall, MAX_FRAME).await
    }

    /// The next frame, of at most `limit` bytes, and with `wait` as its stall time.
    pub async fn frame_within(
        &mut self,
        wait: Duration,
        limit: usize,
    ) -> Result<Option<Frame>, TransportError> {
        self.frame(Some(wait), wait, limit).await
    }

    /// A message; the stream must not end before it.
    pub async fn message<T: DeserializeOwned>(&mut self) -> Result<T, TransportError> {
        let frame = self.next().await?;
        message_in(frame)
    }

    /// A message, or nothing where the peer has ended the stream.
    pub async fn message_or_end<T: DeserializeOwned>(
        &mut self,
    ) -> Result<Option<T>, TransportError> {
        match self.next().await? {
            Some(frame) => message_in(Some(frame)).map(Some),
            None => Ok(None),
        }
    }

    /// A message, however long it takes until it begins.
    pub async fn message_at_last<T: DeserializeOwned>(&mut self) -> Result<T, TransportError> {
        let frame = self.next_at_last().await?;
        message_in(frame)
    }

    /// Tells the peer that we read no more.
    pub fn stop(&mut self) {
        self.recv.stop();
    }

    /// Bytes that have come so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    async fn frame(
        &mut self,
        begin: Option<Duration>,
        stall: Duration,
        limit: usize,
    ) -> Result<Option<Frame>, TransportError> {
        let mut patience = begin.map(Patience::new);
        loop {
            let (want, complete) = match self.announced()? {
                None => (HEADER - self.header.len(), None),
                Some((_, len)) if len > limit => {
                    let error = FrameError::TooLong(len);
                    return Err(TransportError::Malformed(error));
                }
                Some((kind, len)) => (len - self.body.len(), Some(kind)),
            };
            if let Some(kind) = complete.filter(|_| want == 0) {
                self.header.clear();
                return Ok(Some(Frame { kind, body: std::mem::take(&mut self.body) }));
            }
            let begun = self.header.is_empty();
            let into = if complete.is_some() { &mut self.body } else { &mut self.header };
            let read = self.recv.read(want, into);
            let Some(count) = self.link.during("receiving", patience, read).await?? else {
                return if begun { Ok(None) } else { Err(TransportError::Ended) };
            };
            self.bytes += count as u64;
            if complete.is_none() {
                let announced = self.announced()?.map(|(_, len)| len);
                if begun || announced.is_some() {
                    let at_least = announced.unwrap_or(0) as u64 / LEAST_RATE;
                    patience = Some(Patience::new(stall + Duration::from_secs(at_least)));
                }
            }
        }
    }

    /// What the header says, once it is complete.
    fn announced(&self) -> Result<Option<(FrameKind, usize)>, TransportError> {
        match <[u8; HEADER]>::try_from(self.header.as_slice()) {
            Ok(header) => decode_header(header).map(Some).map_err(TransportError::Malformed),
            Err(_) => Ok(None),
        }
    }
}

/// The message in a frame.
pub(crate) fn message_in<T: DeserializeOwned>(frame: Option<Frame>) -> Result<T, TransportError> {
    let frame = frame.ok_or(TransportError::Ended)?;
    match frame.kind {
        FrameKind::Message => message::decode(&frame.body).map_err(TransportError::Malformed),
        FrameKind::Objects | FrameKind::Record => Err(TransportError::OutOfTurn),
    }
}

/// What we send on a stream.
#[derive(Debug)]
pub struct FrameWriter {
    send: Sender,
    link: Link,
    stall: Duration,
    bytes: u64,
}

impl FrameWriter {
    /// Sends bytes that are whole frames; returns when they are on their way, not when they arrived.
    ///
    /// [`TransportError::Stopped`] means that the peer reads no more; its reason can be read.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let write = self.send.write(rest);
            let patience = Some(Patience::new(self.stall));
            let written = self.link.during("sending", patience, write).await??;
            self.bytes += written as u64;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends a message.
    pub async fn message<T: Serialize>(&mut self, message: &T) -> Result<(), TransportError> {
        let frame = message::encode(message).map_err(TransportError::Malformed)?;
        self.write(&frame).await
    }

    /// Says that no more frames come. What was written still arrives.
    pub fn finish(&mut self) {
        self.send.finish();
    }

    /// Waits until the peer has everything, or does not want it, or is gone; at most for the
    /// stall time.
    pub async fn delivered(&mut self) {
        drop(tokio::time::timeout(self.stall, self.send.unwanted()).await);
    }

    /// Resolves when nobody wants the answer any more: the peer stopped reading or is gone.
    pub fn unwanted(&self) -> impl Future<Output = ()> + Send + 'static {
        let unwanted = self.send.unwanted();
        async move {
            if !unwanted.await {
                // It has read all there was, which is another thing.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Gives the stream up, so that the peer does not take what came for the whole.
    pub fn abandon(&mut self) {
        self.send.reset();
    }

    /// Bytes that were written so far.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Until when something must have happened.
#[derive(Clone, Copy, Debug)]
struct Patience {
    until: Instant,
    after: Duration,
}

impl Patience {
    fn new(after: Duration) -> Self {
        Self { until: Instant::now() + after, after }
    }

    async fn over(patience: Option<Self>) -> Duration {
        match patience {
            Some(Self { until, after }) => {
                tokio::time::sleep_until(until).await;
                after
            }
            None => std::future::pending().await,
        }
    }
}

/// The connection below a stream.
#[derive(Clone, Debug)]
struct Link {
    connection: Connection,
    /// Whether we ought to notice that nothing comes back.
    watched: bool,
    /// Tells the pool that the connection is in use.
    #[expect(dead_code, reason = "held for its count, not for its value")]
    busy: Option<Arc<()>>,
}

impl Link {
    /// Waits for `work`, but not past its patience and not on a dead connection.
    async fn during<F: Future>(
        &self,
        doing: &'static str,
        patience: Option<Patience>,
        work: F,
    ) -> Result<F::Output, TransportError> {
        tokio::select! {
            biased;
            done = work => Ok(done),
            after = Patience::over(patience) => Err(TransportError::Timeout { doing, after }),
            () = self.connection.silence(), if self.watched => {
                // Its other streams wait in vain as well.
                self.connection.close(CloseCode::Stalled);
                Err(TransportError::Stalled)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_protocol::frame::encode_header;
    use baton_protocol::message::{Opening, Reply, Request};

    use super::*;
    use crate::transport::testing::{Pair, WAYS, pair};

    const LONG: Duration = Duration::from_secs(20);

    /// A raw client and the node's side of its stream.
    async fn streams(pair: &Pair, stall: Duration) -> (Streams, FrameStream) {
        let mut raw = pair.client.open().await.unwrap();
        // A stream exists for the peer with its first byte: the first one of a header.
        put(&mut raw, &[0]).await;
        let accepted = pair.server.accept().await.unwrap();
        (raw, FrameStream::accepted(&pair.server, accepted, stall))
    }

    async fn put(raw: &mut Streams, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let count = raw.sender.write(bytes).await.unwrap();
            bytes = &bytes[count..];
        }
    }

    #[tokio::test]
    async fn messages_and_frames_arrive_whole_however_they_are_cut() {
        for way in WAYS {
            let pair = pair(way).await;
            let mut raw = pair.client.open().await.unwrap();
            let mut bytes = message::encode(&Opening::new(Request::Hello)).unwrap();
            bytes.extend(encode_header(FrameKind::Objects, 3).unwrap());
            bytes.extend(b"abc");
            bytes.extend(encode_header(FrameKind::Objects, 0).unwrap());
            let write = async {
                for byte in &bytes {
                    put(&mut raw, &[*byte]).await;
                    tokio::task::yield_now().await;
                }
                raw.sender.finish();
            };
            let read = async {
                let accepted = pair.server.accept().await.unwrap();
                let mut stream = FrameStream::accepted(&pair.server, accepted, LONG);
                let opening: Opening = stream.receive().await.unwrap();
                assert!(opening.is_spoken());
                let frame = stream.read_frame().await.unwrap().unwrap();
                assert_eq!((frame.kind, frame.body.as_slice()), (FrameKind::Objects, &b"abc"[..]));
                assert_eq!(stream.read_frame().await.unwrap().unwrap().body, b"");
                assert_eq!(stream.read_frame().await.unwrap(), None);
                assert_eq!(stream.reader.bytes(), bytes.len() as u64);
                stream.send(&Reply::Refs(Vec::new())).await.unwrap();
                stream.finish();
                stream
            };
            let (_stream, ()) = tokio::join!(read, write);
            let mut client = FrameStream::dialled(&pair.client, raw, LONG, Arc::default());
            assert!(matches!(client.receive().await.unwrap(), Reply::Refs(_)));
        }
    }

    #[tokio::test]
    async fn a_frame_longer_than_a_frame_is_refused_by_its_header() {
        for way in WAYS {
            let pair = pair(way).await;
            let (mut raw, mut stream) = streams(&pair, LONG).await;
            put(&mut raw, &[0xff, 0xff, 0xff, 2]).await;
            let refused = stream.read_frame().await.unwrap_err();
            assert!(matches!(refused, TransportError::Malformed(FrameError::TooLong(_))));
            assert_eq!(stream.reader.body.capacity(), 0);
        }
    }

    #[tokio::test]
    async fn a_claimed_length_takes_no_memory() {
        for way in WAYS {
            let pair = pair(way).await;
            let (mut raw, mut stream) = streams(&pair, LONG).await;
            let header = encode_header(FrameKind::Objects, MAX_FRAME & !0xff).unwrap();
            put(&mut raw, &header[1..]).await;
            put(&mut raw, b"little").await;
            let waited =
                tokio::time::timeout(Duration::from_millis(300), stream.read_frame()).await;
            assert!(waited.is_err());
            assert_eq!(stream.reader.body, b"little");
            assert!(stream.reader.body.capacity() < 1024);
        }
    }

    #[tokio::test]
    async fn a_smaller_limit_holds_as_well() {
        for way in WAYS {
            let pair = pair(way).await;
            let (mut raw, mut stream) = streams(&pair, LONG).await;
            put(&mut raw, &[1, 0, 0, 1]).await;
            let refused = stream.reader.frame_within(LONG, 255).await.unwrap_err();
            assert!(matches!(refused, TransportError::Malformed(FrameError::TooLong(256))));
        }
    }

    #[tokio::test]
    async fn silence_and_a_drip_of_bytes_both_run_out_of_patience() {
        for way in WAYS {
            let pair = pair(way).await;
            let stall = Duration::from_millis(300);
            let (_raw, mut stream) = streams(&pair, stall).await;
            let refused = stream.read_frame().await.unwrap_err();
            assert!(matches!(refused, TransportError::Timeout { doing: "receiving", .. }));
            assert!(refused.is_retryable());

            let (mut raw, mut stream) = streams(&pair, stall).await;
            put(&mut raw, &encode_header(FrameKind::Objects, 256).unwrap()[1..]).await;
            let drip = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    put(&mut raw, &[7]).await;
                }
            };
            tokio::select! {
                () = drip => unreachable!("it drips for ever"),
                read = stream.read_frame() => {
                    assert!(matches!(read, Err(TransportError::Timeout { .. })), "{read:?}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_read_that_is_dropped_loses_nothing() {
        for way in WAYS {
            let pair = pair(way).await;
            let (mut raw, mut stream) = streams(&pair, LONG).await;
            put(&mut raw, &[1, 0, 0, 2]).await;
            put(&mut raw, &[9; 100]).await;
            let early = tokio::time::timeout(Duration::from_millis(200), stream.read_frame()).await;
            assert!(early.is_err());
            put(&mut raw, &[9; 156]).await;
            assert_eq!(stream.read_frame().await.unwrap().unwrap().body, [9; 256]);
        }
    }

    #[tokio::test]
    async fn an_end_within_a_frame_and_a_reset_are_errors() {
        for way in WAYS {
            let pair = pair(way).await;
            let (mut raw, mut stream) = streams(&pair, LONG).await;
            raw.sender.finish();
            assert!(matches!(stream.read_frame().await, Err(TransportError::Ended)));
            let (mut raw, mut stream) = streams(&pair, LONG).await;
            raw.sender.reset();
            assert!(matches!(stream.read_frame().await, Err(TransportError::Abandoned)));
        }
    }

    #[tokio::test]
    async fn a_writer_hears_that_nobody_reads() {
        for way in WAYS {
            let pair = pair(way).await;
            let (raw, mut stream) = streams(&pair, LONG).await;
            stream.reader.stop();
            let mut client = FrameStream::dialled(&pair.client, raw, LONG, Arc::default());
            let stopped = loop {
                match client.write(&[0; 4096]).await {
                    Ok(()) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(error) => break error,
                }
            };
            assert!(matches!(stopped, TransportError::Stopped), "{stopped}");
            // Its answer still arrives.
            stream.send(&Reply::Refs(Vec::new())).await.unwrap();
            assert!(matches!(client.receive().await.unwrap(), Reply::Refs(_)));
        }
    }
}

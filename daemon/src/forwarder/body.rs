//! What is sent on, piece by piece: a bound on how much, and on how long nothing comes.
//!
//! **Invariant:** nothing of it is collected: whatever its length, a piece is held at a time.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use crate::task::Task;

/// Longest time between two pieces. A host that puts a pack together says so every few seconds.
const SILENCE: Duration = Duration::from_mins(5);

/// A body was not passed on to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum BodyError {
    /// Whoever sends it stopped.
    #[error("it was cut off")]
    Cut(#[source] hyper::Error),
    /// Nothing came for too long.
    #[error("nothing came for {} s", SILENCE.as_secs())]
    Silent,
    /// It is too long.
    #[error("it is longer than {0} bytes")]
    TooLong(u64),
}

/// Bytes, and then what is left of a body.
#[derive(Debug)]
pub(super) struct Passed {
    first: Option<Bytes>,
    rest: Option<Rest>,
    most: u64,
    left: u64,
    silence: Pin<Box<Sleep>>,
    _tied: Option<Tied>,
}

/// What is left of a body, and who gets it where it is not sent on to its end.
#[derive(Debug)]
struct Rest {
    body: Option<Incoming>,
    back: Option<oneshot::Sender<Incoming>>,
}

impl Rest {
    /// Hands nothing back: there is nothing more to come.
    fn end(mut self) {
        self.body = None;
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let (Some(body), Some(back)) = (self.body.take(), self.back.take()) {
            // Who does not ask for it does not need it.
            let _unwanted = back.send(body);
        }
    }
}

/// A task that ends with this.
#[derive(Debug)]
pub(super) struct Tied(pub(super) Task<()>);

impl Drop for Tied {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Passed {
    /// All of a body, of at most so many bytes.
    pub(super) fn whole(body: Incoming, most: u64) -> Self {
        Self::new(None, Some(body), most)
    }

    /// Bytes that are there.
    pub(super) fn bytes(bytes: Vec<u8>) -> Self {
        Self::new(Some(bytes.into()), None, 0)
    }

    /// The same body with something before what it still has.
    pub(super) fn behind(self, first: Vec<u8>) -> Self {
        Self { first: Some(first.into()), ..self }
    }

    /// The same body, of which somebody gets what is left once it is dropped.
    pub(super) fn handed_back(mut self, back: oneshot::Sender<Incoming>) -> Self {
        if let Some(rest) = &mut self.rest {
            rest.back = Some(back);
        }
        self
    }

    /// The same body, with a task that it needs and that nobody else does.
    pub(super) fn with(self, tied: Tied) -> Self {
        Self { _tied: Some(tied), ..self }
    }

    fn new(first: Option<Bytes>, rest: Option<Incoming>, most: u64) -> Self {
        let silence = Box::pin(tokio::time::sleep(SILENCE));
        let first = first.filter(|first| !first.is_empty());
        let rest = rest.map(|body| Rest { body: Some(body), back: None });
        Self { first, rest, most, left: most, silence, _tied: None }
    }

    fn left(&self) -> Option<&Incoming> {
        self.rest.as_ref().and_then(|rest| rest.body.as_ref())
    }

    fn end(&mut self) {
        if let Some(rest) = self.rest.take() {
            rest.end();
        }
    }

    /// The next piece; nothing at the end.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, BodyError>> {
        loop {
            let frame = std::future::poll_fn(|context| Pin::new(&mut *self).poll_frame(context));
            match frame.await? {
                Ok(frame) => {
                    if let Ok(data) = frame.into_data() {
                        return Some(Ok(data));
                    }
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Reads it to its end, and keeps nothing: who sends first and reads then is not cut off meanwhile.
    pub(super) async fn discard(mut self) {
        while let Some(Ok(_)) = self.next().await {}
    }
}

impl Body for Passed {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        loop {
            let Some(rest) = self.rest.as_mut().and_then(|rest| rest.body.as_mut()) else {
                return Poll::Ready(None);
            };
            match Pin::new(rest).poll_frame(context) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.silence.as_mut().reset(Instant::now() + SILENCE);
                    // Fields behind a body are nobody's here.
                    let Ok(data) = frame.into_data() else { continue };
                    let Some(left) = self.left.checked_sub(data.len() as u64) else {
                        drop(self.rest.take());
                        return Poll::Ready(Some(Err(BodyError::TooLong(self.most))));
                    };
                    self.left = left;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Poll::Ready(Some(Err(error))) => {
                    self.end();
                    return Poll::Ready(Some(Err(BodyError::Cut(error))));
                }
                Poll::Ready(None) => {
                    self.end();
                    return Poll::Ready(None);
                }
                Poll::Pending if self.silence.as_mut().poll(context).is_ready() => {
                    self.end();
                    return Poll::Ready(Some(Err(BodyError::Silent)));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.left().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let first = self.first.as_ref().map_or(0, Bytes::len) as u64;
        let rest = self.left().map_or(SizeHint::with_exact(0), Body::size_hint);
        // Where the length was said it is said again: some hosts take no body without.
        match rest.exact() {
            Some(rest) => SizeHint::with_exact(first + rest),
            None => SizeHint::default(),
        }
    }
}

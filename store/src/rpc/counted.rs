//! Counts the messages of streams as they pass, and how the streams end.
//!
//! A gRPC message on the wire is five bytes (one for compression, four of length) and as many more
//! as they say. Counting looks at the five and skips the rest, so it costs the same for a small
//! message and a large one. Unary calls have one message each way and need none of this.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;
use tonic::{Code, Status};

use crate::metrics::Metrics;

/// Finds the beginnings of messages in a stream of bytes, however it is cut.
#[derive(Debug, Default)]
struct Messages {
    /// Bytes of a prefix that have passed, and the length they told so far.
    prefix: usize,
    length: u32,
    /// Bytes of the message that are still to come.
    left: usize,
}

/// One byte that says whether the message is compressed, and four of length.
const PREFIX: usize = 5;

impl Messages {
    /// How many messages begin in these bytes.
    fn feed(&mut self, mut bytes: &[u8]) -> u64 {
        let mut begun = 0;
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            if self.prefix > 0 {
                self.length = self.length << 8 | u32::from(*first);
            }
            self.prefix += 1;
            bytes = rest;
            if self.prefix == PREFIX {
                begun += 1;
                self.left = self.length as usize;
                (self.prefix, self.length) = (0, 0);
            }
        }
        begun
    }
}

/// What a client sends on a stream.
pub(super) struct Asked<B> {
    body: B,
    messages: Messages,
    metrics: Arc<Metrics>,
    method: usize,
}

impl<B> Asked<B> {
    pub(super) fn new(body: B, metrics: Arc<Metrics>, method: usize) -> Self {
        Self { body, messages: Messages::default(), metrics, method }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Asked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            this.metrics.received(this.method, this.messages.feed(data));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the server sends on a stream, and how it ends: as its trailers say, or canceled by a client
/// that does not wait for them.
pub(super) struct Answered {
    body: tonic::body::Body,
    messages: Messages,
    metrics: Arc<Metrics>,
    method: usize,
    began: Instant,
    code: Code,
}

impl Answered {
    pub(super) fn new(
        body: tonic::body::Body,
        metrics: Arc<Metrics>,
        method: usize,
        began: Instant,
    ) -> Self {
        Self { body, messages: Messages::default(), metrics, method, began, code: Code::Cancelled }
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.metrics.handled(self.method, self.code, self.began.elapsed());
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let begun = self.messages.feed(data);
                    self.metrics.sent(self.method, begun);
                } else if let Some(trailers) = frame.trailers_ref() {
                    let code = trailers.get("grpc-status");
                    self.code = code.map_or(Code::Ok, |code| Code::from_bytes(code.as_bytes()));
                }
            }
            Some(Err(status)) => self.code = status.code(),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_the_bytes_are_cut() {
        let mut wire = Vec::new();
        let lengths = [0_u32, 1, 3, 300, 0, 70_000, 2];
        for length in lengths {
            wire.push(0);
            wire.extend_from_slice(&length.to_be_bytes());
            wire.resize(wire.len() + length as usize, 0xff);
        }
        for size in [1, 2, 4, 5, 6, 7, 1000, wire.len()] {
            let mut messages = Messages::default();
            let begun: u64 = wire.chunks(size).map(|piece| messages.feed(piece)).sum();
            assert_eq!(begun, lengths.len() as u64, "in pieces of {size}");
            assert_eq!((messages.prefix, messages.left), (0, 0));
        }
    }
}

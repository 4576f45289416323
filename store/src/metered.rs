//! A connection that counts its bytes and knows whether its client has said anything yet.
//!
//! A client that connects and stays silent holds a place that others may need. Once it has begun to
//! speak HTTP/2 it may be silent for as long as it likes: that is what an idle gRPC client is.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::metrics::Metrics;

/// Whether a client has said what it is there for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Greeting(Arc<AtomicBool>);

impl Greeting {
    /// It has.
    pub(crate) fn given(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn was_given(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// How HTTP/2 begins; of HTTP/1 no request does.
const PREFACE: &[u8] = b"PRI ";

/// The connection.
pub(crate) struct Metered<T> {
    io: T,
    metrics: Arc<Metrics>,
    greeting: Greeting,
    heard: bool,
}

impl<T> Metered<T> {
    pub(crate) fn new(io: T, metrics: Arc<Metrics>, greeting: Greeting) -> Self {
        Self { io, metrics, greeting, heard: false }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Metered<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        let read = &buffer.filled()[before..];
        if !this.heard && !read.is_empty() {
            this.heard = true;
            if read.starts_with(PREFACE) {
                this.greeting.given();
            }
        }
        this.metrics.received_bytes(read.len());
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Metered<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(context, bytes))?;
        this.metrics.sent_bytes(written);
        Poll::Ready(Ok(written))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write_vectored(context, pieces))?;
        this.metrics.sent_bytes(written);
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(context)
    }
}

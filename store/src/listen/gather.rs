//! A connection whose small writes are gathered.
//!
//! `h2` hands over each DATA frame of more than some hundred bytes by itself, which is one system
//! call for each answer. Whoever drives the connection knows better when a turn is over: it holds
//! the output ([`Held::hold`]) while it answers all that has come, and lets it go in one piece
//! ([`Held::release`]).
//!
//! What is held is bounded: a writer that finds it full waits for the socket, as it would have
//! without this.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Output that is gathered before it goes out anyway: what one system call moves at a good price.
const GATHERED_MAX: usize = 64 << 10;

/// What a connection keeps allocated while it has nothing to send.
const KEPT_BYTES: usize = 16 << 10;

/// The connection as `h2` sees it.
pub(super) struct Gather<T>(Arc<Mutex<Output<T>>>);

/// The same connection as its driver sees it.
pub(super) struct Held<T>(Arc<Mutex<Output<T>>>);

struct Output<T> {
    io: T,
    waiting: BytesMut,
    held: bool,
}

/// Both ends of a connection.
pub(super) fn gather<T>(io: T) -> (Gather<T>, Held<T>) {
    let output = Arc::new(Mutex::new(Output { io, waiting: BytesMut::new(), held: false }));
    (Gather(Arc::clone(&output)), Held(output))
}

fn lock<T>(output: &Mutex<T>) -> MutexGuard<'_, T> {
    output.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: AsyncWrite + Unpin> Held<T> {
    /// Gathers from now on.
    pub(super) fn hold(&self) {
        lock(&self.0).held = true;
    }

    /// Sends what was gathered; nothing is held back any more, even if this has to wait.
    pub(super) fn release(&self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = lock(&self.0);
        output.held = false;
        ready!(output.drain(context))?;
        // TLS keeps what the socket had no room for until it is flushed.
        Pin::new(&mut output.io).poll_flush(context)
    }
}

impl<T: AsyncWrite + Unpin> Output<T> {
    fn drain(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.waiting.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(context, &self.waiting))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.waiting.advance(written);
        }
        self.waiting.clear();
        if self.waiting.capacity() > KEPT_BYTES {
            self.waiting = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    fn make_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.len() < GATHERED_MAX { Poll::Ready(Ok(())) } else { self.drain(context) }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut lock(&self.0).io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut output = lock(&self.0);
        ready!(output.make_room(context))?;
        output.waiting.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut output = lock(&self.0);
        ready!(output.make_room(context))?;
        let before = output.waiting.len();
        pieces.iter().for_each(|piece| output.waiting.extend_from_slice(piece));
        Poll::Ready(Ok(output.waiting.len() - before))
    }

    /// So that frames come as they are, and are copied once.
    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = lock(&self.0);
        if output.held {
            return Poll::Ready(Ok(()));
        }
        ready!(output.drain(context))?;
        Pin::new(&mut output.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut output = lock(&self.0);
        ready!(output.drain(context))?;
        Pin::new(&mut output.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// Goal: what is held goes out when it is released, in order, and not before.
    #[tokio::test]
    async fn what_is_held_goes_out_in_one_piece() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        let (mut io, held) = gather(ours);
        held.hold();
        io.write_all(b"one ").await.expect("room");
        io.flush().await.expect("nothing to do");
        let pieces = [IoSlice::new(b"two "), IoSlice::new(b"three")];
        assert_eq!(io.write_vectored(&pieces).await.expect("room"), 9);
        let mut read = [0; 32];
        assert!(theirs.read(&mut read).now_or_never().is_none(), "nothing has been sent");
        poll_fn(|context| held.release(context)).await.expect("sent");
        let length = theirs.read(&mut read).await.expect("is there");
        assert_eq!(&read[..length], b"one two three");
        io.write_all(b"!").await.expect("room");
        io.flush().await.expect("sent");
        assert_eq!(theirs.read(&mut read).await.expect("is there"), 1);
    }

    /// Keeps what is written until it is flushed, as TLS does when the socket is full.
    struct Lazy<T>(tokio::io::BufWriter<T>);

    impl<T: AsyncWrite + Unpin> AsyncWrite for Lazy<T> {
        fn poll_write(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_write(context, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(context)
        }

        fn poll_shutdown(
            mut self: Pin<&mut Self>,
            context: &mut Context<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(context)
        }
    }

    /// Goal: the end of an answer does not stay in a layer below, also when it has to wait there.
    #[tokio::test]
    async fn nothing_is_left_in_the_layers_below() {
        let (ours, mut theirs) = tokio::io::duplex(4);
        let (mut io, held) = gather(Lazy(tokio::io::BufWriter::new(ours)));
        held.hold();
        io.write_all(b"an answer").await.expect("room");
        let sent = poll_fn(|context| held.release(context));
        let mut read = [0; 9];
        let (sent, got) = tokio::join!(sent, theirs.read_exact(&mut read));
        sent.expect("sent");
        assert_eq!((got.expect("it comes"), &read), (9, b"an answer"));
    }

    /// Goal: the output held does not outgrow its bound when the client does not read.
    #[tokio::test]
    async fn who_does_not_read_makes_the_writer_wait() {
        let (ours, mut theirs) = tokio::io::duplex(1);
        let (mut io, held) = gather(ours);
        held.hold();
        let mut written = 0;
        while io.write(&[7; 1000]).now_or_never().is_some() {
            written += 1000;
            assert!(written <= GATHERED_MAX + 1000, "it goes on for ever");
        }
        assert!(written >= GATHERED_MAX);
        drop(held);
        let reader = async {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.expect("a pipe");
            all
        };
        let writer = async move {
            io.shutdown().await.expect("room by and by");
        };
        let (all, ()) = tokio::join!(reader, writer);
        assert_eq!(all, vec![7; written], "a shutdown sends what was held");
    }
}

//! How a connection begins: by what it says first it is HTTP/2, or else HTTP/1, none of whose
//! requests begins that way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::pings::PREFACE;

/// A connection with what was read of it put back.
pub(super) struct Opened<T> {
    io: T,
    read: [u8; PREFACE.len()],
    at: usize,
    until: usize,
}

impl<T: AsyncRead + Unpin> Opened<T> {
    /// Reads until it is clear what the client speaks. An end of the connection is clear, too.
    pub(super) async fn read(mut io: T) -> io::Result<Self> {
        let (mut read, mut until) = ([0; PREFACE.len()], 0);
        while until < read.len() && PREFACE.starts_with(&read[..until]) {
            match io.read(&mut read[until..]).await? {
                0 => break,
                more => until += more,
            }
        }
        Ok(Self { io, read, at: 0, until })
    }

    pub(super) fn is_http2(&self) -> bool {
        self.read == *PREFACE
    }

    /// Whether the client has left without a word.
    pub(super) fn is_over(&self) -> bool {
        self.until == 0
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Opened<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at == this.until {
            return Pin::new(&mut this.io).poll_read(context, buffer);
        }
        let length = buffer.remaining().min(this.until - this.at);
        buffer.put_slice(&this.read[this.at..this.at + length]);
        this.at += length;
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Opened<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().io).poll_write_vectored(context, pieces)
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What a client that says this in two pieces is taken for, and what is read of it then.
    async fn opened(first: &[u8], second: &[u8]) -> (bool, bool, Vec<u8>) {
        let (ours, mut theirs) = tokio::io::duplex(1 << 10);
        theirs.write_all(first).await.expect("room");
        let opening = tokio::spawn(Opened::read(ours));
        tokio::task::yield_now().await;
        theirs.write_all(second).await.expect("room");
        drop(theirs);
        let mut opened = opening.await.expect("does not panic").expect("a pipe");
        let (http2, over) = (opened.is_http2(), opened.is_over());
        let mut all = Vec::new();
        opened.read_to_end(&mut all).await.expect("a pipe");
        (http2, over, all)
    }

    /// Goal: HTTP/2 is known by its whole preface, however it is cut, and no byte of anything is lost.
    #[tokio::test]
    async fn the_preface_decides_and_nothing_is_lost() {
        let whole = [&PREFACE[..], b"more"].concat();
        for cut in 0..whole.len() {
            let (http2, over, all) = opened(&whole[..cut], &whole[cut..]).await;
            assert!(http2 && !over, "cut at {cut}");
            assert_eq!(all, whole, "cut at {cut}");
        }
        for other in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PRI * HTTP/1.1\r\n\r\nSM\r\n\r\n!", b"P"] {
            let (http2, over, all) = opened(&other[..1], &other[1..]).await;
            assert!(!http2 && !over);
            assert_eq!(all, other);
        }
        assert_eq!(opened(b"", b"").await, (false, true, Vec::new()));
    }
}

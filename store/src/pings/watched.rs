//! A connection whose pings are counted, and which says goodbye to a client that sends too many.
//!
//! All bytes pass unchanged. When the rule is broken, nothing more is taken from either side: the
//! frame that is being sent is brought to its end, the farewell follows it, and the sending half is
//! closed. What the client still sends is read and thrown away until it has hung up too, or a second
//! has passed: a socket that is closed with unread bytes resets the connection, and the farewell
//! would be lost with it. To the HTTP/2 library above it looks as if the client had gone.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::{Police, Verdict};

/// How long the client has to take the farewell and hang up.
const PATIENCE: Duration = Duration::from_secs(1);

/// The connection.
pub(crate) struct Watched<T> {
    io: T,
    /// `None`: nobody counts.
    police: Option<Police>,
    leaving: Option<Leaving>,
}

/// The end of a connection.
struct Leaving {
    farewell: [u8; Police::FAREWELL_BYTES],
    /// So much of it is sent.
    sent: usize,
    /// Our half is closed.
    closed: bool,
    /// When nobody waits any longer.
    deadline: Pin<Box<Sleep>>,
}

impl<T> Watched<T> {
    /// Pings are counted if they may not come more often than every `min_time`.
    pub(crate) fn new(io: T, min_time: Option<Duration>) -> Self {
        Self { io, police: min_time.map(Police::new), leaving: None }
    }

    /// How many bytes may be sent of `length`.
    fn allowed(&self, length: usize) -> usize {
        match (&self.leaving, &self.police) {
            (Some(_), Some(police)) => police.unfinished().min(length),
            _ => length,
        }
    }

    fn sent(&mut self, bytes: &[u8]) {
        if let Some(police) = &mut self.police {
            police.sent(bytes);
        }
    }

    /// Whether the last frame of the library's is out, so that the rest is said here.
    fn has_the_word(&self) -> bool {
        self.leaving.is_some() && self.police.as_ref().is_none_or(|police| police.unfinished() == 0)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Watched<T> {
    /// Says goodbye, and is ready when the connection is over.
    fn poll_leave(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let has_the_word = self.has_the_word();
        let Some(leaving) = &mut self.leaving else { return Poll::Pending };
        if leaving.deadline.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        if !has_the_word {
            return Poll::Pending;
        }
        if !leaving.closed && ready!(leaving.poll_say(&mut self.io, context)).is_err() {
            return Poll::Ready(());
        }
        leaving.closed = true;
        let mut rest = [MaybeUninit::uninit(); 1024];
        loop {
            let mut rest = ReadBuf::uninit(&mut rest);
            let read = ready!(Pin::new(&mut self.io).poll_read(context, &mut rest));
            if read.is_err() || rest.filled().is_empty() {
                return Poll::Ready(());
            }
        }
    }

    /// Sends what `send` sends, of `length` bytes at most; says goodbye instead once that is due.
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
        send: impl FnOnce(Pin<&mut T>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let total = pieces.iter().map(|piece| piece.len()).sum();
        if self.has_the_word() {
            // Nobody will read it.
            return Poll::Ready(Ok(total));
        }
        let sent = match self.leaving {
            None => ready!(send(Pin::new(&mut self.io), context))?,
            Some(_) => {
                let Some(piece) = pieces.iter().find(|piece| !piece.is_empty()) else {
                    return Poll::Ready(Ok(0));
                };
                let piece = &piece[..self.allowed(piece.len())];
                ready!(Pin::new(&mut self.io).poll_write(context, piece))?
            }
        };
        let mut left = sent;
        for piece in pieces {
            let length = left.min(piece.len());
            self.sent(&piece[..length]);
            left -= length;
        }
        if self.has_the_word() {
            // The reading side goes on with it.
            context.waker().wake_by_ref();
        }
        Poll::Ready(Ok(sent))
    }
}

impl Leaving {
    fn new(farewell: [u8; Police::FAREWELL_BYTES]) -> Self {
        let deadline = Box::pin(tokio::time::sleep(PATIENCE));
        Self { farewell, sent: 0, closed: false, deadline }
    }

    fn poll_say<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let rest @ [_, ..] = &self.farewell[self.sent..] {
            match ready!(Pin::new(&mut *io).poll_write(context, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.sent += written,
            }
        }
        Pin::new(io).poll_shutdown(context)
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Watched<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leaving.is_some() {
            return this.poll_leave(context).map(Ok);
        }
        let before = buffer.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(context, buffer))?;
        if let Some(police) = &mut this.police
            && let Verdict::TooManyPings(farewell) =
                police.received(&buffer.filled()[before..], Instant::now)
        {
            tracing::warn!("a client pings too often and is sent away");
            this.leaving = Some(Leaving::new(farewell));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let pieces = [io::IoSlice::new(bytes)];
        self.get_mut().poll_send(context, &pieces, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let send =
            |io: Pin<&mut T>, context: &mut Context<'_>| io.poll_write_vectored(context, pieces);
        self.get_mut().poll_send(context, pieces, send)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leaving.as_ref().is_some_and(|leaving| leaving.closed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.leaving.as_ref().is_some_and(|leaving| leaving.closed) {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    use super::super::PREFACE;
    use super::super::tests::{frame, ping};
    use super::*;

    fn pair() -> (DuplexStream, Watched<DuplexStream>) {
        let (client, server) = tokio::io::duplex(64 << 10);
        (client, Watched::new(server, Some(Duration::from_secs(5))))
    }

    /// Sends the preface and four pings, and has the server read them.
    async fn annoy(client: &mut DuplexStream, server: &mut Watched<DuplexStream>) {
        let pings = [PREFACE.as_slice(), &ping().repeat(4)].concat();
        client.write_all(&pings).await.expect("there is room");
        let mut read = vec![0; pings.len()];
        server.read_exact(&mut read).await.expect("they are there");
        assert_eq!(read, pings);
    }

    /// Goal: a frame that is being sent is finished, the farewell is the next one, and nothing comes
    /// after it. The server is annoyed when it has sent twelve bytes of twenty.
    #[tokio::test]
    async fn the_farewell_stands_between_frames() {
        let (mut client, mut server) = pair();
        let data = frame(0, 0, 1, &[7; 11]);
        server.write_all(&data[..12]).await.expect("there is room");
        annoy(&mut client, &mut server).await;
        let too_early = tokio::time::timeout(Duration::from_millis(1), server.read_u8()).await;
        assert!(too_early.is_err(), "within a frame nothing is said");
        let more = [&data[12..], &data].concat();
        assert_eq!(server.write(&more).await.expect("there is room"), 8);
        assert_eq!(server.write(&data).await.expect("taken and thrown away"), 20);
        let mut one = [0];
        let listening = async move {
            let mut said = Vec::new();
            client.read_to_end(&mut said).await.expect("it ends");
            said
        };
        let (ended, said) = tokio::join!(server.read(&mut one), listening);
        assert_eq!(ended.expect("an end and no error"), 0);
        let (sent, farewell) = said.split_at(data.len());
        assert_eq!(sent, data);
        assert_eq!(&farewell[..9], [0, 0, 22, 7, 0, 0, 0, 0, 0]);
        assert!(farewell.ends_with(b"\x00\x00\x00\x0btoo_many_pings"));
    }

    /// Goal: a client that hangs up is not waited for, one that does not is, for a second.
    #[tokio::test]
    async fn a_client_is_waited_for_but_not_for_long() {
        for (stays, least, most) in [(false, 0, 800), (true, 900, 9_000)] {
            let (mut client, mut server) = pair();
            annoy(&mut client, &mut server).await;
            let began = Instant::now();
            let kept = stays.then_some(client);
            assert_eq!(server.read(&mut [0]).await.expect("an end and no error"), 0);
            let took = began.elapsed().as_millis();
            assert!((least..=most).contains(&took), "{took} ms");
            drop(kept);
        }
    }

    /// Goal: where nobody counts, everything passes.
    #[tokio::test]
    async fn an_unwatched_connection_is_left_alone() {
        let (mut client, server) = tokio::io::duplex(64 << 10);
        let mut server = Watched::new(server, None);
        annoy(&mut client, &mut server).await;
        annoy(&mut client, &mut server).await;
        server.write_all(b"still here").await.expect("there is room");
        let mut said = [0; 10];
        client.read_exact(&mut said).await.expect("it comes");
        assert_eq!(&said, b"still here");
    }
}

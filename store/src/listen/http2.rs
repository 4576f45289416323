//! One HTTP/2 connection: frames and flow control are the `h2` crate's, the turns are ours.
//!
//! A connection is one task. In each turn it takes the requests that have come, answers those that
//! can be answered at once, sends the answers that others had to wait for, and then writes all of it
//! with one system call:
//!
//! ```text
//! socket ─▶ h2 ─▶ requests ─▶ Router ─┬─ Quick: on this task ───────────┬─▶ h2 ─▶ Gather ─▶ socket
//!                                     └─ Whole: on a task of its own ───┘
//! ```
//!
//! The calls that load is made of are *quick*: one message each way, no body that streams, nothing
//! that keeps the task busy for long. One that has to wait (for the log) stays here too, and is
//! polled again only when it is woken. Streams and everything rare run as tasks of the worker, so
//! that a large answer does not hold up the requests beside it.
//!
//! A client's reset ends the work for it, quick or not: whoever works looks for it while it waits.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use h2::server::{Builder, Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body as _, Frame};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;

use super::gather::{Gather, Held, gather};
use super::{Door, Stopping};
use crate::metered::Heard;
use crate::rpc::{Answering, Reply};

/// Flow-control windows: watch streams and large ranges need more than the 64 KiB default.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;

/// All header fields of one request: a token is the largest of them. It also bounds how many pieces
/// they may come in.
const HEADERS_BYTES_MAX: u32 = 64 << 10;

/// Streams that a client has opened and reset before they were looked at; more end the connection.
/// A caller that gives up may take hundreds of calls back at once, and one that was never looked at
/// costs little.
const RESET_STREAMS_MAX: usize = 4096;

/// Streams reset because of the client's own errors; more end the connection.
const ERROR_STREAMS_MAX: usize = 1024;

/// Requests taken in one turn. Other connections of the worker get theirs then.
const TAKEN_MAX: usize = 64;

/// Speaks HTTP/2 until the client leaves, the connection breaks, or it was told to stop and all
/// requests are answered.
pub(super) async fn serve<T>(io: T, door: Door, heard: Heard, stopping: Stopping) -> io::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let Stopping { tasks, stop } = stopping;
    let (io, output) = gather(io);
    let connections = door.router.connections();
    let shaking = Builder::new()
        .initial_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(connections.max_concurrent_streams)
        .max_header_list_size(HEADERS_BYTES_MAX)
        .max_pending_accept_reset_streams(RESET_STREAMS_MAX)
        .max_local_error_reset_streams(Some(ERROR_STREAMS_MAX))
        .handshake(io);
    let mut connection: Connection<_, Bytes> = tokio::select! {
        shaken = shaking => shaken.map_err(io::Error::other)?,
        () = stop.cancelled() => return Ok(()),
    };
    let waiting = FuturesUnordered::new();
    waiting.push(Waiting::Event(Box::pin(stopped(stop))));
    if let Some(interval) = connections.keepalive.interval {
        let pings = connection.ping_pong().expect("taken once");
        let silent = silence(pings, interval, connections.keepalive.timeout, heard);
        waiting.push(Waiting::Event(Box::pin(silent)));
    }
    let mut serving = Serving { connection, output, waiting, door, tasks };
    poll_fn(|context| serving.poll(context)).await
}

struct Serving<T> {
    connection: Connection<Gather<T>, Bytes>,
    output: Held<T>,
    waiting: FuturesUnordered<Waiting>,
    door: Door,
    tasks: crate::tasks::Tasks,
}

/// What a connection waits for beside its socket.
enum Waiting {
    Call(Call),
    Event(BoxFuture<'static, Event>),
}

/// What has come of it.
enum Event {
    /// A call was answered, or nobody waits for the answer any more.
    Answered,
    /// No more requests are to be taken.
    Stop,
    /// The client does not even answer pings.
    Silent,
}

impl Future for Waiting {
    type Output = Event;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Event> {
        match self.get_mut() {
            Self::Call(call) => Pin::new(call).poll(context).map(|()| Event::Answered),
            Self::Event(event) => event.as_mut().poll(context),
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Serving<T> {
    /// One turn, and its output.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.output.hold();
        let turn = self.turn(context);
        let sent = self.output.release(context);
        match (turn, sent) {
            (Poll::Pending, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (turn, _) => turn,
        }
    }

    fn turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Poll::Ready(Some(event)) = self.waiting.poll_next_unpin(context) {
            match event {
                Event::Answered => {}
                Event::Stop => self.connection.graceful_shutdown(),
                Event::Silent => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            }
        }
        // To ask for a request also moves what was answered on, from `h2` into the output.
        for _ in 0..TAKEN_MAX {
            match ready!(self.connection.poll_accept(context)) {
                Some(Ok((request, respond))) => self.start(request, respond, context),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
                None => return Poll::Ready(Ok(())),
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }

    fn start(
        &self,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
        context: &mut Context<'_>,
    ) {
        match self.door.answer(request.map(Upload)) {
            Answering::Quick(reply) => {
                let mut call = Call { reply, respond };
                // With the waker of the whole connection: whatever wakes it first, the next turn
                // polls the call with one of its own.
                if Pin::new(&mut call).poll(context).is_pending() {
                    self.waiting.push(Waiting::Call(call));
                }
            }
            Answering::Whole(response) => self.tasks.spawn("stream", stream(response, respond)),
        }
    }
}

/// A quick call on its way.
struct Call {
    reply: BoxFuture<'static, Reply>,
    respond: SendResponse<Bytes>,
}

impl Future for Call {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Poll::Ready(reply) = this.reply.as_mut().poll(context) else {
            return this.respond.poll_reset(context).map(drop);
        };
        let sent = match reply {
            Reply::Message(message) => send_message(message, &mut this.respond),
            Reply::Failure(head) => this.respond.send_response(head, true).map(drop),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "an answer could not be sent");
        }
        Poll::Ready(())
    }
}

/// One message and the status behind it. `h2` keeps what the client's window does not take yet.
fn send_message(message: Bytes, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    let kind = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(header::CONTENT_TYPE, kind);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(message, false)?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    stream.send_trailers(trailers)
}

/// Any other answer, piece by piece as the client takes it.
async fn stream(response: BoxFuture<'static, Response<Body>>, mut respond: SendResponse<Bytes>) {
    let response = tokio::select! {
        biased;
        response = response => response,
        _ = poll_fn(|context| respond.poll_reset(context)) => return,
    };
    if let Err(error) = send(response, &mut respond).await {
        // Clients that lose interest are everyday life.
        tracing::debug!(%error, "a stream ended early");
    }
}

async fn send(
    response: Response<Body>,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let (mut parts, body) = response.into_parts();
    let mut body = pin!(body);
    if body.is_end_stream() {
        return respond.send_response(Response::from_parts(parts, ()), true).map(drop);
    }
    if let Some(length) = body.size_hint().exact() {
        parts.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| length.into());
    }
    let mut stream = respond.send_response(Response::from_parts(parts, ()), false)?;
    loop {
        let next = poll_fn(|context| match stream.poll_reset(context) {
            Poll::Ready(reset) => Poll::Ready(Err(reset.map_or_else(|error| error, Into::into))),
            Poll::Pending => body.as_mut().poll_frame(context).map(Ok),
        });
        match next.await? {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    let last = body.is_end_stream();
                    if !data.is_empty() {
                        room(&mut stream).await?;
                    }
                    stream.send_data(data, last)?;
                    if last {
                        return Ok(());
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        // What room was asked for and is not needed is for the others.
                        stream.reserve_capacity(0);
                        return stream.send_trailers(trailers);
                    }
                }
            },
            Some(Err(error)) => {
                tracing::debug!(%error, "an answer broke off");
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Bytes::new(), true),
        }
    }
}

/// Waits until the client takes something of this stream. One byte is asked for: asking for all
/// would keep the connection's window from the streams beside.
async fn room(stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(more) => drop(more?),
            None => return Err(Reason::CANCEL.into()),
        }
    }
    Ok(())
}

/// The body of a request.
pub(super) struct Upload(RecvStream);

impl http_body::Body for Upload {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let stream = &mut self.get_mut().0;
        let next = match ready!(stream.poll_data(context)) {
            Some(Ok(data)) => {
                // Fails only when the stream has ended, and with it its window.
                let _ = stream.flow_control().release_capacity(data.len());
                Ok(Some(Frame::data(data)))
            }
            Some(Err(error)) => Err(error),
            None => ready!(stream.poll_trailers(context)).map(|end| end.map(Frame::trailers)),
        };
        Poll::Ready(match next {
            // The client needs no answer to the rest, and says so.
            Err(error) if error.reason() == Some(Reason::NO_ERROR) => None,
            next => next.transpose(),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }
}

async fn stopped(stop: CancellationToken) -> Event {
    stop.cancelled().await;
    Event::Stop
}

/// Returns when a client has said nothing for a time, and nothing to a ping either.
async fn silence(
    mut pings: PingPong,
    interval: Duration,
    timeout: Duration,
    heard: Heard,
) -> Event {
    loop {
        let due = heard.last() + interval;
        if tokio::time::Instant::now() < due {
            tokio::time::sleep_until(due).await;
            continue;
        }
        match tokio::time::timeout(timeout, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            // The connection has ended; whoever drives it will see.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return Event::Silent,
        }
    }
}

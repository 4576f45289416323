//! One connection to an etcd endpoint, and the calls in flight on it.
//!
//! A link is driven by one task: [`Link::turn`] writes what is waiting, reads what has come, and
//! hands each message and each end of a call to the caller, who may start further calls from there.
//! So one system call carries many requests and another many answers, without a task, a channel or
//! a wake-up for each of them.
//!
//! Calls are named by a tag of the caller's choice. Memory is bounded by the calls in flight, which
//! the caller counts, and by the size of one answer.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::endpoint::{Endpoint, Socket};
use super::failure::Failure;
use super::wire::{self, HeaderBlocks, Kind};

/// What is read at a time.
const READ_BYTES: usize = 256 << 10;

/// How much is taken in before the server is told that there is room again.
const CREDIT_BYTES: u32 = 16 << 20;

/// A connection and its calls.
pub struct Link {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
    /// Where the unread part of `buffer` starts and ends.
    unread: (usize, usize),
    calls: Calls,
}

/// The sending half, to start calls with.
pub struct Calls {
    blocks: HeaderBlocks,
    out: Vec<u8>,
    sent: usize,
    next: u32,
    live: HashMap<u32, Call>,
    /// Bodies that wait for a flow-control window, in order.
    waiting: VecDeque<Body>,
    window: i64,
    /// What a new call may send.
    call_window: i64,
    streams_max: u32,
    /// Received and not yet given back as credit.
    received: u32,
    /// Buffers of ended calls, to be used again.
    spare: Vec<Vec<u8>>,
}

struct Call {
    tag: u64,
    begin: Instant,
    messages: u32,
    window: i64,
    received: u32,
    partial: Vec<u8>,
}

struct Body {
    stream: u32,
    bytes: Vec<u8>,
    sent: usize,
    end: bool,
}

/// What came back.
#[derive(Debug)]
pub enum Came<'a> {
    /// A message of a call.
    Message(&'a [u8]),
    /// The call is over; false when it carried no message, which is how errors end.
    End(bool),
}

/// A call as its answers name it.
#[derive(Clone, Copy, Debug)]
pub struct Handle {
    /// The caller's name for it.
    pub tag: u64,
    /// When it was started, or last sent a message.
    pub begin: Instant,
    /// What further messages are sent to.
    pub stream: u32,
}

impl Link {
    /// Connects and exchanges settings.
    ///
    /// # Errors
    /// When the server does not answer, or not in HTTP/2.
    pub async fn connect(endpoint: &Endpoint) -> Result<Self, Failure> {
        let socket = endpoint.connect().await?;
        let blocks = HeaderBlocks::new(endpoint.authority(), endpoint.is_secure());
        let mut out = wire::PREFACE.to_vec();
        wire::head(&mut out, Kind::Settings, 0, 0, 12);
        for (setting, value) in
            [(wire::SETTING_ENABLE_PUSH, 0), (wire::SETTING_WINDOW, wire::WINDOW_MAX)]
        {
            out.extend_from_slice(&setting.to_be_bytes());
            out.extend_from_slice(&value.to_be_bytes());
        }
        wire::window_update(&mut out, 0, wire::WINDOW_MAX - 65_535);
        let calls = Calls {
            blocks,
            out,
            sent: 0,
            next: 1,
            live: HashMap::new(),
            waiting: VecDeque::new(),
            window: wire::WINDOW_DEFAULT,
            call_window: wire::WINDOW_DEFAULT,
            streams_max: 0,
            received: 0,
            spare: Vec::new(),
        };
        let mut link = Self { socket, buffer: vec![0; READ_BYTES], unread: (0, 0), calls };
        while link.calls.streams_max == 0 {
            link.turn(|_, _, _| ()).await?;
        }
        Ok(link)
    }

    /// The half that starts calls.
    pub fn calls(&mut self) -> &mut Calls {
        &mut self.calls
    }

    /// Sends what waits, waits until something comes, and hands it over.
    ///
    /// # Errors
    /// When the connection breaks or the server speaks nonsense.
    pub async fn turn(
        &mut self,
        mut came: impl FnMut(&mut Calls, Handle, Came<'_>),
    ) -> Result<(), Failure> {
        if self.unread.0 > 0 {
            self.buffer.copy_within(self.unread.0..self.unread.1, 0);
            self.unread = (0, self.unread.1 - self.unread.0);
        }
        let Self { socket, buffer, unread, calls } = self;
        let got = poll_fn(|cx| exchange(cx, socket, calls, &mut buffer[unread.1..])).await?;
        if got == 0 {
            return Err(Failure::Closed);
        }
        unread.1 += got;
        while let Some((frame, length)) = wire::frame(&buffer[unread.0..unread.1]) {
            calls.take(frame, &mut came)?;
            unread.0 += length;
        }
        calls.flush_waiting();
        Ok(())
    }
}

/// Writes and reads as far as the socket allows; ready when something was read.
fn exchange(
    cx: &mut Context<'_>,
    socket: &mut Box<dyn Socket>,
    calls: &mut Calls,
    into: &mut [u8],
) -> Poll<std::io::Result<usize>> {
    let mut socket = Pin::new(socket);
    while calls.sent < calls.out.len() {
        match socket.as_mut().poll_write(cx, &calls.out[calls.sent..])? {
            Poll::Ready(0) => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
            Poll::Ready(wrote) => calls.sent += wrote,
            Poll::Pending => break,
        }
    }
    if calls.sent == calls.out.len() {
        calls.out.clear();
        calls.sent = 0;
    }
    // TLS keeps records of its own, which must leave too. That they cannot now is no reason to wait.
    let _ = socket.as_mut().poll_flush(cx)?;
    let mut read = ReadBuf::new(into);
    std::task::ready!(socket.poll_read(cx, &mut read))?;
    Poll::Ready(Ok(read.filled().len()))
}

impl Calls {
    /// Calls in flight.
    pub fn live(&self) -> usize {
        self.live.len()
    }

    /// Starts a call with its first message. `end` says that there will be no other; `begin` is
    /// what its latency is counted from.
    ///
    /// # Panics
    /// When there are more calls than the server allows: the load was asked to be impossible.
    pub fn open(
        &mut self,
        tag: u64,
        path: &'static str,
        message: &[u8],
        end: bool,
        begin: Instant,
    ) -> u32 {
        let room = self.live.len() < self.streams_max as usize;
        assert!(room, "the server allows {} calls at a time on a connection", self.streams_max);
        let stream = self.next;
        self.next += 2;
        let at = self.out.len();
        wire::head(&mut self.out, Kind::Headers, wire::END_HEADERS, stream, 0);
        let from = self.out.len();
        self.blocks.write(&mut self.out, path);
        let length = self.out.len() - from;
        let length = u16::try_from(length).expect("a header block is a hundred bytes");
        self.out[at + 1..at + 3].copy_from_slice(&length.to_be_bytes());
        let call = Call {
            tag,
            begin,
            messages: 0,
            window: self.call_window,
            received: 0,
            partial: self.spare.pop().unwrap_or_default(),
        };
        self.live.insert(stream, call);
        self.body(stream, message, end);
        stream
    }

    /// Sends a further message of a call.
    pub fn send(&mut self, stream: u32, message: &[u8]) {
        if let Some(call) = self.live.get_mut(&stream) {
            call.begin = Instant::now();
            self.body(stream, message, false);
        }
    }

    fn body(&mut self, stream: u32, message: &[u8], end: bool) {
        let length = message.len() + 5;
        let call = self.live.get_mut(&stream).expect("only live calls send");
        let fits = length as i64 <= self.window.min(call.window) && length <= wire::PAYLOAD_MAX;
        let prefix = u32::try_from(message.len()).expect("messages are far below 4 GiB");
        if !fits || !self.waiting.is_empty() {
            let mut bytes = Vec::with_capacity(length);
            bytes.push(0);
            bytes.extend_from_slice(&prefix.to_be_bytes());
            bytes.extend_from_slice(message);
            self.waiting.push_back(Body { stream, bytes, sent: 0, end });
            return self.flush_waiting();
        }
        self.window -= length as i64;
        call.window -= length as i64;
        let flags = if end { wire::END_STREAM } else { 0 };
        wire::head(&mut self.out, Kind::Data, flags, stream, length);
        self.out.push(0);
        self.out.extend_from_slice(&prefix.to_be_bytes());
        self.out.extend_from_slice(message);
    }

    /// Sends waiting bodies as far as the windows allow. The first that does not fit holds up the
    /// rest, which is how a client with one writer behaves.
    fn flush_waiting(&mut self) {
        while let Some(body) = self.waiting.front_mut() {
            let Some(call) = self.live.get_mut(&body.stream) else {
                self.waiting.pop_front();
                continue;
            };
            let window = usize::try_from(self.window.min(call.window)).unwrap_or(0);
            let left = body.bytes.len() - body.sent;
            let length = left.min(window).min(wire::PAYLOAD_MAX);
            if length == 0 {
                return;
            }
            self.window -= length as i64;
            call.window -= length as i64;
            let last = length == left;
            let flags = if last && body.end { wire::END_STREAM } else { 0 };
            wire::head(&mut self.out, Kind::Data, flags, body.stream, length);
            self.out.extend_from_slice(&body.bytes[body.sent..body.sent + length]);
            body.sent += length;
            if last {
                self.waiting.pop_front();
            }
        }
    }

    fn take(
        &mut self,
        frame: wire::Frame<'_>,
        came: &mut impl FnMut(&mut Self, Handle, Came<'_>),
    ) -> Result<(), Failure> {
        let wire::Frame { kind, flags, stream, payload } = frame;
        match kind {
            Kind::Data => self.data(flags, stream, payload, came),
            Kind::Headers | Kind::Reset => {
                if kind == Kind::Reset || flags & wire::END_STREAM != 0 {
                    self.end(stream, came);
                }
            }
            Kind::Settings if flags & wire::ACK == 0 => {
                let mut streams = u32::MAX;
                for (setting, value) in wire::settings(payload) {
                    match setting {
                        wire::SETTING_STREAMS_MAX => streams = value,
                        wire::SETTING_WINDOW => self.set_window(i64::from(value)),
                        _ => {}
                    }
                }
                self.streams_max = streams.max(1);
                wire::head(&mut self.out, Kind::Settings, wire::ACK, 0, 0);
            }
            Kind::Ping if flags & wire::ACK == 0 => {
                wire::head(&mut self.out, Kind::Ping, wire::ACK, 0, payload.len());
                self.out.extend_from_slice(payload);
            }
            Kind::GoAway => return Err(Failure::Closed),
            Kind::WindowUpdate => {
                let by = i64::from(wire::number(payload));
                match self.live.get_mut(&stream) {
                    Some(call) => call.window += by,
                    None if stream == 0 => self.window += by,
                    None => {}
                }
            }
            Kind::Settings | Kind::Ping | Kind::Other => {}
        }
        Ok(())
    }

    fn set_window(&mut self, window: i64) {
        let by = window - self.call_window;
        self.call_window = window;
        self.live.values_mut().for_each(|call| call.window += by);
    }

    fn data(
        &mut self,
        flags: u8,
        stream: u32,
        payload: &[u8],
        came: &mut impl FnMut(&mut Self, Handle, Came<'_>),
    ) {
        let length = u32::try_from(payload.len()).expect("a frame is below 16 MiB");
        self.received += length;
        if self.received >= CREDIT_BYTES {
            wire::window_update(&mut self.out, 0, std::mem::take(&mut self.received));
        }
        let Some(call) = self.live.get_mut(&stream) else { return };
        call.received += length;
        if call.received >= CREDIT_BYTES {
            wire::window_update(&mut self.out, stream, std::mem::take(&mut call.received));
        }
        let payload = unpadded(flags, payload);
        let mut partial = std::mem::take(&mut call.partial);
        let rest = self.messages(stream, &mut partial, payload, came);
        if !rest.is_empty() {
            if let Some(length) = wire::message_length(rest).filter(|_| partial.is_empty()) {
                partial.reserve(length);
            }
            partial.extend_from_slice(rest);
        }
        match self.live.get_mut(&stream) {
            Some(call) => call.partial = partial,
            None => self.keep(partial),
        }
        if flags & wire::END_STREAM != 0 {
            self.end(stream, came);
        }
    }

    /// Hands over the messages that are complete, straight from the payload where they lie in it
    /// whole. Returns what is left of the payload.
    fn messages<'a>(
        &mut self,
        stream: u32,
        partial: &mut Vec<u8>,
        mut payload: &'a [u8],
        came: &mut impl FnMut(&mut Self, Handle, Came<'_>),
    ) -> &'a [u8] {
        while !partial.is_empty() {
            // First the prefix, then as much as it says.
            let wanted = wire::message_length(partial).unwrap_or(5) - partial.len();
            let (head, tail) = payload.split_at(wanted.min(payload.len()));
            partial.extend_from_slice(head);
            payload = tail;
            match wire::message(partial) {
                Some((message, _)) => {
                    self.hand_over(stream, message, came);
                    partial.clear();
                }
                None if payload.is_empty() => return payload,
                None => {}
            }
        }
        while let Some((message, length)) = wire::message(payload) {
            self.hand_over(stream, message, came);
            payload = &payload[length..];
        }
        payload
    }

    fn hand_over(
        &mut self,
        stream: u32,
        message: &[u8],
        came: &mut impl FnMut(&mut Self, Handle, Came<'_>),
    ) {
        let Some(call) = self.live.get_mut(&stream) else { return };
        call.messages += 1;
        let handle = Handle { tag: call.tag, begin: call.begin, stream };
        came(self, handle, Came::Message(message));
    }

    fn end(&mut self, stream: u32, came: &mut impl FnMut(&mut Self, Handle, Came<'_>)) {
        let Some(call) = self.live.remove(&stream) else { return };
        let handle = Handle { tag: call.tag, begin: call.begin, stream };
        self.keep(call.partial);
        came(self, handle, Came::End(call.messages > 0));
    }

    fn keep(&mut self, mut buffer: Vec<u8>) {
        const SPARE_MAX: usize = 64;
        if buffer.capacity() > 0 && self.spare.len() < SPARE_MAX {
            buffer.clear();
            self.spare.push(buffer);
        }
    }
}

/// The payload of a DATA frame without its padding.
fn unpadded(flags: u8, payload: &[u8]) -> &[u8] {
    if flags & wire::PADDED == 0 {
        return payload;
    }
    let Some((padding, rest)) = payload.split_first() else { return payload };
    &rest[..rest.len().saturating_sub(usize::from(*padding))]
}

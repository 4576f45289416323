//! Clients that ping too often, and how they are told to stop.
//!
//! A client may ask over HTTP/2 whether its server lives. One that asks all the time keeps radios,
//! balancers and servers awake for nothing, so gRPC has a rule, and clients are written against it:
//! who breaks it is told `too_many_pings` and loses the connection, and a well-made client then asks
//! half as often. The rule, as grpc-go keeps it for etcd:
//!
//! - A ping is a *strike* if the one before it was less than `--grpc-keepalive-min-time` ago; while
//!   no call is open, if it was less than two hours ago.
//! - Answering a call forgives: the first ping after a header or a piece of data was sent is none,
//!   and clears the strikes before it. Clients measure their bandwidth that way.
//! - The third strike ends the connection.
//!
//! The HTTP/2 library answers pings by itself and tells nobody. But pings, and all else that the
//! rule needs, can be read from the heads of the frames ([`frames`]), so [`Police`] is shown all
//! bytes of a connection and knows nothing of who speaks HTTP/2 above it. Pure: the time comes in.
//! [`watched`] is the connection that shows them to it.

mod frames;
pub(crate) mod watched;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use self::frames::{Follower, Head, Kind};

/// How HTTP/2 begins; what begins otherwise is left alone.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The strikes that are overlooked.
const STRIKES_MAX: u8 = 2;

/// How often a client may ping that has no call open.
const MIN_TIME_IDLE: Duration = Duration::from_secs(2 * 60 * 60);

/// What the client is told, beside the code.
const REASON: &[u8; 14] = b"too_many_pings";

/// HTTP/2's code for "you do too much of this".
const ENHANCE_YOUR_CALM: u32 = 0xb;

/// What is known of one connection.
#[derive(Debug)]
pub(crate) struct Police {
    min_time: Duration,
    incoming: Incoming,
    outgoing: Follower,
    /// Calls that are open. As many as the HTTP/2 library above has streams, which it bounds.
    open: BTreeSet<u32>,
    /// The newest call; clients count upwards.
    newest: u32,
    strikes: u8,
    pinged: Option<Instant>,
    /// Something was sent for a call since the last ping.
    answered: bool,
}

#[derive(Debug)]
enum Incoming {
    /// So many bytes were HTTP/2's preface.
    Preface(usize),
    Frames(Follower),
    /// It is something else.
    Other,
}

/// What to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Nothing.
    Fine,
    /// End it with this frame.
    TooManyPings([u8; Police::FAREWELL_BYTES]),
}

impl Police {
    /// The head, the newest call, the code, the reason.
    const FAREWELL_BYTES: usize = Head::BYTES + 4 + 4 + REASON.len();

    pub(crate) fn new(min_time: Duration) -> Self {
        Self {
            min_time,
            incoming: Incoming::Preface(0),
            outgoing: Follower::default(),
            open: BTreeSet::new(),
            newest: 0,
            strikes: 0,
            pinged: None,
            answered: false,
        }
    }

    /// Looks at what the client sent. The time is asked for at pings only.
    pub(crate) fn received(&mut self, bytes: &[u8], now: impl Fn() -> Instant) -> Verdict {
        let mut bytes = self.greet(bytes);
        loop {
            let Incoming::Frames(follower) = &mut self.incoming else { return Verdict::Fine };
            let Some(head) = follower.next(&mut bytes) else { return Verdict::Fine };
            match head.kind {
                Kind::Headers if head.stream > self.newest => {
                    self.newest = head.stream;
                    self.open.insert(head.stream);
                }
                Kind::Reset => {
                    self.open.remove(&head.stream);
                }
                Kind::Ping if !head.is_ack() => {
                    self.ping(now());
                    if self.strikes > STRIKES_MAX {
                        return Verdict::TooManyPings(self.farewell());
                    }
                }
                Kind::Ping | Kind::Headers | Kind::Data | Kind::Other => {}
            }
        }
    }

    /// Looks at what was sent to the client.
    pub(crate) fn sent(&mut self, mut bytes: &[u8]) {
        if matches!(self.incoming, Incoming::Other) {
            return;
        }
        while let Some(head) = self.outgoing.next(&mut bytes) {
            match head.kind {
                Kind::Headers | Kind::Data => {
                    self.answered = true;
                    if head.ends_stream() {
                        self.open.remove(&head.stream);
                    }
                }
                Kind::Reset => {
                    self.open.remove(&head.stream);
                }
                Kind::Ping | Kind::Other => {}
            }
        }
    }

    /// How much of what is being sent belongs to a frame that has begun; at zero another may begin.
    /// A frame whose head is not complete counts up to there.
    pub(crate) fn unfinished(&self) -> usize {
        self.outgoing.unfinished()
    }

    /// Takes what belongs to the preface and returns the rest.
    fn greet<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Incoming::Preface(known) = &mut self.incoming else { return bytes };
        let expected = &PREFACE[*known..];
        let length = expected.len().min(bytes.len());
        let (greeting, rest) = bytes.split_at(length);
        if *greeting != expected[..length] {
            self.incoming = Incoming::Other;
            return &[];
        }
        *known += length;
        if *known == PREFACE.len() {
            self.incoming = Incoming::Frames(Follower::default());
        }
        rest
    }

    fn ping(&mut self, now: Instant) {
        let before = self.pinged.replace(now);
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
            return;
        }
        let min_time = if self.open.is_empty() { MIN_TIME_IDLE } else { self.min_time };
        if before.is_some_and(|before| now < before + min_time) {
            self.strikes += 1;
        }
    }

    /// GOAWAY, with the newest call: all of them were looked at.
    fn farewell(&self) -> [u8; Self::FAREWELL_BYTES] {
        const PAYLOAD: u8 = 22;
        const GOAWAY: u8 = 7;
        const { assert!(Head::BYTES + PAYLOAD as usize == Self::FAREWELL_BYTES) };
        let mut frame = [0; Self::FAREWELL_BYTES];
        frame[2] = PAYLOAD;
        frame[3] = GOAWAY;
        frame[9..13].copy_from_slice(&self.newest.to_be_bytes());
        frame[13..17].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
        frame[17..].copy_from_slice(REASON);
        frame
    }
}

#[cfg(test)]
mod tests;

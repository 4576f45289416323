//! The heads of HTTP/2's frames, read from bytes that come in pieces.
//!
//! A frame is a head of nine bytes (length, kind, flags, stream) and as many bytes as the length
//! says. One direction of a connection is frames and nothing else, so who knows where the first one
//! begins can step from head to head without understanding what is between them.

/// What a frame is, as far as anybody here asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Reset,
    Ping,
    Other,
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    flags: u8,
    pub(super) stream: u32,
}

impl Head {
    pub(super) const BYTES: usize = 9;

    /// Of a ping: it answers one.
    pub(super) fn is_ack(self) -> bool {
        self.flags & 1 != 0
    }

    /// Of data and headers: the sender says no more in this stream.
    pub(super) fn ends_stream(self) -> bool {
        self.flags & 1 != 0
    }

    /// Also the length of what follows.
    fn read(head: [u8; Self::BYTES]) -> (Self, usize) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = head;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            3 => Kind::Reset,
            6 => Kind::Ping,
            _ => Kind::Other,
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        // The highest bit means nothing.
        let stream = u32::from_be_bytes([s0, s1, s2, s3]) & (u32::MAX >> 1);
        (Self { kind, flags, stream }, usize::try_from(length).expect("24 bits"))
    }
}

/// Where one direction of a connection is.
#[derive(Debug, Default)]
pub(super) struct Follower {
    /// The head that is being read.
    head: [u8; Head::BYTES],
    /// So much of it is there.
    known: usize,
    /// What is still to come of the frame before it.
    left: usize,
}

impl Follower {
    /// Steps to the end of the next head and takes what it passed off `bytes`; `None` if they end
    /// before.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        let passed = self.left.min(bytes.len());
        self.left -= passed;
        let rest = &bytes[passed..];
        let taken = (Head::BYTES - self.known).min(rest.len());
        self.head[self.known..self.known + taken].copy_from_slice(&rest[..taken]);
        self.known += taken;
        *bytes = &rest[taken..];
        if self.known < Head::BYTES {
            return None;
        }
        let (head, length) = Head::read(self.head);
        (self.known, self.left) = (0, length);
        Some(head)
    }

    /// Bytes that belong to a frame that has begun, or to its head if that is not complete.
    pub(super) fn unfinished(&self) -> usize {
        match self.known {
            0 => self.left,
            known => Head::BYTES - known,
        }
    }
}

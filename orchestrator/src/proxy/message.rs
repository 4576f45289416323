//! nf_tables messages as bytes: one batch, its messages, their attributes. No sockets.
//!
//! The kernel takes a batch as one transaction: either every message in it holds, or none. A message
//! is a netlink header, a four-byte family header and attributes; an attribute is a length, a kind and a
//! value padded to four bytes, and may hold attributes itself. Numbers inside attributes are big-endian,
//! numbers in the headers are the machine's own. Names and values of the constants are the kernel's
//! (`linux/netfilter/nf_tables.h`).

/// The nf_tables subsystem of nfnetlink.
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const HEADER_BYTES: usize = 16;
const NESTED: u16 = 0x8000;

pub(super) const F_REQUEST: u16 = 0x1;
pub(super) const F_ACK: u16 = 0x4;
pub(super) const F_CREATE: u16 = 0x400;
pub(super) const F_APPEND: u16 = 0x800;

pub(super) const NEW_TABLE: u16 = 0;
pub(super) const GET_TABLE: u16 = 1;
pub(super) const DEL_TABLE: u16 = 2;
pub(super) const NEW_CHAIN: u16 = 3;
pub(super) const NEW_RULE: u16 = 6;
pub(super) const NEW_SET: u16 = 9;
pub(super) const NEW_ELEMENT: u16 = 12;
pub(super) const DEL_ELEMENT: u16 = 14;

/// A table of family `ip`.
pub(super) const FAMILY_IPV4: u8 = 2;
/// The answer that acknowledges or refuses a message.
pub(super) const ERROR: u16 = 2;

/// The number the kernel knows an nf_tables message by.
pub(super) fn kind(message: u16) -> u16 {
    (SUBSYSTEM << 8) | message
}

/// One transaction under construction.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    first: u32,
    next: u32,
    last_start: usize,
}

impl Batch {
    /// Starts a transaction whose messages are numbered from `first`.
    pub(super) fn new(first: u32) -> Self {
        let mut batch = Self { bytes: Vec::new(), first, next: first, last_start: 0 };
        batch.raw(BATCH_BEGIN, F_REQUEST, 0, SUBSYSTEM, |_| {});
        batch
    }

    /// Adds a message about a table of family `ip`.
    pub(super) fn push(
        &mut self,
        message: u16,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.last_start = self.bytes.len();
        self.raw(kind(message), F_REQUEST | flags, FAMILY_IPV4, 0, fill);
    }

    /// Ends the transaction. Its last message asks for an acknowledgement: it comes after every
    /// error, so that one wait sees them all.
    pub(super) fn finish(mut self) -> Finished {
        let flags = self.last_start + 6;
        let held = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]);
        self.bytes[flags..flags + 2].copy_from_slice(&(held | F_ACK).to_ne_bytes());
        let acknowledged = self.next - 1;
        self.raw(BATCH_END, F_REQUEST, 0, SUBSYSTEM, |_| {});
        Finished { bytes: self.bytes, first: self.first, acknowledged, next: self.next }
    }

    fn raw(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        let start = self.bytes.len();
        header(&mut self.bytes, kind, flags, self.next, family, resource);
        fill(&mut Attributes(&mut self.bytes));
        close_message(&mut self.bytes, start);
        self.next += 1;
    }
}

/// A transaction ready to be sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished {
    pub(super) bytes: Vec<u8>,
    /// Number of the batch's own begin message: a refusal of the batch as a whole bears it.
    pub(super) first: u32,
    /// Number of the message that is acknowledged.
    pub(super) acknowledged: u32,
    /// First number not used.
    pub(super) next: u32,
}

/// One message outside any transaction, which is answered by an acknowledgement or an error.
pub(super) fn query(
    message: u16,
    sequence: u32,
    fill: impl FnOnce(&mut Attributes<'_>),
) -> Finished {
    let mut bytes = Vec::new();
    header(&mut bytes, kind(message), F_REQUEST | F_ACK, sequence, FAMILY_IPV4, 0);
    fill(&mut Attributes(&mut bytes));
    close_message(&mut bytes, 0);
    Finished { bytes, first: sequence, acknowledged: sequence, next: sequence + 1 }
}

fn header(bytes: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, family: u8, resource: u16) {
    bytes.extend_from_slice(&0u32.to_ne_bytes()); // length, set when the message is closed
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0u32.to_ne_bytes()); // the kernel fills in our port
    bytes.extend_from_slice(&[family, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
}

fn close_message(bytes: &mut [u8], start: usize) {
    let length = u32::try_from(bytes.len() - start).expect("a message is far below 4 GiB");
    bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
}

/// Writes attributes at the end of a message.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        let start = self.open(kind);
        self.0.extend_from_slice(value);
        self.close(start);
    }

    pub(super) fn u8(&mut self, kind: u16, value: u8) {
        self.bytes(kind, &[value]);
    }

    pub(super) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A signed number: priorities and verdicts.
    pub(super) fn i32(&mut self, kind: u16, value: i32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    pub(super) fn text(&mut self, kind: u16, value: &str) {
        let start = self.open(kind);
        self.0.extend_from_slice(value.as_bytes());
        self.0.push(0);
        self.close(start);
    }

    pub(super) fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.open(kind | NESTED);
        fill(&mut Attributes(self.0));
        self.close(start);
    }

    fn open(&mut self, kind: u16) -> usize {
        let start = self.0.len();
        self.0.extend_from_slice(&[0, 0]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        start
    }

    fn close(&mut self, start: usize) {
        let length = u16::try_from(self.0.len() - start)
            .expect("elements are sent in chunks so that no attribute outgrows its length");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// A message as it came from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Received<'a> {
    pub(super) kind: u16,
    pub(super) sequence: u32,
    /// What follows the netlink header.
    pub(super) body: &'a [u8],
}

/// Splits a datagram into its messages; a torn one ends the iteration.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header: &[u8; HEADER_BYTES] = datagram.first_chunk()?;
        let word = |at: usize| [header[at], header[at + 1], header[at + 2], header[at + 3]];
        let length = usize::try_from(u32::from_ne_bytes(word(0))).ok()?;
        let body = datagram.get(HEADER_BYTES..length)?;
        let received = Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes(word(8)),
            body,
        };
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(received)
    })
}

/// The error number of an acknowledgement: 0 for "done".
pub(super) fn error_number(body: &[u8]) -> Option<i32> {
    Some(i32::from_ne_bytes(*body.first_chunk()?).wrapping_neg())
}

/// Splits a run of attributes into kind and value; a torn one ends the iteration.
pub(super) fn attributes(mut run: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let head: &[u8; 4] = run.first_chunk()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & !NESTED;
        let value = run.get(4..length)?;
        run = run.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is written can be read back, nesting and padding included.
    #[test]
    fn a_batch_reads_back_as_it_was_written() {
        let mut batch = Batch::new(7);
        batch.push(NEW_TABLE, F_CREATE, |table| table.text(1, "abc"));
        batch.push(NEW_ELEMENT, 0, |list| {
            list.nest(3, |elements| {
                elements.bytes(1, &[1, 2, 3, 4, 5]);
                elements.u32(2, 0x0a60_0001);
            });
            list.i32(4, -4);
        });
        let sent = batch.finish();
        assert_eq!((sent.first, sent.acknowledged, sent.next), (7, 9, 11));

        let read: Vec<_> = messages(&sent.bytes).collect();
        let kinds: Vec<_> = read.iter().map(|message| (message.kind, message.sequence)).collect();
        assert_eq!(kinds, [(0x10, 7), (0x0a00, 8), (0x0a0c, 9), (0x11, 10)]);
        assert_eq!(read[0].body, [0, 0, 0, 10], "the subsystem, big-endian");
        assert_eq!(read[1].body[..4], [FAMILY_IPV4, 0, 0, 0]);
        assert_eq!(attributes(&read[1].body[4..]).collect::<Vec<_>>(), [(1, &b"abc\0"[..])]);

        let list: Vec<_> = attributes(&read[2].body[4..]).collect();
        assert_eq!(list[1], (4, &(-4i32).to_be_bytes()[..]));
        let elements: Vec<_> = attributes(list[0].1).collect();
        assert_eq!(elements, [(1, &[1, 2, 3, 4, 5][..]), (2, &[10, 96, 0, 1][..])]);
    }

    #[test]
    fn only_the_last_message_asks_for_an_acknowledgement() {
        let mut batch = Batch::new(1);
        batch.push(NEW_TABLE, 0, |_| {});
        batch.push(NEW_TABLE, 0, |_| {});
        let sent = batch.finish();
        let flags: Vec<u16> = (0..4)
            .map(|nth| u16::from_ne_bytes([sent.bytes[nth * 20 + 6], sent.bytes[nth * 20 + 7]]))
            .collect();
        assert_eq!(flags, [F_REQUEST, F_REQUEST, F_REQUEST | F_ACK, F_REQUEST]);
    }

    #[test]
    fn torn_input_ends_the_iteration() {
        assert_eq!(messages(&[0; 15]).count(), 0);
        assert_eq!(messages(&[255; 40]).count(), 0, "a length beyond the datagram");
        assert_eq!(messages(&[0; 40]).count(), 0, "a length below the header");
        assert_eq!(attributes(&[3, 0, 1, 0]).count(), 0, "a length below the header");
        assert_eq!(attributes(&[9, 0, 1, 0, 7]).count(), 0, "a length beyond the run");
        assert_eq!(error_number(&[0, 0]), None);
        assert_eq!(error_number(&(-17i32).to_ne_bytes()), Some(17));
    }
}

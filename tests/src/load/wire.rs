//! The little of HTTP/2, HPACK and protobuf that a load generator needs, as pure functions.
//!
//! The client shares the machine with the server that it measures, so each microsecond it spends is
//! one the server does not get. A general client costs more per put than our server does. This one
//! writes a request as two frames of some thirty bytes beside the message, and reads an answer by
//! looking at frame headers: the header blocks of answers are skipped, not decoded. That is enough,
//! since a call that failed carries no message; what the server said then is asked again with a
//! complete client (`explain`).
//!
//! A request's headers are sent in full once for each connection, with incremental indexing; from
//! then on they are six indexes, as with any client that keeps an HPACK table.

/// What a client says first.
pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest payload that needs no agreement.
pub(super) const PAYLOAD_MAX: usize = 16_384;

/// Flow-control windows before anyone changes them.
pub(super) const WINDOW_DEFAULT: i64 = 65_535;

/// The largest window there is: the client never makes a server wait.
pub(super) const WINDOW_MAX: u32 = i32::MAX as u32;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;
pub(super) const PADDED: u8 = 0x8;

pub(super) const SETTING_ENABLE_PUSH: u16 = 2;
pub(super) const SETTING_STREAMS_MAX: u16 = 3;
pub(super) const SETTING_WINDOW: u16 = 4;

/// Frame types. Others are skipped, as the protocol asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Headers,
    Reset,
    Settings,
    Ping,
    GoAway,
    WindowUpdate,
    Other,
}

impl Kind {
    fn of(byte: u8) -> Self {
        match byte {
            0 => Self::Data,
            1 => Self::Headers,
            3 => Self::Reset,
            4 => Self::Settings,
            6 => Self::Ping,
            7 => Self::GoAway,
            8 => Self::WindowUpdate,
            _ => Self::Other,
        }
    }

    fn byte(self) -> u8 {
        match self {
            Self::Data => 0,
            Self::Headers => 1,
            Self::Reset => 3,
            Self::Settings => 4,
            Self::Ping => 6,
            Self::GoAway => 7,
            Self::WindowUpdate => 8,
            Self::Other => unreachable!("only known frames are written"),
        }
    }
}

/// One frame in a buffer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: &'a [u8],
}

/// The frame at the start of `bytes`, and its length with its header, if it is there completely.
pub(super) fn frame(bytes: &[u8]) -> Option<(Frame<'_>, usize)> {
    let head = bytes.first_chunk::<9>()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let payload = bytes.get(9..9 + length)?;
    let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]) & WINDOW_MAX;
    Some((Frame { kind: Kind::of(head[3]), flags: head[4], stream, payload }, 9 + length))
}

/// Writes a frame's header; the payload follows.
pub(super) fn head(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, length: usize) {
    let length = u32::try_from(length).expect("payloads are at most PAYLOAD_MAX").to_be_bytes();
    out.extend_from_slice(&[length[1], length[2], length[3], kind.byte(), flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

/// Writes a WINDOW_UPDATE.
pub(super) fn window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    head(out, Kind::WindowUpdate, 0, stream, 4);
    out.extend_from_slice(&by.to_be_bytes());
}

/// The settings of a SETTINGS payload.
pub(super) fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> {
    payload
        .as_chunks::<6>()
        .0
        .iter()
        .map(|s| (u16::from_be_bytes([s[0], s[1]]), u32::from_be_bytes([s[2], s[3], s[4], s[5]])))
}

/// A big-endian number of four bytes, as RST_STREAM, GOAWAY and WINDOW_UPDATE carry.
pub(super) fn number(payload: &[u8]) -> u32 {
    payload.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// Writes the header blocks of one connection's requests.
#[derive(Debug)]
pub(super) struct HeaderBlocks {
    authority: String,
    secure: bool,
    /// The path in the server's table, once one is.
    indexed: Option<&'static str>,
}

impl HeaderBlocks {
    pub(super) fn new(authority: &str, secure: bool) -> Self {
        Self { authority: authority.to_owned(), secure, indexed: None }
    }

    /// `POST path` with gRPC's headers.
    pub(super) fn write(&mut self, out: &mut Vec<u8>, path: &'static str) {
        // Entries 3, 6 and 7 of the static table: the method and the scheme.
        out.extend_from_slice(&[0x83, if self.secure { 0x87 } else { 0x86 }]);
        match self.indexed {
            None => {
                self.indexed = Some(path);
                // With indexing; the names are entries 4, 1 and 31 of the static table.
                text(out, &[0x44], path);
                text(out, &[0x41], &self.authority);
                text(out, &[0x5f], "application/grpc");
                text(out, b"\x40\x02te", "trailers");
                return;
            }
            // The dynamic table counts backwards from 62, the last that was added.
            Some(indexed) if indexed == path => out.push(0x80 | 65),
            Some(_) => text(out, &[0x04], path),
        }
        out.extend_from_slice(&[0x80 | 64, 0x80 | 63, 0x80 | 62]);
    }
}

/// A header's first bytes, then its value without Huffman coding.
fn text(out: &mut Vec<u8>, name: &[u8], value: &str) {
    out.extend_from_slice(name);
    let length = u8::try_from(value.len()).ok().filter(|length| *length < 127);
    out.push(length.expect("paths and authorities are shorter than 127 bytes"));
    out.extend_from_slice(value.as_bytes());
}

/// The gRPC message at the start of `bytes`, and its length with its prefix, if it is there
/// completely.
pub(super) fn message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let prefix = bytes.first_chunk::<5>()?;
    let length = number(&prefix[1..]) as usize;
    Some((bytes.get(5..5 + length)?, 5 + length))
}

/// How long the message at the start of `bytes` will be with its prefix, if that is known yet.
pub(super) fn message_length(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk::<5>().map(|prefix| 5 + number(&prefix[1..]) as usize)
}

/// A protobuf field: its number, and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a protobuf message, without looking into them. Ends at the first byte that is not
/// protobuf.
pub(super) fn fields(mut rest: &[u8]) -> impl Iterator<Item = (u64, Value<'_>)> {
    std::iter::from_fn(move || {
        let tag = varint(&mut rest)?;
        let value = match tag & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Bytes(split(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(split(&mut rest, length)?)
            }
            5 => Value::Bytes(split(&mut rest, 4)?),
            _ => return None,
        };
        Some((tag >> 3, value))
    })
}

/// The bytes of a field that is there once.
pub(super) fn bytes_of(message: &[u8], field: u64) -> Option<&[u8]> {
    fields(message).find_map(|(number, value)| match value {
        Value::Bytes(bytes) if number == field => Some(bytes),
        _ => None,
    })
}

/// The number in a field; zero, as protobuf has it, when it is not there.
pub(super) fn number_of(message: &[u8], field: u64) -> u64 {
    let found = fields(message).find_map(|(number, value)| match value {
        Value::Number(value) if number == field => Some(value),
        _ => None,
    });
    found.unwrap_or_default()
}

/// How often a field is there.
pub(super) fn count_of(message: &[u8], field: u64) -> u64 {
    fields(message).filter(|(number, _)| *number == field).count() as u64
}

fn split<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = rest.split_at_checked(length)?;
    *rest = tail;
    Some(head)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (nth, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * nth);
        if byte & 0x80 == 0 {
            *rest = &rest[nth + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    //! Against frames written by hand and messages written by prost.

    use super::*;
    use prost::Message as _;
    use proto::etcdserverpb::{RangeResponse, ResponseHeader};
    use proto::mvccpb::KeyValue;

    #[test]
    fn a_frame_is_read_only_when_it_is_complete() {
        let mut bytes = Vec::new();
        head(&mut bytes, Kind::Data, END_STREAM, 5, 3);
        bytes.extend_from_slice(b"abc!");
        for short in 0..12 {
            assert!(frame(&bytes[..short]).is_none(), "{short} bytes are no frame");
        }
        let (read, length) = frame(&bytes).expect("complete");
        assert_eq!((read.kind, read.flags, read.stream, length), (Kind::Data, END_STREAM, 5, 12));
        assert_eq!(read.payload, b"abc");
    }

    #[test]
    fn headers_are_sent_in_full_once() {
        let mut blocks = HeaderBlocks::new("127.0.0.1:2379", false);
        let (mut first, mut second, mut other) = (Vec::new(), Vec::new(), Vec::new());
        blocks.write(&mut first, "/etcdserverpb.KV/Put");
        blocks.write(&mut second, "/etcdserverpb.KV/Put");
        blocks.write(&mut other, "/etcdserverpb.KV/Range");
        assert!(first.len() > 60);
        assert_eq!(second, [0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62]);
        assert!(other.windows(22).any(|part| part == b"/etcdserverpb.KV/Range"));
    }

    #[test]
    fn fields_are_those_that_prost_wrote() {
        let row = KeyValue { key: "k".into(), value: "v".into(), ..Default::default() };
        let answer = RangeResponse {
            header: Some(ResponseHeader { revision: 1 << 40, ..Default::default() }),
            kvs: vec![row; 7],
            count: 300,
            more: true,
        };
        let bytes = answer.encode_to_vec();
        assert_eq!(count_of(&bytes, 2), 7);
        assert_eq!(number_of(&bytes, 4), 300);
        assert_eq!(number_of(bytes_of(&bytes, 1).expect("a header"), 3), 1 << 40);
        assert_eq!(number_of(&bytes, 9), 0);
        assert_eq!(fields(&bytes[..bytes.len() - 1]).last().map(|(field, _)| field), Some(3));
    }
}

//! Answers to ranges, written as they are read.
//!
//! A range of a thousand rows would be a thousand pairs of reference-counted slices, then as many
//! messages, then bytes. Here each row is written once, from where the engine found it into the
//! answer's buffer, in the encoding of `RangeResponse`:
//!
//! ```text
//! header (1)   kvs (2) … kvs (2)   more (3)   count (4)
//! ```
//!
//! The header is known before the first row and the count after the last, which is the order of
//! the fields. As everywhere in proto3, fields that are zero or empty are left out. A test holds
//! the bytes against what prost makes of the same answer.

use prost::Message as _;
use proto::etcdserverpb as pb;
use tonic::Status;

use super::unary::{Framed, PREFIX};
use crate::machine::range::{RowSink, Summary};
use crate::machine::rows::{Meta, Piece};

// A field's number and its kind: 0 is a number, 2 is bytes with their length in front.
const HEADER: u8 = (1 << 3) | 2;
const KVS: u8 = (2 << 3) | 2;
const MORE: u8 = 3 << 3;
const COUNT: u8 = 4 << 3;
const KEY: u8 = (1 << 3) | 2;
const CREATE_REVISION: u8 = 2 << 3;
const MOD_REVISION: u8 = 3 << 3;
const VERSION: u8 = 4 << 3;
const VALUE: u8 = (5 << 3) | 2;
const LEASE: u8 = 6 << 3;

/// Room for a small row or two and what is around them; more is made by doubling.
const BYTES_AT_FIRST: usize = 512;
/// When the first row is here its siblings are taken to be alike, up to this much.
const BYTES_AHEAD_MAX: usize = 1 << 20;
/// What a sibling may be longer, by a digit here and there, before all that was written moves.
const ROW_SLACK: usize = 4;
/// What comes behind the rows.
const AFTER_ROWS: usize = 16;

/// An answer in the making.
pub(super) struct RangeFrame {
    out: Vec<u8>,
    /// Rows that may come, if the request says.
    rows: Option<usize>,
}

impl RangeFrame {
    pub(super) fn new(header: &pb::ResponseHeader, rows: Option<usize>) -> Self {
        let mut out = Vec::with_capacity(BYTES_AT_FIRST);
        out.resize(PREFIX, 0);
        out.push(HEADER);
        put_varint(&mut out, header.encoded_len() as u64);
        header.encode(&mut out).expect("a vector grows");
        Self { out, rows }
    }

    pub(super) fn finish(mut self, summary: Summary) -> Result<Framed, Status> {
        put_number(&mut self.out, MORE, summary.more.into());
        put_number(&mut self.out, COUNT, summary.count);
        Framed::finish(self.out)
    }
}

impl RowSink for RangeFrame {
    fn row(&mut self, key: Piece<'_>, meta: &Meta, value: Piece<'_>) {
        let (key, value) = (key.as_slice(), value.as_slice());
        let (create, modified) = (meta.create.0, meta.at.main.0);
        let length = bytes_length(key)
            + number_length(create)
            + number_length(modified)
            + number_length(meta.version)
            + bytes_length(value)
            + number_length(meta.lease.0);
        let whole = 1 + varint_length(length as u64) + length;
        let rows = self.rows.take().unwrap_or(1);
        let alike = whole.saturating_add(ROW_SLACK).saturating_mul(rows).saturating_add(AFTER_ROWS);
        self.out.reserve(whole.max(alike.min(BYTES_AHEAD_MAX)));
        let out = &mut self.out;
        out.push(KVS);
        put_varint(out, length as u64);
        put_bytes(out, KEY, key);
        put_number(out, CREATE_REVISION, create);
        put_number(out, MOD_REVISION, modified);
        put_number(out, VERSION, meta.version);
        put_bytes(out, VALUE, value);
        put_number(out, LEASE, meta.lease.0);
    }
}

fn put_bytes(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(field);
        put_varint(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn bytes_length(bytes: &[u8]) -> usize {
    if bytes.is_empty() { 0 } else { 1 + varint_length(bytes.len() as u64) + bytes.len() }
}

fn put_number(out: &mut Vec<u8>, field: u8, number: i64) {
    if number != 0 {
        out.push(field);
        put_varint(out, number.cast_unsigned());
    }
}

fn number_length(number: i64) -> usize {
    if number == 0 { 0 } else { 1 + varint_length(number.cast_unsigned()) }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push((number & 0x7f) as u8);
}

/// Seven bits to a byte, and a byte for nothing.
fn varint_length(number: u64) -> usize {
    let bits = u64::BITS - (number | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proto::mvccpb;

    use super::*;
    use crate::command::{LeaseId, Revision};
    use crate::machine::rows::{Links, Version};

    fn row(key: &'static [u8], numbers: [i64; 4], value: Vec<u8>) -> mvccpb::KeyValue {
        let [create_revision, mod_revision, version, lease] = numbers;
        let (key, value) = (Bytes::from_static(key), Bytes::from(value));
        mvccpb::KeyValue { key, create_revision, mod_revision, version, value, lease }
    }

    fn encode(answer: &pb::RangeResponse, rows: Option<usize>) -> Framed {
        let header = answer.header.as_ref().expect("every answer has one");
        let mut frame = RangeFrame::new(header, rows);
        for kv in &answer.kvs {
            let meta = Meta {
                at: Version { main: Revision(kv.mod_revision), sub: 0 },
                create: Revision(kv.create_revision),
                version: kv.version,
                lease: LeaseId(kv.lease),
                links: Links::default(),
            };
            frame.row(Piece::Shared(&kv.key), &meta, Piece::Borrowed(&kv.value));
        }
        frame.finish(Summary { more: answer.more, count: answer.count }).expect("small")
    }

    fn prost_writes(answer: &pb::RangeResponse) -> Framed {
        Framed::of(answer).expect("small")
    }

    /// Goal: the bytes are those of prost, at every length of every number and string.
    #[test]
    fn rows_are_written_as_prost_writes_them() {
        let header =
            pb::ResponseHeader { cluster_id: u64::MAX, member_id: 7, revision: 300, raft_term: 2 };
        let mut answer = pb::RangeResponse { header: Some(header), ..Default::default() };
        assert_eq!(encode(&answer, None), prost_writes(&answer), "nothing found");
        for shift in 0..63 {
            let number = 1 << shift;
            answer.count = number;
            answer.more = shift % 2 == 0;
            let value = vec![b'v'; usize::try_from(shift * shift).expect("small")];
            answer.kvs.push(row(b"key", [number, number - 1, number + 1, -number], value));
            answer.kvs.push(row(b"", [0; 4], Vec::new()));
            assert_eq!(encode(&answer, None), prost_writes(&answer), "{shift}");
        }
        answer.kvs.push(row(b"large", [1, 2, 3, i64::MIN], vec![0; 100_000]));
        for rows in [None, Some(0), Some(1), Some(1_000), Some(usize::MAX)] {
            assert_eq!(encode(&answer, rows), prost_writes(&answer), "{rows:?} expected");
        }
    }
}

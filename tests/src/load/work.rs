//! The requests: each a message encoded once, with places where numbers are written in.
//!
//! Keys are `load/` and twelve digits, so that a key is a number, a range of rows is a pair of
//! numbers, and nothing is formatted or encoded while the clock runs.

use prost::Message;
use proto::etcdserverpb as pb;
use proto::etcdserverpb::request_op::Request as Op;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::drive::{Request, Work};
use super::wire;

/// Twelve digits' place in a template.
const DIGITS: &[u8; 12] = b"############";

/// The methods.
pub const PUT: &str = "/etcdserverpb.KV/Put";
/// Range.
pub const RANGE: &str = "/etcdserverpb.KV/Range";
/// RangeStream.
pub const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
/// DeleteRange.
pub const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
/// Txn.
pub const TXN: &str = "/etcdserverpb.KV/Txn";
/// LeaseGrant.
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
/// LeaseKeepAlive.
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
/// Watch.
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// An encoded message with places for numbers.
#[derive(Clone, Debug)]
pub struct Template {
    bytes: Vec<u8>,
    places: Vec<usize>,
}

impl Template {
    /// Encodes a message whose numbers are [`blank`].
    pub fn new(message: &impl Message) -> Self {
        let bytes = message.encode_to_vec();
        let is_place = |at: &usize| bytes[*at..].starts_with(DIGITS);
        let places = (0..bytes.len()).filter(is_place).collect();
        Self { bytes, places }
    }

    /// A key by itself.
    pub fn key(prefix: &str) -> Self {
        Self { bytes: blank(prefix).to_vec(), places: vec![prefix.len()] }
    }

    /// The message with these numbers, in order; the last stands for all that follow.
    pub fn write(&self, out: &mut Vec<u8>, numbers: &[u64]) {
        let from = out.len();
        out.extend_from_slice(&self.bytes);
        for (nth, place) in self.places.iter().enumerate() {
            let mut number = numbers[nth.min(numbers.len() - 1)];
            for digit in out[from + place..][..DIGITS.len()].iter_mut().rev() {
                *digit = b'0' + u8::try_from(number % 10).expect("a digit");
                number /= 10;
            }
        }
    }
}

/// A key whose number is written in later.
pub fn blank(prefix: &str) -> bytes::Bytes {
    [prefix.as_bytes(), DIGITS].concat().into()
}

/// A value of this size that does not compress to nothing.
pub fn value(size: usize) -> bytes::Bytes {
    (0..size).map(|n| b'a' + u8::try_from(n * n % 23).expect("below 23")).collect::<Vec<_>>().into()
}

/// What the jobs on keys and values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// One put.
    Put,
    /// If the key is not at version -1, put: one compare that holds, one put.
    Txn,
    /// One key.
    Get {
        /// From this member's state as it is.
        serializable: bool,
    },
    /// So many rows in one answer.
    Range {
        /// How many.
        rows: u64,
        /// Always among the same ten ranges.
        hot: bool,
    },
    /// So many rows of all that follow, as a list is read page by page.
    Page {
        /// How many.
        rows: u64,
    },
    /// So many rows in chunks.
    RangeStream {
        /// How many.
        rows: u64,
    },
    /// One key that exists, each once.
    Delete,
    /// One put for each four linearizable gets.
    Mixed,
}

/// The prefix of the keys that are there from the start.
pub const FILLED: &str = "load/";
/// The prefix of the keys that deletes use up.
pub const DOOMED: &str = "doom/";

/// Requests of one kind at random keys.
pub struct Keys {
    ask: Ask,
    keys: u64,
    random: StdRng,
    put: Template,
    read: Template,
    /// For what goes through keys once: the next, and the step to the one after.
    next: u64,
    step: u64,
    count: u64,
}

impl Keys {
    /// The work of connection `nth` of `of`, over `keys` keys.
    pub fn new(ask: Ask, keys: u64, value_size: usize, nth: usize, of: usize) -> Self {
        let put = pb::PutRequest {
            key: blank(FILLED),
            value: value(value_size),
            ..pb::PutRequest::default()
        };
        let read = match ask {
            Ask::Delete => Template::new(&pb::DeleteRangeRequest {
                key: blank(DOOMED),
                ..pb::DeleteRangeRequest::default()
            }),
            Ask::Txn => Template::new(&txn(put.clone())),
            _ => Template::new(&range(ask)),
        };
        Self {
            ask,
            keys: keys.max(1),
            random: StdRng::seed_from_u64(nth as u64),
            put: Template::new(&put),
            read,
            next: nth as u64,
            step: of as u64,
            count: 0,
        }
    }

    /// The first row of a range that does not reach beyond the last key.
    fn start(&mut self, rows: u64, hot: bool) -> u64 {
        let starts = self.keys.saturating_sub(rows).max(1);
        match hot {
            true => (starts / 2 + self.random.random_range(0..10) * rows).min(starts - 1),
            false => self.random.random_range(0..starts),
        }
    }
}

impl Work for Keys {
    fn next(&mut self, message: &mut Vec<u8>) -> Option<Request> {
        self.count += 1;
        let path = match self.ask {
            Ask::Put => PUT,
            Ask::Mixed if self.count.is_multiple_of(5) => PUT,
            Ask::Txn => TXN,
            Ask::Delete => DELETE,
            Ask::RangeStream { .. } => RANGE_STREAM,
            _ => RANGE,
        };
        match self.ask {
            Ask::Range { rows, hot } => {
                let start = self.start(rows, hot);
                self.read.write(message, &[start, start + rows]);
            }
            Ask::RangeStream { rows } => {
                let start = self.start(rows, false);
                self.read.write(message, &[start, start + rows]);
            }
            Ask::Page { rows } => {
                let start = self.start(rows, false);
                self.read.write(message, &[start]);
            }
            Ask::Delete => {
                if self.next >= self.keys {
                    return None;
                }
                self.read.write(message, &[self.next]);
                self.next += self.step;
            }
            _ => {
                let key = self.random.random_range(0..self.keys);
                let template = if path == PUT { &self.put } else { &self.read };
                template.write(message, &[key]);
            }
        }
        Some(Request { path, tag: 0 })
    }

    fn answer(&mut self, _: u64, message: &[u8]) -> u64 {
        match self.ask {
            Ask::Range { .. } | Ask::Page { .. } => wire::count_of(message, 2),
            Ask::RangeStream { .. } => {
                wire::bytes_of(message, 1).map_or(0, |chunk| wire::count_of(chunk, 2))
            }
            _ => 1,
        }
    }
}

fn txn(put: pb::PutRequest) -> pb::TxnRequest {
    let compare = pb::Compare {
        result: pb::compare::CompareResult::Greater.into(),
        target: pb::compare::CompareTarget::Version.into(),
        key: put.key.clone(),
        target_union: Some(pb::compare::TargetUnion::Version(-1)),
        ..pb::Compare::default()
    };
    let put = pb::RequestOp { request: Some(Op::RequestPut(put)) };
    pb::TxnRequest { compare: vec![compare], success: vec![put], failure: Vec::new() }
}

fn range(ask: Ask) -> pb::RangeRequest {
    let key = blank(FILLED);
    let end = key.clone();
    let limit = |rows: u64| i64::try_from(rows).expect("row counts are small");
    match ask {
        Ask::Range { rows, .. } => {
            pb::RangeRequest { key, range_end: end, limit: limit(rows), ..Default::default() }
        }
        Ask::Page { rows } => {
            let range_end = bytes::Bytes::from_static(b"load0");
            pb::RangeRequest { key, range_end, limit: limit(rows), ..Default::default() }
        }
        Ask::RangeStream { .. } => pb::RangeRequest { key, range_end: end, ..Default::default() },
        Ask::Get { serializable } => pb::RangeRequest { key, serializable, ..Default::default() },
        _ => pb::RangeRequest { key, ..Default::default() },
    }
}

/// Transactions of puts that fill a key space quickly: a hundred keys at a time.
pub struct Fill {
    template: Template,
    next: u64,
    step: u64,
    keys: u64,
}

/// Puts in one of [`Fill`]'s transactions; the server's bound is 128 by default.
pub const FILL_BATCH: u64 = 100;

impl Fill {
    /// The part of connection `nth` of `of`.
    pub fn new(prefix: &str, keys: u64, value_size: usize, nth: usize, of: usize) -> Self {
        let put = || {
            let put = pb::PutRequest {
                key: blank(prefix),
                value: value(value_size),
                ..pb::PutRequest::default()
            };
            pb::RequestOp { request: Some(Op::RequestPut(put)) }
        };
        let txn = pb::TxnRequest {
            success: (0..FILL_BATCH).map(|_| put()).collect(),
            ..pb::TxnRequest::default()
        };
        let (next, step) = (nth as u64 * FILL_BATCH, of as u64 * FILL_BATCH);
        Self { template: Template::new(&txn), next, step, keys }
    }
}

impl Work for Fill {
    fn next(&mut self, message: &mut Vec<u8>) -> Option<Request> {
        if self.next >= self.keys {
            return None;
        }
        let numbers: Vec<u64> = (self.next..self.next + FILL_BATCH).collect();
        self.template.write(message, &numbers);
        self.next += self.step;
        Some(Request { path: TXN, tag: 0 })
    }

    fn answer(&mut self, _: u64, _: &[u8]) -> u64 {
        FILL_BATCH
    }
}

/// Lease grants, long enough that none ends while the clock runs.
pub struct Grants(Template);

/// Seconds that a lease of a measurement lives.
pub const LEASE_TTL: i64 = 3600;

impl Grants {
    /// Grants with ids of the server's choice.
    pub fn new() -> Self {
        Self(Template::new(&pb::LeaseGrantRequest { ttl: LEASE_TTL, id: 0 }))
    }
}

impl Default for Grants {
    fn default() -> Self {
        Self::new()
    }
}

impl Work for Grants {
    fn next(&mut self, message: &mut Vec<u8>) -> Option<Request> {
        self.0.write(message, &[0]);
        Some(Request { path: LEASE_GRANT, tag: 0 })
    }

    fn answer(&mut self, _: u64, _: &[u8]) -> u64 {
        1
    }
}

#[cfg(test)]
mod tests {
    //! What is written must be what prost reads.

    use super::*;

    #[test]
    fn a_template_is_the_message_with_its_numbers() {
        let mut keys = Keys::new(Ask::Range { rows: 10, hot: false }, 1000, 8, 0, 1);
        for _ in 0..50 {
            let mut message = Vec::new();
            let request = keys.next(&mut message).expect("ranges do not run out");
            assert_eq!(request.path, RANGE);
            let range = pb::RangeRequest::decode(&message[..]).expect("a request");
            let number = |key: &[u8]| -> u64 {
                std::str::from_utf8(&key[5..]).expect("digits").parse().expect("a number")
            };
            assert_eq!(number(&range.range_end), number(&range.key) + 10);
            assert!(number(&range.range_end) <= 1000);
        }
    }

    #[test]
    fn a_fill_writes_every_key_once() {
        let mut seen = std::collections::BTreeSet::new();
        for nth in 0..3 {
            let mut fill = Fill::new("load/", 1000, 8, nth, 3);
            let mut message = Vec::new();
            while fill.next(&mut message).is_some() {
                let txn = pb::TxnRequest::decode(&message[..]).expect("a request");
                for step in txn.success {
                    let Some(Op::RequestPut(put)) = step.request else { panic!("a put") };
                    assert!(seen.insert(put.key), "a key twice");
                }
                message.clear();
            }
        }
        assert_eq!(seen.len(), 1000);
    }

    #[test]
    fn deletes_end_when_all_is_deleted() {
        let mut deletes = Keys::new(Ask::Delete, 10, 8, 1, 4);
        let mut message = Vec::new();
        let count = std::iter::from_fn(|| deletes.next(&mut message)).count();
        assert_eq!(count, 3, "keys 1, 5 and 9 are connection 1's");
    }
}

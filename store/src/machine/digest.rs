//! HashKV: a digest of all versions up to a revision, byte for byte etcd's.
//!
//! CRC-32C over the bucket name `key` and then, for each version in order of revision, etcd's key
//! for it (main revision, `_`, place among its changes, `t` on a tombstone) and its value in
//! etcd's form (a protobuf `mvccpb.KeyValue`; of a tombstone only the key).
//!
//! Members remove compacted versions at different times, so versions up to the compacted revision
//! count only if the state at the hashed revision still needs them. etcd has one exception, kept
//! here since digests are compared between members and tools: when no key at all is alive at the
//! hashed revision, versions that compaction keeps are counted although nothing needs them.

use bytes::Bytes;

use super::rows::Version;
use crate::command::{KeyValue, LeaseId, Revision};
use crate::varint;

/// A digest, and what it is a digest of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest {
    pub hash: u32,
    /// The revision hashed up to.
    pub revision: Revision,
    pub compacted: Revision,
}

/// Computes a digest from versions given in order.
pub struct Hasher {
    crc: u32,
    last: Version,
    scratch: Vec<u8>,
}

impl Default for Hasher {
    fn default() -> Self {
        Self { crc: crc32c::crc32c(b"key"), last: Version::NONE, scratch: Vec::new() }
    }
}

impl Hasher {
    pub fn live(&mut self, at: Version, kv: &KeyValue) {
        self.begin(at);
        field_bytes(&mut self.scratch, 1, &kv.key);
        field_integer(&mut self.scratch, 2, kv.create.0);
        field_integer(&mut self.scratch, 3, kv.modified.0);
        field_integer(&mut self.scratch, 4, kv.version);
        field_bytes(&mut self.scratch, 5, &kv.value);
        let LeaseId(lease) = kv.lease;
        field_integer(&mut self.scratch, 6, lease);
        self.end();
    }

    pub fn tombstone(&mut self, at: Version, key: &Bytes) {
        self.begin(at);
        self.scratch.push(b't');
        field_bytes(&mut self.scratch, 1, key);
        self.end();
    }

    /// A version that is in etcd's form already, in order like the others.
    pub fn raw(&mut self, key: &[u8], value: &[u8]) {
        self.crc = crc32c::crc32c_append(crc32c::crc32c_append(self.crc, key), value);
    }

    #[must_use]
    pub fn finish(&self) -> u32 {
        self.crc
    }

    fn begin(&mut self, at: Version) {
        assert!(self.last < at, "versions are hashed in order");
        self.last = at;
        self.scratch.clear();
        self.scratch.extend_from_slice(&at.main.0.to_be_bytes());
        self.scratch.push(b'_');
        self.scratch.extend_from_slice(&u64::from(at.sub).to_be_bytes());
    }

    fn end(&mut self) {
        self.crc = crc32c::crc32c_append(self.crc, &self.scratch);
    }
}

fn field_bytes(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        out.push(number << 3 | 2);
        varint::put(out, bytes.len() as u64);
        out.extend_from_slice(bytes);
    }
}

fn field_integer(out: &mut Vec<u8>, number: u8, integer: i64) {
    if integer != 0 {
        out.push(number << 3);
        varint::put(out, integer.cast_unsigned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes that etcd would have in its database, spelled out.
    #[test]
    fn versions_are_hashed_as_etcd_stores_them() {
        let kv = KeyValue {
            key: Bytes::from_static(b"k"),
            value: Bytes::from_static(b"v"),
            create: Revision(2),
            modified: Revision(300),
            version: 3,
            lease: LeaseId(-1),
        };
        let mut hasher = Hasher::default();
        hasher.live(Version { main: Revision(300), sub: 1 }, &kv);
        hasher.tombstone(Version { main: Revision(301), sub: 0 }, &kv.key);
        let stored = [
            &b"key"[..],
            b"\0\0\0\0\0\0\x01\x2c_\0\0\0\0\0\0\0\x01",
            b"\x0a\x01k\x10\x02\x18\xac\x02\x20\x03\x2a\x01v",
            b"\x30\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
            b"\0\0\0\0\0\0\x01\x2d_\0\0\0\0\0\0\0\0t",
            b"\x0a\x01k",
        ];
        assert_eq!(hasher.finish(), crc32c::crc32c(&stored.concat()));
    }
}

//! How versions are written in the database; `docs/format.md` draws the bytes.
//!
//! `cur` holds the newest version of each key, `hist` every retained version by revision. A record
//! begins with a byte of flags that says which fields follow, because most versions need few of
//! them: a key written once has no chain, no lease, and its creation is its modification.

use bytes::Bytes;

use crate::{
    command::{LeaseId, Revision},
    fault::Fault,
    limits::VALUE_INLINE_BYTES_MAX,
    machine::rows::{Links, Meta, Version},
};

const TOMBSTONE: u8 = 0x01;
/// The first version of its generation: created here, version 1.
const FIRST: u8 = 0x02;
const LEASE: u8 = 0x04;
/// Has a predecessor.
const CHAINED: u8 = 0x08;
/// Jumps elsewhere than to the predecessor.
const JUMP: u8 = 0x10;
/// `cur` only: the value is in `hist`, its length is here.
const ELSEWHERE: u8 = 0x20;
const KNOWN: u8 = 0x3f;

/// The key of `hist`: orders as versions do.
pub(super) type HistKey = [u8; 12];

pub(super) fn hist_key(at: Version) -> HistKey {
    assert!(at.main.0 >= 0, "only numbers that are not negative sort as their bytes do");
    let mut key = [0; 12];
    key[..8].copy_from_slice(&at.main.0.to_be_bytes());
    key[8..].copy_from_slice(&at.sub.to_be_bytes());
    key
}

pub(super) fn read_hist_key(key: &HistKey) -> Version {
    let (main, sub) = key.split_at(8);
    Version {
        main: Revision(i64::from_be_bytes(main.try_into().expect("split at 8"))),
        sub: u32::from_be_bytes(sub.try_into().expect("12 - 8")),
    }
}

/// Where a row of `cur` has its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place<'a> {
    Inline(&'a [u8]),
    /// In `hist`, at the row's own version.
    History,
}

/// Writes a row of `cur`.
pub(super) fn write_cur(out: &mut Vec<u8>, meta: &Meta, value: &[u8]) {
    out.clear();
    let elsewhere = value.len() > VALUE_INLINE_BYTES_MAX;
    out.push(flags(meta) | if elsewhere { ELSEWHERE } else { 0 });
    version(out, meta.at);
    fields(out, meta);
    if elsewhere {
        let length = u32::try_from(value.len()).expect("a request is far smaller than 4 GiB");
        out.extend_from_slice(&length.to_le_bytes());
    } else {
        out.extend_from_slice(value);
    }
}

pub(super) fn read_cur(row: &[u8]) -> Result<(Meta, Place<'_>), Fault> {
    let mut input = Input(row);
    let flags = input.flags()?;
    let at = input.version()?;
    let meta = input.fields(flags, at)?;
    if flags & ELSEWHERE == 0 {
        return Ok((meta, Place::Inline(input.0)));
    }
    input.u32()?;
    Ok((meta, Place::History))
}

/// A row of `hist`, read.
pub(super) struct HistRow<'a> {
    pub(super) meta: Meta,
    /// See `machine::size`.
    pub(super) dead: u64,
    pub(super) key: &'a [u8],
    pub(super) value: &'a [u8],
}

impl HistRow<'_> {
    pub(super) fn value(&self) -> Bytes {
        Bytes::copy_from_slice(self.value)
    }
}

/// Writes a row of `hist`.
pub(super) fn write_hist(out: &mut Vec<u8>, meta: &Meta, dead: u64, key: &[u8], value: &[u8]) {
    out.clear();
    out.push(flags(meta));
    fields(out, meta);
    out.extend_from_slice(&dead.to_le_bytes());
    let length = u32::try_from(key.len()).expect("a request is far smaller than 4 GiB");
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(value);
}

pub(super) fn read_hist(at: Version, row: &[u8]) -> Result<HistRow<'_>, Fault> {
    let mut input = Input(row);
    let flags = input.flags()?;
    let meta = input.fields(flags, at)?;
    let dead = input.u64()?;
    let length = usize::try_from(input.u32()?).expect("32 bits fit");
    let (key, value) = input.0.split_at_checked(length).ok_or_else(damaged)?;
    Ok(HistRow { meta, dead, key, value })
}

fn flags(meta: &Meta) -> u8 {
    let links = &meta.links;
    let is_first = meta.version == 1 && meta.create == meta.at.main;
    let chained = links.prev != Version::NONE;
    [
        (TOMBSTONE, meta.is_tombstone()),
        (FIRST, is_first),
        (LEASE, meta.lease != LeaseId::NONE),
        (CHAINED, chained),
        (JUMP, chained && links.jump != links.prev),
    ]
    .iter()
    .fold(0, |flags, (flag, set)| if *set { flags | flag } else { flags })
}

fn fields(out: &mut Vec<u8>, meta: &Meta) {
    let flags = flags(meta);
    if flags & (TOMBSTONE | FIRST) == 0 {
        out.extend_from_slice(&meta.create.0.to_le_bytes());
        out.extend_from_slice(&meta.version.to_le_bytes());
    }
    if flags & LEASE != 0 {
        out.extend_from_slice(&meta.lease.0.to_le_bytes());
    }
    if flags & CHAINED != 0 {
        out.extend_from_slice(&meta.links.depth.to_le_bytes());
        version(out, meta.links.prev);
    }
    if flags & JUMP != 0 {
        version(out, meta.links.jump);
    }
}

fn version(out: &mut Vec<u8>, at: Version) {
    out.extend_from_slice(&at.main.0.to_le_bytes());
    out.extend_from_slice(&at.sub.to_le_bytes());
}

fn damaged() -> Fault {
    Fault::Damaged("a version's record makes no sense".into())
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn fields(&mut self, flags: u8, at: Version) -> Result<Meta, Fault> {
        let (create, version) = match flags & (TOMBSTONE | FIRST) {
            0 => (Revision(self.i64()?), self.i64()?),
            FIRST => (at.main, 1),
            _ => (Revision(0), 0),
        };
        let lease = if flags & LEASE == 0 { LeaseId::NONE } else { LeaseId(self.i64()?) };
        let mut links = Links { depth: 1, prev: Version::NONE, jump: Version::NONE };
        if flags & CHAINED != 0 {
            links.depth = self.u32()?;
            links.prev = self.version()?;
            links.jump = if flags & JUMP == 0 { links.prev } else { self.version()? };
        }
        Ok(Meta { at, create, version, lease, links })
    }

    fn flags(&mut self) -> Result<u8, Fault> {
        match self.take::<1>()? {
            [flags] if flags & !KNOWN == 0 => Ok(flags),
            _ => Err(damaged()),
        }
    }

    fn version(&mut self) -> Result<Version, Fault> {
        Ok(Version { main: Revision(self.i64()?), sub: self.u32()? })
    }

    fn i64(&mut self) -> Result<i64, Fault> {
        self.take().map(i64::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Fault> {
        self.take().map(u64::from_le_bytes)
    }

    fn u32(&mut self) -> Result<u32, Fault> {
        self.take().map(u32::from_le_bytes)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let (taken, rest) = self.0.split_first_chunk().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metas() -> Vec<Meta> {
        let at = Version { main: Revision(0x0102), sub: 3 };
        let prev = Version { main: Revision(9), sub: 1 };
        let jump = Version { main: Revision(4), sub: 0 };
        let first = Meta {
            at,
            create: at.main,
            version: 1,
            lease: LeaseId::NONE,
            links: Links { depth: 1, ..Links::default() },
        };
        vec![
            first,
            Meta { lease: LeaseId(7), ..first },
            Meta { links: Links { depth: 2, prev, jump: prev }, ..first },
            Meta {
                create: Revision(9),
                version: 2,
                links: Links { depth: 6, prev, jump },
                ..first
            },
            Meta {
                create: Revision(0),
                version: 0,
                links: Links { depth: 3, prev, jump: Version::NONE },
                ..first
            },
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    #[test]
    fn records_are_read_as_written() {
        let mut row = Vec::new();
        for meta in metas() {
            for value in [&b"v"[..], &[7; VALUE_INLINE_BYTES_MAX + 1]] {
                write_cur(&mut row, &meta, value);
                let (read, place) = read_cur(&row).unwrap();
                assert_eq!(read, meta);
                match place {
                    Place::Inline(inline) => assert_eq!(inline, value),
                    Place::History => assert!(value.len() > VALUE_INLINE_BYTES_MAX),
                }
                write_hist(&mut row, &meta, 77, b"key", value);
                let read = read_hist(meta.at, &row).unwrap();
                assert_eq!((read.meta, read.dead), (meta, 77));
                assert_eq!((read.key, read.value), (&b"key"[..], value));
            }
        }
        assert_eq!(read_hist_key(&hist_key(metas()[0].at)), metas()[0].at);
    }

    /// The bytes are on disk: this changes only together with the format number.
    #[test]
    fn records_have_golden_bytes() {
        let mut lines = Vec::new();
        for meta in metas() {
            let mut row = Vec::new();
            write_cur(&mut row, &meta, b"v");
            lines.push(hex(&row));
        }
        assert_eq!(lines.join("\n"), include_str!("golden.hex").trim_end());
    }

    #[test]
    fn short_or_unknown_records_are_refused() {
        let mut row = Vec::new();
        write_hist(&mut row, &metas()[3], 1, b"key", b"");
        for length in 0..row.len() {
            assert!(read_hist(metas()[3].at, &row[..length]).is_err());
        }
        row[0] |= 0x80;
        assert!(read_hist(metas()[3].at, &row).is_err());
    }
}

//! Pages of a bbolt file: the fixed layouts, and nothing that knows what they are for.
//!
//! ```text
//!  0          8       10      12          16
//!  ┌──────────┬───────┬───────┬───────────┬──────── ─ ─
//!  │ page id  │ flags │ count │ overflow  │ elements, then the bytes they point at
//!  └──────────┴───────┴───────┴───────────┴──────── ─ ─
//!
//!  leaf element    flags u32 · pos u32 · key length u32 · value length u32
//!  branch element  pos u32 · key length u32 · page id u64
//!  meta            magic u32 · version u32 · page size u32 · flags u32 · root u64 · sequence u64
//!                  · freelist u64 · high-water mark u64 · transaction u64 · checksum u64
//! ```
//!
//! A page that does not suffice goes on in the `overflow` pages after it. `pos` counts from the
//! element's own start. Everything is little-endian, because the reference implementation maps the
//! file into memory on machines that are.

/// The size of the pages we write; readers take it from the meta page.
pub(super) const PAGE: usize = 4096;
pub(super) const HEADER: usize = 16;
/// A leaf element and a branch element take the same.
pub(super) const ELEMENT: usize = 16;
/// What a bucket has as its value in its parent: the root's page id, and a counter.
pub(super) const BUCKET_HEADER: usize = 16;

pub(super) const BRANCH: u16 = 0x01;
pub(super) const LEAF: u16 = 0x02;
pub(super) const META: u16 = 0x04;
pub(super) const FREELIST: u16 = 0x10;

/// The flag of a leaf element whose value is a bucket.
pub(super) const IS_BUCKET: u32 = 0x01;
/// Stands where the freelist's page would: pages that nothing refers to are free.
pub(super) const NO_FREELIST: u64 = u64::MAX;

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;
const META_BYTES: usize = 64;

/// What every page begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) id: u64,
    pub(super) flags: u16,
    pub(super) count: u16,
    /// Pages that follow and belong to this one.
    pub(super) overflow: u32,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&self.id.to_le_bytes());
        bytes[8..10].copy_from_slice(&self.flags.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.count.to_le_bytes());
        bytes[12..].copy_from_slice(&self.overflow.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8; HEADER]) -> Self {
        let half = |at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        Self { id: long(bytes, 0), flags: half(8), count: half(10), overflow: word(bytes, 12) }
    }
}

/// Where everything starts. There are two, written in turn; the newer sound one counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) page_size: u32,
    pub(super) root: u64,
    pub(super) freelist: u64,
    /// The first page id that is not in use.
    pub(super) high_water: u64,
    pub(super) transaction: u64,
}

impl Meta {
    /// The bytes behind the page header.
    pub(super) fn encode(&self) -> [u8; META_BYTES] {
        let mut bytes = [0; META_BYTES];
        bytes[..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..8].copy_from_slice(&VERSION.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.page_size.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.root.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.freelist.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.high_water.to_le_bytes());
        bytes[48..56].copy_from_slice(&self.transaction.to_le_bytes());
        let checksum = fnv(&bytes[..56]);
        bytes[56..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Nothing where the bytes are no sound meta page of the version we know.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes = bytes.get(..META_BYTES)?;
        let sound = word(bytes, 0) == MAGIC
            && word(bytes, 4) == VERSION
            && long(bytes, 56) == fnv(&bytes[..56]);
        sound.then(|| Self {
            page_size: word(bytes, 8),
            root: long(bytes, 16),
            freelist: long(bytes, 32),
            high_water: long(bytes, 40),
            transaction: long(bytes, 48),
        })
    }
}

/// An element of a page, its key and value still as places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    /// Of a leaf.
    pub(super) flags: u32,
    /// From the element's start to its key; the value follows the key.
    pub(super) pos: u32,
    pub(super) key: u32,
    /// The value's length, of a leaf.
    pub(super) value: u32,
    /// The child's page id, of a branch.
    pub(super) child: u64,
}

impl Element {
    pub(super) fn decode(bytes: &[u8; ELEMENT], is_leaf: bool) -> Self {
        if is_leaf {
            let [flags, pos, key, value] = [0, 4, 8, 12].map(|at| word(bytes, at));
            Self { flags, pos, key, value, child: 0 }
        } else {
            let (pos, key) = (word(bytes, 0), word(bytes, 4));
            Self { flags: 0, pos, key, value: 0, child: long(bytes, 8) }
        }
    }

    pub(super) fn encode(&self, is_leaf: bool) -> [u8; ELEMENT] {
        let mut bytes = [0; ELEMENT];
        let words = if is_leaf {
            [self.flags, self.pos, self.key, self.value]
        } else {
            let child = self.child.to_le_bytes();
            [self.pos, self.key, word(&child, 0), word(&child, 4)]
        };
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

pub(super) fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// FNV-1a over 64 bits, which guards the meta pages.
fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_gives_the_published_values() {
        assert_eq!(fnv(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv(b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn layouts_are_read_as_written() {
        let header = Header { id: 7, flags: LEAF, count: 300, overflow: 70_000 };
        assert_eq!(Header::decode(&header.encode()), header);
        let leaf = Element { flags: IS_BUCKET, pos: 20, key: 3, value: 9, child: 0 };
        assert_eq!(Element::decode(&leaf.encode(true), true), leaf);
        let branch = Element { flags: 0, pos: 20, key: 3, value: 0, child: 1 << 40 };
        assert_eq!(Element::decode(&branch.encode(false), false), branch);
    }

    #[test]
    fn a_meta_page_with_one_wrong_bit_is_none() {
        let meta = Meta { page_size: 4096, root: 9, freelist: 2, high_water: 10, transaction: 1 };
        let bytes = meta.encode();
        assert_eq!(Meta::decode(&bytes), Some(meta));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Meta::decode(&damaged), None, "bit {bit}");
        }
        assert_eq!(Meta::decode(&bytes[..63]), None);
    }
}

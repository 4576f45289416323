//! A bbolt file, read without trusting it.
//!
//! A backup may be cut short, damaged or made by an enemy. So nothing in it is believed before it
//! is checked: a page is read only where the file has it, belongs to one place in the tree only
//! (a bit for each page says whether it was met, which also ends every cycle), names itself by its
//! own id, and holds its elements inside itself; keys ascend, and lie between the keys that the
//! branches above promise. What is held at a time is one page for each level of the tree, each of
//! a bounded size, so a hostile length costs nothing.
//!
//! The first thing that is wrong ends the reading with a typed error that names the page.

use std::{fs::File, io, os::unix::fs::FileExt as _};

use super::page::{
    self, BUCKET_HEADER, ELEMENT, Element, HEADER, Header, IS_BUCKET, Meta, NO_FREELIST,
};
use crate::limits::{IMAGE_BRANCH_BYTES_MAX, IMAGE_DEPTH_MAX, IMAGE_LEAF_BYTES_MAX};

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error("the file cannot be read")]
    Io(#[from] io::Error),
    #[error("this is no etcd database file: neither of its meta pages is sound")]
    NoMeta,
    #[error("the file is cut short: it says it has {expected} bytes and has {found}")]
    Cut { expected: u64, found: u64 },
    #[error("the file is damaged at page {page}: {what}")]
    Damaged { page: u64, what: &'static str },
    #[error("the file is damaged: page {page} is neither in use nor free")]
    Lost { page: u64 },
}

/// Bytes at places.
pub trait Source {
    /// How many there are.
    fn size(&self) -> io::Result<u64>;
    /// Fills `into` from `offset`, or fails.
    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()>;
}

impl Source for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, offset)
    }
}

impl Source for &[u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn fill(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = start.checked_add(into.len()).and_then(|end| self.get(start..end));
        into.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// What a walk meets.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// The buckets it is in, outermost first; none for the buckets of the top.
    pub path: &'a [Vec<u8>],
    pub key: &'a [u8],
    /// Nothing where a bucket begins whose name is the key.
    pub value: Option<&'a [u8]>,
}

/// An open file.
#[derive(Debug)]
pub struct Image<S> {
    source: S,
    meta: Meta,
    /// Bytes without the digest that may follow.
    body: u64,
    digest: Option<[u8; 32]>,
}

/// A digest's length; a backup's file part is a multiple of 512, so the rest tells.
const DIGEST: u64 = 32;
/// The smallest page that the other program looks for, and how often it doubles that.
const SMALLEST: u64 = 1024;
const LARGER: u32 = 14;

impl<S: Source> Image<S> {
    /// Finds the meta pages and checks that the file is as long as they say.
    pub fn open(source: S) -> Result<Self, ReadError> {
        let size = source.size()?;
        let mut digest = None;
        let mut body = size;
        if size % 512 == DIGEST {
            body = size - DIGEST;
            let mut found = [0; 32];
            source.fill(body, &mut found)?;
            digest = Some(found);
        }
        let meta = newest_meta(&source, body).ok_or(ReadError::NoMeta)?;
        let expected = meta.high_water.checked_mul(u64::from(meta.page_size));
        match expected {
            Some(expected) if expected <= body => Ok(Self { source, meta, body, digest }),
            _ => Err(ReadError::Cut { expected: expected.unwrap_or(u64::MAX), found: body }),
        }
    }

    /// What it was read from.
    pub fn into_source(self) -> S {
        self.source
    }

    /// The digest that follows the file, if one does.
    #[must_use]
    pub fn digest(&self) -> Option<[u8; 32]> {
        self.digest
    }

    /// The length of the file without it.
    #[must_use]
    pub fn body(&self) -> u64 {
        self.body
    }

    /// The bytes in use, as the other program's tools count them.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.meta.high_water * u64::from(self.meta.page_size)
    }

    /// Gives the file's bytes in order, without the digest.
    pub fn bytes<E: From<ReadError>>(
        &self,
        take: &mut dyn FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut window = vec![0; 1 << 20];
        let mut offset = 0;
        while offset < self.body {
            let left = usize::try_from(self.body - offset).unwrap_or(usize::MAX);
            let piece = window.len().min(left);
            self.source.fill(offset, &mut window[..piece]).map_err(ReadError::from)?;
            take(&window[..piece])?;
            offset += piece as u64;
        }
        Ok(())
    }

    /// Visits all buckets and items, in order.
    pub fn walk<E: From<ReadError>>(
        &self,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk_through(None, visit).map(drop)
    }

    /// Visits the items of one bucket of the top, in order.
    pub fn walk_only<E: From<ReadError>>(
        &self,
        bucket: &[u8],
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.walk_through(Some(bucket), visit).map(drop)
    }

    /// Visits everything, and then checks that each page is either in use or free.
    pub fn check<E: From<ReadError>>(
        &self,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let met = self.walk_through(None, visit)?;
        self.check_free(met).map_err(E::from)
    }

    fn walk_through<E: From<ReadError>>(
        &self,
        only: Option<&[u8]>,
        visit: &mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
    ) -> Result<Met, E> {
        let met = Met::new(self.meta.high_water);
        let mut walk = Walk { image: self, only, met, path: Vec::new(), visit };
        walk.met.first(0, 2);
        walk.page(self.meta.root, Bounds::default(), 0)?;
        Ok(walk.met)
    }

    fn header(&self, id: u64) -> Result<Header, ReadError> {
        if id < 2 || id >= self.meta.high_water {
            return Err(ReadError::Damaged { page: id, what: "there is no such page" });
        }
        let mut bytes = [0; HEADER];
        self.source.fill(id * u64::from(self.meta.page_size), &mut bytes)?;
        let header = Header::decode(&bytes);
        let last = id.checked_add(u64::from(header.overflow));
        if header.id != id {
            return Err(ReadError::Damaged { page: id, what: "it says that it is another one" });
        }
        if last.is_none_or(|last| last >= self.meta.high_water) {
            return Err(ReadError::Damaged { page: id, what: "it goes on beyond the end" });
        }
        Ok(header)
    }

    /// A page with what overflows from it.
    fn load(&self, id: u64, header: &Header) -> Result<Vec<u8>, ReadError> {
        let (size, pages) = (u64::from(self.meta.page_size), u64::from(header.overflow) + 1);
        let max = match header.flags {
            page::LEAF => IMAGE_LEAF_BYTES_MAX,
            page::BRANCH => IMAGE_BRANCH_BYTES_MAX,
            _ => {
                let what = "a page of another kind stands where a branch or a leaf should";
                return Err(ReadError::Damaged { page: id, what });
            }
        };
        let length = usize::try_from(size * pages).unwrap_or(usize::MAX);
        if length > max {
            return Err(ReadError::Damaged { page: id, what: "it is larger than any should be" });
        }
        let mut bytes = vec![0; length];
        self.source.fill(id * size, &mut bytes)?;
        Ok(bytes)
    }

    /// Without a list, what nothing refers to is free.
    fn check_free(&self, mut met: Met) -> Result<(), ReadError> {
        let list = self.meta.freelist;
        if list == NO_FREELIST {
            return Ok(());
        }
        let header = self.header(list)?;
        let damaged = |what| Err(ReadError::Damaged { page: list, what });
        if header.flags != page::FREELIST {
            return damaged("this is not the list of free pages");
        }
        let size = u64::from(self.meta.page_size);
        let start = list * size + HEADER as u64;
        let end = (list + u64::from(header.overflow) + 1) * size;
        let number = |at: u64| -> Result<u64, ReadError> {
            let mut bytes = [0; 8];
            self.source.fill(at, &mut bytes)?;
            Ok(u64::from_le_bytes(bytes))
        };
        let (first, count) = match header.count {
            u16::MAX => (start + 8, number(start)?),
            count => (start, u64::from(count)),
        };
        if count.checked_mul(8).is_none_or(|bytes| bytes > end - first) {
            return damaged("the list of free pages does not fit into its pages");
        }
        met.claim(list, header.overflow)?;
        for nth in 0..count {
            let free = number(first + nth * 8)?;
            if free < 2 || free >= self.meta.high_water {
                return damaged("it lists a free page that does not exist");
            }
            met.claim(free, 0)?;
        }
        met.missing().map_or(Ok(()), |page| Err(ReadError::Lost { page }))
    }
}

/// The sound meta page with the newer transaction.
fn newest_meta(source: &impl Source, body: u64) -> Option<Meta> {
    let read = |offset: u64| {
        let mut bytes = [0; HEADER + 64];
        let inside = offset.checked_add(bytes.len() as u64).is_some_and(|end| end <= body);
        (inside && source.fill(offset, &mut bytes).is_ok())
            .then(|| Meta::decode(&bytes[HEADER..]))
            .flatten()
    };
    let sane = |meta: &Meta| {
        let size = u64::from(meta.page_size);
        size.is_power_of_two() && (SMALLEST..=SMALLEST << LARGER).contains(&size)
    };
    let first = read(0).filter(sane);
    let second = match &first {
        Some(first) => read(u64::from(first.page_size)),
        None => (0..=LARGER)
            .map(|doubled| SMALLEST << doubled)
            .find_map(|size| read(size).filter(|meta| u64::from(meta.page_size) == size)),
    };
    let second = second
        .filter(sane)
        .filter(|second| first.is_none_or(|first| first.page_size == second.page_size));
    [first, second].into_iter().flatten().max_by_key(|meta| meta.transaction)
}

/// A bit for each page: met or not.
struct Met {
    bits: Vec<u64>,
    pages: u64,
}

impl Met {
    fn new(pages: u64) -> Self {
        // Bounded by the file, whose length is at least this many pages.
        let words = usize::try_from(pages.div_ceil(64)).expect("a file's pages can be counted");
        Self { bits: vec![0; words], pages }
    }

    fn place(page: u64) -> (usize, u64) {
        (usize::try_from(page / 64).expect("inside the file"), 1 << (page % 64))
    }

    fn first(&mut self, from: u64, upto: u64) {
        for page in from..upto.min(self.pages) {
            let (word, bit) = Self::place(page);
            self.bits[word] |= bit;
        }
    }

    /// Marks a page with its overflow, all inside the file.
    fn claim(&mut self, page: u64, overflow: u32) -> Result<(), ReadError> {
        for page in page..=page + u64::from(overflow) {
            let (word, bit) = Self::place(page);
            if self.bits[word] & bit != 0 {
                return Err(ReadError::Damaged { page, what: "it is used twice" });
            }
            self.bits[word] |= bit;
        }
        Ok(())
    }

    fn missing(&self) -> Option<u64> {
        (0..self.pages).find(|page| {
            let (word, bit) = Self::place(*page);
            self.bits[word] & bit == 0
        })
    }
}

/// The keys that a page may hold: from the first, included, to the second.
#[derive(Clone, Copy, Default)]
struct Bounds<'a> {
    from: Option<&'a [u8]>,
    to: Option<&'a [u8]>,
}

struct Walk<'a, S, E> {
    image: &'a Image<S>,
    /// Of the top, only this bucket is entered.
    only: Option<&'a [u8]>,
    met: Met,
    path: Vec<Vec<u8>>,
    visit: &'a mut dyn FnMut(&Entry<'_>) -> Result<(), E>,
}

/// The elements of one page, their places checked.
struct Elements<'a> {
    page: u64,
    bytes: &'a [u8],
    is_leaf: bool,
    count: usize,
}

impl<'a> Elements<'a> {
    fn new(page: u64, bytes: &'a [u8]) -> Result<Self, ReadError> {
        let header: &[u8; HEADER] =
            bytes.first_chunk().ok_or(ReadError::Damaged { page, what: "it is too short" })?;
        let header = Header::decode(header);
        let count = usize::from(header.count);
        if HEADER + count * ELEMENT > bytes.len() {
            return Err(ReadError::Damaged { page, what: "its elements do not fit into it" });
        }
        Ok(Self { page, bytes, is_leaf: header.flags == page::LEAF, count })
    }

    fn get(&self, nth: usize) -> Result<(Element, &'a [u8], &'a [u8]), ReadError> {
        let at = HEADER + nth * ELEMENT;
        let element: &[u8; ELEMENT] = self.bytes[at..].first_chunk().expect("counted in new");
        let element = Element::decode(element, self.is_leaf);
        let size = |length: u32| usize::try_from(length).expect("32 bits fit");
        let key = self
            .bytes
            .get(at + size(element.pos)..)
            .and_then(|rest| rest.split_at_checked(size(element.key)));
        let found = key.and_then(|(key, rest)| Some((key, rest.get(..size(element.value))?)));
        match found {
            Some((key, value)) if !key.is_empty() => Ok((element, key, value)),
            Some(_) => Err(ReadError::Damaged { page: self.page, what: "a key is empty" }),
            None => {
                let what = "a key or a value lies outside of it";
                Err(ReadError::Damaged { page: self.page, what })
            }
        }
    }

    /// Keys ascend and lie within the bounds.
    fn check_order(&self, bounds: Bounds<'_>) -> Result<(), ReadError> {
        let mut last = None;
        for nth in 0..self.count {
            let (_, key, _) = self.get(nth)?;
            let ascends = match last {
                None => bounds.from.is_none_or(|from| from <= key),
                Some(last) => last < key,
            };
            if !ascends || bounds.to.is_some_and(|to| key >= to) {
                let what = "its keys are not in order";
                return Err(ReadError::Damaged { page: self.page, what });
            }
            last = Some(key);
        }
        Ok(())
    }
}

impl<S: Source, E: From<ReadError>> Walk<'_, S, E> {
    /// One page and all below it.
    fn page(&mut self, id: u64, bounds: Bounds<'_>, depth: usize) -> Result<(), E> {
        if depth > IMAGE_DEPTH_MAX {
            return Err(ReadError::Damaged { page: id, what: "the tree is too deep" }.into());
        }
        let header = self.image.header(id)?;
        self.met.claim(id, header.overflow)?;
        let bytes = self.image.load(id, &header)?;
        let elements = Elements::new(id, &bytes)?;
        elements.check_order(bounds)?;
        if elements.is_leaf {
            return self.leaf(&elements, depth);
        }
        if elements.count == 0 {
            return Err(ReadError::Damaged { page: id, what: "a branch leads nowhere" }.into());
        }
        for nth in 0..elements.count {
            let (element, key, _) = elements.get(nth)?;
            let next =
                if nth + 1 < elements.count { Some(elements.get(nth + 1)?.1) } else { bounds.to };
            self.page(element.child, Bounds { from: Some(key), to: next }, depth + 1)?;
        }
        Ok(())
    }

    fn leaf(&mut self, elements: &Elements<'_>, depth: usize) -> Result<(), E> {
        for nth in 0..elements.count {
            let (element, key, value) = elements.get(nth)?;
            let is_bucket = element.flags & IS_BUCKET != 0;
            let value_or_bucket = (!is_bucket).then_some(value);
            (self.visit)(&Entry { path: &self.path, key, value: value_or_bucket })?;
            let is_wanted = !self.path.is_empty() || self.only.is_none_or(|only| only == key);
            if is_bucket && is_wanted {
                self.path.push(key.to_vec());
                self.bucket(elements.page, value, depth + 1)?;
                self.path.pop();
            }
        }
        Ok(())
    }

    /// A bucket is a tree of its own, or a single leaf inside of its parent's.
    fn bucket(&mut self, page: u64, value: &[u8], depth: usize) -> Result<(), E> {
        let Some((header, inline)) = value.split_at_checked(BUCKET_HEADER) else {
            return Err(ReadError::Damaged { page, what: "a bucket is cut short" }.into());
        };
        let root = page::long(header, 0);
        if root != 0 {
            return self.page(root, Bounds::default(), depth);
        }
        if depth > IMAGE_DEPTH_MAX {
            return Err(ReadError::Damaged { page, what: "the tree is too deep" }.into());
        }
        let elements = Elements::new(page, inline)?;
        if !elements.is_leaf {
            return Err(ReadError::Damaged { page, what: "a bucket inside is no leaf" }.into());
        }
        elements.check_order(Bounds::default())?;
        self.leaf(&elements, depth)
    }
}

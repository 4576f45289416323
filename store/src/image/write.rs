//! A whole bbolt file, written from front to back in two passes over its contents.
//!
//! ```text
//!  page 0   page 1   page 2     page 3 …                               last page
//!  meta 0   meta 1   freelist   bucket after bucket, children first    the root: bucket → its root
//! ```
//!
//! The meta pages name the root and the number of pages, and both follow from what comes later.
//! So the contents are gone through twice: once to count, once to write. They must be the same both
//! times, which a moment of the store is; that they were is checked.
//!
//! The freelist is written although it is empty: a program that finds none walks the whole file to
//! make one before it serves.

use super::{
    Stop,
    page::{BUCKET_HEADER, FREELIST, Header, IS_BUCKET, META, Meta, PAGE},
    tree::{Paper, Tree},
};

const FREELIST_PAGE: u64 = 2;
const FIRST_PAGE: u64 = 3;

/// Takes the bytes of a file in order.
pub trait Sink {
    /// Takes the next bytes, or says why it takes no more.
    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop>;
}

impl<W: std::io::Write> Sink for W {
    fn write(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        Ok(self.write_all(bytes)?)
    }
}

/// Takes the items of one bucket, in ascending order of their keys.
pub(super) type Items<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Stop> + 'a;

/// What goes into a file. Gives the same every time it is asked.
pub(super) trait Contents {
    /// The names of the buckets, in ascending order.
    fn buckets(&self) -> Vec<&'static [u8]>;
    /// Gives all items of a bucket.
    fn items(&self, bucket: &[u8], take: &mut Items<'_>) -> Result<(), Stop>;
}

/// What the first pass finds out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    root: u64,
    pages: u64,
}

impl Layout {
    /// The length of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.pages * PAGE as u64
    }
}

/// The first pass.
pub(super) fn measure(contents: &impl Contents) -> Result<Layout, Stop> {
    build(contents, &mut Counting(FIRST_PAGE))
}

/// The second pass.
pub(super) fn write(
    contents: &impl Contents,
    layout: Layout,
    sink: &mut impl Sink,
) -> Result<(), Stop> {
    for transaction in 0..2 {
        let meta = Meta {
            page_size: u32::try_from(PAGE).expect("4096"),
            root: layout.root,
            freelist: FREELIST_PAGE,
            high_water: layout.pages,
            transaction,
        };
        sink.write(&whole_page(transaction, META, &meta.encode()))?;
    }
    sink.write(&whole_page(FREELIST_PAGE, FREELIST, &[]))?;
    let written = build(contents, &mut Writing { next: FIRST_PAGE, sink })?;
    assert_eq!(written, layout, "contents do not change between the passes");
    Ok(())
}

fn whole_page(id: u64, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut page = Header { id, flags, count: 0, overflow: 0 }.encode().to_vec();
    page.extend_from_slice(body);
    page.resize(PAGE, 0);
    page
}

fn build(contents: &impl Contents, paper: &mut impl Paper) -> Result<Layout, Stop> {
    let mut top = Tree::default();
    for bucket in contents.buckets() {
        let mut tree = Tree::default();
        contents.items(bucket, &mut |key, value| tree.push(paper, 0, key, value))?;
        let mut header = [0; BUCKET_HEADER];
        header[..8].copy_from_slice(&tree.finish(paper)?.to_le_bytes());
        top.push(paper, IS_BUCKET, bucket, &header)?;
    }
    let root = top.finish(paper)?;
    Ok(Layout { root, pages: paper.next() })
}

/// Counts pages and forgets them.
struct Counting(u64);

impl Paper for Counting {
    fn next(&self) -> u64 {
        self.0
    }

    fn write(&mut self, page: &[u8]) -> Result<(), Stop> {
        self.0 += (page.len() / PAGE) as u64;
        Ok(())
    }
}

struct Writing<'a, S> {
    next: u64,
    sink: &'a mut S,
}

impl<S: Sink> Paper for Writing<'_, S> {
    fn next(&self) -> u64 {
        self.next
    }

    fn write(&mut self, page: &[u8]) -> Result<(), Stop> {
        self.next += (page.len() / PAGE) as u64;
        self.sink.write(page)
    }
}

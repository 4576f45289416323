//! A bbolt tree built from sorted items, bottom-up, in the memory of a few pages.
//!
//! ```text
//!   items ─▶ leaf ─full▶ page n         level 1: (first key, n) … ─full▶ page m     level 2: …
//! ```
//!
//! A leaf that is full becomes a page and leaves (first key, page id) to the level above, which
//! does the same. So a page is written as soon as nothing more can come into it, children before
//! their parent, and what is held is one unfinished page of each level.
//!
//! The other program deletes from these trees later, and insists that every branch has at least
//! two children (it merges a leaf that has become empty with a neighbour). A level therefore never
//! gives away its last two children before it knows that more will come.

use super::{
    Stop,
    page::{self, ELEMENT, Element, HEADER, Header, PAGE},
};

/// Children of one branch page: 118 of the 16-byte elements with 18-byte keys, and one more, fit
/// into a page. Longer keys (names of users) overflow, which is allowed.
const FANOUT: usize = 118;
/// Children a branch must keep for a sibling that may follow.
const KEPT: usize = 2;

/// Takes whole pages, in the order of their ids.
pub(super) trait Paper {
    /// The id of the page that is written next.
    fn next(&self) -> u64;
    /// Takes a page with its overflow; the length is a multiple of [`PAGE`].
    fn write(&mut self, page: &[u8]) -> Result<(), Stop>;
}

/// A page in the making.
#[derive(Default)]
struct Node {
    elements: Vec<Element>,
    /// Keys and values, one after the other.
    data: Vec<u8>,
}

impl Node {
    fn push(&mut self, flags: u32, key: &[u8], value: &[u8], child: u64) {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("items are below 4 GiB");
        // Where the data begin is known only when the last element is.
        let pos = length(&self.data);
        let (key_length, value_length) = (length(key), length(value));
        self.elements.push(Element { flags, pos, key: key_length, value: value_length, child });
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
    }

    fn bytes_with(&self, more: usize) -> usize {
        HEADER + (self.elements.len() + 1) * ELEMENT + self.data.len() + more
    }

    fn first_key(&self) -> &[u8] {
        let length = self.elements.first().map_or(0, |first| first.key);
        &self.data[..usize::try_from(length).expect("32 bits fit")]
    }

    /// Writes the page, empties this one, and gives the page's id.
    fn flush(
        &mut self,
        kind: u16,
        paper: &mut impl Paper,
        page: &mut Vec<u8>,
    ) -> Result<u64, Stop> {
        let is_leaf = kind == page::LEAF;
        let id = paper.next();
        let length = HEADER + self.elements.len() * ELEMENT + self.data.len();
        let pages = length.div_ceil(PAGE);
        let header = Header {
            id,
            flags: kind,
            count: u16::try_from(self.elements.len()).expect("a page holds few elements"),
            overflow: u32::try_from(pages - 1).expect("items are below 4 GiB"),
        };
        page.clear();
        page.extend_from_slice(&header.encode());
        let data = self.elements.len() * ELEMENT;
        for (nth, element) in self.elements.iter().enumerate() {
            let distance = u32::try_from(data - nth * ELEMENT).expect("a page holds few elements");
            let placed = Element { pos: element.pos + distance, ..*element };
            page.extend_from_slice(&placed.encode(is_leaf));
        }
        page.extend_from_slice(&self.data);
        page.resize(pages * PAGE, 0);
        paper.write(page)?;
        self.elements.clear();
        self.data.clear();
        // One large item must not hold its memory for ever.
        self.data.shrink_to(1 << 20);
        page.shrink_to(1 << 20);
        Ok(id)
    }
}

struct Child {
    first_key: Vec<u8>,
    page: u64,
}

/// A tree in the making. Keys come in ascending order.
#[derive(Default)]
pub(super) struct Tree {
    leaf: Node,
    /// Per level above the leaves, children that have no parent page yet.
    levels: Vec<Vec<Child>>,
    scratch: Vec<u8>,
}

impl Tree {
    /// Adds an item.
    pub(super) fn push(
        &mut self,
        paper: &mut impl Paper,
        flags: u32,
        key: &[u8],
        value: &[u8],
    ) -> Result<(), Stop> {
        assert!(!key.is_empty(), "the format has no empty keys");
        if !self.leaf.elements.is_empty() && self.leaf.bytes_with(key.len() + value.len()) > PAGE {
            self.close_leaf(paper)?;
        }
        self.leaf.push(flags, key, value, 0);
        Ok(())
    }

    /// Writes what is left and gives the id of the root page.
    pub(super) fn finish(mut self, paper: &mut impl Paper) -> Result<u64, Stop> {
        if self.levels.is_empty() {
            // All of it fits into one leaf, or there is nothing.
            return self.leaf.flush(page::LEAF, paper, &mut self.scratch);
        }
        self.close_leaf(paper)?;
        let mut level = 0;
        loop {
            let children = std::mem::take(&mut self.levels[level]);
            let is_top = level + 1 == self.levels.len();
            if let ([only], true) = (&children[..], is_top) {
                return Ok(only.page);
            }
            self.close_branch(paper, level, children)?;
            level += 1;
        }
    }

    fn close_leaf(&mut self, paper: &mut impl Paper) -> Result<(), Stop> {
        let first_key = self.leaf.first_key().to_vec();
        let page = self.leaf.flush(page::LEAF, paper, &mut self.scratch)?;
        self.adopt(paper, 0, Child { first_key, page })
    }

    /// Gives a child to a level, which closes a branch when it has enough for it and to spare.
    fn adopt(&mut self, paper: &mut impl Paper, level: usize, child: Child) -> Result<(), Stop> {
        if level == self.levels.len() {
            self.levels.push(Vec::new());
        }
        self.levels[level].push(child);
        if self.levels[level].len() < FANOUT + KEPT {
            return Ok(());
        }
        let rest = self.levels[level].split_off(FANOUT);
        let children = std::mem::replace(&mut self.levels[level], rest);
        self.close_branch(paper, level, children)
    }

    fn close_branch(
        &mut self,
        paper: &mut impl Paper,
        level: usize,
        children: Vec<Child>,
    ) -> Result<(), Stop> {
        assert!(children.len() >= KEPT, "a branch has at least two children");
        let mut node = Node::default();
        for child in &children {
            node.push(0, &child.first_key, b"", child.page);
        }
        let page = node.flush(page::BRANCH, paper, &mut self.scratch)?;
        let first_key = children.into_iter().next().expect("at least two").first_key;
        self.adopt(paper, level + 1, Child { first_key, page })
    }
}

//! Which range watchers want a given key? An interval tree.
//!
//! Ranges are the nodes of an AVL tree ordered by (start, end); each node also knows the largest
//! end below it, so a search for the ranges around a key leaves out every subtree that ends too
//! early or starts too late: O(log n + answers). Watchers of equal ranges share a node, which is
//! how a thousand watchers of one prefix stay cheap. No hashing and no randomness: equal histories
//! give equal trees.

use std::cmp::Ordering;
use std::collections::BTreeSet;

use bytes::Bytes;

use super::Slot;

/// A set of half-open key ranges, each with the watchers that hold it.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    root: Link,
}

type Link = Option<Box<Node>>;

#[derive(Debug)]
struct Node {
    start: Bytes,
    end: End,
    /// The largest end in this subtree.
    reach: End,
    height: u8,
    slots: BTreeSet<Slot>,
    left: Link,
    right: Link,
}

/// Where a range ends: before a key, or nowhere (which is after every key).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum End {
    Before(Bytes),
    Never,
}

impl End {
    fn is_after(&self, key: &[u8]) -> bool {
        match self {
            Self::Before(end) => key < &end[..],
            Self::Never => true,
        }
    }
}

impl Ranges {
    pub(super) fn insert(&mut self, start: Bytes, end: End, slot: Slot) {
        self.root = Some(insert(self.root.take(), start, end, slot));
    }

    pub(super) fn remove(&mut self, start: &Bytes, end: &End, slot: Slot) {
        self.root = remove(self.root.take(), start, end, slot);
    }

    /// Calls `found` with every watcher whose range holds the key.
    pub(super) fn stab(&self, key: &[u8], found: &mut impl FnMut(Slot)) {
        stab(&self.root, key, found);
    }
}

fn stab(link: &Link, key: &[u8], found: &mut impl FnMut(Slot)) {
    let Some(node) = link else { return };
    if !node.reach.is_after(key) {
        return;
    }
    stab(&node.left, key, found);
    if node.start <= key {
        if node.end.is_after(key) {
            node.slots.iter().copied().for_each(&mut *found);
        }
        stab(&node.right, key, found);
    }
}

fn insert(link: Link, start: Bytes, end: End, slot: Slot) -> Box<Node> {
    let Some(mut node) = link else {
        let reach = end.clone();
        let slots = BTreeSet::from([slot]);
        return Box::new(Node { start, end, reach, height: 1, slots, left: None, right: None });
    };
    match (&start, &end).cmp(&(&node.start, &node.end)) {
        Ordering::Less => node.left = Some(insert(node.left.take(), start, end, slot)),
        Ordering::Greater => node.right = Some(insert(node.right.take(), start, end, slot)),
        Ordering::Equal => {
            node.slots.insert(slot);
            return node;
        }
    }
    balance(node)
}

fn remove(link: Link, start: &Bytes, end: &End, slot: Slot) -> Link {
    let mut node = link?;
    match (start, end).cmp(&(&node.start, &node.end)) {
        Ordering::Less => node.left = remove(node.left.take(), start, end, slot),
        Ordering::Greater => node.right = remove(node.right.take(), start, end, slot),
        Ordering::Equal => {
            node.slots.remove(&slot);
            if !node.slots.is_empty() {
                return Some(node);
            }
            return match (node.left.take(), node.right.take()) {
                (None, only) | (only, None) => only,
                (left, Some(right)) => {
                    let (mut next, rest) = take_first(right);
                    next.left = left;
                    next.right = rest;
                    Some(balance(next))
                }
            };
        }
    }
    Some(balance(node))
}

/// Takes the smallest node out of a subtree.
fn take_first(mut node: Box<Node>) -> (Box<Node>, Link) {
    match node.left.take() {
        None => {
            let rest = node.right.take();
            (node, rest)
        }
        Some(left) => {
            let (first, rest) = take_first(left);
            node.left = rest;
            (first, Some(balance(node)))
        }
    }
}

fn height(link: &Link) -> u8 {
    link.as_ref().map_or(0, |node| node.height)
}

/// Recomputes what a node knows of its subtree.
fn refresh(node: &mut Node) {
    node.height = 1 + height(&node.left).max(height(&node.right));
    let below = [&node.left, &node.right].into_iter().flatten().map(|child| &child.reach);
    node.reach = below.chain([&node.end]).max().expect("the node's own end is among them").clone();
}

fn balance(mut node: Box<Node>) -> Box<Node> {
    refresh(&mut node);
    let (left, right) = (height(&node.left), height(&node.right));
    if left > right + 1 {
        let child = node.left.take().expect("the higher side is not empty");
        node.left = Some(if height(&child.left) < height(&child.right) {
            rotate_left(child)
        } else {
            child
        });
        return rotate_right(node);
    }
    if right > left + 1 {
        let child = node.right.take().expect("the higher side is not empty");
        node.right = Some(if height(&child.right) < height(&child.left) {
            rotate_right(child)
        } else {
            child
        });
        return rotate_left(node);
    }
    node
}

fn rotate_right(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.left.take().expect("rotated towards an empty side");
    node.left = top.right.take();
    refresh(&mut node);
    top.right = Some(node);
    refresh(&mut top);
    top
}

fn rotate_left(mut node: Box<Node>) -> Box<Node> {
    let mut top = node.right.take().expect("rotated towards an empty side");
    node.right = top.left.take();
    refresh(&mut node);
    top.left = Some(node);
    refresh(&mut top);
    top
}

#[cfg(test)]
mod tests {
    //! The tree against a plain list, over a key space small enough that everything overlaps.

    use super::*;
    use proptest::prelude::*;

    fn key(n: u8) -> Bytes {
        Bytes::from(vec![b'a' + n % 12])
    }

    fn check(link: &Link) -> u8 {
        let Some(node) = link else { return 0 };
        let (left, right) = (check(&node.left), check(&node.right));
        assert!(left.abs_diff(right) <= 1, "unbalanced at {:?}", node.start);
        assert_eq!(node.height, 1 + left.max(right));
        node.height
    }

    proptest! {
        #[test]
        fn finds_what_a_list_finds(
            steps in prop::collection::vec((any::<bool>(), any::<u8>(), any::<u8>(), 0u32..40), 1..200)
        ) {
            let mut tree = Ranges::default();
            let mut list: Vec<(Bytes, End, Slot)> = Vec::new();
            for (add, a, b, slot) in steps {
                let slot = Slot(slot);
                if add && list.iter().all(|(_, _, taken)| *taken != slot) {
                    let end = if b % 5 == 0 { End::Never } else { End::Before(key(b)) };
                    tree.insert(key(a), end.clone(), slot);
                    list.push((key(a), end, slot));
                } else if let Some(at) = list.iter().position(|(_, _, held)| *held == slot) {
                    let (start, end, slot) = list.swap_remove(at);
                    tree.remove(&start, &end, slot);
                }
                check(&tree.root);
                for probe in 0..12 {
                    let probe = key(probe);
                    let mut got = Vec::new();
                    tree.stab(&probe, &mut |slot| got.push(slot));
                    got.sort();
                    let mut want: Vec<Slot> = list
                        .iter()
                        .filter(|(start, end, _)| *start <= probe && end.is_after(&probe))
                        .map(|(_, _, slot)| *slot)
                        .collect();
                    want.sort();
                    prop_assert_eq!(got, want);
                }
            }
        }
    }
}

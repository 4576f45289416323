//! Finds the newest version of each key of a run, or that there is none, in one or two steps.
//!
//! A hash table of fixed size with open addressing. A slot holds the place of a version and, beside
//! it, a part of the key's hash, so that almost always a look at the slot alone says that a key is
//! not the one. The keys themselves are where the places point to; whoever asks compares them.
//!
//! The thread that spills is the only one that writes. Readers may meet a place that is newer than
//! what they know: they learn nothing from it and have to search. So may those whose keys found no
//! room any more, once the table is three quarters full.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

/// Twice as many slots as keys: most keys are in their first slot.
const SLOTS_PER_KEY: usize = 2;

/// Set in every slot that is taken.
const TAKEN: u64 = 1 << 63;

pub(super) struct Heads {
    slots: Box<[AtomicU64]>,
    taken: AtomicUsize,
    /// Some key was not given a slot.
    is_full: AtomicBool,
}

/// What is known of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Head {
    None,
    At(u32),
    Unknown,
}

impl Heads {
    pub(super) fn for_keys(keys: usize) -> Self {
        let slots = keys.saturating_mul(SLOTS_PER_KEY).max(8).next_power_of_two();
        let slots = (0..slots).map(|_| AtomicU64::new(0)).collect();
        Self { slots, taken: AtomicUsize::new(0), is_full: AtomicBool::new(false) }
    }

    /// The tag of a key, in its place in a slot, and the slots in which it may be.
    fn probe(&self, key: &[u8]) -> (u64, impl Iterator<Item = &AtomicU64>) {
        // The product spreads the checksum's 32 bits; tag and slot take different ones.
        let hash = u64::from(crc32c::crc32c(key)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let tag = TAKEN | (hash & 0x7fff_ffff) << 32;
        let first = usize::try_from(hash >> 36).expect("28 bits fit");
        let mask = self.slots.len() - 1;
        (tag, (0..self.slots.len()).map(move |step| &self.slots[(first + step) & mask]))
    }

    /// Notes the newest version of a key; `is_key` tells whether an older place is of the same key.
    pub(super) fn put(&self, key: &[u8], place: u32, is_key: impl Fn(u32) -> bool) {
        let (tag, slots) = self.probe(key);
        for slot in slots {
            let found = slot.load(Ordering::Relaxed);
            let is_free = found == 0;
            if is_free && self.taken.load(Ordering::Relaxed) >= self.slots.len() / 4 * 3 {
                return self.is_full.store(true, Ordering::Release);
            }
            if is_free || split(found).0 == tag && is_key(split(found).1) {
                self.taken.fetch_add(usize::from(is_free), Ordering::Relaxed);
                return slot.store(tag | u64::from(place), Ordering::Release);
            }
        }
    }

    /// Looks for a key; `is_key` tells whether a place is its own, if it knows the place.
    pub(super) fn get(&self, key: &[u8], is_key: impl Fn(u32) -> Option<bool>) -> Head {
        let (tag, slots) = self.probe(key);
        for slot in slots {
            let found = slot.load(Ordering::Acquire);
            if found == 0 {
                break;
            }
            let (of, place) = split(found);
            if of == tag {
                match is_key(place) {
                    Some(true) => return Head::At(place),
                    Some(false) => {}
                    None => return Head::Unknown,
                }
            }
        }
        if self.is_full.load(Ordering::Acquire) { Head::Unknown } else { Head::None }
    }
}

/// A slot's tag and place.
fn split(slot: u64) -> (u64, u32) {
    let place = u32::try_from(slot & u64::from(u32::MAX)).expect("masked");
    (slot & !u64::from(u32::MAX), place)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Place `n` is of key `n % keys`; what is beyond `known` is not known.
    struct Places {
        heads: Heads,
        keys: u32,
    }

    fn key(n: u32) -> [u8; 4] {
        n.to_be_bytes()
    }

    impl Places {
        fn new(room: usize, keys: u32, places: u32) -> Self {
            let heads = Heads::for_keys(room);
            for place in 0..places {
                heads.put(&key(place % keys), place, |other| other % keys == place % keys);
            }
            Self { heads, keys }
        }

        fn get(&self, wanted: u32, known: u32) -> Head {
            let is_key = |place: u32| (place < known).then_some(place % self.keys == wanted);
            self.heads.get(&key(wanted), is_key)
        }
    }

    #[test]
    fn each_key_has_its_newest_place() {
        let places = Places::new(10_000, 10_000, 25_000);
        for wanted in 0..10_000 {
            let newest = if wanted < 5_000 { 20_000 } else { 10_000 } + wanted;
            assert_eq!(places.get(wanted, u32::MAX), Head::At(newest));
        }
        assert!((10_000..20_000).all(|wanted| places.get(wanted, u32::MAX) == Head::None));
    }

    #[test]
    fn what_came_later_is_not_known() {
        let places = Places::new(100, 100, 150);
        assert_eq!(places.get(3, 100), Head::Unknown);
        assert_eq!(places.get(70, 100), Head::At(70));
    }

    #[test]
    fn a_full_table_says_nothing_wrong() {
        let places = Places::new(4, 1_000, 1_000);
        let heads: Vec<_> = (0..2_000).map(|wanted| places.get(wanted, u32::MAX)).collect();
        assert!(
            heads
                .iter()
                .zip(0..)
                .all(|(head, n)| matches!(head, Head::Unknown) || *head == Head::At(n))
        );
        assert_eq!(heads.iter().filter(|head| matches!(head, Head::At(_))).count(), 6);
    }
}

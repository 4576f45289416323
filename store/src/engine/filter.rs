//! Tells quickly that a memtable does not have a key.
//!
//! Most keys that are read or overwritten are not in the memtables, and finding that out by a
//! search of each costs as much as the read below them. Two bits of a fixed table are set for each
//! key written; a key with either bit clear was never written. With as many keys as a memtable
//! holds, about one miss in forty still costs a search.

use std::sync::atomic::{AtomicU64, Ordering};

const BITS_LOG: u32 = 19;

pub(super) struct Filter {
    words: Box<[AtomicU64]>,
}

impl Default for Filter {
    fn default() -> Self {
        let words = (0..(1_usize << BITS_LOG) / 64).map(|_| AtomicU64::new(0)).collect();
        Self { words }
    }
}

impl Filter {
    /// Notes a key. Whoever is to find it learns of its revision later, under a lock.
    pub(super) fn add(&self, key: &[u8]) {
        for (word, bit) in places(key) {
            self.words[word].fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// False only for keys that were never added.
    pub(super) fn may_have(&self, key: &[u8]) -> bool {
        places(key).iter().all(|(word, bit)| self.words[*word].load(Ordering::Relaxed) & bit != 0)
    }
}

fn places(key: &[u8]) -> [(usize, u64); 2] {
    // The product spreads the checksum's 32 bits over 64, of which each place takes its own part.
    let hash = u64::from(crc32c::crc32c(key)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [hash >> (64 - BITS_LOG), hash >> (64 - 2 * BITS_LOG)].map(|part| {
        let index = part % (1 << BITS_LOG);
        let word = usize::try_from(index / 64).expect("a few thousand words");
        (word, 1 << (index % 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_found_and_little_else() {
        let key = |n: u32| format!("/registry/pods/default/web-{n}").into_bytes();
        let filter = Filter::default();
        (0..40_000).for_each(|n| filter.add(&key(n)));
        assert!((0..40_000).all(|n| filter.may_have(&key(n))));
        let wrong = (40_000..80_000).filter(|n| filter.may_have(&key(*n))).count();
        assert!(wrong < 1_600, "{wrong} of 40000 need a search in vain");
    }
}
